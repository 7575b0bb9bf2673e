//===- CudaRings.cpp - What lies where in the skeleton clusterColumns -----===//
// SPDX-License-Identifier: Apache-2.0
//
// What goes where in shared memory: rows of a tile in slots of a ring, the
// CTA's part of packed weights, records, sums. templates/hyperjit/
// columns_block.cuh checks the total when it is compiled.
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// As in the skeleton.
static constexpr int64_t mostRings = 4;

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
      plan.loadsOf(pass, stored, loads, passes.back().made);
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
  auto inPairs = [&](Value value, StringRef reference) {
    return bytesOf(value, reference) == rowsOf(value) * channels * 2;
  };
  auto wordsOf = [&](Value value) { return mainShape.tokens * rowsOf(value) * mainShape.vector / 2; };
  // Two tiles between stages where registers hold the rows of both and the sums of sixteen blocks take longer than a
  // tile (us of a boundary forward, an H100, one and two tiles: of 4096 channels four streams 260 and 251, three 201
  // and 192; in clusters of eight, of 2048, 135 and 140, 103 and 107; in slots, three of 7168 331 and 351; beside an
  // expansion, backward, dynamic 363 and 395). What several clusters tell each other is on its way for longer (us of a
  // boundary, an H100: four streams of 7168 channels forward 731 with one, 563 with two, 524 with three; of 8192, which
  // registers hold for four tiles, too, 599 with two, 565 with three, 528 with four). Beside an expansion, backward with
  // two, three and four: three streams of 7168 channels 972, 927, 901; four of 8192 1221, 1164 and no room; of streams
  // of 32 bits, four of 4096, 884, 954, 949.
  constexpr int64_t most = 4;
  int64_t words = 0; // that a lane may hold of a tile
  for (auto &[value, use] : uses) {
    auto stored = storedAt.find(value);
    const bool loaded = stored == storedAt.end();
    if (chunks == mainShape.warps && use.last > (loaded ? use.first : stored->second.stage) &&
        inPairs(value, loaded ? plan.memory.memory.lookup(value) : stored->second.reference))
      words += wordsOf(value);
  }
  const int64_t between = expands()                             ? plan.widestStorage == 2 ? most : 2
                          : columns.stages > 2                  ? 2
                          : (most + 1) * words <= heldRegisters ? most
                                                                : 3;
  const bool farApart = mainShape.cluster >= 16 && chunks == mainShape.warps && laneRegisters() > 128;
  columns.lag = choice.lag                                      ? choice.lag
                : mainShape.parts > 1                           ? between
                : farApart && columns.stages == 2 && !expands() ? 2
                                                                : 1;
  if (expands() && columns.lag > 1) // with no room at all four streams spilled
    heldRegisters -= 8;

  // Rows that the next stage reads again stay in the lane that owns them, if it is the same and registers are left.
  auto hold = [&](Value value, StringRef reference, bool pairs, int64_t from, int64_t first, int64_t last) {
    int64_t words = wordsOf(value);
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
  // A stored value: the entry whose place it takes. Numbers of one size: a lane writes where it has read, and nowhere
  // else.
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
      columns.weightBytes += type.getRows() * chunks * planesOfChunk(weight, expands);
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
    constexpr int64_t packingSteps = 4; // packing.cuh
    int64_t barriers = 2 * slots + 2 * records + 1 + (columns.packs.empty() ? 0 : packingSteps);
    int64_t bytes = llvm::alignTo(8 * (barriers + count * (2 * records + 4)), 16);
    constexpr int64_t line = 128; // weights and rows begin at one
    bytes = llvm::alignTo(llvm::alignTo(bytes + 4 * numbers.uniform, line) + columns.weightBytes, line);
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
  // The rest is for rows on their way, in turn, where they have the fewest sweeps' time: a slot that the last stage
  // gives back is filled for the first stage of a tile `ahead` later.
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
    exchange = formatv(", Exchange<{0}, {1}>", numbers.parts, perTokenReference(offset));
    constexpr int64_t threads = 256;
    int64_t tokens = llvm::divideCeil(4 * threads, words / 2); // of a block
    entry("clear", formatv("clearWords<{0}, {1}>", perTokenReference(offset), words / 2).str(), threads, 1,
          json::Object{{"grid", json::Object{{"kind", "tokens"}, {"tokens_per_block", tokens}}}}, /*cluster=*/1,
          /*bare=*/true);
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
