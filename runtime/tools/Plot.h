// Line plots written as SVG, without a plotting library: curves of a training run, bars of a benchmark.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace hyperjit::tools {

struct Curve {
  std::string name;
  std::vector<double> x, y;
  /// Drawn dashed: a baseline or a floor.
  bool dashed = false;
};

struct Plot {
  std::string title, subtitle, xLabel, yLabel;
  std::vector<Curve> curves;
  /// Axes start at zero when their data are not negative.
  bool yFromZero = false;

  /// The whole SVG document; points that are not finite are left out.
  std::string svg() const;
};

/// A centred running mean over `window` points, for curves as noisy as a batch loss.
std::vector<double> smoothed(const std::vector<double> &values, size_t window);

} // namespace hyperjit::tools
