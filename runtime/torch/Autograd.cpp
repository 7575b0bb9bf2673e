// The Autograd key: one node per operator. Forward and backward call registered operators only and keep tensors only in
// save_for_backward, so torch.compile, compiled autograd, offload hooks and checkpointing see all of it.
// SPDX-License-Identifier: Apache-2.0
//
// A site saves x, y, the coefficients that crossed, its parameters and carries (all alive anyway) and the few numbers a
// token that the forward kernel wrote: (n + 1) wide vectors a token, nothing else that grows with them.

#include "Devices.h"
#include "OpPlan.h"

#include <hyperjit/torch/Ops.h>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

namespace hyperjit::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Whether a node is needed. Forward-mode tangents are refused: dropping them would be silent. Layouts without kernels
/// are refused here too, by name: the dispatcher would list its keys.
bool needsGradient(const Operands &operands, Role role, std::string_view spec, const char *op) {
  bool any = false;
  operands.visit([&](const at::Tensor &tensor) {
    any = any || tensor.requires_grad();
    if (C10_UNLIKELY(tensor.defined() && tensor.layout() != at::kStrided))
      OpPlan::get(role, spec).check(operands);
    TORCH_CHECK(!tensor._fw_grad(0).defined(), op, ": forward-mode differentiation is not supported");
  });
  return any && at::GradMode::is_enabled();
}

/// A gather with sparse_grad sends a sparse cotangent.
at::Tensor dense(const at::Tensor &grad) {
  return grad.defined() && grad.layout() != at::kStrided ? grad.to_dense() : grad;
}

// Carries are a few numbers a token. Whether the next site reads them, and whether they began as a constant, makes no
// kernel of its own: where the branch input has a cotangent carries have one, too, and where anything is wanted they are.
// So the kernels that `prepare` knows from the spec are those that a chain asks for at its ends, too.
constexpr char kCarries = 'k';

/// Which groups of outputs got a cotangent, as letters, and their cotangents; a group is given whole, so an output
/// without one gets zeros if another of its group has one.
std::string collectCotangents(const OpPlan &plan, const at::Tensor &x, at::ArrayRef<at::Tensor> grads,
                              std::vector<at::Tensor> &cotangents) {
  std::string given;
  for (char letter : kGivenLetters)
    for (size_t i = 0; i < plan.outputs.size(); ++i)
      if (plan.outputs[i].group == letter &&
          (grads[i].defined() || (letter == kCarries && given.find('u') != std::string::npos))) {
        given += letter;
        break;
      }
  for (size_t i = 0; i < plan.outputs.size(); ++i) {
    const Slot &slot = plan.outputs[i];
    if (given.find(slot.group) == std::string::npos)
      continue;
    cotangents.push_back(grads[i].defined() ? dense(grads[i])
                                            : at::zeros_symint(slot.sizes<c10::SymInt>(OpPlan::lead(x.sym_sizes())),
                                                               x.options().dtype(slot.dtype)));
  }
  return given;
}

std::string collectWanted(const OpPlan &plan, const AutogradContext *context) {
  std::string want;
  for (char letter : kWantLetters)
    for (size_t i = 0; i < plan.inputs.size(); ++i)
      if (plan.inputs[i].group == letter && (context->needs_input_grad(i) || (letter == kCarries && !want.empty()))) {
        want += letter;
        break;
      }
  return want;
}

/// `gradients` of the wanted groups into the slots of all inputs, then undefined ones for the non-tensor arguments.
variable_list spread(const OpPlan &plan, const std::string &want, const std::vector<at::Tensor> &gradients,
                     size_t others) {
  variable_list result(plan.inputs.size() + others);
  size_t next = 0;
  for (size_t i = 0; i < plan.inputs.size(); ++i)
    if (want.find(plan.inputs[i].group) != std::string::npos)
      result[i] = gradients[next++];
  return result;
}

/// `handedOn`: the cotangent of streams that `begin` handed on.
variable_list runNode(AutogradContext *context, Role role, at::ArrayRef<at::Tensor> grads,
                      const at::Tensor &handedOn = {}) {
  const std::string &spec = context->saved_data["spec"].toStringRef();
  const OpPlan &plan = OpPlan::get(role, spec);
  const size_t others = role == Role::After ? 1 : 2;
  variable_list saved = context->get_saved_variables();
  std::vector<at::Tensor> cotangents;
  std::string given = collectCotangents(plan, saved[0], grads, cotangents);
  const std::string want = collectWanted(plan, context);
  if (given.empty() || want.empty()) {
    variable_list result(plan.inputs.size() + others);
    result[0] = handedOn;
    return result;
  }
  if (handedOn.defined() && want[0] == 'x') {
    given.insert(given.begin(), 'x');
    cotangents.insert(cotangents.begin(), handedOn);
  }
  auto slice = [&](size_t begin, size_t count) { return at::TensorList(saved).slice(begin, count); };
  const size_t head = role == Role::Before ? 1 : 2;
  const auto coefficients = slice(head, plan.coefficientCount);
  const auto parameters = slice(head + plan.coefficientCount, plan.parameterCount);
  const auto carries = slice(head + plan.coefficientCount + plan.parameterCount, plan.carryCount);
  const std::optional<at::Tensor> numbers = plan.saved ? std::optional<at::Tensor>(saved.back()) : std::nullopt;
  // The fallback under the Autograd key boxes every operand, to refuse second and forward-mode derivatives.
  // Where neither is asked for it is passed by.
  std::optional<at::AutoDispatchBelowADInplaceOrView> below;
  auto hasTangent = [](const at::Tensor &tensor) { return tensor._fw_grad(0).defined(); };
  if (!at::GradMode::is_enabled() && std::none_of(saved.begin(), saved.end(), hasTangent) &&
      std::none_of(cotangents.begin(), cotangents.end(), hasTangent))
    below.emplace();
  std::vector<at::Tensor> gradients;
  switch (role) {
  case Role::Before:
    gradients = beforeBackward(saved[0], parameters, carries, numbers, cotangents, spec, given, want);
    break;
  case Role::Boundary:
    gradients =
        boundaryBackward(saved[0], saved[1], coefficients, parameters, carries, numbers, cotangents, spec, given, want);
    break;
  case Role::After:
    gradients = afterBackward(saved[0], saved[1], coefficients, cotangents[0], spec, want);
    break;
  }
  return spread(plan, want, gradients, others);
}

/// Keeps the operands and what the kernel saved, and takes the latter off the outputs.
void keep(AutogradContext *context, const OpPlan &plan, const Operands &operands, std::vector<at::Tensor> &outputs,
          at::Tensor *savedNumbers) {
  context->set_materialize_grads(false);
  context->saved_data["spec"] = plan.specValue;
  variable_list saved;
  saved.reserve(operands.size() + 1);
  operands.visit([&](const at::Tensor &tensor) { saved.push_back(tensor); });
  if (plan.saved) {
    *savedNumbers = outputs.back();
    saved.push_back(outputs.back());
    outputs.pop_back();
  }
  context->save_for_backward(std::move(saved));
}

struct Before : torch::autograd::Function<Before> {
  static constexpr bool is_traceable = true;
  static variable_list forward(AutogradContext *context, const at::Tensor &x, at::TensorList parameters,
                               at::TensorList carries, std::string_view spec, at::Tensor *savedNumbers) {
    at::AutoDispatchBelowADInplaceOrView below;
    std::vector<at::Tensor> outputs = before(x, parameters, carries, spec, true);
    keep(context, OpPlan::get(Role::Before, spec), {x, nullptr, {}, parameters, carries}, outputs, savedNumbers);
    return outputs;
  }
  static variable_list backward(AutogradContext *context, variable_list grads) {
    return runNode(context, Role::Before, std::move(grads));
  }
};

/// Before, and x handed on: its cotangent comes back here, and the kernel adds it.
struct Begin : torch::autograd::Function<Begin> {
  static constexpr bool is_traceable = true;
  static variable_list forward(AutogradContext *context, const at::Tensor &x, at::TensorList parameters,
                               at::TensorList carries, std::string_view spec, at::Tensor *savedNumbers) {
    variable_list outputs = Before::forward(context, x, parameters, carries, spec, savedNumbers);
    outputs.insert(outputs.begin(), x);
    return outputs;
  }
  static variable_list backward(AutogradContext *context, variable_list grads) {
    return runNode(context, Role::Before, at::ArrayRef<at::Tensor>(grads).slice(1), dense(grads[0]));
  }
};

struct Boundary : torch::autograd::Function<Boundary> {
  static constexpr bool is_traceable = true;
  static variable_list forward(AutogradContext *context, const at::Tensor &x, const at::Tensor &y,
                               at::TensorList coefficients, at::TensorList parameters, at::TensorList carries,
                               std::string_view spec, at::Tensor *savedNumbers) {
    at::AutoDispatchBelowADInplaceOrView below;
    std::vector<at::Tensor> outputs = boundary(x, y, coefficients, parameters, carries, spec, true);
    keep(context, OpPlan::get(Role::Boundary, spec), {x, &y, coefficients, parameters, carries}, outputs, savedNumbers);
    return outputs;
  }
  static variable_list backward(AutogradContext *context, variable_list grads) {
    return runNode(context, Role::Boundary, std::move(grads));
  }
};

struct After : torch::autograd::Function<After> {
  static constexpr bool is_traceable = true;
  static variable_list forward(AutogradContext *context, const at::Tensor &x, const at::Tensor &y,
                               at::TensorList coefficients, std::string_view spec) {
    at::AutoDispatchBelowADInplaceOrView below;
    std::vector<at::Tensor> outputs{after(x, y, coefficients, spec)};
    keep(context, OpPlan::get(Role::After, spec), {x, &y, coefficients, {}, {}}, outputs, nullptr);
    return outputs;
  }
  static variable_list backward(AutogradContext *context, variable_list grads) {
    return runNode(context, Role::After, std::move(grads));
  }
};

std::vector<at::Tensor> beforeAutograd(const at::Tensor &x, at::TensorList parameters, OptionalList given,
                                       std::string_view spec, bool save) {
  const at::TensorList carries = listOf(given);
  if (!needsGradient({x, nullptr, {}, parameters, carries}, Role::Before, spec, "hyperjit::before")) {
    at::AutoDispatchBelowADInplaceOrView below;
    return before(x, parameters, carries, spec, save);
  }
  at::Tensor saved;
  std::vector<at::Tensor> outputs = Before::apply(x, parameters, carries, spec, &saved);
  if (save && saved.defined())
    outputs.push_back(saved);
  return outputs;
}

/// Runs at whatever key asks first, where it makes its own node and calls `before`.
std::tuple<at::Tensor, std::vector<at::Tensor>> beginComposite(const at::Tensor &x, at::TensorList parameters,
                                                               OptionalList given, std::string_view spec, bool save) {
  const at::TensorList carries = listOf(given);
  // Streams that ask for no gradient get no edge: what reads them next need not make one. Nor does anything under
  // inference mode, whose keys have gone by the time this runs, whatever the grad mode in it.
  if (!x.requires_grad() || c10::InferenceMode::is_enabled() ||
      !needsGradient({x, nullptr, {}, parameters, carries}, Role::Before, spec, "hyperjit::begin"))
    return {x, before(x, parameters, carries, spec, save)};
  at::Tensor saved;
  std::vector<at::Tensor> outputs = Begin::apply(x, parameters, carries, spec, &saved);
  at::Tensor streams = std::move(outputs.front());
  outputs.erase(outputs.begin());
  if (save && saved.defined())
    outputs.push_back(saved);
  return {std::move(streams), std::move(outputs)};
}

std::vector<at::Tensor> boundaryAutograd(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                         at::TensorList parameters, OptionalList given, std::string_view spec,
                                         bool save) {
  const at::TensorList carries = listOf(given);
  if (!needsGradient({x, &y, coefficients, parameters, carries}, Role::Boundary, spec, "hyperjit::boundary")) {
    at::AutoDispatchBelowADInplaceOrView below;
    return boundary(x, y, coefficients, parameters, carries, spec, save);
  }
  at::Tensor saved;
  std::vector<at::Tensor> outputs = Boundary::apply(x, y, coefficients, parameters, carries, spec, &saved);
  if (save && saved.defined())
    outputs.push_back(saved);
  return outputs;
}

at::Tensor afterAutograd(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, std::string_view spec) {
  if (!needsGradient({x, &y, coefficients, {}, {}}, Role::After, spec, "hyperjit::after")) {
    at::AutoDispatchBelowADInplaceOrView below;
    return after(x, y, coefficients, spec);
  }
  return After::apply(x, y, coefficients, spec)[0];
}

//===----------------------------------------------------------------------===//
// Expand and reduce
//===----------------------------------------------------------------------===//

struct Expand : torch::autograd::Function<Expand> {
  static constexpr bool is_traceable = true;
  static at::Tensor forward(AutogradContext *context, const at::Tensor &h, const std::optional<at::Tensor> &embedding,
                            int64_t streams) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->set_materialize_grads(false);
    context->saved_data["embedding"] =
        embedding.has_value() ? static_cast<int64_t>(embedding->scalar_type()) : static_cast<int64_t>(-1);
    return expand(h, embedding, streams);
  }
  static variable_list backward(AutogradContext *context, variable_list grads) {
    const int64_t type = context->saved_data["embedding"].toInt();
    if (!grads[0].defined())
      return {at::Tensor(), at::Tensor(), at::Tensor()};
    auto [dh, dEmbedding] = expandBackward(dense(grads[0]), type >= 0 && context->needs_input_grad(1));
    if (type < 0 || !context->needs_input_grad(1))
      return {dh, at::Tensor(), at::Tensor()};
    return {dh, dEmbedding.to(static_cast<at::ScalarType>(type)), at::Tensor()};
  }
};

struct Reduce : torch::autograd::Function<Reduce> {
  static constexpr bool is_traceable = true;
  static at::Tensor forward(AutogradContext *context, const at::Tensor &x, const std::optional<at::Tensor> &weights,
                            std::string_view mode) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->set_materialize_grads(false);
    at::Tensor result = reduce(x, weights, mode);
    context->saved_data["mode"] = std::string(mode);
    context->saved_data["streams"] = x.sym_size(-2).guard_int(__FILE__, __LINE__);
    if (weights.has_value())
      context->save_for_backward({x, *weights});
    return result;
  }
  static variable_list backward(AutogradContext *context, variable_list grads) {
    if (!grads[0].defined())
      return {at::Tensor(), at::Tensor(), at::Tensor()};
    const std::string mode = context->saved_data["mode"].toStringRef();
    const int64_t streams = context->saved_data["streams"].toInt();
    variable_list saved = context->get_saved_variables();
    if (saved.empty()) {
      auto [dx, none] = reduceBackward(dense(grads[0]), std::nullopt, std::nullopt, streams, mode);
      return {dx, at::Tensor(), at::Tensor()};
    }
    auto [dx, dWeights] = reduceBackward(dense(grads[0]), saved[0], saved[1], streams, mode);
    return {dx, dWeights, at::Tensor()};
  }
};

/// Of expand and reduce, after their check: the same as of sites.
bool needsGradient(const at::Tensor &x, const std::optional<at::Tensor> &other, const char *op) {
  auto refuseTangent = [&](const at::Tensor &tensor) {
    TORCH_CHECK(!tensor._fw_grad(0).defined(), op, ": forward-mode differentiation is not supported");
  };
  refuseTangent(x);
  if (other.has_value())
    refuseTangent(*other);
  return at::GradMode::is_enabled() && (x.requires_grad() || (other.has_value() && other->requires_grad()));
}

at::Tensor expandAutograd(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams) {
  checkExpand(h, embedding, streams);
  if (!needsGradient(h, embedding, "hyperjit::expand")) {
    at::AutoDispatchBelowADInplaceOrView below;
    return expand(h, embedding, streams);
  }
  return Expand::apply(h, embedding, streams);
}

at::Tensor reduceAutograd(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode) {
  checkReduce(x, weights, mode);
  if (!needsGradient(x, weights, "hyperjit::reduce")) {
    at::AutoDispatchBelowADInplaceOrView below;
    return reduce(x, weights, mode);
  }
  return Reduce::apply(x, weights, mode);
}

} // namespace
} // namespace hyperjit::ops

TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, CompositeImplicitAutograd, library) {
  library.impl("begin", TORCH_FN(hyperjit::ops::beginComposite));
}

TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, Autograd, library) {
  using namespace hyperjit::ops;
  library.impl("before", TORCH_FN(beforeAutograd));
  library.impl("boundary", TORCH_FN(boundaryAutograd));
  library.impl("after", TORCH_FN(afterAutograd));
  library.impl("expand", TORCH_FN(expandAutograd));
  library.impl("reduce", TORCH_FN(reduceAutograd));
  // Double backward is refused by name.
  for (const char *name :
       {"before_backward", "boundary_backward", "after_backward", "expand_backward", "reduce_backward"})
    library.impl(name, torch::autograd::autogradNotImplementedFallback());
}
