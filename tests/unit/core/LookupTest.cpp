// Where a kernel comes from when it is not in memory: own and shipped folders, under whose schedule, and what is said
// where it is in none.
// SPDX-License-Identifier: Apache-2.0
#include "ManagerFixture.h"

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

struct LookupTest : ManagerTest {};

TEST_F(LookupTest, JitOffNamesWhatIsMissingAndWhereItLooked) {
  settings.jit = false;
  settings.cachePath = {folder / "shipped"};
  KernelManager manager(options());
  std::string key = CacheKey::of(manager.keyFields(spec("one"), cpu)).hex();
  try {
    manager.get(spec("one"), cpu);
    FAIL();
  } catch (const MissingKernelError &error) {
    EXPECT_EQ(std::string(error.what()),
              "no compiled kernel for 'before(one:n=4,m=1,d=512,dtype=fp32):forward:save:tokens=large', target "
              "x86-64-v3 (key " +
                  key + "), and HYPERJIT_JIT=off forbids to compile it. Searched: " + (folder / "cache") + ", " +
                  (folder / "shipped") +
                  ". Compile it ahead with: hyperjit precompile --specs FILE --target x86-64-v3");
  }
  EXPECT_EQ(compiler->runs, 0);
  settings.jit = true;
  KernelManager(options()).get(spec("one"), cpu);
  settings.jit = false;
  EXPECT_TRUE(KernelManager(options()).get(spec("one"), cpu));
}

TEST_F(LookupTest, WithoutTheCompilerHitsAreServed) {
  KernelManager(options()).get(spec("one"), cpu);
  KernelManagerOptions without = options();
  without.compiler = std::make_shared<CompilerPlugin>(folder / "absent.so");
  KernelManager manager(without);
  EXPECT_TRUE(manager.get(spec("one"), cpu));
  Caught miss = caught([&] { manager.get(spec("one:d=8"), cpu); });
  EXPECT_EQ(miss.id, "compiler-missing");
  EXPECT_NE(miss.text.find((folder / "absent.so") + ": no such file"), std::string::npos);
}

TEST_F(LookupTest, WithoutTheToolchainShippedKernelsAreServed) {
  settings.cacheDirectory = folder / "shipped";
  KernelManager(options()).get(spec("one"), cpu);
  writeFile(folder / "shipped/manifest.json", R"({"toolchains": ["fake toolchain"]})");
  settings.cacheDirectory = folder / "cache";
  settings.cachePath = {folder / "shipped"};
  backend->hasToolchain = false;
  KernelManager manager(options());
  EXPECT_TRUE(manager.get(spec("one"), cpu));
  EXPECT_EQ(manager.statistics().diskHits, 1);
  EXPECT_EQ(caught([&] { manager.get(spec("one:d=8"), cpu); }).id, "library-missing");
  EXPECT_EQ(manager.keyFields(spec("one:d=8"), cpu).toolchain, "");
  EXPECT_EQ(compiler->runs, 1);
}

// Inverted: findUntuned, and Look::Again in it.
TEST_F(LookupTest, ATableTakesAwayNoKernelThatIsThere) {
  const Schedule rows = Schedule::parse("rows:tokens=8");
  const KernelSpec kernel = spec("one:d=104");
  const std::string shipped = folder / "shipped";
  settings.cacheDirectory = shipped;
  KernelManager(options()).get(kernel, cpu);
  writeFile(shipped + "/manifest.json", R"({"targets": ["x86-64-v3"], "toolchains": ["fake toolchain"]})");
  settings.cacheDirectory = folder / "cache";
  settings.cachePath = {shipped};
  tuning = [&](const KernelSpec &, const Target &target) { return target == cpu ? rows : Schedule(); };
  LogCapture log;
  auto found = [&](KernelManagerOptions given, const Target &target = cpu) {
    KernelManager manager(std::move(given));
    ResolvedArtifact resolved = manager.artifact(kernel, target);
    EXPECT_EQ(resolved.origin, Origin::Disk);
    EXPECT_EQ(resolved.fields.schedule, "auto");
    EXPECT_EQ(resolved.fields.target, cpu.text());
    EXPECT_EQ(manager.statistics().diskHits, 1);
    EXPECT_EQ(manager.statistics().cache.hits, 1);
    EXPECT_EQ(manager.statistics().cache.misses, 0);
  };
  KernelManagerOptions off = options();
  off.settings.jit = false;
  found(off);
  // The table speaks of the plainer level alone.
  if (const Target newer = Target::parse("x86-64-v4"); newer.runsHere())
    found(off, newer);
  KernelManagerOptions without = options();
  without.compiler = std::make_shared<CompilerPlugin>(folder / "absent.so");
  found(without);
  backend->hasToolchain = false;
  found(options());
  backend->hasToolchain = true;
  off.settings.cacheDirectory = shipped;
  off.settings.cachePath.clear();
  found(off);
  ASSERT_EQ(log.messages.size(), 1u);
  EXPECT_TRUE(log.has("cannot be compiled here")) << log.messages[0];
  // Who names a schedule gets no other, nor does who wants no substitute; with the compiler the table holds.
  EXPECT_EQ(caught([&] { KernelManager(off).artifact(kernel, cpu, rows); }).id, "missing-kernel");
  off.substitutes = false;
  EXPECT_EQ(caught([&] { KernelManager(off).artifact(kernel, cpu); }).id, "missing-kernel");
  EXPECT_EQ(KernelManager(options()).artifact(kernel, cpu).fields.schedule, rows.text());
}

// Inverted: `cache.publish(result.key, refusal(...))` in State::find.
TEST_F(LookupTest, ThatATunedScheduleIsNotLegalIsAskedOnce) {
  const Schedule rows = Schedule::parse("rows:tokens=8");
  const KernelSpec kernel = spec("one:d=112");
  tuning = [&](const KernelSpec &, const Target &) { return rows; };
  compiler->illegal = rows.text();
  LogCapture log;
  auto finds = [&](KernelManagerOptions given, Origin origin) {
    KernelManager manager(std::move(given));
    ResolvedArtifact resolved = manager.artifact(kernel, cpu);
    EXPECT_EQ(resolved.origin, origin);
    EXPECT_EQ(resolved.fields.schedule, "auto");
    EXPECT_EQ(manager.statistics().cache.hits, origin == Origin::Disk);
    EXPECT_EQ(manager.statistics().cache.misses, origin == Origin::Compiled);
    return manager.cache().pathOf(resolved.key);
  };
  std::string path = finds(options(), Origin::Compiled);
  EXPECT_EQ(compiler->runs, 2);
  finds(options(), Origin::Disk);
  KernelManagerOptions off = options();
  off.settings.jit = false;
  finds(off, Origin::Disk);
  EXPECT_EQ(compiler->runs, 2);
  // Both are found where it was not asked before.
  ASSERT_EQ(log.messages.size(), 1u);
  EXPECT_TRUE(log.has("rows:tokens=8 is not legal")) << log.messages[0];
  // Gone, the kernel alone is compiled; who names the schedule is told what the compiler would say.
  std::filesystem::remove(path);
  finds(options(), Origin::Compiled);
  EXPECT_EQ(compiler->runs, 3);
  Caught named = caught([&] { KernelManager(off).artifact(kernel, cpu, rows); });
  EXPECT_EQ(named.id + ": " + named.text, "unsupported: rows:tokens=8 is not legal");
  // Of a folder that is filled on purpose it is no part.
  KernelManagerOptions filling = options();
  filling.settings.cacheDirectory = folder / "filled";
  filling.ownOnly = true;
  finds(filling, Origin::Compiled);
  EXPECT_EQ(KernelCache::list(folder / "filled").size(), 1u);
}

// Inverted: each use of `ownOnly`.
TEST_F(LookupTest, AFolderIsFilledWhateverLiesElsewhere) {
  const std::string manifest = R"({"targets": ["x86-64-v3"], "toolchains": ["fake toolchain"]})";
  settings.cacheDirectory = folder / "shipped";
  KernelManager(options()).get(spec("one"), cpu);
  writeFile(folder / "shipped/manifest.json", manifest);
  settings.cachePath = {folder / "shipped"};
  settings.cacheDirectory = folder / "cache";
  KernelManagerOptions filling = options();
  filling.ownOnly = true;
  EXPECT_EQ(KernelManager(options()).artifact(spec("one"), cpu).origin, Origin::Disk);
  EXPECT_EQ(KernelManager(filling).artifact(spec("one"), cpu).origin, Origin::Compiled);
  writeFile(folder / "cache/manifest.json", manifest);
  const Target newer = Target::parse("x86-64-v4");
  ResolvedArtifact resolved = KernelManager(filling).artifact(spec("one"), newer);
  EXPECT_EQ(resolved.origin, Origin::Compiled);
  EXPECT_EQ(resolved.fields.target, newer.text());
  EXPECT_EQ(KernelManager(filling).artifact(spec("one"), newer).origin, Origin::Disk);
}

TEST_F(LookupTest, ShippedKernelsOfPlainerLevelsAreServedAndOfNewerOnesAreNot) {
  const Target newer = Target::parse("x86-64-v4");
  if (!newer.runsHere())
    GTEST_SKIP() << "this CPU is below x86-64-v4";
  for (const Target &made : {cpu, newer}) {
    settings.cachePath.clear();
    settings.cacheDirectory = folder / made.text();
    KernelManager(options()).get(spec("one"), made);
    writeFile(settings.cacheDirectory + "/manifest.json",
              nlohmann::json{{"targets", {made.text()}}, {"toolchains", {"fake toolchain"}}}.dump());
    settings.cachePath = {settings.cacheDirectory};
    for (const Target &asked : {cpu, newer, Target::native(), Target::hostLevel()}) {
      settings.cacheDirectory = folder / ("for " + digestText(made.text() + asked.text()));
      KernelManager manager(options());
      manager.get(spec("one"), asked);
      EXPECT_EQ(manager.statistics().compiled, made == newer && asked == cpu ? 1 : 0)
          << asked.text() << " from " << made.text();
    }
  }
}

TEST_F(LookupTest, ExplainsMisses) {
  KernelManager(options()).get(spec("one:d=8"), cpu);
  settings.explainMiss = true;
  LogCapture log;
  KernelManager manager(options());
  manager.get(spec("one:d=16"), cpu);
  EXPECT_TRUE(log.has("spec: here 'before(one:n=4,m=1,d=16,dtype=fp32):forward:save:tokens=large', there "
                      "'before(one:n=4,m=1,d=8,dtype=fp32):forward:save:tokens=large'"));
}

// The request is the contract of hyperjit/Compiler.h.

} // namespace
