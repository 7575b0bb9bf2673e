//===- HCAdjoints.cpp - The adjoint of each op ----------------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// Each method builds the cotangents of the operands from g, the cotangent of
// the result; the formula stands above it. Sums over tokens for uniform
// operands are the caller's.
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HC.h"
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"

using namespace mlir;
using namespace hyperjit::hc;

using Cotangents = SmallVector<Value>;

//===----------------------------------------------------------------------===//
// M
//===----------------------------------------------------------------------===//

// out = C x:  dC = <g, x>, dx = C^T g
void MixOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.dot(g, getInput()), b.mix(b.transpose(getCoefficients()), g)};
}

// out_i = c_i x_i:  dc_i = <g_i, x_i>, dx_i = c_i g_i
void ScaleRowsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.dotRows(g, getInput()), b.scaleRows(getCoefficients(), g)};
}

void GatherRowsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).scatterRows(g, getIndices(), getInput().getType().getRows())};
}

void ScatterRowsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).gatherRows(g, getIndices())};
}

void FillRowsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).rowSum(g)};
}

// x = p W^T:  dp = g W, dW = g p summed over groups
void ExpandOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.project(g, getWeight()), b.outer(g, getCoefficients())};
}

// What travels against an edge has the type of the edge.
void RoundOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {RoundOp::create(builder, getLoc(), g.getType(), g, getEdgeAttr(), getTypeAttr())};
}

//===----------------------------------------------------------------------===//
// R
//===----------------------------------------------------------------------===//

// c_ij = <a_i, b_j>:  da = g b, db = g^T a
void DotOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.mix(g, getRhs()), b.mix(b.transpose(g), getLhs())};
}

// c_i = <a_i, b_i>:  da_i = g_i b_i, db_i = g_i a_i
void DotRowsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  if (getLhs() == getRhs()) { // a square: one product instead of two
    d = {b.scaleRows(b.mul(b.splatLike(2.0, g), g), getLhs()), Value()};
    return;
  }
  d = {b.scaleRows(g, getRhs()), b.scaleRows(g, getLhs())};
}

void RowSumOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).fillRows(g, getInput().getType().getWidth())};
}

// p = x W:  dx = g W^T, dW = x g summed over groups
void ProjectOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.expand(g, getWeight()), b.outer(getInput(), g)};
}

//===----------------------------------------------------------------------===//
// Elementwise
//===----------------------------------------------------------------------===//

void AddOp::buildAdjoint(OpBuilder &, Value g, Cotangents &d) { d = {g, g}; }

void SubOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  Value negative;
  if (isa<CoeffsType>(g.getType()))
    negative = b.map<NegOp>(g);
  else if (auto rows = dyn_cast<RowsType>(g.getType()))
    negative = b.scaleRows(b.constant(-1.0, {rows.getRows()}), g);
  else
    negative = b.scaleWeight(g, b.fillRows(b.constant(-1.0, {cast<WeightType>(g.getType()).getRows()}),
                                           cast<WeightType>(g.getType()).getWidth()));
  d = {g, negative};
}

void MulOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.mul(g, getRhs()), b.mul(g, getLhs())};
}

// a / b:  da = g / b, db = -(g / b) (a / b)
void DivOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  Value da = b.map<DivOp>(g, getRhs());
  d = {da, b.map<NegOp>(b.mul(da, getResult()))};
}

// The cotangent goes to the greater operand, to a when they are equal.
void MaxOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  Value chosen = b.map<HeavisideOp>(b.sub(getLhs(), getRhs()));
  Value da = b.mul(g, chosen);
  d = {da, b.sub(g, da)};
}

void NegOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).map<NegOp>(g)};
}
void ExpOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).mul(g, getResult())};
}
void LogOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).map<DivOp>(g, getInput())};
}
// t' = 1 - t^2
void TanhOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.mul(g, b.sub(b.splatLike(1.0, g), b.mul(getResult(), getResult())))};
}
// s' = s (1 - s)
void SigmoidOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.mul(g, b.mul(getResult(), b.sub(b.splatLike(1.0, g), getResult())))};
}
// sqrt' = 1 / (2 sqrt)
void SqrtOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.map<DivOp>(b.mul(b.splatLike(0.5, g), g), getResult())};
}
// (a^-1/2)' = -1/2 (a^-1/2)^3
void RsqrtOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  Value r = getResult();
  d = {b.mul(b.mul(b.splatLike(-0.5, g), g), b.mul(r, b.mul(r, r)))};
}
// (1/a)' = -(1/a)^2
void ReciprocalOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.map<NegOp>(b.mul(g, b.mul(getResult(), getResult())))};
}
void HeavisideOp::buildAdjoint(OpBuilder &, Value, Cotangents &d) { d = {Value()}; }

//===----------------------------------------------------------------------===//
// C
//===----------------------------------------------------------------------===//

void ReshapeOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {HCBuilder(builder, getLoc()).reshape(g, getInput().getType().getShape())};
}

void TransposeOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  SmallVector<int64_t> inverse(getPermutation().size());
  for (auto [i, axis] : llvm::enumerate(getPermutation()))
    inverse[axis] = i;
  d = {HCBuilder(builder, getLoc()).transpose(g, inverse)};
}

// A slice's cotangent, padded with zeros.
void SliceOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  ArrayRef<int64_t> full = getInput().getType().getShape();
  int64_t axis = getAxis(), offset = getOffset(), size = getResult().getType().getShape()[axis];
  auto zeros = [&](int64_t count) {
    SmallVector<int64_t> shape(full);
    shape[axis] = count;
    return b.constant(0.0, shape);
  };
  SmallVector<Value> parts;
  if (offset > 0)
    parts.push_back(zeros(offset));
  parts.push_back(g);
  if (offset + size < full[axis])
    parts.push_back(zeros(full[axis] - offset - size));
  d = {b.concat(parts, axis)};
}

void ConcatOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  int64_t offset = 0, axis = getAxis();
  d.clear();
  for (auto [i, input] : llvm::enumerate(getInputs())) {
    int64_t size = HCBuilder::coeffsType(input).getShape()[axis];
    d.push_back(b.slice(g, axis, offset, size));
    offset += size;
  }
}

// Sum over the axes that were repeated or stretched.
void BroadcastOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  ArrayRef<int64_t> from = getInput().getType().getShape(), to = getResult().getType().getShape();
  SmallVector<int64_t> axes;
  for (int64_t axis = 0, rank = to.size(); axis < rank; ++axis) {
    const auto *place = llvm::find(getDims(), axis);
    if (place == getDims().end() || from[place - getDims().begin()] != to[axis])
      axes.push_back(axis);
  }
  Value sum = axes.empty() ? g : b.reduceSum(g, axes);
  // Axes keep their order in `dims` (verified), so what is left only needs its sizes of one back.
  d = {b.reshape(sum, from)};
}

void ReduceSumOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  ArrayRef<int64_t> shape = getInput().getType().getShape();
  SmallVector<int64_t> dims;
  for (int64_t axis = 0, rank = shape.size(); axis < rank; ++axis)
    if (!llvm::is_contained(getAxes(), axis))
      dims.push_back(axis);
  if (dims.empty()) // the sum over all axes has shape 1
    dims.push_back(shape.size() - 1);
  d = {b.broadcast(g, dims, shape)};
}

// C = A B:  dA = g B^T, dB = A^T g
void MatmulOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.matmul(g, b.transpose(getRhs())), b.matmul(b.transpose(getLhs()), g)};
}

void SoftmaxOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {SoftmaxAdjointOp::create(builder, getLoc(), g.getType(), getResult(), g)};
}

void SinkhornOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {SinkhornAdjointOp::create(builder, getLoc(), g.getType(), getInput(), g, getIterationsAttr(), getStartAttr(),
                                 getFirstAttr(), getPlaceAttr(), getEpsAttr(), getTauAttr(), getLogDomainAttr())};
}

void PermutationMixOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {PermutationDotOp::create(builder, getLoc(), getInput().getType(), g)};
}
void PermutationDotOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {PermutationMixOp::create(builder, getLoc(), getInput().getType(), g)};
}

//===----------------------------------------------------------------------===//
// W and P
//===----------------------------------------------------------------------===//

// The sum hands the same cotangent to every token.
void TokenSumOp::buildAdjoint(OpBuilder &, Value g, Cotangents &d) { d = {g}; }

// W = x p summed over groups:  dx = p W'^T, dp = x W'
void OuterOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.expand(getCoefficients(), g), b.project(getInput(), g)};
}

void ScaleWeightOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.scaleWeight(g, getScale()), b.weightDot(getWeight(), g)};
}

void WeightDotOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  d = {b.scaleWeight(getRhs(), g), b.scaleWeight(getLhs(), g)};
}

void ConcatWeightsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  int64_t offset = 0;
  d.clear();
  for (auto [i, input] : llvm::enumerate(getInputs())) {
    int64_t columns = HCBuilder::weightType(input).getColumns();
    d.push_back(b.sliceWeight(g, offset, columns));
    offset += columns;
  }
}

// A slice's cotangent, padded with zero columns.
void SliceWeightOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  HCBuilder b(builder, getLoc());
  WeightType full = getInput().getType();
  int64_t offset = getOffset(), columns = getResult().getType().getColumns();
  auto zeros = [&](int64_t count) {
    return b.outer(b.fillRows(b.constant(0.0, {full.getRows()}), full.getWidth()), b.constant(0.0, {1, count}));
  };
  SmallVector<Value> parts;
  if (offset > 0)
    parts.push_back(zeros(offset));
  parts.push_back(g);
  if (offset + columns < full.getColumns())
    parts.push_back(zeros(full.getColumns() - offset - columns));
  d = {parts.size() == 1 ? parts[0] : ConcatWeightsOp::create(builder, getLoc(), full, parts).getResult()};
}

void WeightFromRowsOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {RowsFromWeightOp::create(builder, getLoc(), getInput().getType(), g)};
}
void RowsFromWeightOp::buildAdjoint(OpBuilder &builder, Value g, Cotangents &d) {
  d = {WeightFromRowsOp::create(builder, getLoc(), getInput().getType(), g)};
}
