// Generated CUDA kernels run on the emulated GPU, against the CPU back end's kernels of the same spec on the same numbers: another
// code generator, another order of sums.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/SpecList.h"
#include "hyperjit/cuda/Cuda.h"
#include "hyperjit/cuda/Device.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <dlfcn.h>
#include <random>
#include <sstream>

using namespace hyperjit;

namespace {

uint64_t seedOfRun() {
  static const uint64_t seed = [] {
    const char *given = std::getenv("HYPERJIT_EMULATOR_SEED");
    uint64_t made = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
    setenv("HYPERJIT_EMULATOR_SEED", std::to_string(made).c_str(), 1);
    return made;
  }();
  return seed;
}

double toDouble(const void *at, DType type) {
  switch (type) {
  case DType::Float64: {
    double value;
    std::memcpy(&value, at, 8);
    return value;
  }
  case DType::Float32: {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  case DType::Float16: {
    _Float16 value;
    std::memcpy(&value, at, 2);
    return double(value);
  }
  default: {
    uint32_t bits = 0;
    std::memcpy(reinterpret_cast<char *>(&bits) + 2, at, 2);
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  }
}
void fromDouble(void *at, double value, DType type) {
  switch (type) {
  case DType::Float64:
    std::memcpy(at, &value, 8);
    return;
  case DType::Float32: {
    float narrow = float(value);
    std::memcpy(at, &narrow, 4);
    return;
  }
  case DType::Float16: {
    _Float16 narrow = _Float16(value);
    std::memcpy(at, &narrow, 2);
    return;
  }
  default: {
    float narrow = float(value);
    std::memcpy(at, reinterpret_cast<char *>(&narrow) + 2, 2); // towards zero: any bf16 will do
  }
  }
}

/// Memory of the emulated device, which the CPU's kernels can use, too.
class Memory {
public:
  void *allocate(size_t bytes) { return device.allocate(std::max<size_t>(bytes, 16)); }

private:
  cuda::Device device{0};
};

int64_t countOf(const OperandInfo &operand, int64_t tokens) {
  return operand.elements * (operand.scope == OperandScope::Token ? tokens : 1);
}

class Sides {
public:
  Sides(const KernelSpec &spec, int64_t tokens, const Schedule &schedule, const std::string &target = "sm_90a")
      : tokens(tokens), cpu(KernelManager::global().get(spec, Target::hostLevel())),
        gpu(KernelManager::global().get(spec, Target::parse(target), schedule)) {
    std::mt19937_64 random(seedOfRun());
    void *saved = nullptr;
    for (const OperandInfo &operand : cpu->meta().operands) {
      size_t bytes = size_t(countOf(operand, tokens)) * sizeOf(operand.dtype);
      inputs.push_back(memory.allocate(bytes));
      if (operand.output)
        continue;
      if (operand.name == "saved")
        saved = inputs.back();
      fill(operand, inputs.back(), random);
    }
    if (saved)
      save(spec, saved);
  }

  /// Runs both; each writes to memory of NaNs of its own. Empty, or what differs.
  std::string compare() {
    std::vector<void *> mine = run(*gpu, {0, nullptr}), theirs = run(*cpu, {});
    std::string message;
    const std::vector<OperandInfo> &list = cpu->meta().operands;
    bool narrow = false;
    for (const OperandInfo &operand : list)
      narrow |= operand.kind == OperandKind::Rows && sizeOf(operand.dtype) == 2;
    for (size_t i = 0; i < list.size(); ++i)
      if (list[i].output)
        message += difference(list[i], mine[i], theirs[i], narrow);
    return message;
  }
  /// Runs the CUDA kernel again with warps in another order: the same bits.
  std::string repeat() {
    std::vector<void *> first = run(*gpu, {0, nullptr}), second = run(*gpu, {0, nullptr});
    const std::vector<OperandInfo> &list = gpu->meta().operands;
    for (size_t i = 0; i < list.size(); ++i)
      if (list[i].output && std::memcmp(first[i], second[i], size_t(countOf(list[i], tokens)) * sizeOf(list[i].dtype)))
        return fmt::format("a repeat gives other bits of '{}'", list[i].name);
    return {};
  }
  const ArtifactMeta &meta() const { return gpu->meta(); }

private:
  /// Streams and cotangents are normal; weights are small enough that a projection is about 1; a token's coefficients are positive.
  void fill(const OperandInfo &operand, void *to, std::mt19937_64 &random) {
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform(0.05, 0.95);
    const bool coefficient = operand.kind == OperandKind::Coeffs, token = operand.scope == OperandScope::Token;
    const bool positive = coefficient && token && !operand.name.starts_with("d_");
    const double scale = operand.kind == OperandKind::Weight ? 4 / std::sqrt(std::max(double(operand.elements), 16.0)) : coefficient && !token ? 0.5 : 1.0;
    for (int64_t i = 0; i < countOf(operand, tokens); ++i)
      fromDouble(static_cast<char *>(to) + i * int64_t(sizeOf(operand.dtype)), positive ? uniform(random) : scale * normal(random), operand.dtype);
  }
  /// What forward keeps for backward are sums that belong to its inputs; random ones could be impossible.
  void save(const KernelSpec &spec, void *saved) {
    KernelSpec forward = spec;
    forward.direction = Direction::Forward;
    forward.save = true;
    forward.given = forward.want = {};
    auto kernel = KernelManager::global().get(forward, Target::hostLevel());
    std::vector<void *> operands;
    for (const OperandInfo &operand : kernel->meta().operands)
      operands.push_back(!operand.output            ? inputs.at(operands.size())
                         : operand.name == "saved" ? saved
                                                    : memory.allocate(size_t(countOf(operand, tokens)) * sizeOf(operand.dtype)));
    launch(*kernel, operands, {});
  }
  void launch(const Kernel &kernel, const std::vector<void *> &operands, const LaunchContext &context) {
    kernel.launch(operands, memory.allocate((kernel.workspaceBytes(tokens) + 255) / 256 * 256), tokens, context);
  }
  std::vector<void *> run(const Kernel &kernel, const LaunchContext &context) {
    std::vector<void *> operands = inputs;
    for (size_t i = 0; i < operands.size(); ++i)
      if (const OperandInfo &operand = kernel.meta().operands[i]; operand.output)
        operands[i] = memory.allocate(size_t(countOf(operand, tokens)) * sizeOf(operand.dtype));
    launch(kernel, operands, context);
    return operands;
  }
  std::string difference(const OperandInfo &operand, const void *mine, const void *theirs, bool narrow) {
    // A rounding of a stream may fall the other way; sums of such numbers are off by less.
    const double ulp = operand.dtype == DType::BFloat16 ? 0x1p-7 : operand.dtype == DType::Float16 ? 0x1p-10 : 0;
    const double share = operand.dtype == DType::Float64 ? 1e-11 : ulp > 0 ? ulp / 4 : narrow ? 2e-3 : 2e-5;
    double largest = 0, worst = 0, a = 0, b = 0;
    int64_t where = -1;
    const int64_t count = countOf(operand, tokens), bytes = int64_t(sizeOf(operand.dtype));
    for (int64_t i = 0; i < count; ++i)
      largest = std::max(largest, std::fabs(toDouble(static_cast<const char *>(theirs) + i * bytes, operand.dtype)));
    for (int64_t i = 0; i < count; ++i) {
      double x = toDouble(static_cast<const char *>(mine) + i * bytes, operand.dtype), y = toDouble(static_cast<const char *>(theirs) + i * bytes, operand.dtype);
      double off = std::fabs(x - y) / (ulp * std::fabs(y) + share * largest + 1e-300);
      if (!(off <= 1) && !(off <= worst)) {
        worst = off;
        where = i;
        a = x;
        b = y;
        if (std::isnan(off))
          break;
      }
    }
    return where < 0 ? "" : fmt::format("'{}' number {} of {} is {}, not {} ({:.1f} times what is allowed)\n", operand.name, where, count, a, b, worst);
  }

  int64_t tokens;
  Memory memory;
  std::shared_ptr<const Kernel> cpu, gpu;
  std::vector<void *> inputs;
};

KernelSpec kernelOf(const std::string &site, Role role, Direction direction) {
  ProgramSource &programs = ProgramSource::global();
  SiteSpec spec = programs.normalise(SiteSpec::parse(site));
  return trainingKernel(programs, spec, spec, role, direction, Bucket::Large);
}

struct Case {
  std::string site;
  Role role = Role::Boundary;
  int64_t tokens = 37;
  std::string schedule = "auto";
};
void PrintTo(const Case &given, std::ostream *out) {
  *out << fmt::format("{} {}, {} tokens, {}", name(given.role), given.site, given.tokens, given.schedule);
}

/// HYPERJIT_EMULATED_CASE: one more, as "site role tokens schedule".
std::vector<Case> withOwn(std::vector<Case> cases) {
  if (const char *text = std::getenv("HYPERJIT_EMULATED_CASE")) {
    Case own;
    std::string role;
    std::istringstream(text) >> own.site >> role >> own.tokens >> own.schedule;
    own.role = role == "before" ? Role::Before : role == "after" ? Role::After : Role::Boundary;
    cases = {own};
  }
  return cases;
}

class Emulated : public testing::TestWithParam<Case> {
protected:
  void SetUp() override {
    seedOfRun();
    if (cuda::deviceCount() == 0 || Target::parse("sm_90a").text() != cuda::targetOf(0).text().substr(0, 6))
      GTEST_SKIP() << "the emulated libcuda is not on the loader's path";
  }
};

TEST_P(Emulated, GivesWhatTheCpuGives) {
  const Case &given = GetParam();
  for (Direction direction : {Direction::Forward, Direction::Backward}) {
    SCOPED_TRACE(fmt::format("{} {} of {}, {} tokens, schedule {}, HYPERJIT_EMULATOR_SEED={}", name(given.role), name(direction), given.site,
                             given.tokens, given.schedule, seedOfRun()));
    Sides sides(kernelOf(given.site, given.role, direction), given.tokens, Schedule::parse(given.schedule));
    EXPECT_EQ(sides.compare(), "") << sides.meta().schedule;
    EXPECT_EQ(sides.repeat(), "") << sides.meta().schedule;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Emulated, testing::ValuesIn(withOwn({
  {"static:n=4,d=129,dtype=fp16"},
  {"manifold:n=4,d=1280,dtype=bf16"},
})));

} // namespace
