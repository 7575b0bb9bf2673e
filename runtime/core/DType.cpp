// DType.cpp - names of storage types.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/DType.h"

#include "hyperjit/core/Error.h"

using namespace hyperjit;

std::string_view hyperjit::name(DType type) {
  switch (type) {
  case DType::BFloat16:
    return "bf16";
  case DType::Float16:
    return "fp16";
  case DType::Float32:
    return "fp32";
  case DType::Float64:
    return "fp64";
  }
  return "?";
}

std::optional<DType> hyperjit::findDType(std::string_view word) {
  for (DType type : {DType::BFloat16, DType::Float16, DType::Float32, DType::Float64})
    if (name(type) == word)
      return type;
  return std::nullopt;
}

DType hyperjit::parseDType(std::string_view word, std::string_view what) {
  if (std::optional<DType> type = findDType(word))
    return *type;
  throw UserError(ErrorId::UnknownValue,
                  unknownWord("value of " + std::string(what), word, {"bf16", "fp16", "fp32", "fp64"}));
}
