//===- JointConnection.cpp - n streams of m fracs ---------------------------------------------===//
//
// Hyper-connections (arXiv 2409.19606) and frac-connections (arXiv 2503.14125) in one: n m rows of d = D/m channels,
//
//   alpha = s_alpha act(norm(x_i) W_alpha) + A     beta = s_beta act(norm(x_{s,f1}) W_beta) + B
//   z_f = sum_i alpha[i, f] x_i      x'_{s,f2} = sum_i alpha[i, m + s m + f2] x_i + sum_{f1} beta[s, f1, f2] y_{f1}
//
// beta=diag keeps fracs apart (f1 = f2). The start is the pre-norm residual: views read stream layer_index mod n whole,
// beta is the identity over fracs.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

void registerJointConnection(Registry &registry) {
  Definition definition;
  definition.summary = "hyper-connections over n streams of m fracs";
  definition.paper = "arXiv 2409.19606 and 2503.14125 together";
  definition.equation = "x'_{s,f2} = sum_i alpha[i, (s,f2)] x_i + sum_f1 beta[s, f1, f2] y_f1";
  definition.options =
      Options{flagOption("dynamic", true, "weights depend on the token"),
              wordOption("beta", "full", {"full", "diag"}, "full: beta[s, f1, f2]; diag: beta[s, f]")} +
      hyperOptions("l2_unit_offset", true) + layerOptions();
  registry.define(
      "joint",
      [](Site &s) {
        BetaForm beta = s.text("beta") == "full" ? BetaForm::Full : BetaForm::Pairs;
        hyperConnection(s, {.dynamic = s.flag("dynamic"), .beta = beta});
      },
      definition);
}

} // namespace hyperjit::recipes
