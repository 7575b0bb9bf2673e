//===- CudaSharing.cpp - What lies where in the skeleton sharedWeights ----===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::StringRef;

/// Weights that a pass uses, and whether it expands with them. `stored`: rows that it reads from memory.
SourceBuilder::SharedWeights SourceBuilder::weightsOf(const SweepPass &pass, const llvm::DenseSet<Value> &stored,
                                                      llvm::SetVector<Value> &loads) {
  SharedWeights weights;
  llvm::SetVector<Value> made;
  plan.loadsOf(pass, stored, loads, made);
  for (const ReductionPart &part : pass.parts)
    if (auto project = dyn_cast<hc::ProjectOp>(part.op))
      weights.insert({project.getWeight(), 0});
  for (Value value : made)
    if (auto expand = value.getDefiningOp<hc::ExpandOp>())
      weights.insert({expand.getWeight(), 1});
  return weights;
}

/// Gives packed weights their places in a slot, behind those that a pass uses beside them.
void SourceBuilder::shareWeights(Places &places) {
  std::vector<SharedWeights> passes;
  llvm::DenseSet<Value> stored;
  for (const StagePlan &stage : plan.stagePlans)
    for (const SweepPass &pass : stage.passes) {
      llvm::SetVector<Value> loads;
      passes.push_back(weightsOf(pass, stored, loads));
      for (const Store &store : pass.stores)
        if (plan.storesWithoutLoss(store))
          stored.insert(store.value);
    }
  const SharedWeights *first = nullptr;
  for (const SharedWeights &pass : passes)
    if (!pass.empty()) {
      oneSet = oneSet && (!first || *first == pass);
      first = &pass;
    }
  llvm::MapVector<std::pair<Value, int>, int64_t> ends;
  for (const SharedWeights &pass : passes)
    for (auto weight : pass) {
      if (ends.count(weight))
        continue;
      int64_t offset = 0;
      for (auto &[other, end] : ends)
        if (llvm::any_of(passes, [&, other = other](const SharedWeights &both) {
              return both.contains(weight) && both.contains(other);
            }))
          offset = std::max(offset, end);
      auto type = cast<hc::WeightType>(weight.first.getType());
      std::string &planes = (weight.second ? places.expansion : places.projection)[weight.first];
      planes = formatv("PassingPlanes<{0}, {1}>", planes, offset);
      ends[weight] = offset + type.getRows() * planesOfChunk(type, weight.second != 0);
      chunkBytes = std::max(chunkBytes, ends[weight]);
    }
}

/// The pass with the rows that it reads from memory and the weights that it uses.
std::string SourceBuilder::sharingOf(const SweepPass &pass, StringRef text, const Places &places) {
  llvm::DenseSet<Value> stored;
  for (auto &[value, reference] : places.memory)
    if (value.getDefiningOp())
      stored.insert(value);
  llvm::SetVector<Value> loads;
  std::string planes, inputs;
  for (auto [weight, expands] : weightsOf(pass, stored, loads))
    planes += ", " + (expands ? places.expansion : places.projection).lookup(weight);
  for (Value value : loads)
    inputs += formatv("{0}Input<{1}, {2}>", inputs.empty() ? "" : ", ", places.memory.lookup(value),
                      cast<hc::RowsType>(value.getType()).getRows())
                  .str();
  return formatv("Sharing<{0}, List<{1}>{2}>", text, inputs, planes);
}

LogicalResult SourceBuilder::finishSharing(llvm::ArrayRef<std::string> stages, StringRef uniform) {
  ShapeNumbers &numbers = mainShape;
  const int64_t tile = numbers.tokenLanes * numbers.tokens, room = Generation(target).shared,
                chunks = llvm::divideCeil(plan.width, 4 * numbers.vector);
  // As in the skeleton.
  auto bytes = [&](int64_t slotCount, int64_t group) {
    return llvm::alignTo(8 * slotCount, 128) + slotCount * group * chunkBytes +
           (llvm::alignTo(numbers.uniform, 4) + numbers.warps * (tile * numbers.record + numbers.scratch)) *
               plan.elementBytes;
  };
  // All weights stay where all sweeps use the same and there is room. Else up to four slots of up to sixteen chunks:
  // warps wait for one another once a slot.
  int64_t slotCount = 1, group = chunks;
  const bool resident = oneSet && bytes(1, chunks) <= room;
  if (!resident) {
    for (slotCount = 4; slotCount > 2 && bytes(slotCount, 1) > room;)
      --slotCount;
    for (group = std::min<int64_t>(16, llvm::divideCeil(chunks, 2)); group > 1 && bytes(slotCount, group) > room;)
      --group;
  }
  if (int64_t needs = bytes(slotCount, group); needs > room)
    return kernel.emitError() << "schedule: apart needs " << needs << " bytes of shared memory, and a block of "
                              << target << " has " << room << "; fewer streams or iterations, or no apart, need less";
  add(formatv("using MainApart = {0};", shape(numbers)).str());
  std::string call = formatv("sharedWeights<MainApart, Sharings<{0}, {1}, {2}, {3}>, {4}", slotCount, group, chunkBytes,
                             resident ? "true" : "false", uniform);
  for (const std::string &stage : stages)
    call += ",\n      " + stage;
  json::Object launch{{"shared_bytes", bytes(slotCount, group)},
                      {"grid", json::Object{{"kind", "persistent"}, {"per_sm", 1}}},
                      {"tokens_per_block", tile * numbers.warps}};
  if (choice.apart > 1)
    launch["from_tokens"] = choice.apart;
  entry("main_apart", call + ">", 32 * numbers.warps, 1, std::move(launch));
  used = choice;
  used.blocks = minBlocks, used.cluster = 1, used.slots = slots, used.planes = 2;
  used.tokens = tile, used.vector = numbers.vector, used.warps = numbers.warps;
  return success();
}
