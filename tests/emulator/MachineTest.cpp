// The emulator itself: it does what the instructions do, and wrong programs fail on it.
// SPDX-License-Identifier: Apache-2.0
#include "Program.h"

#include "hyperjit/core/Error.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

[[maybe_unused]] const bool emulated = (useEmulator(), true);

TEST(Machine, TileProductsAreMatrixProducts) {
  // a[i, k] = i - 2 k, b[k, j] = k + 3 j: small integers, exact in bf16 and fp16.
  Program program(R"(
    const int g = self / 4, q = self % 4;
    auto a = [](int i, int k) { return float(i - 2 * k); };
    auto b = [](int k, int j) { return float(k + 3 * j); };
    float d[4] = {1, 1, 1, 1}, e[4] = {};
    mma16816(d, floatsToBfloats(a(g, 2 * q), a(g, 2 * q + 1)), floatsToBfloats(a(g + 8, 2 * q), a(g + 8, 2 * q + 1)),
             floatsToBfloats(a(g, 2 * q + 8), a(g, 2 * q + 9)), floatsToBfloats(a(g + 8, 2 * q + 8), a(g + 8, 2 * q + 9)),
             floatsToBfloats(b(2 * q, g), b(2 * q + 1, g)), floatsToBfloats(b(2 * q + 8, g), b(2 * q + 9, g)));
    mma1688(e, floatsToBfloats(a(g, 2 * q), a(g, 2 * q + 1)), floatsToBfloats(a(g + 8, 2 * q), a(g + 8, 2 * q + 1)),
            floatsToBfloats(b(2 * q, g), b(2 * q + 1, g)));
    float f[4] = {1, 1, 1, 1};
    mma16816Half(f, floatsToHalves(a(g, 2 * q), a(g, 2 * q + 1)), floatsToHalves(a(g + 8, 2 * q), a(g + 8, 2 * q + 1)),
                 floatsToHalves(a(g, 2 * q + 8), a(g, 2 * q + 9)), floatsToHalves(a(g + 8, 2 * q + 8), a(g + 8, 2 * q + 9)),
                 floatsToHalves(b(2 * q, g), b(2 * q + 1, g)), floatsToHalves(b(2 * q + 8, g), b(2 * q + 9, g)));
    for (int i = 0; i < 4; ++i) {
      out[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
      out[320 + (g + i / 2 * 8) * 8 + 2 * q + i % 2] = f[i];
      out[128 + (g + i / 2 * 8) * 8 + 2 * q + i % 2] = e[i];
    }
    const unsigned turned = transposeBlock(2 * g * 8 + 4 * q | (2 * g * 8 + 4 * q + 2) << 16); // 2 (8 row + column)
    out[256 + g * 8 + 2 * q] = turned & 0xffff;
    out[256 + g * 8 + 2 * q + 1] = turned >> 16;
  )",
                  32);
  float *out = program.run();
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float d = 1, e = 0;
      for (int k = 0; k < 16; ++k) {
        d += float(i - 2 * k) * float(k + 3 * j);
        e += k < 8 ? float(i - 2 * k) * float(k + 3 * j) : 0;
      }
      EXPECT_EQ(out[8 * i + j], d) << i << ' ' << j;
      EXPECT_EQ(out[320 + 8 * i + j], d) << i << ' ' << j;
      EXPECT_EQ(out[128 + 8 * i + j], e) << i << ' ' << j;
    }
  for (int row = 0; row < 8; ++row)
    for (int column = 0; column < 8; ++column)
      EXPECT_EQ(out[256 + 8 * row + column], 2 * (8 * column + row)) << row << ' ' << column;
}

TEST(Machine, NarrowingRoundsToNearestEven) {
  Program program(R"(
    if (self == 0) {
      const float x[] = {1 + 0x1p-8f, 1 + 0x3p-8f, 1 + 0x1p-8f + 0x1p-20f, -0x1p127f * 2, 0x1p-140f};
      for (int i = 0; i < 5; ++i) {
        out[i] = __uint_as_float(unsigned(floatToBfloat(x[i])) << 16);
        out[8 + i] = halfToFloat(floatToHalf(i == 3 ? 65519.0f : x[i]));
      }
      out[5] = __uint_as_float(unsigned(floatToBfloat(x[3] - x[3])) << 16);
    }
  )",
                  32);
  float *out = program.run();
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[1], 1 + 0x2p-7f);
  EXPECT_EQ(out[2], 1 + 0x1p-7f);
  EXPECT_EQ(out[3], -INFINITY);
  EXPECT_EQ(out[4], 0); // below half of bf16's least number
  EXPECT_TRUE(std::isnan(out[5]));
  EXPECT_EQ(out[8], 1 + 0x1p-8f);
  EXPECT_EQ(out[11], 65504);
}

const char *handOver = R"(
    float *number = reinterpret_cast<float *>(memory + 64);
    const unsigned barrier = sharedAddress(memory);
    if (self == 0)
      initBarrier(barrier, 1);
    __syncthreads();
    if (self == 0) {
      *number = 3;
      ARRIVE
    }
    if (self == 32) {
      WAIT
      out[0] = *number;
    }
)";
std::string handOverWith(std::string arrive, std::string wait) {
  std::string text = handOver;
  text.replace(text.find("ARRIVE"), 6, arrive);
  text.replace(text.find("WAIT"), 4, wait);
  return text;
}

TEST(Machine, WhatWaitsAtABarrierSeesWhatCameBefore) {
  EXPECT_FALSE(Program(handOverWith("arrive(barrier);", "waitFor(barrier, 0);"), 64).everDiffers(3));
}
TEST(Machine, WhoDoesNotWaitReadsNaNsNowAndThen) {
  EXPECT_TRUE(Program(handOverWith("arrive(barrier);", ""), 64).everDiffers(3));
}
TEST(Machine, AWaitThatNothingEndsIsNamed) {
  testing::internal::CaptureStderr();
  EXPECT_THROW(Program(handOverWith("", "waitFor(barrier, 0);"), 64).run(), UserError);
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("all wait for one another"), std::string::npos) << said;
  EXPECT_NE(said.find("warp 1: lanes 00000001 at barrier 0 (parity 0; 1 of 1 arrivals"), std::string::npos) << said;
}
TEST(Machine, AnArrivalTooManyIsAnError) {
  EXPECT_THROW(Program("const unsigned barrier = sharedAddress(memory); if (self == 0) { initBarrier(barrier, 2); "
                       "arriveAndExpect(barrier, 16);"
                       " arrive(barrier); arrive(barrier); }",
                       32)
                   .run(),
               UserError);
}
TEST(Machine, CopiesComeWhenTheyAreWaitedFor) {
  const std::string begin = R"(
    for (int i = self; i < 64; i += 32)
      out[64 + i] = float(i);
    const unsigned barrier = sharedAddress(memory), target = sharedAddress(memory + 256);
    if (self == 0)
      initBarrier(barrier, 32);
    __syncthreads();
    copyAsync<16>(target + 16 * (self % 16), out + 64 + 4 * (self % 16));
    arriveWithCopies(barrier);
)",
                    end = "out[self] = reinterpret_cast<float *>(memory + 256)[self] + 1;";
  EXPECT_FALSE(Program(begin + "waitFor(barrier, 0);" + end, 32).everDiffers(1));
  EXPECT_THROW(Program(begin + end, 32).everDiffers(1), UserError); // they land in memory that is nobody's any more
  EXPECT_FALSE(
      Program(
          begin +
              "waitFor(barrier, 0); copyOrClear<16>(target + 16 * (self % 16), out, false); arriveWithCopies(barrier);"
              "waitFor(barrier, 1); out[self] = reinterpret_cast<float *>(memory + 256)[self] + self + 1;",
          32)
          .everDiffers(1));
}
TEST(Machine, BlocksOfAClusterWriteToEachOther) {
  const std::string text = R"(
    const unsigned barrier = sharedAddress(memory), place = sharedAddress(memory + 64);
    if (self == 0) {
      initBarrier(barrier, 1);
      arriveAndExpect(barrier, 16);
      publishBarriers();
    }
    clusterBarrier();
    const int other = 1 - clusterRank();
    const float v[4] = {float(clusterRank() + 10), 0, 0, 0};
    if (self == 0)
      storeRemote(remoteAddress(place, other), v, remoteAddress(barrier, other));
)";
  EXPECT_FALSE(Program(text + R"(
    waitFor<true>(barrier, 0);
    out[clusterRank()] = *reinterpret_cast<float *>(memory + 64);
    clusterBarrier();
  )",
                       32, 2)
                   .everDiffers(11));
  // Nobody waits for what the other block still writes.
  EXPECT_THROW(Program(text, 32, 2).everDiffers(0), UserError);
}
TEST(Machine, ClustersOfAGridThatRunsAtOnceTellEachOther) {
  // Words 256 on; device memory begins as NaN.
  const std::string include = "#include \"hyperjit/barriers.cuh\"\nusing namespace hyperjit;\n";
  auto run = [&](const std::string &first, const std::string &second, bool clear = true) {
    Program made("unsigned long long *words = reinterpret_cast<unsigned long long *>(out) + 256; float value = -1;\n"
                 "if (blockIdx.x < 2) {" +
                     first + "} else {" + second + "}",
                 32, 2, 1024, 1024, include, 2);
    for (int i = 512; i < 1024; ++i)
      made.data[i] = clear ? 0 : made.data[i];
    return made.run()[7];
  };
  const std::string tells = "if (clusterRank() == 1) tell(words + self, 3);";
  const std::string hears = "while (!hear(words + self, value)); out[32 * clusterRank() + self] = value;";
  for (int i = 0; i < 50; ++i)
    EXPECT_EQ(run(tells, hears), 3);
  EXPECT_THROW(run(tells, hears, /*clear=*/false), UserError);
  EXPECT_THROW(run("", hears, /*clear=*/false), UserError);
  EXPECT_THROW(run(tells + tells, hears), UserError);
  testing::internal::CaptureStderr();
  EXPECT_THROW(run("", hears), UserError);
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("for a word of another cluster"), std::string::npos) << said;
}
TEST(Machine, ClustersThatNeedNotRunAtOnceDoNotWait) {
  testing::internal::CaptureStderr();
  Program kernel(
      "float value; while (!hear(reinterpret_cast<unsigned long long *>(out) + 256, value)); out[self] = value;", 32,
      2);
  EXPECT_THROW(kernel.run(), UserError);
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("need not run at once"), std::string::npos) << said;
}
TEST(Machine, SharedMemoryEndsWhereTheLaunchSays) {
  EXPECT_THROW(Program("copyAsync<16>(sharedAddress(memory) + 1024, out);", 32).run(), UserError);
  EXPECT_DEATH(Program("reinterpret_cast<volatile float *>(memory)[256] = 1;", 32).run(), "");
}

} // namespace
