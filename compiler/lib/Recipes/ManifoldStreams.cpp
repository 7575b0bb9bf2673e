//===- ManifoldStreams.cpp - mHC with coefficients per stream ---------------------------------===//
//
// The form of lucidrains/hyper-connections 0.4.11 (mHCv2): norm and projection are per sub-stream, as in
// hyper-connections; the constraint is mHC's (arXiv 2512.24880). For sub-stream i and proposal p:
//
//   l_p[i, :] = (norm(x_i) W_p) (pre_branch_scale | residual_scale) + static_alpha[i, :]
//   alpha = mean over p of [sigmoid(l_p[:, :m]) | Sinkhorn(l_p[:, m:])]                       [in, out]
//   beta[s, f1, f2] = 2 sigmoid((norm(x_{s,f1}) W_beta[:, f2]) h_post_scale + static_beta[s, f1, f2])
//
// mix_streams norms and projects a learned mix of the streams instead; what is read and carried on is unmixed.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

/// c_t = sum_s P[t, s] x_s for streams of m fracs: P (x) I_m over rows.
static Rows mixStreams(Site &s, const Rows &x) {
  int64_t n = s.n(), m = s.m();
  Coefficients p = s.coefficients("maybe_mix_streams.weight", {n, n, 1, 1}, values(identityMatrix(n), "identity"));
  Coefficients overFracs = broadcast(reshape(p, {n, 1, n, 1}), {n, m, n, m});
  Coefficients sameFrac = broadcast(reshape(s.constants({m, m}, identityMatrix(m)), {1, m, 1, m}), {n, m, n, m});
  return mix(reshape(m > 1 ? overFracs * sameFrac : overFracs, {n * m, n * m}), x);
}

/// Slice `proposal` of a weight (p, d, K).
static Weight proposalWeight(const Weight &weight, int64_t proposal) {
  if (weight.rows() == 1)
    return weight;
  std::vector<int64_t> indices;
  for (int64_t k = 0; k < weight.columns(); ++k)
    indices.push_back(k * weight.rows() + proposal);
  return weightFromRows(gatherRows(rowsFromWeight(weight), indices));
}

static void manifoldStreams(Site &s) {
  Rows x = s.streams();
  int64_t n = s.n(), m = s.m(), rows = s.rows(), proposals = s.integer("proposals");
  bool shared = s.text("static_beta") == "shared";
  ManifoldStart start = manifoldStart(s, !shared);

  std::vector<double> alpha;
  for (int64_t i = 0; i < rows; ++i) {
    alpha.insert(alpha.end(), start.pre.begin() + i * m, start.pre.begin() + (i + 1) * m);
    alpha.insert(alpha.end(), start.residual.begin() + i * rows, start.residual.begin() + (i + 1) * rows);
  }
  Coefficients staticAlpha =
      s.coefficients("static_alpha", {rows, m + rows}, values(alpha, "logits of init=" + start.name));
  Coefficients staticBeta =
      s.coefficients("static_beta", {n, m, shared ? 1 : m}, values(start.post, "logits of init=" + start.name));
  Coefficients preScale = s.scalar("pre_branch_scale", start.scale),
               residualScale = s.scalar("residual_scale", start.scale),
               postScale = s.scalar("h_post_scale", start.scale);
  Rows xn = normed(s, s.flag("mix_streams") ? mixStreams(s, x) : x, s.d());

  // Equal proposals receive equal gradients: they start apart, by noise on all but the first or because they are drawn.
  // lucidrains starts them equal.
  bool noise = proposals > 1 && start.projection.kind == Initialisation::Kind::Constant && start.name != "lucidrains";
  Weight alphaFn =
      s.weight("dynamic_alpha_fn", {proposals, s.d(), m + rows}, noise ? normalAfterFirst(0.02) : start.projection);
  std::vector<Weight> weights;
  for (int64_t p = 0; p < proposals; ++p)
    weights.push_back(proposalWeight(alphaFn, p));
  weights.push_back(s.weight("dynamic_beta_fn", {s.d(), m}, start.projection));
  std::vector<Coefficients> raw = project(xn, weights);

  Coefficients read, h; // [in, out]
  auto [staticPre, staticRes] = split(staticAlpha, {m, rows}, 1);
  for (int64_t p = 0; p < proposals; ++p) {
    auto [dPre, dRes] = split(raw[p], {m, rows}, 1);
    Coefficients pre = sigmoid(preScale * dPre + staticPre);
    Coefficients res = sinkhorn(residualScale * dRes + staticRes, sinkhornOf(s));
    read = p == 0 ? pre : read + pre;
    h = p == 0 ? res : h + res;
  }
  if (proposals > 1) {
    read = read * (1.0 / static_cast<double>(proposals));
    h = h * (1.0 / static_cast<double>(proposals));
  }
  if (s.text("orientation") == "in_out")
    h = transpose(h);
  Coefficients beta = s.number("post_mult") * sigmoid(postScale * reshape(raw.back(), {n, m, m}) + staticBeta);

  s.branchInput(mix(transpose(read), x));
  Rows y = s.branchOutput();
  s.next(mix(h, x) + write(m > 1 ? writeMatrix(beta, n, m) : reshape(beta, {rows}), y));
}

void registerManifoldStreams(Registry &registry) {
  Sinkhorn defaults;
  defaults.place = "clamp";
  defaults.epsilon = 1e-12;
  Definition definition;
  definition.summary = "mHC with norm and projection per stream, joint with fracs";
  definition.paper = "arXiv 2512.24880 in the form of lucidrains/hyper-connections 0.4.11 (mHCv2)";
  definition.equation = "alpha = [sigmoid(l_pre) | Sinkhorn(l_res)], l[i] = norm(x_i) W scale + static_alpha[i]";
  definition.options =
      sinkhornOptions(defaults) +
      Options{
          wordOption("orientation", "in_out", {"out_in", "in_out"}, "what the rows of H's logits count: in_out inputs"),
          numberOption("post_mult", 2, 0, 1000, "beta = post_mult sigmoid(l_post)"),
          integerOption("proposals", 1, 1, 8, "independent dynamic weights whose matrices are averaged"),
          flagOption("mix_streams", false, "norm and project a learned mix of the streams"),
          wordOption("static_beta", "full", {"full", "shared"}, "full: (n, m, m); shared: (n, m, 1), one for all f2")} +
      normOptions("l2_unit_offset", true) + initOptions();
  registry.define("manifold-streams", manifoldStreams, definition);
}

} // namespace hyperjit::recipes
