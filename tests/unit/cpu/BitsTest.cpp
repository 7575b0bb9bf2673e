// What a kernel of the CPU back end promises about bits: a token's numbers depend on that token only, sums over tokens
// on the tokens only, nothing on threads.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

/// Kernels of a site in both directions; backward wants everything.
std::vector<KernelSpec> kernelsOf(const std::string &text, Bucket bucket) {
  SiteSpec spec = Site(text).spec;
  return {KernelSpec::beforeForward(spec, true, bucket), KernelSpec::afterForward(spec, bucket),
          KernelSpec::boundaryForward(spec, spec, true, bucket),
          KernelSpec::backward(spec, spec, "xuc", "xycp", bucket)};
}

const char *const sites[] = {"static:n=4,d=52",   "dynamic:n=3,d=40",     "manifold:n=4,d=52,dtype=bf16",
                             "manifold:n=6,d=17", "permutation:n=3,d=20", "static:n=16,d=33"};

void expectSameBits(const Numbers &a, const Numbers &b, const std::string &what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint64_t>(a[i]), std::bit_cast<uint64_t>(b[i])) << what << "[" << i << "]";
}

/// The tokens of the given numbers, in their order.
std::vector<Numbers> pick(const std::vector<OperandInfo> &operands, const std::vector<Numbers> &all, int64_t tokens,
                          const std::vector<int64_t> &chosen) {
  std::vector<Numbers> result;
  for (size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].scope == OperandScope::Uniform) {
      result.push_back(all[i]);
      continue;
    }
    int64_t size = int64_t(all[i].size()) / tokens;
    Numbers &numbers = result.emplace_back();
    for (int64_t token : chosen)
      numbers.insert(numbers.end(), all[i].begin() + token * size, all[i].begin() + (token + 1) * size);
  }
  return result;
}

TEST(Bits, OfATokenDoNotDependOnItsNeighbours) {
  constexpr int64_t tokens = 70;
  for (const char *site : sites) {
    std::vector<KernelSpec> large = kernelsOf(site, Bucket::Large), small = kernelsOf(site, Bucket::Small);
    for (size_t k = 0; k < large.size(); ++k) {
      SCOPED_TRACE(large[k].text());
      Runner runner(large[k]), few(small[k]);
      std::mt19937 random(5);
      std::vector<Numbers> inputs = randomInputs(runner.inputs(), tokens, random);
      std::vector<Numbers> whole = runner.run(inputs, tokens);
      for (const std::vector<int64_t> &chosen :
           {std::vector<int64_t>{69},
            {3, 68, 17},
            {50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 1}}) {
        auto count = int64_t(chosen.size());
        std::vector<Numbers> part = few.run(pick(runner.inputs(), inputs, tokens, chosen), count);
        std::vector<Numbers> expected = pick(runner.outputs(), whole, tokens, chosen);
        for (size_t i = 0; i < part.size(); ++i)
          if (runner.outputs()[i].scope == OperandScope::Token)
            expectSameBits(part[i], expected[i], "output " + std::to_string(i));
      }
    }
  }
}

TEST(Bits, DoNotDependOnThreads) {
  constexpr int64_t tokens = 533;
  std::vector<std::string> all(std::begin(sites), std::end(sites));
  all.emplace_back("manifold:n=4,d=205"); // weights so large that all threads pack, sum and unpack them
  for (const std::string &site : all)
    for (const KernelSpec &spec : kernelsOf(site, Bucket::Large)) {
      SCOPED_TRACE(spec.text());
      Runner runner(spec);
      std::mt19937 random(6);
      std::vector<Numbers> inputs = randomInputs(runner.inputs(), tokens, random);
      std::vector<Numbers> alone = runner.run(inputs, tokens);
      for (int threads : {2, 3, 7}) {
        std::vector<Numbers> together = runner.run(inputs, tokens, threads);
        for (size_t i = 0; i < alone.size(); ++i)
          expectSameBits(together[i], alone[i], "output " + std::to_string(i));
      }
    }
}

/// Results of large launches go past the cache, where rows are whole vectors and begin at a multiple of one.
TEST(Bits, DoNotDependOnTheWayToMemory) {
  constexpr int64_t tokens = 67;
  for (const char *site : {"static:n=4,d=64", "frac:n=1,m=4,d=128", "manifold:n=4,d=64", "manifold:n=4,d=64,dtype=bf16",
                           "dynamic:n=2,d=32,dtype=fp64", "manifold:n=3,d=40", "static:n=2,d=52"})
    for (const KernelSpec &spec : kernelsOf(site, Bucket::Large))
      for (const char *target : {"native", "x86-64-v3"}) {
        SCOPED_TRACE(spec.text() + " " + target);
        Runner cached(spec, target, "blocks:stream=65536"), past(spec, target, "blocks:stream=0");
        std::mt19937 random(7);
        std::vector<Numbers> inputs = randomInputs(cached.inputs(), tokens, random);
        std::vector<Numbers> expected = cached.run(inputs, tokens);
        for (int64_t shift : {0, 16, 32})
          for (int threads : {1, 3}) {
            std::vector<Numbers> made = past.run(inputs, tokens, threads, shift);
            for (size_t i = 0; i < made.size(); ++i)
              expectSameBits(made[i], expected[i], "output " + std::to_string(i));
          }
      }
}

TEST(Bits, WhatIsNoNumberStaysWithItsToken) {
  constexpr int64_t tokens = 19, bad = 6;
  for (const char *site : sites)
    for (const KernelSpec &spec : kernelsOf(site, Bucket::Small))
      for (double value : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        SCOPED_TRACE(spec.text() + (std::isnan(value) ? " NaN" : " infinity"));
        Runner runner(spec);
        std::mt19937 random(8);
        std::vector<OperandInfo> operands = runner.inputs();
        std::vector<Numbers> inputs = randomInputs(operands, tokens, random);
        std::vector<Numbers> sound = runner.run(inputs, tokens);
        // The last channel of the token's streams: where a row's last vector ends.
        int64_t size = int64_t(inputs[0].size()) / tokens;
        inputs[0][size_t((bad + 1) * size - 1)] = value;
        std::vector<Numbers> made = runner.run(inputs, tokens);
        bool seen = false;
        for (size_t i = 0; i < made.size(); ++i) {
          if (runner.outputs()[i].scope == OperandScope::Uniform) {
            // A sum over tokens; what depends on no token stays as it was.
            seen = seen || std::any_of(made[i].begin(), made[i].end(), [](double x) { return !std::isfinite(x); });
            continue;
          }
          size = int64_t(made[i].size()) / tokens;
          for (int64_t token = 0; token < tokens; ++token)
            for (int64_t j = 0; j < size; ++j) {
              double number = made[i][size_t(token * size + j)];
              double before = sound[i][size_t(token * size + j)];
              if (token == bad)
                seen = seen || !std::isfinite(number);
              else
                ASSERT_TRUE(number == before || (std::isnan(number) && std::isnan(before)))
                    << "output " << i << " token " << token << " was " << before << " and is " << number;
            }
        }
        EXPECT_TRUE(seen);
      }
}

} // namespace
