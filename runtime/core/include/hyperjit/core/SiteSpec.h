// SiteSpec.h - what users write: a recipe and the numbers, dtypes and options it is used with.
//
//   spec ::= recipe [":" key "=" value {"," key "=" value}]          manifold:n=4,m=1,d=4096,dtype=bf16
//   keys     n | m | d | dtype | branch (both ways) | branch_in | branch_out | weight | the recipe's options
//
// Canonical text always says n, m, d and dtype; other dtypes only where they differ from their default.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_SITESPEC_H
#define HYPERJIT_CORE_SITESPEC_H

#include "hyperjit/core/DType.h"
#include "hyperjit/core/Export.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hyperjit {

/// Streams per token that fused kernels accept: n m <= 32.
inline constexpr int kMaxStreamRows = 32;

struct HYPERJIT_EXPORT SiteSpec {
  std::string recipe;                                       ///< [a-z][a-z0-9_.-]*
  int n = 4;                                                ///< streams
  int m = 1;                                                ///< fracs a stream is cut into; divides d
  int64_t d = 512;                                          ///< the model's D: channels of one stream
  DType stream = DType::Float32;                            ///< dtype of the streams X
  DType branchIn = DType::Float32;                          ///< dtype of U, what the branch reads
  DType branchOut = DType::Float32;                         ///< dtype of Y, what the branch returns
  DType weight = DType::Float32;                            ///< dtype of parameters and of their gradients
  std::vector<std::pair<std::string, std::string>> options; ///< recipe options in the order they were given

  /// Reads a spec; options are not checked against the recipe (ProgramSource::normalise does).
  /// Throws UserError: InvalidSpec, UnknownValue (dtypes), InvalidValue.
  static SiteSpec parse(std::string_view text);
  /// Canonical if the spec came from ProgramSource::normalise; parse(text()) == *this always.
  std::string text() const;
  /// Channels of one row: d / m.
  int64_t rowWidth() const { return d / m; }
  /// Throws UserError when a number is out of range: n, m, d >= 1, m divides d, n m <= kMaxStreamRows.
  void validate() const;
  /// The value of an option that was given, or null.
  const std::string *option(std::string_view name) const;
  /// The keys that every recipe has: n, m, d, dtype, branch, branch_in, branch_out, weight.
  static const std::vector<std::string> &keys();

  bool operator==(const SiteSpec &) const = default;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_SITESPEC_H
