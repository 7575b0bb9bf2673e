//===- Coefficients.cpp - Coefficient maths as calls of the templates -----===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "Pieces.h"

#include "hyperjit/Conversion/HCToEmitC.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::ArrayRef;
using llvm::formatv;
using llvm::SmallVector;
using llvm::StringRef;

static int64_t beyondLanes(Type type) {
  int64_t count = hc::elementCount(type);
  return count > 32 ? count : 0;
}

int64_t cuda::scratchOf(Operation *op, int64_t lanes) {
  if (lanes == 1) { // what moves elements is in registers
    auto sinkhorn = dyn_cast<hc::SinkhornAdjointOp>(op);
    return sinkhorn ? 2 * static_cast<int64_t>(sinkhorn.getIterations()) * shapeOf(sinkhorn.getResult())[0] : 0;
  }
  return llvm::TypeSwitch<Operation *, int64_t>(op)
      .Case<hc::SliceOp, hc::TransposeOp, hc::BroadcastOp, hc::ReduceSumOp, hc::SoftmaxOp, hc::SoftmaxAdjointOp,
            hc::PermutationMixOp, hc::PermutationDotOp>(
          [](auto op) { return beyondLanes(op->getOperand(0).getType()); })
      .Case<hc::MatmulOp>([](hc::MatmulOp op) {
        return hc::elementCount(op.getLhs().getType()) + hc::elementCount(op.getRhs().getType());
      })
      .Case<hc::ConcatOp>([](hc::ConcatOp op) { return hc::elementCount(op.getType()); })
      .Case<hc::SinkhornOp>([](hc::SinkhornOp op) { return hc::elementCount(op.getType()); })
      .Case<hc::SinkhornAdjointOp>([](hc::SinkhornAdjointOp op) {
        auto shape = cast<hc::CoeffsType>(op.getType()).getShape();
        return 2 * shape[0] * shape[0] + 4 * static_cast<int64_t>(op.getIterations()) * shape[0];
      })
      .Default([](Operation *) { return 0; });
}

static std::string dims(ArrayRef<int64_t> sizes) {
  std::string text = "Dims<";
  llvm::raw_string_ostream os(text);
  llvm::interleaveComma(sizes, os);
  return text + ">";
}

static SmallVector<int64_t> stridesOf(ArrayRef<int64_t> shape) {
  SmallVector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = strides[i] * shape[i];
  return strides;
}

template <class Op> static std::string sinkhornOptions(Op op) {
  StringRef start = op.getStart(), place = op.getPlace();
  return formatv("SinkhornOptions<{0}, {1}, SinkhornStart::{2}, {3}, SinkhornPlace::{4}, {5}>",
                 cast<hc::CoeffsType>(op.getType()).getShape()[0], op.getIterations(),
                 start == "exp"       ? "Exp"
                 : start == "exp_raw" ? "ExpRaw"
                                      : "SoftmaxEps",
                 op.getFirst() == "row" ? "true" : "false",
                 place == "none"    ? "None"
                 : place == "clamp" ? "Clamp"
                                    : "Add",
                 op.getLogDomain() ? "true" : "false");
}

Value BodyEmitter::convertCoefficients(Operation *op) {
  scratchNumbers = std::max(scratchNumbers, scratchOf(op, 32));
  laneScratchNumbers = std::max(laneScratchNumbers, scratchOf(op, 1));
  SmallVector<Value> operands;
  auto operand = [&](unsigned i) { return convert(op->getOperand(i)); };
  auto local = [&](StringRef callee) {
    for (Value value : op->getOperands())
      operands.push_back(convert(value));
    return call(callee, {}, operands);
  };
  auto moved = [&](int64_t offset, ArrayRef<int64_t> sizes, ArrayRef<int64_t> strides) {
    return call("gather", {number(offset), dims(sizes), dims(strides)}, {context, operand(0)});
  };
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<hc::AddOp>([&](auto) { return local("add"); })
      .Case<hc::SubOp>([&](auto) { return local("subtract"); })
      .Case<hc::MulOp>([&](auto) { return local("multiply"); })
      .Case<hc::DivOp>([&](auto) { return local("divide"); })
      .Case<hc::MaxOp>([&](auto) { return local("maximum"); })
      .Case<hc::NegOp>([&](auto) { return local("negate"); })
      .Case<hc::ExpOp>([&](auto) { return local("exponential"); })
      .Case<hc::LogOp>([&](auto) { return local("logarithm"); })
      .Case<hc::TanhOp>([&](auto) { return local("hyperbolicTangent"); })
      .Case<hc::SigmoidOp>([&](auto) { return local("sigmoid"); })
      .Case<hc::SqrtOp>([&](auto) { return local("squareRoot"); })
      .Case<hc::RsqrtOp>([&](auto) { return local("inverseRoot"); })
      .Case<hc::ReciprocalOp>([&](auto) { return local("reciprocal"); })
      .Case<hc::HeavisideOp>([&](auto) { return local("heaviside"); })
      .Case<hc::ReshapeOp>([&](auto) { return operand(0); })
      .Case<hc::ConstantOp>([&](hc::ConstantOp constant) {
        auto values = llvm::to_vector(constant.getValue().getValues<APFloat>());
        auto text = [](const APFloat &value) {
          APFloat wide = value;
          bool lost;
          wide.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &lost);
          return literal(wide.convertToDouble());
        };
        int64_t count = countOf(constant.getResult());
        if (llvm::all_of(values, [&](const APFloat &value) { return value.bitwiseIsEqual(values[0]); }))
          return callText("splat", {number(count)}, {context}, {text(values[0])}, true);
        std::string table;
        llvm::raw_string_ostream os(table);
        llvm::interleaveComma(values, os, [&](const APFloat &value) { os << text(value); });
        auto *known = llvm::find(tables, table);
        int64_t index = known - tables.begin();
        if (known == tables.end())
          tables.push_back(table);
        return callText("fromTable", {number(count)}, {context}, {formatv("table{0}", index).str()}, true);
      })
      .Case<hc::SliceOp>([&](hc::SliceOp slice) {
        auto strides = stridesOf(shapeOf(slice.getInput()));
        return moved(slice.getOffset() * strides[slice.getAxis()], shapeOf(slice.getResult()), strides);
      })
      .Case<hc::TransposeOp>([&](hc::TransposeOp transpose) {
        auto strides = stridesOf(shapeOf(transpose.getInput()));
        SmallVector<int64_t> permuted;
        for (int64_t axis : transpose.getPermutation())
          permuted.push_back(strides[axis]);
        return moved(0, shapeOf(transpose.getResult()), permuted);
      })
      .Case<hc::BroadcastOp>([&](hc::BroadcastOp broadcast) {
        auto shape = shapeOf(broadcast.getInput());
        auto strides = stridesOf(shape);
        SmallVector<int64_t> stretched(shapeOf(broadcast.getResult()).size(), 0);
        for (auto [axis, target] : llvm::enumerate(broadcast.getDims()))
          stretched[target] = shape[axis] == 1 ? 0 : strides[axis];
        return moved(0, shapeOf(broadcast.getResult()), stretched);
      })
      .Case<hc::ReduceSumOp>([&](hc::ReduceSumOp reduce) {
        auto shape = shapeOf(reduce.getInput());
        auto strides = stridesOf(shape);
        SmallVector<int64_t> kept, keptStrides, summed, summedStrides;
        for (size_t axis = 0; axis < shape.size(); ++axis) {
          bool sum = llvm::is_contained(reduce.getAxes(), static_cast<int64_t>(axis));
          (sum ? summed : kept).push_back(shape[axis]);
          (sum ? summedStrides : keptStrides).push_back(strides[axis]);
        }
        return call("reduceSum", {dims(kept), dims(keptStrides), dims(summed), dims(summedStrides)},
                    {context, operand(0)});
      })
      .Case<hc::ConcatOp>([&](hc::ConcatOp concat) {
        auto shape = shapeOf(concat.getResult());
        int64_t outer = 1;
        for (int64_t axis = 0; axis < static_cast<int64_t>(concat.getAxis()); ++axis)
          outer *= shape[axis];
        operands.push_back(context);
        for (Value value : op->getOperands())
          operands.push_back(convert(value));
        return call("concatenate", {number(outer)}, operands);
      })
      .Case<hc::MatmulOp>([&](hc::MatmulOp matmul) {
        auto lhs = shapeOf(matmul.getLhs()), rhs = shapeOf(matmul.getRhs());
        return call("matmul", {number(lhs[0]), number(lhs[1]), number(rhs[1])}, {context, operand(0), operand(1)});
      })
      .Case<hc::SoftmaxOp>([&](hc::SoftmaxOp softmax) {
        return call("softmax", {number(shapeOf(softmax.getResult()).back())}, {context, operand(0)});
      })
      .Case<hc::SoftmaxAdjointOp>([&](hc::SoftmaxAdjointOp softmax) {
        return call("softmaxAdjoint", {number(shapeOf(softmax.getResult()).back())}, {context, operand(0), operand(1)});
      })
      .Case<hc::SinkhornOp>([&](hc::SinkhornOp sinkhorn) {
        return call("sinkhorn", {sinkhornOptions(sinkhorn)}, {context, operand(0)},
                    {sinkhorn.getEps().convertToDouble(), sinkhorn.getTau().convertToDouble()});
      })
      .Case<hc::SinkhornAdjointOp>([&](hc::SinkhornAdjointOp sinkhorn) {
        return call("sinkhornAdjoint", {sinkhornOptions(sinkhorn)}, {context, operand(0), operand(1)},
                    {sinkhorn.getEps().convertToDouble(), sinkhorn.getTau().convertToDouble()});
      })
      .Case<hc::PermutationMixOp>([&](hc::PermutationMixOp mix) {
        return call("permutationMix", {number(shapeOf(mix.getResult())[0])}, {context, operand(0)});
      })
      .Case<hc::PermutationDotOp>([&](hc::PermutationDotOp dot) {
        return call("permutationDot", {number(shapeOf(dot.getInput())[0]), number(countOf(dot.getResult()))},
                    {context, operand(0)});
      })
      .Default([](Operation *) { return Value(); });
}

void BodyEmitter::loadSources(Value value) {
  if (!sought.insert(value).second)
    return;
  if (places.memory.count(value))
    convert(value);
  else if (Operation *op = value.getDefiningOp())
    for (Value operand : op->getOperands())
      loadSources(operand);
}

void BodyEmitter::writeRecord(Value value, int64_t offset) {
  call("writeRecord", {number(offset)}, {context, convert(value)}, {}, false);
}

void BodyEmitter::writeFetched(Value value, int64_t offset) {
  call("writeFetched", {number(offset)}, {context, convert(value)}, {}, false);
}

void BodyEmitter::storeCoefficients(Value value, StringRef reference) {
  call("storeCoefficients", {reference.str()}, {context, convert(value)}, {}, false);
}

void BodyEmitter::storeTogether(ArrayRef<Value> values, int64_t pitch, ArrayRef<std::string> places,
                                ArrayRef<std::string> runs) {
  SmallVector<Value> operands = {context};
  for (Value value : values)
    operands.push_back(convert(value));
  call("storeTogether",
       {number(pitch), formatv("List<{0}>", llvm::join(places, ", ")), formatv("List<{0}>", llvm::join(runs, ", "))},
       operands, {}, false);
}
