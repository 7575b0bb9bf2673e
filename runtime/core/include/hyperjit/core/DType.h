// DType.h - the storage types of tensors, and the type arithmetic is done in.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_DTYPE_H
#define HYPERJIT_CORE_DTYPE_H

#include "hyperjit/core/Export.h"

#include <cstdint>
#include <optional>
#include <string_view>

namespace hyperjit {

enum class DType : uint8_t { BFloat16, Float16, Float32, Float64 };

/// "bf16", "fp16", "fp32" or "fp64".
HYPERJIT_EXPORT std::string_view name(DType type);
/// The inverse of `name`; empty for another word.
HYPERJIT_EXPORT std::optional<DType> findDType(std::string_view word);
/// The inverse of `name`; throws UserError (UnknownValue) that says which words there are. `what` names the operand.
HYPERJIT_EXPORT DType parseDType(std::string_view word, std::string_view what = "dtype");

/// Bytes of one number.
constexpr int64_t sizeOf(DType type) { return type == DType::Float64 ? 8 : type == DType::Float32 ? 4 : 2; }
/// Coefficients, saved numbers and sums are kept in this type: fp64 when the streams are fp64, else fp32.
constexpr DType computeType(DType stream) { return stream == DType::Float64 ? DType::Float64 : DType::Float32; }

} // namespace hyperjit

#endif // HYPERJIT_CORE_DTYPE_H
