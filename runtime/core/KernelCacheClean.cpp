// KernelCacheClean.cpp - keeps the writable root bounded: least recently used first, one cleaner at a time. Ages are
// measured against a file made just now in the same folder, so a skewed clock does no harm.
// SPDX-License-Identifier: Apache-2.0
#include "CacheFiles.h"

#include <algorithm>
#include <fcntl.h>
#include <sys/file.h>

using namespace hyperjit;
using files::Descriptor;

namespace {
constexpr int64_t kLitterSeconds = 3600;
constexpr int64_t kCleanSeconds = 86400;

struct Candidate {
  std::string shard, name;
  int64_t modified;
  int64_t bytes;
};
} // namespace

int64_t files::cleanCache(const std::string &versioned, int64_t maxBytes, bool force) {
  Descriptor top(::open(versioned.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top)
    return 0;
  // The stamp is also the lock, and its new time is what "now" means on this file system.
  Descriptor stamp(::openat(top.get(), ".last_clean", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (!stamp || ::flock(stamp.get(), LOCK_EX | LOCK_NB) != 0)
    return 0;
  struct stat before, after;
  timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  if (::fstat(stamp.get(), &before) != 0 || ::futimens(stamp.get(), now) != 0 || ::fstat(stamp.get(), &after) != 0)
    return 0;
  if (!force && before.st_size > 0 && std::abs(double(after.st_mtime - before.st_mtime)) < kCleanSeconds) {
    // Not due: the time of the last clean must not move.
    timespec back[2] = {{0, UTIME_OMIT}, before.st_mtim};
    ::futimens(stamp.get(), back);
    return 0;
  }
  if (before.st_size == 0 && ::pwrite(stamp.get(), "1\n", 2, 0) < 0)
    return 0;

  int64_t total = 0, removed = 0;
  std::vector<Candidate> candidates;
  for (const std::string &shard : files::namesIn(top.get())) {
    if (!files::isShardName(shard))
      continue;
    Descriptor folder = files::openFolder(top.get(), shard);
    if (!folder)
      continue;
    for (const std::string &name : files::namesIn(folder.get())) {
      struct stat status;
      if (::fstatat(folder.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode))
        continue;
      bool litter = name.starts_with(".tmp-") || name.starts_with(".bad-");
      if (litter && after.st_mtime - status.st_mtime > kLitterSeconds) {
        if (::unlinkat(folder.get(), name.c_str(), 0) == 0)
          removed += status.st_size;
      } else if (files::isEntryName(name)) {
        total += status.st_size;
        candidates.push_back({shard, name, status.st_mtime, status.st_size});
      }
    }
  }
  if (total > maxBytes) {
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate &a, const Candidate &b) { return a.modified < b.modified; });
    // Down to four fifths, so that the next store does not clean again.
    for (const Candidate &candidate : candidates) {
      if (total <= maxBytes / 5 * 4)
        break;
      Descriptor folder = files::openFolder(top.get(), candidate.shard);
      struct stat status;
      if (folder && ::fstatat(folder.get(), candidate.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
          files::quarantine(folder.get(), candidate.name, status)) {
        total -= candidate.bytes;
        removed += candidate.bytes;
      }
    }
  }
  return removed;
}
