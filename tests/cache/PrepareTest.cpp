// hyperjit::prepare: everything is compiled and loaded before the first step. And the kernels of a saved module.
// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/torch/torch.h>

#include <torch/torch.h>

#include <algorithm>
#include <cstdlib>
#include <set>

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
  EXPECT_EQ(all.size(), 12u);
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
  EXPECT_EQ(caught([] { prepareFile("/"); }).id, "invalid-file"); // opens, and is no file
  Caught device = caught([] { prepare({"static:n=2,d=8"}, {at::Device(at::kMeta)}); });
  EXPECT_EQ(device.id, "invalid-operand");
  EXPECT_NE(device.text.find("not for meta"), std::string::npos) << device.text;
}

struct TwoLayersImpl : torch::nn::Module {
  TwoLayersImpl() {
    namespace hnn = hyperjit::nn;
    for (int i = 0; i < 3; ++i)
      register_module("manifold" + std::to_string(i),
                      hnn::ManifoldHyperConnection(hnn::ManifoldHyperConnectionOptions(16).streams(2).layerIndex(i)));
    register_module("between", torch::nn::Linear(4, 4));
    register_module("dynamic", hnn::HyperConnection(hnn::HyperConnectionOptions(16).streams(2).layerIndex(2)));
  }
};
TORCH_MODULE(TwoLayers);

TEST(Model, ASavedModuleNamesItsKernels) {
  TemporaryFolder folder;
  torch::save(TwoLayers(), folder / "model.pt");
  Ran ran = hyperjitCommand("precompile --model " + (folder / "model.pt") + " --target x86-64-v3 --json --out " +
                                (folder / "out"),
                            "HOME=" + folder.path);
  ASSERT_EQ(ran.code, 0) << ran.error;
  nlohmann::json answer = ran.json();
  std::set<std::string> specs, boundaries;
  for (const auto &entry : answer["entries"]) {
    std::string spec = entry["spec"];
    EXPECT_TRUE(specs.insert(spec).second) << "each distinct kernel once: " << spec;
    if (spec.starts_with("boundary("))
      boundaries.insert(spec.substr(9, spec.find("):") - 9));
  }
  std::string manifold = "manifold:n=2,m=1,d=16,dtype=fp32", dynamic = "dynamic:n=2,m=1,d=16,dtype=fp32";
  EXPECT_EQ(boundaries,
            (std::set<std::string>{manifold + "|" + manifold, manifold + "|" + dynamic, dynamic + "|" + dynamic}));
  // A file that is no module, and a module without a layer of ours.
  writeFile(folder / "text", "no module");
  EXPECT_EQ(hyperjitCommand("precompile --model " + (folder / "text"), "HOME=" + folder.path).code, 1);
  torch::save(torch::nn::Linear(2, 2), folder / "plain.pt");
  ran = hyperjitCommand("precompile --model " + (folder / "plain.pt"), "HOME=" + folder.path);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.error.find("holds no hyperjit layer"), std::string::npos) << ran.error;
}

} // namespace
