// What a call costs beside the work of its kernel: the first one, and every other one on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Console.h"

#include <hyperjit/core/SiteSpec.h>
#include <hyperjit/core/Target.h>

#include <c10/core/Device.h>

#include <optional>

namespace hyperjit::tools {

/// First call of one kernel, the boundary's forward: compiled, from disk in a fresh manager, from memory; milliseconds.
Json firstCall(const SiteSpec &site, const Target &target);

/// Host time of a forward call through the dispatcher with almost no work in it.
double hostMicroseconds(const SiteSpec &site, c10::Device device);

/// What a call of the boundary operator costs the host at one token on the CPU, by parts (us): a call of an operator
/// that does nothing, the results as LibTorch makes them, the kernel itself, and the rest, which is hyperjit's own:
/// plan and kernel looked up, operands checked, pointers collected, launched. On one thread, as the kernel is launched
/// by itself too.
struct LaunchCost {
  double call = 0, dispatch = 0, results = 0, kernel = 0;
  /// A difference: nothing beside a kernel whose own time varies by more.
  std::optional<double> own() const {
    return kernel < 100 ? std::optional(call - dispatch - results - kernel) : std::nullopt;
  }
};
LaunchCost launchCost(const SiteSpec &site);

} // namespace hyperjit::tools
