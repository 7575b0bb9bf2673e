//===- HCBuilder.cpp - Building hc values with inferred types -------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"

using namespace mlir;
using namespace hyperjit::hc;

Value HCBuilder::mix(Value coefficients, Value input) {
  return MixOp::create(builder, loc, rows(coeffsType(coefficients).getShape()[0], rowsType(input).getWidth()),
                       coefficients, input);
}
Value HCBuilder::scaleRows(Value coefficients, Value input) {
  return ScaleRowsOp::create(builder, loc, input.getType(), coefficients, input);
}
Value HCBuilder::gatherRows(Value input, ArrayRef<int64_t> indices) {
  return GatherRowsOp::create(builder, loc, rows(indices.size(), rowsType(input).getWidth()), input, indices);
}
Value HCBuilder::scatterRows(Value input, ArrayRef<int64_t> indices, int64_t count) {
  return ScatterRowsOp::create(builder, loc, rows(count, rowsType(input).getWidth()), input, indices);
}
Value HCBuilder::fillRows(Value coefficients, int64_t width) {
  return FillRowsOp::create(builder, loc, rows(coeffsType(coefficients).getShape()[0], width), coefficients);
}
Value HCBuilder::expand(Value coefficients, Value weight) {
  int64_t groups = coeffsType(coefficients).getShape()[0];
  WeightType type = weightType(weight);
  return ExpandOp::create(builder, loc, rows(groups * type.getRows(), type.getWidth()), coefficients, weight);
}
Value HCBuilder::dot(Value lhs, Value rhs) {
  return DotOp::create(builder, loc, coeffs({rowsType(lhs).getRows(), rowsType(rhs).getRows()}), lhs, rhs);
}
Value HCBuilder::dotRows(Value lhs, Value rhs) {
  return DotRowsOp::create(builder, loc, coeffs({rowsType(lhs).getRows()}), lhs, rhs);
}
Value HCBuilder::rowSum(Value input) {
  return RowSumOp::create(builder, loc, coeffs({rowsType(input).getRows()}), input);
}
Value HCBuilder::project(Value input, Value weight) {
  WeightType type = weightType(weight);
  return ProjectOp::create(builder, loc, coeffs({rowsType(input).getRows() / type.getRows(), type.getColumns()}), input,
                           weight);
}
Value HCBuilder::outer(Value input, Value coefficients) {
  RowsType type = rowsType(input);
  ArrayRef<int64_t> shape = coeffsType(coefficients).getShape();
  return OuterOp::create(builder, loc,
                         WeightType::get(builder.getContext(), type.getRows() / shape[0], type.getWidth(), shape[1]),
                         input, coefficients);
}
Value HCBuilder::weightDot(Value lhs, Value rhs) {
  WeightType type = weightType(lhs);
  return WeightDotOp::create(builder, loc, rows(type.getRows(), type.getWidth()), lhs, rhs);
}
Value HCBuilder::scaleWeight(Value weight, Value scale) {
  return ScaleWeightOp::create(builder, loc, weight.getType(), weight, scale);
}
Value HCBuilder::sliceWeight(Value weight, int64_t offset, int64_t columns) {
  WeightType type = weightType(weight);
  return SliceWeightOp::create(builder, loc,
                               WeightType::get(builder.getContext(), type.getRows(), type.getWidth(), columns), weight,
                               builder.getI64IntegerAttr(offset));
}

Value HCBuilder::constant(double value, ArrayRef<int64_t> shape) {
  auto type = RankedTensorType::get(shape, builder.getF64Type());
  return ConstantOp::create(builder, loc, coeffs(shape), DenseElementsAttr::get(type, value));
}
Value HCBuilder::splatLike(double value, Value like) { return constant(value, coeffsType(like).getShape()); }
Value HCBuilder::reshape(Value value, ArrayRef<int64_t> shape) {
  return coeffsType(value).getShape() == shape ? value
                                               : ReshapeOp::create(builder, loc, coeffs(shape), value).getResult();
}
Value HCBuilder::transpose(Value matrix) { return transpose(matrix, {1, 0}); }
Value HCBuilder::transpose(Value value, ArrayRef<int64_t> permutation) {
  SmallVector<int64_t> shape;
  for (int64_t axis : permutation)
    shape.push_back(coeffsType(value).getShape()[axis]);
  return TransposeOp::create(builder, loc, coeffs(shape), value, permutation);
}
Value HCBuilder::slice(Value value, int64_t axis, int64_t offset, int64_t size) {
  SmallVector<int64_t> shape(coeffsType(value).getShape());
  shape[axis] = size;
  return SliceOp::create(builder, loc, coeffs(shape), value, builder.getI64IntegerAttr(axis),
                         builder.getI64IntegerAttr(offset));
}
Value HCBuilder::concat(ValueRange values, int64_t axis) {
  if (values.size() == 1)
    return values.front();
  SmallVector<int64_t> shape(coeffsType(values.front()).getShape());
  shape[axis] = 0;
  for (Value value : values)
    shape[axis] += coeffsType(value).getShape()[axis];
  return ConcatOp::create(builder, loc, coeffs(shape), values, builder.getI64IntegerAttr(axis));
}
Value HCBuilder::broadcast(Value value, ArrayRef<int64_t> dims, ArrayRef<int64_t> shape) {
  return BroadcastOp::create(builder, loc, coeffs(shape), value, dims);
}
Value HCBuilder::reduceSum(Value value, ArrayRef<int64_t> axes) {
  SmallVector<int64_t> shape;
  for (auto [axis, size] : llvm::enumerate(coeffsType(value).getShape()))
    if (!llvm::is_contained(axes, static_cast<int64_t>(axis)))
      shape.push_back(size);
  if (shape.empty())
    shape.push_back(1);
  return ReduceSumOp::create(builder, loc, coeffs(shape), value, axes);
}
Value HCBuilder::matmul(Value lhs, Value rhs) {
  return MatmulOp::create(builder, loc, coeffs({coeffsType(lhs).getShape()[0], coeffsType(rhs).getShape()[1]}), lhs,
                          rhs);
}
