// Files of tuning results: lines, merging, what is ignored and how it is said, and which schedule a kernel gets.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/CacheManifest.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/Log.h"
#include "hyperjit/core/TuningTable.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sys/stat.h>

using namespace hyperjit;

namespace {

const char *const slow = "blocks:ahead=1,chunks=256,columns=3,stream=32,sums=9,tokens=8,unroll=2,vector=32";
const char *const plain = "blocks:ahead=1,chunks=256,columns=3,stream=32,sums=9,tokens=16,unroll=2,vector=32";
const char *const sameOrder = "blocks:ahead=0,chunks=64,columns=3,stream=32,sums=9,tokens=16,unroll=2,vector=32";
const Target cpu = Target::parse("x86-64-v3");

struct Tuning : testing::Test {
  std::filesystem::path folder;
  std::vector<std::string> said;

  Tuning() {
    std::string name = std::filesystem::temp_directory_path() / "hyperjit-tune-XXXXXX";
    folder = ::mkdtemp(name.data());
    setLogSink([](void *context, LogLevel,
                  std::string_view message) { static_cast<Tuning *>(context)->said.emplace_back(message); },
               this);
  }
  ~Tuning() override {
    setLogSink(nullptr, nullptr);
    std::filesystem::remove_all(folder);
  }

  static KernelSpec spec(Bucket bucket = Bucket::Large) {
    SiteSpec site = ProgramSource::global().normalise(SiteSpec::parse("manifold:n=4,d=64"));
    return KernelSpec::beforeForward(site, true, bucket);
  }
  static TuningRecord record(const char *schedule, Bucket bucket = Bucket::Large) {
    TuningRecord record;
    record.spec = spec(bucket).text();
    record.before = ProgramSource::global().site(*spec().before)->digest;
    record.target = cpu.text();
    record.compiler = tuningCompiler(DeviceType::Cpu);
    record.tokens = 4096;
    record.device = "a \"CPU\"";
    record.toolchain = "llvm";
    record.version = "1";
    record.schedule = Schedule::parse(schedule);
    record.base = Schedule::parse(plain);
    record.us = 1.25, record.baseUs = 2.5, record.noise = 0.003, record.samples = 7;
    record.time = "2026-01-31T12:00:00Z";
    return record;
  }
  std::string write(const char *name, const std::string &text) {
    std::string path = folder / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  Schedule find(const TuningTable &table, Bucket bucket = Bucket::Large, const Target &target = cpu) {
    return table.find(spec(bucket), "", record("auto").before, target);
  }
};

TEST_F(Tuning, LinesRoundTrip) {
  for (TuningRecord each : {record(slow), record("auto")}) {
    each.message = "say \"no\"\n";
    EXPECT_EQ(TuningRecord::parse(each.json()).json(), each.json());
    EXPECT_EQ(TuningRecord::parse(each.json()).key(), each.key());
    EXPECT_EQ(each.json().find('\n'), std::string::npos);
  }
}

TEST_F(Tuning, BrokenLinesAreNamedAndSkipped) {
  std::string good = record(slow).json(), text = good + "\n";
  auto changed = [&](const std::string &from, const std::string &to) {
    std::string line = good;
    size_t at = line.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return line.replace(at, from.size(), to) + "\n";
  };
  text += "{\"v\":1\n\n";                                         // 2, and 3 is empty
  text += changed("\"v\":1", "\"v\":2");                          // 4
  text += changed("\"status\":\"ok\"", "\"status\":\"okay\"");    // 5
  text += changed("tokens=8", "tokens=many");                     // 6
  text += changed("before(manifold", "beyond(manifold");          // 7
  text += changed("\"us\":1.25", "\"us\":\"fast\"");              // 8
  text += changed("\"tokens\":4096", "\"tokens\":-1");            // 9
  text += std::string(100000, 'x') + "\n";                        // 10
  text += std::string("\0\xff", 2) + "\n";                        // 11
  text += "[]\n" + good + "\n" + good.substr(0, good.size() / 2); // 12, good, 14 torn
  TuningFile file = readTuningFile(write("a.jsonl", text));
  EXPECT_EQ(file.records.size(), 2u);
  // Nobody's to drop: another version wrote it.
  EXPECT_EQ(file.foreign, std::vector<std::string>{"{\"v\":2" + good.substr(6)});
  std::vector<std::string> expected = {"line 2: it is no JSON object",
                                       "line 5: unknown status 'okay'. There are: ok,",
                                       "line 6: schedule '",
                                       "line 7: 'beyond(",
                                       "line 8: 'us' is not a number",
                                       "line 9: 'tokens' is -1",
                                       "line 10: it has 100000 bytes",
                                       "line 11: it is no JSON object",
                                       "line 12: it is no JSON object",
                                       "line 14: it is no JSON object"};
  ASSERT_EQ(file.problems.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(file.problems[i].substr(0, expected[i].size()), expected[i]);

  TuningTable table;
  table.add(folder / "a.jsonl");
  table.add(folder / "a.jsonl");
  ASSERT_EQ(said.size(), 1u); // one warning a file
  EXPECT_NE(said[0].find("10 of its lines are no results and are skipped (line 2: it is no JSON object, ...); 1 of its "
                         "lines are of another version of hyperjit and are skipped"),
            std::string::npos)
      << said[0];
  EXPECT_EQ(find(table).text(), slow);
  EXPECT_THROW(readTuningFile(folder / "absent"), UserError);
}

// Inverted: O_NONBLOCK in FileSystem::readRegular, the depth in parseJson.
TEST_F(Tuning, WhatIsNoPlainFileOrNestsTooDeepIsSkipped) {
  std::string deep = "{\"v\":" + std::string(30000, '[') + std::string(30000, ']') + "}";
  EXPECT_THROW(TuningRecord::parse(deep), UserError);
  write("cache/tuning/b.jsonl", deep + "\n" + record(slow).json() + "\n");
  std::string pipe = folder / "cache/tuning/a.jsonl";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  Settings settings;
  settings.cacheDirectory = folder / "cache";
  EXPECT_EQ(find(TuningTable::fromSettings(settings)).text(), slow);
  ASSERT_EQ(said.size(), 2u);
  EXPECT_NE(said[0].find("a.jsonl' cannot be read: it is no plain file; it is ignored"), std::string::npos) << said[0];
  EXPECT_NE(said[1].find("1 of its lines are no results"), std::string::npos) << said[1];
}

// Inverted: `refused` in TuningTable::fromSettings.
TEST_F(Tuning, AFolderThatIsNotTrustedIsNotReadEither) {
  write("cache/tuning/mine.jsonl", record(slow).json() + "\n");
  Settings settings;
  settings.cacheDirectory = folder / "cache";
  auto found = [&] { return find(TuningTable::fromSettings(settings)).text(); };
  EXPECT_EQ(found(), slow);
  for (const char *open : {"cache", "cache/tuning"}) {
    std::filesystem::permissions(folder / open, std::filesystem::perms(0777));
    EXPECT_TRUE(TuningTable::refused(settings)) << open;
    EXPECT_EQ(found(), "auto") << open;
    settings.trust = CacheTrust::Path;
    EXPECT_EQ(found(), slow) << open;
    settings.trust = CacheTrust::Owner;
    std::filesystem::permissions(folder / open, std::filesystem::perms(0700));
  }
  EXPECT_NE(said.at(0).find("is not used; run chmod o-w on it"), std::string::npos) << said[0];
  settings.cacheDirectory = folder / "absent";
  EXPECT_FALSE(TuningTable::refused(settings));
  // A folder that somebody names is trusted because he did.
  settings.cachePath = {folder / "cache"};
  std::filesystem::permissions(folder / "cache", std::filesystem::perms(0777));
  EXPECT_EQ(found(), slow);
}

TEST_F(Tuning, EveryCutOfALineIsSkippedOrWhole) {
  std::string line = record(slow).json();
  for (size_t size = 0; size < line.size(); ++size)
    EXPECT_THROW(TuningRecord::parse(line.substr(0, size)), UserError) << size;
}

TEST_F(Tuning, MergingKeepsTheLastDecision) {
  TuningRecord tried = record(sameOrder), other = record(slow);
  tried.status = "candidate";
  other.target = "x86-64-v4";
  TuningRecord older = record(slow), newer = record("auto");
  newer.us = 3;
  std::vector<TuningRecord> merged = compacted({older, tried, other, newer});
  ASSERT_EQ(merged.size(), 2u);
  EXPECT_EQ(merged[0].json(), newer.json());
  EXPECT_EQ(merged[1].json(), other.json());
}

TEST_F(Tuning, WhatDoesNotMatchIsIgnored) {
  TuningRecord foreign = record(slow), elsewhere = record(slow), changed = record(slow);
  foreign.compiler = "another";
  elsewhere.target = "x86-64-v4";
  changed.before = "of other equations";
  TuningTable table;
  table.add(write("foreign.jsonl", foreign.json() + "\n" + foreign.json() + "\n"), true);
  table.add(write("else.jsonl", elsewhere.json() + "\n"), true);
  table.add(write("changed.jsonl", changed.json() + "\n"), true);
  EXPECT_TRUE(find(table).isAuto());
  EXPECT_TRUE(find(table, Bucket::Small).isAuto());
  ASSERT_EQ(said.size(), 2u);
  EXPECT_NE(said[0].find("2 of its results are of another compiler and are ignored"), std::string::npos) << said[0];
  EXPECT_NE(said[1].find("has no result for target x86-64-v3, but for x86-64-v4"), std::string::npos) << said[1];
}

TEST_F(Tuning, TheFirstFileThatKnowsTheKernelDecides) {
  TuningTable table;
  table.add(write("first.jsonl", record("auto").json() + "\n"));
  table.add(write("second.jsonl", record(slow).json() + "\n"));
  EXPECT_TRUE(find(table).isAuto());
}

TEST_F(Tuning, BothBucketsSumInOneOrder) {
  auto table = [&](std::vector<TuningRecord> records) {
    std::string text;
    for (const TuningRecord &each : records)
      text += each.json() + "\n";
    TuningTable made;
    made.add(write("a.jsonl", text));
    return made;
  };
  // The large bucket left the default's order: small follows, tuned or not, unless it has the same order.
  EXPECT_EQ(find(table({record(slow)}), Bucket::Small).text(), slow);
  EXPECT_EQ(find(table({record(slow), record(sameOrder, Bucket::Small)}), Bucket::Small).text(), slow);
  EXPECT_EQ(find(table({record(slow), record("auto", Bucket::Small)}), Bucket::Small).text(), slow);
  // It kept the default's order: small may take its own numbers, in that order only.
  EXPECT_TRUE(find(table({record(sameOrder)}), Bucket::Small).isAuto());
  EXPECT_EQ(find(table({record(sameOrder), record(sameOrder, Bucket::Small)}), Bucket::Small).text(), sameOrder);
  EXPECT_EQ(find(table({record(sameOrder, Bucket::Small)}), Bucket::Small).text(), sameOrder);
  EXPECT_TRUE(find(table({record(slow, Bucket::Small)}), Bucket::Small).isAuto());
  EXPECT_TRUE(find(table({record("auto"), record(slow, Bucket::Small)}), Bucket::Small).isAuto());
  EXPECT_TRUE(find(table({record(slow, Bucket::Small)}), Bucket::Large).isAuto());
}

TEST_F(Tuning, AManagerAsksTheTablesOfItsSettings) {
  KernelManagerOptions options;
  options.settings.cacheDirectory = folder / "cache";
  options.settings.cachePath = {folder / "layer"};
  options.settings.tuningPath.clear();
  auto key = [&] { return KernelManager(options).keyFields(spec(), cpu).schedule; };
  EXPECT_EQ(key(), "auto");
  write("layer/tuning/shipped.jsonl", record(slow).json() + "\n");
  EXPECT_EQ(key(), slow);
  write("cache/tuning/mine.jsonl", record(sameOrder).json() + "\n");
  EXPECT_EQ(key(), sameOrder);
  write("named/x.jsonl", record("auto").json() + "\n");
  options.settings.tuningPath = {folder / "named"};
  EXPECT_EQ(key(), "auto");
  // A schedule that the caller names is nobody's to change.
  options.settings.tuningPath.clear();
  KernelManager manager(options);
  EXPECT_EQ(manager.keyFields(spec(), cpu, Schedule::parse(plain)).schedule, plain);
  ResolvedArtifact tuned = manager.artifact(spec(), cpu);
  EXPECT_EQ(tuned.artifact->meta.schedule, sameOrder);
  EXPECT_EQ(tuned.origin, Origin::Compiled);
  EXPECT_EQ(KernelManager(options).artifact(spec(), cpu).origin, Origin::Disk);
}

TEST_F(Tuning, AShippedPackIsAskedForTheScheduleOfItsTarget) {
  // Made for the plainer level of a CPU that has more, with the results for that level beside the kernels.
  KernelManagerOptions maker;
  maker.settings.cacheDirectory = folder / "pack";
  write("pack/tuning/all.jsonl", record(slow).json() + "\n");
  KernelManager(maker).artifact(spec(), cpu);
  CacheManifest manifest = CacheManifest::of(folder / "pack");
  write("pack/manifest.json", manifest.text());
  KernelManagerOptions user;
  user.settings.cacheDirectory = folder / "cache";
  user.settings.cachePath = {folder / "pack"};
  user.settings.jit = false;
  Target more = Target::native();
  if (!Target::parse("x86-64-v3").runsHere() || more.text() == cpu.text())
    GTEST_SKIP() << "this CPU is x86-64-v3 and no more";
  ResolvedArtifact found = KernelManager(user).artifact(spec(), more);
  EXPECT_EQ(found.origin, Origin::Disk);
  EXPECT_EQ(found.artifact->meta.schedule, slow);
}

TEST_F(Tuning, AnIllegalScheduleIsIgnoredAloud) {
  KernelManagerOptions options;
  options.settings.cacheDirectory = folder / "cache";
  write("cache/tuning/mine.jsonl", record("blocks:tokens=5").json() + "\n");
  KernelManager manager(options);
  EXPECT_EQ(manager.artifact(spec(), cpu).artifact->meta.schedule, plain);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("is not legal and is ignored"), std::string::npos) << said[0];
  EXPECT_NE(said[0].find("tokens is 5; legal are 4 to 64, powers of two"), std::string::npos) << said[0];
}

} // namespace
