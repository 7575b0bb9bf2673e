//===- ManifoldHyperConnection.cpp - mHC with flattened coefficients --------------------------===//
//
// arXiv 2512.24880, eq. 7-9. With xv = vec(X) in R^{nD} and F the branch:
//
//   (l_pre, l_post, l_res) = a (norm(xv) phi) + b
//   pre  = sigmoid(l_pre)
//   post = 2 sigmoid(l_post)
//   H    = Sinkhorn(l_res)
//   o    = H X + post^T F(pre X)
//
// phi (n D, n^2 + 2n) has the columns pre, post, res. With m > 1 rows are fracs, and the logits are pre (rows m, as
// [in, out]), post (n m m, or n m with beta=diag) and res (rows^2). dynamic=false keeps the logits b alone: one set for
// all tokens.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

/// Of the paper's norm, rms_inside.
static constexpr double paperEpsilon = 1e-20;

static void manifold(Site &s) {
  Rows x = s.streams();
  int64_t rows = s.rows(), m = s.m();
  bool full = s.text("beta") == "full" && m > 1;
  int64_t reads = rows * m, writes = full ? rows * m : rows, mixes = rows * rows;
  ManifoldStart start = manifoldStart(s, full);
  Coefficients b =
      s.coefficients("b", {reads + writes + mixes},
                     values(joined({start.pre, start.post, start.residual}), "logits of init=" + start.name));
  auto [pre, post, res] = split(b, {reads, writes, mixes});
  if (s.flag("dynamic")) {
    Coefficients alphaPre = s.scalar("alpha_pre", start.scale), alphaPost = s.scalar("alpha_post", start.scale),
                 alphaRes = s.scalar("alpha_res", start.scale);
    Rows xv = normed(s, flatten(x), s.n() * s.D(), paperEpsilon);
    Weight phi = s.weight("phi", {s.n() * s.D(), reads + writes + mixes}, start.projection);
    auto [dPre, dPost, dRes] = project(xv, phi, {reads, writes, mixes});
    pre = alphaPre * dPre + pre;
    post = alphaPost * dPost + post;
    res = alphaRes * dRes + res;
  }
  pre = sigmoid(pre);
  if (s.number("pre_eps") != 0)
    pre = pre + s.number("pre_eps");
  post = s.number("post_mult") * sigmoid(post);
  Coefficients h = sinkhorn(reshape(res, {rows, rows}), sinkhornOf(s));
  if (s.text("orientation") == "in_out")
    h = transpose(h);

  s.branchInput(mix(transpose(reshape(pre, {rows, m})), x));
  Rows y = s.branchOutput();
  s.next(mix(h, x) + write(full ? writeMatrix(post, s.n(), m) : post, y));
}

void registerManifoldHyperConnection(Registry &registry) {
  Definition definition;
  definition.summary = "manifold-constrained hyper-connections (mHC)";
  definition.paper = "arXiv 2512.24880, eq. 7-9";
  definition.equation =
      "o = H X + post^T F(pre X), pre = sigmoid(l_pre), post = 2 sigmoid(l_post), H = Sinkhorn(l_res)";
  definition.options =
      Options{flagOption("dynamic", true, "logits depend on the token; false: the logits are parameters alone")} +
      sinkhornOptions({}) +
      Options{wordOption("orientation", "out_in", {"out_in", "in_out"},
                         "what the rows of H's logits count: out_in outputs"),
              numberOption("pre_eps", 0, 0, 1, "added to pre"),
              numberOption("post_mult", 2, 0, 1000, "post = post_mult sigmoid(l_post)"),
              wordOption("beta", "full", {"full", "diag"}, "with fracs: full post[s, f1, f2], diag post[s, f]")} +
      normOptions("rms_inside", false, false, paperEpsilon) + initOptions();
  registry.define("manifold", manifold, definition);
}

} // namespace hyperjit::recipes
