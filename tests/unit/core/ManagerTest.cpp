// From a spec to a kernel: what is in memory, what is compiled and by whom, what is asked of the compiler.
// SPDX-License-Identifier: Apache-2.0
#include "ManagerFixture.h"

#include <pthread.h>
#include <set>
#include <unistd.h>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

TEST_F(ManagerTest, WhatSavesNothingIsOneKernel) {
  SiteSpec site = SiteSpec::parse("one");
  auto both = [&] {
    KernelManager manager(options());
    manager.get(KernelSpec::beforeForward(site, true, Bucket::Large), cpu);
    manager.get(KernelSpec::beforeForward(site, false, Bucket::Large), cpu);
    return manager.statistics().compiled;
  };
  settings.cache = CacheMode::Off;
  EXPECT_EQ(both(), 2);
  EXPECT_EQ(allKernels(source, site, site).size(), 16u);
  source.saved = 0;
  EXPECT_EQ(both(), 1);
  EXPECT_EQ(allKernels(source, site, site).size(), 12u);
}

TEST_F(ManagerTest, MemoryThenDiskThenCompiler) {
  KernelManager manager(options());
  auto kernel = manager.get(spec("one"), cpu);
  EXPECT_EQ(manager.get(spec("one"), cpu), kernel);
  ManagerStatistics statistics = manager.statistics();
  EXPECT_EQ(statistics.compiled, 1);
  EXPECT_EQ(statistics.memoryHits, 1);
  EXPECT_EQ(statistics.diskHits, 0);
  EXPECT_EQ(statistics.cache.published, 1);

  KernelManager second(options());
  EXPECT_EQ(second.get(spec("one"), cpu)->meta().spec, kernel->meta().spec);
  EXPECT_EQ(second.statistics().compiled, 0);
  EXPECT_EQ(second.statistics().diskHits, 1);
  EXPECT_EQ(compiler->runs, 1);
  // Provenance is in the entry.
  EXPECT_EQ(kernel->meta().keyFields, second.keyFields(spec("one"), cpu).list());
}

TEST_F(ManagerTest, ManyThreadsCompileOnce) {
  KernelManager manager(options());
  compiler->blocked = true;
  std::vector<std::shared_ptr<const Kernel>> kernels(32);
  std::vector<std::thread> threads;
  for (auto &kernel : kernels)
    threads.emplace_back([&] { kernel = manager.get(spec("slow"), cpu); });
  while (compiler->runs == 0)
    std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(20ms);
  compiler->blocked = false;
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(compiler->runs, 1);
  EXPECT_EQ(manager.statistics().compiled, 1);
  EXPECT_EQ(manager.statistics().memoryHits, 31);
  for (const auto &kernel : kernels)
    EXPECT_EQ(kernel, kernels[0]);
}

TEST_F(ManagerTest, NoLockIsHeldWhileCompiling) {
  settings.cache = CacheMode::Off; // the advisory lock of a shard is another matter
  KernelManager manager(options());
  auto ready = manager.get(spec("one:d=8"), cpu);
  compiler->blocked = true;
  std::thread slow([&] { manager.get(spec("slow"), cpu); });
  while (compiler->runs < 2)
    std::this_thread::sleep_for(1ms);
  // With the compiler held, everything else goes on; a lock would make this hang.
  EXPECT_EQ(manager.get(spec("one:d=8"), cpu), ready);
  EXPECT_TRUE(manager.get(spec("one:d=16"), cpu));
  EXPECT_EQ(manager.peek(spec("slow"), cpu), nullptr);
  EXPECT_EQ(manager.statistics().compiled, 2);
  compiler->blocked = false;
  slow.join();
  EXPECT_NE(manager.peek(spec("slow"), cpu), nullptr);
}

TEST_F(ManagerTest, PeekNeverCompiles) {
  KernelManager manager(options());
  EXPECT_EQ(manager.peek(spec("one"), cpu), nullptr);
  EXPECT_EQ(compiler->runs, 0);
  auto kernel = manager.get(spec("one"), cpu);
  EXPECT_EQ(manager.peek(spec("one"), cpu), kernel);
  EXPECT_EQ(manager.peek(spec("one"), Target::parse("x86-64-v4")), nullptr);
}

TEST_F(ManagerTest, SpellingsShareAKernel) {
  KernelManager manager(options());
  auto kernel = manager.get(spec("one:d=64"), cpu);
  for (int layer = 0; layer < 32; ++layer)
    EXPECT_EQ(manager.get(spec("one:d=64,layer=" + std::to_string(layer)), cpu), kernel);
  EXPECT_EQ(compiler->runs, 1);
}

TEST_F(ManagerTest, WhatChangesTheCodeChangesTheKey) {
  KernelManager manager(options());
  auto key = [&](KernelManager &in, const KernelSpec &kernel, const char *target = "x86-64-v3",
                 const char *schedule = "auto") {
    return CacheKey::of(in.keyFields(kernel, Target::parse(target), Schedule::parse(schedule)));
  };
  std::set<CacheKey> keys = {key(manager, spec("one"))};
  EXPECT_TRUE(keys.insert(key(manager, spec("one:d=64"))).second);
  EXPECT_TRUE(keys.insert(key(manager, spec("one"), "x86-64-v4")).second);
  EXPECT_TRUE(keys.insert(key(manager, spec("one"), "x86-64-v3", "rows:tokens=8")).second);
  KernelSpec small = spec("one");
  small.bucket = Bucket::Small;
  EXPECT_TRUE(keys.insert(key(manager, small)).second);
  settings.cacheNamespace = "mine";
  KernelManager other(options());
  EXPECT_TRUE(keys.insert(key(other, spec("one"))).second);
  settings.cacheNamespace = "";
  // A user's recipe of the same name with other equations.
  source.suffix = " changed";
  EXPECT_TRUE(keys.insert(key(manager, spec("one"))).second);
  source.suffix = "";
  tuning = [](const KernelSpec &, const Target &) { return Schedule::parse("rows:tokens=8"); };
  KernelManager tuned(options());
  EXPECT_EQ(key(tuned, spec("one")), key(manager, spec("one"), "x86-64-v3", "rows:tokens=8"));
}

TEST_F(ManagerTest, AFailureIsEveryWaitersAndIsTriedAgain) {
  KernelManager manager(options());
  compiler->failures = 1;
  compiler->blocked = true;
  std::atomic<int> failed{0}, asking{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      ++asking;
      failed += caught([&] { manager.get(spec("slow"), cpu); }).id == "compiler-bug";
    });
  while (compiler->runs == 0 || asking < 4)
    std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(200ms); // from asking to waiting
  compiler->blocked = false;
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(failed, 4);
  EXPECT_TRUE(manager.get(spec("slow"), cpu));
  EXPECT_EQ(manager.cache().statistics().published, 1); // an error is never cached
}

TEST_F(ManagerTest, MistakesOfTheUserPass) {
  KernelManager manager(options());
  EXPECT_EQ(caught([&] { manager.get(spec("unknown"), cpu); }).id, "unknown-recipe");
  KernelSpec wrong = spec("one");
  wrong.after = SiteSpec::parse("one");
  EXPECT_EQ(caught([&] { manager.get(wrong, cpu); }).id, "invalid-spec");
  EXPECT_EQ(compiler->runs, 0);
}

TEST_F(ManagerTest, PrepareWorksOnWhereNoThreadCanBeStarted) {
  // Stacks that no address space holds.
  pthread_attr_t usual, huge;
  ASSERT_EQ(::pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(::pthread_attr_init(&huge), 0);
  ASSERT_EQ(::pthread_attr_setstacksize(&huge, size_t(1) << 60), 0);
  ASSERT_EQ(::pthread_setattr_default_np(&huge), 0);
  KernelManager manager(options());
  std::vector<KernelRequest> requests;
  for (const char *site : {"one", "one:d=8", "one:d=16"})
    requests.push_back({spec(site), cpu, {}});
  manager.prepare(requests);
  ::pthread_setattr_default_np(&usual);
  ::pthread_attr_destroy(&usual);
  ::pthread_attr_destroy(&huge);
  EXPECT_EQ(compiler->runs, 3);
}

TEST_F(ManagerTest, ARefusedEntryStaysAndIsCompiledInMemory) {
  KernelManager(options()).get(spec("one"), cpu);
  backend->rejects = 1;
  KernelManager manager(options());
  EXPECT_TRUE(manager.get(spec("one"), cpu));
  EXPECT_EQ(manager.statistics().rejected, 1);
  EXPECT_EQ(manager.statistics().compiled, 1);
  EXPECT_EQ(KernelCache::list(settings.cacheDirectory).size(), 1u);
  // What is refused when it comes fresh from the compiler is an error with the driver's text.
  backend->rejects = 2;
  KernelManager third(options());
  Caught error = caught([&] { third.get(spec("one"), cpu); });
  EXPECT_EQ(error.id, "image-rejected");
  EXPECT_EQ(error.text.rfind("the driver does not like it", 0), 0u);
}

TEST_F(ManagerTest, RegenerateFindsAnIncompleteKey) {
  KernelManager(options()).get(spec("one"), cpu);
  settings.verify = CacheVerify::Regenerate;
  EXPECT_TRUE(KernelManager(options()).get(spec("one"), cpu));
  compiler->salt = " with something that no key names";
  KernelManager manager(options());
  Caught error = caught([&] { manager.get(spec("one"), cpu); });
  EXPECT_EQ(error.id, "internal");
  EXPECT_NE(error.text.find("its key is incomplete"), std::string::npos) << error.text;
}

TEST_F(ManagerTest, PrepareTriesAllAndThrowsTheFirstError) {
  KernelManager manager(options());
  std::vector<KernelRequest> requests;
  for (const char *site : {"one:d=8", "unknown", "one:d=16", "one:d=8", "one:d=24"})
    requests.push_back({spec(site), cpu, {}});
  EXPECT_EQ(caught([&] { manager.prepare(requests); }).id, "unknown-recipe");
  for (const char *site : {"one:d=8", "one:d=16", "one:d=24"})
    EXPECT_NE(manager.peek(spec(site), cpu), nullptr) << site;
  EXPECT_EQ(compiler->runs, 3);
  manager.prepare({});
}

TEST_F(ManagerTest, AnUnwritableCacheIsNoError) {
  writeFile(folder / "file", "");
  settings.cacheDirectory = folder / "file/cache";
  LogCapture log;
  KernelManager manager(options());
  EXPECT_TRUE(manager.get(spec("one"), cpu));
  EXPECT_EQ(manager.statistics().compiled, 1);
}

TEST_F(ManagerTest, RecordsEverySpecOnce) {
  settings.recordFile = folder / "specs.txt";
  KernelManager manager(options());
  manager.get(spec("one:d=8,layer=1"), cpu);
  manager.get(spec("one:d=8,layer=2"), cpu);
  manager.get(spec("one:d=16"), cpu);
  EXPECT_EQ(readFile(settings.recordFile), "before(one:n=4,m=1,d=8,dtype=fp32):forward:save:tokens=large\n"
                                           "before(one:n=4,m=1,d=16,dtype=fp32):forward:save:tokens=large\n");
}

TEST_F(ManagerTest, RequestsSayAllTheCompilerNeeds) {
  KernelManager manager(options());
  KernelSpec kernel = KernelSpec::backward(SiteSpec::parse("one:m=2,d=64,dtype=bf16,branch_out=fp32"),
                                           SiteSpec::parse("two:m=2,d=64,dtype=bf16"), "xu", "xp", Bucket::Small);
  manager.artifact(kernel, cpu, Schedule::parse("rows:block=8"));
  nlohmann::json expected = {{"spec", kernel.text()},
                             {"role", "boundary"},
                             {"direction", "backward"},
                             {"save", false},
                             {"given", "xu"},
                             {"want", "xp"},
                             {"after",
                              {{"program", "program of one"},
                               {"d", 32},
                               {"m", 2},
                               {"saved", 1},
                               {"stream", "bf16"},
                               {"branch_in", "bf16"},
                               {"branch_out", "fp32"},
                               {"weight", "fp32"}}},
                             {"before",
                              {{"program", "program of two"},
                               {"d", 32},
                               {"m", 2},
                               {"saved", 1},
                               {"stream", "bf16"},
                               {"branch_in", "bf16"},
                               {"branch_out", "bf16"},
                               {"weight", "fp32"}}},
                             {"bucket", "small"},
                             {"target", "x86-64-v3"},
                             {"schedule", "rows:block=8"},
                             {"stage", ""}};
  EXPECT_EQ(compiler->last, expected);
  EXPECT_EQ(manager.stage(spec("one"), cpu, "hc"), "text of hc");
  EXPECT_TRUE(compiler->last["after"].is_null());
}

// A child that was forked while a thread of its parent compiled does not wait for that thread.
TEST_F(ManagerTest, ForkedChildrenCompileForThemselves) {
  settings.cache = CacheMode::Off;
  KernelManager manager(options());
  compiler->blocked = true;
  std::thread slow([&] { manager.get(spec("slow"), cpu); });
  while (compiler->runs == 0)
    std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(inChild([&] {
    ::alarm(20);
    compiler->blocked = false;
    return manager.get(spec("slow"), cpu) != nullptr;
  }));
  compiler->blocked = false;
  slow.join();
}

TEST(Launch, ChecksItsArguments) {
  auto artifact = std::make_shared<Artifact>(sampleArtifact());
  FakeKernel kernel(artifact);
  std::vector<void *> operands(4, reinterpret_cast<void *>(0x1000));
  int workspace = 0;
  auto text = [&](std::span<void *const> given, void *memory, int64_t tokens) {
    return caught([&] { kernel.launch(given, memory, tokens, {}); }).text;
  };
  EXPECT_EQ(text(operands, &workspace, 8), "");
  EXPECT_EQ(text(std::span(operands).first(3), &workspace, 8),
            "3 operands given, 4 expected by " + artifact->meta.spec);
  EXPECT_EQ(text(operands, &workspace, -1), "tokens = -1 is negative in " + artifact->meta.spec);
  EXPECT_EQ(text(operands, nullptr, 8), "no workspace, " + std::to_string(artifact->meta.workspaceBytes(8)) +
                                            " bytes expected by " + artifact->meta.spec);
  operands[1] = nullptr; // static_alpha, which this kernel does not read
  EXPECT_EQ(text(operands, &workspace, 8), "");
  operands[0] = nullptr;
  EXPECT_EQ(text(operands, &workspace, 8), "operand 0 ('x') is null in " + artifact->meta.spec);
  EXPECT_EQ(text(operands, &workspace, 0), ""); // no tokens, no rows
  operands[2] = nullptr;
  EXPECT_EQ(text(operands, &workspace, 0), "operand 2 ('phi') is null in " + artifact->meta.spec);
}

} // namespace
