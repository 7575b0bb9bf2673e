// Artifact.h - a compiled kernel: all that loading and launching needs, in one value and in one file.
// The grammar of an entry stands above its parser in Artifact.cpp.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_ARTIFACT_H
#define HYPERJIT_CORE_ARTIFACT_H

#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/DType.h"
#include "hyperjit/core/Export.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hyperjit {

enum class OperandKind : uint8_t { Rows, Coeffs, Weight }; ///< "rows" | "coeffs" | "weight"
enum class OperandScope : uint8_t { Token, Uniform };      ///< "token" | "uniform"

/// One tensor of the pointer table, in the order of Kernel.h.
struct OperandInfo {
  std::string name;
  OperandKind kind = OperandKind::Rows;
  OperandScope scope = OperandScope::Token;
  int64_t elements = 0; ///< per token; in all if uniform
  DType dtype = DType::Float32;
  bool output = false;
  bool used = true; ///< false: the pointer may be null
};

/// How many units a launch has.
enum class GridKind : uint8_t {
  Once,       ///< one unit
  Chunks,     ///< CPU: one unit a chunk of tokens
  Columns,    ///< `extent` columns; CUDA: `perBlock` of them a block
  Tokens,     ///< CUDA: `perBlock` tokens a block
  Fixed,      ///< CUDA: `blocks` blocks
  Persistent, ///< CUDA: `perProcessor` blocks an SM of the device at hand
};

struct LaunchInfo {
  std::string entry;
  GridKind grid = GridKind::Once;
  int64_t extent = 0;
  int64_t perBlock = 1;
  int64_t blocks = 0;
  int64_t perProcessor = 0;
  int block = 1;           ///< CUDA: threads
  int cluster = 1;         ///< CUDA: blocks of a cluster
  int64_t sharedBytes = 0; ///< CUDA: dynamic shared memory
  int64_t offset = 0;      ///< of the entry in the image; CUDA: in the payload, of the cubin that has it
  std::string extra;       ///< JSON object of further keys, kept as they are; may be empty
};

/// Registers and memory of one compiled entry.
struct EntryInfo {
  std::string name;
  int registers = 0;
  int64_t sharedBytes = 0;
  int64_t spills = 0; ///< bytes
};

/// Counted by the compiler; u is one D-vector of one token in the stream dtype.
struct TrafficInfo {
  int64_t readsU = 0, writesU = 0, savedU = 0;
  int64_t narrowBytes = 0; ///< coefficients and saved numbers, per token
};

struct HYPERJIT_EXPORT ArtifactMeta {
  std::string spec, target, schedule;
  std::vector<OperandInfo> operands;
  std::vector<LaunchInfo> launches;                                         ///< in order
  int64_t workspaceFixed = 0, workspacePerChunk = 0, workspacePerToken = 0; ///< bytes
  int64_t blockTokens = 1;                                                  ///< B
  int64_t maxChunks = 1;                                                    ///< M
  int64_t scratchBytes = 0;                                                 ///< CPU: of one worker
  TrafficInfo traffic;
  int stages = 1; ///< passes over wide data
  std::vector<EntryInfo> entries;
  std::vector<std::pair<std::string, std::string>> keyFields; ///< provenance, set by KernelManager
  double compileMilliseconds = 0;
  std::string extra; ///< JSON object of further top-level keys, kept as they are; may be empty

  /// chunkTokens(T) = B ceil(ceil(T/B) / M); at least B.
  int64_t chunkTokens(int64_t tokens) const;
  /// ceil(T / chunkTokens(T)); 0 for T = 0.
  int64_t chunks(int64_t tokens) const;
  /// fixed + per_chunk chunks + per_token T.
  size_t workspaceBytes(int64_t tokens) const;

  /// Throws InternalError (Internal) when the JSON lacks what launching needs or holds numbers that make no sense.
  static ArtifactMeta parse(std::string_view json);
  /// parse(json()) gives the same meta. Keys are sorted: equal metas have equal texts.
  std::string json() const;
};

enum class PayloadKind : uint32_t { Cubin = 1, Image = 2 };

struct Artifact {
  PayloadKind kind = PayloadKind::Image;
  ArtifactMeta meta;
  std::vector<std::byte> payload; ///< empty: there is no kernel, and "refused" of meta.extra says why
};

/// The binaries of a payload: by the offsets of launches, CUDA's cubins; else all of it.
HYPERJIT_EXPORT std::vector<std::span<const std::byte>> binariesOf(const Artifact &artifact);

/// An entry larger than this is neither written nor read.
inline constexpr size_t kMaxEntryBytes = size_t(64) << 20;

/// The bytes of an entry. Payloads below 4 KiB are stored as they are.
HYPERJIT_EXPORT std::vector<std::byte> encodeEntry(const CacheKey &key, const Artifact &artifact);

/// Why an entry was not taken.
enum class EntryFault : uint8_t {
  None,
  OtherFormat, ///< a newer version owns it: a miss, and the file stays
  WrongKey,    ///< whole, but of another kernel
  Damaged,     ///< length, checksum, compression or JSON
};

struct DecodedEntry {
  EntryFault fault = EntryFault::Damaged;
  std::string reason;               ///< for logs and `cache verify`
  std::optional<CacheKey> key;      ///< set if the header was readable
  std::optional<Artifact> artifact; ///< set if fault is None
};

/// Never throws on content. `expected` is compared with the key echo if given.
HYPERJIT_EXPORT DecodedEntry decodeEntry(std::span<const std::byte> bytes, const CacheKey *expected);

} // namespace hyperjit

#endif // HYPERJIT_CORE_ARTIFACT_H
