// Plain ATen versions of the shipped recipes, written from the published formulas.
// SPDX-License-Identifier: Apache-2.0
//
// Index conventions: sub-stream i = s*m + f; width columns are views first (w*m + f), then residual outputs (V + s*m +
// f). `alpha` is [input, output]; matrices named H are [output, input].

#include <hyperjit/torch/Reference.h>

#include "ReferenceFormulas.h"

#include <hyperjit/core/ProgramSource.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hyperjit {
namespace {

using at::Tensor;

Tensor lastRows(const Tensor &x, int64_t rows, int64_t width) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  return x.reshape([&] {
    shape.resize(shape.size() - 2);
    shape.push_back(rows);
    shape.push_back(width);
    return shape;
  }());
}

/// Replaces the last axis by `axes`.
Tensor splitLast(const Tensor &x, std::initializer_list<int64_t> axes) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end() - 1);
  shape.insert(shape.end(), axes);
  return x.reshape(shape);
}

/// Replaces the last two axes by `axes`.
Tensor splitLastTwo(const Tensor &x, std::initializer_list<int64_t> axes) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end() - 2);
  shape.insert(shape.end(), axes);
  return x.reshape(shape);
}

/// out_j = sum_i alpha[i, j] x_i for alpha [..., N, K] (or shared by all tokens, [N, K]) and x [..., N, d].
Tensor mixColumns(const Tensor &alpha, const Tensor &x) { return at::matmul(alpha.transpose(-1, -2), x); }

} // namespace

Tensor referenceSinkhorn(const Tensor &logits, const SinkhornOptions &options) {
  using Start = SinkhornOptions::Start;
  using Place = SinkhornOptions::Place;
  const int row = -1, column = -2;
  const int first = options.rowFirst ? row : column, second = options.rowFirst ? column : row;
  Tensor z = logits / options.tau;
  if (options.logDomain && options.start == Start::SoftmaxEps) {
    Tensor value = (z.softmax(-1) + options.eps).log();
    value = value - value.logsumexp(column, true);
    for (int step = 1; step < options.iterations; ++step)
      for (int axis : {row, column})
        value = value - value.logsumexp(axis, true);
    return value.exp();
  }
  if (options.logDomain) {
    Tensor value = options.start == Start::Exp ? z - z.amax(first, true).detach() : z;
    for (int step = 0; step < options.iterations; ++step)
      for (int axis : {first, second})
        value = value - value.logsumexp(axis, true);
    return value.exp();
  }
  auto divide = [&](const Tensor &value, int axis) {
    Tensor sum = value.sum(axis, true);
    switch (options.place) {
    case Place::None:
      return value / sum;
    case Place::Clamp:
      return value / sum.clamp_min(options.eps);
    case Place::Add:
      return value / (sum + options.eps);
    }
    return value;
  };
  if (options.start == Start::SoftmaxEps) {
    Tensor value = divide(z.softmax(-1) + options.eps, column);
    for (int step = 1; step < options.iterations; ++step)
      value = divide(divide(value, row), column);
    return value;
  }
  Tensor value = options.start == Start::Exp ? (z - z.amax(first, true).detach()).exp() : z.exp();
  for (int step = 0; step < options.iterations; ++step)
    value = divide(divide(value, first), second);
  return value;
}

Tensor referenceNorm(const std::string &kind, const Tensor &x, const Tensor &gain, const Tensor &bias, double eps) {
  const double dim = static_cast<double>(x.size(-1));
  Tensor normed;
  if (kind == "l2_unit_offset") {
    normed = x / x.square().sum(-1, true).sqrt().clamp_min(eps) * std::sqrt(dim);
    return gain.defined() ? normed * (gain + 1) : normed;
  }
  if (kind == "rms_inside")
    normed = x * (x.square().mean(-1, true) + eps).rsqrt();
  else if (kind == "rms_outside")
    normed = x / (x.square().mean(-1, true).sqrt() + eps);
  else if (kind == "layernorm") {
    Tensor centred = x - x.mean(-1, true);
    normed = centred * (centred.square().mean(-1, true) + eps).rsqrt();
  } else
    throw UserError("reference: unknown norm '" + kind + "' (l2_unit_offset, rms_inside, rms_outside, layernorm)");
  if (gain.defined())
    normed = normed * gain;
  return bias.defined() ? normed + bias : normed;
}

//===----------------------------------------------------------------------===//
// Formulas
//===----------------------------------------------------------------------===//

namespace reference {

struct Site {
  const Formula &formula;
  const Reference::Tensors &given;
  at::ScalarType compute;
  int64_t n, m, views, streamRows, viewRows, width; // streamRows = n m, viewRows = v m, width = D / m

  bool has(const std::string &name) const { return given.count(name) && given.at(name).defined(); }
  Tensor parameter(const std::string &name) const {
    if (!has(name))
      throw UserError("reference: parameter '" + name + "' of " + formula.spec.text() + " is missing");
    return given.at(name).to(compute);
  }
  Tensor optional(const std::string &name) const { return has(name) ? given.at(name).to(compute) : Tensor(); }
  Tensor norm(const Tensor &x) const {
    if (formula.norm == "none")
      return x;
    Tensor gain = optional("norm.gamma");
    return referenceNorm(formula.norm, x, gain.defined() ? gain : optional("norm.weight"), optional("norm.bias"),
                         formula.normEps);
  }
};

/// Permutation matrices in lexicographic order, [n!, n, n] with P_r[j, pi_r(j)] = 1.
static Tensor permutations(int64_t n, const at::TensorOptions &options) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::vector<Tensor> all;
  do {
    Tensor matrix = at::zeros({n, n}, at::TensorOptions().dtype(at::kDouble));
    for (int64_t j = 0; j < n; ++j)
      matrix.data_ptr<double>()[j * n + order[j]] = 1.0;
    all.push_back(matrix);
  } while (std::next_permutation(order.begin(), order.end()));
  return at::stack(all).to(options);
}

struct Coefficients {
  Tensor alpha;      ///< [..., N, V + N]
  Tensor beta;       ///< [..., N] or [..., n, m, m]
  Tensor pre;        ///< delayed: the read weights just made, [..., n, 1]
  bool full = false; ///< beta is [s, from, to], not one number a row
};

/// Hyper-connections, static or dynamic (arXiv 2409.19606), fracs (2503.14125) and the joint form.
static Coefficients hyper(const Site &site, const Tensor &rows) {
  const Formula &formula = site.formula;
  Tensor alpha = site.parameter("static_alpha").reshape({site.streamRows, site.viewRows + site.streamRows});
  Tensor beta = site.parameter("static_beta");
  const bool full = beta.numel() == site.n * site.m * site.m && site.m > 1;
  beta = full ? beta.reshape({site.n, site.m, site.m}) : beta.reshape({site.streamRows});
  if (!formula.dynamic)
    return {alpha, beta, {}, full};
  Tensor normed = site.norm(rows);
  auto activation = [&](const Tensor &value) { return formula.tanh ? value.tanh() : value; };
  Tensor alphaScale = formula.scale ? site.parameter("dynamic_alpha_scale") : Tensor();
  Tensor betaScale = formula.scale ? site.parameter("dynamic_beta_scale") : Tensor();
  Tensor alphaRaw = activation(at::matmul(normed, site.parameter("dynamic_alpha_fn")));
  Tensor betaFn = site.parameter("dynamic_beta_fn");
  Tensor betaRaw = activation(at::matmul(normed, betaFn.reshape({site.width, full ? site.m : 1})));
  betaRaw = full ? splitLastTwo(betaRaw, {site.n, site.m, site.m}) : betaRaw.squeeze(-1);
  if (formula.scale) {
    alphaRaw = alphaRaw * alphaScale;
    betaRaw = betaRaw * betaScale;
  }
  return {alpha + alphaRaw, beta + betaRaw, {}, full};
}

/// pre, post and residual of the manifold family put into the canonical alpha and beta.
static Coefficients assemble(const Site &site, const Tensor &pre, const Tensor &post, const Tensor &residual,
                             bool outIn, bool full = false) {
  Tensor columns = outIn ? residual.transpose(-1, -2) : residual;
  return {at::cat({pre, columns}, -1), post, pre, full};
}

/// mHC with flattened coefficients: paper form (arXiv 2512.24880), the DeepSeek V4 convention, V4.1's delayed read.
static Coefficients manifold(const Site &site, const Tensor &rows) {
  const Formula &formula = site.formula;
  const int64_t preCount = site.streamRows * site.viewRows, residualCount = site.streamRows * site.streamRows;
  Tensor bias = site.parameter(formula.deepSeek ? "base" : "b");
  const int64_t postCount = bias.numel() - preCount - residualCount;
  const bool full = site.m > 1 && postCount == site.n * site.m * site.m;
  Tensor scales, logits;
  if (formula.dynamic) {
    Tensor flat = rows.flatten(-2);
    Tensor phi = formula.deepSeek ? site.parameter("fn").t() : site.parameter("phi").reshape({flat.size(-1), -1});
    scales = formula.deepSeek
                 ? site.parameter("scale")
                 : at::cat({site.parameter("alpha_pre").reshape({1}), site.parameter("alpha_post").reshape({1}),
                            site.parameter("alpha_res").reshape({1})});
    logits = at::matmul(site.norm(flat), phi);
  }
  auto group = [&](int64_t index, int64_t begin, int64_t count) {
    Tensor fixed = bias.narrow(0, begin, count);
    return formula.dynamic ? logits.narrow(-1, begin, count) * scales[index] + fixed : fixed;
  };
  Tensor pre = splitLast(group(0, 0, preCount).sigmoid() + formula.preEps, {site.streamRows, site.viewRows});
  Tensor post = group(1, preCount, postCount).sigmoid() * formula.postMultiplier;
  if (full)
    post = splitLast(post, {site.n, site.m, site.m});
  Tensor residual = splitLast(group(2, preCount + postCount, residualCount), {site.streamRows, site.streamRows});
  return assemble(site, pre, post, referenceSinkhorn(residual, formula.sinkhorn), formula.outIn, full);
}

/// mHC with coefficients per sub-stream (lucidrains v2): proposals and the stream pre-mix serve the published golden
/// values.
static Coefficients manifoldPerStream(const Site &site, const Tensor &rows) {
  const Formula &formula = site.formula;
  Tensor source = rows;
  if (site.has("maybe_mix_streams.weight")) {
    Tensor mixed = at::matmul(site.parameter("maybe_mix_streams.weight").reshape({site.n, site.n}),
                              splitLastTwo(rows, {site.n, site.m * site.width}));
    source = splitLastTwo(mixed, {site.streamRows, site.width});
  }
  Tensor normed = site.norm(source);
  Tensor fn = site.parameter("dynamic_alpha_fn");
  fn = fn.reshape({-1, site.width, site.viewRows + site.streamRows});
  Tensor fixed = site.parameter("static_alpha");
  Tensor alpha;
  for (int64_t proposal = 0; proposal < fn.size(0); ++proposal) {
    Tensor raw = at::matmul(normed, fn[proposal]);
    Tensor pre =
        raw.narrow(-1, 0, site.viewRows) * site.parameter("pre_branch_scale") + fixed.narrow(-1, 0, site.viewRows);
    Tensor residual = raw.narrow(-1, site.viewRows, site.streamRows) * site.parameter("residual_scale") +
                      fixed.narrow(-1, site.viewRows, site.streamRows);
    Tensor one = at::cat(
        {pre.sigmoid() + formula.preEps, formula.outIn ? referenceSinkhorn(residual, formula.sinkhorn).transpose(-1, -2)
                                                       : referenceSinkhorn(residual, formula.sinkhorn)},
        -1);
    alpha = alpha.defined() ? alpha + one : one;
  }
  alpha = alpha / static_cast<double>(fn.size(0));
  Tensor betaRaw = at::matmul(normed, site.parameter("dynamic_beta_fn").reshape({site.width, -1}));
  Tensor betaFixed = site.parameter("static_beta");
  // Its last axis, where there is one, runs over the target frac; (n, m, 1) shares one value.
  betaFixed = betaFixed.reshape({site.streamRows, -1});
  Tensor beta = (betaRaw * site.parameter("h_post_scale") + betaFixed).sigmoid() * formula.postMultiplier;
  if (beta.size(-1) == 1)
    return {alpha, beta.squeeze(-1), {}, false};
  return {alpha, splitLastTwo(beta, {site.n, site.m, site.m}), {}, true};
}

/// mHC-lite (arXiv 2601.05732): the residual matrix is a convex mixture of all permutations.
static Coefficients permutation(const Site &site, const Tensor &rows) {
  const Formula &formula = site.formula;
  Tensor flat = rows.flatten(-2), normed = site.norm(flat);
  Tensor fixed = site.parameter("static_alpha"), raw = at::matmul(normed, site.parameter("dynamic_alpha_fn"));
  const int64_t preCount = site.streamRows * site.viewRows, count = fixed.size(0) - preCount;
  // The pre logits are ordered (frac, stream, view); without fracs that is (stream, view).
  Tensor pre = raw.narrow(-1, 0, preCount) * site.parameter("pre_branch_scale") + fixed.narrow(0, 0, preCount);
  pre = splitLast(pre.sigmoid() + formula.preEps, {site.streamRows, site.viewRows});
  Tensor weights =
      raw.narrow(-1, preCount, count) * site.parameter("residual_scale") + fixed.narrow(0, preCount, count);
  Tensor matrices = permutations(site.n, weights.options()).flatten(1);
  Tensor residual = splitLast(at::matmul(weights.softmax(-1), matrices), {site.n, site.n}); // [in, out]
  Tensor betaRaw = at::matmul(normed, site.parameter("dynamic_beta_fn"));
  Tensor beta =
      (betaRaw * site.parameter("h_post_scale") + site.parameter("static_beta")).sigmoid() * formula.postMultiplier;
  return assemble(site, pre, beta, residual, formula.outIn);
}

} // namespace reference

struct Reference::Formulas {
  reference::Formula formula;
};

Reference::Reference(const SiteSpec &spec) {
  ProgramSource::global().normalise(spec); // throws for what the recipe does not take; the formulas read the rest
  formulas = std::make_shared<const Formulas>(Formulas{reference::formulaOf(spec)});
}
Reference::~Reference() = default;
bool Reference::knows(const SiteSpec &spec) { return reference::knows(spec.recipe); }
const SiteSpec &Reference::spec() const { return formulas->formula.spec; }

Reference::Width Reference::width(const Tensor &x, const Tensors &parameters, const Tensors &carries) const {
  using reference::Family;
  const reference::Formula &formula = formulas->formula;
  const SiteSpec &spec = formula.spec;
  const int64_t n = spec.n, m = spec.m;
  if (x.dim() < 2 || x.size(-2) != n || x.size(-1) % m != 0)
    throw UserError("reference: streams must be [..., n=" + std::to_string(n) +
                    ", D] with D a multiple of m=" + std::to_string(m) + ", got " + c10::str(x.sizes()));
  const auto compute = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  reference::Site site{formula, parameters, compute, n, m, 1, n * m, m, x.size(-1) / m};
  Tensor rows = lastRows(x.to(compute), site.streamRows, site.width);
  reference::Coefficients made;
  switch (formula.family) {
  case Family::Hyper:
    made = reference::hyper(site, rows);
    break;
  case Family::Manifold:
    made = reference::manifold(site, rows);
    break;
  case Family::PerStream:
    made = reference::manifoldPerStream(site, rows);
    break;
  case Family::Permutation:
    made = reference::permutation(site, rows);
    break;
  }
  Width width;
  width.stream = x.scalar_type();
  if (formula.delayed) {
    // The read weights made here serve the next site; this one reads with what the last one made (at first: stream 0).
    auto carry = carries.find("read");
    Tensor next = made.pre.squeeze(-1);
    Tensor start = at::zeros({n}, next.options());
    start[0].fill_(1);
    Tensor read = carry != carries.end() && carry->second.defined() ? carry->second.to(compute) : start.expand_as(next);
    width.carries["read"] = next;
    made.alpha = at::cat({read.unsqueeze(-1), made.alpha.narrow(-1, site.viewRows, site.streamRows)}, -1);
  }
  Tensor mixed = mixColumns(made.alpha, rows);
  width.u = splitLastTwo(mixed.narrow(-2, 0, site.viewRows), {site.viewRows * site.width}).to(x.scalar_type());
  width.residual = splitLastTwo(mixed.narrow(-2, site.viewRows, site.streamRows), {n, m * site.width});
  width.write = made.beta;
  width.fullWrite = made.full;
  return width;
}

Tensor Reference::depth(const Tensor &y, const Width &width) const {
  const SiteSpec &spec = formulas->formula.spec;
  const int64_t n = spec.n, m = spec.m, d = y.size(-1) / m;
  Tensor fracs = splitLast(y.to(width.residual.scalar_type()), {m, d});
  Tensor written;
  if (width.fullWrite) // [s, from, to]: out_{s,to} = sum_from write[s, from, to] y_from
    written = at::matmul(width.write.transpose(-1, -2), fracs.unsqueeze(-3));
  else
    written = splitLast(width.write, {n, m}).unsqueeze(-1) * fracs.unsqueeze(-3);
  return (width.residual + written.flatten(-2)).to(width.stream);
}

} // namespace hyperjit
