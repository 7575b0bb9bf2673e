// A cache as one file: a ustar archive of entries with their manifest, the same bytes from the same entries.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/CacheManifest.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit::tools {

/// Writes SHA256SUMS, manifest.json and every file of `root` that `manifest` names: names sorted, times, owners and
/// numbers zero. `stop` is asked between files. Nothing is left of a file that was not finished. EnvironmentProblem
/// when it cannot be written, UserError (InvalidFile) when a file changed meanwhile. Returns the bytes of the pack.
uint64_t writePack(const std::string &file, const std::string &root, const CacheManifest &manifest,
                   const std::function<bool()> &stop);

/// What becomes of the files of a pack.
struct PackReader {
  std::function<void(const ManifestEntry &, std::span<const std::byte>)> entry;
  std::function<void(const ManifestFile &, std::span<const std::byte>)> tuning;
};
/// Checks the whole archive before `reader` sees any of it: form, names, sizes, SHA-256. Returns its manifest.
/// UserError (InvalidFile) that says what is wrong and where.
CacheManifest readPack(const std::string &file, const PackReader *reader);

/// manifest.json and SHA256SUMS of a folder, each written whole or not at all.
/// Of all that a folder holds. What is left out of it (CacheManifest::of) is returned and named on stderr.
std::vector<std::string> writeManifest(const std::string &root);

/// writeFileWhole for what a cache keeps beside its kernels: never into a pipe or a device, which would be waited for.
void writeCacheFile(const std::filesystem::path &path, std::string_view content);

/// The manifest of a folder (as its entries are now) or of a pack; `skipped` is CacheManifest::of's.
CacheManifest manifestOf(const std::string &place, std::vector<std::string> &skipped);

} // namespace hyperjit::tools
