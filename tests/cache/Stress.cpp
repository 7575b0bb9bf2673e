// cache-stress: many processes on one cache directory, every reader checks every byte.
//
//   cache-stress once DIR [KEYS]            one process publishes and finds KEYS keys: what the fault injectors run
//                                           (DIR "-": the directory that the environment names)
//   cache-stress random DIR [OPTIONS]       get, put, unlink of random keys
//   cache-stress cold DIR [OPTIONS]         all processes at a barrier ask a KernelManager for all keys
//   cache-stress soak DIR [OPTIONS]         random, while processes are killed and begun again, bits are flipped, shards and
//                                           the whole directory are removed
//   --processes N (8)  --keys N (32)  --rounds N (200)  --seconds S (0: rounds decide)  --compile-ms N (20)  --seed N (1)
//   --lock-timeout S (30)  --max-size BYTES
//
// Prints one JSON object of counts. Exit 0: no wrong byte, no crash, no exception; 1 otherwise.
// SPDX-License-Identifier: Apache-2.0
#include "Stub.h"

#include "hyperjit/core/KernelCache.h"
#include "hyperjit/core/Log.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
  std::string what, root;
  int processes = 8, keys = 32, rounds = 200, compileMs = 20;
  double seconds = 0, lockTimeout = 30;
  int64_t maxSize = int64_t(2) << 30;
  uint64_t seed = 1;
};

/// Shared by all processes; a killed one leaves what it counted.
struct Counts {
  std::atomic<int64_t> gets, hits, puts, stored, unlinks, wrong, failed, bad, warnings, ready, go;
};

Counts *shareCounts() {
  void *memory = ::mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    std::abort();
  return new (memory) Counts();
}

Settings settingsOf(const Options &options) {
  // "-": whatever the environment says.
  Settings settings = options.root == "-" ? Settings::fromEnvironment() : stub::settings(options.root);
  settings.lockTimeoutSeconds = options.lockTimeout;
  settings.cacheMaxBytes = options.maxSize;
  return settings;
}

std::string entryPath(const std::string &root, int key) {
  std::string hex = stub::key(key).hex();
  return root + "/v1/" + hex.substr(0, 2) + "/" + hex + ".hjk";
}

/// One operation on one key.
void step(KernelCache &cache, const Options &options, Counts &counts, std::mt19937_64 &random) {
  int i = int(random() % uint64_t(options.keys));
  uint64_t dice = random() % 100;
  if (dice < 65) {
    ++counts.gets;
    if (std::optional<Artifact> found = cache.find(stub::key(i))) {
      ++counts.hits;
      if (!stub::right(*found, i))
        ++counts.wrong;
    }
  } else if (dice < 92) {
    ++counts.puts;
    counts.stored += cache.publish(stub::key(i), stub::artifact(i));
  } else {
    ++counts.unlinks;
    ::unlink(entryPath(options.root, i).c_str());
  }
}

void worker(const Options &options, Counts &counts, uint64_t seed) {
  setLogSink([](void *context, LogLevel, std::string_view) { ++static_cast<Counts *>(context)->warnings; }, &counts);
  std::mt19937_64 random(seed);
  KernelCache cache(settingsOf(options));
  ++counts.ready;
  while (!counts.go)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  auto end = Clock::now() + std::chrono::duration<double>(options.seconds);
  try {
    for (int round = 0; options.seconds > 0 ? Clock::now() < end : round < options.rounds; ++round)
      step(cache, options, counts, random);
  } catch (...) {
    ++counts.failed;
  }
  counts.bad += cache.statistics().bad;
}

pid_t begin(const std::function<void()> &body) {
  pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  return child;
}

void ask(const Options &options, Counts &counts) {
  setLogSink([](void *context, LogLevel, std::string_view) { ++static_cast<Counts *>(context)->warnings; }, &counts);
  stub::Options made;
  made.compileMilliseconds = options.compileMs;
  made.log = options.root + ".compiles";
  KernelManager manager(stub::manager(settingsOf(options), made));
  std::vector<KernelRequest> requests;
  for (int i = 0; i < options.keys; ++i)
    requests.push_back({stub::spec(i), stub::target(), {}});
  ++counts.ready;
  while (!counts.go)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  try {
    manager.prepare(requests);
    for (int i = 0; i < options.keys; ++i) {
      auto kernel = manager.peek(stub::spec(i), stub::target());
      if (!kernel)
        ++counts.failed;
      else if (!stub::right(*kernel, i))
        ++counts.wrong;
    }
    ManagerStatistics statistics = manager.statistics();
    counts.gets += options.keys;
    counts.hits += statistics.diskHits;
    counts.stored += statistics.cache.published;
  } catch (...) {
    ++counts.failed;
  }
}

/// Publishes and finds; used under strace, where any call may fail or be the last one.
int once(const Options &options, Counts &counts) {
  KernelManager manager(stub::manager(settingsOf(options)));
  for (int i = 0; i < options.keys; ++i) {
    auto kernel = manager.get(stub::spec(i), stub::target());
    counts.wrong += !stub::right(*kernel, i);
  }
  KernelManager second(stub::manager(settingsOf(options)));
  for (int i = 0; i < options.keys; ++i) {
    auto kernel = second.get(stub::spec(i), stub::target());
    counts.wrong += !stub::right(*kernel, i);
  }
  counts.gets += 2 * options.keys;
  counts.hits += second.statistics().diskHits;
  counts.stored += manager.statistics().cache.published;
  counts.bad += manager.statistics().cache.bad + second.statistics().cache.bad;
  return 0;
}

int64_t waitAll(std::map<pid_t, int> &children) {
  int64_t crashed = 0;
  for (auto [child, killed] : children) {
    int status = 0;
    if (::waitpid(child, &status, 0) != child || !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
      crashed += !killed;
  }
  children.clear();
  return crashed;
}

/// What a bad day does to a cache.
struct Mischief {
  int64_t kills = 0, flips = 0, cuts = 0, removals = 0;
};

void flip(const Options &options, std::mt19937_64 &random, Mischief &done) {
  std::string path = entryPath(options.root, int(random() % uint64_t(options.keys)));
  int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0)
    return;
  struct stat status;
  unsigned char byte;
  if (::fstat(file, &status) == 0 && status.st_size > 0) {
    if (random() % 4 == 0) {
      done.cuts += ::ftruncate(file, off_t(random() % uint64_t(status.st_size))) == 0;
    } else {
      off_t at = off_t(random() % uint64_t(status.st_size));
      if (::pread(file, &byte, 1, at) == 1) {
        byte ^= static_cast<unsigned char>(1u << random() % 8);
        done.flips += ::pwrite(file, &byte, 1, at) == 1;
      }
    }
  }
  ::close(file);
}

Mischief soak(Options options, Counts &counts, std::map<pid_t, int> &children) {
  Mischief done;
  std::mt19937_64 random(options.seed * 77);
  auto end = Clock::now() + std::chrono::duration<double>(options.seconds);
  auto start = [&] {
    Options mine = options;
    mine.seconds = std::max(0.1, std::chrono::duration<double>(end - Clock::now()).count());
    uint64_t seed = random();
    children[begin([&, mine, seed] { worker(mine, counts, seed); })] = 0;
  };
  for (int i = 0; i < options.processes; ++i)
    start();
  counts.go = 1;
  while (Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    flip(options, random, done);
    if (random() % 4 == 0) {
      auto victim = std::next(children.begin(), ptrdiff_t(random() % children.size()));
      pid_t child = victim->first;
      // One that has ended by itself is no kill.
      int status = 0;
      if (::waitpid(child, &status, WNOHANG) == child) {
        counts.failed += !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
      } else {
        ::kill(child, SIGKILL);
        ::waitpid(child, &status, 0);
        ++done.kills;
      }
      children.erase(victim);
      start();
    }
    std::error_code ignored;
    if (random() % 200 == 0) {
      fs::remove_all(random() % 4
                         ? options.root + "/v1/" + stub::key(int(random() % uint64_t(options.keys))).hex().substr(0, 2)
                         : options.root + "/v1",
                     ignored);
      ++done.removals;
    }
  }
  return done;
}

int usage() {
  std::fprintf(stderr, "cache-stress once|random|cold|soak DIR [--processes N] [--keys N] [--rounds N] [--seconds S] "
                       "[--compile-ms N] [--seed N] [--lock-timeout S] [--max-size BYTES]\n");
  return 2;
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 3)
    return usage();
  Options options;
  options.what = argv[1];
  options.root = argv[2];
  for (int i = 3; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--processes")
      options.processes = std::atoi(value.c_str());
    else if (name == "--keys")
      options.keys = std::atoi(value.c_str());
    else if (name == "--rounds")
      options.rounds = std::atoi(value.c_str());
    else if (name == "--seconds")
      options.seconds = std::atof(value.c_str());
    else if (name == "--compile-ms")
      options.compileMs = std::atoi(value.c_str());
    else if (name == "--seed")
      options.seed = std::strtoull(value.c_str(), nullptr, 10);
    else if (name == "--lock-timeout")
      options.lockTimeout = std::atof(value.c_str());
    else if (name == "--max-size")
      options.maxSize = std::atoll(value.c_str());
    else
      return usage();
  }
  // The stub shares its random code: made once before the children are.
  Counts &counts = *shareCounts();
  std::map<pid_t, int> children;
  Mischief mischief;
  auto begun = Clock::now();
  if (options.what == "once") {
    try {
      once(options, counts);
    } catch (const std::exception &error) {
      std::fprintf(stderr, "cache-stress: %s\n", error.what());
      ++counts.failed;
    }
  } else if (options.what == "random" || options.what == "cold") {
    for (int i = 0; i < options.processes; ++i)
      children[begin([&, i] {
        if (options.what == "cold")
          ask(options, counts);
        else
          worker(options, counts, options.seed * 1000 + uint64_t(i));
      })] = 0;
    while (counts.ready < options.processes)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    begun = Clock::now();
    counts.go = 1;
  } else if (options.what == "soak") {
    mischief = soak(options, counts, children);
  } else {
    return usage();
  }
  counts.failed += waitAll(children);
  double seconds = std::chrono::duration<double>(Clock::now() - begun).count();

  // What is on disk at the end is whole; litter is young.
  int64_t entries = 0, damaged = 0, litter = 0;
  for (const CacheEntryFile &file : KernelCache::list(options.root)) {
    ++entries;
    damaged += KernelCache::inspect(file.path).fault != EntryFault::None;
  }
  std::error_code error;
  for (fs::recursive_directory_iterator it(options.root + "/v1", error), end; !error && it != end; it.increment(error))
    litter +=
        it->path().filename().string().starts_with(".tmp-") || it->path().filename().string().starts_with(".bad-");
  // Compiles a key, over all processes.
  std::map<std::string, int> compiles;
  int most = 0, total = 0;
  std::ifstream log(options.root + ".compiles");
  for (std::string line; std::getline(log, line); ++total)
    most = std::max(most, ++compiles[line]);
  nlohmann::json answer = {{"gets", counts.gets.load()},
                           {"hits", counts.hits.load()},
                           {"puts", counts.puts.load()},
                           {"stored", counts.stored.load()},
                           {"unlinks", counts.unlinks.load()},
                           {"wrong", counts.wrong.load()},
                           {"failed", counts.failed.load()},
                           {"bad", counts.bad.load()},
                           {"warnings", counts.warnings.load()},
                           {"entries", entries},
                           {"damaged", damaged},
                           {"litter", litter},
                           {"compiles", total},
                           {"compiled_keys", compiles.size()},
                           {"most_compiles_of_a_key", most},
                           {"seconds", seconds},
                           {"kills", mischief.kills},
                           {"flips", mischief.flips},
                           {"cuts", mischief.cuts},
                           {"removals", mischief.removals}};
  std::printf("%s\n", answer.dump().c_str());
  return counts.wrong == 0 && counts.failed == 0 ? 0 : 1;
}
