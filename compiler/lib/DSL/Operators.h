//===- Operators.h - Shared checks of the DSL's functions --------------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#pragma once

#include "Recorder.h"

namespace hyperjit::dsl::detail {

/// The recorder of operands that must all belong to one site; `function` is what the user wrote.
template <typename... Values>
const std::shared_ptr<Recorder> &common(std::string_view function, const Value &first, const Values &...others);

const std::shared_ptr<Recorder> &requireValid(std::string_view function, const Value &value);
void requireSameSite(std::string_view function, const Value &a, const Value &b);
inline const Type &typeOf(const Value &v) { return Access::node(v).type; }
inline std::string describe(const Value &v) { return typeOf(v).description(); }
/// Axis from the front; a negative one counts from the back.
int64_t normalAxis(std::string_view function, const Coefficients &a, int64_t axis);

template <typename... Values>
const std::shared_ptr<Recorder> &common(std::string_view function, const Value &first, const Values &...others) {
  const auto &recorder = requireValid(function, first);
  (requireSameSite(function, first, others), ...);
  return recorder;
}

} // namespace hyperjit::dsl::detail
