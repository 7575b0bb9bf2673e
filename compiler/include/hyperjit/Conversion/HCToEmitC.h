//===- HCToEmitC.h - Bodies of a kernel as EmitC classes --------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// One body = one emitc.class with one function `run`, in which every hc op is
// a call of a value-type function of templates/hyperjit. What a body makes is
// asked for target by target; operands are converted on demand, down to values
// that live somewhere (an operand, the workspace, a token's record). So what a
// body recomputes and what it reads follows from where values live.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_CONVERSION_HCTOEMITC_H
#define HYPERJIT_CONVERSION_HCTOEMITC_H

#include "hyperjit/Dialect/HC/IR/HC.h"

#include "mlir/Dialect/EmitC/IR/EmitC.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/StringRef.h"

#include <string>

namespace hyperjit::cuda {

/// Where values live, as the device library spells it.
struct Places {
  /// References to memory: "Operand<2, float, 20>", "Space::PerToken<0>", ...
  llvm::DenseMap<mlir::Value, std::string> memory;
  /// Offsets in a token's record (multiples of 4), among the numbers that all tokens share, and among those fetched
  /// ahead.
  llvm::DenseMap<mlir::Value, int64_t> record, uniform, fetched;
  /// Weights packed for tensor cores: the types of their planes (weights.cuh) for project and expand.
  llvm::DenseMap<mlir::Value, std::string> projection, expansion;
  /// Expansions by tensor cores begin with what they are added to, for which lanes have registers.
  bool sumsInTiles = false;
};

/// "bfloat16", "float16", "float" or "double".
llvm::StringRef storageName(mlir::Type type);
/// A double literal that C++ reads back exactly.
std::string literal(double value);
/// Numbers of scratch for each token that the op needs where `lanes` (1 or 32) work for it; 0 for ops that need none.
int64_t scratchOf(mlir::Operation *op, int64_t lanes);
/// The type of 16 bits that a token's rows are numbers of, or null: tensor cores multiply two rows of one such type
/// exactly.
mlir::Type halfTypeOf(mlir::Value rows);
/// bf16 planes that hold a token's rows: 1 if every number is a bf16, else 2 (16 bits).
int64_t planesOf(mlir::Value rows);
/// bf16 planes of a weight that rows are expanded by: 1 if whatever they are added to is rounded to bf16 before anything
/// else reads it (of each product that loses what the rounding loses of the sum), else 2 (16 bits).
int64_t planesOfExpansion(mlir::Value weight);
/// Ops that only move or repeat numbers: reading them again costs less than storing them.
bool isMovement(mlir::Operation *op);

class BodyEmitter {
public:
  enum class Kind { Coefficients, Rows, Wide };

  /// Appends a class `name` to the module. `tables` collects constant tables by text.
  BodyEmitter(mlir::ModuleOp module, llvm::StringRef name, Kind kind, const Places &places,
              llvm::SmallVectorImpl<std::string> &tables);

  // Kind::Coefficients
  /// Loads what the value is made of, so that all of it is under way before long maths begins.
  void loadSources(mlir::Value value);
  void writeRecord(mlir::Value value, int64_t offset);
  void writeFetched(mlir::Value value, int64_t offset);
  void storeCoefficients(mlir::Value value, llvm::StringRef reference);
  /// The same of all tokens of a warp; `places` are PlaceOf<...> of the values, `runs` Run<...>.
  void storeTogether(llvm::ArrayRef<mlir::Value> values, int64_t pitch, llvm::ArrayRef<std::string> places,
                     llvm::ArrayRef<std::string> runs);

  // Kind::Rows
  void storeRows(mlir::Value value, llvm::StringRef reference);
  /// Loads rows and holds them in registers; `place` is Held<...>.
  void holdRows(mlir::Value value, llvm::StringRef place);
  /// Loads these rows, the last that are read of a ring of clusterColumns, and gives its slot back.
  void releaseRing(int64_t ring, llvm::ArrayRef<mlir::Value> rows);
  /// Adds rows [begin, begin + count) of a reduction's result (project: groups and columns) into slots.
  /// A projection with packed planes counts slots and columns in tiles of 8 coefficients.
  /// `squares`: dots are made on tensor cores.
  void reduce(mlir::Operation *op, int64_t slot, int64_t begin, int64_t count, int64_t columnBegin, int64_t columns,
              bool squares = false);
  /// Column bodies: adds a token's rows [begin, begin + count) to the lane's sums; its function `store` writes them.
  void sumRows(mlir::Value rows, int64_t begin, int64_t count);
  void storeSums(llvm::StringRef reference, int64_t begin, int64_t count);
  /// The same for the outer product with `columns` coefficients, from a first one that is known at run time.
  void sumOuter(hc::WeightGradOp op, int64_t columns);
  void storeOuter(llvm::StringRef reference, hc::WeightGradOp op, int64_t columns);
  /// The same on tensor cores, with tiles of 8 columns. In a sweep of clusterColumns, from tile `at` of the lane's on.
  void sumTiles(hc::WeightGradOp op, int64_t tiles, int64_t at = -1);
  void storeTiles(llvm::StringRef reference, hc::WeightGradOp op, int64_t tiles, int64_t at = -1);

  // Kind::Wide
  void storeWide(mlir::Value value, llvm::StringRef reference);
  void reduceWide(mlir::Operation *op, llvm::StringRef reference);
  /// Packs a weight; `planes` is ProjectionPlanes<...> or ExpansionPlanes<...>.
  void pack(mlir::Value weight, llvm::StringRef planes, int64_t vector);

  /// Numbers of a warp's scratch that the calls so far need, and of a lane's where one lane works for a token.
  int64_t scratch() const { return scratchNumbers; }
  int64_t laneScratch() const { return laneScratchNumbers; }
  /// Numbers of the largest value so far.
  int64_t largest() const { return largestValue; }
  /// Failed if an op had no conversion; the diagnostic is at the op.
  mlir::LogicalResult finish();

private:
  mlir::Value convert(mlir::Value value);
  mlir::Value convertCoefficients(mlir::Operation *op);
  mlir::Value convertRows(mlir::Operation *op);
  /// The expansion on tensor cores that is in a sum of two or three rows, and its other summands: what comes out of a
  /// tensor core is added to what it is given, in two halves, so that up to two more summands take no instruction.
  hc::ExpandOp expansionIn(hc::AddOp add, llvm::SmallVectorImpl<mlir::Value> &summands);
  /// `operands`: the context and those summands.
  mlir::Value expandTiles(hc::ExpandOp op, llvm::ArrayRef<mlir::Value> operands);
  mlir::Value convertWide(mlir::Operation *op);
  /// How a map reads its coefficients: "InRecord<8>", "InUniform<0>"; wide bodies: a memory reference, or a number that
  /// the program knows.
  std::string source(mlir::Value coefficients);
  /// "PlainWeight<Operand<3, float, 0>, 4, 24>"
  std::string weight(mlir::Value value);
  mlir::Value call(llvm::StringRef callee, llvm::ArrayRef<std::string> templateArguments,
                   llvm::ArrayRef<mlir::Value> operands, llvm::ArrayRef<double> numbers = {}, bool result = true);
  mlir::Value callText(llvm::StringRef callee, llvm::ArrayRef<std::string> templateArguments,
                       llvm::ArrayRef<mlir::Value> operands, llvm::ArrayRef<std::string> texts, bool result);
  void fail(mlir::Operation *op, llvm::StringRef reason);
  /// A call in the function `store` of a column body.
  void storeCall(llvm::StringRef callee, llvm::ArrayRef<std::string> templateArguments);

  mlir::OpBuilder builder;
  mlir::Location location;
  Kind kind;
  const Places &places;
  llvm::SmallVectorImpl<std::string> &tables;
  mlir::emitc::ClassOp classOp;
  mlir::emitc::FuncOp storeFunction;
  mlir::Value context;
  llvm::DenseMap<mlir::Value, mlir::Value> converted;
  llvm::DenseSet<mlir::Value> sought; ///< values whose sources are loaded
  int64_t scratchNumbers = 0, laneScratchNumbers = 0, largestValue = 0;
  bool failed = false;
};

} // namespace hyperjit::cuda

#endif
