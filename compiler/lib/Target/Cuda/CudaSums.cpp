//===- CudaSums.cpp - Launches that sum over tokens -----------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// The widest vector that divides the row, is at most 16 bytes of the widest storage, and fits the registers of a lane
/// that keeps `registers` numbers for every channel.
int64_t SourceBuilder::columnVector(int64_t registers) {
  for (int64_t vector = std::max<int64_t>(1, 16 / plan.widestStorage); vector > 1; vector /= 2)
    if (plan.width % vector == 0 && registers * vector * (plan.elementBytes / 4) <= 120)
      return vector;
  return 1;
}

/// The rows that a weight gradient reads from memory, token by token.
static void rowsOf(Value value, KernelPlan &plan, llvm::SetVector<Value> &rows) {
  if (!isa<hc::RowsType>(value.getType()) || plan.isUniform(value) || rows.contains(value))
    return;
  if (plan.memory.memory.count(value)) {
    rows.insert(value);
    return;
  }
  for (Value operand : value.getDefiningOp()->getOperands())
    rowsOf(operand, plan, rows);
}

/// Bytes beside the slots of tiles: barriers and what TokenSums needs, uniform numbers.
static int64_t besideSlots(int64_t uniform) { return 4096 + 4 * llvm::alignTo(uniform, 4); }

/// Of a tile of 16 tokens in shared memory: records, and rows of the block's channels with a gap.
int64_t SourceBuilder::tileBytes(Operation *op, int64_t channels, int64_t vector) {
  llvm::SetVector<Value> read;
  rowsOf(op->getOperand(0), plan, read);
  int64_t rows = 0;
  for (Value value : read)
    rows += cast<hc::RowsType>(value.getType()).getRows();
  return 16 * ((plan.columnSize ? 4 * recordStride(plan.columnSize) : 0) +
               rows * plan.widestStorage * (channels + 4 * vector));
}

/// Whether a weight gradient reads rows, all of the widest numbers: a slot of a tile has one size of them.
bool SourceBuilder::readsOneStorage(Operation *op) {
  llvm::SetVector<Value> read;
  rowsOf(op->getOperand(0), plan, read);
  return !read.empty() && llvm::all_of(read, [&](Value value) {
    return storedBytes(plan.memory.memory.lookup(value)) == plan.widestStorage;
  });
}

void SourceBuilder::emitColumns() {
  // Weight gradients go to tensor cores where they fit, the rest to one lane a channel.
  std::vector<Operation *> tiles, plain;
  const int64_t least = 16 / plan.widestStorage; // channels of a lane
  int64_t uniform = 0;
  for (Value value : plan.columnUniforms)
    uniform += llvm::alignTo(hc::elementCount(value.getType()), 4);
  for (Operation *op : plan.columnOps) {
    auto weight = dyn_cast<hc::WeightType>(op->getResult(0).getType());
    // Rows of 16 tokens at once and the sums of 8 columns: the count is of rows made, of which some are given up before
    // others; eight streams whose coefficients mix all of them (232) do not spill.
    bool fits = weight && !plan.wide() && readsOneStorage(op) && choice.planes != 0 && plan.width % 4 == 0 &&
                weight.getRows() * 4 <= columnRegisters && plan.pressure(op) * 8 + weight.getRows() * 4 <= 240 &&
                tileBytes(op, 4 * least, least) + besideSlots(uniform) <= leastShared;
    (fits ? tiles : plain).push_back(op);
  }
  if (!tiles.empty())
    emitColumnLaunch(tiles, true);
  if (!plain.empty())
    emitColumnLaunch(plain, false);
}

/// Chunks of tokens for a weight gradient that has so many blocks a chunk. A processor of an H100 holds one block at a
/// time, so the last round of blocks should be as full as the others; and each chunk's sums are written and read again,
/// which takes a block as long as `overhead` tokens. For other GPUs that is a guess.
static int64_t chunksOf(int64_t blocks, double overhead) {
  constexpr int64_t held = processorsOfH100, most = 32, tokens = 8192;
  auto cost = [&](int64_t chunks) {
    return double(llvm::divideCeil(blocks * chunks, held) * tokens) / double(chunks) +
           overhead * double(blocks * chunks) / held;
  };
  int64_t best = 1;
  for (int64_t chunks = 2; chunks <= most; ++chunks)
    if (cost(chunks) < cost(best))
      best = chunks;
  return best;
}

void SourceBuilder::emitColumnLaunch(const std::vector<Operation *> &ops, bool onTiles) {
  std::string prefix = onTiles ? "Gradient" : "Columns";
  ShapeNumbers numbers;
  numbers.tokenLanes = 1;
  numbers.tokens = 16; // staged at once
  Places places;
  places.memory = plan.memory.memory;
  std::string uniform = emitUniformRecord(prefix + "Uniform", plan.columnUniforms, places, numbers);
  if (onTiles)
    numbers.uniform = llvm::alignTo(numbers.uniform, 8);
  places.record = plan.columnRecord;
  numbers.record = recordStride(plan.columnSize);
  while (!onTiles && numbers.tokens > 1 && numbers.tokens * numbers.record * plan.elementBytes > 32768)
    numbers.tokens /= 2;
  auto extents = [](Operation *op) -> std::pair<int64_t, int64_t> {
    if (auto weight = dyn_cast<hc::WeightType>(op->getResult(0).getType()))
      return {weight.getRows(), weight.getColumns()};
    return {cast<hc::RowsType>(op->getResult(0).getType()).getRows(), 1};
  };
  int64_t words = plan.elementBytes / 4, vector = onTiles ? 16 / plan.widestStorage : 4;
  for (Operation *op : ops) {
    auto [rows, columns] = extents(op);
    if (onTiles) {
      int64_t sums = std::min<int64_t>(columnRegisters, rows * vector * llvm::divideCeil(columns, 8));
      int64_t most = planesOf(op->getOperand(0)) == 1 ? 200 : 150; // two planes of rows take registers
      if (plan.width % 8 || rows * 8 > columnRegisters || plan.pressure(op) * 2 * 8 + sums > most)
        vector = 4;
    } else {
      vector = std::min(vector, columnVector(plan.pressure(op) + std::min(rows * columns, columnRegisters)));
    }
  }
  numbers.vector = vector;
  int64_t channels = onTiles ? 4 * vector : 32 * vector; // of a warp
  numbers.warps = std::clamp<int64_t>(llvm::PowerOf2Ceil(llvm::divideCeil(plan.width, channels)), 1, 8);
  // On tensor cores, rows of 16 tokens come through shared memory.
  auto slotBytes = [&] {
    int64_t most = 0;
    for (Operation *op : ops)
      most = std::max(most, tileBytes(op, numbers.warps * channels, vector));
    return most;
  };
  int64_t beside = besideSlots(numbers.uniform);
  while (onTiles && numbers.warps > 1 && 2 * slotBytes() + beside > leastShared)
    numbers.warps /= 2;
  // Blocks of 8 columns that a lane sums at once, as many each time. Of two groups of tokens on tensor cores, what one
  // is done with makes room for the other (measured: 0.6 to 0.75 of both). Nine warps have 168 registers, five 255.
  auto tilesAtOnce = [&](hc::WeightGradOp gradient, int64_t warps) {
    auto [rows, columns] = extents(gradient);
    const int64_t each = rows * vector, pressure = plan.pressure(gradient) * vector * 4 / 3,
                  planes = planesOf(gradient.getInput()),
                  room = (warps > 4 ? 165 : 256) - (planes == 2 ? 20 : 0) - pressure;
    const int64_t blocksOf = llvm::divideCeil(columns, 8), most = std::clamp<int64_t>(room / each, 1, blocksOf);
    return int64_t(llvm::divideCeil(blocksOf, llvm::divideCeil(blocksOf, most)));
  };
  // Each time, rows are read and made anew: half the warps, where they sum more at once (seven streams: 2 times
  // instead of 8).
  auto timesOf = [&](int64_t warps) {
    int64_t times = 1;
    for (Operation *op : ops)
      if (auto gradient = dyn_cast<hc::WeightGradOp>(op))
        times = std::max<int64_t>(
            times, llvm::divideCeil(llvm::divideCeil(extents(op).second, 8), tilesAtOnce(gradient, warps)));
    return times;
  };
  if (onTiles && numbers.warps > 4 && timesOf(4) < timesOf(numbers.warps))
    numbers.warps = 4;
  std::string passes;
  int64_t count = 0, blocks = 0;
  double overhead = 0; // of a chunk's sums, in tokens
  auto addPass = [&](StringRef className, int64_t sums, int64_t columns, int64_t repeats, StringRef inputs = "") {
    passes += formatv(",\n      {0}<{1}, {2}, {3}, {4}{5}>", onTiles ? "TilePass" : "ColumnPass", className, sums,
                      columns, repeats, inputs)
                  .str();
    blocks += repeats;
  };
  for (Operation *op : ops) {
    auto [rows, columns] = extents(op);
    auto gradient = dyn_cast<hc::WeightGradOp>(op);
    std::string reference = plan.memory.memory.lookup(op->getResult(0));
    bool weight = isa<hc::WeightType>(op->getResult(0).getType());
    if (weight) {
      // One body for all blocks of columns: its first column is blockIdx.z's.
      int64_t extent = onTiles ? llvm::divideCeil(columns, 8) : columns;
      int64_t each = rows * vector * words, room = std::min(columnRegisters, 232 - plan.pressure(op) * vector);
      int64_t per =
          onTiles ? tilesAtOnce(gradient, numbers.warps) : std::clamp<int64_t>(std::max(room, each) / each, 1, extent);
      std::string className = formatv("{0}{1}", prefix, count++);
      Places own = places;
      std::string inputs;
      if (onTiles) {
        int64_t index = 0;
        llvm::SetVector<Value> read;
        rowsOf(op->getOperand(0), plan, read);
        for (Value value : read) {
          std::string &place = own.memory[value];
          place = formatv("Fetched<{0}, {1}, {2}>", place, index, numbers.warps * channels + 4 * vector);
          int64_t valueRows = cast<hc::RowsType>(value.getType()).getRows();
          inputs += formatv(", Input<{0}, {1}>", place, valueRows).str();
          index += valueRows;
        }
        overhead = std::max(overhead, double(4 * rows * columns) / double(std::max<int64_t>(index, 1)));
      }
      BodyEmitter emitter = body(className, BodyEmitter::Kind::Rows, own);
      if (onTiles) {
        emitter.sumTiles(gradient, per);
        emitter.storeTiles(reference, gradient, per);
      } else {
        emitter.sumOuter(gradient, per);
        emitter.storeOuter(reference, gradient, per);
      }
      close(emitter);
      addPass(className, onTiles ? per * rows * vector / 4 : per * vector * rows, onTiles ? 8 * per : per,
              llvm::divideCeil(extent, per), inputs);
      continue;
    }
    int64_t per = std::max<int64_t>(1, columnRegisters / (vector * words));
    for (int64_t begin = 0; begin < rows; begin += per) {
      int64_t size = std::min(per, rows - begin);
      std::string className = formatv("{0}{1}", prefix, count++);
      BodyEmitter emitter = body(className, BodyEmitter::Kind::Rows, places);
      emitter.sumRows(op->getOperand(0), begin, size);
      emitter.storeSums(reference, begin, size);
      close(emitter);
      addPass(className, size * vector, 0, 1);
    }
  }
  if (onTiles && !choice.chunks && plan.sweptGradients.empty())
    result.maxChunks = chunksOf(llvm::divideCeil(plan.width, numbers.warps * channels) * blocks, overhead);
  // Slots of tiles take what room there is, and are planned for two sizes of it; else it is a limit alone.
  const int64_t most = Generation(target).shared, room = !onTiles || most == mostShared ? most : leastShared;
  int64_t shared = numbers.tokens * numbers.record + numbers.warps * numbers.scratch;
  std::string skeleton = formatv("columns<{0}, {1}", shape(numbers), uniform);
  std::string records = formatv("{0}, {1}", perTokenReference(plan.columnOffset), plan.columnSize);
  if (onTiles) {
    int64_t tileSlots = std::clamp<int64_t>((room - beside) / slotBytes(), 1, 4);
    shared = std::max<int64_t>(shared, (tileSlots * slotBytes() + llvm::alignTo(16 * tileSlots, 32)) / 4);
    skeleton = formatv("columnTiles<{0}, {1}", shape(numbers), uniform);
    records += formatv(", {0}, {1}", tileSlots, takeSums()).str();
  }
  shared += llvm::alignTo(numbers.uniform, 4);
  if (shared * plan.elementBytes > room) {
    hc::refuseBeyondLimits(kernel) << "sums over tokens need " << shared * plan.elementBytes
                                   << " bytes of shared memory; a block has " << room;
    failed = true;
  }
  entry(
      onTiles ? "gradients" : "columns", formatv("{0}, {1}{2}>", skeleton, records, passes).str(),
      32 * (numbers.warps + (onTiles ? 1 : 0)), 1,
      json::Object{
          {"grid", json::Object{{"kind", "columns"}, {"extent", plan.width}, {"per_block", numbers.warps * channels}}},
          {"grid_y", "chunks"},
          {"grid_z", blocks},
          {"shared_bytes", shared * plan.elementBytes}});
}

std::string SourceBuilder::takeSums() {
  if (!plan.sumCount || sumsTaken)
    return "Nothing";
  sumsTaken = true;
  return formatv("TokenSums<{0}, Space::PerChunk<{1}>, {2}>", perTokenReference(plan.sumOffset), plan.chunkSumOffset,
                 plan.sumCount);
}

void SourceBuilder::emitSums() {
  if (std::string sums = takeSums(); sums != "Nothing")
    entry("sums", formatv("tokenSums<{0}, {1}>", number(), sums).str(), 256, 1,
          json::Object{{"grid", json::Object{{"kind", "fixed"}, {"blocks", llvm::divideCeil(plan.sumCount, 4)}}},
                       {"grid_y", "chunks"}});
}
