// P1 - P8: what is loaded is what was stored, for the kernel that was asked for, or nothing.
// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <cstring>
#include <filesystem>
#include <set>
#include <thread>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;

namespace {

struct Content : Promise {
  KernelCache cache{settings};
  int64_t bad = 0;
  /// Puts `bytes` under the name of key 0; expects a miss and that the file is gone.
  void damaged(const std::string &bytes, const std::string &what) {
    fs::remove(entry(0));
    writeFile(entry(0), bytes);
    ASSERT_FALSE(cache.find(stub::key(0))) << what;
    ASSERT_EQ(cache.statistics().bad, ++bad) << what;
    ASSERT_FALSE(fs::exists(entry(0))) << what;
  }
};

// Inverted: `if (std::memcmp(sum.digest, ...) != 0)` in decodeEntry.
TEST_F(Content, P01_AnyChangedBitIsAMissAndHeals) {
  // A payload below 4 KiB is stored as it is: the checksum alone stands before it.
  Artifact small = stub::artifact(0);
  small.payload.resize(150);
  ASSERT_TRUE(cache.publish(stub::key(0), small));
  std::string whole = readFile(entry(0));
  for (size_t at = 0; at < whole.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = char(flipped[at] ^ (1 << bit));
      damaged(flipped, "bit " + std::to_string(bit) + " of byte " + std::to_string(at));
      if (HasFatalFailure())
        return;
    }
  for (size_t size = 0; size < whole.size() && !HasFatalFailure(); ++size)
    damaged(whole.substr(0, size), "cut to " + std::to_string(size));
  damaged(whole + '\0', "a byte appended");
  damaged(whole + whole, "twice");
  // Inverted: all of it read, and a size above the limit taken for a failure of I/O.
  damaged(whole + std::string(kMaxEntryBytes, '\0'), "larger than any entry");
  EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
  EXPECT_TRUE(finds(0));
}

// Inverted: the key echo, `if (expected && *expected != key)` in decodeEntry.
TEST_F(Content, P01_SwappedNamesAreMissesAndHeal) {
  fill(2);
  fs::rename(entry(0), folder / "aside");
  fs::rename(entry(1), entry(0));
  fs::rename(folder / "aside", entry(1));
  stub::Options options;
  KernelManager manager(stub::manager(settings, options));
  EXPECT_FALSE(cache.find(stub::key(0)));
  EXPECT_FALSE(cache.find(stub::key(1)));
  fill(2);
  EXPECT_TRUE(finds(0));
  EXPECT_TRUE(finds(1));
}

// Inverted: publish wrote to the final name (openat of `name` instead of `temporary`).
TEST_F(Promise, P02_NoReaderSeesAPartialEntry) {
  HYPERJIT_NEEDS("strace");
  // Every write takes 100 ms before it returns, and each entry is one write that is done before its caller knows.
  Ran ran = stress("random " + root + " --processes 64 --keys 8 --rounds 8",
                   "strace -f --seccomp-bpf -qq -o /dev/null -e trace=write -e inject=write:delay_exit=100000");
  expectClean(ran);
  EXPECT_GT(ran.json()["stored"], 0);
  EXPECT_EQ(ran.json()["bad"], 0) << "a reader met an entry that was not whole";
}

// The same with writes that stop half way and let others run: 512 bytes at a time.
TEST_F(Promise, P02_ShortWritesAreNotSeen) {
  FaultyFiles files;
  files.shortBy = 512;
  files.fails = [](const char *call, const char *) {
    if (!std::strcmp(call, "write"))
      std::this_thread::yield();
    return 0;
  };
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, found{0};
  std::thread reader([&] {
    KernelCache cache(settings);
    while (!done)
      for (int i = 0; i < 8; ++i)
        if (std::optional<Artifact> artifact = cache.find(stub::key(i))) {
          ++found;
          wrong += !stub::right(*artifact, i);
        }
    wrong += int(cache.statistics().bad);
  });
  KernelCache writer(settings, files);
  for (int round = 0; round < 12; ++round)
    for (int i = 0; i < 8; ++i) {
      EXPECT_TRUE(writer.publish(stub::key(i), stub::artifact(i)));
      fs::remove(entry(i));
    }
  fill(8);
  while (found < 8)
    std::this_thread::yield();
  done = true;
  reader.join();
  EXPECT_EQ(wrong, 0);
}

// What a journal that was lost leaves. Inverted: the checksum, as in P01.
TEST_F(Content, P04_AfterPowerLossNoWrongAnswer) {
  fill(1);
  std::string whole = readFile(entry(0));
  ASSERT_GT(whole.size(), 1000u);
  damaged("", "zero length");
  damaged(std::string(whole.size(), '\0'), "zero filled");
  for (size_t kept : {size_t(96), size_t(512), size_t(4096), whole.size() / 2})
    if (kept < whole.size())
      damaged(whole.substr(0, kept) + std::string(whole.size() - kept, '\0'), "only the first pages were written");
  damaged(std::string(96, '\0') + whole.substr(96), "the first page was not written");
  fill(1);
  EXPECT_TRUE(finds(0));
}

// Inverted: a field left out of KeyFields::list().
TEST(Key, P05_EveryFieldChangesIt) {
  KeyFields fields;
  std::string KeyFields::*members[] = {&KeyFields::schema,   &KeyFields::compilerDigest, &KeyFields::templateDigest,
                                       &KeyFields::spec,     &KeyFields::afterProgram,   &KeyFields::beforeProgram,
                                       &KeyFields::schedule, &KeyFields::target,         &KeyFields::toolchain,
                                       &KeyFields::flags,    &KeyFields::nameSpace};
  // A field that is added has to be added here.
  ASSERT_EQ(std::size(members), fields.list().size());
  ASSERT_EQ(sizeof(KeyFields), std::size(members) * sizeof(std::string));
  std::set<CacheKey> keys = {CacheKey::of(fields)};
  for (auto member : members) {
    KeyFields changed = fields;
    changed.*member += "x";
    EXPECT_TRUE(keys.insert(CacheKey::of(changed)).second);
  }
  // Neither do two neighbours run together.
  KeyFields left = fields, right = fields;
  left.spec = "ab", left.afterProgram = "c";
  right.spec = "a", right.afterProgram = "bc";
  EXPECT_NE(CacheKey::of(left), CacheKey::of(right));
}

/// Keeps the requests: all that the compiler ever sees.
class Listening final : public Compiler {
public:
  std::string version() override { return "stub 1"; }
  CompilerReply run(const std::string &request) override {
    last = request;
    ArtifactMeta meta;
    nlohmann::json asked = nlohmann::json::parse(request);
    meta.spec = asked["spec"], meta.target = asked["target"], meta.schedule = asked["schedule"];
    return {meta.json(), "code"};
  }
  std::string last;
};

// Two requests that differ have two keys, and every part of a request has a field of the key behind it.
// Inverted: `fields.schedule = ...` left out of KernelManager::State::fields.
TEST_F(Promise, P05_TheCompilerSeesNothingThatTheKeyDoesNotName) {
  auto compiler = std::make_shared<Listening>();
  settings.cache = CacheMode::Off;
  KernelManagerOptions options = stub::manager(settings);
  options.compiler = compiler;
  KernelManager manager(options);
  std::map<std::string, CacheKey> requests;
  std::set<CacheKey> keys;
  auto add = [&](const KernelSpec &spec, const char *target, const char *schedule) {
    ResolvedArtifact made = manager.artifact(spec, Target::parse(target), Schedule::parse(schedule));
    EXPECT_TRUE(requests.emplace(compiler->last, made.key).second) << compiler->last;
    EXPECT_TRUE(keys.insert(made.key).second) << "the key does not tell this request from another: " << compiler->last;
  };
  for (const char *target : {"x86-64-v3", "x86-64-v4"})
    for (const char *schedule : {"auto", "rows:block=8"})
      for (const char *site : {"one", "two", "one:n=2", "one:m=2", "one:d=64", "one:dtype=bf16", "one:branch_out=fp64",
                               "one:weight=bf16", "one:option=1"})
        for (Bucket bucket : {Bucket::Small, Bucket::Large}) {
          SiteSpec spec = SiteSpec::parse(site);
          add(KernelSpec::beforeForward(spec, true, bucket), target, schedule);
          add(KernelSpec::beforeForward(spec, false, bucket), target, schedule);
          add(KernelSpec::afterForward(spec, bucket), target, schedule);
          add(KernelSpec::boundaryForward(spec, spec, true, bucket), target, schedule);
          add(KernelSpec::backward(spec, spec, "xu", "xy", bucket), target, schedule);
          add(KernelSpec::backward(spec, spec, "xu", "xyp", bucket), target, schedule);
          add(KernelSpec::backward(spec, spec, "x", "xy", bucket), target, schedule);
        }
  nlohmann::json request = nlohmann::json::parse(compiler->last);
  std::set<std::string> parts;
  for (const auto &[part, value] : request.items())
    parts.insert(part);
  EXPECT_EQ(parts, (std::set<std::string>{"after", "before", "bucket", "direction", "given", "role", "save", "schedule",
                                          "spec", "stage", "target", "want"}))
      << "a new part of a request needs a field of the key";
}

// The digests of the sources: one byte of a template, one more file. Inverted: Digest.cmake hashed the list of names
// only.
TEST_F(Promise, P05_OneByteOfATemplateChangesTheDigest) {
  fs::create_directories(folder / "templates");
  writeFile(folder / "templates/a.cuh", "one");
  writeFile(folder / "templates/b.cuh", "two");
  auto digest = [&](const std::string &list) {
    writeFile(folder / "files", list);
    Ran ran = run(CMAKE_COMMAND_FILE " -DROOT=" + folder.path + " -DFILES=" + (folder / "files") +
                  " -DOUTPUT=" + (folder / "out.inc") + " -DNAME=templateDigest -P " DIGEST_SCRIPT);
    EXPECT_EQ(ran.code, 0) << ran.error;
    return readFile(folder / "out.inc");
  };
  std::string both = folder / "templates/a.cuh" + "\n" + (folder / "templates/b.cuh") + "\n";
  std::string first = digest(both);
  EXPECT_NE(first, "");
  writeFile(folder / "templates/b.cuh", "twp");
  std::string second = digest(both);
  EXPECT_NE(first, second);
  writeFile(folder / "templates/b.cuh", "two");
  EXPECT_EQ(digest(both), first);
  EXPECT_NE(digest(folder / "templates/a.cuh" + "\n"), first);
}

// Inverted: the comparison of key echo, as in P01.
TEST_F(Content, P07_AFileForAnotherTargetIsNotTaken) {
  KeyFields fields;
  fields.spec = "kernel", fields.target = "sm_90a";
  CacheKey hopper = CacheKey::of(fields);
  fields.target = "sm_80";
  CacheKey ampere = CacheKey::of(fields);
  ASSERT_TRUE(cache.publish(hopper, stub::artifact(0)));
  fs::create_directories(shard(ampere));
  fs::copy_file(entry(hopper), entry(ampere));
  EXPECT_FALSE(cache.find(ampere));
  EXPECT_EQ(cache.statistics().bad, 1);
  EXPECT_TRUE(cache.find(hopper));
}

// Inverted: `!target.runsHere()` in CpuBackend::load.
TEST(Loader, P07_ACpuKernelForMoreThanThisCpuIsNotRun) {
  std::shared_ptr<const Backend> backend = Backend::find(DeviceType::Cpu);
  ASSERT_TRUE(backend);
  Artifact artifact;
  artifact.kind = PayloadKind::Image;
  artifact.meta.spec = "x", artifact.meta.schedule = "auto";
  artifact.payload.assign(64, std::byte(0xc3));
  // No CPU has both: what is missing here is missing everywhere.
  Target native = Target::native();
  native.features = "+avx10.2-512,+sse4a,+tbm";
  if (native.runsHere())
    GTEST_SKIP() << "this CPU claims every feature";
  artifact.meta.target = native.text();
  Caught error = caught([&] { backend->load(std::make_shared<Artifact>(artifact)); });
  EXPECT_EQ(error.id, "unsupported") << error.text;
  EXPECT_NE(error.text.find("cannot run here"), std::string::npos) << error.text;
}

// Inverted: `error.id() != ErrorId::ImageRejected || ...` in KernelManager::State::load.
TEST_F(Promise, P07_WhatTheDriverRefusesIsCompiledAndTheFileStays) {
  KernelManager(stub::manager(settings)).get(stub::spec(0), stub::target());
  std::vector<CacheEntryFile> before = KernelCache::list(root);
  ASSERT_EQ(before.size(), 1u);
  std::string bytes = readFile(before[0].path);
  stub::Options options;
  options.rejects = 1;
  KernelManager manager(stub::manager(settings, options));
  EXPECT_TRUE(stub::right(*manager.get(stub::spec(0), stub::target()), 0));
  EXPECT_EQ(manager.statistics().rejected, 1);
  EXPECT_EQ(readFile(before[0].path), bytes);
}

// Inverted: the digest left out of the key, as in P05; and `if (header.format != kFormat)` in decodeEntry.
TEST_F(Content, P08_TwoBuildsShareADirectory) {
  auto keyOf = [](const std::string &digest) {
    KeyFields fields;
    fields.compilerDigest = digest;
    fields.spec = "kernel";
    return CacheKey::of(fields);
  };
  std::vector<std::thread> builds;
  std::atomic<int> wrong{0};
  for (int build = 0; build < 2; ++build)
    builds.emplace_back([&, build] {
      KernelCache mine(settings);
      Artifact artifact = stub::artifact(build);
      for (int round = 0; round < 100; ++round) {
        std::optional<Artifact> found = mine.find(keyOf(std::to_string(build)));
        wrong += found && !stub::right(*found, build);
        mine.publish(keyOf(std::to_string(build)), artifact);
        wrong += !mine.find(keyOf(std::to_string(build)));
        if (round % 10 == build)
          mine.discard(keyOf(std::to_string(build)));
      }
    });
  for (std::thread &build : builds)
    build.join();
  EXPECT_EQ(wrong, 0);

  fill(1);
  std::string newer = readFile(entry(0));
  newer[8] = 2;
  newer[90] = char(newer[90] ^ 1); // whoever writes another format writes another checksum
  fs::remove(entry(0));
  writeFile(entry(0), newer);
  EXPECT_FALSE(cache.find(stub::key(0)));
  EXPECT_TRUE(cache.publish(stub::key(0), stub::artifact(0)));
  EXPECT_EQ(readFile(entry(0)), newer);
  fs::resize_file(entry(0), kMaxEntryBytes + 1); // nor is its limit ours
  EXPECT_FALSE(cache.find(stub::key(0)));
  EXPECT_TRUE(fs::exists(entry(0)));
  EXPECT_EQ(cache.statistics().bad, 0);
}

} // namespace
