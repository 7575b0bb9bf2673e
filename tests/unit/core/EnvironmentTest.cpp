// Settings, errors, log: every variable, every value it takes, every message about one it does not.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Environment.h"

#include <algorithm>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

/// What reading the environment with one variable set to a value says.
Caught refused(const char *name, const char *value) {
  Variable variable(name, value);
  return caught([] { Settings::fromEnvironment(); });
}

TEST(Environment, TheTableIsSortedAndWhole) {
  auto table = environmentTable();
  EXPECT_TRUE(std::is_sorted(table.begin(), table.end(), [](const auto &a, const auto &b) { return a.name < b.name; }));
  for (const EnvironmentVariable &row : table) {
    EXPECT_EQ(row.name.rfind("HYPERJIT_", 0), 0u) << row.name;
    EXPECT_FALSE(row.values.empty()) << row.name;
    EXPECT_FALSE(row.meaning.empty()) << row.name;
  }
}

TEST(Environment, ReadsOnlyTheTable) {
  {
    Variable set("HYPERJIT_CACHE", "ro");
    EXPECT_EQ(environment("HYPERJIT_CACHE"), "ro");
  }
  {
    Variable empty("HYPERJIT_CACHE", "");
    EXPECT_EQ(environment("HYPERJIT_CACHE"), std::nullopt);
  }
  Caught error = caught([] { environment("HYPERJIT_NONSENSE"); });
  EXPECT_EQ(error.id, "internal");
  EXPECT_EQ(error.text.rfind(
                "HYPERJIT_NONSENSE is read but is not in the table of Environment.cpp\nThis is a bug in hyperjit ", 0),
            0u);
}

TEST(Environment, UnknownVariablesAreNamedWithTheNearest) {
  Variable typo("HYPERJIT_CACHE_DIRR", "/x"), far("HYPERJIT_ZZZZZZZZ", "1");
  auto unknown = unknownEnvironment();
  auto has = [&](const std::string &name, const std::string &nearest) {
    return std::find(unknown.begin(), unknown.end(), std::pair(name, nearest)) != unknown.end();
  };
  EXPECT_TRUE(has("HYPERJIT_CACHE_DIRR", "HYPERJIT_CACHE_DIR"));
  EXPECT_TRUE(
      std::any_of(unknown.begin(), unknown.end(), [](const auto &u) { return u.first == "HYPERJIT_ZZZZZZZZ"; }));
  EXPECT_FALSE(has("HYPERJIT_CACHE_DIR", ""));
}

TEST(Environment, SettingsAreTyped) {
  Variable directory("HYPERJIT_CACHE_DIR", "/a/b"), path("HYPERJIT_CACHE_PATH", "/c::/d"),
      cache("HYPERJIT_CACHE", "refresh"), trust("HYPERJIT_CACHE_TRUST", "path"),
      verify("HYPERJIT_CACHE_VERIFY", "regen"), size("HYPERJIT_CACHE_MAX_SIZE", "3M"),
      timeout("HYPERJIT_LOCK_TIMEOUT", "0.25"), jobs("HYPERJIT_COMPILE_JOBS", "3"), jit("HYPERJIT_JIT", "off"),
      space("HYPERJIT_CACHE_NAMESPACE", "mine"), explain("HYPERJIT_EXPLAIN_MISS", "1"), record("HYPERJIT_RECORD", "/r"),
      tuning("HYPERJIT_TUNING_PATH", "/t"), keep("HYPERJIT_KEEP_MEMORY", "0");
  Settings settings = Settings::fromEnvironment();
  EXPECT_EQ(settings.cacheDirectory, "/a/b");
  EXPECT_EQ(settings.cachePath, (std::vector<std::string>{"/c", "/d"}));
  EXPECT_EQ(settings.cache, CacheMode::Refresh);
  EXPECT_EQ(settings.trust, CacheTrust::Path);
  EXPECT_EQ(settings.verify, CacheVerify::Regenerate);
  EXPECT_EQ(settings.cacheMaxBytes, 3 << 20);
  EXPECT_EQ(settings.lockTimeoutSeconds, 0.25);
  EXPECT_EQ(settings.compileJobs, 3);
  EXPECT_FALSE(settings.jit);
  EXPECT_EQ(settings.cacheNamespace, "mine");
  EXPECT_TRUE(settings.explainMiss);
  EXPECT_EQ(settings.recordFile, "/r");
  EXPECT_EQ(settings.keepMemoryBytes, 0);
  EXPECT_EQ(settings.tuningPath, (std::vector<std::string>{"/t"}));
}

TEST(Environment, DefaultCacheDirectory) {
  Variable none("HYPERJIT_CACHE_DIR", nullptr);
  {
    Variable xdg("XDG_CACHE_HOME", "/xdg"), home("HOME", "/home/me");
    EXPECT_EQ(Settings::fromEnvironment().cacheDirectory, "/xdg/hyperjit");
  }
  {
    Variable xdg("XDG_CACHE_HOME", nullptr), home("HOME", "/home/me");
    EXPECT_EQ(Settings::fromEnvironment().cacheDirectory, "/home/me/.cache/hyperjit");
  }
  // A relative path would follow the working directory.
  Variable xdg("XDG_CACHE_HOME", "relative"), home("HOME", nullptr);
  EXPECT_EQ(Settings::fromEnvironment().cacheDirectory, "");
}

TEST(Environment, MeaninglessValuesAreRefusedByName) {
  Caught error = refused("HYPERJIT_CACHE", "readonly");
  EXPECT_EQ(error.id, "invalid-setting");
  EXPECT_EQ(error.text,
            "HYPERJIT_CACHE=readonly: it takes rw|ro|off|refresh (disk cache: read and write, read only, memory "
            "only, or compile everything again)");
  EXPECT_EQ(refused("HYPERJIT_CACHE_MAX_SIZE", "2 GB")
                .text.rfind("HYPERJIT_CACHE_MAX_SIZE=2 GB: it takes bytes, with K, M or G", 0),
            0u);
  EXPECT_EQ(refused("HYPERJIT_LOCK_TIMEOUT", "soon").text.rfind("HYPERJIT_LOCK_TIMEOUT=soon: it takes seconds", 0), 0u);
  for (auto [name, value] : {std::pair{"HYPERJIT_CACHE_TRUST", "all"},
                             {"HYPERJIT_CACHE_VERIFY", "yes"},
                             {"HYPERJIT_CACHE_MAX_SIZE", "-1"},
                             {"HYPERJIT_CACHE_MAX_SIZE", "G"},
                             {"HYPERJIT_CACHE_MAX_SIZE", "99999999999999G"},
                             {"HYPERJIT_LOCK_TIMEOUT", "-1"},
                             {"HYPERJIT_LOCK_TIMEOUT", "nan"},
                             {"HYPERJIT_COMPILE_JOBS", "0"},
                             {"HYPERJIT_COMPILE_JOBS", "two"},
                             {"HYPERJIT_JIT", "never"},
                             {"HYPERJIT_EXPLAIN_MISS", "yes"},
                             {"HYPERJIT_LOG", "loud"},
                             {"HYPERJIT_CHECK_WAITS", "true"}})
    EXPECT_EQ(refused(name, value).id, "invalid-setting") << name << "=" << value;
}

TEST(Errors, IdsHaveNames) {
  std::vector<std::string> names;
  for (int id = 100; id <= 202; ++id)
    if (std::string text(name(ErrorId(id))); text != "unknown")
      names.push_back(text);
  EXPECT_EQ(names.size(), 22u);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::unique(names.begin(), names.end()), names.end());
  EXPECT_EQ(name(ErrorId::UnknownRecipe), "unknown-recipe");
}

TEST(Errors, TheTwoKindsSpeakDifferently) {
  UserError user(ErrorId::InvalidOperand, "operand x has 3 rows");
  EXPECT_STREQ(user.what(), "operand x has 3 rows");
  InternalError bug(ErrorId::CompilerBug, "no way on", "hyperjit show static");
  EXPECT_EQ(std::string(bug.what()), "no way on\nThis is a bug in hyperjit " + std::string(version()) +
                                         ", please report it with this message.\nTo reproduce: hyperjit show static");
  EXPECT_EQ(bug.id(), ErrorId::CompilerBug);
  EXPECT_EQ(UserError("x").id(), ErrorId::Unsupported);
  EXPECT_EQ(MissingKernelError("x").id(), ErrorId::MissingKernel);
}

TEST(Errors, NearestWord) {
  std::vector<std::string> words = {"manifold", "static", "dynamic", "rms_inside"};
  EXPECT_EQ(nearestWord("manifodl", words), "manifold"); // two neighbours swapped are one slip
  EXPECT_EQ(nearestWord("statik", words), "static");
  EXPECT_EQ(nearestWord("rms", words), "rms_inside"); // a beginning
  EXPECT_EQ(nearestWord("Rms", words), "rms_inside");
  EXPECT_EQ(nearestWord("Static", words), "static");
  EXPECT_EQ(nearestWord("elephant", words), "");
  EXPECT_EQ(nearestWord("q", {"n", "m"}), ""); // of one letter, all are near
  EXPECT_EQ(nearestWord("N", {"m", "n"}), "n");
  EXPECT_EQ(nearestWord("", words), "");
  EXPECT_EQ(nearestWord(std::string(1000, 'x'), words), "");
  EXPECT_EQ(unknownWord("recipe", "manifol", words),
            "unknown recipe 'manifol'; did you mean 'manifold'? There are: manifold, static, dynamic, rms_inside");
  EXPECT_EQ(unknownWord("recipe", "elephant", {}), "unknown recipe 'elephant'. There is none.");
}

TEST(Logging, LevelsAndOnce) {
  LogCapture log(LogLevel::Info);
  hyperjit::log(LogLevel::Warning, "a warning");
  hyperjit::log(LogLevel::Info, "an info");
  hyperjit::log(LogLevel::Debug, "a detail");
  warnOnce("test-once", "said once");
  warnOnce("test-once", "said twice");
  EXPECT_EQ(log.messages, (std::vector<std::string>{"a warning", "an info", "said once"}));
  EXPECT_FALSE(logs(LogLevel::Debug));
}

TEST(Logging, DumpWritesFiles) {
  TemporaryFolder folder;
  EXPECT_FALSE(dumps());
  Variable variable("HYPERJIT_DUMP", (folder / "dump").c_str());
  EXPECT_TRUE(dumps());
  dump("one.txt", "text", 4);
  EXPECT_EQ(readFile(folder / "dump/one.txt"), "text");
}

} // namespace
