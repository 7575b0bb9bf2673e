//===- Coefficients.cpp - Coefficient maths of the DSL ----------------------------------===//
//
// Shapes broadcast from the right; every broadcast and constant stands in the program, so that the compiler's
// elementwise operations have equal shapes on both sides.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include <algorithm>
#include <numeric>

#include "Operators.h"
#include "hyperjit/core/Error.h"

namespace hyperjit::dsl {
using namespace detail;

namespace detail {
const std::shared_ptr<Recorder> &requireValid(std::string_view function, const Value &value) {
  if (!value.valid())
    throw UserError(join(function, ": an operand is empty; values come from a Site or from functions of values"));
  return Access::recorder(value);
}

void requireSameSite(std::string_view function, const Value &a, const Value &b) {
  requireValid(function, b);
  if (Access::recorder(a) != Access::recorder(b))
    Access::recorder(a)->fail(join(function, ": operands ", describe(a), " and ", describe(b),
                                   " belong to different sites; a program uses values of its own site only"));
}

int64_t normalAxis(std::string_view function, const Coefficients &a, int64_t axis) {
  int64_t normal = axis < 0 ? axis + a.rank() : axis;
  if (normal < 0 || normal >= a.rank())
    Access::recorder(a)->fail(join(function, ": axis ", axis, " of ", describe(a), " does not exist"));
  return normal;
}
} // namespace detail

namespace {
Type coefficientsType(std::vector<int64_t> shape) { return {TypeKind::Coefficients, std::move(shape)}; }

Coefficients record(const std::shared_ptr<Recorder> &recorder, std::string_view name, std::vector<int> operands,
                    std::vector<int64_t> shape, std::vector<Attribute> attributes = {}) {
  return Access::coefficients(
      recorder,
      recorder->addOperation(name, std::move(operands), coefficientsType(std::move(shape)), std::move(attributes)));
}

Coefficients constantLike(const Coefficients &like, double value) {
  const auto &recorder = requireValid("constant", like);
  return record(recorder, "hc.constant", {}, like.shape(),
                {{"value", denseText(like.shape(), std::vector<double>(like.elements(), value))}});
}

Coefficients binary(std::string_view function, const char *operation, const Coefficients &a, const Coefficients &b) {
  const auto &recorder = common(function, a, b);
  std::vector<int64_t> shape(std::max(a.rank(), b.rank()));
  for (int64_t i = 0, rank = static_cast<int64_t>(shape.size()); i < rank; ++i) {
    int64_t fromRight = rank - i;
    int64_t sizeA = fromRight <= a.rank() ? a.size(-fromRight) : 1;
    int64_t sizeB = fromRight <= b.rank() ? b.size(-fromRight) : 1;
    if (sizeA != sizeB && sizeA != 1 && sizeB != 1)
      recorder->fail(join(function, ": the left side is ", shapeText(a.shape()), ", the right side ",
                          shapeText(b.shape()), "; sizes must be equal or 1, counted from the right"));
    shape[i] = std::max(sizeA, sizeB);
  }
  Coefficients left = broadcast(a, shape), right = broadcast(b, shape);
  return record(recorder, operation, {Access::id(left), Access::id(right)}, shape);
}

Coefficients unary(std::string_view function, const char *operation, const Coefficients &a) {
  const auto &recorder = common(function, a);
  return record(recorder, operation, {Access::id(a)}, a.shape());
}
} // namespace

Coefficients operator+(const Coefficients &a, const Coefficients &b) {
  return binary("coefficients + coefficients", "hc.add", a, b);
}
Coefficients operator-(const Coefficients &a, const Coefficients &b) {
  return binary("coefficients - coefficients", "hc.sub", a, b);
}
Coefficients operator*(const Coefficients &a, const Coefficients &b) {
  return binary("coefficients * coefficients", "hc.mul", a, b);
}
Coefficients operator/(const Coefficients &a, const Coefficients &b) {
  return binary("coefficients / coefficients", "hc.div", a, b);
}
Coefficients max(const Coefficients &a, const Coefficients &b) { return binary("max", "hc.max", a, b); }

Coefficients operator+(const Coefficients &a, double b) { return a + constantLike(a, b); }
Coefficients operator-(const Coefficients &a, double b) { return a - constantLike(a, b); }
Coefficients operator*(const Coefficients &a, double b) { return a * constantLike(a, b); }
Coefficients operator/(const Coefficients &a, double b) { return a / constantLike(a, b); }
Coefficients operator+(double a, const Coefficients &b) { return constantLike(b, a) + b; }
Coefficients operator-(double a, const Coefficients &b) { return constantLike(b, a) - b; }
Coefficients operator*(double a, const Coefficients &b) { return constantLike(b, a) * b; }
Coefficients operator/(double a, const Coefficients &b) { return constantLike(b, a) / b; }
Coefficients max(const Coefficients &a, double b) { return max(a, constantLike(a, b)); }
Coefficients operator-(const Coefficients &a) { return unary("-coefficients", "hc.neg", a); }
Coefficients exp(const Coefficients &a) { return unary("exp", "hc.exp", a); }
Coefficients log(const Coefficients &a) { return unary("log", "hc.log", a); }
Coefficients tanh(const Coefficients &a) { return unary("tanh", "hc.tanh", a); }
Coefficients sigmoid(const Coefficients &a) { return unary("sigmoid", "hc.sigmoid", a); }
Coefficients sqrt(const Coefficients &a) { return unary("sqrt", "hc.sqrt", a); }
Coefficients rsqrt(const Coefficients &a) { return unary("rsqrt", "hc.rsqrt", a); }
Coefficients reciprocal(const Coefficients &a) { return unary("reciprocal", "hc.reciprocal", a); }
Coefficients softmax(const Coefficients &a) { return unary("softmax", "hc.softmax", a); }

Coefficients reshape(const Coefficients &a, const std::vector<int64_t> &shape) {
  const auto &recorder = common("reshape", a);
  bool positive = !shape.empty() && std::all_of(shape.begin(), shape.end(), [](int64_t size) { return size > 0; });
  if (!positive || product(shape) != a.elements())
    recorder->fail(
        join("reshape: ", describe(a), " to ", shapeText(shape), "; the number of elements must stay ", a.elements()));
  if (shape == a.shape())
    return a;
  const Node &node = Access::node(a);
  if (node.name == "hc.reshape")
    return reshape(Access::coefficients(recorder, node.operands[0]), shape);
  return record(recorder, "hc.reshape", {Access::id(a)}, shape);
}

Coefficients transpose(const Coefficients &a) {
  requireValid("transpose", a);
  std::vector<int64_t> order(a.rank());
  std::iota(order.rbegin(), order.rend(), 0);
  return transpose(a, order);
}

Coefficients transpose(const Coefficients &a, const std::vector<int64_t> &order) {
  const auto &recorder = common("transpose", a);
  std::vector<int64_t> sorted = order, identity(a.rank());
  std::sort(sorted.begin(), sorted.end());
  std::iota(identity.begin(), identity.end(), 0);
  if (sorted != identity)
    recorder->fail(join("transpose: order ", shapeText(order), " is no permutation of the axes of ", describe(a)));
  if (order == identity)
    return a;
  std::vector<int64_t> shape;
  for (int64_t axis : order)
    shape.push_back(a.size(axis));
  // Where only axes of size 1 change places the numbers stay where they are.
  std::vector<int64_t> wide;
  for (int64_t axis : order)
    if (a.size(axis) > 1)
      wide.push_back(axis);
  if (std::is_sorted(wide.begin(), wide.end()))
    return reshape(a, shape);
  return record(recorder, "hc.transpose", {Access::id(a)}, shape, {arrayAttribute("permutation", order)});
}

Coefficients slice(const Coefficients &a, int64_t axis, int64_t offset, int64_t size) {
  const auto &recorder = common("slice", a);
  axis = normalAxis("slice", a, axis);
  if (offset < 0 || size < 1 || offset > a.size(axis) - size) // the sum could overflow
    recorder->fail(join("slice: range of ", size, " from ", offset, " on axis ", axis, " is outside ", describe(a)));
  if (size == a.size(axis))
    return a;
  std::vector<int64_t> shape = a.shape();
  shape[axis] = size;
  return record(recorder, "hc.slice", {Access::id(a)}, shape,
                {integerAttribute("axis", axis), integerAttribute("offset", offset)});
}

std::vector<Coefficients> split(const Coefficients &a, std::span<const int64_t> sizes, int64_t axis) {
  const auto &recorder = common("split", a);
  axis = normalAxis("split", a, axis);
  int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  if (total != a.size(axis))
    recorder->fail(join("split: pieces ", shapeText({sizes.begin(), sizes.end()}), " add up to ", total, ", axis ",
                        axis, " of ", describe(a), " has ", a.size(axis)));
  std::vector<Coefficients> pieces;
  int64_t offset = 0;
  for (int64_t size : sizes) {
    pieces.push_back(slice(a, axis, offset, size));
    offset += size;
  }
  return pieces;
}

Coefficients concat(std::span<const Coefficients> parts, int64_t axis) {
  if (parts.empty())
    throw UserError("concat: the list of coefficients is empty");
  const auto &recorder = requireValid("concat", parts.front());
  axis = normalAxis("concat", parts.front(), axis);
  std::vector<int64_t> shape = parts.front().shape();
  shape[axis] = 0;
  std::vector<int> operands;
  for (const Coefficients &part : parts) {
    requireSameSite("concat", parts.front(), part);
    std::vector<int64_t> rest = part.shape();
    if (part.rank() == static_cast<int64_t>(shape.size()))
      rest[axis] = shape[axis];
    if (rest != shape)
      recorder->fail(join("concat: ", describe(parts.front()), " and ", describe(part), " do not join along axis ",
                          axis, "; all other axes must be equal"));
    shape[axis] += part.size(axis);
    operands.push_back(Access::id(part));
  }
  if (parts.size() == 1)
    return parts.front();
  return record(recorder, "hc.concat", std::move(operands), shape, {integerAttribute("axis", axis)});
}

Coefficients concat(std::initializer_list<Coefficients> parts, int64_t axis) {
  return concat(std::span<const Coefficients>(parts.begin(), parts.size()), axis);
}

Coefficients broadcast(const Coefficients &a, const std::vector<int64_t> &shape) {
  const auto &recorder = common("broadcast", a);
  if (a.shape() == shape)
    return a;
  int64_t missing = static_cast<int64_t>(shape.size()) - a.rank();
  bool fits = missing >= 0;
  std::vector<int64_t> dims;
  for (int64_t axis = 0; fits && axis < a.rank(); ++axis) {
    fits = a.size(axis) == shape[axis + missing] || a.size(axis) == 1;
    dims.push_back(axis + missing);
  }
  if (!fits)
    recorder->fail(join("broadcast: ", describe(a), " to ", shapeText(shape),
                        "; sizes must be equal or 1, counted from the right"));
  return record(recorder, "hc.broadcast", {Access::id(a)}, shape, {arrayAttribute("dims", dims)});
}

Coefficients reduceSum(const Coefficients &a, const std::vector<int64_t> &axes) {
  const auto &recorder = common("reduceSum", a);
  std::vector<bool> dropped(a.rank(), false);
  for (int64_t axis : axes)
    dropped[normalAxis("reduceSum", a, axis)] = true;
  std::vector<int64_t> sorted, shape;
  for (int64_t axis = 0; axis < a.rank(); ++axis) {
    if (dropped[axis])
      sorted.push_back(axis);
    else
      shape.push_back(a.size(axis));
  }
  if (sorted.empty())
    return a;
  if (shape.empty())
    shape.push_back(1);
  return record(recorder, "hc.reduce_sum", {Access::id(a)}, shape, {arrayAttribute("axes", sorted)});
}

Coefficients mean(const Coefficients &a, const std::vector<int64_t> &axes) {
  Coefficients sum = reduceSum(a, axes);
  return sum * (static_cast<double>(sum.elements()) / static_cast<double>(a.elements()));
}

Coefficients matmul(const Coefficients &a, const Coefficients &b) {
  const auto &recorder = common("matmul", a, b);
  if (a.rank() != 2 || b.rank() != 2 || a.size(1) != b.size(0))
    recorder->fail(join("matmul: the left side is ", shapeText(a.shape()), ", the right side ", shapeText(b.shape()),
                        "; <M, K> and <K, N> are needed"));
  return record(recorder, "hc.matmul", {Access::id(a), Access::id(b)}, {a.size(0), b.size(1)});
}

Coefficients sinkhorn(const Coefficients &logits, const Sinkhorn &options) {
  const auto &recorder = common("sinkhorn", logits);
  if (logits.rank() != 2 || logits.size(0) != logits.size(1))
    recorder->fail(join("sinkhorn: logits are ", shapeText(logits.shape()), "; a square matrix is needed"));
  auto oneOf = [&](const char *what, const std::string &value, std::initializer_list<std::string_view> allowed) {
    std::string list;
    for (std::string_view word : allowed) {
      if (value == word)
        return;
      list += (list.empty() ? "" : ", ") + std::string(word);
    }
    recorder->fail(join("sinkhorn: ", what, " is '", value, "'; there are ", list));
  };
  oneOf("start", options.start, {"exp", "exp_raw", "softmax_eps"});
  oneOf("first", options.first, {"row", "col"});
  oneOf("place", options.place, {"none", "clamp", "add"});
  if (options.iterations < 1 || options.iterations > mostIterations)
    recorder->fail(join("sinkhorn: iterations is ", options.iterations, "; it must be from 1 to ", mostIterations));
  if (!(options.temperature > 0))
    recorder->fail(join("sinkhorn: tau is ", options.temperature, "; it must be above 0"));
  if (!(options.epsilon >= 0))
    recorder->fail(join("sinkhorn: eps is ", options.epsilon, "; it must be at least 0"));
  if (options.logDomain && (options.place != "none" || options.start == "softmax_eps"))
    recorder->fail(join("sinkhorn: log_domain has no eps: place must be none and start exp or exp_raw, not place '",
                        options.place, "' and start '", options.start, "'"));
  return record(recorder, "hc.sinkhorn", {Access::id(logits)}, logits.shape(),
                {integerAttribute("iterations", options.iterations),
                 wordAttribute("start", options.start),
                 wordAttribute("first", options.first),
                 wordAttribute("place", options.place),
                 numberAttribute("eps", options.epsilon),
                 numberAttribute("tau", options.temperature),
                 {"log_domain", options.logDomain ? "true" : "false"}});
}

Coefficients permutationMixture(const Coefficients &c, int64_t n) {
  const auto &recorder = common("permutationMixture", c);
  if (n > mostPermuted)
    recorder->fail(join("permutationMixture: n = ", n, "; at most ", mostPermuted, " streams are permuted"));
  int64_t count = 1;
  for (int64_t i = 2; i <= n; ++i)
    count *= i;
  if (n < 1 || c.rank() != 1 || c.size() != count)
    recorder->fail(join("permutationMixture: coefficients are ", shapeText(c.shape()), " for n = ", n,
                        "; one for each of the n! permutations is needed"));
  return record(recorder, "hc.permutation_mix", {Access::id(c)}, {n, n});
}

} // namespace hyperjit::dsl
