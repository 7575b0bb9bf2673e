// P17 - P24, P34, P35, P37: what runs out, what it costs, and that it is said once.
// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;
using Clock = std::chrono::steady_clock;

namespace {

double secondsSince(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string fmtHex(int value) {
  static const char digits[] = "0123456789abcdef";
  return {digits[value / 16], digits[value % 16]};
}

int openFiles() {
  int count = 0;
  for ([[maybe_unused]] const auto &file : fs::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

// Inverted: the unlink of the temporary file in CacheRoot::publish.
TEST_F(Promise, P17_AFullDiskIsOneWarningAndNoLitter) {
  for (const char *call : {"fallocate", "write", "fsync"})
    for (int error : {ENOSPC, EDQUOT}) {
      fs::remove_all(root);
      FaultyFiles files;
      files.fails = [&](const char *made, const char *) { return std::strcmp(made, call) ? 0 : error; };
      KernelManagerOptions options = stub::manager(settings);
      options.files = &files;
      KernelManager manager(options);
      LogCapture log;
      for (int i = 0; i < 5; ++i)
        EXPECT_TRUE(stub::right(*manager.get(stub::spec(i), stub::target()), i));
      EXPECT_LE(log.messages.size(), 1u) << "warnings are once a process for each cause";
      EXPECT_EQ(KernelCache::list(root).size(), 0u);
      EXPECT_EQ(litter(), 0) << call;
    }
  // Space that a clean gives back is used: one clean, one retry.
  fs::remove_all(root);
  fill(6);
  settings.cacheMaxBytes = 1;
  FaultyFiles files;
  int failures = 0;
  files.fails = [&](const char *call, const char *) {
    return !std::strcmp(call, "fallocate") && failures++ == 0 ? ENOSPC : 0;
  };
  KernelCache cache(settings, files);
  EXPECT_TRUE(cache.publish(stub::key(9), stub::artifact(9)));
  EXPECT_EQ(failures, 2);
}

// Inverted: the rest after a short write in CacheRoot::writeWhole.
TEST_F(Promise, P17_ShortWritesAreContinued) {
  FaultyFiles files;
  files.shortBy = 7;
  KernelCache cache(settings, files);
  EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
  EXPECT_TRUE(finds(0));
  std::optional<Artifact> found = cache.find(stub::key(0)); // short reads too
  EXPECT_TRUE(found && stub::right(*found, 0));
}

TEST_F(Promise, P17_SmallFileSystems) {
  HYPERJIT_NEEDS("mount");
  for (const char *limit : {"size=300k", "nr_inodes=8", "size=4k"}) {
    SCOPED_TRACE(limit);
    std::string place = folder / "mount";
    fs::create_directories(place);
    // The root is the mount itself: the log of compiles lies beside it, where there is room.
    Ran ran = run(std::string("unshare -m sh -c 'mount -t tmpfs -o ") + limit + " none " + place + " && " +
                  stressProgram() + " cold " + place + " --processes 6 --keys 40 --compile-ms 1 2>&1 && " +
                  stressProgram() + " random " + place + " --processes 6 --keys 40 --rounds 100'");
    EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
    for (const char *none : {"wrong", "failed", "damaged", "litter"}) { // in two lines of counts
      std::string count = "\"" + std::string(none) + "\":0";
      size_t first = ran.out.find(count);
      EXPECT_TRUE(first != std::string::npos && ran.out.find(count, first + 1) != std::string::npos) << none << "\n"
                                                                                                     << ran.out;
    }
  }
}

// Every call fails now and then, in every way: no wrong byte, no exception, nothing lost that was published, no leak.
// Inverted: `if (!readWhole(...)) return {}` in CacheRoot::load went on to the decoder, so that EIO removed good
// entries.
TEST_F(Promise, P18_AnyCallMayFail) {
  fill(8);
  FaultyFiles files;
  std::mt19937 random(7);
  const int errors[] = {EIO, ENOMEM, EMFILE, ENFILE, EACCES, ESTALE, EINTR, ENOENT, EPERM};
  bool faults = true;
  files.fails = [&](const char *call, const char *) {
    if (!faults || random() % 6 || !std::strcmp(call, "names"))
      return 0;
    int error = errors[random() % std::size(errors)];
    // EINTR is retried by the callers of pread, write and flock, and by nobody else.
    bool retried = !std::strcmp(call, "pread") || !std::strcmp(call, "write") || !std::strcmp(call, "flock");
    return error == EINTR && !retried ? EIO : error;
  };
  settings.lockTimeoutSeconds = 0.01;
  LogCapture log;
  int before = openFiles(), found = 0;
  for (int round = 0; round < 3000; ++round) {
    KernelCache cache(settings, files);
    int i = int(random() % 8);
    std::optional<Artifact> artifact;
    switch (random() % 4) {
    case 0:
    case 1:
      artifact = cache.find(stub::key(i));
      break;
    case 2:
      cache.publish(stub::key(i), stub::artifact(i));
      break;
    case 3:
      cache.lock(stub::key(i));
      cache.clean(true);
      break;
    }
    if (artifact) {
      ++found;
      ASSERT_TRUE(stub::right(*artifact, i));
    }
    ASSERT_EQ(cache.statistics().bad, 0) << "an I/O failure was taken for damage";
  }
  EXPECT_GT(found, 100);
  EXPECT_EQ(openFiles(), before) << "descriptors leak";
  faults = false;
  for (int i = 0; i < 8; ++i)
    EXPECT_TRUE(finds(i)) << "a published kernel was lost";
}

TEST_F(Promise, P18_FewDescriptors) {
  fill(4);
  for (int limit : {3, 4, 5, 6, 7, 8, 10}) {
    Ran ran = run("ulimit -n 64; exec prlimit --nofile=" + std::to_string(limit + 1) + " " + stressProgram() +
                  " once " + root + " --keys 6");
    if (ran.code == 127 || ran.error.find("shared libraries") != std::string::npos)
      continue; // not even the loader could open its files
    EXPECT_EQ(ran.code, 0) << limit << ran.out << ran.error;
  }
  EXPECT_TRUE(finds(0));
}

// Inverted: `if (total <= maxBytes) return removed;` in CacheRoot::clean always true.
TEST_F(Promise, P19_TheSizeIsBoundedAndWhatIsLoadedGoesOn) {
  settings.cacheMaxBytes = 1 << 20;
  KernelManager manager(stub::manager(settings));
  std::vector<std::shared_ptr<const Kernel>> loaded;
  for (int i = 0; i < 10; ++i)
    loaded.push_back(manager.get(stub::spec(i), stub::target()));
  Ran ran = stress("random " + root + " --processes 16 --keys 400 --rounds 300 --max-size 1048576");
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_EQ(ran.json()["wrong"], 0);
  int64_t bytes = 0;
  for (const CacheEntryFile &file : KernelCache::list(root))
    bytes += file.bytes;
  // The limit, and what each of 16 writers may have stored since it last looked.
  EXPECT_LE(bytes, (1 << 20) + 16 * ((1 << 20) / 16 + 40 * 1024)) << ran.out;
  EXPECT_GT(ran.json()["stored"].get<int64_t>() * 12 * 1024, 2 << 20) << "too little was stored to be cleaned";
  for (int i = 0; i < 10; ++i)
    EXPECT_TRUE(stub::right(*loaded[size_t(i)], i));
  KernelCache(settings).clean(true);
  bytes = 0;
  for (const CacheEntryFile &file : KernelCache::list(root))
    bytes += file.bytes;
  EXPECT_LE(bytes, 1 << 20);
  EXPECT_GT(bytes, 1 << 18) << "a clean keeps what fits";
}

// Inverted: the flock of .last_clean in CacheRoot::clean.
TEST_F(Promise, P19_OneCleanerAtATime) {
  fill(6);
  settings.cacheMaxBytes = 1;
  int stamp = ::open((root + "/v1/.last_clean").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_GE(stamp, 0);
  ASSERT_EQ(::flock(stamp, LOCK_EX), 0);
  EXPECT_EQ(KernelCache(settings).clean(true), 0);
  EXPECT_EQ(KernelCache::list(root).size(), 6u);
  ::close(stamp);
  EXPECT_GT(KernelCache(settings).clean(true), 0);
  EXPECT_EQ(KernelCache::list(root).size(), 0u);
}

// Inverted: `age > kLitterSeconds` in CacheRoot::clean never true.
TEST_F(Promise, P20_LitterIsCollected) {
  Ran ran = stress("soak " + root + " --processes 8 --keys 6 --seconds 2 --seed 5");
  EXPECT_EQ(ran.code, 0) << ran.out;
  finds(0); // an entry that the soak has damaged makes room for a whole one
  fill(1);
  writeFile(shard(stub::key(0)) + "/.tmp-00000000000000000000000000000001", "left by a kill");
  writeFile(shard(stub::key(0)) + "/.bad-00000000000000000000000000000002", "left by a kill");
  KernelCache cache(settings);
  cache.clean(true);
  EXPECT_GE(litter(), 2) << "young files may be somebody's";
  for (const auto &file : fs::recursive_directory_iterator(root + "/v1"))
    if (file.path().filename().string().starts_with(".tmp-") || file.path().filename().string().starts_with(".bad-"))
      fs::last_write_time(file.path(), fs::file_time_type::clock::now() - std::chrono::hours(2));
  cache.clean(true);
  EXPECT_EQ(litter(), 0);
  EXPECT_TRUE(finds(0));
}

// 10^4 entries in CI; HYPERJIT_TEST_ENTRIES=100000 for the figure in bench/README.md.
// Inverted: CacheRoot::load listed the root (list()) before it opened the file.
TEST_F(Promise, P21_AWarmLoadIsFastWhateverTheSize) {
  const char *wanted = std::getenv("HYPERJIT_TEST_ENTRIES");
  int entries = wanted ? std::atoi(wanted) : 10000;
  fill(32);
  std::vector<std::byte> small = encodeEntry(stub::key(0), stub::artifact(0));
  std::mt19937_64 random(3);
  std::string name(64, '0');
  for (int i = 0; i < 256; ++i)
    fs::create_directories(root + "/v1/" + fmtHex(i));
  for (int i = 32; i < entries; ++i) {
    for (char &digit : name)
      digit = "0123456789abcdef"[random() % 16];
    int file =
        ::open((root + "/v1/" + name.substr(0, 2) + "/" + name + ".hjk").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::write(file, small.data(), 200), 200);
    ::close(file);
  }
  std::vector<double> times;
  KernelCache cache(settings);
  size_t bytes = 0;
  for (int round = 0; round < 20; ++round)
    for (int i = 0; i < 32; ++i) {
      auto begin = Clock::now();
      std::optional<Artifact> found = cache.find(stub::key(i));
      times.push_back(secondsSince(begin) * 1e6);
      ASSERT_TRUE(found);
      bytes += found->payload.size();
    }
  std::sort(times.begin(), times.end());
  std::printf("warm load of %zu bytes among %d entries: median %.1f us, p95 %.1f us\n", bytes / times.size(), entries,
              times[times.size() / 2], times[times.size() * 95 / 100]);
  // The median may be pushed by a neighbour on a busy machine; the fastest quarter may not.
  EXPECT_LE(times[times.size() / 4], 100) << "microseconds";
}

TEST_F(Promise, P22_ClockSkewIsHarmless) {
  fill(6);
  auto now = fs::file_time_type::clock::now();
  fs::last_write_time(entry(0), now + std::chrono::hours(24 * 730));
  fs::last_write_time(entry(1), now - std::chrono::hours(24 * 730));
  KernelCache cache(settings);
  EXPECT_TRUE(cache.find(stub::key(0)));
  EXPECT_TRUE(cache.find(stub::key(1)));
  fs::last_write_time(root + "/v1/.last_clean", now + std::chrono::hours(24 * 730));
  // Young by this file system's clock, whatever ours says.
  writeFile(shard(stub::key(0)) + "/.tmp-00000000000000000000000000000001", "being written");
  cache.clean(true);
  EXPECT_EQ(litter(), 1);
  for (int i = 0; i < 6; ++i)
    EXPECT_TRUE(finds(i));
}

// Inverted: the age in CacheRoot::clean measured against time(nullptr).
TEST_F(Promise, P22_ProcessesWithOtherClocks) {
  HYPERJIT_NEEDS("faketime");
  // faketime can shift what stat says as well, for some calls and not for others: that no clock does.
  const std::string faketime = "env NO_FAKE_STAT=1 faketime -f ";
  for (const char *clock : {"-2y", "+2y"}) {
    Ran ran = stress("once " + root + " --keys 6", faketime + clock);
    expectClean(ran);
  }
  fill(2);
  writeFile(shard(stub::key(0)) + "/.tmp-00000000000000000000000000000001", "being written");
  Ran ran = stress("random " + root + " --processes 4 --keys 60 --rounds 200 --max-size 100000", faketime + "+2y");
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  EXPECT_EQ(litter(), 1) << "what another process writes now was taken for old";
  Ran after = stress("once " + root + " --keys 6");
  expectClean(after);
  EXPECT_EQ(after.json()["bad"], 0);
}

// Inverted: KernelCache::find asked whether the root can be written.
TEST_F(Promise, P23_AReadOnlyDirectoryIsRead) {
  HYPERJIT_NEEDS("otheruser");
  settings.trust = CacheTrust::Path; // files for others too
  Ran made = run("umask 022; " + stressProgram() + " once " + root + " --keys 3");
  fill(3);
  ASSERT_EQ(made.code, 0);
  std::string user = "setpriv --reuid=65534 --regid=65534 --clear-groups ";
  for (const auto &file : fs::recursive_directory_iterator(root))
    fs::permissions(file.path(), file.is_directory() ? fs::perms(0555) : fs::perms(0444));
  fs::permissions(root, fs::perms(0555));
  Ran ran = stress("once " + root + " --keys 6", user);
  expectClean(ran);
  EXPECT_EQ(ran.json()["hits"], 3) << "of the second manager: the three that are there; " << ran.out;
  size_t warnings = 0;
  for (size_t at = ran.error.find("warning"); at != std::string::npos; at = ran.error.find("warning", at + 1))
    ++warnings;
  EXPECT_EQ(warnings, 1u) << ran.error;
}

TEST_F(Promise, P23_AReadOnlyMount) {
  HYPERJIT_NEEDS("mount");
  fs::create_directories(folder / "mount");
  std::string cache = folder / "mount/cache";
  Ran ran = run("unshare -m sh -c 'mount -t tmpfs none " + (folder / "mount") + " && " + stressProgram() + " once " +
                cache + " --keys 3 >/dev/null && mount -o remount,ro " + (folder / "mount") + " && " + stressProgram() +
                " once " + cache + " --keys 5'");
  expectClean(ran);
  EXPECT_EQ(ran.json()["hits"], 3) << ran.out;
  EXPECT_NE(ran.error.find("Read-only file system"), std::string::npos) << ran.error;
}

// Inverted: `home[0] == '/'` in Environment.cpp.
TEST_F(Promise, P24_NoHomeIsNoProblem) {
  // cache-stress with "-" takes what the environment says.
  struct {
    const char *environment;
    const char *warning; ///< "" for none
  } cases[] = {{"-u HOME -u XDG_CACHE_HOME", "HYPERJIT_CACHE_DIR"},
               {"-u XDG_CACHE_HOME HOME=", "HYPERJIT_CACHE_DIR"},
               {"-u XDG_CACHE_HOME HOME=relative", "HYPERJIT_CACHE_DIR"},
               {"-u XDG_CACHE_HOME HOME=/dev/null", "HYPERJIT_CACHE_DIR"},
               {"-u HOME XDG_CACHE_HOME=not/absolute", "HYPERJIT_CACHE_DIR"},
               {"-u HOME XDG_CACHE_HOME=/dev/null/x", "HYPERJIT_CACHE_DIR"}};
  for (const auto &[environment, warning] : cases) {
    Ran ran = run(std::string("cd ") + folder.path + " && env -u HYPERJIT_CACHE_DIR " + environment + " " +
                  stressProgram() + " once - --keys 2");
    SCOPED_TRACE(environment);
    expectClean(ran);
    EXPECT_NE(ran.error.find(warning), std::string::npos) << ran.error;
    EXPECT_EQ(ran.error.find("warning"), ran.error.rfind("warning")) << "one warning: " << ran.error;
    EXPECT_TRUE(fs::is_empty(folder.path)) << "a relative path was used";
  }
  HYPERJIT_NEEDS("otheruser");
  Ran ran = run("env -u HYPERJIT_CACHE_DIR -u XDG_CACHE_HOME HOME=/nonexistent setpriv --reuid=65534 --regid=65534 "
                "--clear-groups " +
                stressProgram() + " once - --keys 2");
  expectClean(ran);
  EXPECT_NE(ran.error.find("/nonexistent/.cache/hyperjit"), std::string::npos) << ran.error;
}

// No process needs what another has: divergent caches, nobody waits. Inverted: whoever compiled waited until all were
// there.
TEST_F(Promise, P34_NoRankDependence) {
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    std::string mine = root + std::to_string(rank);
    KernelCache cache(stub::settings(mine));
    KernelManager manager(stub::manager(stub::settings(mine)));
    for (int i = rank * 3; i < rank * 3 + 5; ++i)
      manager.get(stub::spec(i), stub::target());
    if (pid_t child = ::fork(); child == 0) {
      ::alarm(10);
      stub::Options made;
      made.compileMilliseconds = 10;
      KernelManager manager(stub::manager(stub::settings(mine), made));
      std::vector<KernelRequest> requests;
      for (int i = 0; i < 16; ++i)
        requests.push_back({stub::spec(i), stub::target(), {}});
      manager.prepare(requests);
      bool good = manager.statistics().diskHits == 5 && manager.statistics().compiled == 11;
      for (int i = 0; i < 16; ++i)
        good &= stub::right(*manager.peek(stub::spec(i), stub::target()), i);
      ::_exit(good ? 0 : 1);
    } else {
      ranks.push_back(child);
    }
  }
  for (pid_t rank : ranks) {
    int status = 1;
    ::waitpid(rank, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

// Everything fails, always: the same kernels in the time of compiling them, a handful of warnings.
// Inverted: warnOnce in KernelCache::store said every time.
TEST_F(Promise, P35_NeverSlowerThanNoCache) {
  stub::Options made;
  made.compileMilliseconds = 5;
  auto timeOf = [&](Settings given, FileSystem *files) {
    KernelManagerOptions options = stub::manager(given, made);
    options.files = files;
    KernelManager manager(options);
    auto begin = Clock::now();
    for (int i = 0; i < 20; ++i)
      EXPECT_TRUE(stub::right(*manager.get(stub::spec(i), stub::target()), i));
    return secondsSince(begin);
  };
  Settings off = settings;
  off.cache = CacheMode::Off;
  double without = timeOf(off, nullptr);
  for (int error : {EIO, EACCES, EMFILE, ENOSPC, ESTALE, EROFS}) {
    FaultyFiles files;
    files.fails = [&](const char *, const char *) { return error; };
    LogCapture log;
    double with = timeOf(settings, &files);
    EXPECT_LT(with, without * 1.5 + 0.05) << std::strerror(error);
    EXPECT_LE(log.messages.size(), 1u) << std::strerror(error);
  }
}

// Counted from outside, call by call. Inverted: `++state->misses` in KernelCache::find for Look::Again too.
TEST_F(Promise, P37_StatisticsAreTrue) {
  std::map<std::string, int> calls;
  FaultyFiles files;
  files.fails = [&](const char *call, const char *name) {
    std::string_view text = name;
    ++calls[std::string(call) + (text.ends_with(".hjk") ? " entry" : text.starts_with(".bad-") ? " bad" : "")];
    return 0;
  };
  {
    KernelManagerOptions options = stub::manager(settings);
    options.files = &files;
    KernelManager manager(options);
    for (int i = 0; i < 5; ++i)
      manager.get(stub::spec(i), stub::target());
    EXPECT_EQ(manager.statistics().cache.published, calls["linkat entry"]);
    EXPECT_EQ(manager.statistics().cache.published, 5);
    EXPECT_EQ(manager.statistics().cache.misses, 5);
    EXPECT_EQ(manager.statistics().cache.hits, 0);
  }
  // One damaged, one gone.
  std::vector<CacheEntryFile> entries = KernelCache::list(root);
  ASSERT_EQ(entries.size(), 5u);
  fs::resize_file(entries[0].path, 50);
  fs::remove(entries[1].path);
  calls.clear();
  {
    KernelManagerOptions options = stub::manager(settings);
    options.files = &files;
    KernelManager manager(options);
    for (int round = 0; round < 3; ++round)
      for (int i = 0; i < 5; ++i)
        manager.get(stub::spec(i), stub::target());
    ManagerStatistics statistics = manager.statistics();
    EXPECT_EQ(statistics.cache.hits, 3);
    EXPECT_EQ(statistics.cache.misses, 2);
    EXPECT_EQ(statistics.cache.bad, 1);
    EXPECT_EQ(statistics.cache.bad, calls["renameat bad"]);
    EXPECT_EQ(statistics.cache.published, 2);
    EXPECT_EQ(statistics.compiled, 2);
    EXPECT_EQ(statistics.diskHits, 3);
    EXPECT_EQ(statistics.memoryHits, 10);
  }
  // What `cache stats` sums up.
  CacheTotals totals = KernelCache::totals(root);
  EXPECT_EQ(totals.processes, 2);
  EXPECT_EQ(totals.cache.hits, 3);
  EXPECT_EQ(totals.cache.misses, 7);
  EXPECT_EQ(totals.cache.bad, 1);
  EXPECT_EQ(totals.cache.published, 7);
  EXPECT_EQ(totals.compiled, 7);
  // A torn file is skipped, an old one is removed.
  writeFile(root + "/v1/stats/torn.json", "{\"hits\": 1");
  EXPECT_EQ(KernelCache::totals(root).processes, 2);
  fs::last_write_time(root + "/v1/stats/torn.json", fs::file_time_type::clock::now() - std::chrono::hours(24 * 40));
  KernelCache(settings).clean(true);
  EXPECT_FALSE(fs::exists(root + "/v1/stats/torn.json"));
  EXPECT_EQ(KernelCache::totals(root).processes, 2);
}

TEST_F(Promise, P37_StatisticsOfManyProcessesAddUp) {
  HYPERJIT_NEEDS("strace");
  std::string calls = folder / "calls";
  Ran ran = stress("cold " + root + " --processes 6 --keys 10 --compile-ms 10",
                   "strace -f --seccomp-bpf -qq -o " + calls + " -e trace=linkat");
  expectClean(ran);
  // "linkat(...) = 0", or "<... linkat resumed>) = 0" where another process came between.
  std::istringstream traced(readFile(calls));
  int links = 0;
  for (std::string line; std::getline(traced, line);)
    links += line.find("linkat") != std::string::npos && line.ends_with("= 0");
  EXPECT_EQ(ran.json()["stored"], links);
  CacheTotals totals = KernelCache::totals(root);
  EXPECT_EQ(totals.processes, 6);
  EXPECT_EQ(totals.cache.published, links);
  EXPECT_EQ(totals.cache.hits + totals.cache.misses, 60);
  EXPECT_EQ(totals.cache.hits, ran.json()["hits"]);
  EXPECT_EQ(totals.compiled, ran.json()["compiles"]);
}

} // namespace
