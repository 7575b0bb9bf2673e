//===- Specialize.cpp - Bind width and storage types, rewrite norms -------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

#include "mlir/IR/AttrTypeSubElements.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace hyperjit::hc {
#define GEN_PASS_DEF_SPECIALIZE
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"
} // namespace hyperjit::hc

using namespace mlir;
using namespace hyperjit::hc;

namespace {

/// Statistics of a norm: `scale` is the reciprocal one, [groups]; `mean` only for layernorm.
struct Statistics {
  Value scale, mean;
};

class NormRewriter {
public:
  NormRewriter(NormOp op, OpBuilder &builder) : op(op), b(builder, op.getLoc()) {
    RowsType type = op.getInput().getType();
    rowCount = type.getRows();
    width = type.getWidth();
    group = op.getGroup();
    groups = rowCount / group;
  }

  void rewrite() {
    Statistics statistics = makeStatistics();
    SmallVector<ProjectOp> projections;
    bool others = false;
    for (Operation *user : op.getResult().getUsers()) {
      auto projection = dyn_cast<ProjectOp>(user);
      if (projection && projection.getInput() == op.getResult() && commutes(projection))
        projections.push_back(projection);
      else
        others = true;
    }
    for (ProjectOp projection : projections)
      commute(projection, statistics);
    if (others)
      op.getResult().replaceAllUsesWith(applied(statistics));
    op.erase();
  }

private:
  /// The gain as it multiplies: gain, gain + 1 for l2_unit_offset, null for one.
  Value effectiveGain() {
    Value gain = op.getGain();
    if (!gain || op.getKind() != "l2_unit_offset")
      return gain;
    return b.add(gain, b.fillRows(b.constant(1.0, {HCBuilder::rowsType(gain).getRows()}), width));
  }

  Statistics makeStatistics() {
    double dim = static_cast<double>(group * width), eps = op.getEps().convertToDouble();
    Value x = op.getInput();
    Value squares = perGroup(b.dotRows(x, x));
    auto scaled = [&](Value value, double factor) { return b.mul(b.splatLike(factor, value), value); };
    auto offset = [&](Value value, double summand) { return b.add(value, b.splatLike(summand, value)); };
    if (op.getKind() == "l2_unit_offset") { // 1 / max(|x|, eps), by the square so that a zero row has a zero gradient
      // A square that fp32 does not hold would be 0, and a zero row NaN.
      const double least = eps > 0 ? std::max(eps * eps, double(std::numeric_limits<float>::min())) : 0;
      return {scaled(b.map<RsqrtOp>(b.map<MaxOp>(squares, b.splatLike(least, squares))), std::sqrt(dim)), {}};
    }
    Value mean = scaled(squares, 1.0 / dim);
    if (op.getKind() == "rms_inside")
      return {b.map<RsqrtOp>(offset(mean, eps)), {}};
    if (op.getKind() == "rms_outside") // the bound keeps the gradient of a zero row zero instead of 0 * infinity
      return {b.map<ReciprocalOp>(offset(b.map<SqrtOp>(b.map<MaxOp>(mean, b.splatLike(1e-30, mean))), eps)), {}};
    // E[x^2] - mean^2, so that one sweep over the rows makes both. It cancels: the scale's relative error is about the
    // unit roundoff times mean^2 / variance (fp32: 6e-6 where the mean is 10 deviations, 10 times that of centred rows;
    // 6e-4 at 100). Centring first would be a second sweep, and bf16 streams lose more than that by being stored.
    // Numbers in tests/unit/cpu/ForwardTest.cpp.
    Value centre = scaled(perGroup(b.rowSum(x)), 1.0 / dim);
    Value variance = b.sub(mean, b.mul(centre, centre));
    return {b.map<RsqrtOp>(offset(b.map<MaxOp>(variance, b.splatLike(0.0, variance)), eps)), centre};
  }

  Value perGroup(Value perRow) { return group == 1 ? perRow : b.reduceSum(b.reshape(perRow, {groups, group}), {1}); }
  /// [groups] -> [count], each group's number repeated for its rows or projections.
  Value spread(Value perGroupValue, int64_t count) {
    return count == groups ? perGroupValue
                           : b.reshape(b.broadcast(perGroupValue, {0}, {groups, count / groups}), {count});
  }

  /// A projection's group lies inside a norm's group, and the gain fits the weight's rows.
  bool commutes(ProjectOp projection) {
    int64_t rows = projection.getWeight().getType().getRows();
    auto fits = [&](Value vector) {
      return !vector || HCBuilder::rowsType(vector).getRows() == 1 || HCBuilder::rowsType(vector).getRows() == rows;
    };
    return group % rows == 0 && fits(op.getGain()) && fits(op.getBias());
  }

  /// project(norm(x), W) = scale * (project(x, W') - mean * colsum(W')) + project(bias, W), W' = diag(gain) W.
  void commute(ProjectOp projection, const Statistics &statistics) {
    OpBuilder::InsertionGuard guard(b.builder);
    b.builder.setInsertionPoint(projection);
    Value weight = projection.getWeight();
    int64_t rows = HCBuilder::weightType(weight).getRows();
    auto onWeightRows = [&](Value vector) {
      return HCBuilder::rowsType(vector).getRows() == rows ? vector
                                                           : b.gatherRows(vector, SmallVector<int64_t>(rows, 0));
    };
    Value folded = weight;
    if (Value gain = effectiveGain())
      folded = b.scaleWeight(weight, onWeightRows(gain));
    Value product = b.project(op.getInput(), folded);
    ArrayRef<int64_t> shape = HCBuilder::coeffsType(product).getShape();
    auto overColumns = [&](Value perGroupValue) { return b.broadcast(spread(perGroupValue, shape[0]), {0}, shape); };
    if (statistics.mean && group * width == 1) {
      // One channel is its own mean: nothing is left (or NaN, of what is not finite), which a difference of two
      // products, rounded each in its own way, would hide behind a scale of 1 / sqrt(eps).
      product = b.mul(b.broadcast(b.project(b.fillRows(b.constant(1.0, {rows}), width), folded), {0, 1}, shape),
                      overColumns(b.sub(statistics.mean, statistics.mean)));
    } else if (statistics.mean) {
      Value ones = b.fillRows(b.constant(1.0, {rows}), width);
      Value sums = b.broadcast(b.project(ones, folded), {0, 1}, shape);
      product = b.sub(product, b.mul(overColumns(statistics.mean), sums));
    }
    Value result = b.mul(overColumns(statistics.scale), product);
    if (op.getBias())
      result = b.add(result, b.broadcast(b.project(onWeightRows(op.getBias()), weight), {0, 1}, shape));
    projection.getResult().replaceAllUsesWith(result);
    projection.erase();
  }

  /// The normed rows themselves, for whoever needs more than a projection of them.
  Value applied(const Statistics &statistics) {
    Value x = op.getInput();
    if (statistics.mean)
      x = b.sub(x, b.fillRows(spread(statistics.mean, rowCount), width));
    Value result = b.scaleRows(spread(statistics.scale, rowCount), x);
    auto onAllRows = [&](Value vector) {
      SmallVector<int64_t> indices;
      int64_t rows = HCBuilder::rowsType(vector).getRows();
      for (int64_t i = 0; i < rowCount; ++i)
        indices.push_back(i % rows);
      return b.gatherRows(vector, indices);
    };
    if (Value gain = effectiveGain())
      result = b.mul(result, onAllRows(gain));
    if (op.getBias())
      result = b.add(result, onAllRows(op.getBias()));
    return result;
  }

  NormOp op;
  HCBuilder b;
  int64_t rowCount, width, group, groups;
};

Type storageType(MLIRContext *context, StringRef name) {
  return llvm::StringSwitch<Type>(name)
      .Case("bf16", BFloat16Type::get(context))
      .Case("f16", Float16Type::get(context))
      .Case("f32", Float32Type::get(context))
      .Case("f64", Float64Type::get(context))
      .Default({});
}

struct SpecializePass : hyperjit::hc::impl::SpecializeBase<SpecializePass> {
  using SpecializeBase::SpecializeBase;

  void runOnOperation() override {
    MLIRContext *context = &getContext();
    Type streamType = storageType(context, stream), inType = storageType(context, branchIn),
         outType = storageType(context, branchOut), weightType = storageType(context, weight);
    if (width < 1 || !streamType || !inType || !outType || !weightType) {
      getOperation().emitError("hc-specialize needs a width and storage types bf16, f16, f32 or f64");
      return signalPassFailure();
    }
    AttrTypeReplacer replacer;
    // The width is the first to say how large a type is: it may be more than a value can have.
    bool fits = true;
    int64_t channels = width;
    auto emitError = [&] { return getOperation().emitError("hc-specialize with width ") << channels << ": "; };
    auto kept = [&](Type bound, Type type) {
      fits &= static_cast<bool>(bound);
      return bound ? bound : type;
    };
    replacer.addReplacement([&](RowsType type) -> Type {
      if (type.getWidth() != symbolicWidth)
        return type;
      return kept(RowsType::getChecked(emitError, context, type.getRows(), channels), type);
    });
    replacer.addReplacement([&](WeightType type) -> Type {
      if (type.getWidth() != symbolicWidth)
        return type;
      return kept(WeightType::getChecked(emitError, context, type.getRows(), channels, type.getColumns()), type);
    });
    replacer.recursivelyReplaceElementsIn(getOperation(), /*replaceAttrs=*/true, /*replaceLocs=*/false,
                                          /*replaceTypes=*/true);
    if (!fits)
      return signalPassFailure();

    Type compute = isa<Float64Type>(streamType) ? Type(Float64Type::get(context)) : Float32Type::get(context);
    for (FuncOp function : getOperation().getOps<FuncOp>()) {
      function->setAttr("hc.compute", TypeAttr::get(compute));
      function->setAttr("hc.branch_in", TypeAttr::get(inType));
      function->setAttr("hc.branch_out", TypeAttr::get(outType));
      auto typeOf = [&](Attribute operand) -> Type {
        StringRef name = operand ? cast<StringAttr>(operand).getValue() : "";
        return name == "streams" ? streamType : name == "parameter" ? weightType : compute;
      };
      for (unsigned i = 0; i < function.getNumArguments(); ++i)
        function.setArgAttr(i, HCDialect::dtypeAttrName,
                            TypeAttr::get(typeOf(function.getArgAttr(i, HCDialect::operandAttrName))));
      for (unsigned i = 0; i < function.getNumResults(); ++i)
        function.setResultAttr(i, HCDialect::dtypeAttrName,
                               TypeAttr::get(typeOf(function.getResultAttr(i, HCDialect::operandAttrName))));
    }

    SmallVector<NormOp> norms;
    SmallVector<RoundOp> rounds;
    getOperation().walk([&](NormOp op) { norms.push_back(op); });
    getOperation().walk([&](RoundOp op) { rounds.push_back(op); });
    for (RoundOp op : rounds) {
      if (!op.getEdge())
        continue;
      Type type = *op.getEdge() == "streams" ? streamType : inType;
      if (type == compute) {
        op.getResult().replaceAllUsesWith(op.getInput());
        op.erase();
        continue;
      }
      op.removeEdgeAttr();
      op.setTypeAttr(TypeAttr::get(type));
    }
    for (NormOp op : norms) {
      OpBuilder builder(op);
      NormRewriter(op, builder).rewrite();
    }
  }
};

} // namespace
