// A chain of sites of one spec: built, run, counted, timed.
// SPDX-License-Identifier: Apache-2.0
//
// A row's time is that of a whole chain divided by its sites: expand and reduce are outside, the branches return what
// they are given.
#include "Chain.h"
#include "Alone.h"
#include "TorchGraph.h"
#include "torch/Measure.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/torch/Ops.h>

#include <fmt/format.h>

namespace hyperjit::tools {

Chain::Chain(const SiteSpec &spec, int64_t sites, int64_t tokens, at::Device device) : spec(spec) {
  torch::manual_seed(1);
  for (int64_t i = 0; i < sites; ++i) {
    nn::Connection layer(nn::ConnectionOptions(spec).layerIndex(i));
    layer->to(device);
    torch::NoGradGuard noGradients;
    // Initial values make many coefficients zero or one; a trained layer's are neither.
    for (at::Tensor &parameter : layer->parameters())
      parameter.add_(at::randn_like(parameter), 0.02);
    layers.push_back(layer);
  }
  auto options = at::device(device).dtype(ops::scalarType(spec.stream));
  x = at::randn({tokens, spec.n, spec.d}, options).requires_grad_();
  cotangent = at::randn({tokens, spec.n, spec.d}, options);
}

at::Tensor Chain::jit() const {
  nn::Stream stream(x);
  for (const nn::Connection &layer : layers)
    stream = nn::Connection(layer)->forward(stream, [](const at::Tensor &u) { return u; });
  return stream.tensor();
}

at::Tensor Chain::eager() const {
  const Reference reference(spec);
  std::vector<Reference::Tensors> parameters;
  for (const nn::Connection &layer : layers)
    parameters.push_back(layer->namedSiteParameters());
  return formulas(reference, x, parameters);
}

at::Tensor Chain::formulas(const Reference &reference, at::Tensor streams,
                           const std::vector<Reference::Tensors> &parameters) {
  Reference::Tensors carries;
  for (const Reference::Tensors &own : parameters) {
    Reference::Width width = reference.width(streams, own, carries);
    streams = reference.depth(width.u, width);
    for (auto &[name, value] : width.carries)
      carries[name] = value;
  }
  return streams;
}

void Chain::clearGradients() const {
  for (const nn::Connection &layer : layers)
    nn::Connection(layer)->zero_grad();
  x.mutable_grad() = at::Tensor();
}

std::vector<Row> timeChain(const Chain &chain, bool eager, int repeats, at::Device device) {
  auto clear = [&] { chain.clearGradients(); };
  auto forward = [&] { return eager ? chain.eager() : chain.jit(); };
  auto backward = [&](const at::Tensor &out) { out.backward(chain.cotangent); };
  const TrainingTiming launched = timedTraining(device, repeats, forward, backward, clear);
  TrainingTiming timing = launched;
  if (device.is_cuda() && !eager && TrainingGraph::available()) {
    clear();
    at::Tensor expected = forward();
    backward(expected);
    expected = expected.detach(); // no node of this stream may live on into the graphs
    const at::Tensor gradient = chain.x.grad();
    auto cleared = [&] {
      clear(); // a graph makes gradients anew, as the step after zero_grad does
      return forward();
    };
    TrainingGraph graph(device, cleared, backward);
    auto replayForward = [&] {
      graph.replayForward();
      return graph.output();
    };
    auto replayBackward = [&](const at::Tensor &) { graph.replayBackward(); };
    timing = timedTraining(device, repeats, replayForward, replayBackward, [&] { replayBackward(replayForward()); });
    if (!at::equal(graph.output(), expected) || !at::equal(chain.x.grad(), gradient))
      throw InternalError("a chain replayed as CUDA graphs differs from the same chain launched", chain.spec.text());
    clear();
  }
  clear();
  const double scale = 1e3 / double(chain.layers.size()); // ms of a chain to us of a site
  auto scaled = [&](Timing t) { return Timing{t.median * scale, t.min * scale, t.max * scale}; };
  auto row = [&](const char *direction, const Timing &us, const Timing &byHost) {
    return Row{eager ? "eager" : "hyperjit",
               chain.spec.text(),
               direction,
               "chain",
               "",
               chain.x.size(0),
               scaled(us),
               scaled(byHost),
               std::nullopt};
  };
  Row both = row("both", timing.both, launched.both);
  if (device.is_cuda())
    both.host = scaled(launched.host);
  return {row("forward", timing.forward, launched.forward), row("backward", timing.backward, launched.backward), both};
}

CountedTraffic countTraffic(const SiteSpec &spec, int64_t sites, int64_t tokens, const Target &target) {
  KernelManager &manager = KernelManager::global();
  CountedTraffic counted;
  for (const KernelSpec &kernel : trainingKernels(spec, bucketOf(tokens))) {
    const TrafficInfo traffic = manager.artifact(kernel, target).artifact->meta.traffic;
    const double times = kernel.role == Role::Boundary ? double(sites - 1) : 1;
    (kernel.direction == Direction::Forward ? counted.forward : counted.backward) +=
        times * double(traffic.readsU + traffic.writesU);
  }
  counted.forward /= double(sites);
  counted.backward /= double(sites);
  return counted;
}

} // namespace hyperjit::tools
