// RandomSite.h - recipes that nobody wrote: every operation of the DSL, put together at random.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace hyperjit::test {

/// The spec of a recipe that is drawn from the seed, and from n and m of `sizes`. Its values stay small and smooth, so
/// that they can be compared. Empty where it is refused, which a few are; throws where it is not refused as a recipe
/// is.
std::string randomSite(uint64_t seed, const std::string &sizes);

/// n, m and d for two sites that share their streams, drawn from the seed: "n=3,m=1,d=33". `wide`: for clusters.
std::string randomSizes(uint64_t seed, bool wide = false);

/// HYPERJIT_TEST_SEED, by default always the same: what another one finds is older than the change that is being
/// tested. Search with others, HYPERJIT_TEST_SEED=$RANDOM HYPERJIT_TEST_SITES=1000.
uint64_t randomSeed();
/// HYPERJIT_TEST_SITES, by default `few`.
int randomSites(int few);

} // namespace hyperjit::test
