// Sides.h - one kernel of both back ends on the same numbers: the CUDA text on the emulated GPU, the other on the CPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hyperjit/core/KernelManager.h"
#include "hyperjit/cuda/Device.h"

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace hyperjit::test {

/// From now on this process's libcuda and libnvrtc are the emulated ones; nothing is kept on disk, because keys do not
/// name device.cuh. Call it before anything opens them. HYPERJIT_EMULATOR_SEED is set if it was not: of numbers and of
/// the order of warps.
void useEmulator();
uint64_t seedOfRun();

class Sides {
public:
  /// Makes operands of random numbers; what a forward saved for a backward comes from the CPU's forward.
  Sides(const KernelSpec &spec, int64_t tokens, const Schedule &schedule, const Target &target);

  /// Runs both; each writes to memory of NaNs of its own. Empty, or what differs. Where sums cancel, what is left of
  /// numbers of the size of `noise` is rounding.
  std::string compare(double noise = 0);
  /// Runs the CUDA kernel again with warps in another order. Empty, or where its bits differ.
  std::string repeat() { return sameBits(*gpu); }
  /// Runs another kernel of the same operands. Empty, or where its bits differ from those of `compare`.
  std::string sameBits(const Kernel &other);
  const ArtifactMeta &meta() const { return gpu->meta(); }

private:
  void fill(const OperandInfo &operand, void *to, std::mt19937_64 &random);
  void save(const KernelSpec &spec, void *saved);
  void *allocate(size_t bytes);
  size_t bytesOf(const OperandInfo &operand) const;
  void launch(const Kernel &kernel, const std::vector<void *> &operands, const LaunchContext &context);
  std::vector<void *> run(const Kernel &kernel, const LaunchContext &context);
  double largestOf(const OperandInfo &operand, const void *numbers) const;
  std::string difference(const OperandInfo &operand, const void *mine, const void *theirs, bool narrow, double largest,
                         double noise) const;

  int64_t tokens;
  cuda::Device device{0}; ///< its memory is the process's
  std::shared_ptr<const Kernel> cpu, gpu;
  std::vector<void *> inputs, lastOutputs;
};

} // namespace hyperjit::test
