// KernelCache.h - the disk cache: immutable self-describing files, layered. Any doubt about an entry is a miss; no fault of
// the cache reaches the user as an exception.
//
//   <root>/v1/<hh>/<64 hex>.hjk     one kernel; <hh> = first two hex digits of the key
//   <root>/v1/<hh>/.tmp-<32 hex>    being written
//   <root>/v1/<hh>/.bad-<32 hex>    quarantined
//   <root>/v1/locks/<hh>.lock       advisory, never deleted
//
// Layers: the writable root, then HYPERJIT_CACHE_PATH in order, then kernels packaged with the installation.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_KERNELCACHE_H
#define HYPERJIT_CORE_KERNELCACHE_H

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Export.h"

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace hyperjit {

struct CacheStatistics {
  int64_t hits = 0;      ///< entries taken from disk
  int64_t misses = 0;    ///< lookups that found nothing usable in any layer
  int64_t bad = 0;       ///< entries that were there and damaged
  int64_t published = 0; ///< entries this process made visible
  int64_t lost = 0;      ///< somebody else had published the same key first
};

/// One file of a layer, for `cache ls` and `verify`.
struct CacheEntryFile {
  std::string path;
  CacheKey key;
  int64_t bytes = 0;
  int64_t modified = 0; ///< seconds since 1970
};

/// The entry whose key differs in the fewest fields.
struct NearestEntry {
  std::string path;
  struct Difference {
    std::string field, wanted, found;
  };
  std::vector<Difference> differences; ///< empty: the very kernel, under the name of another key
};

class HYPERJIT_EXPORT KernelCache {
public:
  /// Creates nothing on disk.
  explicit KernelCache(const Settings &settings);
  ~KernelCache();

  /// Looks through the layers. Never throws on what is on disk; empty is a miss.
  std::optional<Artifact> find(const CacheKey &key);
  /// Best effort. True if the entry is visible under its name now, by us or by somebody else.
  bool publish(const CacheKey &key, const Artifact &artifact);
  /// Renames the entry of the writable layer away and removes it (mode refresh, driver-independent damage).
  void discard(const CacheKey &key);

  /// Held while a process compiles, so that others wait for its entry instead of compiling too. Saves work only:
  /// after the time limit, or where locks do not work, it is simply not held.
  class HYPERJIT_EXPORT ShardLock {
  public:
    ShardLock() = default;
    explicit ShardLock(int descriptor) : descriptor(descriptor) {}
    ShardLock(ShardLock &&other) noexcept : descriptor(other.descriptor) { other.descriptor = -1; }
    ShardLock &operator=(ShardLock &&other) noexcept;
    ~ShardLock();
    bool held() const { return descriptor >= 0; }

  private:
    int descriptor = -1;
  };
  ShardLock lock(const CacheKey &key);

  /// Removes least recently used entries above the size limit and old temporary files; at most one process at a time.
  /// `force`: also when the last clean is recent. Returns bytes removed.
  int64_t clean(bool force);

  /// The directories that are searched, in order, and whether each is written.
  struct Layer {
    std::string root;
    bool writable = false;
  };
  const std::vector<Layer> &layers() const;
  CacheStatistics statistics() const;
  /// Reads every entry of every layer: slow, for `cache explain` and HYPERJIT_EXPLAIN_MISS.
  std::optional<NearestEntry> nearest(const KeyFields &fields) const;
  /// The toolchains that the layers' manifest.json name ("toolchains": [text, ...]), read once.
  const std::vector<std::string> &manifestToolchains() const;
  /// The file an entry of the writable layer has; empty when there is no such layer.
  std::string pathOf(const CacheKey &key) const;

  /// The entries of a root, sorted by key. Files with other names are skipped.
  static std::vector<CacheEntryFile> list(const std::string &root);
  /// Reads one file and checks it: what `cache verify` and `cache show` use.
  static DecodedEntry inspect(const std::string &path);

private:
  struct State;
  std::unique_ptr<State> state;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_KERNELCACHE_H
