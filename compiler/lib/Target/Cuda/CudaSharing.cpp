//===- CudaSharing.cpp - What lies where in the skeleton sharedWeights ----===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// Finds what passes use, and gives packed weights their places in that of a chunk, behind those that a pass uses
/// beside them.
void SourceBuilder::shareWeights(Places &places) {
  llvm::DenseSet<Value> stored;
  SmallVector<llvm::SetVector<std::pair<Value, int>>> used; // in the order of passes
  for (const StagePlan &stage : plan.stagePlans)
    for (const SweepPass &pass : stage.passes) {
      auto &[weights, rows] = sharing.passes[&pass];
      llvm::SetVector<Value> made;
      plan.loadsOf(pass, stored, rows, made);
      for (const ReductionPart &part : pass.parts)
        if (auto project = dyn_cast<hc::ProjectOp>(part.op))
          weights.insert({project.getWeight(), 0});
      for (Value value : made)
        if (auto expand = value.getDefiningOp<hc::ExpandOp>())
          weights.insert({expand.getWeight(), 1});
      for (const Store &store : pass.stores)
        if (plan.storesWithoutLoss(store))
          stored.insert(store.value);
      if (!weights.empty())
        used.push_back(weights);
    }
  sharing.same = llvm::all_of(used, [&](const auto &weights) {
    return weights.size() == used.front().size() &&
           llvm::all_of(weights, [&](auto weight) { return used.front().contains(weight); });
  });
  llvm::MapVector<std::pair<Value, int>, int64_t> ends;
  for (const auto &weights : used)
    for (auto weight : weights) {
      if (ends.count(weight))
        continue;
      int64_t offset = 0;
      for (auto &[other, end] : ends)
        if (llvm::any_of(
                used, [&, other = other](const auto &both) { return both.contains(weight) && both.contains(other); }))
          offset = std::max(offset, end);
      auto type = cast<hc::WeightType>(weight.first.getType());
      const bool expands = weight.second != 0;
      std::string &planes = (expands ? places.expansion : places.projection)[weight.first];
      planes = formatv("PassingPlanes<{0}, {1}>", planes, offset);
      ends[weight] = offset + type.getRows() * planesOfChunk(weight.first, expands);
      sharing.chunkBytes = std::max(sharing.chunkBytes, ends[weight]);
    }
}

/// The pass with the rows that it reads from memory and the weights that it uses.
std::string SourceBuilder::sharingOf(const SweepPass &pass, StringRef text, const Places &places) {
  const auto &[weights, rows] = sharing.passes.find(&pass)->second;
  std::string planes, inputs;
  for (auto [weight, expands] : weights)
    planes += ", " + (expands ? places.expansion : places.projection).lookup(weight);
  for (Value value : rows)
    inputs += formatv("{0}Input<{1}, {2}>", inputs.empty() ? "" : ", ", places.memory.lookup(value),
                      cast<hc::RowsType>(value.getType()).getRows())
                  .str();
  return formatv("UsingWeights<{0}, List<{1}>{2}>", text, inputs, planes);
}

LogicalResult SourceBuilder::finishSharing(llvm::ArrayRef<std::string> stages, StringRef uniform) {
  ShapeNumbers &numbers = mainShape;
  const int64_t tile = numbers.tokenLanes * numbers.tokens, room = Generation(target).shared,
                chunks = llvm::divideCeil(plan.width, 4 * numbers.vector);
  // As in the skeleton.
  auto bytes = [&](int64_t slotCount, int64_t group) {
    return llvm::alignTo(8 * slotCount, 128) + slotCount * group * sharing.chunkBytes +
           (llvm::alignTo(numbers.uniform, 4) + numbers.warps * (tile * numbers.record + numbers.scratch)) *
               plan.elementBytes;
  };
  // All weights stay where all sweeps use the same and there is room. Else up to four slots of up to sixteen chunks:
  // warps wait for one another once a slot.
  int64_t slotCount = 1, group = chunks;
  const bool resident = sharing.same && bytes(1, chunks) <= room;
  if (!resident) {
    for (slotCount = std::clamp<int64_t>(chunks, 2, 4); slotCount > 2 && bytes(slotCount, 1) > room;)
      --slotCount;
    for (group = std::clamp<int64_t>(chunks / slotCount, 1, 16); group > 1 && bytes(slotCount, group) > room;)
      --group;
  }
  if (int64_t needs = bytes(slotCount, group); needs > room)
    return kernel.emitError() << "schedule: apart needs " << needs << " bytes of shared memory, and a block of "
                              << target << " has " << room << "; fewer streams or iterations, or no apart, need less";
  add(formatv("using MainApart = {0};", shape(numbers)).str());
  std::string call = formatv("sharedWeights<MainApart, WeightRing<{0}, {1}, {2}, {3}>, {4}", slotCount, group,
                             sharing.chunkBytes, resident ? "true" : "false", uniform);
  for (const std::string &stage : stages)
    call += ",\n      " + stage;
  json::Object launch{{"shared_bytes", bytes(slotCount, group)},
                      {"grid", json::Object{{"kind", "persistent"}, {"per_sm", 1}}},
                      {"tokens_per_block", tile * numbers.warps}};
  if (choice.apart > 1)
    launch["percent_of_wave"] = choice.apart;
  entry("main_apart", call + ">", 32 * numbers.warps, 1, std::move(launch));
  useRows();
  return success();
}
