//===- BlockSchedule.cpp - The skeleton `blocks` and its numbers ----------===//
// SPDX-License-Identifier: Apache-2.0
//
// Reads and writes the schedule of a CPU kernel, and measures the kernel for
// the cost model.
//===----------------------------------------------------------------------===//
#include "KernelEmitter.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

static constexpr StringLiteral skeleton = "blocks";

LogicalResult KernelEmitter::readBlocks(StringRef text) {
  BlockNumbers &n = numbers;
  int64_t most = mostInRegisters(target);
  ScheduleNumber table[] = {{"ahead", &n.ahead, 0, 1},
                            {"chunks", &n.chunks, 1, 256},
                            {"columns", &n.columns, 1, most},
                            {"stream", &n.stream, 0, 65536},
                            {"sums", &n.sums, 1, mostSums(target)},
                            {"tokens", &n.tokens, 4, 64, /*power=*/true}, // coefficients have four tokens in a vector
                            {"unroll", &n.unroll, 1, most},
                            {"vector", &n.vector, 32, target.vectorBytes, /*power=*/true}};
  if (failed(readSchedule(kernel, text, skeleton, "CPU kernels", table)))
    return failure();
  if (n.vector > 0)
    target.vectorBytes = n.vector;
  layout.vectorBytes = target.vectorBytes;
  return success();
}

std::string KernelEmitter::writeBlocks(const BlockNumbers &n) {
  return writeSchedule(skeleton, {{"ahead", n.ahead},
                                  {"chunks", n.chunks},
                                  {"columns", n.columns},
                                  {"stream", n.stream},
                                  {"sums", n.sums},
                                  {"tokens", n.tokens},
                                  {"unroll", n.unroll},
                                  {"vector", n.vector}});
}

/// What the cost model weighs. Rows that are stored have homes by now, but no memory.
KernelSizes KernelEmitter::measure() {
  KernelSizes sizes;
  sizes.width = width;
  sizes.elementBytes = s.elementBytes;
  auto rowsBytes = [&](Type type, Type storage) -> int64_t {
    auto rows = dyn_cast<RowsType>(type);
    return rows ? rows.getRows() * width * Simd::bytesOf(storage) : 0;
  };
  for (const Argument &argument : arguments)
    if (!argument.uniform && !argument.value.use_empty())
      sizes.wideBytes += rowsBytes(argument.value.getType(), argument.storage);
  for (const Result &result : results)
    if (!result.uniform)
      sizes.wideBytes += rowsBytes(result.value.getType(), result.storage);
  sizes.heldBytes = sizes.wideBytes;
  for (auto &[value, home] : rowsHomes)
    if (!home.storage)
      sizes.heldBytes += rowsBytes(value.getType(), s.element);

  auto weightOf = [&](WeightType type) { return type.getRows() * type.getColumns() * width; };
  for (auto &[number, stage] : stages) {
    std::map<Point, int64_t> sumsAt;
    for (Operation *op : stage.rows) {
      bool light = !isProduct(op);
      int64_t elements = isa<CoeffsType>(op->getResult(0).getType()) ? elementCount(op->getResult(0).getType()) : 0;
      sizes.coefficients += elements;
      if (light && sumsOverChannels(op))
        sumsAt[pointOf[op]] += elements;
      if (auto project = dyn_cast<ProjectOp>(op)) {
        int64_t weight = weightOf(project.getWeight().getType());
        sizes.projected += weight * (project.getInput().getType().getRows() / project.getWeight().getType().getRows());
        sizes.weightBytes += weight * s.elementBytes;
      } else if (auto expand = dyn_cast<ExpandOp>(op)) {
        int64_t weight = weightOf(expand.getWeight().getType());
        sizes.expanded += weight * (expand.getResult().getType().getRows() / expand.getWeight().getType().getRows());
        sizes.weightBytes += weight * s.elementBytes;
      } else if (auto grad = dyn_cast<WeightGradOp>(op)) {
        auto type = cast<WeightType>(op->getResult(0).getType());
        sizes.gradients += weightOf(type) * (grad.getInput().getType().getRows() / type.getRows());
        sizes.weightBytes += 2 * weightOf(type) * s.elementBytes; // read and written
      } else if (!light) {
        sizes.expanded += (elements ? elements : elementCount(op->getResult(0).getType()) / width) * width;
      }
    }
    for (Operation *op : stage.coefficients)
      for (Type type : op->getResultTypes())
        sizes.coefficients += elementCount(type);
    for (auto &[point, sums] : sumsAt)
      sizes.sums = std::max(sizes.sums, sums);
  }
  sizes.reduces = sizes.sums > 0 || sizes.projected > 0;
  for (Operation *op : tokenSums)
    sizes.partialBytes += elementCount(op->getResult(0).getType()) * s.elementBytes;
  return sizes;
}

LogicalResult KernelEmitter::list(StringRef schedule, SmallVectorImpl<RankedSchedule> &out) {
  VectorTarget whole = target; // the plan narrows the target to the vector it uses
  if (failed(plan(schedule)))
    return failure();
  for (const BlockNumbers &each : listBlocks(sizes, whole, numbers))
    out.push_back({writeBlocks(each), blocksCost(sizes, whole, each)});
  return success();
}

LogicalResult listSchedules(FuncOp kernel, const VectorTarget &target, SmallVectorImpl<RankedSchedule> &out) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(kernel.getLoc());
  KernelLayout layout;
  return KernelEmitter(kernel, target, *module, layout).list("auto", out);
}

} // namespace hyperjit::cpu
