//===- CudaSchedule.cpp - What "auto" means, and what else is legal -------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

#include "mlir/Target/Cpp/CppEmitter.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// Tiles between stages: as many as pay, or as fit.
constexpr int64_t lags[] = {0, 3, 2, 1};

/// The most rows that an operand has of a token, and the widest of them.
static std::pair<int64_t, int64_t> tokenRows(hc::FuncOp kernel) {
  hc::Uniformity uniformity;
  int64_t most = 1, width = 0;
  for (Value argument : kernel.getBody().getArguments())
    if (auto rows = dyn_cast<hc::RowsType>(argument.getType()); rows && !uniformity.isUniform(argument)) {
      most = std::max<int64_t>(most, rows.getRows());
      width = std::max<int64_t>(width, rows.getWidth());
    }
  return {most, width};
}

/// Microseconds of a tile of clusterColumns beyond what memory takes for it, as measured on an H200 (4170 GB/s) of
/// sites of one to four streams of 1280 to 8192 channels forward: with one tile between stages, sums and what follows
/// from them are waited for where memory is done with a tile sooner; few tiles ahead leave memory idle.
static double waitOfTile(const Choice &choice, int64_t ahead, double memory) {
  if (choice.tokens > 8)
    return (choice.lag > 1 ? 0.25 : 0.45) + (ahead < 3 ? 0.05 : 0);
  const double wait = choice.lag > 2 && choice.cluster > 8 ? 0.17 : choice.lag > 1 ? 0.2 : memory < 1.4 ? 0.4 : 0.25;
  return wait + (ahead < 3 ? 0.25 : 0);
}

/// Bytes of a token's rows that the kernel reads and writes: u counts rows of all fractions of the channels.
static int64_t wideBytesOf(hc::FuncOp kernel, int64_t width, int64_t storage) {
  auto number = [&](StringRef attribute, int64_t otherwise) {
    auto found = kernel->getAttrOfType<IntegerAttr>(attribute);
    return found ? found.getInt() : otherwise;
  };
  return (number("hc.reads_u", 0) + number("hc.writes_u", 0)) * number("hc.m", 1) * width * storage;
}

/// What "auto" means: sums and what follows from them in flight together where tensor cores make the sums and the
/// kernel fits a cluster, else row by row.
///
/// Wide parts of a row leave the fewest sums to exchange, so small clusters are looked at first. Above 320 channels
/// (1280 of all streams, if that is more; 256 to 640 beside an expansion) a block has too many warps to hold rows in
/// registers: such parts come second, the first cluster with three tiles ahead, or the largest with two; beside an
/// expansion three streams of them leave a lane too few registers (6144 channels, an H100: 666 us, 631 where three
/// clusters share a row). With less than two tiles ahead (measured) memory waits for the sums. Where a cluster is too
/// small several share a row, as few of them as leave a block room; an expansion then wants registers of the other
/// warps, which go over by fours, and more tiles ahead than one cluster has (four streams of 4096 channels and 32
/// columns, an H100: a site of a chain 701 us; on one cluster, of an earlier state, 647). Few warps leave a processor
/// idle: narrow rows take 4 channels a lane, which makes twice as many. More than four streams leave a lane no
/// registers for 8 channels of each.
static Choice chooseSkeleton(hc::FuncOp kernel, StringRef target) {
  const auto [streams, width] = tokenRows(kernel);
  constexpr int64_t leastWidth = 1024, leastWarps = 6, leastBytes = 448;
  if (streams > 4 || width < leastWidth)
    return Choice();
  ScopedDiagnosticHandler quiet(kernel.getContext(), [](Diagnostic &) { return success(); });
  struct Candidate {
    Choice choice;
    int64_t ahead = 0, channels = 0, storage = 0, warps = 0; // tiles; of a block; bytes of a number; of a block
    bool held = false;                                       // few enough channels to hold rows
    bool expands = false, tensorCores = false, readsAgain = false;
  };
  // Beside an expansion, as measured (H200, us, wide parts and narrow ones of four channels a lane): one stream of 1280
  // channels 74 and 107, of 2560 119 and 187; two of 1280 (an H100) 127 and 100, whose narrow parts sum weight
  // gradients, too; three of 2560 241 and 304. Four whose weight gradients have a launch of their own of 1280 181 and
  // 191, of 2560 345 and 373; where main sums them (dynamic) of 2560 378 and 331, of 5120 742 instead of 550 where
  // clusters share rows.
  auto expanded = [streams = streams](bool readsAgain) {
    return streams == 1 ? 768 : streams == 3 || (streams == 4 && readsAgain) ? 320 : 256;
  };
  auto make = [&](int64_t cluster, int64_t parts, int64_t vector, int64_t lag,
                  int64_t tokens = 0) -> std::optional<Candidate> {
    Choice choice;
    choice.columns = true;
    choice.cluster = cluster, choice.parts = parts, choice.vector = vector, choice.lag = lag, choice.tokens = tokens;
    CudaSource source;
    SourceBuilder builder(kernel, target, choice, source);
    if (!builder.run() || builder.tilesAhead() < 1)
      return std::nullopt;
    // Without weights it is dots of four rows and more that tensor cores pay for, with four tiles ahead in one cluster
    // and warps in fours, which take registers from others (of 4096 channels, an H200: after, backward, 233 us instead
    // of 291; a boundary of constant coefficients 259 instead of 286, of four fracs 119, where a site of a chain took
    // 158).
    if (builder.tensorCores()
            ? builder.computeWarps() < leastWarps
            : parts > 1 || streams < 4 || !builder.dotsRows() || builder.tilesAhead() < 4 || builder.computeWarps() % 4)
      return std::nullopt;
    Candidate made;
    made.choice = choice;
    made.ahead = builder.tilesAhead();
    made.channels = builder.blockChannels();
    made.storage = builder.widestStorage();
    made.warps = builder.computeWarps();
    made.expands = builder.expands();
    made.tensorCores = builder.tensorCores();
    made.readsAgain = builder.readsRowsAgain();
    made.held = made.channels <= (made.expands ? expanded(made.readsAgain) : std::max<int64_t>(320, 1280 / streams));
    return made;
  };
  // Four where clusters share rows and slots leave room for two (four streams of 7168 channels forward, an H100, 499 us
  // instead of 512; with room for one, of 6144, 597 instead of 433).
  auto muchLater = [&](const Candidate &one) {
    std::optional<Candidate> four;
    if (!one.expands && one.choice.lag == 0)
      four = make(one.choice.cluster, one.choice.parts, 0, 4);
    return four && four->ahead >= 2 ? four->choice : one.choice;
  };
  // Where memory is faster than an H100's, what a tile waits for shows (us, an H200: three streams of 2048 channels
  // forward 93 with one tile between stages, 78 with two; of 4096, with two, 156, and 143 with sixteen tokens a tile;
  // two of 6144 197 and 157). Few tokens gain nothing from more of them a tile, nor do four streams, whose rows take
  // the registers, nor clusters of two and four whose tiles take memory longer than they wait. Rows in two planes are
  // bound by instructions (fp16 240 with two tiles, 246 with three). An H100, whose memory takes 1.3 to 1.6 us a tile of
  // these, lost 3 to 4 %.
  auto bucket = kernel->getAttrOfType<StringAttr>("hc.bucket");
  const bool few = bucket && bucket.getValue() == "small";
  bool twoPlanes = false;
  kernel.walk([&](hc::ProjectOp project) { twoPlanes |= planesOf(project.getInput()) > 1; });
  auto later = [&](const Candidate &one) {
    constexpr int64_t tile = 8;
    const double copyGBs = Generation(target).copyGBs,
                 memory = double(tile * wideBytesOf(kernel, width, one.storage) *
                                 clustersAtOnce(processorsOfH100, one.choice.cluster)) /
                          copyGBs / 1e3; // us of a tile
    if (copyGBs < 3500 || one.expands || !one.tensorCores || (one.choice.cluster < 8 && memory >= 1.3))
      return one.choice;
    const bool twice = !few && streams < 4 && one.choice.cluster >= 8 && memory < 1.2;
    Choice best = one.choice;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t tokens = tile; tokens <= (twice ? 2 * tile : tile); tokens += tile)
      for (int64_t lag = 1; lag <= (tokens > tile || twoPlanes ? 2 : 3); ++lag) {
        std::optional<Candidate> other = make(one.choice.cluster, 1, one.choice.vector, lag, tokens);
        if (!other || other->ahead < 2)
          continue;
        if (const double wait = waitOfTile(other->choice, other->ahead, memory) / double(tokens); wait < least)
          least = wait, best = other->choice;
      }
    return best;
  };
  // Beside an expansion of one stream or two the smallest cluster with two tiles ahead, if it has registers for weight
  // gradients, too, and two tiles between stages where that leaves two ahead (us, an H200: two streams of 2560 channels
  // backward 178 in clusters of sixteen, 128 of four; of 5120 311 and, of eight, 233; of 4096 196, 183 and, with two
  // tiles between stages, 176; of 1280, four channels a lane, 94 of eight and 75 of two; one of 4096 141 of eight, 129
  // of four; of 8192 232 and 216). Narrow parts wait for one another more often.
  bool expands = true;
  for (int64_t cluster = 2; streams <= 2 && expands && cluster <= 16; cluster *= 2)
    for (int64_t vector : {0, 4}) {
      std::optional<Candidate> one = make(cluster, 1, vector, 1);
      if (one && !(expands = one->expands))
        break;
      // Narrow parts of 896 channels go over them in seven rounds (two streams of 7168, before: 358 instead of 226).
      if (!one || one->ahead < 2 || one->readsAgain || (vector == 4 && one->channels > 640))
        continue;
      std::optional<Candidate> two = make(cluster, 1, vector, 2);
      return two && two->ahead >= 2 && !two->readsAgain ? two->choice : one->choice;
    }
  std::optional<Candidate> held, wide;
  for (int64_t cluster : {2, 4, 8, 16})
    for (int64_t vector : {0, 4}) {
      std::optional<Candidate> one = make(cluster, 1, vector, 0);
      // Four rows whose weight gradients main sums want three tiles ahead in small clusters (four fracs of 1024 channels
      // 195 in clusters of four with two, 173 of eight, four channels a lane, with five).
      const bool slow = one && one->expands && streams == 4 && !one->readsAgain && cluster < 8 && one->ahead < 3;
      if (one && one->held && !slow) {
        // Four channels a lane only where eight do not fit: a slot less ahead costs four streams less.
        const bool narrow = one->expands && streams == 4 && vector == 4 && held && held->choice.vector == 0;
        if (one->ahead >= 2 && !narrow) {
          // Three streams beside an expansion (us, an H200: 2048 channels 175 instead of 186, 1280 145 and 148, 2560 232
          // and 231; of 4096, in clusters of sixteen, 316 instead of 308).
          if (one->expands && streams == 3 && cluster <= 8)
            if (std::optional<Candidate> two = make(cluster, 1, vector, 2); two && two->ahead >= 2)
              return two->choice;
          return later(*one);
        }
        if (!narrow && (vector == 0 || !held || held->choice.cluster != cluster))
          held = one;
      } else if (vector == 0) {
        if (!one || one->ahead < 2)
          one = make(cluster, 1, vector, 1);
        // Beside an expansion of three streams as far as warps go over their rows in two rounds and there are enough of
        // them, in the largest cluster also with one tile ahead (us, an H200: of 7168 channels, seven warps, 603 instead
        // of 739 where clusters share rows; of 8192, eight, one ahead, 744 and 790; of 6144, six, 574 instead of 521).
        // Four streams leave no room.
        const bool three = one && one->expands && streams == 3 && one->warps > leastWarps;
        if (one && (three || !one->expands || streams < 3) && one->ahead >= (three && cluster == 16 ? 1 : 2) &&
            (!wide || wide->ahead < 3))
          wide = one;
      }
    }
  if (wide)
    return later(*wide);
  for (int64_t parts = 2; parts <= 8; ++parts)
    for (int64_t cluster : {16, 8, 4}) {
      if (parts > clustersAtOnce(processorsOfH100, cluster)) // of other GPUs a guess
        continue;
      // Beside an expansion of numbers of 16 bits rather three tiles between stages than four, and rather more than slots
      // (us, an H200: four streams of 7168 channels 937 with three, 990 with four, 1000 with two; of 6144 799, 810 and
      // 810; of 8192 1148, 1111 and 1107). With 32 bits as many as fit: 834, and 871 with three.
      for (int64_t lag : lags) {
        std::optional<Candidate> one = make(cluster, parts, 0, lag);
        if (!one || !one->held || one->channels * one->storage < leastBytes ||
            (one->expands &&
             ((lag == 0 && one->storage == 2) || one->warps % 4 || (held && one->ahead <= held->ahead))))
          continue;
        return muchLater(*one);
      }
    }
  return held ? held->choice : Choice();
}

Generation::Generation(StringRef target) {
  const StringRef isa = target.split('/').first;
  const bool large = isa.starts_with("sm_9") || isa.starts_with("sm_10");
  largestCluster = large ? 16 : isa.starts_with("sm_1") ? 8 : 1;
  threads = large || isa == "sm_80" ? 2048 : 1536;
  shared = large ? mostShared : isa == "sm_80" ? 163 * 1024 : leastShared;
  movesRegisters = large && isa.ends_with("a");
  // Of an H100 and an H200 measured; others have no schedules of their own, but sm_10x takes an H200's.
  copyGBs = isa.starts_with("sm_10") ? 7000 : target.ends_with("/h200") ? 4170 : 2970;
}

int64_t cuda::sharedOf(StringRef target) { return Generation(target).shared; }

static int64_t sharedNeeded(const CudaSource &source) {
  int64_t most = 0;
  for (const json::Value &launch : source.launches)
    most = std::max(most, launch.getAsObject()->getInteger("shared_bytes").value_or(0));
  return most;
}

/// The records of eight tokens, which tensor cores take together, may be more than a block's shared memory; such
/// kernels do without.
static Choice chooseSchedule(hc::FuncOp kernel, StringRef target) {
  Choice choice = chooseSkeleton(kernel, target);
  if (choice.columns)
    return choice;
  ScopedDiagnosticHandler quiet(kernel.getContext(), [](Diagnostic &) { return success(); });
  CudaSource source;
  SourceBuilder builder(kernel, target, choice, source);
  if (!builder.run() || !builder.tensorCores())
    return choice;
  if (sharedNeeded(source) > sharedOf(target)) {
    choice.planes = 0;
    return choice;
  }
  // Sums of five to eight rows (more are not measured): eight channels a lane instead of four, or instead of two
  // tokens, as far as the columns leave registers; where they are many, and tokens, too, weights that pass through
  // shared memory once for all warps instead of coming from L2 for every tile. Us of 512, 2048 and 8192 tokens of 4096
  // channels, an H200: five streams, 35 columns, with two tokens 131, 162 and 591, with eight channels 66, 151 and 560,
  // through shared memory 454; six, 48 columns, 158, 192 and 727, 82, 192 and 741, 582; eight that share 10 columns
  // 122, 270 and 1053, 82, 214 and 823, 792 (of 1024 channels it loses a fifth: 203 instead of 171); eight fracs 27, 52
  // and 187, 21, 41 and 143, 175. But seven streams, 63 columns, 194, 232 and 870, 106, 251 and 972, 819; eight, 80
  // columns, 234, 279 and 1062, 137, 318 and 1219, 1063. Narrower rows leave warps without a chunk of their own.
  constexpr int64_t mostRows = 8, mostColumns = 48, many = 24, leastWidth = 512;
  const auto [rows, width] = tokenRows(kernel);
  const int64_t columns = builder.projectedColumns();
  if (rows <= 4 || rows > mostRows || width < leastWidth || columns == 0 || columns > mostColumns ||
      builder.widestStorage() != 2 || builder.expands() || !Generation(target).clusters())
    return choice;
  Choice ranges = choice;
  ranges.vector = ranges.tokens = ranges.warps = ranges.ranges = 8;
  ranges.blocks = 1;
  auto fits = [&](const Choice &one) {
    CudaSource other;
    SourceBuilder made(kernel, target, one, other);
    return made.run() && sharedNeeded(other) <= sharedOf(target);
  };
  if (!fits(ranges)) // of few tokens as of many: the order of sums is one
    return choice;
  if (columns > many && builder.readsManyWeights()) {
    Choice sharing = ranges;
    sharing.apart = fullEnough;
    if (fits(sharing))
      return sharing;
  }
  return ranges;
}

/// A warp makes a Sinkhorn, a line of its matrix a lane.
static LogicalResult checkSinkhorns(hc::FuncOp kernel) {
  constexpr int64_t most = 32;
  auto result = kernel.walk([&](Operation *op) {
    if (!isa<hc::SinkhornOp, hc::SinkhornAdjointOp>(op))
      return WalkResult::advance();
    const int64_t n = cast<hc::CoeffsType>(op->getResult(0).getType()).getShape()[0];
    if (n <= most)
      return WalkResult::advance();
    hc::refuseBeyondLimits(kernel) << "a Sinkhorn normalisation of " << n << " x " << n
                                   << "; CUDA kernels have them up to " << most << " x " << most;
    return WalkResult::interrupt();
  });
  return failure(result.wasInterrupted());
}

OwningOpRef<ModuleOp> cuda::buildCudaModule(hc::FuncOp kernel, StringRef target, StringRef schedule,
                                            CudaSource &result) {
  kernel.getContext()->getOrLoadDialect<emitc::EmitCDialect>();
  if (failed(hc::checkKernel(kernel)))
    return nullptr;
  Choice choice;
  if (failed(parseSchedule(kernel, schedule, choice)))
    return nullptr;
  if (schedule.empty() || schedule == "auto")
    choice = chooseSchedule(kernel, target);
  if (!target.starts_with("sm_")) {
    kernel.emitError() << "target '" << target << "' is no CUDA target";
    return nullptr;
  }
  if (failed(checkSinkhorns(kernel)))
    return nullptr;
  auto build = [&](int64_t lag) {
    choice.lag = lag;
    result = CudaSource();
    return SourceBuilder(kernel, target, choice, result).run();
  };
  OwningOpRef<ModuleOp> module;
  if (choice.columns && choice.lag == 0) {
    ScopedDiagnosticHandler quiet(kernel.getContext(), [](Diagnostic &) { return success(); });
    for (int64_t lag : lags)
      if ((module = build(lag)))
        break;
  }
  if (!module) // why the fewest tiles do not fit either
    module = build(choice.lag);
  if (int64_t needs = sharedNeeded(result), has = sharedOf(target); module && needs > has) {
    hc::refuseBeyondLimits(kernel) << "schedule: '" << result.schedule << "' needs " << needs
                                   << " bytes of shared memory, and a block of " << target << " has " << has
                                   << "; fewer streams or iterations, or tokens=1 without planes, need less";
    return nullptr;
  }
  return module;
}

KernelSizes SourceBuilder::measure() {
  KernelSizes sizes;
  sizes.width = plan.width;
  sizes.elementBytes = plan.elementBytes;
  sizes.storageBytes = plan.widestStorage;
  sizes.wideBytes = wideBytesOf(kernel, plan.width, plan.widestStorage);
  for (const StagePlan &stagePlan : plan.stagePlans) {
    int64_t sums = 0, slotSums = 0;
    for (const SweepPass &pass : stagePlan.passes) {
      sums += pass.sums();
      slotSums += pass.slots;
    }
    sizes.sums = std::max(sizes.sums, sums);
    sizes.slotSums = std::max(sizes.slotSums, slotSums);
  }
  for (Value weight : plan.projected)
    sizes.projected += hc::elementCount(weight.getType());
  for (Value weight : plan.expanded)
    sizes.expanded += hc::elementCount(weight.getType());
  for (Operation *op : plan.columnOps)
    sizes.partialBytes += hc::elementCount(op->getResult(0).getType()) * plan.elementBytes;
  sizes.liveRows = liveRows;
  sizes.reduces = mainReduces;
  return sizes;
}

LogicalResult cuda::listSchedules(hc::FuncOp kernel, StringRef target, const GpuShape &shape, int64_t sharedBytes,
                                  size_t limit, SmallVectorImpl<RankedSchedule> &out) {
  kernel.getContext()->getOrLoadDialect<emitc::EmitCDialect>();
  if (failed(hc::checkKernel(kernel)))
    return failure();
  Choice first = chooseSchedule(kernel, target);
  CudaSource chosen;
  SourceBuilder builder(kernel, target, first, chosen);
  if (!builder.run())
    return failure();
  if (chosen.schedule == "rows") { // no main kernel, nothing to choose
    out.push_back({chosen.schedule, 0});
    return success();
  }
  KernelSizes sizes = builder.measure();
  if (failed(parseSchedule(kernel, chosen.schedule, first)))
    return failure();
  // What does not fit together is found by making it; its diagnostics are not the caller's.
  ScopedDiagnosticHandler quiet(kernel.getContext(), [](Diagnostic &) { return success(); });
  llvm::StringSet<> seen;
  auto list = [&](llvm::ArrayRef<RowNumbers> all, llvm::function_ref<double(const RowNumbers &)> cost) {
    for (const RowNumbers &numbers : all) {
      if (out.size() == limit)
        break;
      CudaSource source;
      SourceBuilder candidate(kernel, target, numbers, source);
      if (!candidate.run())
        continue;
      bool fits = llvm::all_of(source.launches, [&](json::Value &launch) {
        return launch.getAsObject()->getInteger("shared_bytes").value_or(0) <= sharedBytes;
      });
      if (fits && seen.insert(source.schedule).second)
        out.push_back({source.schedule, cost(numbers)});
    }
  };
  auto cost = [&](const RowNumbers &numbers) {
    return numbers.columns ? columnsCost(sizes, shape, numbers) : rowsCost(sizes, shape, numbers);
  };
  if (sizes.reduces)
    list(listColumns(sizes, shape, first), cost);
  if (first.columns) {
    Choice rows;
    CudaSource source;
    SourceBuilder other(kernel, target, rows, source);
    if (!other.run() || failed(parseSchedule(kernel, source.schedule, first)))
      return success();
    sizes = other.measure();
  }
  list(listRows(sizes, shape, first), cost);
  return success();
}

LogicalResult cuda::buildCudaSource(hc::FuncOp kernel, StringRef target, StringRef schedule, CudaSource &result) {
  OwningOpRef<ModuleOp> module = buildCudaModule(kernel, target, schedule, result);
  if (!module)
    return failure();
  llvm::raw_string_ostream os(result.text);
  return emitc::translateToCpp(*module, os);
}
