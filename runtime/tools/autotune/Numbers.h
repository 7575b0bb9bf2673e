// Single numbers of a stored type, for operands that a program makes and compares on the CPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/DType.h>

#include <bit>
#include <cstdint>
#include <cstring>

namespace hyperjit::tools {

template <typename Stored> Stored stored(const void *at) {
  Stored value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline double toDouble(const void *at, DType type) {
  switch (type) {
  case DType::BFloat16:
    return std::bit_cast<float>(uint32_t(stored<uint16_t>(at)) << 16);
  case DType::Float16:
    return double(stored<_Float16>(at));
  case DType::Float32:
    return double(stored<float>(at));
  case DType::Float64:
    return stored<double>(at);
  }
  return 0;
}

/// bf16 towards zero: any number of the type will do.
inline void fromDouble(void *at, double value, DType type) {
  auto store = [&](auto narrow) { std::memcpy(at, &narrow, sizeof narrow); };
  switch (type) {
  case DType::BFloat16:
    return store(uint16_t(std::bit_cast<uint32_t>(float(value)) >> 16));
  case DType::Float16:
    return store(_Float16(value));
  case DType::Float32:
    return store(float(value));
  case DType::Float64:
    return store(value);
  }
}

} // namespace hyperjit::tools
