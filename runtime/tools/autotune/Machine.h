// What is measured on: memory, launches and a clock of the CPU or of a GPU, without LibTorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/Kernel.h>
#include <hyperjit/core/Target.h>

#include <functional>
#include <memory>
#include <span>
#include <string>

namespace hyperjit::tools {

/// One thread uses it. Errors are UserError (DeviceFailure, LibraryMissing).
class Machine {
public:
  virtual ~Machine() = default;

  /// For people and for tuning files: GPU name, or CPU model.
  virtual std::string name() const = 0;
  virtual int threads() const = 0; ///< 0 for a GPU
  /// Aligned to 256 bytes, freed by `clear` or with the object.
  virtual void *allocate(size_t bytes) = 0;
  virtual void clear() = 0;
  virtual void upload(void *to, const void *from, size_t bytes) = 0;
  virtual void download(void *to, const void *from, size_t bytes) = 0;
  virtual void fill(void *to, unsigned char value, size_t bytes) = 0;
  /// Queues a kernel; `time` and `finish` wait for it.
  virtual void launch(const Kernel &kernel, std::span<void *const> operands, void *workspace, int64_t tokens) = 0;
  virtual void finish() = 0;
  /// Microseconds of the launches that `work` queues.
  virtual double time(const std::function<void()> &work) = 0;
  /// Bytes read plus written by a large copy, GB/s, median of several.
  virtual double copyBandwidth() = 0;
};

/// The machine that runs code for a target: this CPU with all processors that the process may use, or the first GPU.
/// EnvironmentProblem that says what is here where it cannot.
std::unique_ptr<Machine> machineFor(const Target &target);
/// What is tuned for where nobody names a target: the first GPU's, else what LibTorch asks for on this CPU.
Target targetHere();

} // namespace hyperjit::tools
