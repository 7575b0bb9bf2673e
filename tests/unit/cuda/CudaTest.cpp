// The CUDA exit without a GPU: headers compile alone, every recipe compiles through NVRTC for every target, nothing
// spills.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Pipeline.h"
#include "hyperjit/Target/CudaSource.h"

#include "hyperjit/DSL.h"
#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/ProgramSource.h"
#include "hyperjit/core/Target.h"

#include "CudaHarness.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

using namespace hyperjit;

namespace {

std::string mlirName(DType type) {
  switch (type) {
  case DType::BFloat16:
    return "bf16";
  case DType::Float16:
    return "f16";
  case DType::Float32:
    return "f32";
  default:
    return "f64";
  }
}

SiteRequest site(const std::string &text) {
  SiteSpec spec = SiteSpec::parse(text);
  auto program = ProgramSource::global().site(spec);
  return {program->text,         program->signature.rowWidth, spec.m,
          mlirName(spec.stream), mlirName(spec.branchIn),     mlirName(spec.branchOut),
          mlirName(spec.weight)};
}

struct Built {
  cuda::CudaSource source;
  bool ok = false;
};

Built build(const std::string &spec, bool backward, const std::string &target, const std::string &schedule = "auto",
            const std::string &role = "boundary") {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.getOrLoadDialect<hc::HCDialect>();
  CompileRequest request;
  request.role = role;
  request.backward = backward;
  request.save = !backward;
  request.given = "xuck";
  request.want = "xycpk";
  request.name = "kernel";
  if (role != "before")
    request.after = site(spec);
  if (role != "after")
    request.before = site(spec);
  std::string failedPass;
  Built built;
  auto module = buildKernel(&context, request, {}, failedPass);
  EXPECT_TRUE(module) << failedPass;
  if (module)
    built.ok =
        mlir::succeeded(cuda::buildCudaSource(*module->getOps<hc::FuncOp>().begin(), target, schedule, built.source));
  return built;
}

#define NEEDS_NVRTC()                                                                                                  \
  if (std::string why = nvrtcMissing(); !why.empty())                                                                  \
  GTEST_SKIP() << why

void expectNoSpills(const std::string &spec, bool backward, const std::string &target,
                    const std::string &role = "boundary", const std::string &schedule = "auto", int most = 0) {
  SCOPED_TRACE(role + " of " + spec + (backward ? " backward for " : " forward for ") + target + ", " + schedule);
  Built built = build(spec, backward, target, schedule, role);
  ASSERT_TRUE(built.ok);
  Compiled compiled = compileCuda(built.source.text, target);
  ASSERT_EQ(compiled.error, "");
  EXPECT_EQ(compiled.entries.size(), built.source.launches.size());
  for (const EntryInfo &entry : compiled.entries) {
    EXPECT_LE(entry.spills, most) << entry.name << " uses local memory";
    EXPECT_GT(entry.registers, 0) << entry.name;
  }
}

TEST(Templates, EachHeaderCompilesAlone) {
  NEEDS_NVRTC();
  for (const std::string &name : templateNames())
    EXPECT_EQ(compileCuda("#include \"" + name + "\"\n", "sm_90a").error, "") << name;
}

/// Architectures of the table: products of one generation have one.
std::vector<std::string> architectures() {
  std::set<std::string> names;
  for (const Target &target : Target::table())
    if (target.device == DeviceType::Cuda)
      names.insert(target.isa);
  return {names.begin(), names.end()};
}

std::string shippedShape(const std::string &recipe) {
  return recipe + (recipe == "frac" ? ":n=1,m=4" : ":n=4") + ",d=4096,dtype=bf16";
}

TEST(Kernels, SixArchitectures) { EXPECT_GE(architectures().size(), 6u); }

// One test a target, so that ctest runs them side by side.
class ShippedSchedules : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, ShippedSchedules, testing::ValuesIn(architectures()),
                         [](const auto &info) { return info.param; });

TEST_P(ShippedSchedules, EveryRecipesBoundaryWithoutSpills) {
  NEEDS_NVRTC();
  // Beside 96 sums of a weight gradient a lane of delayed-pre stores and loads four numbers a tile (389 us; with both
  // planes of the weight, which spill nothing, 424: an H200).
  for (const std::string &recipe : ProgramSource::global().recipes())
    for (bool backward : {false, true})
      expectNoSpills(shippedShape(recipe), backward, GetParam(), "boundary", "auto",
                     recipe == "delayed-pre" && backward ? 16 : 0);
}

class ShippedRoles : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Kernels, ShippedRoles, testing::Values("before", "after"),
                         [](const auto &info) { return info.param; });

TEST_P(ShippedRoles, OfEveryRecipeWithoutSpills) {
  NEEDS_NVRTC();
  for (const std::string &recipe : ProgramSource::global().recipes())
    for (bool backward : {false, true})
      expectNoSpills(shippedShape(recipe), backward, "sm_90a", GetParam());
}

// The split of a row among blocks follows its width.
class Widths : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Kernels, Widths, testing::Values(1024, 1280, 2048, 2560, 5120, 6144, 7168, 8192),
                         testing::PrintToStringParamName());

TEST_P(Widths, WithoutSpills) {
  NEEDS_NVRTC();
  for (const char *recipe : {"dynamic", "manifold"})
    for (bool backward : {false, true})
      expectNoSpills(recipe + (":n=4,dtype=bf16,d=" + std::to_string(GetParam())), backward, "sm_90a");
}

// Rows that several clusters share.
TEST(Kernels, SharedRowsWithoutSpills) {
  NEEDS_NVRTC();
  for (bool backward : {false, true}) {
    expectNoSpills("manifold:n=4,d=5120,dtype=bf16", backward, "sm_90a", "boundary", "columns:cluster=4,parts=5");
    expectNoSpills("manifold:n=4,d=6144,dtype=bf16", backward, "sm_90a", "boundary", "columns:cluster=8,parts=3");
    expectNoSpills("dynamic:n=4,d=8192,dtype=bf16", backward, "sm_90a", "boundary", "columns:cluster=16,parts=2");
    expectNoSpills("manifold:n=4,d=1280,dtype=bf16", backward, "sm_90a", "boundary", "columns:cluster=5");
  }
}

// Other numbers of tiles between stages, and of tokens a tile, than an H100's.
TEST(Kernels, AnH200sWithoutSpills) {
  NEEDS_NVRTC();
  for (const char *site :
       {"manifold:n=4,d=2048,dtype=bf16", "manifold:n=3,d=2048,dtype=bf16", "manifold:n=3,d=5120,dtype=bf16",
        "manifold:n=2,d=6144,dtype=bf16", "manifold:n=4,d=4096,dtype=fp16", "delayed-pre:n=4,d=4096,dtype=bf16"})
    expectNoSpills(site, /*backward=*/false, "sm_90a/h200");
}

// Beside an expansion, the smallest clusters.
TEST(Kernels, WidePartsOfFewStreamsWithoutSpills) {
  NEEDS_NVRTC();
  for (const char *site : {"manifold:n=1,d=1280", "manifold:n=1,d=4096", "manifold:n=1,d=6144", "manifold:n=2,d=1280",
                           "manifold:n=2,d=2560", "manifold:n=2,d=4096", "frac:n=1,m=2,d=4096"})
    expectNoSpills(std::string(site) + ",dtype=bf16", /*backward=*/true, "sm_90a");
}

// Wide rows of few streams, and more streams than four.
TEST(Kernels, FewAndManyStreamsWithoutSpills) {
  NEEDS_NVRTC();
  for (const char *site :
       {"manifold:n=1,d=5120", "manifold:n=2,d=7168", "manifold:n=3,d=8192", "manifold:n=5,d=4096",
        "manifold:n=6,d=4096", "dynamic:n=8,d=4096", "manifold-streams:n=8,d=2560", "frac:n=1,m=8,d=4096"})
    for (bool backward : {false, true})
      expectNoSpills(std::string(site) + ",dtype=bf16", backward, "sm_90a");
}

// What "auto" takes for wide rows: one cluster, several that share a row, or blocks where a row has no parts of a fair
// size.
TEST(Schedules, WideRowsGoToClusters) {
  auto schedule = [](int64_t streams, int64_t width, bool backward, const std::string &dtype) {
    Built built = build("manifold:n=" + std::to_string(streams) + ",dtype=" + dtype + ",d=" + std::to_string(width),
                        backward, "sm_90a");
    return built.ok ? built.source.schedule : "none";
  };
  auto expect = [&](int64_t streams, int64_t width, bool backward, const char *skeleton, const char *split,
                    const char *dtype = "bf16") {
    const std::string text = schedule(streams, width, backward, dtype);
    EXPECT_TRUE(text.starts_with(skeleton) && text.find(split) != std::string::npos)
        << streams << " streams of " << width << " " << dtype << (backward ? " backward: " : " forward: ") << text;
  };
  expect(3, 8192, false, "columns", "cluster=16,lag=1,planes");
  expect(2, 7168, true, "columns", "cluster=16,lag=2,planes");
  expect(4, 6144, false, "columns", "cluster=8,lag=3,parts=3");
  expect(4, 5120, true, "columns", "cluster=4,lag=2,parts=5");
  expect(4, 8192, true, "columns", "cluster=16,lag=3,parts=2");
  expect(4, 8192, false, "columns", "cluster=16,lag=4,parts=2");
  expect(3, 6144, true, "columns", "cluster=8,lag=3,parts=3");
  expect(4, 7168, false, "columns", "cluster=16,lag=4,parts=2");
  expect(4, 5632, false, "rows", "");
  expect(4, 32768, true, "rows", ""); // eight clusters of sixteen never run together
  // A number of 32 bits takes the room of two.
  expect(4, 2048, true, "columns", "cluster=16,lag=1,planes", "fp32");
  expect(4, 4096, false, "columns", "cluster=16,lag=4,parts=2", "fp32");
  expect(1, 4096, false, "columns", "cluster=4,lag=1,planes", "fp32");
}

// Fewer streams leave registers for weight gradients, of more or fewer columns.
TEST(Kernels, SweptGradientsWithoutSpills) {
  NEEDS_NVRTC();
  for (const char *site : {"manifold:n=1,d=4096", "manifold:n=2,d=4096", "manifold:n=3,d=4096", "manifold:n=2,d=1280",
                           "joint:n=2,m=2,d=2048", "manifold:n=1,d=8192", "manifold:n=2,d=8192", "manifold:n=1,d=1280",
                           "manifold:n=1,d=5120", "manifold:n=2,d=5120", "manifold:n=2,d=6144", "manifold:n=2,d=7168",
                           "frac:n=1,m=2,d=4096", "frac:n=1,m=4,d=5120", "manifold-streams:n=4,d=2560"})
    for (const char *role : {"before", "boundary"})
      expectNoSpills(std::string(site) + ",dtype=bf16", /*backward=*/true, "sm_90a", role);
}

// Rows of 32 bits: two planes on tensor cores, weight gradients in sweeps of one round and of two.
TEST(Kernels, WideNumbersWithoutSpills) {
  NEEDS_NVRTC();
  for (const char *site :
       {"manifold:n=4,d=2048", "manifold:n=4,d=4096", "manifold:n=2,d=4096", "manifold:n=1,d=1280",
        "dynamic:n=4,d=4096", "permutation:n=4,d=2048", "delayed-pre:n=4,d=4096", "frac:n=1,m=4,d=4096"})
    for (const char *role : {"before", "boundary"})
      for (bool backward : {false, true})
        expectNoSpills(std::string(site) + ",dtype=fp32", backward, "sm_90a", role);
}

// Two planes for projections and weight gradients, exact products for dots.
TEST(Kernels, HalfsWithoutSpills) {
  NEEDS_NVRTC();
  for (const char *site : {"manifold:n=4,d=4096", "permutation:n=4,d=4096", "dynamic:n=4,d=2048"})
    for (const char *role : {"before", "boundary"})
      for (bool backward : {false, true})
        expectNoSpills(std::string(site) + ",dtype=fp16", backward, "sm_90a", role);
}

TEST(Kernels, EveryRecipeWithoutSpills) {
  NEEDS_NVRTC();
  for (const std::string &recipe : ProgramSource::global().recipes())
    for (const char *shape : {":n=4,d=320,dtype=fp32", ":n=2,d=129,dtype=fp16"}) {
      std::string spec = recipe + shape;
      if (recipe == "frac")
        spec = recipe + (std::string(shape).find("320") != std::string::npos ? ":n=1,m=4,d=320,dtype=fp32"
                                                                             : ":n=1,m=3,d=129,dtype=fp16");
      for (bool backward : {false, true})
        expectNoSpills(spec, backward, "sm_90a");
    }
}

TEST(Kernels, ManyStreamsAndDoublePrecision) {
  NEEDS_NVRTC();
  // All sums of eight streams in one sweep: some words in local memory cost less than a second expansion.
  expectNoSpills("manifold:n=8,d=1000,dtype=bf16", false, "sm_90a");
  expectNoSpills("manifold:n=8,d=1000,dtype=bf16", true, "sm_90a", "boundary", "auto", 128);
  // The same where each warp has tokens of its own.
  for (bool backward : {false, true}) {
    expectNoSpills("manifold:n=5,d=4096,dtype=bf16", backward, "sm_90a", "boundary", "rows:apart=1,ranges=8");
    expectNoSpills("manifold:n=8,d=4096,dtype=bf16", backward, "sm_90a", "boundary", "rows:apart=1,ranges=8",
                   backward ? 32 : 0);
  }
  for (const char *spec : {"manifold:n=1,d=7,dtype=fp32", "static:n=16,d=64,dtype=bf16", "dynamic:n=3,d=48,dtype=fp64",
                           // An expansion of 32 columns, where addresses are no shifts.
                           "permutation:n=4,d=1000,dtype=bf16"})
    for (bool backward : {false, true})
      expectNoSpills(spec, backward, "sm_90a");
}

// Each of 32 rows has 72 steps of an expansion: written out, that took NVRTC more than ten minutes.
TEST(Kernels, SixteenStreamsCompileInSeconds) {
  NEEDS_NVRTC();
  Built built = build("manifold:n=16,m=2,d=48,dtype=bf16,iterations=1", true, "sm_90a", "auto", "before");
  ASSERT_TRUE(built.ok);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(compileCuda(built.source.text, "sm_90a").error, "");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

// Each step uses the last one twice: whoever walks that without a memory never ends.
TEST(Source, MathsIsWalkedOnce) {
  define("test-deep", [](dsl::Site &s) {
    const dsl::Rows x = s.streams();
    dsl::Coefficients read = dsl::sigmoid(dsl::dotRows(x, x));
    for (int step = 0; step < 60; ++step)
      read = (read + read) * 0.5;
    s.branchInput(dsl::mix(read, x));
    s.next(x + dsl::write(read, s.branchOutput()));
  });
  for (const char *role : {"before", "boundary"})
    for (bool backward : {false, true})
      EXPECT_TRUE(build("test-deep:n=2,d=64,dtype=bf16", backward, "sm_90a", "auto", role).ok);
}

// A lane's four numbers of the branch's rows would take 32 bytes, so tensor cores stay out of it.
TEST(Source, BranchesMayBeWiderThanTheStreams) {
  for (const char *dtypes : {"dtype=bf16,branch=fp64", "dtype=fp32,branch_in=fp64", "dtype=fp16,branch_out=fp64"})
    for (const char *target : {"sm_80", "sm_90a"})
      for (const char *role : {"before", "boundary", "after"})
        for (bool backward : {false, true})
          EXPECT_TRUE(build(std::string("manifold:n=4,d=64,") + dtypes, backward, target, "auto", role).ok)
              << role << backward << dtypes << target;
}

TEST(Schedules, WhatAProcessorCannotHoldIsRefused) {
  const char *spec = "manifold:n=4,d=4096,dtype=bf16";
  EXPECT_FALSE(build(spec, false, "sm_120", "rows:cluster=16").ok);
  EXPECT_TRUE(build(spec, false, "sm_120", "rows:cluster=8").ok);
  EXPECT_TRUE(build(spec, false, "sm_90a", "rows:cluster=16").ok);
  EXPECT_FALSE(build(spec, false, "sm_120", "rows:blocks=8,warps=16").ok);
  EXPECT_TRUE(build(spec, false, "sm_90a", "rows:blocks=4,warps=16").ok);
  EXPECT_FALSE(build(spec, false, "sm_120", "rows:blocks=4,warps=16").ok);
}

// Double precision may spill, but every launch must be possible: records of 32 rows staged for many tokens were not,
// nor those of the eight tokens that tensor cores take together.
constexpr const char *largestRecord =
    "manifold-streams:n=16,m=2,d=320,dtype=bf16,static_beta=shared,proposals=2,mix_streams=false";

TEST(Kernels, EveryLaunchFitsSharedMemory) {
  for (const char *spec :
       {"manifold-streams:n=8,m=4,d=536,dtype=fp64,static_beta=full", "manifold:n=16,d=320,dtype=fp64",
        "permutation:n=5,d=129,dtype=fp64", "manifold:n=4,d=4096,dtype=bf16", "manifold:n=4,d=7168,dtype=bf16",
        "manifold:n=16,d=1000,dtype=bf16", largestRecord})
    for (const std::string &target : architectures())
      for (const char *role : {"before", "boundary", "after"})
        for (bool backward : {false, true}) {
          Built built = build(spec, backward, target, "auto", role);
          ASSERT_TRUE(built.ok) << role << (backward ? " backward of " : " forward of ") << spec << " for " << target;
          for (const llvm::json::Value &launch : built.source.launches)
            EXPECT_LE(launch.getAsObject()->getInteger("shared_bytes").value_or(0), Target::parse(target).sharedBytes)
                << spec << ": " << launch.getAsObject()->getString("entry")->str() << " for " << target;
        }
}

TEST(Kernels, SharedMemoryIsThatOfTheTable) {
  for (const Target &target : Target::table())
    if (target.device == DeviceType::Cuda) {
      EXPECT_EQ(cuda::sharedOf(target.text()), target.sharedBytes) << target.text();
    }
}

TEST(Kernels, AScheduleThatDoesNotFitSharedMemoryIsRefused) {
  EXPECT_FALSE(build(largestRecord, true, "sm_90a", "rows:planes=2", "before").ok);
  EXPECT_TRUE(build(largestRecord, true, "sm_90a", "rows:planes=0", "before").ok);
}

/// Kernels whose times stand in bench/README.md.
std::vector<std::string> measuredSites() {
  std::vector<std::string> specs;
  for (int n : {1, 2, 3, 4})
    for (int d : {1280, 2048, 2560, 4096, 5120, 6144, 7168, 8192})
      specs.push_back("manifold:n=" + std::to_string(n) + ",d=" + std::to_string(d) + ",dtype=bf16");
  for (const char *spec : {"manifold:n=16,d=4096,dtype=bf16",
                           "manifold-streams:n=8,d=4096,dtype=bf16",
                           "permutation:n=5,d=4096,dtype=bf16",
                           "manifold:n=4,d=4096,dtype=fp16",
                           "manifold:n=4,d=4096,dtype=fp32",
                           "manifold:n=5,d=4096,dtype=bf16",
                           "manifold:n=6,d=4096,dtype=bf16",
                           "manifold:n=7,d=4096,dtype=bf16",
                           "manifold:n=8,d=4096,dtype=bf16",
                           "static:n=4,d=4096,dtype=bf16",
                           "dynamic:n=4,d=4096,dtype=bf16",
                           "joint:n=2,m=2,d=4096,dtype=bf16",
                           "joint:n=2,m=4,d=4096,dtype=bf16",
                           "manifold-streams:n=4,d=4096,dtype=bf16",
                           "permutation:n=4,d=4096,dtype=bf16",
                           "deepseek:n=4,d=4096,dtype=bf16",
                           "delayed-pre:n=4,d=4096,dtype=bf16",
                           "frac:n=1,m=2,d=4096,dtype=bf16",
                           "frac:n=1,m=4,d=4096,dtype=bf16",
                           "frac:n=1,m=8,d=4096,dtype=bf16",
                           "frac:n=1,m=2,d=4096,dtype=bf16,dynamic=false",
                           "frac:n=1,m=4,d=4096,dtype=bf16,dynamic=false",
                           "frac:n=1,m=8,d=4096,dtype=bf16,dynamic=false"})
    specs.push_back(spec);
  return specs;
}

/// What "auto" takes for them follows from what fits, so a change of anything in shared memory may change it. An H200
/// has lines of its own where it takes another.
TEST(Kernels, DefaultSchedulesAreAsListed) {
  const std::string path = HYPERJIT_SOURCE_DIR "/tests/unit/cuda/default_schedules.txt";
  std::string found;
  for (const std::string &spec : measuredSites())
    for (bool backward : {false, true}) {
      const std::string direction = backward ? " backward " : " forward ";
      Built built = build(spec, backward, "sm_90a/h100"), faster = build(spec, backward, "sm_90a/h200");
      ASSERT_TRUE(built.ok && faster.ok) << spec;
      found += spec + direction + built.source.schedule + "\n";
      if (faster.source.schedule != built.source.schedule)
        found += spec + direction + "h200 " + faster.source.schedule + "\n";
    }
  if (std::getenv("HYPERJIT_UPDATE_SCHEDULES")) {
    std::ofstream(path) << found;
    return;
  }
  std::ifstream file(path);
  if (!file)
    GTEST_SKIP() << path << " is not on this machine";
  std::istringstream now(found);
  for (std::string line, stood; std::getline(now, line);) {
    std::getline(file, stood);
    EXPECT_EQ(line, stood) << "time both on a GPU (bench --mode alone), then write the list anew: "
                              "HYPERJIT_UPDATE_SCHEDULES=1 cuda-test --gtest_filter=*DefaultSchedules*";
  }
}

TEST(Source, IsShortAndSaysItsSchedule) {
  Built forward = build("manifold:n=4,d=4096,dtype=bf16", false, "sm_90a");
  ASSERT_TRUE(forward.ok);
  EXPECT_LT(std::count(forward.source.text.begin(), forward.source.text.end(), '\n'), 200);
  EXPECT_EQ(forward.source.schedule.rfind("columns:", 0), 0u);
  // The schedule that was chosen, given back, gives the same text.
  Built again = build("manifold:n=4,d=4096,dtype=bf16", false, "sm_90a", forward.source.schedule);
  ASSERT_TRUE(again.ok);
  EXPECT_EQ(again.source.text, forward.source.text);
}

/// One lane does a token's maths where its registers hold the values, and shared memory holds what Sinkhorn's adjoint
/// goes back over.
TEST(Source, SizesOfValuesSayHowManyLanesATokenHas) {
  struct {
    const char *spec;
    int64_t tokens, sharedBytes;
  } cases[] = {{"manifold:n=4,d=1280,dtype=bf16", 32, 32 * 4 * 164}, // what it stores together
               {"manifold:n=8,d=1280,dtype=bf16", 4, -1},
               {"permutation:n=4,d=1280,dtype=bf16", 32, 32 * 4 * 204},
               {"permutation:n=5,d=1280,dtype=bf16", 4, -1},
               {"manifold:n=4,d=1280,dtype=bf16,iterations=100", 4, -1},
               {"manifold:n=4,d=1280,dtype=fp64", 4, -1}};
  for (auto [spec, tokens, sharedBytes] : cases) {
    SCOPED_TRACE(spec);
    Built built = build(spec, true, "sm_90a");
    ASSERT_TRUE(built.ok);
    bool found = false;
    for (const llvm::json::Value &launch : built.source.launches) {
      const llvm::json::Object &object = *launch.getAsObject();
      if (!object.getString("entry")->ends_with("_head"))
        continue;
      found = true;
      EXPECT_EQ(object.getObject("grid")->getInteger("tokens_per_block"), tokens);
      if (sharedBytes >= 0) {
        EXPECT_EQ(object.getInteger("shared_bytes"), sharedBytes);
      }
    }
    EXPECT_TRUE(found);
  }
}

/// The head's launch also does the prologue's wide work where it needs nothing of that; a constant is no launch's
/// result.
TEST(Source, LaunchesBeforeTheTokensAreFew) {
  struct {
    const char *spec;
    bool backward;
    std::vector<std::string> before; ///< the main kernel
  } cases[] = {{"manifold:n=4,d=4096,dtype=bf16", true, {"head"}},
               {"dynamic:n=4,d=4096,dtype=bf16", true, {"head"}},
               {"dynamic:n=4,d=4096,dtype=bf16", false, {"prologue0"}},
               {"frac:n=1,m=2,d=4096,dtype=bf16", true, {"prologue0", "head"}}}; // its head reads sums of parameters
  for (auto &[spec, backward, before] : cases) {
    SCOPED_TRACE(std::string(spec) + (backward ? " backward" : " forward"));
    Built built = build(spec, backward, "sm_90a");
    ASSERT_TRUE(built.ok);
    std::vector<std::string> found;
    const llvm::StringRef text(built.source.text);
    const size_t beside = text.find("tokenwiseBeside<");
    for (const llvm::json::Value &launch : built.source.launches) {
      const llvm::json::Object &object = *launch.getAsObject();
      const std::string entry = object.getString("entry")->str(), suffix = entry.substr(entry.rfind('_') + 1);
      if (suffix == "main")
        break;
      found.push_back(suffix);
      const std::optional<int64_t> more = object.getInteger("more_blocks");
      EXPECT_EQ(more.has_value(), suffix == "head" && beside != llvm::StringRef::npos);
      if (more) { // tokenwiseBeside<number, width, blocks, ..: else tokens were left out
        EXPECT_TRUE(
            text.substr(beside).split(", ").second.split(", ").second.starts_with(std::to_string(*more) + ", "));
      }
    }
    EXPECT_EQ(found, before);
  }
}

/// What rows wait for does not wait for memory, and rounded rows of the stage before are not made again.
TEST(Source, ColumnsKeepMemoryOffTheWayOfSums) {
  Built built = build("manifold:n=4,d=4096,dtype=bf16", true, "sm_90a");
  ASSERT_TRUE(built.ok);
  auto classText = [&](llvm::StringRef name) {
    llvm::StringRef text(built.source.text);
    size_t begin = text.find(("class " + name + " ").str());
    return begin == llvm::StringRef::npos ? llvm::StringRef() : text.slice(begin, text.find("};", begin));
  };
  EXPECT_TRUE(classText("Fetch1").contains("loadCoefficients<Operand"));
  llvm::StringRef maths = classText("Coefficients1"), rows = classText("Rows1_0");
  EXPECT_TRUE(maths.contains("readFetched<") && maths.contains("readUniform<") && !maths.contains("loadCoefficients<"));
  EXPECT_TRUE(classText("Rows0_0").contains("holdRows<Held<Rounded<bfloat16>"));
  EXPECT_TRUE(rows.contains("loadRows<Held<Rounded<bfloat16>"));
  EXPECT_EQ(rows.count("mix<"), 2u); // dU and the cotangent of the streams before, not those streams again
}

/// A slot of clusterColumns is given back by the last pass that reads it, not by the first of two of one stage.
TEST(Source, SlotsAreReadBeforeTheyAreGivenBack) {
  Built built = build("joint:n=2,m=4,d=1280,dtype=bf16", false, "sm_90a", "columns:cluster=4,vector=4", "before");
  ASSERT_TRUE(built.ok);
  const std::string &text = built.source.text;
  size_t reads = 0, last = 0;
  for (size_t at = text.find("loadRows<Staged<"); at != std::string::npos;
       at = text.find("loadRows<Staged<", at + 1), ++reads)
    last = at;
  EXPECT_EQ(reads, 2u);
  EXPECT_NE(text.find("class Rows0_1"), std::string::npos);
  const size_t release = text.find("releaseRing<0>");
  ASSERT_NE(release, std::string::npos);
  EXPECT_GT(release, last);
}

} // namespace
