// Artifact.cpp - the bytes of an entry. Content is never trusted: every length is checked before it is used, the
// checksum before anything is decompressed or parsed.
//
//   entry    ::= header meta payload                 little endian
//   header   ::= magic "HJKERNL\1" | format u32 | header_len u32 | flags u32 (bit 0: payload is zstd) | kind u32
//              | key[32] | meta_len u64 | raw_len u64 | stored_len u64 | checksum[16]
//   checksum ::= XXH3-128 over header (checksum zeroed) + meta + stored payload
//   meta     ::= JSON of ArtifactMeta plus "key" (the fields that were hashed) and "compile_ms"
//   payload  ::= code; empty where the compiler does not take this schedule, and then "refused" of meta is its reason
//
// The checksum covers the stored bytes: damaged input never reaches zstd.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Artifact.h"

#include "hyperjit/core/Error.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <set>
#include <zstd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

using namespace hyperjit;

namespace {
constexpr char kMagic[8] = {'H', 'J', 'K', 'E', 'R', 'N', 'L', 1};
constexpr uint32_t kFormat = 1;
constexpr uint32_t kZstd = 1;
constexpr size_t kStoreRawBelow = 4096;

struct Header {
  char magic[8];
  uint32_t format;
  uint32_t headerLength;
  uint32_t flags;
  uint32_t kind;
  uint8_t key[32];
  uint64_t metaLength;
  uint64_t rawLength;
  uint64_t storedLength;
  uint8_t checksum[16];
};
static_assert(sizeof(Header) == 96 && offsetof(Header, checksum) == 80, "the header is a file format");
static_assert(std::endian::native == std::endian::little, "entries are little endian and read as they are");

XXH128_canonical_t checksumOf(std::span<const std::byte> header, std::span<const std::byte> body) {
  // The header is at most 4 KiB, so a copy with the checksum zeroed is cheap.
  std::vector<std::byte> zeroed(header.begin(), header.end());
  std::memset(zeroed.data() + offsetof(Header, checksum), 0, sizeof(Header::checksum));
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, zeroed.data(), zeroed.size());
  XXH3_128bits_update(&state, body.data(), body.size());
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
  return canonical;
}
} // namespace

std::vector<std::span<const std::byte>> hyperjit::binariesOf(const Artifact &artifact) {
  const std::span<const std::byte> all = artifact.payload;
  std::set<size_t> begins{0};
  if (artifact.kind == PayloadKind::Cubin)
    for (const LaunchInfo &launch : artifact.meta.launches)
      begins.insert(std::min(size_t(launch.offset), all.size()));
  std::vector<std::span<const std::byte>> binaries;
  for (auto begin = begins.begin(); begin != begins.end(); ++begin) {
    const auto next = std::next(begin);
    binaries.push_back(all.subspan(*begin, (next == begins.end() ? all.size() : *next) - *begin));
  }
  return binaries;
}

std::vector<std::byte> hyperjit::encodeEntry(const CacheKey &key, const Artifact &artifact) {
  std::string meta = artifact.meta.json();
  std::vector<std::byte> compressed;
  std::span<const std::byte> stored = artifact.payload;
  Header header{};
  if (artifact.payload.size() >= kStoreRawBelow) {
    compressed.resize(ZSTD_compressBound(artifact.payload.size()));
    size_t size =
        ZSTD_compress(compressed.data(), compressed.size(), artifact.payload.data(), artifact.payload.size(), 3);
    if (!ZSTD_isError(size) && size < artifact.payload.size()) {
      header.flags |= kZstd;
      stored = std::span<const std::byte>(compressed).first(size);
    }
  }
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.format = kFormat;
  header.headerLength = sizeof(Header);
  header.kind = uint32_t(artifact.kind);
  std::memcpy(header.key, key.bytes.data(), key.bytes.size());
  header.metaLength = meta.size();
  header.rawLength = artifact.payload.size();
  header.storedLength = stored.size();

  std::vector<std::byte> bytes(sizeof(Header) + meta.size() + stored.size());
  std::memcpy(bytes.data() + sizeof(Header), meta.data(), meta.size());
  if (!stored.empty())
    std::memcpy(bytes.data() + sizeof(Header) + meta.size(), stored.data(), stored.size());
  std::span<const std::byte> headerBytes(reinterpret_cast<const std::byte *>(&header), sizeof(Header));
  XXH128_canonical_t sum = checksumOf(headerBytes, std::span<const std::byte>(bytes).subspan(sizeof(Header)));
  static_assert(sizeof(sum.digest) == sizeof(header.checksum));
  std::memcpy(header.checksum, sum.digest, sizeof(header.checksum));
  std::memcpy(bytes.data(), &header, sizeof(Header));
  return bytes;
}

DecodedEntry hyperjit::decodeEntry(std::span<const std::byte> bytes, const CacheKey *expected) {
  DecodedEntry decoded;
  auto fault = [&](EntryFault kind, std::string reason) {
    decoded.fault = kind;
    decoded.reason = std::move(reason);
    decoded.artifact.reset();
    return std::move(decoded);
  };
  Header header;
  if (bytes.size() < sizeof(Header))
    return fault(EntryFault::Damaged, fmt::format("{} bytes are less than a header", bytes.size()));
  if (bytes.size() > kMaxEntryBytes)
    return fault(EntryFault::Damaged, fmt::format("{} bytes are more than an entry may have", bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0)
    return fault(EntryFault::Damaged, "it does not start with the magic of a kernel");
  if (header.format != kFormat) {
    // With our number it has the right checksum: nobody but this version wrote it, and the number is what was damaged.
    Header ours = header;
    ours.format = kFormat;
    XXH128_canonical_t sum = checksumOf(std::as_bytes(std::span(&ours, size_t(1))), bytes.subspan(sizeof(Header)));
    if (std::memcmp(sum.digest, header.checksum, sizeof(header.checksum)) == 0)
      return fault(EntryFault::Damaged, fmt::format("its format, {}, differs from what was written", header.format));
    return fault(EntryFault::OtherFormat, fmt::format("format {}, this version reads {}", header.format, kFormat));
  }
  CacheKey key;
  std::memcpy(key.bytes.data(), header.key, sizeof(header.key));
  decoded.key = key;
  if (header.headerLength < sizeof(Header) || header.headerLength > 4096 || header.headerLength > bytes.size())
    return fault(EntryFault::Damaged, fmt::format("header length {}", header.headerLength));
  uint64_t body = bytes.size() - header.headerLength;
  if (header.metaLength > body || header.storedLength != body - header.metaLength || header.rawLength > kMaxEntryBytes)
    return fault(EntryFault::Damaged,
                 fmt::format("lengths do not fit: meta {}, stored {}, raw {}, file {}", header.metaLength,
                             header.storedLength, header.rawLength, bytes.size()));
  XXH128_canonical_t sum = checksumOf(bytes.first(header.headerLength), bytes.subspan(header.headerLength));
  if (std::memcmp(sum.digest, header.checksum, sizeof(header.checksum)) != 0)
    return fault(EntryFault::Damaged, "the checksum differs");
  // Whole, but of another kernel: somebody renamed it.
  if (expected && *expected != key)
    return fault(EntryFault::WrongKey, "it is the kernel of key " + key.hex());

  try {
    Artifact artifact;
    artifact.kind = PayloadKind(header.kind);
    if (artifact.kind != PayloadKind::Cubin && artifact.kind != PayloadKind::Image)
      return fault(EntryFault::OtherFormat, fmt::format("payload kind {}", header.kind));
    artifact.meta = ArtifactMeta::parse(
        {reinterpret_cast<const char *>(bytes.data()) + header.headerLength, size_t(header.metaLength)});
    std::span<const std::byte> stored = bytes.subspan(header.headerLength + header.metaLength);
    if (header.flags & kZstd) {
      artifact.payload.resize(header.rawLength);
      size_t size = ZSTD_decompress(artifact.payload.data(), artifact.payload.size(), stored.data(), stored.size());
      if (ZSTD_isError(size) || size != header.rawLength)
        return fault(EntryFault::Damaged, "the payload does not decompress to its length");
    } else {
      if (header.rawLength != header.storedLength)
        return fault(EntryFault::Damaged, "raw and stored length of an uncompressed payload differ");
      artifact.payload.assign(stored.begin(), stored.end());
    }
    decoded.fault = EntryFault::None;
    decoded.artifact = std::move(artifact);
    return decoded;
  } catch (const std::exception &error) {
    return fault(EntryFault::Damaged, error.what());
  }
}
