// Schedules through the compiler: what is listed is legal, what was chosen makes the same kernel when it is given back,
// what is illegal is refused by name, and both token buckets sum in one order.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/SpecList.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>

using namespace hyperjit;

namespace {

KernelManager &manager() {
  static KernelManager manager([] {
    KernelManagerOptions options;
    options.settings.cache = CacheMode::Off;
    options.tuning = [](const KernelSpec &, const Target &) { return Schedule(); };
    return options;
  }());
  return manager;
}

const char *const sites[] = {
    "static:n=4,d=52",      "dynamic:n=3,d=40",   "manifold:n=4,d=64,dtype=bf16", "frac:n=1,m=4,d=64",
    "permutation:n=3,d=21", "manifold:n=16,d=32", "dynamic:n=2,d=24,dtype=fp64"};
const Target v3 = Target::parse("x86-64-v3"), v4 = Target::parse("x86-64-v4"), gpu = Target::parse("sm_90a/h100");

std::string refusal(const KernelSpec &spec, const Target &target, const std::string &schedule) {
  try {
    if (target.device == DeviceType::Cuda)
      manager().stage(spec, target, "cuda", Schedule::parse(schedule));
    else
      manager().artifact(spec, target, Schedule::parse(schedule));
  } catch (const UserError &error) {
    return error.what();
  }
  return "accepted";
}

KernelSpec kernelOf(const std::string &text) { return kernelsOf(text).front(); }

/// Entries are named by a digest that holds the text of the schedule as it was asked for.
std::string withoutNames(const std::string &source) {
  return std::regex_replace(source, std::regex("hc_(before|boundary|after)_(forward|backward)_[0-9a-f]{8}"), "NAME");
}

TEST(CpuSchedules, GivenBackMakeTheSameKernel) {
  for (const char *site : sites)
    for (const KernelSpec &spec : kernelsOf(site))
      for (const Target &target : {v3, v4}) {
        if (spec.bucket != Bucket::Large || (target == v3 && spec.save))
          continue; // OrderSumsEquallyInBothBuckets is about the other
        SCOPED_TRACE(spec.text() + " for " + target.text());
        ResolvedArtifact chosen = manager().artifact(spec, target);
        Schedule used = Schedule::parse(chosen.artifact->meta.schedule);
        EXPECT_EQ(used.skeleton, "blocks");
        EXPECT_EQ(used.text(), chosen.artifact->meta.schedule);
        ResolvedArtifact again = manager().artifact(spec, target, used);
        EXPECT_EQ(again.artifact->meta.schedule, used.text());
        EXPECT_TRUE(again.artifact->payload == chosen.artifact->payload);
        EXPECT_EQ(again.artifact->meta.workspaceBytes(1000), chosen.artifact->meta.workspaceBytes(1000));
        EXPECT_NE(again.key, chosen.key); // auto and its choice are two keys
      }
}

TEST(CpuSchedules, OrderSumsEquallyInBothBuckets) {
  for (const char *site : {sites[0], sites[2], sites[6]})
    for (KernelSpec spec : kernelsOf(site)) {
      if (spec.bucket != Bucket::Large)
        continue;
      SCOPED_TRACE(spec.text());
      for (const Schedule &schedule : {Schedule(), Schedule::parse("blocks:tokens=4,columns=1,vector=32")}) {
        spec.bucket = Bucket::Large;
        ResolvedArtifact large = manager().artifact(spec, v4, schedule);
        spec.bucket = Bucket::Small;
        ResolvedArtifact small = manager().artifact(spec, v4, schedule);
        EXPECT_EQ(Schedule::parse(large.artifact->meta.schedule).order(),
                  Schedule::parse(small.artifact->meta.schedule).order());
        EXPECT_TRUE(large.artifact->payload == small.artifact->payload);
      }
    }
}

TEST(CpuSchedules, AreRefusedByName) {
  KernelSpec spec = kernelOf("manifold:n=4,d=64");
  for (const auto &[schedule, message] : std::vector<std::pair<std::string, std::string>>{
           {"blocks:tokens=3", "tokens is 3; legal are 4 to 64, powers of two"},
           {"blocks:tokens=128", "tokens is 128; legal are 4 to 64, powers of two"},
           {"blocks:vector=64", "vector is 64; legal are 32 to 32, powers of two"},
           {"blocks:columns=4", "columns is 4; legal are 1 to 3"},
           {"blocks:unroll=0", "unroll is 0; legal are 1 to 3"},
           {"blocks:sums=13", "sums is 13; legal are 1 to 12"},
           {"blocks:chunks=257", "chunks is 257; legal are 1 to 256"},
           {"blocks:ahead=2", "ahead is 2; legal are 0 to 1"},
           {"blocks:warps=4", "'warps=4' is no number of 'blocks'; it takes ahead, chunks, columns, stream, sums, "
                              "tokens, unroll, vector"},
           {"rows:tokens=8", "names the skeleton 'rows'; CPU kernels have 'blocks'"}})
    EXPECT_NE(refusal(spec, v3, schedule).find(message), std::string::npos) << refusal(spec, v3, schedule);
  EXPECT_EQ(refusal(spec, v4, "blocks:vector=64,columns=6,unroll=6,sums=28"), "accepted");
  // What is left out is the rules'.
  EXPECT_EQ(manager().artifact(spec, v3, Schedule::parse("blocks:tokens=8")).artifact->meta.schedule,
            "blocks:ahead=1,chunks=256,columns=3,stream=32,sums=9,tokens=8,unroll=2,vector=32");
}

TEST(CpuSchedules, ListedAreLegalAndTheDefaultLeads) {
  for (const char *site : sites)
    for (const KernelSpec &spec : kernelsOf(site)) {
      if (spec.bucket != Bucket::Large)
        continue;
      SCOPED_TRACE(spec.text());
      std::vector<ScheduleCandidate> list = manager().schedules(spec, v4, 5000);
      ASSERT_FALSE(list.empty());
      EXPECT_EQ(list[0].schedule.text(), manager().artifact(spec, v4).artifact->meta.schedule);
      std::set<std::string> texts;
      for (size_t i = 0; i < list.size(); ++i) {
        EXPECT_TRUE(texts.insert(list[i].schedule.text()).second) << list[i].schedule.text();
        EXPECT_GT(list[i].cost, 0);
        if (i > 1) {
          EXPECT_GE(list[i].cost, list[i - 1].cost);
        }
      }
      for (size_t i = 1; i < list.size(); i += 1 + list.size() / 4)
        EXPECT_EQ(manager().artifact(spec, v4, list[i].schedule).artifact->meta.schedule, list[i].schedule.text());
      EXPECT_EQ(manager().schedules(spec, v4, 3).size(), std::min<size_t>(3, list.size()));
    }
}

TEST(CudaSchedules, ListedAreLegalAndGivenBackMakeTheSameKernel) {
  for (const char *site :
       {"manifold:n=4,d=4096,dtype=bf16", "static:n=4,d=512", "dynamic:n=4,d=1280,dtype=bf16", "frac:n=1,m=4,d=64"})
    for (KernelSpec spec : kernelsOf(site)) {
      if (spec.bucket != Bucket::Large)
        continue;
      SCOPED_TRACE(spec.text());
      std::vector<ScheduleCandidate> list = manager().schedules(spec, gpu, 12);
      ASSERT_FALSE(list.empty());
      std::string chosen = withoutNames(manager().stage(spec, gpu, "cuda"));
      EXPECT_TRUE(withoutNames(manager().stage(spec, gpu, "cuda", list[0].schedule)) == chosen);
      for (size_t i = 1; i < list.size(); ++i) {
        EXPECT_EQ(refusal(spec, gpu, list[i].schedule.text()), "accepted");
        // Chunks are the launch's number alone.
        Schedule sameChunks = list[i].schedule;
        sameChunks.set("chunks", *list[0].schedule.parameter("chunks"));
        bool same = withoutNames(manager().stage(spec, gpu, "cuda", list[i].schedule)) == chosen;
        EXPECT_EQ(same, sameChunks == list[0].schedule) << list[i].schedule.text();
      }
      // The rules look at no bucket.
      spec.bucket = Bucket::Small;
      EXPECT_EQ(manager().schedules(spec, gpu, 1)[0].schedule, list[0].schedule);
    }
}

TEST(CudaSchedules, AreRefusedByName) {
  KernelSpec spec = kernelOf("manifold:n=4,d=64");
  EXPECT_NE(refusal(spec, gpu, "rows:warps=17").find("warps is 17; legal are 1 to 16"), std::string::npos);
  EXPECT_NE(refusal(spec, gpu, "rows:tokens=3").find("tokens is 3; legal are 1 to 16, powers of two"),
            std::string::npos);
  EXPECT_NE(refusal(spec, gpu, "blocks:tokens=4").find("names the skeleton 'blocks'; CUDA kernels have 'rows'"),
            std::string::npos);
  EXPECT_NE(refusal(spec, gpu, "rows:unroll=2")
                .find("it takes apart, blocks, chunks, cluster, planes, ranges, slots, tokens, vector, warps"),
            std::string::npos);
}

TEST(Schedules, OrderNamesWhatOrdersSums) {
  EXPECT_EQ(Schedule::parse("blocks:ahead=1,chunks=16,columns=6,sums=20,tokens=8,unroll=4,vector=64").order(),
            "blocks:tokens=8,vector=64");
  EXPECT_EQ(Schedule::parse("rows:blocks=2,chunks=32,cluster=1,planes=2,slots=32,tokens=8,vector=8,warps=8").order(),
            "rows:cluster=1,planes=2,tokens=8,vector=8,warps=8");
  // For many tokens another kernel, with the same sums.
  EXPECT_EQ(Schedule::parse("rows:apart=78,ranges=8,tokens=8").order(), "rows:ranges=8,tokens=8");
  // Clusters have the same channels a lane whatever the tile.
  EXPECT_EQ(Schedule::parse("columns:cluster=16,lag=2,tokens=16,vector=8,warps=8").order(),
            Schedule::parse("columns:cluster=16,lag=1,tokens=8,vector=8,warps=8").order());
  EXPECT_EQ(Schedule().order(), "auto");
}

} // namespace
