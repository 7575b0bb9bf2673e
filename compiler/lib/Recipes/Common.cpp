//===- Common.cpp - What the shipped recipes share: norms, starts, Sinkhorn options -------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include <array>
#include <cmath>

#include "Recipes.h"

namespace hyperjit::recipes {

Options operator+(Options a, const Options &b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::vector<double> joined(std::initializer_list<std::vector<double>> lists) {
  std::vector<double> result;
  for (const auto &list : lists)
    result.insert(result.end(), list.begin(), list.end());
  return result;
}

//===-----------------------------------------------------------------------------------===//
// Norms
//===-----------------------------------------------------------------------------------===//

/// In the order of NormKind.
static std::array<double, 4> normEpsilons(double rmsInside) { return {1e-12, rmsInside, 1e-6, 1e-5}; }

Options normOptions(std::string kind, bool withWeight, bool mayBeNone, double rmsInside) {
  std::vector<std::string> kinds = {"l2_unit_offset", "rms_inside", "rms_outside", "layernorm"};
  if (mayBeNone)
    kinds.push_back("none");
  Option eps =
      numberOption("norm_eps", 0, 0, 1,
                   std::string("the norm's eps; auto: l2_unit_offset 1e-12, rms_inside ") +
                       (rmsInside == 1e-6 ? "1e-6" : "1e-20 (the paper's)") + ", rms_outside 1e-6, layernorm 1e-5");
  eps.words = {"auto"};
  eps.defaultValue = "auto";
  return {wordOption("norm", std::move(kind), std::move(kinds), "the norm before the projection"), std::move(eps),
          flagOption("norm_weight", withWeight, "the norm has a gain: norm.gamma (l2_unit_offset) or norm.weight"),
          flagOption("norm_bias", withWeight, "layernorm with a weight has a bias too: norm.bias")};
}

Rows normed(Site &s, const Rows &x, Extent dimension, double rmsInside) {
  if (s.text("norm") == "none")
    return x;
  NormKind kind = parseNormKind(s.text("norm"));
  NormOptions options;
  options.epsilon =
      s.text("norm_eps") == "auto" ? normEpsilons(rmsInside)[static_cast<int>(kind)] : s.number("norm_eps");
  if (s.flag("norm_weight")) {
    bool offset = kind == NormKind::L2UnitOffset;
    options.gain = s.channels(offset ? "norm.gamma" : "norm.weight", {dimension}, constant(offset ? 0 : 1));
    if (kind == NormKind::LayerNorm && s.flag("norm_bias"))
      options.bias = s.channels("norm.bias", {dimension}, constant(0));
  }
  return norm(kind, x, options);
}

//===-----------------------------------------------------------------------------------===//
// Starts
//===-----------------------------------------------------------------------------------===//

std::vector<double> readPattern(const Site &s) {
  std::vector<double> pattern(s.rows() * s.m(), 0.0);
  int64_t stream = s.layerIndex() % s.n();
  for (int64_t f = 0; f < s.m(); ++f)
    pattern[(stream * s.m() + f) * s.m() + f] = 1;
  return pattern;
}

Coefficients writeMatrix(const Coefficients &beta, int64_t n, int64_t m) {
  return reshape(transpose(reshape(beta, {n, m, m}), {0, 2, 1}), {n * m, m});
}

Options initOptions() {
  return Options{moduleOption(wordOption(
             "init", "mhc_lite",
             {"mhc_lite", "residual_equivalent", "zero", "lucidrains", "uniform_read", "kareem", "liger"},
             "where training starts; residual_equivalent: the pre-norm residual to about 1e-3, for warm starts"))} +
         layerOptions();
}

namespace {
/// A preset: logits of the selected stream and of the others, on and off the diagonal of H.
struct Preset {
  double readSelected, readOther, writeSelected, writeOther, diagonal, offDiagonal;
  double projection = 0; // standard deviation
  double scale = 0.01;
};

Preset presetOf(const std::string &name, int64_t n) {
  double uniform = n > 1 ? -std::log(static_cast<double>(n - 1)) : 10;
  if (name == "residual_equivalent")
    return {8, -8, 0, 0, 0, -8};
  if (name == "zero")
    return {0, 0, 0, 0, 0, 0, 0.02};
  if (name == "lucidrains")
    return {1, 0, 1, 1, 1, 0};
  if (name == "uniform_read")
    return {uniform, uniform, 0, 0, 0, 0};
  if (name == "kareem")
    return {1.0 / n, 1.0 / n, 1, 1, 1, 0};
  if (name == "liger")
    return {0, 0, 0, 0, 0, 0, 0.02, 1};
  return {1, -1, 1, -1, 0, -8}; // mhc_lite
}
} // namespace

ManifoldStart manifoldStart(const Site &s, bool fullBeta) {
  int64_t n = s.n(), m = s.m(), rows = s.rows(), selected = s.layerIndex() % n;
  ManifoldStart start;
  start.name = s.text("init");
  Preset preset = presetOf(start.name, n);
  // What joins different fracs starts shut, or a branch's fracs would be summed.
  constexpr double shut = -8;
  for (int64_t stream = 0; stream < n; ++stream)
    for (int64_t from = 0; from < m; ++from)
      for (int64_t to = 0; to < m; ++to) {
        double read = stream == selected ? preset.readSelected : preset.readOther;
        double write = stream == selected ? preset.writeSelected : preset.writeOther;
        start.pre.push_back(from == to ? read : shut);
        if (fullBeta || from == to)
          start.post.push_back(from == to ? write : shut);
      }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < rows; ++j)
      start.residual.push_back(i == j ? preset.diagonal : preset.offDiagonal);
  start.projection = preset.projection == 0 ? constant(0) : normal(preset.projection);
  start.scale = preset.scale;
  return start;
}

//===-----------------------------------------------------------------------------------===//
// Sinkhorn
//===-----------------------------------------------------------------------------------===//

Options sinkhornOptions(const Sinkhorn &defaults) {
  return {integerOption("iterations", defaults.iterations, 1, 1000, "Sinkhorn iterations"),
          wordOption("start", defaults.start, {"exp", "exp_raw", "softmax_eps"},
                     "first iterate: exp(L - max), exp(L), or softmax(L) + eps"),
          wordOption("first", defaults.first, {"row", "col"}, "first step of an iteration; the other ends it"),
          wordOption("place", defaults.place, {"none", "clamp", "add"},
                     "where eps enters a division: max(sum, eps) or sum + eps"),
          numberOption("eps", defaults.epsilon, 0, 1, "Sinkhorn's eps; without effect where no eps is used"),
          numberOption("tau", defaults.temperature, 1e-6, 1e6, "temperature that logits are divided by"),
          flagOption("log_domain", defaults.logDomain, "iterate on logarithms, without eps")};
}

Sinkhorn sinkhornOf(const Site &s) {
  Sinkhorn options;
  options.iterations = s.integer("iterations");
  options.start = s.text("start");
  options.first = s.text("first");
  options.logDomain = s.flag("log_domain");
  options.place = options.logDomain ? "none" : s.text("place");
  // Where no eps is used its value must not make another program.
  bool used = options.place != "none" || options.start == "softmax_eps";
  options.epsilon = used ? s.number("eps") : 0;
  options.temperature = s.number("tau");
  return options;
}

} // namespace hyperjit::recipes
