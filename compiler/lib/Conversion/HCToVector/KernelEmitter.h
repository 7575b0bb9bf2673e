//===- KernelEmitter.h - Emits one kernel as vector code --------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// One object turns one kernel into its functions. It plans first (KernelPlan.cpp):
// where every value lives and at which point of a block of tokens rows are
// made. Then it emits:
//
//   BlockSchedule.cpp  numbers of the schedule: read, written, weighed
//   KernelEmitter.cpp  the functions, chunks and blocks, operands in and out
//   Coefficients.cpp   C: tokens in the vector lanes, buffers [elements][block]
//   Sinkhorn.cpp       C: Sinkhorn and its adjoint
//   Rows.cpp           M and light R: channels in the lanes, fused per token
//   Products.cpp       project, expand, weight_grad, large mixes and dots
//   Uniform.cpp        P and E: weights in their packed layout
//
// Points. Inside a stage rows are made in levels, because a product (an op that
// is a loop nest of its own) needs its rows stored. At point (stage, level) come
// first the products that make rows, then one fused pass over the channels of
// every token, then the products that read rows only.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_LIB_CONVERSION_HCTOVECTOR_KERNELEMITTER_H
#define HYPERJIT_LIB_CONVERSION_HCTOVECTOR_KERNELEMITTER_H

#include "Simd.h"
#include "hyperjit/Conversion/HCToVector.h"

#include "llvm/ADT/MapVector.h"

#include <map>
#include <set>

namespace hyperjit::cpu {

using mlir::LogicalResult;
using mlir::Operation;

/// A place in memory. Offsets are bytes, except for operands (index into the table).
struct Memory {
  enum Kind { Operand, Scratch, Fixed, Partial, Global } kind = Scratch;
  int64_t index = 0;
};

/// Rows [token?][rows][rowStride] of a storage type.
struct RowsHome {
  Memory memory;
  Type storage;
  int64_t rows = 0, rowStride = 0;
  bool perToken = false;
};

/// Coefficients: element (i, j, ...) is number offset + i * strides[0] + ... . A
/// token's coefficients are [number][block] vectors with tokens in the lanes.
struct CoeffsView {
  Memory memory;
  llvm::SmallVector<int64_t> shape, strides;
  int64_t offset = 0;
  bool perToken = false;
  std::optional<double> splat;
};

/// Packed weights [row][vector of channels][column][lane], zero padded: products read all columns of a few channels at
/// a time.
struct WeightHome {
  Memory memory;
  int64_t columns = 0; ///< as packed; a slice has fewer of its own
};

/// What one fused pass over channels makes.
struct Root {
  enum Kind { Store, Dot, DotRows, RowSum, TokenSum } kind;
  Operation *op = nullptr; ///< the reduction; null for Store
  Value value;             ///< the stored or summed rows
  RowsHome home;           ///< Store, TokenSum: the destination
  int64_t i = 0, j = 0;    ///< rows
};

class KernelEmitter {
public:
  KernelEmitter(hc::FuncOp kernel, const VectorTarget &target, mlir::ModuleOp module, KernelLayout &layout);
  LogicalResult run(llvm::StringRef schedule);
  /// Plans, but emits nothing.
  LogicalResult list(llvm::StringRef schedule, llvm::SmallVectorImpl<RankedSchedule> &out);

private:
  // The kernel.
  hc::FuncOp kernel;
  VectorTarget target;
  mlir::ModuleOp module;
  KernelLayout &layout;
  Simd s;
  int64_t width = 0;       ///< channels of a row
  int64_t lanes = 0;       ///< of a row vector
  int64_t paddedWidth = 0; ///< width rounded up to lanes
  int64_t block = 0;       ///< tokens of a block
  int64_t coefficientLanes = 0;
  BlockNumbers numbers; ///< complete once the plan is made

  // BlockSchedule.cpp
  LogicalResult readBlocks(llvm::StringRef text);
  static std::string writeBlocks(const BlockNumbers &numbers);
  KernelSizes measure();
  KernelSizes sizes;            ///< what measure() found
  int64_t fetchingProducts = 0; ///< of a block

  // KernelPlan.cpp
  LogicalResult plan(llvm::StringRef schedule);
  LogicalResult readSignature();
  void choosePoints();
  void chooseBlock();
  void placeUniform();
  bool isUniform(Value value) { return uniformity.isUniform(value); }
  bool isProduct(Operation *op) const;
  bool makesRows(Operation *op) const { return llvm::isa<hc::RowsType>(op->getResult(0).getType()); }
  int64_t recomputeCost(Value value, int64_t enough) const;
  Memory allocate(Memory::Kind kind, int64_t bytes);
  RowsHome allocateRows(Memory::Kind kind, int64_t rows, bool perToken);
  CoeffsView allocateCoeffs(Memory::Kind kind, llvm::ArrayRef<int64_t> shape, bool perToken);
  WeightHome allocateWeight(hc::WeightType type, Memory::Kind kind = Memory::Fixed);
  LogicalResult refuse(Operation *op, const llvm::Twine &why);

  hc::Uniformity uniformity;
  struct Argument {
    Value value;
    Type storage;
    bool uniform;
  };
  struct Result {
    Value value;
    Type storage;
    bool uniform;
    char phase; ///< P, E or T (tokens)
  };
  llvm::SmallVector<Argument> arguments;
  llvm::SmallVector<Result> results;
  llvm::SmallVector<Operation *> prologueOps, epilogueOps, tokenSums;
  struct Stage {
    llvm::SmallVector<Operation *> coefficients, rows;
  };
  std::map<int64_t, Stage> stages;
  using Point = std::pair<int64_t, int64_t>; ///< stage, level
  static constexpr Point always{-1, 0};      ///< before the first
  std::map<Operation *, Point> pointOf;
  std::set<Point> points;
  /// Where rows are stored, and the point at which they are made.
  llvm::MapVector<Value, RowsHome> rowsHomes;
  llvm::DenseMap<Value, Point> storedAt;
  llvm::DenseMap<Value, CoeffsView> views;
  llvm::DenseMap<Value, WeightHome> weights;
  /// Partial sums of a chunk, for token_sum and weight_grad.
  llvm::DenseMap<Operation *, RowsHome> rowPartials;
  llvm::DenseMap<Operation *, CoeffsView> coeffPartials;
  llvm::DenseMap<Operation *, WeightHome> weightPartials;

  // KernelEmitter.cpp
  struct Frame {
    bool uniform = true;
    Value operands, workspace, scratch, tokens, chunkTokens, partial;
    Value blockStart, blockTokens;
    llvm::SmallVector<Value> operandPointers;
    int64_t products = 0;      ///< that have asked for parts of the next block
    std::set<int64_t> fetched; ///< operands whose next rows a pass of the block has asked for
    Value pastCache; ///< i1: results are larger than what the caches hold; null where rows are not whole vectors
  } frame;
  void beginFunction(const llvm::Twine &suffix, Grid grid, llvm::function_ref<void(Value, Value)> body,
                     int64_t extent = 0);
  void emitPrologue();
  void emitTokens();
  void emitEpilogue();
  void emitBlock();
  Value leavesCache();
  bool addReductionRoots(Operation *op, llvm::SmallVectorImpl<Root> &roots);
  void emitPoint(Point point, llvm::ArrayRef<Operation *> ops);
  void loadTokenCoefficients();
  void storeTokenCoefficients();
  void storeUniformResult(const Result &result, int64_t index);
  void sumWide(const Memory &from, const Memory &to, Value begin, Value end);
  void sumPartials();
  Value base(const Memory &memory);
  Value fixedEnd();
  llvm::SmallVector<mlir::arith::ConstantOp> fixedEnds;
  int64_t nextConstant = 0;
  bool broken = false;

  // Coefficients.cpp
  CoeffsView view(Value value);
  std::optional<CoeffsView> layoutView(Operation *op);
  void emitCoefficients(Operation *op);
  Value elementPointer(const CoeffsView &view, llvm::ArrayRef<Value> index, Value vector);
  Value loadElement(const CoeffsView &view, llvm::ArrayRef<Value> index, Value vector);
  void storeElement(Value value, const CoeffsView &view, llvm::ArrayRef<Value> index, Value vector);
  CoeffsView result(Operation *op);
  int64_t lanesHere() const { return frame.uniform ? 1 : coefficientLanes; }
  int64_t vectorsHere() const { return frame.uniform ? 1 : block / coefficientLanes; }
  void forVectors(llvm::function_ref<void(Value)> body);
  void forElements(llvm::ArrayRef<int64_t> shape, llvm::function_ref<void(llvm::ArrayRef<Value>)> body);
  void elementwise(Operation *op, llvm::function_ref<Value(llvm::ArrayRef<Value>)> body);
  void copyCoefficients(const CoeffsView &from, const CoeffsView &to);
  void emitReduceSum(hc::ReduceSumOp op);
  void emitMatmul(hc::MatmulOp op);
  void emitSoftmax(hc::SoftmaxOp op);
  void emitSoftmaxAdjoint(hc::SoftmaxAdjointOp op);
  void emitPermutationMix(hc::PermutationMixOp op);
  void emitPermutationDot(hc::PermutationDotOp op);
  void emitCoefficientSum(Operation *op);

  // Sinkhorn.cpp
  struct SinkhornSettings {
    int64_t size = 0, iterations = 0;
    bool startsRaw = false, startsSoftmax = false, firstRow = false, clamps = false, adds = false, logarithmic = false;
    double eps = 0, tau = 1;
  };
  SinkhornSettings settingsOf(Operation *op);
  void emitSinkhorn(hc::SinkhornOp op);
  void emitSinkhornAdjoint(hc::SinkhornAdjointOp op);
  void sinkhornSmall(const SinkhornSettings &settings, const CoeffsView &logits, const CoeffsView *cotangent,
                     const CoeffsView &out);
  void sinkhornLarge(const SinkhornSettings &settings, const CoeffsView &logits, const CoeffsView *cotangent,
                     const CoeffsView &out);

  // Rows.cpp
  struct Pass {
    Value token;
    mlir::Operation *channelLoop = nullptr; ///< coefficients and pointers are made before it
    Value channel;
    int64_t valid = 0;
    bool pastCache = false; ///< results are stored past the cache
    llvm::DenseMap<std::pair<Value, int64_t>, Value> vectors;
    std::map<std::tuple<int, int64_t, int64_t, bool>, Value> coefficients;
    std::map<std::tuple<int, int64_t>, Value> pointers;
    std::set<int64_t> *fetches; ///< operands whose next rows it asks for
  };
  void emitPass(llvm::ArrayRef<Root> roots);
  void emitToken(Value token, llvm::ArrayRef<Root> roots, bool pastCache, std::set<int64_t> &fetches);
  void emitUniformRows(Operation *op);
  void forUniformRows(const RowsHome &to, llvm::function_ref<Value(Value, Value, int64_t)> make);
  Value loadUniformRow(const RowsHome &rows, Value row, Value channel, int64_t valid);
  Value rowVector(Pass &pass, Value value, int64_t row);
  void fetchNextToken(Pass &pass, const RowsHome &home, Value pointer);
  Value computeRow(Pass &pass, Operation *op, int64_t row);
  Value coefficient(Pass &pass, Value coeffs, int64_t flatIndex);
  Value tokenPointer(Pass &pass, const RowsHome &home);
  bool isStored(Value rows);
  bool isResult(const RowsHome &home) const;
  Value rowPointer(const RowsHome &home, Value token);
  void emitRoot(Pass &pass, const Root &root, llvm::MutableArrayRef<Value> accumulators, size_t &next);
  llvm::DenseSet<Value> stored;

  // Products.cpp
  void emitProject(hc::ProjectOp op);
  void emitExpand(hc::ExpandOp op);
  void emitWeightGrad(Operation *op, Value rows, Value coeffs, const WeightHome &home, bool accumulate);
  void emitLargeMix(hc::MixOp op);
  void emitLargeDot(hc::DotOp op);
  void emitProduct(Operation *op);
  void forBlocks(int64_t count, int64_t size, llvm::function_ref<void(Value start, int64_t size)> body);
  void forChannels(int64_t vectors, llvm::function_ref<void(Value channel, int64_t vectors, int64_t valid)> body);
  Value clampedToken(Value token);
  /// Rows of the next block, to be asked for little by little while a product computes.
  struct Ahead {
    Value pointer;
    int64_t share; ///< bytes of a unit of the product's work, times 2^16
  };
  llvm::SmallVector<Ahead> nextBlock(int64_t units);
  void fetchAhead(llvm::ArrayRef<Ahead> rows, Value unit, int64_t units);
  int64_t tokensOfTile() const { return frame.uniform ? 1 : 4; }
  Value coefficientAt(const CoeffsView &view, llvm::ArrayRef<Value> index, Value token, int64_t lanes);

  // Uniform.cpp
  void emitUniform(Operation *op);
  void emitUniformWeight(Operation *op);
  /// So large that all threads pack, sum or unpack it.
  bool isLarge(hc::WeightType type) const { return type.getRows() * type.getColumns() * width >= 16384; }
  int64_t vectorsOf(hc::WeightType type) const { return type.getRows() * paddedWidth / lanes; }
  void packWeight(int64_t operand, hc::WeightType type, Type storage, const WeightHome &home, Value begin, Value end);
  void unpackWeight(const WeightHome &home, hc::WeightType type, int64_t operand, Type storage, Value begin, Value end);
  void forNumbers(hc::WeightType type, const WeightHome &home, int64_t operand, Type storage, Value begin, Value end,
                  llvm::function_ref<void(Value packed, Value number)> body);
  void forWeight(hc::WeightType type,
                 llvm::function_ref<void(Value row, Value column, Value channel, int64_t valid)> body);
  Value tokenCount(int64_t lanes);
  /// Of a vector: the channel is a multiple of the lanes.
  Value weightPointer(const WeightHome &home, Value row, Value column, Value channel);
};

} // namespace hyperjit::cpu

#endif
