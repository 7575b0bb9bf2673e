//===- Simd.h - A small language of vectors over MLIR -----------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// What the emitters write in: vectors of the compute type (f32 or f64), byte
// addressed memory, counted loops, and the transcendental functions as inline
// arithmetic. Every value of floating type is either a scalar or a vector;
// each method accepts both and keeps the shape.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_LIB_CONVERSION_HCTOVECTOR_SIMD_H
#define HYPERJIT_LIB_CONVERSION_HCTOVECTOR_SIMD_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"

namespace hyperjit::cpu {

using mlir::Type;
using mlir::Value;
using mlir::ValueRange;

class Simd {
public:
  Simd(mlir::MLIRContext *context, mlir::Location loc, Type element);

  mlir::OpBuilder b;
  mlir::Location loc;
  /// The compute type.
  Type element;
  int64_t elementBytes;

  // Types and constants.
  Type vectorOf(Type scalar, int64_t lanes) const;
  Type computeVector(int64_t lanes) const { return vectorOf(element, lanes); }
  static int64_t lanesOf(Value value);
  static int64_t bytesOf(Type scalar);
  Value i64(int64_t value);
  Value constant(double value, int64_t lanes);
  Value constantLike(double value, Value shape) { return constant(value, lanesOf(shape)); }
  Value zero(int64_t lanes) { return constant(0.0, lanes); }

  // Integer arithmetic on i64, folded where constant.
  Value addi(Value x, Value y);
  Value muli(Value x, int64_t factor);
  Value addi(Value x, int64_t y) { return addi(x, i64(y)); }
  Value mini(Value x, Value y);

  // Floating point.
  Value add(Value x, Value y);
  Value sub(Value x, Value y);
  Value mul(Value x, Value y);
  Value div(Value x, Value y);
  Value fma(Value x, Value y, Value z);
  Value neg(Value x);
  Value abs(Value x);
  Value sqrt(Value x);
  /// The greater one; NaN in either operand is kept.
  Value max(Value x, Value y);
  Value compare(mlir::arith::CmpFPredicate predicate, Value x, Value y);
  Value select(Value condition, Value x, Value y);
  Value exp(Value x);
  Value log(Value x);
  Value tanh(Value x);
  Value sigmoid(Value x);
  Value broadcast(Value scalar, int64_t lanes);
  /// Sums of four vectors over their lanes, as a vector of four. The order of
  /// additions is the same for each of the four.
  Value horizontalSums(Value v0, Value v1, Value v2, Value v3);
  Value extract(Value vector, int64_t lane);
  /// Lanes at or above `valid` become zero.
  Value keepLanes(Value x, int64_t valid);
  /// Lanes at or above the run-time count become zero.
  Value keepLanesBelow(Value x, Value count);

  // Memory. Addresses are byte based; nothing is assumed to be aligned beyond its scalar type.
  Value at(Value pointer, int64_t bytes);
  Value at(Value pointer, Value bytes);
  Value loadScalar(Type type, Value pointer);
  Value loadPointer(Value pointer);
  /// Loads `lanes` numbers of a storage type as compute type. With valid <
  /// lanes only the first `valid` numbers are touched, the others are zero.
  Value load(Value pointer, Type storage, int64_t lanes, int64_t valid);
  Value load(Value pointer, int64_t lanes) { return load(pointer, element, lanes, lanes); }
  /// Stores with rounding to nearest even. `onGrid` says that the value is
  /// already a value of the storage type. `pastCache` wants an address that is a multiple of the vector's bytes.
  void store(Value value, Value pointer, Type storage, int64_t valid, bool onGrid = false, bool pastCache = false);
  void store(Value value, Value pointer) { store(value, pointer, element, lanesOf(value)); }
  /// Orders the stores past the cache before all that follow.
  void fence();
  /// Asks for a line in the second-level cache; the address may be anything.
  void prefetch(Value pointer);
  /// Rounds to the grid of a storage type, in the compute type.
  Value roundTo(Value x, Type storage);

  // Control.
  using LoopBody = llvm::function_ref<void(Value)>;
  using ReduceBody = llvm::function_ref<llvm::SmallVector<Value>(Value, ValueRange)>;
  void either(Value condition, llvm::function_ref<void()> then, llvm::function_ref<void()> otherwise);
  void loop(Value from, Value to, int64_t step, LoopBody body);
  llvm::SmallVector<Value> loop(Value from, Value to, int64_t step, ValueRange initial, ReduceBody body);
  /// 0 .. count - 1; no loop is made for a single pass.
  void loop(int64_t count, LoopBody body);
  llvm::SmallVector<Value> loop(int64_t count, ValueRange initial, ReduceBody body);

private:
  Value roundBits(Value x, bool shifted);
  Value oddTruncate(Value x);
  Value bits(Value x);
  Value fromBits(Value x, Type scalar);
  Value integerLike(int64_t value, Value shape);
  Value polynomial(Value x, llvm::ArrayRef<double> highestFirst);
  Value power2(Value exponent);
};

} // namespace hyperjit::cpu

#endif
