//===- SaveReductions.cpp - What the forward kernel keeps for backward ----===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

namespace hyperjit::hc {
#define GEN_PASS_DEF_SAVEREDUCTIONS
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"
} // namespace hyperjit::hc

using namespace mlir;
using namespace hyperjit::hc;

namespace {

struct SaveReductionsPass : hyperjit::hc::impl::SaveReductionsBase<SaveReductionsPass> {
  void runOnOperation() override {
    for (FuncOp function : getOperation().getOps<FuncOp>())
      if (auto role = function->getAttrOfType<StringAttr>("hc.role"); !role || role.getValue() != "after") {
        if (failed(checkSpecialized(function, {"hc.compute"})))
          return signalPassFailure();
        save(function);
      }
  }

private:
  /// Where a reduction is only summed further (squares of rows of one group), the sum is what is worth keeping.
  static Value shrunk(Value value) {
    Value best = value;
    while (value.hasOneUse() && isa<ReshapeOp, ReduceSumOp>(*value.user_begin())) {
      value = (*value.user_begin())->getResult(0);
      if (elementCount(value.getType()) < elementCount(best.getType()))
        best = value;
    }
    return best;
  }

  void save(FuncOp function) {
    Uniformity uniformity;
    auto room = function->getAttrOfType<IntegerAttr>("hc.saved");
    int64_t count = 0;
    SmallVector<Value> reductions;
    for (Operation &op : function.getEntry())
      if (sumsOverChannels(&op) && !uniformity.isUniform(op.getResult(0))) {
        Value value = shrunk(op.getResult(0));
        int64_t size = elementCount(value.getType());
        if (count + size > (room ? room.getInt() : CoeffsType::mostElements))
          continue;
        reductions.push_back(value);
        count += size;
      }
    Operation *ret = function.getReturn();
    OpBuilder builder(ret);
    HCBuilder b(builder, ret->getLoc());
    SmallVector<Value> flat;
    for (Value value : reductions)
      flat.push_back(b.reshape(value, {elementCount(value.getType())}));
    if (room && count < room.getInt())
      flat.push_back(b.constant(0.0, {room.getInt() - count}));
    if (flat.empty())
      return;
    Value saved = b.concat(flat, 0);
    ret->insertOperands(ret->getNumOperands(), saved);

    NamedAttrList attrs;
    attrs.append(HCDialect::operandAttrName, builder.getStringAttr("saved"));
    attrs.append(HCDialect::nameAttrName, builder.getStringAttr("saved"));
    attrs.append(HCDialect::dtypeAttrName, function->getAttr("hc.compute"));
    SmallVector<Attribute> resultAttrs;
    for (unsigned i = 0; i < function.getNumResults(); ++i)
      resultAttrs.push_back(attrsOfResult(function, i));
    resultAttrs.push_back(attrs.getDictionary(builder.getContext()));
    SmallVector<Type> results(function.getResultTypes());
    results.push_back(saved.getType());
    function.setFunctionType(builder.getFunctionType(function.getArgumentTypes(), results));
    function.setResAttrsAttr(builder.getArrayAttr(resultAttrs));
  }
};

} // namespace
