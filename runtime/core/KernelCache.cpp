// KernelCache.cpp - load and publish. Rules, each learnt from somebody's incident:
//   * publish by link(): a valid file is never replaced, so no reader sees ESTALE (pytorch #173679, prime-rl #2305)
//   * the loser of a race uses its own bytes and never needs the winner's file (DeepEP #683)
//   * locks carry no correctness; they are advisory, time-limited, and may lie (sglang #31347)
//   * content faults remove an entry, I/O faults never do
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/KernelCache.h"

#include "CacheFiles.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Log.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <mutex>
#include <nlohmann/json.hpp>
#include <pthread.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <thread>

using namespace hyperjit;
using files::Descriptor;

//===-- Files -----------------------------------------------------------------------------------------------------===//

bool files::isEntryName(std::string_view name) {
  return name.size() == 64 + kEntryEnd.size() && name.ends_with(kEntryEnd) &&
         CacheKey::fromHex(name.substr(0, 64)).has_value();
}

bool files::isShardName(std::string_view name) {
  return name.size() == 2 && name.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string files::randomName() {
  std::array<uint8_t, 16> bytes{};
  size_t have = 0;
  while (have < bytes.size()) {
    ssize_t got = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
    if (got < 0 && errno != EINTR)
      break; // ENOSYS on ancient kernels: O_EXCL still keeps names apart
    have += got > 0 ? size_t(got) : 0;
  }
  std::string name;
  for (uint8_t byte : bytes)
    name += fmt::format("{:02x}", byte);
  return name;
}

std::vector<std::string> files::namesIn(int directory) {
  std::vector<std::string> names;
  int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *stream = copy < 0 ? nullptr : ::fdopendir(copy);
  if (!stream) {
    if (copy >= 0)
      ::close(copy);
    return names;
  }
  while (const dirent *entry = ::readdir(stream)) {
    std::string_view name = entry->d_name;
    if (name != "." && name != "..")
      names.emplace_back(name);
  }
  ::closedir(stream);
  return names;
}

Descriptor files::openFolder(int parent, const std::string &name) {
  return Descriptor(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

files::ReadResult files::readWhole(int file, std::vector<std::byte> &bytes) {
  struct stat status;
  if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size > off_t(kMaxEntryBytes))
    return ReadResult::Absent;
  bytes.resize(size_t(status.st_size));
  size_t have = 0;
  while (have < bytes.size()) {
    ssize_t got = ::pread(file, bytes.data() + have, bytes.size() - have, off_t(have));
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return ReadResult::Failed;
    if (got == 0)
      break; // shorter than fstat said: the decoder finds out
    have += size_t(got);
  }
  bytes.resize(have);
  return ReadResult::Read;
}

bool files::quarantine(int shard, const std::string &name, const struct stat &inode) {
  struct stat now;
  if (::fstatat(shard, name.c_str(), &now, AT_SYMLINK_NOFOLLOW) != 0 || now.st_ino != inode.st_ino ||
      now.st_dev != inode.st_dev)
    return false;
  std::string aside = ".bad-" + randomName();
  if (::renameat(shard, name.c_str(), shard, aside.c_str()) != 0)
    return false;
  ::unlinkat(shard, aside.c_str(), 0);
  return true;
}

//===-- Locks -----------------------------------------------------------------------------------------------------===//

namespace {
/// Descriptors of held locks. A forked child inherits them and would keep a lock of its dead parent: it closes them.
/// Slots instead of a container: the child handler may allocate nothing and wait for nothing.
std::array<std::atomic<int>, 256> &heldLocks() {
  static auto *slots = [] {
    auto *array = new std::array<std::atomic<int>, 256>();
    for (auto &slot : *array)
      slot.store(-1);
    pthread_atfork(nullptr, nullptr, [] {
      for (auto &slot : heldLocks())
        if (int descriptor = slot.exchange(-1); descriptor >= 0)
          ::close(descriptor);
    });
    return array;
  }();
  return *slots;
}
} // namespace

KernelCache::ShardLock &KernelCache::ShardLock::operator=(ShardLock &&other) noexcept {
  std::swap(descriptor, other.descriptor);
  return *this;
}

KernelCache::ShardLock::~ShardLock() {
  if (descriptor < 0)
    return;
  for (auto &slot : heldLocks()) {
    int expected = descriptor;
    if (slot.compare_exchange_strong(expected, -1)) {
      ::close(descriptor);
      return;
    }
  }
  // Not among the slots: the table was full when it was taken, or this is a forked child and the handler closed it.
}

//===-- The cache -------------------------------------------------------------------------------------------------===//

struct KernelCache::State {
  Settings settings;
  std::vector<Layer> layers;
  std::vector<bool> trusted; ///< by configuration, so that ownership is not looked at
  std::atomic<int64_t> hits{0}, misses{0}, bad{0}, published{0}, lost{0};
  std::atomic<int64_t> storedSinceClean{0};
  std::atomic<bool> firstStore{true};
  std::once_flag manifestsRead;
  std::vector<std::string> manifestToolchains;

  bool writes() const {
    return !layers.empty() && layers.front().writable &&
           (settings.cache == CacheMode::ReadWrite || settings.cache == CacheMode::Refresh);
  }
  const std::string &root() const { return layers.front().root; }
  bool trusts(const struct stat &status) const {
    return (status.st_uid == ::geteuid() || status.st_uid == 0) && !(status.st_mode & S_IWOTH);
  }
  std::optional<Artifact> load(size_t layer, const CacheKey &key);
  Descriptor shardForWriting(const CacheKey &key);
};

static std::string shardName(const CacheKey &key) { return key.hex().substr(0, 2); }
static std::string entryName(const CacheKey &key) { return key.hex() + std::string(files::kEntryEnd); }
static std::string versionRoot(const std::string &root) { return root + "/" + std::string(files::kVersionFolder); }

/// Kernels that came with the installation: <folder of libhyperjit.so>/hyperjit/kernels.
static std::string packagedRoot() {
  Dl_info info;
  if (!::dladdr(reinterpret_cast<void *>(&packagedRoot), &info) || !info.dli_fname)
    return {};
  std::string path = info.dli_fname;
  size_t slash = path.rfind('/');
  if (slash == std::string::npos)
    return {};
  path = path.substr(0, slash) + "/hyperjit/kernels";
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) ? path : std::string();
}

KernelCache::KernelCache(const Settings &settings) : state(std::make_unique<State>()) {
  state->settings = settings;
  if (settings.cache == CacheMode::Off)
    return;
  auto add = [&](const std::string &root, bool writable, bool trusted) {
    state->layers.push_back({root, writable});
    state->trusted.push_back(trusted);
  };
  if (!settings.cacheDirectory.empty())
    add(settings.cacheDirectory, settings.cache != CacheMode::ReadOnly, settings.trust != CacheTrust::Owner);
  else
    warnOnce("cache-directory", "no folder for compiled kernels ($HOME is not set): they are kept in memory only; set "
                                "HYPERJIT_CACHE_DIR to keep them");
  for (const std::string &root : settings.cachePath)
    add(root, false, true);
  if (std::string root = packagedRoot(); !root.empty())
    add(root, false, true);
}

KernelCache::~KernelCache() = default;

const std::vector<KernelCache::Layer> &KernelCache::layers() const { return state->layers; }

CacheStatistics KernelCache::statistics() const {
  return {state->hits, state->misses, state->bad, state->published, state->lost};
}

std::string KernelCache::pathOf(const CacheKey &key) const {
  if (state->layers.empty() || !state->layers.front().writable)
    return {};
  return fmt::format("{}/{}/{}", versionRoot(state->root()), shardName(key), entryName(key));
}

std::optional<Artifact> KernelCache::State::load(size_t layer, const CacheKey &key) {
  std::string versioned = versionRoot(layers[layer].root);
  Descriptor top(::open(versioned.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top)
    return std::nullopt;
  struct stat status;
  bool owned = !trusted[layer];
  if (owned && (::fstat(top.get(), &status) != 0 || !trusts(status))) {
    warnOnce("cache-trust", fmt::format("{} belongs to somebody else or is writable by everybody and is not used; run "
                                        "chmod o-w on it, or set HYPERJIT_CACHE_DIR",
                                        versioned));
    return std::nullopt;
  }
  Descriptor shard = files::openFolder(top.get(), shardName(key));
  if (!shard || (owned && (::fstat(shard.get(), &status) != 0 || !trusts(status))))
    return std::nullopt;

  std::string name = entryName(key);
  // A second look before an entry is called damaged: cached attributes of a network file system can make it look short.
  for (int attempt = 0; attempt < 2; ++attempt) {
    Descriptor file(::openat(shard.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file || ::fstat(file.get(), &status) != 0)
      return std::nullopt;
    if (owned && !trusts(status)) {
      warnOnce("cache-entry-trust", fmt::format("{}/{}/{} belongs to somebody else or is writable by everybody and is "
                                                "not used; HYPERJIT_CACHE_TRUST=path would take it",
                                                versioned, shardName(key), name));
      return std::nullopt;
    }
    std::vector<std::byte> bytes;
    if (files::readWhole(file.get(), bytes) != files::ReadResult::Read)
      return std::nullopt;
    DecodedEntry decoded = decodeEntry(bytes, &key);
    if (decoded.fault == EntryFault::None) {
      if (decoded.artifact->kind == PayloadKind::Image && settings.trust == CacheTrust::Any && layers[layer].writable &&
          !trusts(status)) {
        warnOnce("cache-any", "HYPERJIT_CACHE_TRUST=any does not hold for CPU kernels, which are code of this process");
        return std::nullopt;
      }
      // Least recently used is judged by the time of the file; hourly is often enough.
      if (writes() && layers[layer].writable && std::abs(double(::time(nullptr) - status.st_mtime)) > 3600) {
        timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
        ::futimens(file.get(), times);
      }
      return std::move(decoded.artifact);
    }
    if (decoded.fault == EntryFault::OtherFormat)
      return std::nullopt;
    if (attempt == 0)
      continue;
    ++bad;
    log(LogLevel::Info, fmt::format("{}/{}/{} is not taken: {}", versioned, shardName(key), name, decoded.reason));
    if (writes() && layers[layer].writable)
      files::quarantine(shard.get(), name, status);
  }
  return std::nullopt;
}

std::optional<Artifact> KernelCache::find(const CacheKey &key) {
  if (state->settings.cache != CacheMode::Refresh)
    for (size_t layer = 0; layer < state->layers.size(); ++layer)
      if (std::optional<Artifact> artifact = state->load(layer, key)) {
        ++state->hits;
        return artifact;
      }
  ++state->misses;
  return std::nullopt;
}

/// mkdir -p, private to the user.
static bool makeFolders(const std::string &path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST && errno != EISDIR) {
      // A parent that may not be written can still exist.
      int why = errno;
      struct stat status;
      if (::stat(part.c_str(), &status) != 0) {
        errno = why;
        return false;
      }
    }
    if (end == std::string::npos)
      return true;
  }
}

Descriptor KernelCache::State::shardForWriting(const CacheKey &key) {
  std::string versioned = versionRoot(root());
  int top = ::open(versioned.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (top < 0 && makeFolders(versioned))
    top = ::open(versioned.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  Descriptor folder(top);
  if (!folder)
    return folder;
  struct stat status;
  if (!trusted.front() && (::fstat(folder.get(), &status) != 0 || !trusts(status))) {
    errno = EACCES;
    return Descriptor();
  }
  std::string shard = shardName(key);
  if (::mkdirat(folder.get(), shard.c_str(), 0700) != 0 && errno != EEXIST)
    return Descriptor();
  return files::openFolder(folder.get(), shard);
}

static void warnStore(const std::string &root, int error) {
  warnOnce(fmt::format("cache-store-{}", error),
           fmt::format("compiled kernels are not kept in {}: {}; set HYPERJIT_CACHE_DIR to a folder that can be written",
                       root, std::strerror(error)));
}

/// Writes and syncs; returns 0 or the error.
static int writeWhole(int file, std::span<const std::byte> bytes) {
  // Finds a full disk before writing. posix_fallocate would emulate it where the file system cannot.
  if (::fallocate(file, 0, 0, off_t(bytes.size())) != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
    return errno;
  while (!bytes.empty()) {
    ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return written < 0 ? errno : EIO;
    bytes = bytes.subspan(size_t(written));
  }
  return ::fsync(file) == 0 || errno == EINVAL || errno == EROFS ? 0 : errno;
}

/// Gives the temporary file its final name without ever replacing one. Returns 0, EEXIST, or the error.
static int linkInto(int shard, int file, const std::string &temporary, const std::string &name) {
  if (::linkat(shard, temporary.c_str(), shard, name.c_str(), 0) == 0)
    return 0;
  int error = errno;
  struct stat status;
  if (::fstat(file, &status) == 0 && status.st_nlink == 2)
    return 0; // NFS did it and lost the reply
  if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK || error == EXDEV) {
    // A file system without hard links.
    if (::renameat2(shard, temporary.c_str(), shard, name.c_str(), RENAME_NOREPLACE) == 0)
      return 0;
    error = errno;
    if (error == EINVAL || error == ENOSYS)
      error = ::renameat(shard, temporary.c_str(), shard, name.c_str()) == 0 ? 0 : errno;
  }
  return error;
}

bool KernelCache::publish(const CacheKey &key, const Artifact &artifact) {
  if (!state->writes())
    return false;
  std::vector<std::byte> bytes = encodeEntry(key, artifact);
  if (bytes.size() > kMaxEntryBytes) {
    warnOnce("cache-large", fmt::format("a kernel of {} bytes is not kept on disk: {}", bytes.size(), artifact.meta.spec));
    return false;
  }
  if (state->settings.cache == CacheMode::Refresh)
    discard(key);
  std::string name = entryName(key), temporary = ".tmp-" + files::randomName();
  for (int attempt = 0; attempt < 2; ++attempt) {
    Descriptor shard = state->shardForWriting(key);
    if (!shard) {
      warnStore(state->root(), errno);
      return false;
    }
    Descriptor file(::openat(shard.get(), temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600));
    int error = file ? writeWhole(file.get(), bytes) : errno;
    if (!error)
      error = linkInto(shard.get(), file.get(), temporary, name);
    ::unlinkat(shard.get(), temporary.c_str(), 0);
    if (!error || error == EEXIST) {
      ++(error ? state->lost : state->published);
      if (!error) {
        int64_t stored = state->storedSinceClean += int64_t(bytes.size());
        if (state->firstStore.exchange(false) || stored > state->settings.cacheMaxBytes / 16)
          clean(stored > state->settings.cacheMaxBytes / 16);
      }
      return true;
    }
    // The folder was removed under us: once more makes it again. A full disk: once more after cleaning.
    if (attempt == 0 && error == ENOENT)
      continue;
    if (attempt == 0 && error == ENOSPC && clean(true) > 0)
      continue;
    warnStore(state->root(), error);
    return false;
  }
  return false;
}

void KernelCache::discard(const CacheKey &key) {
  if (!state->writes())
    return;
  std::string path = fmt::format("{}/{}", versionRoot(state->root()), shardName(key));
  Descriptor shard = files::openFolder(AT_FDCWD, path);
  struct stat status;
  if (shard && ::fstatat(shard.get(), entryName(key).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISREG(status.st_mode))
    files::quarantine(shard.get(), entryName(key), status);
}

KernelCache::ShardLock KernelCache::lock(const CacheKey &key) {
  if (!state->writes())
    return {};
  std::string folder = versionRoot(state->root()) + "/locks";
  std::string path = fmt::format("{}/{}.lock", folder, shardName(key));
  auto open = [&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600); };
  Descriptor file(open());
  if (!file && errno == ENOENT && makeFolders(folder))
    file = Descriptor(open());
  if (!file)
    return {};
  auto &slots = heldLocks();
  using Clock = std::chrono::steady_clock;
  auto end = Clock::now() + std::chrono::duration<double>(state->settings.lockTimeoutSeconds);
  auto pause = std::chrono::microseconds(500);
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR)
      continue;
    if (errno != EWOULDBLOCK || Clock::now() >= end)
      return {};
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(50000));
  }
  for (auto &slot : slots) {
    int expected = -1;
    if (slot.compare_exchange_strong(expected, file.get()))
      return ShardLock(file.release());
  }
  return {}; // 256 compiles at a time in one process: the lock is let go
}

int64_t KernelCache::clean(bool force) {
  if (!state->writes())
    return 0;
  state->storedSinceClean = 0;
  return files::cleanCache(versionRoot(state->root()), state->settings.cacheMaxBytes, force);
}

std::vector<CacheEntryFile> KernelCache::list(const std::string &root) {
  std::vector<CacheEntryFile> entries;
  Descriptor top(::open(versionRoot(root).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top)
    return entries;
  for (const std::string &shard : files::namesIn(top.get())) {
    if (!files::isShardName(shard))
      continue;
    Descriptor folder = files::openFolder(top.get(), shard);
    if (!folder)
      continue;
    for (const std::string &name : files::namesIn(folder.get())) {
      struct stat status;
      if (!files::isEntryName(name) || ::fstatat(folder.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
          !S_ISREG(status.st_mode))
        continue;
      entries.push_back({fmt::format("{}/{}/{}", versionRoot(root), shard, name),
                         *CacheKey::fromHex(std::string_view(name).substr(0, 64)), status.st_size, status.st_mtime});
    }
  }
  std::sort(entries.begin(), entries.end(), [](const auto &a, const auto &b) { return a.key < b.key; });
  return entries;
}

DecodedEntry KernelCache::inspect(const std::string &path) {
  DecodedEntry decoded;
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::vector<std::byte> bytes;
  if (!file || files::readWhole(file.get(), bytes) != files::ReadResult::Read) {
    decoded.reason = fmt::format("cannot be read: {}", std::strerror(errno));
    return decoded;
  }
  size_t slash = path.rfind('/');
  std::string_view name = std::string_view(path).substr(slash == std::string::npos ? 0 : slash + 1);
  std::optional<CacheKey> key = CacheKey::fromHex(name.substr(0, std::min<size_t>(64, name.size())));
  return decodeEntry(bytes, key ? &*key : nullptr);
}

const std::vector<std::string> &KernelCache::manifestToolchains() const {
  std::call_once(state->manifestsRead, [&] {
    for (const Layer &layer : state->layers) {
      Descriptor file(::open((layer.root + "/manifest.json").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
      std::vector<std::byte> bytes;
      if (!file || files::readWhole(file.get(), bytes) != files::ReadResult::Read)
        continue;
      const char *text = reinterpret_cast<const char *>(bytes.data());
      nlohmann::json manifest = nlohmann::json::parse(text, text + bytes.size(), nullptr, /*allow_exceptions=*/false);
      if (!manifest.is_object() || !manifest.contains("toolchains") || !manifest["toolchains"].is_array())
        continue;
      for (const nlohmann::json &toolchain : manifest["toolchains"])
        if (toolchain.is_string() && std::find(state->manifestToolchains.begin(), state->manifestToolchains.end(),
                                               toolchain.get<std::string>()) == state->manifestToolchains.end())
          state->manifestToolchains.push_back(toolchain.get<std::string>());
    }
  });
  return state->manifestToolchains;
}

std::optional<NearestEntry> KernelCache::nearest(const KeyFields &fields) const {
  std::optional<NearestEntry> best;
  for (const Layer &layer : state->layers)
    for (const CacheEntryFile &entry : list(layer.root)) {
      DecodedEntry decoded = inspect(entry.path);
      if (!decoded.artifact)
        continue;
      NearestEntry candidate;
      candidate.path = entry.path;
      const auto &theirs = decoded.artifact->meta.keyFields;
      for (const auto &[field, wanted] : fields.list()) {
        auto it = std::find_if(theirs.begin(), theirs.end(), [&, &name = field](const auto &f) { return f.first == name; });
        std::string found = it == theirs.end() ? std::string("(not recorded)") : it->second;
        if (found != wanted)
          candidate.differences.push_back({field, wanted, found});
      }
      if (!best || candidate.differences.size() < best->differences.size())
        best = std::move(candidate);
    }
  return best;
}
