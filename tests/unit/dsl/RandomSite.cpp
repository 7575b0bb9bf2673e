// RandomSite.cpp - see the header.
// SPDX-License-Identifier: Apache-2.0
#include "RandomSite.h"

#include "hyperjit/DSL.h"
#include "hyperjit/core/Error.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

using namespace hyperjit;
using namespace hyperjit::dsl;

namespace {

/// Values made so far, and steps that make another of some of them.
class Draw {
public:
  Draw(Site &s, uint64_t seed) : s(s), random(seed * 1000003 + uint64_t(s.n() * 64 + s.m())) {}

  void site() {
    x = s.streams();
    wide = {x};
    for (int64_t i = below(4); i >= 0; --i)
      numbers.push_back(s.coefficients(name("c"), shape(), constant(1)));
    for (int64_t i = below(3); i > 0; --i)
      channels();
    for (int64_t i = below(3); i > 0; --i)
      weight();
    if (one(3))
      numbers.push_back(s.carryIn("carry", {carried}, std::vector<double>(size_t(carried), 0.5)));
    steps(below(one(4) ? 40 : 14));
    const int64_t heads = s.m() * (1 + below(3));
    s.branchInput(rows(heads) + gatherRows(x, indices(heads, x.rows())));
    if (one(3))
      s.carryOut("carry", fit(number() + reshape(rowSum(gatherRows(x, {0})), {1}) * 0.05, {carried}));
    y = s.branchOutput();
    if (!one(40))
      weights.clear(); // parameters stop at the hole: with a weight the site is refused
    wide.push_back(y);
    steps(below(one(4) ? 30 : 10));
    Rows written = one(2) ? write(fit(number(), {s.rows()}), y) : write(fit(number(), {s.rows(), s.m()}), y);
    s.next(one(4) ? written : rows(s.rows()) + written);
  }

private:
  Site &s;
  std::mt19937_64 random;
  Rows x, y;
  std::vector<Coefficients> numbers;
  std::vector<Rows> wide;
  std::vector<Weight> weights;
  int names = 0;
  int64_t carried = 1 + below(4);

  int64_t below(int64_t limit) { return int64_t(random() % uint64_t(limit)); }
  bool one(int64_t in) { return below(in) == 0; }
  template <typename T> T of(const std::vector<T> &list) { return list[size_t(below(int64_t(list.size())))]; }
  /// What was made last is likelier, so that chains get long.
  template <typename T> T recent(const std::vector<T> &list) {
    return one(2) ? list[list.size() - 1 - size_t(below(int64_t(std::min<size_t>(3, list.size()))))] : of(list);
  }
  Coefficients number() { return recent(numbers); }
  std::string name(const char *kind) { return kind + std::to_string(names++); }
  int64_t size() { return of<int64_t>({1, 2, 3, s.n(), s.rows(), 4}); }
  std::vector<int64_t> shape() {
    std::vector<int64_t> result;
    for (int64_t rank = 1 + below(3); rank > 0; --rank)
      result.push_back(size());
    return result.size() == 3 ? std::vector<int64_t>{result[0] % 4 + 1, result[1], 2} : result;
  }
  std::vector<int64_t> indices(int64_t count, int64_t limit) {
    std::vector<int64_t> result;
    while (int64_t(result.size()) < count)
      result.push_back(below(limit));
    return result;
  }
  static int64_t product(const std::vector<int64_t> &shape) {
    int64_t result = 1;
    for (int64_t size : shape)
      result *= size;
    return result;
  }

  /// Any coefficients in a shape: cut off, repeated or spread.
  Coefficients fit(Coefficients c, const std::vector<int64_t> &shape) {
    const int64_t wanted = product(shape);
    if (c.shape() == shape)
      return c;
    c = reshape(c, {c.elements()});
    if (c.elements() < wanted && one(2))
      return broadcast(slice(c, 0, below(c.elements()), 1), shape);
    while (c.elements() < wanted)
      c = concat({c, c});
    return reshape(slice(c, 0, below(c.elements() - wanted + 1), wanted), shape);
  }
  /// Some value in `count` rows.
  Rows rows(int64_t count) {
    Rows from = recent(wide);
    if (from.rows() == count && !one(4))
      return from;
    switch (below(3)) {
    case 0:
      return gatherRows(from, indices(count, from.rows()));
    case 1:
      return scatterRows(from, indices(from.rows(), count), count);
    default:
      return mix(fit(tanh(number()), {count, from.rows()}), from);
    }
  }
  Rows channels(int64_t rows = 0) {
    rows = rows ? rows : of<int64_t>({1, 2, s.n(), s.rows(), s.m()});
    Shape shape = one(2) ? Shape{rows * s.d()} : rows % s.m() == 0 ? Shape{rows / s.m(), s.D()} : Shape{rows, s.d()};
    wide.push_back(s.channels(name("g"), shape, constant(1)));
    return wide.back();
  }
  Weight weight(int64_t rows = 0) {
    rows = rows ? rows : of<int64_t>({1, s.m(), s.rows(), s.n()});
    weights.push_back(
        s.weight(name("w"), one(2) ? Shape{rows * s.d(), 1 + below(7)} : Shape{rows, s.d(), 1 + below(7)}, normal(1)));
    return weights.back();
  }

  void steps(int64_t count) {
    for (; count > 0; --count)
      switch (below(weights.empty() ? 5 : 6)) {
      case 0:
      case 1:
        numbers.push_back(coefficients());
        break;
      case 2:
        numbers.push_back(reduction());
        break;
      case 5:
        wideParameter();
        break;
      default:
        wide.push_back(map());
      }
  }

  Coefficients coefficients() {
    const Coefficients a = number(), b = number(), positive = a * a * 0.1 + 0.5;
    const int64_t axis = below(a.rank());
    switch (below(30)) {
    case 0:
      return a + fit(b, a.shape());
    case 1: // broadcast from the right, both ways
      return fit(b, {a.shape().back()}) * tanh(a);
    case 2:
      return a - fit(b, one(2) ? a.shape() : std::vector<int64_t>{1});
    case 3:
      return fit(b, {2, 1}) / fit(positive, {1, size()});
    case 4:
      return max(a, fit(b, a.shape()));
    case 5:
      return max(a, 0.1);
    case 6:
      return exp(tanh(a));
    case 7:
      return log(positive);
    case 8:
      return sigmoid(a);
    case 9:
      return one(2) ? sqrt(positive) : rsqrt(positive);
    case 10:
      return reciprocal(positive);
    case 11:
      return -a;
    case 12:
      return 1.5 - a * (one(4) ? 0 : 0.5);
    case 13:
      return one(2) ? 1.0 / positive : 0.25 + a / 2.0;
    case 14:
      return one(2) ? transpose(a) : reshape(a, {a.elements()});
    case 15: {
      std::vector<int64_t> order(size_t(a.rank()));
      for (size_t i = 0; i < order.size(); ++i)
        order[i] = int64_t(i);
      std::shuffle(order.begin(), order.end(), random);
      return transpose(a, order);
    }
    case 16: {
      const int64_t offset = below(a.size(axis));
      return slice(a, one(2) ? axis : axis - a.rank(), offset, 1 + below(a.size(axis) - offset));
    }
    case 17:
      return a.elements() > 40 ? slice(a, axis, 0, 1) : concat({a, fit(b, a.shape()), a}, axis);
    case 18: {
      std::vector<int64_t> shape = a.shape();
      shape.insert(shape.begin(), 1 + below(3));
      return a.elements() > 20 || a.rank() > 3 ? tanh(a) : broadcast(a, shape);
    }
    case 19:
      return reduceSum(a, one(3) ? std::vector<int64_t>{0, axis} : std::vector<int64_t>{axis}) * 0.5;
    case 20:
      return mean(a, {axis - a.rank()});
    case 21: {
      const int64_t inner = size();
      return matmul(fit(tanh(a), {size(), inner}), fit(b, {inner, size()})) * 0.5;
    }
    case 22:
      return softmax(a);
    case 23: {
      const int64_t first = below(a.size(axis));
      if (first == 0)
        return tanh(a);
      auto [head, tail] = split(a, {first, a.size(axis) - first}, axis);
      numbers.push_back(tail);
      return head;
    }
    case 24:
    case 25: {
      Sinkhorn options;
      options.iterations = 1 + below(4);
      options.start = of<std::string>({"exp", "exp_raw", "softmax_eps"});
      options.first = of<std::string>({"row", "col"});
      options.place = of<std::string>({"none", "clamp", "add"});
      // The largest logit that "exp" takes off is no operand of the gradient, which eps would see.
      options.epsilon = options.start == "exp" ? 1e-12 : of<double>({1e-6, 0.01});
      options.temperature = of<double>({1, 0.7, 2});
      if (options.start != "softmax_eps" && options.place == "none")
        options.logDomain = one(2);
      const int64_t n = size() % 7;
      return sinkhorn(fit(tanh(a), {std::max<int64_t>(n, 1), std::max<int64_t>(n, 1)}), options);
    }
    case 26: {
      const int64_t n = 1 + below(4), count[] = {1, 1, 2, 6, 24};
      return permutationMixture(fit(softmax(a), {count[n]}), n);
    }
    case 27: {
      std::vector<int64_t> shape{size(), 1 + below(3)};
      std::vector<double> list(size_t(product(shape)));
      for (double &value : list)
        value = double(below(9)) / 4 - 1;
      return s.constants(shape, list);
    }
    default:
      return tanh(a);
    }
  }

  /// Each is a sum over channels: it is kept near 1.
  Coefficients reduction() {
    Rows from = recent(wide);
    switch (below(weights.empty() ? 3 : 7)) {
    case 0: {
      Rows other = recent(wide);
      if (from.rows() * other.rows() > 40)
        return rowSum(from) * 0.05;
      return dot(from, other) * (one(3) ? 0.01 : 0.003);
    }
    case 1:
      return tanh(dotRows(from, rows(from.rows())) * 0.01);
    case 2:
      return rowSum(from) * 0.05;
    default: {
      Weight w = recent(weights);
      if (w.rows() == from.rows() && one(2))
        return tanh(project(flatten(from), w));
      if (from.rows() % w.rows())
        from = rows(w.rows() * (1 + below(2)));
      if (from.rows() / w.rows() * w.columns() > 60)
        return rowSum(from) * 0.05;
      if (!one(4))
        return project(from, w) * 0.1;
      auto both = project(from, {w, recent(weights).rows() == w.rows() ? w : weight(w.rows())});
      numbers.push_back(both[0] * 0.1);
      return sigmoid(both[1]);
    }
    }
  }

  Rows map() {
    Rows from = recent(wide);
    if (from.rows() > 12)
      return gatherRows(from, indices(s.n(), from.rows()));
    switch (below(weights.empty() ? 11 : 12)) {
    case 0:
      return mix(
          fit(tanh(number()), one(3) ? std::vector<int64_t>{from.rows()} : std::vector<int64_t>{size(), from.rows()}),
          from);
    case 1:
      return scaleRows(fit(tanh(number()), {from.rows()}), from);
    case 2: {
      Rows g = recent(wide);
      return scale(from, from.rows() % g.rows() ? channels(1) : g);
    }
    case 3:
      return write(fit(tanh(number()), {from.rows() * (1 + below(2))}), from);
    case 4:
      return gatherRows(from, indices(size(), from.rows()));
    case 5: {
      const int64_t count = size();
      return scatterRows(from, indices(from.rows(), count), count);
    }
    case 6: // not alone: a layernorm of rows that are the same everywhere is rounding, which the next norm makes large
      return fillRows(fit(number(), {from.rows()})) * from;
    case 7:
      return from + rows(from.rows());
    case 8:
      return from - rows(from.rows());
    case 9:
      return from * rows(from.rows());
    case 10: {
      NormOptions options;
      options.epsilon = of<double>({1e-6, 1e-3, 0.1});
      auto kind = NormKind(below(4));
      if (kind == NormKind::LayerNorm)
        options.epsilon = 0.1;
      int64_t group = from.rows() % s.m() == 0 && one(2) ? s.m() : 1;
      const bool flat = one(3);
      group = flat ? from.rows() : group;
      if (one(2))
        options.gain = channels(one(2) ? group : 1);
      if (options.gain.valid() && kind == NormKind::LayerNorm && one(2))
        options.bias = channels(one(2) ? group : 1);
      return norm(kind, flat ? flatten(from) : groupRows(from, group), options);
    }
    default: {
      Weight w = recent(weights);
      return expand(fit(number(), {1 + below(2), w.columns()}), w);
    }
    }
  }

  void wideParameter() {
    Weight w = recent(weights);
    switch (below(5)) {
    case 0:
      weights.push_back(concatWeights(std::vector<Weight>{w, weight(w.rows())}));
      break;
    case 1: {
      const int64_t offset = below(w.columns());
      weights.push_back(sliceWeight(w, offset, 1 + below(w.columns() - offset)));
      break;
    }
    case 2:
      weights.push_back(scaleWeight(w, channels(w.rows())));
      break;
    case 3: {
      const int64_t rows = one(2) ? 1 : s.m();
      weights.push_back(weightFromRows(channels(rows * (1 + below(4))), rows));
      break;
    }
    default:
      wide.push_back(rowsFromWeight(w));
    }
  }
};

} // namespace

std::string hyperjit::test::randomSite(uint64_t seed, const std::string &sizes) {
  static std::set<uint64_t> defined;
  const std::string name = "random-" + std::to_string(seed), spec = name + ":" + sizes;
  if (defined.insert(seed).second)
    define(name, [seed](Site &s) { Draw(s, seed).site(); });
  if (std::getenv("HYPERJIT_TEST_VERBOSE"))
    std::printf("%s\n", spec.c_str()), std::fflush(stdout);
  try {
    const auto site = ProgramSource::global().site(SiteSpec::parse(spec));
    if (std::getenv("HYPERJIT_TEST_VERBOSE") && randomSites(0) == 1)
      std::printf("%s", site->text.c_str());
    return spec;
  } catch (const UserError &error) {
    if (error.id() != ErrorId::InvalidRecipe)
      throw;
    return {};
  }
}

std::string hyperjit::test::randomSizes(uint64_t seed, bool wide) {
  std::mt19937_64 random(seed);
  const int64_t widths[] = {1, 7, 33, 129, 320}, m = random() % 3 || wide ? 1 : 2 + int64_t(random() % 2);
  const int64_t n = 1 + int64_t(random() % (wide ? 4 : 6)),
                d = wide ? 1024 + int64_t(random() % 3) * 64 : widths[random() % 5];
  return "n=" + std::to_string(n) + ",m=" + std::to_string(m) + ",d=" + std::to_string(m * d);
}

uint64_t hyperjit::test::randomSeed() {
  static const uint64_t seed = [] {
    const char *text = std::getenv("HYPERJIT_TEST_SEED");
    const uint64_t seed = text ? std::strtoull(text, nullptr, 10) : 1;
    std::printf("[ SEED     ] HYPERJIT_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return seed;
  }();
  return seed;
}

int hyperjit::test::randomSites(int few) {
  const char *text = std::getenv("HYPERJIT_TEST_SITES");
  return text ? std::atoi(text) : few;
}
