//===- HCBuilder.h - Building hc values with inferred types -----*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// Adjoints and rewrites read like their formulas when result types follow from
// operands. Null operands stand for zero where a function says so.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_DIALECT_HC_IR_HCBUILDER_H
#define HYPERJIT_DIALECT_HC_IR_HCBUILDER_H

#include "hyperjit/Dialect/HC/IR/HC.h"

namespace hyperjit::hc {

class HCBuilder {
public:
  HCBuilder(mlir::OpBuilder &builder, mlir::Location loc) : builder(builder), loc(loc) {}

  static RowsType rowsType(mlir::Value value) { return mlir::cast<RowsType>(value.getType()); }
  static CoeffsType coeffsType(mlir::Value value) { return mlir::cast<CoeffsType>(value.getType()); }
  static WeightType weightType(mlir::Value value) { return mlir::cast<WeightType>(value.getType()); }

  mlir::Value mix(mlir::Value coefficients, mlir::Value rows);
  mlir::Value scaleRows(mlir::Value coefficients, mlir::Value rows);
  mlir::Value gatherRows(mlir::Value rows, llvm::ArrayRef<int64_t> indices);
  mlir::Value scatterRows(mlir::Value rows, llvm::ArrayRef<int64_t> indices, int64_t count);
  mlir::Value fillRows(mlir::Value coefficients, int64_t width);
  mlir::Value expand(mlir::Value coefficients, mlir::Value weight);
  mlir::Value dot(mlir::Value lhs, mlir::Value rhs);
  mlir::Value dotRows(mlir::Value lhs, mlir::Value rhs);
  mlir::Value rowSum(mlir::Value rows);
  mlir::Value project(mlir::Value rows, mlir::Value weight);
  /// Sum of outer products over groups; `rowsPerGroup` rows a group.
  mlir::Value outer(mlir::Value rows, mlir::Value coefficients);
  mlir::Value weightDot(mlir::Value lhs, mlir::Value rhs);
  mlir::Value scaleWeight(mlir::Value weight, mlir::Value scale);
  mlir::Value sliceWeight(mlir::Value weight, int64_t offset, int64_t columns);

  mlir::Value constant(double value, llvm::ArrayRef<int64_t> shape);
  mlir::Value splatLike(double value, mlir::Value like);
  mlir::Value reshape(mlir::Value coefficients, llvm::ArrayRef<int64_t> shape);
  mlir::Value transpose(mlir::Value matrix);
  mlir::Value transpose(mlir::Value coefficients, llvm::ArrayRef<int64_t> permutation);
  mlir::Value slice(mlir::Value coefficients, int64_t axis, int64_t offset, int64_t size);
  mlir::Value concat(mlir::ValueRange coefficients, int64_t axis);
  mlir::Value broadcast(mlir::Value coefficients, llvm::ArrayRef<int64_t> dims, llvm::ArrayRef<int64_t> shape);
  mlir::Value reduceSum(mlir::Value coefficients, llvm::ArrayRef<int64_t> axes);
  mlir::Value matmul(mlir::Value lhs, mlir::Value rhs);

  /// Elementwise ops: one operand or two of one type.
  template <typename OpTy, typename... Operands> mlir::Value map(mlir::Value first, Operands... rest) {
    return OpTy::create(builder, loc, first.getType(), first, rest...).getResult();
  }
  mlir::Value add(mlir::Value a, mlir::Value b) { return map<AddOp>(a, b); }
  mlir::Value sub(mlir::Value a, mlir::Value b) { return map<SubOp>(a, b); }
  mlir::Value mul(mlir::Value a, mlir::Value b) { return map<MulOp>(a, b); }

  mlir::OpBuilder &builder;
  mlir::Location loc;

private:
  RowsType rows(int64_t count, int64_t width) { return RowsType::get(builder.getContext(), count, width); }
  CoeffsType coeffs(llvm::ArrayRef<int64_t> shape) { return CoeffsType::get(builder.getContext(), shape); }
};

} // namespace hyperjit::hc

#endif
