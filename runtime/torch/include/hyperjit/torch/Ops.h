// The hyperjit operators as C++ functions. Each call goes through LibTorch's dispatcher, exactly like
// torch.ops.hyperjit.*
// SPDX-License-Identifier: Apache-2.0
//
// `spec` is a site, `manifold:n=4,m=1,d=512,dtype=bf16`; for a boundary two of them, `SITE|SITE`: the site whose branch
// has returned, then the site whose branch comes next. Shapes, with any leading axes "...":
//   x [..., n, D], y [..., D], u [..., D] (or [..., v, D] for v > 1 branch inputs), all in the dtypes the spec names;
//   coefficients: what crosses the branch, up to three tensors, present only where the site has such values:
//     [..., C] of a token, [Cu] of the call, [R, D/m] channel vectors; fp32 (fp64 where the streams are);
//   parameters: in the recipe's order and shapes, in the spec's weight dtype; carries: [..., k], fp32 (fp64); from Python
//   None is no carries, too, and what AOTInductor of torch 2.11 can pass.
// Inputs need not be contiguous: one that is not (or whose memory is not aligned to 16 bytes) is copied first.
// Outputs are fresh, contiguous tensors (but for the x of `begin`). Nothing here synchronises with the device. Double
// backward is refused by name.
// Errors: c10::Error that names the operand, what it is and what the spec asks for; hyperjit::UserError for the spec
// itself.
#pragma once

#include <hyperjit/core/DType.h>
#include <hyperjit/torch/Export.h>

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

namespace hyperjit::ops {

/// LibTorch's name of a spec's dtype.
HYPERJIT_TORCH_API at::ScalarType scalarType(DType type);

/// -> u, coefficients..., carries..., and with `save` what backward reads (if the site saves anything).
HYPERJIT_TORCH_API std::vector<at::Tensor> before(const at::Tensor &x, at::TensorList parameters,
                                                  at::TensorList carries, std::string_view spec, bool save = false);
/// The first site of a chain: -> x, and what `before` makes. Give the returned x (a view of x where x asks for a
/// gradient, else x) to the site's `boundary` or `after`: gradients then come back through one kernel, where x used
/// twice has its two gradients added by autograd, 3 n D numbers a token more. Neither may be changed in place
/// afterwards. prepare() and precompile make, of a site, the backward of `begin`; that of `before` by itself is in a
/// list that HYPERJIT_RECORD wrote.
HYPERJIT_TORCH_API std::tuple<at::Tensor, std::vector<at::Tensor>>
begin(const at::Tensor &x, at::TensorList parameters, at::TensorList carries, std::string_view spec, bool save = false);
/// -> next streams, u, coefficients..., carries..., [saved] of the second site.
HYPERJIT_TORCH_API std::vector<at::Tensor> boundary(const at::Tensor &x, const at::Tensor &y,
                                                    at::TensorList coefficients, at::TensorList parameters,
                                                    at::TensorList carries, std::string_view spec, bool save = false);
/// -> next streams.
HYPERJIT_TORCH_API at::Tensor after(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                    std::string_view spec);

/// Backward operators. `given` names the cotangents at hand, a subset of "xuck" in this order: next streams, u, all
/// coefficients, all carries; `cotangents` lists them in the order of the forward outputs (x of before is that of
/// `begin`, the cotangent of the streams that it hands on, and comes first). `want` names the gradients to
/// make, a subset of "xycpk": streams, y, all coefficients, all parameters, all carries; they come back in this order.
HYPERJIT_TORCH_API std::vector<at::Tensor> beforeBackward(const at::Tensor &x, at::TensorList parameters,
                                                          at::TensorList carries,
                                                          const std::optional<at::Tensor> &saved,
                                                          at::TensorList cotangents, std::string_view spec,
                                                          std::string_view given, std::string_view want);
HYPERJIT_TORCH_API std::vector<at::Tensor>
boundaryBackward(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, at::TensorList parameters,
                 at::TensorList carries, const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                 std::string_view spec, std::string_view given, std::string_view want);
HYPERJIT_TORCH_API std::vector<at::Tensor> afterBackward(const at::Tensor &x, const at::Tensor &y,
                                                         at::TensorList coefficients, const at::Tensor &cotangent,
                                                         std::string_view spec, std::string_view want);

/// h [..., D] -> x [..., n, D] of h's dtype: n equal streams, plus row s of `embedding` [n, D] (h's dtype or fp32) on
/// stream s where one is given.
HYPERJIT_TORCH_API at::Tensor expand(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams);
/// -> dh in the cotangent's dtype, and dEmbedding in the compute dtype, [0] where there is none.
HYPERJIT_TORCH_API std::tuple<at::Tensor, at::Tensor> expandBackward(const at::Tensor &cotangent, bool embedding);

/// x [..., n, D] -> h [..., D] of x's dtype; mode "sum", "mean", or "weighted": sum_s weights[..., s] x_s, weights of
/// any floating dtype.
HYPERJIT_TORCH_API at::Tensor reduce(const at::Tensor &x, const std::optional<at::Tensor> &weights,
                                     std::string_view mode);
/// -> dx in the cotangent's dtype, and dWeights in that of the weights, [0] where there are none.
HYPERJIT_TORCH_API std::tuple<at::Tensor, at::Tensor> reduceBackward(const at::Tensor &cotangent,
                                                                     const std::optional<at::Tensor> &x,
                                                                     const std::optional<at::Tensor> &weights,
                                                                     int64_t streams, std::string_view mode);

} // namespace hyperjit::ops
