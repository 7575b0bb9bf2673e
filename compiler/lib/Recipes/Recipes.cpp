//===- Recipes.cpp - The list of shipped recipes ------------------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"

#include "Registry.h"

namespace hyperjit::dsl {
void registerRecipes(Registry &registry) {
  recipes::registerHyperConnection(registry);
  recipes::registerFracConnection(registry);
  recipes::registerJointConnection(registry);
  recipes::registerManifoldHyperConnection(registry);
  recipes::registerManifoldStreams(registry);
  recipes::registerDeepSeekConnection(registry);
  recipes::registerDelayedPre(registry);
  recipes::registerPermutationMixture(registry);
}
} // namespace hyperjit::dsl
