//===- SourceBuilder.h - Builds a kernel's translation unit -----*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// One builder for one kernel. CudaSchedule.cpp chooses the skeleton,
// CudaShape.cpp the numbers of the schedule, CudaColumns.cpp and CudaRings.cpp
// plan the skeleton clusterColumns, CudaSharing.cpp sharedWeights, CudaTokens.cpp makes the maths of one token
// off the path of wide kernels, CudaSums.cpp the sums over tokens,
// CudaSource.cpp the rest.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_TARGET_CUDA_SOURCEBUILDER_H
#define HYPERJIT_TARGET_CUDA_SOURCEBUILDER_H

#include "CudaPlan.h"
#include "hyperjit/Target/CostModel.h"
#include "hyperjit/Target/CudaSource.h"

#include "mlir/Dialect/EmitC/IR/EmitC.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MathExtras.h"

namespace hyperjit::cuda {

using llvm::formatv;
using llvm::StringRef;
using mlir::LogicalResult;
using mlir::ModuleOp;
using mlir::OpBuilder;
using mlir::Operation;
using mlir::OwningOpRef;
using mlir::SmallVector;
using mlir::Value;
namespace emitc = mlir::emitc;
namespace json = llvm::json;

/// The numbers of a schedule; 0 where "auto" leaves the choice to the cost rules.
using Choice = RowNumbers;

/// Template arguments of Shape.
struct ShapeNumbers {
  int64_t warps = 8, tokenLanes = 8, tokens = 1, vector = 1, record = 4, uniform = 0, scratch = 0, cluster = 1;
  int64_t parts = 1;   ///< clusters that share a row's channels
  bool ranges = false; ///< of channels, one a warp, instead of chunks in turn
  int64_t blocksOfRow() const { return cluster * parts; }
};

/// Tiles of 8 coefficients that one sweep accumulates on tensor cores.
constexpr int64_t tilesOfPass = 12;
/// Dynamic shared memory that a block may have on every target.
constexpr int64_t leastShared = 99 * 1024;
/// That a block may have on sm_90 and sm_100.
constexpr int64_t mostShared = 227 * 1024;
/// What a target's generation has, by its name: sm_90a, sm_90a/h100, ...
struct Generation {
  explicit Generation(StringRef target);
  int64_t largestCluster; ///< 1: no clusters, nor launches that begin before the one before has ended (sm_90 and later)
  int64_t shared;         ///< bytes that a block may have
  int64_t threads;        ///< that a processor holds
  bool movesRegisters;    ///< from warp to warp, and has room for it: targets of one architecture, sm_90a, sm_100a, ...
  double copyGBs;         ///< about what a copy moves

  bool clusters() const { return largestCluster > 1; }
};
/// Numbers of a token's largest value where one lane does a token's maths: five streams, whose heads take up to 230
/// registers.
constexpr int64_t laneNumbers = 40;
/// Threads of a launch that does wide work.
constexpr int64_t wideThreads = 65536;
/// Schedules are made for an H100's; on other GPUs that is a guess.
constexpr int64_t processorsOfH100 = 132;
/// Registers of a lane for sums over tokens.
constexpr int64_t columnRegisters = 96;

/// Reads "auto", "rows:name=number,..." or "columns:..."; an illegal number is a diagnostic at the kernel.
LogicalResult parseSchedule(hc::FuncOp kernel, StringRef text, Choice &choice);
/// The text of complete numbers.
std::string writeRows(const Choice &choice);
/// Sums that one sweep makes at most. `expanding`: a plan of the kernel, where sweeps expand on tensor cores.
int64_t slotsOf(hc::FuncOp kernel, const KernelPlan *expanding = nullptr);
/// Bytes of a number of rows that lie at "Operand<i, storage, stride>" of a kernel that computes in fp32.
inline int64_t storedBytes(StringRef reference) {
  assert(reference.starts_with("Operand<") && "rows lie in operands");
  return reference.split(", ").second.split(',').first == "float" ? 4 : 2;
}
/// Numbers of a record in shared memory: 4 mod 8, so that neighbouring records begin in different banks.
int64_t recordStride(int64_t size);

class SourceBuilder {
public:
  SourceBuilder(hc::FuncOp kernel, StringRef target, const Choice &choice, CudaSource &result)
      : kernel(kernel), target(target), choice(choice), result(result),
        slots(choice.slots ? choice.slots : slotsOf(kernel)), plan(kernel, slots) {}

  /// Null after a diagnostic.
  OwningOpRef<ModuleOp> run();
  /// Whether projections or expansions run on tensor cores; after `run`.
  bool tensorCores() const { return tiled; }
  /// Whether they make dots of rows; after `run`, of clusterColumns.
  bool dotsRows() const {
    return llvm::any_of(plan.stagePlans, [](const StagePlan &stage) {
      return llvm::any_of(stage.passes, [](const SweepPass &pass) { return pass.squares; });
    });
  }
  /// Tiles that every ring of clusterColumns fetches ahead; after `run`.
  int64_t tilesAhead() const { return columns.ahead; }
  /// Channels of a row that one block has; after `run`.
  int64_t blockChannels() const { return plan.width / mainShape.blocksOfRow(); }
  /// Of a number of the widest rows.
  int64_t widestStorage() const { return plan.widestStorage; }
  int64_t computeWarps() const { return mainShape.warps; }
  bool expands() const { return !plan.expanded.empty(); }
  bool readsManyWeights() const;
  int64_t projectedColumns() const;
  /// Whether some weight gradient has a launch of its own; after `run`.
  bool readsRowsAgain() const {
    return llvm::any_of(plan.columnOps, [&](Operation *op) {
      return isa<hc::WeightGradOp>(op) && !llvm::is_contained(plan.sweptGradients, op);
    });
  }
  /// What the cost model weighs; after `run`.
  KernelSizes measure();

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
    return formatv("Shape<{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}{9}>", number(), plan.width, s.warps, s.tokenLanes,
                   s.tokens, s.vector, s.record, s.uniform, s.scratch,
                   s.ranges        ? ", 1, true"
                   : s.cluster > 1 ? ", " + std::to_string(s.cluster)
                                   : "");
  }

  /// The entry and its launch. `call` is the skeleton with its template arguments. `bare`: it uses nothing of what was
  /// emitted since the launch before, which is the next one's.
  void entry(StringRef suffix, StringRef call, int64_t threads, int64_t minBlocks, json::Object launch,
             int64_t cluster = 1, bool bare = false);

  void emitHeader();
  void emitUniform(const std::vector<Store> &stores, StringRef phase);
  /// Set by emitUniform: the prologue's last wide body, which the head's launch does, emitted next.
  std::string besideHead;
  bool hasLongMaths(llvm::ArrayRef<Store> stores, const Places &places) const;
  std::function<void()> emitTokenwise(const std::vector<Store> &stores, StringRef phase, bool ofTail);
  void emitMain(bool asApart);
  llvm::SetVector<Value> readsOf(llvm::ArrayRef<Value> values, const llvm::DenseSet<Value> &made);
  void emitColumns();
  void emitColumnLaunch(const std::vector<Operation *> &ops, bool onTiles);
  void emitSums();
  /// The sums of tokens' coefficients, or Nothing where they are made already.
  std::string takeSums();
  LogicalResult chooseMain();
  LogicalResult chooseColumns();
  LogicalResult checkRanges();
  void placePlanes();
  void shareWeights(Places &places);
  std::string sharingOf(const SweepPass &pass, StringRef text, const Places &places);
  LogicalResult finishSharing(llvm::ArrayRef<std::string> stages, StringRef uniform);
  /// The numbers of `rows`, complete.
  void useRows();
  bool isDirect(Value weight);
  void prepareRecords();
  void countWarps();
  LogicalResult planColumns(Places &places);
  LogicalResult chooseSweptGradients();
  /// Those whose sums the sweeps' registers hold.
  llvm::SetVector<Operation *> sweepableGradients();
  const SweepPass *sweepOf(hc::WeightGradOp gradient);
  /// In which the warps of clusterColumns go over a block's channels.
  int64_t rounds() const { return llvm::divideCeil(blockChannels(), 4 * mainShape.vector * mainShape.warps); }
  /// Registers of a lane for the sums of a weight gradient over the channels of a round.
  int64_t sumRegisters(hc::WeightGradOp gradient);
  /// Of what a sweep works with, and of all, in clusterColumns.
  int64_t sweepRegisters() const {
    int64_t own = expands() ? 80 + 6 * mainShape.vector : 64 + 4 * mainShape.vector;
    if (!llvm::isPowerOf2_64(static_cast<uint64_t>(mainShape.cluster))) // tokens and blocks are counted by divisions
      own += 10;
    // Of a large record many coefficients are under way together.
    return own + (mainShape.record > 200 && (mainShape.vector == 8 || laneRegisters() <= 128) ? 24 : 0);
  }
  int64_t laneRegisters() const;
  int64_t sweepingStages() const;
  static bool isEmpty(const StagePlan &stage) {
    return stage.recordWrites.empty() && stage.stores.empty() && stage.passes.empty();
  }
  int64_t planesOfChunk(mlir::Value weight, bool expands) const;
  std::pair<int64_t, int64_t> publishedRange(int64_t stage);
  LogicalResult finishColumns(llvm::ArrayRef<StringRef> stages, llvm::ArrayRef<int64_t> sums,
                              llvm::ArrayRef<int64_t> published, StringRef uniform);
  int64_t tileBytes(mlir::Operation *op, int64_t channels, int64_t vector);
  bool readsOneStorage(mlir::Operation *op);
  int64_t columnVector(int64_t registers);
  ShapeNumbers tileShape(int64_t vector, int64_t mostWarps);
  /// The body that copies uniform coefficients to shared memory; returns its class name and fills the offsets.
  std::string emitUniformRecord(StringRef className, llvm::ArrayRef<Value> values, Places &places, ShapeNumbers &shape);

  hc::FuncOp kernel;
  StringRef target;
  const Choice &choice;
  CudaSource &result;
  int64_t slots; ///< sums of one sweep at most
  KernelPlan plan;
  std::string name;
  bool tiled = false, few = false; ///< on tensor cores; for few tokens
  bool apart = false;              ///< there is a main kernel whose warps have tokens of their own
  Choice used;                     ///< the numbers of the schedule, complete
  ShapeNumbers mainShape;
  int64_t minBlocks = 1, mainSums = 0, liveRows = 0;
  /// Of clusterColumns, where their registers are to hold sums of weight gradients; 0: as many as leave none idle.
  int64_t sweptWarps = 0;
  bool mainReduces = false, sumsTaken = false;
  llvm::DenseMap<Value, std::string> projection, expansion;
  /// Of the skeleton clusterColumns.
  struct RecordCopy {
    std::string reference;
    int64_t skip, first, count, ofToken; ///< numbers: before it, and in all, in memory; in the record
    /// Of one copy: by which all is aligned.
    int64_t unit() const {
      int64_t common = skip | first | count | ofToken;
      return common % 4 == 0 ? 4 : common % 2 == 0 ? 2 : 1;
    }
    bool extend(const RecordCopy &next) {
      bool follows = reference == next.reference && skip + count == next.skip && first + count == next.first;
      count += follows ? next.count : 0;
      return follows;
    }
  };
  struct ColumnRing {
    int64_t first, last, tokenBytes, slots;
    std::string inputs;
    bool early;                                          ///< given back when its rows are loaded for the last time,
    std::pair<const SweepPass *, SmallVector<Value>> by; ///< by this pass
  };
  struct {
    int64_t stages = 0, lag = 0, weightBytes = 0, heldFrom = 0, heldWords = 0, ahead = 0;
    int64_t owners = 0, preparers = 0; ///< warps
    int64_t fetched = 0;               ///< numbers that an owner fetches ahead for a token
    int64_t gradientTiles = 0;         ///< of mma, in each lane and round, for the sums of swept weight gradients
    std::string gradientSweeps;        ///< classes of sweeps that make them
    std::string ends = "Nothing";      ///< long maths of tokens, when all sweeps are done
    bool late = false;                 ///< owners have maths that no row waits for
    std::vector<ColumnRing> rings;
    llvm::SetVector<Value> packed;                    ///< weights that the main kernel packs itself
    std::vector<std::pair<Value, std::string>> packs; ///< and their places, one for each use
    std::string weights;                              ///< places of those that the prologue packs
    struct HeldRows {
      Value value;
      std::string place;
      const SweepPass *by;
    };
    SmallVector<RecordCopy> image; ///< where the first record's numbers lie; none: the main kernel makes them
    std::vector<HeldRows> held;    ///< operands that the next stage reads from registers, and the pass that loads them
    llvm::DenseMap<Value, std::string> kept; ///< rows that later stages read from a slot or from registers
  } columns;
  /// Of the skeleton sharedWeights.
  struct {
    struct Pass {
      llvm::SetVector<std::pair<Value, int>> weights; ///< that it uses, and whether it expands with them
      llvm::SetVector<Value> rows;                    ///< that it reads
    };
    llvm::DenseMap<const SweepPass *, Pass> passes;
    int64_t chunkBytes = 0; ///< of a chunk's packed weights
    bool same = true;       ///< all sweeps that use weights use the same
  } sharing;
  OwningOpRef<ModuleOp> module;
  Operation *lastOfPart = nullptr; ///< of the launch before
  SmallVector<std::string> tables;
  bool failed = false;
};

} // namespace hyperjit::cuda

#endif
