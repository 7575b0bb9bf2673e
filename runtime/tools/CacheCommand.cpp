// hyperjit cache: where kernels are kept, what is there, whether it is whole, and why a spec is or is not found.
// SPDX-License-Identifier: Apache-2.0
#include "CacheCommand.h"

#include <hyperjit/core/Backend.h>
#include <hyperjit/core/FileSystem.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <regex>
#include <set>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::tools {

namespace {

using Options = CacheOptions;

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

/// The writable layer; where there is none, that is the answer.
std::string rootToChange(const KernelCache &cache) {
  for (const auto &layer : cache.layers())
    if (layer.writable)
      return layer.root;
  const CacheMode mode = Settings::fromEnvironment().cache;
  if (mode == CacheMode::ReadOnly || mode == CacheMode::Off)
    throw EnvironmentProblem(fmt::format("nothing was removed: HYPERJIT_CACHE={} keeps the cache folder as it is",
                                         mode == CacheMode::Off ? "off" : "ro"));
  throw EnvironmentProblem("there is no cache folder: set HYPERJIT_CACHE_DIR, or HOME");
}

std::string timeText(int64_t seconds) {
  std::time_t time = seconds;
  char text[32];
  std::tm local{};
  if (!::localtime_r(&time, &local)) // a year beyond its numbers
    return fmt::format("@{}", seconds);
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &local);
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
    answer["entries"].push_back({{"key", found.file.key.hex()},
                                 {"bytes", found.file.bytes},
                                 {"modified", found.file.modified},
                                 {"target", target},
                                 {"spec", spec},
                                 {"layer", found.layer}});
    if (options.json.empty())
      fmt::print("{}  {:>9}  {}  {:<14} {}\n", found.file.key.hex().substr(0, 12),
                 humanBytes(uint64_t(found.file.bytes)), timeText(found.file.modified),
                 target.size() > 14 ? "native" : target, spec);
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
    fmt::print("{}\n", answer.dump(2, ' ', false, Json::error_handler_t::replace));
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
  CacheTotals totals;
  // The first layer is the user's own, where processes that write leave their counts; HYPERJIT_CACHE=ro still reads it.
  if (!cache.layers().empty())
    totals = KernelCache::totals(cache.layers().front().root);
  Json answer = jsonHead("cache-stats", "none");
  answer["hits"] = totals.cache.hits;
  answer["misses"] = totals.cache.misses;
  answer["bad"] = totals.cache.bad;
  answer["published"] = totals.cache.published;
  answer["lost"] = totals.cache.lost;
  answer["compiled"] = totals.compiled;
  answer["compile_ms"] = totals.compileMilliseconds;
  answer["processes"] = totals.processes;
  answer["entries"] = entries;
  answer["bytes"] = bytes;
  if (options.json.empty())
    fmt::print(
        "{} entries, {}\n{} processes of the last 30 days: {} hits, {} misses, {} bad, {} published, {} compiled in "
        "{:.1f} s\n",
        entries, humanBytes(uint64_t(bytes)), totals.processes, totals.cache.hits, totals.cache.misses,
        totals.cache.bad, totals.cache.published, totals.compiled, totals.compileMilliseconds / 1000);
  writeJson(answer, options.json);
  return exitOk;
}

int verify(const Options &options) {
  std::vector<std::string> roots = options.places;
  for (const std::string &root : roots)
    if (std::error_code error; !fs::is_directory(root, error))
      throw UsageError(fmt::format("'{}' is no folder", root));
  if (roots.empty()) {
    KernelCache cache(Settings::fromEnvironment());
    for (const auto &layer : cache.layers())
      roots.push_back(layer.root);
  }
  int64_t checked = 0, unknown = 0, manifests = 0;
  Json bad = Json::array();
  auto complain = [&](const std::string &file, const std::string &why) {
    bad.push_back({{"file", file}, {"why", why}});
    say("{}: {}", file, why);
  };
  for (const std::string &root : roots) {
    for (const CacheEntryFile &file : KernelCache::list(root)) {
      DecodedEntry entry = KernelCache::inspect(file.path);
      ++checked;
      if (entry.fault == EntryFault::OtherFormat)
        ++unknown;
      else if (entry.fault != EntryFault::None)
        complain(file.path, entry.reason);
    }
    if (!options.manifest)
      continue;
    std::optional<std::string> text = FileSystem::system().readRegular(root + "/manifest.json", kMaxManifestBytes);
    if (!text && errno == ENOENT)
      continue;
    ++manifests;
    try {
      if (!text)
        throw UserError(ErrorId::InvalidFile,
                        errno == EINVAL ? "is no plain file" : fmt::format("cannot be read: {}", std::strerror(errno)));
      for (const CacheManifest::Difference &difference : CacheManifest::parse(*text).check(root))
        complain(root + "/" + difference.file, difference.why);
    } catch (const Error &error) {
      complain(root + "/manifest.json", error.what());
    }
  }
  if (options.manifest && manifests == 0)
    throw UsageError("no manifest.json in any of the folders; precompile --out and cache unpack write one");
  bool whole = bad.empty();
  size_t badCount = bad.size();
  Json answer = jsonHead("cache-verify", "none");
  answer["checked"] = checked;
  answer["bad"] = std::move(bad);
  answer["unknown"] = unknown;
  answer["manifests"] = manifests;
  if (options.json.empty())
    fmt::print("{} checked, {} bad, {} of another format\n", checked, badCount, unknown);
  writeJson(answer, options.json);
  return whole ? exitOk : exitProblem;
}

/// What HYPERJIT_JIT=off complained about in a log becomes a spec list for precompile.
int missing(const Options &options) {
  refuseSameFile({{"--log", options.log}, {"--json", options.json}});
  std::ifstream file;
  if (options.log != "-") {
    file.open(options.log);
    if (std::error_code error; !file || fs::is_directory(options.log, error))
      throw UsageError(fmt::format("--log {}: the file cannot be read", options.log));
  }
  std::istream &in = options.log == "-" ? std::cin : file;
  static const std::regex line("no compiled kernel for '([^']+)', target (.+?) \\(key [0-9a-f]{64}\\)");
  std::set<std::pair<std::string, std::string>> kernels; // by target
  for (std::string text; std::getline(in, text);) {
    // Somebody's log may have lines of megabytes; ours are short.
    if (size_t at = text.find("no compiled kernel for '"); at != std::string::npos) {
      std::string part = text.substr(at, 8192);
      for (std::sregex_iterator it(part.begin(), part.end(), line), end; it != end; ++it)
        kernels.emplace((*it)[2], (*it)[1]);
    }
  }
  Json answer = jsonHead("cache-missing", "none");
  answer["kernels"] = Json::array();
  std::string target;
  for (const auto &[wanted, spec] : kernels) {
    answer["kernels"].push_back({{"spec", spec}, {"target", wanted}});
    if (options.json.empty() && wanted != target)
      fmt::print("# --target {}\n", wanted);
    target = wanted;
    if (options.json.empty())
      fmt::print("{}\n", spec);
  }
  if (kernels.empty())
    say("{} names no missing kernel", options.log);
  writeJson(answer, options.json);
  return exitOk;
}

int prune(const Options &options) {
  KernelCache cache(Settings::fromEnvironment());
  rootToChange(cache);
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
  std::string root = rootToChange(cache);
  int64_t entries = 0, bytes = 0, failed = 0;
  // Only files that are entries: whatever else somebody keeps there stays.
  for (const CacheEntryFile &file : KernelCache::list(root)) {
    if (::unlink(file.path.c_str()) == 0) {
      ++entries;
      bytes += file.bytes;
    } else if (errno != ENOENT) {
      ++failed;
      say("{}: {}", file.path, std::strerror(errno));
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
  // As a run would look: every layer, its trust, packs under their own toolchain; only the compiler is out of reach.
  KernelManagerOptions managerOptions;
  managerOptions.substitutes = !managerOptions.settings.jit; // a run that may would compile the tuned kernel
  managerOptions.settings.jit = false;
  managerOptions.settings.recordFile.clear();
  managerOptions.settings.explainMiss = false;
  managerOptions.settings.verify = CacheVerify::Checksum;
  if (managerOptions.settings.cache != CacheMode::Off)
    managerOptions.settings.cache = CacheMode::ReadOnly;
  KernelManager manager(managerOptions);
  Json answer = jsonHead("cache-explain", "none");
  answer["kernels"] = Json::array();
  Target target = targetOf(options.target);
  std::vector<KernelSpec> kernels;
  const std::vector<SpecMistake> mistakes = eachSpec(options.specs.read(), [&](const SpecText &spec) {
    for (KernelSpec &kernel : kernelsOf(spec.text))
      kernels.push_back(std::move(kernel));
  });
  answer["failed"] = mistakesJson(mistakes);
  bool all = mistakes.empty();
  for (const KernelSpec &kernel : kernels) {
    KeyFields fields;
    CacheKey key;
    std::string where, lacking;
    Json differences = Json::array();
    try {
      ResolvedArtifact found = manager.artifact(kernel, target);
      fields = found.fields;
      key = found.key;
      for (const Found &file : everything(manager.cache()))
        if (file.file.key == key && where.empty())
          where = file.file.path;
    } catch (const MissingKernelError &) {
      fields = manager.keyFields(kernel, target);
      key = CacheKey::of(fields);
      if (fields.toolchain.empty())
        try {
          Backend::find(target.device)->toolchain();
        } catch (const UserError &error) {
          lacking = error.what();
        }
    }
    std::string verdict = "found in " + where;
    if (where.empty()) {
      all = false;
      verdict = lacking.empty() ? "not in any layer: it would be compiled"
                                : "not in any layer, and cannot be compiled here: " + lacking;
      if (std::optional<NearestEntry> nearest = manager.cache().nearest(fields)) {
        verdict += "\nnearest is " + nearest->path;
        for (const NearestEntry::Difference &difference : nearest->differences) {
          verdict +=
              fmt::format("\n  {} is '{}' here and '{}' there", difference.field, difference.wanted, difference.found);
          differences.push_back(
              {{"field", difference.field}, {"wanted", difference.wanted}, {"found", difference.found}});
        }
        if (nearest->differences.empty())
          verdict += "\n  every field is equal: it is damaged, or its owner or mode is not trusted";
      }
    }
    Json list = Json::object();
    for (auto &[field, value] : fields.list())
      list[field] = value;
    answer["kernels"].push_back({{"spec", kernel.text()},
                                 {"key", lacking.empty() ? key.hex() : ""},
                                 {"toolchain_missing", lacking},
                                 {"found", where},
                                 {"fields", list},
                                 {"differences", differences}});
    if (options.json.empty())
      fmt::print("{}\n{}key = {}\n{}\n\n", kernel.text(), fields.text(),
                 lacking.empty() ? key.hex() : "(unknown: the toolchain is part of it, and is not on this machine)",
                 verdict);
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
  add("stats", "how many entries and bytes, and what the processes of the last 30 days counted", "", stats);
  CLI::App *verifying =
      add("verify", "reads every entry and checks it; exit 1 if one is damaged", " --manifest", verify);
  verifying->add_option("DIR", options->places, "folders to check instead of the layers");
  verifying->add_flag("--manifest", options->manifest,
                      "also compare with manifest.json: changed, missing or added files");
  CLI::App *packing =
      add("pack",
          "writes the kernels of a cache and its tuning results into one file, the same bytes from the same content",
          " kernels.hjpack", packCache);
  packing->add_option("FILE", options->file, "the pack to write")->required();
  packing->add_option("--from", options->folder, "the cache to pack (the writable directory)");
  packing->add_option("--target", options->target, "comma list: only the kernels of these targets");
  CLI::App *unpacking =
      add("unpack", "checks a pack and stores its kernels and tuning results, in --to DIR with a manifest",
          " kernels.hjpack --to kernels", unpackCache);
  unpacking->add_option("FILE", options->file, "the pack")->required();
  unpacking->add_option("--to", options->folder, "the folder to fill (the writable directory)");
  add("diff", "which kernels only one of two folders or packs holds; exit 1 if they differ or cannot be read",
      " kernels new.hjpack", diffCaches)
      ->add_option("PLACE", options->places, "folder or pack")
      ->expected(2);
  add("missing", "the spec list of the kernels that HYPERJIT_JIT=off missed in a log", " --log run.log", missing)
      ->add_option("--log", options->log, "the log, - for stdin")
      ->required();
  add("prune", "removes the least recently used entries above HYPERJIT_CACHE_MAX_SIZE and old temporary files", "",
      prune);
  add("clear", "removes every entry of the writable directory, and nothing else there", "", clear);
  CLI::App *explaining =
      add("explain", "what the keys of a spec are made of, and whether they are found; exit 1 if one is not",
          " static:n=4,d=512", explain);
  options->specs.add(*explaining, true);
  explaining->add_option("--target", options->target,
                         "native, x86-64-v3, sm_90a/h100, ... (the best x86-64 level of this CPU)");
}

} // namespace hyperjit::tools
