//===- FuseBoundary.cpp - Join after(l) with before(l + 1) ----------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

#include "mlir/IR/IRMapping.h"

namespace hyperjit::hc {
#define GEN_PASS_DEF_FUSEBOUNDARY
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"
} // namespace hyperjit::hc

using namespace mlir;
using namespace hyperjit::hc;

namespace {

struct FuseBoundaryPass : hyperjit::hc::impl::FuseBoundaryBase<FuseBoundaryPass> {
  void runOnOperation() override {
    SmallVector<FuncOp> ofAfter = find("after"), ofBefore = find("before");
    if (ofAfter.size() != 1 || ofBefore.size() != 1) {
      getOperation().emitError("hc-fuse-boundary needs one function of role after and one of role before, there are ")
          << ofAfter.size() << " and " << ofBefore.size();
      return signalPassFailure();
    }
    FuncOp after = ofAfter.front(), before = ofBefore.front();
    if (Operation *other = SymbolTable::lookupSymbolIn(getOperation(), "boundary");
        other && other != after && other != before) {
      other->emitError("is called boundary, as the function that hc-fuse-boundary makes");
      return signalPassFailure();
    }
    if (after.getNumResults() == 0 || !isa<RowsType>(after.getResultTypes()[0])) {
      after.emitError("has role after, but its first result is not the streams that it makes: rows");
      return signalPassFailure();
    }
    if (before.getNumArguments() == 0 || !isa<RowsType>(before.getArgumentTypes()[0])) {
      before.emitError("has role before, but its first argument is not the streams that it reads: rows");
      return signalPassFailure();
    }
    if (after.getResultTypes()[0] != before.getArgumentTypes()[0] ||
        after.getResultAttr(0, HCDialect::dtypeAttrName) != before.getArgAttr(0, HCDialect::dtypeAttrName)) {
      after.emitError("the streams it makes, ")
          << after.getResultTypes()[0] << ", are not those that the next site reads, " << before.getArgumentTypes()[0]
          << ": both sites need the same streams, fracs, dim and dtype; run them as two kernels";
      return signalPassFailure();
    }
    fuse(after, before);
  }

private:
  SmallVector<FuncOp> find(StringRef role) {
    SmallVector<FuncOp> found;
    for (FuncOp function : getOperation().getOps<FuncOp>())
      if (auto attr = function->getAttrOfType<StringAttr>("hc.role"); attr && attr.getValue() == role)
        found.push_back(function);
    return found;
  }

  void fuse(FuncOp after, FuncOp before) {
    OpBuilder builder(after);
    SmallVector<Type> inputs(after.getArgumentTypes()), results(after.getResultTypes());
    SmallVector<Attribute> inputAttrs, resultAttrs;
    for (unsigned i = 0; i < after.getNumArguments(); ++i)
      inputAttrs.push_back(attrsOfArgument(after, i));
    for (unsigned i = 1; i < before.getNumArguments(); ++i) {
      inputs.push_back(before.getArgumentTypes()[i]);
      inputAttrs.push_back(attrsOfArgument(before, i));
    }
    for (unsigned i = 0; i < after.getNumResults(); ++i)
      resultAttrs.push_back(attrsOfResult(after, i));
    for (unsigned i = 0; i < before.getNumResults(); ++i) {
      results.push_back(before.getResultTypes()[i]);
      resultAttrs.push_back(attrsOfResult(before, i));
    }
    auto boundary = FuncOp::create(builder, after.getLoc(), "boundary", builder.getFunctionType(inputs, results));
    for (NamedAttribute attr : before->getDiscardableAttrs())
      boundary->setAttr(attr.getName(), attr.getValue());
    boundary->setAttr("hc.role", builder.getStringAttr("boundary"));
    boundary.setArgAttrsAttr(builder.getArrayAttr(inputAttrs));
    boundary.setResAttrsAttr(builder.getArrayAttr(resultAttrs));

    builder.setInsertionPointToStart(&boundary.getEntry());
    IRMapping map;
    unsigned count = after.getNumArguments();
    for (unsigned i = 0; i < count; ++i)
      map.map(after.getArgument(i), boundary.getArgument(i));
    for (Operation &op : after.getEntry().without_terminator())
      builder.clone(op, map);
    SmallVector<Value> values;
    for (Value value : after.getReturn()->getOperands())
      values.push_back(map.lookup(value));
    map.map(before.getArgument(0), values[0]);
    for (unsigned i = 1; i < before.getNumArguments(); ++i)
      map.map(before.getArgument(i), boundary.getArgument(count + i - 1));
    for (Operation &op : before.getEntry().without_terminator())
      builder.clone(op, map);
    for (Value value : before.getReturn()->getOperands())
      values.push_back(map.lookup(value));
    ReturnOp::create(builder, before.getLoc(), values);
    after.erase();
    before.erase();
  }
};

} // namespace
