// What `hyperjit bench` has measured, as a table, as JSON and as a plot.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Console.h"
#include "Plot.h"
#include "torch/Measure.h"

#include <hyperjit/core/SiteSpec.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hyperjit::tools {

struct Row {
  std::string implementation, spec, direction, mode, schedule; ///< schedule: of a kernel
  int64_t tokens = 0;
  Timing us;                      ///< of one site; hyperjit's on a GPU of replays of a graph
  std::optional<Timing> launched; ///< of one site of a chain, launched by the host call by call
  std::optional<Timing> host;     ///< what launching takes the host, forward and backward of one site of a chain (CUDA)
  double u = 0, share = 0, speedup = 1;
};

/// `schedules`: name each row's beside its spec.
std::string tableOf(const std::vector<Row> &rows, bool schedules);
Json jsonOf(const std::vector<Row> &rows);
/// Shares of chains over D where that is what differs, else over tokens. `note`: what the subtitle ends with.
Plot plotOf(const std::vector<Row> &rows, const std::string &device, double copy, int64_t sites,
            const std::string &note);

} // namespace hyperjit::tools
