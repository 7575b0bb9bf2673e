// Text.h - small helpers of the parsers in core.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_TEXT_H
#define HYPERJIT_CORE_TEXT_H

#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

namespace hyperjit::text {

inline std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t'))
    text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\n' || text.back() == '\r'))
    text.remove_suffix(1);
  return text;
}

/// The pieces between separators; an empty text has one empty piece.
inline std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  while (true) {
    size_t end = text.find(separator);
    pieces.push_back(text.substr(0, end));
    if (end == std::string_view::npos)
      return pieces;
    text.remove_prefix(end + 1);
  }
}

/// The whole text as a number, in any locale; empty for anything else.
template <typename Number> std::optional<Number> number(std::string_view text) {
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

inline bool isLower(char c) { return c >= 'a' && c <= 'z'; }
inline bool isDigit(char c) { return c >= '0' && c <= '9'; }

/// Recipes, options, skeletons: a lower-case letter, then lower-case letters, digits, '_', '-', '.'.
inline bool isWord(std::string_view text) {
  if (text.empty() || !isLower(text.front()))
    return false;
  for (char c : text)
    if (!isLower(c) && !isDigit(c) && c != '_' && c != '-' && c != '.')
      return false;
  return true;
}

} // namespace hyperjit::text

#endif // HYPERJIT_CORE_TEXT_H
