// The residual connections of a model as one replaceable part: the plain sum, hyper-connection kernels, or their plain
// ATen version on the very same parameters.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/torch/Connection.h>

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hyperjit::tools {

/// u [B, L, D] -> y [B, L, D]
using Branch = std::function<at::Tensor(const at::Tensor &)>;

/// What carries x [B, L, D] past all branches of a model.
class Connections : public torch::nn::Module {
public:
  virtual at::Tensor forward(const at::Tensor &x, const std::vector<Branch> &branches) = 0;
};

/// Makes the connections of a model with `sites` branches of width `dim`.
using ConnectionFactory = std::function<std::shared_ptr<Connections>(int64_t sites, int64_t dim)>;

ConnectionFactory plainConnections();

/// One layer of `spec`'s recipe per site, chained by a Stream, so that after(l) and before(l + 1) run as one kernel.
/// With `eager` the same layers' parameters go through the plain ATen formulas instead.
class HyperConnections : public Connections {
public:
  HyperConnections(const SiteSpec &spec, int64_t sites);
  at::Tensor forward(const at::Tensor &x, const std::vector<Branch> &branches) override;
  bool eager = false;

private:
  at::Tensor forwardEager(const at::Tensor &x, const std::vector<Branch> &branches);
  SiteSpec spec;
  std::vector<nn::Connection> sites;
};

} // namespace hyperjit::tools
