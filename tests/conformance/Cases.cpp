// SPDX-License-Identifier: Apache-2.0
#include "Cases.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/ProgramSource.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>

namespace hyperjit::conformance {
namespace {

constexpr int64_t kTokens[] = {1, 3, 37, 127, 1000}; // 0 has no kernels: a test of its own
constexpr int64_t kDims[] = {1, 7, 48, 129, 320, 1000, 4096};
/// Elements of X: the fp64 reference keeps some tens of tensors of this size (4 GB for 16.4 million).
constexpr int64_t kLargest = 1'300'000, kLargestOfAll = 4 * 1000 * 4096, kLargestChain = 650'000;

std::string join(const std::vector<std::string> &parts, const char *between) {
  std::string text;
  for (const std::string &part : parts)
    text += (text.empty() ? "" : between) + part;
  return text;
}

/// Different ranks: none, one and two leading axes.
std::vector<int64_t> leadOf(int64_t tokens) {
  if (tokens == 1)
    return {};
  if (tokens == 1000)
    return {8, 125};
  return {tokens};
}

/// Values of options that are numbers, beside the declared default.
const std::map<std::string, std::vector<std::string>> &numbers() {
  static const std::map<std::string, std::vector<std::string>> table = {
      {"iterations", {"1", "3"}}, {"eps", {"1e-3"}},      {"tau", {"0.5"}},          {"pre_eps", {"0.01"}},
      {"post_mult", {"1"}},       {"norm_eps", {"1e-3"}}, {"softmax_eps", {"1e-3"}}, {"proposals", {"2", "3"}},
  };
  return table;
}

} // namespace

uint64_t testSeed() {
  static const uint64_t seed = [] {
    const char *text = std::getenv("HYPERJIT_TEST_SEED");
    return text && *text ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  }();
  return seed;
}

bool testAll() {
  const char *text = std::getenv("HYPERJIT_TEST_ALL");
  return text && *text && std::string(text) != "0";
}

std::string Case::text() const {
  const char *inputName = inputs == Inputs::Corners ? " corners" : inputs == Inputs::Offset ? " offset" : "";
  return spec + " T=" + std::to_string(product(lead)) + " seed=" + std::to_string(seed) + inputName;
}
std::string Chain::text() const {
  return join(specs, " | ") + " T=" + std::to_string(product(lead)) + " seed=" + std::to_string(seed);
}

int64_t product(const std::vector<int64_t> &sizes) {
  int64_t result = 1;
  for (int64_t size : sizes)
    result *= size;
  return result;
}

const std::vector<Exclusion> &exclusions() {
  auto refused = [](const char *name, std::function<bool(const Sizes &)> applies) {
    return Exclusion{name, true,
                     [applies = std::move(applies)](const Sizes &sizes, Draw, bool) { return applies(sizes); }};
  };
  auto costly = [](const char *name, std::function<bool(const Sizes &, Draw, bool)> applies) {
    return Exclusion{name, false, std::move(applies)};
  };
  static const std::vector<Exclusion> all = {
      refused("more than 32 rows", [](const Sizes &s) { return s.n * s.m > 32; }),
      refused("m does not divide D", [](const Sizes &s) { return s.d % s.m != 0; }),
      refused("frac has one stream", [](const Sizes &s) { return s.recipe == "frac" && s.n > 1; }),
      refused("the DeepSeek convention has no fracs",
              [](const Sizes &s) { return (s.recipe == "deepseek" || s.recipe == "delayed-pre") && s.m > 1; }),
      refused("permutation has n! coefficients: n <= 5",
              [](const Sizes &s) { return s.recipe == "permutation" && s.n > 5; }),
      refused("permutation has no fracs", [](const Sizes &s) { return s.recipe == "permutation" && s.m > 1; }),
      costly("sites of more than 1.3 million elements wait for --all",
             [](const Sizes &s, Draw draw, bool all) {
               return !all && draw != Draw::Chain && s.tokens * s.n * s.d > kLargest;
             }),
      costly("chains of more than 0.65 million elements wait for --all",
             [](const Sizes &s, Draw draw, bool all) {
               return !all && draw == Draw::Chain && s.tokens * s.n * s.d > kLargestChain;
             }),
      costly("more than 16.4 million elements: 4 streams of 4096 channels and 1000 tokens",
             [](const Sizes &s, Draw, bool all) { return all && s.tokens * s.n * s.d > kLargestOfAll; }),
      // Their kernels take seconds to compile; the pairs and the chains have them.
      costly("random draws of more than 8 streams wait for --all",
             [](const Sizes &s, Draw draw, bool all) { return !all && draw == Draw::Random && s.n > 8; }),
  };
  return all;
}

const Exclusion *excluded(const std::string &recipe, int64_t n, int64_t m, int64_t d) {
  for (const Exclusion &exclusion : exclusions())
    if (exclusion.refused && exclusion.applies({recipe, n, m, d, 1}, Draw::Pairs, false))
      return &exclusion;
  return nullptr;
}

const Exclusion *excluded(const Sizes &sizes, Draw draw, bool all) {
  for (const Exclusion &exclusion : exclusions())
    if (exclusion.applies(sizes, draw, all))
      return &exclusion;
  return nullptr;
}

bool possibleOptions(const std::vector<Factor> &factors, const Row &row) {
  auto value = [&](const char *name) -> std::string {
    for (size_t i = 0; i < factors.size(); ++i)
      if (factors[i].name == name && row[i] >= 0)
        return factors[i].values[row[i]];
    return "";
  };
  // "logarithms have no eps": softmax_eps is a start of the other form.
  return !(value("log_domain") == "true" && value("start") == "softmax_eps");
}

//===----------------------------------------------------------------------===//
// Covering rows
//===----------------------------------------------------------------------===//

std::vector<Row> covering(const std::vector<Factor> &factors, const std::function<bool(const Row &)> &possible,
                          uint64_t seed, int together, const std::vector<Row> &starts) {
  using Value = std::pair<int, int>;      // a factor and an index into its values
  using Target = std::pair<Value, Value>; // in order; a value by itself is twice the same
  const int count = static_cast<int>(factors.size());
  std::mt19937_64 random(seed);
  auto sizeOf = [&](int factor) { return static_cast<int>(factors[factor].values.size()); };
  std::vector<Target> order;
  for (int a = 0; a < count; ++a)
    for (int b = together == 1 ? a : a + 1; b < (together == 1 ? a + 1 : count); ++b)
      for (int i = 0; i < sizeOf(a); ++i)
        for (int j = a == b ? i : 0; j < (a == b ? i + 1 : sizeOf(b)); ++j) {
          Row row(count, -1);
          row[a] = i;
          row[b] = j;
          if (possible(row))
            order.push_back({{a, i}, {b, j}});
        }
  std::shuffle(order.begin(), order.end(), random);
  std::set<Target> open(order.begin(), order.end());
  std::vector<Row> rows;
  auto complete = [&](Row row) {
    std::vector<int> rest;
    for (int factor = 0; factor < count; ++factor)
      if (row[factor] < 0)
        rest.push_back(factor);
    std::shuffle(rest.begin(), rest.end(), random);
    for (int factor : rest) {
      int best = -1, bestGain = -1;
      const int start = static_cast<int>(random() % sizeOf(factor)); // ties are broken differently each time
      for (int step = 0; step < sizeOf(factor); ++step) {
        row[factor] = (start + step) % sizeOf(factor);
        if (!possible(row))
          continue;
        int gain = 0;
        for (int other = 0; other < count; ++other)
          if (row[other] >= 0) {
            const Value a{factor, row[factor]}, b{other, row[other]};
            gain += static_cast<int>(open.count(factor < other ? Target{a, b} : Target{b, a}));
          }
        if (gain > bestGain) {
          bestGain = gain;
          best = row[factor];
        }
      }
      if (best < 0)
        throw std::logic_error("no value of " + factors[factor].name + " is possible beside the others");
      row[factor] = best;
    }
    for (int a = 0; a < count; ++a)
      for (int b = a; b < count; ++b)
        open.erase({{a, row[a]}, {b, row[b]}});
    rows.push_back(std::move(row));
  };
  for (const Row &start : starts)
    complete(start);
  for (const Target &target : order)
    if (open.count(target)) {
      Row row(count, -1);
      row[target.first.first] = target.first.second;
      row[target.second.first] = target.second.second;
      complete(std::move(row));
    }
  return rows;
}

std::vector<Factor> factorsOf(const std::string &recipe) {
  std::vector<Factor> factors = {{"n", {"4", "1", "2", "3", "5", "6", "7", "8", "16"}},
                                 {"m", {"1", "2", "3", "4", "8"}},
                                 {"dtype", {"fp32", "fp64", "bf16", "fp16"}}};
  for (Factor &factor : factors) // what a recipe cannot have at all is no value of it
    std::erase_if(factor.values, [&](const std::string &value) {
      return (factor.name == "n" && excluded(recipe, std::stoll(value), 1, 4096)) ||
             (factor.name == "m" && excluded(recipe, 1, std::stoll(value), 48));
    });
  for (const RecipeOption &option : ProgramSource::global().describe(recipe).options) {
    if (!option.kernel)
      continue;
    Factor factor{option.name, option.values};
    if (auto found = numbers().find(option.name); found != numbers().end()) {
      factor.values = found->second;
      factor.values.insert(factor.values.begin(), option.defaultValue);
    }
    if (factor.values.empty())
      throw std::logic_error("conformance knows no values for option '" + option.name + "' of recipe '" + recipe +
                             "': add a line to numbers() in Cases.cpp");
    factors.push_back(std::move(factor));
  }
  return factors;
}

//===----------------------------------------------------------------------===//
// Cases
//===----------------------------------------------------------------------===//

namespace {

Sizes sizesOf(const std::string &recipe, const std::vector<Factor> &factors, const Row &row) {
  Sizes sizes{recipe};
  for (size_t i = 0; i < factors.size(); ++i)
    if (row[i] >= 0 && factors[i].name == "n")
      sizes.n = std::stoll(factors[i].values[row[i]]);
    else if (row[i] >= 0 && factors[i].name == "m")
      sizes.m = std::stoll(factors[i].values[row[i]]);
  return sizes;
}

std::string specOf(const std::string &recipe, const std::vector<Factor> &factors, const Row &row, int64_t d) {
  std::vector<std::string> words;
  for (size_t i = 0; i < factors.size(); ++i)
    if (factors[i].name != "D" && factors[i].name != "T")
      words.push_back(factors[i].name + "=" + factors[i].values[row[i]]);
  words.push_back("d=" + std::to_string(d));
  return recipe + ":" + join(words, ",");
}

/// D and T in turn: those used least so far, of those that fit and are asked for (0: any).
struct Rotation {
  Draw draw;
  bool all;
  std::map<int64_t, int> dims = {}, tokens = {};
  std::map<std::pair<int64_t, int64_t>, int> both = {};
  std::pair<int64_t, int64_t> next(Sizes sizes, int64_t onlyDim = 0, int64_t onlyTokens = 0) {
    std::pair<int64_t, int64_t> best{0, 0};
    int least = 1 << 30;
    for (int64_t d : kDims)
      for (int64_t t : kTokens) {
        sizes.d = d;
        sizes.tokens = t;
        if ((onlyDim && d != onlyDim) || (onlyTokens && t != onlyTokens) || excluded(sizes, draw, all))
          continue;
        const int used = 4 * std::max(dims[d], tokens[t]) + 2 * (dims[d] + tokens[t]) + both[{d, t}];
        if (used < least) {
          least = used;
          best = {d, t};
        }
      }
    if (!best.first)
      throw std::logic_error("no D and T fit " + sizes.recipe + " with n=" + std::to_string(sizes.n) +
                             ", m=" + std::to_string(sizes.m));
    ++dims[best.first];
    ++tokens[best.second];
    ++both[best];
    return best;
  }
};

uint64_t numberOf(const std::string &text) { return std::hash<std::string>()(text) % 1'000'000; }

} // namespace

/// Whether some D and T fit a row that may be open.
static bool possible(const std::string &recipe, const std::vector<Factor> &factors, const Row &row, Draw draw,
                     bool all) {
  if (!possibleOptions(factors, row))
    return false;
  Sizes sizes = sizesOf(recipe, factors, row);
  auto chosen = [&](const char *name) -> int64_t {
    for (size_t i = 0; i < factors.size(); ++i)
      if (factors[i].name == name && row[i] >= 0)
        return std::stoll(factors[i].values[row[i]]);
    return 0;
  };
  const int64_t d = chosen("D"), t = chosen("T");
  for (int64_t dim : kDims)
    for (int64_t tokens : kTokens) {
      sizes.d = dim;
      sizes.tokens = tokens;
      if ((!d || d == dim) && (!t || t == tokens) && !excluded(sizes, draw, all))
        return true;
    }
  return false;
}

std::vector<Case> pairCases(const std::string &recipe, bool all) {
  std::vector<Factor> factors = factorsOf(recipe);
  const size_t dFactor = factors.size(), tFactor = dFactor + 1;
  if (all) {
    factors.push_back({"D", {}});
    factors.push_back({"T", {}});
    for (int64_t d : kDims)
      factors[dFactor].values.push_back(std::to_string(d));
    for (int64_t t : kTokens)
      factors[tFactor].values.push_back(std::to_string(t));
  }
  const std::vector<Row> rows = covering(
      factors, [&](const Row &row) { return possible(recipe, factors, row, Draw::Pairs, all); }, 1, 2);
  std::vector<Case> cases;
  Rotation rotation{Draw::Pairs, all};
  auto add = [&](const Row &row, int64_t d, int64_t t) {
    Case made{specOf(recipe, factors, row, d), leadOf(t), 0};
    made.seed = numberOf(made.spec);
    cases.push_back(std::move(made));
  };
  for (const Row &row : rows) {
    const auto [d, t] =
        all ? std::pair{kDims[row[dFactor]], kTokens[row[tFactor]]} : rotation.next(sizesOf(recipe, factors, row));
    add(row, d, t);
  }
  // A recipe with few pairs (static) still meets every D and every T.
  const Row plain(factors.size(), 0);
  for (int64_t d : kDims)
    for (int64_t t : kTokens)
      if (!all && (!rotation.dims[d] || !rotation.tokens[t]) && !excluded({recipe, 4, 1, d, t}, Draw::Pairs, all)) {
        ++rotation.dims[d];
        ++rotation.tokens[t];
        add(plain, d, t);
      }
  return cases;
}

std::vector<Case> randomCases(const std::string &recipe, uint64_t seed, int count) {
  const std::vector<Factor> factors = factorsOf(recipe);
  std::mt19937_64 random(seed ^ numberOf(recipe));
  auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  std::vector<Case> cases;
  while (static_cast<int>(cases.size()) < count) {
    Row row;
    for (const Factor &factor : factors)
      row.push_back(static_cast<int>(below(static_cast<int64_t>(factor.values.size()))));
    Sizes sizes = sizesOf(recipe, factors, row);
    sizes.d = sizes.m * (1 + below(std::max<int64_t>(1, 1500 / sizes.m)));
    sizes.tokens = 1 + below(200);
    if (!possibleOptions(factors, row) || excluded(sizes, Draw::Random, testAll()))
      continue;
    cases.push_back({specOf(recipe, factors, row, sizes.d), {sizes.tokens}, random() % 1'000'000});
  }
  return cases;
}

static std::vector<Case> smallPairs(const std::string &recipe, Inputs inputs,
                                    const std::function<bool(const SiteSpec &)> &wanted) {
  std::vector<Case> cases;
  for (Case &one : pairCases(recipe, false)) {
    const SiteSpec spec = SiteSpec::parse(one.spec);
    const int64_t tokens = product(one.lead);
    if (tokens < 3 || tokens * spec.n * spec.d > 100'000 || !wanted(spec))
      continue;
    one.lead = {tokens};
    one.inputs = inputs;
    cases.push_back(std::move(one));
  }
  return cases;
}

std::vector<Case> cornerCases(const std::string &recipe) {
  // A token by itself is compared with its own largest element: of one channel, that may be a sum that happens to
  // cancel.
  return smallPairs(recipe, Inputs::Corners, [](const SiteSpec &spec) { return spec.d > 1; });
}

std::vector<Case> offsetCases(const std::string &recipe) {
  return smallPairs(recipe, Inputs::Offset, [](const SiteSpec &spec) {
    const std::string *norm = spec.option("norm");
    return norm && *norm == "layernorm" && spec.d / spec.m >= 7;
  });
}

std::vector<Case> mixedDtypeCases(const std::string &recipe) {
  const std::string n = excluded(recipe, 4, 1, 96) ? "1" : "4";
  const std::string head = recipe + ":n=" + n + ",d=96,";
  const std::string wide =
      recipe + ":n=" + (n == "1" ? "1" : "2") + ",d=1024,"; // on clusters: rows of two sizes in one block's memory
  return {{head + "dtype=fp32,branch=bf16", {37}, 1}, {head + "dtype=fp32,branch_out=bf16", {70}, 2},
          {head + "dtype=bf16,weight=bf16", {37}, 3}, {head + "dtype=bf16,branch=fp32", {70}, 4},
          {wide + "dtype=bf16,branch=fp32", {21}, 6}, {wide + "dtype=fp32,branch=bf16", {21}, 7},
          {head + "dtype=fp64,weight=fp64", {37}, 5}};
}

std::vector<Chain> chains(const std::string &recipe, bool all) {
  // Sizes that some path of a boundary kernel depends on; 0 and null: drawn. Wide rows are what tensor cores and
  // clusters take on CUDA, whole and in several parts.
  struct Named {
    int64_t n, m, d, tokens;
    const char *dtype;
  };
  static const Named named[] = {{4, 1, 4096, 37, "bf16"}, {4, 1, 4096, 37, "fp32"}, {4, 1, 320, 127, "bf16"},
                                {8, 1, 48, 0, nullptr},   {16, 1, 48, 0, nullptr},  {1, 8, 1000, 0, nullptr},
                                {4, 1, 1, 1000, nullptr}};
  const std::vector<Factor> factors = factorsOf(recipe);
  auto indexOf = [&](size_t factor, const std::string &value) { // n, m and dtype are the first three factors
    const auto &values = factors[factor].values;
    return static_cast<int>(std::find(values.begin(), values.end(), value) - values.begin());
  };
  std::vector<Row> starts;
  std::vector<Named> sizes;
  for (Named one : named) {
    if (excluded(recipe, one.n, one.m, one.d) && one.n == 4) // frac has the other sizes
      one.n = 1;
    if (excluded(recipe, one.n, one.m, one.d))
      continue;
    Row start(factors.size(), -1);
    start[0] = indexOf(0, std::to_string(one.n));
    start[1] = indexOf(1, std::to_string(one.m));
    if (one.dtype)
      start[2] = indexOf(2, one.dtype);
    starts.push_back(start);
    sizes.push_back(one);
  }
  const std::vector<Row> rows = covering(
      factors, [&](const Row &row) { return possible(recipe, factors, row, Draw::Chain, all); }, 2, all ? 2 : 1,
      starts);

  std::mt19937_64 random(numberOf(recipe));
  Rotation rotation{Draw::Chain, all};
  // Those that fit few sizes come first where they fit.
  std::vector<std::string> known = ProgramSource::global().recipes();
  std::map<std::string, size_t> choices;
  for (const std::string &name : known) {
    const std::vector<Factor> others = factorsOf(name);
    choices[name] = others[0].values.size() * others[1].values.size();
  }
  std::stable_sort(known.begin(), known.end(), [&](const auto &a, const auto &b) { return choices[a] < choices[b]; });
  std::map<std::string, int> partners;
  std::vector<Chain> result;
  auto add = [&](const Row &row, int64_t onlyDim, int64_t onlyTokens) {
    const auto [d, t] = rotation.next(sizesOf(recipe, factors, row), onlyDim, onlyTokens);
    const std::string mine = specOf(recipe, factors, row, d);
    // The partner: what this recipe met least, with random options.
    const Sizes own = sizesOf(recipe, factors, row);
    std::string partner;
    for (const std::string &name : known)
      if (!excluded(name, own.n, own.m, d) && (partner.empty() || partners[name] < partners[partner]))
        partner = name;
    ++partners[partner];
    const std::vector<Factor> others = factorsOf(partner);
    Row other(others.size());
    do {
      for (size_t i = 0; i < others.size(); ++i)
        other[i] = static_cast<int>(random() % others[i].values.size());
      for (size_t i = 0; i < 3; ++i) {
        const auto &values = others[i].values;
        other[i] =
            static_cast<int>(std::find(values.begin(), values.end(), factors[i].values[row[i]]) - values.begin());
      }
    } while (!possibleOptions(others, other));
    result.push_back({{mine, specOf(partner, others, other, d), mine}, leadOf(t), random() % 1000});
  };
  for (size_t i = 0; i < rows.size(); ++i)
    add(rows[i], i < sizes.size() ? sizes[i].d : 0, i < sizes.size() ? sizes[i].tokens : 0);
  const Row plain(factors.size(), 0);
  for (int64_t d : kDims)
    if (!rotation.dims[d])
      add(plain, d, 0);
  for (int64_t t : kTokens)
    if (!rotation.tokens[t])
      add(plain, 0, t);
  Row one = plain; // one stream: what every recipe can have
  one[0] = indexOf(0, "1");
  for (const std::string &name : known)
    if (!partners[name])
      add(one, 48, 0);
  return result;
}

} // namespace hyperjit::conformance
