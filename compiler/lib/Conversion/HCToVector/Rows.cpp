//===- Rows.cpp - M and light R: channels in the lanes, one fused pass ----===//
// SPDX-License-Identifier: Apache-2.0
//
// A pass walks the tokens of a block and, for each, the channels in steps of a
// vector. Rows that are stored are loaded, others are computed where they are
// used; within a step each row is made once. Sums over channels stay in
// registers until the row ends. A token's numbers are made by the same
// operations in the same order whatever the block looks like.
//===----------------------------------------------------------------------===//
#include "KernelEmitter.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

//===----------------------------------------------------------------------===//
// Addresses
//===----------------------------------------------------------------------===//

/// The first row of a token; operands hold all tokens, everything else a block.
Value KernelEmitter::rowPointer(const RowsHome &home, Value token) {
  Value pointer = base(home.memory);
  if (!home.perToken)
    return pointer;
  if (home.memory.kind == Memory::Operand)
    token = s.addi(frame.blockStart, token);
  return s.at(pointer, s.muli(token, home.rows * home.rowStride * Simd::bytesOf(home.storage)));
}

Value KernelEmitter::tokenPointer(Pass &pass, const RowsHome &home) {
  Value &pointer = pass.pointers[{home.memory.kind, home.memory.index}];
  if (!pointer) {
    OpBuilder::InsertionGuard guard(s.b);
    if (pass.channelLoop)
      s.b.setInsertionPoint(pass.channelLoop);
    pointer = rowPointer(home, pass.token);
  }
  return pointer;
}

bool KernelEmitter::isResult(const RowsHome &home) const {
  return home.memory.kind == Memory::Operand && home.memory.index >= static_cast<int64_t>(arguments.size());
}

bool KernelEmitter::isStored(Value rows) {
  auto at = storedAt.find(rows);
  return rowsHomes.count(rows) && at != storedAt.end() && (at->second == always || stored.contains(rows));
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

/// One coefficient of the pass's token in all lanes, loaded before the channels.
Value KernelEmitter::coefficient(Pass &pass, Value coeffs, int64_t flatIndex) {
  CoeffsView from = view(coeffs);
  if (from.splat)
    return s.constant(*from.splat, lanes);
  int64_t number = from.offset;
  for (int64_t axis = static_cast<int64_t>(from.shape.size()) - 1; axis >= 0; --axis) {
    number += flatIndex % from.shape[axis] * from.strides[axis];
    flatIndex /= from.shape[axis];
  }
  Value &value = pass.coefficients[{from.memory.kind, from.memory.index, number, from.perToken}];
  if (!value) {
    OpBuilder::InsertionGuard guard(s.b);
    if (pass.channelLoop)
      s.b.setInsertionPoint(pass.channelLoop);
    Value pointer = s.at(base(from.memory), number * s.elementBytes * (from.perToken ? block : 1));
    if (from.perToken)
      pointer = s.at(pointer, s.muli(pass.token, s.elementBytes));
    value = s.broadcast(s.load(pointer, 1), lanes);
  }
  return value;
}

Value KernelEmitter::rowVector(Pass &pass, Value value, int64_t row) {
  if (auto found = pass.vectors.find({value, row}); found != pass.vectors.end())
    return found->second;
  Value vector;
  if (isStored(value)) {
    const RowsHome &home = rowsHomes[value];
    int64_t bytes = Simd::bytesOf(home.storage);
    Value pointer = s.at(tokenPointer(pass, home), s.muli(pass.channel, bytes));
    pointer = s.at(pointer, row * home.rowStride * bytes);
    vector = s.load(pointer, home.storage, lanes, pass.valid);
    fetchNextToken(pass, home, pointer);
  } else if (Operation *op = value.getDefiningOp()) {
    vector = computeRow(pass, op, row);
  } else {
    broken = true;
    emitError(value.getLoc(), "internal: rows are used by the CPU lowering before they are stored");
    vector = s.zero(lanes);
  }
  return pass.vectors[{value, row}] = vector;
}

/// The first pass of a block that reads a token's rows asks for those of the next token, where no product asks for the
/// whole next block.
void KernelEmitter::fetchNextToken(Pass &pass, const RowsHome &home, Value pointer) {
  int64_t operand = home.memory.index;
  if (!numbers.ahead || fetchingProducts > 0 || frame.uniform || !home.perToken ||
      home.memory.kind != Memory::Operand || frame.fetched.count(operand) || pass.valid < lanes)
    return;
  s.prefetch(s.at(pointer, home.rows * home.rowStride * Simd::bytesOf(home.storage)));
  pass.fetches->insert(operand);
}

Value KernelEmitter::computeRow(Pass &pass, Operation *op, int64_t row) {
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case([&](MixOp mix) {
        int64_t inputs = mix.getInput().getType().getRows();
        Value sum;
        for (int64_t j = 0; j < inputs; ++j) {
          Value c = coefficient(pass, mix.getCoefficients(), row * inputs + j);
          Value x = rowVector(pass, mix.getInput(), j);
          sum = sum ? s.fma(c, x, sum) : s.mul(c, x);
        }
        return sum;
      })
      .Case([&](ScaleRowsOp scale) {
        return s.mul(coefficient(pass, scale.getCoefficients(), row), rowVector(pass, scale.getInput(), row));
      })
      .Case([&](GatherRowsOp gather) { return rowVector(pass, gather.getInput(), gather.getIndices()[row]); })
      .Case([&](ScatterRowsOp scatter) {
        Value sum;
        for (auto [i, target] : llvm::enumerate(scatter.getIndices())) {
          if (target != row)
            continue;
          Value x = rowVector(pass, scatter.getInput(), static_cast<int64_t>(i));
          sum = sum ? s.add(sum, x) : x;
        }
        return sum ? sum : s.zero(lanes);
      })
      .Case([&](FillRowsOp fill) { return coefficient(pass, fill.getCoefficients(), row); })
      .Case([&](RoundOp round) {
        Value x = rowVector(pass, round.getInput(), row);
        return round.getType() ? s.roundTo(x, *round.getType()) : x;
      })
      .Case([&](AddOp add) { return s.add(rowVector(pass, add.getLhs(), row), rowVector(pass, add.getRhs(), row)); })
      .Case([&](SubOp sub) { return s.sub(rowVector(pass, sub.getLhs(), row), rowVector(pass, sub.getRhs(), row)); })
      .Case([&](MulOp mul) { return s.mul(rowVector(pass, mul.getLhs(), row), rowVector(pass, mul.getRhs(), row)); })
      .Case([&](RowsFromWeightOp rows) {
        int64_t group = rows.getInput().getType().getRows();
        const WeightHome &home = weights[rows.getInput()];
        return s.load(weightPointer(home, s.i64(row % group), s.i64(row / group), pass.channel), lanes);
      })
      .Case([&](WeightDotOp dot) {
        const WeightHome &a = weights[dot.getLhs()], &b = weights[dot.getRhs()];
        return s.loop(dot.getLhs().getType().getColumns(), s.zero(lanes), [&](Value k, ValueRange sum) {
          Value x = s.load(weightPointer(a, s.i64(row), k, pass.channel), lanes);
          Value y = s.load(weightPointer(b, s.i64(row), k, pass.channel), lanes);
          return SmallVector<Value>{s.fma(x, y, sum[0])};
        })[0];
      })
      .Case([&](TokenSumOp sum) {
        // Of a value that is the same for all tokens.
        return s.mul(tokenCount(lanes), rowVector(pass, sum.getInput(), row));
      })
      .Default([&](Operation *) {
        (void)refuse(op, "no rule for this operation on rows");
        return s.zero(lanes);
      });
}

//===----------------------------------------------------------------------===//
// Passes
//===----------------------------------------------------------------------===//

void KernelEmitter::emitRoot(Pass &pass, const Root &root, MutableArrayRef<Value> accumulators, size_t &next) {
  auto address = [&] {
    int64_t bytes = Simd::bytesOf(root.home.storage);
    Value pointer = s.at(tokenPointer(pass, root.home), s.muli(pass.channel, bytes));
    return s.at(pointer, root.i * root.home.rowStride * bytes);
  };
  // What lies behind the end of a row is no part of a sum.
  auto accumulate = [&](Value x, Value y) {
    Value &sum = accumulators[next++];
    if (pass.valid < lanes)
      sum = s.add(sum, s.keepLanes(y ? s.mul(x, y) : x, pass.valid));
    else
      sum = y ? s.fma(x, y, sum) : s.add(sum, x);
  };
  switch (root.kind) {
  case Root::Store: {
    auto round = root.value.getDefiningOp<RoundOp>();
    bool onGrid = round && round.getType() == root.home.storage;
    s.store(rowVector(pass, root.value, root.i), address(), root.home.storage, pass.valid, onGrid,
            pass.pastCache && isResult(root.home));
    break;
  }
  case Root::Dot: {
    auto dot = cast<DotOp>(root.op);
    accumulate(rowVector(pass, dot.getLhs(), root.i), rowVector(pass, dot.getRhs(), root.j));
    break;
  }
  case Root::DotRows: {
    auto dot = cast<DotRowsOp>(root.op);
    accumulate(rowVector(pass, dot.getLhs(), root.i), rowVector(pass, dot.getRhs(), root.i));
    break;
  }
  case Root::RowSum:
    accumulate(rowVector(pass, cast<RowSumOp>(root.op).getInput(), root.i), {});
    break;
  case Root::TokenSum: {
    Value pointer = address();
    Value sum = s.load(pointer, s.element, lanes, pass.valid);
    s.store(s.add(sum, rowVector(pass, root.value, root.i)), pointer, s.element, pass.valid);
    break;
  }
  }
}

static bool sums(const Root &root) { return root.kind != Root::Store && root.kind != Root::TokenSum; }

/// One token of a pass.
void KernelEmitter::emitToken(Value token, ArrayRef<Root> roots, bool pastCache, std::set<int64_t> &fetches) {
  int64_t whole = width / lanes * lanes, rest = width - whole;
  Pass pass;
  pass.token = token;
  pass.pastCache = pastCache;
  pass.fetches = &fetches;
  auto step = [&](Value channel, int64_t valid, ValueRange carried) {
    pass.channel = channel;
    pass.valid = valid;
    pass.vectors.clear();
    SmallVector<Value> accumulators(carried);
    size_t next = 0;
    // Stores come last: a load behind a store whose address has the same low twelve bits, as that of the same place in
    // another operand often has, waits for it.
    for (const Root &root : roots)
      if (sums(root))
        emitRoot(pass, root, accumulators, next);
    for (const Root &root : roots)
      if (!sums(root))
        emitRoot(pass, root, accumulators, next);
    return accumulators;
  };
  SmallVector<Root> summed(llvm::make_filter_range(roots, sums));
  SmallVector<Value> totals(summed.size());
  for (Value &total : totals)
    total = s.zero(lanes);
  if (whole > 0)
    totals = s.loop(s.i64(0), s.i64(whole), lanes, totals, [&](Value channel, ValueRange carried) {
      pass.channelLoop = s.b.getInsertionBlock()->getParentOp();
      return step(channel, lanes, carried);
    });
  if (rest > 0)
    totals = step(s.i64(whole), rest, totals);

  for (size_t i = 0; i < totals.size(); i += 4) {
    auto total = [&](size_t j) { return totals[std::min(j, totals.size() - 1)]; };
    Value four = s.horizontalSums(total(i), total(i + 1), total(i + 2), total(i + 3));
    for (size_t j = i; j < std::min(i + 4, totals.size()); ++j) {
      const CoeffsView &to = views[summed[j].op->getResult(0)];
      SmallVector<Value> index{s.i64(summed[j].i)};
      if (summed[j].kind == Root::Dot)
        index.push_back(s.i64(summed[j].j));
      Value pointer = elementPointer(to, index, s.i64(0));
      if (to.perToken)
        pointer = s.at(pointer, s.muli(token, s.elementBytes));
      s.store(s.extract(four, static_cast<int64_t>(j - i)), pointer);
    }
  }
}

void KernelEmitter::emitPass(ArrayRef<Root> roots) {
  for (const Root &root : roots)
    if (sums(root) && !views.count(root.op->getResult(0)))
      result(root.op);
  std::set<int64_t> fetches;
  auto tokens = [&](bool pastCache) {
    if (frame.uniform)
      emitToken(s.i64(0), roots, pastCache, fetches);
    else
      s.loop(s.i64(0), frame.blockTokens, 1, [&](Value token) { emitToken(token, roots, pastCache, fetches); });
  };
  bool writesResults =
      llvm::any_of(roots, [&](const Root &root) { return root.kind == Root::Store && isResult(root.home); });
  if (writesResults && frame.pastCache)
    s.either(
        frame.pastCache, [&] { tokens(true); }, [&] { tokens(false); });
  else
    tokens(false);
  frame.fetched.insert(fetches.begin(), fetches.end());

  for (const Root &root : roots)
    if (root.kind == Root::Store && rowsHomes.count(root.value) &&
        rowsHomes[root.value].memory.kind == root.home.memory.kind &&
        rowsHomes[root.value].memory.index == root.home.memory.index)
      stored.insert(root.value);
}

/// Every vector of rows that belong to no token, row by row in a loop.
void KernelEmitter::forUniformRows(const RowsHome &to, llvm::function_ref<Value(Value, Value, int64_t)> make) {
  int64_t whole = width / lanes * lanes, bytes = Simd::bytesOf(to.storage);
  s.loop(to.rows, [&](Value row) {
    auto store = [&](Value channel, int64_t valid) {
      Value offset = s.addi(s.muli(row, to.rowStride * bytes), s.muli(channel, bytes));
      s.store(make(row, channel, valid), s.at(base(to.memory), offset), to.storage, valid);
    };
    if (whole > 0)
      s.loop(s.i64(0), s.i64(whole), lanes, [&](Value channel) { store(channel, lanes); });
    if (whole < width)
      store(s.i64(whole), width - whole);
  });
}

Value KernelEmitter::loadUniformRow(const RowsHome &rows, Value row, Value channel, int64_t valid) {
  int64_t bytes = Simd::bytesOf(rows.storage);
  Value offset = s.addi(s.muli(row, rows.rowStride * bytes), s.muli(channel, bytes));
  return s.load(s.at(base(rows.memory), offset), rows.storage, lanes, valid);
}

/// Rows that are the same for all tokens are always stored.
void KernelEmitter::emitUniformRows(Operation *op) {
  Value value = op->getResult(0);
  RowsHome home = allocateRows(Memory::Fixed, cast<RowsType>(value.getType()).getRows(), /*perToken=*/false);
  if (isProduct(op)) {
    rowsHomes[value] = home;
    storedAt[value] = always;
    return emitProduct(op);
  }
  if (auto weight = dyn_cast<RowsFromWeightOp>(op)) {
    WeightHome from = weights[weight.getInput()];
    int64_t rows = weight.getInput().getType().getRows();
    for (int64_t r = 0; r < rows; ++r) {
      // Rows r, r + R, ..: the columns of row r.
      RowsHome part = home;
      part.memory.index += r * home.rowStride * s.elementBytes;
      part.rowStride *= rows;
      part.rows = weight.getInput().getType().getColumns();
      forUniformRows(part, [&](Value column, Value channel, int64_t) {
        return s.load(weightPointer(from, s.i64(r), column, channel), lanes);
      });
    }
  } else {
    SmallVector<Root> roots;
    for (int64_t row = 0; row < home.rows; ++row)
      roots.push_back({Root::Store, nullptr, value, home, row, 0});
    emitPass(roots);
  }
  rowsHomes[value] = home;
  storedAt[value] = always;
}

} // namespace hyperjit::cpu
