// The Meta key: shapes, dtypes and strides of the real kernels, from symbolic sizes. Never data, never a compile.
// SPDX-License-Identifier: Apache-2.0

#include "Devices.h"
#include "OpPlan.h"

#include <ATen/ATen.h>
#include <torch/library.h>

namespace hyperjit::ops {
namespace {

at::Tensor allocate(const Slot &slot, const at::Tensor &x) {
  return at::empty_symint(slot.sizes<c10::SymInt>(OpPlan::lead(x.sym_sizes())), x.options().dtype(slot.dtype));
}

std::vector<at::Tensor> forward(const OpPlan &plan, const Operands &operands, bool save) {
  plan.check(operands);
  std::vector<at::Tensor> outputs;
  for (const Slot &slot : plan.outputs)
    outputs.push_back(allocate(slot, operands.x));
  if (save && plan.saved)
    outputs.push_back(allocate(*plan.saved, operands.x));
  return outputs;
}

std::vector<at::Tensor> backward(const OpPlan &plan, const Operands &operands, const std::optional<at::Tensor> &saved,
                                 at::TensorList cotangents, std::string_view given, std::string_view want) {
  plan.checkBackward(operands, saved, cotangents, given, want);
  std::vector<at::Tensor> gradients;
  for (const Slot &slot : plan.inputs)
    if (want.find(slot.group) != std::string_view::npos)
      gradients.push_back(allocate(slot, operands.x));
  return gradients;
}

std::vector<at::Tensor> beforeMeta(const at::Tensor &x, at::TensorList parameters, OptionalList carries,
                                   std::string_view spec, bool save) {
  return forward(OpPlan::get(Role::Before, spec), {x, nullptr, {}, parameters, listOf(carries)}, save);
}

std::vector<at::Tensor> boundaryMeta(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                     at::TensorList parameters, OptionalList carries, std::string_view spec,
                                     bool save) {
  return forward(OpPlan::get(Role::Boundary, spec), {x, &y, coefficients, parameters, listOf(carries)}, save);
}

at::Tensor afterMeta(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, std::string_view spec) {
  return forward(OpPlan::get(Role::After, spec), {x, &y, coefficients, {}, {}}, false)[0];
}

std::vector<at::Tensor> beforeBackwardMeta(const at::Tensor &x, at::TensorList parameters, at::TensorList carries,
                                           const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                           std::string_view spec, std::string_view given, std::string_view want) {
  return backward(OpPlan::get(Role::Before, spec), {x, nullptr, {}, parameters, carries}, saved, cotangents, given,
                  want);
}

std::vector<at::Tensor> boundaryBackwardMeta(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                             at::TensorList parameters, at::TensorList carries,
                                             const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                             std::string_view spec, std::string_view given, std::string_view want) {
  return backward(OpPlan::get(Role::Boundary, spec), {x, &y, coefficients, parameters, carries}, saved, cotangents,
                  given, want);
}

std::vector<at::Tensor> afterBackwardMeta(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                          const at::Tensor &cotangent, std::string_view spec, std::string_view want) {
  return backward(OpPlan::get(Role::After, spec), {x, &y, coefficients, {}, {}}, std::nullopt, cotangent, "x", want);
}

at::Tensor expandMeta(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams) {
  checkExpand(h, embedding, streams);
  c10::SymDimVector sizes(h.sym_sizes().begin(), h.sym_sizes().end());
  sizes.insert(sizes.end() - 1, c10::SymInt(streams));
  return at::empty_symint(sizes, h.options());
}

std::tuple<at::Tensor, at::Tensor> expandBackwardMeta(const at::Tensor &cotangent, bool embedding) {
  checkExpandBackward(cotangent);
  const auto sizes = cotangent.sym_sizes();
  c10::SymDimVector row(sizes.begin(), sizes.end());
  row.erase(row.end() - 2);
  const auto options = cotangent.options().dtype(computeOf(cotangent));
  return {at::empty_symint(row, cotangent.options()),
          embedding ? at::empty_symint({sizes[sizes.size() - 2], sizes[sizes.size() - 1]}, options)
                    : at::empty({0}, options)};
}

at::Tensor reduceMeta(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode) {
  checkReduce(x, weights, mode);
  c10::SymDimVector row(x.sym_sizes().begin(), x.sym_sizes().end());
  row.erase(row.end() - 2);
  return at::empty_symint(row, x.options());
}

std::tuple<at::Tensor, at::Tensor> reduceBackwardMeta(const at::Tensor &cotangent, const std::optional<at::Tensor> &x,
                                                      const std::optional<at::Tensor> &weights, int64_t streams,
                                                      std::string_view mode) {
  checkReduceBackward(cotangent, x, weights, streams, mode);
  c10::SymDimVector sizes(cotangent.sym_sizes().begin(), cotangent.sym_sizes().end());
  sizes.insert(sizes.end() - 1, c10::SymInt(streams));
  return {at::empty_symint(sizes, cotangent.options()),
          weights.has_value() ? at::empty_symint(weights->sym_sizes(), weights->options())
                              : at::empty({0}, cotangent.options().dtype(computeOf(cotangent)))};
}

} // namespace
} // namespace hyperjit::ops

TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, Meta, library) {
  using namespace hyperjit::ops;
  library.impl("before", TORCH_FN(beforeMeta));
  library.impl("before_backward", TORCH_FN(beforeBackwardMeta));
  library.impl("boundary", TORCH_FN(boundaryMeta));
  library.impl("boundary_backward", TORCH_FN(boundaryBackwardMeta));
  library.impl("after", TORCH_FN(afterMeta));
  library.impl("after_backward", TORCH_FN(afterBackwardMeta));
  library.impl("expand", TORCH_FN(expandMeta));
  library.impl("expand_backward", TORCH_FN(expandBackwardMeta));
  library.impl("reduce", TORCH_FN(reduceMeta));
  library.impl("reduce_backward", TORCH_FN(reduceBackwardMeta));
}
