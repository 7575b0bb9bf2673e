//===- DelayedPre.cpp - mHC with delayed pre, the "single-pass" mHC of DeepSeek V4.1 -----------===//
//
// Parameters and coefficients are those of the DeepSeek V4 convention. The pre made at a sublayer is used by the next
// one, so the branch's input does not wait for the projection of the same streams. It travels as a carry:
//
//   z     = sum_j read_j x_j                            read = e_0 before the first sublayer
//   o_k   = post_k F(z) + sum_j comb[j, k] x_j
//   read' = pre
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recipes.h"
#include "Registry.h"

namespace hyperjit::recipes {

static void delayedPre(Site &s) {
  Rows x = s.streams();
  Coefficients read = s.carryIn("read", {s.n()}, oneHot(s.n(), 0));
  auto [pre, post, comb] = deepSeekCoefficients(s, x);
  s.branchInput(mix(read, x));
  s.next(write(post, s.branchOutput()) + mix(transpose(comb), x));
  s.carryOut("read", pre);
}

void registerDelayedPre(Registry &registry) {
  Definition definition;
  definition.summary = "mHC whose read weights serve the next sublayer (single-pass mHC)";
  definition.paper = "DeepSeek V4.1; coefficients as arXiv 2512.24880, eq. 7-9";
  definition.equation = "o_k = post_k F(sum_j read_j x_j) + sum_j comb[j, k] x_j, read' = pre";
  definition.options = deepSeekOptions();
  definition.maximumFracs = 1;
  definition.limitReason = "the convention has no fracs; mHC with fracs is recipe 'manifold'";
  registry.define("delayed-pre", delayedPre, definition);
}

} // namespace hyperjit::recipes
