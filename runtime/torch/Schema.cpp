// Schemas of the hyperjit operators, and the C++ functions that call them through the dispatcher.
// SPDX-License-Identifier: Apache-2.0

#include "OpPlan.h"

#include <hyperjit/torch/Ops.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#define HYPERJIT_STRING_(x) #x
#define HYPERJIT_STRING(x) HYPERJIT_STRING_(x)
// Tensor[] arguments serve recipes with any number of parameters, also a user's; no defaults, no mutation; a view only
// of begin. Most recipes have no carries: None instead of an empty list is what AOTInductor (torch 2.11) can pass.
TORCH_LIBRARY(HYPERJIT_OP_NAMESPACE, library) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  library.def("before(Tensor x, Tensor[] parameters, Tensor[]? carries, str spec, bool save=False) -> Tensor[]", tags);
  // Composite: what is traced becomes `before`; x comes back, so that autograd has one edge to it.
  library.def(
      "begin(Tensor(a) x, Tensor[] parameters, Tensor[]? carries, str spec, bool save=False) -> (Tensor(a), Tensor[])",
      tags);
  library.def(
      "before_backward(Tensor x, Tensor[] parameters, Tensor[] carries, Tensor? saved, Tensor[] cotangents, str spec, "
      "str given, str want) -> Tensor[]",
      tags);
  library.def("boundary(Tensor x, Tensor y, Tensor[] coefficients, Tensor[] parameters, Tensor[]? carries, str spec, "
              "bool save=False) "
              "-> Tensor[]",
              tags);
  library.def("boundary_backward(Tensor x, Tensor y, Tensor[] coefficients, Tensor[] parameters, Tensor[] carries, "
              "Tensor? saved, Tensor[] cotangents, str spec, str given, str want) -> Tensor[]",
              tags);
  library.def("after(Tensor x, Tensor y, Tensor[] coefficients, str spec) -> Tensor", tags);
  library.def(
      "after_backward(Tensor x, Tensor y, Tensor[] coefficients, Tensor cotangent, str spec, str want) -> Tensor[]",
      tags);
  library.def("expand(Tensor h, Tensor? embedding, int streams) -> Tensor", tags);
  library.def("expand_backward(Tensor cotangent, bool embedding) -> (Tensor, Tensor)", tags);
  library.def("reduce(Tensor x, Tensor? weights, str mode) -> Tensor", tags);
  library.def(
      "reduce_backward(Tensor cotangent, Tensor? x, Tensor? weights, int streams, str mode) -> (Tensor, Tensor)", tags);
}

namespace hyperjit::ops {
namespace {

template <typename Signature> auto find(const char *name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

OptionalList optional(at::TensorList list) { return list.empty() ? OptionalList() : OptionalList(list); }

} // namespace

#define HYPERJIT_OP(name) HYPERJIT_STRING(HYPERJIT_OP_NAMESPACE) "::" name

std::vector<at::Tensor> before(const at::Tensor &x, at::TensorList parameters, at::TensorList carries,
                               std::string_view spec, bool save) {
  static auto op =
      find<std::vector<at::Tensor>(const at::Tensor &, at::TensorList, OptionalList, std::string_view, bool)>(
          HYPERJIT_OP("before"));
  return op.call(x, parameters, optional(carries), spec, save);
}

std::tuple<at::Tensor, std::vector<at::Tensor>> begin(const at::Tensor &x, at::TensorList parameters,
                                                      at::TensorList carries, std::string_view spec, bool save) {
  static auto op = find<std::tuple<at::Tensor, std::vector<at::Tensor>>(
      const at::Tensor &, at::TensorList, OptionalList, std::string_view, bool)>(HYPERJIT_OP("begin"));
  return op.call(x, parameters, optional(carries), spec, save);
}

std::vector<at::Tensor> boundary(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                 at::TensorList parameters, at::TensorList carries, std::string_view spec, bool save) {
  static auto op = find<std::vector<at::Tensor>(const at::Tensor &, const at::Tensor &, at::TensorList, at::TensorList,
                                                OptionalList, std::string_view, bool)>(HYPERJIT_OP("boundary"));
  return op.call(x, y, coefficients, parameters, optional(carries), spec, save);
}

at::Tensor after(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, std::string_view spec) {
  static auto op =
      find<at::Tensor(const at::Tensor &, const at::Tensor &, at::TensorList, std::string_view)>(HYPERJIT_OP("after"));
  return op.call(x, y, coefficients, spec);
}

std::vector<at::Tensor> beforeBackward(const at::Tensor &x, at::TensorList parameters, at::TensorList carries,
                                       const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                       std::string_view spec, std::string_view given, std::string_view want) {
  static auto op = find<std::vector<at::Tensor>(const at::Tensor &, at::TensorList, at::TensorList,
                                                const std::optional<at::Tensor> &, at::TensorList, std::string_view,
                                                std::string_view, std::string_view)>(HYPERJIT_OP("before_backward"));
  return op.call(x, parameters, carries, saved, cotangents, spec, given, want);
}

std::vector<at::Tensor> boundaryBackward(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                         at::TensorList parameters, at::TensorList carries,
                                         const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                         std::string_view spec, std::string_view given, std::string_view want) {
  static auto op =
      find<std::vector<at::Tensor>(const at::Tensor &, const at::Tensor &, at::TensorList, at::TensorList,
                                   at::TensorList, const std::optional<at::Tensor> &, at::TensorList, std::string_view,
                                   std::string_view, std::string_view)>(HYPERJIT_OP("boundary_backward"));
  return op.call(x, y, coefficients, parameters, carries, saved, cotangents, spec, given, want);
}

std::vector<at::Tensor> afterBackward(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                      const at::Tensor &cotangent, std::string_view spec, std::string_view want) {
  static auto op =
      find<std::vector<at::Tensor>(const at::Tensor &, const at::Tensor &, at::TensorList, const at::Tensor &,
                                   std::string_view, std::string_view)>(HYPERJIT_OP("after_backward"));
  return op.call(x, y, coefficients, cotangent, spec, want);
}

at::Tensor expand(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams) {
  static auto op =
      find<at::Tensor(const at::Tensor &, const std::optional<at::Tensor> &, int64_t)>(HYPERJIT_OP("expand"));
  return op.call(h, embedding, streams);
}

std::tuple<at::Tensor, at::Tensor> expandBackward(const at::Tensor &cotangent, bool embedding) {
  static auto op = find<std::tuple<at::Tensor, at::Tensor>(const at::Tensor &, bool)>(HYPERJIT_OP("expand_backward"));
  return op.call(cotangent, embedding);
}

at::Tensor reduce(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode) {
  static auto op =
      find<at::Tensor(const at::Tensor &, const std::optional<at::Tensor> &, std::string_view)>(HYPERJIT_OP("reduce"));
  return op.call(x, weights, mode);
}

std::tuple<at::Tensor, at::Tensor> reduceBackward(const at::Tensor &cotangent, const std::optional<at::Tensor> &x,
                                                  const std::optional<at::Tensor> &weights, int64_t streams,
                                                  std::string_view mode) {
  static auto op =
      find<std::tuple<at::Tensor, at::Tensor>(const at::Tensor &, const std::optional<at::Tensor> &,
                                              const std::optional<at::Tensor> &, int64_t, std::string_view)>(
          HYPERJIT_OP("reduce_backward"));
  return op.call(cotangent, x, weights, streams, mode);
}

} // namespace hyperjit::ops
