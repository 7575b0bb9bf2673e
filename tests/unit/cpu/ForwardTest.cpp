// The forward kernels of every recipe on the CPU against an interpreter of their programs.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"

#include "Interpreter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

double toleranceOf(DType type) {
  switch (type) {
  case DType::Float64:
    return 1e-11;
  case DType::Float32:
    return 2e-5;
  case DType::Float16:
    return 2e-3;
  default:
    return 1.6e-2;
  }
}

Numbers slice(const Numbers &all, int64_t token, int64_t tokens) {
  size_t size = all.size() / size_t(tokens);
  return Numbers(all.begin() + token * size, all.begin() + (token + 1) * size);
}

} // namespace

void hyperjit::test::checkForward(const std::string &text, int64_t tokens, const std::string &target, int threads,
                                  const std::string &following, double tolerance) {
  SCOPED_TRACE(text + " T=" + std::to_string(tokens) + " " + target + " " + following);
  Site site(text), second(following.empty() ? text : following);
  if (tolerance == 0)
    tolerance = toleranceOf(site.spec.stream);
  Bucket bucket = bucketOf(tokens);
  Runner before(KernelSpec::beforeForward(site.spec, false, bucket), target);
  Runner after(KernelSpec::afterForward(site.spec, bucket), target);
  Runner beforeSecond(KernelSpec::beforeForward(second.spec, false, bucket), target);
  Runner boundary(KernelSpec::boundaryForward(site.spec, second.spec, false, bucket), target);
  std::mt19937 random(unsigned(tokens) + 7);

  std::vector<OperandInfo> operands = before.inputs();
  std::vector<Numbers> inputs = randomInputs(operands, tokens, random);
  std::vector<Numbers> made = before.run(inputs, tokens, threads);
  // u, then coefficients, uniform and channels, then carries.
  const SiteSignature &signature = site.signature();
  size_t crossing =
      size_t(signature.tokenCoefficients > 0) + (signature.uniformCoefficients > 0) + (signature.channelRows > 0);
  ASSERT_EQ(made.size(), 1 + crossing + signature.carriesOut.size());

  std::vector<OperandInfo> afterOperands = after.inputs();
  ASSERT_EQ(afterOperands.size(), 2 + crossing);
  std::vector<Numbers> afterInputs{inputs[0], randomInputs({afterOperands[1]}, tokens, random)[0]};
  for (size_t i = 0; i < crossing; ++i)
    afterInputs.push_back(made[1 + i]);
  std::vector<Numbers> next = after.run(afterInputs, tokens, threads);
  ASSERT_EQ(next.size(), 1u);

  Numbers u, xNext;
  std::map<std::string, Numbers> carries;
  for (int64_t token = 0; token < tokens; ++token) {
    std::map<std::string, Tensor> arguments;
    for (size_t i = 0; i < operands.size(); ++i) {
      std::string name = i == 0 ? "x" : operands[i].name;
      Numbers numbers = operands[i].scope == OperandScope::Token ? slice(inputs[i], token, tokens) : inputs[i];
      arguments[name] = Tensor({int64_t(numbers.size())}, numbers);
    }
    Outcome outcome = run(site.program->text, signature.rowWidth, arguments, [&](const Tensor &) {
      return Tensor({signature.branchOutputRows, signature.rowWidth}, slice(afterInputs[1], token, tokens));
    });
    u.insert(u.end(), outcome.input.data.begin(), outcome.input.data.end());
    xNext.insert(xNext.end(), outcome.next.data.begin(), outcome.next.data.end());
    for (auto &[name, value] : outcome.carries)
      carries[name].insert(carries[name].end(), value.data.begin(), value.data.end());
  }
  expectNear(made[0], u, std::max(tolerance, toleranceOf(site.spec.branchIn)), "u");
  expectNear(next[0], xNext, tolerance, "next streams");
  for (size_t i = 0; i < signature.carriesOut.size(); ++i)
    expectNear(made[1 + crossing + i], carries[signature.carriesOut[i].name], tolerance,
               "carry " + signature.carriesOut[i].name);

  // The fused kernel keeps the bits of its parts.
  std::vector<Numbers> boundaryInputs = afterInputs;
  std::vector<Numbers> again = following.empty() ? inputs : randomInputs(beforeSecond.inputs(), tokens, random);
  boundaryInputs.insert(boundaryInputs.end(), again.begin() + 1, again.end());
  std::vector<Numbers> fused = boundary.run(boundaryInputs, tokens, threads);
  again[0] = next[0];
  std::vector<Numbers> parts = beforeSecond.run(again, tokens, threads);
  expectNear(fused[0], next[0], 0, "boundary: next streams");
  ASSERT_EQ(fused.size(), 1 + parts.size());
  for (size_t i = 0; i < parts.size(); ++i)
    expectNear(fused[1 + i], parts[i], tolerance / 4, "boundary: output " + std::to_string(i + 1));
}

namespace {

TEST(Forward, EveryRecipeAndOption) {
  for (const std::string &spec : everyRecipe(4, 2, 24, "dtype=fp32", true))
    checkForward(spec, 5);
}

TEST(Forward, EveryDType) {
  for (const char *dtypes : {"dtype=bf16", "dtype=fp16", "dtype=fp64", "dtype=fp32,branch=bf16"})
    for (const std::string &spec : everyRecipe(3, 1, 40, dtypes, false))
      checkForward(spec, 6);
}

TEST(Forward, OddSizes) {
  for (int n : {1, 2, 3, 5, 6, 7, 8})
    for (int64_t d : {1, 7, 33})
      for (const std::string &spec : everyRecipe(n, 1, d, "dtype=fp32", false))
        checkForward(spec, 3);
}

TEST(Forward, ManyStreams) {
  for (const std::string &spec : everyRecipe(16, 2, 36, "dtype=fp32", false))
    checkForward(spec, 3);
}

TEST(Forward, AnyNumberOfTokens) {
  for (int64_t tokens : {0, 1, 15, 16, 17, 65, 1025})
    for (const char *spec : {"static:n=4,d=20", "manifold:n=4,d=20"})
      checkForward(spec, tokens);
}

TEST(Forward, EveryTarget) {
  for (const char *target : {"x86-64-v3", "x86-64-v4"})
    if (Target::parse(target).runsHere())
      for (const std::string &spec : everyRecipe(4, 1, 37, "dtype=fp32", false))
        checkForward(spec, 5, target);
}

// A LayerNorm's mean and variance come from one sweep, E[x^2] - mean^2, which costs (mean / deviation)^2 ulps in fp32:
// what the README says of it. With one stream, no bias and no tanh u = l x, l the logit.
TEST(Forward, LayerNormOfRowsFarFromZero) {
  constexpr int64_t width = 512, tokens = 64;
  for (auto [mean, most] : {std::pair(0.0, 4e-7), {1.0, 5e-7}, {10.0, 1.5e-5}, {100.0, 1.2e-3}}) {
    std::mt19937 random(7);
    std::map<std::string, Numbers> made;
    Numbers x = randomNumbers(tokens * width, random);
    Numbers w = randomNumbers(2 * width, random, 1 / std::sqrt(double(width)));
    for (double &number : x)
      number = roundTo(number + mean, DType::Float32);
    for (double &number : w)
      number = roundTo(number, DType::Float32);
    for (const char *dtype : {"fp32", "fp64"}) {
      Site site(std::string("dynamic:n=1,d=512,norm=layernorm,norm_weight=off,tanh=off,scale=off,weight=") + dtype +
                ",dtype=" + dtype);
      Runner before(KernelSpec::beforeForward(site.spec, false, bucketOf(tokens)));
      std::vector<Numbers> inputs;
      for (const OperandInfo &operand : before.inputs())
        inputs.push_back(inputs.empty()                       ? x
                         : operand.name == "dynamic_alpha_fn" ? w
                                                              : Numbers(size_t(count(operand, tokens)), 0.0));
      made[dtype] = before.run(inputs, tokens)[0];
    }
    double error = 0, square = 0;
    for (int64_t token = 0; token < tokens; ++token) {
      size_t at = size_t(token * width);
      double logit = made["fp64"][at] / x[at];
      error += std::pow(made["fp32"][at] / x[at] - logit, 2);
      square += logit * logit;
    }
    EXPECT_LE(std::sqrt(error / square), most) << "mean " << mean;
  }
}

} // namespace
