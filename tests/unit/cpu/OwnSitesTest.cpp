// Recipes as users write them, each with something that no shipped one has and that once went wrong.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"

#include "hyperjit/DSL.h"

#include <gtest/gtest.h>

using namespace hyperjit::dsl;
using hyperjit::test::checkDifferences;
using hyperjit::test::checkDType;
using hyperjit::test::checkForward;

namespace {

/// All that is learned is one projection: no other sum over tokens goes beside its gradient's.
void oneWeight(Site &s) {
  const int64_t n = s.n();
  Rows x = s.streams();
  auto [read, post] = project(rmsNorm(flatten(x), 1e-6), s.weight("gates", {n * s.D(), 2 * n}, normal(0.02)), {n, n});
  s.branchInput(mix(softmax(read), x));
  s.next(x + write(sigmoid(post), s.branchOutput()));
}

/// A list of gates of which some are a token's and some are not, cut in pieces.
void pieces(Site &s) {
  const int64_t n = s.n();
  Rows x = s.streams();
  auto [a, b] = project(rmsNorm(flatten(x), 1e-6), s.weight("w", {n * s.D(), 2 * n}, normal(0.02)), {n, n});
  auto [read, keep, post] = split(concat({tanh(a), sigmoid(b), s.coefficients("post", {n}, constant(1))}), {n, n, n});
  s.branchInput(mix(read, x));
  s.next(mix(s.coefficients("res", {n, n}, values(identityMatrix(int(n)))), scaleRows(keep, x)) +
         write(post, s.branchOutput()));
}

/// The same where the piece that crosses is all that crosses.
void onePiece(Site &s) {
  const int64_t n = s.n();
  Rows x = s.streams();
  auto dynamic = tanh(project(rmsNorm(flatten(x), 1e-6), s.weight("w", {n * s.D(), n}, normal(0.02))));
  auto [read, post] = split(concat({dynamic, s.coefficients("post", {n}, constant(1))}), {n, n});
  s.branchInput(mix(read, x));
  s.next(x + write(post, s.branchOutput()));
}

/// A reduction behind the hole, and constants there.
void behind(Site &s) {
  const int64_t n = s.n();
  Rows x = s.streams(), y = s.branchOutput();
  auto read = tanh(project(rmsNorm(flatten(x), 1e-6), s.weight("w", {n * s.D(), n}, normal(0.02))));
  s.branchInput(mix(read, x));
  s.next(gatherRows(x, {1, 0}) + write(sigmoid(reshape(dot(x, y), {n})) * s.constants({n}, {0.5, 2}), y));
}

/// Two norms of the same rows that save different sums of the same squares.
void twoNorms(Site &s) {
  const int64_t n = s.n();
  Rows x = s.streams();
  auto a = project(rmsNorm(flatten(x), 1e-6), s.weight("a", {n * s.D(), n}, normal(0.02)));
  Rows pairs = rmsNorm(groupRows(x, 2), 1e-6);
  s.branchInput(mix(a, x) + mix(s.coefficients("b", {n}, constant(1)), pairs));
  s.next(x + write(s.coefficients("post", {n}, constant(1)), s.branchOutput()));
}

/// Each step uses the last one twice, forty times over: whoever walks that without a memory never ends.
void deep(Site &s) {
  const int64_t n = s.n();
  const Coefficients half = s.constants({n}, {0.5, 0.5});
  Rows x = s.streams();
  for (int step = 0; step < 40; ++step)
    x = scaleRows(half, x + x);
  Coefficients read = sigmoid(dotRows(x, x));
  for (int step = 0; step < 40; ++step)
    read = (read + read) * 0.5;
  s.branchInput(mix(read, x));
  s.next(s.streams() + write(s.coefficients("post", {n}, constant(1)), s.branchOutput()));
}

/// What crosses is a reduction as it is, which is what is saved of it, too.
void squares(Site &s) {
  Rows x = s.streams();
  s.branchInput(gatherRows(x, {0}));
  s.next(x + write(dotRows(x, x), s.branchOutput()));
}

TEST(OwnSites, ReductionsThatCross) {
  hyperjit::define("test-squares", squares);
  checkForward("test-squares:n=2,d=7,weight=fp64,dtype=fp64", 5, "native", 1, {}, 1e-9);
  checkDifferences("test-squares:n=2,d=7,weight=fp64,dtype=fp64", 5);
}

TEST(OwnSites, GiveWhatTheirProgramsMean) {
  const std::pair<const char *, void (*)(Site &)> sites[] = {{"test-one-weight", oneWeight}, {"test-pieces", pieces},
                                                             {"test-one-piece", onePiece},   {"test-behind", behind},
                                                             {"test-two-norms", twoNorms},   {"test-deep", deep}};
  for (auto [name, recipe] : sites) {
    hyperjit::define(name, recipe);
    const std::string sizes = std::string(name) + (recipe == twoNorms ? ":n=4" : ":n=2");
    for (const char *width : {",d=7", ",d=2048"}) { // weights of 16384 numbers and more have sums of their own
      checkForward(sizes + width + ",weight=fp64,dtype=fp64", 5, "native", 1, {}, 1e-9);
      checkDType(sizes + width + ",", "dtype=fp32", 1e-3, 20);
    }
    checkDifferences(sizes + ",d=7,weight=fp64,dtype=fp64", 5);
  }
}

} // namespace
