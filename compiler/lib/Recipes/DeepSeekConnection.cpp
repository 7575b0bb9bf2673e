//===- DeepSeekConnection.cpp - mHC in the convention of DeepSeek V4 --------------------------===//
//
// With xv = vec(X), fn [n(n + 2), n D] stored output first, base [n(n + 2)], scale [3] = (pre, post, comb):
//
//   l    = (xv fn^T) rsqrt(mean(xv^2) + norm_eps) scale + base       l_pre [n], l_post [n], l_comb [n n], row-major
//   pre  = sigmoid(l_pre) + pre_eps
//   post = post_mult sigmoid(l_post)
//   comb = softmax(l_comb) + softmax_eps, a column step, then iterations - 1 times a {row, column} step
//   z    = sum_j pre_j x_j
//   o_k  = post_k F(z) + sum_j comb[j, k] x_j
//
// A step divides by sums to which softmax_eps is added.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

DeepSeekCoefficients deepSeekCoefficients(Site &s, const Rows &x) {
  int64_t n = s.n(), outputs = n * (n + 2);
  ManifoldStart start = manifoldStart(s, false);
  Channels fn = s.channels("fn", {outputs, n * s.D()}, start.projection);
  Coefficients base = s.coefficients(
      "base", {outputs}, values(joined({start.pre, start.post, start.residual}), "logits of init=" + start.name));
  Coefficients scale = s.coefficients("scale", {3}, constant(start.scale));

  auto [dPre, dPost, dComb] = project(rmsNorm(flatten(x), s.number("norm_eps")), weightFromRows(fn, n), {n, n, n * n});
  auto [scalePre, scalePost, scaleComb] = split(scale, {1, 1, 1});
  auto [basePre, basePost, baseComb] = split(base, {n, n, n * n});
  Coefficients pre = sigmoid(dPre * scalePre + basePre);
  if (s.number("pre_eps") != 0)
    pre = pre + s.number("pre_eps");
  Sinkhorn options;
  options.iterations = s.integer("iterations");
  options.start = "softmax_eps";
  options.place = "add";
  options.epsilon = s.number("softmax_eps");
  return {pre, s.number("post_mult") * sigmoid(dPost * scalePost + basePost),
          sinkhorn(reshape(dComb * scaleComb + baseComb, {n, n}), options)};
}

Options deepSeekOptions() {
  return Options{integerOption("iterations", 20, 1, 1000, "Sinkhorn iterations; the softmax counts as one"),
                 numberOption("softmax_eps", 1e-6, 0, 1, "added to the softmax and to the sums"),
                 numberOption("pre_eps", 1e-6, 0, 1, "added to pre"),
                 numberOption("post_mult", 2, 0, 1000, "post = post_mult sigmoid(l_post)"),
                 numberOption("norm_eps", 1e-6, 0, 1, "eps of the norm, the model's rms_norm_eps")} +
         initOptions();
}

static void deepSeek(Site &s) {
  Rows x = s.streams();
  auto [pre, post, comb] = deepSeekCoefficients(s, x);
  s.branchInput(mix(pre, x));
  s.next(write(post, s.branchOutput()) + mix(transpose(comb), x));
}

void registerDeepSeekConnection(Registry &registry) {
  Definition definition;
  definition.summary = "mHC in the convention of DeepSeek V4: fn stored output first, comb [in, out]";
  definition.paper = "DeepSeek V4; arXiv 2512.24880, eq. 7-9";
  definition.equation = "o_k = post_k F(sum_j pre_j x_j) + sum_j comb[j, k] x_j";
  definition.options = deepSeekOptions();
  definition.maximumFracs = 1;
  definition.limitReason = "the convention has no fracs; mHC with fracs is recipe 'manifold'";
  registry.define("deepseek", deepSeek, definition);
}

} // namespace hyperjit::recipes
