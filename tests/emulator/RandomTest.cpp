// Recipes that nobody wrote, on the emulated GPU against the CPU back end.
// SPDX-License-Identifier: Apache-2.0
#include "Sides.h"

#include "RandomSite.h"

#include "hyperjit/core/Error.h"
#include "hyperjit/core/SpecList.h"

#include <algorithm>
#include <fmt/format.h>
#include <gtest/gtest.h>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

[[maybe_unused]] const bool emulated = (useEmulator(), true);

TEST(Random, CudaGivesWhatTheCpuGives) {
  ProgramSource &programs = ProgramSource::global();
  const Target target = Target::parse("sm_90a");
  const char *dtypes[] = {",dtype=fp32", ",dtype=bf16", ",dtype=fp16"};
  for (int i = 0; i < randomSites(4); ++i) {
    const uint64_t seed = randomSeed() + uint64_t(i);
    const std::string spec = randomSite(seed, randomSizes(seed, seed % 2) + dtypes[seed % 3]);
    if (spec.empty())
      continue;
    SCOPED_TRACE(fmt::format("{}: HYPERJIT_TEST_SITES=1 HYPERJIT_TEST_SEED={} HYPERJIT_EMULATOR_SEED={}", spec, seed,
                             seedOfRun()));
    const SiteSpec site = programs.normalise(SiteSpec::parse(spec));
    const Role role = seed % 5 == 0 ? Role::Before : seed % 5 == 1 ? Role::After : Role::Boundary;
    for (Direction direction : {Direction::Forward, Direction::Backward}) {
      const KernelSpec kernel = trainingKernel(programs, site, site, role, direction, Bucket::Large);
      try { // what auto takes, or any other; of wide rows one of clusters, which are few among them
        auto legal = KernelManager::global().schedules(kernel, target, seed % 4 < 2 ? 1 : 100000);
        ASSERT_FALSE(legal.empty()) << kernel.text();
        const auto others = std::stable_partition(legal.begin(), legal.end(), [](const ScheduleCandidate &candidate) {
          return candidate.schedule.text().starts_with("columns");
        });
        if (seed % 4 == 3 && others != legal.begin())
          legal.erase(others, legal.end());
        Sides sides(kernel, 1 + int64_t(seed % 40), legal[seed / 4 % legal.size()].schedule, target);
        EXPECT_EQ(sides.compare(4), "") << kernel.text() << " " << sides.meta().schedule;
      } catch (const UserError &error) { // the only limit that so few operations meet
        EXPECT_NE(std::string(error.what()).find("kernels have at most"), std::string::npos) << error.what();
      } catch (const InternalError &error) {
        ADD_FAILURE() << error.what();
      }
    }
  }
}

} // namespace
