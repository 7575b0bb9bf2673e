// KernelCache.cpp - layers, modes and counters above CacheRoot, which has the protocol.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/KernelCache.h"

#include "CacheRoot.h"
#include "Json.h"
#include "hyperjit/core/Log.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <mutex>
#include <unistd.h>

using namespace hyperjit;

struct KernelCache::State {
  Settings settings;
  std::vector<Layer> layers;
  std::vector<CacheRoot> roots; ///< of the layers
  std::atomic<int64_t> hits{0}, misses{0}, bad{0}, published{0}, lost{0};
  std::atomic<int64_t> storedSinceClean{0};
  std::atomic<bool> firstStore{true};
  pid_t owner = ::getpid();
  std::once_flag manifestsRead;
  ManifestHead shipped;
  std::vector<bool> hasManifest; ///< of the layers

  bool writes() const {
    return !layers.empty() && layers.front().writable &&
           (settings.cache == CacheMode::ReadWrite || settings.cache == CacheMode::Refresh);
  }
  void readManifests();
};

std::string hyperjit::packagedRoot() {
  Dl_info info;
  if (!::dladdr(reinterpret_cast<void *>(&packagedRoot), &info) || !info.dli_fname)
    return {};
  std::string path = info.dli_fname;
  size_t slash = path.rfind('/');
  if (slash == std::string::npos)
    return {};
  path = path.substr(0, slash) + "/hyperjit/kernels";
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) ? path : std::string();
}

KernelCache::KernelCache(const Settings &settings, FileSystem &files, bool ownOnly) : state(std::make_unique<State>()) {
  state->settings = settings;
  if (settings.cache == CacheMode::Off)
    return;
  auto add = [&](const std::string &root, bool writable, CacheRoot::Rules rules) {
    state->layers.push_back({root, writable});
    state->roots.emplace_back(root, rules, files);
  };
  if (!settings.cacheDirectory.empty()) {
    bool writable = settings.cache != CacheMode::ReadOnly;
    bool anybody = settings.trust != CacheTrust::Owner;
    add(settings.cacheDirectory, writable, {!anybody, settings.trust == CacheTrust::Any, anybody, writable});
  } else {
    warnOnce("cache-directory", "no folder for compiled kernels ($HOME is not set): they are kept in memory only; set "
                                "HYPERJIT_CACHE_DIR to keep them");
  }
  if (ownOnly)
    return;
  // Somebody configured these: in a container their files show as uid 65534.
  for (const std::string &root : settings.cachePath)
    add(root, false, {false, false, false, false});
  if (std::string root = packagedRoot(); !root.empty())
    add(root, false, {false, false, false, false});
}

KernelCache::~KernelCache() = default;

const std::vector<KernelCache::Layer> &KernelCache::layers() const { return state->layers; }

std::string KernelCache::pathOf(const CacheKey &key) const {
  if (state->layers.empty() || !state->layers.front().writable)
    return {};
  return state->roots.front().pathOf(key);
}

//===-- Lookup ----------------------------------------------------------------------------------------------------===//

std::optional<Artifact> KernelCache::find(const CacheKey &key, Look look) {
  if (look == Look::Shipped)
    shipped();
  if (state->settings.cache != CacheMode::Refresh)
    for (size_t layer = 0; layer < state->roots.size(); ++layer) {
      if (look == Look::Shipped && !state->hasManifest[layer])
        continue;
      CacheRoot::Loaded loaded = state->roots[layer].load(key);
      state->bad += loaded.damaged;
      if (!loaded.artifact)
        continue;
      if (!loaded.artifact->payload.empty()) {
        ++state->hits;
        if (look != Look::First)
          --state->misses;
      } else if (look == Look::First) {
        ++state->misses;
      }
      return std::move(loaded.artifact);
    }
  if (look == Look::First)
    ++state->misses;
  return std::nullopt;
}

void KernelCache::State::readManifests() {
  auto add = [](std::vector<std::string> &to, const std::vector<std::string> &from) {
    for (const std::string &word : from)
      if (std::find(to.begin(), to.end(), word) == to.end())
        to.push_back(word);
  };
  for (CacheRoot &root : roots) {
    std::optional<std::string> text = root.manifest();
    hasManifest.push_back(text.has_value());
    if (!text)
      continue;
    ManifestHead head = manifestHead(*text);
    add(shipped.toolchains, head.toolchains);
    add(shipped.targets, head.targets);
  }
}

const ManifestHead &KernelCache::shipped() const {
  std::call_once(state->manifestsRead, [&] { state->readManifests(); });
  return state->shipped;
}

//===-- Store -----------------------------------------------------------------------------------------------------===//

bool KernelCache::publish(const CacheKey &key, const Artifact &artifact) {
  if (!state->writes())
    return false;
  std::vector<std::byte> bytes = encodeEntry(key, artifact);
  if (bytes.size() > kMaxEntryBytes) {
    warnOnce("cache-large",
             fmt::format("a kernel of {} bytes is not kept on disk: {}", bytes.size(), artifact.meta.spec));
    return false;
  }
  if (state->settings.cache == CacheMode::Refresh)
    discard(key);
  return store(key, bytes);
}

bool KernelCache::publishEntry(const CacheKey &key, std::span<const std::byte> entry) {
  return state->writes() && decodeEntry(entry, &key).fault == EntryFault::None && store(key, entry);
}

bool KernelCache::store(const CacheKey &key, std::span<const std::byte> bytes) {
  CacheRoot &root = state->roots.front();
  int64_t limit = state->settings.cacheMaxBytes;
  CacheRoot::PublishResult result = root.publish(key, bytes, limit);
  switch (result.published) {
  case CacheRoot::Published::Theirs:
    ++state->lost;
    return true;
  case CacheRoot::Published::Not:
    if (result.error != CacheRoot::kRefused)
      warnOnce(
          fmt::format("cache-store-{}", result.error),
          fmt::format("compiled kernels are not kept in {}: {}; set HYPERJIT_CACHE_DIR to a folder that can be written",
                      root.path(), std::strerror(result.error)));
    return false;
  case CacheRoot::Published::Ours:
    break;
  }
  ++state->published;
  // A process cleans after it has stored a sixteenth of the limit itself, or when the last clean is a day old.
  int64_t stored = state->storedSinceClean += int64_t(bytes.size());
  if (state->firstStore.exchange(false) || stored > limit / 16)
    clean(stored > limit / 16);
  return true;
}

void KernelCache::discard(const CacheKey &key) {
  if (state->writes())
    state->roots.front().discard(key);
}

KernelCache::ShardLock KernelCache::lock(const CacheKey &key) {
  if (!state->writes())
    return {};
  return state->roots.front().lock(key, state->settings.lockTimeoutSeconds);
}

int64_t KernelCache::clean(bool force) {
  if (!state->writes())
    return 0;
  state->storedSinceClean = 0;
  return state->roots.front().clean(state->settings.cacheMaxBytes, force);
}

//===-- Counters --------------------------------------------------------------------------------------------------===//

CacheStatistics KernelCache::statistics() const {
  return {state->hits, state->misses, state->bad, state->published, state->lost};
}

void KernelCache::saveStatistics(int64_t compiled, double compileMilliseconds) const {
  CacheStatistics counted = statistics();
  // A forked child's counters began as its parent's, which are the parent's to save.
  if (!state->writes() || state->owner != ::getpid() || counted.hits + counted.misses == 0)
    return;
  nlohmann::json object = {{"hits", counted.hits},
                           {"misses", counted.misses},
                           {"bad", counted.bad},
                           {"published", counted.published},
                           {"lost", counted.lost},
                           {"compiled", compiled},
                           {"compile_ms", compileMilliseconds}};
  state->roots.front().writeStatistics(object.dump());
}

CacheTotals KernelCache::totals(const std::string &root) {
  CacheTotals totals;
  for (const std::string &text : CacheRoot(root, {false, false, false, false}, FileSystem::system()).readStatistics()) {
    auto object = parseJson<nlohmann::json>(text);
    if (!object.is_object())
      continue; // torn: its process was killed
    // Sums end at the largest whole number: whatever the files say, none becomes negative or infinite.
    auto add = [&](auto &sum, const char *key) {
      using Number = std::remove_reference_t<decltype(sum)>;
      auto it = object.find(key);
      if (it == object.end() || !it->is_number())
        return;
      const Number room = Number(std::numeric_limits<int64_t>::max()) - sum;
      const double value = it->template get<double>();
      if (value >= double(room))
        sum += room;
      else if (value > 0)
        sum += Number(value);
    };
    ++totals.processes;
    add(totals.cache.hits, "hits");
    add(totals.cache.misses, "misses");
    add(totals.cache.bad, "bad");
    add(totals.cache.published, "published");
    add(totals.cache.lost, "lost");
    add(totals.compiled, "compiled");
    add(totals.compileMilliseconds, "compile_ms");
  }
  return totals;
}

//===-- For the commands ------------------------------------------------------------------------------------------===//

std::vector<CacheEntryFile> KernelCache::list(const std::string &root) {
  return CacheRoot(root, {false, false, false, false}, FileSystem::system()).list();
}

DecodedEntry KernelCache::inspect(const std::string &path) {
  FileSystem &files = FileSystem::system();
  DecodedEntry decoded;
  Descriptor file(files, files.openat(AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status;
  int error = file && files.fstat(file.get(), &status) == 0 ? 0 : errno;
  if (!error && !S_ISREG(status.st_mode))
    error = EINVAL;
  if (!error && status.st_size > off_t(kMaxEntryBytes))
    error = EFBIG;
  std::vector<std::byte> bytes(error ? 0 : size_t(status.st_size));
  size_t have = 0;
  while (!error && have < bytes.size()) {
    ssize_t got = files.pread(file.get(), bytes.data() + have, bytes.size() - have, off_t(have));
    if (got < 0 && errno != EINTR)
      error = errno;
    if (got == 0)
      break;
    have += got > 0 ? size_t(got) : 0;
  }
  if (error) {
    decoded.reason = fmt::format("cannot be read: {}", std::strerror(error));
    return decoded;
  }
  bytes.resize(have);
  size_t slash = path.rfind('/');
  std::string_view name = std::string_view(path).substr(slash == std::string::npos ? 0 : slash + 1);
  std::optional<CacheKey> key = CacheKey::fromHex(name.substr(0, std::min<size_t>(64, name.size())));
  return decodeEntry(bytes, key ? &*key : nullptr);
}

std::optional<NearestEntry> KernelCache::nearest(const KeyFields &fields) const {
  std::optional<NearestEntry> best;
  for (const Layer &layer : state->layers)
    for (const CacheEntryFile &entry : list(layer.root)) {
      DecodedEntry decoded = inspect(entry.path);
      if (!decoded.artifact || decoded.artifact->payload.empty())
        continue;
      NearestEntry candidate;
      candidate.path = entry.path;
      const auto &theirs = decoded.artifact->meta.keyFields;
      for (const auto &[field, wanted] : fields.list()) {
        auto it =
            std::find_if(theirs.begin(), theirs.end(), [&, &name = field](const auto &f) { return f.first == name; });
        std::string found = it == theirs.end() ? std::string("(not recorded)") : it->second;
        if (found != wanted)
          candidate.differences.push_back({field, wanted, found});
      }
      if (!best || candidate.differences.size() < best->differences.size())
        best = std::move(candidate);
    }
  return best;
}
