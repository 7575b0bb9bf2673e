// Memory of large results on the CPU: kept when they are freed, up to HYPERJIT_KEEP_MEMORY, and never shared by two of
// them. CTest runs this with several limits.
// SPDX-License-Identifier: Apache-2.0

#include "Sites.h"

#include <hyperjit/core/Environment.h>

#include <fstream>
#include <malloc.h>
#include <set>
#include <unistd.h>

namespace hyperjit::tests {
namespace {

/// Of no file: code of a library comes into memory with its first call.
int64_t residentBytes() {
  int64_t all = 0, resident = 0, ofFiles = 0;
  std::ifstream("/proc/self/statm") >> all >> resident >> ofFiles;
  return (resident - ofFiles) * ::sysconf(_SC_PAGESIZE);
}

TEST(Memory, OfLargeResultsIsKeptUpToTheLimit) {
  // The C library keeps no large block by itself.
  ASSERT_EQ(::mallopt(M_MMAP_THRESHOLD, 1 << 20), 1);
  // In whole huge pages.
  constexpr int64_t tokens = 8192, d = 304, size = 38 << 20, results = 3;
  constexpr double nearness = 0.45 * size; // tells one result more or less; the process uses memory of its own
  static_assert(tokens * 4 * d * 4 == size);
  const at::NoGradGuard noGrad;
  nn::Connection layer = makeLayer("static:n=4,d=304");
  const at::Tensor x = random({tokens, 4, d}, 1);
  auto run = [&] { return layer->forward(x, [](const at::Tensor &u) { return u; }).tensor(); };
  const at::Tensor expected = run().clone();
  EXPECT_TRUE(
      at::equal(run(), expected)); // all that runs below has run once; the branch's rows too are kept or given back
  const int64_t limit = Settings::fromEnvironment().keepMemoryBytes;
  const int64_t keptBefore = std::min<int64_t>(limit / size, 1);
  const int64_t before = residentBytes();
  {
    std::vector<at::Tensor> alive;
    std::set<const void *> addresses;
    for (int64_t i = 0; i < results; ++i)
      addresses.insert(alive.emplace_back(run()).const_data_ptr());
    EXPECT_EQ(addresses.size(), size_t(results));
    for (const at::Tensor &result : alive)
      EXPECT_TRUE(at::equal(result, expected));
    EXPECT_NEAR(double(residentBytes() - before), double((results - keptBefore) * size), nearness);
  }
  const int64_t keptNow = std::min(limit / size, results);
  EXPECT_NEAR(double(residentBytes() - before), double((keptNow - keptBefore) * size), nearness) << "limit " << limit;
  EXPECT_TRUE(at::equal(run(), expected));
}

} // namespace
} // namespace hyperjit::tests
