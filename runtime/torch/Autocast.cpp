// The Autocast keys. The operators take the dtypes their spec names and do their arithmetic in fp32, so autocast only
// has to keep its hands off; what comes from a branch that ran under autocast is put back into the dtype the spec
// names.
// SPDX-License-Identifier: Apache-2.0

#include "OpPlan.h"

#include <hyperjit/torch/Ops.h>

#include <ATen/ATen.h>
#include <torch/library.h>

namespace hyperjit::ops {
namespace {

at::Tensor toSlot(const at::Tensor &tensor, const Slot &slot) {
  return tensor.defined() && tensor.is_floating_point() ? tensor.to(slot.dtype) : tensor;
}

/// Coefficients, parameters and carries in the spec's dtypes; a list of another length goes on unchanged, to be
/// refused.
std::vector<at::Tensor> toSlots(at::TensorList list, const OpPlan &plan, size_t offset, size_t count) {
  std::vector<at::Tensor> result(list.begin(), list.end());
  if (result.size() == count)
    for (size_t i = 0; i < count; ++i)
      result[i] = toSlot(result[i], plan.inputs[offset + i]);
  return result;
}

template <c10::DispatchKey key>
std::vector<at::Tensor> beforeAutocast(const at::Tensor &x, at::TensorList parameters, OptionalList carries,
                                       std::string_view spec, bool save) {
  c10::impl::ExcludeDispatchKeyGuard off(key);
  const OpPlan &plan = OpPlan::get(Role::Before, spec);
  return before(x, toSlots(parameters, plan, 1, plan.parameterCount),
                toSlots(listOf(carries), plan, 1 + plan.parameterCount, plan.carryCount), spec, save);
}

template <c10::DispatchKey key>
std::tuple<at::Tensor, std::vector<at::Tensor>> beginAutocast(const at::Tensor &x, at::TensorList parameters,
                                                              OptionalList carries, std::string_view spec, bool save) {
  c10::impl::ExcludeDispatchKeyGuard off(key);
  const OpPlan &plan = OpPlan::get(Role::Before, spec);
  return begin(x, toSlots(parameters, plan, 1, plan.parameterCount),
               toSlots(listOf(carries), plan, 1 + plan.parameterCount, plan.carryCount), spec, save);
}

template <c10::DispatchKey key>
std::vector<at::Tensor> boundaryAutocast(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                         at::TensorList parameters, OptionalList carries, std::string_view spec,
                                         bool save) {
  c10::impl::ExcludeDispatchKeyGuard off(key);
  const OpPlan &plan = OpPlan::get(Role::Boundary, spec);
  const size_t base = 2 + plan.coefficientCount;
  return boundary(x, toSlot(y, plan.inputs[1]), toSlots(coefficients, plan, 2, plan.coefficientCount),
                  toSlots(parameters, plan, base, plan.parameterCount),
                  toSlots(listOf(carries), plan, base + plan.parameterCount, plan.carryCount), spec, save);
}

template <c10::DispatchKey key>
at::Tensor afterAutocast(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, std::string_view spec) {
  c10::impl::ExcludeDispatchKeyGuard off(key);
  const OpPlan &plan = OpPlan::get(Role::After, spec);
  return after(x, toSlot(y, plan.inputs[1]), toSlots(coefficients, plan, 2, plan.coefficientCount), spec);
}

template <c10::DispatchKey key>
at::Tensor expandAutocast(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams) {
  c10::impl::ExcludeDispatchKeyGuard off(key);
  return expand(h, embedding, streams);
}

template <c10::DispatchKey key>
at::Tensor reduceAutocast(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode) {
  c10::impl::ExcludeDispatchKeyGuard off(key);
  return reduce(x, weights, mode);
}

template <c10::DispatchKey key> void registerAutocast(torch::Library &library) {
  library.impl("before", TORCH_FN((beforeAutocast<key>)));
  library.impl("begin", TORCH_FN((beginAutocast<key>)));
  library.impl("boundary", TORCH_FN((boundaryAutocast<key>)));
  library.impl("after", TORCH_FN((afterAutocast<key>)));
  library.impl("expand", TORCH_FN((expandAutocast<key>)));
  library.impl("reduce", TORCH_FN((reduceAutocast<key>)));
}

} // namespace
} // namespace hyperjit::ops

TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, AutocastCPU, library) {
  hyperjit::ops::registerAutocast<c10::DispatchKey::AutocastCPU>(library);
}
TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, AutocastCUDA, library) {
  hyperjit::ops::registerAutocast<c10::DispatchKey::AutocastCUDA>(library);
}
