//===- HCCanonicalize.cpp - Canonicalizations -----------------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// Patterns beside the folders of HCOps.cpp, to the same end: what the general
// case does for nothing goes.
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HC.h"
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"

#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::hc;

namespace {
/// Parts that zeros stand beside, as the adjoints of slices make them, are joined and not added: concat(0, a) +
/// concat(b, 0) = concat(b, a).
struct AddOfPadded : OpRewritePattern<AddOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(AddOp op, PatternRewriter &rewriter) const override {
    auto lhs = op.getLhs().getDefiningOp<ConcatOp>(), rhs = op.getRhs().getDefiningOp<ConcatOp>();
    if (!lhs || !rhs || lhs.getAxis() != rhs.getAxis())
      return rewriter.notifyMatchFailure(op, "no two operands that are joined along one axis");
    const int64_t axis = lhs.getAxis();
    auto sizeOf = [axis](Value part) { return HCBuilder::coeffsType(part).getShape()[axis]; };
    auto isZero = [](Value part) { return splatOf(part) == 0.0; };
    // Part by part; of zeros some are used up by a part of the other side, the rest stays.
    struct Side {
      SmallVector<Value> parts;
      size_t next = 0;
      int64_t used = 0; ///< of the next part, zeros
    } sides[2] = {{llvm::to_vector(lhs.getInputs())}, {llvm::to_vector(rhs.getInputs())}};
    struct Part {
      Value a, b;    ///< null: zeros
      int64_t zeros; ///< how many where both are null
    };
    SmallVector<Part> joined;
    bool fewer = false;
    while (sides[0].next < sides[0].parts.size()) {
      Value part[2];
      bool zero[2];
      int64_t left[2];
      for (int i : {0, 1}) {
        part[i] = sides[i].parts[sides[i].next];
        zero[i] = isZero(part[i]);
        left[i] = sizeOf(part[i]) - sides[i].used;
      }
      int64_t step = std::min(left[0], left[1]);
      for (int i : {0, 1})
        if (!zero[i] && left[i] != step)
          return rewriter.notifyMatchFailure(op, "a part lies beside parts of several");
      fewer |= zero[0] != zero[1];
      if (zero[0] && zero[1] && !joined.empty() && !joined.back().a && !joined.back().b)
        joined.back().zeros += step;
      else
        joined.push_back({zero[0] ? Value() : part[0], zero[1] ? Value() : part[1], step});
      for (int i : {0, 1}) {
        sides[i].used += step;
        if (left[i] == step)
          ++sides[i].next, sides[i].used = 0;
      }
    }
    if (!fewer)
      return rewriter.notifyMatchFailure(op, "no part has zeros beside it");
    HCBuilder b(rewriter, op.getLoc());
    SmallVector<Value> parts;
    SmallVector<int64_t> shape(HCBuilder::coeffsType(op.getResult()).getShape());
    for (const Part &part : joined) {
      shape[axis] = part.zeros;
      parts.push_back(part.a && part.b ? b.add(part.a, part.b)
                      : part.a         ? part.a
                      : part.b         ? part.b
                                       : b.constant(0.0, shape));
    }
    rewriter.replaceOp(op, b.concat(parts, axis));
    return success();
  }
};

/// A single coefficient on a single row: mix(<1,1>, x) is a scale.
struct MixOfOneRow : OpRewritePattern<MixOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(MixOp op, PatternRewriter &rewriter) const override {
    if (op.getInput().getType().getRows() != 1 || op.getResult().getType().getRows() != 1)
      return rewriter.notifyMatchFailure(op, "more than one row");
    HCBuilder b(rewriter, op.getLoc());
    rewriter.replaceOp(op, b.scaleRows(b.reshape(op.getCoefficients(), {1}), op.getInput()));
    return success();
  }
};

/// c * (x_i + y_i) is left alone, but a scale by one goes.
struct ScaleByOne : OpRewritePattern<ScaleRowsOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ScaleRowsOp op, PatternRewriter &rewriter) const override {
    if (splatOf(op.getCoefficients()) != 1.0)
      return rewriter.notifyMatchFailure(op, "the coefficients are not all one");
    rewriter.replaceOp(op, op.getInput());
    return success();
  }
};

/// <a_i, y> of one row y that is repeated for each a_i is a dot with that row.
struct DotOfRepeated : OpRewritePattern<DotRowsOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(DotRowsOp op, PatternRewriter &rewriter) const override {
    for (auto [rows, other] : {std::pair(op.getRhs(), op.getLhs()), std::pair(op.getLhs(), op.getRhs())}) {
      auto gather = rows.getDefiningOp<GatherRowsOp>();
      if (!gather || gather.getInput().getType().getRows() != 1 || rows.getType().getRows() < 2)
        continue;
      HCBuilder b(rewriter, op.getLoc());
      rewriter.replaceOp(op, b.reshape(b.dot(other, gather.getInput()), {rows.getType().getRows()}));
      return success();
    }
    return rewriter.notifyMatchFailure(op, "neither side repeats one row");
  }
};

/// project(scale_rows(c, x), W) = c * project(x, W) where a group is one row:
/// the row stays as it came from memory.
struct ProjectOfScaled : OpRewritePattern<ProjectOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ProjectOp op, PatternRewriter &rewriter) const override {
    auto scale = op.getInput().getDefiningOp<ScaleRowsOp>();
    if (!scale || op.getWeight().getType().getRows() != 1)
      return rewriter.notifyMatchFailure(op, "no scaled operand, or groups of several rows");
    HCBuilder b(rewriter, op.getLoc());
    Value product = b.project(scale.getInput(), op.getWeight());
    rewriter.replaceOp(op,
                       b.mul(b.broadcast(scale.getCoefficients(), {0}, op.getResult().getType().getShape()), product));
    return success();
  }
};
} // namespace

void AddOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<AddOfPadded>(context);
}
void MixOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<MixOfOneRow>(context);
}
void DotRowsOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<DotOfRepeated>(context);
}
void ScaleRowsOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ScaleByOne>(context);
}
void ProjectOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *context) {
  patterns.add<ProjectOfScaled>(context);
}
