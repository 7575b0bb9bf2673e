// Gradients of every recipe on the CPU in fp64 against finite differences, element by element.
// SPDX-License-Identifier: Apache-2.0
//
// A chain of two sites with branches y = tanh(u) + b x: before, boundary and after, with their backward kernels,
// carries included. Sinkhorn at 1, 3 and 20 iterations: a gradient that is not exactly that of the unrolled iteration
// shows at few.

#include "Sites.h"

#include <torch/csrc/autograd/autograd.h>

#include <set>

namespace hyperjit::tests {
namespace {

struct Chain {
  nn::Connection first, second;
  at::Tensor weights; ///< of the outputs in the loss

  explicit Chain(const std::string &spec) : first(makeLayer(spec, 3)), second(makeLayer(spec, 4)) {}

  at::Tensor loss(const at::Tensor &x) const {
    nn::Stream stream(x);
    for (const nn::Connection &layer : {first, second})
      stream = nn::Connection(layer)->forward(stream, [](const at::Tensor &u) { return u.tanh() + 0.3 * u; });
    at::Tensor result = (stream.tensor() * weights).sum();
    if (at::Tensor read = stream.carry("read"); read.defined())
      result = result + (read * at::arange(1, read.numel() + 1, read.options()).reshape(read.sizes()).cos()).sum();
    return result;
  }
};

class Gradcheck : public testing::TestWithParam<std::string> {};

TEST_P(Gradcheck, FiniteDifferences) {
  const std::string spec = GetParam() + ",dtype=fp64,weight=fp64";
  const SiteSpec parsed = SiteSpec::parse(spec);
  Chain chain(spec);
  at::Tensor x = random({2, parsed.n, parsed.d}, 1, at::kDouble);
  x = (x + 0.4 * x.sign()).set_requires_grad(true); // norms: away from zero
  chain.weights = random(x.sizes(), 2, at::kDouble);

  std::vector<std::pair<std::string, at::Tensor>> inputs{{"x", x}};
  for (const auto &[index, layer] : {std::pair{0, chain.first}, {1, chain.second}})
    for (const auto &[name, value] : layer->namedSiteParameters())
      inputs.emplace_back(std::to_string(index) + "." + name, value);
  std::vector<at::Tensor> leaves;
  for (const auto &[name, value] : inputs)
    leaves.push_back(value);
  const std::vector<at::Tensor> gradients =
      torch::autograd::grad({chain.loss(x)}, leaves, {}, false, false, /*allow_unused=*/true);

  const at::NoGradGuard guard;
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(gradients[i].defined()) << inputs[i].first;
    auto *element = leaves[i].data_ptr<double>();
    const auto *gradient = gradients[i].const_data_ptr<double>();
    const double tolerance = 2e-7 * std::max(1.0, gradients[i].abs().max().item<double>());
    for (int64_t k = 0; k < leaves[i].numel(); ++k) {
      const double value = element[k];
      auto slope = [&](double step) {
        element[k] = value + step;
        const double above = chain.loss(x).item<double>();
        element[k] = value - step;
        const double below = chain.loss(x).item<double>();
        element[k] = value;
        return (above - below) / (2 * step);
      };
      // Truncation is about step^2 times a third derivative, cancellation 1e-16 / step. Where curvature is high (norms
      // of short rows) extrapolation takes the first term of truncation out.
      constexpr double kStep = 2e-5;
      double expected = slope(kStep);
      if (std::abs(gradient[k] - expected) > tolerance)
        expected = (4 * slope(kStep) - slope(2 * kStep)) / 3;
      ASSERT_NEAR(gradient[k], expected, tolerance)
          << "d " << inputs[i].first << " at flat index " << k << " of " << spec;
    }
  }
}

/// Options that change the mathematics, recipe by recipe; a recipe that is not named here is checked as it is.
std::vector<std::string> checkedSites() {
  std::vector<std::string> specs = {"static:n=1,d=4",
                                    "static:n=3,d=4",
                                    "static:n=2,m=2,d=4", //
                                    "dynamic:n=3,d=5",
                                    "dynamic:n=3,d=5,tanh=false",
                                    "dynamic:n=2,d=5,scale=false,norm_weight=false",
                                    "dynamic:n=2,d=6,norm=rms_inside",
                                    "dynamic:n=2,d=6,norm=rms_outside",
                                    "dynamic:n=2,d=6,norm=layernorm",
                                    "dynamic:n=2,m=2,d=6", //
                                    "frac:n=1,m=1,d=6",
                                    "frac:n=1,m=2,d=6",
                                    "frac:n=1,m=4,d=8",
                                    "frac:n=1,m=8,d=16,norm=none",
                                    "frac:n=1,m=2,d=6,dynamic=false", //
                                    "joint:n=2,m=2,d=6",
                                    "joint:n=2,m=2,d=6,beta=diag",
                                    "joint:n=2,m=2,d=6,dynamic=false", //
                                    "manifold:n=3,d=4,iterations=1",
                                    "manifold:n=3,d=4,iterations=3",
                                    "manifold:n=3,d=4",
                                    "manifold:n=3,d=4,iterations=3,start=exp_raw,place=clamp,eps=1e-6",
                                    "manifold:n=3,d=4,iterations=3,start=softmax_eps,first=row,place=add,eps=1e-3",
                                    "manifold:n=3,d=4,iterations=3,log_domain=true,tau=0.5",
                                    "manifold:n=2,d=4,orientation=in_out,pre_eps=0.01",
                                    "manifold:n=2,m=2,d=4,iterations=3",
                                    "manifold:n=2,m=2,d=4,iterations=3,beta=diag,dynamic=false",
                                    "manifold:n=2,d=4,norm=layernorm,norm_weight=true,norm_bias=true", //
                                    "deepseek:n=3,d=4,iterations=1",
                                    "deepseek:n=3,d=4,iterations=3",
                                    "deepseek:n=3,d=4",
                                    "delayed-pre:n=3,d=4,iterations=3",
                                    "delayed-pre:n=1,d=4", //
                                    "manifold-streams:n=3,d=4,iterations=3",
                                    "manifold-streams:n=2,m=2,d=4,iterations=1",
                                    "manifold-streams:n=2,d=4,iterations=3,proposals=2,mix_streams=true",
                                    "manifold-streams:n=2,m=2,d=4,iterations=3,static_beta=shared", //
                                    "permutation:n=1,d=4",
                                    "permutation:n=3,d=4",
                                    "permutation:n=3,d=4,norm=layernorm"};
  std::set<std::string> named;
  for (const std::string &spec : specs)
    named.insert(SiteSpec::parse(spec).recipe);
  for (const std::string &recipe : ProgramSource::global().recipes())
    if (!named.count(recipe))
      specs.push_back(smallSite(recipe));
  return specs;
}
INSTANTIATE_TEST_SUITE_P(Recipes, Gradcheck, testing::ValuesIn(checkedSites()),
                         [](const auto &info) { return testName(info.param); });

} // namespace
} // namespace hyperjit::tests
