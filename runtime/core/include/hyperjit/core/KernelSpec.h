// KernelSpec.h - what is compiled: one part of one site, or the fused parts of two, in one direction.
//
//   kernel   ::= part ":" pass ":tokens=" ("small" | "large")
//   part     ::= "before(" site ")" | "boundary(" site "|" site ")" | "after(" site ")"
//   pass     ::= "forward:save" | "forward:infer" | "backward:given=" letters ":want=" letters
//   given      subset of "xuck": cotangents of x next streams, u branch input, c all coefficient outputs, k carries out
//   want       subset of "xycpk": gradients of x streams, y branch output, c coefficient inputs, p parameters, k carries in
//
// The sites' texts are canonical (ProgramSource::normalise), letters keep the order above. Operand order: Kernel.h.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_KERNELSPEC_H
#define HYPERJIT_CORE_KERNELSPEC_H

#include "hyperjit/core/SiteSpec.h"

#include <optional>

namespace hyperjit {

enum class Role : uint8_t { Before, Boundary, After };
enum class Direction : uint8_t { Forward, Backward };
/// Tokens of a call: small is at most kSmallTokens. Both give a token the same bits.
enum class Bucket : uint8_t { Small, Large };

inline constexpr int64_t kSmallTokens = 64;
constexpr Bucket bucketOf(int64_t tokens) { return tokens <= kSmallTokens ? Bucket::Small : Bucket::Large; }

HYPERJIT_EXPORT std::string_view name(Role role);           ///< before | boundary | after
HYPERJIT_EXPORT std::string_view name(Direction direction); ///< forward | backward
HYPERJIT_EXPORT std::string_view name(Bucket bucket);       ///< small | large

struct HYPERJIT_EXPORT KernelSpec {
  Role role = Role::Before;
  Direction direction = Direction::Forward;
  std::optional<SiteSpec> after;  ///< the site whose branch has returned; set for Boundary and After
  std::optional<SiteSpec> before; ///< the site whose branch comes next; set for Before and Boundary
  bool save = false;              ///< forward of before and boundary: also writes what backward reads
  std::string given;              ///< backward only
  std::string want;               ///< backward only
  Bucket bucket = Bucket::Large;

  static KernelSpec beforeForward(SiteSpec before, bool save, Bucket bucket);
  static KernelSpec boundaryForward(SiteSpec after, SiteSpec before, bool save, Bucket bucket);
  static KernelSpec afterForward(SiteSpec after, Bucket bucket);
  /// The backward of a role; the role follows from which sites are set. Letters are put in canonical order.
  static KernelSpec backward(std::optional<SiteSpec> after, std::optional<SiteSpec> before, std::string_view given,
                             std::string_view want, Bucket bucket);

  /// Throws UserError (InvalidSpec and what SiteSpec::parse throws).
  static KernelSpec parse(std::string_view text);
  std::string text() const;
  /// Throws UserError when the parts do not fit: a site missing for the role, sites of a boundary that differ in n, m,
  /// d or stream dtype, letters that the role does not have, no letter in want.
  void validate() const;

  bool operator==(const KernelSpec &) const = default;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_KERNELSPEC_H
