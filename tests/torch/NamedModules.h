// The modules of LibTorch under test, one of every recipe.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Sites.h"

#include <algorithm>
#include <memory>
#include <set>

namespace hyperjit::tests {

struct Named {
  std::string type, recipe;
  std::function<std::shared_ptr<nn::ConnectionImpl>()> make;
  std::vector<std::string> parameters;
};

inline std::vector<Named> namedModules() {
  using namespace nn;
  const std::vector<std::string> dynamic = {"static_alpha",      "static_beta",     "norm.gamma",
                                            "dynamic_alpha_fn",  "dynamic_beta_fn", "dynamic_alpha_scale",
                                            "dynamic_beta_scale"},
                                 constant = {"static_alpha", "static_beta"}, deepseek = {"fn", "base", "scale"},
                                 streams = {"static_alpha", "static_beta", "pre_branch_scale", "residual_scale",
                                            "h_post_scale", "norm.gamma",  "dynamic_alpha_fn", "dynamic_beta_fn"};
  std::vector<Named> all = {
      {"HyperConnection", "dynamic",
       [] { return HyperConnection(HyperConnectionOptions(6).streams(3).layerIndex(0)).ptr(); }, dynamic},
      {"HyperConnection", "static",
       [] { return HyperConnection(HyperConnectionOptions(6).streams(3).layerIndex(0).dynamic(false)).ptr(); },
       constant},
      {"FracConnection",
       "frac",
       [] { return FracConnection(FracConnectionOptions(6).fracs(2)).ptr(); },
       {"static_alpha", "static_beta", "norm.weight", "norm.bias", "dynamic_alpha_fn", "dynamic_beta_fn",
        "dynamic_alpha_scale", "dynamic_beta_scale"}},
      {"JointConnection", "joint", [] { return JointConnection(JointConnectionOptions(6).layerIndex(0)).ptr(); },
       dynamic},
      {"ManifoldHyperConnection",
       "manifold",
       [] { return ManifoldHyperConnection(ManifoldHyperConnectionOptions(6).streams(3).layerIndex(0)).ptr(); },
       {"b", "alpha_pre", "alpha_post", "alpha_res", "phi"}},
      {"ManifoldHyperConnection", "deepseek",
       [] {
         return ManifoldHyperConnection(ManifoldHyperConnectionOptions(6).streams(3).layerIndex(0).form("deepseek"))
             .ptr();
       },
       deepseek},
      {"ManifoldHyperConnection", "manifold-streams",
       [] {
         return ManifoldHyperConnection(ManifoldHyperConnectionOptions(6).streams(3).layerIndex(0).form("streams"))
             .ptr();
       },
       streams},
      {"DelayedPreConnection", "delayed-pre",
       [] { return DelayedPreConnection(DelayedPreConnectionOptions(6).streams(3).layerIndex(0)).ptr(); }, deepseek},
      {"PermutationConnection", "permutation",
       [] { return PermutationConnection(PermutationConnectionOptions(6).streams(3).layerIndex(0)).ptr(); }, streams},
  };
  // A recipe without a module of its own is hosted by the generic one, with what it declares.
  for (const std::string &recipe : ProgramSource::global().recipes())
    if (std::none_of(all.begin(), all.end(), [&](const Named &named) { return named.recipe == recipe; })) {
      const SiteSpec spec = SiteSpec::parse(smallSite(recipe));
      std::vector<std::string> parameters;
      for (const ParameterInfo &info : ProgramSource::global().parameters(spec))
        parameters.push_back(info.name);
      all.push_back({"Connection", recipe, [spec] { return Connection(ConnectionOptions(spec).layerIndex(0)).ptr(); },
                     parameters});
    }
  return all;
}

inline std::set<std::string> names(const torch::nn::Module &module) {
  std::set<std::string> result;
  for (const auto &entry : module.named_parameters())
    result.insert(entry.key());
  return result;
}

inline at::Tensor streams(const nn::ConnectionImpl &layer, int64_t tokens = 5) {
  return random({tokens, layer.options.streams(), layer.options.dim()}, 9);
}

inline void expectTheSame(nn::ConnectionImpl &a, nn::ConnectionImpl &b) {
  auto branch = [](const at::Tensor &u) { return u * 0.5; };
  const at::Tensor x = streams(a);
  EXPECT_TRUE(at::equal(a.forward(x, branch).tensor(), b.forward(x, branch).tensor()));
}

} // namespace hyperjit::tests
