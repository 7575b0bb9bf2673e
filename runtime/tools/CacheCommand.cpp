// hyperjit cache: where kernels are kept, what is there, whether it is whole, and why a spec is or is not found.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <fmt/format.h>

#include <cstring>
#include <ctime>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::tools {

namespace {

struct Options {
  std::string json, key, target;
  SpecArguments specs;
};

struct Found {
  std::string layer;
  bool writable = false;
  CacheEntryFile file;
};

std::vector<Found> everything(const KernelCache &cache) {
  std::vector<Found> all;
  for (const auto &layer : cache.layers())
    for (CacheEntryFile &file : KernelCache::list(layer.root))
      all.push_back({layer.root, layer.writable, std::move(file)});
  return all;
}

std::string writableRoot(const KernelCache &cache) {
  for (const auto &layer : cache.layers())
    if (layer.writable)
      return layer.root;
  return {};
}

std::string timeText(int64_t seconds) {
  std::time_t time = seconds;
  char text[32];
  std::tm local{};
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", ::localtime_r(&time, &local));
  return text;
}

int path(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  Json answer = jsonHead("cache-path", "none");
  answer["layers"] = Json::array();
  for (const auto &layer : cache.layers()) {
    answer["layers"].push_back({{"path", layer.root}, {"writable", layer.writable}});
    if (options.json.empty())
      fmt::print("{}{}\n", layer.root, layer.writable ? "" : " (read only)");
  }
  writeJson(answer, options.json);
  if (cache.layers().empty())
    throw EnvironmentProblem("no cache directory: set HYPERJIT_CACHE_DIR, or HOME; kernels stay in memory until then");
  return exitOk;
}

int list(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  Json answer = jsonHead("cache-ls", "none");
  answer["entries"] = Json::array();
  for (const Found &found : everything(cache)) {
    DecodedEntry entry = KernelCache::inspect(found.file.path);
    std::string spec = entry.artifact ? entry.artifact->meta.spec : "? " + entry.reason;
    std::string target = entry.artifact ? entry.artifact->meta.target : "?";
    answer["entries"].push_back({{"key", found.file.key.hex()}, {"bytes", found.file.bytes}, {"modified", found.file.modified},
                                 {"target", target}, {"spec", spec}, {"layer", found.layer}});
    if (options.json.empty())
      fmt::print("{}  {:>9}  {}  {:<14} {}\n", found.file.key.hex().substr(0, 12), humanBytes(uint64_t(found.file.bytes)),
                 timeText(found.file.modified), target.size() > 14 ? "native" : target, spec);
  }
  writeJson(answer, options.json);
  return exitOk;
}

int show(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  std::vector<Found> matches;
  for (const Found &found : everything(cache))
    if (found.file.key.hex().starts_with(options.key))
      matches.push_back(found);
  if (matches.empty())
    throw UsageError(fmt::format("no entry's key starts with '{}'; hyperjit cache ls lists them", options.key));
  for (const Found &match : matches)
    if (match.file.key != matches[0].file.key)
      throw UsageError(fmt::format("'{}' is the start of {} keys; write more of it", options.key, matches.size()));
  DecodedEntry entry = KernelCache::inspect(matches[0].file.path);
  Json answer = jsonHead("cache-show", "none");
  answer["key"] = matches[0].file.key.hex();
  answer["path"] = matches[0].file.path;
  answer["bytes"] = matches[0].file.bytes;
  answer["ok"] = entry.fault == EntryFault::None;
  answer["reason"] = entry.reason;
  if (entry.artifact) {
    answer["payload_bytes"] = entry.artifact->payload.size();
    answer["meta"] = Json::parse(entry.artifact->meta.json());
  }
  if (options.json.empty())
    fmt::print("{}\n", answer.dump(2));
  writeJson(answer, options.json);
  return entry.fault == EntryFault::None ? exitOk : exitProblem;
}

int stats(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  int64_t entries = 0, bytes = 0;
  for (const Found &found : everything(cache)) {
    ++entries;
    bytes += found.file.bytes;
  }
  Json answer = jsonHead("cache-stats", "none");
  // Counters live in the process that looks kernels up; none is kept on disk.
  for (const char *counter : {"hits", "misses", "bad", "published"})
    answer[counter] = nullptr;
  answer["entries"] = entries;
  answer["bytes"] = bytes;
  if (options.json.empty())
    fmt::print("{} entries, {}\n", entries, humanBytes(uint64_t(bytes)));
  writeJson(answer, options.json);
  return exitOk;
}

int verify(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  Json answer = jsonHead("cache-verify", "none");
  int64_t checked = 0, unknown = 0;
  Json bad = Json::array();
  for (const Found &found : everything(cache)) {
    DecodedEntry entry = KernelCache::inspect(found.file.path);
    ++checked;
    std::string why;
    if (entry.fault == EntryFault::OtherFormat)
      ++unknown;
    else if (entry.fault != EntryFault::None)
      why = entry.reason;
    else if (entry.key && *entry.key != found.file.key)
      why = "the entry belongs to key " + entry.key->hex();
    if (!why.empty()) {
      bad.push_back({{"file", found.file.path}, {"why", why}});
      fmt::print(stderr, "hyperjit: {}: {}\n", found.file.path, why);
    }
  }
  bool whole = bad.empty();
  size_t badCount = bad.size();
  answer["checked"] = checked;
  answer["bad"] = std::move(bad);
  answer["unknown"] = unknown;
  if (options.json.empty())
    fmt::print("{} checked, {} bad, {} of another format\n", checked, badCount, unknown);
  writeJson(answer, options.json);
  return whole ? exitOk : exitProblem;
}

int prune(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  int64_t bytes = cache.clean(true);
  Json answer = jsonHead("cache-prune", "none");
  answer["removed_bytes"] = bytes;
  if (options.json.empty())
    fmt::print("removed {}\n", humanBytes(uint64_t(bytes)));
  writeJson(answer, options.json);
  return exitOk;
}

int clear(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  std::string root = writableRoot(cache);
  int64_t entries = 0, bytes = 0, failed = 0;
  // Only files that are entries: whatever else somebody keeps there stays.
  for (const CacheEntryFile &file : root.empty() ? std::vector<CacheEntryFile>() : KernelCache::list(root)) {
    if (::unlink(file.path.c_str()) == 0) {
      ++entries;
      bytes += file.bytes;
    } else if (errno != ENOENT) {
      ++failed;
      fmt::print(stderr, "hyperjit: {}: {}\n", file.path, std::strerror(errno));
    }
  }
  Json answer = jsonHead("cache-clear", "none");
  answer["removed"] = entries;
  answer["removed_bytes"] = bytes;
  if (options.json.empty())
    fmt::print("removed {} entries, {}\n", entries, humanBytes(uint64_t(bytes)));
  writeJson(answer, options.json);
  return failed ? exitEnvironment : exitOk;
}

int explain(const Options &options) {
  KernelManager &manager = KernelManager::global();
  Json answer = jsonHead("cache-explain", "none");
  answer["kernels"] = Json::array();
  bool all = true;
  Target target = targetOf(options.target);
  for (const std::string &text : options.specs.read()) {
    std::vector<KernelSpec> kernels;
    if (isKernelText(text))
      kernels = {parseKernel(text)};
    else
      kernels = allKernels(parsePart(text));
    for (const KernelSpec &kernel : kernels) {
      KeyFields fields = manager.keyFields(kernel, target);
      CacheKey key = CacheKey::of(fields);
      std::string where;
      for (const Found &found : everything(manager.cache()))
        if (found.file.key == key && where.empty())
          where = found.file.path;
      all &= !where.empty();
      Json list = Json::object();
      for (auto &[field, value] : fields.list())
        list[field] = value;
      answer["kernels"].push_back({{"spec", kernel.text()}, {"key", key.hex()}, {"found", where}, {"fields", list}});
      if (options.json.empty())
        fmt::print("{}\n{}key = {}\n{}\n\n", kernel.text(), fields.text(), key.hex(),
                   where.empty() ? "not in any layer: it would be compiled" : "found in " + where);
    }
  }
  writeJson(answer, options.json);
  return all ? exitOk : exitProblem;
}

} // namespace

void addCache(CLI::App &app, int &exit) {
  auto options = std::make_shared<Options>();
  CLI::App *cache = app.add_subcommand("cache", "the kernels on disk: where, which, whether they are whole");
  cache->require_subcommand(1);
  cache->footer(examples("cache ls", "cache explain manifold:n=4,d=512 --target x86-64-v3"));
  auto add = [&](const char *name, const char *meaning, const char *second, int (*run)(const Options &)) {
    CLI::App *command = cache->add_subcommand(name, meaning);
    addJson(*command, options->json);
    command->footer(examples(fmt::format("cache {}{}", name, second), fmt::format("cache {}{} --json", name, second)));
    command->callback([options, run, &exit] { exit = run(*options); });
    return command;
  };
  add("path", "the directories that are searched, in order", "", path);
  add("ls", "every entry with its spec", "", list);
  add("show", "one entry: its spec, launches, registers", " 3fa9", show)
      ->add_option("KEY", options->key, "the key, or enough of its start")
      ->required();
  add("stats", "how many entries and bytes", "", stats);
  add("verify", "reads every entry and checks it; exit 1 if one is damaged", "", verify);
  add("prune", "removes the least recently used entries above HYPERJIT_CACHE_MAX_SIZE and old temporary files", "", prune);
  add("clear", "removes every entry of the writable directory, and nothing else there", "", clear);
  CLI::App *explaining = add("explain", "what the keys of a spec are made of, and whether they are found; exit 1 if one is not",
                             " static:n=4,d=512", explain);
  options->specs.add(*explaining, true);
  explaining->add_option("--target", options->target, "native, x86-64-v3, sm_90a/h100, ... (native)");
}

} // namespace hyperjit::tools
