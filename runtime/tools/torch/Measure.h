// Timing, bandwidth and differences: what a demonstration and a benchmark measure the same way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/torch.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace hyperjit::tools {

/// Milliseconds (or whatever went in) of repeated runs.
struct Timing {
  double median = 0, min = 0, max = 0;
};
Timing summarise(std::vector<double> samples);

/// "auto": CUDA where LibTorch sees a device. EnvironmentProblem for "cuda" without one.
at::Device chooseDevice(const std::string &word);
/// For people: GPU name, or CPU model with the number of threads.
std::string deviceName(at::Device device);
/// Waits for the device; nothing to do on the CPU.
void synchronise(at::Device device);

/// Runs `work` once to warm up, then `repeats` times; milliseconds each, by events on CUDA and by the clock on the CPU.
Timing timed(at::Device device, int repeats, const std::function<void()> &work);

/// Forward, then backward of what it returned, `repeats` times after a warm-up; each timed alone, and both together.
/// `lead`, if given, is run before each, untimed: with work under way the device does not wait for the host's first
/// launch. `host`: what the thread that calls takes for both, by the clock, while the device may lag behind (CUDA; on the
/// CPU that is `both`; with a `lead` that launches work it may have to wait for that).
struct TrainingTiming {
  Timing forward, backward, both, host;
};
TrainingTiming timedTraining(at::Device device, int repeats, const std::function<at::Tensor()> &forward,
                             const std::function<void(const at::Tensor &)> &backward,
                             const std::function<void()> &lead = {});

/// What `work` returns; LibTorch's errors without the stack of its own functions that they carry.
template <class Work> auto withoutStack(Work &&work) {
  try {
    return work();
  } catch (const c10::Error &error) {
    throw std::runtime_error(error.what_without_backtrace());
  }
}

/// Keeps freed memory in the process, as a caching allocator does: otherwise every large tensor is made of fresh pages,
/// and on the CPU mapping them takes longer than the kernels that are to be measured. For the whole process, from here
/// on.
void keepMemory();

/// How much of the machine's processors other processes take while it lives: 0 idle, 1 all of them.
class OtherWork {
public:
  OtherWork();
  double share() const;

private:
  double busy = 0, total = 0, own = 0; ///< seconds
};

/// Bytes read plus written per second by a large copy, in GB/s: the faster of LibTorch's copy (on a GPU the driver's) and
/// a kernel that reads each number once and writes it, medians of several.
double copyBandwidth(at::Device device);

/// max |a - b| / max |b|; 0 for two zeros. Tensors of one shape.
double relativeDifference(const at::Tensor &a, const at::Tensor &b);

} // namespace hyperjit::tools
