//===- KernelEmitter.cpp - Functions, chunks and blocks -------------------===//
// SPDX-License-Identifier: Apache-2.0
#include "KernelEmitter.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

namespace {
// Bytes of the fields of LaunchArguments.
enum : int64_t {
  operandsField = 0,
  workspaceField = 8,
  scratchField = 16,
  tokensField = 24,
  chunkTokensField = 32,
  beginField = 40,
  endField = 48
};
} // namespace

LogicalResult KernelEmitter::run(StringRef schedule) {
  if (failed(plan(schedule)))
    return failure();
  emitPrologue();
  emitTokens();
  emitEpilogue();
  for (arith::ConstantOp constant : fixedEnds)
    constant.setValueAttr(s.b.getI64IntegerAttr(layout.workspaceFixed));
  constexpr int64_t mostScratch = int64_t(1) << 32;
  if (layout.scratchBytes > mostScratch)
    return refuseBeyondLimits(kernel) << "rows of " << width << " channels need " << layout.scratchBytes
                                      << " bytes of scratch a thread; at most " << mostScratch
                                      << " are supported: fewer streams or channels need less";
  return failure(broken);
}

void KernelEmitter::beginFunction(const Twine &suffix, Grid grid, llvm::function_ref<void(Value, Value)> body,
                                  int64_t extent) {
  OpBuilder &b = s.b;
  MLIRContext *context = b.getContext();
  auto pointer = LLVM::LLVMPointerType::get(context);
  std::string name = (kernel.getName() + suffix).str();
  b.setInsertionPointToEnd(module.getBody());
  auto type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), {pointer});
  auto function = LLVM::LLVMFuncOp::create(b, s.loc, name, type);
  Block *entry = function.addEntryBlock(b);
  b.setInsertionPointToStart(entry);
  Value launch = entry->getArgument(0);
  auto field = [&](int64_t offset) { return s.loadScalar(b.getI64Type(), s.at(launch, offset)); };

  frame = Frame();
  frame.uniform = grid != Grid::Chunks;
  frame.operands = s.loadPointer(s.at(launch, operandsField));
  frame.workspace = s.loadPointer(s.at(launch, workspaceField));
  frame.scratch = s.loadPointer(s.at(launch, scratchField));
  frame.tokens = field(tokensField);
  frame.chunkTokens = field(chunkTokensField);
  for (size_t i = 0; i < arguments.size() + results.size(); ++i)
    frame.operandPointers.push_back(s.loadPointer(s.at(frame.operands, static_cast<int64_t>(8 * i))));
  frame.blockStart = s.i64(0);
  frame.blockTokens = s.i64(1);
  stored.clear();
  const size_t endsBefore = fixedEnds.size();
  body(field(beginField), field(endField));
  LLVM::ReturnOp::create(b, s.loc, ValueRange());

  // A part of the kernel that writes nothing is not launched.
  bool writes =
      function
          .walk([](Operation *op) {
            return isa<LLVM::StoreOp, LLVM::MaskedStoreOp>(op) ? WalkResult::interrupt() : WalkResult::advance();
          })
          .wasInterrupted();
  if (writes)
    layout.launches.push_back({name, grid, extent});
  else {
    fixedEnds.truncate(endsBefore); // what it holds goes with it
    function.erase();
  }
}

/// Where the partial sums begin; known when everything is emitted.
Value KernelEmitter::fixedEnd() {
  fixedEnds.push_back(arith::ConstantOp::create(s.b, s.loc, s.b.getI64IntegerAttr(0)));
  return fixedEnds.back();
}

Value KernelEmitter::base(const Memory &memory) {
  switch (memory.kind) {
  case Memory::Operand:
    return frame.operandPointers[memory.index];
  case Memory::Scratch:
    return s.at(frame.scratch, memory.index);
  case Memory::Fixed:
    return s.at(frame.workspace, memory.index);
  case Memory::Partial:
    return s.at(frame.partial, memory.index);
  case Memory::Global:
    return LLVM::AddressOfOp::create(s.b, s.loc, LLVM::LLVMPointerType::get(s.b.getContext()),
                                     (kernel.getName() + "_constant" + Twine(memory.index)).str());
  }
  llvm_unreachable("memory kind");
}

//===----------------------------------------------------------------------===//
// Once, before
//===----------------------------------------------------------------------===//

void KernelEmitter::emitPrologue() {
  auto pack = [&](int64_t operand, Value begin, Value end) {
    const Argument &argument = arguments[operand];
    packWeight(operand, cast<WeightType>(argument.value.getType()), argument.storage, weights[argument.value], begin,
               end);
  };
  auto isLargeWeight = [&](Value value) {
    auto type = dyn_cast<WeightType>(value.getType());
    return type && weights.count(value) && isLarge(type);
  };
  for (auto [i, argument] : llvm::enumerate(arguments))
    if (isLargeWeight(argument.value))
      beginFunction(
          "_pack" + Twine(i), Grid::Columns, [&, operand = i](Value begin, Value end) { pack(operand, begin, end); },
          vectorsOf(cast<WeightType>(argument.value.getType())));
  beginFunction("_prologue", Grid::Once, [&](Value, Value) {
    for (auto [i, argument] : llvm::enumerate(arguments)) {
      if (weights.count(argument.value) && !isLargeWeight(argument.value))
        pack(i, s.i64(0), s.i64(vectorsOf(cast<WeightType>(argument.value.getType()))));
      auto view = views.find(argument.value);
      if (!argument.uniform || view == views.end() || view->second.memory.kind != Memory::Fixed)
        continue;
      int64_t bytes = Simd::bytesOf(argument.storage);
      s.loop(cast<CoeffsType>(argument.value.getType()).getNumElements(), [&](Value e) {
        Value number = s.load(s.at(frame.operandPointers[i], s.muli(e, bytes)), argument.storage, 1, 1);
        s.store(number, s.at(base(view->second.memory), s.muli(e, s.elementBytes)));
      });
    }
    for (Operation *op : prologueOps)
      emitUniform(op);
    for (auto [i, result] : llvm::enumerate(results))
      if (result.uniform && result.phase == 'P')
        storeUniformResult(result, arguments.size() + i);
  });
}

void KernelEmitter::storeUniformResult(const Result &result, int64_t index) {
  if (auto weight = dyn_cast<WeightType>(result.value.getType())) {
    if (result.phase == 'E' && isLarge(weight))
      return; // after the epilogue, by all threads
    return unpackWeight(weights.lookup(result.value), weight, index, result.storage, s.i64(0),
                        s.i64(vectorsOf(weight)));
  }
  if (auto rows = dyn_cast<RowsType>(result.value.getType())) {
    RowsHome home{{Memory::Operand, index}, result.storage, rows.getRows(), width, false};
    // A parameter's gradient may have thousands of rows: a loop, where they lie in memory.
    if (auto found = rowsHomes.find(result.value); found != rowsHomes.end())
      return forUniformRows(home, [&](Value row, Value channel, int64_t valid) {
        return loadUniformRow(found->second, row, channel, valid);
      });
    SmallVector<Root> roots;
    for (int64_t row = 0; row < rows.getRows(); ++row)
      roots.push_back({Root::Store, nullptr, result.value, home, row, 0});
    return emitPass(roots);
  }
  CoeffsView from = view(result.value);
  int64_t bytes = Simd::bytesOf(result.storage);
  Value to = frame.operandPointers[index];
  forElements(from.shape, [&](ArrayRef<Value> at) {
    Value flat = s.i64(0);
    for (auto [axis, position] : llvm::enumerate(at))
      flat = s.addi(s.muli(flat, from.shape[axis]), position);
    s.store(loadElement(from, at, s.i64(0)), s.at(to, s.muli(flat, bytes)), result.storage, 1);
  });
}

//===----------------------------------------------------------------------===//
// Chunks of blocks of tokens
//===----------------------------------------------------------------------===//

void KernelEmitter::emitTokens() {
  if (stages.empty() && points.empty() && llvm::all_of(results, [](const Result &r) { return r.uniform; }))
    return;
  beginFunction("_tokens", Grid::Chunks, [&](Value begin, Value end) {
    Value fixed = s.at(frame.workspace, fixedEnd());
    Value pastCache = leavesCache();
    s.loop(begin, end, 1, [&](Value chunk) {
      if (layout.workspacePerChunk != 0) {
        frame.partial = s.at(fixed, s.muli(chunk, layout.workspacePerChunk));
        s.loop(s.i64(0), s.i64(layout.workspacePerChunk), target.vectorBytes,
               [&](Value offset) { s.store(s.zero(lanes), s.at(frame.partial, offset)); });
      }
      frame.pastCache = pastCache;
      Value from = arith::MulIOp::create(s.b, s.loc, chunk, frame.chunkTokens);
      Value to = s.mini(s.addi(from, frame.chunkTokens), frame.tokens);
      s.loop(from, to, block, [&](Value start) {
        frame.blockStart = start;
        frame.blockTokens = s.mini(s.i64(block), arith::SubIOp::create(s.b, s.loc, to, start));
        frame.products = 0;
        frame.fetched.clear();
        emitBlock();
      });
    });
    if (pastCache)
      s.fence(); // stores past the cache are ordered by nothing else
  });
}

/// Whether rows that the kernel returns are stored past the cache, known at run time: a line that is stored there is
/// not read before, but it is not in cache afterwards either, so only where the rows of the launch would not stay in
/// cache anyway.
Value KernelEmitter::leavesCache() {
  Value together;
  for (auto [i, result] : llvm::enumerate(results)) {
    if (result.uniform || !isa<RowsType>(result.value.getType()))
      continue;
    if (width % lanes != 0)
      return {};
    // One address says all: a row is a whole number of vectors.
    Value address = LLVM::PtrToIntOp::create(s.b, s.loc, s.b.getI64Type(), frame.operandPointers[arguments.size() + i]);
    Value low = arith::RemUIOp::create(s.b, s.loc, address, s.i64(lanes * Simd::bytesOf(result.storage)));
    together = together ? Value(arith::OrIOp::create(s.b, s.loc, together, low)) : low;
  }
  if (!together)
    return {};
  auto compare = [&](arith::CmpIPredicate predicate, Value x, int64_t y) {
    return arith::CmpIOp::create(s.b, s.loc, predicate, x, s.i64(y));
  };
  Value large = compare(arith::CmpIPredicate::sge, s.muli(frame.tokens, sizes.wideBytes), numbers.stream << 20);
  return arith::AndIOp::create(s.b, s.loc, large, compare(arith::CmpIPredicate::eq, together, 0));
}

void KernelEmitter::emitBlock() {
  loadTokenCoefficients();
  int64_t last = stages.empty() ? 0 : stages.rbegin()->first;
  for (int64_t number = 0; number <= last; ++number) {
    Stage &stage = stages[number];
    for (Operation *op : stage.coefficients)
      emitCoefficients(op);
    for (auto point = points.lower_bound({number, 0}); point != points.end() && point->first == number; ++point)
      emitPoint(*point, stage.rows);
  }
  for (Operation *op : tokenSums)
    if (coeffPartials.count(op))
      emitCoefficientSum(op);
  storeTokenCoefficients();
}

/// False, and no roots, for what is no reduction over channels.
bool KernelEmitter::addReductionRoots(Operation *op, SmallVectorImpl<Root> &roots) {
  auto add = [&](Root::Kind kind, Value rows, int64_t columns) {
    for (int64_t i = 0; i < cast<RowsType>(rows.getType()).getRows(); ++i)
      for (int64_t j = 0; j < columns; ++j)
        roots.push_back({kind, op, {}, {}, i, j});
    return true;
  };
  if (auto dot = dyn_cast<DotOp>(op))
    return add(Root::Dot, dot.getLhs(), dot.getRhs().getType().getRows());
  if (auto dot = dyn_cast<DotRowsOp>(op))
    return add(Root::DotRows, dot.getLhs(), 1);
  if (auto sum = dyn_cast<RowSumOp>(op))
    return add(Root::RowSum, sum.getInput(), 1);
  return false;
}

void KernelEmitter::emitPoint(Point point, ArrayRef<Operation *> ops) {
  for (Operation *op : ops)
    if (pointOf[op] == point && isProduct(op) && makesRows(op))
      emitProduct(op);

  // Everything that is written: homes of rows made here, then results that live elsewhere.
  SmallVector<Root> roots;
  auto store = [&](Value value, const RowsHome &home) {
    for (int64_t row = 0; row < home.rows; ++row)
      roots.push_back({Root::Store, nullptr, value, home, row, 0});
  };
  for (auto &[value, home] : rowsHomes)
    if (storedAt.lookup(value) == point && !isProduct(value.getDefiningOp()))
      store(value, home);
  for (auto [i, result] : llvm::enumerate(results)) {
    auto rows = dyn_cast<RowsType>(result.value.getType());
    if (!rows || result.uniform)
      continue;
    auto found = pointOf.find(result.value.getDefiningOp());
    if ((found == pointOf.end() ? Point() : found->second) != point)
      continue;
    auto index = static_cast<int64_t>(arguments.size() + i);
    auto home = rowsHomes.find(result.value);
    if (home != rowsHomes.end() && home->second.memory.kind == Memory::Operand && home->second.memory.index == index)
      continue;
    store(result.value, {{Memory::Operand, index}, result.storage, rows.getRows(), width, true});
  }
  size_t stores = roots.size();
  for (Operation *op : ops) {
    if (pointOf[op] != point || isProduct(op))
      continue;
    if (isa<TokenSumOp>(op)) {
      const RowsHome &home = rowPartials[op];
      for (int64_t i = 0; i < home.rows; ++i)
        roots.push_back({Root::TokenSum, op, op->getOperand(0), home, i, 0});
    } else {
      addReductionRoots(op, roots);
    }
  }
  // Accumulators live in registers: a pass takes as many as fit beside the rows, the next pass reads what is stored.
  auto limit = static_cast<size_t>(numbers.sums);
  SmallVector<Root> pass(roots.begin(), roots.begin() + stores);
  size_t accumulators = 0;
  for (size_t i = stores; i < roots.size(); ++i) {
    bool accumulates = roots[i].kind != Root::TokenSum;
    if (accumulates && accumulators == limit) {
      emitPass(pass);
      pass.clear();
      accumulators = 0;
    }
    pass.push_back(roots[i]);
    accumulators += accumulates;
  }
  if (!pass.empty())
    emitPass(pass);

  for (Operation *op : ops)
    if (pointOf[op] == point && isProduct(op) && !makesRows(op))
      emitProduct(op);
}

//===----------------------------------------------------------------------===//
// Coefficients of tokens in and out: [token][element] <-> [element][token]
//===----------------------------------------------------------------------===//

void KernelEmitter::loadTokenCoefficients() {
  for (auto [i, argument] : llvm::enumerate(arguments)) {
    auto view = views.find(argument.value);
    if (argument.uniform || view == views.end())
      continue;
    int64_t count = cast<CoeffsType>(argument.value.getType()).getNumElements();
    int64_t bytes = Simd::bytesOf(argument.storage);
    Value buffer = base(view->second.memory), operand = frame.operandPointers[i];
    s.loop(s.i64(0), frame.blockTokens, 1, [&](Value token) {
      Value from = s.at(operand, s.muli(s.addi(frame.blockStart, token), count * bytes));
      Value to = s.at(buffer, s.muli(token, s.elementBytes));
      s.loop(count, [&](Value e) {
        s.store(s.load(s.at(from, s.muli(e, bytes)), argument.storage, 1, 1),
                s.at(to, s.muli(e, block * s.elementBytes)));
      });
    });
  }
}

void KernelEmitter::storeTokenCoefficients() {
  for (auto [i, result] : llvm::enumerate(results)) {
    if (result.uniform || !isa<CoeffsType>(result.value.getType()))
      continue;
    CoeffsView from = view(result.value);
    int64_t count = cast<CoeffsType>(result.value.getType()).getNumElements();
    int64_t bytes = Simd::bytesOf(result.storage);
    Value operand = frame.operandPointers[arguments.size() + i];
    s.loop(s.i64(0), frame.blockTokens, 1, [&](Value token) {
      Value to = s.at(operand, s.muli(s.addi(frame.blockStart, token), count * bytes));
      forElements(from.shape, [&](ArrayRef<Value> at) {
        Value flat = s.i64(0);
        for (auto [axis, position] : llvm::enumerate(at))
          flat = s.addi(s.muli(flat, from.shape[axis]), position);
        s.store(coefficientAt(from, at, token, 1), s.at(to, s.muli(flat, bytes)), result.storage, 1);
      });
    });
  }
}

//===----------------------------------------------------------------------===//
// Once, after
//===----------------------------------------------------------------------===//

/// How many chunks there are.
static Value chunksOf(Simd &s, Value tokens, Value chunkTokens) {
  return s.b.createOrFold<arith::DivSIOp>(s.loc, s.addi(s.addi(tokens, chunkTokens), -1),
                                          arith::MaxSIOp::create(s.b, s.loc, chunkTokens, s.i64(1)));
}

/// Vectors [begin, end) of a partial sum, over all chunks in their order.
void KernelEmitter::sumWide(const Memory &from, const Memory &to, Value begin, Value end) {
  Value count = chunksOf(s, frame.tokens, frame.chunkTokens);
  Value first = s.at(s.at(frame.workspace, fixedEnd()), from.index);
  s.loop(begin, end, 1, [&](Value vector) {
    Value offset = s.muli(vector, target.vectorBytes), here = s.at(first, offset);
    Value total = s.loop(s.i64(0), count, 1, s.zero(lanes), [&](Value chunk, ValueRange sum) {
      return SmallVector<Value>{s.add(sum[0], s.load(s.at(here, s.muli(chunk, layout.workspacePerChunk)), lanes))};
    })[0];
    s.store(total, s.at(base(to), offset));
  });
}

void KernelEmitter::sumPartials() {
  Value count = chunksOf(s, frame.tokens, frame.chunkTokens);
  Value partials = s.at(frame.workspace, fixedEnd());
  for (Operation *op : tokenSums) {
    Value value = op->getResult(0);
    if (auto rows = dyn_cast<RowsType>(value.getType())) {
      sumWide(rowPartials[op].memory, rowsHomes[value].memory, s.i64(0), s.i64(rows.getRows() * paddedWidth / lanes));
    } else if (auto weight = dyn_cast<WeightType>(value.getType())) {
      if (!isLarge(weight))
        sumWide(weightPartials[op].memory, weights[value].memory, s.i64(0),
                s.i64(vectorsOf(weight) * weight.getColumns()));
    } else {
      // [element][lane]
      const Memory &from = coeffPartials[op].memory, &to = views[value].memory;
      s.loop(cast<CoeffsType>(value.getType()).getNumElements(), [&](Value e) {
        Value first = s.at(s.at(partials, from.index), s.muli(e, coefficientLanes * s.elementBytes));
        Value total = s.loop(s.i64(0), count, 1, s.zero(coefficientLanes), [&](Value chunk, ValueRange sums) {
          Value part = s.load(s.at(first, s.muli(chunk, layout.workspacePerChunk)), coefficientLanes);
          return SmallVector<Value>{s.add(sums[0], part)};
        })[0];
        s.store(s.extract(s.horizontalSums(total, total, total, total), 0), s.at(base(to), s.muli(e, s.elementBytes)));
      });
    }
  }
}

void KernelEmitter::emitEpilogue() {
  if (tokenSums.empty() && epilogueOps.empty())
    return;
  for (auto [i, op] : llvm::enumerate(tokenSums)) {
    Value value = op->getResult(0);
    auto weight = dyn_cast<WeightType>(value.getType());
    if (weight && isLarge(weight))
      beginFunction(
          "_sums" + Twine(i), Grid::Columns,
          [&](Value begin, Value end) { sumWide(weightPartials[op].memory, weights[value].memory, begin, end); },
          vectorsOf(weight) * weight.getColumns());
  }
  beginFunction("_epilogue", Grid::Once, [&](Value, Value) {
    sumPartials();
    for (Operation *op : epilogueOps)
      emitUniform(op);
    for (auto [i, result] : llvm::enumerate(results))
      if (result.uniform && result.phase == 'E')
        storeUniformResult(result, arguments.size() + i);
  });
  for (auto [i, result] : llvm::enumerate(results)) {
    auto weight = dyn_cast<WeightType>(result.value.getType());
    if (weight && result.phase == 'E' && isLarge(weight))
      beginFunction(
          "_unpack" + Twine(i), Grid::Columns,
          [&, index = static_cast<int64_t>(arguments.size() + i)](Value begin, Value end) {
            unpackWeight(weights.lookup(result.value), weight, index, result.storage, begin, end);
          },
          vectorsOf(weight));
  }
}

} // namespace hyperjit::cpu
