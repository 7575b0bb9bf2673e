// A variant of your own in a few lines: no kernel, no backward, no autograd class. Its gradients are checked against
// plain ATen, its traffic is asked from the compiler, and a stack of it is trained.
//   example-own-variant [STEPS]
// SPDX-License-Identifier: Apache-2.0
#include <hyperjit/DSL.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/torch/torch.h>

#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

using namespace hyperjit::dsl;

// Highway streams: every stream decides from its own content how much of it the branch reads and how much of it is
// kept.
static void highway(Site &s) {
  int64_t n = s.n();
  Rows x = s.streams(); // n rows of D channels: what is written here is the mathematics of one token
  auto [read, keep] = project(rmsNorm(x, 1e-6), s.weight("gates", {s.D(), 2}, normal(0.02)), {1, 1}); // n x 1 each
  Coefficients reads =
      softmax(reshape(read, {n}) + s.coefficients("read", {n}, values(oneHot(n, 0, 2), "stream 0 first")));
  Coefficients keeps = sigmoid(reshape(keep, {n}) + s.coefficients("keep", {n}, constant(4)));
  s.branchInput(mix(reads, x));
  Rows y = s.branchOutput(); // the hole: attention, an MLP, anything
  s.next(scaleRows(keeps, x) + write(s.coefficients("write", {n}, constant(1)), y));
}

namespace {

using Layer = hyperjit::nn::Connection;
using Tensors = std::vector<at::Tensor>;

at::Tensor branch(const at::Tensor &u) { return at::tanh(u); }

/// The same mathematics in plain ATen.
at::Tensor formula(const Layer &layer, const at::Tensor &x) {
  auto p = layer->namedSiteParameters();
  at::Tensor logits = at::matmul(x * at::rsqrt(x.square().mean(-1, true) + 1e-6), p["gates"]);
  at::Tensor reads = at::softmax(logits.select(-1, 0) + p["read"], -1),
             keeps = at::sigmoid(logits.select(-1, 1) + p["keep"]);
  at::Tensor y = branch((reads.unsqueeze(-1) * x).sum(-2));
  return keeps.unsqueeze(-1) * x + p["write"].unsqueeze(-1) * y.unsqueeze(-2);
}

double largestDifference(const Tensors &a, const Tensors &b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::max(largest, (a[i] - b[i]).abs().max().item<double>());
  return largest;
}

} // namespace

int main(int argc, char **argv) {
  const int64_t steps = argc > 1 ? std::atoll(argv[1]) : 200, n = 4, dim = 24, layers = 3;
  Definition definition;
  definition.summary = "highway streams: each keeps what its own content says";
  definition.maximumFracs = 1;
  definition.limitReason = "its gates are written for whole streams";
  hyperjit::define("highway", highway, definition);
  torch::manual_seed(1);

  // What the compiler makes of it, counted in D-vectors a token: 2n + 2 forward and 3n + 3 backward is the floor.
  hyperjit::SiteSpec spec = hyperjit::ProgramSource::global().normalise(hyperjit::SiteSpec::parse("highway:n=4,d=24"));
  auto &manager = hyperjit::KernelManager::global();
  auto wide = [&](const hyperjit::KernelSpec &kernel) {
    auto traffic = manager.artifact(kernel, hyperjit::Target::native()).artifact->meta.traffic;
    return long(traffic.readsU + traffic.writesU);
  };
  using hyperjit::Bucket, hyperjit::KernelSpec;
  const long forward = wide(KernelSpec::boundaryForward(spec, spec, true, Bucket::Large));
  const long backward = wide(KernelSpec::backward(spec, spec, "xuc", "xycp", Bucket::Large));
  std::printf("traffic of a site in a chain: %ldu forward, %ldu backward\n", forward, backward);

  // Outputs and every gradient against the formula.
  Layer layer(hyperjit::nn::ConnectionOptions("highway", dim).streams(n).parameterDtype(at::kDouble));
  at::Tensor x = at::randn({37, n, dim}, at::kDouble).requires_grad_();
  at::Tensor cotangent = at::randn_like(x);
  Tensors inputs{x};
  for (const at::Tensor &parameter : layer->parameters())
    inputs.push_back(parameter);
  at::Tensor mine = layer->forward(hyperjit::nn::Stream(x), branch).tensor(), theirs = formula(layer, x);
  double error = largestDifference({mine}, {theirs});
  double gradientError = largestDifference(torch::autograd::grad({mine}, inputs, {cotangent}),
                                           torch::autograd::grad({theirs}, inputs, {cotangent}));
  std::printf("largest difference from plain ATen in fp64: output %.1e, gradients %.1e\n", error, gradientError);

  // And it trains.
  std::vector<Layer> stack;
  std::vector<torch::nn::Linear> branches;
  Tensors parameters;
  for (int64_t i = 0; i < layers; ++i) {
    stack.emplace_back(hyperjit::nn::ConnectionOptions("highway", dim).streams(n));
    branches.emplace_back(dim, dim);
    stack.back()->wrap(branches.back());
    for (const at::Tensor &parameter : stack.back()->parameters())
      parameters.push_back(parameter);
  }
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(1e-2));
  double first = 0, last = 0;
  at::Tensor inputRows = at::randn({128, dim}), wanted = at::tanh(inputRows.roll(3, -1));
  for (int64_t step = 0; step < steps; ++step) {
    hyperjit::nn::Stream stream =
        hyperjit::nn::ExpandStreams(hyperjit::nn::ExpandStreamsOptions(n, dim))->forward(inputRows);
    for (Layer &one : stack)
      stream = one->forward(stream);
    at::Tensor loss = at::mse_loss(hyperjit::nn::ReduceStreams("mean")->forward(stream), wanted);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    if (step == 0)
      first = last;
  }
  std::printf("loss %.4f -> %.4f in %ld steps\n", first, last, long(steps));
  return forward == 2 * n + 2 && backward == 3 * n + 3 && error < 1e-12 && gradientError < 1e-9 && last < 0.7 * first
             ? 0
             : 1;
}
