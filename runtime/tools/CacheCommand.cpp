// hyperjit cache: where kernels are kept, what is there, whether it is whole, and why a spec is or is not found.
// SPDX-License-Identifier: Apache-2.0
#include "Pack.h"
#include "Tool.h"

#include <hyperjit/core/TuningTable.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

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

struct Options {
  std::string json, key, target, file, folder, log;
  std::vector<std::string> places;
  bool manifest = false;
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
  CacheTotals totals;
  if (std::string root = writableRoot(cache); !root.empty())
    totals = KernelCache::totals(root);
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
    fmt::print(stderr, "hyperjit: {}: {}\n", file, why);
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
    std::ifstream file(root + "/manifest.json", std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file)
      continue;
    ++manifests;
    try {
      for (const CacheManifest::Difference &difference : CacheManifest::parse(text).check(root))
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

/// ", 2 files of tuning results", or nothing.
std::string tuningText(const CacheManifest &manifest) {
  size_t count = manifest.tuning.size();
  return count == 0 ? "" : fmt::format(", {} file{} of tuning results", count, count == 1 ? "" : "s");
}

/// Tuning results of a pack beside those that are there. A name that is taken by other results gets a part of the
/// SHA-256 in it, with which it sorts before, and so is asked before, what was there: the pack's kernels are those of
/// its results.
void storeTuning(const std::string &root, const ManifestFile &file, std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char *>(bytes.data()), bytes.size());
  fs::path path = fs::path(root) / file.file;
  auto taken = [&] {
    std::ifstream there(path, std::ios::binary);
    return there && std::string((std::istreambuf_iterator<char>(there)), {}) != text;
  };
  if (taken())
    path.replace_filename(fmt::format("{}-{}.jsonl", path.stem().string().substr(0, 60), file.sha256.substr(0, 12)));
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  writeFileWhole(path, text);
}

int pack(const Options &options) {
  std::string root = options.folder;
  if (root.empty())
    root = Settings::fromEnvironment().cacheDirectory;
  if (std::error_code error; root.empty() || !fs::is_directory(root, error))
    throw UsageError(fmt::format("'{}' is no folder; name the cache to pack with --from DIR", root));
  std::vector<std::string> skipped;
  CacheManifest manifest = CacheManifest::of(root, &skipped);
  for (const std::string &file : skipped)
    fmt::print(stderr, "hyperjit: left out: {}\n", file);
  if (!options.target.empty()) {
    std::set<std::string> wanted, toolchains, targets;
    for (const Target &target : targetsOf(options.target))
      wanted.insert(target.text());
    std::erase_if(manifest.entries, [&](const ManifestEntry &entry) { return !wanted.count(entry.target); });
    for (const ManifestEntry &entry : manifest.entries) {
      toolchains.insert(entry.toolchain);
      targets.insert(entry.target);
    }
    std::erase_if(manifest.head.targets, [&](const std::string &target) { return !targets.count(target); });
    std::erase_if(manifest.head.toolchains, [&](const std::string &toolchain) { return !toolchains.count(toolchain); });
    // A file of results goes along whole where it decides anything for these targets.
    std::erase_if(manifest.tuning, [&](const ManifestFile &file) {
      std::vector<TuningRecord> records = compacted(readTuningFile(root + "/" + file.file).records);
      return std::none_of(records.begin(), records.end(),
                          [&](const TuningRecord &r) { return wanted.count(r.target); });
    });
  }
  if (manifest.entries.empty())
    throw UsageError(fmt::format("{} holds no kernel to pack", root));
  writePack(options.file, root, manifest, interrupted);
  uint64_t bytes = fs::file_size(options.file);
  Json answer = jsonHead("cache-pack", "none");
  answer["file"] = options.file;
  answer["entries"] = manifest.entries.size();
  answer["tuning"] = manifest.tuning.size();
  answer["targets"] = manifest.head.targets;
  answer["bytes"] = bytes;
  answer["skipped"] = skipped;
  if (options.json.empty())
    fmt::print("{}: {} kernels for {}{}, {}\n", options.file, manifest.entries.size(),
               fmt::join(manifest.head.targets, ", "), tuningText(manifest), humanBytes(bytes));
  writeJson(answer, options.json);
  return skipped.empty() ? exitOk : exitProblem;
}

int unpack(const Options &options) {
  Settings settings = Settings::fromEnvironment();
  settings.cache = CacheMode::ReadWrite;
  settings.cacheMaxBytes = int64_t(1) << 50; // what is unpacked on purpose is not thrown away again
  if (!options.folder.empty()) {
    std::error_code error;
    settings.cacheDirectory = fs::absolute(options.folder, error).string();
    settings.trust = CacheTrust::Path;
  }
  if (settings.cacheDirectory.empty())
    throw EnvironmentProblem("no cache to unpack into: name a folder with --to DIR or HYPERJIT_CACHE_DIR");
  const std::string &root = settings.cacheDirectory;
  KernelCache cache(settings);
  int64_t failed = 0;
  // All of the pack is checked before the first kernel is stored; each is stored whole or not at all.
  PackReader reader;
  reader.entry = [&](const ManifestEntry &entry, std::span<const std::byte> bytes) {
    const CacheKey key = *CacheKey::fromHex(entry.key);
    // A file that is no whole entry of this key is no other's either: it makes room.
    if (const DecodedEntry there = KernelCache::inspect(cache.pathOf(key));
        there.fault == EntryFault::Damaged || (there.key && there.key->hex() != entry.key))
      cache.discard(key);
    if (interrupted() || !cache.publishEntry(key, bytes))
      ++failed;
  };
  reader.tuning = [&](const ManifestFile &file, std::span<const std::byte> bytes) { storeTuning(root, file, bytes); };
  CacheManifest manifest = readPack(options.file, &reader);
  if (failed)
    throw EnvironmentProblem(
        fmt::format("{} of {} kernels could not be stored in {}; those that were are whole, the same "
                    "command goes on",
                    failed, manifest.entries.size(), root));
  // Of everything in the folder: packs add up.
  const std::vector<std::string> skipped = writeManifest(root);
  bool runs = manifest.head.targets.empty();
  for (const std::string &name : manifest.head.targets)
    try {
      Target target = Target::parse(name);
      runs |= target.device == DeviceType::Cuda || target.runsHere();
    } catch (const Error &) {
      // A target of a newer version: not ours to run.
    }
  if (!runs)
    fmt::print(stderr, "hyperjit: none of its kernels runs on this machine: they are for {}\n",
               fmt::join(manifest.head.targets, ", "));
  CacheStatistics counted = cache.statistics();
  Json answer = jsonHead("cache-unpack", "none");
  answer["directory"] = root;
  answer["entries"] = manifest.entries.size();
  answer["added"] = counted.published;
  answer["tuning"] = manifest.tuning.size();
  answer["targets"] = manifest.head.targets;
  answer["runs_here"] = runs;
  answer["skipped"] = skipped;
  if (options.json.empty())
    fmt::print("{}: {} kernels for {}, {} new{}\n", root, manifest.entries.size(),
               fmt::join(manifest.head.targets, ", "), counted.published, tuningText(manifest));
  writeJson(answer, options.json);
  return skipped.empty() ? exitOk : exitProblem;
}

int diff(const Options &options) {
  if (options.places.size() != 2)
    throw UsageError("cache diff compares two: folders or packs");
  for (const std::string &place : options.places)
    if (std::error_code error; !fs::exists(place, error))
      throw UsageError(fmt::format("'{}' is neither folder nor pack", place));
  CacheManifest a = manifestOf(options.places[0]), b = manifestOf(options.places[1]);
  Json differences = Json::array();
  auto tell = [&](const ManifestEntry &entry, const std::string &what) {
    differences.push_back({{"key", entry.key}, {"spec", entry.spec}, {"target", entry.target}, {"what", what}});
    if (options.json.empty())
      fmt::print("{:<10} {}  {:<14} {}\n", what, entry.key.substr(0, 12), entry.target, entry.spec);
  };
  auto i = a.entries.begin(), j = b.entries.begin();
  while (i != a.entries.end() || j != b.entries.end()) {
    if (j == b.entries.end() || (i != a.entries.end() && i->file < j->file)) {
      tell(*i++, "only in A");
    } else if (i == a.entries.end() || j->file < i->file) {
      tell(*j++, "only in B");
    } else {
      if (i->sha256 != j->sha256)
        tell(*i, "differs");
      ++i, ++j;
    }
  }
  // Results are compared by content: unpacking may have given a file another name.
  auto tellTuning = [&](const CacheManifest &one, const CacheManifest &other, const std::string &what) {
    for (const ManifestFile &file : one.tuning)
      if (std::none_of(other.tuning.begin(), other.tuning.end(),
                       [&](const ManifestFile &o) { return o.sha256 == file.sha256; })) {
        differences.push_back({{"file", file.file}, {"what", what}});
        if (options.json.empty())
          fmt::print("{:<10} {}\n", what, file.file);
      }
  };
  tellTuning(a, b, "only in A");
  tellTuning(b, a, "only in B");
  bool same = differences.empty();
  Json answer = jsonHead("cache-diff", "none");
  answer["differences"] = std::move(differences);
  if (options.json.empty() && same)
    fmt::print("the same {} kernels\n", a.entries.size());
  writeJson(answer, options.json);
  return same ? exitOk : exitProblem;
}

/// What HYPERJIT_JIT=off complained about in a log becomes a spec list for precompile.
int missing(const Options &options) {
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
    fmt::print(stderr, "hyperjit: {} names no missing kernel\n", options.log);
  writeJson(answer, options.json);
  return exitOk;
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
  // As a run would look: every layer, its trust, packs under their own toolchain; only the compiler is out of reach.
  KernelManagerOptions managerOptions;
  managerOptions.settings.jit = false;
  managerOptions.settings.recordFile.clear();
  managerOptions.settings.explainMiss = false;
  managerOptions.settings.verify = CacheVerify::Checksum;
  if (managerOptions.settings.cache != CacheMode::Off)
    managerOptions.settings.cache = CacheMode::ReadOnly;
  KernelManager manager(managerOptions);
  Json answer = jsonHead("cache-explain", "none");
  answer["kernels"] = Json::array();
  bool all = true;
  Target target = targetOf(options.target);
  for (const std::string &text : options.specs.read()) {
    for (const KernelSpec &kernel : kernelsOf(text)) {
      KeyFields fields;
      CacheKey key;
      std::string where;
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
      }
      std::string verdict = "found in " + where;
      if (where.empty()) {
        all = false;
        verdict = "not in any layer: it would be compiled";
        if (std::optional<NearestEntry> nearest = manager.cache().nearest(fields)) {
          verdict += "\nnearest is " + nearest->path;
          for (const NearestEntry::Difference &difference : nearest->differences) {
            verdict += fmt::format("\n  {} is '{}' here and '{}' there", difference.field, difference.wanted,
                                   difference.found);
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
                                   {"key", key.hex()},
                                   {"found", where},
                                   {"fields", list},
                                   {"differences", differences}});
      if (options.json.empty())
        fmt::print("{}\n{}key = {}\n{}\n\n", kernel.text(), fields.text(), key.hex(), verdict);
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
  add("stats", "how many entries and bytes, and what the processes of the last 30 days counted", "", stats);
  CLI::App *verifying =
      add("verify", "reads every entry and checks it; exit 1 if one is damaged", " --manifest", verify);
  verifying->add_option("DIR", options->places, "folders to check instead of the layers");
  verifying->add_flag("--manifest", options->manifest,
                      "also compare with manifest.json: changed, missing or added files");
  CLI::App *packing =
      add("pack",
          "writes the kernels of a cache and its tuning results into one file, the same bytes from the same content",
          " kernels.hjpack", pack);
  packing->add_option("FILE", options->file, "the pack to write")->required();
  packing->add_option("--from", options->folder, "the cache to pack (the writable directory)");
  packing->add_option("--target", options->target, "comma list: only the kernels of these targets");
  CLI::App *unpacking =
      add("unpack", "checks a pack and stores its kernels and tuning results", " kernels.hjpack --to kernels", unpack);
  unpacking->add_option("FILE", options->file, "the pack")->required();
  unpacking->add_option("--to", options->folder, "the folder to fill (the writable directory)");
  add("diff", "which kernels only one of two folders or packs holds; exit 1 if they differ", " kernels new.hjpack",
      diff)
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
