// One pack that the tests of travelling caches share: real kernels, a few small ones.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Harness.h"

#include <memory>
#include <string>
#include <vector>

namespace hyperjit::test {

inline std::string inQuotes(const std::string &text) { return "'" + text + "'"; }

/// Two variants and a boundary between them, for the lowest CPU level.
struct Ship : testing::Test {
  static inline std::unique_ptr<TemporaryFolder> all;
  static inline std::string specs, pack, kernels;
  static inline bool made = false;
  TemporaryFolder folder;

  static void SetUpTestSuite() {
    all = std::make_unique<TemporaryFolder>();
    specs = *all / "specs.txt";
    kernels = *all / "kernels";
    pack = *all / "kernels.hjpack";
    writeFile(specs,
              "# what a model of two layers uses\n"
              "before(static:n=2,m=1,d=16,dtype=fp32):forward:infer:tokens=small\n"
              "boundary(static:n=2,m=1,d=16,dtype=fp32|manifold:n=2,m=1,d=16,dtype=fp32):forward:save:tokens=small\n"
              "boundary(static:n=2,m=1,d=16,dtype=fp32|manifold:n=2,m=1,d=16,dtype=fp32):backward:given=xuc:want=xycp:"
              "tokens=small\n"
              "after(manifold:n=2,m=1,d=16,dtype=fp32):forward:infer:tokens=small\n");
    Ran ran =
        hyperjitCommand("precompile --specs " + specs + " --target x86-64-v3 --out " + kernels, "HOME=" + all->path);
    made = ran.code == 0;
    EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
    ran = hyperjitCommand("cache pack " + pack + " --from " + kernels, "HOME=" + all->path);
    made &= ran.code == 0;
  }
  static void TearDownTestSuite() { all.reset(); }
  void SetUp() override {
    if (!made)
      GTEST_SKIP() << "this build has no compiler";
  }
  Ran command(const std::string &arguments, const std::string &environment = "") {
    return hyperjitCommand(arguments, "HOME=" + folder.path + " " + environment);
  }
  static Ran warm(const std::string &environment, const std::string &before = {}) {
    return run("env -i PATH=/usr/bin:/bin HYPERJIT_COMPILER_PATH=/nonexistent HYPERJIT_NVRTC_PATH=/nonexistent " +
               environment + " " + before + " " + reachable(CACHE_WARM) + " " + specs);
  }
  static std::vector<std::string> files(const std::string &root) {
    std::vector<std::string> list;
    for (const CacheEntryFile &file : KernelCache::list(root))
      list.push_back(file.path);
    return list;
  }
};

} // namespace hyperjit::test
