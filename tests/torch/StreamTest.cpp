// The lazy stream: whatever is done to it, values and gradients are those of code that finishes each site at once.
// SPDX-License-Identifier: Apache-2.0

#include "Sites.h"

#include <hyperjit/core/KernelManager.h>

#include <ATen/autocast_mode.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/nn/modules/linear.h>

#include <atomic>
#include <mutex>
#include <unordered_map>

namespace hyperjit::tests {
namespace {

using Layers = std::vector<nn::Connection>;

at::Tensor branch(const at::Tensor &u) { return u.tanh() + 0.3 * u; }

Layers makeLayers(const std::vector<std::string> &specs) {
  Layers layers;
  for (size_t i = 0; i < specs.size(); ++i)
    layers.push_back(makeLayer(specs[i], 10 + i));
  return layers;
}

/// The chain, fused, or with each site finished before the next begins.
nn::Stream run(const Layers &layers, nn::Stream stream, bool fused) {
  for (nn::Connection layer : layers) {
    stream = layer->forward(stream, branch);
    EXPECT_TRUE(stream.pending());
    if (!fused)
      stream.tensor();
  }
  return stream;
}

struct Result {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
};

/// Outputs and gradients of x and all parameters.
Result differentiate(const Layers &layers, const at::Tensor &start,
                     const std::function<at::Tensor(const at::Tensor &)> &loss) {
  const at::Tensor x = start.detach().clone().set_requires_grad(true);
  for (const nn::Connection &layer : layers)
    for (const at::Tensor &parameter : layer->siteParameters())
      at::Tensor(parameter).mutable_grad() = at::Tensor();
  const at::Tensor value = loss(x);
  value.backward();
  Result result{{{"loss", value}, {"d x", x.grad()}}};
  for (size_t i = 0; i < layers.size(); ++i)
    for (const auto &[name, parameter] : layers[i]->namedSiteParameters())
      result.tensors.emplace_back("d " + std::to_string(i) + "." + name,
                                  parameter.grad().defined() ? parameter.grad().clone() : at::Tensor());
  return result;
}

void expectClose(const Result &a, const Result &b, double tolerance = 1e-5) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    const auto &[name, value] = a.tensors[i];
    ASSERT_EQ(value.defined(), b.tensors[i].second.defined()) << name;
    if (value.defined()) {
      EXPECT_LT(difference(value, b.tensors[i].second), tolerance) << name;
    }
  }
}

at::Tensor start(int64_t n = 3, int64_t d = 6, int64_t tokens = 5) { return random({tokens, n, d}, 20); }

//===----------------------------------------------------------------------===//
// Fusion
//===----------------------------------------------------------------------===//

class FusedPair : public testing::TestWithParam<std::string> {};

/// Between equal and different variants, forward and backward.
TEST_P(FusedPair, EqualsFinishedSites) {
  const SiteSpec spec = SiteSpec::parse(GetParam());
  for (const std::string &partner :
       {GetParam(), "static:n=" + std::to_string(spec.n) + ",m=" + std::to_string(spec.m) + ",d=6",
        "manifold:n=" + std::to_string(spec.n) + ",m=" + std::to_string(spec.m) + ",d=6"})
    for (bool first : {false, true}) {
      const Layers layers = makeLayers(first ? std::vector{partner, GetParam(), GetParam()}
                                             : std::vector{GetParam(), partner, GetParam()});
      const at::Tensor x = start(spec.n), weights = random(x.sizes(), 21);
      auto loss = [&](bool fused) {
        return [&, fused](const at::Tensor &x) { return (run(layers, x, fused).tensor() * weights).sum(); };
      };
      SCOPED_TRACE(GetParam() + " with " + partner);
      expectClose(differentiate(layers, x, loss(true)), differentiate(layers, x, loss(false)), 2e-5);
    }
}
INSTANTIATE_TEST_SUITE_P(Recipes, FusedPair, testing::ValuesIn(smallSites()),
                         [](const auto &info) { return testName(info.param); });

TEST(Stream, OnlyFirstAndLastSiteRunAlone) {
  const Layers layers = makeLayers({"static:n=3,d=6", "dynamic:n=3,d=6", "static:n=3,d=6"});
  nn::Stream stream(start());
  EXPECT_FALSE(stream.pending());
  EXPECT_NE(stream.description().find("streams on Float"), std::string::npos) << stream.description();
  stream = run(layers, stream, true);
  EXPECT_NE(stream.description().find("pending static:n=3,m=1,d=6,dtype=fp32 on Float [5, 3, 6]"), std::string::npos)
      << stream.description();
  const at::Tensor out = stream.tensor();
  std::vector<std::string> nodes;
  std::vector<torch::autograd::Node *> queue{out.grad_fn().get()};
  for (size_t i = 0; i < queue.size(); ++i) {
    nodes.push_back(queue[i]->name());
    for (const auto &edge : queue[i]->next_edges())
      if (edge.function && std::find(queue.begin(), queue.end(), edge.function.get()) == queue.end())
        queue.push_back(edge.function.get());
  }
  auto count = [&](const char *part) {
    return std::count_if(nodes.begin(), nodes.end(),
                         [&](const std::string &name) { return name.find(part) != std::string::npos; });
  };
  EXPECT_EQ(count("Before"), 1);
  EXPECT_EQ(count("Boundary"), 2);
  EXPECT_EQ(count("After"), 1);
}

/// The first site hands its streams on: autograd has one edge to them and nothing to add, and before's backward is
/// asked to.
TEST(Stream, TheFirstSiteAddsTheGradientOfItsStreams) {
  const Layers layers = makeLayers({"dynamic:n=3,d=14", "manifold:n=3,d=14"});
  const at::Tensor x = start(3, 14).set_requires_grad(true);
  const at::Tensor out = run(layers, x, true).tensor();
  int edges = 0;
  std::vector<torch::autograd::Node *> queue{out.grad_fn().get()};
  for (size_t i = 0; i < queue.size(); ++i)
    for (const auto &edge : queue[i]->next_edges()) {
      edges += edge.function == torch::autograd::impl::grad_accumulator(x);
      if (edge.function && std::find(queue.begin(), queue.end(), edge.function.get()) == queue.end())
        queue.push_back(edge.function.get());
    }
  EXPECT_EQ(edges, 1);
  out.sum().backward();
  const SiteSpec site = layers[0]->spec();
  auto loaded = [&](const char *given) {
    return KernelManager::global().peek(KernelSpec::backward({}, site, given, "xp", Bucket::Small),
                                        Target::hostLevel()) != nullptr;
  };
  EXPECT_TRUE(loaded("xuc"));
  EXPECT_FALSE(loaded("uc"));
}

TEST(Stream, TensorMaterialisesOnce) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6"});
  nn::Stream stream = run(layers, start(), true), copy = stream;
  const at::Tensor x = stream.tensor();
  EXPECT_FALSE(stream.pending());
  EXPECT_FALSE(copy.pending());
  EXPECT_EQ(x.data_ptr(), copy.tensor().data_ptr());
  EXPECT_TRUE(x.requires_grad());
}

TEST(Stream, CarriesTravel) {
  const Layers layers = makeLayers({"delayed-pre:n=3,d=6", "static:n=3,d=6", "delayed-pre:n=3,d=6"});
  const at::Tensor x = start(), weights = random(x.sizes(), 21);
  auto loss = [&](bool fused) {
    return [&, fused](const at::Tensor &x) {
      nn::Stream stream = run(layers, x, fused);
      return (stream.tensor() * weights).sum() + stream.carry("read").square().sum();
    };
  };
  const Result fused = differentiate(layers, x, loss(true));
  expectClose(fused, differentiate(layers, x, loss(false)));
  // The same where the stream goes on as tensors between two sites.
  expectClose(fused, differentiate(layers, x, [&](const at::Tensor &x) {
                const nn::Stream before = run({layers[0], layers[1]}, x, true);
                EXPECT_EQ(before.carries().size(), 1u);
                const nn::Stream stream = run({layers[2]}, nn::Stream(before.tensor(), before.carries()), true);
                return (stream.tensor() * weights).sum() + stream.carry("read").square().sum();
              }));
  EXPECT_MESSAGE("carry 'read' is undefined", nn::Stream(x, {{"read", at::Tensor()}}));
  // The first site's read weights are used by the third: a gradient that only the carry brings.
  const Layers alone = makeLayers({"delayed-pre:n=3,d=6", "static:n=3,d=6"});
  const Result without =
      differentiate(alone, x, [&](const at::Tensor &x) { return (run(alone, x, true).tensor() * weights).sum(); });
  EXPECT_GT(difference(fused.tensors[2].second, without.tensors[2].second), 1e-3);
}

//===----------------------------------------------------------------------===//
// Other consumers
//===----------------------------------------------------------------------===//

TEST(Stream, SecondConsumerOfAPendingStream) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "manifold:n=3,d=6", "static:n=3,d=6"});
  const at::Tensor x = start(), weights = random(x.sizes(), 21);
  // Two layers read one stream, and it is also materialised: before, between or after them.
  for (int when = 0; when < 4; ++when) {
    auto loss = [&](bool fused) {
      return [&, fused](const at::Tensor &x) {
        nn::Stream shared = nn::Connection(layers[0])->forward(x, branch);
        if (when == 0 || !fused)
          shared.tensor();
        nn::Stream a = nn::Connection(layers[1])->forward(shared, branch);
        if (when == 1)
          shared.tensor();
        nn::Stream b = nn::Connection(layers[2])->forward(shared, branch);
        at::Tensor total = (a.tensor() * weights).sum() + (b.tensor() * weights).cos().sum();
        return when == 3 ? total : total + (shared.tensor() * weights).sin().sum();
      };
    };
    SCOPED_TRACE(when);
    expectClose(differentiate(layers, x, loss(true)), differentiate(layers, x, loss(false)));
  }
}

/// One layer used twice: its parameters get both gradients.
TEST(Stream, OneLayerTwice) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6"});
  const Layers twice = {layers[0], layers[0]};
  const at::Tensor x = start(), weights = random(x.sizes(), 21);
  auto loss = [&](bool fused) {
    return [&, fused](const at::Tensor &x) { return (run(twice, x, fused).tensor() * weights).sum(); };
  };
  expectClose(differentiate(layers, x, loss(true)), differentiate(layers, x, loss(false)));
}

TEST(Stream, HooksSeeTrueGradients) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "manifold:n=3,d=6", "static:n=3,d=6"});
  const at::Tensor weights = random({5, 3, 6}, 21);
  auto seen = [&](bool fused) {
    const at::Tensor x = start().set_requires_grad(true);
    std::vector<at::Tensor> gradients(3);
    nn::Stream stream = nn::Connection(layers[0])->forward(x, [&](const at::Tensor &u) {
      u.register_hook([&](const at::Tensor &gradient) { gradients[0] = gradient.clone(); });
      return branch(u);
    });
    const at::Tensor watched = stream.tensor(); // materialised: watched by a hook and by retain_grad
    watched.register_hook([&](const at::Tensor &gradient) { gradients[1] = gradient.clone(); });
    watched.retain_grad();
    stream = nn::Connection(layers[1])->forward(stream, branch);
    if (!fused)
      stream.tensor();
    stream = nn::Connection(layers[2])->forward(stream, branch);
    (stream.tensor() * weights).sum().backward();
    gradients[2] = watched.grad();
    return gradients;
  };
  const auto fused = seen(true), apart = seen(false);
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(fused[i].defined());
    EXPECT_LT(difference(fused[i], apart[i]), 1e-5) << i;
  }
  EXPECT_LT(difference(fused[1], fused[2]), 1e-12);
}

TEST(Stream, HookThatChangesAGradient) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "static:n=3,d=6"});
  const at::Tensor x = start(), weights = random(x.sizes(), 21);
  auto loss = [&](bool fused) {
    return [&, fused](const at::Tensor &x) {
      nn::Stream stream = nn::Connection(layers[0])->forward(x, [&](const at::Tensor &u) {
        at::Tensor y = branch(u);
        y.register_hook([](const at::Tensor &gradient) { return gradient * 3; });
        return y;
      });
      if (!fused)
        stream.tensor();
      return (nn::Connection(layers[1])->forward(stream, branch).tensor() * weights).sum();
    };
  };
  const Result changed = differentiate(layers, x, loss(true));
  expectClose(changed, differentiate(layers, x, loss(false)));
}

//===----------------------------------------------------------------------===//
// Autograd's modes
//===----------------------------------------------------------------------===//

TEST(Stream, RetainGraphGivesTheSameAgain) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "manifold:n=3,d=6"});
  const at::Tensor x = start().set_requires_grad(true), loss = run(layers, x, true).tensor().square().sum();
  loss.backward({}, /*retain_graph=*/true);
  const at::Tensor once = x.grad().clone(), parameter = layers[0]->siteParameters()[0];
  const at::Tensor onceParameter = parameter.grad().clone();
  loss.backward();
  EXPECT_TRUE(at::equal(x.grad(), once + once));
  EXPECT_TRUE(at::equal(parameter.grad(), onceParameter + onceParameter));
  EXPECT_MESSAGE("backward through the graph a second time", loss.backward());
}

TEST(Stream, DoubleBackwardIsRefused) {
  for (const std::vector<std::string> &specs :
       {std::vector<std::string>{"dynamic:n=3,d=6"}, {"static:n=3,d=6", "manifold:n=3,d=6"}}) {
    const Layers layers = makeLayers(specs);
    const at::Tensor x = start().set_requires_grad(true);
    const at::Tensor gradient =
        torch::autograd::grad({run(layers, x, true).tensor().square().sum()}, {x}, {}, true, /*create_graph=*/true)[0];
    EXPECT_MESSAGE("derivative for hyperjit::before_backward is not implemented", gradient.square().sum().backward());
  }
  const at::Tensor h = random({2, 6}, 1).set_requires_grad(true);
  const at::Tensor gradient = torch::autograd::grad(
      {nn::ExpandStreams(nn::ExpandStreamsOptions(2, 6))->forward(h).tensor().square().sum()}, {h}, {}, true, true)[0];
  EXPECT_MESSAGE("derivative for hyperjit::expand_backward is not implemented", gradient.square().sum().backward());
}

TEST(Stream, NoGradThenGrad) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "static:n=3,d=6"});
  const at::Tensor x = start().set_requires_grad(true);
  nn::Stream stream;
  {
    const at::NoGradGuard guard;
    stream = nn::Connection(layers[0])->forward(x, branch);
    EXPECT_TRUE(stream.pending());
  }
  // Made without gradient: it has none, although it is finished here.
  nn::Stream next = nn::Connection(layers[1])->forward(stream, branch);
  EXPECT_FALSE(stream.tensor().requires_grad());
  next.tensor().sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(layers[0]->siteParameters()[0].grad().defined());
  EXPECT_TRUE(layers[1]->siteParameters()[0].grad().defined());
}

TEST(Stream, GradThenNoGrad) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "static:n=3,d=6"});
  const at::Tensor x = start().set_requires_grad(true);
  nn::Stream stream = nn::Connection(layers[0])->forward(x, branch);
  at::Tensor seen;
  {
    const at::NoGradGuard guard;
    seen = stream.tensor();
    EXPECT_FALSE(nn::Connection(layers[1])->forward(stream, branch).tensor().requires_grad());
  }
  ASSERT_TRUE(seen.requires_grad());
  seen.sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

TEST(Stream, InferenceMode) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "manifold:n=3,d=6"});
  const at::Tensor expected = run(layers, start(), true).tensor().detach();
  const c10::InferenceMode guard;
  const at::Tensor got = run(layers, start(), true).tensor();
  EXPECT_TRUE(at::equal(got, expected));
  EXPECT_TRUE(got.is_inference());
}

TEST(Stream, FrozenParameters) {
  const at::Tensor x = start(), weights = random(x.sizes(), 21);
  for (const std::string &spec : smallSites()) {
    SCOPED_TRACE(spec);
    const Layers layers = makeLayers({spec, spec});
    const SiteSpec parsed = SiteSpec::parse(spec);
    const at::Tensor x = start(parsed.n), weights = random(x.sizes(), 21);
    auto loss = [&](const at::Tensor &x) { return (run(layers, x, true).tensor() * weights).sum(); };
    const Result free = differentiate(layers, x, loss);
    for (const at::Tensor &parameter : layers[0]->siteParameters())
      at::Tensor(parameter).set_requires_grad(false);
    const Result frozen = differentiate(layers, x, loss);
    for (size_t i = 0; i < free.tensors.size(); ++i) {
      const auto &[name, value] = frozen.tensors[i];
      EXPECT_EQ(value.defined(), name.rfind("d 0.", 0) != 0) << name;
      if (value.defined()) {
        EXPECT_LT(difference(value, free.tensors[i].second), 1e-6) << name;
      }
    }
    // Streams that need no gradient, parameters that do.
    for (const at::Tensor &parameter : layers[0]->siteParameters())
      at::Tensor(parameter).set_requires_grad(true);
    for (const at::Tensor &parameter : layers[0]->siteParameters())
      at::Tensor(parameter).mutable_grad() = at::Tensor();
    loss(x.detach()).backward();
    for (const auto &[name, parameter] : layers[0]->namedSiteParameters()) {
      const auto found = std::find_if(free.tensors.begin(), free.tensors.end(),
                                      [&](const auto &entry) { return entry.first == "d 0." + name; });
      EXPECT_LT(difference(parameter.grad(), found->second), 1e-6) << name;
    }
  }
}

/// Outputs that nobody uses get no gradient; the others are as if it were zero.
TEST(Stream, UndefinedGradients) {
  for (const std::string &spec : smallSites()) {
    SCOPED_TRACE(spec);
    const SiteSpec parsed = SiteSpec::parse(spec);
    const Layers layers = makeLayers({spec, spec});
    const at::Tensor x = start(parsed.n);
    // Only the branch's input is used, so nothing reaches the streams.
    auto onlyU = [&](double other) {
      return [&, other](const at::Tensor &x) {
        nn::Stream stream = nn::Connection(layers[0])->forward(x, branch);
        auto [u, open] = nn::Connection(layers[1])->widthConnection(stream);
        at::Tensor total = u.sin().sum();
        return other != 0 || std::isnan(other)
                   ? total + 0.0 * nn::Connection(layers[1])->depthConnection(u.detach(), open).tensor().sum()
                   : total;
      };
    };
    const Result undefined = differentiate(layers, x, onlyU(0)), zero = differentiate(layers, x, onlyU(1));
    for (size_t i = 0; i < undefined.tensors.size(); ++i) {
      const auto &[name, value] = undefined.tensors[i];
      if (value.defined()) {
        EXPECT_LT(difference(value, zero.tensors[i].second), 1e-5) << name;
      } else {
        EXPECT_TRUE(!zero.tensors[i].second.defined() || zero.tensors[i].second.abs().max().item<double>() == 0)
            << name;
      }
    }
    // A branch that is cut off: y without gradient.
    auto cut = [&](bool fused) {
      return [&, fused](const at::Tensor &x) {
        nn::Stream stream =
            nn::Connection(layers[0])->forward(x, [](const at::Tensor &u) { return branch(u.detach()); });
        if (!fused)
          stream.tensor();
        return nn::Connection(layers[1])->forward(stream, branch).tensor().square().sum();
      };
    };
    expectClose(differentiate(layers, x, cut(true)), differentiate(layers, x, cut(false)));
  }
}

/// Autocast is to change the branch and nothing else: the same branch with its casts written out is the reference. Full
/// precision would be none: how far bf16 takes the gradient of a scale from it depends on the processor's products.
TEST(Stream, Autocast) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "manifold:n=3,d=6"});
  torch::nn::Linear linear(6, 6);
  auto forward = [&](const at::Tensor &x, bool autocast) {
    at::autocast::set_autocast_enabled(at::kCPU, autocast);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    auto low = [](const at::Tensor &tensor) { return tensor.to(at::kBFloat16); };
    nn::Stream stream(x);
    for (nn::Connection layer : layers)
      stream = layer->forward(stream, [&](const at::Tensor &u) {
        EXPECT_EQ(u.scalar_type(), at::kFloat);
        const at::Tensor y = autocast ? linear->forward(u) : at::linear(low(u), low(linear->weight), low(linear->bias));
        EXPECT_EQ(y.scalar_type(), at::kBFloat16);
        return y;
      });
    const at::Tensor out = stream.tensor();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
    EXPECT_EQ(out.scalar_type(), at::kFloat); // streams keep their dtype
    return out.sum();
  };
  const Result low = differentiate(layers, start(), [&](const at::Tensor &x) { return forward(x, true); });
  expectClose(low, differentiate(layers, start(), [&](const at::Tensor &x) { return forward(x, false); }));
  for (const auto &[name, value] : low.tensors)
    EXPECT_EQ(value.scalar_type(), at::kFloat) << name;
}

//===----------------------------------------------------------------------===//
// Refused by name
//===----------------------------------------------------------------------===//

TEST(Stream, UseOfAnOpenBranch) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "static:n=3,d=6"});
  nn::Connection first = layers[0], second = layers[1];
  auto [u, open] = first->widthConnection(start());
  EXPECT_MESSAGE("has not returned; call depthConnection(y, stream)", open.tensor());
  EXPECT_MESSAGE("has not returned; call depthConnection(y, stream)", second->widthConnection(open));
  EXPECT_MESSAGE("got a stream that another layer opened", second->depthConnection(u, open));
  EXPECT_MESSAGE("needs the stream that widthConnection returned", first->depthConnection(u, nn::Stream(start())));
  EXPECT_MESSAGE("the branch output y has sizes [5, 7]", first->depthConnection(at::zeros({5, 7}), open));
  EXPECT_MESSAGE("the branch output y is undefined", first->depthConnection(at::Tensor(), open));
  EXPECT_MESSAGE("the branch output y is Int", first->depthConnection(at::zeros({5, 6}, at::kInt), open));
  EXPECT_MESSAGE("the stream is empty", first->widthConnection(nn::Stream()));
  EXPECT_MESSAGE("streams x [..., n, D] are undefined", nn::Stream(at::Tensor()));
}

TEST(Stream, OperandsChangedWhilePending) {
  const at::NoGradGuard guard; // with gradients autograd refuses it itself
  const Layers layers = makeLayers({"dynamic:n=3,d=6"});
  at::Tensor x = start(), y;
  nn::Stream stream = nn::Connection(layers[0])->forward(x, [&](const at::Tensor &u) { return y = u * 2; });
  y.add_(1);
  EXPECT_MESSAGE("the branch output of dynamic:n=3,m=1,d=6,dtype=fp32 was changed in place", stream.tensor());
  stream = nn::Connection(layers[0])->forward(x, branch);
  x.add_(1);
  EXPECT_MESSAGE("the streams of dynamic:n=3,m=1,d=6,dtype=fp32 was changed in place", stream.tensor());
}

TEST(Stream, OperandsChangedBeforeBackward) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6"});
  const at::Tensor x = (start().set_requires_grad(true) * 1).clone();
  at::Tensor changed = x;
  const at::Tensor loss = run(layers, changed, true).tensor().sum();
  changed.add_(1);
  EXPECT_MESSAGE("modified inplace", loss.backward()); // autograd's words for a view, which the chain's streams are
}

TEST(Stream, OtherSizesAreNotFused) {
  const Layers layers = makeLayers({"dynamic:n=3,d=6", "dynamic:n=2,d=6", "frac:n=1,m=2,d=6"});
  nn::Stream stream = nn::Connection(layers[0])->forward(start(), branch);
  EXPECT_MESSAGE("x has 3 streams, sizes [5, 3, 6]; dynamic:n=2,m=1,d=6,dtype=fp32 has n=2",
                 nn::Connection(layers[1])->forward(stream, branch));
  // Fracs are another reading of the same streams: m may change, unfused.
  const Layers joint = makeLayers({"dynamic:n=2,d=6", "joint:n=2,m=2,d=6"});
  const at::Tensor x = start(2), weights = random(x.sizes(), 21);
  auto loss = [&](bool fused) {
    return [&, fused](const at::Tensor &x) { return (run(joint, x, fused).tensor() * weights).sum(); };
  };
  expectClose(differentiate(joint, x, loss(true)), differentiate(joint, x, loss(false)));
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

/// Counts what is alive.
class CountingAllocator final : public at::Allocator {
public:
  std::atomic<int64_t> live{0};
  at::DataPtr allocate(size_t bytes) override {
    auto *block = static_cast<char *>(std::aligned_alloc(64, (bytes + 64 + 63) / 64 * 64));
    *reinterpret_cast<size_t *>(block) = bytes;
    live += static_cast<int64_t>(bytes);
    return {block + 64, block,
            [](void *block) {
              instance().live -= static_cast<int64_t>(*static_cast<size_t *>(block));
              std::free(block);
            },
            at::kCPU};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void *target, const void *source, size_t count) const override { std::memcpy(target, source, count); }
  static CountingAllocator &instance() {
    static auto *allocator = new CountingAllocator;
    return *allocator;
  }
};

/// Six sites of a recipe with a branch that keeps nothing of its own; how many bytes live after each, and the streams.
std::pair<std::vector<int64_t>, at::Tensor> liveAfterEach(const Layers &layers, const at::Tensor &x) {
  c10::SetCPUAllocator(&CountingAllocator::instance(), /*priority=*/100);
  std::vector<int64_t> live;
  nn::Stream stream(x);
  for (nn::Connection layer : layers) {
    stream = layer->forward(stream, [](const at::Tensor &u) { return u * 2; });
    live.push_back(CountingAllocator::instance().live);
  }
  return {live, stream.tensor()};
}

constexpr int64_t tokens = 64, d = 256;

std::string memorySpec(const std::string &recipe) {
  return recipe + ":n=" + (recipe == "frac" ? "1" : "4") + ",d=" + std::to_string(d);
}

/// Without gradients a site leaves nothing behind when the next one has begun.
TEST(Stream, NoGradKeepsNothing) {
  for (const std::string &recipe : ProgramSource::global().recipes()) {
    const std::string spec = memorySpec(recipe);
    SCOPED_TRACE(spec);
    const Layers layers = makeLayers(std::vector<std::string>(6, spec));
    const at::Tensor x = random({tokens, SiteSpec::parse(spec).n, d}, 1);
    const at::Tensor expected = liveAfterEach(layers, x).second.detach();
    const at::NoGradGuard guard;
    const auto [live, got] = liveAfterEach(layers, x);
    for (size_t i = 2; i < live.size(); ++i)
      EXPECT_EQ(live[i], live[i - 1]) << "after site " << i;
    EXPECT_TRUE(at::equal(got, expected));
  }
}

/// (n + 1) u a site, and what the signature says beside it.
TEST(Stream, MemoryKeptForBackward) {
  for (const std::string &recipe : ProgramSource::global().recipes()) {
    const std::string spec = memorySpec(recipe);
    const int64_t streams = SiteSpec::parse(spec).n;
    const Layers layers = makeLayers(std::vector<std::string>(6, spec));
    const at::Tensor x = random({tokens, streams, d}, 1).set_requires_grad(true);
    const std::vector<int64_t> live = liveAfterEach(layers, x).first;
    const SiteSignature &signature = layers[0]->signature();
    int64_t carries = 0;
    for (const CarryInfo &carry : signature.carriesOut)
      carries += carry.size;
    const int64_t wide = (streams + 1) * tokens * d * 4;
    const int64_t narrow = 4 * (tokens * (signature.tokenCoefficients + signature.saved + carries) +
                                signature.uniformCoefficients + signature.channelRows * signature.rowWidth);
    for (size_t i = 3; i < live.size(); ++i) {
      EXPECT_LE(live[i] - live[i - 1], wide + narrow) << spec;
      EXPECT_GE(live[i] - live[i - 1], wide) << spec; // the test sees what is kept
    }
    EXPECT_LT(narrow, wide) << spec;
  }
}

} // namespace
} // namespace hyperjit::tests
