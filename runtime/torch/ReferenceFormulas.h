// Which published formulas a spec stands for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/Error.h>
#include <hyperjit/torch/Reference.h>

#include <string>
#include <string_view>

namespace hyperjit::reference {

enum class Family { Hyper, Manifold, PerStream, Permutation };

struct Formula {
  SiteSpec spec;
  Family family = Family::Hyper;
  bool dynamic = true;
  bool tanh = true, scale = true;
  std::string norm = "l2_unit_offset";
  double normEps = 1e-12;
  SinkhornOptions sinkhorn;
  bool outIn = true; ///< rows of the residual logits count outputs
  double preEps = 0, postMultiplier = 2;
  bool deepSeek = false; ///< parameters fn, base, scale
  bool delayed = false;  ///< the read weights serve the next site
};

bool knows(std::string_view recipe);
/// UserError (UnknownRecipe) for others.
Formula formulaOf(const SiteSpec &spec);

} // namespace hyperjit::reference
