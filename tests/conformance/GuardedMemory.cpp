// SPDX-License-Identifier: Apache-2.0
#include "GuardedMemory.h"

#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

namespace hyperjit::conformance {
namespace {

constexpr size_t kPage = 4096, kAlignment = 16;
std::atomic<const char *> currentCase{"none"};

constexpr unsigned char kUntouched = 0xA5;

struct Mapping {
  void *start;
  size_t bytes;
  unsigned char *slack; ///< between the tensor and the forbidden page
  size_t slackBytes;
};

void release(void *context) {
  auto *mapping = static_cast<Mapping *>(context);
  for (size_t i = 0; i < mapping->slackBytes; ++i)
    if (mapping->slack[i] != kUntouched) {
      std::fprintf(stderr, "conformance: %zu bytes after a tensor are written; ran last: %s\n", i + 1,
                   currentCase.load());
      std::abort();
    }
  munmap(mapping->start, mapping->bytes);
  delete mapping;
}

class GuardedAllocator final : public at::Allocator {
public:
  at::DataPtr allocate(size_t bytes) override {
    const size_t used = (bytes + kAlignment - 1) / kAlignment * kAlignment, pages = (used + kPage - 1) / kPage * kPage;
    const size_t total = pages + 2 * kPage;
    void *start = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED ||
        (pages && mprotect(static_cast<char *>(start) + kPage, pages, PROT_READ | PROT_WRITE) != 0))
      throw std::bad_alloc();
    void *data = static_cast<char *>(start) + kPage + pages - used;
    auto *slack = static_cast<unsigned char *>(data) + bytes;
    std::memset(slack, kUntouched, used - bytes);
    return {data, new Mapping{start, total, slack, used - bytes}, release, at::kCPU};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *target, const void *source, size_t count) const override { std::memcpy(target, source, count); }
};

void tell(int signal) {
  const char *text = currentCase;
  for (const char *part : {"conformance: memory outside of a tensor is touched by ", text, "\n"})
    if (write(STDERR_FILENO, part, std::strlen(part)) < 0)
      break;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

} // namespace

void setCurrentCase(const char *text) { currentCase = text; }

void guardMemory() {
  static GuardedAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/100);
  std::signal(SIGSEGV, tell);
}

} // namespace hyperjit::conformance
