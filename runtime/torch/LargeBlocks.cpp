// SPDX-License-Identifier: Apache-2.0
#include "LargeBlocks.h"

#include <hyperjit/core/Environment.h>

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <sys/mman.h>

namespace hyperjit::ops {
namespace {

constexpr size_t kHugePage = 2 << 20, kLarge = 2 * kHugePage;

struct Block {
  at::DataPtr memory;
  size_t bytes;
};

/// A system without huge pages ignores the wish.
void preferHugePages(const Block &block) {
  const auto begin = reinterpret_cast<uintptr_t>(block.memory.get());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage,
                  last = (begin + block.bytes) / kHugePage * kHugePage;
  ::madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
}

class LargeBlocks final : public c10::Allocator {
public:
  /// Never destroyed: tensors of static lifetime are freed after it would be.
  static LargeBlocks &global() {
    static auto *blocks = new LargeBlocks;
    return *blocks;
  }

  at::DataPtr allocate(size_t bytes) override {
    if (bytes < kLarge)
      return c10::GetCPUAllocator()->allocate(bytes);
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    std::unique_ptr<Block> block = take(bytes);
    if (!block) {
      block = std::make_unique<Block>(Block{c10::GetCPUAllocator()->allocate(bytes), bytes});
      preferHugePages(*block);
    }
    void *data = block->memory.get();
    return {data, block.release(), &LargeBlocks::release, at::Device(at::kCPU)};
  }

  void copy_data(void *to, const void *from, std::size_t count) const override { default_copy_data(to, from, count); }

private:
  /// Not waited for without end: where a process was forked while another thread held it, nobody gives it back.
  std::unique_lock<std::timed_mutex> lock() { return {mutex, std::chrono::milliseconds(10)}; }

  std::unique_ptr<Block> take(size_t bytes) {
    const auto held = lock();
    if (!held)
      return nullptr;
    auto found = std::find_if(kept.rbegin(), kept.rend(), [&](const auto &block) { return block->bytes == bytes; });
    if (found == kept.rend())
      return nullptr;
    std::unique_ptr<Block> block = std::move(*found);
    kept.erase(std::next(found).base());
    keptBytes -= bytes;
    return block;
  }

  static void release(void *context) {
    std::unique_ptr<Block> block(static_cast<Block *>(context));
    LargeBlocks &all = global();
    std::deque<std::unique_ptr<Block>> dropped; // freed without the lock
    const auto held = all.lock();
    if (!held || block->bytes > all.most)
      return;
    for (all.keptBytes += block->bytes; all.keptBytes > all.most; all.kept.pop_front()) {
      all.keptBytes -= all.kept.front()->bytes;
      dropped.push_back(std::move(all.kept.front()));
    }
    all.kept.push_back(std::move(block));
  }

  std::timed_mutex mutex;
  std::deque<std::unique_ptr<Block>> kept; ///< in the order in which they were freed
  size_t keptBytes = 0;
  const size_t most = static_cast<size_t>(Settings::fromEnvironment().keepMemoryBytes);
};

} // namespace

c10::Allocator &allocatorOnCpu() { return LargeBlocks::global(); }

at::Tensor emptyOnCpu(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::Tensor(at::detail::empty_generic(sizes, &LargeBlocks::global(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                              dtype, std::nullopt));
}

} // namespace hyperjit::ops
