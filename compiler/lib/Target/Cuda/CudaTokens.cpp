//===- CudaTokens.cpp - Launches of one token's coefficient maths ---------===//
// SPDX-License-Identifier: Apache-2.0
//
// The head, before main, and the tail, after it or in its lanes: what is
// long, or what no sweep waits for. How a warp stores its tokens' numbers.
//===----------------------------------------------------------------------===//
#include "SourceBuilder.h"

#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::formatv;
using llvm::StringRef;

/// Whether the maths of some store is long. Then one lane does a token's if its registers hold the values: a warp does
/// that of 32 tokens in about the time of one.
bool SourceBuilder::hasLongMaths(llvm::ArrayRef<Store> stores, const Places &places) const {
  llvm::DenseSet<Value> seen;
  std::function<bool(Value)> isLongBehind = [&](Value value) {
    Operation *op = value.getDefiningOp();
    return op && !places.memory.count(value) && seen.insert(value).second &&
           (isLong(op) || llvm::any_of(op->getOperands(), isLongBehind));
  };
  return !plan.wide() && llvm::any_of(stores, [&](const Store &store) { return isLongBehind(store.value); });
}

namespace {
/// Where lanes leave what their warp stores together: of each store, or -1 where a lane stores for itself; runs are
/// neighbours in memory.
struct Staging {
  llvm::SmallVector<int64_t> at;
  llvm::SmallVector<std::string> runs;
  int64_t pitch = 0; ///< numbers of a lane

  Staging(llvm::ArrayRef<Store> stores, int64_t elementBytes) : at(stores.size(), -1) {
    auto count = [&](size_t i) { return hc::elementCount(stores[i].value.getType()); };
    llvm::SmallVector<size_t> order = llvm::to_vector(llvm::seq<size_t>(0, stores.size()));
    llvm::stable_sort(order, [&](size_t a, size_t b) {
      return perTokenOffset(stores[a].reference).value_or(-1) < perTokenOffset(stores[b].reference).value_or(-1);
    });
    for (size_t next = 0; next < order.size();) {
      const size_t first = next;
      int64_t numbers = 0;
      do { // whole pieces of four numbers, one behind the other
        at[order[next]] = pitch + numbers;
        numbers += count(order[next++]);
      } while (next < order.size() && numbers % 4 == 0 && count(order[next]) % 4 == 0 &&
               follows(stores[order[first]], stores[order[next]], numbers * elementBytes));
      // One piece, or pieces of four and some numbers more: a lane's own are as good (three streams, an H200: 8.6 us, and
      // 11.6 as single numbers of all lanes).
      std::optional<int64_t> begin = perTokenOffset(stores[order[first]].reference);
      if (numbers <= 4 || (begin && *begin % 16 == 0 && numbers % 4)) {
        at[order[first]] = -1;
        continue;
      }
      runs.push_back(formatv("Run<{0}, {1}, {2}>", stores[order[first]].reference, pitch, numbers));
      pitch += llvm::alignTo(numbers, 4);
    }
    if (pitch % 8 == 0 && pitch > 0) // lanes hit different banks
      pitch += 4;
  }
  static bool follows(const Store &first, const Store &other, int64_t bytes) {
    std::optional<int64_t> begin = perTokenOffset(first.reference), at = perTokenOffset(other.reference);
    return begin && at && *begin % 16 == 0 && *begin + bytes == *at;
  }
};
} // namespace

/// The body; and what emits its launch.
std::function<void()> SourceBuilder::emitTokenwise(const std::vector<Store> &stores, StringRef phase, bool ofTail) {
  if (stores.empty())
    return [] {};
  Places places;
  places.memory = plan.memory.memory;
  for (Value value : plan.perToken)
    if (!ofTail)
      places.memory.erase(value);
  for (const Store &store : stores)
    if (Operation *op = store.value.getDefiningOp(); op && !hc::sumsOverChannels(op) && !plan.isUniform(store.value))
      places.memory.erase(store.value);
  std::string className = ofTail ? "Tail" : "Head";
  Operation *before = module->getBody()->empty() ? nullptr : &module->getBody()->back();
  BodyEmitter emitter = body(className, BodyEmitter::Kind::Coefficients, places);
  for (const Store &store : stores)
    emitter.loadSources(store.value);
  llvm::StringSet<> references;
  std::vector<Store> once;
  for (const Store &store : stores)
    if (references.insert(store.reference).second)
      once.push_back(store);
  const bool isLongMaths = hasLongMaths(once, places);
  const Staging staging(isLongMaths ? llvm::ArrayRef(once) : llvm::ArrayRef<Store>(), plan.elementBytes);
  llvm::SmallVector<Value> together;
  llvm::SmallVector<std::string> staged;
  for (auto [i, store] : llvm::enumerate(once))
    if (isLongMaths && staging.at[i] >= 0) {
      together.push_back(store.value);
      staged.push_back(formatv("PlaceOf<{0}, {1}>", store.reference, staging.at[i]));
    } else {
      emitter.storeCoefficients(store.value, store.reference);
    }
  if (!together.empty())
    emitter.storeTogether(together, staging.pitch, staged, staging.runs);
  close(emitter);
  auto fits = [&](int64_t numbers) { return 32 * numbers * plan.elementBytes <= leastShared; };
  ShapeNumbers numbers;
  // Blocks of one warp spread over the processors. Short maths waits for memory, and a warp reads a token's numbers
  // together.
  if (isLongMaths && emitter.largest() <= laneNumbers && fits(emitter.laneScratch())) {
    numbers.warps = 1;
    numbers.tokenLanes = 32;
    numbers.scratch = emitter.laneScratch();
  } else {
    numbers.warps = 4;
    numbers.tokenLanes = 1;
    numbers.scratch = emitter.scratch();
  }
  if (ofTail && plan.hasMain() && choice.columns && numbers.tokenLanes == 32 && numbers.scratch == 0) {
    columns.ends = className; // in lanes of main, a launch less
    return [] {};
  }
  if (numbers.tokenLanes == 32 && fits(staging.pitch))
    numbers.scratch = std::max(numbers.scratch, staging.pitch);
  int64_t tokens = numbers.warps * numbers.tokenLanes;
  while (numbers.warps > 1 && tokens * numbers.scratch * plan.elementBytes > leastShared)
    tokens = numbers.warps /= 2;
  json::Object launch{{"grid", json::Object{{"kind", "tokens"}, {"tokens_per_block", tokens}}},
                      {"shared_bytes", tokens * numbers.scratch * plan.elementBytes}};
  std::string call = formatv("tokenwise<{0}, {1}>", shape(numbers), className);
  if (!ofTail && !besideHead.empty()) { // one launch less
    int64_t blocks = wideThreads / (32 * numbers.warps);
    call = formatv("tokenwiseBeside<{0}, {1}, {2}, {3}, {4}, {5}>", number(), plan.width, blocks, besideHead,
                   shape(numbers), className);
    launch["more_blocks"] = blocks;
  }
  llvm::SmallVector<Operation *> ownBody;
  for (Operation *op = before ? before->getNextNode() : &module->getBody()->front(); op; op = op->getNextNode())
    ownBody.push_back(op);
  return [this, phase, call, ownBody, threads = 32 * numbers.warps, launch = json::Value(std::move(launch))] {
    for (Operation *op : ownBody) // other launches may have come between
      op->moveBefore(module->getBody(), module->getBody()->end());
    entry(phase, call, threads, 1, *launch.getAsObject());
  };
}
