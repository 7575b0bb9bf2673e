//===- HC.h - The hc dialect ------------------------------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// Types, operations and the few questions about values that every pass asks.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_DIALECT_HC_IR_HC_H
#define HYPERJIT_DIALECT_HC_IR_HC_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/DenseMap.h"

#include "hyperjit/Dialect/HC/IR/HCDialect.h.inc"

namespace hyperjit::hc {
/// Operations that sum over the channels of rows: dots, projections, ... What they make of tokens is kept for backward.
template <typename ConcreteOp>
class SumsOverChannels : public mlir::OpTrait::TraitBase<ConcreteOp, SumsOverChannels> {};
/// Operations that sum over tokens, if what they sum belongs to tokens.
template <typename ConcreteOp> class SumsOverTokens : public mlir::OpTrait::TraitBase<ConcreteOp, SumsOverTokens> {};

/// Null has none.
inline bool sumsOverChannels(mlir::Operation *op) { return op && op->hasTrait<SumsOverChannels>(); }
inline bool sumsOverTokens(mlir::Operation *op) { return op && op->hasTrait<SumsOverTokens>(); }
} // namespace hyperjit::hc

#include "hyperjit/Dialect/HC/IR/HCInterfaces.h.inc"
#define GET_TYPEDEF_CLASSES
#include "hyperjit/Dialect/HC/IR/HCTypes.h.inc"
#define GET_OP_CLASSES
#include "hyperjit/Dialect/HC/IR/HCOps.h.inc"

#include <optional>

namespace hyperjit::hc {

/// Width of rows and weights before hc-specialize binds it; printed as `d`.
inline constexpr int64_t symbolicWidth = mlir::ShapedType::kDynamic;

/// Types that streams, branch values and parameters are stored in: bf16, f16, f32, f64. Both exits convert from and to
/// these and no others.
bool isStorage(mlir::Type type);
/// Types that a kernel computes in: f32, f64.
bool isCompute(mlir::Type type);

/// An error where a function lacks one of the storage types (hc.compute, hc.branch_in, hc.branch_out) that
/// hc-specialize gives it.
llvm::LogicalResult checkSpecialized(FuncOp function, llvm::ArrayRef<llvm::StringRef> types);

/// An error that is no fault of the compiler or of a schedule: what is asked for is more than kernels take.
/// `beyondLimits` tells later that a kernel had one.
mlir::InFlightDiagnostic refuseBeyondLimits(FuncOp kernel);
bool beyondLimits(FuncOp kernel);

/// Attributes of an argument or of a result: empty where there are none, so that they may stand in a list.
mlir::DictionaryAttr attrsOfArgument(FuncOp function, unsigned index);
mlir::DictionaryAttr attrsOfResult(FuncOp function, unsigned index);

/// Reductions that follow one another inside one kernel: the last stage.
inline constexpr int64_t maxStages = 6;

/// What both exits take for granted of a kernel: hc.compute is f32 or f64, all rows and weights have one width, and it
/// is bound, every op has its phase and stage. Gives the width, 1 where there are no rows; an error names what is
/// missing.
llvm::FailureOr<int64_t> checkKernel(FuncOp kernel);

/// Which values are the same for all tokens: asked through their operands, and remembered.
class Uniformity {
public:
  bool isUniform(mlir::Value value);

private:
  llvm::DenseMap<mlir::Value, bool> known;
};

/// Numbers in a value of rank >= 1 coefficients, or rows/weights with a bound width.
int64_t elementCount(mlir::Type type);
/// The number that all elements of a constant are, if it is a constant of one number.
std::optional<double> splatOf(mlir::Value value);
std::optional<double> splatOf(mlir::Attribute attribute);

/// The permutations of 0 .. n-1 in lexicographic order.
llvm::SmallVector<llvm::SmallVector<int64_t>> permutations(int64_t n);

} // namespace hyperjit::hc

#endif
