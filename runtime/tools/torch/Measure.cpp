// SPDX-License-Identifier: Apache-2.0
#include "Measure.h"
#include "Console.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <dlfcn.h>
#include <fstream>
#include <limits>
#include <malloc.h>
#include <optional>
#include <unistd.h>

namespace hyperjit::tools {

Timing summarise(std::vector<double> samples) {
  if (samples.empty())
    return {};
  std::sort(samples.begin(), samples.end());
  size_t half = samples.size() / 2;
  return {samples.size() % 2 ? samples[half] : (samples[half - 1] + samples[half]) / 2, samples.front(),
          samples.back()};
}

at::Device chooseDevice(const std::string &word) {
  bool cuda = torch::cuda::is_available();
  if (word == "cuda" && !cuda)
    throw EnvironmentProblem("--device cuda: LibTorch sees no CUDA device; hyperjit doctor says what is missing");
  return word == "cpu" || !cuda ? at::Device(at::kCPU) : at::Device(at::kCUDA, 0);
}

std::string deviceName(at::Device device) {
  if (device.is_cuda()) {
    // The name is in the driver; LibTorch's own function for it needs CUDA headers.
    if (void *driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL))
      if (auto name = reinterpret_cast<int (*)(char *, int, int)>(::dlsym(driver, "cuDeviceGetName"))) {
        char text[128] = "";
        if (name(text, sizeof text, device.index()) == 0)
          return text;
      }
    return "CUDA device";
  }
  std::ifstream information("/proc/cpuinfo");
  std::string model = "CPU";
  for (std::string line; std::getline(information, line);)
    if (line.starts_with("model name")) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  return fmt::format("{}, {} threads", model, at::get_num_threads());
}

void synchronise(at::Device device) {
  if (device.is_cuda())
    torch::cuda::synchronize(device.index());
}

namespace {

/// A point in time: an event of the current stream on CUDA, the clock on the CPU.
class Mark {
public:
  explicit Mark(at::Device device) {
    if (device.is_cuda()) {
      c10::impl::VirtualGuardImpl guard(device.type());
      event.emplace(device.type(), c10::EventFlag::BACKEND_DEFAULT);
      event->record(guard.getStream(device));
    } else {
      time = std::chrono::steady_clock::now();
    }
  }
  /// Milliseconds from this mark to a later one.
  double to(Mark &later) {
    if (!event)
      return std::chrono::duration<double, std::milli>(later.time - time).count();
    later.event->synchronize();
    return event->elapsedTime(*later.event);
  }

private:
  std::optional<c10::Event> event;
  std::chrono::steady_clock::time_point time;
};

} // namespace

Timing timed(at::Device device, int repeats, const std::function<void()> &work) {
  work();
  synchronise(device);
  std::vector<double> samples;
  for (int i = 0; i < repeats && !(interrupted() && i > 0); ++i) {
    Mark begin(device);
    work();
    Mark end(device);
    samples.push_back(begin.to(end));
  }
  return summarise(samples);
}

TrainingTiming timedTraining(at::Device device, int repeats, const std::function<at::Tensor()> &forward,
                             const std::function<void(const at::Tensor &)> &backward,
                             const std::function<void()> &lead) {
  backward(forward());
  synchronise(device);
  std::vector<double> ahead, back, both, host;
  for (int i = 0; i < repeats && !(interrupted() && i > 0); ++i) {
    if (lead)
      lead();
    const auto called = std::chrono::steady_clock::now();
    Mark begin(device);
    at::Tensor out = forward();
    Mark middle(device);
    backward(out);
    Mark end(device);
    host.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - called).count());
    both.push_back(begin.to(end));
    ahead.push_back(begin.to(middle));
    back.push_back(middle.to(end));
  }
  return {summarise(ahead), summarise(back), summarise(both), summarise(host)};
}

void keepMemory() {
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

namespace {

struct ProcessorTime {
  double busy = 0, total = 0, own = 0;
};

ProcessorTime processorTime() {
  ProcessorTime time;
  const double tick = 1.0 / double(::sysconf(_SC_CLK_TCK));
  std::ifstream file("/proc/stat");
  std::string word;
  file >> word; // user nice system idle iowait irq softirq steal
  for (int column = 0; column < 8; ++column) {
    double ticks = 0;
    file >> ticks;
    time.total += ticks * tick;
    if (column != 3 && column != 4)
      time.busy += ticks * tick;
  }
  time.own = double(std::clock()) / CLOCKS_PER_SEC;
  return time;
}

} // namespace

OtherWork::OtherWork() {
  ProcessorTime now = processorTime();
  busy = now.busy, total = now.total, own = now.own;
}

double OtherWork::share() const {
  ProcessorTime now = processorTime();
  const double all = now.total - total;
  return all > 0 ? std::clamp(((now.busy - busy) - (now.own - own)) / all, 0.0, 1.0) : 0.0;
}

double copyBandwidth(at::Device device) {
  // Far above the last cache of either kind of device.
  int64_t bytes = device.is_cuda() ? int64_t(1) << 30 : int64_t(256) << 20;
  at::Tensor from = at::ones({bytes / 4}, at::device(device).dtype(at::kFloat)), to = at::empty_like(from);
  const Timing copied = timed(device, 7, [&] { to.copy_(from); }),
               computed = timed(device, 7, [&] { at::mul_out(to, from, at::scalar_tensor(1.0f)); });
  return 2.0 * double(bytes) / (std::min(copied.median, computed.median) * 1e6);
}

double relativeDifference(const at::Tensor &a, const at::Tensor &b) {
  if (b.numel() == 0)
    return 0;
  double difference = (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  double scale = b.to(at::kDouble).abs().max().item<double>();
  return difference == 0 ? 0 : difference / std::max(scale, 1e-30);
}

} // namespace hyperjit::tools
