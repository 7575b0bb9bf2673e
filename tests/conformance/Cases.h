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

/// What the tensors hold: numbers of order one; or where formulas have a corner: token 0 is zero, token 1 is of order
/// 1e-4, and logits lie so far apart that sums fall below Sinkhorn's eps; or streams whose mean is 100 times their
/// deviation.
enum class Inputs { Ordinary, Corners, Offset };

struct Case {
  std::string spec;          ///< a site, not normalised
  std::vector<int64_t> lead; ///< leading axes of x; their product is T
  uint64_t seed = 0;         ///< of the numbers in the tensors
  Inputs inputs = Inputs::Ordinary;
  std::string text() const;
};
int64_t product(const std::vector<int64_t> &sizes);

/// What a case is drawn for.
enum class Draw { Pairs, Random, Chain };
struct Sizes {
  std::string recipe;
  int64_t n = 1, m = 1, d = 1, tokens = 1;
};

/// Why a recipe is not tested with some sizes.
struct Exclusion {
  std::string name;
  bool refused; ///< the kernels refuse these by name too, which a test checks; else they cost too much
  std::function<bool(const Sizes &, Draw, bool all)> applies;
};
const std::vector<Exclusion> &exclusions();
/// Null, or the exclusion that says why no kernel has these sizes.
const Exclusion *excluded(const std::string &recipe, int64_t n, int64_t m, int64_t d);
/// Null, or the exclusion that keeps a case out, refused or too costly. `all`: under HYPERJIT_TEST_ALL.
const Exclusion *excluded(const Sizes &sizes, Draw draw, bool all);

/// A named quantity and the texts it takes.
struct Factor {
  std::string name;
  std::vector<std::string> values;
};
/// An index into each factor's values; -1 stands for "not chosen yet".
using Row = std::vector<int>;
/// Rows that together contain every value (`together` = 1) or every pair of values (2) that `possible` rows can
/// contain. The first ones complete `starts`.
std::vector<Row> covering(const std::vector<Factor> &factors, const std::function<bool(const Row &)> &possible,
                          uint64_t seed, int together, const std::vector<Row> &starts = {});

/// n, m, dtype, and each kernel option of the recipe (words from its declaration, numbers from a table in Cases.cpp).
std::vector<Factor> factorsOf(const std::string &recipe);

/// Whether the recipe takes these option values together; -1 in `row` stands for "not chosen yet".
/// WhatIsExcludedIsRefused checks that it refuses the others.
bool possibleOptions(const std::vector<Factor> &factors, const Row &row);

/// Every pair among those factors; D and T rotate through all their values, or (`all`) are factors too.
std::vector<Case> pairCases(const std::string &recipe, bool all = testAll());
/// `count` random ones, drawn with `seed`.
std::vector<Case> randomCases(const std::string &recipe, uint64_t seed, int count);
/// Pairs again (their kernels are compiled), of few elements, with other inputs.
std::vector<Case> cornerCases(const std::string &recipe);
/// Those of them that have a LayerNorm.
std::vector<Case> offsetCases(const std::string &recipe);
/// Streams and branches, or streams and weights, of different dtypes.
std::vector<Case> mixedDtypeCases(const std::string &recipe);
/// Three sites with equal n, m, D and dtypes: the recipe around a partner, so that a carry finds the site that reads
/// it.
struct Chain {
  std::vector<std::string> specs;
  std::vector<int64_t> lead;
  uint64_t seed = 0;
  std::string text() const;
};
/// Named rows, then what it takes for every value of every factor, D and T (`all`: every pair of factors) to occur.
std::vector<Chain> chains(const std::string &recipe, bool all = testAll());

} // namespace hyperjit::conformance
