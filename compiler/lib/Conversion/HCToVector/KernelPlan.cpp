//===- KernelPlan.cpp - Where values live and when rows are made ----------===//
// SPDX-License-Identifier: Apache-2.0
#include "KernelEmitter.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

KernelEmitter::KernelEmitter(FuncOp kernel, const VectorTarget &target, ModuleOp module, KernelLayout &layout)
    : kernel(kernel), target(target), module(module), layout(layout),
      s(kernel.getContext(), kernel.getLoc(), Float32Type::get(kernel.getContext())) {}

LogicalResult KernelEmitter::refuse(Operation *op, const Twine &why) {
  broken = true;
  return op->emitOpError() << "has no lowering to the CPU: " << why;
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Memory KernelEmitter::allocate(Memory::Kind kind, int64_t bytes) {
  int64_t &end = kind == Memory::Scratch ? layout.scratchBytes
                 : kind == Memory::Fixed ? layout.workspaceFixed
                                         : layout.workspacePerChunk;
  int64_t offset = end;
  end += llvm::alignTo(bytes, 64);
  return {kind, offset};
}

RowsHome KernelEmitter::allocateRows(Memory::Kind kind, int64_t rows, bool perToken) {
  int64_t bytes = rows * paddedWidth * s.elementBytes * (perToken ? block : 1);
  return {allocate(kind, bytes), s.element, rows, paddedWidth, perToken};
}

CoeffsView KernelEmitter::allocateCoeffs(Memory::Kind kind, ArrayRef<int64_t> shape, bool perToken) {
  CoeffsView view;
  view.shape.assign(shape.begin(), shape.end());
  view.strides.resize(shape.size());
  int64_t count = 1;
  for (int64_t i = static_cast<int64_t>(shape.size()) - 1; i >= 0; --i) {
    view.strides[i] = count;
    count *= shape[i];
  }
  view.perToken = perToken;
  view.memory = allocate(kind, count * s.elementBytes * (perToken ? block : 1));
  return view;
}

WeightHome KernelEmitter::allocateWeight(WeightType type, Memory::Kind kind) {
  int64_t columns = type.getColumns();
  return {allocate(kind, type.getRows() * columns * paddedWidth * s.elementBytes), columns};
}

//===----------------------------------------------------------------------===//
// Reading the kernel
//===----------------------------------------------------------------------===//

LogicalResult KernelEmitter::readSignature() {
  FailureOr<int64_t> checked = checkKernel(kernel);
  if (failed(checked))
    return failure();
  width = *checked;
  s.element = kernel->getAttrOfType<TypeAttr>("hc.compute").getValue();
  s.elementBytes = Simd::bytesOf(s.element);
  lanes = target.vectorBytes / s.elementBytes;
  paddedWidth = llvm::alignTo(width, lanes);

  auto storage = [&](Attribute attribute) {
    auto type = dyn_cast_or_null<TypeAttr>(attribute);
    return type ? type.getValue() : s.element;
  };
  for (BlockArgument argument : kernel.getArguments()) {
    unsigned i = argument.getArgNumber();
    arguments.push_back({argument, storage(kernel.getArgAttr(i, HCDialect::dtypeAttrName)), isUniform(argument)});
  }
  for (OpOperand &operand : kernel.getReturn()->getOpOperands()) {
    unsigned i = operand.getOperandNumber();
    bool uniform =
        isa<WeightType>(operand.get().getType()) || kernel.getResultAttr(i, HCDialect::uniformAttrName) != nullptr;
    char phase = 'T';
    if (uniform) {
      if (!isUniform(operand.get()))
        return kernel.emitError() << "returns result " << i << " as uniform, but it belongs to a token";
      Operation *op = operand.get().getDefiningOp();
      auto attribute = op ? op->getAttrOfType<StringAttr>("phase") : StringAttr();
      bool late = attribute && (attribute.getValue() == "E" || attribute.getValue() == "W");
      phase = late ? 'E' : 'P';
    }
    results.push_back({operand.get(), storage(kernel.getResultAttr(i, HCDialect::dtypeAttrName)), uniform, phase});
  }
  return success();
}

/// A loop nest of its own, which wants its rows in memory.
bool KernelEmitter::isProduct(Operation *op) const {
  if (isa_and_nonnull<ProjectOp, ExpandOp, WeightGradOp>(op))
    return true;
  if (auto mix = dyn_cast_or_null<MixOp>(op))
    return mix.getCoefficients().getType().getNumElements() > 160;
  if (auto dot = dyn_cast_or_null<DotOp>(op))
    return dot.getResult().getType().getNumElements() > 40;
  return false;
}

LogicalResult KernelEmitter::plan(StringRef schedule) {
  if (failed(readBlocks(schedule)) || failed(readSignature()))
    return failure();
  // What nothing needs is asked for at no point, and has no place in a block.
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(kernel.getEntry())))
    if (isOpTriviallyDead(&op))
      op.erase();
  for (Operation &op : kernel.getEntry().without_terminator()) {
    auto phase = op.getAttrOfType<StringAttr>("phase");
    if (phase.getValue() == "P") {
      prologueOps.push_back(&op);
      continue;
    }
    if (phase.getValue() == "E") {
      epilogueOps.push_back(&op);
      continue;
    }
    Stage &stage = stages[op.getAttrOfType<IntegerAttr>("stage").getInt()];
    if (auto sum = dyn_cast<TokenSumOp>(op)) {
      tokenSums.push_back(&op);
      if (isa<CoeffsType>(sum.getType()))
        continue;
      if (isa<WeightType>(sum.getType()))
        return refuse(&op, "a weight for every token; use hc.weight_grad");
      stage.rows.push_back(&op);
    } else if (isa<WeightGradOp>(op)) {
      tokenSums.push_back(&op);
      stage.rows.push_back(&op);
    } else if (makesRows(&op) || sumsOverChannels(&op)) {
      stage.rows.push_back(&op);
    } else {
      stage.coefficients.push_back(&op);
    }
  }
  choosePoints();
  chooseBlock();
  placeUniform();
  return success();
}

//===----------------------------------------------------------------------===//
// When rows are made
//===----------------------------------------------------------------------===//

/// Multiply-adds a channel and row that making the value again costs; no more is counted than `enough`, so that what is
/// used twice at every step of a long chain is not walked twice as often at each.
int64_t KernelEmitter::recomputeCost(Value value, int64_t enough) const {
  Operation *op = value.getDefiningOp();
  if (!op || isProduct(op))
    return 0;
  int64_t cost = isa<RoundOp>(op) ? 7 : 1;
  for (Value operand : op->getOperands())
    if (isa<RowsType>(operand.getType()) && cost < enough)
      cost += recomputeCost(operand, enough - cost);
  if (auto mix = dyn_cast<MixOp>(op))
    cost *= mix.getInput().getType().getRows();
  return std::min(cost, enough);
}

void KernelEmitter::choosePoints() {
  for (auto &[number, stage] : stages) {
    for (Operation *op : stage.rows) {
      int64_t level = 0;
      for (Value operand : op->getOperands()) {
        Operation *def = operand.getDefiningOp();
        auto found = pointOf.find(def);
        if (!isa<RowsType>(operand.getType()) || found == pointOf.end() || found->second.first != number)
          continue;
        int64_t operandLevel = found->second.second;
        bool waits = isProduct(op) && makesRows(op) && !isProduct(def);
        level = std::max(level, operandLevel + (waits ? 1 : 0));
      }
      pointOf[op] = {number, level};
    }
  }

  constexpr int64_t dear = 3;
  llvm::DenseMap<Value, std::set<Point>> demand;
  auto needsOf = [&](Value value, bool &forced) {
    std::set<Point> needs;
    for (Operation *user : value.getUsers()) {
      if (isa<ReturnOp>(user)) {
        needs.insert(pointOf[value.getDefiningOp()]);
      } else if (isProduct(user)) {
        forced = true;
        needs.insert(makesRows(user) ? pointOf[value.getDefiningOp()] : pointOf[user]);
      } else if (makesRows(user) && !isa<TokenSumOp>(user)) {
        needs.insert(demand[user->getResult(0)].begin(), demand[user->getResult(0)].end());
      } else {
        needs.insert(pointOf[user]);
      }
    }
    return needs;
  };
  for (auto stage = stages.rbegin(); stage != stages.rend(); ++stage)
    for (Operation *op : llvm::reverse(stage->second.rows)) {
      if (!makesRows(op) || isa<TokenSumOp>(op))
        continue;
      Value value = op->getResult(0);
      bool forced = false;
      std::set<Point> needs = needsOf(value, forced);
      if (needs.empty())
        continue;
      if (isProduct(op)) {
        demand[value] = {pointOf[op]};
        rowsHomes[value] = RowsHome{};
        storedAt[value] = pointOf[op] == Point() ? always : Point(pointOf[op].first, pointOf[op].second - 1);
        continue;
      }
      for (auto [i, result] : llvm::enumerate(results)) {
        if (result.value != value || result.uniform)
          continue;
        auto round = dyn_cast<RoundOp>(op);
        // Rows that are read again stay in the block, in cache; the result is another copy.
        bool again = forced || needs.size() > 1;
        if (!again && (result.storage == s.element || (round && round.getType() == result.storage)))
          rowsHomes[value] = {{Memory::Operand, static_cast<int64_t>(arguments.size() + i)},
                              result.storage,
                              cast<RowsType>(value.getType()).getRows(),
                              width,
                              true};
      }
      bool home = rowsHomes.count(value) || forced || (needs.size() > 1 && recomputeCost(value, dear) == dear);
      if (home) {
        rowsHomes[value];
        storedAt[value] = *needs.begin();
        needs = {*needs.begin()};
      }
      demand[value] = needs;
      points.insert(needs.begin(), needs.end());
    }
  for (auto &[op, point] : pointOf)
    points.insert(point);
  // A token's result may also be an argument, or the same for all tokens: written in the first pass.
  for (const Result &result : results)
    if (!result.uniform && isa<RowsType>(result.value.getType()) && !pointOf.count(result.value.getDefiningOp()))
      points.insert({0, 0});
}

//===----------------------------------------------------------------------===//
// Sizes
//===----------------------------------------------------------------------===//

void KernelEmitter::chooseBlock() {
  sizes = measure();
  for (auto &[number, stage] : stages)
    fetchingProducts +=
        llvm::count_if(stage.rows, [](Operation *op) { return isa<ProjectOp, ExpandOp, WeightGradOp>(op); });
  numbers = chooseBlocks(sizes, target, numbers);
  block = numbers.tokens;
  coefficientLanes = std::min(lanes, block);
  layout.blockTokens = block;

  for (auto &[value, home] : rowsHomes)
    if (!home.storage)
      home = allocateRows(Memory::Scratch, cast<RowsType>(value.getType()).getRows(), true);
}

void KernelEmitter::placeUniform() {
  for (auto [i, argument] : llvm::enumerate(arguments)) {
    auto index = static_cast<int64_t>(i);
    if (auto rows = dyn_cast<RowsType>(argument.value.getType())) {
      rowsHomes[argument.value] = {
          {Memory::Operand, index}, argument.storage, rows.getRows(), width, !argument.uniform};
      storedAt[argument.value] = always;
    } else if (auto coeffs = dyn_cast<CoeffsType>(argument.value.getType())) {
      if (argument.value.use_empty())
        continue;
      bool direct = argument.uniform && argument.storage == s.element;
      CoeffsView view = direct ? CoeffsView()
                               : allocateCoeffs(argument.uniform ? Memory::Fixed : Memory::Scratch, coeffs.getShape(),
                                                !argument.uniform);
      if (direct) {
        view.memory = {Memory::Operand, index};
        view.shape.assign(coeffs.getShape().begin(), coeffs.getShape().end());
        view.strides.resize(view.shape.size());
        int64_t stride = 1;
        for (int64_t axis = coeffs.getRank() - 1; axis >= 0; --axis) {
          view.strides[axis] = stride;
          stride *= view.shape[axis];
        }
      }
      views[argument.value] = view;
    } else if (!argument.value.use_empty()) {
      weights[argument.value] = allocateWeight(cast<WeightType>(argument.value.getType()));
    }
  }
  for (Operation *op : tokenSums) {
    Value value = op->getResult(0);
    if (auto rows = dyn_cast<RowsType>(value.getType())) {
      rowPartials[op] = allocateRows(Memory::Partial, rows.getRows(), false);
      rowsHomes[value] = allocateRows(Memory::Fixed, rows.getRows(), false);
      storedAt[value] = always;
    } else if (auto weight = dyn_cast<WeightType>(value.getType())) {
      weightPartials[op] = allocateWeight(weight, Memory::Partial);
      weights[value] = allocateWeight(weight);
    } else {
      auto coeffs = cast<CoeffsType>(value.getType());
      CoeffsView partial = allocateCoeffs(Memory::Partial, {coeffs.getNumElements() * coefficientLanes}, false);
      coeffPartials[op] = partial;
      views[value] = allocateCoeffs(Memory::Fixed, coeffs.getShape(), false);
    }
  }
  if (numbers.chunks < 0)
    numbers.chunks = chooseChunks(layout.workspacePerChunk);
  layout.maxChunks = numbers.chunks;
  layout.schedule = writeBlocks(numbers);
}

} // namespace hyperjit::cpu
