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
  int64_t vector = 0, tokenLanes = 0, warps = 0, slots = 0, blocks = 0, chunks = 0;
};

/// Template arguments of Shape.
struct ShapeNumbers {
  int64_t warps = 8, tokenLanes = 8, tokens = 1, vector = 1, record = 4, uniform = 0, scratch = 0;
};

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
  } table[] = {{"blocks", &choice.blocks, 1, 8},  {"chunks", &choice.chunks, 1, 256},
               {"slots", &choice.slots, 32, 96},  {"tokens", &choice.tokenLanes, 1, 8},
               {"vector", &choice.vector, 1, 8},  {"warps", &choice.warps, 1, 16}};
  while (!numbers.empty()) {
    auto [pair, rest] = numbers.split(',');
    numbers = rest;
    auto [name, digits] = pair.split('=');
    auto *row = llvm::find_if(table, [&](const Row &row) { return row.name == name; });
    int64_t value;
    if (row == std::end(table) || digits.getAsInteger(10, value))
      return kernel.emitError() << "schedule '" << text << "': '" << pair
                                << "' is no number of 'rows'; it takes blocks, chunks, slots, tokens, vector, warps";
    if (value < row->least || value > row->most ||
        ((name == "tokens" || name == "vector" || name == "warps") && !llvm::isPowerOf2_64(value)))
      return kernel.emitError() << "schedule '" << text << "': " << name << " is " << value << "; legal are "
                                << row->least << " to " << row->most
                                << (name == "tokens" || name == "vector" || name == "warps" ? ", powers of two" : "");
    *row->value = value;
  }
  return success();
}

class SourceBuilder {
public:
  SourceBuilder(hc::FuncOp kernel, StringRef target, const Choice &choice, CudaSource &result)
      : kernel(kernel), target(target), choice(choice), result(result),
        plan(kernel, choice.slots ? choice.slots : 32) {}

  OwningOpRef<ModuleOp> run() {
    if (mlir::failed(plan.run()))
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
    return formatv("Shape<{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}>", number(), plan.width, s.warps, s.tokenLanes,
                   s.tokens, s.vector, s.record, s.uniform, s.scratch);
  }

  /// The entry and its launch. `call` is the skeleton with its template arguments.
  void entry(StringRef suffix, StringRef call, int64_t threads, int64_t minBlocks, json::Object launch) {
    std::string entryName = name + "_" + suffix.str();
    size_t operands = kernel.getNumArguments() + kernel.getNumResults();
    add(formatv("extern \"C\" __global__ void __launch_bounds__({0}, {1}) {2}(const __grid_constant__ Launch<{3}> "
                "launch) {{\n  {4}(launch);\n}",
                threads, minBlocks, entryName, operands, call)
            .str());
    launch["entry"] = entryName;
    launch["block"] = threads;
    launch["cluster"] = 1;
    launch.try_emplace("shared_bytes", 0);
    result.launches.push_back(std::move(launch));
  }

  void emitHeader();
  void emitUniform(const std::vector<Store> &stores, StringRef phase);
  void emitTokenwise(const std::vector<Store> &stores, StringRef phase, bool ofTail);
  void emitMain();
  void emitColumns();
  void emitSums();
  int64_t chooseVector(int64_t pressure, int64_t extra, int64_t budget);
  ShapeNumbers tileShape(int64_t vector);
  /// The body that copies uniform coefficients to shared memory; returns its class name and fills the offsets.
  std::string emitUniformRecord(StringRef className, llvm::ArrayRef<Value> values, Places &places, ShapeNumbers &shape);

  hc::FuncOp kernel;
  StringRef target;
  const Choice &choice;
  CudaSource &result;
  KernelPlan plan;
  std::string name;
  OwningOpRef<ModuleOp> module;
  SmallVector<std::string> tables;
  bool failed = false;
};

void SourceBuilder::emitHeader() {
  OpBuilder builder = OpBuilder::atBlockBegin(module->getBody());
  auto top = [&](StringRef text) { emitc::VerbatimOp::create(builder, kernel.getLoc(), text); };
  top(formatv("// {0} for {1}", name, target).str());
  for (StringRef header : {"row_reduced", "token_sums", "uniform"})
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
      if (!wide)
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

/// The widest vector that divides the row, is at most 16 bytes of the widest storage, and keeps a lane's rows in registers.
int64_t SourceBuilder::chooseVector(int64_t pressure, int64_t extra, int64_t budget) {
  int64_t most = std::max<int64_t>(1, 16 / plan.widestStorage);
  int64_t words = plan.elementBytes / 4;
  for (int64_t vector = choice.vector ? choice.vector : most; vector > 1; vector /= 2)
    if (plan.width % vector == 0 && vector <= most && (pressure * vector + extra) * words <= budget)
      return vector;
  return 1;
}

/// Lanes that share a token read 64 bytes of a row together; warps share what is left of the row.
ShapeNumbers SourceBuilder::tileShape(int64_t vector) {
  ShapeNumbers numbers;
  numbers.vector = vector;
  int64_t pieces = llvm::divideCeil(plan.width, vector);
  int64_t lanes = std::clamp<int64_t>(64 / (vector * plan.widestStorage), 4, 32);
  lanes = std::min<int64_t>(lanes, std::max<int64_t>(4, llvm::PowerOf2Ceil(pieces)));
  numbers.tokenLanes = choice.tokenLanes ? choice.tokenLanes : 32 / lanes;
  lanes = 32 / numbers.tokenLanes;
  numbers.warps = choice.warps ? choice.warps
                               : std::clamp<int64_t>(llvm::PowerOf2Ceil(llvm::divideCeil(pieces, lanes)), 1, 8);
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

void SourceBuilder::emitMain() {
  int64_t most = 0, slots = 0, passes = 0;
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
    for (const SweepPass &pass : stagePlan.passes) {
      int64_t pressure = plan.pressure(pass, stage);
      most = std::max(most, pressure * 8 + pass.slots);
      slots = std::max(slots, pass.slots);
      ++passes;
    }
  // The pass under most pressure decides the vector of all: lanes keep their channels from stage to stage.
  int64_t vector = 16;
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
    for (const SweepPass &pass : stagePlan.passes)
      vector = std::min(vector, chooseVector(plan.pressure(pass, stage), pass.slots, 120));
  ShapeNumbers numbers = tileShape(vector);
  numbers.record = recordStride(plan.recordSize);
  while (numbers.tokenLanes > 1 && numbers.tokenLanes * numbers.record * plan.elementBytes > 49152)
    numbers.tokenLanes /= 2;
  int64_t words = plan.elementBytes / 4;
  int64_t load = 0;
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans))
    for (const SweepPass &pass : stagePlan.passes)
      load = std::max(load, (plan.pressure(pass, stage) * vector + pass.slots) * words);
  int64_t minBlocks = choice.blocks ? choice.blocks : load <= 72 && numbers.warps <= 8 ? 2 : 1;

  Places places;
  places.record = plan.record;
  for (auto &[value, reference] : plan.memory.memory)
    if (!plan.perToken.contains(value) || plan.headValues.contains(value))
      places.memory[value] = reference;
  std::string uniform = emitUniformRecord("MainUniform", plan.uniformReads, places, numbers);

  llvm::DenseSet<Value> made; // in a record by now
  for (auto &[value, offset] : plan.record)
    if (Operation *op = value.getDefiningOp(); op && isReduction(op))
      made.insert(value);
  std::string stages;
  bool reduces = false, reloads = false;
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
      passText += ", Pass<" + className;
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
            stored != plan.losslessStores.end() && stored->second.first == store.reference) {
          rowPlaces.memory[store.value] = store.reference;
          reloads = true;
        }
    }
    stages += formatv(",\n      Stage<{0}{1}>", maths, passText).str();
  }
  int64_t tile = numbers.tokenLanes * numbers.tokens;
  int64_t shared = llvm::alignTo(numbers.uniform, 4) + tile * numbers.record +
                   llvm::alignTo(numbers.warps * tile * slots, 4) + numbers.warps * numbers.scratch;
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
  entry("main", call, 32 * numbers.warps, minBlocks, std::move(launch));
  result.schedule = formatv("rows:blocks={0},chunks={1},slots={2},tokens={3},vector={4},warps={5}", minBlocks,
                            result.maxChunks, choice.slots ? choice.slots : 32, numbers.tokenLanes, vector,
                            numbers.warps);
  (void)reloads;
  (void)passes;
  (void)most;
}

//===----------------------------------------------------------------------===//
// Sums over tokens
//===----------------------------------------------------------------------===//

void SourceBuilder::emitColumns() {
  if (plan.columnOps.empty())
    return;
  ShapeNumbers numbers;
  numbers.tokenLanes = 1;
  numbers.tokens = 8; // staged at once
  Places places;
  places.memory = plan.memory.memory;
  std::string uniform = emitUniformRecord("ColumnsUniform", plan.columnUniforms, places, numbers);
  std::string maths = "Nothing";
  if (!plan.columnRecords.empty()) {
    maths = "ColumnsRecord";
    Places source;
    source.memory = plan.memory.memory;
    BodyEmitter emitter = body(maths, BodyEmitter::Kind::Coefficients, source);
    int64_t size = 0;
    for (Value value : plan.columnRecords) {
      places.record[value] = size;
      emitter.writeRecord(value, size);
      size += llvm::alignTo(hc::elementCount(value.getType()), 4);
    }
    close(emitter);
    numbers.record = recordStride(size);
    numbers.scratch = std::max(numbers.scratch, emitter.scratch());
  }
  int64_t words = plan.elementBytes / 4;
  constexpr int64_t budget = 96; // registers of sums a lane
  int64_t vector = 4;
  for (Operation *op : plan.columnOps) {
    auto weight = dyn_cast<hc::WeightType>(op->getResult(0).getType());
    int64_t rows = weight ? weight.getRows() : cast<hc::RowsType>(op->getResult(0).getType()).getRows();
    int64_t columns = weight ? weight.getColumns() : 1;
    vector = std::min(vector, chooseVector(plan.pressure(op) + std::min(rows * columns, budget), 0, 120));
  }
  numbers.vector = vector;
  numbers.warps = std::clamp<int64_t>(llvm::PowerOf2Ceil(llvm::divideCeil(plan.width, 32 * vector)), 1, 8);
  std::string passes;
  int64_t count = 0;
  for (Operation *op : plan.columnOps) {
    auto weight = dyn_cast<hc::WeightType>(op->getResult(0).getType());
    int64_t rows = weight ? weight.getRows() : cast<hc::RowsType>(op->getResult(0).getType()).getRows();
    int64_t columns = weight ? weight.getColumns() : 1;
    std::string reference = plan.memory.memory.lookup(op->getResult(0));
    // Weight gradients are split by columns, sums of rows by rows.
    int64_t per = std::max<int64_t>(1, budget / (vector * words * (weight ? rows : 1)));
    if (weight && per < columns && per >= 4)
      per -= per % 4;
    int64_t extent = weight ? columns : rows;
    for (int64_t begin = 0; begin < extent; begin += per) {
      int64_t size = std::min(per, extent - begin);
      std::string className = formatv("Columns{0}", count++);
      BodyEmitter emitter = body(className, BodyEmitter::Kind::Rows, places);
      if (weight) {
        emitter.sumOuter(cast<hc::WeightGradOp>(op), 0, begin, size);
        emitter.storeColumns(reference, 0, 0, rows, columns, begin, size);
      } else {
        emitter.sumRows(op->getOperand(0), 0, begin, size);
        emitter.storeColumns(reference, 0, begin, size, 1, 0, 1);
      }
      close(emitter);
      passes += formatv(",\n      ColumnPass<{0}, {1}>", className, size * vector * (weight ? rows : 1)).str();
    }
  }
  int64_t shared = llvm::alignTo(numbers.uniform, 4) + numbers.tokens * numbers.record + numbers.warps * numbers.scratch;
  entry("columns", formatv("columns<{0}, {1}, {2}{3}>", shape(numbers), uniform, maths, passes).str(),
        32 * numbers.warps, 1,
        json::Object{{"grid", json::Object{{"kind", "columns"},
                                           {"extent", plan.width},
                                           {"per_block", 32 * numbers.warps * vector}}},
                     {"grid_y", "chunks"},
                     {"grid_z", count},
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
