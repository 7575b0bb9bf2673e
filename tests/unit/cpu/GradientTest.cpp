// The backward kernels of every recipe on the CPU: against finite differences of the forward kernels in fp64, other
// dtypes against fp64, and what a mask leaves out against what it does not.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

struct Part {
  Role role;
  std::optional<SiteSpec> after, before;
};

/// The boundary's second site is `following`, by default the same.
std::vector<Part> partsOf(const std::string &text, const std::string &following = {}) {
  SiteSpec spec = Site(text).spec, second = following.empty() ? spec : Site(following).spec;
  return {{Role::Before, {}, spec}, {Role::After, spec, {}}, {Role::Boundary, spec, second}};
}

KernelSpec forwardOf(const Part &part, bool save, int64_t tokens) {
  Bucket bucket = bucketOf(tokens);
  switch (part.role) {
  case Role::Before:
    return KernelSpec::beforeForward(*part.before, save, bucket);
  case Role::After:
    return KernelSpec::afterForward(*part.after, bucket);
  default:
    return KernelSpec::boundaryForward(*part.after, *part.before, save, bucket);
  }
}

/// The letter of each forward input and output, in the order of Kernel.h.
std::string inputLetters(const Part &part) {
  std::string letters = "x";
  if (part.after) {
    const SiteSignature signature = ProgramSource::global().site(*part.after)->signature;
    letters += "y";
    letters += std::string(
        (signature.tokenCoefficients > 0) + (signature.uniformCoefficients > 0) + (signature.channelRows > 0), 'c');
  }
  if (part.before) {
    auto program = ProgramSource::global().site(*part.before);
    letters += std::string(program->parameters.size(), 'p') + std::string(program->signature.carriesIn.size(), 'k');
  }
  return letters;
}

std::string outputLetters(const Part &part) {
  std::string letters = part.after ? "x" : "";
  if (part.before) {
    const SiteSignature signature = ProgramSource::global().site(*part.before)->signature;
    letters += "u";
    letters += std::string(
        (signature.tokenCoefficients > 0) + (signature.uniformCoefficients > 0) + (signature.channelRows > 0), 'c');
    letters += std::string(signature.carriesOut.size(), 'k');
  }
  return letters;
}

std::string ordered(const std::string &letters, std::string_view order) {
  std::string result;
  for (char letter : order)
    if (letters.find(letter) != std::string::npos)
      result += letter;
  return result;
}

struct Problem {
  Part part;
  int64_t tokens;
  std::string inputs, outputs; ///< letters
  std::vector<Numbers> values; ///< forward inputs
  std::vector<Numbers> saved;  ///< none or one
  std::vector<Numbers> cotangents;

  Problem(const Part &part, int64_t tokens, const std::string &target = "native")
      : part(part), tokens(tokens), inputs(inputLetters(part)), outputs(outputLetters(part)), target(target) {
    std::mt19937 random(unsigned(inputs.size() + tokens));
    Runner forward(forwardOf(part, part.before.has_value(), tokens), target);
    values = randomInputs(forward.inputs(), tokens, random);
    std::vector<Numbers> made = forward.run(values, tokens);
    std::vector<OperandInfo> operands = forward.outputs();
    for (size_t i = 0; i < outputs.size(); ++i) {
      cotangents.push_back(randomNumbers(int64_t(made[i].size()), random));
      for (double &number : cotangents.back())
        number = roundTo(number, operands[i].dtype);
    }
    saved.assign(made.begin() + int64_t(outputs.size()), made.end());
  }

  /// Gradients of the wanted inputs, given the cotangents of some outputs.
  std::vector<Numbers> backward(const std::string &given, const std::string &want, int threads = 1,
                                const Numbers &handedOn = {}) const {
    Runner runner(
        KernelSpec::backward(part.after, part.before, (handedOn.empty() ? "" : "x") + given, want, bucketOf(tokens)),
        target);
    std::vector<Numbers> all = values;
    all.insert(all.end(), saved.begin(), saved.end());
    if (!handedOn.empty())
      all.push_back(handedOn);
    for (size_t i = 0; i < outputs.size(); ++i)
      if (given.find(outputs[i]) != std::string::npos)
        all.push_back(cotangents[i]);
    return runner.run(all, tokens, threads);
  }
  std::vector<Numbers> backward() const { return backward(ordered(outputs, "xuck"), ordered(inputs, "xycpk")); }

  std::string target;
};

double loss(const Problem &problem, const Runner &forward, const std::vector<Numbers> &values) {
  std::vector<Numbers> made = forward.run(values, problem.tokens);
  double sum = 0;
  for (size_t i = 0; i < problem.cotangents.size(); ++i)
    for (size_t j = 0; j < made[i].size(); ++j)
      sum += made[i][j] * problem.cotangents[i][j];
  return sum;
}

} // namespace

/// The derivative along a random direction of each input by itself.
void hyperjit::test::checkDifferences(const std::string &text, int64_t tokens, const std::string &following) {
  SCOPED_TRACE(text + " T=" + std::to_string(tokens) + " " + following);
  for (const Part &part : partsOf(text, following)) {
    SCOPED_TRACE(std::string(name(part.role)));
    Problem problem(part, tokens);
    Runner forward(forwardOf(part, false, tokens));
    std::vector<Numbers> gradients = problem.backward();
    ASSERT_EQ(gradients.size(), problem.inputs.size());
    std::mt19937 random(3);
    for (size_t i = 0; i < gradients.size(); ++i) {
      Numbers direction = randomNumbers(int64_t(problem.values[i].size()), random);
      double slope = 0, scale = 1;
      for (size_t j = 0; j < direction.size(); ++j) {
        slope += gradients[i][j] * direction[j];
        scale += std::fabs(gradients[i][j] * direction[j]);
      }
      auto moved = [&](double by) {
        std::vector<Numbers> values = problem.values;
        for (size_t j = 0; j < direction.size(); ++j)
          values[i][j] += by * direction[j];
        return loss(problem, forward, values);
      };
      // Fourth order, so that the curvature of a Sinkhorn iteration does not decide what passes. Where it is off for
      // one step the step may be too long, or over a kink of max, or too short; a wrong gradient is off for all.
      double difference = 0;
      for (double step : {1e-5, 1e-4, 1e-6}) {
        difference = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step);
        if (std::fabs(slope - difference) <= 1e-7 * scale)
          break;
      }
      EXPECT_NEAR(slope, difference, 1e-7 * scale)
          << "input " << i << " (" << problem.inputs[i] << ") " << forward.inputs()[i].name;
    }
  }
}

namespace {

TEST(Gradient, FiniteDifferencesOfEveryRecipeAndOption) {
  for (const std::string &spec : everyRecipe(4, 2, 6, "dtype=fp64,weight=fp64", true))
    checkDifferences(spec, 3);
}

TEST(Gradient, FiniteDifferencesAtOddSizes) {
  for (int n : {1, 3, 6})
    for (const std::string &spec : everyRecipe(n, 1, n == 3 ? 17 : 5, "dtype=fp64,weight=fp64", false))
      checkDifferences(spec, n == 3 ? 19 : 2);
  for (const std::string &spec : everyRecipe(16, 1, 3, "dtype=fp64,weight=fp64", false))
    checkDifferences(spec, 2);
}

} // namespace

void hyperjit::test::checkDType(const std::string &spec, const std::string &dtypes, double tolerance, int64_t tokens) {
  SCOPED_TRACE(spec + dtypes);
  std::vector<Part> narrow = partsOf(spec + dtypes), wide = partsOf(spec + "dtype=fp64");
  for (size_t i = 0; i < narrow.size(); ++i) {
    SCOPED_TRACE(std::string(name(narrow[i].role)));
    Problem problem(narrow[i], tokens), reference(wide[i], tokens);
    reference.values = problem.values;
    reference.cotangents = problem.cotangents;
    if (!reference.saved.empty()) {
      Runner forward(forwardOf(wide[i], true, tokens));
      std::vector<Numbers> made = forward.run(reference.values, tokens);
      reference.saved.assign(made.begin() + int64_t(reference.outputs.size()), made.end());
    }
    std::vector<Numbers> actual = problem.backward(), expected = reference.backward();
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t j = 0; j < actual.size(); ++j) {
      // Sums cancel: what is compared is the error beside the largest number.
      double largest = 1;
      for (double number : expected[j])
        largest = std::max(largest, std::fabs(number));
      for (double &number : actual[j])
        number /= largest;
      for (double &number : expected[j])
        number /= largest;
      expectNear(actual[j], expected[j], tolerance, "gradient " + std::to_string(j) + " (" + problem.inputs[j] + ")");
    }
  }
}

namespace {

std::vector<std::string> withoutDType(int n, int m, int64_t d, bool options) {
  std::vector<std::string> specs;
  for (std::string spec : everyRecipe(n, m, d, "dtype=fp64", options)) {
    size_t at = spec.find("dtype=fp64");
    std::string rest = spec.substr(at + 10);
    specs.push_back(spec.substr(0, at) + (rest.empty() ? "" : rest.substr(1) + ","));
  }
  return specs;
}

TEST(Gradient, EveryRecipeInSinglePrecision) {
  for (const std::string &spec : withoutDType(4, 2, 24, false))
    checkDType(spec, "dtype=fp32", 1e-4, 20);
}

TEST(Gradient, EveryDType) {
  for (const std::string &spec : withoutDType(4, 1, 36, false)) {
    checkDType(spec, "dtype=bf16", 4e-2, 5);
    checkDType(spec, "dtype=fp16", 5e-3, 5);
    checkDType(spec, "dtype=fp32,branch=bf16", 4e-2, 5);
  }
}

TEST(Gradient, ManyStreamsInSinglePrecision) {
  for (int n : {7, 16})
    for (const std::string &spec : withoutDType(n, 1, 37, false))
      checkDType(spec, "dtype=fp32", 1e-3, 3);
}

} // namespace

void hyperjit::test::checkMasks(const std::string &spec, double tolerance) {
  SCOPED_TRACE(spec);
  for (const Part &part : partsOf(spec)) {
    SCOPED_TRACE(std::string(name(part.role)));
    Problem problem(part, 5);
    std::string given = ordered(problem.outputs, "xuck"), want = ordered(problem.inputs, "xycpk");
    std::vector<Numbers> whole = problem.backward();
    for (char letter : want) {
      std::vector<Numbers> one = problem.backward(given, std::string(1, letter));
      size_t next = 0;
      for (size_t i = 0; i < problem.inputs.size(); ++i)
        if (problem.inputs[i] == letter)
          expectNear(one.at(next++), whole[i], tolerance, std::string("wanted ") + letter);
      EXPECT_EQ(next, one.size());
    }
    // A cotangent that is not given is zero.
    for (char letter : given) {
      Problem zeros = problem;
      for (size_t i = 0; i < problem.outputs.size(); ++i)
        if (problem.outputs[i] != letter)
          std::fill(zeros.cotangents[i].begin(), zeros.cotangents[i].end(), 0.0);
      std::vector<Numbers> expected = zeros.backward(), actual = problem.backward(std::string(1, letter), want);
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < actual.size(); ++i)
        expectNear(actual[i], expected[i], tolerance, std::string("given ") + letter);
    }
  }
}

namespace {

TEST(Gradient, MasksLeaveOutWhatTheySay) {
  for (const std::string &spec : everyRecipe(3, 1, 10, "dtype=fp32", false))
    checkMasks(spec, 1e-5);
}

TEST(Gradient, WhatWasHandedOnIsAdded) {
  for (const std::string &spec : everyRecipe(3, 1, 10, "dtype=fp64,weight=fp64", false))
    for (int64_t tokens : {1, 5}) {
      SCOPED_TRACE(spec);
      Problem problem(partsOf(spec)[0], tokens);
      std::string given = ordered(problem.outputs, "xuck"), want = ordered(problem.inputs, "xycpk");
      std::mt19937 random(7);
      const Numbers handedOn = randomNumbers(int64_t(problem.values[0].size()), random);
      std::vector<Numbers> expected = problem.backward(given, want),
                           actual = problem.backward(given, want, 1, handedOn);
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t j = 0; j < handedOn.size(); ++j)
        expected[0][j] += handedOn[j];
      for (size_t i = 0; i < actual.size(); ++i)
        expectNear(actual[i], expected[i], i ? 0 : 1e-14, "gradient " + std::to_string(i));
    }
}

TEST(Gradient, OfNoTokensIsZero) {
  for (const char *spec : {"static:n=2,d=9", "manifold:n=2,d=9", "dynamic:n=2,d=9"})
    for (const Part &part : partsOf(spec)) {
      Problem problem(part, 0);
      for (Numbers &cotangents : problem.cotangents) // of what depends on no token
        std::fill(cotangents.begin(), cotangents.end(), 0.0);
      for (const Numbers &gradient : problem.backward())
        for (double number : gradient)
          EXPECT_EQ(number, 0) << spec;
    }
}

TEST(Gradient, ManyTokens) {
  for (const char *spec : {"static:n=4,d=24,", "dynamic:n=4,d=24,", "manifold:n=4,d=24,"})
    checkDType(spec, "dtype=fp32", 1e-4, 1111);
}

TEST(Gradient, EveryTarget) {
  for (const char *target : {"x86-64-v3", "x86-64-v4"}) {
    if (!Target::parse(target).runsHere())
      continue;
    for (const std::string &spec : everyRecipe(4, 1, 37, "dtype=fp32", false)) {
      SCOPED_TRACE(spec + " " + target);
      for (const Part &part : partsOf(spec)) {
        Problem here(part, 21), there(part, 21, target);
        std::vector<Numbers> expected = here.backward(), actual = there.backward();
        for (size_t i = 0; i < actual.size(); ++i)
          expectNear(actual[i], expected[i], 1e-4, "gradient " + std::to_string(i));
      }
    }
  }
}

} // namespace
