// Plain ATen versions of the shipped recipes: the oracle of the conformance tests and the eager baseline of the demo.
// SPDX-License-Identifier: Apache-2.0
//
// Written from the published formulas, not from the recipes, so that an error in one shows against the other.
// Arithmetic runs in fp64 when the streams are fp64 and in fp32 otherwise; the branch input and the streams are rounded
// once, at the edges. Gradients come from autograd, of any order.
#pragma once

#include <hyperjit/core/SiteSpec.h>
#include <hyperjit/torch/Export.h>

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>

namespace hyperjit {

/// Square-matrix Sinkhorn normalisation, unrolled. `logits` is [..., N, N]; "row" divides by sums over the last index.
struct SinkhornOptions {
  enum class Start { Exp, ExpRaw, SoftmaxEps } start = Start::Exp;
  enum class Place { None, Clamp, Add } place = Place::None;
  bool rowFirst = false;
  int iterations = 20;
  double eps = 0.0;
  double tau = 1.0;
  bool logDomain = false;
};
HYPERJIT_TORCH_API at::Tensor referenceSinkhorn(const at::Tensor &logits, const SinkhornOptions &options);

/// The four norms over the last axis: l2_unit_offset (gain is gamma, gamma + 1 is applied), rms_inside, rms_outside,
/// layernorm. `gain` and `bias` may be undefined.
HYPERJIT_TORCH_API at::Tensor referenceNorm(const std::string &kind, const at::Tensor &x, const at::Tensor &gain,
                                            const at::Tensor &bias, double eps);

class HYPERJIT_TORCH_API Reference {
public:
  using Tensors = std::map<std::string, at::Tensor>;

  /// What a site keeps between its width part (before the branch) and its depth part (after it).
  struct Width {
    at::Tensor u;        ///< branch input, [..., D] or [..., v, D]
    at::Tensor residual; ///< mixed streams, [..., n, D], compute precision
    at::Tensor write;    ///< write weights: [..., N] (a row of its own frac) or [..., n, m, m] ([s, from, to])
    bool fullWrite = false;
    Tensors carries; ///< what travels to the next site beside the streams
    at::ScalarType stream = at::kFloat;
  };

  /// Whether there are formulas for this site's recipe: there are for those that hyperjit ships.
  static bool knows(const SiteSpec &spec);
  /// Refuses (UserError) a recipe it has no formulas for.
  explicit Reference(const SiteSpec &spec);
  ~Reference();

  /// x: [..., n, D]; parameters under their recipe names (missing ones are refused); a missing carry takes its declared
  /// start.
  Width width(const at::Tensor &x, const Tensors &parameters, const Tensors &carries = {}) const;
  /// y: [..., D]; returns the next streams [..., n, D] in the dtype of `x` that went into width().
  at::Tensor depth(const at::Tensor &y, const Width &width) const;

  const SiteSpec &spec() const;

private:
  struct Formulas;
  std::shared_ptr<const Formulas> formulas;
};

} // namespace hyperjit
