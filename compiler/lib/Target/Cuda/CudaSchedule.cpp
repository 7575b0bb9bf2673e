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
  hc::Uniformity uniformity;
  int64_t streams = 1, width = 0;
  for (Value argument : kernel.getBody().getArguments())
    if (auto rows = dyn_cast<hc::RowsType>(argument.getType()); rows && !uniformity.isUniform(argument)) {
      streams = std::max<int64_t>(streams, rows.getRows());
      width = std::max<int64_t>(width, rows.getWidth());
    }
  constexpr int64_t leastWidth = 1024, leastWarps = 6, leastBytes = 448;
  if (streams > 4 || width < leastWidth)
    return Choice();
  ScopedDiagnosticHandler quiet(kernel.getContext(), [](Diagnostic &) { return success(); });
  struct Candidate {
    Choice choice;
    int64_t ahead = 0, channels = 0, bytes = 0, warps = 0; // tiles; of a block, of a row in bytes; of a block
    bool held = false, expands = false;                    // few enough channels to hold rows
  };
  // Beside an expansion, as measured (H200, us, wide parts and narrow ones of four channels a lane): one stream of 1280
  // channels 74 and 107, of 2560 119 and 187; two of 1280 (an H100) 127 and 100, whose narrow parts sum weight
  // gradients, too; three of 2560 241 and 304.
  const int64_t expanded = streams == 1 ? 768 : streams == 3 ? 320 : 256;
  auto make = [&](int64_t cluster, int64_t parts, int64_t vector, int64_t lag) -> std::optional<Candidate> {
    Choice choice;
    choice.columns = true;
    choice.cluster = cluster, choice.parts = parts, choice.vector = vector, choice.lag = lag;
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
    int64_t channels = builder.blockChannels();
    Candidate made = {
        choice, builder.tilesAhead(), channels, channels * builder.widestStorage(), builder.computeWarps(),
        false,  builder.expands()};
    made.held = made.channels <= (made.expands ? expanded : std::max<int64_t>(320, 1280 / streams));
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
  std::optional<Candidate> held, wide;
  for (int64_t cluster : {2, 4, 8, 16})
    for (int64_t vector : {0, 4}) {
      std::optional<Candidate> one = make(cluster, 1, vector, 0);
      if (one && one->held) {
        if (one->ahead >= 2)
          return one->choice;
        if (vector == 0 || !held || held->choice.cluster != cluster)
          held = one;
      } else if (vector == 0) {
        if (!one || one->ahead < 2)
          one = make(cluster, 1, vector, 1);
        if (one && one->ahead >= 2 && !(one->expands && streams >= 3) && (!wide || wide->ahead < 3))
          wide = one;
      }
    }
  if (wide)
    return wide->choice;
  for (int64_t parts = 2; parts <= 8; ++parts)
    for (int64_t cluster : {16, 8, 4}) {
      if (parts > clustersAtOnce(processorsOfH100, cluster)) // of other GPUs a guess
        continue;
      // Beside an expansion rather three tiles between stages than four with one slot ahead (dynamic of 7168 channels, an
      // H100: 828 us with three and two slots, 872 with four and one), but not fewer for that (four streams of 8192: 1164
      // with three and one slot, 1246 with one and two).
      std::optional<Candidate> fits;
      for (int64_t lag : lags) {
        std::optional<Candidate> one = make(cluster, parts, 0, lag);
        if (!one || !one->held || one->bytes < leastBytes ||
            (one->expands && (one->warps % 4 || (held && one->ahead <= held->ahead))))
          continue;
        if (!one->expands || (one->ahead >= 2 && (lag == 0 || lag == 3)))
          return muchLater(*one);
        if (!fits)
          fits = one;
      }
      if (fits)
        return fits->choice;
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
  if (builder.run() && builder.tensorCores() && sharedNeeded(source) > sharedOf(target))
    choice.planes = 0;
  return choice;
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
  auto number = [&](StringRef attribute) {
    auto found = kernel->getAttrOfType<IntegerAttr>(attribute);
    return found ? found.getInt() : 0;
  };
  sizes.wideBytes = (number("hc.reads_u") + number("hc.writes_u")) * plan.width * plan.widestStorage;
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
