// CacheKey.h - the name of a kernel: BLAKE2b-256 over length-prefixed fields in fixed order. All fields are known
// before the compiler starts; none depends on paths, user, host, locale or process history.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_CACHEKEY_H
#define HYPERJIT_CORE_CACHEKEY_H

#include "hyperjit/core/Export.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hyperjit {

/// What is hashed, in this order.
struct HYPERJIT_EXPORT KeyFields {
  std::string schema = "1";   ///< version of this list
  std::string compilerDigest; ///< of the compiler's and recipes' sources, from the build
  std::string templateDigest; ///< of the bytes of templates/, from the build; empty for CPU kernels
  std::string spec;           ///< KernelSpec::text(), normalised
  std::string afterProgram;   ///< SiteProgram::digest, or empty
  std::string beforeProgram;  ///< SiteProgram::digest, or empty
  std::string schedule;       ///< "auto", or the text that a tuning table or the caller named
  std::string target;         ///< Target::text()
  std::string toolchain;      ///< Backend::toolchain()
  std::string flags;          ///< Backend::flags()
  std::string nameSpace;      ///< HYPERJIT_CACHE_NAMESPACE

  /// Name and value of every field, in order.
  std::vector<std::pair<std::string, std::string>> list() const;
  /// One "name = value" a line, for `hyperjit cache explain`.
  std::string text() const;

  bool operator==(const KeyFields &) const = default;
};

struct HYPERJIT_EXPORT CacheKey {
  std::array<uint8_t, 32> bytes{};

  static CacheKey of(const KeyFields &fields);
  /// 64 lower-case hex digits.
  std::string hex() const;
  /// The inverse of `hex`; empty for anything else.
  static std::optional<CacheKey> fromHex(std::string_view text);

  auto operator<=>(const CacheKey &) const = default;
};

/// 64 hex digits of BLAKE2b-256 of the bytes; what SiteProgram::digest holds.
HYPERJIT_EXPORT std::string digestText(std::string_view bytes);
/// Digest of compiler/ sources, and of templates/ bytes, as this build saw them.
HYPERJIT_EXPORT std::string_view compilerDigest();
HYPERJIT_EXPORT std::string_view templateDigest();
/// "0.1.0".
HYPERJIT_EXPORT std::string_view version();

} // namespace hyperjit

#endif // HYPERJIT_CORE_CACHEKEY_H
