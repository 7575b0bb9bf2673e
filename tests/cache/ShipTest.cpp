// P6, P29 - P33 and the command line: caches that travel. These compile real kernels, a few small ones.
// SPDX-License-Identifier: Apache-2.0
#include "Ship.h"

#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;

namespace {

// Inverted: `fields.flags += environment("HOME")` in KernelManager::State::fields.
TEST_F(Ship, P06_NothingElseChangesTheKey) {
  std::string base =
      " " + reachable(HYPERJIT_COMMAND) + " cache explain static:n=2,d=16 manifold:n=4,d=48 --target x86-64-v3 --json";
  auto keysOf = [&](const std::string &before, const std::string &after = "") {
    Ran ran = run(before + base + after);
    std::map<std::string, std::string> keys;
    nlohmann::json answer = ran.json();
    EXPECT_TRUE(answer.is_object()) << before << ran.error;
    if (answer.is_object())
      for (const auto &kernel : answer["kernels"])
        keys[kernel["spec"]] = kernel["key"];
    return keys;
  };
  std::map<std::string, std::string> first = keysOf("env -i");
  EXPECT_GT(first.size(), 20u);
  std::vector<std::string> environments = {"env -i HOME=/var/empty",
                                           "env -i HOME=/nonexistent",
                                           "env -i LC_ALL=tr_TR.UTF-8 LANG=tr_TR.UTF-8",
                                           "env -i LC_ALL=de_DE.UTF-8",
                                           "env -i TZ=Asia/Kathmandu",
                                           "env -i USER=somebody LOGNAME=somebody",
                                           "env -i TMPDIR=/var/tmp",
                                           "env -i PATH=",
                                           "env -i PYTHONHASHSEED=7 MALLOC_PERTURB_=77",
                                           "env -i CUDA_VISIBLE_DEVICES=3",
                                           "env -i OMP_NUM_THREADS=1",
                                           "env -i LD_BIND_NOW=1",
                                           "env -i HYPERJIT_LOG=debug",
                                           "env -i HYPERJIT_COMPILE_JOBS=7",
                                           "env -i HYPERJIT_CACHE=off",
                                           "env -i HYPERJIT_CACHE_DIR=" + (folder / "elsewhere"),
                                           "cd / && env -i",
                                           "cd " + folder.path + " && env -i",
                                           "env -i LOCAL_WORLD_SIZE=8 RANK=5",
                                           "env -i TERM=dumb COLUMNS=20",
                                           "taskset 1 env -i"};
  if (lacks("setarch").empty())
    environments.push_back("setarch -R env -i");
  if (lacks("faketime").empty())
    environments.push_back("faketime 2001-01-01 env");
  if (lacks("otheruser").empty())
    environments.push_back("setpriv --reuid=65534 --regid=65534 --clear-groups env -i");
  for (const std::string &environment : environments)
    EXPECT_EQ(keysOf(environment), first) << environment;
  // The salt is meant to.
  for (const auto &[spec, key] : keysOf("env -i HYPERJIT_CACHE_NAMESPACE=mine"))
    EXPECT_NE(key, first[spec]);
  // Another order of the specs, another prefix of the installation.
  Ran ran =
      run("env -i " HYPERJIT_COMMAND " cache explain manifold:n=4,d=48 static:n=2,d=16 --target x86-64-v3 --json");
  nlohmann::json turned = ran.json();
  ASSERT_EQ(turned["kernels"].size(), first.size());
  for (const auto &kernel : turned["kernels"])
    EXPECT_EQ(kernel["key"], first[kernel["spec"]]);
}

// The code too: other directory, other environment, other order of threads, the same bytes.
TEST_F(Ship, P06_NothingElseChangesTheCode) {
  std::string again = folder / "again";
  Ran ran = run("cd / && env -i LC_ALL=tr_TR.UTF-8 HOME=/nonexistent MALLOC_PERTURB_=77 " HYPERJIT_COMMAND
                " precompile --specs " +
                    specs + " --target x86-64-v3 --jobs 1 --out " + again,
                170);
  ASSERT_EQ(ran.code, 0) << ran.error;
  std::vector<CacheEntryFile> a = KernelCache::list(kernels), b = KernelCache::list(again);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].key, b[i].key);
    EXPECT_EQ(KernelCache::inspect(a[i].path).artifact->payload, KernelCache::inspect(b[i].path).artifact->payload)
        << b[i].path;
  }
}

// HYPERJIT_CACHE_VERIFY=regen over real kernels. Inverted: the comparison in KernelManager::State::find.
TEST_F(Ship, P05_RegenerateFindsNoDifference) {
  Ran ran = command("precompile --specs " + specs + " --target x86-64-v3 --json",
                    "HYPERJIT_CACHE_DIR=" + kernels + " HYPERJIT_CACHE_VERIFY=regen HYPERJIT_CACHE=rw");
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["cached"], 4) << ran.out;
  // The same with an entry that is whole and of other code: it is found.
  std::string copy = folder / "copy";
  fs::copy(kernels, copy, fs::copy_options::recursive);
  std::string path = files(copy)[0];
  DecodedEntry entry = KernelCache::inspect(path);
  ASSERT_TRUE(entry.artifact);
  entry.artifact->payload.back() ^= std::byte(1);
  std::vector<std::byte> bytes = encodeEntry(*entry.key, *entry.artifact);
  writeFile(path, std::string(reinterpret_cast<const char *>(bytes.data()), bytes.size()));
  ran = command("precompile --specs " + specs + " --target x86-64-v3",
                "HYPERJIT_CACHE_DIR=" + copy + " HYPERJIT_CACHE_VERIFY=regen");
  EXPECT_EQ(ran.code, 1) << ran.error;
  EXPECT_NE(ran.error.find("its key is incomplete"), std::string::npos) << ran.error;
}

// Inverted: `is not in the manifest`, `is missing`, and sizes, SHA-256 and description together, in
// CacheManifest::check.
TEST_F(Ship, P29_AnyChangeOfAShippedCacheIsFound) {
  auto trial = [&](const std::string &what, const std::function<std::string(const std::string &root)> &change) {
    SCOPED_TRACE(what);
    std::string root = folder / what;
    fs::copy(kernels, root, fs::copy_options::recursive);
    Ran before = command("cache verify --manifest " + root);
    EXPECT_EQ(before.code, 0) << before.error;
    std::string named = change(root);
    Ran after = command("cache verify --manifest " + root + " --json");
    EXPECT_EQ(after.code, 1) << after.out;
    EXPECT_NE(after.error.find(named), std::string::npos) << after.error;
    bool listed = false;
    nlohmann::json answer = after.json();
    for (const auto &bad : answer["bad"])
      listed |= bad["file"].get<std::string>().find(named) != std::string::npos;
    EXPECT_TRUE(listed) << after.out;
  };
  auto changed = [&](const std::string &path, size_t at) {
    std::string bytes = readFile(path);
    bytes[at % bytes.size()] ^= 1;
    writeFile(path, bytes);
    return fs::path(path).filename().string();
  };
  for (size_t at : {size_t(0), size_t(9), size_t(40), size_t(90), size_t(700), size_t(-1)})
    trial("flip" + std::to_string(at % 1000), [&](const std::string &root) { return changed(files(root)[1], at); });
  trial("rewritten", [&](const std::string &root) {
    // Whole, with the right key, size and checksum, and other code.
    std::string path = files(root)[1];
    DecodedEntry decoded = KernelCache::inspect(path);
    decoded.artifact->payload[decoded.artifact->payload.size() / 2] ^= std::byte(1);
    std::vector<std::byte> bytes = encodeEntry(*decoded.key, *decoded.artifact);
    writeFile(path, std::string(reinterpret_cast<const char *>(bytes.data()), bytes.size()));
    return fs::path(path).filename().string();
  });
  trial("removed", [&](const std::string &root) {
    std::string path = files(root)[2];
    fs::remove(path);
    return fs::path(path).filename().string();
  });
  trial("renamed", [&](const std::string &root) {
    std::string path = files(root)[0];
    std::string other = path;
    other[other.size() - 10] = other[other.size() - 10] == '0' ? '1' : '0';
    fs::rename(path, other);
    return fs::path(path).filename().string();
  });
  trial("added", [&](const std::string &root) {
    writeFile(root + "/v1/extra.so", "something");
    return std::string("extra.so");
  });
  trial("another-kernel", [&](const std::string &root) {
    // Whole and of its name, but never shipped.
    KernelCache cache(stub::settings(root));
    EXPECT_TRUE(cache.publish(stub::key(3), stub::artifact(3)));
    return stub::key(3).hex();
  });
  trial("link", [&](const std::string &root) {
    std::string path = files(root)[3];
    fs::rename(path, folder / "moved");
    fs::create_symlink(folder / "moved", path);
    return fs::path(path).filename().string();
  });
  trial("manifest", [&](const std::string &root) {
    writeFile(root + "/manifest.json", "{\"schema\": \"hyperjit.manifest/1\"");
    return std::string("manifest.json");
  });
  // And without our code.
  EXPECT_EQ(run("cd " + kernels + " && sha256sum --quiet -c SHA256SUMS").code, 0);
}

// Inverted: Look::Shipped and the plainer levels in KernelManager::State::findShipped.
TEST_F(Ship, P30_EveryKernelIsFoundElsewhere) {
  std::string there = folder / "another place/with a space";
  fs::create_directories(there);
  Ran ran = command("cache unpack " + pack + " --to " + inQuotes(there));
  ASSERT_EQ(ran.code, 0) << ran.error;
  ran = command("cache diff " + kernels + " " + inQuotes(there));
  EXPECT_EQ(ran.code, 0) << ran.out;
  // Another home, no compiler, no NVRTC, nothing may be compiled. The pack is for x86-64-v3, whatever CPU this is.
  std::string environment = "HOME=/nonexistent HYPERJIT_JIT=off HYPERJIT_CACHE_PATH=" + inQuotes(there);
  ran = warm(environment);
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["kernels"], 4) << ran.out;
  EXPECT_EQ(ran.json()["misses"], 0) << ran.out;
  EXPECT_EQ(ran.json()["hits"], 4) << ran.out;
  EXPECT_EQ(ran.json()["compiled"], 0);
  if (lacks("otheruser").empty()) {
    fs::permissions(folder.path, fs::perms(0755));
    ran = warm(environment, "setpriv --reuid=65534 --regid=65534 --clear-groups");
    EXPECT_EQ(ran.code, 0) << ran.error;
    EXPECT_EQ(ran.json()["misses"], 0) << ran.out;
  }
  if (lacks("mount").empty()) {
    // Another host's name, a read-only mount of one directory.
    ran = run(
        "unshare -m -u sh -c 'hostname elsewhere; mount --bind \"" + there +
        "\" /mnt && mount -o remount,ro,bind /mnt && env -i "
        "HOME=/nonexistent HYPERJIT_JIT=off HYPERJIT_CACHE_PATH=/mnt HYPERJIT_COMPILER_PATH=/nonexistent " CACHE_WARM
        " " +
        specs + "'");
    EXPECT_EQ(ran.code, 0) << ran.error;
    EXPECT_EQ(ran.json()["misses"], 0) << ran.out;
  }
  // What is not in the pack is named, with where it was looked for.
  std::string log = folder / "log";
  ran = run("env -i HOME=/nonexistent HYPERJIT_JIT=off HYPERJIT_CACHE_PATH=" + folder.path + "/empty " CACHE_WARM " " +
            specs + " 2>" + log);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(readFile(log).find("/empty"), std::string::npos);
  ran = command("cache missing --log " + log);
  EXPECT_EQ(ran.code, 0);
  std::set<std::string> wanted, named;
  std::istringstream lists[] = {std::istringstream(readFile(specs)), std::istringstream(ran.out)};
  for (int i = 0; i < 2; ++i)
    for (std::string line; std::getline(lists[i], line);)
      if (!line.empty() && line[0] != '#')
        (i ? named : wanted).insert(line);
  EXPECT_EQ(named, wanted);
}

// A pack of GPU kernels on a machine that has no NVRTC. Inverted: the manifest's toolchains in findShipped.
TEST_F(Ship, P30_GpuKernelsWithoutNvrtc) {
  std::string root = folder / "gpu";
  Ran ran = command("precompile " + inQuotes("before(static:n=2,d=64,dtype=bf16):forward:infer:tokens=small") +
                    " --target sm_90a --out " + root);
  if (ran.error.find("nvrtc") != std::string::npos && ran.code == 3)
    GTEST_SKIP() << "this machine has no NVRTC";
  ASSERT_EQ(ran.code, 0) << ran.error;
  ran = command("cache explain " + inQuotes("before(static:n=2,d=64,dtype=bf16):forward:infer:tokens=small") +
                    " --target sm_90a/h100 --json",
                "HYPERJIT_NVRTC_PATH=/nonexistent HYPERJIT_COMPILER_PATH=/nonexistent HYPERJIT_CACHE_PATH=" + root);
  EXPECT_EQ(ran.code, 0) << ran.error << ran.out;
  EXPECT_NE(ran.json()["kernels"][0]["found"], "");
}

// Warm: neither LLVM nor the compiler are mapped. Inverted: CompilerPlugin::open called in its constructor.
TEST_F(Ship, P21_AWarmProcessMapsNoLlvm) {
  Ran ran = run("env -i HOME=/nonexistent HYPERJIT_CACHE_PATH=" + kernels + " HYPERJIT_CACHE_DIR=" + (folder / "mine") +
                " " CACHE_WARM " " + specs);
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["compiled"], 0) << ran.out;
  EXPECT_EQ(ran.json()["mapped"].size(), 0u) << ran.out;
  EXPECT_FALSE(fs::exists(folder / "mine")) << "hits of a pack are not copied";
}

// What a run asks for is what precompile made, key by key. On a GPU the same test is run with its targets.
// Inverted: something of HYPERJIT_RECORD in the flags of the key.
TEST_F(Ship, P31_PrecompileMakesTheKeysOfARun) {
  // A run with everything allowed, which notes what it used...
  std::string record = folder / "record", mine = folder / "mine", made = folder / "made";
  Ran ran = run("env -i HOME=/nonexistent HYPERJIT_RECORD=" + record + " HYPERJIT_CACHE_DIR=" + mine +
                    " " CACHE_WARM " " + specs,
                170);
  ASSERT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["compiled"], 4);
  // ... precompile from its notes, without --target what LibTorch asks for ...
  ran = command("precompile --specs " + record + " --out " + made);
  ASSERT_EQ(ran.code, 0) << ran.error;
  std::vector<CacheEntryFile> a = KernelCache::list(mine), b = KernelCache::list(made);
  ASSERT_EQ(a.size(), 4u);
  ASSERT_EQ(b.size(), 4u);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_EQ(a[i].key.hex(), b[i].key.hex());
  // ... and the run that may compile nothing.
  ran = warm("HOME=/nonexistent HYPERJIT_JIT=off HYPERJIT_CACHE=ro HYPERJIT_CACHE_DIR=" + made);
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["misses"], 0) << ran.out;
}

// The same with LibTorch: a model trains, forward and backward, where nothing may be compiled.
TEST_F(Ship, P31_TrainingNeedsNoCompiler) {
  std::string words;
  for (int i = 0; i < 400; ++i)
    words += "some text to learn, line " + std::to_string(i * 7919 % 1000) + "\n";
  writeFile(folder / "text", words);
  std::string demo = "demo --steps 3 --variants manifold,frac --layers 1 --dim 32 --context 32 --batch 2 --text " +
                     (folder / "text") + " --plot none --json ";
  Ran ran = command(demo + (folder / "a.json"),
                    "HYPERJIT_RECORD=" + (folder / "used") + " HYPERJIT_CACHE_DIR=" + (folder / "mine"));
  if (ran.code == 3)
    GTEST_SKIP() << "this build has no LibTorch";
  ASSERT_EQ(ran.code, 0) << ran.error;
  ran = command("precompile --specs " + (folder / "used") + " --target x86-64-v3 --out " + (folder / "shipped"));
  ASSERT_EQ(ran.code, 0) << ran.error;
  ran = command(demo + (folder / "b.json"), "HYPERJIT_JIT=off HYPERJIT_COMPILER_PATH=/nonexistent HYPERJIT_CACHE_DIR=" +
                                                (folder / "none") + " HYPERJIT_CACHE_PATH=" + (folder / "shipped"));
  EXPECT_EQ(ran.code, 0) << ran.error;
  nlohmann::json answer = nlohmann::json::parse(readFile(folder / "b.json"), nullptr, false);
  ASSERT_EQ(answer["runs"].size(), 2u) << ran.error;
  for (const auto &one : answer["runs"]) {
    EXPECT_EQ(one["jit"]["compiled"], 0);
    EXPECT_GT(one["jit"]["disk_hits"], 4);
  }
  EXPECT_FALSE(fs::exists(folder / "none"));
}

TEST_F(Ship, P31_PrecompileNeedsNoGpu) {
  Ran ran = command("precompile " + inQuotes("after(static:n=2,d=64,dtype=bf16):forward:infer:tokens=small") +
                    " --target sm_80,sm_90a,sm_100a,x86-64-v3,x86-64-v4 "
                    "--json --out " +
                    (folder / "out"));
  if (ran.error.find("nvrtc") != std::string::npos && ran.code == 3)
    GTEST_SKIP() << "this machine has no NVRTC";
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["compiled"], 5) << ran.out;
}

// Inverted: mtime of the members taken from the clock in Pack.cpp.
TEST_F(Ship, P32_PackingIsReproducible) {
  std::string again = folder / "again.hjpack";
  // Other times, other order in the directory, another place.
  std::string copy = folder / "copy";
  fs::create_directories(copy);
  std::vector<std::string> list = files(kernels);
  for (auto it = list.rbegin(); it != list.rend(); ++it) {
    std::string to = copy + it->substr(kernels.size());
    fs::create_directories(fs::path(to).parent_path());
    fs::copy_file(*it, to);
    fs::last_write_time(to, fs::file_time_type::clock::now() - std::chrono::hours(100));
  }
  ASSERT_EQ(command("cache pack " + again + " --from " + copy).code, 0);
  EXPECT_EQ(readFile(again), readFile(pack));
  // The member list is tar's, sorted, of nobody, of 1970.
  Ran ran = run("tar --utc -tvf " + again);
  EXPECT_EQ(ran.code, 0) << ran.error;
  std::istringstream lines(ran.out);
  std::string last;
  int members = 0;
  for (std::string line; std::getline(lines, line); ++members) {
    EXPECT_EQ(line.substr(0, 14), "-rw-r--r-- 0/0") << line;
    EXPECT_NE(line.find("1970-01-01 00:00"), std::string::npos) << line;
    std::string name = line.substr(line.rfind(' ') + 1);
    EXPECT_LT(last, name);
    last = name;
  }
  EXPECT_EQ(members, 6);
}

// Truncated at any length, any bit flipped: refused by name, nothing stored. Inverted: the SHA-256 in readPack.
TEST_F(Ship, P29_DamagedPacksStoreNothing) {
  std::string whole = readFile(pack), bad = folder / "bad.hjpack", into = folder / "into";
  auto refused = [&](const std::string &bytes, const std::string &what) {
    writeFile(bad, bytes);
    Ran ran = command("cache unpack " + bad + " --to " + into);
    EXPECT_EQ(ran.code, 1) << what << ran.out;
    EXPECT_NE(ran.error.find("bad.hjpack"), std::string::npos) << what << ran.error;
    EXPECT_TRUE(!fs::exists(into) || files(into).empty()) << what;
  };
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 40)
    refused(whole.substr(0, size), "cut to " + std::to_string(size));
  for (size_t at = 512 + 700; at + 1024 < whole.size(); at += 1 + whole.size() / 40) {
    std::string flipped = whole;
    flipped[at] ^= 4;
    // Padding, the list for sha256sum and the number of the version that wrote it are no content.
    if (flipped[at] == 4 || at < 1536 || at == whole.find("\"version\"") + 12)
      continue;
    refused(flipped, "byte " + std::to_string(at));
  }
  // Two manifests, whose files could be mixed up; and one whose text would be the end of a stack.
  auto member = [&](size_t at) { return 512 + (std::stoul(whole.substr(at + 124, 11), nullptr, 8) + 511) / 512 * 512; };
  size_t second = member(0), size = member(second);
  ASSERT_EQ(whole.substr(second, 14), std::string("manifest.json\0", 14));
  std::string twice = whole;
  refused(twice.insert(second + size, whole.substr(second, size)), "two manifests");
  writeFile(folder / "manifest.json",
            "{\"schema\": \"hyperjit.manifest/1\", \"targets\": [], \"entries\": [], \"toolchains\": [" +
                std::string(2000000, '[') + std::string(2000000, ']') + "]}");
  ASSERT_EQ(run("cd " + folder.path + " && tar --format=ustar -cf deep.tar manifest.json").code, 0);
  refused(readFile(folder / "deep.tar"), "a deep manifest");
  EXPECT_EQ(command("cache verify --manifest " + folder.path).code, 1);
  EXPECT_EQ(command("cache path", "HYPERJIT_CACHE_PATH=" + folder.path).code, 0);
  // A pack of somebody's tar that leads out of the folder, and one of something else.
  writeFile(folder / "escape", "x");
  ASSERT_EQ(run("cd " + folder.path + " && tar --format=ustar -cPf made.tar ../" +
                fs::path(folder.path).filename().string() + "/escape")
                .code,
            0);
  refused(readFile(folder / "made.tar"), "a name with ..");
  refused("not an archive at all" + std::string(4096, 'x'), "no archive");
}

// A pipe where a file is looked for is not waited for. Inverted: the checks for plain files.
TEST_F(Ship, P26_NoCommandWaitsForAPipe) {
  std::string root = folder / "root", pipe = root + "/manifest.json";
  fs::copy(kernels, root, fs::copy_options::recursive);
  fs::create_directories(root + "/tuning");
  fs::remove(pipe);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((root + "/tuning/all.jsonl").c_str(), 0600), 0);
  auto ends = [&](const std::string &arguments, int code, const std::string &environment = "") {
    Ran ran = command(arguments, environment);
    EXPECT_EQ(ran.code, code) << arguments << ": " << ran.out << ran.error;
    EXPECT_LT(ran.seconds, 30) << arguments;
    return ran.error;
  };
  EXPECT_NE(ends("cache verify --manifest " + root, 1).find("manifest.json: is no plain file"), std::string::npos);
  ends("cache path", 0, "HYPERJIT_CACHE_DIR=" + root + " HYPERJIT_CACHE_PATH=" + kernels);
  EXPECT_NE(ends("cache explain --target x86-64-v3 'after(static:n=2,d=16):forward:infer:tokens=large'", 1,
                 "HYPERJIT_CACHE_DIR=" + root)
                .find("tuning/all.jsonl' cannot be read: it is no plain file"),
            std::string::npos);
  ends("cache unpack " + pack + " --to " + root, 3);
  ends("cache unpack " + pipe, 2);
  ends("cache diff " + root + " " + pipe, 2);
  ends("autotune prune " + pipe, 1);
  ends("autotune static:n=2,d=16 --target x86-64-v3 --role before --out " + pipe, 3);
  EXPECT_TRUE(fs::is_fifo(pipe));
  // A name that a pipe has is taken, like one of other results.
  std::string there = folder / "there", tuned = folder / "tuned", packed = folder / "tuned.hjpack";
  fs::copy(kernels, tuned, fs::copy_options::recursive);
  fs::create_directories(tuned + "/tuning");
  writeFile(tuned + "/tuning/all.jsonl", "\n");
  ends("cache pack " + packed + " --from " + tuned, 0);
  fs::create_directories(there + "/tuning");
  ASSERT_EQ(::mkfifo((there + "/tuning/all.jsonl").c_str(), 0600), 0);
  ends("cache unpack " + packed + " --to " + there, 1); // the manifest cannot name a pipe
  EXPECT_EQ(CacheManifest::of(there).tuning.size(), 1u);
}

TEST_F(Ship, P17_AFullDiskWhilePacking) {
  HYPERJIT_NEEDS("mount");
  Ran ran = run("unshare -m sh -c 'mount -t tmpfs -o size=8k none /mnt && env -i HOME=/nonexistent " HYPERJIT_COMMAND
                " cache pack /mnt/p.hjpack --from " +
                kernels + "; code=$?; ls -A /mnt; exit $code'");
  EXPECT_EQ(ran.code, 3) << ran.error;
  EXPECT_EQ(ran.out, "") << "litter";
  EXPECT_NE(ran.error.find("/mnt/p.hjpack"), std::string::npos) << ran.error;
}

// Inverted: `found != wanted` in KernelCache::nearest.
TEST_F(Ship, P33_EveryMissIsExplained) {
  std::string kernel = "after(manifold:n=2,m=1,d=16,dtype=fp32):forward:infer:tokens=small";
  auto differs = [&](const std::string &arguments, const std::string &environment = "") {
    Ran ran = command("cache explain " + arguments + " --json", "HYPERJIT_CACHE_PATH=" + kernels + " " + environment);
    EXPECT_EQ(ran.code, 1) << ran.out;
    std::set<std::string> fields;
    nlohmann::json answer = ran.json();
    for (const auto &difference : answer["kernels"][0]["differences"])
      fields.insert(difference["field"].get<std::string>());
    return fields;
  };
  EXPECT_EQ(command("cache explain " + inQuotes(kernel) + " --target x86-64-v3", "HYPERJIT_CACHE_PATH=" + kernels).code,
            0);
  EXPECT_EQ(differs(inQuotes(kernel) + " --target x86-64-v3", "HYPERJIT_CACHE_NAMESPACE=mine"),
            std::set<std::string>{"namespace"});
  EXPECT_EQ(
      differs("'after(manifold:n=2,m=1,d=32,dtype=fp32):forward:infer:tokens=small' --target x86-64-v3").count("spec"),
      1u);
  if (command("cache explain " + inQuotes(kernel) + " --target sm_90a").error.find("nvrtc") != std::string::npos)
    GTEST_SKIP() << "this machine has no NVRTC";
  std::set<std::string> gpu = differs(inQuotes(kernel) + " --target sm_90a");
  EXPECT_EQ(gpu.count("target"), 1u);
  EXPECT_EQ(gpu.count("spec"), 0u);
}

} // namespace
