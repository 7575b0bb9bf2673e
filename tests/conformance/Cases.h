// Which specs and token counts a recipe is tested with: every value, every pair, a random sample, exclusions by name.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/SiteSpec.h>

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace hyperjit::conformance {

/// HYPERJIT_TEST_SEED, else fresh in each process; the seed of the rotating sample.
uint64_t testSeed();
/// HYPERJIT_TEST_ALL=1: every pair with token counts and D too.
bool testAll();

struct Case {
  std::string spec;          ///< a site, not normalised
  std::vector<int64_t> lead; ///< leading axes of x; their product is T
  uint64_t seed = 0;         ///< of the numbers in the tensors
  std::string text() const;
};

/// Why a recipe is not tested with some sizes. The kernels refuse these by name too, which a test checks.
struct Exclusion {
  std::string name;
  std::function<bool(const std::string &recipe, int64_t n, int64_t m, int64_t d)> applies;
};
const std::vector<Exclusion> &exclusions();
/// Null, or the exclusion that forbids these sizes.
const Exclusion *excluded(const std::string &recipe, int64_t n, int64_t m, int64_t d);

/// A named quantity and the texts it takes.
struct Factor {
  std::string name;
  std::vector<std::string> values;
};
/// Rows (an index into each factor's values) that together contain every pair of values that `possible` rows can contain.
/// `possible` judges a row in which -1 stands for "not chosen yet".
std::vector<std::vector<int>> pairwise(const std::vector<Factor> &factors,
                                       const std::function<bool(const std::vector<int> &)> &possible, uint64_t seed);

/// n, m, dtype, and each kernel option of the recipe (words from its declaration, numbers from a table in Cases.cpp).
std::vector<Factor> factorsOf(const std::string &recipe);

/// Whether the recipe takes these option values together; -1 in `row` stands for "not chosen yet". WhatIsExcludedIsRefused
/// checks that it refuses the others.
bool possibleOptions(const std::vector<Factor> &factors, const std::vector<int> &row);

/// Every pair among those factors; D and T rotate through all their values.
std::vector<Case> pairCases(const std::string &recipe);
/// `count` random ones, drawn with `seed`.
std::vector<Case> randomCases(const std::string &recipe, uint64_t seed, int count);
/// Streams and branches, or streams and weights, of different dtypes.
std::vector<Case> mixedDtypeCases(const std::string &recipe);
/// Chains: each entry is the specs of three sites with equal n, m, D and dtypes; the first is of this recipe.
struct Chain {
  std::vector<std::string> specs;
  std::vector<int64_t> lead;
  uint64_t seed = 0;
  std::string text() const;
};
std::vector<Chain> chains(const std::string &recipe);

} // namespace hyperjit::conformance
