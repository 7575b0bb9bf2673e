//===- CudaPlan.h - What each launch of a kernel does -----------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// Reads one hc.func in phases form and decides, without printing anything,
// which values live where and which launch makes them:
//
//   prologue    P: uniform work, by levels (wide, narrow, wide, ...)
//   head        token coefficients that need no row and are long (Sinkhorn, ...);
//               for clusterColumns the first record, and what its owners fetch
//   main        C, M, R of all stages: one sweep a pass; W: weight gradients
//               that its sweeps sum
//   tail        long coefficient maths that no row waits for; clusterColumns
//               may do it in lanes of main
//   columns     W: sums of rows, other weight gradients
//   sums        W: sums of coefficients
//   epilogue    E: uniform work on the sums
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_TARGET_CUDA_CUDAPLAN_H
#define HYPERJIT_TARGET_CUDA_CUDAPLAN_H

#include "hyperjit/Conversion/HCToEmitC.h"

#include "llvm/ADT/SetVector.h"

namespace hyperjit::cuda {

/// A value and the memory reference it is stored to; a weight may be packed instead (the planes' type).
struct Store {
  mlir::Value value;
  std::string reference;
  bool packed = false;
};

/// A place in the token's part of the workspace, and its byte; none if the reference is another's.
std::string perTokenReference(int64_t offset);
std::optional<int64_t> perTokenOffset(llvm::StringRef reference);

/// A part of a reduction that fits one pass.
struct ReductionPart {
  mlir::Operation *op;
  int64_t slot, begin, count, columnBegin, columns; ///< as BodyEmitter::reduce
  bool tiled = false;
};
/// Slots [slot, slot + count) are entries [record, record + count).
struct RecordSegment {
  int64_t slot, count, record;
};
struct SweepPass {
  std::vector<Store> stores;
  std::vector<ReductionPart> parts;
  std::vector<RecordSegment> segments;
  int64_t slots = 0;    ///< plain sums
  bool squares = false; ///< which are all dots of rows of one type of 16 bits: tensor cores make them
  int64_t tiles = 0;    ///< mma tiles of 8 sums
  int64_t sums() const { return slots + 8 * tiles; }
};

struct StagePlan {
  llvm::SetVector<mlir::Value> recordWrites; ///< coefficients made at this stage that later maps or stages read
  std::vector<Store> stores;                 ///< coefficients stored at this stage
  std::vector<SweepPass> passes;
};

class KernelPlan {
public:
  KernelPlan(hc::FuncOp kernel, int64_t maxSlots);
  /// `tiles`: projections run on tensor cores, with at most this many tiles a pass; 0: on weights as stored.
  mlir::LogicalResult run(int64_t tiles);

  /// Set before `run`: weight gradients whose sums the sweeps of main keep in registers.
  llvm::SetVector<mlir::Operation *> sweptGradients;

  /// Weights that projections and expansions of tokens use.
  llvm::SetVector<mlir::Value> projected, expanded;
  /// Whether half-width streams meet a weight, so that tensor cores pay.
  bool wantsTiles() const;

  bool isUniform(mlir::Value value) { return uniformity.isUniform(value); }
  int64_t stageOf(mlir::Value value) const { return stages.lookup(value); }
  bool hasMain() const { return mainRows; }
  bool wide() const { return elementBytes == 8; }

  /// Rows that one lane holds at once in the given pass, about.
  int64_t pressure(const SweepPass &pass, int64_t stage);
  int64_t pressure(mlir::Operation *columnOp);

  hc::FuncOp kernel;
  int64_t width = 1, elementBytes = 4;
  int64_t widestStorage = 2; ///< bytes of the widest element among token rows
  std::vector<StagePlan> stagePlans;
  std::vector<Store> head, tail;
  std::vector<mlir::Value> uniformReads;    ///< uniform coefficients that sweeps read
  std::vector<mlir::Value> columnRecords;   ///< token coefficients that column sums read
  std::vector<mlir::Value> columnUniforms;  ///< uniform coefficients that column sums read
  std::vector<mlir::Operation *> columnOps; ///< sums of rows, and weight gradients that no sweep sums
  std::vector<Store> prologueStores, epilogueStores;
  int64_t sumCount = 0;  ///< numbers of a token that are summed over tokens
  int64_t sumOffset = 0; ///< their place in PerToken, bytes
  int64_t chunkSumOffset = 0;
  int64_t columnOffset = 0;                          ///< in PerToken, bytes: the record that column sums read
  int64_t columnSize = 0;                            ///< its numbers, a multiple of 4
  llvm::DenseMap<mlir::Value, int64_t> columnRecord; ///< offsets in it

  Places memory; ///< everything in global memory
  llvm::SetVector<mlir::Value> headValues,
      perToken;                                ///< of which: made by the head; in the token's part of the workspace
  llvm::DenseMap<mlir::Value, int64_t> record; ///< main's record
  /// Passes whose plain sums tensor cores can make, for lanes of the map of mma fragments.
  void markSquares();
  llvm::SetVector<mlir::Value> sweptSums; ///< sums over channels that sweeps read as they are
  llvm::DenseMap<mlir::Value, std::pair<std::string, int64_t>> losslessStores; ///< rows outputs: reference, stage
  bool storesWithoutLoss(const Store &store) const {
    auto found = losslessStores.find(store.value);
    return found != losslessStores.end() && found->second.first == store.reference;
  }
  int64_t recordSize = 0;
  int64_t fixedBytes = 0, chunkBytes = 0, tokenBytes = 0;

  /// Gives a uniform value a place in the workspace; the prologue (or epilogue) makes it.
  std::string placeFixed(mlir::Value value);
  void requireUniform(mlir::Value value);
  /// The row operands that a pass loads, if `stored` are in the slot or in memory already, and the rows that it makes,
  /// results first.
  void loadsOf(const SweepPass &pass, const llvm::DenseSet<mlir::Value> &stored, llvm::SetVector<mlir::Value> &loads,
               llvm::SetVector<mlir::Value> &made);
  /// The head makes what the maths of later stages alone reads of the first record, and leaves it in memory.
  void leaveToHead();

private:
  mlir::LogicalResult collect();
  void collectRows(mlir::Value value, llvm::SetVector<mlir::Value> &coefficients, llvm::DenseSet<mlir::Value> &seen,
                   bool forMain);
  void markCritical(mlir::Value value);
  bool hasLongMaths(llvm::ArrayRef<mlir::Value> values);
  void placePerToken(mlir::Value value);
  void placeInRecord(mlir::Value value);
  void requireRecord(mlir::Value value);
  void walkStage(mlir::Value value, int64_t stage);
  void addLate(mlir::Value value, std::string reference);
  void requireLeaves(mlir::Value value, const llvm::DenseSet<mlir::Value> &own, llvm::DenseSet<mlir::Value> &walked);
  void formPasses();
  int64_t allocate(int64_t &total, int64_t bytes) {
    int64_t offset = total;
    total += (bytes + 15) / 16 * 16;
    return offset;
  }

  hc::Uniformity uniformity;
  int64_t maxSlots, maxTiles = 0;
  bool mainRows = false, useHead = false, useTail = false;
  llvm::DenseMap<mlir::Value, int64_t> stages;
  llvm::SetVector<mlir::Value> recordNeeded, critical;
  std::vector<Store> lateStores;
  llvm::SetVector<mlir::Operation *> liveOps;
  llvm::DenseSet<mlir::Value> required; ///< in the record
  llvm::DenseSet<std::pair<mlir::Value, int64_t>> walkedStage;
  std::vector<std::vector<Store>> rowStores; ///< by stage
};

bool isLong(mlir::Operation *op);

} // namespace hyperjit::cuda

#endif
