//===- CudaPlan.cpp - What each launch of a kernel does -------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "CudaPlan.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::formatv;

/// Long serial maths: taken off the path of the sweeps where no sweep waits for it.
bool cuda::isLong(Operation *op) {
  return isa_and_present<hc::SinkhornOp, hc::SinkhornAdjointOp, hc::PermutationMixOp, hc::PermutationDotOp>(op);
}

constexpr StringLiteral perTokenName = "Space::PerToken<";
std::string cuda::perTokenReference(int64_t offset) { return formatv("{0}{1}>", perTokenName, offset); }
std::optional<int64_t> cuda::perTokenOffset(StringRef reference) {
  int64_t offset;
  if (!reference.consume_front(perTokenName) || reference.consumeInteger(10, offset) || reference != ">")
    return std::nullopt;
  return offset;
}

static bool isCoefficients(Value value) { return isa<hc::CoeffsType>(value.getType()); }
static int64_t elements(Value value) { return hc::elementCount(value.getType()); }

KernelPlan::KernelPlan(hc::FuncOp kernel, int64_t maxSlots) : kernel(kernel), maxSlots(maxSlots) {
  if (auto compute = kernel->getAttrOfType<TypeAttr>("hc.compute"))
    elementBytes = isa<Float64Type>(compute.getValue()) ? 8 : 4;
}

static int64_t storageBytes(Type type) { return (type.getIntOrFloatBitWidth() + 7) / 8; }

static Type storageOf(DictionaryAttr attrs, MLIRContext *context, bool wide) {
  if (attrs)
    if (auto type = attrs.getAs<TypeAttr>(hc::HCDialect::dtypeAttrName))
      return type.getValue();
  return wide ? Type(Float64Type::get(context)) : Type(Float32Type::get(context));
}

std::string KernelPlan::placeFixed(Value value) {
  auto known = memory.memory.find(value);
  if (known != memory.memory.end())
    return known->second;
  std::string reference = formatv("Space::Fixed<{0}>", allocate(fixedBytes, elements(value) * elementBytes));
  memory.memory[value] = reference;
  return reference;
}

/// Makes sure that bodies which read a uniform value find it (or what it is moved from) in memory.
void KernelPlan::requireUniform(Value value) {
  Operation *op = value.getDefiningOp();
  if (!op || memory.memory.count(value))
    return;
  if (isMovement(op)) {
    for (Value operand : op->getOperands())
      requireUniform(operand);
    return;
  }
  std::string reference = placeFixed(value);
  prologueStores.push_back({value, reference});
}

/// Coefficients that the maps behind a rows value read; uniform rows and weights get their places.
void KernelPlan::collectRows(Value value, llvm::SetVector<Value> &coefficients, llvm::DenseSet<Value> &seen,
                             bool forMain) {
  if (!seen.insert(value).second)
    return;
  Operation *op = value.getDefiningOp();
  if (!op)
    return;
  if (isUniform(value)) {
    if (!memory.memory.count(value))
      prologueStores.push_back({value, placeFixed(value)});
    return;
  }
  if (auto expand = dyn_cast<hc::ExpandOp>(op))
    if (forMain)
      expanded.insert(expand.getWeight());
  for (Value operand : op->getOperands()) {
    if (forMain && maxTiles && isa<hc::WeightType>(operand.getType()))
      continue; // read as planes
    if (isCoefficients(operand))
      coefficients.insert(operand);
    else
      collectRows(operand, coefficients, seen, forMain);
  }
}

void KernelPlan::markCritical(Value value) {
  if (isUniform(value) || !critical.insert(value))
    return;
  if (Operation *op = value.getDefiningOp(); op && !hc::sumsOverChannels(op))
    for (Value operand : op->getOperands())
      markCritical(operand);
}

bool KernelPlan::hasLongMaths(ArrayRef<Value> values) {
  llvm::DenseSet<Value> seen;
  std::function<bool(Value)> isLongBehind = [&](Value value) {
    Operation *op = value.getDefiningOp();
    return op && !hc::sumsOverChannels(op) && !isUniform(value) && !headValues.contains(value) &&
           seen.insert(value).second && (isLong(op) || llvm::any_of(op->getOperands(), isLongBehind));
  };
  return llvm::any_of(values, isLongBehind);
}

void KernelPlan::placePerToken(Value value) {
  if (!perToken.insert(value))
    return;
  memory.memory[value] = perTokenReference(allocate(tokenBytes, elements(value) * elementBytes));
}

LogicalResult KernelPlan::collect() {
  auto *context = kernel.getContext();
  for (BlockArgument argument : kernel.getArguments()) {
    unsigned index = argument.getArgNumber();
    Type storage = storageOf(kernel.getArgAttrDict(index), context, wide());
    bool uniform = isUniform(argument);
    if (auto rows = dyn_cast<hc::RowsType>(argument.getType())) {
      width = rows.getWidth();
      if (!uniform)
        widestStorage = std::max(widestStorage, storageBytes(storage));
    }
    memory.memory[argument] =
        formatv("Operand<{0}, {1}, {2}>", index, storageName(storage), uniform ? 0 : elements(argument));
  }
  // Live ops, in order.
  llvm::SetVector<Operation *> live;
  SmallVector<Value> work(kernel.getReturn()->getOperands());
  while (!work.empty())
    if (Operation *op = work.pop_back_val().getDefiningOp(); op && live.insert(op))
      work.append(op->operand_begin(), op->operand_end());
  llvm::DenseSet<Value> afterSum;
  for (Operation &op : kernel.getEntry().without_terminator()) {
    if (!live.contains(&op))
      continue;
    liveOps.insert(&op);
    Value result = op.getResult(0);
    int64_t stage = 0;
    if (!isUniform(result) || hc::sumsOverTokens(&op))
      for (Value operand : op.getOperands())
        if (!isUniform(operand))
          stage = std::max(stage, stages.lookup(operand));
    stages[result] =
        isUniform(result) && !hc::sumsOverTokens(&op) ? 0 : stage + (hc::sumsOverChannels(&op) && !isUniform(result));
    if (hc::sumsOverTokens(&op) ||
        llvm::any_of(op.getOperands(), [&](Value operand) { return afterSum.contains(operand); }))
      afterSum.insert(result);
    if (auto rows = dyn_cast<hc::RowsType>(result.getType()))
      width = rows.getWidth();
    if (auto weight = dyn_cast<hc::WeightType>(result.getType()); weight && !isUniform(result))
      return op.emitOpError("makes a weight for every token, which no skeleton stores");
  }

  // What the tokens' rows need.
  llvm::SetVector<Value> coefficients;
  llvm::DenseSet<Value> seen;
  for (auto [i, value] : llvm::enumerate(kernel.getReturn()->getOperands())) {
    DictionaryAttr attrs = kernel.getResultAttrDict(i);
    bool uniform = attrs && attrs.contains(hc::HCDialect::uniformAttrName);
    Type storage = storageOf(attrs, context, wide());
    unsigned index = kernel.getNumArguments() + i;
    std::string reference =
        formatv("Operand<{0}, {1}, {2}>", index, storageName(storage), uniform ? 0 : elements(value));
    if (uniform) {
      if (!isUniform(value))
        return kernel.emitError() << "result " << i << " is declared uniform, but it belongs to a token";
      (afterSum.contains(value) ? epilogueStores : prologueStores).push_back({value, reference});
      continue;
    }
    if (afterSum.contains(value))
      return kernel.emitError() << "result " << i << " is a sum over tokens, but it is declared a token's";
    if (isCoefficients(value)) {
      lateStores.push_back({value, reference});
      continue;
    }
    widestStorage = std::max(widestStorage, storageBytes(storage));
    int64_t stage = stageOf(value);
    if (static_cast<int64_t>(rowStores.size()) <= stage)
      rowStores.resize(stage + 1);
    rowStores[stage].push_back({value, reference});
    mainRows = true;
    auto round = value.getDefiningOp<hc::RoundOp>();
    if ((round && round.getType() == storage) || storageBytes(storage) == elementBytes)
      if (!losslessStores.count(value) && value.getDefiningOp())
        losslessStores[value] = {reference, stage};
    collectRows(value, coefficients, seen, /*forMain=*/true);
  }
  for (Operation *op : liveOps) {
    if (!hc::sumsOverChannels(op) || isUniform(op->getResult(0)))
      continue;
    mainRows = true;
    if (auto project = dyn_cast<hc::ProjectOp>(op))
      projected.insert(project.getWeight());
    for (Value operand : op->getOperands())
      if (!(maxTiles && isa<hc::WeightType>(operand.getType())))
        collectRows(operand, coefficients, seen, /*forMain=*/true);
  }
  for (Operation *op : sweptGradients) {
    collectRows(op->getOperand(0), coefficients, seen, /*forMain=*/true);
    coefficients.insert(cast<hc::WeightGradOp>(op).getCoefficients());
  }
  for (Value value : coefficients) {
    if (isUniform(value)) {
      uniformReads.push_back(value);
      requireUniform(value);
    } else {
      recordNeeded.insert(value);
      if (hc::sumsOverChannels(value.getDefiningOp()))
        sweptSums.insert(value);
      markCritical(value);
    }
  }

  // Sums over tokens.
  llvm::SetVector<Value> columnCoefficients;
  llvm::DenseSet<Value> columnSeen;
  for (Operation *op : liveOps) {
    if (!hc::sumsOverTokens(op))
      continue;
    Value result = op->getResult(0);
    if (isCoefficients(result)) {
      sumCount += elements(result);
      continue;
    }
    memory.memory[result] = formatv("Space::PerChunk<{0}>", allocate(chunkBytes, elements(result) * elementBytes));
    if (sweptGradients.contains(op))
      continue;
    columnOps.push_back(op);
    collectRows(op->getOperand(0), columnCoefficients, columnSeen, /*forMain=*/false);
    if (auto gradient = dyn_cast<hc::WeightGradOp>(op))
      columnCoefficients.insert(gradient.getCoefficients());
  }
  sumOffset = allocate(tokenBytes, sumCount * elementBytes);
  chunkSumOffset = allocate(chunkBytes, sumCount * elementBytes);
  int64_t next = 0;
  for (Operation *op : liveOps) {
    if (!hc::sumsOverTokens(op) || !isCoefficients(op->getResult(0)))
      continue;
    lateStores.push_back({op->getOperand(0), perTokenReference(sumOffset + next * elementBytes)});
    memory.memory[op->getResult(0)] = formatv("Space::PerChunk<{0}>", chunkSumOffset + next * elementBytes);
    next += elements(op->getResult(0));
  }
  for (Value value : columnCoefficients) {
    if (isUniform(value)) {
      columnUniforms.push_back(value);
      requireUniform(value);
    } else {
      columnRecords.push_back(value);
      columnRecord[value] = columnSize;
      columnSize += llvm::alignTo(elements(value), 4);
    }
  }
  columnOffset = allocate(tokenBytes, columnSize * elementBytes);
  return success();
}

void KernelPlan::placeInRecord(Value value) {
  if (record.try_emplace(value, recordSize).second)
    recordSize += (elements(value) + 3) / 4 * 4;
}

/// Main writes the value to the token's record at the stage that makes it.
void KernelPlan::requireRecord(Value value) {
  if (!required.insert(value).second)
    return;
  placeInRecord(value);
  if (Operation *op = value.getDefiningOp(); op && hc::sumsOverChannels(op))
    return;
  int64_t stage = stageOf(value);
  stagePlans[stage].recordWrites.insert(value);
  walkStage(value, stage);
}

/// Main makes `value` in its coefficient body of `stage`: what earlier stages made must be in the record.
void KernelPlan::walkStage(Value value, int64_t stage) {
  if (!walkedStage.insert({value, stage}).second)
    return;
  Operation *op = value.getDefiningOp();
  if (!op)
    return;
  if (isUniform(value))
    return requireUniform(value);
  if (headValues.contains(value))
    return;
  if (hc::sumsOverChannels(op))
    return requireRecord(value);
  for (Value operand : op->getOperands()) {
    Operation *producer = operand.getDefiningOp();
    if (producer && !isUniform(operand) && !hc::sumsOverChannels(producer) && !isMovement(producer) &&
        !headValues.contains(operand) && stageOf(operand) < stage)
      requireRecord(operand);
    else
      walkStage(operand, stage);
  }
}

/// Head and tail read reductions, and what main keeps in records anyway, from memory and make the rest again; what
/// they store themselves (`own`) they make.
void KernelPlan::requireLeaves(Value value, const llvm::DenseSet<Value> &own, llvm::DenseSet<Value> &walked) {
  if (!walked.insert(value).second)
    return;
  Operation *op = value.getDefiningOp();
  if (!op)
    return;
  if (isUniform(value))
    return requireUniform(value);
  if (memory.memory.count(value) && !own.contains(value))
    return;
  if (hc::sumsOverChannels(op) ||
      (critical.contains(value) && !own.contains(value) && !isMovement(op) && stageOf(value) > 0)) {
    placePerToken(value);
    int64_t stage = stageOf(value);
    stagePlans[stage].stores.push_back({value, memory.memory[value]});
    walkStage(value, stage);
    return;
  }
  for (Value operand : op->getOperands())
    requireLeaves(operand, own, walked);
}

void KernelPlan::leaveToHead() {
  llvm::SetVector<Value> &writes = stagePlans.front().recordWrites;
  SmallVector<Value> unread =
      llvm::to_vector(llvm::make_filter_range(writes, [&](Value value) { return !recordNeeded.contains(value); }));
  for (Value value : unread) {
    writes.remove(value);
    headValues.insert(value);
    placePerToken(value);
    head.push_back({value, memory.memory[value]});
    record.erase(value);
  }
  // The others move up, in their order; sums, whose places sweeps know, come first.
  SmallVector<std::pair<int64_t, Value>> kept;
  for (auto [value, offset] : record)
    kept.push_back({offset, value});
  llvm::sort(kept, llvm::less_first());
  recordSize = 0;
  for (auto [offset, value] : kept) {
    assert((offset == recordSize || !hc::sumsOverChannels(value.getDefiningOp())) && "sums keep their places");
    record[value] = recordSize;
    recordSize += llvm::alignTo(elements(value), 4);
  }
}

/// A token's coefficients that no row of this kernel waits for.
void KernelPlan::addLate(Value value, std::string reference) {
  int64_t stage = isUniform(value) ? 0 : stageOf(value);
  if (!mainRows || (useTail && (stage > 0 || !useHead))) {
    tail.push_back({value, std::move(reference)});
  } else if (stage == 0 && useHead) {
    head.push_back({value, std::move(reference)});
  } else {
    stagePlans[stage].stores.push_back({value, std::move(reference)});
    walkStage(value, stage);
  }
}

void KernelPlan::formPasses() {
  for (auto [stage, plan] : llvm::enumerate(stagePlans)) {
    std::vector<Store> stores = stage < rowStores.size() ? rowStores[stage] : std::vector<Store>();
    std::vector<ReductionPart> parts;
    for (Operation *op : liveOps) {
      Value result = op->getResult(0);
      if (!hc::sumsOverChannels(op) || isUniform(result) || stageOf(result) != static_cast<int64_t>(stage) + 1)
        continue;
      auto shape = cast<hc::CoeffsType>(result.getType()).getShape();
      int64_t rows = shape[0], columns = shape.size() > 1 ? shape[1] : 1;
      if (maxTiles && isa<hc::ProjectOp>(op)) {
        int64_t tiles = llvm::divideCeil(columns, 8), block = std::min(tiles, maxTiles);
        int64_t groups = std::max<int64_t>(1, std::min(rows, maxTiles / tiles));
        for (int64_t row = 0; row < rows; row += groups)
          for (int64_t tile = 0; tile < tiles; tile += block)
            parts.push_back({op, 0, row, std::min(groups, rows - row), tile, std::min(block, tiles - tile), true});
        continue;
      }
      int64_t columnBlock = std::min(columns, maxSlots);
      if (columnBlock < columns && columnBlock % 4)
        columnBlock -= columnBlock % 4;
      int64_t rowBlock = columnBlock < columns ? 1 : std::max<int64_t>(1, std::min(rows, maxSlots / columns));
      for (int64_t row = 0; row < rows; row += rowBlock)
        for (int64_t column = 0; column < columns; column += columnBlock)
          parts.push_back(
              {op, 0, row, std::min(rowBlock, rows - row), column, std::min(columnBlock, columns - column)});
    }
    if (stores.empty() && parts.empty())
      continue;
    plan.passes.emplace_back();
    plan.passes.back().stores = std::move(stores);
    for (ReductionPart part : parts) {
      int64_t size = part.count * part.columns;
      int64_t used = part.tiled ? plan.passes.back().tiles : plan.passes.back().slots;
      if (used + size > (part.tiled ? maxTiles : maxSlots) && used > 0)
        plan.passes.emplace_back();
      SweepPass &pass = plan.passes.back();
      if (part.tiled) {
        // Slots are given when the plain ones are counted.
        part.slot = pass.tiles;
        pass.tiles += size;
        pass.parts.push_back(part);
        continue;
      }
      part.slot = pass.slots;
      auto shape = cast<hc::CoeffsType>(part.op->getResult(0).getType()).getShape();
      int64_t columns = shape.size() > 1 ? shape[1] : 1;
      // Blocks of whole rows, or parts of one row: contiguous either way.
      pass.segments.push_back(
          {part.slot, size, record.lookup(part.op->getResult(0)) + part.begin * columns + part.columnBegin});
      pass.slots += size;
      pass.parts.push_back(part);
    }
    for (SweepPass &pass : plan.passes)
      for (const ReductionPart &part : pass.parts) {
        if (!part.tiled)
          continue;
        int64_t columns = cast<hc::CoeffsType>(part.op->getResult(0).getType()).getShape()[1];
        int64_t base = record.lookup(part.op->getResult(0)), first = 8 * part.columnBegin;
        for (int64_t group = 0; group < part.count; ++group)
          pass.segments.push_back({pass.slots + 8 * (part.slot + group * part.columns),
                                   std::min(8 * part.columns, columns - first),
                                   base + (part.begin + group) * columns + first});
      }
  }
}

void KernelPlan::loadsOf(const SweepPass &pass, const llvm::DenseSet<Value> &stored, llvm::SetVector<Value> &loads,
                         llvm::SetVector<Value> &made) {
  llvm::DenseSet<Value> seen;
  std::function<void(Value)> walk = [&](Value value) {
    if (!isa<hc::RowsType>(value.getType()) || isUniform(value) || !seen.insert(value).second)
      return;
    if (!value.getDefiningOp() || stored.contains(value)) {
      loads.insert(value);
      return;
    }
    made.insert(value);
    for (Value operand : value.getDefiningOp()->getOperands())
      walk(operand);
  };
  for (const Store &store : pass.stores)
    walk(store.value);
  for (const ReductionPart &part : pass.parts)
    for (Value operand : part.op->getOperands())
      walk(operand);
}

void KernelPlan::markSquares() {
  for (StagePlan &stagePlan : stagePlans)
    for (SweepPass &pass : stagePlan.passes)
      pass.squares = pass.slots > 0 && llvm::all_of(pass.parts, [](const ReductionPart &part) {
                       if (part.tiled)
                         return true;
                       if (!isa<hc::DotOp, hc::DotRowsOp>(part.op))
                         return false;
                       Type left = halfTypeOf(part.op->getOperand(0));
                       return left && left == halfTypeOf(part.op->getOperand(1));
                     });
}

bool KernelPlan::wantsTiles() const {
  // A lane's vector of four numbers is at most 16 bytes, also of the branch's rows.
  return !wide() && widestStorage <= 4 && width % 4 == 0 && !(projected.empty() && expanded.empty());
}

LogicalResult KernelPlan::run(int64_t tiles) {
  maxTiles = tiles;
  if (failed(collect()))
    return failure();
  int64_t lastStage = 0;
  for (Operation *op : liveOps)
    lastStage = std::max(lastStage, stages.lookup(op->getResult(0)));
  stagePlans.resize(lastStage + 1);

  // The head: long maths on what comes in.
  if (mainRows)
    for (Operation *op : liveOps)
      if (Value result = op->getResult(0); isLong(op) && !isUniform(result) && stageOf(result) == 0) {
        useHead = true;
        headValues.insert(result);
      }
  for (Value value : headValues) {
    placePerToken(value);
    head.push_back({value, memory.memory[value]});
  }
  // The tail: if anything late is long.
  SmallVector<Value> late;
  for (const Store &store : lateStores)
    late.push_back(store.value);
  late.append(columnRecords.begin(), columnRecords.end());
  useTail = hasLongMaths(late);

  if (mainRows) {
    for (Operation *op : liveOps)
      if (hc::sumsOverChannels(op) && !isUniform(op->getResult(0)))
        requireRecord(op->getResult(0));
    // What sweeps of a stage read lies together: it is sent from block to block.
    SmallVector<Value> needed(recordNeeded.begin(), recordNeeded.end());
    llvm::stable_sort(needed, [&](Value a, Value b) { return stageOf(a) < stageOf(b); });
    llvm::for_each(needed, [&](Value value) { placeInRecord(value); });
    llvm::for_each(needed, [&](Value value) { requireRecord(value); });
  }
  for (const Store &store : lateStores)
    addLate(store.value, store.reference);
  for (Value value : columnRecords)
    addLate(value, perTokenReference(columnOffset + columnRecord[value] * elementBytes));
  for (const std::vector<Store> *stores : {&head, &tail}) {
    llvm::DenseSet<Value> own, walked;
    for (const Store &store : *stores)
      if (!store.value.getDefiningOp() || !hc::sumsOverChannels(store.value.getDefiningOp()))
        own.insert(store.value);
    for (const Store &store : *stores)
      requireLeaves(store.value, own, walked);
  }
  formPasses();
  return success();
}

//===----------------------------------------------------------------------===//
// Register pressure
//===----------------------------------------------------------------------===//

static int64_t rowCount(Value value) {
  auto rows = dyn_cast<hc::RowsType>(value.getType());
  return rows ? rows.getRows() : 0;
}

namespace {
/// Rows alive at once when the slices behind some values are computed in program order.
struct Pressure {
  llvm::SetVector<Value> values;
  llvm::function_ref<bool(Value)> isLeaf;

  void add(Value value) {
    if (!rowCount(value) || values.contains(value))
      return;
    if (Operation *op = value.getDefiningOp(); op && !isLeaf(value))
      for (Value operand : op->getOperands())
        add(operand);
    values.insert(value);
  }
  int64_t most(ArrayRef<Operation *> consumers) {
    llvm::DenseMap<Value, int64_t> lastUse;
    int64_t position = 0;
    llvm::DenseMap<Value, int64_t> defined;
    for (Value value : values) {
      defined[value] = position;
      lastUse[value] = position;
      if (Operation *op = value.getDefiningOp(); op && !isLeaf(value))
        for (Value operand : op->getOperands())
          if (rowCount(operand))
            lastUse[operand] = position;
      ++position;
    }
    for (Operation *op : consumers)
      for (Value operand : op->getOperands())
        if (rowCount(operand))
          lastUse[operand] = position;
    int64_t most = 0;
    for (int64_t at = 0; at <= position; ++at) {
      int64_t sum = 0;
      for (Value value : values)
        if (defined[value] <= at && lastUse[value] >= at)
          sum += rowCount(value);
      most = std::max(most, sum);
    }
    return most;
  }
};
} // namespace

int64_t KernelPlan::pressure(const SweepPass &pass, int64_t stage) {
  auto leaf = [&](Value value) {
    auto stored = losslessStores.find(value);
    return isUniform(value) || (stored != losslessStores.end() && stored->second.second < stage);
  };
  Pressure pressure{{}, leaf};
  SmallVector<Operation *> consumers;
  for (const Store &store : pass.stores)
    pressure.add(store.value);
  for (const ReductionPart &part : pass.parts) {
    consumers.push_back(part.op);
    for (Value operand : part.op->getOperands())
      pressure.add(operand);
  }
  return pressure.most(consumers);
}

int64_t KernelPlan::pressure(Operation *columnOp) {
  auto leaf = [&](Value value) { return isUniform(value); };
  Pressure pressure{{}, leaf};
  pressure.add(columnOp->getOperand(0));
  return pressure.most({columnOp});
}
