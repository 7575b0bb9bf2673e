// Environment.cpp - the table of variables. Their names and meanings are here and nowhere else.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Environment.h"

#include "Json.h"
#include "Text.h"
#include "hyperjit/core/Error.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fmt/format.h>
#include <fstream>
#include <sched.h>
#include <thread>

extern char **environ;

using namespace hyperjit;

static constexpr EnvironmentVariable kTable[] = {
    {"HYPERJIT_CACHE", "rw", "rw|ro|off|refresh",
     "disk cache: read and write, read only, memory only, or compile everything again"},
    {"HYPERJIT_CACHE_DIR", "$XDG_CACHE_HOME/hyperjit, else ~/.cache/hyperjit", "folder",
     "writable root of the disk cache"},
    {"HYPERJIT_CACHE_MAX_SIZE", "2G", "bytes, with K, M or G",
     "the writable root is cleaned, least recently used first, above this size"},
    {"HYPERJIT_CACHE_NAMESPACE", "", "text", "a salt of every key: kernels of other namespaces are not found"},
    {"HYPERJIT_CACHE_PATH", "", "folders, with :", "read-only caches, searched in order after the writable root"},
    {"HYPERJIT_CACHE_TRUST", "owner", "owner|path|any",
     "whose entries are taken: one's own and root's, those of a configured path, or all (CUDA only)"},
    {"HYPERJIT_CACHE_VERIFY", "checksum", "checksum|regen",
     "regen compiles on every hit and compares, which finds an incomplete key"},
    {"HYPERJIT_CHECK_WAITS", "0", "0|1",
     "CUDA kernels whose warps wait ten seconds for one another at most, then say so and trap: to find out why one "
     "hangs"},
    {"HYPERJIT_COMPILER_PATH", "beside libhyperjit.so", "file or folder", "libhyperjit-compiler.so"},
    {"HYPERJIT_COMPILE_JOBS", "min(4, CPUs)", "number from 1 to 1024", "kernels compiled at a time"},
    {"HYPERJIT_DUMP", "", "folder", "writes program, request, generated code and binary of each compiled kernel there"},
    {"HYPERJIT_EXPLAIN_MISS", "0", "0|1", "logs key fields of every miss"},
    {"HYPERJIT_JIT", "on", "on|off", "off: a kernel that no cache holds is an error"},
    {"HYPERJIT_KEEP_MEMORY", "1G", "bytes, with K, M or G",
     "most memory of freed CPU results of 4 MiB and more that is kept for the next ones; 0: none"},
    {"HYPERJIT_LIBTORCH", "the torch wheel in .venv", "folder",
     "LibTorch to build against; read by CMake and scripts/setup"},
    {"HYPERJIT_LOCK_TIMEOUT", "30", "seconds, up to 86400",
     "longest wait for another process that compiles the same kernel, or holds the same file of tuning results"},
    {"HYPERJIT_LOG", "warn", "warn|info|debug", "what is said on stderr"},
    {"HYPERJIT_NVRTC_PATH", "the torch wheel's, else the loader's", "file", "libnvrtc to load"},
    {"HYPERJIT_RECORD", "", "file",
     "appends the spec of every kernel that is used; input of hyperjit precompile --specs"},
    {"HYPERJIT_TUNING_FAULT", "", "crash|hang|wrong|fail:TEXT",
     "for tests: what a worker of hyperjit autotune does with schedules that hold the text"},
    {"HYPERJIT_TUNING_PATH", "",
     "files or folders, with :", "read-only tuning results (*.jsonl), asked before those beside the caches"},
};

std::span<const EnvironmentVariable> hyperjit::environmentTable() { return kTable; }

std::optional<std::string> hyperjit::environment(std::string_view name) {
  auto row = std::find_if(std::begin(kTable), std::end(kTable), [&](const auto &row) { return row.name == name; });
  if (row == std::end(kTable))
    throw InternalError(fmt::format("{} is read but is not in the table of Environment.cpp", name));
  const char *value = std::getenv(row->name.data());
  if (!value || !*value)
    return std::nullopt;
  return std::string(value);
}

std::vector<std::pair<std::string, std::string>> hyperjit::unknownEnvironment() {
  std::vector<std::string> names;
  for (const EnvironmentVariable &row : kTable)
    names.emplace_back(row.name);
  std::vector<std::pair<std::string, std::string>> unknown;
  for (char **entry = environ; entry && *entry; ++entry) {
    std::string_view text(*entry);
    std::string name(text.substr(0, text.find('=')));
    // Of scripts/ and tests/.
    const bool elsewhere = name == "HYPERJIT_JOBS" || name == "HYPERJIT_PRESET" || name.starts_with("HYPERJIT_TEST_") ||
                           name.starts_with("HYPERJIT_EMULAT");
    if (name.starts_with("HYPERJIT_") && !elsewhere && std::find(names.begin(), names.end(), name) == names.end())
      unknown.emplace_back(name, nearestWord(name, names));
  }
  std::sort(unknown.begin(), unknown.end());
  return unknown;
}

static UserError badSetting(std::string_view name, std::string_view value) {
  auto row = std::find_if(std::begin(kTable), std::end(kTable), [&](const auto &row) { return row.name == name; });
  return UserError(ErrorId::InvalidSetting,
                   fmt::format("{}={}: it takes {} ({})", name, value, row->values, row->meaning));
}

template <typename Value>
static Value choice(std::string_view name, std::initializer_list<std::pair<std::string_view, Value>> words,
                    Value fallback) {
  std::optional<std::string> text = environment(name);
  if (!text)
    return fallback;
  for (const auto &[word, value] : words)
    if (word == *text)
      return value;
  throw badSetting(name, *text);
}

static std::vector<std::string> folders(std::string_view name) {
  std::vector<std::string> list;
  if (std::optional<std::string> text = environment(name))
    for (std::string_view piece : text::split(*text, ':'))
      if (!piece.empty())
        list.emplace_back(piece);
  return list;
}

/// Relative paths mean nothing here: a program may change its working directory.
static std::string defaultCacheDirectory() {
  const char *xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg && xdg[0] == '/')
    return std::string(xdg) + "/hyperjit";
  const char *home = std::getenv("HOME");
  if (home && home[0] == '/')
    return std::string(home) + "/.cache/hyperjit";
  return {};
}

static int64_t byteCount(std::string_view name, int64_t fallback) {
  std::optional<std::string> text = environment(name);
  if (!text)
    return fallback;
  std::string_view digits = *text;
  int64_t unit = 1;
  switch (digits.back()) {
  case 'K':
    unit = int64_t(1) << 10;
    break;
  case 'M':
    unit = int64_t(1) << 20;
    break;
  case 'G':
    unit = int64_t(1) << 30;
    break;
  }
  if (unit != 1)
    digits.remove_suffix(1);
  std::optional<int64_t> value = text::number<int64_t>(digits);
  if (!value || *value < 0 || *value > (int64_t(1) << 50) / unit)
    throw badSetting(name, *text);
  return *value * unit;
}

Settings Settings::fromEnvironment() {
  Settings settings;
  settings.cacheDirectory = environment("HYPERJIT_CACHE_DIR").value_or(defaultCacheDirectory());
  settings.cachePath = folders("HYPERJIT_CACHE_PATH");
  settings.cacheNamespace = environment("HYPERJIT_CACHE_NAMESPACE").value_or("");
  if (!fitsJson(settings.cacheNamespace)) // it stands in what describes a kernel
    throw UserError(ErrorId::InvalidSetting, "HYPERJIT_CACHE_NAMESPACE is no UTF-8 text");
  settings.cache = choice<CacheMode>("HYPERJIT_CACHE",
                                     {{"rw", CacheMode::ReadWrite},
                                      {"ro", CacheMode::ReadOnly},
                                      {"off", CacheMode::Off},
                                      {"refresh", CacheMode::Refresh}},
                                     CacheMode::ReadWrite);
  settings.trust = choice<CacheTrust>(
      "HYPERJIT_CACHE_TRUST", {{"owner", CacheTrust::Owner}, {"path", CacheTrust::Path}, {"any", CacheTrust::Any}},
      CacheTrust::Owner);
  settings.verify = choice<CacheVerify>("HYPERJIT_CACHE_VERIFY",
                                        {{"checksum", CacheVerify::Checksum}, {"regen", CacheVerify::Regenerate}},
                                        CacheVerify::Checksum);
  settings.cacheMaxBytes = byteCount("HYPERJIT_CACHE_MAX_SIZE", settings.cacheMaxBytes);
  settings.keepMemoryBytes = byteCount("HYPERJIT_KEEP_MEMORY", settings.keepMemoryBytes);
  if (std::optional<std::string> text = environment("HYPERJIT_LOCK_TIMEOUT")) {
    std::optional<double> value = text::number<double>(*text);
    if (!value || !(*value >= 0) || *value > 86400)
      throw badSetting("HYPERJIT_LOCK_TIMEOUT", *text);
    settings.lockTimeoutSeconds = *value;
  }
  if (std::optional<std::string> text = environment("HYPERJIT_COMPILE_JOBS")) {
    std::optional<int> value = text::number<int>(*text);
    if (!value || *value < 1 || *value > 1024)
      throw badSetting("HYPERJIT_COMPILE_JOBS", *text);
    settings.compileJobs = *value;
  }
  settings.jit = choice<bool>("HYPERJIT_JIT", {{"on", true}, {"off", false}}, true);
  settings.explainMiss = choice<bool>("HYPERJIT_EXPLAIN_MISS", {{"1", true}, {"0", false}}, false);
  choice<bool>("HYPERJIT_CHECK_WAITS", {{"1", true}, {"0", false}}, false); // the CUDA back end reads it with its flags
  choice<int>("HYPERJIT_LOG", {{"warn", 0}, {"info", 1}, {"debug", 2}}, 0);
  settings.recordFile = environment("HYPERJIT_RECORD").value_or("");
  settings.tuningPath = folders("HYPERJIT_TUNING_PATH");
  return settings;
}

int hyperjit::availableProcessors() {
  cpu_set_t allowed; // hardware_concurrency() counts those of the machine
  double processors = ::sched_getaffinity(0, sizeof allowed, &allowed) == 0
                          ? CPU_COUNT(&allowed)
                          : std::max(1u, std::thread::hardware_concurrency());
  // cgroup v2: "<quota> <period>" or "max <period>".
  std::ifstream quotaFile("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (quotaFile >> quota >> period && quota > 0 && period > 0)
    processors = std::min(processors, quota / period);
  // What torchrun tells its processes.
  const char *ranks = std::getenv("LOCAL_WORLD_SIZE");
  if (std::optional<int> count = text::number<int>(ranks ? ranks : ""); count && *count > 0)
    processors /= *count;
  return std::max(int(std::floor(processors)), 1);
}

int hyperjit::defaultCompileJobs() { return std::min(availableProcessors(), 4); }
