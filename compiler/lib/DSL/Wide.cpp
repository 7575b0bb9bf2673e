//===- Wide.cpp - Maps over channels, reductions over channels, wide parameters ---------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include <algorithm>

#include "Operators.h"
#include "hyperjit/core/Error.h"

namespace hyperjit::dsl {
using namespace detail;

namespace {
Type rowsType(int64_t rows) { return {TypeKind::Rows, {rows}}; }
Type coefficientsType(std::vector<int64_t> shape) { return {TypeKind::Coefficients, std::move(shape)}; }
Type weightType(int64_t rows, int64_t columns) { return {TypeKind::Weight, {rows, columns}}; }

Rows elementwise(std::string_view function, const char *operation, const Rows &a, const Rows &b) {
  const auto &recorder = common(function, a, b);
  if (a.rows() != b.rows())
    recorder->fail(join(function, ": the left side has ", describe(a), ", the right side ", describe(b),
                        "; both must have the same (gatherRows repeats rows)"));
  int id = recorder->addOperation(operation, {Access::id(a), Access::id(b)}, typeOf(a));
  return Access::rows(recorder, id, a.group(), a.flattened());
}

void requireIndices(const Recorder &recorder, const char *function, const std::vector<int64_t> &indices, int64_t limit,
                    const char *what) {
  if (indices.empty())
    recorder.fail(join(function, ": the list of indices is empty"));
  for (int64_t index : indices)
    if (index < 0 || index >= limit)
      recorder.fail(join(function, ": index ", index, " is outside the ", limit, " ", what));
}
} // namespace

Rows mix(const Coefficients &c, const Rows &x) {
  const auto &recorder = common("mix", c, x);
  Coefficients matrix = c;
  if (c.rank() == 1 && c.size() == x.rows())
    matrix = reshape(c, {1, c.size()});
  if (matrix.rank() != 2 || matrix.size(1) != x.rows())
    recorder->fail(join("mix: coefficients are ", shapeText(c.shape()), ", x has ", describe(x),
                        "; mix takes [out, in] with `in` rows of x"));
  return Access::rows(recorder,
                      recorder->addOperation("hc.mix", {Access::id(matrix), Access::id(x)}, rowsType(matrix.size(0))));
}

Rows scaleRows(const Coefficients &c, const Rows &x) {
  const auto &recorder = common("scaleRows", c, x);
  if (c.rank() != 1 || c.size() != x.rows())
    recorder->fail(join("scaleRows: coefficients are ", shapeText(c.shape()), ", x has ", describe(x),
                        "; one coefficient a row is needed, <", x.rows(), ">"));
  return Access::rows(recorder, recorder->addOperation("hc.scale_rows", {Access::id(c), Access::id(x)}, typeOf(x)),
                      x.group(), x.flattened());
}

Rows gatherRows(const Rows &x, const std::vector<int64_t> &indices) {
  const auto &recorder = common("gatherRows", x);
  requireIndices(*recorder, "gatherRows", indices, x.rows(), "rows of x");
  int64_t size = static_cast<int64_t>(indices.size());
  bool identity = size == x.rows();
  for (int64_t i = 0; identity && i < size; ++i)
    identity = indices[i] == i;
  if (identity)
    return x;
  return Access::rows(recorder, recorder->addOperation("hc.gather_rows", {Access::id(x)}, rowsType(size),
                                                       {arrayAttribute("indices", indices)}));
}

Rows scatterRows(const Rows &x, const std::vector<int64_t> &indices, int64_t rows) {
  const auto &recorder = common("scatterRows", x);
  requireIndices(*recorder, "scatterRows", indices, rows, "rows of the result");
  if (static_cast<int64_t>(indices.size()) != x.rows())
    recorder->fail(join("scatterRows: ", indices.size(), " indices for ", describe(x), "; one a row is needed"));
  return Access::rows(recorder, recorder->addOperation("hc.scatter_rows", {Access::id(x)}, rowsType(rows),
                                                       {arrayAttribute("indices", indices)}));
}

Rows fillRows(const Coefficients &c) {
  const auto &recorder = common("fillRows", c);
  if (c.rank() != 1)
    recorder->fail(join("fillRows: coefficients are ", shapeText(c.shape()), "; one number a row is needed, <rows>"));
  return Access::rows(recorder, recorder->addOperation("hc.fill_rows", {Access::id(c)}, rowsType(c.size())));
}

Rows scale(const Rows &x, const Channels &channels) {
  const auto &recorder = common("scale", x, channels);
  if (x.rows() % channels.rows() != 0)
    recorder->fail(join("scale: x has ", describe(x), ", the channel vector ", describe(channels),
                        "; the rows of the channel vector must divide those of x"));
  std::vector<int64_t> indices(x.rows());
  for (int64_t i = 0; i < x.rows(); ++i)
    indices[i] = i % channels.rows();
  return elementwise("scale", "hc.mul", x, gatherRows(channels, indices));
}

Rows write(const Coefficients &beta, const Rows &y) {
  const auto &recorder = common("write", beta, y);
  if (beta.rank() == 2 && beta.size(1) == y.rows())
    return mix(beta, y);
  if (beta.rank() != 1 || beta.size() % y.rows() != 0)
    recorder->fail(join("write: beta is ", shapeText(beta.shape()), ", y has ", describe(y),
                        "; beta is <rows> with a multiple of y's rows, or <rows, ", y.rows(), ">"));
  std::vector<int64_t> indices(beta.size());
  for (int64_t i = 0; i < beta.size(); ++i)
    indices[i] = i % y.rows();
  return scaleRows(beta, gatherRows(y, indices));
}

Rows expand(const Coefficients &p, const Weight &weight) {
  const auto &recorder = common("expand", p, weight);
  Coefficients matrix = p.rank() == 1 ? reshape(p, {1, p.size()}) : p;
  if (matrix.rank() != 2 || matrix.size(1) != weight.columns())
    recorder->fail(join("expand: coefficients are ", shapeText(p.shape()), " for ", describe(weight), "; <groups, ",
                        weight.columns(), "> is needed"));
  int id = recorder->addOperation("hc.expand", {Access::id(matrix), Access::id(weight)},
                                  rowsType(matrix.size(0) * weight.rows()));
  return Access::rows(recorder, id);
}

Rows operator+(const Rows &a, const Rows &b) { return elementwise("rows + rows", "hc.add", a, b); }
Rows operator-(const Rows &a, const Rows &b) { return elementwise("rows - rows", "hc.sub", a, b); }
Rows operator*(const Rows &a, const Rows &b) { return elementwise("rows * rows", "hc.mul", a, b); }

Rows flatten(const Rows &x) {
  const auto &recorder = common("flatten", x);
  return Access::rows(recorder, Access::id(x), x.rows(), true);
}

Rows groupRows(const Rows &x, int64_t rows) {
  const auto &recorder = common("groupRows", x);
  if (rows < 1 || x.rows() % rows != 0)
    recorder->fail(join("groupRows: ", describe(x), " do not split into groups of ", rows));
  return Access::rows(recorder, Access::id(x), rows, false);
}

//===------------------------------------------------------------------------------------------------------===//
// Reductions over channels
//===------------------------------------------------------------------------------------------------------===//

static constexpr std::array normNames = {"l2_unit_offset", "rms_inside", "rms_outside", "layernorm"};

NormKind parseNormKind(std::string_view text) {
  for (std::size_t i = 0; i < normNames.size(); ++i)
    if (text == normNames[i])
      return static_cast<NormKind>(i);
  throw UserError(join("norm '", text, "' is unknown; there are l2_unit_offset, rms_inside, rms_outside, layernorm"));
}

Rows norm(NormKind kind, const Rows &x, const NormOptions &options) {
  const auto &recorder = common("norm", x);
  std::vector<int> operands = {Access::id(x)};
  int segments[3] = {1, 0, 0};
  auto attach = [&](const Channels &channels, const char *what, int segment) {
    if (!channels.valid())
      return;
    requireSameSite("norm", x, channels);
    if (!channels.uniform() || (channels.rows() != x.group() && channels.rows() != 1))
      recorder->fail(join("norm: ", what, " has ", describe(channels),
                          channels.uniform() ? "" : " that depend on the token", ", x is normed in groups of ",
                          x.group(), " rows; the ", what, " is a parameter with as many rows as a group, or one"));
    operands.push_back(Access::id(channels));
    segments[segment] = 1;
  };
  attach(options.gain, "gain", 1);
  attach(options.bias, "bias", 2);
  if (options.bias.valid() && (kind != NormKind::LayerNorm || !options.gain.valid()))
    recorder->fail(join("norm: only layernorm with a gain takes a bias, not ", normNames[static_cast<int>(kind)]));
  if (!(options.epsilon >= 0))
    recorder->fail(join("norm: eps is ", options.epsilon, "; it must be at least 0"));
  Attribute segmentSizes{"operandSegmentSizes",
                         join("array<i32: ", segments[0], ", ", segments[1], ", ", segments[2], ">")};
  int id = recorder->addOperation("hc.norm", std::move(operands), typeOf(x),
                                  {wordAttribute("kind", normNames[static_cast<int>(kind)]),
                                   numberAttribute("eps", options.epsilon), integerAttribute("group", x.group()),
                                   std::move(segmentSizes)});
  return Access::rows(recorder, id, x.group(), x.flattened());
}

Rows rmsNorm(const Rows &x, double epsilon) {
  NormOptions options;
  options.epsilon = epsilon;
  return norm(NormKind::RmsInside, x, options);
}

Coefficients project(const Rows &x, const Weight &weight) {
  const auto &recorder = common("project", x, weight);
  if (x.flattened() ? x.rows() != weight.rows() : x.rows() % weight.rows() != 0)
    recorder->fail(join("project: x has ", describe(x), x.flattened() ? " taken together" : "", ", the weight is ",
                        describe(weight), "; the weight's rows must ", x.flattened() ? "equal" : "divide",
                        " those of x"));
  Coefficients result = Access::coefficients(
      recorder, recorder->addOperation("hc.project", {Access::id(x), Access::id(weight)},
                                       coefficientsType({x.rows() / weight.rows(), weight.columns()})));
  return x.flattened() ? reshape(result, {weight.columns()}) : result;
}

std::vector<Coefficients> project(const Rows &x, std::span<const Weight> weights) {
  requireValid("project", x);
  Weight joined = concatWeights(weights);
  std::vector<int64_t> sizes;
  for (const Weight &weight : weights)
    sizes.push_back(weight.columns());
  return split(project(x, joined), std::span<const int64_t>(sizes), -1);
}

Coefficients dot(const Rows &x, const Rows &y) {
  const auto &recorder = common("dot", x, y);
  return Access::coefficients(recorder, recorder->addOperation("hc.dot", {Access::id(x), Access::id(y)},
                                                               coefficientsType({x.rows(), y.rows()})));
}

Coefficients dotRows(const Rows &x, const Rows &y) {
  const auto &recorder = common("dotRows", x, y);
  if (x.rows() != y.rows())
    recorder->fail(join("dotRows: x has ", describe(x), ", y ", describe(y), "; both must have the same"));
  return Access::coefficients(
      recorder, recorder->addOperation("hc.dot_rows", {Access::id(x), Access::id(y)}, coefficientsType({x.rows()})));
}

Coefficients rowSum(const Rows &x) {
  const auto &recorder = common("rowSum", x);
  return Access::coefficients(recorder,
                              recorder->addOperation("hc.row_sum", {Access::id(x)}, coefficientsType({x.rows()})));
}

//===------------------------------------------------------------------------------------------------------===//
// Wide parameters
//===------------------------------------------------------------------------------------------------------===//

Weight concatWeights(std::span<const Weight> weights) {
  if (weights.empty())
    throw UserError("concatWeights: the list of weights is empty");
  const auto &recorder = requireValid("concatWeights", weights.front());
  std::vector<int> operands;
  int64_t columns = 0;
  for (const Weight &weight : weights) {
    requireSameSite("concatWeights", weights.front(), weight);
    if (weight.rows() != weights.front().rows())
      recorder->fail(join("concatWeights: ", describe(weights.front()), " and ", describe(weight),
                          " differ in rows; side by side they must have the same"));
    operands.push_back(Access::id(weight));
    columns += weight.columns();
  }
  if (weights.size() == 1)
    return weights.front();
  Type type = weightType(weights.front().rows(), columns);
  return Access::weight(recorder, recorder->addOperation("hc.concat_weights", std::move(operands), type));
}

Weight sliceWeight(const Weight &weight, int64_t offset, int64_t size) {
  const auto &recorder = common("sliceWeight", weight);
  if (offset < 0 || size < 1 || offset > weight.columns() - size) // the sum could overflow
    recorder->fail(join("sliceWeight: ", size, " columns from ", offset, " are outside ", describe(weight)));
  return Access::weight(recorder,
                        recorder->addOperation("hc.slice_weight", {Access::id(weight)}, weightType(weight.rows(), size),
                                               {integerAttribute("offset", offset)}));
}

Weight scaleWeight(const Weight &weight, const Channels &channels) {
  const auto &recorder = common("scaleWeight", weight, channels);
  if (!channels.uniform() || channels.rows() != weight.rows())
    recorder->fail(join("scaleWeight: ", describe(weight), " scaled by ", describe(channels),
                        channels.uniform() ? "" : " that depend on the token",
                        "; a channel vector with the weight's rows is needed"));
  return Access::weight(
      recorder, recorder->addOperation("hc.scale_weight", {Access::id(weight), Access::id(channels)}, typeOf(weight)));
}

Weight weightFromRows(const Channels &rows, int64_t rowsPerColumn) {
  const auto &recorder = common("weightFromRows", rows);
  if (!rows.uniform() || rowsPerColumn < 1 || rows.rows() % rowsPerColumn != 0)
    recorder->fail(join("weightFromRows: ", describe(rows), rows.uniform() ? "" : " that depend on the token",
                        " do not make columns of ", rowsPerColumn, " rows"));
  return Access::weight(recorder, recorder->addOperation("hc.weight_from_rows", {Access::id(rows)},
                                                         weightType(rowsPerColumn, rows.rows() / rowsPerColumn)));
}

Channels rowsFromWeight(const Weight &weight) {
  const auto &recorder = common("rowsFromWeight", weight);
  return Access::rows(recorder, recorder->addOperation("hc.rows_from_weight", {Access::id(weight)},
                                                       rowsType(weight.rows() * weight.columns())));
}

} // namespace hyperjit::dsl
