//===- Differentiate.cpp - Reverse mode through the adjoint interface -----===//
// SPDX-License-Identifier: Apache-2.0
//
// Two cuts of the backward come out of one rule, by when it is applied.
// Applied to a fused boundary it gives "early dots with recompute": the streams
// X' are made again from X and Y; the kernel reads X, Y and two cotangents and
// writes dX and dY (3n + 3 u), and all it needs is local to the boundary.
// Applied to a whole site it gives an adjoint with a hole (dY goes in, dU comes
// out); hc-split and hc-fuse-boundary then make "late dots" of it: everything
// that dY does not need waits for the kernel that reads X anyway (3n + 3 u).
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

#include "mlir/IR/IRMapping.h"

namespace hyperjit::hc {
#define GEN_PASS_DEF_DIFFERENTIATE
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"
} // namespace hyperjit::hc

using namespace mlir;
using namespace hyperjit::hc;

namespace {

/// The letter that masks use for an operand: x streams, y branch output, u branch input, c crossing values,
/// p parameters, k carries, s saved reductions.
char groupOf(DictionaryAttr attrs) {
  auto operand = attrs.getAs<StringAttr>(HCDialect::operandAttrName);
  return llvm::StringSwitch<char>(operand ? operand.getValue() : "")
      .Case("streams", 'x')
      .Case("branch", 'y')
      .Case("branch_input", 'u')
      .Cases({"coefficients", "uniform", "channels"}, 'c')
      .Case("parameter", 'p')
      .Case("carry", 'k')
      .Case("saved", 's')
      .Default('?');
}

class Differentiator {
public:
  Differentiator(FuncOp forward, StringRef given, StringRef want)
      : forward(forward), given(given), want(want), builder(forward) {}

  LogicalResult run() {
    auto holes = llvm::to_vector(forward.getBody().getOps<BranchOp>());
    if (holes.size() > 1)
      return holes[1].emitOpError("a site has one hole");
    if (!holes.empty() && failed(checkSpecialized(forward, {"hc.branch_in", "hc.branch_out"})))
      return failure();
    for (unsigned i = 0; i < forward.getNumArguments(); ++i)
      if (failed(checkWord("argument", i, attrsOfArgument(forward, i))))
        return failure();
    for (unsigned i = 0; i < forward.getNumResults(); ++i)
      if (failed(checkWord("result", i, attrsOfResult(forward, i))))
        return failure();
    for (auto [i, type] : llvm::enumerate(forward.getResultTypes()))
      if (auto coeffs = dyn_cast<CoeffsType>(type);
          groupOf(forward.getResultAttrDict(i)) == 's' && (!coeffs || coeffs.getRank() != 1))
        return forward.emitError() << "result " << i << " is what was saved, of type " << type
                                   << "; hc-save-reductions packs it into coefficients of rank one";
    makeSignature();
    IRMapping map;
    map.map(forward.getArguments(), ArrayRef<BlockArgument>(adjoint.getArguments()).take_front(forwardCount));
    builder.setInsertionPointToStart(&adjoint.getEntry());
    SmallVector<Operation *> recomputed;
    for (Operation &op : forward.getEntry().without_terminator()) {
      if (auto branch = dyn_cast<BranchOp>(op)) {
        // In a site's adjoint the branch has run: its output is an argument, what crosses is at hand.
        hole = branch;
        map.map(branch.getOutput(), adjoint.getArgument(branchArgument));
        for (auto [inside, outside] : llvm::zip(branch.getCrossing(), branch.getCrossed()))
          map.map(outside, map.lookup(inside));
        recomputed.push_back(nullptr);
        continue;
      }
      recomputed.push_back(builder.clone(op, map));
    }
    seed(map);
    for (Operation *op : llvm::reverse(recomputed))
      if (failed(op ? propagate(op) : crossHole(map)))
        return failure();
    finish();
    forward.erase();
    return success();
  }

private:
  /// Masks choose by the word of hc.operand. No letter stands for a cotangent: what an adjoint makes would be left out.
  LogicalResult checkWord(StringRef what, unsigned i, DictionaryAttr attrs) {
    auto operand = attrs.getAs<StringAttr>(HCDialect::operandAttrName);
    if (!operand)
      return forward.emitError() << what << " " << i << " has no " << HCDialect::operandAttrName
                                 << " that says what it is";
    if (operand.getValue().starts_with("d_"))
      return forward.emitError() << what << " " << i << " is the cotangent " << operand
                                 << ": an adjoint is not differentiated (a second derivative is not available)";
    return success();
  }

  bool isWanted(unsigned argument) { return want.contains(groupOf(forward.getArgAttrDict(argument))); }

  DictionaryAttr cotangentAttrs(DictionaryAttr attrs) {
    NamedAttrList list(attrs);
    auto name = attrs.getAs<StringAttr>(HCDialect::nameAttrName);
    list.set(HCDialect::nameAttrName, builder.getStringAttr("d_" + (name ? name.getValue() : StringRef("?")).str()));
    list.set(HCDialect::operandAttrName,
             builder.getStringAttr("d_" + attrs.getAs<StringAttr>(HCDialect::operandAttrName).getValue().str()));
    return list.getDictionary(builder.getContext());
  }

  void makeSignature() {
    SmallVector<Type> inputs(forward.getArgumentTypes()), results;
    SmallVector<Attribute> inputAttrs, resultAttrs;
    forwardCount = inputs.size();
    for (unsigned i = 0; i < forwardCount; ++i) {
      inputAttrs.push_back(forward.getArgAttrDict(i));
      if (isWanted(i)) {
        results.push_back(inputs[i]);
        resultAttrs.push_back(cotangentAttrs(forward.getArgAttrDict(i)));
      }
    }
    for (BranchOp branch : forward.getBody().getOps<BranchOp>()) {
      branchArgument = inputs.size();
      inputs.push_back(branch.getOutput().getType());
      NamedAttrList attrs;
      attrs.append(HCDialect::operandAttrName, builder.getStringAttr("branch"));
      attrs.append(HCDialect::nameAttrName, builder.getStringAttr("y"));
      attrs.append(HCDialect::dtypeAttrName, forward->getAttr("hc.branch_out"));
      inputAttrs.push_back(attrs.getDictionary(builder.getContext()));
    }
    // First what was saved, then the given cotangents, both in the order of the forward results. Streams that are read
    // and not made anew are handed on as they are: their cotangent is that of the argument.
    bool makesStreams = llvm::any_of(llvm::seq(forward.getNumResults()),
                                     [&](unsigned i) { return groupOf(forward.getResultAttrDict(i)) == 'x'; });
    for (char wantedGroup : {'s', 'g'}) {
      for (unsigned i = 0; i < forwardCount && wantedGroup == 'g' && !makesStreams && given.contains('x'); ++i)
        if (groupOf(forward.getArgAttrDict(i)) == 'x') {
          handedOn.push_back({i, unsigned(inputs.size())});
          inputs.push_back(forward.getArgumentTypes()[i]);
          inputAttrs.push_back(cotangentAttrs(forward.getArgAttrDict(i)));
        }
      for (unsigned i = 0; i < forward.getNumResults(); ++i) {
        char group = groupOf(forward.getResultAttrDict(i));
        if ((group == 's') != (wantedGroup == 's') || (group != 's' && !given.contains(group)))
          continue;
        argumentOfResult[i] = inputs.size();
        inputs.push_back(forward.getResultTypes()[i]);
        inputAttrs.push_back(group == 's' ? forward.getResultAttrDict(i)
                                          : cotangentAttrs(forward.getResultAttrDict(i)));
      }
    }
    adjoint = FuncOp::create(builder, forward.getLoc(), (forward.getName() + "_backward").str(),
                             builder.getFunctionType(inputs, results));
    for (NamedAttribute attr : forward->getDiscardableAttrs())
      adjoint->setAttr(attr.getName(), attr.getValue());
    adjoint.setArgAttrsAttr(builder.getArrayAttr(inputAttrs));
    adjoint.setResAttrsAttr(builder.getArrayAttr(resultAttrs));
  }

  /// Cotangents of the results; reductions are read from `saved` instead of being made again.
  void seed(IRMapping &map) {
    for (auto [streams, cotangent] : handedOn)
      accumulate(adjoint.getArgument(streams), adjoint.getArgument(cotangent));
    Operation *ret = forward.getReturn();
    for (bool saved : {true, false}) // first what was saved: another result may be one of the reductions
      for (unsigned i = 0; i < forward.getNumResults(); ++i) {
        auto argument = argumentOfResult.find(i);
        if (argument == argumentOfResult.end() || (groupOf(forward.getResultAttrDict(i)) == 's') != saved)
          continue;
        Value value = map.lookup(ret->getOperand(i)), input = adjoint.getArgument(argument->second);
        if (saved)
          restore(value, input);
        else
          accumulateOver(inAdjoint(value), input); // a token's coefficients may hold what is the same in all
      }
  }

  /// What stands for a forward value: a reduction is its slice of what was saved.
  Value inAdjoint(Value value) const {
    auto slice = restored.find(value);
    return slice == restored.end() ? value : slice->second;
  }

  /// `saved` is a concat of flattened reductions: each takes its slice. Two may have become one since; what is constant
  /// or an operand is no reduction.
  void restore(Value packed, Value saved) {
    SmallVector<Value> parts{packed};
    if (auto concat = packed.getDefiningOp<ConcatOp>())
      parts.assign(concat.getInputs().begin(), concat.getInputs().end());
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(&adjoint.getEntry());
    for (Value &part : parts)
      if (auto reshape = part.getDefiningOp<ReshapeOp>())
        part = reshape.getInput();
    int64_t offset = 0;
    for (Value reduction : parts) {
      HCBuilder b(builder, reduction.getLoc());
      auto type = HCBuilder::coeffsType(reduction);
      if (!reduction.getDefiningOp() || reduction.getDefiningOp<ConstantOp>() || restored.contains(reduction)) {
        offset += type.getNumElements();
        continue;
      }
      Value slice = b.reshape(b.slice(saved, 0, offset, type.getNumElements()), type.getShape());
      offset += type.getNumElements();
      // Every use sees the saved value, but the adjoint of the reduction itself still runs: the cotangent
      // arrives at the slice and is handed to the reduction.
      reduction.replaceAllUsesWith(slice);
      restored[reduction] = slice;
    }
  }

  void accumulate(Value value, Value contribution) {
    if (!contribution)
      return;
    Value &sum = cotangents[value];
    sum = sum ? HCBuilder(builder, value.getLoc()).add(sum, contribution) : contribution;
  }

  /// The cotangent of a uniform value is summed over tokens, unless its contributions already were.
  void accumulateOver(Value value, Value contribution) {
    if (!contribution)
      return;
    if (!uniformity.isUniform(value) || uniformity.isUniform(contribution))
      return accumulate(value, contribution);
    Value &sum = perToken[value];
    sum = sum ? HCBuilder(builder, value.getLoc()).add(sum, contribution) : contribution;
  }

  /// Sum over tokens of what reached a uniform value from tokens; an outer product is summed without being stored.
  void sumOverTokens(Value value) {
    auto it = perToken.find(value);
    if (it == perToken.end())
      return;
    SmallVector<Value> summands;
    collectSummands(it->second, summands);
    perToken.erase(it);
    Value rest;
    for (Value summand : summands) {
      if (auto outer = summand.getDefiningOp<OuterOp>()) {
        accumulate(value, WeightGradOp::create(builder, value.getLoc(), value.getType(), outer.getInput(),
                                               outer.getCoefficients()));
        continue;
      }
      rest = rest ? HCBuilder(builder, value.getLoc()).add(rest, summand) : summand;
    }
    if (rest)
      accumulate(value, TokenSumOp::create(builder, value.getLoc(), value.getType(), rest));
  }
  /// Weights are summed term by term; coefficients and rows are cheaper summed before the tokens are.
  static void collectSummands(Value value, SmallVectorImpl<Value> &summands) {
    auto add = value.getDefiningOp<AddOp>();
    if (!add || !isa<WeightType>(value.getType()))
      return void(summands.push_back(value));
    collectSummands(add.getLhs(), summands);
    collectSummands(add.getRhs(), summands);
  }

  LogicalResult propagate(Operation *op) {
    if (op->getNumResults() != 1)
      return op->emitOpError("has no single result to differentiate");
    Value result = inAdjoint(op->getResult(0));
    sumOverTokens(result);
    auto it = cotangents.find(result);
    if (it == cotangents.end() || isa<ConstantOp>(op))
      return success();
    auto adjointOp = dyn_cast<AdjointOpInterface>(op);
    if (!adjointOp)
      return op->emitOpError("has no adjoint: it cannot be differentiated (a second derivative is not available)");
    SmallVector<Value> operandCotangents;
    adjointOp.buildAdjoint(builder, it->second, operandCotangents);
    // What is equal for all tokens is summed as often as there are tokens, and so is its cotangent.
    if (isa<TokenSumOp>(op) && uniformity.isUniform(op->getOperand(0)))
      operandCotangents = {
          TokenSumOp::create(builder, op->getLoc(), op->getOperand(0).getType(), operandCotangents[0]).getResult()};
    for (auto [operand, cotangent] : llvm::zip(op->getOperands(), operandCotangents))
      accumulateOver(operand, cotangent);
    return success();
  }

  /// The branch's own backward: its output's cotangent goes in, its input's comes out.
  LogicalResult crossHole(IRMapping &map) {
    Value output = adjoint.getArgument(branchArgument), input = map.lookup(hole.getInput());
    Value cotangent = cotangents.lookup(output);
    if (!cotangent)
      return hole.emitOpError("output does not reach the next streams: there is nothing to differentiate");
    auto round = [&](Value value, StringRef dtype) -> Value {
      Attribute type = forward->getAttr(dtype);
      return type == forward->getAttr("hc.compute")
                 ? value
                 : RoundOp::create(builder, hole.getLoc(), value.getType(), value, StringAttr(), cast<TypeAttr>(type))
                       .getResult();
    };
    auto branch = BranchOp::create(builder, hole.getLoc(), input.getType(), TypeRange(),
                                   round(cotangent, "hc.branch_out"), ValueRange());
    adjoint->setAttr("hc.adjoint", builder.getUnitAttr());
    accumulateOver(input, branch.getOutput());
    return success();
  }

  void finish() {
    SmallVector<Value> results;
    for (unsigned i = 0; i < forwardCount; ++i) {
      if (!isWanted(i))
        continue;
      Value argument = adjoint.getArgument(i);
      sumOverTokens(argument);
      Value value = cotangents.lookup(argument);
      if (!value)
        value = zero(argument.getType());
      // What leaves towards the edge is rounded there, like what came from it.
      Attribute dtype = forward.getArgAttr(i, HCDialect::dtypeAttrName);
      if (isa<RowsType>(argument.getType()) && !uniformity.isUniform(argument) && dtype &&
          dtype != forward->getAttr("hc.compute"))
        value = RoundOp::create(builder, forward.getLoc(), value.getType(), value, StringAttr(), cast<TypeAttr>(dtype));
      results.push_back(value);
    }
    ReturnOp::create(builder, forward.getLoc(), results);
  }

  Value zero(Type type) {
    HCBuilder b(builder, forward.getLoc());
    if (auto coeffs = dyn_cast<CoeffsType>(type))
      return b.constant(0.0, coeffs.getShape());
    if (auto rows = dyn_cast<RowsType>(type))
      return b.fillRows(b.constant(0.0, {rows.getRows()}), rows.getWidth());
    auto weight = cast<WeightType>(type);
    return b.outer(b.fillRows(b.constant(0.0, {weight.getRows()}), weight.getWidth()),
                   b.constant(0.0, {1, weight.getColumns()}));
  }

  FuncOp forward, adjoint;
  StringRef given, want;
  OpBuilder builder;
  Uniformity uniformity;
  unsigned forwardCount = 0, branchArgument = 0;
  BranchOp hole;
  llvm::DenseMap<unsigned, unsigned> argumentOfResult;
  SmallVector<std::pair<unsigned, unsigned>> handedOn; ///< arguments: streams, and their cotangent
  llvm::DenseMap<Value, Value> cotangents, perToken, restored;
};

struct DifferentiatePass : hyperjit::hc::impl::DifferentiateBase<DifferentiatePass> {
  using DifferentiateBase::DifferentiateBase;
  void runOnOperation() override {
    for (FuncOp function : llvm::make_early_inc_range(getOperation().getOps<FuncOp>()))
      if (failed(Differentiator(function, given, want).run()))
        return signalPassFailure();
  }
};

} // namespace
