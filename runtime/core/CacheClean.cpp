// CacheClean.cpp - what walks through a whole root: the cleaner, lists, counters, the manifest's head. Ages are
// measured against a file made just now in the same file system, so a skewed clock does no harm.
// SPDX-License-Identifier: Apache-2.0
#include "CacheRoot.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

using namespace hyperjit;

namespace {
constexpr int64_t kLitterSeconds = 3600;
constexpr int64_t kCleanSeconds = 86400;
constexpr int64_t kStatisticsSeconds = 30 * 86400;
constexpr size_t kManifestHead = 1 << 20;

struct Candidate {
  std::string shard, name;
  int64_t modified;
  int64_t bytes;
};

bool isEntryName(std::string_view name) {
  return name.size() == 68 && name.ends_with(".hjk") && CacheKey::fromHex(name.substr(0, 64)).has_value();
}

bool isShardName(std::string_view name) {
  return name.size() == 2 && name.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}
} // namespace

int64_t CacheRoot::clean(int64_t maxBytes, bool force) {
  Descriptor version = openVersion();
  if (!version)
    return 0;
  // The stamp is also the lock, and its new time is what "now" means on this file system.
  Descriptor stamp =
      open(version.get(), ".last_clean", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, fileMode());
  if (!stamp || files.flock(stamp.get(), LOCK_EX | LOCK_NB) != 0)
    return 0;
  struct stat before, after;
  if (files.fstat(stamp.get(), &before) != 0 || !S_ISREG(before.st_mode))
    return 0;
  // A write gets the time of the file system, whatever this process believes; touching is for a disk without room for
  // it.
  if ((files.write(stamp.get(), "1\n", 2) != 2 && files.touch(stamp.get()) != 0) ||
      files.fstat(stamp.get(), &after) != 0)
    return 0;
  if (!force && before.st_size > 0 && std::abs(double(after.st_mtime - before.st_mtime)) < kCleanSeconds) {
    // Not due: the time of the last clean must not move.
    timespec back[2] = {{0, UTIME_OMIT}, before.st_mtim};
    files.futimens(stamp.get(), back);
    return 0;
  }

  int64_t total = 0, removed = 0;
  std::vector<Candidate> candidates;
  for (const std::string &shard : files.names(version.get())) {
    bool statistics = shard == "stats";
    if (!statistics && !isShardName(shard))
      continue;
    Descriptor folder = openFolder(version.get(), shard.c_str());
    if (!folder)
      continue;
    for (const std::string &name : files.names(folder.get())) {
      struct stat status;
      if (files.lstatat(folder.get(), name.c_str(), &status) != 0 || !S_ISREG(status.st_mode))
        continue;
      int64_t age = after.st_mtime - status.st_mtime;
      bool litter = statistics ? name.ends_with(".json") && age > kStatisticsSeconds
                               : (name.starts_with(".tmp-") || name.starts_with(".bad-")) && age > kLitterSeconds;
      if (litter) {
        if (files.unlinkat(folder.get(), name.c_str()) == 0)
          removed += status.st_size;
      } else if (!statistics && isEntryName(name)) {
        total += status.st_size;
        candidates.push_back({shard, name, status.st_mtime, status.st_size});
      }
    }
  }
  if (total <= maxBytes)
    return removed;
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate &a, const Candidate &b) { return a.modified < b.modified; });
  // Down to four fifths, so that the next store does not clean again.
  for (const Candidate &candidate : candidates) {
    if (total <= maxBytes / 5 * 4)
      break;
    Descriptor folder = openFolder(version.get(), candidate.shard.c_str());
    struct stat status;
    if (folder && files.lstatat(folder.get(), candidate.name.c_str(), &status) == 0 &&
        quarantine(folder.get(), candidate.name.c_str(), status)) {
      total -= candidate.bytes;
      removed += candidate.bytes;
    }
  }
  return removed;
}

std::vector<CacheEntryFile> CacheRoot::list() {
  std::vector<CacheEntryFile> entries;
  Descriptor top = open(AT_FDCWD, root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  Descriptor version;
  if (top)
    version = openFolder(top.get(), "v1");
  if (!version)
    return entries;
  for (const std::string &shard : files.names(version.get())) {
    Descriptor folder;
    if (isShardName(shard))
      folder = openFolder(version.get(), shard.c_str());
    if (!folder)
      continue;
    for (const std::string &name : files.names(folder.get())) {
      struct stat status;
      if (isEntryName(name) && files.lstatat(folder.get(), name.c_str(), &status) == 0 && S_ISREG(status.st_mode))
        entries.push_back({fmt::format("{}/v1/{}/{}", root, shard, name),
                           *CacheKey::fromHex(std::string_view(name).substr(0, 64)), status.st_size, status.st_mtime});
    }
  }
  std::sort(entries.begin(), entries.end(), [](const auto &a, const auto &b) { return a.key < b.key; });
  return entries;
}

void CacheRoot::writeStatistics(std::string_view json) {
  Descriptor version = openVersion();
  if (!version || (files.mkdirat(version.get(), "stats", folderMode()) != 0 && errno != EEXIST))
    return;
  Descriptor folder = openFolder(version.get(), "stats");
  if (!folder)
    return;
  std::array<char, 65> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || std::strchr(host.data(), '/'))
    host = {"host"};
  std::string name = fmt::format("{}-{}.json", host.data(), randomName());
  Descriptor file = open(folder.get(), name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, fileMode());
  // A torn file is skipped by readers; an empty one is litter.
  if (file && files.write(file.get(), json.data(), json.size()) != ssize_t(json.size()))
    files.unlinkat(folder.get(), name.c_str());
}

std::vector<std::string> CacheRoot::readStatistics() {
  std::vector<std::string> all;
  Descriptor version = openVersion();
  Descriptor folder;
  if (version)
    folder = openFolder(version.get(), "stats");
  if (!folder)
    return all;
  for (const std::string &name : files.names(folder.get())) {
    Descriptor file = open(folder.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat status;
    if (!name.ends_with(".json") || !file || files.fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_size > 65536)
      continue;
    std::vector<std::byte> bytes(size_t(status.st_size));
    if (readWhole(file.get(), bytes))
      all.emplace_back(reinterpret_cast<const char *>(bytes.data()), bytes.size());
  }
  return all;
}

std::optional<std::string> CacheRoot::manifest() {
  Descriptor file = open(AT_FDCWD, (root + "/manifest.json").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status;
  if (!file || files.fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
    return std::nullopt;
  // Toolchains and targets come first; the list of entries behind them may be long and is not looked at.
  std::vector<std::byte> bytes(std::min(size_t(status.st_size), kManifestHead));
  if (!readWhole(file.get(), bytes))
    return std::nullopt;
  return std::string(reinterpret_cast<const char *>(bytes.data()), bytes.size());
}
