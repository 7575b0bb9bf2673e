// CacheManifest.cpp - JSON of a shipped cache, and whether a folder is what it says. The grammar is in CacheManifest.h.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/CacheManifest.h"

#include "Json.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/FileSystem.h"
#include "hyperjit/core/KernelCache.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <map>
#include <set>
#include <sodium.h>

namespace fs = std::filesystem;
using namespace hyperjit;
using nlohmann::ordered_json;

std::string hyperjit::sha256Text(std::span<const std::byte> bytes) {
  std::array<unsigned char, crypto_hash_sha256_BYTES> digest;
  crypto_hash_sha256(digest.data(), reinterpret_cast<const unsigned char *>(bytes.data()), bytes.size());
  std::string text;
  for (unsigned char byte : digest)
    text += fmt::format("{:02x}", byte);
  return text;
}

//===-- Parse -----------------------------------------------------------------------------------------------------===//

namespace {
/// Collects the two lists and stops: a manifest of ten thousand entries costs a lookup nothing.
struct HeadReader : nlohmann::json_sax<nlohmann::json> {
  ManifestHead head;
  int depth = 0;
  std::vector<std::string> *list = nullptr; ///< the one that is open
  bool key(std::string &name) override {
    list = depth != 1 ? nullptr : name == "toolchains" ? &head.toolchains : name == "targets" ? &head.targets : nullptr;
    return depth != 1 || name != "entries";
  }
  bool string(std::string &value) override {
    if (list && depth == 2 && std::find(list->begin(), list->end(), value) == list->end())
      list->push_back(value);
    return true;
  }
  bool start_array(size_t) override { return ++depth <= kMaxJsonDepth; }
  bool end_array() override {
    list = nullptr;
    --depth;
    return true;
  }
  bool start_object(size_t) override { return ++depth <= kMaxJsonDepth; }
  bool end_object() override {
    --depth;
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const std::string &) override { return true; }
  bool binary(binary_t &) override { return true; }
  bool parse_error(size_t, const std::string &, const nlohmann::detail::exception &) override { return false; }
};

[[noreturn]] void fail(const std::string &why) {
  throw UserError(ErrorId::InvalidFile, "the manifest makes no sense: " + why);
}

std::string word(const ordered_json &object, const char *key) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_string())
    fail(fmt::format("no text '{}'", key));
  return it->get<std::string>();
}

std::vector<std::string> words(const ordered_json &object, const char *key) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_array())
    fail(fmt::format("no list '{}'", key));
  std::vector<std::string> list;
  for (const ordered_json &item : *it)
    if (item.is_string())
      list.push_back(item.get<std::string>());
    else
      fail(fmt::format("{} holds an item of type {}", key, item.type_name()));
  return list;
}

int64_t sizeIn(const ordered_json &object, const std::string &file) {
  auto size = object.find("size");
  if (size == object.end() || !size->is_number_unsigned() || size->get<uint64_t>() > kMaxEntryBytes)
    fail(fmt::format("{} has no size", file));
  return size->get<int64_t>();
}

/// "v1/<2 hex>/<64 hex>.hjk": nothing else, so that no name leads out of the root.
bool isEntryPath(std::string_view file) {
  return file.size() == 74 && file.starts_with("v1/") && file[5] == '/' && file.ends_with(".hjk") &&
         CacheKey::fromHex(file.substr(6, 64)) && file.substr(3, 2) == file.substr(6, 2);
}

constexpr std::string_view kTuning = "tuning/";

/// "tuning/<name>.jsonl" of printable characters, short enough for an archive: the same care.
bool isTuningPath(std::string_view file) {
  if (!file.starts_with(kTuning) || !file.ends_with(".jsonl") || file.size() > 99)
    return false;
  std::string_view name = file.substr(kTuning.size());
  return name[0] != '.' && fitsJson(name) && std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return c >= ' ' && c != 0x7f && c != '/' && c != '\\';
         });
}

bool isDigest(std::string_view text) { return CacheKey::fromHex(text).has_value(); }
} // namespace

ManifestHead hyperjit::manifestHead(std::string_view text) {
  HeadReader reader;
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  return std::move(reader.head);
}

CacheManifest CacheManifest::parse(std::string_view text) {
  auto object = parseJson<ordered_json>(text);
  if (!object.is_object())
    fail(fmt::format("it is no JSON object, or nested deeper than {}", kMaxJsonDepth));
  if (std::string schema = word(object, "schema"); schema != "hyperjit.manifest/1")
    fail(fmt::format("its schema is '{}', this version reads 'hyperjit.manifest/1'", schema));
  CacheManifest manifest;
  manifest.head.toolchains = words(object, "toolchains");
  manifest.head.targets = words(object, "targets");
  auto entries = object.find("entries");
  if (entries == object.end() || !entries->is_array())
    fail("no list 'entries'");
  for (const ordered_json &item : *entries) {
    if (!item.is_object())
      fail("an entry is no object");
    ManifestEntry entry;
    entry.file = word(item, "file");
    entry.sha256 = word(item, "sha256");
    if (!isEntryPath(entry.file))
      fail(fmt::format("'{}' is no name of an entry", entry.file));
    if (!isDigest(entry.sha256))
      fail(fmt::format("'{}' is no SHA-256", entry.sha256));
    entry.size = sizeIn(item, entry.file);
    entry.target = word(item, "target");
    entry.toolchain = word(item, "toolchain");
    entry.spec = word(item, "spec");
    entry.schedule = word(item, "schedule");
    entry.compilerDigest = word(item, "compiler_digest");
    entry.key = word(item, "key");
    if (entry.key != entry.file.substr(6, 64))
      fail(fmt::format("{} is listed under key {}", entry.file, entry.key));
    manifest.entries.push_back(std::move(entry));
  }
  auto tuning = object.find("tuning");
  if (tuning != object.end() && !tuning->is_array())
    fail("'tuning' is no list");
  if (tuning != object.end())
    for (const ordered_json &item : *tuning) {
      if (!item.is_object())
        fail("a file of tuning results is no object");
      ManifestFile file{word(item, "file"), word(item, "sha256"), 0};
      if (!isTuningPath(file.file))
        fail(fmt::format("'{}' is no name of a file of tuning results", file.file));
      if (!isDigest(file.sha256))
        fail(fmt::format("'{}' is no SHA-256", file.sha256));
      file.size = sizeIn(item, file.file);
      manifest.tuning.push_back(std::move(file));
    }
  return manifest;
}

//===-- Write -----------------------------------------------------------------------------------------------------===//

std::string CacheManifest::text() const {
  ordered_json object = {{"schema", "hyperjit.manifest/1"},
                         {"version", version()},
                         {"toolchains", head.toolchains},
                         {"targets", head.targets}};
  object["entries"] = ordered_json::array();
  for (const ManifestEntry &entry : entries)
    object["entries"].push_back({{"file", entry.file},
                                 {"sha256", entry.sha256},
                                 {"size", entry.size},
                                 {"target", entry.target},
                                 {"toolchain", entry.toolchain},
                                 {"spec", entry.spec},
                                 {"schedule", entry.schedule},
                                 {"compiler_digest", entry.compilerDigest},
                                 {"key", entry.key}});
  for (const ManifestFile &file : tuning)
    object["tuning"].push_back({{"file", file.file}, {"sha256", file.sha256}, {"size", file.size}});
  return object.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string CacheManifest::sums() const {
  std::string text;
  for (const ManifestFile &file : tuning)
    text += fmt::format("{}  {}\n", file.sha256, file.file);
  for (const ManifestEntry &entry : entries)
    text += fmt::format("{}  {}\n", entry.sha256, entry.file);
  return text;
}

/// What a cache ships is a file of its own: no link is followed.
static std::optional<std::string> readFile(const std::string &path) {
  return FileSystem::system().readRegular(path, int64_t(kMaxEntryBytes), O_NOFOLLOW);
}

static std::span<const std::byte> bytesOf(const std::string &text) { return std::as_bytes(std::span(text)); }

std::optional<ManifestEntry> CacheManifest::describe(const std::string &file, std::span<const std::byte> bytes) {
  if (!isEntryPath(file))
    return std::nullopt;
  CacheKey key = *CacheKey::fromHex(std::string_view(file).substr(6, 64));
  DecodedEntry decoded = decodeEntry(bytes, &key);
  if (!decoded.artifact)
    return std::nullopt;
  const ArtifactMeta &meta = decoded.artifact->meta;
  auto field = [&](std::string_view name) {
    auto it =
        std::find_if(meta.keyFields.begin(), meta.keyFields.end(), [&](const auto &f) { return f.first == name; });
    return it == meta.keyFields.end() ? std::string() : it->second;
  };
  return ManifestEntry{file,      sha256Text(bytes), int64_t(bytes.size()),    meta.target, field("toolchain"),
                       meta.spec, field("schedule"), field("compiler digest"), key.hex()};
}

static ManifestHead headOf(const std::vector<ManifestEntry> &entries) {
  std::set<std::string> toolchains, targets;
  for (const ManifestEntry &entry : entries) {
    targets.insert(entry.target);
    if (!entry.toolchain.empty())
      toolchains.insert(entry.toolchain);
  }
  return {{toolchains.begin(), toolchains.end()}, {targets.begin(), targets.end()}};
}

bool CacheManifest::headFits() const {
  ManifestHead wanted = headOf(entries);
  return head.toolchains == wanted.toolchains && head.targets == wanted.targets;
}

CacheManifest CacheManifest::of(const std::string &root, std::vector<std::string> *skipped) {
  CacheManifest manifest;
  for (const CacheEntryFile &file : KernelCache::list(root)) {
    std::optional<std::string> bytes = readFile(file.path);
    std::optional<ManifestEntry> entry;
    if (bytes)
      entry = describe(file.path.substr(root.size() + 1), bytesOf(*bytes));
    if (entry)
      manifest.entries.push_back(std::move(*entry));
    else if (skipped)
      skipped->push_back(fmt::format("{}: it is damaged or cannot be read", file.path));
  }
  std::error_code error;
  for (fs::directory_iterator it(root + "/tuning", error), end; !error && it != end; it.increment(error)) {
    std::string file = std::string(kTuning) + it->path().filename().string();
    if (it->path().extension() != ".jsonl")
      continue;
    std::optional<std::string> bytes = isTuningPath(file) ? readFile(it->path()) : std::nullopt;
    if (bytes)
      manifest.tuning.push_back({file, sha256Text(bytesOf(*bytes)), int64_t(bytes->size())});
    else if (skipped)
      skipped->push_back(fmt::format("{}: it cannot be read, or a manifest cannot name it", it->path().string()));
  }
  auto byFile = [](const auto &a, const auto &b) { return a.file < b.file; };
  std::sort(manifest.entries.begin(), manifest.entries.end(), byFile);
  std::sort(manifest.tuning.begin(), manifest.tuning.end(), byFile);
  manifest.head = headOf(manifest.entries);
  return manifest;
}

//===-- Check -----------------------------------------------------------------------------------------------------===//

std::vector<CacheManifest::Difference> CacheManifest::check(const std::string &root) const {
  std::vector<Difference> differences;
  std::map<std::string, const ManifestEntry *> named;
  for (const ManifestEntry &entry : entries)
    named[entry.file] = &entry;
  for (const auto &[file, entry] : named) {
    std::optional<std::string> bytes = readFile(root + "/" + file);
    if (!bytes)
      differences.push_back({file, errno == ENOENT ? "is missing" : "is no readable file"});
    else if (int64_t(bytes->size()) != entry->size)
      differences.push_back({file, fmt::format("has {} bytes, the manifest says {}", bytes->size(), entry->size)});
    else if (sha256Text(bytesOf(*bytes)) != entry->sha256)
      differences.push_back({file, "has another SHA-256 than the manifest says"});
    else if (describe(file, bytesOf(*bytes)) != *entry)
      differences.push_back({file, "is described otherwise in the manifest"});
  }
  std::set<std::string> results;
  for (const ManifestFile &file : tuning) {
    results.insert(file.file);
    std::optional<std::string> bytes = readFile(root + "/" + file.file);
    if (!bytes)
      differences.push_back({file.file, errno == ENOENT ? "is missing" : "is no readable file"});
    else if (int64_t(bytes->size()) != file.size || sha256Text(bytesOf(*bytes)) != file.sha256)
      differences.push_back({file.file, "has another SHA-256 than the manifest says"});
  }
  if (!headFits())
    differences.push_back({"manifest.json", "names other toolchains or targets than its entries"});
  // What somebody added. The root itself may hold other things of its owner; v1 is ours alone, and so are tuning
  // results.
  std::error_code error;
  for (fs::directory_iterator it(root + "/tuning", error), end; !error && it != end; it.increment(error))
    if (std::string file = std::string(kTuning) + it->path().filename().string();
        it->path().extension() == ".jsonl" && !results.count(file))
      differences.push_back({file, "is not in the manifest"});
  error.clear();
  fs::recursive_directory_iterator it(root + "/v1", error), end;
  for (; !error && it != end; it.increment(error)) {
    fs::path relative = it->path().lexically_relative(root);
    std::string file = relative.generic_string();
    std::string top =
        std::next(relative.begin()) == relative.end() ? std::string() : std::next(relative.begin())->string();
    std::string last = relative.filename().string();
    if (std::error_code unknown; it->is_directory(unknown) && !it->is_symlink(unknown))
      continue;
    if (top == "locks" || top == "stats" || top == ".last_clean" || last.starts_with(".tmp-") ||
        last.starts_with(".bad-"))
      continue;
    if (!named.count(file))
      differences.push_back({file, "is not in the manifest"});
  }
  std::sort(differences.begin(), differences.end(), [](const auto &a, const auto &b) { return a.file < b.file; });
  return differences;
}
