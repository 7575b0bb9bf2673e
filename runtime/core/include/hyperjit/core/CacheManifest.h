// CacheManifest.h - what a shipped cache holds, in a file that others can check without our code:
//
//   manifest ::= {"schema": "hyperjit.manifest/1", "version", "toolchains": [text], "targets": [text], "entries":
//   [entry],
//                 "tuning": [file]}
//   entry    ::= {"file": path below the root, "sha256", "size", "target", "toolchain", "spec", "schedule",
//                 "compiler_digest", "key"}
//   file     ::= {"file": "tuning/<name>.jsonl", "sha256", "size"}
//
// Tuning results belong to the kernels: they say which of a spec's schedules is looked up. "tuning" is there where they
// are. <root>/manifest.json, and <root>/SHA256SUMS for `sha256sum -c`. Toolchains and targets stand first, sorted;
// entries are sorted by file. A cache that has a manifest is looked up under the toolchains it names: a machine without
// NVRTC, or with another patch release, would miss all of it otherwise.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_CACHEMANIFEST_H
#define HYPERJIT_CORE_CACHEMANIFEST_H

#include "hyperjit/core/Export.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

/// A larger file is no manifest.
inline constexpr int64_t kMaxManifestBytes = int64_t(256) << 20;

struct ManifestEntry {
  std::string file; ///< "v1/ab/<64 hex>.hjk"
  std::string sha256;
  int64_t size = 0;
  std::string target, toolchain, spec, schedule, compilerDigest, key;

  bool operator==(const ManifestEntry &) const = default;
};

/// A file of tuning results.
struct ManifestFile {
  std::string file; ///< "tuning/<name>.jsonl"
  std::string sha256;
  int64_t size = 0;

  bool operator==(const ManifestFile &) const = default;
};

/// What lookups need of a manifest.
struct ManifestHead {
  std::vector<std::string> toolchains, targets;
};

struct HYPERJIT_EXPORT CacheManifest {
  ManifestHead head;
  std::vector<ManifestEntry> entries;
  std::vector<ManifestFile> tuning;

  /// Throws UserError (InvalidFile) that says what is wrong. `parse(text())` gives the same manifest.
  static CacheManifest parse(std::string_view text);
  std::string text() const;
  /// "<sha256>  <file>" lines.
  std::string sums() const;
  /// Reads every entry and every file of tuning results below the root. What is not whole, or is called as no manifest
  /// can name it, is left out and named in `skipped`.
  static CacheManifest of(const std::string &root, std::vector<std::string> *skipped = nullptr);

  /// What a manifest says of an entry's bytes; empty if they are not the entry of that file's key.
  static std::optional<ManifestEntry> describe(const std::string &file, std::span<const std::byte> bytes);
  /// Toolchains and targets are those of the entries.
  bool headFits() const;

  struct Difference {
    std::string file, why;
  };
  /// Compares the root with this manifest: files missing, changed, resized, described otherwise, or that it does not
  /// name. Locks, counters and what is being written are no part of a cache.
  std::vector<Difference> check(const std::string &root) const;
};

/// The first part of a manifest, which may be cut off behind it. Never throws: a manifest that makes no sense names
/// nothing.
HYPERJIT_EXPORT ManifestHead manifestHead(std::string_view text);
/// 64 hex digits.
HYPERJIT_EXPORT std::string sha256Text(std::span<const std::byte> bytes);

} // namespace hyperjit

#endif // HYPERJIT_CORE_CACHEMANIFEST_H
