// What the promises need: programs that are run and listened to, a file system that fails on demand, tools that a
// machine may lack. What cannot be done here is skipped by name, and ctest counts it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../unit/core/Support.h"
#include "Stub.h"

#include "hyperjit/core/FileSystem.h"
#include "hyperjit/core/KernelCache.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <string>

namespace hyperjit::test {

struct Ran {
  int code = -1; ///< 128 + signal for one that was killed
  std::string out, error;
  double seconds = 0;
  nlohmann::json json() const { return nlohmann::json::parse(out, nullptr, false); }
};
/// sh -c `command`; killed after `limit` seconds.
Ran run(const std::string &command, double limit = 60);
/// A program of the build for other users too: where they may not enter its directory, a copy beside copies of its
/// libraries.
std::string reachable(const std::string &program);
/// cache-stress; `before` stands in front of it ("strace ...", "unshare ...").
std::string stressProgram();
Ran stress(const std::string &arguments, const std::string &before = {});
/// The hyperjit command with a clean environment and these settings.
Ran hyperjitCommand(const std::string &arguments, const std::string &environment);
/// No wrong byte, no failure, nothing damaged on disk.
void expectClean(const Ran &ran);

/// Empty, or why a test is skipped.
std::string lacks(const std::string &tool);
bool isRoot();
#define HYPERJIT_NEEDS(tool)                                                                                           \
  do {                                                                                                                 \
    std::string why = ::hyperjit::test::lacks(tool);                                                                   \
    if (!why.empty()) {                                                                                                \
      GTEST_SKIP() << why;                                                                                             \
    }                                                                                                                  \
  } while (false)

/// Every call first asks `fails`: 0 lets it through, anything else is its errno.
class FaultyFiles final : public FileSystem {
public:
  std::function<int(const char *call, const char *name)> fails = [](const char *, const char *) { return 0; };
  /// Most bytes a write or pread takes; 0: all.
  size_t shortBy = 0;

  int openat(int folder, const char *name, int flags, mode_t mode) override;
  int fstat(int file, struct stat *status) override;
  int lstatat(int folder, const char *name, struct stat *status) override;
  ssize_t pread(int file, void *bytes, size_t size, off_t offset) override;
  ssize_t write(int file, const void *bytes, size_t size) override;
  int fallocate(int file, off_t size) override;
  int fsync(int file) override;
  int linkat(int folder, const char *from, const char *to) override;
  int renameat2(int folder, const char *from, const char *to, unsigned flags) override;
  int unlinkat(int folder, const char *name) override;
  int mkdirat(int folder, const char *name, mode_t mode) override;
  int touch(int file) override;
  int flock(int file, int operation) override;
  std::vector<std::string> names(int folder) override;

private:
  bool failed(const char *call, const char *name = "");
};

/// A cache root with the stub's entries.
struct Promise : testing::Test {
  TemporaryFolder folder;
  std::string root = folder / "cache";
  Settings settings = stub::settings(root);

  std::string shard(const CacheKey &key) const { return root + "/v1/" + key.hex().substr(0, 2); }
  std::string entry(const CacheKey &key) const { return shard(key) + "/" + key.hex() + ".hjk"; }
  std::string entry(int i) const { return entry(stub::key(i)); }
  void fill(int keys) const;
  /// Found with the right bytes by a fresh cache.
  bool finds(int i) const;
  /// Neither temporary nor quarantined files.
  int litter() const;
};

} // namespace hyperjit::test
