// Train a model whose residual connections are hyper-connections: make a layer, wrap a block with it, train, save,
// load.
//   example-train [STEPS]
// SPDX-License-Identifier: Apache-2.0
#include <hyperjit/torch/torch.h>

#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <vector>

namespace nn = torch::nn;

/// Any module Tensor -> Tensor can be a branch. It has no residual of its own: that is the connection's work.
struct BlockImpl : nn::Module {
  explicit BlockImpl(int64_t dim)
      : norm(register_module("norm", nn::LayerNorm(nn::LayerNormOptions({dim})))),
        up(register_module("up", nn::Linear(dim, 2 * dim))), down(register_module("down", nn::Linear(2 * dim, dim))) {}
  at::Tensor forward(const at::Tensor &x) { return down(at::gelu(up(norm(x)))); }
  nn::LayerNorm norm;
  nn::Linear up, down;
};
TORCH_MODULE(Block);

struct ModelImpl : nn::Module {
  ModelImpl(int64_t dim, int64_t streams, int64_t layers) {
    namespace hnn = hyperjit::nn;
    expand = register_module("expand", hnn::ExpandStreams(hnn::ExpandStreamsOptions(streams, dim)));
    for (int64_t i = 0; i < layers; ++i) {
      hnn::ManifoldHyperConnection layer(hnn::ManifoldHyperConnectionOptions(dim).streams(streams).layerIndex(i));
      layer->wrap(Block(dim)); // registered as the layer's child "branch"
      connections.push_back(register_module("connection" + std::to_string(i), layer));
    }
    reduce = register_module("reduce", hnn::ReduceStreams("mean"));
    head = register_module("head", nn::Linear(dim, 1));
  }
  at::Tensor forward(const at::Tensor &x) {
    // The stream is lazy: each layer finishes the one before it and opens its own branch in one kernel.
    hyperjit::nn::Stream stream = expand->forward(x);
    for (auto &connection : connections)
      stream = connection->forward(stream);
    return head(reduce->forward(stream)).squeeze(-1);
  }
  hyperjit::nn::ExpandStreams expand{nullptr};
  std::vector<hyperjit::nn::ManifoldHyperConnection> connections;
  hyperjit::nn::ReduceStreams reduce{nullptr};
  nn::Linear head{nullptr};
};
TORCH_MODULE(Model);

int main(int argc, char **argv) {
  const int64_t steps = argc > 1 ? std::atoll(argv[1]) : 300, dim = 32, streams = 4, layers = 4;
  torch::manual_seed(1);
  at::Device device = torch::cuda::is_available() ? at::kCUDA : at::kCPU;
  Model model(dim, streams, layers);
  model->to(device);
  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(3e-3));

  // Something to learn: products of neighbouring inputs, summed.
  auto target = [](const at::Tensor &x) { return (x * x.roll(1, -1)).slice(-1, 0, 8).sum(-1) / 3; };
  double first = 0, last = 0;
  for (int64_t step = 0; step < steps; ++step) {
    at::Tensor x = at::randn({256, dim}, at::device(device));
    at::Tensor loss = at::mse_loss(model->forward(x), target(x));
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    if (step == 0)
      first = last;
    if (step % 20 == 0 || step + 1 == steps)
      std::printf("step %4ld  loss %.4f\n", long(step), last);
  }

  // Saving and loading are LibTorch's own; an archive of another recipe or size is refused by name.
  std::stringstream archive;
  torch::save(model, archive);
  Model again(dim, streams, layers);
  torch::load(again, archive);
  again->to(device);
  torch::NoGradGuard noGradients;
  at::Tensor x = at::randn({64, dim}, at::device(device));
  const bool same = at::equal(model->forward(x), again->forward(x));
  std::printf("loss %.4f -> %.4f; the loaded model %s\n", first, last, same ? "gives the same bits" : "DIFFERS");
  return same && last < 0.9 * first ? 0 : 1;
}
