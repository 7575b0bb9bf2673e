//===- CudaShape.cpp - The numbers of a kernel's schedule -----------------===//
// SPDX-License-Identifier: Apache-2.0
//
// Rules made from measurements on an H200 (8192 tokens, D = 1280 .. 7168);
// what they weigh is rows alive in registers, not names of variants.
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

LogicalResult cuda::parseSchedule(hc::FuncOp kernel, StringRef text, Choice &choice) {
  StringRef skeleton = text.split(':').first;
  if (!text.empty() && skeleton != "auto" && skeleton != "rows" && skeleton != "columns")
    return kernel.emitError() << "schedule '" << text << "' names the skeleton '" << skeleton
                              << "'; CUDA kernels have 'rows' and 'columns'";
  choice.columns = skeleton == "columns";
  std::vector<ScheduleNumber> numbers = {{"chunks", &choice.chunks, 1, 256},
                                         {"cluster", &choice.cluster, 1, 16, /*power=*/!choice.columns},
                                         {"planes", &choice.planes, 0, 2},
                                         {"slots", &choice.slots, 32, 96},
                                         {"tokens", &choice.tokens, 1, 16, /*power=*/true},
                                         {"vector", &choice.vector, 1, 8, /*power=*/true},
                                         {"warps", &choice.warps, 1, 16}};
  if (choice.columns) {
    numbers.push_back({"lag", &choice.lag, 1, 8});
    numbers.push_back({"parts", &choice.parts, 1, 8});
    numbers.push_back({"preparers", &choice.preparers, 1, 12});
    numbers.push_back({"ring", &choice.ring, 2, 32});
  } else {
    numbers.push_back({"apart", &choice.apart, 1, 100});
    numbers.push_back({"blocks", &choice.blocks, 1, 8});
    numbers.push_back({"ranges", &choice.ranges, 1, 16});
  }
  llvm::sort(numbers, [](const ScheduleNumber &a, const ScheduleNumber &b) { return a.name < b.name; });
  return readSchedule(kernel, text, choice.columns ? "columns" : "rows", "CUDA kernels", numbers);
}

std::string cuda::writeRows(const Choice &choice) {
  if (choice.columns)
    return writeSchedule("columns", {{"chunks", choice.chunks},
                                     {"cluster", choice.cluster},
                                     {"lag", choice.lag},
                                     {"parts", choice.parts > 1 ? choice.parts : -1},
                                     {"planes", choice.planes},
                                     {"preparers", choice.preparers},
                                     {"ring", choice.ring},
                                     {"slots", choice.slots},
                                     {"tokens", choice.tokens},
                                     {"vector", choice.vector},
                                     {"warps", choice.warps}});
  return writeSchedule("rows", {{"apart", choice.apart ? choice.apart : -1},
                                {"blocks", choice.blocks},
                                {"chunks", choice.chunks},
                                {"cluster", choice.cluster},
                                {"planes", choice.planes},
                                {"ranges", choice.ranges ? choice.ranges : -1},
                                {"slots", choice.slots},
                                {"tokens", choice.tokens},
                                {"vector", choice.vector},
                                {"warps", choice.warps}});
}

/// Sums that one sweep makes at most: few keep registers free, but hundreds of sums in small portions are as many
/// sweeps. Each sweep makes an expansion anew, for which it reads wide weights: that is worth registers, for all sums
/// of a stage of up to eight streams (of 4096 channels, an H100: 3262 us instead of 4600, with 84 spilled bytes), else
/// for a matrix of dots as a whole. (Kernels in columns have their weights at hand, and few sums.)
int64_t cuda::slotsOf(hc::FuncOp kernel, const KernelPlan *expanding) {
  int64_t sums = 0, most = 0, ofStage = 0;
  hc::Uniformity uniformity;
  for (Operation &op : kernel.getEntry().without_terminator())
    if (hc::sumsOverChannels(&op) && !uniformity.isUniform(op.getResult(0))) {
      int64_t count = hc::elementCount(op.getResult(0).getType());
      sums += count;
      if (!isa<hc::ProjectOp>(op))
        most = std::max(most, count);
    }
  constexpr int64_t many = 96;
  if (sums > 384)
    return many;
  if (!expanding)
    return 32;
  for (const StagePlan &stage : expanding->stagePlans) {
    int64_t count = 0;
    for (const SweepPass &pass : stage.passes)
      count += pass.slots;
    ofStage = std::max(ofStage, count);
  }
  return ofStage <= many ? many : std::clamp<int64_t>(most, 48, 64);
}

int64_t cuda::recordStride(int64_t size) {
  int64_t stride = llvm::alignTo(std::max<int64_t>(size, 4), 4);
  return stride % 8 == 4 ? stride : stride + 4;
}

/// Of 4 to `most` warps, those that share `units` pieces of a row most evenly.
static int64_t evenWarps(int64_t units, int64_t most) {
  int64_t best = std::clamp<int64_t>(units, 1, most), least = llvm::alignTo(units, best) - units;
  for (int64_t warps = best - 1; warps >= 4; --warps)
    if (int64_t waste = llvm::alignTo(units, warps) - units; waste < least)
      best = warps, least = waste;
  return best;
}

/// A warp reads as much of one row together as there is (measured: long runs win); the number of warps is the one that
/// leaves the fewest lanes idle in the last round.
ShapeNumbers SourceBuilder::tileShape(int64_t vector, int64_t mostWarps) {
  ShapeNumbers numbers;
  numbers.vector = vector;
  int64_t pieces = llvm::divideCeil(plan.width, vector);
  int64_t lanes = pieces >= 256 ? 32 : pieces >= 64 ? 16 : pieces >= 16 ? 8 : 4;
  numbers.tokenLanes = choice.tokens ? std::min<int64_t>(choice.tokens, 8) : 32 / lanes;
  numbers.warps = choice.warps ? choice.warps : evenWarps(llvm::divideCeil(pieces, 32 / numbers.tokenLanes), mostWarps);
  return numbers;
}

/// Shape, blocks an SM and cluster of the main kernel. Nothing here depends on the token count: a token's sums keep
/// their order whatever the batch.
LogicalResult SourceBuilder::chooseMain() {
  if (choice.columns)
    return chooseColumns();
  // The pass under most pressure decides the vector of all: lanes keep their channels from stage to stage.
  bool reduces = false;
  // Planes of a wide weight come from L2 for every tile: two tokens a lane halve that. Rows of 32 bits leave them no
  // registers.
  int64_t repeat = choice.tokens                          ? (choice.tokens > 8 ? choice.tokens / 8 : 1)
                   : !choice.ranges && readsManyWeights() ? 2
                                                          : 1;
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
  mainReduces = reduces;
  // Warps of a block wait for one another's sums: many small blocks do so less often together (measured).
  bool small = reduces && !tiled && !plan.wide();
  mainShape = tileShape(vector, small ? 5 : 8);
  // Two CTAs of 8 warps have 128 registers a lane, one of 12 has 168, one of 8 has 255. An expansion of 8 columns fits
  // the first, one of 24 the second; one of 32 (a mixture of 24 permutations) spilled there a few registers.
  int64_t expandedColumns = 0;
  for (Value weight : plan.expanded)
    expandedColumns = std::max(expandedColumns, cast<hc::WeightType>(weight.getType()).getColumns());
  // An expansion just fits 128 registers where addresses are shifts.
  bool two =
      tiled && heaviest <= 130 && expandedColumns <= 8 && (plan.expanded.empty() || llvm::isPowerOf2_64(plan.width));
  if (tiled) {
    mainShape.tokenLanes = 8;
    mainShape.tokens = repeat;
    int64_t pieces = llvm::divideCeil(plan.width, 4 * vector);
    bool twelve = !two && heaviest <= 130 && expandedColumns <= 24 && pieces >= 48;
    mainShape.warps = choice.warps    ? choice.warps
                      : choice.ranges ? choice.ranges
                      : twelve        ? 12
                                      : std::clamp<int64_t>(llvm::PowerOf2Ceil(pieces), 1, 8);
  }
  mainShape.record = recordStride(plan.recordSize);
  while (!tiled && mainShape.tokenLanes > 1 && mainShape.tokenLanes * mainShape.record * plan.elementBytes > 49152)
    mainShape.tokenLanes /= 2;
  minBlocks = choice.blocks ? choice.blocks : two && mainShape.warps <= 8 ? 2 : small && mainShape.warps <= 5 ? 3 : 1;
  const Generation generation(target);
  if (choice.cluster > 1 && !generation.clusters())
    return kernel.emitError() << "schedule: cluster is " << choice.cluster << ", but " << target << " has no clusters";
  if (choice.cluster > generation.largestCluster)
    return kernel.emitError() << "schedule: cluster is " << choice.cluster << "; " << target
                              << " has clusters of up to " << generation.largestCluster << " blocks";
  if (32 * mainShape.warps * minBlocks > generation.threads)
    return kernel.emitError() << "schedule: blocks is " << minBlocks << ", of " << mainShape.warps
                              << " warps; a processor of " << target << " holds " << generation.threads / 32
                              << " warps";
  if (choice.cluster > 1 && !reduces)
    return kernel.emitError("schedule: cluster above 1 is for kernels that reduce over channels");
  mainShape.cluster = choice.cluster ? choice.cluster : 1;
  if (mlir::failed(checkRanges()))
    return failure();
  liveRows = heaviest / std::max<int64_t>(1, vector * repeat * (plan.elementBytes / 4));
  if (tiled)
    placePlanes();
  return success();
}

/// Whether sums of rows of 16 bits read so many weights that L2 bounds the kernel.
bool SourceBuilder::readsManyWeights() const {
  int64_t bytes = 0;
  for (Value weight : plan.projected)
    bytes += hc::elementCount(weight.getType()) * 4;
  return tiled && plan.widestStorage == 2 && plan.expanded.empty() && bytes > (1 << 19);
}

/// Of the weight with the most.
int64_t SourceBuilder::projectedColumns() const {
  int64_t most = 0;
  for (Value weight : plan.projected)
    most = std::max<int64_t>(most, cast<hc::WeightType>(weight.getType()).getColumns());
  return most;
}

/// What `ranges` and `apart` need.
LogicalResult SourceBuilder::checkRanges() {
  auto refuse = [&](const llvm::Twine &why) { return kernel.emitError() << "schedule: " << why; };
  if (choice.apart && !choice.ranges)
    return refuse("apart is for kernels with ranges");
  if (!choice.ranges)
    return success();
  if (!tiled || !mainReduces)
    return refuse("ranges is for kernels that use tensor cores and make sums");
  if (mainShape.cluster > 1)
    return refuse("ranges is for blocks, and cluster is " + llvm::Twine(mainShape.cluster));
  if (choice.ranges != mainShape.warps)
    return refuse("ranges is " + llvm::Twine(choice.ranges) + ", and each of " + llvm::Twine(mainShape.warps) +
                  " warps has one");
  if (choice.apart && !Generation(target).clusters())
    return refuse("apart needs bulk copies, which " + target + " lacks");
  return success();
}

/// Whether a weight is made number by number of what lies in memory before the main kernel.
bool SourceBuilder::isDirect(Value weight) {
  if (plan.memory.memory.count(weight))
    return true;
  Operation *op = weight.getDefiningOp();
  return op && !hc::sumsOverChannels(op) && llvm::all_of(op->getOperands(), [&](Value operand) {
           return isa<hc::CoeffsType>(operand.getType()) ? plan.memory.memory.count(operand) > 0 : isDirect(operand);
         });
}

/// The prologue packs the weights of projections and expansions for the main kernel's vector; clusterColumns packs
/// those of projections itself where it can. With those of expansions packed there, too, some widths spill.
void SourceBuilder::placePlanes() {
  int64_t chunks = llvm::divideCeil(plan.width, 4 * mainShape.vector);
  auto place = [&](Value weight, StringRef kind, bool expands, llvm::DenseMap<Value, std::string> &planes) {
    auto type = cast<hc::WeightType>(weight.getType());
    const int64_t bytes = type.getRows() * chunks * planesOfChunk(weight, expands);
    if (bytes / 8 > std::numeric_limits<int32_t>::max()) { // templates count them by an int
      hc::refuseBeyondLimits(kernel) << "a weight of " << type.getRows() << " x " << plan.width << " x "
                                     << type.getColumns() << " needs " << bytes
                                     << " bytes packed for tensor cores; at most 16 GiB are supported: "
                                     << "fewer streams or channels need less";
      failed = true;
    }
    if (choice.columns && !expands && isDirect(weight)) {
      columns.packed.insert(weight);
      planes[weight] = formatv("{0}<Nothing, {1}, {2}, {3}, {4}>", kind, type.getRows(), type.getColumns(), plan.width,
                               mainShape.vector);
      return;
    }
    int64_t offset = plan.fixedBytes;
    plan.fixedBytes += llvm::alignTo(bytes, 256);
    planes[weight] =
        formatv("{0}<Space::Fixed<{1}>, {2}, {3}, {4}, {5}{6}>", kind, offset, type.getRows(), type.getColumns(),
                plan.width, mainShape.vector, expands ? formatv(", {0}", planesOfExpansion(weight)).str() : "");
    plan.prologueStores.push_back({weight, planes[weight], true});
  };
  plan.fixedBytes = llvm::alignTo(plan.fixedBytes, 256);
  for (Value weight : plan.projected)
    place(weight, "ProjectionPlanes", /*expands=*/false, projection);
  for (Value weight : plan.expanded)
    place(weight, "ExpansionPlanes", /*expands=*/true, expansion);
}

/// Bytes of a row's packed weights for 4 vectors of channels.
int64_t SourceBuilder::planesOfChunk(Value weight, bool expands) const {
  int64_t columnsOf = cast<hc::WeightType>(weight.getType()).getColumns(), vector = mainShape.vector;
  if (!expands)
    return vector / 4 * llvm::divideCeil(columnsOf, 8) * 512;
  int64_t steps = columnsOf % 16 > 8 || columnsOf % 16 == 0 ? llvm::divideCeil(columnsOf, 16) : columnsOf / 16;
  return vector / 2 * (128 * steps + (columnsOf > 16 * steps ? 64 : 0)) * 2 * planesOfExpansion(weight);
}
