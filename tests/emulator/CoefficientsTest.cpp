// Coefficient maths by one lane a token gives what it gives by one warp a token: in fp64, where only the order of sums
// is between them.
// SPDX-License-Identifier: Apache-2.0
#include "Program.h"

#include <gtest/gtest.h>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

[[maybe_unused]] const bool emulated = (useEmulator(), true);

const std::string preamble = R"(
#include "hyperjit/lane_sinkhorn.cuh"
using namespace hyperjit;
using L = Launch<1>;
using Warp = Token<double, L>;
using Lane = Token<double, L, 1>;

template <int N, class W> Coefficients<double, N, W::lanes> numbers(W &w, int seed) {
  Coefficients<double, N, W::lanes> x;
  for (int j = 0; j < x.registers; ++j)
    x.v[j] = ((w.lane + W::lanes * j) * (37 + seed) + 11 * seed) % 23 / 7.0 - 1.5;
  return x;
}
/// Raises *out to the largest difference of this lane's elements.
template <int N> void compare(float *out, Warp &warp, const Coefficients<double, N> &a, const Coefficients<double, N, 1> &b) {
  for (int e = warp.lane; e < N; e += 32) {
    const double x = a.v[e / 32], y = b.v[e], difference = (x > y ? x - y : y - x) / (1 + (x > 0 ? x : -x));
    if (*out == *out && !(difference <= *out))
      *out = static_cast<float>(difference);
  }
}
template <int N, SinkhornStart Start, bool RowFirst, SinkhornPlace Place, bool Log>
void sinkhorns(float *out, Warp &warp, Lane &lane, double eps) {
  using O = SinkhornOptions<N, 5, Start, RowFirst, Place, Log>;
  const double tau = 0.75;
  compare(out, warp, sinkhorn<O>(warp, numbers<N * N>(warp, 1), eps, tau), sinkhorn<O>(lane, numbers<N * N>(lane, 1), eps, tau));
  compare(out, warp, sinkhornAdjoint<O>(warp, numbers<N * N>(warp, 1), numbers<N * N>(warp, 2), eps, tau),
          sinkhornAdjoint<O>(lane, numbers<N * N>(lane, 1), numbers<N * N>(lane, 2), eps, tau));
}
template <class W> auto moved(W &w) {
  auto x = numbers<24>(w, 1), y = numbers<12>(w, 2);
  auto joined = concatenate<2>(w, gather<8, Dims<2, 8>, Dims<8, 1>>(w, x), y);                      // [2, 14]
  auto turned = gather<0, Dims<14, 2>, Dims<1, 14>>(w, joined);                                     // [14, 2]
  auto sums = reduceSum<Dims<2>, Dims<1>, Dims<14>, Dims<2>>(w, turned);                            // [2]
  return concatenate<1>(w, sums, matmul<3, 8, 2>(w, x, gather<0, Dims<8, 2>, Dims<1, 1>>(w, x)), turned);
}
template <class W> auto distributions(W &w) {
  auto p = softmax<6>(w, numbers<24>(w, 1));
  return softmaxAdjoint<6>(w, p, numbers<24>(w, 2));
}
template <class W> auto permutations(W &w) {
  auto mixed = permutationMix<4>(w, numbers<24>(w, 1));
  return permutationDot<4, 24>(w, multiply(mixed, numbers<16>(w, 2)));
}
)";

constexpr int warpNumbers = 512; // scratch of the warp, before that of the lanes

/// Runs the body, which compares.
void expectEqual(const std::string &body) {
  const std::string start = "double *scratch = reinterpret_cast<double *>(memory);\n"
                            "Warp warp{launch, 0, nullptr, scratch, self};\n"
                            "Lane lane{launch, 0, scratch + " +
                            std::to_string(warpNumbers) +
                            " + self};\n"
                            "out[self] = 0;\n";
  Program program(start + body, 32, 1, 8 * (warpNumbers + 32 * 5 * 10), 32, preamble);
  const float *out = program.run();
  for (int lane = 0; lane < 32; ++lane)
    EXPECT_LT(out[lane], 1e-11f) << "lane " << lane << " after\n" << body;
}

TEST(OneLane, MovesAndSumsAsAWarpDoes) {
  for (const char *maths : {"moved", "distributions", "permutations"})
    expectEqual(std::string("compare(out + self, warp, ") + maths + "(warp), " + maths + "(lane));\n");
}

class Sizes : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(OneLane, Sizes, testing::Range(1, 6), testing::PrintToStringParamName());

TEST_P(Sizes, NormaliseAsAWarpDoes) {
  std::string body;
  for (const char *first : {"true", "false"}) {
    for (const char *start : {"Exp", "ExpRaw", "SoftmaxEps"})
      for (const char *place : {"None, false", "Clamp, false", "Add, false", "None, true"})
        if (std::string(start) != "SoftmaxEps" || std::string(place) != "None, true")
          body += "sinkhorns<" + std::to_string(GetParam()) + ", SinkhornStart::" + start + ", " + first +
                  ", SinkhornPlace::" + place + ">(out + self, warp, lane, 0.01);\n";
    // Some lines are clamped.
    body += "sinkhorns<" + std::to_string(GetParam()) + ", SinkhornStart::Exp, " + first +
            ", SinkhornPlace::Clamp, false>(out + self, warp, lane, 0.9);\n";
  }
  expectEqual(body);
}

} // namespace
