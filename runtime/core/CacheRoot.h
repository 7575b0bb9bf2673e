// CacheRoot.h - one directory of kernels and the protocol that keeps it right. Layout:
//
//   <root>/v1/<hh>/<64 hex>.hjk           one kernel, immutable; <hh> = first two hex digits of the key
//   <root>/v1/<hh>/.tmp-<32 hex>          being written
//   <root>/v1/<hh>/.bad-<32 hex>          quarantined
//   <root>/v1/locks/<hh>.lock             advisory, never deleted
//   <root>/v1/.last_clean                 time of the last clean, and the cleaner's lock
//   <root>/v1/stats/<host>-<32 hex>.json  counters of one process
//
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_CACHEROOT_H
#define HYPERJIT_CORE_CACHEROOT_H

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/FileSystem.h"
#include "hyperjit/core/KernelCache.h"

#include <cerrno>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

/// An owned descriptor.
class Descriptor {
public:
  Descriptor() = default;
  Descriptor(FileSystem &files, int value) : files(&files), value(value) {}
  Descriptor(Descriptor &&other) noexcept : files(other.files), value(other.release()) {}
  Descriptor &operator=(Descriptor &&other) noexcept {
    if (this != &other) {
      reset();
      files = other.files;
      value = other.release();
    }
    return *this;
  }
  ~Descriptor() { reset(); }
  explicit operator bool() const { return value >= 0; }
  int get() const { return value; }
  int release() {
    int result = value;
    value = -1;
    return result;
  }

private:
  void reset() {
    if (value >= 0)
      files->close(value);
    value = -1;
  }
  FileSystem *files = nullptr;
  int value = -1;
};

class CacheRoot {
public:
  struct Rules {
    bool checkOwner = true;      ///< take only what is ours or root's and nobody else may write
    bool checkCodeOwner = false; ///< take CPU kernels, which are code of this process, by that rule in any case
    bool shared = false;         ///< new files get the modes of the umask instead of being private
    bool heals = false;          ///< we may write: damaged entries are moved away, used ones are touched
  };
  CacheRoot(std::string root, Rules rules, FileSystem &files);

  struct Loaded {
    std::optional<Artifact> artifact; ///< empty: a miss
    bool damaged = false;             ///< there was a file, and its content was wrong
  };
  /// Any failure is a miss. I/O failures leave the file alone; wrong content is moved away where `heals`.
  Loaded load(const CacheKey &key);

  enum class Published : uint8_t { Ours, Theirs, Not };
  /// `error` of a root that is not trusted, which was said when it was found out.
  static constexpr int kRefused = EKEYREJECTED;
  struct PublishResult {
    Published published = Published::Not;
    int error = 0; ///< errno where Not
  };
  /// Gives the bytes their name unless somebody has given it already. Never replaces, never throws.
  PublishResult publish(const CacheKey &key, std::span<const std::byte> bytes, int64_t cleanAbove);
  /// Moves the entry away and removes it.
  void discard(const CacheKey &key);
  KernelCache::ShardLock lock(const CacheKey &key, double timeoutSeconds);

  /// Least recently used first down to four fifths of `maxBytes`; old temporary files and counters. One cleaner at a
  /// time, over all processes. Returns bytes removed.
  int64_t clean(int64_t maxBytes, bool force);
  /// Writes counters of this process; best effort, and only where the root exists.
  void writeStatistics(std::string_view json);
  /// The counters that processes have left.
  std::vector<std::string> readStatistics();
  /// The head of <root>/manifest.json that names toolchains and targets; null where there is none.
  std::optional<std::string> manifest();

  /// Whether the root, or what it holds under this name, is there and not to be trusted; says so then.
  bool refuses(const char *name);

  std::vector<CacheEntryFile> list();
  const std::string &path() const { return root; }
  std::string pathOf(const CacheKey &key) const;

private:
  Descriptor open(int folder, const char *name, int flags, mode_t mode = 0) {
    return Descriptor(files, files.openat(folder, name, flags, mode));
  }
  Descriptor openFolder(int folder, const char *name);
  Descriptor openTrusted(const char *name, int flags);
  Descriptor openVersion();
  Descriptor openShard(const CacheKey &key, bool create);
  Descriptor makeVersion();
  bool makePath(const std::string &path);
  bool trusts(const struct stat &status) const;
  bool readWhole(int file, std::vector<std::byte> &bytes);
  int writeWhole(int file, std::span<const std::byte> bytes);
  int linkInto(int shard, int file, const char *temporary, const char *name);
  bool quarantine(int shard, const char *name, const struct stat &inode);
  mode_t folderMode() const { return rules.shared ? 0777 : 0700; }
  mode_t fileMode() const { return rules.shared ? 0666 : 0600; }

  std::string root;
  Rules rules;
  FileSystem &files;
};

/// Kernels that came with the installation, if there are any: <folder of libhyperjit.so>/hyperjit/kernels.
std::string packagedRoot();

/// 32 hex digits of the kernel's random numbers: process numbers repeat across hosts that share a folder.
std::string randomName();

} // namespace hyperjit

#endif // HYPERJIT_CORE_CACHEROOT_H
