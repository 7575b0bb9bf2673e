//===- CudaSource.cpp - A kernel as CUDA C++ ------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Target/CudaSource.h"
#include "CudaPlan.h"

#include "mlir/Dialect/EmitC/IR/EmitC.h"
#include "mlir/Target/Cpp/CppEmitter.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::formatv;
using llvm::StringRef;
namespace json = llvm::json;

namespace {

/// The numbers of a schedule; 0 where "auto" leaves the choice to the cost rules.
struct Choice {
  int64_t vector = 0, tokens = 0, warps = 0, slots = 0, blocks = 0, chunks = 0, cluster = 0, planes = -1;
};

/// Template arguments of Shape.
struct ShapeNumbers {
  int64_t warps = 8, tokenLanes = 8, tokens = 1, vector = 1, record = 4, uniform = 0, scratch = 0, cluster = 1;
};

/// Tiles of 8 coefficients that one sweep accumulates on tensor cores.
constexpr int64_t tilesOfPass = 12;
/// Registers of a lane for sums over tokens.
constexpr int64_t columnRegisters = 96;

LogicalResult parseSchedule(hc::FuncOp kernel, StringRef text, Choice &choice) {
  if (text.empty() || text == "auto")
    return success();
  auto [skeleton, numbers] = text.split(':');
  if (skeleton != "rows")
    return kernel.emitError() << "schedule '" << text << "' names the skeleton '" << skeleton
                              << "'; CUDA kernels have 'rows'";
  struct Row {
    StringRef name;
    int64_t *value;
    int64_t least, most;
    bool power;
  } table[] = {{"blocks", &choice.blocks, 1, 8, false},  {"chunks", &choice.chunks, 1, 256, false},
               {"cluster", &choice.cluster, 1, 16, true}, {"planes", &choice.planes, 0, 2, false},
               {"slots", &choice.slots, 32, 96, false},  {"tokens", &choice.tokens, 1, 16, true},
               {"vector", &choice.vector, 1, 8, true},   {"warps", &choice.warps, 1, 16, false}};
  while (!numbers.empty()) {
    auto [pair, rest] = numbers.split(',');
    numbers = rest;
    auto [name, digits] = pair.split('=');
    auto *row = llvm::find_if(table, [&](const Row &row) { return row.name == name; });
    int64_t value;
    if (row == std::end(table) || digits.getAsInteger(10, value))
      return kernel.emitError() << "schedule '" << text << "': '" << pair
                                << "' is no number of 'rows'; it takes blocks, chunks, cluster, planes, slots, tokens, vector, "
                                   "warps";
    if (value < row->least || value > row->most || (row->power && !llvm::isPowerOf2_64(value)))
      return kernel.emitError() << "schedule '" << text << "': " << name << " is " << value << "; legal are "
                                << row->least << " to " << row->most
                                << (row->power ? ", powers of two" : "");
    *row->value = value;
  }
  return success();
}

/// Sums that one sweep makes at most: few keep registers free, but hundreds of sums in small portions are as many sweeps.
int64_t slotsOf(hc::FuncOp kernel) {
  int64_t sums = 0;
  hc::Uniformity uniformity;
  for (Operation &op : kernel.getEntry().without_terminator())
    if (isReduction(&op) && !uniformity.isUniform(op.getResult(0)))
      sums += hc::elementCount(op.getResult(0).getType());
  return sums > 384 ? 96 : 32;
}

class SourceBuilder {
public:
  SourceBuilder(hc::FuncOp kernel, StringRef target, const Choice &choice, CudaSource &result)
      : kernel(kernel), target(target), choice(choice), result(result), slots(choice.slots ? choice.slots : slotsOf(kernel)),
        plan(kernel, slots) {}

  OwningOpRef<ModuleOp> run() {
    KernelPlan probe(kernel, 32);
    if (mlir::failed(probe.run(0)))
      return nullptr;
    bool fits = probe.wantsTiles();
    int64_t probed = 0; // registers of rows at four channels, the least that mma takes
    for (auto [stage, stagePlan] : llvm::enumerate(probe.stagePlans))
      for (const SweepPass &pass : stagePlan.passes)
        probed = std::max(probed, probe.pressure(pass, stage) * 4 + pass.slots);
    for (Value weight : probe.expanded)
      probed += cast<hc::WeightType>(weight.getType()).getColumns() / 4;
    tiled = choice.planes < 0 ? fits && probed <= 150 : choice.planes > 0;
    if (tiled && !fits) {
      kernel.emitError() << "schedule: planes needs 16-bit streams, a row width that is a multiple of 4, and a weight";
      return nullptr;
    }
    if (mlir::failed(plan.run(tiled ? tilesOfPass : 0)))
      return nullptr;
    if (plan.hasMain() && mlir::failed(chooseMain()))
      return nullptr;
    name = kernel.getSymName().str();
    module = ModuleOp::create(kernel.getLoc());
    result.blockTokens = 8;
    result.maxChunks = choice.chunks ? choice.chunks : plan.columnOps.empty() ? 32 : 16;
    emitUniform(plan.prologueStores, "prologue");
    emitTokenwise(plan.head, "head", /*ofTail=*/false);
    if (plan.hasMain())
      emitMain();
    emitTokenwise(plan.tail, "tail", /*ofTail=*/true);
    emitColumns();
    emitSums();
    emitUniform(plan.epilogueStores, "epilogue");
    emitHeader();
    if (failed)
      return nullptr;
    result.workspaceFixed = llvm::alignTo(plan.fixedBytes, 256);
    result.workspacePerChunk = llvm::alignTo(plan.chunkBytes, 256);
    result.workspacePerToken = plan.tokenBytes;
    if (result.schedule.empty())
      result.schedule = "rows";
    return std::move(module);
  }

private:
  StringRef number() const { return plan.wide() ? "double" : "float"; }

  void add(StringRef text) {
    OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
    emitc::VerbatimOp::create(builder, kernel.getLoc(), text);
  }

  BodyEmitter body(StringRef className, BodyEmitter::Kind kind, const Places &places) {
    return BodyEmitter(*module, className, kind, places, tables);
  }
  void close(BodyEmitter &emitter) { failed |= mlir::failed(emitter.finish()); }

  std::string shape(const ShapeNumbers &s) {
    return formatv("Shape<{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}{9}>", number(), plan.width, s.warps,
                   s.tokenLanes, s.tokens, s.vector, s.record, s.uniform, s.scratch,
                   s.cluster > 1 ? ", " + std::to_string(s.cluster) : "");
  }

  /// The entry and its launch. `call` is the skeleton with its template arguments.
  void entry(StringRef suffix, StringRef call, int64_t threads, int64_t minBlocks, json::Object launch,
             int64_t cluster = 1) {
    std::string entryName = name + "_" + suffix.str();
    size_t operands = kernel.getNumArguments() + kernel.getNumResults();
    std::string bounds = formatv(minBlocks > 1 ? "{0}, HYPERJIT_BLOCKS({1})" : "{0}, {1}", threads, minBlocks);
    add(formatv("extern \"C\" __global__ void __launch_bounds__({0}) {1}(const __grid_constant__ Launch<{2}> "
                "launch) {{\n  {3}(launch);\n}",
                bounds, entryName, operands, call)
            .str());
    launch["entry"] = entryName;
    launch["block"] = threads;
    launch["cluster"] = cluster;
    launch.try_emplace("shared_bytes", 0);
    result.launches.push_back(std::move(launch));
  }

  void emitHeader();
  void emitUniform(const std::vector<Store> &stores, StringRef phase);
  void emitTokenwise(const std::vector<Store> &stores, StringRef phase, bool ofTail);
  void emitMain();
  void emitColumns();
  void emitColumnLaunch(const std::vector<Operation *> &ops, bool onTiles);
  void emitSums();
  LogicalResult chooseMain();
  void placePlanes();
  int64_t chooseVector(int64_t pressure, int64_t extra, int64_t budget, bool ofMain = true);
  ShapeNumbers tileShape(int64_t vector);
  /// The body that copies uniform coefficients to shared memory; returns its class name and fills the offsets.
  std::string emitUniformRecord(StringRef className, llvm::ArrayRef<Value> values, Places &places, ShapeNumbers &shape);

  hc::FuncOp kernel;
  StringRef target;
  const Choice &choice;
  CudaSource &result;
  int64_t slots; ///< sums of one sweep at most
  KernelPlan plan;
  std::string name;
  bool tiled = false;
  ShapeNumbers mainShape;
  int64_t minBlocks = 1, mainSums = 0;
  llvm::DenseMap<Value, std::string> projection, expansion;
  OwningOpRef<ModuleOp> module;
  SmallVector<std::string> tables;
  bool failed = false;
};

void SourceBuilder::emitHeader() {
  OpBuilder builder = OpBuilder::atBlockBegin(module->getBody());
  auto top = [&](StringRef text) { emitc::VerbatimOp::create(builder, kernel.getLoc(), text); };
  top(formatv("// {0} for {1}", name, target).str());
  // Headers of templates/, in memory.
  for (StringRef header : {"gradients", "row_reduced", "token_sums", "uniform"})
    top(formatv("#include \"hyperjit/{0}.cuh\"", header).str());
  top("using namespace hyperjit;");
  top(formatv("using Space = Workspace<{0}, {1}, {2}, {3}>;", number(), llvm::alignTo(plan.fixedBytes, 256),
              llvm::alignTo(plan.chunkBytes, 256), plan.tokenBytes)
          .str());
  for (auto [i, table] : llvm::enumerate(tables))
    top(formatv("__constant__ double table{0}[] = {{{1}};", i, table).str());
}

//===----------------------------------------------------------------------===//
// Uniform work, level by level
//===----------------------------------------------------------------------===//

/// Even levels are wide launches (rows, weights, sums over channels), odd ones are one warp's coefficient maths.
void SourceBuilder::emitUniform(const std::vector<Store> &stores, StringRef phase) {
  if (stores.empty())
    return;
  // What later launches read from the workspace is not there yet.
  llvm::DenseSet<Value> targets;
  for (const Store &store : stores)
    if (store.value.getDefiningOp() && !isa<hc::TokenSumOp, hc::WeightGradOp>(store.value.getDefiningOp()))
      targets.insert(store.value);
  llvm::DenseMap<Value, std::string> there, placed;
  for (auto &[value, reference] : plan.memory.memory) {
    if (!plan.isUniform(value))
      continue;
    (targets.contains(value) ? placed : there)[value] = reference;
  }
  llvm::DenseMap<Value, int64_t> levels; // where the value is computed
  auto isWide = [](Value value) { return !isa<hc::CoeffsType>(value.getType()); };
  llvm::MapVector<int64_t, std::vector<Store>> byLevel;
  llvm::DenseSet<Value> stored;
  std::function<int64_t(Value)> levelOf;
  auto storeAt = [&](Value value) {
    if (there.count(value) || !stored.insert(value).second)
      return;
    if (!placed.count(value)) {
      plan.memory.memory.erase(value);
      placed[value] = plan.placeFixed(value);
    }
    byLevel[levelOf(value)].push_back({value, placed[value]});
  };
  /// The first level at which a body of the given kind can use the value.
  auto usable = [&](Value value, bool wide) -> int64_t {
    if (there.count(value))
      return wide ? 0 : 1;
    int64_t level = levelOf(value);
    if (isWide(value))
      return level;
    bool reduced = isReduction(value.getDefiningOp());
    if (wide || reduced)
      storeAt(value);
    if (reduced)
      return wide ? level + 2 : level + 1;
    return wide ? level + 1 : level;
  };
  levelOf = [&](Value value) -> int64_t {
    if (auto known = levels.find(value); known != levels.end())
      return known->second;
    Operation *op = value.getDefiningOp();
    bool wide = isWide(value) || (op && isReduction(op));
    int64_t level = wide ? 0 : 1;
    if (op && !there.count(value))
      for (Value operand : op->getOperands())
        level = std::max(level, usable(operand, wide));
    return levels[value] = level;
  };
  for (const Store &store : stores) {
    int64_t level = levelOf(store.value);
    byLevel[level].push_back(store);
    if (placed.count(store.value) && placed[store.value] == store.reference)
      stored.insert(store.value);
  }
  SmallVector<int64_t> order;
  for (auto &[level, unused] : byLevel)
    order.push_back(level);
  llvm::sort(order);
  Places places;
  for (auto &[value, reference] : there)
    places.memory[value] = reference;
  for (int64_t level : order) {
    std::string suffix = formatv("{0}{1}", phase, level);
    std::string className = formatv("{0}{1}", phase == "prologue" ? "Prologue" : "Epilogue", level);
    bool wide = level % 2 == 0;
    // Each store once: the same value may be asked for twice.
    llvm::StringSet<> references;
    BodyEmitter emitter = body(className, wide ? BodyEmitter::Kind::Wide : BodyEmitter::Kind::Coefficients, places);
    int64_t work = 0;
    for (const Store &store : byLevel[level]) {
      if (!references.insert(store.reference).second)
        continue;
      Operation *op = store.value.getDefiningOp();
      if (store.packed)
        emitter.pack(store.value, store.reference, mainShape.vector);
      else if (!wide)
        emitter.storeCoefficients(store.value, store.reference);
      else if (op && isReduction(op) && !there.count(store.value))
        emitter.reduceWide(op, store.reference);
      else
        emitter.storeWide(store.value, store.reference);
      work = std::max(work, hc::elementCount(store.value.getType()));
    }
    close(emitter);
    if (wide) {
      entry(suffix, formatv("uniformWide<{0}, {1}, {2}>", number(), plan.width, className).str(), 256, 1,
            json::Object{{"grid", json::Object{{"kind", "fixed"}, {"blocks", 256}}}});
    } else {
      entry(suffix, formatv("uniformNarrow<{0}, {1}>", number(), className).str(), 32, 1,
            json::Object{{"grid", json::Object{{"kind", "fixed"}, {"blocks", 1}}},
                         {"shared_bytes", emitter.scratch() * plan.elementBytes + 16}});
    }
    for (const Store &store : byLevel[level])
      if (auto known = placed.find(store.value); known != placed.end() && known->second == store.reference)
        places.memory[store.value] = store.reference;
  }
}

//===----------------------------------------------------------------------===//
// Coefficients of tokens
//===----------------------------------------------------------------------===//

void SourceBuilder::emitTokenwise(const std::vector<Store> &stores, StringRef phase, bool ofTail) {
  if (stores.empty())
    return;
  Places places;
  places.memory = plan.memory.memory;
  for (Value value : plan.perToken)
    if (!ofTail)
      places.memory.erase(value);
  for (const Store &store : stores)
    if (Operation *op = store.value.getDefiningOp(); op && !isReduction(op) && !plan.isUniform(store.value))
      places.memory.erase(store.value);
  std::string className = ofTail ? "Tail" : "Head";
  BodyEmitter emitter = body(className, BodyEmitter::Kind::Coefficients, places);
  llvm::StringSet<> references;
  for (const Store &store : stores)
    if (references.insert(store.reference).second)
      emitter.storeCoefficients(store.value, store.reference);
  close(emitter);
  ShapeNumbers numbers;
  numbers.warps = 4;
  numbers.tokenLanes = 1;
  numbers.scratch = emitter.scratch();
  entry(phase, formatv("tokenwise<{0}, {1}>", shape(numbers), className).str(), 32 * numbers.warps, 1,
        json::Object{{"grid", json::Object{{"kind", "tokens"}, {"tokens_per_block", numbers.warps}}},
                     {"shared_bytes", numbers.warps * numbers.scratch * plan.elementBytes}});
}

//===----------------------------------------------------------------------===//
// The main kernel
//===----------------------------------------------------------------------===//

/// Of 4 to 8 warps, those that share `units` pieces of a row most evenly.
static int64_t evenWarps(int64_t units) {
  int64_t best = std::clamp<int64_t>(units, 1, 8), least = llvm::alignTo(units, best) - units;
  for (int64_t warps = best - 1; warps >= 4; --warps)
    if (int64_t waste = llvm::alignTo(units, warps) - units; waste < least)
      best = warps, least = waste;
  return best;
}

/// The widest vector that divides the row, is at most 16 bytes of the widest storage, and keeps a lane's rows in registers.
int64_t SourceBuilder::chooseVector(int64_t pressure, int64_t extra, int64_t budget, bool ofMain) {
  int64_t most = std::max<int64_t>(1, 16 / plan.widestStorage);
  int64_t words = plan.elementBytes / 4;
  for (int64_t vector = ofMain && choice.vector ? choice.vector : most; vector > 1; vector /= 2)
    if (plan.width % vector == 0 && vector <= most &&
        ((ofMain && choice.vector) || (pressure * vector + extra) * words <= budget))
      return vector;
  return 1;
}

/// A warp reads as much of one row together as there is (measured: long runs win); the number of warps is the one that
/// leaves the fewest lanes idle in the last round.
ShapeNumbers SourceBuilder::tileShape(int64_t vector) {
  ShapeNumbers numbers;
  numbers.vector = vector;
  int64_t pieces = llvm::divideCeil(plan.width, vector);
  int64_t lanes = pieces >= 256 ? 32 : pieces >= 64 ? 16 : pieces >= 16 ? 8 : 4;
  numbers.tokenLanes = choice.tokens ? std::min<int64_t>(choice.tokens, 8) : 32 / lanes;
  numbers.warps = choice.warps ? choice.warps : evenWarps(llvm::divideCeil(pieces, 32 / numbers.tokenLanes));
  return numbers;
}

std::string SourceBuilder::emitUniformRecord(StringRef className, llvm::ArrayRef<Value> values, Places &places,
                                             ShapeNumbers &numbers) {
  if (values.empty())
    return "Nothing";
  Places source;
  source.memory = plan.memory.memory;
  BodyEmitter emitter = body(className, BodyEmitter::Kind::Coefficients, source);
  for (Value value : values) {
    places.uniform[value] = numbers.uniform;
    emitter.writeRecord(value, numbers.uniform);
    numbers.uniform += llvm::alignTo(hc::elementCount(value.getType()), 4);
  }
  close(emitter);
  numbers.scratch = std::max(numbers.scratch, emitter.scratch());
  return className.str();
}


static int64_t recordStride(int64_t size) {
  int64_t stride = llvm::alignTo(std::max<int64_t>(size, 4), 4);
  return stride % 8 == 4 ? stride : stride + 4;
}

/// Shape, blocks an SM and cluster of the main kernel. Nothing here depends on the token count: a token's sums keep their
/// order whatever the batch.
LogicalResult SourceBuilder::chooseMain() {
  // The pass under most pressure decides the vector of all: lanes keep their channels from stage to stage.
  bool reduces = false;
  // Planes of a wide weight come from L2 for every tile: two tokens a lane halve that.
  int64_t planeBytes = 0;
  for (Value weight : plan.projected)
    planeBytes += hc::elementCount(weight.getType()) * 4;
  for (Value weight : plan.expanded)
    planeBytes += hc::elementCount(weight.getType()) * 4;
  int64_t repeat = choice.tokens ? (choice.tokens > 8 ? choice.tokens / 8 : 1)
                   : tiled && plan.expanded.empty() && planeBytes > (1 << 19) ? 2 : 1;
  auto load = [&](const SweepPass &pass, int64_t stage, int64_t vector) {
    return (plan.pressure(pass, stage) * vector * repeat + (pass.slots + 4 * pass.tiles) * repeat) *
           (plan.elementBytes / 4);
  };
  // Narrow loads and more warps beat wide loads and few (measured), but for kernels of a few rows; planes of two tokens
  // leave room for four channels.
  auto lightest = [&] {
    int64_t atEight = 0;
    for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
      for (const SweepPass &pass : stagePlan.passes)
        atEight = std::max(atEight, load(pass, stage, 8));
    return atEight <= 72;
  };
  int64_t most = std::max<int64_t>(1, tiled && repeat == 1 && plan.expanded.empty() ? 16 / plan.widestStorage
                                      : plan.widestStorage == 2                     ? (lightest() ? 8 : 4)
                                                                                    : 16 / plan.widestStorage);
  // Weights as stored are read ahead of their use: room for that.
  int64_t budget = !tiled && !(plan.projected.empty() && plan.expanded.empty()) ? 100 : 130;
  int64_t vector = choice.vector ? choice.vector : most;
  int64_t heaviest = 0;
  auto measure = [&] {
    heaviest = 0;
    for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
      for (const SweepPass &pass : stagePlan.passes)
        heaviest = std::max(heaviest, load(pass, stage, vector));
  };
  measure();
  while (!choice.vector && vector > 1 && (plan.width % vector || (heaviest > budget && vector > (tiled ? 4 : 1)))) {
    vector /= 2;
    measure();
  }
  if (plan.width % vector || (tiled && vector < 4))
    return kernel.emitError() << "schedule: vector is " << vector << "; tensor cores need 4 or 8, and it divides "
                              << plan.width << " channels";
  for (const StagePlan &stagePlan : plan.stagePlans)
    for (const SweepPass &pass : stagePlan.passes) {
      mainSums = std::max(mainSums, pass.sums());
      reduces |= !pass.parts.empty();
    }
  mainShape = tileShape(vector);
  // Two CTAs of 8 warps have 128 registers a lane, one of 12 has 168, one of 8 has 255.
  bool longExpansion = llvm::any_of(
      plan.expanded, [](Value weight) { return cast<hc::WeightType>(weight.getType()).getColumns() > 8; });
  // An expansion just fits 128 registers where addresses are shifts.
  bool two = tiled && heaviest <= 130 && !longExpansion && (plan.expanded.empty() || llvm::isPowerOf2_64(plan.width));
  if (tiled) {
    mainShape.tokenLanes = 8;
    mainShape.tokens = repeat;
    int64_t pieces = llvm::divideCeil(plan.width, 4 * vector);
    mainShape.warps = choice.warps                                 ? choice.warps
                      : !two && heaviest <= 130 && pieces >= 48 ? 12
                                                                    : std::clamp<int64_t>(llvm::PowerOf2Ceil(pieces), 1, 8);
  }
  mainShape.record = recordStride(plan.recordSize);
  while (!tiled && mainShape.tokenLanes > 1 && mainShape.tokenLanes * mainShape.record * plan.elementBytes > 49152)
    mainShape.tokenLanes /= 2;
  minBlocks = choice.blocks ? choice.blocks : two && mainShape.warps <= 8 ? 2 : 1;
  bool clusters = target.starts_with("sm_9") || target.starts_with("sm_1");
  if (choice.cluster > 1 && !clusters)
    return kernel.emitError() << "schedule: cluster is " << choice.cluster << ", but " << target << " has no clusters";
  if (choice.cluster > 1 && !reduces)
    return kernel.emitError("schedule: cluster above 1 is for kernels that reduce over channels");
  mainShape.cluster = choice.cluster ? choice.cluster : 1;
  if (tiled)
    placePlanes();
  return success();
}

/// The prologue packs the weights of projections and expansions for the main kernel's vector.
void SourceBuilder::placePlanes() {
  auto place = [&](Value weight, StringRef kind, int64_t words, llvm::DenseMap<Value, std::string> &planes) {
    auto type = cast<hc::WeightType>(weight.getType());
    int64_t offset = plan.fixedBytes;
    plan.fixedBytes += llvm::alignTo(words * 4, 256);
    planes[weight] = formatv("{0}<Space::Fixed<{1}>, {2}, {3}, {4}, {5}>", kind, offset, type.getRows(),
                             type.getColumns(), plan.width, mainShape.vector);
    plan.prologueStores.push_back({weight, planes[weight], true});
  };
  int64_t vector = mainShape.vector, chunks = llvm::divideCeil(plan.width, 4 * vector);
  plan.fixedBytes = llvm::alignTo(plan.fixedBytes, 256);
  for (Value weight : plan.projected) {
    auto type = cast<hc::WeightType>(weight.getType());
    place(weight, "ProjectionPlanes",
          type.getRows() * chunks * (vector / 4) * llvm::divideCeil(type.getColumns(), 8) * 128, projection);
  }
  for (Value weight : plan.expanded) {
    auto type = cast<hc::WeightType>(weight.getType());
    int64_t k = type.getColumns();
    int64_t steps = k % 16 > 8 || k % 16 == 0 ? llvm::divideCeil(k, 16) : k / 16;
    int64_t words = 128 * steps + (k > 16 * steps ? 64 : 0);
    place(weight, "ExpansionPlanes", type.getRows() * chunks * (vector / 2) * words, expansion);
  }
}

void SourceBuilder::emitMain() {
  ShapeNumbers &numbers = mainShape;
  int64_t vector = numbers.vector;

  Places places;
  places.record = plan.record;
  for (auto &[value, reference] : plan.memory.memory)
    if (!plan.perToken.contains(value) || plan.headValues.contains(value))
      places.memory[value] = reference;
  places.projection = projection;
  places.expansion = expansion;
  std::string uniform = emitUniformRecord("MainUniform", plan.uniformReads, places, numbers);

  llvm::DenseSet<Value> made; // in a record by now
  for (auto &[value, offset] : plan.record)
    if (Operation *op = value.getDefiningOp(); op && isReduction(op))
      made.insert(value);
  std::string stages;
  bool reduces = false;
  Places rowPlaces = places;
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans)) {
    if (stagePlan.recordWrites.empty() && stagePlan.stores.empty() && stagePlan.passes.empty())
      continue;
    std::string maths = "Nothing";
    if (!stagePlan.recordWrites.empty() || !stagePlan.stores.empty()) {
      maths = formatv("Coefficients{0}", stage);
      Places coefficientPlaces = places;
      coefficientPlaces.record.clear();
      for (Value value : made)
        coefficientPlaces.record[value] = plan.record.lookup(value);
      BodyEmitter emitter = body(maths, BodyEmitter::Kind::Coefficients, coefficientPlaces);
      for (Value value : stagePlan.recordWrites)
        emitter.writeRecord(value, plan.record.lookup(value));
      llvm::StringSet<> references;
      for (const Store &store : stagePlan.stores)
        if (references.insert(store.reference).second)
          emitter.storeCoefficients(store.value, store.reference);
      close(emitter);
      numbers.scratch = std::max(numbers.scratch, emitter.scratch());
      made.insert(stagePlan.recordWrites.begin(), stagePlan.recordWrites.end());
    }
    std::string passText;
    for (auto [index, pass] : llvm::enumerate(stagePlan.passes)) {
      std::string className = formatv("Rows{0}_{1}", stage, index);
      BodyEmitter emitter = body(className, BodyEmitter::Kind::Rows, rowPlaces);
      for (const Store &store : pass.stores)
        emitter.storeRows(store.value, store.reference);
      passText += formatv(", Pass<{0}, {1}, {2}", className, pass.slots, pass.tiles).str();
      for (const ReductionPart &part : pass.parts)
        emitter.reduce(part.op, part.slot, part.begin, part.count, part.columnBegin, part.columns);
      for (const RecordSegment &segment : pass.segments)
        passText += formatv(", Segment<{0}, {1}, {2}>", segment.slot, segment.count, segment.record).str();
      passText += ">";
      close(emitter);
      reduces |= !pass.parts.empty();
      // Rows that were stored without loss are read again by the same lanes.
      for (const Store &store : pass.stores)
        if (auto stored = plan.losslessStores.find(store.value);
            stored != plan.losslessStores.end() && stored->second.first == store.reference)
          rowPlaces.memory[store.value] = store.reference;
    }
    stages += formatv(",\n      Stage<{0}{1}>", maths, passText).str();
  }
  int64_t tile = numbers.tokenLanes * numbers.tokens, exchange = llvm::alignTo(tile * mainSums, 4);
  int64_t shared = llvm::alignTo(numbers.uniform, 4) + tile * numbers.record +
                   (numbers.warps + (numbers.cluster > 1 ? 2 : 0)) * exchange + numbers.warps * numbers.scratch;
  int64_t stageCount = StringRef(stages).count("Stage<");
  bool streams = !reduces && stageCount == 1;
  add(formatv("using Main = {0};", shape(numbers)).str());
  std::string call = formatv("{0}<Main, {1}{2}>", streams ? "streaming" : "rowReduced", uniform, stages);
  json::Object launch{{"shared_bytes", shared * plan.elementBytes}};
  if (streams) {
    int64_t chunk = 32 / numbers.tokenLanes * vector * numbers.warps;
    launch["grid"] = json::Object{{"kind", "tokens"}, {"tokens_per_block", tile}};
    launch["grid_y"] = static_cast<int64_t>(llvm::divideCeil(llvm::divideCeil(plan.width, chunk), 2));
  } else {
    launch["grid"] = json::Object{{"kind", "persistent"}, {"per_sm", minBlocks}};
    launch["tokens_per_block"] = tile;
  }
  entry("main", call, 32 * numbers.warps, minBlocks, std::move(launch), numbers.cluster);
  result.schedule =
      formatv("rows:blocks={0},chunks={1},cluster={2},planes={3},slots={4},tokens={5},vector={6},warps={7}", minBlocks,
              result.maxChunks, numbers.cluster, tiled ? 2 : 0, slots, tile, vector,
              numbers.warps);
}

//===----------------------------------------------------------------------===//
// Sums over tokens
//===----------------------------------------------------------------------===//

void SourceBuilder::emitColumns() {
  // Weight gradients of half-width rows go to tensor cores, the rest to one lane a channel.
  std::vector<Operation *> tiles, plain;
  for (Operation *op : plan.columnOps) {
    auto weight = dyn_cast<hc::WeightType>(op->getResult(0).getType());
    bool fits = weight && !plan.wide() && plan.widestStorage == 2 && choice.planes != 0 && plan.width % 4 == 0 &&
                weight.getRows() * 4 <= columnRegisters &&
                plan.pressure(op) * 8 + weight.getRows() * 4 <= (planesOf(op->getOperand(0)) == 1 ? 232 : 200);
    (fits ? tiles : plain).push_back(op);
  }
  if (!tiles.empty())
    emitColumnLaunch(tiles, true);
  if (!plain.empty())
    emitColumnLaunch(plain, false);
}

void SourceBuilder::emitColumnLaunch(const std::vector<Operation *> &ops, bool onTiles) {
  std::string prefix = onTiles ? "Gradient" : "Columns";
  ShapeNumbers numbers;
  numbers.tokenLanes = 1;
  numbers.tokens = onTiles ? 64 : 16; // staged at once
  Places places;
  places.memory = plan.memory.memory;
  std::string uniform = emitUniformRecord(prefix + "Uniform", plan.columnUniforms, places, numbers);
  places.record = plan.columnRecord;
  numbers.record = recordStride(plan.columnSize);
  while (onTiles && numbers.tokens > 16 && numbers.tokens * numbers.record * 4 > 32768)
    numbers.tokens /= 2;
  auto extents = [](Operation *op) -> std::pair<int64_t, int64_t> {
    if (auto weight = dyn_cast<hc::WeightType>(op->getResult(0).getType()))
      return {weight.getRows(), weight.getColumns()};
    return {cast<hc::RowsType>(op->getResult(0).getType()).getRows(), 1};
  };
  int64_t words = plan.elementBytes / 4, vector = onTiles ? 8 : 4, heaviest = 0;
  for (Operation *op : ops) {
    auto [rows, columns] = extents(op);
    if (onTiles) {
      int64_t sums = std::min<int64_t>(columnRegisters, rows * vector * llvm::divideCeil(columns, 8));
      if (plan.width % 8 || rows * 8 > columnRegisters || plan.pressure(op) * 2 * 8 + sums > 200)
        vector = 4;
    } else {
      vector = std::min(vector,
                        chooseVector(plan.pressure(op) + std::min(rows * columns, columnRegisters), 0, 120, false));
    }
  }
  numbers.vector = vector;
  int64_t channels = onTiles ? 4 * vector : 32 * vector; // of a warp
  numbers.warps = std::clamp<int64_t>(llvm::PowerOf2Ceil(llvm::divideCeil(plan.width, channels)), 1, onTiles ? 4 : 8);
  std::string passes;
  int64_t count = 0, blocks = 0;
  auto addPass = [&](StringRef className, int64_t sums, int64_t columns, int64_t repeats) {
    passes += formatv(",\n      {0}<{1}, {2}, {3}, {4}>", onTiles ? "TilePass" : "ColumnPass", className, sums, columns,
                      repeats)
                  .str();
    blocks += repeats;
  };
  for (Operation *op : ops) {
    auto [rows, columns] = extents(op);
    auto gradient = dyn_cast<hc::WeightGradOp>(op);
    std::string reference = plan.memory.memory.lookup(op->getResult(0));
    bool weight = isa<hc::WeightType>(op->getResult(0).getType());
    int64_t pressure = plan.pressure(op) * vector * (onTiles ? 2 : 1);
    if (weight) {
      // One body for all blocks of columns: its first column is blockIdx.z's.
      int64_t extent = onTiles ? llvm::divideCeil(columns, 8) : columns;
      int64_t each = onTiles ? rows * vector : rows * vector * words; // registers of one unit of the extent
      int64_t limit = !onTiles || planesOf(gradient.getInput()) == 1 ? 232 : 180; // two planes of rows take registers
      int64_t room = std::max<int64_t>(each, std::min<int64_t>(columnRegisters, limit - pressure));
      int64_t per = std::clamp<int64_t>(room / each, 1, extent);
      heaviest = std::max(heaviest, pressure + per * each);
      std::string className = formatv("{0}{1}", prefix, count++);
      BodyEmitter emitter = body(className, BodyEmitter::Kind::Rows, places);
      if (onTiles) {
        emitter.sumTiles(gradient, per);
        emitter.storeTiles(reference, gradient, per);
      } else {
        emitter.sumOuter(gradient, per);
        emitter.storeOuter(reference, gradient, per);
      }
      close(emitter);
      addPass(className, onTiles ? per * rows * vector / 4 : per * vector * rows, onTiles ? 8 * per : per,
              llvm::divideCeil(extent, per));
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
  int64_t shared = llvm::alignTo(numbers.uniform, 4) + numbers.tokens * numbers.record + numbers.warps * numbers.scratch;
  entry(onTiles ? "gradients" : "columns",
        formatv("{0}<{1}, {2}, Space::PerToken<{3}>, {4}{5}>", onTiles ? "columnTiles" : "columns", shape(numbers),
                uniform, plan.columnOffset, plan.columnSize, passes)
            .str(),
        32 * numbers.warps, onTiles ? (heaviest <= 130 ? 3 : heaviest <= 180 ? 2 : 1) : 1,
        json::Object{{"grid", json::Object{{"kind", "columns"},
                                           {"extent", plan.width},
                                           {"per_block", numbers.warps * channels}}},
                     {"grid_y", "chunks"},
                     {"grid_z", blocks},
                     {"shared_bytes", shared * plan.elementBytes}});
}

void SourceBuilder::emitSums() {
  if (!plan.sumCount)
    return;
  entry("sums",
        formatv("tokenSums<{0}, Space::PerToken<{1}>, Space::PerChunk<{2}>, {3}>", number(), plan.sumOffset,
                plan.chunkSumOffset, plan.sumCount)
            .str(),
        256, 1, json::Object{{"grid", json::Object{{"kind", "chunks"}}}});
}

} // namespace

OwningOpRef<ModuleOp> cuda::buildCudaModule(hc::FuncOp kernel, StringRef target, StringRef schedule,
                                            CudaSource &result) {
  kernel.getContext()->getOrLoadDialect<emitc::EmitCDialect>();
  Choice choice;
  if (failed(parseSchedule(kernel, schedule, choice)))
    return nullptr;
  if (!target.starts_with("sm_")) {
    kernel.emitError() << "target '" << target << "' is no CUDA target";
    return nullptr;
  }
  return SourceBuilder(kernel, target, choice, result).run();
}

LogicalResult cuda::buildCudaSource(hc::FuncOp kernel, StringRef target, StringRef schedule, CudaSource &result) {
  OwningOpRef<ModuleOp> module = buildCudaModule(kernel, target, schedule, result);
  if (!module)
    return failure();
  llvm::raw_string_ostream os(result.text);
  return emitc::translateToCpp(*module, os);
}
