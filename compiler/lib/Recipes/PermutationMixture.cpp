//===- PermutationMixture.cpp - mHC-lite: a mixture of permutations ----------------------------===//
//
// arXiv 2601.05732. The residual matrix is exactly doubly stochastic without iterations:
//
//   (l_pre, l_res) = (norm(xv) W_alpha) (pre_branch_scale | residual_scale) + static_alpha
//   H = sum over all n! permutations of softmax(l_res)_r P_r          P_r[j, pi_r(j)] = 1, [in, out], lexicographic
//   pre = sigmoid(l_pre)          post = 2 sigmoid((norm(xv) W_beta) h_post_scale + static_beta)
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

static void permutationMixtureConnection(Site &s) {
  Rows x = s.streams();
  int64_t n = s.n(), count = 1;
  for (int64_t i = 2; i <= n; ++i)
    count *= i;
  ManifoldStart start = manifoldStart(s, false);
  // The identity comes first; H's diagonal logits of the preset say how much it outweighs the others.
  std::vector<double> mixture(count, n > 1 ? start.residual[1] : 0);
  mixture[0] = start.residual[0];
  Coefficients staticAlpha =
      s.coefficients("static_alpha", {n + count}, values(joined({start.pre, mixture}), "logits of init=" + start.name));
  Coefficients staticBeta = s.coefficients("static_beta", {n}, values(start.post, "logits of init=" + start.name));
  Coefficients preScale = s.scalar("pre_branch_scale", start.scale),
               residualScale = s.scalar("residual_scale", start.scale),
               postScale = s.scalar("h_post_scale", start.scale);
  Rows xv = normed(s, flatten(x), n * s.D());
  Weight alphaFn = s.weight("dynamic_alpha_fn", {n * s.D(), n + count}, start.projection);
  Weight betaFn = s.weight("dynamic_beta_fn", {n * s.D(), n}, start.projection);

  auto [alpha, beta] = project(xv, {alphaFn, betaFn});
  auto [dPre, dRes] = split(alpha, {n, count});
  auto [staticPre, staticRes] = split(staticAlpha, {n, count});
  Coefficients pre = sigmoid(preScale * dPre + staticPre);
  Coefficients post = s.number("post_mult") * sigmoid(postScale * beta + staticBeta);
  Coefficients h = permutationMixture(softmax(residualScale * dRes + staticRes), n); // [in, out]

  s.branchInput(mix(pre, x));
  s.next(mix(transpose(h), x) + write(post, s.branchOutput()));
}

void registerPermutationMixture(Registry &registry) {
  Definition definition;
  definition.summary = "mHC-lite: H is a convex mixture of all permutations";
  definition.paper = "arXiv 2601.05732";
  definition.equation = "H = sum_r softmax(l_res)_r P_r over the n! permutations";
  definition.options = Options{numberOption("post_mult", 2, 0, 1000, "post = post_mult sigmoid(l_post)")} +
                       normOptions("l2_unit_offset", true) + initOptions();
  definition.maximumStreams = 5;
  definition.maximumFracs = 1;
  definition.limitReason = "there are n! coefficients a token; more streams, and fracs, are for recipe 'manifold'";
  registry.define("permutation", permutationMixtureConnection, definition);
}

} // namespace hyperjit::recipes
