// hyperjit cache pack, unpack, diff: kernels that travel, and their tuning results with them.
// SPDX-License-Identifier: Apache-2.0
#include "CacheCommand.h"
#include "Pack.h"
#include "autotune/Machine.h"

#include <hyperjit/core/Backend.h>
#include <hyperjit/core/FileSystem.h>
#include <hyperjit/core/TuningTable.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <set>

namespace fs = std::filesystem;

namespace hyperjit::tools {

/// ", 2 files of tuning results", or nothing.
static std::string tuningText(const CacheManifest &manifest) {
  size_t count = manifest.tuning.size();
  return count == 0 ? "" : fmt::format(", {} file{} of tuning results", count, count == 1 ? "" : "s");
}

/// Tuning results of a pack beside those that are there. A name that is taken by other results gets a part of the
/// SHA-256 in it, with which it sorts before, and so is asked before, what was there: the pack's kernels are those of
/// its results.
static void storeTuning(const std::string &root, const ManifestFile &file, std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char *>(bytes.data()), bytes.size());
  fs::path path = fs::path(root) / file.file;
  std::optional<std::string> there = FileSystem::system().readRegular(path, int64_t(kMaxEntryBytes));
  if (there ? *there != text : errno != ENOENT)
    path.replace_filename(fmt::format("{}-{}.jsonl", path.stem().string().substr(0, 60), file.sha256.substr(0, 12)));
  makeFolders(path.parent_path());
  writeCacheFile(path, text);
}

int packCache(const CacheOptions &options) {
  refuseSameFile({{"FILE", options.file}, {"--json", options.json}});
  std::string root = options.folder;
  if (root.empty())
    root = Settings::fromEnvironment().cacheDirectory;
  if (std::error_code error; root.empty() || !fs::is_directory(root, error))
    throw UsageError(fmt::format("'{}' is no folder; name the cache to pack with --from DIR", root));
  std::vector<std::string> skipped;
  CacheManifest manifest = CacheManifest::of(root, &skipped);
  for (const std::string &file : skipped)
    say("left out: {}", file);
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
  watchInterrupt();
  const uint64_t bytes = writePack(options.file, root, manifest, interrupted);
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

/// Without a manifest a run looks for kernels of its machine's own target and toolchain: says how many are others.
static void nameUnserved(const CacheManifest &manifest) {
  const Target here = targetHere(), host = Target::hostLevel();
  auto served = [&](const ManifestEntry &entry) {
    try {
      const Target &own = entry.target == here.text() ? here : host;
      const auto backend = Backend::find(own.device);
      return entry.target == own.text() && backend && entry.toolchain == backend->toolchain();
    } catch (const Error &) {
      return false; // no such library here
    }
  };
  const auto others = std::count_if(manifest.entries.begin(), manifest.entries.end(), std::not_fn(served));
  if (others > 0)
    say("{} of its kernels are for other targets or of other toolchains than this machine's, and are "
        "found only in a folder with a manifest (--to DIR, then HYPERJIT_CACHE_PATH=DIR)",
        others);
}

int unpackCache(const CacheOptions &options) {
  refuseSameFile({{"FILE", options.file}, {"--json", options.json}});
  Settings settings = Settings::fromEnvironment();
  if (options.folder.empty() && (settings.cache == CacheMode::ReadOnly || settings.cache == CacheMode::Off))
    throw EnvironmentProblem(
        fmt::format("nothing was unpacked: HYPERJIT_CACHE={} keeps the cache folder as it is; name "
                    "another with --to DIR",
                    settings.cache == CacheMode::Off ? "off" : "ro"));
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
    watchInterrupt(); // until the pack is checked nothing is changed
    const CacheKey key = *CacheKey::fromHex(entry.key);
    // A file that is no whole entry of this key is no other's either: it makes room.
    if (const DecodedEntry there = KernelCache::inspect(cache.pathOf(key));
        there.fault == EntryFault::Damaged || (there.key && there.key->hex() != entry.key))
      cache.discard(key);
    if (interrupted() || !cache.publishEntry(key, bytes))
      ++failed;
  };
  reader.tuning = [&](const ManifestFile &file, std::span<const std::byte> bytes) {
    watchInterrupt();
    storeTuning(root, file, bytes);
  };
  CacheManifest manifest = readPack(options.file, &reader);
  if (failed)
    throw EnvironmentProblem(
        fmt::format("{} of {} kernels could not be stored in {}; those that were are whole, the same "
                    "command goes on",
                    failed, manifest.entries.size(), root));
  // Of everything in the folder: packs add up. A cache that runs fill has none, unless it is a shipped one: each kernel
  // that is compiled, used up or cleared away would make it wrong.
  std::vector<std::string> skipped;
  if (std::error_code error; !options.folder.empty() || fs::exists(root + "/manifest.json", error))
    skipped = writeManifest(root);
  else
    nameUnserved(manifest);
  bool runs = manifest.head.targets.empty();
  for (const std::string &name : manifest.head.targets)
    try {
      Target target = Target::parse(name);
      runs |= target.device == DeviceType::Cuda || target.runsHere();
    } catch (const Error &) {
      // A target of a newer version: not ours to run.
    }
  if (!runs)
    say("none of its kernels runs on this machine: they are for {}", fmt::join(manifest.head.targets, ", "));
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

int diffCaches(const CacheOptions &options) {
  if (options.places.size() != 2)
    throw UsageError("cache diff compares two: folders or packs");
  for (const std::string &place : options.places)
    if (std::error_code error; !fs::exists(place, error))
      throw UsageError(fmt::format("'{}' is neither folder nor pack", place));
  std::vector<std::string> skipped;
  CacheManifest a = manifestOf(options.places[0], skipped), b = manifestOf(options.places[1], skipped);
  for (const std::string &file : skipped)
    say("not compared: {}", file);
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
  answer["skipped"] = skipped;
  if (options.json.empty() && same)
    fmt::print("the same {} kernels{}\n", a.entries.size(),
               skipped.empty() ? "" : fmt::format(", and {} files that could not be compared", skipped.size()));
  writeJson(answer, options.json);
  return same && skipped.empty() ? exitOk : exitProblem;
}

} // namespace hyperjit::tools
