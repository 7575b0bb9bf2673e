//===- Simd.cpp - A small language of vectors over MLIR -------------------===//
// SPDX-License-Identifier: Apache-2.0
#include "Simd.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;

namespace hyperjit::cpu {

Simd::Simd(MLIRContext *context, Location loc, Type element)
    : b(context), loc(loc), element(element), elementBytes(bytesOf(element)) {}

//===----------------------------------------------------------------------===//
// Types and constants
//===----------------------------------------------------------------------===//

Type Simd::vectorOf(Type scalar, int64_t lanes) const {
  return lanes == 1 ? scalar : Type(VectorType::get({lanes}, scalar));
}

int64_t Simd::lanesOf(Value value) {
  auto type = dyn_cast<VectorType>(value.getType());
  return type ? type.getNumElements() : 1;
}

int64_t Simd::bytesOf(Type scalar) { return scalar.getIntOrFloatBitWidth() / 8; }

Value Simd::i64(int64_t value) { return arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(value)); }

Value Simd::constant(double value, int64_t lanes) {
  FloatAttr attribute = b.getFloatAttr(element, value);
  if (lanes == 1)
    return arith::ConstantOp::create(b, loc, attribute);
  return arith::ConstantOp::create(
      b, loc, DenseElementsAttr::get(VectorType::get({lanes}, element), ArrayRef<Attribute>{attribute}));
}

Value Simd::integerLike(int64_t value, Value shape) {
  Type type = getElementTypeOrSelf(shape.getType());
  if (auto floating = dyn_cast<FloatType>(type))
    type = b.getIntegerType(floating.getWidth());
  IntegerAttr attribute = b.getIntegerAttr(type, value);
  if (auto vector = dyn_cast<VectorType>(shape.getType()))
    return arith::ConstantOp::create(
        b, loc, DenseElementsAttr::get(cast<ShapedType>(vector.clone(type)), ArrayRef<Attribute>{attribute}));
  return arith::ConstantOp::create(b, loc, attribute);
}

//===----------------------------------------------------------------------===//
// Integers
//===----------------------------------------------------------------------===//

Value Simd::addi(Value x, Value y) { return b.createOrFold<arith::AddIOp>(loc, x, y); }
Value Simd::muli(Value x, int64_t factor) { return b.createOrFold<arith::MulIOp>(loc, x, i64(factor)); }
Value Simd::mini(Value x, Value y) { return b.createOrFold<arith::MinSIOp>(loc, x, y); }

//===----------------------------------------------------------------------===//
// Floating point
//===----------------------------------------------------------------------===//

Value Simd::add(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y); }
Value Simd::sub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y); }
Value Simd::mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
Value Simd::div(Value x, Value y) { return arith::DivFOp::create(b, loc, x, y); }
Value Simd::fma(Value x, Value y, Value z) { return math::FmaOp::create(b, loc, x, y, z); }
Value Simd::neg(Value x) { return arith::NegFOp::create(b, loc, x); }
Value Simd::abs(Value x) { return math::AbsFOp::create(b, loc, x); }
Value Simd::sqrt(Value x) { return math::SqrtOp::create(b, loc, x); }

Value Simd::max(Value x, Value y) {
  // x when x is NaN or greater, else y: a NaN in y fails the comparison and is taken too.
  return select(compare(arith::CmpFPredicate::UGT, x, y), select(compare(arith::CmpFPredicate::UNO, y, y), y, x), y);
}

Value Simd::compare(arith::CmpFPredicate predicate, Value x, Value y) {
  return arith::CmpFOp::create(b, loc, predicate, x, y);
}
Value Simd::select(Value condition, Value x, Value y) { return arith::SelectOp::create(b, loc, condition, x, y); }

Value Simd::bits(Value x) {
  Type scalar = b.getIntegerType(getElementTypeOrSelf(x.getType()).getIntOrFloatBitWidth());
  return arith::BitcastOp::create(b, loc, vectorOf(scalar, lanesOf(x)), x);
}

Value Simd::fromBits(Value x, Type scalar) { return arith::BitcastOp::create(b, loc, vectorOf(scalar, lanesOf(x)), x); }

Value Simd::polynomial(Value x, ArrayRef<double> highestFirst) {
  Value sum = constantLike(highestFirst.front(), x);
  for (double coefficient : highestFirst.drop_front())
    sum = fma(sum, x, constantLike(coefficient, x));
  return sum;
}

namespace {
struct FloatLayout {
  int64_t mantissa, bias;
  double roundingMagic; // 1.5 * 2^mantissa: adding it leaves the nearest integer in the low bits
};
FloatLayout layoutOf(Type type) {
  return type.isF64() ? FloatLayout{52, 1023, 0x1.8p52} : FloatLayout{23, 127, 0x1.8p23};
}
int64_t magicBits(Type type) { return type.isF64() ? 0x4338000000000000 : 0x4B400000; }
} // namespace

/// 2^exponent for an integer vector inside the normal range.
Value Simd::power2(Value exponent) {
  FloatLayout layout = layoutOf(element);
  Value biased = arith::AddIOp::create(b, loc, exponent, integerLike(layout.bias, exponent));
  return fromBits(arith::ShLIOp::create(b, loc, biased, integerLike(layout.mantissa, exponent)), element);
}

Value Simd::exp(Value x) {
  bool wide = element.isF64();
  FloatLayout layout = layoutOf(element);
  // Beyond these bounds the result is 0 or infinity; a NaN fails both comparisons and stays.
  Value low = constantLike(wide ? -746.0 : -105.0, x), high = constantLike(wide ? 710.0 : 89.0, x);
  x = select(compare(arith::CmpFPredicate::OLT, x, low), low, x);
  x = select(compare(arith::CmpFPredicate::OGT, x, high), high, x);
  Value magic = constantLike(layout.roundingMagic, x);
  Value shifted = fma(x, constantLike(1.44269504088896340736, x), magic);
  Value n = sub(shifted, magic);
  Value r = fma(n, constantLike(wide ? -6.93147180369123816490e-01 : -0.693359375, x), x);
  r = fma(n, constantLike(wide ? -1.90821492927058770002e-10 : 2.12194440e-4, x), r);
  Value p;
  if (wide) {
    p = polynomial(r, {1.6059043836821614599e-10, 2.0876756987868098979e-9, 2.5052108385441718775e-8,
                       2.7557319223985890653e-7, 2.7557319223985892511e-6, 2.4801587301587301566e-5,
                       1.9841269841269841253e-4, 1.3888888888888889419e-3, 8.3333333333333332177e-3,
                       4.1666666666666664354e-2, 1.6666666666666665741e-1, 0.5});
  } else {
    p = polynomial(
        r, {1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1});
  }
  p = add(fma(p, mul(r, r), r), constantLike(1.0, x));
  // Two factors reach the subnormal and the largest numbers, which one exponent does not.
  Value exponent = arith::SubIOp::create(b, loc, bits(shifted), integerLike(magicBits(element), x));
  Value half = arith::ShRSIOp::create(b, loc, exponent, integerLike(1, exponent));
  Value rest = arith::SubIOp::create(b, loc, exponent, half);
  return mul(mul(p, power2(half)), power2(rest));
}

Value Simd::log(Value x) {
  bool wide = element.isF64();
  FloatLayout layout = layoutOf(element);
  Value argument = x;
  Value tiny = compare(arith::CmpFPredicate::OLT, x, constantLike(wide ? 0x1p-1022 : 0x1p-126, x));
  x = select(tiny, mul(x, constantLike(wide ? 0x1p54 : 0x1p25, x)), x);
  Value adjust = select(tiny, constantLike(wide ? -54.0 : -25.0, x), constantLike(0.0, x));
  // m in [sqrt(1/2), sqrt(2)), x = m 2^k
  Value base = integerLike(wide ? 0x3FE6A09E667F3BCD : 0x3F3504F3, x);
  Value shifted = arith::SubIOp::create(b, loc, bits(x), base);
  Value k = arith::ShRSIOp::create(b, loc, shifted, integerLike(layout.mantissa, shifted));
  Value fraction = arith::AndIOp::create(b, loc, shifted, integerLike((int64_t(1) << layout.mantissa) - 1, shifted));
  Value m = fromBits(arith::AddIOp::create(b, loc, fraction, base), element);
  Value magic = constantLike(layout.roundingMagic, x);
  Value exponent = sub(fromBits(arith::AddIOp::create(b, loc, k, integerLike(magicBits(element), x)), element), magic);
  exponent = add(exponent, adjust);

  Value f = sub(m, constantLike(1.0, x));
  Value s = div(f, add(constantLike(2.0, x), f));
  Value z = mul(s, s);
  Value w = mul(z, z);
  Value t1, t2;
  if (wide) {
    t1 = mul(w, polynomial(w, {1.531383769920937332e-01, 2.222219843214978396e-01, 3.999999999940941908e-01}));
    t2 = mul(z, polynomial(w, {1.479819860511658591e-01, 1.818357216161805012e-01, 2.857142874366239149e-01,
                               6.666666666666735130e-01}));
  } else {
    t1 = mul(w, polynomial(w, {0.24279078841, 0.40000972152}));
    t2 = mul(z, polynomial(w, {0.28498786688, 0.66666662693}));
  }
  Value halfSquare = mul(constantLike(0.5, x), mul(f, f));
  Value correction = mul(s, add(halfSquare, add(t1, t2)));
  Value low = fma(exponent, constantLike(wide ? 1.90821492927058770002e-10 : 9.0580006145e-06, x), correction);
  Value result = sub(f, sub(halfSquare, low));
  result = fma(exponent, constantLike(wide ? 6.93147180369123816490e-01 : 6.9313812256e-01, x), result);

  double infinity = std::numeric_limits<double>::infinity();
  result = select(compare(arith::CmpFPredicate::OLT, argument, constantLike(infinity, x)), result, argument);
  result =
      select(compare(arith::CmpFPredicate::OEQ, argument, constantLike(0.0, x)), constantLike(-infinity, x), result);
  return select(compare(arith::CmpFPredicate::OLT, argument, constantLike(0.0, x)),
                constantLike(std::numeric_limits<double>::quiet_NaN(), x), result);
}

Value Simd::tanh(Value x) {
  Value z = mul(x, x);
  Value small;
  if (element.isF64()) {
    Value p = polynomial(z, {-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3});
    Value q = polynomial(z, {1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3});
    small = fma(x, mul(z, div(p, q)), x);
  } else {
    Value p =
        polynomial(z, {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1});
    small = fma(x, mul(z, p), x);
  }
  // 1 - 2 / (exp(2|x|) + 1), with the sign of x
  Value magnitude = abs(x);
  Value one = constantLike(1.0, x);
  Value large = sub(one, div(constantLike(2.0, x), add(exp(add(magnitude, magnitude)), one)));
  large = math::CopySignOp::create(b, loc, large, x);
  return select(compare(arith::CmpFPredicate::OGE, magnitude, constantLike(0.625, x)), large, small);
}

Value Simd::sigmoid(Value x) {
  Value one = constantLike(1.0, x);
  Value e = exp(neg(abs(x)));
  Value numerator = select(compare(arith::CmpFPredicate::OLT, x, constantLike(0.0, x)), e, one);
  return div(numerator, add(one, e));
}

Value Simd::broadcast(Value scalar, int64_t lanes) {
  if (lanes == 1)
    return scalar;
  return vector::BroadcastOp::create(b, loc, VectorType::get({lanes}, scalar.getType()), scalar);
}

Value Simd::extract(Value vector, int64_t lane) {
  if (!isa<VectorType>(vector.getType()))
    return vector;
  return vector::ExtractOp::create(b, loc, vector, ArrayRef<int64_t>{lane});
}

Value Simd::horizontalSums(Value v0, Value v1, Value v2, Value v3) {
  SmallVector<Value, 4> v{v0, v1, v2, v3};
  int64_t lanes = lanesOf(v0);
  while (lanes > 4) {
    lanes /= 2;
    SmallVector<int64_t> low, high;
    for (int64_t i = 0; i < lanes; ++i) {
      low.push_back(i);
      high.push_back(lanes + i);
    }
    for (Value &x : v)
      x = add(vector::ShuffleOp::create(b, loc, x, x, low), vector::ShuffleOp::create(b, loc, x, x, high));
  }
  auto pairs = [&](Value x, Value y) {
    return add(vector::ShuffleOp::create(b, loc, x, y, ArrayRef<int64_t>{0, 2, 4, 6}),
               vector::ShuffleOp::create(b, loc, x, y, ArrayRef<int64_t>{1, 3, 5, 7}));
  };
  return pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
}

Value Simd::keepLanes(Value x, int64_t valid) {
  int64_t lanes = lanesOf(x);
  if (valid >= lanes)
    return x;
  SmallVector<bool> mask(lanes);
  std::fill_n(mask.begin(), valid, true);
  Value condition =
      arith::ConstantOp::create(b, loc, DenseElementsAttr::get(VectorType::get({lanes}, b.getI1Type()), mask));
  return select(condition, x, zero(lanes));
}

Value Simd::keepLanesBelow(Value x, Value count) {
  int64_t lanes = lanesOf(x);
  SmallVector<int64_t> ids(lanes);
  std::iota(ids.begin(), ids.end(), 0);
  Value lane = arith::ConstantOp::create(
      b, loc, DenseElementsAttr::get(VectorType::get({lanes}, b.getI64Type()), ArrayRef<int64_t>(ids)));
  Value below = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, lane, broadcast(count, lanes));
  return select(below, x, zero(lanes));
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value Simd::at(Value pointer, int64_t bytes) {
  if (bytes == 0)
    return pointer;
  // A constant index in the operation has 29 bits; above, it would be cut without a word.
  if (!llvm::isInt<29>(bytes))
    return at(pointer, arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(bytes)));
  return LLVM::GEPOp::create(b, loc, pointer.getType(), b.getI8Type(), pointer,
                             ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)});
}

Value Simd::at(Value pointer, Value bytes) {
  return LLVM::GEPOp::create(b, loc, pointer.getType(), b.getI8Type(), pointer, ArrayRef<LLVM::GEPArg>{bytes});
}

Value Simd::loadScalar(Type type, Value pointer) {
  return LLVM::LoadOp::create(b, loc, type, pointer, static_cast<unsigned>(bytesOf(type)));
}

Value Simd::loadPointer(Value pointer) {
  return LLVM::LoadOp::create(b, loc, LLVM::LLVMPointerType::get(b.getContext()), pointer, 8);
}

void Simd::fence() { LLVM::CallIntrinsicOp::create(b, loc, b.getStringAttr("llvm.x86.sse.sfence"), ValueRange()); }

void Simd::prefetch(Value pointer) { LLVM::Prefetch::create(b, loc, pointer, /*rw=*/0, /*hint=*/2, /*cache=*/1); }

Value Simd::load(Value pointer, Type storage, int64_t lanes, int64_t valid) {
  // bf16 travels as integers: no x86 level below avx512bf16 knows it.
  Type memory = storage.isBF16() ? Type(b.getI16Type()) : storage;
  auto align = static_cast<unsigned>(bytesOf(memory));
  Value raw;
  if (valid >= lanes) {
    raw = LLVM::LoadOp::create(b, loc, vectorOf(memory, lanes), pointer, align);
  } else {
    auto type = VectorType::get({lanes}, memory);
    SmallVector<bool> mask(lanes);
    std::fill_n(mask.begin(), valid, true);
    Value condition =
        arith::ConstantOp::create(b, loc, DenseElementsAttr::get(VectorType::get({lanes}, b.getI1Type()), mask));
    Value zeros = arith::ConstantOp::create(b, loc, b.getZeroAttr(type));
    raw = LLVM::MaskedLoadOp::create(b, loc, type, pointer, condition, zeros, b.getI32IntegerAttr(align));
  }
  Type f32 = b.getF32Type();
  if (storage.isBF16()) {
    Value wide = arith::ExtUIOp::create(b, loc, vectorOf(b.getI32Type(), lanes), raw);
    raw = fromBits(arith::ShLIOp::create(b, loc, wide, integerLike(16, wide)), f32);
    storage = f32;
  }
  unsigned from = storage.getIntOrFloatBitWidth(), to = element.getIntOrFloatBitWidth();
  if (from < 32 && to == 64) { // no library call on the way from f16 to f64
    raw = arith::ExtFOp::create(b, loc, vectorOf(f32, lanes), raw);
    from = 32;
  }
  if (from < to)
    return arith::ExtFOp::create(b, loc, computeVector(lanes), raw);
  if (from > to)
    return arith::TruncFOp::create(b, loc, computeVector(lanes), raw);
  return raw;
}

/// f64 -> f32 rounded to odd, so that rounding once more to 16 bits is exact.
Value Simd::oddTruncate(Value x) {
  int64_t lanes = lanesOf(x);
  Type f32 = b.getF32Type();
  Value narrow = arith::TruncFOp::create(b, loc, vectorOf(f32, lanes), x);
  Value back = arith::ExtFOp::create(b, loc, x.getType(), narrow);
  Value inexact = compare(arith::CmpFPredicate::ONE, back, x);
  Value above = compare(arith::CmpFPredicate::OGT, abs(back), abs(x));
  Value raw = bits(narrow);
  Value towardsZero = arith::SubIOp::create(b, loc, raw, integerLike(1, raw));
  Value odd = arith::OrIOp::create(b, loc, select(above, towardsZero, raw), integerLike(1, raw));
  return fromBits(select(inexact, odd, raw), f32);
}

/// f32 -> bf16 to nearest even, NaN kept quiet. Shifted: the 16 bits as i16;
/// otherwise their value in f32.
Value Simd::roundBits(Value x, bool shifted) {
  Value raw = bits(x);
  Value sixteen = integerLike(16, raw);
  Value high = arith::ShRUIOp::create(b, loc, raw, sixteen);
  Value odd = arith::AndIOp::create(b, loc, high, integerLike(1, raw));
  Value rounded = arith::AddIOp::create(b, loc, raw, arith::AddIOp::create(b, loc, odd, integerLike(0x7FFF, raw)));
  Value quiet = arith::OrIOp::create(b, loc, raw, integerLike(0x00400000, raw));
  rounded = select(compare(arith::CmpFPredicate::UNO, x, x), quiet, rounded);
  if (!shifted)
    return fromBits(arith::AndIOp::create(b, loc, rounded, integerLike(-65536, raw)), b.getF32Type());
  rounded = arith::ShRUIOp::create(b, loc, rounded, sixteen);
  return arith::TruncIOp::create(b, loc, vectorOf(b.getI16Type(), lanesOf(x)), rounded);
}

Value Simd::roundTo(Value x, Type storage) {
  if (storage == element || storage.isF64())
    return x;
  int64_t lanes = lanesOf(x);
  if (storage.isF32())
    return arith::ExtFOp::create(b, loc, x.getType(),
                                 Value(arith::TruncFOp::create(b, loc, vectorOf(storage, lanes), x)));
  if (element.isF64())
    x = oddTruncate(x);
  if (storage.isBF16())
    x = roundBits(x, /*shifted=*/false);
  else
    x = arith::ExtFOp::create(b, loc, vectorOf(b.getF32Type(), lanes),
                              Value(arith::TruncFOp::create(b, loc, vectorOf(storage, lanes), x)));
  return element.isF64() ? Value(arith::ExtFOp::create(b, loc, computeVector(lanes), x)) : x;
}

void Simd::store(Value value, Value pointer, Type storage, int64_t valid, bool onGrid, bool pastCache) {
  int64_t lanes = lanesOf(value);
  if (storage != element) {
    bool narrow = storage.getIntOrFloatBitWidth() == 16;
    if (narrow && element.isF64())
      value =
          onGrid ? Value(arith::TruncFOp::create(b, loc, vectorOf(b.getF32Type(), lanes), value)) : oddTruncate(value);
    if (storage.isBF16()) {
      if (onGrid) {
        Value raw = bits(value);
        value = arith::TruncIOp::create(b, loc, vectorOf(b.getI16Type(), lanes),
                                        arith::ShRUIOp::create(b, loc, raw, integerLike(16, raw)));
      } else {
        value = roundBits(value, /*shifted=*/true);
      }
    } else if (storage.getIntOrFloatBitWidth() < getElementTypeOrSelf(value.getType()).getIntOrFloatBitWidth()) {
      value = arith::TruncFOp::create(b, loc, vectorOf(storage, lanes), value);
    } else {
      value = arith::ExtFOp::create(b, loc, vectorOf(storage, lanes), value);
    }
  }
  Type memory = getElementTypeOrSelf(value.getType());
  auto align = static_cast<unsigned>(bytesOf(memory));
  if (valid >= lanes) {
    LLVM::StoreOp::create(b, loc, value, pointer, pastCache ? align * static_cast<unsigned>(lanes) : align,
                          /*isVolatile=*/false, /*isNonTemporal=*/pastCache);
    return;
  }
  if (valid == 1) {
    // LLVM 22 turns a masked store of one lane of a truncated vector into a store of the lane before truncation: two
    // bytes too many.
    Value first = vector::ExtractOp::create(b, loc, value, ArrayRef<int64_t>{0});
    LLVM::StoreOp::create(b, loc, first, pointer, align);
    return;
  }
  SmallVector<bool> mask(lanes);
  std::fill_n(mask.begin(), valid, true);
  Value condition =
      arith::ConstantOp::create(b, loc, DenseElementsAttr::get(VectorType::get({lanes}, b.getI1Type()), mask));
  LLVM::MaskedStoreOp::create(b, loc, value, pointer, condition, b.getI32IntegerAttr(align));
}

//===----------------------------------------------------------------------===//
// Control
//===----------------------------------------------------------------------===//

void Simd::either(Value condition, llvm::function_ref<void()> then, llvm::function_ref<void()> otherwise) {
  scf::IfOp::create(
      b, loc, condition,
      [&](OpBuilder &, Location) {
        then();
        scf::YieldOp::create(b, loc);
      },
      [&](OpBuilder &, Location) {
        otherwise();
        scf::YieldOp::create(b, loc);
      });
}

void Simd::loop(Value from, Value to, int64_t step, LoopBody body) {
  loop(from, to, step, {}, [&](Value index, ValueRange) {
    body(index);
    return SmallVector<Value>();
  });
}

SmallVector<Value> Simd::loop(Value from, Value to, int64_t step, ValueRange initial, ReduceBody body) {
  auto op = scf::ForOp::create(b, loc, from, to, i64(step), initial, [](OpBuilder &, Location, Value, ValueRange) {});
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.getBody());
  SmallVector<Value> results = body(op.getInductionVar(), op.getRegionIterArgs());
  scf::YieldOp::create(b, loc, results);
  return SmallVector<Value>(op.getResults());
}

void Simd::loop(int64_t count, LoopBody body) {
  if (count == 1)
    body(i64(0));
  else if (count > 1)
    loop(i64(0), i64(count), 1, body);
}

SmallVector<Value> Simd::loop(int64_t count, ValueRange initial, ReduceBody body) {
  if (count == 1)
    return body(i64(0), initial);
  return loop(i64(0), i64(count), 1, initial, body);
}

} // namespace hyperjit::cpu
