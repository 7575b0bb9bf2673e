//===- Pieces.h - Small pieces of the emitter's text ------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_LIB_CONVERSION_HCTOEMITC_PIECES_H
#define HYPERJIT_LIB_CONVERSION_HCTOEMITC_PIECES_H

#include "hyperjit/Dialect/HC/IR/HC.h"

#include <string>

namespace hyperjit::cuda {

inline std::string number(int64_t value) { return std::to_string(value); }
inline llvm::ArrayRef<int64_t> shapeOf(mlir::Value value) {
  return mlir::cast<hc::CoeffsType>(value.getType()).getShape();
}
inline int64_t countOf(mlir::Value value) { return hc::elementCount(value.getType()); }
inline int64_t rowsOf(mlir::Value value) { return mlir::cast<hc::RowsType>(value.getType()).getRows(); }

} // namespace hyperjit::cuda

#endif // HYPERJIT_LIB_CONVERSION_HCTOEMITC_PIECES_H
