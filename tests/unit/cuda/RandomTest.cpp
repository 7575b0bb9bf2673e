// Recipes that nobody wrote, printed as CUDA C++: NVRTC takes the text of each of their kernels.
// SPDX-License-Identifier: Apache-2.0
#include "CudaHarness.h"

#include "RandomSite.h"

#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/SpecList.h"

#include <gtest/gtest.h>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

TEST(CudaBackend, TakesRandomSites) {
  if (std::string why = nvrtcMissing(); !why.empty())
    GTEST_SKIP() << why;
  KernelManagerOptions options;
  options.settings.cache = CacheMode::Off;
  KernelManager manager(options);
  ProgramSource &programs = ProgramSource::global();
  const char *dtypes[] = {",dtype=fp32", ",dtype=bf16", ",dtype=fp16"};
  for (int i = 0; i < randomSites(2); ++i) {
    const uint64_t seed = randomSeed() + uint64_t(i);
    const std::string spec = randomSite(seed, randomSizes(seed) + dtypes[seed % 3]);
    if (spec.empty())
      continue;
    SCOPED_TRACE(spec + ": HYPERJIT_TEST_SITES=1 HYPERJIT_TEST_SEED=" + std::to_string(seed));
    const SiteSpec site = programs.normalise(SiteSpec::parse(spec));
    for (Direction direction : {Direction::Forward, Direction::Backward})
      try {
        manager.artifact(trainingKernel(programs, site, site, Role::Boundary, direction, Bucket::Large),
                         Target::parse("sm_90a"));
      } catch (const UserError &error) { // the only limit that so few operations meet
        EXPECT_NE(std::string(error.what()).find("kernels have at most"), std::string::npos) << error.what();
      } catch (const InternalError &error) {
        ADD_FAILURE() << error.what();
      }
  }
}

} // namespace
