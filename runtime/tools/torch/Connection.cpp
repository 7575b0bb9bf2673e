// SPDX-License-Identifier: Apache-2.0
#include "Connection.h"

#include <hyperjit/torch/Ops.h>
#include <hyperjit/torch/Reference.h>

namespace hyperjit::tools {

namespace {

class PlainConnections : public Connections {
public:
  at::Tensor forward(const at::Tensor &x, const std::vector<Branch> &branches) override {
    at::Tensor h = x;
    for (const Branch &branch : branches)
      h = h + branch(h);
    return h;
  }
};

} // namespace

ConnectionFactory plainConnections() {
  return [](int64_t, int64_t) { return std::make_shared<PlainConnections>(); };
}

HyperConnections::HyperConnections(const SiteSpec &spec, int64_t count) : spec(spec) {
  for (int64_t index = 0; index < count; ++index)
    sites.push_back(
        register_module(std::to_string(index), nn::Connection(nn::ConnectionOptions(spec).layerIndex(index))));
}

at::Tensor HyperConnections::forward(const at::Tensor &x, const std::vector<Branch> &branches) {
  if (eager)
    return forwardEager(x, branches);
  nn::Stream stream = ops::expand(x, std::nullopt, spec.n);
  for (size_t i = 0; i < branches.size(); ++i)
    stream = sites[i]->forward(stream, branches[i]);
  return ops::reduce(stream.tensor(), std::nullopt, "sum");
}

at::Tensor HyperConnections::forwardEager(const at::Tensor &x, const std::vector<Branch> &branches) {
  Reference reference(spec);
  Reference::Tensors carries;
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.insert(sizes.end() - 1, spec.n);
  at::Tensor streams = x.unsqueeze(-2).expand(sizes).contiguous();
  for (size_t i = 0; i < branches.size(); ++i) {
    Reference::Width width = reference.width(streams, sites[i]->namedSiteParameters(), carries);
    streams = reference.depth(branches[i](width.u), width);
    for (auto &[name, value] : width.carries)
      carries[name] = value;
  }
  return streams.sum(-2);
}

} // namespace hyperjit::tools
