// CpuHarness.cpp - see the header.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"

#include "hyperjit/core/KernelManager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <thread>

namespace hyperjit::test {

namespace {

constexpr int64_t margin = 64; // numbers before and after an operand

double fromBits(uint64_t bits, DType type) {
  switch (type) {
  case DType::BFloat16:
    return std::bit_cast<float>(uint32_t(bits) << 16);
  case DType::Float16:
    return double(std::bit_cast<_Float16>(uint16_t(bits)));
  case DType::Float32:
    return std::bit_cast<float>(uint32_t(bits));
  case DType::Float64:
    return std::bit_cast<double>(bits);
  }
  return 0;
}

uint64_t toBits(double value, DType type) {
  switch (type) {
  case DType::BFloat16: {
    if (std::isnan(value))
      return 0x7fc0;
    // Round to odd in fp32, then to nearest even: one rounding in effect.
    float narrow = float(value);
    auto bits = std::bit_cast<uint32_t>(narrow);
    if (double(narrow) != value) {
      if (std::fabs(double(narrow)) > std::fabs(value))
        --bits;
      bits |= 1;
    }
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  case DType::Float16:
    return std::bit_cast<uint16_t>(_Float16(value));
  case DType::Float32:
    return std::bit_cast<uint32_t>(float(value));
  case DType::Float64:
    return std::bit_cast<uint64_t>(value);
  }
  return 0;
}

/// The first number lies `shift` bytes behind a multiple of 64.
struct Buffer {
  std::vector<std::byte> memory;
  std::span<std::byte> bytes;
  DType type;
  int64_t numbers;

  Buffer(DType type, int64_t numbers, int64_t shift)
      : memory(size_t(sizeOf(type) * (numbers + 2 * margin) + 128), std::byte{0xff}), type(type), numbers(numbers) {
    auto past = int64_t(reinterpret_cast<uintptr_t>(memory.data()) % 64);
    bytes = std::span(memory).subspan(size_t(64 - past + shift), size_t(sizeOf(type) * (numbers + 2 * margin)));
  }
  std::byte *at(int64_t i) { return bytes.data() + sizeOf(type) * (margin + i); }
  void set(int64_t i, double value) {
    uint64_t bits = toBits(value, type);
    std::memcpy(at(i), &bits, size_t(sizeOf(type)));
  }
  double get(int64_t i) {
    uint64_t bits = 0;
    std::memcpy(&bits, at(i), size_t(sizeOf(type)));
    return fromBits(bits, type);
  }
  bool marginsWhole() const {
    auto whole = [](std::byte b) { return b == std::byte{0xff}; };
    auto size = margin * sizeOf(type);
    return std::all_of(bytes.begin(), bytes.begin() + size, whole) &&
           std::all_of(bytes.end() - size, bytes.end(), whole);
  }
};

void threaded(void *context, int64_t count, ParallelBody body, void *bodyContext) {
  int threads = *static_cast<int *>(context);
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i)
    pool.emplace_back([=] { body(bodyContext, count * i / threads, count * (i + 1) / threads, i); });
  for (std::thread &thread : pool)
    thread.join();
}

KernelManager &manager() {
  static KernelManager manager([] {
    KernelManagerOptions options;
    options.settings.cache = CacheMode::Off;
    return options;
  }());
  return manager;
}

} // namespace

Runner::Runner(const KernelSpec &spec, const std::string &target, const std::string &schedule)
    : kernel(manager().get(spec, Target::parse(target), Schedule::parse(schedule))) {}

std::vector<OperandInfo> Runner::some(bool output) const {
  std::vector<OperandInfo> list;
  for (const OperandInfo &operand : meta().operands)
    if (operand.output == output)
      list.push_back(operand);
  return list;
}

std::vector<Numbers> Runner::run(const std::vector<Numbers> &inputs, int64_t tokens, int threads, int64_t shift) const {
  std::vector<Buffer> buffers;
  buffers.reserve(meta().operands.size());
  size_t next = 0;
  for (const OperandInfo &operand : meta().operands) {
    Buffer &buffer = buffers.emplace_back(operand.dtype, count(operand, tokens), shift);
    if (operand.output)
      continue;
    const Numbers &numbers = inputs.at(next++);
    EXPECT_EQ(int64_t(numbers.size()), buffer.numbers) << operand.name << " of " << meta().spec;
    for (int64_t i = 0; i < buffer.numbers; ++i)
      buffer.set(i, numbers.at(size_t(i)));
  }
  EXPECT_EQ(next, inputs.size()) << meta().spec;
  std::vector<void *> pointers;
  for (Buffer &buffer : buffers)
    pointers.push_back(buffer.at(0));
  // Neither the workspace nor the operands start with sound numbers.
  std::vector<std::byte> workspace(kernel->workspaceBytes(tokens) + 128, std::byte{0xff});
  void *aligned = workspace.data() + 64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64;
  LaunchContext context;
  if (threads > 1) {
    context.parallelFor = &threaded;
    context.parallelContext = &threads;
  }
  kernel->launch(pointers, aligned, tokens, context);
  std::vector<Numbers> results;
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_TRUE(buffers[i].marginsWhole()) << "written outside of " << meta().operands[i].name << ": " << meta().spec;
    if (!meta().operands[i].output)
      continue;
    Numbers &result = results.emplace_back();
    for (int64_t j = 0; j < buffers[i].numbers; ++j)
      result.push_back(buffers[i].get(j));
  }
  return results;
}

int64_t count(const OperandInfo &operand, int64_t tokens) {
  return operand.elements * (operand.scope == OperandScope::Token ? tokens : 1);
}

double roundTo(double value, DType type) { return fromBits(toBits(value, type), type); }

Numbers randomNumbers(int64_t count, std::mt19937 &random, double deviation) {
  std::normal_distribution<double> normal(0, deviation);
  Numbers numbers(static_cast<size_t>(count));
  for (double &number : numbers)
    number = normal(random);
  return numbers;
}

std::vector<Numbers> randomInputs(const std::vector<OperandInfo> &operands, int64_t tokens, std::mt19937 &random) {
  std::vector<Numbers> inputs;
  for (const OperandInfo &operand : operands) {
    bool wide = operand.kind != OperandKind::Coeffs && operand.scope == OperandScope::Uniform;
    inputs.push_back(randomNumbers(count(operand, tokens), random, wide ? 0.2 : 1));
    for (double &number : inputs.back())
      number = roundTo(number, operand.dtype);
  }
  return inputs;
}

Site::Site(const std::string &text)
    : spec(ProgramSource::global().normalise(SiteSpec::parse(text))), program(ProgramSource::global().site(spec)) {}

std::vector<std::string> everyRecipe(int n, int m, int64_t d, const std::string &dtypes, bool options) {
  std::vector<std::string> specs;
  for (const std::string &recipe : ProgramSource::global().recipes()) {
    auto add = [&](const std::string &extra) {
      for (int fracs : {1, m}) {
        int streams = recipe == "frac" ? 1 : n;
        std::string spec = recipe + ":n=" + std::to_string(streams) + ",m=" + std::to_string(fracs) +
                           ",d=" + std::to_string(d) + "," + dtypes + extra;
        try {
          Site site(spec);
          specs.push_back(spec);
        } catch (const std::exception &) {
          // The recipe does not have this size or this option together with its others.
        }
        if (m == 1)
          break;
      }
    };
    add("");
    if (!options)
      continue;
    for (const RecipeOption &option : ProgramSource::global().describe(recipe).options)
      if (option.kernel)
        for (const std::string &value : option.values)
          if (value != option.defaultValue)
            add("," + option.name + "=" + value);
  }
  return specs;
}

void expectNear(const Numbers &actual, const Numbers &expected, double tolerance, const std::string &what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    double error = std::fabs(actual[i] - expected[i]) / (1 + std::fabs(expected[i]));
    if (!(error <= worst)) { // also true for NaN
      worst = error;
      where = i;
      if (std::isnan(error))
        break;
    }
  }
  EXPECT_LE(worst, tolerance) << what << "[" << where << "] is " << actual[where] << ", not " << expected[where];
}

} // namespace hyperjit::test
