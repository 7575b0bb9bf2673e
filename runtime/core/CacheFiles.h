// CacheFiles.h - the few file system operations of the kernel cache, shared by KernelCache and its cleaner.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_CACHEFILES_H
#define HYPERJIT_CORE_CACHEFILES_H

#include "hyperjit/core/Artifact.h"

#include <string>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace hyperjit::files {

/// An owned descriptor.
class Descriptor {
public:
  Descriptor() = default;
  explicit Descriptor(int value) : value(value) {}
  Descriptor(Descriptor &&other) noexcept : value(other.release()) {}
  Descriptor &operator=(Descriptor &&other) noexcept {
    if (this != &other) {
      reset();
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
      ::close(value);
    value = -1;
  }
  int value = -1;
};

inline constexpr std::string_view kVersionFolder = "v1";
inline constexpr std::string_view kEntryEnd = ".hjk";

/// "<64 hex>.hjk" and nothing else.
bool isEntryName(std::string_view name);
/// Two lower-case hex digits.
bool isShardName(std::string_view name);
/// 32 hex digits of the kernel's random numbers: process numbers repeat across hosts that share a folder.
std::string randomName();
/// Names in a folder, "." and ".." left out; empty on any error.
std::vector<std::string> namesIn(int directory);
/// Opens a folder without following a link at its last component.
Descriptor openFolder(int parent, const std::string &name);

enum class ReadResult : uint8_t { Read, Absent, Failed };
/// Reads a regular file of plausible size into memory. Never maps: a file that shrinks on a shared file system would
/// raise SIGBUS. Absent covers everything that is not content: no such file, no permission, a link, a device.
ReadResult readWhole(int file, std::vector<std::byte> &bytes);
/// Renames to ".bad-*", then unlinks: safe on NFS, where others may have the file open. Only if `name` still is `inode`.
bool quarantine(int shard, const std::string &name, const struct stat &inode);
/// KernelCache::clean of one `<root>/v1`; returns bytes removed.
int64_t cleanCache(const std::string &versioned, int64_t maxBytes, bool force);

} // namespace hyperjit::files

#endif // HYPERJIT_CORE_CACHEFILES_H
