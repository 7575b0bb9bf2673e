//===- CudaColumns.cpp - Plans of the skeleton clusterColumns -------------===//
// SPDX-License-Identifier: Apache-2.0
//
// What goes where in shared memory: rows of a tile in slots of a ring, the
// CTA's part of packed weights, records, sums. templates/hyperjit/
// cluster_columns.cuh checks the total when it is compiled.
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// As in the skeleton.
static constexpr int64_t mostRings = 4;
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
  bool known = target.starts_with("sm_9") || target.starts_with("sm_10");
  if (!known ||
      !target.split('/').first.ends_with("a")) // moving registers between warps is specific to an architecture
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
  // A token's maths takes about as long as the sweeps over some hundred channels of a tile: narrow rows need more warps for it.
  // Beside an expansion of three streams and more the registers of one warp less count for more (an H100, 2048 channels: three streams 230
  // us instead of 270, four 333 instead of 348; two 159 instead of 148), but for eight channels a lane of rows that clusters share.
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

/// Every CTA of a cluster needs the first record of every token. Where its numbers lie in operands as they will in the record, they are
/// copied; where they are more than moved, they are made once, in the head, and copied.
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
  int64_t begin = plan.recordSize, end = 0;
  for (Value value : first.recordWrites) {
    int64_t place = plan.record.lookup(value);
    begin = std::min(begin, place);
    end = std::max(end, place + static_cast<int64_t>(llvm::alignTo(hc::elementCount(value.getType()), 4)));
  }
  int64_t offset = plan.tokenBytes;
  columns.image.push_back({formatv("Space::PerToken<{0}>", offset), 0, begin, end - begin, 4});
  plan.tokenBytes += llvm::alignTo((end - begin) * 4, 16);
  for (Value value : first.recordWrites)
    plan.head.push_back({value, formatv("Space::PerToken<{0}>", offset + 4 * (plan.record.lookup(value) - begin))});
  plan.head.insert(plan.head.end(), first.stores.begin(), first.stores.end());
  first.stores.clear();
}

/// The row operands that a pass loads, if `stored` are in the slot or in memory already, and the rows that it makes, results first.
static void loadsOf(const SweepPass &pass, const llvm::DenseSet<Value> &stored, hc::Uniformity &uniformity,
                    llvm::SetVector<Value> &loads, llvm::SetVector<Value> &made) {
  llvm::DenseSet<Value> seen;
  std::function<void(Value)> walk = [&](Value value) {
    if (!isa<hc::RowsType>(value.getType()) || uniformity.isUniform(value) || !seen.insert(value).second)
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
  hc::Uniformity uniformity;
  const SweepPass *last = nullptr;
  llvm::DenseSet<Value> stored;
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
    for (const SweepPass &pass : stagePlan.passes) {
      llvm::SetVector<Value> loads, made;
      loadsOf(pass, stored, uniformity, loads, made);
      bool has = made.contains(gradient.getInput()) || loads.contains(gradient.getInput());
      if (has && static_cast<int64_t>(stage) >= plan.stageOf(gradient.getCoefficients()))
        last = &pass;
      for (const Store &store : pass.stores)
        if (plan.storesWithoutLoss(store))
          stored.insert(store.value);
    }
  return last;
}

/// Weight gradients whose sums fit the greater part of the registers that sweeps leave need no launch, and no reading of rows, of their
/// own. (With all of them, four streams of 24 columns, nothing is left to hold rows in: 600 us instead of 370 and 135.) One stage of sweeps
/// holds no rows, and leaves more (of four streams of 4096 channels, on an H100, 450 us instead of 498).
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
  // Eight warps have the registers of others, and no part of the processor more to do than of as many as leave none idle.
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

namespace {
/// Rows of a token in shared memory.
struct SlotEntry {
  Value value;
  std::string reference; ///< in global memory
  int64_t first, last;   ///< stages that touch it
  int64_t position;      ///< the last pass that loads it
  int64_t rows, bytes;   ///< bytes of a token
  bool loaded;           ///< by a loader, else stored by a sweep
};
} // namespace

/// Gives rows their places in the slots of rings, or in registers, and weights theirs behind the barriers.
LogicalResult SourceBuilder::planColumns(Places &places) {
  int64_t channels = plan.width / mainShape.blocksOfRow(), chunks = channels / (4 * mainShape.vector);
  hc::Uniformity uniformity;
  auto rowsOf = [](Value value) { return cast<hc::RowsType>(value.getType()).getRows(); };
  auto bytesOf = [&](Value value, StringRef reference) { return rowsOf(value) * channels * storedBytes(reference); };
  // In the order of passes: what each loads, and when a value is loaded for the last time.
  struct Use {
    int64_t first, last, position, ofFirst; ///< stages; the last pass of all, and of the first stage
  };
  llvm::MapVector<Value, Use> uses;
  struct Stored {
    int64_t stage, position;
    std::string reference;
  };
  llvm::DenseMap<Value, Stored> storedAt;
  llvm::DenseSet<Value> stored;
  struct Pass {
    const SweepPass *pass;
    int64_t stage;
    llvm::SetVector<Value> made;
  };
  std::vector<Pass> passes;
  int64_t position = 0;
  columns.stages = 0;
  for (const StagePlan &stagePlan : plan.stagePlans) {
    for (const SweepPass &pass : stagePlan.passes) {
      llvm::SetVector<Value> loads;
      passes.push_back({&pass, columns.stages, {}});
      loadsOf(pass, stored, uniformity, loads, passes.back().made);
      for (Value value : loads) {
        auto [use, isNew] = uses.insert({value, {columns.stages, columns.stages, position, position}});
        use->second.last = columns.stages;
        use->second.position = position;
        if (use->second.first == columns.stages)
          use->second.ofFirst = position;
      }
      for (const Store &store : pass.stores)
        if (plan.storesWithoutLoss(store)) {
          stored.insert(store.value);
          storedAt.try_emplace(store.value, Stored{columns.stages, position, store.reference});
        }
      ++position;
    }
    columns.stages += !isEmpty(stagePlan);
  }
  // What a sweep works on takes some hundred, an expansion more; the rest may hold rows from stage to stage.
  int64_t heldRegisters = laneRegisters() - sweepRegisters();
  for (Operation *op : plan.sweptGradients)
    heldRegisters -= rounds() * sumRegisters(cast<hc::WeightGradOp>(op));
  // Two tiles between stages where registers hold the rows of both. What several clusters tell each other is on its way for longer (us of
  // a boundary, an H100: four streams of 7168 channels forward 731 with one, 563 with two, 524 with three; backward 1169 with one, 1125
  // with two, three of 6144 715 and 635).
  columns.lag = choice.lag                        ? choice.lag
                : mainShape.parts > 1             ? (expands() || columns.stages > 2 ? 2 : 3)
                : columns.stages > 2 || expands() ? 1
                : laneRegisters() > 128           ? 2
                                                  : 1;
  if (expands() && columns.lag > 1) // with no room at all four streams spilled
    heldRegisters -= 8;

  // Rows that the next stage reads again stay in the lane that owns them, if it is the same and registers are left.
  auto inPairs = [&](Value value, StringRef reference) {
    return bytesOf(value, reference) == rowsOf(value) * channels * 2;
  };
  auto hold = [&](Value value, StringRef reference, bool pairs, int64_t from, int64_t first, int64_t last) {
    int64_t words = mainShape.tokens * rowsOf(value) * mainShape.vector / 2;
    if (!pairs || chunks != mainShape.warps || first != from + 1 || last != first ||
        (columns.heldWords > 0 && columns.heldFrom != from) ||
        (columns.heldWords + words) * (columns.lag + 1) > heldRegisters)
      return std::string();
    std::string place = formatv("Held<{0}, {1}>", reference, columns.heldWords);
    columns.heldFrom = from;
    columns.heldWords += words;
    return place;
  };
  std::vector<SlotEntry> entries;
  for (auto &[value, use] : uses)
    if (!value.getDefiningOp()) {
      std::string reference = plan.memory.memory.lookup(value);
      std::string place = use.last > use.first
                              ? hold(value, reference, inPairs(value, reference), use.first, use.first + 1, use.last)
                              : "";
      int64_t last = use.last, at = use.position;
      if (!place.empty()) {
        last = use.first;
        at = use.ofFirst; // all passes of the stage read the slot
        columns.held.push_back({value, place, passes[at].pass});
      }
      entries.push_back({value, reference, use.first, last, at, rowsOf(value), bytesOf(value, reference), true});
    }
  // A stored value: the entry whose place it takes. Numbers of one size: a lane writes where it has read, and nowhere else.
  llvm::DenseMap<Value, size_t> replaced;
  for (auto &[value, use] : uses) {
    if (!value.getDefiningOp())
      continue;
    const Stored &store = storedAt.find(value)->second;
    if (std::string place =
            hold(value, store.reference, inPairs(value, store.reference), store.stage, use.first, use.last);
        !place.empty()) {
      columns.kept[value] = place;
      continue;
    }
    int64_t bytes = bytesOf(value, store.reference);
    auto taken = [&](size_t i) { return llvm::any_of(replaced, [&](auto &pair) { return pair.second == i; }); };
    for (size_t i = 0; i < entries.size() && !replaced.count(value); ++i)
      if (entries[i].loaded && entries[i].position <= store.position && entries[i].first <= store.stage &&
          entries[i].bytes == bytes && storedBytes(entries[i].reference) == storedBytes(store.reference) && !taken(i)) {
        replaced[value] = i;
        entries[i].last = std::max(entries[i].last, use.last);
      }
    if (!replaced.count(value)) {
      replaced[value] = entries.size();
      entries.push_back({value, store.reference, store.stage, use.last, use.position, rowsOf(value), bytes, false});
    }
  }

  // So do rounded rows that it would make again.
  for (const Pass &next : passes)
    for (const Pass &pass : passes) {
      if (pass.stage + 1 != next.stage)
        continue;
      for (Value value : next.made) {
        auto round = value.getDefiningOp<hc::RoundOp>();
        bool later = llvm::any_of(
            passes, [&](const Pass &other) { return other.stage > next.stage && other.made.contains(value); });
        if (!round || !round.getInput().getDefiningOp() || !pass.made.contains(value) || later ||
            columns.kept.count(value) ||
            llvm::any_of(columns.held, [&](const auto &held) { return held.value == value; }))
          continue;
        StringRef storage = storageName(*round.getType());
        std::string reference = formatv("Rounded<{0}>", storage);
        if (std::string place = hold(value, reference, storage.ends_with("16"), pass.stage, next.stage, next.stage);
            !place.empty())
          columns.held.push_back({value, place, pass.pass});
      }
    }

  // Rows that the same stages touch share a ring.
  for (SlotEntry &entry : entries) {
    auto found = llvm::find_if(columns.rings,
                               [&](const auto &ring) { return ring.first == entry.first && ring.last == entry.last; });
    if (found == columns.rings.end())
      found =
          columns.rings.insert(columns.rings.end(), {entry.first, entry.last, 0, 0, "", chunks == mainShape.warps, {}});
    std::string place = formatv("Staged<{0}, {1}, {2}, {3}>", entry.reference, found - columns.rings.begin(),
                                found->tokenBytes, channels);
    found->tokenBytes += entry.bytes;
    if (entry.loaded) {
      places.memory[entry.value] = place;
      found->inputs += formatv(", Input<{0}, {1}>", place, entry.rows).str();
    }
    // Lanes that see one chunk of channels have a slot's rows in registers long before they are done with them.
    found->early &= entry.loaded && (!found->by.first || found->by.first == passes[entry.position].pass);
    found->by.first = passes[entry.position].pass;
    found->by.second.push_back(entry.value);
    for (auto &[value, index] : replaced)
      if (index == static_cast<size_t>(&entry - entries.data())) {
        auto [reference, rest] = StringRef(place).split(entry.reference);
        columns.kept[value] = formatv("{0}{1}{2}", reference, storedAt.find(value)->second.reference, rest);
        found->early = false; // rows are stored there
      }
  }
  if (columns.rings.size() > mostRings)
    return kernel.emitError() << "schedule: columns has " << columns.rings.size() << " rings of rows, and takes "
                              << mostRings;
  // The lanes of a token read so much at once; neighbouring tokens hit other banks.
  int64_t piece = 4 * mainShape.vector * plan.widestStorage;
  for (auto &ring : columns.rings)
    ring.tokenBytes = (llvm::alignTo(ring.tokenBytes, piece) / piece | 1) * piece;

  auto stage = [&](const llvm::DenseMap<Value, std::string> &packed, llvm::SetVector<Value> &order, bool expands,
                   llvm::DenseMap<Value, std::string> &target) {
    for (Value weight : order) {
      auto found = packed.find(weight);
      if (found == packed.end())
        continue;
      auto type = cast<hc::WeightType>(weight.getType());
      target[weight] = formatv("StagedPlanes<{0}, {1}, {2}>", found->second, columns.weightBytes, chunks);
      if (columns.packed.contains(weight))
        columns.packs.push_back({weight, target[weight]});
      else
        columns.weights += (columns.weights.empty() ? "" : ", ") + target[weight];
      columns.weightBytes += type.getRows() * chunks * planesOfChunk(type, expands);
    }
  };
  stage(projection, plan.projected, false, places.projection);
  stage(expansion, plan.expanded, true, places.expansion);
  return success();
}

/// The entries of the record that sweeps of a stage, or later ones, wait for; the owner sends them.
std::pair<int64_t, int64_t> SourceBuilder::publishedRange(int64_t stage) {
  int64_t first = plan.recordSize, end = 0;
  auto include = [&](Value value) {
    int64_t offset = plan.record.lookup(value), size = hc::elementCount(value.getType());
    first = std::min(first, offset);
    end = std::max(end, offset + size);
  };
  for (Value value : plan.stagePlans[stage].recordWrites)
    include(value);
  for (Value value : plan.sweptSums)
    if (plan.stageOf(value) == stage)
      include(value);
  if (first >= end)
    return {0, 0};
  first = first / 4 * 4;
  return {first, llvm::alignTo(end - first, 4)};
}

LogicalResult SourceBuilder::finishColumns(llvm::ArrayRef<StringRef> stages, llvm::ArrayRef<int64_t> sums,
                                           llvm::ArrayRef<int64_t> published, StringRef uniform) {
  const ShapeNumbers &numbers = mainShape;
  int64_t tile = numbers.tokenLanes * numbers.tokens, count = stages.size(), cluster = numbers.cluster,
          lag = columns.lag;
  // Blocks wait for each other's sums by the records of stage 1.
  if (count < 2 || published[1] == 0)
    return kernel.emitError() << "schedule: columns is for kernels whose first sweeps make sums; 'rows' takes others";
  int64_t owners = columns.owners, preparers = columns.preparers;
  int64_t owned = llvm::divideCeil(tile, cluster);
  int64_t records = lag * (count - 1) + (columns.late ? 4 : 3);
  auto &rings = columns.rings;
  // What its stages hold, and a tile to fetch meanwhile.
  for (auto &ring : rings)
    ring.slots = lag * (ring.last - ring.first) + 1;
  auto shared = [&] {
    int64_t slots = 0, ringBytes = 0;
    for (auto &ring : rings) {
      slots += ring.slots;
      ringBytes += ring.slots * ring.tokenBytes;
    }
    int64_t bytes = llvm::alignTo(8 * (2 * slots + 2 * records + 1 + count * (2 * records + 4)), 16);
    bytes += llvm::alignTo(4 * numbers.uniform, 16) + columns.weightBytes;
    bytes += tile * (ringBytes + records * numbers.record * 4);
    int64_t depth = llvm::divideCeil(records, std::max<int64_t>(1, cluster / tile));
    for (int64_t stageSums : sums)
      bytes += llvm::alignTo(stageSums, 4) * 4 * (2 * numbers.warps * tile + depth * cluster * owned);
    return bytes + 4 * (numbers.scratch * (owners + preparers) + columns.fetched * owners);
  };
  // Tokens may wait for their late maths; where there is no room, sweeps wait for it.
  while (shared() > mostShared && records > lag * (count - 1) + 1)
    --records;
  if (shared() > mostShared)
    return kernel.emitError() << "schedule: columns needs " << shared()
                              << " bytes of shared memory with cluster=" << cluster << ",lag=" << lag
                              << ",tokens=" << tile << "; a block has " << mostShared;
  // The rest is for rows on their way, in turn, where they have the fewest sweeps' time: a slot that the last stage gives back is filled
  // for the first stage of a tile `ahead` later.
  int64_t most = choice.ring ? choice.ring : 6;
  auto ahead = [&](auto &ring) { return ring.slots - lag * (ring.last - ring.first); };
  auto sweeps = [&](auto &ring) { return ahead(ring) * sweepingStages() - (ring.last - ring.first); };
  for (auto &ring : rings)
    if (int64_t all = records; sweeps(ring) < 2) { // else memory is waited for
      ++ring.slots;
      while (shared() > mostShared && records > lag * (count - 1) + 2)
        --records;
      if (shared() > mostShared)
        --ring.slots, records = all;
    }
  for (bool more = true; more;) {
    more = false;
    SmallVector<size_t> order = llvm::to_vector(llvm::seq<size_t>(0, rings.size()));
    llvm::stable_sort(order, [&](size_t a, size_t b) { return sweeps(rings[a]) < sweeps(rings[b]); });
    for (size_t i : order) {
      if (ahead(rings[i]) >= most)
        continue;
      ++rings[i].slots;
      if ((more = shared() <= mostShared))
        break;
      --rings[i].slots;
    }
  }
  std::string ringText;
  int64_t fewest = most;
  for (auto &ring : rings) {
    ringText += formatv("{0}Ring<{1}, {2}, {3}, {4}, {5}{6}>", ringText.empty() ? "" : ", ", ring.slots, ring.first,
                        ring.last, ring.early, ring.tokenBytes, ring.inputs)
                    .str();
    fewest = std::min(fewest, ahead(ring));
  }
  StringRef pack = "Nothing";
  if (!columns.packs.empty()) {
    Places places;
    places.memory = plan.memory.memory;
    pack = "Weights";
    BodyEmitter emitter = body(pack, BodyEmitter::Kind::Wide, places);
    for (auto &[weight, place] : columns.packs)
      emitter.pack(weight, place, numbers.vector);
    close(emitter);
  }
  int64_t tiles = 0;
  for (Operation *op : plan.sweptGradients)
    tiles += sumRegisters(cast<hc::WeightGradOp>(op)) / 4;
  if (tiles != columns.gradientTiles)
    return kernel.emitError("no sweep has the rows of a weight gradient that was to be summed by one");
  std::string exchange;
  if (numbers.parts > 1) {
    int64_t words = 0;
    for (int64_t stageSums : sums)
      words += numbers.parts * llvm::alignTo(stageSums, 4);
    int64_t offset = llvm::alignTo(plan.tokenBytes, 16);
    plan.tokenBytes = offset + 8 * words;
    exchange = formatv(", Exchange<{0}, Space::PerToken<{1}>>", numbers.parts, offset);
    constexpr int64_t threads = 256;
    int64_t tokens = llvm::divideCeil(4 * threads, words / 2); // of a block
    entry("clear", formatv("clearWords<Space::PerToken<{0}>, {1}>", offset, words / 2).str(), threads, 1,
          json::Object{{"grid", json::Object{{"kind", "tokens"}, {"tokens_per_block", tokens}}}});
  }
  std::string image;
  for (const RecordCopy &copy : columns.image)
    image += formatv("{0}RecordCopy<{1}, {2}, {3}, {4}, {5}>", image.empty() ? "" : ", ", copy.reference, copy.skip,
                     copy.first, copy.count, copy.unit())
                 .str();
  add(formatv("using Main = {0};", shape(numbers)).str());
  add(formatv("using MainFlow = Flow<{0}, {1}, {2}, {9}, {12}, {10}, {3}, {4}, {5}, {6}, List<{7}>, List<{8}>, {11}, "
              "{13}, {15}{14}>;",
              lag, records, preparers, columns.heldFrom, columns.heldWords, columns.weightBytes, shared(), ringText,
              columns.weights, owners, image.empty() ? "Nothing" : "List<" + image + ">", pack, columns.fetched,
              columns.gradientTiles ? formatv("Gradients<{0}{1}>", columns.gradientTiles, columns.gradientSweeps).str()
                                    : "Nothing",
              exchange, columns.ends == "Nothing" || !few ? columns.ends : "AtOnce<" + columns.ends + ">")
          .str());
  std::string call = formatv("clusterColumns<Main, MainFlow, {0}", uniform);
  for (StringRef stage : stages)
    call += formatv(",\n      {0}", stage).str();
  call += ">";
  json::Object launch{{"shared_bytes", shared()}};
  launch["grid"] = json::Object{{"kind", "persistent"}, {"per_sm", 1}};
  launch["tokens_per_block"] = tile;
  if (numbers.parts > 1)
    launch["parts"] = numbers.parts, launch["overlaps"] = false; // all of its clusters must be there at once
  if (columns.gradientTiles) {                                   // a cluster's sums are a chunk's
    launch["clusters_are_chunks"] = true;
    if (!choice.chunks)
      result.maxChunks = llvm::divideCeil(processorsOfH100, numbers.blocksOfRow()); // of other GPUs a guess
  }
  int64_t helpers = 2 + owners + preparers;
  if (numbers.warps + helpers > 32)
    return kernel.emitError() << "schedule: columns has " << numbers.warps + helpers
                              << " warps in a block, and 32 is the most";
  entry("main", call, 32 * (numbers.warps + helpers), 1, std::move(launch), cluster);
  used = choice;
  used.columns = true, used.cluster = cluster, used.parts = numbers.parts, used.lag = lag, used.ring = most;
  used.preparers = !columns.image.empty() ? -1 : preparers;
  used.planes = tiled ? 2 : choice.planes == 0 ? 0 : -1;
  used.slots = slots, used.tokens = tile, used.vector = numbers.vector, used.warps = numbers.warps;
  columns.ahead = fewest;
  return success();
}
