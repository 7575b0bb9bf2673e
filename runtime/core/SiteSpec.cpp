// SiteSpec.cpp - text of a site's spec.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/SiteSpec.h"

#include "Text.h"
#include "hyperjit/core/Error.h"

#include <fmt/format.h>
#include <set>

using namespace hyperjit;

static constexpr std::string_view kGrammar =
    "a spec is recipe[:key=value,...], for example manifold:n=4,d=4096,dtype=bf16";

/// What separates parts of a KernelSpec cannot be part of an option's value.
static bool isOptionValue(std::string_view text) {
  if (text.empty())
    return false;
  for (char c : text)
    if (!text::isLower(c) && !text::isDigit(c) && !(c >= 'A' && c <= 'Z') && c != '_' && c != '-' && c != '+' &&
        c != '.' && c != '/')
      return false;
  return true;
}

template <typename Number> static Number positive(std::string_view key, std::string_view value) {
  std::optional<Number> number = text::number<Number>(value);
  if (!number || *number < 1)
    throw UserError(ErrorId::InvalidValue,
                    fmt::format("{}={}: {} takes a whole number of at least 1", key, value, key));
  return *number;
}

const std::vector<std::string> &SiteSpec::keys() {
  static const std::vector<std::string> words = {"n", "m", "d", "dtype", "branch", "branch_in", "branch_out", "weight"};
  return words;
}

SiteSpec SiteSpec::parse(std::string_view whole) {
  std::string_view text = text::trim(whole);
  SiteSpec spec;
  size_t colon = text.find(':');
  spec.recipe = std::string(text.substr(0, colon));
  if (!text::isWord(spec.recipe))
    throw UserError(ErrorId::InvalidSpec, fmt::format("'{}' does not start with a recipe's name; {}", whole, kGrammar));
  std::optional<DType> branchIn, branchOut;
  std::set<std::string_view> seen;
  if (colon != std::string_view::npos)
    for (std::string_view piece : text::split(text.substr(colon + 1), ',')) {
      piece = text::trim(piece);
      size_t equal = piece.find('=');
      std::string_view key = piece.substr(0, equal);
      if (equal == std::string_view::npos || !text::isWord(key))
        throw UserError(ErrorId::InvalidSpec, fmt::format("'{}' in '{}' is not key=value; {}", piece, whole, kGrammar));
      std::string_view value = piece.substr(equal + 1);
      if (!isOptionValue(value))
        throw UserError(ErrorId::InvalidSpec,
                        fmt::format("'{}' in '{}': a value is made of letters, digits and _ - + . /", piece, whole));
      if (!seen.insert(key).second)
        throw UserError(ErrorId::InvalidSpec, fmt::format("'{}' is given twice in '{}'", key, whole));
      if (key == "n")
        spec.n = positive<int>(key, value);
      else if (key == "m")
        spec.m = positive<int>(key, value);
      else if (key == "d")
        spec.d = positive<int64_t>(key, value);
      else if (key == "dtype")
        spec.stream = parseDType(value, key);
      else if (key == "branch")
        branchIn = branchOut = parseDType(value, key);
      else if (key == "branch_in")
        branchIn = parseDType(value, key);
      else if (key == "branch_out")
        branchOut = parseDType(value, key);
      else if (key == "weight")
        spec.weight = parseDType(value, key);
      else
        spec.options.emplace_back(key, value);
    }
  if (seen.contains("branch") && (seen.contains("branch_in") || seen.contains("branch_out")))
    throw UserError(ErrorId::InvalidSpec,
                    fmt::format("'{}' gives branch and also branch_in or branch_out; branch stands for both", whole));
  spec.branchIn = branchIn.value_or(spec.stream);
  spec.branchOut = branchOut.value_or(spec.stream);
  spec.validate();
  return spec;
}

std::string SiteSpec::text() const {
  std::string text = fmt::format("{}:n={},m={},d={},dtype={}", recipe, n, m, d, name(stream));
  if (branchIn == branchOut) {
    if (branchIn != stream)
      text += fmt::format(",branch={}", name(branchIn));
  } else {
    if (branchIn != stream)
      text += fmt::format(",branch_in={}", name(branchIn));
    if (branchOut != stream)
      text += fmt::format(",branch_out={}", name(branchOut));
  }
  if (weight != DType::Float32)
    text += fmt::format(",weight={}", name(weight));
  for (const auto &[key, value] : options)
    text += fmt::format(",{}={}", key, value);
  return text;
}

void SiteSpec::validate() const {
  if (!text::isWord(recipe))
    throw UserError(ErrorId::InvalidSpec, fmt::format("'{}' is no recipe's name", recipe));
  if (n < 1 || m < 1 || d < 1)
    throw UserError(ErrorId::InvalidValue, fmt::format("n={}, m={}, d={} of {}: all are at least 1", n, m, d, recipe));
  if (d % m != 0)
    throw UserError(
        ErrorId::InvalidValue,
        fmt::format("m={} does not divide d={} of {}: a stream is cut into m fracs of d/m channels", m, d, recipe));
  if (int64_t(n) * m > kMaxStreamRows)
    throw UserError(ErrorId::LimitExceeded, fmt::format("n m = {} x {} = {} rows of {}: fused kernels take at most {}",
                                                        n, m, int64_t(n) * m, recipe, kMaxStreamRows));
  if (d > (int64_t(1) << 24))
    throw UserError(ErrorId::LimitExceeded, fmt::format("d={} of {}: at most {}", d, recipe, int64_t(1) << 24));
}

const std::string *SiteSpec::option(std::string_view wanted) const {
  for (const auto &[key, value] : options)
    if (key == wanted)
      return &value;
  return nullptr;
}
