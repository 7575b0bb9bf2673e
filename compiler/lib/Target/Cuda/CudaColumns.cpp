//===- CudaColumns.cpp - Who does what in the skeleton clusterColumns -----===//
// SPDX-License-Identifier: Apache-2.0
//
// How rows are split among CTAs and their warps, what the other warps do, and
// which weight gradients sweeps sum. CudaRings.cpp says what lies where.
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// Registers of a lane of a compute warp, as the skeleton sets them.
static int64_t registersOf(int64_t sweepers, int64_t helpers, int64_t record, int64_t parts) {
  int64_t warps = sweepers + helpers, share = 65536 / (32 * warps) / 8 * 8;
  if (sweepers % 4 || helpers % 4)
    return share;
  int64_t kept = share > 96 ? (record > 200 ? 88 : parts > 1 ? 96 : 72) : share;
  return std::min<int64_t>(240, (share + (share - kept) * helpers / sweepers) / 8 * 8);
}

LogicalResult SourceBuilder::chooseColumns() {
  auto refuse = [&](const llvm::Twine &why) { return kernel.emitError() << "schedule: columns " << why; };
  if (!Generation(target).movesRegisters)
    return refuse("needs clusters, bulk copies and registers that move between warps, which " + target + " lacks");
  if (plan.wide())
    return refuse("is for kernels that compute in fp32");
  bool reduces = false;
  for (const StagePlan &stagePlan : plan.stagePlans)
    for (const SweepPass &pass : stagePlan.passes) {
      mainSums = std::max(mainSums, pass.sums());
      reduces |= !pass.parts.empty();
    }
  if (!reduces)
    return refuse("is for kernels that reduce over channels");
  mainReduces = true;
  mainShape.vector = choice.vector ? choice.vector : 16 / plan.widestStorage;
  mainShape.tokenLanes = 8;
  if (choice.tokens % 8)
    return refuse("takes tokens in eights, not " + llvm::Twine(choice.tokens));
  mainShape.tokens = choice.tokens ? choice.tokens / 8 : 1;
  int64_t chunk = 4 * mainShape.vector, &cluster = mainShape.cluster;
  if (mainShape.vector < 4 || mainShape.vector * plan.widestStorage > 16)
    return refuse("takes vectors of 4 channels and of at most 16 bytes, not " + llvm::Twine(mainShape.vector) +
                  " channels");
  cluster = choice.cluster ? choice.cluster : 16;
  if (cluster < 2)
    return refuse("shares rows among 2 to 16 blocks of a cluster, not " + llvm::Twine(cluster));
  if (int64_t tile = 8 * mainShape.tokens; cluster > tile && cluster % tile)
    return refuse("shares a tile of " + llvm::Twine(tile) +
                  " tokens among at most as many blocks or among whole multiples, not among " + llvm::Twine(cluster));
  int64_t parts = mainShape.parts = choice.parts ? choice.parts : 1;
  while (!choice.cluster && cluster > 2 &&
         (plan.width % (cluster * parts * chunk) || plan.width / (cluster * parts) < 160))
    cluster /= 2;
  if (plan.width % (cluster * parts * chunk))
    return refuse("splits rows into " + llvm::Twine(cluster * parts) + " parts of whole chunks of " +
                  llvm::Twine(chunk) + " channels, and there are " + llvm::Twine(plan.width));
  // As many warps as leave none idle, and registers for each.
  int64_t chunks = plan.width / (cluster * parts) / chunk;
  mainShape.warps = choice.warps ? choice.warps : sweptWarps;
  if (!mainShape.warps)
    for (int64_t rounds = 1; !mainShape.warps; ++rounds)
      if (chunks % rounds == 0 && chunks / rounds <= 10)
        mainShape.warps = chunks / rounds;
  plan.markSquares();
  minBlocks = 1;
  mainShape.record = recordStride(plan.recordSize);
  if (tiled)
    placePlanes();
  prepareRecords();
  if (choice.preparers && !columns.image.empty())
    return kernel.emitError() << "schedule: preparers is " << choice.preparers
                              << ", but the first records are copied from memory";
  countWarps();
  return success();
}

/// Warps in all a multiple of four: the register file has four parts.
void SourceBuilder::countWarps() {
  int64_t tile = mainShape.tokenLanes * mainShape.tokens, others = mainShape.warps + 2; // loader, sender
  // A token's maths takes about as long as the sweeps over some hundred channels of a tile: narrow rows need more warps
  // for it. Beside an expansion of three streams and more the registers of one warp less count for more (an H100, 2048
  // channels: three streams 230 us instead of 270, four 333 instead of 348; two 159 instead of 148), but for eight
  // channels a lane of rows that clusters share.
  int64_t expanded = 0;
  for (Value weight : plan.expanded)
    expanded = std::max(expanded, cast<hc::WeightType>(weight.getType()).getRows());
  bool fewOwners = expanded >= 3 && (mainShape.parts == 1 || mainShape.vector == 4);
  columns.owners =
      std::clamp<int64_t>(llvm::divideCeil((fewOwners ? 320 : 640) * tile * mainShape.parts, plan.width), 2, 4);
  const StagePlan &first = plan.stagePlans.front();
  bool prepares = !first.recordWrites.empty() || !first.stores.empty();
  columns.preparers = !columns.image.empty() ? 0 : choice.preparers ? choice.preparers : prepares ? 2 : 1;
  int64_t spare =
      llvm::alignTo(others + columns.owners + columns.preparers, 4) - others - columns.owners - columns.preparers;
  (prepares && columns.image.empty() && !choice.preparers ? columns.preparers : columns.owners) += spare;
}

/// The operand that a value is a contiguous part of, and its first element there.
static std::pair<Value, int64_t> partOf(Value value) {
  int64_t offset = 0;
  for (;;) {
    Operation *op = value.getDefiningOp();
    if (!op)
      return {value, offset};
    if (auto slice = dyn_cast<hc::SliceOp>(op)) {
      if (slice.getAxis() != 0)
        return {};
      auto shape = cast<hc::CoeffsType>(slice.getInput().getType()).getShape();
      int64_t inner = 1;
      for (int64_t extent : shape.drop_front())
        inner *= extent;
      offset += static_cast<int64_t>(slice.getOffset()) * inner;
    } else if (!isa<hc::ReshapeOp>(op)) {
      return {};
    }
    value = op->getOperand(0);
  }
}

/// Every CTA of a cluster needs the first record of every token. Where its numbers lie in operands as they will in the
/// record, they are copied; where they are more than moved, they are made once, in the head, and what sweeps read of
/// them is copied: owners fetch the rest.
void SourceBuilder::prepareRecords() {
  StagePlan &first = plan.stagePlans.front();
  auto copyOf = [&](Value value) -> std::optional<RecordCopy> {
    auto [source, offset] = partOf(value);
    if (!source || plan.isUniform(source))
      return std::nullopt;
    unsigned argument = cast<BlockArgument>(source).getArgNumber();
    auto dtype = kernel.getArgAttrOfType<TypeAttr>(argument, hc::HCDialect::dtypeAttrName);
    if (!dtype || !dtype.getValue().isF32())
      return std::nullopt;
    return RecordCopy{plan.memory.memory.lookup(source), offset, plan.record.lookup(value),
                      hc::elementCount(value.getType()), hc::elementCount(source.getType())};
  };
  SmallVector<RecordCopy> copies;
  for (Value value : first.recordWrites) {
    std::optional<RecordCopy> copy = copyOf(value);
    if (!copy || !first.stores.empty()) {
      copies.clear();
      break;
    }
    copies.push_back(*copy);
  }
  llvm::sort(copies, [](const RecordCopy &a, const RecordCopy &b) {
    return std::tie(a.reference, a.skip) < std::tie(b.reference, b.skip);
  });
  for (const RecordCopy &copy : copies)
    if (columns.image.empty() || !columns.image.back().extend(copy))
      columns.image.push_back(copy);
  if (!columns.image.empty())
    return;
  llvm::DenseSet<Value> seen;
  std::function<bool(Value)> isMoved = [&](Value value) {
    Operation *op = value.getDefiningOp();
    if (!op || plan.memory.memory.count(value) || !seen.insert(value).second)
      return true;
    return isMovement(op) && llvm::all_of(op->getOperands(), isMoved);
  };
  if (first.recordWrites.empty() || llvm::all_of(first.recordWrites, isMoved))
    return;
  plan.leaveToHead();
  mainShape.record = recordStride(plan.recordSize);
  plan.head.insert(plan.head.end(), first.stores.begin(), first.stores.end());
  first.stores.clear();
  if (first.recordWrites.empty()) // no sweep reads a number of the token: only owners do
    return;
  int64_t begin = plan.recordSize, end = 0;
  for (Value value : first.recordWrites) {
    int64_t place = plan.record.lookup(value);
    begin = std::min(begin, place);
    end = std::max(end, place + static_cast<int64_t>(llvm::alignTo(hc::elementCount(value.getType()), 4)));
  }
  int64_t offset = plan.tokenBytes;
  columns.image.push_back({perTokenReference(offset), 0, begin, end - begin, 4});
  plan.tokenBytes += llvm::alignTo((end - begin) * 4, 16);
  for (Value value : first.recordWrites)
    plan.head.push_back({value, perTokenReference(offset + 4 * (plan.record.lookup(value) - begin))});
}

int64_t SourceBuilder::laneRegisters() const {
  return registersOf(mainShape.warps, 2 + columns.owners + columns.preparers, mainShape.record, mainShape.parts);
}

int64_t SourceBuilder::sweepingStages() const {
  return llvm::count_if(plan.stagePlans, [](const StagePlan &stage) { return !stage.passes.empty(); });
}

int64_t SourceBuilder::sumRegisters(hc::WeightGradOp gradient) {
  auto type = cast<hc::WeightType>(gradient.getType());
  return type.getRows() * mainShape.vector * llvm::divideCeil(type.getColumns(), 8);
}

/// The last sweep that has both the rows of a weight gradient and its coefficients.
const SweepPass *SourceBuilder::sweepOf(hc::WeightGradOp gradient) {
  const SweepPass *last = nullptr;
  llvm::DenseSet<Value> stored;
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
    for (const SweepPass &pass : stagePlan.passes) {
      llvm::SetVector<Value> loads, made;
      plan.loadsOf(pass, stored, loads, made);
      bool has = made.contains(gradient.getInput()) || loads.contains(gradient.getInput());
      if (has && static_cast<int64_t>(stage) >= plan.stageOf(gradient.getCoefficients()))
        last = &pass;
      for (const Store &store : pass.stores)
        if (plan.storesWithoutLoss(store))
          stored.insert(store.value);
    }
  return last;
}

/// Weight gradients whose sums fit the greater part of the registers that sweeps leave need no launch, and no reading
/// of rows, of their own. (With all of them, four streams of 24 columns, nothing is left to hold rows in: 600 us
/// instead of 370 and 135.) One stage of sweeps holds no rows, and leaves more (of four streams of 4096 channels, on an
/// H100, 450 us instead of 498).
llvm::SetVector<Operation *> SourceBuilder::sweepableGradients() {
  const bool alone = sweepingStages() == 1;
  int64_t room = alone ? laneRegisters() - 48 - 8 * mainShape.vector : (laneRegisters() - sweepRegisters()) * 3 / 5;
  llvm::SetVector<Operation *> swept;
  for (Operation *op : plan.columnOps) {
    auto gradient = dyn_cast<hc::WeightGradOp>(op);
    if (!gradient || plan.isUniform(gradient.getCoefficients()) || !sweepOf(gradient) ||
        rounds() * sumRegisters(gradient) >
            room - (planesOf(gradient.getInput()) > 1 ? (alone ? 96 : 8) : 0)) // two planes of a row take some, too
      continue;
    room -= rounds() * sumRegisters(gradient);
    swept.insert(op);
  }
  return swept;
}

LogicalResult SourceBuilder::chooseSweptGradients() {
  if (mainShape.tokens != 1)
    return success(); // a lane's sums are those of 8 tokens at a time
  if (choice.chunks && choice.chunks * mainShape.blocksOfRow() < processorsOfH100)
    return success(); // clusters would be no more than chunks
  llvm::SetVector<Operation *> swept = sweepableGradients();
  // Eight warps have the registers of others, and no part of the processor more to do than of as many as leave none
  // idle.
  if (constexpr int64_t fewer = 8;
      swept.empty() && !choice.warps && mainShape.warps != fewer && blockChannels() > fewer * 4 * mainShape.vector) {
    const ShapeNumbers shape = mainShape;
    const auto numbers = columns;
    mainShape.warps = fewer;
    countWarps();
    swept = sweepableGradients();
    sweptWarps = swept.empty() ? 0 : fewer;
    mainShape = shape;
    columns = numbers;
  }
  if (swept.empty())
    return success();
  plan = KernelPlan(kernel, slots);
  plan.sweptGradients = swept;
  mainShape = {};
  columns = decltype(columns)();
  projection.clear();
  expansion.clear();
  mainSums = 0;
  mainReduces = false;
  if (mlir::failed(plan.run(tiled ? tilesOfPass : 0)))
    return failure();
  return chooseMain();
}
