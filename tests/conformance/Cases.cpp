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
/// Elements of X: the fp64 reference keeps some tens of tensors of this size.
constexpr int64_t kLargest = 1'300'000;

std::string join(const std::vector<std::string> &parts, const char *between) {
  std::string text;
  for (const std::string &part : parts)
    text += (text.empty() ? "" : between) + part;
  return text;
}

int64_t product(const std::vector<int64_t> &sizes) {
  int64_t result = 1;
  for (int64_t size : sizes)
    result *= size;
  return result;
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
      {"iterations", {"1", "3"}}, {"eps", {"1e-3"}},      {"tau", {"0.5"}},         {"pre_eps", {"0.01"}},
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
  return spec + " T=" + std::to_string(product(lead)) + " seed=" + std::to_string(seed);
}
std::string Chain::text() const {
  return join(specs, " | ") + " T=" + std::to_string(product(lead)) + " seed=" + std::to_string(seed);
}

const std::vector<Exclusion> &exclusions() {
  static const std::vector<Exclusion> all = {
      {"more than 32 rows", [](const std::string &, int64_t n, int64_t m, int64_t) { return n * m > 32; }},
      {"m does not divide D", [](const std::string &, int64_t, int64_t m, int64_t d) { return d % m != 0; }},
      {"frac has one stream", [](const std::string &recipe, int64_t n, int64_t, int64_t) { return recipe == "frac" && n > 1; }},
      {"the DeepSeek convention has no fracs",
       [](const std::string &recipe, int64_t, int64_t m, int64_t) {
         return (recipe == "deepseek" || recipe == "delayed-pre") && m > 1;
       }},
      {"permutation has n! coefficients: n <= 5",
       [](const std::string &recipe, int64_t n, int64_t, int64_t) { return recipe == "permutation" && n > 5; }},
      {"permutation has no fracs",
       [](const std::string &recipe, int64_t, int64_t m, int64_t) { return recipe == "permutation" && m > 1; }},
  };
  return all;
}

const Exclusion *excluded(const std::string &recipe, int64_t n, int64_t m, int64_t d) {
  for (const Exclusion &exclusion : exclusions())
    if (exclusion.applies(recipe, n, m, d))
      return &exclusion;
  return nullptr;
}

bool possibleOptions(const std::vector<Factor> &factors, const std::vector<int> &row) {
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
// Pairs
//===----------------------------------------------------------------------===//

std::vector<std::vector<int>> pairwise(const std::vector<Factor> &factors,
                                       const std::function<bool(const std::vector<int> &)> &possible, uint64_t seed) {
  using Pair = std::pair<std::pair<int, int>, std::pair<int, int>>; // (factor, value) twice
  const int count = static_cast<int>(factors.size());
  std::mt19937_64 random(seed);
  std::vector<Pair> order;
  for (int a = 0; a < count; ++a)
    for (int b = a + 1; b < count; ++b)
      for (int i = 0; i < static_cast<int>(factors[a].values.size()); ++i)
        for (int j = 0; j < static_cast<int>(factors[b].values.size()); ++j) {
          std::vector<int> row(count, -1);
          row[a] = i;
          row[b] = j;
          if (possible(row))
            order.push_back({{a, i}, {b, j}});
        }
  std::shuffle(order.begin(), order.end(), random);
  std::set<Pair> open(order.begin(), order.end());
  std::vector<std::vector<int>> rows;
  for (const Pair &first : order) {
    if (!open.count(first))
      continue;
    std::vector<int> row(count, -1), rest;
    row[first.first.first] = first.first.second;
    row[first.second.first] = first.second.second;
    for (int factor = 0; factor < count; ++factor)
      if (row[factor] < 0)
        rest.push_back(factor);
    std::shuffle(rest.begin(), rest.end(), random);
    for (int factor : rest) {
      int best = -1, bestGain = -1;
      const auto size = static_cast<int>(factors[factor].values.size());
      const int start = static_cast<int>(random() % size); // ties are broken differently each time
      for (int step = 0; step < size; ++step) {
        row[factor] = (start + step) % size;
        if (!possible(row))
          continue;
        int gain = 0;
        for (int other = 0; other < count; ++other)
          if (other != factor && row[other] >= 0) {
            const std::pair<int, int> a{factor, row[factor]}, b{other, row[other]};
            gain += static_cast<int>(open.count(factor < other ? Pair{a, b} : Pair{b, a}));
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
      for (int b = a + 1; b < count; ++b)
        open.erase({{a, row[a]}, {b, row[b]}});
    rows.push_back(std::move(row));
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

struct Sizes {
  int64_t n = 1, m = 1;
};

Sizes sizesOf(const std::vector<Factor> &factors, const std::vector<int> &row) {
  Sizes sizes;
  for (size_t i = 0; i < factors.size(); ++i)
    if (row[i] >= 0 && factors[i].name == "n")
      sizes.n = std::stoll(factors[i].values[row[i]]);
    else if (row[i] >= 0 && factors[i].name == "m")
      sizes.m = std::stoll(factors[i].values[row[i]]);
  return sizes;
}

std::string specOf(const std::string &recipe, const std::vector<Factor> &factors, const std::vector<int> &row, int64_t d) {
  std::vector<std::string> words;
  for (size_t i = 0; i < factors.size(); ++i)
    if (factors[i].name != "D" && factors[i].name != "T")
      words.push_back(factors[i].name + "=" + factors[i].values[row[i]]);
  words.push_back("d=" + std::to_string(d));
  return recipe + ":" + join(words, ",");
}

/// D and T in turn: those used least so far, of those that fit.
struct Rotation {
  std::map<int64_t, int> dims, tokens;
  std::map<std::pair<int64_t, int64_t>, int> both;
  std::pair<int64_t, int64_t> next(const std::string &recipe, Sizes sizes) {
    std::pair<int64_t, int64_t> best{0, 0};
    int least = 1 << 30;
    for (int64_t d : kDims)
      for (int64_t t : kTokens) {
        if (excluded(recipe, sizes.n, sizes.m, d) || t * sizes.n * d > kLargest)
          continue;
        const int used = 4 * std::max(dims[d], tokens[t]) + 2 * (dims[d] + tokens[t]) + both[{d, t}];
        if (used < least) {
          least = used;
          best = {d, t};
        }
      }
    ++dims[best.first];
    ++tokens[best.second];
    ++both[best];
    return best;
  }
};

uint64_t numberOf(const std::string &text) { return std::hash<std::string>()(text) % 1'000'000; }

} // namespace

std::vector<Case> pairCases(const std::string &recipe) {
  std::vector<Factor> factors = factorsOf(recipe);
  const bool all = testAll();
  size_t dFactor = 0, tFactor = 0;
  if (all) {
    dFactor = factors.size();
    tFactor = dFactor + 1;
    factors.push_back({"D", {}});
    factors.push_back({"T", {}});
    for (int64_t d : kDims)
      factors[dFactor].values.push_back(std::to_string(d));
    for (int64_t t : kTokens)
      factors[tFactor].values.push_back(std::to_string(t));
  }
  const auto rows = pairwise(
      factors,
      [&](const std::vector<int> &row) {
        const Sizes sizes = sizesOf(factors, row);
        // An open D must leave a choice: 4096 for powers of two, else 48.
        const int64_t d = all && row[dFactor] >= 0 ? kDims[row[dFactor]] : sizes.m == 3 ? 48 : 4096;
        const int64_t t = all && row[tFactor] >= 0 ? kTokens[row[tFactor]] : 1;
        return possibleOptions(factors, row) && !excluded(recipe, sizes.n, sizes.m, d) && t * sizes.n * (all && row[dFactor] >= 0 ? d : 1) <= kLargest;
      },
      1);
  std::vector<Case> cases;
  Rotation rotation;
  for (const std::vector<int> &row : rows) {
    std::pair<int64_t, int64_t> chosen;
    if (all)
      chosen = {kDims[row[dFactor]], kTokens[row[tFactor]]};
    else
      chosen = rotation.next(recipe, sizesOf(factors, row));
    Case made{specOf(recipe, factors, row, chosen.first), leadOf(chosen.second), 0};
    made.seed = numberOf(made.spec);
    cases.push_back(std::move(made));
  }
  // A recipe with few pairs (static) still meets every D and every T.
  std::vector<int> plain(factors.size(), 0);
  for (int64_t d : kDims)
    for (int64_t t : kTokens)
      if (!all && (!rotation.dims[d] || !rotation.tokens[t]) && t * 4 * d <= kLargest) {
        ++rotation.dims[d];
        ++rotation.tokens[t];
        cases.push_back({specOf(recipe, factors, plain, d), leadOf(t), static_cast<uint64_t>(d + t)});
      }
  return cases;
}

std::vector<Case> randomCases(const std::string &recipe, uint64_t seed, int count) {
  const std::vector<Factor> factors = factorsOf(recipe);
  std::mt19937_64 random(seed ^ numberOf(recipe));
  auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  std::vector<Case> cases;
  while (static_cast<int>(cases.size()) < count) {
    std::vector<int> row;
    for (const Factor &factor : factors)
      row.push_back(static_cast<int>(below(static_cast<int64_t>(factor.values.size()))));
    const Sizes sizes = sizesOf(factors, row);
    if (sizes.n > 8) // kernels of 16 streams take seconds to compile; the pairs have them
      continue;
    const int64_t d = sizes.m * (1 + below(std::max<int64_t>(1, 1500 / sizes.m))), tokens = 1 + below(200);
    if (!possibleOptions(factors, row) || excluded(recipe, sizes.n, sizes.m, d) || tokens * sizes.n * d > kLargest)
      continue;
    cases.push_back({specOf(recipe, factors, row, d), {tokens}, random() % 1'000'000});
  }
  return cases;
}

std::vector<Case> mixedDtypeCases(const std::string &recipe) {
  const std::string n = excluded(recipe, 4, 1, 96) ? "1" : "4";
  const std::string head = recipe + ":n=" + n + ",d=96,";
  return {{head + "dtype=fp32,branch=bf16", {37}, 1},
          {head + "dtype=fp32,branch_out=bf16", {70}, 2},
          {head + "dtype=bf16,weight=bf16", {37}, 3},
          {head + "dtype=bf16,branch=fp32", {70}, 4},
          {head + "dtype=fp64,weight=fp64", {37}, 5}};
}

std::vector<Chain> chains(const std::string &recipe) {
  // The sizes a chain runs through; each is tried with partners that can have them, of random options.
  struct Setting {
    int64_t n, m, d, tokens;
    const char *dtype;
  };
  const std::vector<Setting> settings = {{4, 1, 96, 37, "fp32"},  {4, 1, 129, 127, "bf16"}, {1, 4, 48, 70, "fp32"},
                                         {2, 2, 64, 37, "fp64"},  {1, 1, 7, 3, "fp32"},     {3, 1, 320, 70, "fp16"},
                                         {1, 2, 1000, 65, "bf16"}};
  std::mt19937_64 random(numberOf(recipe));
  const std::vector<std::string> known = ProgramSource::global().recipes();
  std::vector<Chain> result;
  for (const Setting &setting : settings) {
    auto fits = [&](const std::string &name) { return !excluded(name, setting.n, setting.m, setting.d); };
    auto text = [&](const std::string &name) {
      std::string spec = name + ":n=" + std::to_string(setting.n) + ",m=" + std::to_string(setting.m) +
                         ",d=" + std::to_string(setting.d) + ",dtype=" + setting.dtype;
      const std::vector<Factor> factors = factorsOf(name);
      std::vector<int> row;
      do {
        row.clear();
        for (const Factor &factor : factors)
          row.push_back(static_cast<int>(random() % factor.values.size()));
      } while (!possibleOptions(factors, row));
      for (size_t i = 3; i < factors.size(); ++i) // those before are n, m and dtype
        spec += "," + factors[i].name + "=" + factors[i].values[row[i]];
      return spec;
    };
    if (!fits(recipe))
      continue;
    std::vector<std::string> partners;
    std::copy_if(known.begin(), known.end(), std::back_inserter(partners), fits);
    // The recipe first and last, so that a carry finds the site that reads it.
    result.push_back({{text(recipe), text(partners[random() % partners.size()]), text(recipe)}, {setting.tokens}, random() % 1000});
    // And between two others.
    if (result.size() <= 2)
      result.push_back({{text(partners[random() % partners.size()]), text(recipe), text(partners[random() % partners.size()])},
                        {setting.tokens},
                        random() % 1000});
  }
  return result;
}

} // namespace hyperjit::conformance
