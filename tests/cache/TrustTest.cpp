// P25 - P28: what others may plant, and what never happens by itself.
// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <atomic>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;

namespace {

// Inverted: KernelCache's constructor made its root.
TEST_F(Promise, P25_NothingIsCreatedByLoadingTheLibrary) {
  HYPERJIT_NEEDS("strace");
  std::string calls = folder / "calls";
  for (std::string arguments :
       {std::string("--version"), std::string("recipes"), std::string("env"), std::string("cache path")}) {
    Ran ran = run("env -i HOME=" + folder.path + " strace -f -qq -o " + calls +
                  " -e trace=%file,openat,open,creat,mkdir " + HYPERJIT_COMMAND + " " + arguments + " >/dev/null");
    EXPECT_EQ(ran.code, 0) << ran.error;
    std::istringstream lines(readFile(calls));
    int seen = 0;
    for (std::string line; std::getline(lines, line); ++seen) {
      EXPECT_EQ(line.find("O_CREAT"), std::string::npos) << arguments << ": " << line;
      EXPECT_EQ(line.find("mkdir"), std::string::npos) << arguments << ": " << line;
    }
    EXPECT_GT(seen, 10);
  }
  // A look-up creates nothing either; nor does a process that may not compile.
  settings.jit = false;
  KernelManager manager(stub::manager(settings));
  EXPECT_EQ(caught([&] { manager.get(stub::spec(0), stub::target()); }).id, "missing-kernel");
  EXPECT_FALSE(fs::exists(root));
}

struct Planted : Promise {
  std::string victim = folder / "victim";
  Planted() { writeFile(victim, "precious"); }
  void untouched(const std::string &where) { EXPECT_EQ(readFile(victim), "precious") << where; }
};

// Inverted: O_NOFOLLOW left out where the entry is opened.
TEST_F(Planted, P26_LinksAndPipesAreNotFollowed) {
  fill(2);
  // A whole entry, elsewhere: following the link would find it.
  fs::rename(entry(0), folder / "elsewhere");
  fs::create_symlink(folder / "elsewhere", entry(0));
  EXPECT_FALSE(finds(0));
  EXPECT_TRUE(fs::is_symlink(entry(0)));
  fs::remove(entry(0));
  ASSERT_EQ(::mkfifo(entry(0).c_str(), 0600), 0);
  EXPECT_FALSE(finds(0));
  fs::remove(entry(0));
  if (isRoot()) {
    ASSERT_EQ(::mknod(entry(0).c_str(), S_IFCHR | 0600, makedev(1, 5)), 0); // /dev/zero
    EXPECT_FALSE(finds(0));
    fs::remove(entry(0));
  }
  fs::create_symlink(folder / "nowhere", entry(0));
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0))); // the name is taken: not ours to replace
  EXPECT_FALSE(fs::exists(folder / "nowhere"));
  fs::remove(entry(0));
  // A hard link to somebody's file is damage, which is moved away; the file itself is not written.
  fs::create_hard_link(victim, entry(0));
  EXPECT_FALSE(cache.find(stub::key(0)));
  untouched("hard link as entry");
  EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
  EXPECT_TRUE(finds(0));
}

// Inverted: O_NOFOLLOW in CacheRoot::openFolder.
TEST_F(Planted, P26_NeitherAreFolders) {
  fill(1);
  fs::rename(root + "/v1", folder / "v1");
  fs::create_directory_symlink(folder / "v1", root + "/v1");
  EXPECT_FALSE(finds(0));
  KernelCache cache(settings);
  EXPECT_FALSE(cache.publish(stub::key(1), stub::artifact(1)));
  EXPECT_EQ(KernelCache::list(root).size(), 0u);
  fs::remove(root + "/v1");
  fs::rename(folder / "v1", root + "/v1");
  fs::rename(shard(stub::key(0)), folder / "shard");
  fs::create_directory_symlink(folder / "shard", shard(stub::key(0)));
  EXPECT_FALSE(finds(0));
  EXPECT_FALSE(cache.publish(stub::key(0), stub::artifact(0)));
  cache.clean(true);
  EXPECT_EQ(namesIn(folder / "shard").size(), 1u);
}

// Inverted: O_NOFOLLOW left out where the lock and the stamp are opened.
TEST_F(Planted, P26_NorLocksStampsAndCounters) {
  fill(1);
  settings.lockTimeoutSeconds = 0.1;
  KernelCache cache(settings);
  EXPECT_TRUE(cache.lock(stub::key(0)).held());
  std::string lock = root + "/v1/locks/" + stub::key(0).hex().substr(0, 2) + ".lock";
  struct stat before, after;
  ASSERT_EQ(::stat(victim.c_str(), &before), 0);
  fs::remove(lock);
  fs::create_symlink(victim, lock);
  EXPECT_FALSE(cache.lock(stub::key(0)).held());
  fs::remove(lock);
  fs::create_symlink(folder / "nowhere", lock);
  EXPECT_FALSE(cache.lock(stub::key(0)).held());
  EXPECT_FALSE(fs::exists(folder / "nowhere"));
  fs::remove(lock);
  ASSERT_EQ(::mkfifo(lock.c_str(), 0600), 0);
  cache.lock(stub::key(0)); // returns
  fs::remove(root + "/v1/.last_clean");
  for (const std::string &target : {victim, folder / "nowhere"}) {
    fs::create_symlink(target, root + "/v1/.last_clean");
    EXPECT_EQ(cache.clean(true), 0);
    fs::remove(root + "/v1/.last_clean");
  }
  fs::remove_all(root + "/v1/stats");
  fs::create_directories(folder / "stats");
  fs::create_directory_symlink(folder / "stats", root + "/v1/stats");
  cache.find(stub::key(0));
  cache.saveStatistics(0, 0);
  EXPECT_TRUE(fs::is_empty(folder / "stats"));
  untouched("locks, stamp, counters");
  EXPECT_FALSE(fs::exists(folder / "nowhere"));
  ASSERT_EQ(::stat(victim.c_str(), &after), 0);
  EXPECT_EQ(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
}

// Somebody who guesses the temporary name. Inverted: O_EXCL left out where the temporary file is made.
TEST_F(Planted, P26_AGuessedTemporaryNameIsNotWrittenThrough) {
  fill(1);
  for (bool link : {true, false}) {
    FaultyFiles files;
    files.fails = [&](const char *call, const char *name) {
      if (!std::strcmp(call, "openat") && std::string_view(name).starts_with(".tmp-")) {
        std::string path = shard(stub::key(1)) + "/" + name;
        if (link)
          fs::create_symlink(victim, path);
        else
          fs::create_hard_link(victim, path);
      }
      return 0;
    };
    LogCapture log;
    fs::create_directories(shard(stub::key(1)));
    KernelCache cache(settings, files);
    EXPECT_FALSE(cache.publish(stub::key(1), stub::artifact(1)));
    untouched(link ? "link" : "hard link");
    EXPECT_FALSE(fs::exists(entry(1)));
    fs::remove_all(shard(stub::key(1)));
  }
}

// An entry that becomes a link and a file again while it is read.
TEST_F(Planted, P26_ARacingSwapper) {
  fill(1);
  std::string other = folder / "other", away = folder / "away";
  writeFile(other, "not an entry");
  fs::create_symlink(other, away);
  std::atomic<bool> done{false};
  std::thread swapper([&] {
    while (!done)
      ::renameat2(AT_FDCWD, entry(0).c_str(), AT_FDCWD, away.c_str(), RENAME_EXCHANGE);
  });
  KernelCache cache(settings);
  int found = 0;
  for (int i = 0; i < 3000; ++i)
    if (std::optional<Artifact> artifact = cache.find(stub::key(0))) {
      ++found;
      ASSERT_TRUE(stub::right(*artifact, 0));
    }
  done = true;
  swapper.join();
  EXPECT_GT(found, 0);
  EXPECT_EQ(cache.statistics().bad, 0);
  EXPECT_EQ(readFile(other), "not an entry");
}

// Inverted: `trusts(status)` in CacheRoot::load.
TEST_F(Promise, P27_EntriesOfOthersAreNotTaken) {
  HYPERJIT_NEEDS("otheruser");
  HYPERJIT_NEEDS("root");
  fill(1);
  auto give = [&](const std::string &path, uid_t user) { ASSERT_EQ(::chown(path.c_str(), user, user), 0); };
  give(entry(0), 65534);
  {
    LogCapture log;
    EXPECT_FALSE(finds(0));
    EXPECT_FALSE(finds(0));
    EXPECT_LE(log.messages.size(), 1u);
    EXPECT_TRUE(fs::exists(entry(0)));
  }
  Settings path = settings;
  path.trust = CacheTrust::Path;
  EXPECT_TRUE(KernelCache(path).find(stub::key(0)));
  give(entry(0), 0);
  EXPECT_TRUE(finds(0));
  // A whole directory of somebody else's, and one into which everybody may write.
  give(root + "/v1", 65534);
  EXPECT_FALSE(finds(0));
  give(root + "/v1", 0);
  fs::permissions(root, fs::perms(0777));
  {
    Ran ran = stress("once " + root + " --keys 3");
    expectClean(ran);
    EXPECT_EQ(ran.json()["hits"], 0) << "read from a root that everybody may write";
    EXPECT_NE(ran.error.find("chmod o-w"), std::string::npos) << ran.error;
    EXPECT_EQ(ran.error.find("warning"), ran.error.rfind("warning")) << ran.error;
  }
  EXPECT_FALSE(finds(0));
  EXPECT_TRUE(KernelCache(path).find(stub::key(0)));
  // As /tmp is: with the sticky bit nobody can put another v1 in place of ours.
  fs::permissions(root, fs::perms(01777));
  EXPECT_TRUE(finds(0));
}

// An ordinary user and a stranger who fills a directory for them. Inverted: the user in CacheRoot::trusts.
TEST_F(Promise, P27_AStrangerFillsASharedDirectory) {
  HYPERJIT_NEEDS("otheruser");
  HYPERJIT_NEEDS("root");
  fs::permissions(folder.path, fs::perms(0777));
  // As /tmp is: anybody may put a v1 there, and nobody replaces it.
  ASSERT_EQ(run("umask 0; mkdir -m 1777 " + root + " && setpriv --reuid=1234 --regid=1234 --clear-groups " +
                stressProgram() + " once " + root + " --keys 3 >/dev/null; chmod -R o+rX " + root)
                .code,
            0);
  ASSERT_EQ(KernelCache::list(root).size(), 3u);
  std::string user = "setpriv --reuid=65534 --regid=65534 --clear-groups ";
  Ran ran = stress("once " + root + " --keys 3", user);
  expectClean(ran);
  EXPECT_EQ(ran.json()["hits"], 0);
}

// HYPERJIT_CACHE_TRUST=any is for GPU code; a CPU kernel is code of this process. Inverted: checkCodeOwner in
// CacheRoot::load.
TEST_F(Promise, P28_CpuKernelsOfOthersAreNeverTaken) {
  HYPERJIT_NEEDS("root");
  settings.trust = CacheTrust::Any;
  Artifact image = stub::artifact(1);
  image.kind = PayloadKind::Image;
  {
    KernelCache cache(settings);
    ASSERT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
    ASSERT_TRUE(cache.publish(stub::key(1), image));
  }
  for (int i = 0; i < 2; ++i)
    ASSERT_EQ(::chown(entry(i).c_str(), 65534, 65534), 0);
  LogCapture log;
  KernelCache cache(settings);
  EXPECT_TRUE(cache.find(stub::key(0)));
  EXPECT_FALSE(cache.find(stub::key(1)));
}

std::shared_ptr<Artifact> imageOf(std::vector<std::byte> code, int64_t offset) {
  auto artifact = std::make_shared<Artifact>();
  artifact->kind = PayloadKind::Image;
  artifact->meta.spec = "x", artifact->meta.schedule = "auto";
  artifact->meta.target = Target::native().text();
  artifact->payload = std::move(code);
  LaunchInfo launch;
  launch.entry = "kernel";
  launch.offset = offset;
  artifact->meta.launches = {launch};
  return artifact;
}

// Inverted: the check of the offset in CpuBackend::load.
TEST(Loader, P28_ForgedOffsetsAreRejected) {
  std::shared_ptr<const Backend> backend = Backend::find(DeviceType::Cpu);
  ASSERT_TRUE(backend);
  std::vector<std::byte> code(100, std::byte(0xc3));
  EXPECT_TRUE(backend->load(imageOf(code, 99)));
  for (int64_t offset : {int64_t(100), int64_t(4095), int64_t(-1), int64_t(1) << 40})
    EXPECT_EQ(caught([&] { backend->load(imageOf(code, offset)); }).id, "image-rejected") << offset;
  EXPECT_EQ(caught([&] { backend->load(imageOf({}, 0)); }).id, "image-rejected");
  auto cubin = imageOf(code, 0);
  cubin->kind = PayloadKind::Cubin;
  EXPECT_EQ(caught([&] { backend->load(cubin); }).id, "image-rejected");
}

// Inverted: PROT_READ | PROT_EXEC in ImageMemory kept PROT_WRITE.
TEST(Loader, P28_NoMemoryIsWritableAndExecutable) {
  std::shared_ptr<const Backend> backend = Backend::find(DeviceType::Cpu);
  ASSERT_TRUE(backend);
  auto pages = [](const char *mode) {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);)
      count += line.find(mode) != std::string::npos && line.find('/') == std::string::npos;
    return count;
  };
  int executable = pages(" r-xp ");
  auto kernel = backend->load(imageOf(std::vector<std::byte>(5000, std::byte(0xc3)), 0));
  EXPECT_GT(pages(" r-xp ") + pages(" --xp "), executable);
  EXPECT_EQ(pages(" rwxp "), 0);
}

// Any bytes may come to the loader; none of them runs while it loads. In a child, so that a crash is a failure.
TEST(Loader, P28_LoadingRunsNothing) {
  std::shared_ptr<const Backend> backend = Backend::find(DeviceType::Cpu);
  ASSERT_TRUE(backend);
  EXPECT_TRUE(inChild([&] {
    uint32_t state = 9;
    for (int round = 0; round < 500; ++round) {
      std::vector<std::byte> code(1 + (state >> 8) % 9000);
      for (std::byte &byte : code)
        byte = std::byte((state = state * 1664525 + 1013904223) >> 24);
      try {
        backend->load(imageOf(code, int64_t(state % 12000)));
      } catch (const InternalError &) {
      }
    }
    return true;
  }));
}

} // namespace
