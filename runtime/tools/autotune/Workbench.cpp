// SPDX-License-Identifier: Apache-2.0
#include "Workbench.h"

#include "Numbers.h"

#include <hyperjit/core/Error.h>

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <thread>

namespace hyperjit::tools {

namespace {

/// How far two legal orders of the same sums may lie apart, of the largest number.
double tolerance(DType type, bool narrowStreams) {
  switch (type) {
  case DType::Float64:
    return 1e-10;
  case DType::Float32:
    return narrowStreams ? 4e-3 : 2e-4; // the same sums of numbers that were rounded on the way
  case DType::Float16:
    return 4e-3;
  case DType::BFloat16:
    return 2e-2;
  }
  return 0;
}

/// Fast, and the same on every machine. About normal: the sum of four uniform numbers.
class Random {
public:
  explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t bits() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  float normal() {
    uint64_t x = bits();
    int sum = int(x & 0xffff) + int(x >> 16 & 0xffff) + int(x >> 32 & 0xffff) + int(x >> 48);
    return (float(sum) - 131070.0f) * (1.7320508f / 65535.0f);
  }
  float uniform() { return float(bits() >> 40) / float(1 << 24); }

private:
  uint64_t state;
};

int64_t countOf(const OperandInfo &operand, int64_t tokens) {
  return operand.elements * (operand.scope == OperandScope::Token ? tokens : 1);
}

/// Asked before countOf, which would overflow where this throws.
size_t bytesOf(const OperandInfo &operand, int64_t tokens) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(operand.elements * sizeOf(operand.dtype),
                             operand.scope == OperandScope::Token ? tokens : 1, &bytes))
    throw UserError(ErrorId::DeviceFailure, fmt::format("'{}' of {} tokens has more bytes than can be counted; name "
                                                        "fewer with --tokens",
                                                        operand.name, tokens));
  return size_t(bytes);
}

/// Streams and cotangents are normal; weights are small enough that a projection is about 1; a token's coefficients are
/// positive, as most are. Large operands repeat after a prime number of elements, which no row begins with twice: to
/// make all of them would take longer than to compile.
std::vector<std::byte> numbersFor(const OperandInfo &operand, int64_t tokens, uint64_t seed) {
  Random random(seed);
  int64_t count = std::min<int64_t>(countOf(operand, tokens), 1048573), bytes = sizeOf(operand.dtype);
  std::vector<std::byte> data(size_t(count * bytes));
  bool coefficient = operand.kind == OperandKind::Coeffs, token = operand.scope == OperandScope::Token;
  bool positive = coefficient && token && !operand.name.starts_with("d_");
  float scale = operand.kind == OperandKind::Weight ? 4 / std::sqrt(float(std::max<int64_t>(operand.elements, 16)))
                : coefficient && !token             ? 0.5f
                                                    : 1.0f;
  for (int64_t i = 0; i < count; ++i)
    fromDouble(data.data() + i * bytes, positive ? 0.05f + 0.9f * random.uniform() : scale * random.normal(),
               operand.dtype);
  return data;
}

} // namespace

double Trial::median() const {
  if (us.empty())
    return INFINITY;
  std::vector<double> sorted = us;
  std::sort(sorted.begin(), sorted.end());
  size_t half = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

double Trial::noise() const {
  if (us.size() < 2)
    return 0;
  double middle = median();
  std::vector<double> away;
  for (double sample : us)
    away.push_back(std::fabs(sample - middle));
  std::nth_element(away.begin(), away.begin() + away.size() / 2, away.end());
  return 1.4826 * away[away.size() / 2] / std::sqrt(double(us.size())) / middle;
}

Workbench::Workbench(KernelManager &manager, Machine &machine, const KernelSpec &spec, const Target &target,
                     int64_t tokens)
    : manager(manager), machine(machine), spec(spec), target(target), tokens(tokens),
      kernel(manager.get(spec, target)) {
  machine.clear();
  const std::vector<OperandInfo> &list = kernel->meta().operands;
  void *saved = nullptr;
  uint64_t seed = 1;
  for (const OperandInfo &operand : list) {
    sizes.push_back(bytesOf(operand, tokens));
    operands.push_back(machine.allocate(sizes.back()));
    if (operand.output)
      continue;
    if (operand.name == "saved")
      saved = operands.back();
    std::vector<std::byte> data = numbersFor(operand, tokens, seed++);
    for (size_t at = 0; at < sizes.back(); at += data.size())
      machine.upload(static_cast<std::byte *>(operands.back()) + at, data.data(),
                     std::min(data.size(), sizes.back() - at));
  }
  if (saved) {
    // What forward keeps for backward are sums that belong to its inputs; random ones could be impossible.
    KernelSpec forward = spec;
    forward.direction = Direction::Forward;
    forward.save = true;
    forward.given = forward.want = {};
    std::shared_ptr<const Kernel> made = manager.get(forward, target);
    std::vector<void *> pointers;
    for (const OperandInfo &operand : made->meta().operands)
      pointers.push_back(!operand.output           ? operands.at(pointers.size())
                         : operand.name == "saved" ? saved
                                                   : machine.allocate(bytesOf(operand, tokens)));
    void *space = machine.allocate(made->workspaceBytes(tokens));
    machine.launch(*made, pointers, space, tokens);
    machine.finish();
  }
  run(*kernel);
  machine.finish();
  results(expected);
  baseLaunches = launchesOf(*kernel);
  Trial base;
  for (int i = 0; i < 5; ++i)
    base.us.push_back(sample(*kernel, baseLaunches));
  baseUs = base.median();
}

std::shared_ptr<const Kernel> Workbench::kernelOf(const Schedule &schedule) {
  return schedule.text() == kernel->meta().schedule ? kernel : manager.get(spec, target, schedule);
}

void Workbench::run(const Kernel &candidate) {
  size_t wanted = candidate.workspaceBytes(tokens);
  if (wanted > workspaceBytes || !workspace) {
    workspace = machine.allocate(wanted);
    workspaceBytes = wanted;
  }
  machine.launch(candidate, operands, workspace, tokens);
}

void Workbench::results(std::vector<std::vector<std::byte>> &all) {
  const std::vector<OperandInfo> &list = kernel->meta().operands;
  all.resize(
      size_t(std::count_if(list.begin(), list.end(), [](const OperandInfo &operand) { return operand.output; })));
  for (size_t i = 0, output = 0; i < list.size(); ++i)
    if (list[i].output) {
      std::vector<std::byte> &data = all[output++];
      data.resize(sizes[i]); // the same memory for every candidate
      machine.download(data.data(), operands[i], sizes[i]);
    }
}

double Workbench::compare(std::string &message) const {
  double worst = 0;
  size_t output = 0;
  const std::vector<OperandInfo> &list = kernel->meta().operands;
  bool narrow = std::any_of(list.begin(), list.end(), [](const OperandInfo &operand) {
    return operand.kind == OperandKind::Rows && sizeOf(operand.dtype) == 2;
  });
  for (const OperandInfo &operand : list) {
    if (!operand.output)
      continue;
    const std::vector<std::byte> &mine = got[output], &theirs = expected[output];
    ++output;
    if (mine == theirs)
      continue;
    double largest = 0, difference = 0;
    int64_t bytes = sizeOf(operand.dtype);
    for (size_t at = 0; at < mine.size(); at += size_t(bytes)) {
      double a = toDouble(mine.data() + at, operand.dtype), b = toDouble(theirs.data() + at, operand.dtype);
      if (std::isfinite(b))
        largest = std::max(largest, std::fabs(b));
      if (std::isnan(a) != std::isnan(b) || std::isinf(a) != std::isinf(b) || (std::isinf(a) && a != b))
        difference = INFINITY;
      else if (std::isfinite(a))
        difference = std::max(difference, std::fabs(a - b));
    }
    double relative = difference == 0 ? 0 : difference / std::max(largest, 1e-30);
    if (!(relative <= tolerance(operand.dtype, narrow)) && message.empty())
      message = fmt::format("'{}' differs from the default schedule's by {:.2g} of its largest number", operand.name,
                            relative);
    worst = std::max(worst, relative);
  }
  return worst;
}

/// Launches of one sample: at least 200 us of them, or the clock is a part of what is measured.
int Workbench::launchesOf(const Kernel &candidate) {
  double once = machine.time([&] { run(candidate); });
  return int(std::clamp(std::ceil(200 / std::max(once, 0.5)), 1.0, 400.0));
}

double Workbench::sample(const Kernel &candidate, int launches) {
  return machine.time([&] {
    for (int i = 0; i < launches; ++i)
      run(candidate);
  }) / launches;
}

/// "kind:text;kind:text": the kind whose text the schedule holds.
static std::string faultOf(const std::string &faults, const std::string &schedule) {
  for (size_t begin = 0; begin < faults.size();) {
    size_t end = std::min(faults.find(';', begin), faults.size()), colon = faults.find(':', begin);
    if (colon < end && schedule.find(faults.substr(colon + 1, end - colon - 1)) != std::string::npos)
      return faults.substr(begin, colon - begin);
    begin = end + 1;
  }
  return {};
}

Trial Workbench::attempt(const Schedule &schedule, int samples, double hopeless, const std::string &faults) {
  Trial trial;
  trial.schedule = schedule;
  std::string fault = faultOf(faults, schedule.text());
  std::shared_ptr<const Kernel> candidate;
  try {
    if (fault == "fail")
      throw UserError("HYPERJIT_TUNING_FAULT asked for it");
    candidate = kernelOf(schedule);
    trial.schedule = Schedule::parse(candidate->meta().schedule);
  } catch (const std::exception &error) {
    trial.status = "compile_error";
    trial.message = error.what();
    return trial;
  }
  try {
    if (fault == "crash")
      std::raise(SIGSEGV);
    while (fault == "hang")
      std::this_thread::sleep_for(std::chrono::seconds(1));
    // What the candidate does not write must not be what another one wrote.
    for (size_t i = 0; i < operands.size(); ++i)
      if (kernel->meta().operands[i].output)
        machine.fill(operands[i], 0xff, sizes[i]);
    run(*candidate);
    machine.finish();
    results(got);
    if (fault == "wrong")
      std::fill(got[0].begin(), got[0].begin() + std::ptrdiff_t(got[0].size() / 2), std::byte{0x3f});
    trial.error = compare(trial.message);
    if (!trial.message.empty()) {
      trial.status = "wrong";
      return trial;
    }
    int launches = launchesOf(*candidate);
    for (int i = 0; i < samples; ++i) {
      double base = sample(*kernel, baseLaunches);
      trial.us.push_back(sample(*candidate, launches) * baseUs / base);
      if (trial.us[0] > hopeless)
        break;
    }
  } catch (const std::exception &error) {
    trial.status = "launch_error";
    trial.message = error.what();
  }
  return trial;
}

std::vector<std::vector<double>> Workbench::duel(const std::vector<Schedule> &schedules, int samples) {
  std::vector<std::shared_ptr<const Kernel>> kernels;
  std::vector<int> launches;
  for (const Schedule &schedule : schedules) {
    kernels.push_back(kernelOf(schedule));
    launches.push_back(launchesOf(*kernels.back()));
  }
  std::vector<std::vector<double>> times(schedules.size());
  for (int i = 0; i < samples; ++i)
    for (size_t k = 0; k < kernels.size(); ++k)
      times[k].push_back(sample(*kernels[k], launches[k]));
  return times;
}

} // namespace hyperjit::tools
