//===- Uniform.cpp - P and E: what belongs to no token --------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// Weights come as [row][channel][column] and are kept as
// [row][vector of channels][column][lane] with zeros behind the channels.
// Columns are sliced by address.
//===----------------------------------------------------------------------===//
#include "KernelEmitter.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

//===----------------------------------------------------------------------===//
// Layout of weights
//===----------------------------------------------------------------------===//

Value KernelEmitter::weightPointer(const WeightHome &home, Value row, Value column, Value channel) {
  Value offset =
      s.addi(s.muli(row, home.columns * paddedWidth * s.elementBytes), s.muli(column, lanes * s.elementBytes));
  return s.at(base(home.memory), s.addi(offset, s.muli(channel, home.columns * s.elementBytes)));
}

/// Every vector of a packed weight.
void KernelEmitter::forWeight(WeightType type, llvm::function_ref<void(Value, Value, Value, int64_t)> body) {
  int64_t whole = width / lanes * lanes;
  s.loop(type.getRows(), [&](Value row) {
    s.loop(type.getColumns(), [&](Value column) {
      if (whole > 0)
        s.loop(s.i64(0), s.i64(whole), lanes, [&](Value channel) { body(row, column, channel, lanes); });
      if (whole < width)
        body(row, column, s.i64(whole), width - whole);
    });
  });
}

/// Numbers of a weight: where they lie packed, and where in the operand. Vectors [begin, end) of [row][vector of
/// channels].
void KernelEmitter::forNumbers(WeightType type, const WeightHome &home, int64_t operand, Type storage, Value begin,
                               Value end, llvm::function_ref<void(Value, Value)> body) {
  int64_t bytes = Simd::bytesOf(storage), columns = type.getColumns(), perRow = paddedWidth / lanes;
  Value outside = frame.operandPointers[operand];
  s.loop(begin, end, 1, [&](Value vector) {
    Value row = arith::DivUIOp::create(s.b, s.loc, vector, s.i64(perRow));
    Value channel = s.muli(arith::RemUIOp::create(s.b, s.loc, vector, s.i64(perRow)), lanes);
    Value first = s.at(outside, s.muli(s.addi(s.muli(row, width), channel), columns * bytes));
    Value packed = weightPointer(home, row, s.i64(0), channel);
    // The last vector of a row may be shorter.
    Value valid = s.mini(s.i64(lanes), arith::SubIOp::create(s.b, s.loc, s.i64(width), channel));
    s.loop(s.i64(0), valid, 1, [&](Value lane) {
      s.loop(columns, [&](Value column) {
        body(s.at(packed, s.muli(s.addi(s.muli(column, lanes), lane), s.elementBytes)),
             s.at(first, s.muli(s.addi(s.muli(lane, columns), column), bytes)));
      });
    });
  });
}

void KernelEmitter::packWeight(int64_t operand, WeightType type, Type storage, const WeightHome &home, Value begin,
                               Value end) {
  if (width < paddedWidth)
    s.loop(begin, end, 1, [&](Value vector) {
      Value first = s.at(base(home.memory), s.muli(vector, home.columns * lanes * s.elementBytes));
      s.loop(type.getColumns(),
             [&](Value column) { s.store(s.zero(lanes), s.at(first, s.muli(column, lanes * s.elementBytes))); });
    });
  forNumbers(type, home, operand, storage, begin, end,
             [&](Value packed, Value number) { s.store(s.load(number, storage, 1, 1), packed); });
}

void KernelEmitter::unpackWeight(const WeightHome &home, WeightType type, int64_t operand, Type storage, Value begin,
                                 Value end) {
  forNumbers(type, home, operand, storage, begin, end,
             [&](Value packed, Value number) { s.store(s.load(packed, 1), number, storage, 1); });
}

//===----------------------------------------------------------------------===//
// Operations
//===----------------------------------------------------------------------===//

Value KernelEmitter::tokenCount(int64_t lanes) {
  return s.broadcast(arith::SIToFPOp::create(s.b, s.loc, s.element, frame.tokens), lanes);
}

void KernelEmitter::emitUniform(Operation *op) {
  Value value = op->getResult(0);
  if (isa<WeightType>(value.getType()))
    return emitUniformWeight(op);
  if (isa<RowsType>(value.getType()))
    return emitUniformRows(op);
  if (isProduct(op))
    return emitProduct(op);
  if (isa<TokenSumOp>(op))
    return elementwise(op, [&](ArrayRef<Value> v) { return s.mul(tokenCount(1), v[0]); });
  SmallVector<Root> roots;
  if (!addReductionRoots(op, roots))
    return emitCoefficients(op);
  emitPass(roots);
}

void KernelEmitter::emitUniformWeight(Operation *op) {
  Value value = op->getResult(0);
  auto type = cast<WeightType>(value.getType());
  if (auto slice = dyn_cast<SliceWeightOp>(op)) {
    WeightHome home = weights[slice.getInput()];
    home.memory.index += static_cast<int64_t>(slice.getOffset()) * lanes * s.elementBytes;
    weights[value] = home;
    return;
  }
  WeightHome home = allocateWeight(type);
  weights[value] = home;
  auto map = [&](WeightHome to, WeightType over, llvm::function_ref<Value(Value, Value, Value, int64_t)> make) {
    forWeight(over, [&](Value row, Value column, Value channel, int64_t valid) {
      s.store(s.keepLanes(make(row, column, channel, valid), valid), weightPointer(to, row, column, channel));
    });
  };
  auto loadWeight = [&](Value from, Value row, Value column, Value channel) {
    return s.load(weightPointer(weights[from], row, column, channel), lanes);
  };
  auto loadRow = [&](Value from, Value row, Value channel, int64_t valid) {
    return loadUniformRow(rowsHomes[from], row, channel, valid);
  };
  llvm::TypeSwitch<Operation *>(op)
      .Case<AddOp, SubOp>([&](auto binary) {
        map(home, type, [&](Value row, Value column, Value channel, int64_t) {
          Value x = loadWeight(binary.getLhs(), row, column, channel);
          Value y = loadWeight(binary.getRhs(), row, column, channel);
          return isa<AddOp>(op) ? s.add(x, y) : s.sub(x, y);
        });
      })
      .Case([&](ScaleWeightOp scale) {
        map(home, type, [&](Value row, Value column, Value channel, int64_t valid) {
          return s.mul(loadWeight(scale.getWeight(), row, column, channel),
                       loadRow(scale.getScale(), row, channel, valid));
        });
      })
      .Case([&](ConcatWeightsOp concat) {
        WeightHome part = home;
        for (Value input : concat.getInputs()) {
          auto from = cast<WeightType>(input.getType());
          map(part, from,
              [&](Value row, Value column, Value channel, int64_t) { return loadWeight(input, row, column, channel); });
          part.memory.index += from.getColumns() * lanes * s.elementBytes;
        }
      })
      .Case([&](WeightFromRowsOp from) {
        map(home, type, [&](Value row, Value column, Value channel, int64_t valid) {
          return loadRow(from.getInput(), s.addi(s.muli(column, type.getRows()), row), channel, valid);
        });
      })
      .Case([&](OuterOp outer) {
        emitWeightGrad(op, outer.getInput(), outer.getCoefficients(), home, /*accumulate=*/false);
      })
      .Case([&](TokenSumOp sum) {
        // Of a weight that is the same for all tokens.
        map(home, type, [&](Value row, Value column, Value channel, int64_t) {
          return s.mul(tokenCount(lanes), loadWeight(sum.getInput(), row, column, channel));
        });
      })
      .Case([&](WeightGradOp grad) {
        // Every token adds the same product.
        emitWeightGrad(op, grad.getInput(), grad.getCoefficients(), home, /*accumulate=*/false);
        map(home, type, [&](Value row, Value column, Value channel, int64_t) {
          return s.mul(tokenCount(lanes), loadWeight(value, row, column, channel));
        });
      })
      .Default([&](Operation *) { (void)refuse(op, "no rule for this operation on weights"); });
}

} // namespace hyperjit::cpu
