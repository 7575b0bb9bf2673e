//===- CudaSource.cpp - A kernel as CUDA C++ ------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

OwningOpRef<ModuleOp> SourceBuilder::run() {
  KernelPlan probe(kernel, 32);
  if (mlir::failed(probe.run(0)))
    return nullptr;
  bool fits = probe.wantsTiles();
  int64_t rows = 0; // registers of a lane at four channels, the least that mma takes
  for (auto [stage, stagePlan] : llvm::enumerate(probe.stagePlans))
    for (const SweepPass &pass : stagePlan.passes)
      rows = std::max(rows, probe.pressure(pass, stage) * 4 + pass.slots);
  // Without tensor cores every token reads all weights, which for five streams of 4096 channels takes thirty times as
  // long; more than sixteen streams would spill by kilobytes, and do without nevertheless.
  tiled = choice.planes < 0 ? fits && rows <= 400 : choice.planes > 0;
  if (tiled && !fits) {
    kernel.emitError()
        << "schedule: planes needs streams of at most 32 bits, a row width that is a multiple of 4, and a weight";
    return nullptr;
  }
  if (tiled && !choice.columns && !choice.slots && !probe.expanded.empty())
    plan = KernelPlan(kernel, slots = slotsOf(kernel, &probe));
  auto bucket = kernel->getAttrOfType<StringAttr>("hc.bucket");
  few = bucket && bucket.getValue() == "small";
  if (mlir::failed(plan.run(tiled ? tilesOfPass : 0)))
    return nullptr;
  if (plan.hasMain() && (mlir::failed(chooseMain()) || (choice.columns && mlir::failed(chooseSweptGradients()))))
    return nullptr;
  name = kernel.getSymName().str();
  module = ModuleOp::create(kernel.getLoc());
  result.blockTokens = 8;
  result.maxChunks = choice.chunks ? choice.chunks : plan.columnOps.empty() ? 32 : 16;
  emitUniform(plan.prologueStores, "prologue");
  emitTokenwise(plan.head, "head", /*ofTail=*/false)();
  const bool ends = plan.hasMain() && choice.columns; // its launch can do the tail's maths, which then stands before it
  std::function<void()> launchTail = [] {};
  if (ends)
    launchTail = emitTokenwise(plan.tail, "tail", /*ofTail=*/true);
  // Of few tokens, what is for more is not made.
  apart = choice.apart && (choice.apart == 1 || !few);
  if (plan.hasMain() && choice.apart != 1)
    emitMain(/*asApart=*/false);
  if (plan.hasMain() && apart)
    emitMain(/*asApart=*/true);
  if (!ends)
    launchTail = emitTokenwise(plan.tail, "tail", /*ofTail=*/true);
  launchTail();
  emitColumns();
  emitSums();
  emitUniform(plan.epilogueStores, "epilogue");
  emitHeader();
  if (failed)
    return nullptr;
  result.workspaceFixed = llvm::alignTo(plan.fixedBytes, 256);
  result.workspacePerChunk = llvm::alignTo(plan.chunkBytes, 256);
  result.workspacePerToken = plan.tokenBytes;
  used.chunks = result.maxChunks;
  result.schedule = plan.hasMain() ? writeRows(used) : "rows";
  return std::move(module);
}

void SourceBuilder::entry(StringRef suffix, StringRef call, int64_t threads, int64_t minBlocks, json::Object launch,
                          int64_t cluster, bool bare) {
  std::string entryName = name + "_" + suffix.str();
  OpBuilder builder(kernel.getContext());
  if (lastOfPart)
    builder.setInsertionPointAfter(lastOfPart);
  else
    builder.setInsertionPointToStart(module->getBody());
  Operation *mark = emitc::VerbatimOp::create(builder, kernel.getLoc(), (CudaSource::partMark + entryName).str());
  size_t operands = kernel.getNumArguments() + kernel.getNumResults();
  std::string bounds = formatv(minBlocks > 1 ? "{0}, HYPERJIT_BLOCKS({1})" : "{0}, {1}", threads, minBlocks);
  // clusterColumns has something to do before it waits. Kernels of many tokens have the wait as well, where there is
  // nothing to wait for: so their text is that of few, and is compiled once.
  bool waits = Generation(target).clusters(), itself = suffix == "main" && choice.columns;
  add(formatv("extern \"C\" __global__ void __launch_bounds__({0}) {1}(const __grid_constant__ Launch<{2}> "
              "launch) {{\n{4}  {3}(launch);\n}",
              bounds, entryName, operands, call, waits && !itself ? "  waitForLaunchesBefore();\n" : "")
          .str());
  lastOfPart = &module->getBody()->back();
  if (bare)
    lastOfPart->moveAfter(mark);
  // Few tokens take no longer than a launch, whose way is shorter where it begins early. So do clusters, each block of
  // which fills a processor, with any number of tokens, and what adds up their sums. Small blocks that wait gather on the
  // few processors that clusters leave idle, and run there only: heads do of many tokens, and sums behind weight
  // gradients do in any case. (us, an H200: of clusters, the main kernel of three streams of 4096 channels backward takes
  // 2 less of 512 tokens and 5 of 8192, the sums behind it 1 and 5, its head 18 and 16 more; of eight streams, the sums
  // 38 more of 128 tokens, the main kernel 4 and 22 more.)
  auto behind = [&](StringRef ending) {
    return !result.launches.empty() &&
           result.launches.back().getAsObject()->getString("entry").value_or("").ends_with(ending);
  };
  const bool behindClusters = choice.columns && suffix.starts_with("epilogue") && behind("_main");
  if (waits && (few ? !behind("_gradients") : itself || behindClusters))
    launch.try_emplace("overlaps", true);
  launch["entry"] = entryName;
  launch["block"] = threads;
  launch["cluster"] = cluster;
  launch.try_emplace("shared_bytes", 0);
  result.launches.push_back(std::move(launch));
}

void SourceBuilder::emitHeader() {
  OpBuilder builder = OpBuilder::atBlockBegin(module->getBody());
  auto top = [&](StringRef text) { emitc::VerbatimOp::create(builder, kernel.getLoc(), text); };
  top(formatv("// {0} for {1}", name, target).str());
  // Headers of templates/, in memory.
  SmallVector<StringRef> headers{"cluster_columns", "gradients", "row_reduced", "token_sums", "uniform"};
  if (apart)
    headers.push_back("shared_weights");
  for (StringRef header : headers)
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

/// Even levels are wide launches (rows, weights, sums over channels), odd ones are one warp's coefficient maths; one
/// launch does a wide level and the next where that needs nothing of it. The head's launch does the prologue's last
/// level, if that is wide and it needs nothing of it.
void SourceBuilder::emitUniform(const std::vector<Store> &stores, StringRef phase) {
  if (stores.empty())
    return;
  // What later launches read from the workspace is not there yet.
  llvm::DenseSet<Value> targets;
  for (const Store &store : stores)
    if (store.value.getDefiningOp() && !hc::sumsOverTokens(store.value.getDefiningOp()))
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
    if (wide && hc::splatOf(value)) // a constant that bodies know
      return 0;
    if (there.count(value))
      return wide ? 0 : 1;
    int64_t level = levelOf(value);
    if (isWide(value))
      return level;
    bool reduced = hc::sumsOverChannels(value.getDefiningOp());
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
    bool wide = isWide(value) || (op && hc::sumsOverChannels(op));
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
  /// Whether what is stored at a level is made of nothing that `earlier` stores.
  auto independent = [&](int64_t level, int64_t earlier) {
    llvm::DenseSet<Value> made, seen;
    for (const Store &store : byLevel[earlier])
      made.insert(store.value);
    std::function<bool(Value)> walk = [&](Value value) {
      if (made.contains(value))
        return false;
      Operation *op = value.getDefiningOp();
      if (!op || places.memory.count(value) || !seen.insert(value).second)
        return true;
      return llvm::all_of(op->getOperands(), walk);
    };
    return llvm::all_of(byLevel[level], [&](const Store &store) { return walk(store.value); });
  };
  /// Whether the head's launch, whose blocks are as the head needs them, can do the last level: it reads nothing that
  /// is made here.
  auto headIsIndependent = [&] {
    llvm::DenseSet<Value> seen;
    std::function<bool(Value)> walk = [&](Value value) {
      if (placed.count(value))
        return false;
      Operation *op = value.getDefiningOp();
      if (!op || !seen.insert(value).second)
        return true;
      return llvm::all_of(op->getOperands(), walk);
    };
    // Sums over channels are made by 256 threads, in their order.
    bool reduces = llvm::any_of(byLevel[order.back()], [&](const Store &store) {
      Operation *op = store.value.getDefiningOp();
      return op && hc::sumsOverChannels(op) && !there.count(store.value);
    });
    return !plan.head.empty() && !reduces &&
           llvm::all_of(plan.head, [&](const Store &store) { return walk(store.value); });
  };
  std::string withNext; // the wide body that the next level's launch does, too
  for (auto [index, level] : llvm::enumerate(order)) {
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
      else if (op && hc::sumsOverChannels(op) && !there.count(store.value))
        emitter.reduceWide(op, store.reference);
      else
        emitter.storeWide(store.value, store.reference);
      work = std::max(work, hc::elementCount(store.value.getType()));
    }
    close(emitter);
    if (wide && index + 1 < order.size() && order[index + 1] == level + 1 && independent(level + 1, level)) {
      withNext = className;
    } else if (!wide && !withNext.empty()) {
      entry(suffix, formatv("uniformBoth<{0}, {1}, {2}, {3}>", number(), plan.width, withNext, className).str(), 256, 1,
            json::Object{{"grid", json::Object{{"kind", "fixed"}, {"blocks", wideThreads / 256 + 1}}},
                         {"shared_bytes", emitter.scratch() * plan.elementBytes + 16}});
      withNext.clear();
    } else if (wide && phase == "prologue" && level == order.back() && headIsIndependent()) {
      besideHead = className;
    } else if (wide) {
      entry(suffix, formatv("uniformWide<{0}, {1}, {2}>", number(), plan.width, className).str(), 256, 1,
            json::Object{{"grid", json::Object{{"kind", "fixed"}, {"blocks", wideThreads / 256}}}});
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
// The main kernel
//===----------------------------------------------------------------------===//

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

/// Coefficients that lie in memory before the main kernel and that the maths behind some values reads; `made` are in a
/// record.
llvm::SetVector<Value> SourceBuilder::readsOf(llvm::ArrayRef<Value> values, const llvm::DenseSet<Value> &made) {
  llvm::SetVector<Value> reads;
  llvm::DenseSet<Value> seen;
  std::function<void(Value)> walk = [&](Value value) {
    if (made.contains(value) || !isa<hc::CoeffsType>(value.getType()) || !seen.insert(value).second)
      return;
    if (plan.memory.memory.count(value) && (!plan.perToken.contains(value) || plan.headValues.contains(value)))
      reads.insert(value);
    else if (Operation *op = value.getDefiningOp(); op && !hc::sumsOverChannels(op))
      for (Value operand : op->getOperands())
        walk(operand);
  };
  for (Value value : values)
    walk(value);
  return reads;
}

/// `asApart`: with the skeleton sharedWeights, which does what the other main kernel does, for many tokens.
void SourceBuilder::emitMain(bool asApart) {
  const StringRef suffix = asApart ? "Apart" : ""; // of classes that both have
  ShapeNumbers &numbers = mainShape;
  numbers.uniform = 0;
  numbers.ranges = !asApart && choice.ranges > 0;
  int64_t vector = numbers.vector;

  Places places;
  places.record = plan.record;
  for (auto &[value, reference] : plan.memory.memory)
    if (!plan.perToken.contains(value) || plan.headValues.contains(value))
      places.memory[value] = reference;
  places.projection = projection;
  places.expansion = expansion;
  if (asApart)
    shareWeights(places);
  // All rows of the other summands are there before the first is added to: wide numbers, sums of weight gradients (four
  // streams of 24 columns) and what clusters that share rows tell each other leave no registers for that.
  int64_t gradients = 0;
  for (Operation *op : plan.sweptGradients)
    gradients += rounds() * sumRegisters(cast<hc::WeightGradOp>(op));
  places.sumsInTiles = choice.columns && mainShape.parts == 1 && plan.widestStorage == 2 && gradients <= 64;
  llvm::SetVector<Value> uniformReads(plan.uniformReads.begin(), plan.uniformReads.end());
  // Behind the first stage, rows wait for maths: what it reads from memory would take longer than the maths.
  if (choice.columns)
    for (const StagePlan &stage : llvm::drop_begin(plan.stagePlans))
      for (Value value : readsOf(stage.recordWrites.getArrayRef(), {}))
        if (plan.isUniform(value))
          uniformReads.insert(value);
  std::string uniform = emitUniformRecord(("MainUniform" + suffix).str(), uniformReads.getArrayRef(), places, numbers);

  llvm::DenseSet<Value> made; // in a record by now
  for (auto &[value, offset] : plan.record)
    if (Operation *op = value.getDefiningOp(); op && hc::sumsOverChannels(op))
      made.insert(value);
  std::vector<std::string> stages;
  std::vector<int64_t> sums, published;
  int64_t firstSum = 0; // of the first stage, in the record
  bool reduces = false;
  Places rowPlaces = places;
  if (choice.columns && mlir::failed(planColumns(rowPlaces))) {
    failed = true;
    return;
  }
  for (auto [stage, stagePlan] : llvm::enumerate(plan.stagePlans)) {
    if (isEmpty(stagePlan))
      continue;
    // Where owners make a token's coefficients, what no row waits for comes behind what rows wait for.
    llvm::MapVector<Value, int64_t> fetched;
    auto emitMaths = [&](StringRef className, llvm::ArrayRef<Value> writes,
                         llvm::ArrayRef<Store> stores) -> std::string {
      if (writes.empty() && stores.empty())
        return "Nothing";
      std::string maths = formatv("{0}{1}{2}", className, stage, suffix);
      Places coefficientPlaces = places;
      coefficientPlaces.record.clear();
      coefficientPlaces.fetched.insert(fetched.begin(), fetched.end());
      for (Value value : made)
        coefficientPlaces.record[value] = plan.record.lookup(value);
      BodyEmitter emitter = body(maths, BodyEmitter::Kind::Coefficients, coefficientPlaces);
      for (Value value : writes)
        emitter.writeRecord(value, plan.record.lookup(value));
      llvm::StringSet<> references;
      for (const Store &store : stores)
        if (references.insert(store.reference).second)
          emitter.storeCoefficients(store.value, store.reference);
      close(emitter);
      numbers.scratch = std::max(numbers.scratch, emitter.scratch());
      made.insert(writes.begin(), writes.end());
      return maths;
    };
    std::string maths = "Nothing", late, fetch = "Nothing";
    llvm::ArrayRef<Value> writes = stagePlan.recordWrites.getArrayRef();
    if (stage == 0 && !columns.image.empty()) {
      made.insert(writes.begin(), writes.end());
    } else if (choice.columns && stage > 0) {
      int64_t size = 0;
      for (Value value : readsOf(writes, made))
        if (!plan.isUniform(value)) {
          fetched[value] = size;
          size += llvm::alignTo(hc::elementCount(value.getType()), 4);
        }
      if (size > 0) {
        fetch = formatv("Fetch{0}", stage);
        Places memory; // nothing else is there yet
        memory.memory = places.memory;
        BodyEmitter emitter = body(fetch, BodyEmitter::Kind::Coefficients, memory);
        for (auto &[value, offset] : fetched)
          emitter.writeFetched(value, offset);
        close(emitter);
      }
      columns.fetched = std::max(columns.fetched, size);
      maths = emitMaths("Coefficients", writes, {});
      late = emitMaths("Late", {}, stagePlan.stores);
      columns.late |= late != "Nothing";
      late = ", " + late + (fetch == "Nothing" ? "" : ", " + fetch);
    } else {
      maths = emitMaths("Coefficients", writes, stagePlan.stores);
    }
    std::string passText;
    int64_t stageSums = 0;
    for (auto [index, pass] : llvm::enumerate(stagePlan.passes)) {
      std::string className = formatv("Rows{0}_{1}{2}", stage, index, suffix);
      BodyEmitter emitter = body(className, BodyEmitter::Kind::Rows, rowPlaces);
      auto placeOf = [&](const Store &store) -> std::string {
        auto kept = columns.kept.find(store.value);
        bool first = kept != columns.kept.end() && StringRef(kept->second).contains(store.reference);
        return first ? kept->second : store.reference;
      };
      auto holdAll = [&](bool made) {
        for (const auto &held : columns.held)
          if (held.by == &pass && (held.value.getDefiningOp() != nullptr) == made)
            emitter.holdRows(held.value, held.place);
      };
      holdAll(/*made=*/false);
      auto release = [&] {
        for (auto [ringIndex, ring] : llvm::enumerate(columns.rings))
          if (ring.early && ring.by.first == &pass)
            emitter.releaseRing(static_cast<int64_t>(ringIndex), ring.by.second);
      };
      // Where one stage does all, rows that a weight gradient does not need are loaded behind it, and without one each
      // as it is used: there are no registers for all of them.
      const bool alone = sweepingStages() == 1;
      if (!alone)
        release();
      holdAll(/*made=*/true);
      for (Operation *op : plan.sweptGradients)
        if (auto gradient = cast<hc::WeightGradOp>(op); sweepOf(gradient) == &pass) {
          int64_t tiles = llvm::divideCeil(cast<hc::WeightType>(gradient.getType()).getColumns(), 8);
          emitter.sumTiles(gradient, tiles, columns.gradientTiles);
          emitter.storeTiles(plan.memory.memory.lookup(gradient.getResult()), gradient, tiles, columns.gradientTiles);
          columns.gradientTiles += sumRegisters(gradient) / 4;
          if (!StringRef(columns.gradientSweeps).ends_with(className))
            columns.gradientSweeps += ", " + className;
        }
      if (alone && !plan.sweptGradients.empty())
        release();
      auto storeAll = [&] {
        for (const Store &store : pass.stores)
          emitter.storeRows(store.value, placeOf(store));
      };
      // Reads of staged weights do not pass stores: there, sums come first.
      if (!choice.columns)
        storeAll();
      std::string passOf = formatv("Pass<{0}, {1}, {2}, {3}", className, pass.squares ? 0 : pass.slots,
                                   pass.squares ? pass.slots : 0, pass.tiles);
      for (const ReductionPart &part : pass.parts)
        emitter.reduce(part.op, part.slot, part.begin, part.count, part.columnBegin, part.columns, pass.squares);
      if (alone && plan.sweptGradients.empty())
        release();
      for (const RecordSegment &segment : pass.segments)
        passOf += formatv(", Segment<{0}, {1}, {2}>", segment.slot, segment.count, segment.record).str();
      passOf += ">";
      passText += ", " + (asApart ? sharingOf(pass, passOf, rowPlaces) : passOf);
      if (choice.columns)
        storeAll();
      close(emitter);
      reduces |= !pass.parts.empty();
      // Rows that were stored without loss are read again by the same lanes.
      for (const Store &store : pass.stores)
        if (plan.storesWithoutLoss(store))
          rowPlaces.memory[store.value] = placeOf(store);
      stageSums += pass.sums();
    }
    for (const auto &held : columns.held)
      if (llvm::any_of(stagePlan.passes, [&](const SweepPass &pass) { return held.by == &pass; }))
        rowPlaces.memory[held.value] = held.place;
    std::string text = formatv("Stage<{0}{1}>", maths, passText);
    auto [first, count] = choice.columns && stage > 0 ? publishedRange(stage) : std::pair<int64_t, int64_t>();
    if (choice.columns && stages.size() == 1 && stagePlan.passes.empty() && count == 0 && sums.front() > 0)
      first = firstSum, count = 4; // no sweep waits: the owners' word that they have read the sums
    if (stages.empty() && !stagePlan.passes.empty() && !stagePlan.passes.front().segments.empty())
      firstSum = stagePlan.passes.front().segments.front().record;
    stages.push_back(choice.columns ? formatv("Publish<{0}, {1}, {2}{3}>", first, count, text, late).str() : text);
    sums.push_back(stageSums);
    published.push_back(count);
  }
  if (choice.columns) {
    llvm::SmallVector<StringRef> texts(stages.begin(), stages.end());
    failed |= mlir::failed(finishColumns(texts, sums, published, uniform));
    return;
  }
  if (asApart) {
    failed |= mlir::failed(finishSharing(stages, uniform));
    return;
  }
  int64_t tile = numbers.tokenLanes * numbers.tokens, exchange = llvm::alignTo(tile * mainSums, 4);
  auto sharedNumbers = [&] {
    return llvm::alignTo(numbers.uniform, 4) + tile * numbers.record +
           (numbers.warps + (numbers.cluster > 1 ? 2 : 0)) * exchange + numbers.warps * numbers.scratch;
  };
  while (!choice.warps && !choice.ranges && numbers.warps > 1 && sharedNumbers() * plan.elementBytes > leastShared)
    numbers.warps /= 2;
  int64_t shared = sharedNumbers();
  bool streams = !reduces && stages.size() == 1;
  add(formatv("using Main = {0};", shape(numbers)).str());
  std::string call = formatv("{0}<Main, {1}", streams ? "streaming" : "rowReduced", uniform);
  for (const std::string &stage : stages)
    call += ",\n      " + stage;
  call += ">";
  json::Object launch{{"shared_bytes", shared * plan.elementBytes}};
  if (apart)
    launch["otherwise"] = true;
  if (streams) {
    int64_t chunk = 32 / numbers.tokenLanes * vector * numbers.warps;
    launch["grid"] = json::Object{{"kind", "tokens"}, {"tokens_per_block", tile}};
    launch["grid_y"] = static_cast<int64_t>(llvm::divideCeil(llvm::divideCeil(plan.width, chunk), 2));
  } else {
    launch["grid"] = json::Object{{"kind", "persistent"}, {"per_sm", minBlocks}};
    launch["tokens_per_block"] = tile;
  }
  entry("main", call, 32 * numbers.warps, minBlocks, std::move(launch), numbers.cluster);
  useRows();
}

void SourceBuilder::useRows() {
  used = choice;
  used.blocks = minBlocks, used.cluster = mainShape.cluster, used.slots = slots;
  // Weights as stored need no number: planes is said where they are packed, or where that was ruled out.
  used.planes = tiled ? 2 : choice.planes == 0 ? 0 : -1;
  used.tokens = mainShape.tokenLanes * mainShape.tokens, used.vector = mainShape.vector, used.warps = mainShape.warps;
}
