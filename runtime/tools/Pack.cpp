// SPDX-License-Identifier: Apache-2.0
//
// The archive is POSIX ustar, so that tar and every OCI tool read it; entries are compressed already. It is written
// here because the same entries must give the same bytes, and because the command goes along in a bundle that brings no
// library.
//
//   pack   ::= member* zero[512] zero[512]
//   member ::= name[100] mode[8] uid[8] gid[8] size[12] mtime[12] checksum[8] type "0" link[100] "ustar\0" "00"
//   zero[247]
//              content, padded with zeros to 512
#include "Pack.h"

#include "Console.h"

#include <hyperjit/core/Artifact.h>
#include <hyperjit/core/Error.h>
#include <hyperjit/core/FileSystem.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/file.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::tools {

namespace {

constexpr size_t kBlock = 512;
using Block = std::array<char, kBlock>;
constexpr const char *kManifestName = "manifest.json", *kSumsName = "SHA256SUMS";

uint32_t checksumOf(const Block &block) {
  uint32_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i)
    sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>(block[i]);
  return sum;
}

Block header(const std::string &name, size_t size) {
  Block block{};
  auto put = [&](size_t at, const std::string &text) { std::memcpy(block.data() + at, text.data(), text.size()); };
  put(0, name);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, fmt::format("{:011o}", size));
  put(136, "00000000000");
  put(156, "0");
  put(257, std::string("ustar\0"
                       "00",
                       8));
  put(148, fmt::format("{:06o}", checksumOf(block)) + std::string("\0 ", 2));
  return block;
}

[[noreturn]] void bad(const std::string &file, const std::string &why) {
  throw UserError(ErrorId::InvalidFile, fmt::format("{} is no whole pack: {}", file, why));
}

std::string readFile(const std::string &path) {
  std::optional<std::string> bytes = FileSystem::system().readRegular(path, int64_t(kMaxEntryBytes), O_NOFOLLOW);
  if (!bytes)
    throw UserError(ErrorId::InvalidFile, fmt::format("{} cannot be read", path));
  return std::move(*bytes);
}

std::span<const std::byte> bytesOf(const std::string &text) { return std::as_bytes(std::span(text)); }

uint64_t octal(const std::string &file, const char *text, size_t length) {
  uint64_t value = 0;
  for (size_t i = 0; i < length && text[i] && text[i] != ' '; ++i) {
    if (text[i] < '0' || text[i] > '7')
      bad(file, "a size is no octal number");
    value = value * 8 + uint64_t(text[i] - '0');
  }
  return value;
}

/// Calls `member` for each; the content is in memory while it runs.
void walk(const std::string &path, const std::function<void(const std::string &, std::span<const std::byte>)> &member) {
  std::error_code error;
  if (fs::file_status there = fs::status(path, error); fs::exists(there) && !fs::is_regular_file(there))
    throw UsageError(fmt::format("{} is {}; a pack is one file, written by hyperjit cache pack", path,
                                 fs::is_directory(there) ? "a folder" : "no plain file"));
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw UsageError(fmt::format("{} cannot be opened: {}", path, std::strerror(errno)));
  Block block;
  for (uint64_t at = 0;; at += kBlock) {
    if (!file.read(block.data(), kBlock))
      bad(path, fmt::format("it ends at byte {} without its end mark", at + uint64_t(file.gcount())));
    if (std::all_of(block.begin(), block.end(), [](char c) { return c == 0; }))
      return;
    if (std::memcmp(block.data() + 257, "ustar", 5) != 0 || octal(path, block.data() + 148, 8) != checksumOf(block))
      bad(path, fmt::format("what stands at byte {} is no head of a member", at));
    std::string name(block.data(), ::strnlen(block.data(), 100));
    if (block[156] == '5' || block[156] == 'x' || block[156] == 'g')
      bad(path, fmt::format("'{}' is no plain file; packs are written by hyperjit cache pack", name));
    if ((block[156] != '0' && block[156] != 0) || block[345] != 0)
      bad(path, fmt::format("'{}' is no plain file", name));
    uint64_t size = octal(path, block.data() + 124, 12);
    if (size > (name == kManifestName || name == kSumsName ? uint64_t(kMaxManifestBytes) : kMaxEntryBytes))
      bad(path, fmt::format("'{}' says that it has {} bytes", name, size));
    std::vector<std::byte> content(size);
    uint64_t padded = (size + kBlock - 1) / kBlock * kBlock;
    if (!file.read(reinterpret_cast<char *>(content.data()), std::streamsize(size)) ||
        !file.ignore(std::streamsize(padded - size)) || uint64_t(file.gcount()) != padded - size)
      bad(path, fmt::format("it ends inside '{}'", name));
    member(name, content);
    at += padded;
  }
}

} // namespace

uint64_t writePack(const std::string &path, const std::string &root, const CacheManifest &manifest,
                   const std::function<bool()> &stop) {
  uint64_t written = 2 * kBlock; // the end of the archive
  OutputFile output(path);
  std::ofstream &file = output.stream;
  auto add = [&](const std::string &name, std::span<const std::byte> bytes) {
    static constexpr Block zeros{};
    Block head = header(name, bytes.size());
    file.write(head.data(), kBlock);
    file.write(reinterpret_cast<const char *>(bytes.data()), std::streamsize(bytes.size()));
    file.write(zeros.data(), std::streamsize((kBlock - bytes.size() % kBlock) % kBlock));
    written += kBlock + (bytes.size() + kBlock - 1) / kBlock * kBlock;
    if (!file)
      throw EnvironmentProblem(fmt::format("cannot write '{}': {}", path, std::strerror(errno ? errno : EIO)));
  };
  add(kSumsName, bytesOf(manifest.sums()));
  add(kManifestName, bytesOf(manifest.text()));
  auto addFrom = [&](const std::string &name, const std::string &sha256) {
    if (stop())
      throw EnvironmentProblem(fmt::format("interrupted: '{}' was not written", path));
    std::string bytes = readFile(root + "/" + name);
    if (sha256Text(bytesOf(bytes)) != sha256)
      throw UserError(ErrorId::InvalidFile, fmt::format("{}/{} changed while it was packed", root, name));
    add(name, bytesOf(bytes));
  };
  for (const ManifestFile &each : manifest.tuning)
    addFrom(each.file, each.sha256);
  for (const ManifestEntry &entry : manifest.entries)
    addFrom(entry.file, entry.sha256);
  Block zeros{};
  file.write(zeros.data(), kBlock);
  file.write(zeros.data(), kBlock);
  output.finish();
  return written;
}

namespace {
/// A file that a manifest names; `entry` is null for tuning results.
struct Named {
  const ManifestEntry *entry = nullptr;
  const ManifestFile *tuning = nullptr;
  const std::string &sha256() const { return entry ? entry->sha256 : tuning->sha256; }
};
} // namespace

CacheManifest readPack(const std::string &path, const PackReader *reader) {
  CacheManifest manifest;
  std::map<std::string, Named> all, missing;
  bool named = false;
  auto check = [&](const std::string &name, std::span<const std::byte> bytes) {
    if (name == kManifestName) {
      if (named) // of two, each could name what the other does not
        bad(path, "it has two manifests");
      try {
        manifest = CacheManifest::parse({reinterpret_cast<const char *>(bytes.data()), bytes.size()});
      } catch (const UserError &error) {
        bad(path, error.what());
      }
      for (const ManifestEntry &each : manifest.entries)
        all[each.file].entry = &each;
      for (const ManifestFile &each : manifest.tuning)
        all[each.file].tuning = &each;
      missing = all;
      named = true;
      return;
    }
    if (name == kSumsName)
      return;
    auto it = missing.find(name);
    if (it == missing.end())
      bad(path, named ? fmt::format("'{}' is not in its manifest, or twice in the file", name)
                      : "its manifest does not come first");
    if (sha256Text(bytes) != it->second.sha256())
      bad(path, fmt::format("'{}' has another SHA-256 than the manifest says", name));
    if (it->second.tuning && it->second.tuning->size != int64_t(bytes.size()))
      bad(path, fmt::format("'{}' has another size than the manifest says", name));
    if (it->second.entry && CacheManifest::describe(name, bytes) != *it->second.entry)
      bad(path, fmt::format("'{}' is no whole kernel, or the manifest describes another", name));
    missing.erase(it);
  };
  walk(path, check);
  if (!named)
    bad(path, "it has no manifest");
  if (!manifest.headFits())
    bad(path, "its manifest names other toolchains or targets than its kernels have");
  if (!missing.empty())
    bad(path, fmt::format("'{}' is in its manifest and not in the file", missing.begin()->first));
  if (!reader)
    return manifest;
  walk(path, [&](const std::string &name, std::span<const std::byte> bytes) {
    // The file is read a second time: only what was checked goes further.
    if (auto it = all.find(name); it != all.end()) {
      if (sha256Text(bytes) != it->second.sha256())
        bad(path, "it changed while it was read");
      if (it->second.entry)
        reader->entry(*it->second.entry, bytes);
      else
        reader->tuning(*it->second.tuning, bytes);
    }
  });
  return manifest;
}

namespace {
/// Other writers of a folder's manifest wait: each of two would leave out what the other has just added. The folder is
/// locked itself; where that is not possible nobody waits.
class FolderLock {
public:
  explicit FolderLock(const std::string &folder)
      : descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    while (descriptor >= 0 && ::flock(descriptor, LOCK_EX) != 0 && errno == EINTR && !interrupted()) {
    }
  }
  ~FolderLock() {
    if (descriptor >= 0)
      ::close(descriptor);
  }
  FolderLock(const FolderLock &) = delete;

private:
  int descriptor;
};
} // namespace

std::vector<std::string> writeManifest(const std::string &root) {
  const FolderLock lock(root);
  std::vector<std::string> skipped;
  const CacheManifest manifest = CacheManifest::of(root, &skipped);
  for (const std::string &file : skipped)
    say("left out of the manifest: {}", file);
  writeCacheFile(fs::path(root) / kSumsName, manifest.sums());
  writeCacheFile(fs::path(root) / kManifestName, manifest.text());
  return skipped;
}

void writeCacheFile(const fs::path &path, std::string_view content) {
  std::error_code error;
  if (fs::file_status there = fs::status(path, error); fs::exists(there) && !fs::is_regular_file(there))
    throw EnvironmentProblem(fmt::format("cannot write '{}': what is there is no plain file", path.string()));
  writeFileWhole(path, content);
}

CacheManifest manifestOf(const std::string &place, std::vector<std::string> &skipped) {
  std::error_code error;
  if (fs::is_directory(place, error))
    return CacheManifest::of(place, &skipped);
  return readPack(place, nullptr);
}

} // namespace hyperjit::tools
