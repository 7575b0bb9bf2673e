// The variant as a torch::nn layer, on the CPU and on the GPU where there is one (or on the device that is named):
// forward against its formula in plain ATen, gradients against finite differences.
// SPDX-License-Identifier: Apache-2.0
#include "TwoHeads.h"

#include <hyperjit/torch/Connection.h>

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

namespace {

constexpr int64_t tokens = 3, streams = 3, dim = 5, sites = 2;
using Layers = std::vector<hyperjit::nn::Connection>;

at::Tensor branch(const at::Tensor &u) { return at::tanh(u.select(-2, 0)) * u.select(-2, 1); }

at::Tensor compiled(Layers &layers, const at::Tensor &x) {
  hyperjit::nn::Stream stream(x);
  for (auto &layer : layers)
    stream = layer->forward(stream, branch);
  return stream.tensor();
}

at::Tensor formula(Layers &layers, at::Tensor x) {
  for (auto &layer : layers) {
    auto p = layer->namedSiteParameters();
    at::Tensor flat = x.flatten(-2);
    at::Tensor normed = flat * at::rsqrt(flat.square().mean(-1, true) + 1e-6);
    at::Tensor logits = at::matmul(normed, p["projection"].reshape({streams * dim, streams * streams}));
    at::Tensor residual = at::softmax(p["mixing"] + at::tanh(logits.unflatten(-1, {streams, streams})), -1);
    at::Tensor y = branch(at::matmul(at::softmax(p["read"], -1), x)) * p["gate"];
    x = at::matmul(residual, x) + p["write"].unsqueeze(-1) * y.unsqueeze(-2);
  }
  return x;
}

/// Whether both agree on the device.
bool check(const at::Device &device) {
  torch::manual_seed(3);
  Layers layers;
  for (int64_t i = 0; i < sites; ++i) {
    layers.emplace_back(
        hyperjit::nn::ConnectionOptions("two-heads", dim).streams(streams).layerIndex(i).parameterDtype(at::kDouble));
    torch::NoGradGuard noGradients;
    for (at::Tensor &parameter : layers.back()->parameters())
      parameter.add_(at::randn_like(parameter), 0.2);
    layers.back()->to(device);
  }
  at::Tensor x = at::randn({tokens, streams, dim}, at::kDouble).to(device).requires_grad_();
  at::Tensor weights = at::randn({tokens, streams, dim}, at::kDouble).to(device);

  at::Tensor out = compiled(layers, x);
  double forwardError = (out - formula(layers, x)).abs().max().item<double>();
  (out * weights).sum().backward();

  std::vector<at::Tensor> inputs{x};
  for (auto &layer : layers)
    for (at::Tensor &parameter : layer->parameters())
      inputs.push_back(parameter);
  double gradientError = 0;
  torch::NoGradGuard noGradients;
  for (at::Tensor &input : inputs) {
    at::Tensor values = input.flatten(), gradient = input.grad().flatten(); // contiguous: views
    for (int64_t i = 0; i < values.numel(); ++i) {
      constexpr double step = 1e-5;
      double old = values[i].item<double>();
      auto at = [&](double value) {
        values[i] = value;
        return (compiled(layers, x) * weights).sum().item<double>();
      };
      double numeric = (at(old + step) - at(old - step)) / (2 * step);
      values[i] = old;
      gradientError = std::max(gradientError, std::abs(numeric - gradient[i].item<double>()));
    }
  }
  std::printf("%s: largest difference: forward %.2e, gradients %.2e\n", device.str().c_str(), forwardError,
              gradientError);
  return forwardError < 1e-12 && gradientError < 1e-7;
}

} // namespace

int main(int count, char **arguments) {
  consumer::define();
  std::vector<at::Device> devices;
  for (int i = 1; i < count; ++i)
    devices.emplace_back(std::string(arguments[i]));
  if (devices.empty()) {
    devices.emplace_back(at::kCPU);
    if (torch::cuda::is_available())
      devices.emplace_back(at::kCUDA);
  }
  bool right = true;
  for (const at::Device &device : devices)
    right &= check(device);
  return right ? 0 : 1;
}
