//===- Coefficients.cpp - C: tokens in the vector lanes -------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// Every value is a buffer [element][token of the block]; an op is a loop over
// elements. Layout operations make views, not code. In a uniform frame the
// same code runs with one lane.
//===----------------------------------------------------------------------===//
#include "KernelEmitter.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

namespace {

SmallVector<int64_t> rowMajor(ArrayRef<int64_t> shape) {
  SmallVector<int64_t> strides(shape.size());
  int64_t count = 1;
  for (int64_t i = static_cast<int64_t>(shape.size()) - 1; i >= 0; --i) {
    strides[i] = count;
    count *= shape[i];
  }
  return strides;
}

bool isContiguous(const CoeffsView &view) {
  SmallVector<int64_t> wanted = rowMajor(view.shape);
  for (size_t i = 0; i < view.shape.size(); ++i)
    if (view.shape[i] != 1 && view.strides[i] != wanted[i])
      return false;
  return true;
}

ArrayRef<int64_t> shapeOf(Value value) { return cast<CoeffsType>(value.getType()).getShape(); }

/// Joins neighbouring axes that every view walks with one stride.
void joinAxes(MutableArrayRef<CoeffsView> views) {
  for (size_t axis = views[0].shape.size(); axis-- > 1;) {
    bool joins = llvm::all_of(views, [&](const CoeffsView &view) {
      return view.splat || view.shape[axis] == 1 || view.shape[axis - 1] == 1 ||
             view.strides[axis - 1] == view.strides[axis] * view.shape[axis];
    });
    if (!joins)
      continue;
    for (CoeffsView &view : views) {
      if (view.shape[axis] == 1)
        view.strides[axis] = view.strides[axis - 1];
      view.shape[axis] *= view.shape[axis - 1];
      view.shape.erase(view.shape.begin() + axis - 1);
      view.strides.erase(view.strides.begin() + axis - 1);
    }
  }
}

} // namespace

//===----------------------------------------------------------------------===//
// Views
//===----------------------------------------------------------------------===//

CoeffsView KernelEmitter::view(Value value) {
  if (auto found = views.find(value); found != views.end())
    return found->second;
  Operation *op = value.getDefiningOp();
  auto constant = dyn_cast_or_null<ConstantOp>(op);
  if (!constant) {
    broken = true;
    emitError(value.getLoc(), "internal: coefficients are used by the CPU lowering before they are made");
    return allocateCoeffs(Memory::Scratch, shapeOf(value), !frame.uniform);
  }
  CoeffsView view;
  view.shape.assign(shapeOf(value).begin(), shapeOf(value).end());
  view.strides = rowMajor(view.shape);
  DenseElementsAttr elements = constant.getValue();
  SmallVector<APFloat> numbers;
  for (APFloat number : elements.getValues<APFloat>()) {
    bool lost;
    number.convert(cast<FloatType>(s.element).getFloatSemantics(), APFloat::rmNearestTiesToEven, &lost);
    numbers.push_back(number);
  }
  if (llvm::all_of(numbers, [&](const APFloat &number) { return number.bitwiseIsEqual(numbers[0]); })) {
    view.splat = numbers[0].convertToDouble();
  } else {
    OpBuilder::InsertionGuard guard(s.b);
    s.b.setInsertionPointToStart(module.getBody());
    view.memory = {Memory::Global, nextConstant++};
    auto count = static_cast<int64_t>(numbers.size());
    LLVM::GlobalOp::create(s.b, s.loc, LLVM::LLVMArrayType::get(s.element, count), /*isConstant=*/true,
                           LLVM::Linkage::Private, (kernel.getName() + "_constant" + Twine(view.memory.index)).str(),
                           DenseElementsAttr::get(RankedTensorType::get({count}, s.element), numbers),
                           /*alignment=*/64);
  }
  return views[value] = view;
}

std::optional<CoeffsView> KernelEmitter::layoutView(Operation *op) {
  if (op->getNumOperands() != 1)
    return std::nullopt;
  if (!isa<ReshapeOp, TransposeOp, SliceOp, BroadcastOp>(op))
    return std::nullopt;
  CoeffsView from = view(op->getOperand(0));
  CoeffsView to = from;
  to.shape.assign(shapeOf(op->getResult(0)).begin(), shapeOf(op->getResult(0)).end());
  if (auto transpose = dyn_cast<TransposeOp>(op)) {
    for (auto [axis, source] : llvm::enumerate(transpose.getPermutation()))
      to.strides[axis] = from.strides[source];
    return to;
  }
  if (auto slice = dyn_cast<SliceOp>(op)) {
    to.offset += static_cast<int64_t>(slice.getOffset()) * from.strides[slice.getAxis()];
    return to;
  }
  if (auto broadcast = dyn_cast<BroadcastOp>(op)) {
    to.strides.assign(to.shape.size(), 0);
    for (auto [axis, target] : llvm::enumerate(broadcast.getDims()))
      if (from.shape[axis] != 1)
        to.strides[target] = from.strides[axis];
    return to;
  }
  if (isContiguous(from) || from.splat) {
    to.strides = rowMajor(to.shape);
    return to;
  }
  // Axes of size one come and go.
  auto wide = [](ArrayRef<int64_t> shape) {
    SmallVector<int64_t> axes;
    for (auto [axis, size] : llvm::enumerate(shape))
      if (size != 1)
        axes.push_back(axis);
    return axes;
  };
  SmallVector<int64_t> fromAxes = wide(from.shape), toAxes = wide(to.shape);
  if (fromAxes.size() != toAxes.size())
    return std::nullopt;
  to.strides.assign(to.shape.size(), 0);
  for (auto [a, b] : llvm::zip(fromAxes, toAxes)) {
    if (from.shape[a] != to.shape[b])
      return std::nullopt;
    to.strides[b] = from.strides[a];
  }
  return to;
}

CoeffsView KernelEmitter::result(Operation *op) {
  CoeffsView view =
      allocateCoeffs(frame.uniform ? Memory::Fixed : Memory::Scratch, shapeOf(op->getResult(0)), !frame.uniform);
  views[op->getResult(0)] = view;
  return view;
}

Value KernelEmitter::elementPointer(const CoeffsView &view, ArrayRef<Value> index, Value vector) {
  int64_t bytes = s.elementBytes * (view.perToken ? block : 1);
  Value offset = s.i64(view.offset * bytes);
  for (auto [axis, position] : llvm::enumerate(index))
    if (view.strides[axis] != 0)
      offset = s.addi(offset, s.muli(position, view.strides[axis] * bytes));
  if (view.perToken)
    offset = s.addi(offset, s.muli(vector, coefficientLanes * s.elementBytes));
  return s.at(base(view.memory), offset);
}

Value KernelEmitter::loadElement(const CoeffsView &view, ArrayRef<Value> index, Value vector) {
  if (view.splat)
    return s.constant(*view.splat, lanesHere());
  Value pointer = elementPointer(view, index, vector);
  if (view.perToken)
    return s.load(pointer, lanesHere());
  return s.broadcast(s.load(pointer, 1), lanesHere());
}

void KernelEmitter::storeElement(Value value, const CoeffsView &view, ArrayRef<Value> index, Value vector) {
  s.store(value, elementPointer(view, index, vector));
}

/// One number of one token, in all lanes.
Value KernelEmitter::coefficientAt(const CoeffsView &view, ArrayRef<Value> index, Value token, int64_t lanes) {
  if (view.splat)
    return s.constant(*view.splat, lanes);
  Value pointer = elementPointer(view, index, s.i64(0));
  if (view.perToken)
    pointer = s.at(pointer, s.muli(token, s.elementBytes));
  return s.broadcast(s.load(pointer, 1), lanes);
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

void KernelEmitter::forVectors(llvm::function_ref<void(Value)> body) {
  for (int64_t vector = 0; vector < vectorsHere(); ++vector)
    body(s.i64(vector));
}

void KernelEmitter::forElements(ArrayRef<int64_t> shape, llvm::function_ref<void(ArrayRef<Value>)> body) {
  SmallVector<Value> index;
  std::function<void()> next = [&] {
    if (index.size() == shape.size())
      return body(index);
    s.loop(shape[index.size()], [&](Value position) {
      index.push_back(position);
      next();
      index.pop_back();
    });
  };
  next();
}

void KernelEmitter::elementwise(Operation *op, llvm::function_ref<Value(ArrayRef<Value>)> body) {
  SmallVector<CoeffsView> all;
  for (Value operand : op->getOperands())
    all.push_back(view(operand));
  all.push_back(result(op));
  joinAxes(all);
  forElements(all.back().shape, [&](ArrayRef<Value> index) {
    forVectors([&](Value vector) {
      SmallVector<Value> values;
      for (const CoeffsView &operand : ArrayRef(all).drop_back())
        values.push_back(loadElement(operand, index, vector));
      storeElement(body(values), all.back(), index, vector);
    });
  });
}

void KernelEmitter::copyCoefficients(const CoeffsView &from, const CoeffsView &to) {
  SmallVector<CoeffsView> all{from, to};
  joinAxes(all);
  forElements(all[0].shape, [&](ArrayRef<Value> index) {
    forVectors([&](Value vector) { storeElement(loadElement(all[0], index, vector), all[1], index, vector); });
  });
}

//===----------------------------------------------------------------------===//
// Operations
//===----------------------------------------------------------------------===//

void KernelEmitter::emitCoefficients(Operation *op) {
  if (std::optional<CoeffsView> layout = layoutView(op)) {
    views[op->getResult(0)] = *layout;
    return;
  }
  using Values = ArrayRef<Value>;
  llvm::TypeSwitch<Operation *>(op)
      .Case([&](ConstantOp) { view(op->getResult(0)); })
      .Case([&](AddOp) { elementwise(op, [&](Values v) { return s.add(v[0], v[1]); }); })
      .Case([&](SubOp) { elementwise(op, [&](Values v) { return s.sub(v[0], v[1]); }); })
      .Case([&](MulOp) { elementwise(op, [&](Values v) { return s.mul(v[0], v[1]); }); })
      .Case([&](DivOp) { elementwise(op, [&](Values v) { return s.div(v[0], v[1]); }); })
      .Case([&](MaxOp) { elementwise(op, [&](Values v) { return s.max(v[0], v[1]); }); })
      .Case([&](NegOp) { elementwise(op, [&](Values v) { return s.neg(v[0]); }); })
      .Case([&](ExpOp) { elementwise(op, [&](Values v) { return s.exp(v[0]); }); })
      .Case([&](LogOp) { elementwise(op, [&](Values v) { return s.log(v[0]); }); })
      .Case([&](TanhOp) { elementwise(op, [&](Values v) { return s.tanh(v[0]); }); })
      .Case([&](SigmoidOp) { elementwise(op, [&](Values v) { return s.sigmoid(v[0]); }); })
      .Case([&](SqrtOp) { elementwise(op, [&](Values v) { return s.sqrt(v[0]); }); })
      .Case([&](RsqrtOp) { elementwise(op, [&](Values v) { return s.div(s.constantLike(1.0, v[0]), s.sqrt(v[0])); }); })
      .Case([&](ReciprocalOp) { elementwise(op, [&](Values v) { return s.div(s.constantLike(1.0, v[0]), v[0]); }); })
      .Case([&](HeavisideOp) {
        elementwise(op, [&](Values v) {
          return s.select(s.compare(arith::CmpFPredicate::OGE, v[0], s.zero(lanesHere())), s.constant(1.0, lanesHere()),
                          s.zero(lanesHere()));
        });
      })
      .Case([&](ReshapeOp reshape) {
        CoeffsView from = view(reshape.getInput()), to = result(op);
        to.shape = from.shape;
        to.strides = rowMajor(from.shape);
        copyCoefficients(from, to);
      })
      .Case([&](ConcatOp concat) {
        CoeffsView to = result(op);
        auto axis = static_cast<int64_t>(concat.getAxis());
        for (Value input : concat.getInputs()) {
          CoeffsView from = view(input), part = to;
          part.shape = from.shape;
          copyCoefficients(from, part);
          to.offset += from.shape[axis] * to.strides[axis];
        }
      })
      .Case([&](ReduceSumOp reduce) { emitReduceSum(reduce); })
      .Case([&](MatmulOp matmul) { emitMatmul(matmul); })
      .Case([&](SoftmaxOp softmax) { emitSoftmax(softmax); })
      .Case([&](SoftmaxAdjointOp adjoint) { emitSoftmaxAdjoint(adjoint); })
      .Case([&](SinkhornOp sinkhorn) { emitSinkhorn(sinkhorn); })
      .Case([&](SinkhornAdjointOp adjoint) { emitSinkhornAdjoint(adjoint); })
      .Case([&](PermutationMixOp mix) { emitPermutationMix(mix); })
      .Case([&](PermutationDotOp dot) { emitPermutationDot(dot); })
      .Default([&](Operation *) { (void)refuse(op, "no rule for this operation on coefficients"); });
}

void KernelEmitter::emitReduceSum(ReduceSumOp op) {
  CoeffsView from = view(op.getInput()), to = result(op);
  SmallVector<int64_t> kept, keptAxes, reducedAxes;
  for (int64_t axis = 0; axis < static_cast<int64_t>(from.shape.size()); ++axis) {
    if (llvm::is_contained(op.getAxes(), axis)) {
      reducedAxes.push_back(axis);
    } else {
      kept.push_back(from.shape[axis]);
      keptAxes.push_back(axis);
    }
  }
  to.shape = kept;
  to.strides = rowMajor(kept);
  forElements(kept, [&](ArrayRef<Value> index) {
    forVectors([&](Value vector) {
      SmallVector<Value> position(from.shape.size());
      for (auto [axis, value] : llvm::zip(keptAxes, index))
        position[axis] = value;
      std::function<Value(size_t, Value)> sum = [&](size_t depth, Value total) -> Value {
        if (depth == reducedAxes.size())
          return s.add(total, loadElement(from, position, vector));
        int64_t axis = reducedAxes[depth];
        return s.loop(from.shape[axis], total, [&](Value at, ValueRange carried) {
          position[axis] = at;
          return SmallVector<Value>{sum(depth + 1, carried[0])};
        })[0];
      };
      storeElement(sum(0, s.zero(lanesHere())), to, index, vector);
    });
  });
}

void KernelEmitter::emitMatmul(MatmulOp op) {
  CoeffsView a = view(op.getLhs()), b = view(op.getRhs()), to = result(op);
  forElements(to.shape, [&](ArrayRef<Value> index) {
    forVectors([&](Value vector) {
      Value total = s.loop(a.shape[1], s.zero(lanesHere()), [&](Value k, ValueRange carried) {
        return SmallVector<Value>{
            s.fma(loadElement(a, {index[0], k}, vector), loadElement(b, {k, index[1]}, vector), carried[0])};
      })[0];
      storeElement(total, to, index, vector);
    });
  });
}

void KernelEmitter::emitSoftmax(SoftmaxOp op) {
  CoeffsView from = view(op.getInput()), to = result(op);
  int64_t size = from.shape.back();
  forElements(ArrayRef(from.shape).drop_back(), [&](ArrayRef<Value> outer) {
    forVectors([&](Value vector) {
      auto at = [&](Value last) {
        SmallVector<Value> index(outer);
        index.push_back(last);
        return index;
      };
      Value top = loadElement(from, at(s.i64(0)), vector);
      top = s.loop(size, top, [&](Value k, ValueRange carried) {
        return SmallVector<Value>{s.max(carried[0], loadElement(from, at(k), vector))};
      })[0];
      Value total = s.loop(size, s.zero(lanesHere()), [&](Value k, ValueRange carried) {
        Value e = s.exp(s.sub(loadElement(from, at(k), vector), top));
        storeElement(e, to, at(k), vector);
        return SmallVector<Value>{s.add(carried[0], e)};
      })[0];
      s.loop(size, [&](Value k) { storeElement(s.div(loadElement(to, at(k), vector), total), to, at(k), vector); });
    });
  });
}

void KernelEmitter::emitSoftmaxAdjoint(SoftmaxAdjointOp op) {
  CoeffsView p = view(op.getProbabilities()), dp = view(op.getCotangent()), to = result(op);
  int64_t size = p.shape.back();
  forElements(ArrayRef(p.shape).drop_back(), [&](ArrayRef<Value> outer) {
    forVectors([&](Value vector) {
      auto at = [&](Value last) {
        SmallVector<Value> index(outer);
        index.push_back(last);
        return index;
      };
      Value total = s.loop(size, s.zero(lanesHere()), [&](Value k, ValueRange carried) {
        return SmallVector<Value>{s.fma(loadElement(p, at(k), vector), loadElement(dp, at(k), vector), carried[0])};
      })[0];
      s.loop(size, [&](Value k) {
        Value difference = s.sub(loadElement(dp, at(k), vector), total);
        storeElement(s.mul(loadElement(p, at(k), vector), difference), to, at(k), vector);
      });
    });
  });
}

void KernelEmitter::emitPermutationMix(PermutationMixOp op) {
  CoeffsView from = view(op.getInput()), to = result(op);
  int64_t n = to.shape[0];
  auto all = permutations(n);
  forVectors([&](Value vector) {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < n; ++i) {
        Value total;
        for (auto [r, permutation] : llvm::enumerate(all)) {
          if (permutation[j] != i)
            continue;
          Value c = loadElement(from, s.i64(r), vector);
          total = total ? s.add(total, c) : c;
        }
        storeElement(total, to, {s.i64(j), s.i64(i)}, vector);
      }
  });
}

void KernelEmitter::emitPermutationDot(PermutationDotOp op) {
  CoeffsView from = view(op.getInput()), to = result(op);
  auto all = permutations(from.shape[0]);
  forVectors([&](Value vector) {
    for (auto [r, permutation] : llvm::enumerate(all)) {
      Value total;
      for (auto [j, i] : llvm::enumerate(permutation)) {
        Value h = loadElement(from, {s.i64(j), s.i64(i)}, vector);
        total = total ? s.add(total, h) : h;
      }
      storeElement(total, to, s.i64(r), vector);
    }
  });
}

/// Adds a block's tokens to the chunk's sums [element][lane].
void KernelEmitter::emitCoefficientSum(Operation *op) {
  CoeffsView from = view(op->getOperand(0));
  const CoeffsView &partial = coeffPartials[op];
  SmallVector<int64_t> strides = rowMajor(from.shape);
  forElements(from.shape, [&](ArrayRef<Value> index) {
    Value flat = s.i64(0);
    for (auto [axis, position] : llvm::enumerate(index))
      flat = s.addi(flat, s.muli(position, strides[axis]));
    Value pointer = s.at(base(partial.memory), s.muli(flat, coefficientLanes * s.elementBytes));
    Value total = s.load(pointer, coefficientLanes);
    forVectors([&](Value vector) {
      Value below = s.addi(frame.blockTokens, s.muli(vector, -coefficientLanes));
      total = s.add(total, s.keepLanesBelow(loadElement(from, index, vector), below));
    });
    s.store(total, pointer);
  });
}

} // namespace hyperjit::cpu
