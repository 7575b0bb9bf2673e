// SPDX-License-Identifier: Apache-2.0
#include "Machine.h"

#include "Console.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/cuda/Cuda.h>
#include <hyperjit/cuda/Device.h>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <malloc.h>
#include <map>
#include <mutex>
#include <sched.h>
#include <sys/mman.h>
#include <system_error>
#include <thread>
#include <vector>

namespace hyperjit::tools {

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int usableProcessors() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

/// Of all last caches of the machine; 32 MiB where the machine does not say.
size_t lastCacheBytes() {
  std::map<std::string, size_t> caches; // by number: several processors have one together
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    std::string folder = fmt::format("/sys/devices/system/cpu/cpu{}/cache/index3/", i), id;
    size_t kib = 0;
    if (std::ifstream(folder + "id") >> id && std::ifstream(folder + "size") >> kib)
      caches[id] = kib << 10;
  }
  size_t sum = 0;
  for (const auto &[id, bytes] : caches)
    sum += bytes;
  return sum ? sum : size_t(32) << 20;
}

/// Threads that live as long as the machine and take equal shares, as the pool of LibTorch does.
class Pool {
public:
  explicit Pool(int threads) {
    try {
      for (int i = 1; i < threads; ++i)
        workers.emplace_back([this, i] { work(i); });
    } catch (const std::system_error &) {
      // No more threads to be had (a limit of processes or of memory): those that started and the caller's share the
      // work.
    }
    size = 1 + int(workers.size());
  }
  ~Pool() {
    leave = true;
    ++round;
    round.notify_all();
    for (std::thread &worker : workers)
      worker.join();
  }

  static void run(void *context, int64_t count, ParallelBody body, void *bodyContext) {
    auto &pool = *static_cast<Pool *>(context);
    pool.body = body, pool.bodyContext = bodyContext, pool.count = count;
    pool.left = pool.size - 1;
    ++pool.round;
    pool.round.notify_all();
    pool.share(0);
    // The others end about now: waiting in a system call would be part of what is measured.
    while (pool.left.load(std::memory_order_acquire) > 0)
      std::this_thread::yield();
  }
  int size = 1;

private:
  void share(int i) {
    int64_t begin = count * i / size, end = count * (i + 1) / size;
    if (begin < end)
      body(bodyContext, begin, end, i);
  }
  void work(int i) {
    for (int seen = 0;;) {
      round.wait(seen);
      seen = round.load(std::memory_order_acquire);
      if (leave)
        return;
      share(i);
      left.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::vector<std::thread> workers;
  std::atomic<int> round{0}, left{0};
  std::atomic<bool> leave{false};
  ParallelBody body = nullptr;
  void *bodyContext = nullptr;
  int64_t count = 0;
};

class CpuMachine final : public Machine {
public:
  CpuMachine() : pool(usableProcessors()) {
    // What is freed stays mapped: mapping takes longer than all else that opening a kernel does.
    ::mallopt(M_MMAP_MAX, 0);
    ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
  }
  ~CpuMachine() override { CpuMachine::clear(); }

  std::string name() const override {
    std::ifstream information("/proc/cpuinfo");
    for (std::string line; std::getline(information, line);)
      if (line.starts_with("model name"))
        return line.substr(line.find(':') + 2);
    return "CPU";
  }
  int threads() const override { return pool.size; }

  void *allocate(size_t bytes) override {
    if (bytes > size_t(1) << 47) // more than can be addressed; rounding it up could overflow
      throw UserError(ErrorId::DeviceFailure, fmt::format("no memory for {} bytes", bytes));
    // Large tensors lie in huge pages under LibTorch too (runtime/torch/Launch.cpp).
    constexpr size_t huge = size_t(2) << 20;
    size_t unit = bytes >= 2 * huge ? huge : 4096, size = (std::max<size_t>(bytes, 1) + unit - 1) / unit * unit;
    void *pointer = std::aligned_alloc(unit, size);
    if (!pointer)
      throw UserError(ErrorId::DeviceFailure, fmt::format("no memory for {} bytes", bytes));
    if (unit == huge)
      ::madvise(pointer, size, MADV_HUGEPAGE);
    std::memset(pointer, 0xff, bytes); // mapped now, not while a kernel is timed
    memory.push_back(pointer);
    return pointer;
  }
  void clear() override {
    for (void *pointer : memory)
      std::free(pointer);
    memory.clear();
  }
  void upload(void *to, const void *from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void *to, const void *from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void fill(void *to, unsigned char value, size_t bytes) override { std::memset(to, value, bytes); }

  void launch(const Kernel &kernel, std::span<void *const> operands, void *workspace, int64_t tokens) override {
    LaunchContext context;
    if (pool.size > 1) {
      context.parallelFor = &Pool::run;
      context.parallelContext = &pool;
    }
    kernel.launch(operands, workspace, tokens, context);
  }
  void finish() override {}
  double time(const std::function<void()> &work) override {
    auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
  }

  double copyBandwidth() override {
    // Four caches in all: enough that a copy runs in memory, and no more, because mapping it takes longer than copying.
    size_t bytes = std::clamp(2 * lastCacheBytes(), size_t(32) << 20, size_t(1) << 30);
    struct Copy {
      char *to;
      const char *from;
      size_t bytes;
    } copy{static_cast<char *>(allocate(bytes)), static_cast<char *>(allocate(bytes)), bytes};
    constexpr int64_t pieces = 1024;
    auto body = [](void *context, int64_t begin, int64_t end, int) {
      auto &copy = *static_cast<Copy *>(context);
      size_t piece = copy.bytes / pieces;
      std::memcpy(copy.to + size_t(begin) * piece, copy.from + size_t(begin) * piece, size_t(end - begin) * piece);
    };
    std::vector<double> samples;
    for (int i = 0; i < 6; ++i)
      samples.push_back(time([&] { Pool::run(&pool, pieces, body, &copy); }));
    for (int i = 0; i < 2; ++i) {
      std::free(memory.back());
      memory.pop_back();
    }
    return 2.0 * double(bytes) / (median(samples) * 1e3);
  }

private:
  Pool pool;
  std::vector<void *> memory;
};

class GpuMachine final : public Machine {
public:
  GpuMachine() : device(std::make_unique<cuda::Device>(0)) {}

  std::string name() const override { return device->name(); }
  int threads() const override { return 0; }
  void *allocate(size_t bytes) override {
    void *pointer = device->allocate(bytes);
    device->fill(pointer, 0xff, bytes);
    return pointer;
  }
  void clear() override {
    device->synchronise();
    device = nullptr; // memory goes with it
    device = std::make_unique<cuda::Device>(0);
  }
  void upload(void *to, const void *from, size_t bytes) override {
    device->synchronise();
    device->upload(to, from, bytes);
  }
  void download(void *to, const void *from, size_t bytes) override {
    device->synchronise();
    device->download(to, from, bytes);
  }
  void fill(void *to, unsigned char value, size_t bytes) override {
    if (bytes)
      device->fill(to, value, bytes);
  }
  void launch(const Kernel &kernel, std::span<void *const> operands, void *workspace, int64_t tokens) override {
    LaunchContext context;
    context.device = device->ordinal();
    context.stream = device->stream();
    kernel.launch(operands, workspace, tokens, context);
  }
  void finish() override { device->synchronise(); }
  double time(const std::function<void()> &work) override { return device->milliseconds(work) * 1e3; }

  double copyBandwidth() override {
    constexpr size_t bytes = size_t(1) << 30;
    cuda::Device other(0); // its memory goes when it does
    void *to = other.allocate(bytes), *from = other.allocate(bytes);
    other.fill(from, 1, bytes);
    std::vector<double> samples;
    for (int i = 0; i < 7; ++i)
      samples.push_back(other.milliseconds([&] { other.copy(to, from, bytes); }));
    return 2.0 * double(bytes) / (median(samples) * 1e6);
  }

private:
  std::unique_ptr<cuda::Device> device;
};

} // namespace

Target targetHere() {
  if (cuda::deviceCount() > 0)
    try {
      return cuda::targetOf(0);
    } catch (const UserError &error) { // a GPU older or newer than all that are known
      static std::once_flag said;
      std::call_once(said, [&] { say("{}; this machine is taken for one without a GPU", error.what()); });
    }
  return Target::hostLevel();
}

std::unique_ptr<Machine> machineFor(const Target &target) {
  if (target.device == DeviceType::Cpu) {
    if (!target.runsHere())
      throw EnvironmentProblem(
          fmt::format("code for {} does not run on this CPU ({}), so nothing can be measured; --list and "
                      "--dry-run need no such machine",
                      target.text(), Target::native().text()));
    return std::make_unique<CpuMachine>();
  }
  if (cuda::deviceCount() > 0) {
    Target here = cuda::targetOf(0);
    if (here.isa == target.isa)
      return std::make_unique<GpuMachine>();
    throw EnvironmentProblem(
        fmt::format("the GPU of this machine is {}, not {}, so nothing can be measured; --list and "
                    "--dry-run need no such machine",
                    here.text(), target.text()));
  }
  throw EnvironmentProblem(fmt::format(
      "this machine has no GPU, so nothing can be measured for {}; --list and --dry-run need none", target.text()));
}

} // namespace hyperjit::tools
