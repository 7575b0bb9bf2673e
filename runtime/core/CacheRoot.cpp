// CacheRoot.cpp - the protocol, from top to bottom: folders and trust, load, publish, discard, lock. Rules, each learnt
// from somebody's incident:
//   * publish by link(): a valid file is never replaced, so no reader sees ESTALE (pytorch #173679, prime-rl #2305)
//   * the loser of a race uses its own bytes and never needs the winner's file (DeepEP #683)
//   * locks carry no correctness; they are advisory, time-limited, and may lie (sglang #31347)
//   * wrong content removes an entry, failing I/O never does
// SPDX-License-Identifier: Apache-2.0
#include "CacheRoot.h"

#include "hyperjit/core/Log.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/random.h>
#include <thread>
#include <unistd.h>

using namespace hyperjit;

static constexpr std::string_view kEntryEnd = ".hjk";
static std::string shardName(const CacheKey &key) { return key.hex().substr(0, 2); }
static std::string entryName(const CacheKey &key) { return key.hex() + std::string(kEntryEnd); }

std::string hyperjit::randomName() {
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

namespace {
/// Descriptors of lock files. A forked child inherits them and would keep a lock of its dead parent: it closes them.
/// Slots instead of a container: the child handler may allocate nothing and wait for nothing.
std::array<std::atomic<int>, 256> &lockFiles() {
  static auto *slots = [] {
    auto *array = new std::array<std::atomic<int>, 256>();
    for (auto &slot : *array)
      slot.store(-1);
    pthread_atfork(nullptr, nullptr, [] {
      for (auto &slot : lockFiles())
        if (int descriptor = slot.exchange(-1); descriptor >= 0)
          ::close(descriptor);
    });
    return array;
  }();
  return *slots;
}

bool exchangeSlot(int from, int to) {
  for (auto &slot : lockFiles()) {
    int expected = from;
    if (slot.compare_exchange_strong(expected, to))
      return true;
  }
  return false;
}
} // namespace

CacheRoot::CacheRoot(std::string root, Rules rules, FileSystem &files)
    : root(std::move(root)), rules(rules), files(files) {
  lockFiles(); // made now, so that no child is forked while a thread makes it
}

std::string CacheRoot::pathOf(const CacheKey &key) const {
  return fmt::format("{}/v1/{}/{}", root, shardName(key), entryName(key));
}

//===-- Folders and trust -----------------------------------------------------------------------------------------===//

/// Ours or root's, and nobody else may write it.
bool CacheRoot::trusts(const struct stat &status) const {
  return (status.st_uid == ::geteuid() || status.st_uid == 0) && !(status.st_mode & S_IWOTH);
}

Descriptor CacheRoot::openFolder(int folder, const char *name) {
  return open(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/// What the root holds under a name; empty with errno where it is absent or not to be trusted.
Descriptor CacheRoot::openTrusted(const char *name, int flags) {
  // The user named the root, so a link there is meant; inside it no kernel is reached through one.
  Descriptor top = open(AT_FDCWD, root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!top)
    return {};
  struct stat status;
  auto refuse = [&](const std::string &which) {
    warnOnce("cache-trust", fmt::format("{} belongs to somebody else or is writable by everybody and is not used; run "
                                        "chmod o-w on it, or set HYPERJIT_CACHE_DIR",
                                        which));
    errno = kRefused;
    return Descriptor();
  };
  // In a folder that everybody may write (and rename in, without the sticky bit) a name is what anybody puts there.
  if (rules.checkOwner &&
      (files.fstat(top.get(), &status) != 0 || ((status.st_mode & S_IWOTH) && !(status.st_mode & S_ISVTX))))
    return refuse(root);
  Descriptor found = open(top.get(), name, flags);
  if (found && rules.checkOwner && (files.fstat(found.get(), &status) != 0 || !trusts(status)))
    return refuse(fmt::format("{}/{}", root, name));
  return found;
}

Descriptor CacheRoot::openVersion() { return openTrusted("v1", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }

bool CacheRoot::refuses(const char *name) {
  // O_PATH waits for nothing. A link is followed: whose folder it leads to counts.
  return !openTrusted(name, O_PATH | O_CLOEXEC) && errno == kRefused;
}

/// mkdir -p.
bool CacheRoot::makePath(const std::string &path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    std::string part = path.substr(0, end);
    if (files.mkdirat(AT_FDCWD, part.c_str(), folderMode()) != 0 && errno != EEXIST && errno != EISDIR) {
      // A parent that may not be written can still exist.
      int why = errno;
      Descriptor there = open(AT_FDCWD, part.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (!there) {
        errno = why;
        return false;
      }
    }
    if (end == std::string::npos)
      return true;
  }
}

/// openVersion, made where it is absent: the root appears at the first store and not before.
Descriptor CacheRoot::makeVersion() {
  Descriptor version = openVersion();
  if (!version && errno == ENOENT && makePath(root + "/v1"))
    version = openVersion();
  return version;
}

Descriptor CacheRoot::openShard(const CacheKey &key, bool create) {
  Descriptor version = create ? makeVersion() : openVersion();
  if (!version)
    return {};
  std::string name = shardName(key);
  if (create && files.mkdirat(version.get(), name.c_str(), folderMode()) != 0 && errno != EEXIST)
    return {};
  Descriptor shard = openFolder(version.get(), name.c_str());
  struct stat status;
  if (shard && rules.checkOwner && (files.fstat(shard.get(), &status) != 0 || !trusts(status))) {
    warnOnce("cache-entry-trust",
             fmt::format("{}/v1/{} belongs to somebody else or is writable by everybody and is not used", root, name));
    errno = kRefused;
    return {};
  }
  return shard;
}

//===-- Load ------------------------------------------------------------------------------------------------------===//

/// Never maps: a file that shrinks on a shared file system would raise SIGBUS. False: an I/O failure.
bool CacheRoot::readWhole(int file, std::vector<std::byte> &bytes) {
  size_t have = 0;
  while (have < bytes.size()) {
    ssize_t got = files.pread(file, bytes.data() + have, bytes.size() - have, off_t(have));
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return false;
    if (got == 0)
      break; // shorter than fstat said: the decoder finds out
    have += size_t(got);
  }
  bytes.resize(have);
  return true;
}

CacheRoot::Loaded CacheRoot::load(const CacheKey &key) {
  Descriptor shard = openShard(key, /*create=*/false);
  if (!shard)
    return {};
  std::string name = entryName(key);
  // A second look before an entry is called damaged: cached attributes of a network file system can make it look short.
  for (int look = 1;; ++look) {
    // 1. Open. No link is followed, no pipe waited on. ENOENT, ESTALE, ELOOP, EACCES, EIO, EMFILE: a miss, file
    //    untouched.
    Descriptor file = open(shard.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat status;
    // 2. A regular file that nobody else could have written.
    if (!file || files.fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode))
      return {};
    if (rules.checkOwner && !trusts(status)) {
      warnOnce("cache-entry-trust",
               fmt::format("{} belongs to somebody else or is writable by everybody and is not used; "
                           "HYPERJIT_CACHE_TRUST=path would take it",
                           pathOf(key)));
      return {};
    }
    // 3. All of it into private memory; of a file larger than any entry as much as tells whose it is.
    std::vector<std::byte> bytes(status.st_size > off_t(kMaxEntryBytes) ? size_t(4096) : size_t(status.st_size));
    if (!readWhole(file.get(), bytes))
      return {};
    // 4. Magic, format, key echo, lengths, checksum.
    DecodedEntry decoded = decodeEntry(bytes, &key);
    if (decoded.fault == EntryFault::None) {
      if (decoded.artifact->kind == PayloadKind::Image && rules.checkCodeOwner && !trusts(status)) {
        warnOnce("cache-any", "HYPERJIT_CACHE_TRUST=any does not hold for CPU kernels, which are code of this process");
        return {};
      }
      // Least recently used is judged by the time of the file; hourly is often enough.
      if (rules.heals && std::abs(double(::time(nullptr) - status.st_mtime)) > 3600)
        files.touch(file.get());
      return {std::move(decoded.artifact), false};
    }
    if (decoded.fault == EntryFault::OtherFormat)
      return {}; // a newer version owns it
    if (look == 1)
      continue;
    // 5. Twice wrong. Only the very file that was read is moved away.
    log(LogLevel::Info, fmt::format("{} is not taken: {}", pathOf(key), decoded.reason));
    if (rules.heals)
      quarantine(shard.get(), name.c_str(), status);
    return {std::nullopt, true};
  }
}

/// Renames, then unlinks: safe on NFS, where others may have the file open. Losing a race here removes at most one good
/// entry, which is a miss.
bool CacheRoot::quarantine(int shard, const char *name, const struct stat &inode) {
  struct stat now;
  if (files.lstatat(shard, name, &now) != 0 || now.st_ino != inode.st_ino || now.st_dev != inode.st_dev)
    return false;
  std::string aside = ".bad-" + randomName();
  if (files.renameat2(shard, name, aside.c_str(), 0) != 0)
    return false;
  files.unlinkat(shard, aside.c_str());
  return true;
}

void CacheRoot::discard(const CacheKey &key) {
  Descriptor shard = openShard(key, /*create=*/false);
  std::string name = entryName(key);
  struct stat status;
  if (shard && files.lstatat(shard.get(), name.c_str(), &status) == 0 && S_ISREG(status.st_mode))
    quarantine(shard.get(), name.c_str(), status);
}

//===-- Publish ---------------------------------------------------------------------------------------------------===//

CacheRoot::PublishResult CacheRoot::publish(const CacheKey &key, std::span<const std::byte> bytes, int64_t cleanAbove) {
  std::string name = entryName(key);
  int error = 0;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    // 1. A private temporary file in the same shard.
    std::string temporary = ".tmp-" + randomName();
    Descriptor shard = openShard(key, /*create=*/true);
    Descriptor file;
    if (shard)
      file = open(shard.get(), temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, fileMode());
    error = file ? 0 : errno == EEXIST || errno == 0 ? EIO : errno;
    if (file) {
      // 2., 3. Reserve, write, sync.
      error = writeWhole(file.get(), bytes);
      // 4., 5. Its final name, unless there is one already.
      if (!error)
        error = linkInto(shard.get(), file.get(), temporary.c_str(), name.c_str());
      // 6. ENOENT is fine: it was renamed.
      files.unlinkat(shard.get(), temporary.c_str());
    }
    if (!error)
      return {Published::Ours, 0};
    if (error == EEXIST)
      return {Published::Theirs, 0};
    // The folder was removed under us: once more makes it again. A full disk: once more after cleaning.
    bool full = error == ENOSPC || error == EDQUOT;
    if (error != ENOENT && error != ESTALE && !(full && clean(cleanAbove, true) > 0))
      break;
  }
  return {Published::Not, error};
}

/// Returns 0 or the error.
int CacheRoot::writeWhole(int file, std::span<const std::byte> bytes) {
  // Finds a full disk before writing. posix_fallocate would emulate it where the file system cannot.
  if (files.fallocate(file, off_t(bytes.size())) != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
    return errno;
  while (!bytes.empty()) {
    ssize_t written = files.write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return written < 0 ? errno : EIO;
    bytes = bytes.subspan(size_t(written));
  }
  // Some file systems have no fsync; the checksum, not fsync, gives correctness.
  return files.fsync(file) == 0 || errno == EINVAL || errno == EROFS || errno == ENOSYS ? 0 : errno;
}

/// Gives the temporary file its final name without ever replacing one. Returns 0, EEXIST, or the error.
int CacheRoot::linkInto(int shard, int file, const char *temporary, const char *name) {
  if (files.linkat(shard, temporary, name) == 0)
    return 0;
  int error = errno;
  struct stat status;
  if (files.fstat(file, &status) == 0 && status.st_nlink == 2)
    return 0; // NFS did it and lost the reply
  if (error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK || error == EXDEV) {
    // A file system without hard links.
    if (files.renameat2(shard, temporary, name, RENAME_NOREPLACE) == 0)
      return 0;
    error = errno;
    if (error == EINVAL || error == ENOSYS)
      error = files.renameat2(shard, temporary, name, 0) == 0 ? 0 : errno;
  }
  return error;
}

//===-- Locks -----------------------------------------------------------------------------------------------------===//

KernelCache::ShardLock &KernelCache::ShardLock::operator=(ShardLock &&other) noexcept {
  std::swap(descriptor, other.descriptor);
  return *this;
}

KernelCache::ShardLock::~ShardLock() {
  // Not among the slots: this is a forked child, and its handler closed it.
  if (descriptor < 0 || !exchangeSlot(descriptor, -1))
    return;
  // Unlocking first also frees it where a child holds a copy that it got while the file was being opened.
  ::flock(descriptor, LOCK_UN);
  ::close(descriptor);
}

KernelCache::ShardLock CacheRoot::lock(const CacheKey &key, double timeoutSeconds) {
  using Clock = std::chrono::steady_clock;
  Descriptor version = makeVersion();
  if (!version || (files.mkdirat(version.get(), "locks", folderMode()) != 0 && errno != EEXIST))
    return {};
  Descriptor folder = openFolder(version.get(), "locks");
  if (!folder)
    return {};
  Descriptor file = open(folder.get(), (shardName(key) + ".lock").c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, fileMode());
  if (!file || !exchangeSlot(-1, file.get()))
    return {}; // 256 compiles at a time in one process: this one goes without
  KernelCache::ShardLock lock(file.release());
  int descriptor = lock.file();
  auto end = Clock::now() + std::chrono::duration<double>(timeoutSeconds);
  auto pause = std::chrono::microseconds(500);
  while (files.flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR)
      continue;
    // ENOLCK, EOPNOTSUPP, EIO, or out of patience: compiling twice is harmless.
    if (errno != EWOULDBLOCK || Clock::now() >= end)
      return {};
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(50000));
  }
  return lock;
}
