//===- FracConnection.cpp - Frac-connections ------------------------------------------------===//
//
// arXiv 2503.14125. One stream cut into m fracs, X = reshape(h, (m, d)); with y_j frac j of the branch's output:
//
//   z = concat over fracs of (Y^T X)        o_j = B_j y_j + (A^T X)_j
//   dynamic:  B, Y, A = s tanh(LayerNorm(X) W) + their static parts, LayerNorm over d of each frac
//
// The equations of hyper-connections with the fracs as rows. Switches: tanh, norm (none), scale.
//
// Mean and variance come from one sweep, E[x^2] - mean^2: fracs whose mean is far from zero lose (mean / deviation)^2
// ulps of their scale (fp32: 6e-6 relative at 10 deviations, 6e-4 at 100). norm=rms_inside has no such loss.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

void registerFracConnection(Registry &registry) {
  Definition definition;
  definition.summary = "frac-connections: one stream cut into m fracs";
  definition.paper = "arXiv 2503.14125";
  definition.equation = "z = concat(Y^T X), o_j = B_j F(z)_j + (A^T X)_j";
  definition.options = Options{flagOption("dynamic", true, "weights depend on the token")} +
                       hyperOptions("layernorm", true) + layerOptions();
  definition.maximumStreams = 1;
  definition.limitReason = "write n=1; streams and fracs together are recipe 'joint'";
  registry.define(
      "frac", [](Site &s) { hyperConnection(s, {.dynamic = s.flag("dynamic")}); }, definition);
}

} // namespace hyperjit::recipes
