//===- HyperConnection.cpp - Hyper-connections, static and dynamic -------------------------===//
//
// arXiv 2409.19606, eq. 1-5. Per token, with X the streams (n rows of D channels), F the branch:
//
//   z = A_m^T X          X' = A_r^T X + B^T F(z)
//   dynamic:  B = s_beta tanh(norm(X) W_beta)^T + B_0,   (A_m | A_r) = s_alpha tanh(norm(X) W_alpha) + (A_m | A_r)_0
//
// With m > 1 rows are fracs of streams, and a frac of the branch's output is written to the rows of the same frac.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

/// [Z | I]: each view reads one stream whole, residual outputs are the streams.
static std::vector<double> alphaStart(const Site &s) {
  std::vector<double> read = readPattern(s), list;
  int64_t rows = s.rows(), m = s.m();
  for (int64_t i = 0; i < rows; ++i) {
    list.insert(list.end(), read.begin() + i * m, read.begin() + (i + 1) * m);
    for (int64_t j = 0; j < rows; ++j)
      list.push_back(i == j);
  }
  return list;
}

static Coefficients staticBeta(Site &s, BetaForm form) {
  if (form == BetaForm::Diagonal)
    return s.coefficients("static_beta", {s.rows()}, constant(1));
  if (form == BetaForm::Pairs)
    return s.coefficients("static_beta", {s.n(), s.m()}, constant(1));
  std::vector<double> diagonal = identityMatrix(s.m()), list;
  for (int64_t stream = 0; stream < s.n(); ++stream)
    list.insert(list.end(), diagonal.begin(), diagonal.end());
  return s.coefficients("static_beta", {s.n(), s.m(), s.m()}, values(list, "identity over fracs"));
}

void hyperConnection(Site &s, const Hyper &form) {
  Rows x = s.streams();
  int64_t rows = s.rows(), m = s.m();
  Coefficients a = s.coefficients("static_alpha", {rows, m + rows},
                                  values(alphaStart(s), "[one-hot at stream layer_index mod n | identity]"));
  Coefficients b = staticBeta(s, form.beta);
  if (form.dynamic) {
    Rows xn = normed(s, x, s.d());
    Weight alphaFn = s.weight("dynamic_alpha_fn", {s.d(), m + rows}, constant(0));
    Weight betaFn = form.beta == BetaForm::Full ? s.weight("dynamic_beta_fn", {s.d(), m}, constant(0))
                                                : weightFromRows(s.channels("dynamic_beta_fn", {s.d()}, constant(0)));
    auto [da, db] = project(xn, {alphaFn, betaFn});
    if (s.flag("tanh")) {
      da = tanh(da);
      db = tanh(db);
    }
    if (s.flag("scale")) {
      da = s.scalar("dynamic_alpha_scale", 0.01) * da;
      db = s.scalar("dynamic_beta_scale", 0.01) * db;
    }
    a = a + da;
    b = b + reshape(db, b.shape());
  }
  auto [read, residual] = split(transpose(a), {m, rows}); // mix takes [out, in]
  Coefficients write = form.beta == BetaForm::Full && m > 1 ? writeMatrix(b, s.n(), m) : reshape(b, {rows});
  s.branchInput(mix(read, x));
  s.next(mix(residual, x) + dsl::write(write, s.branchOutput()));
}

Options hyperOptions(std::string norm, bool mayBeNone) {
  return Options{flagOption("tanh", true, "tanh around the dynamic part"),
                 flagOption("scale", true, "dynamic_alpha_scale and dynamic_beta_scale before the dynamic part")} +
         normOptions(std::move(norm), true, mayBeNone);
}

void registerHyperConnection(Registry &registry) {
  Definition fixed;
  fixed.summary = "hyper-connections with learned constant weights";
  fixed.paper = "arXiv 2409.19606, eq. 1-2";
  fixed.equation = "z = A_m^T X, X' = A_r^T X + B^T F(z)";
  fixed.options = layerOptions();
  registry.define(
      "static", [](Site &s) { hyperConnection(s, {}); }, fixed);

  Definition dynamic;
  dynamic.summary = "hyper-connections whose weights depend on the token";
  dynamic.paper = "arXiv 2409.19606, eq. 3-5";
  dynamic.equation = "as static with B = s_beta tanh(norm(X) W_beta)^T + B_0, A = s_alpha tanh(norm(X) W_alpha) + A_0";
  dynamic.options = hyperOptions("l2_unit_offset", false) + layerOptions();
  registry.define(
      "dynamic", [](Site &s) { hyperConnection(s, {.dynamic = true}); }, dynamic);
}

} // namespace hyperjit::recipes
