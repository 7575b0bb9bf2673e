//===- Recipes.h - The shipped recipes and what they share --------------------*- C++ -*-===//
//
// Index conventions: stream row i = s m + f (frac f of stream s); alpha is [in, out] with the columns of the views
// first; a matrix that is mixed with is [out, in].
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#pragma once

#include "hyperjit/DSL.h"

namespace hyperjit::dsl {
class Registry;
} // namespace hyperjit::dsl

namespace hyperjit::recipes {
using namespace dsl;

void registerHyperConnection(Registry &registry);
void registerFracConnection(Registry &registry);
void registerJointConnection(Registry &registry);
void registerManifoldHyperConnection(Registry &registry);
void registerManifoldStreams(Registry &registry);
void registerDeepSeekConnection(Registry &registry);
void registerDelayedPre(Registry &registry);
void registerPermutationMixture(Registry &registry);

using Options = std::vector<Option>;
Options operator+(Options a, const Options &b);

//===-----------------------------------------------------------------------------------===//
// Norms
//===-----------------------------------------------------------------------------------===//

/// norm, norm_eps, norm_weight, norm_bias. `rmsInside` is the eps of rms_inside where none is given, here and in
/// normed; the other norms have theirs in every recipe.
Options normOptions(std::string kind, bool withWeight, bool mayBeNone = false, double rmsInside = 1e-6);
/// The norm that the options ask for, with its parameters of shape (dimension,): norm.gamma for l2_unit_offset, else
/// norm.weight and norm.bias.
Rows normed(Site &s, const Rows &x, Extent dimension, double rmsInside = 1e-6);

//===-----------------------------------------------------------------------------------===//
// Hyper-connections, fracs and the joint form: one set of equations
//===-----------------------------------------------------------------------------------===//

enum class BetaForm {
  Diagonal, ///< beta [s, f]: row (s, f) gets beta y_f; declared (n m,)
  Pairs,    ///< the same, declared (n, m)
  Full,     ///< beta [s, f1, f2]: row (s, f2) gets the sum over f1; declared (n, m, m)
};
struct Hyper {
  bool dynamic = false;
  BetaForm beta = BetaForm::Diagonal;
};
void hyperConnection(Site &s, const Hyper &form);
/// tanh, scale and the norm's options.
Options hyperOptions(std::string norm, bool mayBeNone);
/// beta [n, m, m] as s, f1, f2 to the matrix that y is mixed with: [rows, m].
Coefficients writeMatrix(const Coefficients &beta, int64_t n, int64_t m);
/// 1 where sub-stream i is what view column w m + f reads at the start: frac f of stream layer_index mod n. [rows, m].
std::vector<double> readPattern(const Site &s);

//===-----------------------------------------------------------------------------------===//
// Manifold-constrained forms
//===-----------------------------------------------------------------------------------===//

/// iterations, start, first, place, eps, tau, log_domain.
Options sinkhornOptions(const Sinkhorn &defaults);
Sinkhorn sinkhornOf(const Site &s);

/// Start of the logits and of the dynamic part, by the module option `init`.
struct ManifoldStart {
  std::vector<double> pre;      ///< [rows, m], [in, out]
  std::vector<double> post;     ///< [n, m, m] as s, f1, f2, or [rows]
  std::vector<double> residual; ///< [rows, rows]; symmetric, so of either orientation
  Initialisation projection;
  double scale;
  std::string name;
};
Options initOptions();
ManifoldStart manifoldStart(const Site &s, bool fullBeta);
/// One list after the other.
std::vector<double> joined(std::initializer_list<std::vector<double>> lists);

/// Coefficients of the DeepSeek V4 convention; comb is [in, out].
struct DeepSeekCoefficients {
  Coefficients pre, post, comb;
};
DeepSeekCoefficients deepSeekCoefficients(Site &s, const Rows &x);
Options deepSeekOptions();

} // namespace hyperjit::recipes
