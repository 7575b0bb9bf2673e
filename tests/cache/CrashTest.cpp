// P3, P9 - P16: processes that die, wait, fork, lie about locks, see late, and lose their directory.
// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <set>
#include <sstream>
#include <sys/file.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;
using Clock = std::chrono::steady_clock;

namespace {

double secondsSince(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Inverted: publish wrote to the final name, as in P02.
TEST_F(Promise, P03_KilledAtAnyCallTheCacheStaysUsable) {
  HYPERJIT_NEEDS("strace");
  int killed = 0;
  for (const char *call :
       {"openat", "fallocate", "write", "fsync", "linkat", "unlinkat", "mkdirat", "flock", "newfstatat"})
    for (int when = 1; when <= 5; ++when) {
      fs::remove_all(root);
      // Two keys have their folders, the third makes its own.
      KernelManager manager(stub::manager(settings));
      std::string paths = " -P " + root;
      fs::create_directories(root + "/v1/locks");
      fs::permissions(root + "/v1", fs::perms(0700));
      for (int i = 0; i < 3; ++i) {
        std::string shard =
            root + "/v1/" + CacheKey::of(manager.keyFields(stub::spec(i), stub::target())).hex().substr(0, 2);
        if (i < 2)
          fs::create_directories(shard);
        paths += " -P " + shard;
      }
      paths += " -P " + root + "/v1 -P " + root + "/v1/locks";
      // The loader opens files too: only calls that pass one of the folders count there. The others are the cache's
      // alone, and pass descriptors of files.
      bool loader = !std::strcmp(call, "openat") || !std::strcmp(call, "newfstatat");
      Ran ran =
          stress("once " + root + " --keys 3", "strace -f -qq -o /dev/null" + (loader ? paths : std::string()) +
                                                   " -e inject=" + call + ":signal=KILL:when=" + std::to_string(when));
      killed += ran.code != 0;
      Ran after = stress("once " + root + " --keys 3 --lock-timeout 5");
      SCOPED_TRACE(std::string(call) + " " + std::to_string(when));
      expectClean(after);
      EXPECT_LT(after.seconds, 4) << "a lock of a dead process was waited for";
      EXPECT_EQ(after.json()["bad"], 0);
    }
  EXPECT_GT(killed, 30) << "the kills did not happen";
}

TEST_F(Promise, P03_RandomKills) {
  Ran ran = stress("soak " + root + " --processes 12 --keys 8 --seconds 4 --seed 3");
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  EXPECT_GT(ran.json()["kills"], 20) << ran.out;
  EXPECT_EQ(ran.json()["wrong"], 0) << ran.out;
  Ran after = stress("random " + root + " --processes 4 --keys 8 --rounds 300");
  EXPECT_EQ(after.code, 0) << after.out;
}

// Inverted: the second look after waiting, `if (lock.held())` in KernelManager::State::find.
TEST_F(Promise, P09_ColdProcessesCompileEachKernelOnce) {
  Ran ran = stress("cold " + root + " --processes 64 --keys 8 --compile-ms 200");
  expectClean(ran);
  nlohmann::json counts = ran.json();
  EXPECT_EQ(counts["gets"], 64 * 8);
  EXPECT_EQ(counts["compiled_keys"], 8);
  EXPECT_EQ(counts["most_compiles_of_a_key"], 1) << ran.out;
  EXPECT_EQ(counts["warnings"], 0);
}

/// A process that takes the lock of key `i`, says so, and waits for its end.
pid_t holder(const Settings &settings, const CacheKey &key) {
  int ready[2];
  if (::pipe(ready) != 0)
    return -1;
  pid_t child = ::fork();
  if (child == 0) {
    KernelCache cache(settings);
    auto lock = cache.lock(key);
    char byte = lock.held() ? '1' : '0';
    if (::write(ready[1], &byte, 1) != 1)
      ::_exit(1);
    while (true)
      ::pause();
  }
  char byte = 0;
  bool held = ::read(ready[0], &byte, 1) == 1 && byte == '1';
  ::close(ready[0]);
  ::close(ready[1]);
  return held ? child : -1;
}

// Inverted: `Clock::now() >= end` in CacheRoot::lock never true.
TEST_F(Promise, P10_ADeadHolderNeverBlocks) {
  KernelManager keys(stub::manager(settings));
  CacheKey key = CacheKey::of(keys.keyFields(stub::spec(0), stub::target()));
  pid_t child = holder(settings, key);
  ASSERT_GT(child, 0);
  ::kill(child, SIGSTOP);
  settings.lockTimeoutSeconds = 0.5;
  auto begin = Clock::now();
  EXPECT_TRUE(stub::right(*KernelManager(stub::manager(settings)).get(stub::spec(0), stub::target()), 0));
  EXPECT_GE(secondsSince(begin), 0.45) << "the holder was not waited for: the test tests nothing";
  EXPECT_LT(secondsSince(begin), 5);
  fs::remove_all(shard(key));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  settings.lockTimeoutSeconds = 30;
  begin = Clock::now();
  EXPECT_TRUE(stub::right(*KernelManager(stub::manager(settings)).get(stub::spec(0), stub::target()), 0));
  EXPECT_LT(secondsSince(begin), 1);
}

// Inverted: `if (errno != EWOULDBLOCK || ...)` in CacheRoot::lock waited on for every error.
TEST_F(Promise, P11_LocksThatDoNotWorkAreDoneWithout) {
  for (int error : {ENOLCK, EOPNOTSUPP, EIO, ENOSYS}) {
    fs::remove_all(root);
    FaultyFiles files;
    files.fails = [&](const char *call, const char *) { return std::strcmp(call, "flock") ? 0 : error; };
    KernelManagerOptions options = stub::manager(settings);
    options.files = &files;
    auto begin = Clock::now();
    KernelManager manager(options);
    for (int i = 0; i < 4; ++i)
      EXPECT_TRUE(stub::right(*manager.get(stub::spec(i), stub::target()), i));
    EXPECT_EQ(manager.statistics().cache.published, 4) << std::strerror(error);
    EXPECT_LT(secondsSince(begin), 2) << std::strerror(error);
  }
}

// Locks that say yes to everybody: all compile, all are right, one publishes.
struct Lying final : FileSystem {
  int flock(int, int) override { return 0; }
};
TEST_F(Promise, P11_LocksThatLieCostOnlyTime) {
  std::vector<pid_t> children;
  for (int process = 0; process < 8; ++process)
    if (pid_t child = ::fork(); child == 0) {
      Lying files;
      stub::Options made;
      made.compileMilliseconds = 20;
      KernelManagerOptions options = stub::manager(settings, made);
      options.files = &files;
      KernelManager manager(options);
      bool good = true;
      for (int i = 0; i < 6; ++i)
        good &= stub::right(*manager.get(stub::spec(i), stub::target()), i);
      ::_exit(good && manager.statistics().cache.bad == 0 ? 0 : 1);
    } else {
      children.push_back(child);
    }
  for (pid_t child : children) {
    int status = 1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(KernelCache::list(root).size(), 6u);
  EXPECT_EQ(litter(), 0);
}

TEST_F(Promise, P11_UnsupportedLocksBetweenProcesses) {
  HYPERJIT_NEEDS("strace");
  Ran ran = stress("cold " + root + " --processes 8 --keys 4",
                   "strace -f --seccomp-bpf -qq -o /dev/null -e trace=flock -e inject=flock:error=ENOLCK");
  expectClean(ran);
  EXPECT_LE(ran.json()["most_compiles_of_a_key"], 8);
}

// Inverted: EEXIST of linkat counted as a failure in CacheRoot::publish.
TEST_F(Promise, P12_WhatIsSeenLateIsHarmless) {
  fill(3);
  // B does not see yet what A has published, then its link meets the file.
  FaultyFiles files;
  files.fails = [](const char *call, const char *name) {
    return !std::strcmp(call, "openat") && std::string_view(name).ends_with(".hjk") ? ENOENT : 0;
  };
  LogCapture log;
  KernelCache late(settings, files);
  EXPECT_FALSE(late.find(stub::key(0)));
  EXPECT_TRUE(late.publish(stub::key(0), stub::artifact(0)));
  EXPECT_EQ(late.statistics().lost, 1);
  EXPECT_TRUE(log.messages.empty());
  // ESTALE anywhere is a miss, and the file stays.
  for (const char *stale : {"openat", "pread", "fstat"}) {
    files.fails = [&](const char *call, const char *) { return std::strcmp(call, stale) ? 0 : ESTALE; };
    EXPECT_FALSE(late.find(stub::key(1))) << stale;
  }
  EXPECT_EQ(late.statistics().bad, 0);
  EXPECT_TRUE(finds(1));
  // A cached size that is too small makes a good file look short once: the second look finds it whole.
  struct ShortOnce final : FileSystem {
    int fstat(int file, struct stat *status) override {
      int result = FileSystem::fstat(file, status);
      if (S_ISREG(status->st_mode) && first) {
        status->st_size /= 2;
        first = false;
      }
      return result;
    }
    bool first = true;
  } once;
  KernelCache attributes(settings, once);
  std::optional<Artifact> found = attributes.find(stub::key(2));
  EXPECT_TRUE(found && stub::right(*found, 2));
  EXPECT_EQ(attributes.statistics().bad, 0);
  EXPECT_FALSE(once.first);
}

TEST_F(Promise, P12_TwoViewsOfOneDirectory) {
  HYPERJIT_NEEDS("bindfs");
  HYPERJIT_NEEDS("root");
  for (const char *name : {"back", "a", "b"})
    fs::create_directories(folder / name);
  std::string mount = "bindfs -o negative_timeout=20,entry_timeout=20,attr_timeout=20 " + (folder / "back") + " ";
  std::string script = mount + (folder / "a") + " && " + mount + (folder / "b") + " || exit 77; " + stressProgram() +
                       " once " + (folder / "b") + "/cache --keys 1 >/dev/null; " + stressProgram() + " cold " +
                       (folder / "a") + "/cache --processes 8 --keys 6 & " + stressProgram() + " cold " +
                       (folder / "b") + "/cache --processes 8 --keys 6; first=$?; wait $! || exit 1; umount " +
                       (folder / "a") + " " + (folder / "b") + "; exit $first";
  Ran ran = run("unshare -m sh -c '" + script + "'");
  if (ran.code == 77)
    GTEST_SKIP() << "this machine cannot: bindfs mount";
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  EXPECT_EQ(ran.out.find("\"wrong\":1"), std::string::npos) << ran.out;
  for (const CacheEntryFile &file : KernelCache::list(folder / "back/cache"))
    EXPECT_EQ(KernelCache::inspect(file.path).fault, EntryFault::None);
}

// Inverted: `RENAME_NOREPLACE` in linkInto set to 0.
TEST_F(Promise, P13_FileSystemsWithoutLinks) {
  for (bool plain : {false, true})
    for (int error : {EPERM, EOPNOTSUPP, ENOSYS, EMLINK, EXDEV}) {
      fs::remove_all(root);
      FaultyFiles files;
      files.fails = [&](const char *call, const char *name) {
        if (!std::strcmp(call, "linkat"))
          return error;
        return plain && !std::strcmp(call, "renameat2") ? EINVAL : 0;
      };
      KernelCache cache(settings, files);
      LogCapture log;
      EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
      EXPECT_TRUE(finds(0));
      EXPECT_EQ(litter(), 0);
      struct stat before, after;
      ASSERT_EQ(::stat(entry(0).c_str(), &before), 0);
      EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
      ASSERT_EQ(::stat(entry(0).c_str(), &after), 0);
      if (!plain) { // the last resort may replace; nothing else does
        EXPECT_EQ(before.st_ino, after.st_ino);
      }
      EXPECT_TRUE(finds(0));
      EXPECT_EQ(litter(), 0);
      EXPECT_TRUE(log.messages.empty());
    }
}

TEST_F(Promise, P13_NoLinksBetweenProcesses) {
  HYPERJIT_NEEDS("strace");
  for (const char *inject :
       {"-e inject=linkat:error=EPERM", "-e inject=linkat:error=EPERM -e inject=renameat2:error=EINVAL"}) {
    fs::remove_all(root);
    Ran ran = stress("random " + root + " --processes 8 --rounds 60",
                     std::string("strace -f --seccomp-bpf -qq -o /dev/null -e trace=linkat,renameat2 ") + inject);
    expectClean(ran);
    EXPECT_GT(ran.json()["hits"], 0);
    EXPECT_EQ(ran.json()["bad"], 0);
  }
}

struct FileSystemCase {
  const char *name;
  const char *make;  ///< of $1, a file of 320 MiB
  const char *mount; ///< $1 to $2
};
void PrintTo(const FileSystemCase &each, std::ostream *out) { *out << each.name; }

// Without hard links, permissions or both; in user space; over another one.
const FileSystemCase fileSystems[] = {
    {"vfat", "mkfs.vfat $1", "mount -o loop,$3 $1 $2"},
    {"exfat", "mkfs.exfat $1",
     "disk=$(losetup -f --show $1); mount.exfat-fuse -o $3 $disk $2; losetup -d $disk"}, // goes when unmounted
    {"ntfs", "mkfs.ntfs -F -Q $1", "ntfs-3g -o $3 $1 $2"},
    {"ext2", "mke2fs -q -F $1", "mount -o loop $1 $2"},
    {"xfs", "mkfs.xfs -q -f $1", "mount -o loop $1 $2"},
    {"btrfs", "mkfs.btrfs -q -f $1", "mount -o loop $1 $2"},
    {"overlay", "true",
     "mount -t tmpfs none /mnt && mkdir /mnt/lower /mnt/upper /mnt/work && "
     "mount -t overlay none -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work $2"},
};

struct OnFileSystem : Promise, testing::WithParamInterface<FileSystemCase> {
  /// What cache-stress says, a line a run; the code is 77 where this machine cannot mount it. `mask`: where files have
  /// no permissions, the mount says which they seem to have.
  Ran mounted(const std::string &mask, const std::vector<std::string> &runs) {
    fs::create_directories(folder / "mount");
    std::string script = std::string("truncate -s 320M $1 && { ") + GetParam().make + "; } >/dev/null 2>&1 && { " +
                         GetParam().mount + "; } >/dev/null 2>&1 && grep -q \" $2 \" /proc/mounts || exit 77; code=0; ";
    for (const std::string &each : runs)
      script += stressProgram() + " " + each + " --processes 6 --keys 12 || code=1; ";
    return run("unshare -m sh -c '" + script + "umount $2; exit $code' sh " + (folder / "disk") + " " +
               (folder / "mount") + " umask=" + mask);
  }
};

// Inverted: renameat2 left out of linkInto: nothing is stored on exfat.
TEST_P(OnFileSystem, P13_StoresAndFinds) {
  HYPERJIT_NEEDS("mount");
  HYPERJIT_NEEDS("root");
  Ran ran = mounted("077", {"cold $2/cache --compile-ms 1", "random $2/cache --rounds 60"});
  if (ran.code == 77)
    GTEST_SKIP() << "this machine cannot: mount " << GetParam().name;
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  std::istringstream lines(ran.out);
  for (std::string kind : {"cold", "random"}) {
    std::string line;
    std::getline(lines, line);
    nlohmann::json counts = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(counts.is_object()) << ran.out << ran.error;
    for (const char *none : {"wrong", "failed", "bad", "damaged", "litter", "warnings"})
      EXPECT_EQ(counts[none], 0) << none << ": " << line;
    EXPECT_GT(counts["hits"], 0) << line;
    EXPECT_GT(counts["entries"], 0) << line;
    if (kind == "cold") {
      EXPECT_EQ(counts["stored"], 12) << line;
      EXPECT_EQ(counts["most_compiles_of_a_key"], 1) << line;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Each, OnFileSystem, testing::ValuesIn(fileSystems),
                         [](const testing::TestParamInfo<FileSystemCase> &info) { return info.param.name; });

// As file systems without permissions are often mounted, every file is everyone's to write.
// Inverted: S_IWOTH left out of CacheRoot::trusts and openVersion.
struct OnOpenFileSystem : OnFileSystem {};
TEST_P(OnOpenFileSystem, P27_NothingIsStoredOrBelieved) {
  HYPERJIT_NEEDS("mount");
  HYPERJIT_NEEDS("root");
  Ran ran = mounted("000", {"cold $2/cache --compile-ms 1"});
  if (ran.code == 77)
    GTEST_SKIP() << "this machine cannot: mount " << GetParam().name;
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  nlohmann::json counts = ran.json();
  ASSERT_TRUE(counts.is_object()) << ran.out << ran.error;
  for (const char *none : {"wrong", "failed", "stored", "entries"})
    EXPECT_EQ(counts[none], 0) << none << ": " << ran.out;
  EXPECT_EQ(counts["warnings"], 6) << ran.out; // one a process
}
INSTANTIATE_TEST_SUITE_P(Each, OnOpenFileSystem, testing::ValuesIn(fileSystems, fileSystems + 3),
                         [](const testing::TestParamInfo<FileSystemCase> &info) { return info.param.name; });

// Inverted: randomName() made of the process number.
TEST_F(Promise, P14_EqualProcessNumbersDoNotCollide) {
  std::set<std::string> names;
  int made = 0;
  FaultyFiles files;
  files.fails = [&](const char *call, const char *name) {
    if (!std::strcmp(call, "openat") && std::string_view(name).starts_with(".tmp-")) {
      ++made;
      names.insert(name);
    }
    return 0;
  };
  // One process number, many publishers: as many names.
  for (int i = 0; i < 200; ++i) {
    KernelCache cache(settings, files);
    cache.publish(stub::key(0), stub::artifact(0));
  }
  EXPECT_EQ(made, 200);
  EXPECT_EQ(names.size(), 200u);
}

TEST_F(Promise, P14_TwoNamespacesWithTheSameProcessNumbers) {
  HYPERJIT_NEEDS("pids");
  std::string one = "unshare -pf " + stressProgram() + " random " + root + " --processes 6 --keys 4 --rounds 200";
  Ran ran = run(one + " & " + one + " --seed 2; first=$?; wait $! && exit $first");
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  EXPECT_EQ(litter(), 0);
}

// Inverted: the child handler of pthread_atfork in CacheRoot.cpp did nothing.
TEST_F(Promise, P15_AChildThatOutlivesItsKilledParentKeepsNoLock) {
  CacheKey key = stub::key(0);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  pid_t parent = ::fork();
  if (parent == 0) {
    KernelCache cache(settings);
    auto lock = cache.lock(key);
    pid_t child = ::fork();
    if (child == 0)
      while (true)
        ::pause();
    if (!lock.held() || ::write(ready[1], &child, sizeof child) != ssize_t(sizeof child))
      ::_exit(1);
    while (true)
      ::pause();
  }
  pid_t child = 0;
  ASSERT_EQ(::read(ready[0], &child, sizeof child), ssize_t(sizeof child));
  settings.lockTimeoutSeconds = 0.1;
  EXPECT_FALSE(KernelCache(settings).lock(key).held());
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  settings.lockTimeoutSeconds = 2;
  EXPECT_EQ(::kill(child, 0), 0) << "the child has to be alive for this test";
  EXPECT_TRUE(KernelCache(settings).lock(key).held());
  ::kill(child, SIGKILL);
  ::close(ready[0]);
  ::close(ready[1]);
}

// Inverted: the gate of the child left as it was, in KernelManager::Forks::thaw.
TEST_F(Promise, P15_ForkedChildrenOfABusyProcess) {
  stub::Options made;
  made.compileMilliseconds = 3;
  KernelManager manager(stub::manager(settings, made));
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = t; !done; i = (i + 1) % 400)
        manager.get(stub::spec(i), stub::target());
    });
  for (int fork = 0; fork < 12; ++fork)
    EXPECT_TRUE(inChild([&] {
      ::alarm(10);
      bool good = true;
      for (int i = 0; i < 12; ++i)
        good &= stub::right(*manager.get(stub::spec(i), stub::target()), i);
      return good;
    }));
  done = true;
  for (std::thread &thread : threads)
    thread.join();
}

// Inverted: in CacheRoot::publish the second attempt after ENOENT.
TEST_F(Promise, P16_TheDirectoryVanishes) {
  stub::Options made;
  KernelManager manager(stub::manager(settings, made));
  auto kept = manager.get(stub::spec(0), stub::target());
  fs::remove_all(root);
  EXPECT_TRUE(stub::right(*manager.get(stub::spec(0), stub::target()), 0));
  EXPECT_TRUE(stub::right(*manager.get(stub::spec(1), stub::target()), 1));
  EXPECT_EQ(KernelCache::list(root).size(), 1u) << "the next store makes the directory again";
  // Removed between two calls of one publish.
  FaultyFiles files;
  int removals = 0;
  files.fails = [&](const char *call, const char *) {
    if (!std::strcmp(call, "fsync") && removals++ == 0)
      fs::remove_all(root);
    return 0;
  };
  KernelCache cache(settings, files);
  EXPECT_TRUE(cache.publish(stub::key(5), stub::artifact(5)));
  EXPECT_EQ(removals, 2);
  EXPECT_TRUE(finds(5));
  fs::rename(root, folder / "moved");
  EXPECT_FALSE(cache.find(stub::key(5)));
  EXPECT_TRUE(cache.publish(stub::key(5), stub::artifact(5)));
  EXPECT_TRUE(stub::right(*kept, 0));
}

TEST_F(Promise, P16_RemovedAndForbiddenUnderManyProcesses) {
  std::atomic<bool> done{false};
  std::thread remover([&] {
    while (!done) {
      std::error_code ignored;
      fs::remove_all(root + "/v1", ignored);
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
  });
  Ran ran = stress("cold " + root + " --processes 16 --keys 12 --compile-ms 5");
  done = true;
  remover.join();
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  EXPECT_EQ(ran.json()["wrong"], 0);
  HYPERJIT_NEEDS("otheruser");
  // An ordinary user, whom modes stop.
  fs::remove_all(root);
  fs::remove(root + ".compiles");
  fs::permissions(folder.path, fs::perms(0777));
  std::string user = "setpriv --reuid=65534 --regid=65534 --clear-groups ";
  done = false;
  std::thread forbidder([&] {
    for (bool open = false; !done; open = !open) {
      std::error_code ignored;
      fs::permissions(root + "/v1", open ? fs::perms(0700) : fs::perms(0), ignored);
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
    std::error_code ignored;
    fs::permissions(root + "/v1", fs::perms(0700), ignored);
  });
  ran = stress("cold " + root + " --processes 8 --keys 12 --compile-ms 5", user);
  done = true;
  forbidder.join();
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  EXPECT_EQ(ran.json()["wrong"], 0);
}

} // namespace
