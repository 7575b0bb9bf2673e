// One lazy stream through two variants: what a site leaves open is finished inside the kernel of the next, also when
// that is another variant. The same chain finished site by site gives the same numbers with more kernels.
//   example-mixed-stream [STEPS]
// SPDX-License-Identifier: Apache-2.0
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/torch/torch.h>

#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

using hyperjit::nn::Stream;

namespace {

constexpr int64_t n = 4, dim = 48, tokens = 96;

struct Chain {
  hyperjit::nn::HyperConnection first{hyperjit::nn::HyperConnectionOptions(dim).streams(n).layerIndex(0)};
  hyperjit::nn::ManifoldHyperConnection second{
      hyperjit::nn::ManifoldHyperConnectionOptions(dim).streams(n).layerIndex(1)};
  hyperjit::nn::HyperConnection third{
      hyperjit::nn::HyperConnectionOptions(dim).streams(n).layerIndex(2).dynamic(false)};
  torch::nn::Linear a{dim, dim}, b{dim, dim};

  Chain() {
    first->wrap(a);                                                // a module ...
    second->wrap([](const at::Tensor &u) { return at::tanh(u); }); // ... or any function
    third->wrap(b);
  }
  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all;
    for (const auto &list : {first->parameters(), second->parameters(), third->parameters()})
      all.insert(all.end(), list.begin(), list.end());
    return all;
  }
  /// `lazy`: kernels before(1), after(1)+before(2), after(2)+before(3), after(3). Otherwise six, one by one.
  at::Tensor forward(const at::Tensor &x, bool lazy) {
    auto step = [&](Stream stream) { return lazy ? stream : Stream(stream.tensor()); };
    Stream stream = step(first->forward(Stream(x)));
    stream = step(second->forward(stream));
    stream = third->forward(stream);
    return stream.tensor();
  }
};

} // namespace

int main(int argc, char **argv) {
  const int64_t steps = argc > 1 ? std::atoll(argv[1]) : 200;
  torch::manual_seed(1);
  Chain chain;
  std::vector<at::Tensor> inputs = chain.parameters();
  at::Tensor x = at::randn({tokens, n, dim}).requires_grad_();
  inputs.push_back(x);

  Stream open = chain.first->forward(Stream(x));
  std::printf("after one layer the stream is: %s\n", open.description().c_str());
  const bool pending = open.pending();

  at::Tensor fused = chain.forward(x, true), apart = chain.forward(x, false), cotangent = at::randn_like(fused);
  auto difference = [](const at::Tensor &a, const at::Tensor &b) { return (a - b).abs().max().item<double>(); };
  double error = difference(fused, apart), gradientError = 0;
  auto gradients = torch::autograd::grad({fused}, inputs, {cotangent}),
       wanted = torch::autograd::grad({apart}, inputs, {cotangent});
  for (size_t i = 0; i < gradients.size(); ++i)
    gradientError =
        std::max(gradientError, difference(gradients[i], wanted[i]) / (1 + wanted[i].abs().max().item<double>()));
  std::printf("fused against site by site: output %.1e, gradients %.1e\n", error, gradientError);

  torch::optim::AdamW optimizer(chain.parameters(), torch::optim::AdamWOptions(5e-3));
  at::Tensor h = at::randn({tokens, dim}), target = at::sin(2 * h);
  hyperjit::nn::ExpandStreams expand(hyperjit::nn::ExpandStreamsOptions(n, dim));
  hyperjit::nn::ReduceStreams reduce("mean");
  double first = 0, last = 0;
  for (int64_t step = 0; step < steps; ++step) {
    at::Tensor loss = at::mse_loss(reduce->forward(Stream(chain.forward(expand->forward(h).tensor(), true))), target);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    if (step == 0)
      first = last;
  }
  auto statistics = hyperjit::KernelManager::global().statistics();
  std::printf("loss %.4f -> %.4f; %ld kernels compiled, %ld from disk\n", first, last, long(statistics.compiled),
              long(statistics.diskHits));
  return pending && error < 1e-5 && gradientError < 1e-4 && last < 0.7 * first ? 0 : 1;
}
