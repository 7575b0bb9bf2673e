// Generated CUDA kernels run on the emulated GPU, against the CPU back end's kernels of the same spec on the same
// numbers: another code generator, another order of sums.
// SPDX-License-Identifier: Apache-2.0
#include "Sides.h"

#include "hyperjit/DSL.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/SpecList.h"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sstream>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

[[maybe_unused]] const bool emulated = (useEmulator(), true);

struct Case {
  std::string site;
  Role role = Role::Boundary;
  int64_t tokens = 37;
  std::string schedule = "auto", target = "sm_90a";
};
void PrintTo(const Case &given, std::ostream *out) {
  *out << fmt::format("{} {}, {} tokens, {}, {}", name(given.role), given.site, given.tokens, given.schedule,
                      given.target);
}

/// HYPERJIT_EMULATED_SCHEDULES: how many of the legal schedules of a kernel are run, drawn at random; 0: all.
size_t schedulesOfEach() {
  const char *text = std::getenv("HYPERJIT_EMULATED_SCHEDULES");
  return text ? std::strtoull(text, nullptr, 10) : 5;
}

KernelSpec kernelOf(const std::string &site, Role role, Direction direction) {
  ProgramSource &programs = ProgramSource::global();
  SiteSpec spec = programs.normalise(SiteSpec::parse(site));
  return trainingKernel(programs, spec, spec, role, direction, Bucket::Large);
}

void expectEqualSides(const Case &given, Direction direction) {
  SCOPED_TRACE(
      fmt::format("{} of {}; HYPERJIT_EMULATOR_SEED={}", name(direction), testing::PrintToString(given), seedOfRun()));
  Sides sides(kernelOf(given.site, given.role, direction), given.tokens, Schedule::parse(given.schedule),
              Target::parse(given.target));
  EXPECT_EQ(sides.compare(), "") << sides.meta().schedule;
  EXPECT_EQ(sides.repeat(), "") << sides.meta().schedule;
}

/// A token's bits do not depend on how many there are, so neither on which kernel is made for so many.
void expectEqualBuckets(const Case &given, Direction direction) {
  SCOPED_TRACE(
      fmt::format("{} of {}; HYPERJIT_EMULATOR_SEED={}", name(direction), testing::PrintToString(given), seedOfRun()));
  const Target target = Target::parse(given.target);
  Sides sides(kernelOf(given.site, given.role, direction), given.tokens, Schedule::parse(given.schedule), target);
  KernelSpec few = kernelOf(given.site, given.role, direction);
  few.bucket = Bucket::Small;
  EXPECT_EQ(sides.compare(), "") << sides.meta().schedule;
  EXPECT_EQ(sides.sameBits(*KernelManager::global().get(few, target, Schedule::parse(given.schedule))), "")
      << sides.meta().schedule;
}

/// HYPERJIT_EMULATED_CASE: this one instead, "site role tokens schedule target", ends left out.
std::vector<Case> orOwn(std::vector<Case> cases) {
  if (const char *text = std::getenv("HYPERJIT_EMULATED_CASE")) {
    Case own;
    std::string role;
    std::istringstream words(text);
    words >> own.site >> role >> own.tokens >> own.schedule >> own.target;
    own.role = role == "before" ? Role::Before : role == "after" ? Role::After : Role::Boundary;
    cases = {own};
  }
  return cases;
}

class Emulated : public testing::TestWithParam<Case> {};
TEST_P(Emulated, GivesWhatTheCpuGives) {
  for (Direction direction : {Direction::Forward, Direction::Backward})
    expectEqualSides(GetParam(), direction);
}

/// Wide enough for clusters, where a recipe can use them.
std::vector<Case> everyRecipe() {
  std::vector<Case> cases;
  for (const std::string &recipe : ProgramSource::global().recipes()) {
    const std::string streams = recipe == "frac" ? "n=1,m=2" : "n=4";
    cases.push_back({fmt::format("{}:{},d=1280,dtype=bf16", recipe, streams)});
    cases.push_back({fmt::format("{}:{},d=130,dtype=fp16", recipe, streams), Role::Before, 13});
  }
  return orOwn(cases);
}
INSTANTIATE_TEST_SUITE_P(Recipes, Emulated, testing::ValuesIn(everyRecipe()));

class Buckets : public testing::TestWithParam<Case> {};
TEST_P(Buckets, GiveTheSameBits) {
  for (Direction direction : {Direction::Forward, Direction::Backward})
    expectEqualBuckets(GetParam(), direction);
}
INSTANTIATE_TEST_SUITE_P(Recipes, Buckets, testing::ValuesIn(everyRecipe()));
INSTANTIATE_TEST_SUITE_P(
    ManyStreams, Buckets,
    testing::ValuesIn(orOwn({{"manifold:n=8,d=576,dtype=bf16", Role::Boundary, 77},
                             // Ranges, and where they fit warps with tokens of their own.
                             {"manifold:n=5,d=768,dtype=bf16", Role::Boundary, 170},
                             {"manifold:n=6,d=576,dtype=bf16", Role::Boundary, 77, "auto", "sm_120"},
                             // Sixteen tokens a tile for many only.
                             {"manifold:n=3,d=2048,dtype=bf16", Role::Boundary, 77, "auto", "sm_90a/h200"}})));

INSTANTIATE_TEST_SUITE_P(
    Shapes, Emulated,
    testing::ValuesIn(orOwn({
        {"manifold:n=4,d=1280,dtype=bf16", Role::Boundary, 1},
        {"manifold:n=4,d=1280,dtype=bf16", Role::Boundary, 8},
        {"manifold:n=4,d=1280,dtype=bf16", Role::Boundary, 264},
        {"manifold:n=4,d=1280,dtype=bf16", Role::Before, 37},
        {"manifold:n=4,d=1280,dtype=bf16", Role::After, 37},
        {"manifold:n=4,d=1280,dtype=bf16", Role::Boundary, 37, "auto", "sm_80"},
        {"manifold:n=4,d=4096,dtype=bf16", Role::Boundary, 21},
        {"manifold:n=2,d=2560,dtype=fp16", Role::Boundary, 37},
        {"manifold:n=4,d=1280,dtype=fp32", Role::Boundary, 37},
        {"dynamic:n=3,d=1024,dtype=fp32", Role::Boundary, 133},
        {"manifold:n=2,d=140,dtype=fp32", Role::Before, 21},
        {"manifold:n=4,d=512,dtype=fp32", Role::Boundary, 77, "columns:cluster=4,parts=2"},
        {"manifold:n=3,d=129,dtype=fp64", Role::Boundary, 13},
        {"dynamic:n=8,d=160,dtype=fp32", Role::Boundary, 13},
        {"manifold:n=8,d=320,dtype=bf16", Role::Boundary, 21},    // an expansion of 80 columns
        {"manifold:n=7,d=160,dtype=bf16", Role::Boundary, 37},    // a gradient in two halves, of 32 and of 31 columns
        {"permutation:n=5,d=132,dtype=bf16", Role::Boundary, 13}, // of 130
        {"frac:n=1,m=8,d=1024,dtype=bf16", Role::Boundary, 13},
        {"joint:n=2,m=2,d=1280,dtype=bf16", Role::Boundary, 37},
        // Slots of rows, and records of clusters wider than a tile, are used again and again.
        {"manifold:n=2,d=128,dtype=bf16", Role::Boundary, 200, "rows:chunks=1"},
        {"manifold:n=4,d=512,dtype=bf16", Role::Boundary, 256, "columns:cluster=16"},
        // Weight gradients that sweeps sum: of several columns and streams, with rows that no other sweep makes, of
        // four fracs.
        {"manifold:n=3,d=1024,dtype=bf16", Role::Boundary, 133},
        {"dynamic:n=4,d=1024,dtype=bf16", Role::Before, 37},
        {"frac:n=1,m=4,d=4096,dtype=bf16", Role::Boundary, 37},
        // The same in two rounds of warps over a block's channels, of rows of 32 bits, too.
        {"manifold:n=1,d=1024,dtype=bf16", Role::Boundary, 77, "columns:cluster=2,warps=8"},
        {"manifold:n=2,d=512,dtype=fp32", Role::Boundary, 77, "columns:cluster=2,warps=8"},
        // In rounds of which the last has no channels for some warps.
        {"manifold:n=2,d=640,dtype=bf16", Role::Boundary, 77, "columns:cluster=2,warps=8"},
        {"manifold:n=1,d=1280,dtype=bf16", Role::Boundary, 77, "columns:cluster=2,warps=8"},
        // Streams and branch of different types, whose rows take places of other sizes.
        {"deepseek:n=2,d=1024,dtype=bf16,branch=fp32", Role::Boundary, 13},
        {"manifold:n=4,d=1024,dtype=fp32,branch=bf16", Role::Boundary, 37},
        {"dynamic:n=2,d=1024,dtype=fp16,branch=fp32", Role::Boundary, 37},
        // In fp32 throughout.
        {"dynamic:n=4,d=1024,dtype=fp32", Role::Boundary, 21, "rows:planes=0"},
        // Blocks of a cluster that own different numbers of a tile's tokens.
        {"manifold:n=4,d=640,dtype=bf16", Role::Boundary, 133, "columns:cluster=5"},
        {"dynamic:n=2,d=384,dtype=bf16", Role::Boundary, 133, "columns:cluster=3"},
        {"manifold:n=4,d=768,dtype=bf16", Role::Boundary, 77, "columns:cluster=6,parts=2,vector=4"},
        // No sweep waits for sums: owners tell each other that they have read them.
        {"delayed-pre:n=4,d=512,dtype=bf16", Role::Boundary, 264, "columns:cluster=16"},
        {"delayed-pre:n=2,d=1024,dtype=bf16", Role::Boundary, 133, "columns:cluster=4,parts=2"},
        {"delayed-pre:n=3,d=1280,dtype=fp32", Role::Before, 37},
        // Four channels a lane.
        {"manifold:n=4,d=640,dtype=bf16", Role::Boundary, 133, "columns:cluster=4,vector=4"},
        // Rows that several clusters share: some have tails, more tokens than records, clusters wider than a tile, sums
        // of gradients.
        {"manifold:n=4,d=512,dtype=bf16", Role::Boundary, 133, "columns:cluster=2,parts=2,vector=8"},
        {"manifold:n=4,d=384,dtype=bf16", Role::Boundary, 77, "columns:cluster=4,parts=3,vector=4"},
        {"manifold:n=2,d=1024,dtype=bf16", Role::Boundary, 264, "columns:cluster=16,parts=2,vector=4"},
        {"dynamic:n=4,d=1024,dtype=bf16", Role::Boundary, 133, "columns:cluster=4,parts=2"},
        {"joint:n=2,m=2,d=1280,dtype=bf16", Role::Boundary, 37, "columns:cluster=2,parts=2,vector=4"},
        {"deepseek:n=4,d=512,dtype=fp16", Role::Before, 37, "columns:cluster=2,parts=2,vector=4"},
        {"manifold:n=6,d=512,dtype=bf16", Role::Boundary, 37, "columns:cluster=4,parts=2,vector=4"},
        // Tiles between stages of rows that clusters share: one group of clusters goes through all places of records
        // several times.
        {"manifold:n=4,d=512,dtype=bf16", Role::Boundary, 264, "columns:cluster=16,lag=2,parts=2,vector=4"},
        {"manifold:n=4,d=512,dtype=bf16", Role::Boundary, 420, "columns:cluster=16,lag=4,parts=2,ring=2,vector=4"},
    })));

/// Two weights as they lie in memory, the first of so few chunks that most warps have none of it to pack.
void twoWeights(dsl::Site &s) {
  using namespace dsl;
  const int64_t n = s.n();
  Rows x = s.streams();
  auto one = project(gatherRows(x, {0}), s.weight("one", {s.D(), n}, normal(0.02)));
  auto all = project(rmsNorm(flatten(x), 1e-6), s.weight("all", {n * s.D(), n}, normal(0.02)));
  s.branchInput(mix(tanh(reshape(one, {n})) + tanh(all), x));
  s.next(x + write(s.coefficients("post", {n}, constant(1)), s.branchOutput()));
}
void defineTwoWeights() {
  [[maybe_unused]] static const bool once = (hyperjit::define("test-two-weights", twoWeights), true);
}
TEST(Shared, TwoWeightsArePackedOneAfterTheOther) {
  defineTwoWeights();
  for (Direction direction : {Direction::Forward, Direction::Backward})
    for (int run = 0; run < 3; ++run)
      expectEqualSides({"test-two-weights:n=4,d=1024,dtype=bf16", Role::Boundary, 21, "columns:cluster=4"}, direction);
}
TEST(Shared, TwoWeightsPassSideBySide) {
  defineTwoWeights();
  for (Direction direction : {Direction::Forward, Direction::Backward})
    expectEqualSides({"test-two-weights:n=4,d=320,dtype=bf16", Role::Boundary, 77, "rows:apart=1,ranges=8"}, direction);
}

/// With as few records as the stages take, and one group of clusters, which goes through all of them several times.
TEST(Shared, FewRecordsAreUsedAgainAndAgain) {
  ASSERT_EQ(setenv("HYPERJIT_EMULATOR_BLOCKS", "4", 1), 0);
  for (Direction direction : {Direction::Forward, Direction::Backward})
    expectEqualSides({"dynamic:n=4,d=1024,dtype=bf16", Role::Boundary, 250, "columns:cluster=2,lag=5,parts=2,vector=4"},
                     direction);
  unsetenv("HYPERJIT_EMULATOR_BLOCKS");
}

TEST(Shared, MoreClustersThanFitAreRefused) {
  const SiteSpec site = ProgramSource::global().normalise(SiteSpec::parse("manifold:n=1,d=1536,dtype=bf16"));
  const KernelSpec kernel = kernelOf(site.text(), Role::Boundary, Direction::Forward);
  try {
    Sides(kernel, 8, Schedule::parse("columns:cluster=16,parts=3,vector=8"), Target::parse("sm_90a"));
    ADD_FAILURE() << "three clusters of sixteen ran at once where two fit";
  } catch (const UserError &error) {
    EXPECT_NE(std::string(error.what()).find("has room for 2 clusters of 16 blocks"), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("and 3 are needed"), std::string::npos) << error.what();
  }
}

/// Warps with tokens of their own, whose weights pass through shared memory, give the bits of warps that share a
/// token's channels, where each has a range of them.
class Apart : public testing::TestWithParam<Case> {};
TEST_P(Apart, GivesTheBitsOfRanges) {
  const Case &given = GetParam();
  if (given.schedule == "auto") // a case of one's own
    GTEST_SKIP() << "names no schedule rows:ranges=...";
  const Target target = Target::parse(given.target);
  for (Direction direction : {Direction::Forward, Direction::Backward}) {
    SCOPED_TRACE(fmt::format("{} of {}; HYPERJIT_EMULATOR_SEED={}", name(direction), testing::PrintToString(given),
                             seedOfRun()));
    const KernelSpec kernel = kernelOf(given.site, given.role, direction);
    auto with = [&](const std::string &numbers) { return Schedule::parse(given.schedule + numbers); };
    Sides sides(kernel, given.tokens, with(",apart=1"), target);
    EXPECT_EQ(sides.compare(), "") << sides.meta().schedule;
    EXPECT_EQ(sides.repeat(), "") << sides.meta().schedule;
    EXPECT_EQ(sides.sameBits(*KernelManager::global().get(kernel, target, with(""))), "");
  }
}
INSTANTIATE_TEST_SUITE_P(
    Shapes, Apart,
    testing::ValuesIn(orOwn({
        // More tokens than three blocks have: slots, weights that stay and records serve several tiles.
        {"manifold:n=8,d=256,dtype=bf16", Role::Boundary, 205, "rows:ranges=8"},
        {"manifold:n=5,d=576,dtype=bf16", Role::Boundary, 133, "rows:ranges=8,vector=8"},
        // Ranges of two chunks, of one, of none.
        {"dynamic:n=6,d=132,dtype=fp16", Role::Before, 37, "rows:ranges=8"},
        {"manifold-streams:n=7,d=160,dtype=bf16", Role::Boundary, 65, "rows:ranges=4"},
        {"permutation:n=5,d=132,dtype=bf16", Role::Boundary, 13, "rows:ranges=8"},
        {"delayed-pre:n=6,d=320,dtype=bf16", Role::Boundary, 37, "rows:ranges=8"},
        // Rows of 32 bits, two planes of them.
        {"manifold:n=5,d=160,dtype=fp32", Role::Boundary, 37, "rows:ranges=8"},
        {"frac:n=1,m=8,d=1024,dtype=bf16", Role::Boundary, 69, "rows:ranges=4"},
        {"joint:n=2,m=4,d=640,dtype=bf16", Role::Boundary, 205, "rows:ranges=8"},
        // Several tokens a lane.
        {"manifold:n=4,d=640,dtype=bf16", Role::Boundary, 150, "rows:ranges=4,tokens=16"},
    })));

/// Where tokens fill waves (of 48, three blocks of 16) one main kernel is launched, else the other: results are there in
/// both cases.
TEST(Launches, AreChosenByTokens) {
  const Target target = Target::parse("sm_90a");
  const KernelSpec kernel = kernelOf("manifold:n=5,d=64,dtype=bf16", Role::Boundary, Direction::Forward);
  Sides sides(kernel, 37, Schedule::parse("rows:ranges=2"), target);
  EXPECT_EQ(sides.compare(), "");
  for (const char *schedule : {"rows:apart=77,ranges=2", "rows:apart=78,ranges=2"})
    EXPECT_EQ(sides.sameBits(*KernelManager::global().get(kernel, target, Schedule::parse(schedule))), "");
}

class Schedules : public testing::TestWithParam<std::tuple<std::string, Direction>> {};
TEST_P(Schedules, AllThatAreLegalGiveWhatTheCpuGives) {
  auto [site, direction] = GetParam();
  Case given{site, Role::Boundary, 45};
  std::vector<ScheduleCandidate> legal =
      KernelManager::global().schedules(kernelOf(site, given.role, direction), Target::parse(given.target), 100000);
  std::mt19937_64 random(seedOfRun());
  std::shuffle(legal.begin(), legal.end(), random);
  const size_t wanted = schedulesOfEach();
  for (size_t i = 0; i < legal.size() && (wanted == 0 || i < wanted); ++i) {
    if (legal[i].schedule.parameter("apart")) // for so few tokens, too
      legal[i].schedule.set("apart", 1);
    given.schedule = legal[i].schedule.text();
    expectEqualSides(given, direction);
  }
  RecordProperty("legal", int(legal.size()));
}
INSTANTIATE_TEST_SUITE_P(
    Legal, Schedules,
    testing::Combine(testing::Values("manifold:n=4,d=1280,dtype=bf16", "dynamic:n=2,d=1536,dtype=fp16",
                                     "frac:n=1,m=4,d=2048,dtype=bf16", "static:n=4,d=320,dtype=fp32"),
                     testing::Values(Direction::Forward, Direction::Backward)));

} // namespace
