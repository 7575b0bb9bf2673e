// SPDX-License-Identifier: Apache-2.0
#include "Sides.h"

#include "Numbers.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fmt/format.h>
#include <stdexcept>

using namespace hyperjit;
using namespace hyperjit::test;
using tools::fromDouble;
using tools::toDouble;

namespace {

int64_t countOf(const OperandInfo &operand, int64_t tokens) {
  return operand.elements * (operand.scope == OperandScope::Token ? tokens : 1);
}

/// How far a number may be off: a rounding of a stream may fall the other way, and sums of such numbers with it.
/// `planes`: products of two bf16 numbers for each (16 bits) in the projection of a normalised row; of one, it would be
/// off by some 1e-3.
struct Allowed {
  double ulp, share; ///< of the number, of the operand's largest
};
/// `expands`: rows may be sums of a token's numbers times a weight's, which are rounded to bf16 where only sums that are
/// rounded so are made of them: products off by 2^-8 at most, sums that then fall to another bf16 number on both sides.
/// (Seen where a token's gradient is little else: 0.34 % of its root mean square, 0.6 % of the largest; with weights of
/// 16 bits 0.04 % and 0.34 %.)
Allowed allowedFor(DType type, bool narrowStreams, bool planes, bool expands) {
  switch (type) {
  case DType::BFloat16:
    return {0x1p-7, expands ? 0x1p-7 : 0x1p-8};
  case DType::Float16:
    return {0x1p-10, 0x1p-10};
  case DType::Float32:
    // Two planes of 8 bits each of rows and of weights: sums of 3072 products were off by 1.9e-4 once in four seeds,
    // with every schedule alike.
    return {0, narrowStreams ? 8e-3 : planes ? 3e-4 : 2e-5};
  default:
    return {0, 1e-11};
  }
}

} // namespace

void hyperjit::test::useEmulator() {
  if (!dlopen(HYPERJIT_EMULATOR_FOLDER "/libcuda.so.1", RTLD_NOW | RTLD_LOCAL))
    throw std::runtime_error(dlerror());
  setenv("HYPERJIT_NVRTC_PATH", HYPERJIT_EMULATOR_FOLDER "/libnvrtc.so.13", 1);
  setenv("HYPERJIT_CACHE", "off", 1);
  setenv("HYPERJIT_EMULATOR_SEED", std::to_string(std::random_device()()).c_str(), 0);
}
uint64_t hyperjit::test::seedOfRun() { return std::strtoull(std::getenv("HYPERJIT_EMULATOR_SEED"), nullptr, 10); }

Sides::Sides(const KernelSpec &spec, int64_t tokens, const Schedule &schedule, const Target &target)
    : tokens(tokens), cpu(KernelManager::global().get(spec, Target::hostLevel())),
      gpu(KernelManager::global().get(spec, target, schedule)) {
  std::mt19937_64 random(seedOfRun());
  void *saved = nullptr;
  for (const OperandInfo &operand : cpu->meta().operands) {
    inputs.push_back(allocate(bytesOf(operand)));
    if (operand.output)
      continue;
    if (operand.name == "saved")
      saved = inputs.back();
    fill(operand, inputs.back(), random);
  }
  if (saved)
    save(spec, saved);
}

/// Streams and cotangents are normal; weights are small enough that a projection is about 1; a token's coefficients are
/// positive.
void Sides::fill(const OperandInfo &operand, void *to, std::mt19937_64 &random) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0.05, 0.95);
  const bool coefficient = operand.kind == OperandKind::Coeffs, token = operand.scope == OperandScope::Token;
  const bool positive = coefficient && token && !operand.name.starts_with("d_");
  const double scale = operand.kind == OperandKind::Weight ? 4 / std::sqrt(std::max(double(operand.elements), 16.0))
                       : coefficient && !token             ? 0.5
                                                           : 1.0;
  const size_t size = sizeOf(operand.dtype);
  for (size_t at = 0; at < bytesOf(operand); at += size)
    fromDouble(static_cast<char *>(to) + at, positive ? uniform(random) : scale * normal(random), operand.dtype);
}

/// Random numbers could be impossible sums.
void Sides::save(const KernelSpec &spec, void *saved) {
  KernelSpec forward = spec;
  forward.direction = Direction::Forward;
  forward.save = true;
  forward.given = forward.want = {};
  auto kernel = KernelManager::global().get(forward, Target::hostLevel());
  std::vector<void *> operands;
  for (const OperandInfo &operand : kernel->meta().operands)
    operands.push_back(!operand.output           ? inputs.at(operands.size())
                       : operand.name == "saved" ? saved
                                                 : allocate(bytesOf(operand)));
  launch(*kernel, operands, {});
}

void *Sides::allocate(size_t bytes) { return device.allocate(std::max<size_t>(bytes, 16)); }

size_t Sides::bytesOf(const OperandInfo &operand) const {
  return size_t(countOf(operand, tokens)) * sizeOf(operand.dtype);
}

void Sides::launch(const Kernel &kernel, const std::vector<void *> &operands, const LaunchContext &context) {
  kernel.launch(operands, allocate((kernel.workspaceBytes(tokens) + 255) / 256 * 256), tokens, context);
}

std::vector<void *> Sides::run(const Kernel &kernel, const LaunchContext &context) {
  std::vector<void *> operands = inputs;
  for (size_t i = 0; i < operands.size(); ++i)
    if (const OperandInfo &operand = kernel.meta().operands[i]; operand.output)
      operands[i] = allocate(bytesOf(operand));
  launch(kernel, operands, context);
  return operands;
}

std::string Sides::compare(double noise) {
  lastOutputs = run(*gpu, {0, nullptr});
  std::vector<void *> theirs = run(*cpu, {});
  const std::vector<OperandInfo> &list = cpu->meta().operands;
  bool narrow = false;
  for (const OperandInfo &operand : list)
    narrow |= operand.kind == OperandKind::Rows && sizeOf(operand.dtype) == 2;
  // Sums over tokens may cancel, above all where an operand is one number: they are held to the largest of them all.
  auto isSum = [](const OperandInfo &operand) {
    return operand.kind == OperandKind::Coeffs && operand.scope == OperandScope::Uniform;
  };
  double largestSum = 0;
  for (size_t i = 0; i < list.size(); ++i)
    if (list[i].output && isSum(list[i]))
      largestSum = std::max(largestSum, largestOf(list[i], theirs[i]));
  std::string message;
  for (size_t i = 0; i < list.size(); ++i)
    if (list[i].output)
      message += difference(list[i], lastOutputs[i], theirs[i], narrow,
                            std::max(noise, isSum(list[i]) ? largestSum : largestOf(list[i], theirs[i])), noise);
  return message;
}

std::string Sides::sameBits(const Kernel &other) {
  if (lastOutputs.empty())
    return "nothing has been run to compare with: call compare() first";
  std::vector<void *> again = run(other, {0, nullptr});
  const std::vector<OperandInfo> &list = gpu->meta().operands;
  for (size_t i = 0; i < list.size(); ++i)
    if (list[i].output && std::memcmp(lastOutputs[i], again[i], bytesOf(list[i])))
      return fmt::format("other bits of '{}' with {} than before", list[i].name, other.meta().schedule);
  return {};
}

double Sides::largestOf(const OperandInfo &operand, const void *numbers) const {
  double largest = 0;
  for (size_t at = 0; at < bytesOf(operand); at += sizeOf(operand.dtype))
    if (const double number = toDouble(static_cast<const char *>(numbers) + at, operand.dtype); std::isfinite(number))
      largest = std::max(largest, std::fabs(number)); // an infinite one would allow anything
  return largest;
}

std::string Sides::difference(const OperandInfo &operand, const void *mine, const void *theirs, bool narrow,
                              double largest, double noise) const {
  const size_t count = size_t(countOf(operand, tokens)), size = sizeOf(operand.dtype);
  auto number = [&](const void *of, size_t i) {
    return toDouble(static_cast<const char *>(of) + i * size, operand.dtype);
  };
  const bool expands =
      operand.name.starts_with("d_") &&
      std::ranges::any_of(gpu->meta().operands,
                          [](const OperandInfo &other) { // a weight may be stored as rows
                            return other.scope == OperandScope::Uniform && other.kind != OperandKind::Coeffs;
                          });
  const Allowed allowed =
      allowedFor(operand.dtype, narrow, gpu->meta().schedule.find("planes=2") != std::string::npos, expands);
  double worst = 1;
  size_t where = count;
  for (size_t i = 0; i < count && !std::isnan(worst); ++i) {
    const double given = number(mine, i), wanted = number(theirs, i);
    if (given == wanted ||
        (std::isnan(given) && std::isnan(wanted))) // infinite ones are equal, their difference is none
      continue;
    const double off = std::fabs(given - wanted) / (allowed.ulp * std::fabs(wanted) + allowed.share * largest + 1e-300);
    if (!(off <= worst)) {
      worst = off;
      where = i;
    }
  }
  // Sums over tokens of a weight's gradient: a plane that is left out hides below one large number's tolerance.
  double off = 0, all = noise * noise;
  for (size_t i = 0; operand.kind == OperandKind::Weight && i < count; ++i) {
    off += std::pow(number(mine, i) - number(theirs, i), 2);
    all += std::pow(number(theirs, i), 2);
  }
  if (off > std::pow(2e-4, 2) * all)
    return fmt::format("'{}' is off by {:.2g} of its norm\n", operand.name, std::sqrt(off / all));
  return where == count ? ""
                        : fmt::format("'{}' number {} of {} is {}, not {} ({:.1f} times what is allowed)\n",
                                      operand.name, where, count, number(mine, where), number(theirs, where), worst);
}
