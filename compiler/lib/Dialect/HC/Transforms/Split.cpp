//===- Split.cpp - Cut sites at the hole ----------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

namespace hyperjit::hc {
#define GEN_PASS_DEF_SPLIT
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"
} // namespace hyperjit::hc

using namespace mlir;
using namespace hyperjit::hc;

namespace {

/// The three tensors that crossing values travel in.
enum Kind { Coefficients, Uniform, Channels };
constexpr StringLiteral kindNames[] = {"coefficients", "uniform", "channels"};

/// One crossing value's place: which tensor, and where in it (numbers, or rows for channels).
struct Place {
  Kind kind;
  int64_t offset;
};

NamedAttrList operandAttrs(OpBuilder &builder, StringRef operand, StringRef name, Type dtype, bool uniform) {
  NamedAttrList attrs;
  attrs.append(HCDialect::operandAttrName, builder.getStringAttr(operand));
  attrs.append(HCDialect::nameAttrName, builder.getStringAttr(name));
  attrs.append(HCDialect::dtypeAttrName, TypeAttr::get(dtype));
  if (uniform)
    attrs.append(HCDialect::uniformAttrName, builder.getUnitAttr());
  return attrs;
}

class SiteSplitter {
public:
  SiteSplitter(FuncOp site, BranchOp branch) : site(site), branch(branch), builder(site) {
    compute = cast<TypeAttr>(site->getAttr("hc.compute")).getValue();
  }

  LogicalResult split() {
    if (failed(checkShape()) || failed(placeCrossing()) || failed(checkAfter()))
      return failure();
    builder.setInsertionPoint(site);
    makeBefore();
    makeAfter();
    site.erase();
    return success();
  }

private:
  /// Both parts take for granted that a site reads streams first and makes streams first.
  LogicalResult checkShape() {
    bool reads = site.getNumArguments() > 0 && isa<RowsType>(site.getArgumentTypes()[0]);
    auto operand = reads ? site.getArgAttrOfType<StringAttr>(0, HCDialect::operandAttrName) : StringAttr();
    if (!operand || operand.getValue() != "streams")
      return site.emitError(
          "has a hole, but its first argument is not its streams: rows with hc.operand = \"streams\"");
    if (site.getNumResults() == 0 || !isa<RowsType>(site.getResultTypes()[0]))
      return site.emitError("has a hole, but its first result is not its next streams: rows");
    return success();
  }

  LogicalResult placeCrossing() {
    Uniformity uniformity;
    for (Value value : branch.getCrossing()) {
      if (isa<WeightType>(value.getType()))
        return branch.emitOpError("a weight cannot cross the hole: the second part reads no parameter");
      bool uniform = uniformity.isUniform(value), rows = isa<RowsType>(value.getType());
      if (rows && !uniform)
        return branch.emitOpError("rows of a token cannot cross the hole: make them again from the streams");
      Kind kind = rows ? Channels : uniform ? Uniform : Coefficients;
      places.push_back({kind, sizes[kind]});
      sizes[kind] += rows ? cast<RowsType>(value.getType()).getRows() : elementCount(value.getType());
      if (sizes[kind] > CoeffsType::mostElements)
        return branch.emitOpError() << "more than " << CoeffsType::mostElements << " " << kindNames[kind]
                                    << " cross the hole, which travel in one tensor";
    }
    return success();
  }

  /// After the hole: its results and the streams, nothing else.
  LogicalResult checkAfter() {
    LogicalResult result = success();
    for (Operation *op = branch->getNextNode(); op; op = op->getNextNode())
      for (OpOperand &use : op->getOpOperands()) {
        Value operand = use.get();
        if (operand == site.getArgument(0))
          continue;
        Operation *source = operand.getDefiningOp();
        bool isCarry = isa<ReturnOp>(op) && use.getOperandNumber() > 0; // the next streams may be returned twice
        if (!isCarry &&
            isa_and_present<ConstantOp>(source)) // the canonicalizer moves them to the front: each part has its own
          continue;
        if (!isCarry && (!source || (source != branch && source->isBeforeInBlock(branch))))
          result = op->emitOpError("uses a value from before the hole that does not cross it");
        if (isCarry && source && !source->isBeforeInBlock(branch))
          result = op->emitOpError("a carry depends on the branch output");
      }
    return result;
  }

  FuncOp makeFunction(StringRef suffix, StringRef role, ArrayRef<Type> inputs, ArrayRef<Type> results) {
    auto function = FuncOp::create(builder, site.getLoc(), (site.getName() + suffix).str(),
                                   builder.getFunctionType(inputs, results));
    for (NamedAttribute attr : site->getDiscardableAttrs())
      function->setAttr(attr.getName(), attr.getValue());
    function->setAttr("hc.role", builder.getStringAttr(role));
    return function;
  }
  Type crossingType(Kind kind) {
    if (kind == Channels)
      return RowsType::get(builder.getContext(), sizes[kind], branch.getInput().getType().getWidth());
    return CoeffsType::get(builder.getContext(), {sizes[kind]});
  }
  DictionaryAttr crossingAttrs(Kind kind) {
    return operandAttrs(builder, kindNames[kind], kindNames[kind], compute, kind != Coefficients)
        .getDictionary(builder.getContext());
  }
  void cloneRange(Operation *first, Operation *last, IRMapping &map) {
    for (Operation *op = first; op != last; op = op->getNextNode())
      builder.clone(*op, map);
  }

  void makeBefore() {
    auto ret = cast<ReturnOp>(site.getReturn());
    SmallVector<Type> inputs(site.getArgumentTypes()), results{branch.getInput().getType()};
    SmallVector<Attribute> resultAttrs{
        operandAttrs(builder, "branch_input", "u", cast<TypeAttr>(site->getAttr("hc.branch_in")).getValue(), false)
            .getDictionary(builder.getContext())};
    for (Kind kind : {Coefficients, Uniform, Channels})
      if (sizes[kind] > 0) {
        results.push_back(crossingType(kind));
        resultAttrs.push_back(crossingAttrs(kind));
      }
    for (unsigned i = 1; i < site.getNumResults(); ++i) {
      results.push_back(site.getResultTypes()[i]);
      resultAttrs.push_back(attrsOfResult(site, i));
    }
    FuncOp before = makeFunction("_before", "before", inputs, results);
    before.setAllArgAttrs(ArrayRef<DictionaryAttr>(argAttrs(site)));
    before.setResAttrsAttr(builder.getArrayAttr(resultAttrs));
    before.setArgAttr(0, HCDialect::nameAttrName, builder.getStringAttr("x"));

    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(&before.getEntry());
    IRMapping map;
    map.map(site.getArguments(), before.getArguments());
    cloneRange(&site.getEntry().front(), branch, map);

    HCBuilder b(builder, branch.getLoc());
    SmallVector<Value> values{map.lookup(branch.getInput())};
    for (Kind kind : {Coefficients, Uniform, Channels}) {
      SmallVector<Value> parts;
      for (auto [value, place] : llvm::zip(branch.getCrossing(), places)) {
        if (place.kind != kind)
          continue;
        Value inside = map.lookup(value);
        if (kind == Channels) {
          SmallVector<int64_t> indices;
          for (int64_t i = 0, rows = HCBuilder::rowsType(inside).getRows(); i < rows; ++i)
            indices.push_back(place.offset + i);
          parts.push_back(b.scatterRows(inside, indices, sizes[kind]));
        } else
          parts.push_back(b.reshape(inside, {elementCount(inside.getType())}));
      }
      if (parts.empty())
        continue;
      Value packed = parts.front();
      if (kind != Channels)
        packed = b.concat(parts, 0);
      else
        for (Value part : ArrayRef<Value>(parts).drop_front())
          packed = b.add(packed, part);
      values.push_back(packed);
    }
    for (Value carry : ret.getOperands().drop_front())
      values.push_back(map.lookup(carry));
    ReturnOp::create(builder, branch.getLoc(), values);
  }

  void makeAfter() {
    auto ret = cast<ReturnOp>(site.getReturn());
    SmallVector<Type> inputs{site.getArgument(0).getType(), branch.getOutput().getType()};
    SmallVector<Attribute> attrs{
        attrsOfArgument(site, 0),
        operandAttrs(builder, "branch", "y", cast<TypeAttr>(site->getAttr("hc.branch_out")).getValue(), false)
            .getDictionary(builder.getContext())};
    for (Kind kind : {Coefficients, Uniform, Channels})
      if (sizes[kind] > 0) {
        inputs.push_back(crossingType(kind));
        attrs.push_back(crossingAttrs(kind));
      }
    FuncOp after = makeFunction("_after", "after", inputs, {site.getResultTypes()[0]});
    after.setArgAttrsAttr(builder.getArrayAttr(attrs));
    after.setArgAttr(0, HCDialect::nameAttrName, builder.getStringAttr("x"));
    after.setResAttrsAttr(builder.getArrayAttr({attrsOfResult(site, 0)}));
    after.setResultAttr(0, HCDialect::nameAttrName, builder.getStringAttr("x_next"));

    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(&after.getEntry());
    IRMapping map;
    map.map(site.getArgument(0), after.getArgument(0));
    map.map(branch.getOutput(), after.getArgument(1));
    Value packed[3];
    unsigned next = 2;
    for (Kind kind : {Coefficients, Uniform, Channels})
      if (sizes[kind] > 0)
        packed[kind] = after.getArgument(next++);
    HCBuilder b(builder, branch.getLoc());
    for (auto [value, place] : llvm::zip(branch.getCrossed(), places)) {
      if (place.kind == Channels) {
        SmallVector<int64_t> indices;
        for (int64_t i = 0, rows = HCBuilder::rowsType(value).getRows(); i < rows; ++i)
          indices.push_back(place.offset + i);
        map.map(value, b.gatherRows(packed[Channels], indices));
      } else {
        auto type = HCBuilder::coeffsType(value);
        map.map(value, b.reshape(b.slice(packed[place.kind], 0, place.offset, type.getNumElements()), type.getShape()));
      }
    }
    for (Operation *op = &site.getEntry().front(); op != branch; op = op->getNextNode())
      if (isa<ConstantOp>(op) &&
          llvm::any_of(op->getUsers(), [&](Operation *user) { return branch->isBeforeInBlock(user); }))
        builder.clone(*op, map);
    cloneRange(branch->getNextNode(), ret, map);
    ReturnOp::create(builder, branch.getLoc(), map.lookup(ret.getOperands()[0]));
  }

  static SmallVector<DictionaryAttr> argAttrs(FuncOp function) {
    SmallVector<DictionaryAttr> attrs;
    for (unsigned i = 0; i < function.getNumArguments(); ++i)
      attrs.push_back(attrsOfArgument(function, i));
    return attrs;
  }

  FuncOp site;
  BranchOp branch;
  OpBuilder builder;
  Type compute;
  SmallVector<Place> places;
  int64_t sizes[3] = {0, 0, 0};
};

/// The adjoint of a site, cut at its hole: @before makes the branch's cotangent from the cotangent of the next
/// streams, @after everything else. What both need is made twice (coefficients are cheap), nothing wide crosses.
class AdjointSplitter {
public:
  AdjointSplitter(FuncOp site, BranchOp branch) : site(site), branch(branch), builder(site) {}

  LogicalResult split() {
    if (!branch.getCrossing().empty())
      return branch.emitOpError(
          "has crossing values in an adjoint, where nothing crosses: both parts make what they need");
    if (site.getNumResults() == 0)
      return site.emitError("has a hole and makes no cotangent behind it");
    // The cotangent of the streams that the site made: what a fused kernel of the next site writes.
    for (unsigned i = 0; i < site.getNumArguments(); ++i)
      if (auto operand = site.getArgAttrOfType<StringAttr>(i, HCDialect::operandAttrName);
          operand && operand.getValue() == "d_streams")
        streams = i;
    if (!streams)
      return site.emitError("has a hole and no cotangent of its streams");
    auto ret = cast<ReturnOp>(site.getReturn());
    Attribute inType = site->getAttr("hc.branch_in"), outType = site->getAttr("hc.branch_out");
    make("_before", "before", {branch.getInput()}, {"d_branch", "d_y", outType}, /*withHole=*/false);
    make("_after", "after", SmallVector<Value>(ret.getOperands()), {"d_branch_input", "d_u", inType}, true);
    site.erase();
    return success();
  }

private:
  struct HoleOperand {
    StringRef operand, name;
    Attribute dtype;
  };

  void make(StringRef suffix, StringRef role, ArrayRef<Value> values, HoleOperand holeOperand, bool withHole) {
    llvm::SetVector<Operation *> slice;
    llvm::SmallSetVector<unsigned, 16> used;
    used.insert(*streams);
    SmallVector<Value> work(values);
    while (!work.empty()) {
      Value value = work.pop_back_val();
      if (auto argument = dyn_cast<BlockArgument>(value))
        used.insert(argument.getArgNumber());
      else if (Operation *op = value.getDefiningOp(); op != branch && slice.insert(op))
        work.append(op->operand_begin(), op->operand_end());
    }
    auto arguments = used.takeVector();
    llvm::sort(arguments.begin() + 1, arguments.end()); // the streams stay first, the rest in the site's order
    SmallVector<Type> inputs, results;
    SmallVector<Attribute> inputAttrs, resultAttrs;
    for (unsigned i : arguments) {
      inputs.push_back(site.getArgumentTypes()[i]);
      inputAttrs.push_back(attrsOfArgument(site, i));
    }
    NamedAttrList holeAttrs;
    holeAttrs.append(HCDialect::operandAttrName, builder.getStringAttr(holeOperand.operand));
    holeAttrs.append(HCDialect::nameAttrName, builder.getStringAttr(holeOperand.name));
    holeAttrs.append(HCDialect::dtypeAttrName, holeOperand.dtype);
    if (withHole) {
      inputs.push_back(branch.getOutput().getType());
      inputAttrs.push_back(holeAttrs.getDictionary(builder.getContext()));
    }
    for (auto [i, value] : llvm::enumerate(values)) {
      results.push_back(value.getType());
      resultAttrs.push_back(withHole ? attrsOfResult(site, i) : holeAttrs.getDictionary(builder.getContext()));
    }
    auto part = FuncOp::create(builder, site.getLoc(), (site.getName() + suffix).str(),
                               builder.getFunctionType(inputs, results));
    for (NamedAttribute attr : site->getDiscardableAttrs())
      part->setAttr(attr.getName(), attr.getValue());
    part->setAttr("hc.role", builder.getStringAttr(role));
    part.setArgAttrsAttr(builder.getArrayAttr(inputAttrs));
    part.setResAttrsAttr(builder.getArrayAttr(resultAttrs));

    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(&part.getEntry());
    IRMapping map;
    for (auto [place, i] : llvm::enumerate(arguments))
      map.map(site.getArgument(i), part.getArgument(place));
    if (withHole)
      map.map(branch.getOutput(), part.getArgument(inputs.size() - 1));
    for (Operation &op : site.getEntry().without_terminator())
      if (slice.contains(&op))
        builder.clone(op, map);
    SmallVector<Value> mapped;
    for (Value value : values)
      mapped.push_back(map.lookup(value));
    ReturnOp::create(builder, branch.getLoc(), mapped);
  }

  FuncOp site;
  BranchOp branch;
  OpBuilder builder;
  std::optional<unsigned> streams;
};

struct SplitPass : hyperjit::hc::impl::SplitBase<SplitPass> {
  void runOnOperation() override {
    for (FuncOp function : llvm::make_early_inc_range(getOperation().getOps<FuncOp>())) {
      auto branches = llvm::to_vector(function.getBody().getOps<BranchOp>());
      if (branches.empty())
        continue;
      if (branches.size() > 1) {
        branches[1].emitOpError("a site has one hole");
        return signalPassFailure();
      }
      if (failed(checkSpecialized(function, {"hc.compute", "hc.branch_in", "hc.branch_out"})))
        return signalPassFailure();
      bool adjoint = static_cast<bool>(function->getAttr("hc.adjoint"));
      if (failed(adjoint ? AdjointSplitter(function, branches.front()).split()
                         : SiteSplitter(function, branches.front()).split()))
        return signalPassFailure();
    }
  }
};

} // namespace
