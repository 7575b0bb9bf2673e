// CompilerRequest.h - what the compiler plugin is asked: one kernel, its programs and its target, as JSON. The plugin's
// end is compiler/lib/Plugin.cpp.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_COMPILERREQUEST_H
#define HYPERJIT_CORE_COMPILERREQUEST_H

#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/Schedule.h"
#include "hyperjit/core/SiteSignature.h"
#include "hyperjit/core/Target.h"

#include <memory>
#include <string>
#include <string_view>

namespace hyperjit {

/// A spec whose programs are known.
struct ResolvedKernel {
  KernelSpec spec; ///< normalised
  std::shared_ptr<const SiteProgram> after, before;
  Schedule schedule;
  bool tuned = false; ///< the schedule is a tuning table's, not the caller's
};

/// `stage`: the text of which stage is wanted, empty for the kernel. `list`: how many legal schedules are wanted
/// instead. `cut`: of a boundary's backward, the runtime's if empty.
std::string compilerRequest(const ResolvedKernel &kernel, const Target &target, std::string_view stage, size_t list = 0,
                            std::string_view cut = {});

} // namespace hyperjit

#endif // HYPERJIT_CORE_COMPILERREQUEST_H
