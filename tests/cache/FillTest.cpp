// Folders that are filled to travel: precompile, and the tuning results beside the kernels.
// SPDX-License-Identifier: Apache-2.0
#include "Ship.h"

#include "hyperjit/core/ProgramSource.h"
#include "hyperjit/core/TuningTable.h"

#include <filesystem>

namespace fs = std::filesystem;
using namespace hyperjit;
using namespace hyperjit::test;

namespace {

const std::string tunedKernel = "after(static:n=2,m=1,d=16,dtype=fp32):forward:infer:tokens=large";

/// A result for tunedKernel: of its legal schedules (`autotune --list`) not the one that runs anyway.
TuningRecord tunedRecord(const nlohmann::json &legal, const std::string &target = "x86-64-v3") {
  TuningRecord record;
  record.spec = tunedKernel;
  record.after = ProgramSource::global().site(SiteSpec::parse("static:n=2,d=16"))->digest;
  record.target = target;
  record.compiler = tuningCompiler(DeviceType::Cpu);
  record.tokens = 4096;
  record.base = Schedule::parse(legal.front()["schedule"].get<std::string>());
  record.schedule = Schedule::parse(legal.back()["schedule"].get<std::string>());
  record.us = 1, record.baseUs = 2, record.samples = 7;
  return record;
}

// A tuned kernel is found elsewhere only with the results that name its schedule. Inverted: `manifest.tuning` in
// writePack.
TEST_F(Ship, P30_TuningResultsTravelWithTheKernels) {
  std::string kernel = tunedKernel, list = folder / "list";
  std::string root = folder / "tuned", there = folder / "there", packed = folder / "tuned.hjpack";
  writeFile(list, kernel + "\n");
  Ran ran = command("autotune " + inQuotes(kernel) + " --list --target x86-64-v3 --json");
  ASSERT_EQ(ran.code, 0) << ran.error;
  nlohmann::json legal = ran.json()["kernels"][0]["schedules"];
  ASSERT_GT(legal.size(), 1u);
  TuningRecord record = tunedRecord(legal);
  TuningRecord other = record;
  other.target = "sm_90a";
  fs::create_directories(root + "/tuning");
  writeFile(root + "/tuning/all.jsonl", record.json() + "\n");
  writeFile(root + "/tuning/gpu.jsonl", other.json() + "\n");
  writeFile(root + "/tuning/notes.txt", "mine");
  ASSERT_EQ(command("precompile --specs " + list + " --target x86-64-v3 --out " + root).code, 0);
  CacheManifest manifest = CacheManifest::of(root);
  ASSERT_EQ(manifest.entries.size(), 1u);
  EXPECT_EQ(manifest.entries[0].schedule, record.schedule.text());
  ran = command("cache pack " + packed + " --from " + root + " --json");
  EXPECT_EQ(ran.json()["tuning"], 2) << ran.out << ran.error;
  ASSERT_EQ(command("cache pack " + (folder / "again") + " --from " + root).code, 0);
  EXPECT_EQ(readFile(packed), readFile(folder / "again"));
  ran = command("cache pack " + (folder / "cpu") + " --from " + root + " --target x86-64-v3 --json");
  EXPECT_EQ(ran.json()["tuning"], 1) << "results for other targets went along";

  auto found = [&](const std::string &place) {
    Ran ran = run("env -i HOME=/nonexistent HYPERJIT_JIT=off HYPERJIT_CACHE_PATH=" + place + " " CACHE_WARM " " + list);
    EXPECT_EQ(ran.code, 0) << ran.error;
    EXPECT_EQ(ran.json()["hits"], 1) << ran.out;
  };
  ran = command("cache unpack " + packed + " --to " + there + " --json");
  ASSERT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["tuning"], 2);
  EXPECT_EQ(readFile(there + "/tuning/all.jsonl"), record.json() + "\n");
  found(there);
  EXPECT_EQ(command("cache diff " + root + " " + there).code, 0);
  EXPECT_EQ(command("cache diff " + packed + " " + there).code, 0);
  EXPECT_EQ(command("cache verify --manifest " + there).code, 0);
  EXPECT_EQ(run("cd " + there + " && sha256sum --quiet -c SHA256SUMS").code, 0);

  // Results that are there already stay, and packs add up; the pack's are asked first, as its kernels are theirs.
  std::string mine = folder / "mine", kept = TuningRecord(record).json() + "\n\n";
  fs::create_directories(mine + "/tuning");
  writeFile(mine + "/tuning/all.jsonl", kept);
  for (int twice = 0; twice < 2; ++twice) {
    ASSERT_EQ(command("cache unpack " + packed + " --to " + mine).code, 0);
    EXPECT_EQ(readFile(mine + "/tuning/all.jsonl"), kept);
    EXPECT_EQ(CacheManifest::of(mine).tuning.size(), 3u);
  }
  EXPECT_LT(CacheManifest::of(mine).tuning[0].file, "tuning/all.jsonl");
  found(mine);
  ran = command("cache diff " + there + " " + mine);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.out.find("only in B  tuning/all.jsonl"), std::string::npos) << ran.out;

  // As much a part of what was shipped as a kernel.
  auto spoilt = [&](const std::string &file) {
    Ran ran = command("cache verify --manifest " + there);
    EXPECT_EQ(ran.code, 1) << file;
    EXPECT_NE(ran.error.find(file), std::string::npos) << ran.error;
  };
  writeFile(there + "/tuning/gpu.jsonl", other.json() + "\n ");
  spoilt("tuning/gpu.jsonl");
  fs::remove(there + "/tuning/gpu.jsonl");
  spoilt("tuning/gpu.jsonl");
  writeFile(there + "/tuning/gpu.jsonl", other.json() + "\n");
  writeFile(there + "/tuning/more.jsonl", "");
  spoilt("tuning/more.jsonl");
  std::string whole = readFile(packed), into = folder / "into";
  size_t at = whole.find("\"tokens\":4096", whole.find("{\"v\":1"));
  ASSERT_NE(at, std::string::npos);
  whole[at + 10] = '5';
  writeFile(packed, whole);
  ran = command("cache unpack " + packed + " --to " + into);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.error.find("'tuning/all.jsonl' has another SHA-256"), std::string::npos) << ran.error;
  EXPECT_FALSE(fs::exists(into + "/tuning"));
}

// A result of this machine, and kernels from elsewhere that were made without it: they are found where the tuned ones
// cannot be compiled, whether the result's schedule is legal or not. Inverted: KernelManager::State::findUntuned.
TEST_F(Ship, P30_ATuningResultTakesNoKernelAway) {
  std::string list = folder / "list", shipped = folder / "shipped", mine = folder / "mine";
  const std::string target = Target::hostLevel().text();
  writeFile(list, tunedKernel + "\n");
  ASSERT_EQ(command("precompile --specs " + list + " --out " + shipped).code, 0);
  Ran ran = command("autotune " + inQuotes(tunedKernel) + " --list --target " + target + " --json");
  ASSERT_EQ(ran.code, 0) << ran.error;
  nlohmann::json legal = ran.json()["kernels"][0]["schedules"];
  ASSERT_GT(legal.size(), 1u);
  TuningRecord record = tunedRecord(legal, target), illegal = record;
  illegal.schedule = Schedule::parse("blocks:tokens=5");
  fs::create_directories(mine + "/tuning");
  auto found = [&](const std::string &environment, const std::string &why) {
    Ran ran = run("env -i HOME=/nonexistent HYPERJIT_CACHE_DIR=" + mine + " HYPERJIT_CACHE_PATH=" + shipped + " " +
                  environment + " " CACHE_WARM " " + list);
    EXPECT_EQ(ran.code, 0) << environment << ran.error;
    EXPECT_EQ(ran.json()["hits"], 1) << ran.out;
    EXPECT_EQ(ran.json()["misses"], 0) << ran.out;
    EXPECT_EQ(ran.json()["compiled"], 0) << ran.out;
    EXPECT_NE(ran.error.find(why), std::string::npos) << environment << ran.error;
    EXPECT_EQ(ran.error.find("warning: "), ran.error.rfind("warning: ")) << ran.error;
    return ran;
  };
  for (const TuningRecord &result : {record, illegal}) {
    writeFile(mine + "/tuning/mine.jsonl", result.json() + "\n");
    found("HYPERJIT_JIT=off", "is in no cache and cannot be compiled here");
    found("HYPERJIT_COMPILER_PATH=/nonexistent", "is in no cache and cannot be compiled here");
  }
  // That a schedule is not legal is found out once; the processes after that open no compiler.
  found("", "is not legal and is ignored");
  EXPECT_EQ(found("", "is not legal and is ignored").json()["mapped"].size(), 0u);
  found("HYPERJIT_JIT=off", "is not legal and is ignored");
  // Where it may be compiled the result holds, and what explains says so beforehand.
  writeFile(mine + "/tuning/mine.jsonl", record.json() + "\n");
  std::string layers = "HYPERJIT_CACHE_DIR=" + mine + " HYPERJIT_CACHE_PATH=" + shipped;
  EXPECT_EQ(command("cache explain " + inQuotes(tunedKernel), layers).code, 1);
  EXPECT_EQ(command("cache explain " + inQuotes(tunedKernel), layers + " HYPERJIT_JIT=off").code, 0);
  ran = run("env -i HOME=/nonexistent " + layers + " " CACHE_WARM " " + list);
  EXPECT_EQ(ran.json()["compiled"], 1) << ran.out << ran.error;
}

// The command at another place, with kernels packaged beside it.
static std::string install(const fs::path &to, const fs::path &kernels) {
  const fs::path from = fs::path(HYPERJIT_COMMAND).parent_path().parent_path();
  for (const char *file : {"bin/hyperjit", "lib/libhyperjit.so." HYPERJIT_SOVERSION, "lib/libhyperjit-compiler.so"}) {
    fs::create_directories((to / file).parent_path());
    fs::copy_file(from / file, to / file);
  }
  fs::create_directories(to / "lib/hyperjit");
  fs::copy(kernels, to / "lib/hyperjit/kernels", fs::copy_options::recursive);
  return (to / "bin/hyperjit").string();
}

// Results that came with the installation's kernels are read as those of any folder: their kernels have other keys.
// Inverted: packagedRoot in TuningTable::fromSettings.
TEST_F(Ship, P30_TheInstallationsResultsAreRead) {
  const std::string list = folder / "list", shipped = folder / "shipped", target = Target::hostLevel().text();
  Ran ran = command("autotune " + inQuotes(tunedKernel) + " --list --target " + target + " --json");
  ASSERT_EQ(ran.code, 0) << ran.error;
  fs::create_directories(shipped + "/tuning");
  writeFile(shipped + "/tuning/all.jsonl", tunedRecord(ran.json()["kernels"][0]["schedules"], target).json() + "\n");
  writeFile(list, tunedKernel + "\n");
  ASSERT_EQ(command("precompile --specs " + list + " --target " + target + " --out " + shipped).code, 0);
  const std::string installed = install(folder / "inst", shipped);
  ran = run("env -i HOME=/nonexistent HYPERJIT_JIT=off " + installed + " cache explain " + inQuotes(tunedKernel));
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
}

// Kernels packaged with the installation do not fill a folder. Inverted: `ownOnly` in KernelCache's constructor.
TEST_F(Ship, Precompile_FillsWhatTheInstallationHasToo) {
  const std::string installed = "env -i HOME=/nonexistent " + install(folder / "inst", kernels);
  Ran ran = run(installed + " cache explain --specs " + specs + " --target x86-64-v3 --json");
  ASSERT_EQ(ran.code, 0) << "the installation's own are not found: " << ran.out << ran.error;
  ran = run(installed + " precompile --specs " + specs + " --target x86-64-v3 --json --out " + (folder / "out"), 170);
  EXPECT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.json()["compiled"], 4) << ran.out;
  EXPECT_EQ(files(folder / "out").size(), 4u);
}

// A mistake in line 7 of a list is named, the other lines are compiled, exit 1.
TEST_F(Ship, Precompile_NamesTheLineAndDoesTheRest) {
  std::string list = folder / "list";
  writeFile(list, "# "
                  "one\n\nafter(static:n=2,d=16):forward:infer:tokens=small\n\n\n\nnonsense:n=4\nafter(static:n=2,d=24)"
                  ":forward:infer:tokens=small\n");
  Ran ran = command("precompile --specs " + list + " --target x86-64-v3 --json --out " + (folder / "out"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.error.find("line 7"), std::string::npos) << ran.error;
  EXPECT_EQ(ran.json()["compiled"], 2) << ran.out;
  ASSERT_EQ(ran.json()["failed"].size(), 1u);
  // Again: nothing is left to do.
  ran = command("precompile --specs " + list + " --target x86-64-v3 --json --out " + (folder / "out"));
  EXPECT_EQ(ran.json()["compiled"], 0) << ran.out;
  EXPECT_EQ(ran.json()["cached"], 2) << ran.out;
}

// Ctrl-C: whole kernels, a manifest of them, and the same command goes on.
TEST_F(Ship, Precompile_CanBeInterrupted) {
  std::string out = folder / "out";
  Ran ran = run("env -i HOME=/nonexistent timeout -s INT 1 " HYPERJIT_COMMAND
                " precompile dynamic:n=4,d=256 dynamic:n=4,d=272 dynamic:n=4,d=288 "
                "dynamic:n=4,d=304 dynamic:n=4,d=320 --target x86-64-v3 --jobs 1 --out " +
                out);
  if (ran.out.find("interrupted") == std::string::npos)
    GTEST_SKIP() << "this machine is done before it can be interrupted";
  size_t some = files(out).size();
  EXPECT_GT(some, 0u);
  EXPECT_EQ(command("cache verify --manifest " + out).code, 0);
}

} // namespace
