// A chain of sites of one spec, whose branches return what they are given: built, run, counted, timed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Report.h"

#include <hyperjit/core/SiteSpec.h>
#include <hyperjit/core/Target.h>
#include <hyperjit/torch/Connection.h>
#include <hyperjit/torch/Reference.h>

#include <torch/torch.h>

#include <vector>

namespace hyperjit::tools {

struct Chain {
  SiteSpec spec;
  std::vector<nn::Connection> layers;
  at::Tensor x, cotangent; ///< streams [tokens, n, D], which want a gradient, and the cotangent of the last ones

  Chain(const SiteSpec &spec, int64_t sites, int64_t tokens, at::Device device);

  at::Tensor jit() const;
  /// The formulas in plain ATen, where the recipe has some.
  at::Tensor eager() const;
  /// The same on other streams, with these parameters of each site, in whatever arithmetic both have.
  static at::Tensor formulas(const Reference &reference, at::Tensor streams,
                             const std::vector<Reference::Tensors> &parameters);
  /// Gradients are undefined, as before the first backward.
  void clearGradients() const;
};

/// Forward (as in training), backward, and both; hyperjit's or the formulas'. On a GPU hyperjit's are replayed as graphs,
/// which must give the bits of the chain launched: InternalError if they do not. Rows without traffic and speedup.
std::vector<Row> timeChain(const Chain &chain, bool eager, int repeats, at::Device device);

/// The counted traffic of one site of a chain: its two halves meet their neighbours' in boundary kernels; the chain's
/// ends are single halves. Read from the kernels that run: K - 1 boundaries and the two ends, divided by K.
struct CountedTraffic {
  double forward = 0, backward = 0;
};
CountedTraffic countTraffic(const SiteSpec &spec, int64_t sites, int64_t tokens, const Target &target);

/// What came out of hyperjit's chain, beside its times.
struct Check {
  std::string spec;
  int64_t tokens = 0;
  /// Largest difference from the formulas in fp64 of the same streams and weights, over the largest value: of the last
  /// streams, of the first streams' gradient, of that parameter's gradient which is off by most (gradients count as at
  /// least 1e-4 of the largest: sums that cancel are rounding alone). Absent where the recipe has no formulas in ATen.
  struct Errors {
    double output = 0, streams = 0, parameters = 0;
  };
  std::optional<Errors> errors;
  int runs = 0;               ///< whose bits were compared: streams and all gradients, made in memory that held NaN
  bool equal = true;          ///< all of them
  std::optional<double> peak; ///< CUDA: most memory at once above operands and parameters, in X (tokens n D numbers)

  /// Not what the formulas say, or not the same each time.
  bool wrong() const;
  /// One line for people.
  std::string text() const;
};
Json jsonOf(const std::vector<Check> &checks);
/// Runs forward and backward `runs` times, then the formulas, a few tokens at a time.
Check checkChain(const Chain &chain, int runs, at::Device device);

} // namespace hyperjit::tools
