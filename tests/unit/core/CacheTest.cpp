// The disk cache: any doubt is a miss and never an exception, publishing never replaces, nothing is left lying about.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include "hyperjit/core/KernelCache.h"

#include <fcntl.h>
#include <regex>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;

namespace {

Settings settingsFor(const std::string &root) {
  Settings settings;
  settings.cacheDirectory = root;
  return settings;
}

struct CacheTest : testing::Test {
  TemporaryFolder folder;
  std::string root = folder / "cache";
  Settings settings = settingsFor(root);
  CacheKey key = sampleKey("one");
  Artifact artifact = sampleArtifact(6000);

  std::string entry(const CacheKey &of) const {
    return root + "/v1/" + of.hex().substr(0, 2) + "/" + of.hex() + ".hjk";
  }
  std::string shard(const CacheKey &of) const { return root + "/v1/" + of.hex().substr(0, 2); }
  bool finds(const CacheKey &wanted) const {
    KernelCache cache(settings);
    std::optional<Artifact> found = cache.find(wanted);
    return found && found->payload == artifact.payload && found->meta.json() == artifact.meta.json();
  }
};

TEST_F(CacheTest, CreatesNothingBeforeTheFirstStore) {
  KernelCache cache(settings);
  EXPECT_FALSE(cache.find(key));
  EXPECT_FALSE(fs::exists(root));
  EXPECT_EQ(cache.statistics().misses, 1);
  ASSERT_EQ(cache.layers().size(), 1u);
  EXPECT_TRUE(cache.layers()[0].writable);
}

TEST_F(CacheTest, PublishesOneFileAndFindsIt) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  EXPECT_EQ(cache.pathOf(key), entry(key));
  EXPECT_EQ(namesIn(shard(key)), (std::vector<std::string>{key.hex() + ".hjk"}));
  EXPECT_EQ(readFile(entry(key)).substr(0, 8), "HJKERNL\1");
  EXPECT_TRUE(finds(key));
  EXPECT_EQ(cache.statistics().published, 1);
  struct stat status;
  ASSERT_EQ(::stat(entry(key).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((root + "/v1").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST_F(CacheTest, NeverReplacesAValidFile) {
  KernelCache cache(settings), second(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  struct stat before, after;
  ASSERT_EQ(::stat(entry(key).c_str(), &before), 0);
  EXPECT_TRUE(second.publish(key, sampleArtifact(10)));
  ASSERT_EQ(::stat(entry(key).c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(second.statistics().lost, 1);
  EXPECT_EQ(second.statistics().published, 0);
  EXPECT_TRUE(finds(key));
  EXPECT_EQ(namesIn(shard(key)).size(), 1u);
}

TEST_F(CacheTest, TruncatedAndFlippedEntriesAreMissesAndHeal) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  std::string whole = readFile(entry(key));
  int64_t bad = 0;
  auto damagedBy = [&](const std::string &content) {
    fs::remove(entry(key));
    writeFile(entry(key), content);
    fs::permissions(entry(key), fs::perms(0600));
    EXPECT_FALSE(cache.find(key));
    EXPECT_EQ(cache.statistics().bad, ++bad);
    EXPECT_TRUE(namesIn(shard(key)).empty()) << "the damaged entry is still there";
  };
  for (size_t size : {size_t(0), size_t(1), size_t(95), size_t(96), whole.size() / 2, whole.size() - 1})
    damagedBy(whole.substr(0, size));
  for (size_t at : {size_t(0), size_t(30), size_t(60), size_t(85), size_t(200), whole.size() - 1}) {
    std::string flipped = whole;
    flipped[at] ^= 4;
    damagedBy(flipped);
  }
  damagedBy(whole + "x");
  damagedBy(std::string(1000, '\0'));
  EXPECT_TRUE(cache.publish(key, artifact));
  EXPECT_TRUE(finds(key));
}

TEST_F(CacheTest, AnEntryUnderAnotherNameIsNotTaken) {
  KernelCache cache(settings);
  CacheKey other = sampleKey("two");
  EXPECT_TRUE(cache.publish(key, artifact));
  fs::create_directories(shard(other));
  fs::copy_file(entry(key), entry(other));
  EXPECT_FALSE(cache.find(other));
  EXPECT_EQ(cache.statistics().bad, 1);
  EXPECT_FALSE(fs::exists(entry(other)));
  EXPECT_TRUE(finds(key));
}

TEST_F(CacheTest, ANewerFormatIsLeftAlone) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  std::string newer = readFile(entry(key));
  newer[8] = 9;
  newer[90] ^= 1; // its checksum covers its format
  fs::remove(entry(key));
  writeFile(entry(key), newer);
  EXPECT_FALSE(cache.find(key));
  EXPECT_EQ(cache.statistics().bad, 0);
  EXPECT_EQ(readFile(entry(key)), newer);
  EXPECT_TRUE(cache.publish(key, artifact)); // somebody else's name now: not replaced, and no error
  EXPECT_EQ(readFile(entry(key)), newer);
}

TEST_F(CacheTest, LinksPipesAndFoldersAreNotOpened) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  fs::rename(entry(key), folder / "elsewhere.hjk");
  fs::create_symlink(folder / "elsewhere.hjk", entry(key));
  EXPECT_FALSE(cache.find(key));
  EXPECT_TRUE(fs::exists(folder / "elsewhere.hjk"));
  fs::remove(entry(key));
  ASSERT_EQ(::mkfifo(entry(key).c_str(), 0600), 0);
  EXPECT_FALSE(cache.find(key)); // returns at all: nobody writes to this pipe
  fs::remove(entry(key));
  fs::create_directory(entry(key));
  EXPECT_FALSE(cache.find(key));
  EXPECT_TRUE(fs::is_directory(entry(key)));
  // A shard that is a link leads nowhere either.
  fs::remove(entry(key));
  fs::rename(shard(key), folder / "shard");
  fs::rename(folder / "elsewhere.hjk", folder.path + "/shard/" + key.hex() + ".hjk");
  fs::create_directory_symlink(folder / "shard", shard(key));
  EXPECT_FALSE(cache.find(key));
  EXPECT_EQ(cache.statistics().bad, 0);
}

TEST_F(CacheTest, WhatIsBeingWrittenIsNoEntry) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  fs::copy_file(entry(key), shard(key) + "/.tmp-0123456789abcdef0123456789abcdef");
  writeFile(shard(key) + "/notes.txt", "mine");
  ASSERT_EQ(KernelCache::list(root).size(), 1u);
  EXPECT_EQ(KernelCache::list(root)[0].path, entry(key));
  EXPECT_EQ(KernelCache::list(root)[0].key, key);
}

TEST_F(CacheTest, OneOfManyPublishersWins) {
  std::vector<pid_t> children;
  std::vector<CacheKey> keys;
  for (int i = 0; i < 40; ++i)
    keys.push_back(sampleKey("many " + std::to_string(i)));
  for (int process = 0; process < 8; ++process) {
    pid_t child = ::fork();
    if (child == 0) {
      KernelCache cache(settings);
      bool good = true;
      for (size_t i = 0; i < keys.size(); ++i) {
        const CacheKey &mine = keys[(i + size_t(process) * 5) % keys.size()];
        if (!cache.find(mine))
          good &= cache.publish(mine, artifact);
        std::optional<Artifact> found = cache.find(mine);
        good &= found && found->payload == artifact.payload;
      }
      good &= cache.statistics().bad == 0;
      ::_exit(good ? 0 : 1);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  EXPECT_EQ(KernelCache::list(root).size(), keys.size());
  for (const CacheKey &each : keys)
    EXPECT_TRUE(finds(each));
  static const std::regex name("[0-9a-f]{64}\\.hjk");
  for (const auto &file : fs::recursive_directory_iterator(root + "/v1")) {
    bool expected = file.is_directory() || file.path().filename() == ".last_clean" ||
                    std::regex_match(file.path().filename().string(), name);
    EXPECT_TRUE(expected) << file.path();
  }
}

// Killed anywhere, a process leaves whole entries and at most litter that the next clean takes away.
TEST_F(CacheTest, KilledPublishersLeaveNoHalfEntry) {
  for (int round = 0; round < 20; ++round) {
    pid_t child = ::fork();
    if (child == 0) {
      KernelCache cache(settings);
      for (int i = 0;; ++i)
        cache.publish(sampleKey(std::to_string(round) + " " + std::to_string(i)), artifact);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(3 + round));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  std::vector<CacheEntryFile> entries = KernelCache::list(root);
  EXPECT_GT(entries.size(), 0u);
  for (const CacheEntryFile &file : entries)
    EXPECT_EQ(KernelCache::inspect(file.path).fault, EntryFault::None) << file.path;
}

TEST_F(CacheTest, AReadOnlyRootIsStillRead) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  fs::permissions(root, fs::perms(0755));
  for (const auto &entry : fs::recursive_directory_iterator(root))
    fs::permissions(entry.path(), entry.is_directory() ? fs::perms(0555) : fs::perms(0444));
  EXPECT_TRUE(inChild(
      [&] {
        LogCapture log;
        KernelCache reader(settings);
        CacheKey other = sampleKey("two");
        return reader.find(key) && !reader.publish(other, artifact) && !reader.find(other) &&
               log.messages.size() == 1 &&
               log.has("compiled kernels are not kept in " + root +
                       ": Permission denied; set HYPERJIT_CACHE_DIR to a folder "
                       "that can be written") &&
               !reader.publish(other, artifact) && log.messages.size() == 1; // said once
      },
      /*ordinaryUser=*/true));
  for (const auto &entry : fs::recursive_directory_iterator(root))
    if (entry.is_directory())
      fs::permissions(entry.path(), fs::perms(0755));
}

TEST_F(CacheTest, ARootThatCannotBeMadeMeansMemoryOnly) {
  writeFile(folder / "file", "");
  LogCapture log;
  KernelCache cache(settingsFor(folder / "file/cache"));
  EXPECT_FALSE(cache.publish(key, artifact));
  EXPECT_FALSE(cache.find(key));
  EXPECT_FALSE(cache.lock(key).held());
  ASSERT_EQ(log.messages.size(), 1u);
  EXPECT_EQ(log.messages[0], "compiled kernels are not kept in " + (folder / "file/cache") +
                                 ": Not a directory; set HYPERJIT_CACHE_DIR to a folder that can be written");
}

TEST_F(CacheTest, NoHomeMeansMemoryOnly) {
  LogCapture log;
  KernelCache cache(settingsFor(""));
  EXPECT_TRUE(cache.layers().empty());
  EXPECT_FALSE(cache.publish(key, artifact));
  EXPECT_FALSE(cache.find(key));
  EXPECT_EQ(cache.pathOf(key), "");
  ASSERT_EQ(log.messages.size(), 1u);
  EXPECT_EQ(log.messages[0], "no folder for compiled kernels ($HOME is not set): they are kept in memory only; set "
                             "HYPERJIT_CACHE_DIR to keep them");
}

// A full disk: compile goes on, nothing is published, nothing lies about.
TEST_F(CacheTest, AFullDiskIsOneWarning) {
  EXPECT_TRUE(inChild([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    LogCapture log;
    KernelCache cache(settings);
    return !cache.publish(key, artifact) && !cache.publish(key, artifact) && namesIn(shard(key)).empty() &&
           log.messages.size() == 1 && log.has("File too large");
  }));
}

TEST_F(CacheTest, WhatOthersMayWriteIsNotTrusted) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  LogCapture log;
  fs::permissions(entry(key), fs::perms(0666));
  EXPECT_FALSE(cache.find(key));
  EXPECT_TRUE(log.has("writable by everybody"));
  EXPECT_TRUE(fs::exists(entry(key)));
  fs::permissions(entry(key), fs::perms(0600));
  fs::permissions(root + "/v1", fs::perms(0777));
  EXPECT_FALSE(cache.find(key));
  EXPECT_FALSE(cache.publish(sampleKey("two"), artifact));
  EXPECT_TRUE(log.has("run chmod o-w on it, or set HYPERJIT_CACHE_DIR"));
  // Where the user vouches for the folder it is read.
  Settings vouched = settings;
  vouched.trust = CacheTrust::Path;
  EXPECT_TRUE(KernelCache(vouched).find(key));
  fs::permissions(root + "/v1", fs::perms(0700));
  EXPECT_TRUE(finds(key));
}

TEST_F(CacheTest, Modes) {
  EXPECT_TRUE(KernelCache(settings).publish(key, artifact));
  CacheKey other = sampleKey("two");
  settings.cache = CacheMode::ReadOnly;
  {
    KernelCache cache(settings);
    EXPECT_TRUE(cache.find(key));
    EXPECT_FALSE(cache.publish(other, artifact));
    EXPECT_FALSE(fs::exists(entry(other)));
    EXPECT_EQ(cache.pathOf(other), "");
    cache.discard(key);
    EXPECT_TRUE(fs::exists(entry(key)));
  }
  settings.cache = CacheMode::Off;
  EXPECT_FALSE(KernelCache(settings).find(key));
  EXPECT_FALSE(KernelCache(settings).publish(other, artifact));
  settings.cache = CacheMode::Refresh;
  {
    KernelCache cache(settings);
    EXPECT_FALSE(cache.find(key)); // compile everything again
    Artifact again = sampleArtifact(50);
    EXPECT_TRUE(cache.publish(key, again));
    settings.cache = CacheMode::ReadWrite;
    EXPECT_EQ(KernelCache(settings).find(key)->payload, again.payload);
  }
}

TEST_F(CacheTest, FurtherLayersAreReadOnly) {
  std::string shipped = folder / "shipped";
  EXPECT_TRUE(KernelCache(settingsFor(shipped)).publish(key, artifact));
  settings.cachePath = {folder / "absent", shipped};
  KernelCache cache(settings);
  ASSERT_EQ(cache.layers().size(), 3u);
  EXPECT_FALSE(cache.layers()[2].writable);
  EXPECT_TRUE(cache.find(key));
  EXPECT_FALSE(fs::exists(root)); // hits there are not copied
  // Damage there is somebody else's to mend.
  std::string file = shipped + "/v1/" + key.hex().substr(0, 2) + "/" + key.hex() + ".hjk";
  std::string whole = readFile(file);
  writeFile(file, whole.substr(0, 300));
  EXPECT_FALSE(cache.find(key));
  EXPECT_TRUE(fs::exists(file));
  EXPECT_EQ(cache.statistics().bad, 1);
}

TEST_F(CacheTest, ARemovedFolderIsMadeAgain) {
  KernelCache cache(settings);
  EXPECT_TRUE(cache.publish(key, artifact));
  fs::remove_all(root);
  EXPECT_FALSE(cache.find(key));
  EXPECT_TRUE(cache.publish(key, artifact));
  EXPECT_TRUE(finds(key));
}

TEST_F(CacheTest, CleansTheLeastRecentlyUsed) {
  KernelCache writer(settings);
  std::vector<CacheKey> keys;
  int64_t bytes = 0;
  for (int i = 0; i < 10; ++i) {
    keys.push_back(sampleKey(std::to_string(i)));
    EXPECT_TRUE(writer.publish(keys.back(), artifact));
    bytes = int64_t(fs::file_size(entry(keys.back())));
    fs::last_write_time(entry(keys.back()), fs::file_time_type::clock::now() - std::chrono::hours(20 - i));
  }
  std::string old = shard(keys[0]) + "/.tmp-00000000000000000000000000000000", fresh = shard(keys[0]) + "/.tmp-1",
              note = shard(keys[0]) + "/notes.txt";
  for (const std::string &file : {old, fresh, note})
    writeFile(file, "x");
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(2));
  fs::last_write_time(note, fs::file_time_type::clock::now() - std::chrono::hours(2000));
  // Within the limit only old litter goes.
  EXPECT_EQ(writer.clean(true), 1);
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(fresh));
  EXPECT_TRUE(writer.find(keys[0])); // used: it is young again
  settings.cacheMaxBytes = bytes * 5;
  KernelCache cache(settings);
  EXPECT_EQ(cache.clean(true), bytes * 6); // down to four fifths: four entries stay
  EXPECT_TRUE(fs::exists(entry(keys[0])));
  for (int i = 1; i <= 6; ++i)
    EXPECT_FALSE(fs::exists(entry(keys[size_t(i)]))) << i;
  for (int i = 7; i <= 9; ++i)
    EXPECT_TRUE(fs::exists(entry(keys[size_t(i)]))) << i;
  EXPECT_TRUE(fs::exists(note));
}

TEST_F(CacheTest, LocksWaitAndGiveUp) {
  KernelCache cache(settings);
  auto held = cache.lock(key);
  ASSERT_TRUE(held.held());
  settings.lockTimeoutSeconds = 0.05;
  KernelCache impatient(settings);
  auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(impatient.lock(key).held());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  held = {};
  EXPECT_TRUE(impatient.lock(key).held());
}

// A child that was forked while a lock was held does not keep it.
TEST_F(CacheTest, ForkedChildrenKeepNoLock) {
  settings.lockTimeoutSeconds = 1;
  KernelCache cache(settings);
  auto held = cache.lock(key);
  ASSERT_TRUE(held.held());
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[1]);
    char byte;
    ::_exit(::read(ends[0], &byte, 1) == 0 ? 0 : 1); // lives until the parent closes its end
  }
  ::close(ends[0]);
  held = {};
  EXPECT_TRUE(KernelCache(settings).lock(key).held());
  ::close(ends[1]);
  ::waitpid(child, nullptr, 0);
}

TEST_F(CacheTest, ALockOfADeadProcessIsFree) {
  EXPECT_TRUE(inChild([&] {
    static KernelCache::ShardLock kept = KernelCache(settings).lock(key);
    return kept.held(); // _exit: nobody lets it go
  }));
  settings.lockTimeoutSeconds = 0.2;
  EXPECT_TRUE(KernelCache(settings).lock(key).held());
}

TEST_F(CacheTest, NearestEntryNamesWhatDiffers) {
  KernelCache cache(settings);
  KeyFields there;
  there.spec = "a", there.target = "x86-64-v3", there.schedule = "auto";
  artifact.meta.keyFields = there.list();
  EXPECT_FALSE(cache.nearest(there));
  EXPECT_TRUE(cache.publish(CacheKey::of(there), artifact));
  KeyFields wanted = there;
  wanted.target = "x86-64-v4";
  std::optional<NearestEntry> nearest = cache.nearest(wanted);
  ASSERT_TRUE(nearest);
  ASSERT_EQ(nearest->differences.size(), 1u);
  EXPECT_EQ(nearest->differences[0].field, "target");
  EXPECT_EQ(nearest->differences[0].wanted, "x86-64-v4");
  EXPECT_EQ(nearest->differences[0].found, "x86-64-v3");
}

TEST_F(CacheTest, ManifestsNameToolchains) {
  std::string shipped = folder / "shipped", broken = folder / "broken";
  fs::create_directories(shipped);
  fs::create_directories(broken);
  writeFile(shipped + "/manifest.json", R"({"toolchains": ["nvrtc 13.0 abc", 3, "nvrtc 13.0 abc"]})");
  writeFile(broken + "/manifest.json", "{\"toolchains\": [");
  settings.cachePath = {broken, shipped};
  EXPECT_EQ(KernelCache(settings).shipped().toolchains, (std::vector<std::string>{"nvrtc 13.0 abc"}));
}

} // namespace
