// Kernels by themselves: what before, boundary and after take, forward and backward, without a chain around them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "torch/Measure.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelSpec.h>
#include <hyperjit/core/Schedule.h>
#include <hyperjit/core/SiteSpec.h>
#include <hyperjit/core/Target.h>

#include <functional>
#include <vector>

namespace hyperjit::tools {

struct AloneTiming {
  KernelSpec kernel;
  std::string schedule; ///< what "auto" stands for
  Timing us;            ///< of one launch
  double u;             ///< wide traffic that the compiler counts
};

/// The kernels that a layer of this site needs in training: of the site alone, and of its boundary with a site like it.
std::vector<KernelSpec> trainingKernels(const SiteSpec &site, Bucket bucket);

/// Each kernel launched again and again on random operands, in turn on as many sets as keep them out of the last cache
/// (at most 1024; parameters are the same in all). On a GPU by replays of a graph, so of few tokens, too, it is the
/// device that is timed and not the host; times include the gaps between launches. Each with each of the schedules; one
/// that a kernel does not take goes to `refused`, and the others go on.
std::vector<AloneTiming>
timeAlone(const std::vector<KernelSpec> &kernels, const std::vector<Schedule> &schedules, int64_t tokens,
          at::Device device, const Target &target, int repeats,
          const std::function<void(const KernelSpec &, const Schedule &, const UserError &)> &refused);
/// The boundary's forward without gradients, the same way: what a site of a decoding model takes.
AloneTiming timeDecode(const SiteSpec &site, int64_t tokens, at::Device device, const Target &target, int repeats);

} // namespace hyperjit::tools
