// SpecList.h - from the text of a spec list to kernels: what `hyperjit precompile`, `cache explain` and `prepare` read.
// White space around a line and what follows a # are no part of it; empty lines are none.
//
//   line ::= site                          every kernel that training and inference of the site ask for, in a chain that begins with
//                                         it (`begin`; the operator `before` by itself has a backward of its own)
//          | "boundary(" site "|" site ")" the same, with the fused kernels of the two
//          | kernel                        one kernel (KernelSpec.h), as HYPERJIT_RECORD writes it
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_SPECLIST_H
#define HYPERJIT_CORE_SPECLIST_H

#include "hyperjit/core/Export.h"
#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/ProgramSource.h"

#include <istream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hyperjit {

struct SpecLine {
  int number; ///< of its file, from 1
  std::string text;
};
HYPERJIT_EXPORT std::vector<SpecLine> specLines(std::istream &file);

/// The two sites of a boundary, or a site twice, normalised. Throws UserError: InvalidSpec, UnknownRecipe, ...
HYPERJIT_EXPORT std::pair<SiteSpec, SiteSpec> sitesOf(std::string_view line,
                                                      ProgramSource &programs = ProgramSource::global());

/// True for the text of one kernel, false for a site or a boundary of two.
HYPERJIT_EXPORT bool isKernelText(std::string_view text);

/// What a kernel is looked up and compiled as, validated: sites without what enters no kernel, and no `save` where
/// nothing is saved.
HYPERJIT_EXPORT KernelSpec normalise(const KernelSpec &kernel, ProgramSource &programs);

/// The kernel that training asks for: forward that saves, or the backward of everything the sites have. `after` is not
/// looked at for Role::Before, `before` not for Role::After.
HYPERJIT_EXPORT KernelSpec trainingKernel(ProgramSource &programs, const SiteSpec &after, const SiteSpec &before,
                                          Role role, Direction direction, Bucket bucket);
/// All roles, forward saving and not, backward, both buckets: what a chain asks for whose first streams need a gradient.
/// Where they need none (no trainable layer is before the first site) its first sites ask for backward kernels without
/// it, which a run's record names (HYPERJIT_RECORD).
HYPERJIT_EXPORT std::vector<KernelSpec> allKernels(ProgramSource &programs, const SiteSpec &after,
                                                   const SiteSpec &before);

/// The kernels of one line, normalised. Throws UserError: InvalidSpec, UnknownRecipe, ...
HYPERJIT_EXPORT std::vector<KernelSpec> kernelsOf(std::string_view line,
                                                  ProgramSource &programs = ProgramSource::global());

} // namespace hyperjit

#endif // HYPERJIT_CORE_SPECLIST_H
