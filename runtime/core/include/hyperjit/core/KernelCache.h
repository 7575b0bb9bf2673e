// KernelCache.h - the disk cache: immutable self-describing files, layered. Any doubt about an entry is a miss; no
// fault of the cache reaches the user as an exception. One root's files and protocol are in CacheRoot.{h,cpp}; here are
// the layers: the writable root, then HYPERJIT_CACHE_PATH in order, then kernels packaged with the installation.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_KERNELCACHE_H
#define HYPERJIT_CORE_KERNELCACHE_H

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/CacheManifest.h"
#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Export.h"
#include "hyperjit/core/FileSystem.h"

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace hyperjit {

/// hits + misses is the number of kernels that were looked for, however many keys and layers that took.
struct CacheStatistics {
  int64_t hits = 0;      ///< entries taken from disk
  int64_t misses = 0;    ///< kernels that no layer held
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

/// What the processes of the last 30 days have counted, from <root>/v1/stats.
struct CacheTotals {
  CacheStatistics cache;
  int64_t processes = 0, compiled = 0;
  double compileMilliseconds = 0;
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
  /// Creates nothing on disk. `files` outlives the cache. `ownOnly`: the writable root is the only layer.
  explicit KernelCache(const Settings &settings, FileSystem &files = FileSystem::system(), bool ownOnly = false);
  ~KernelCache();

  enum class Look : uint8_t {
    First,   ///< counts a hit or a miss
    Again,   ///< the same kernel once more, after waiting for a lock: a hit takes the miss back
    Shipped, ///< the same kernel under another name, only in layers that have a manifest: a hit takes the miss back
  };
  /// Looks through the layers. Never throws on what is on disk; empty is a miss, and so counts an artifact that says
  /// why there is no kernel.
  std::optional<Artifact> find(const CacheKey &key, Look look = Look::First);
  /// Best effort. True if the entry is visible under its name now, by us or by somebody else.
  bool publish(const CacheKey &key, const Artifact &artifact);
  /// The same for the bytes of an entry from elsewhere (`cache unpack`); false as well if they are not the entry of
  /// `key`.
  bool publishEntry(const CacheKey &key, std::span<const std::byte> entry);
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
    int file() const { return descriptor; }

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
  /// Leaves the counters of this process in the writable root, if that is there. `compiled` and `compileMilliseconds`
  /// come from the manager.
  void saveStatistics(int64_t compiled, double compileMilliseconds) const;
  /// What all processes have left in a root.
  static CacheTotals totals(const std::string &root);
  /// Reads every entry of every layer: slow, for `cache explain` and HYPERJIT_EXPLAIN_MISS.
  std::optional<NearestEntry> nearest(const KeyFields &fields) const;
  /// What the layers' manifests name, merged, read once.
  const ManifestHead &shipped() const;
  /// The file an entry of the writable layer has; empty when there is no such layer.
  std::string pathOf(const CacheKey &key) const;

  /// The entries of a root, sorted by key. Files with other names are skipped.
  static std::vector<CacheEntryFile> list(const std::string &root);
  /// Reads one file and checks it: what `cache verify` and `cache show` use.
  static DecodedEntry inspect(const std::string &path);

private:
  bool store(const CacheKey &key, std::span<const std::byte> entry);
  struct State;
  std::unique_ptr<State> state;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_KERNELCACHE_H
