// hyperjit::prepare: everything is compiled and loaded before the first step.
// SPDX-License-Identifier: Apache-2.0
#include "../unit/core/Support.h"

#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/torch/Prepare.h>

#include <algorithm>
#include <cstdlib>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

TEST(Prepare, CompilesAndLoadsWhatAListNames) {
  TemporaryFolder folder;
  ::setenv("HYPERJIT_CACHE_DIR", (folder / "cache").c_str(), 1); // before the process's manager is made
  KernelManager &manager = KernelManager::global();
  // One kernel by its text, with a comment; the file of a recorded run.
  std::string one = "after(static:n=2,m=1,d=8,dtype=fp32):forward:infer:tokens=small";
  writeFile(folder / "specs", "# recorded\n\n  " + one + "  # once\n");
  prepareFile(folder / "specs");
  EXPECT_TRUE(manager.peek(KernelSpec::parse(one), Target::hostLevel()));
  EXPECT_EQ(manager.statistics().compiled, 1);
  // Two sites: all that training and inference ask for, twice named and once made.
  prepare({"boundary(static:n=2,d=8|static:n=2,d=8)", "static:n=2,d=8"});
  std::vector<KernelSpec> all = kernelsOf("static:n=2,d=8");
  EXPECT_GT(all.size(), 12u);
  for (const KernelSpec &kernel : all)
    EXPECT_TRUE(manager.peek(kernel, Target::hostLevel())) << kernel.text();
  std::vector<std::string> texts;
  for (const KernelSpec &kernel : all)
    texts.push_back(kernel.text());
  std::sort(texts.begin(), texts.end());
  EXPECT_EQ(std::adjacent_find(texts.begin(), texts.end()), texts.end());
  EXPECT_EQ(manager.statistics().compiled, int64_t(all.size()));
  prepare({"static:n=2,d=8"});
  EXPECT_EQ(manager.statistics().compiled, int64_t(all.size()));
}

TEST(Prepare, SaysWhatMakesNoSense) {
  EXPECT_EQ(caught([] { prepare({"statik:n=2,d=8"}); }).id, "unknown-recipe");
  EXPECT_EQ(caught([] { prepare({"boundary(static:n=2,d=8)"}); }).id, "invalid-spec");
  EXPECT_EQ(caught([] { prepareFile("/nonexistent/specs"); }).id, "invalid-file");
  Caught device = caught([] { prepare({"static:n=2,d=8"}, {at::Device(at::kMeta)}); });
  EXPECT_EQ(device.id, "invalid-operand");
  EXPECT_NE(device.text.find("not for meta"), std::string::npos) << device.text;
}

} // namespace
