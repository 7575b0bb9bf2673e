//===- Products.cpp - Loop nests that are blocked for registers -----------===//
// SPDX-License-Identifier: Apache-2.0
//
// Projections are blocked over tokens and columns, expansions over tokens and
// channels, weight gradients over channels and columns: each number that is
// loaded meets several that are in registers. Every result is one chain of
// additions whose order depends on sizes only.
//===----------------------------------------------------------------------===//
#include "KernelEmitter.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

//===----------------------------------------------------------------------===//
// Blocks
//===----------------------------------------------------------------------===//

/// 0 .. count - 1 in pieces of at most `size`, nearly equal ones.
void KernelEmitter::forBlocks(int64_t count, int64_t size, llvm::function_ref<void(Value, int64_t)> body) {
  if (count == 0)
    return;
  size = llvm::divideCeil(count, llvm::divideCeil(count, size));
  int64_t whole = count / size * size;
  if (whole == size)
    body(s.i64(0), size);
  else
    s.loop(s.i64(0), s.i64(whole), size, [&](Value start) { body(start, size); });
  if (whole < count)
    body(s.i64(whole), count - whole);
}

/// The channels of a row in pieces of at most `vectors` vectors, then what is left of it.
void KernelEmitter::forChannels(int64_t vectors, llvm::function_ref<void(Value, int64_t, int64_t)> body) {
  int64_t whole = width / lanes;
  forBlocks(whole, vectors, [&](Value vector, int64_t count) { body(s.muli(vector, lanes), count, lanes); });
  if (width % lanes != 0)
    body(s.i64(whole * lanes), 1, width % lanes);
}

/// A tile's last tokens may lie behind the block: they repeat its last one.
Value KernelEmitter::clampedToken(Value token) { return s.mini(token, s.addi(frame.blockTokens, -1)); }

void KernelEmitter::emitProduct(Operation *op) {
  llvm::TypeSwitch<Operation *>(op)
      .Case([&](ProjectOp project) { emitProject(project); })
      .Case([&](ExpandOp expand) { emitExpand(expand); })
      .Case([&](MixOp mix) { emitLargeMix(mix); })
      .Case([&](DotOp dot) { emitLargeDot(dot); })
      .Case([&](WeightGradOp grad) {
        emitWeightGrad(op, grad.getInput(), grad.getCoefficients(), weightPartials[op], /*accumulate=*/true);
      })
      .Default([&](Operation *) { (void)refuse(op, "no rule for this product"); });
  if (makesRows(op))
    stored.insert(op->getResult(0));
}

/// Products compute where the passes around them wait for memory: they fetch the rows of the next block meanwhile, each
/// its share of the operands.
SmallVector<KernelEmitter::Ahead> KernelEmitter::nextBlock(int64_t units) {
  SmallVector<Ahead> ahead;
  if (!numbers.ahead || frame.uniform)
    return ahead;
  int64_t product = frame.products++;
  SmallVector<int64_t> operands;
  for (auto [i, argument] : llvm::enumerate(arguments))
    if (!argument.uniform && !argument.value.use_empty() && isa<RowsType>(argument.value.getType()))
      operands.push_back(static_cast<int64_t>(i));
  auto count = static_cast<int64_t>(operands.size());
  for (auto [i, operand] : llvm::enumerate(operands)) {
    if (static_cast<int64_t>(i) * fetchingProducts / count != product)
      continue;
    const Argument &argument = arguments[operand];
    int64_t bytes = cast<RowsType>(argument.value.getType()).getRows() * width * Simd::bytesOf(argument.storage);
    ahead.push_back({s.at(frame.operandPointers[operand], s.muli(s.addi(frame.blockStart, block), bytes)),
                     static_cast<int64_t>(llvm::divideCeil((block * bytes) << 16, units))});
  }
  return ahead;
}

/// Asks for the bytes that belong to `units` units of work from this one on.
void KernelEmitter::fetchAhead(ArrayRef<Ahead> rows, Value unit, int64_t units) {
  for (const Ahead &each : rows) {
    Value offset = arith::ShRUIOp::create(s.b, s.loc, s.muli(unit, each.share), s.i64(16));
    for (int64_t line = 0; line < (units * each.share) >> 16 || line == 0; line += 64)
      s.prefetch(s.at(each.pointer, s.addi(offset, line)));
  }
}

//===----------------------------------------------------------------------===//
// Projection: tokens x columns in registers, channels in the lanes
//===----------------------------------------------------------------------===//

void KernelEmitter::emitProject(ProjectOp op) {
  const RowsHome in = rowsHomes[op.getInput()];
  const WeightHome weight = weights[op.getWeight()];
  WeightType type = op.getWeight().getType();
  int64_t rows = type.getRows(), groups = op.getInput().getType().getRows() / rows;
  int64_t bytes = Simd::bytesOf(in.storage), whole = width / lanes * lanes;
  int64_t tile = tokensOfTile();
  CoeffsView out = result(op);
  // A unit of work is a channel and a column of one tile.
  int64_t unitsOfTile = rows * paddedWidth, tiles = llvm::divideCeil(block, tile);
  SmallVector<Ahead> ahead = nextBlock(groups * type.getColumns() * tiles * unitsOfTile);

  s.loop(groups, [&](Value group) {
    forBlocks(type.getColumns(), numbers.columns, [&](Value column, int64_t columns) {
      s.loop(s.i64(0), frame.blockTokens, tile, [&](Value token) {
        SmallVector<Value> x;
        for (int64_t i = 0; i < tile; ++i)
          x.push_back(s.at(rowPointer(in, clampedToken(s.addi(token, i))), s.muli(group, rows * in.rowStride * bytes)));
        Value unit = s.muli(s.addi(s.muli(group, type.getColumns()), column), tiles * unitsOfTile);
        unit = s.addi(unit, s.muli(token, unitsOfTile / tile * columns));
        auto step = [&](Value row, Value channel, int64_t valid, ValueRange carried) {
          SmallVector<Value> sums(carried), w;
          if (!ahead.empty())
            fetchAhead(ahead, s.addi(unit, s.muli(s.addi(s.muli(row, paddedWidth), channel), columns)),
                       lanes * columns);
          for (int64_t k = 0; k < columns; ++k)
            w.push_back(s.load(weightPointer(weight, row, s.addi(column, k), channel), lanes));
          Value offset = s.addi(s.muli(row, in.rowStride * bytes), s.muli(channel, bytes));
          for (int64_t i = 0; i < tile; ++i) {
            Value xi = s.load(s.at(x[i], offset), in.storage, lanes, valid);
            for (int64_t k = 0; k < columns; ++k)
              sums[i * columns + k] = s.fma(xi, w[k], sums[i * columns + k]);
          }
          return sums;
        };
        SmallVector<Value> zeros(tile * columns, s.zero(lanes));
        SmallVector<Value> sums = s.loop(rows, zeros, [&](Value row, ValueRange carried) {
          SmallVector<Value> now(carried);
          if (whole > 0)
            now = s.loop(s.i64(0), s.i64(whole), lanes, now,
                         [&](Value channel, ValueRange inner) { return step(row, channel, lanes, inner); });
          if (whole < width)
            now = step(row, s.i64(whole), width - whole, now);
          return now;
        });
        for (int64_t k = 0; k < columns; ++k) {
          auto sum = [&](int64_t i) { return sums[std::min(i, tile - 1) * columns + k]; };
          Value four = s.horizontalSums(sum(0), sum(1), sum(2), sum(3));
          Value to = elementPointer(out, {group, s.addi(column, k)}, s.i64(0));
          // Four tokens of a coefficient lie side by side.
          if (frame.uniform)
            s.store(s.extract(four, 0), to);
          else
            s.store(four, s.at(to, s.muli(token, s.elementBytes)));
        }
      });
    });
  });
}

//===----------------------------------------------------------------------===//
// Expansion: tokens x channels in registers
//===----------------------------------------------------------------------===//

void KernelEmitter::emitExpand(ExpandOp op) {
  const RowsHome out = rowsHomes[op.getResult()];
  const WeightHome weight = weights[op.getWeight()];
  WeightType type = op.getWeight().getType();
  int64_t rows = type.getRows(), groups = out.rows / rows, tile = tokensOfTile();
  int64_t bytes = Simd::bytesOf(out.storage);
  CoeffsView p = view(op.getCoefficients());
  // A unit of work is a channel and a column of one tile.
  int64_t columns = type.getColumns(), tiles = llvm::divideCeil(block, tile);
  SmallVector<Ahead> ahead = nextBlock(groups * rows * paddedWidth * tiles * columns);

  s.loop(groups, [&](Value group) {
    s.loop(rows, [&](Value row) {
      forChannels(numbers.unroll, [&](Value channel, int64_t vectors, int64_t valid) {
        Value units = s.muli(s.addi(s.muli(s.addi(s.muli(group, rows), row), paddedWidth), channel), tiles * columns);
        s.loop(s.i64(0), frame.blockTokens, tile, [&](Value token) {
          SmallVector<Value> tokens;
          for (int64_t i = 0; i < tile; ++i)
            tokens.push_back(clampedToken(s.addi(token, i)));
          SmallVector<Value> zeros(tile * vectors, s.zero(lanes));
          SmallVector<Value> sums = s.loop(type.getColumns(), zeros, [&](Value k, ValueRange carried) {
            SmallVector<Value> now(carried), w;
            if (!ahead.empty()) {
              Value before = s.addi(s.muli(token, vectors * lanes / tile * columns), s.muli(k, vectors * lanes));
              fetchAhead(ahead, s.addi(units, before), vectors * lanes);
            }
            for (int64_t v = 0; v < vectors; ++v)
              w.push_back(s.load(weightPointer(weight, row, k, s.addi(channel, v * lanes)), lanes));
            for (int64_t i = 0; i < tile; ++i) {
              Value c = coefficientAt(p, {group, k}, tokens[i], lanes);
              for (int64_t v = 0; v < vectors; ++v)
                now[i * vectors + v] = s.fma(c, w[v], now[i * vectors + v]);
            }
            return now;
          });
          Value offset =
              s.addi(s.muli(s.addi(s.muli(group, rows), row), out.rowStride * bytes), s.muli(channel, bytes));
          for (int64_t i = 0; i < tile; ++i) {
            Value to = s.at(rowPointer(out, tokens[i]), offset);
            for (int64_t v = 0; v < vectors; ++v)
              s.store(sums[i * vectors + v], s.at(to, v * lanes * bytes), out.storage, valid);
          }
        });
      });
    });
  });
}

//===----------------------------------------------------------------------===//
// Weight gradient: channels x columns in registers, a block of tokens at a time
//===----------------------------------------------------------------------===//

void KernelEmitter::emitWeightGrad(Operation *op, Value rowsValue, Value coeffs, const WeightHome &home,
                                   bool accumulate) {
  const RowsHome in = rowsHomes[rowsValue];
  auto type = cast<WeightType>(op->getResult(0).getType());
  int64_t rows = type.getRows(), groups = in.rows / rows, bytes = Simd::bytesOf(in.storage);
  int64_t columnsAtOnce = gradientColumns(target, numbers.unroll);
  CoeffsView p = view(coeffs);
  // A unit of work is a channel and a column of one token.
  SmallVector<Ahead> ahead = nextBlock(rows * paddedWidth * type.getColumns() * block);

  s.loop(rows, [&](Value row) {
    forChannels(numbers.unroll, [&](Value channel, int64_t vectors, int64_t valid) {
      forBlocks(type.getColumns(), columnsAtOnce, [&](Value column, int64_t columns) {
        Value units = s.muli(s.addi(s.muli(s.addi(s.muli(row, paddedWidth), channel), type.getColumns()),
                                    s.muli(column, vectors * lanes)),
                             block);
        auto address = [&](int64_t k, int64_t v) {
          return weightPointer(home, row, s.addi(column, k), s.addi(channel, v * lanes));
        };
        SmallVector<Value> sums;
        for (int64_t k = 0; k < columns; ++k)
          for (int64_t v = 0; v < vectors; ++v)
            sums.push_back(accumulate ? s.load(address(k, v), lanes) : s.zero(lanes));
        sums = s.loop(s.i64(0), frame.blockTokens, 1, sums, [&](Value token, ValueRange ofTokens) {
          if (!ahead.empty())
            fetchAhead(ahead, s.addi(units, s.muli(token, vectors * lanes * columns)), vectors * lanes * columns);
          Value first = s.at(rowPointer(in, token), s.addi(s.muli(row, in.rowStride * bytes), s.muli(channel, bytes)));
          return s.loop(groups, ofTokens, [&](Value group, ValueRange carried) {
            SmallVector<Value> now(carried), x;
            Value from = s.at(first, s.muli(group, rows * in.rowStride * bytes));
            for (int64_t v = 0; v < vectors; ++v)
              x.push_back(s.load(s.at(from, v * lanes * bytes), in.storage, lanes, valid));
            for (int64_t k = 0; k < columns; ++k) {
              Value c = coefficientAt(p, {group, s.addi(column, k)}, token, lanes);
              for (int64_t v = 0; v < vectors; ++v)
                now[k * vectors + v] = s.fma(c, x[v], now[k * vectors + v]);
            }
            return now;
          });
        });
        // The lanes behind a row are zero wherever a weight is read, whatever the coefficients were.
        for (int64_t k = 0; k < columns; ++k)
          for (int64_t v = 0; v < vectors; ++v)
            s.store(s.keepLanes(sums[k * vectors + v], valid), address(k, v));
      });
    });
  });
}

//===----------------------------------------------------------------------===//
// Mixes and dots of many rows
//===----------------------------------------------------------------------===//

void KernelEmitter::emitLargeMix(MixOp op) {
  const RowsHome in = rowsHomes[op.getInput()], out = rowsHomes[op.getResult()];
  int64_t inBytes = Simd::bytesOf(in.storage), outBytes = Simd::bytesOf(out.storage);
  CoeffsView c = view(op.getCoefficients());
  s.loop(s.i64(0), frame.blockTokens, 1, [&](Value token) {
    Value from = rowPointer(in, token), to = rowPointer(out, token);
    forBlocks(out.rows, target.registers >= 32 ? 8 : 4, [&](Value row, int64_t rows) {
      forChannels(2, [&](Value channel, int64_t vectors, int64_t valid) {
        SmallVector<Value> zeros(rows * vectors, s.zero(lanes));
        SmallVector<Value> sums = s.loop(in.rows, zeros, [&](Value j, ValueRange carried) {
          SmallVector<Value> now(carried), x;
          Value pointer = s.at(from, s.addi(s.muli(j, in.rowStride * inBytes), s.muli(channel, inBytes)));
          for (int64_t v = 0; v < vectors; ++v)
            x.push_back(s.load(s.at(pointer, v * lanes * inBytes), in.storage, lanes, valid));
          for (int64_t i = 0; i < rows; ++i) {
            Value ci = coefficientAt(c, {s.addi(row, i), j}, token, lanes);
            for (int64_t v = 0; v < vectors; ++v)
              now[i * vectors + v] = s.fma(ci, x[v], now[i * vectors + v]);
          }
          return now;
        });
        for (int64_t i = 0; i < rows; ++i) {
          Value pointer = s.at(to, s.addi(s.muli(s.addi(row, i), out.rowStride * outBytes), s.muli(channel, outBytes)));
          for (int64_t v = 0; v < vectors; ++v)
            s.store(sums[i * vectors + v], s.at(pointer, v * lanes * outBytes), out.storage, valid);
        }
      });
    });
  });
}

void KernelEmitter::emitLargeDot(DotOp op) {
  const RowsHome a = rowsHomes[op.getLhs()], b = rowsHomes[op.getRhs()];
  int64_t aBytes = Simd::bytesOf(a.storage), bBytes = Simd::bytesOf(b.storage), whole = width / lanes * lanes;
  CoeffsView out = result(op);
  s.loop(s.i64(0), frame.blockTokens, 1, [&](Value token) {
    Value left = rowPointer(a, token), right = rowPointer(b, token);
    forBlocks(a.rows, 4, [&](Value row, int64_t rows) {
      forBlocks(b.rows, target.registers >= 32 ? 5 : 2, [&](Value column, int64_t columns) {
        auto step = [&](Value channel, int64_t valid, ValueRange carried) {
          SmallVector<Value> sums(carried), y;
          for (int64_t j = 0; j < columns; ++j)
            y.push_back(
                s.load(s.at(right, s.addi(s.muli(s.addi(column, j), b.rowStride * bBytes), s.muli(channel, bBytes))),
                       b.storage, lanes, valid));
          for (int64_t i = 0; i < rows; ++i) {
            Value x = s.load(s.at(left, s.addi(s.muli(s.addi(row, i), a.rowStride * aBytes), s.muli(channel, aBytes))),
                             a.storage, lanes, valid);
            for (int64_t j = 0; j < columns; ++j)
              sums[j * rows + i] = s.fma(x, y[j], sums[j * rows + i]);
          }
          return sums;
        };
        SmallVector<Value> sums(rows * columns, s.zero(lanes));
        if (whole > 0)
          sums = s.loop(s.i64(0), s.i64(whole), lanes, sums,
                        [&](Value channel, ValueRange carried) { return step(channel, lanes, carried); });
        if (whole < width)
          sums = step(s.i64(whole), width - whole, sums);
        for (int64_t j = 0; j < columns; ++j) {
          auto sum = [&](int64_t i) { return sums[j * rows + std::min(i, rows - 1)]; };
          Value four = s.horizontalSums(sum(0), sum(1), sum(2), sum(3));
          for (int64_t i = 0; i < rows; ++i) {
            Value to = elementPointer(out, {s.addi(row, i), s.addi(column, j)}, s.i64(0));
            if (out.perToken)
              to = s.at(to, s.muli(token, s.elementBytes));
            s.store(s.extract(four, i), to);
          }
        }
      });
    });
  });
}

} // namespace hyperjit::cpu
