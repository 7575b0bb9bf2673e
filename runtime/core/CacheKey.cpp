// CacheKey.cpp - digests of kernels and of texts.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/CacheKey.h"

#include "compilerDigest.inc"
#include "templateDigest.inc"

#include <fmt/format.h>
#include <sodium.h>

using namespace hyperjit;

std::string_view hyperjit::compilerDigest() { return compilerDigestText; }
std::string_view hyperjit::templateDigest() { return templateDigestText; }
std::string_view hyperjit::version() { return HYPERJIT_VERSION; }

std::vector<std::pair<std::string, std::string>> KeyFields::list() const {
  return {{"schema", schema},
          {"compiler digest", compilerDigest},
          {"template digest", templateDigest},
          {"spec", spec},
          {"after program", afterProgram},
          {"before program", beforeProgram},
          {"schedule", schedule},
          {"target", target},
          {"toolchain", toolchain},
          {"flags", flags},
          {"namespace", nameSpace}};
}

std::string KeyFields::text() const {
  std::string text;
  for (const auto &[field, value] : list())
    text += fmt::format("{} = {}\n", field, value);
  return text;
}

CacheKey CacheKey::of(const KeyFields &fields) {
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, 32);
  // Each field with its length in front: no two lists of fields share one byte string.
  for (const auto &[field, value] : fields.list()) {
    uint8_t length[8];
    for (int i = 0; i < 8; ++i)
      length[i] = uint8_t(uint64_t(value.size()) >> (8 * i));
    crypto_generichash_update(&state, length, sizeof(length));
    crypto_generichash_update(&state, reinterpret_cast<const uint8_t *>(value.data()), value.size());
  }
  CacheKey key;
  crypto_generichash_final(&state, key.bytes.data(), key.bytes.size());
  return key;
}

static std::string hexOf(const std::array<uint8_t, 32> &bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(64);
  for (uint8_t byte : bytes) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string CacheKey::hex() const { return hexOf(bytes); }

std::optional<CacheKey> CacheKey::fromHex(std::string_view text) {
  if (text.size() != 64)
    return std::nullopt;
  CacheKey key;
  for (size_t i = 0; i < 64; ++i) {
    char c = text[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0)
      return std::nullopt;
    key.bytes[i / 2] = uint8_t(key.bytes[i / 2] << 4 | digit);
  }
  return key;
}

std::string hyperjit::digestText(std::string_view bytes) {
  std::array<uint8_t, 32> digest;
  crypto_generichash(digest.data(), digest.size(), reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size(),
                     nullptr, 0);
  return hexOf(digest);
}
