// torch::nn modules of every recipe: parameters, starts, text, wrap, manual use.
// SPDX-License-Identifier: Apache-2.0

#include "NamedModules.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/KernelSpec.h>
#include <hyperjit/core/Target.h>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <set>

namespace hyperjit::tests {
namespace {

TEST(Modules, HaveTheRecipesParameters) {
  for (const Named &named : namedModules()) {
    SCOPED_TRACE(named.recipe);
    const auto layer = named.make();
    EXPECT_EQ(layer->spec().recipe, named.recipe);
    EXPECT_EQ(layer->name(), "hyperjit::nn::" + named.type);
    EXPECT_EQ(names(*layer), std::set<std::string>(named.parameters.begin(), named.parameters.end()));
    const auto program = ProgramSource::global().site(layer->spec());
    const auto values = layer->namedSiteParameters();
    ASSERT_EQ(program->parameters.size(), values.size());
    for (const ParameterInfo &info : program->parameters) {
      EXPECT_EQ(values.at(info.name).sizes(), at::IntArrayRef(info.shape)) << info.name;
      EXPECT_TRUE(values.at(info.name).requires_grad() && values.at(info.name).is_leaf()) << info.name;
      EXPECT_EQ(values.at(info.name).scalar_type(), at::kFloat);
    }
    std::ostringstream text;
    text << *layer;
    EXPECT_NE(text.str().find("hyperjit::nn::" + named.type + "(" + named.recipe + ":"), std::string::npos)
        << text.str();
  }
}

TEST(Modules, LayerIndexChoosesTheStart) {
  const auto alpha = [](int64_t index) {
    nn::HyperConnection layer(nn::HyperConnectionOptions(6).streams(3).layerIndex(index));
    return layer->namedSiteParameters().at("static_alpha").detach();
  };
  for (int64_t index : {0, 1, 2, 4}) {
    const at::Tensor start = alpha(index), read = at::zeros({3}).index_fill_(0, at::tensor({index % 3}), 1);
    EXPECT_TRUE(at::equal(start.select(1, 0), read)) << start;
    EXPECT_TRUE(at::equal(start.narrow(1, 1, 3), at::eye(3)));
  }
}

/// Nobody's layer starts as the first by oversight. What has nothing to choose asks for nothing, kernels never do.
TEST(Modules, LayerIsRequiredWhereTheStartDependsOnIt) {
  using nn::ConnectionOptions;
  for (const Named &named : namedModules()) {
    SCOPED_TRACE(named.recipe);
    const nn::ConnectionOptions options(named.make()->spec());
    EXPECT_EQ(options.spec().text(), named.make()->spec().text());
    if (options.streams() > 1)
      EXPECT_MESSAGE(
          "depend on which sublayer this is; give layerIndex (layer_index=0 for the first of the model, ...), or "
          "layerSeed (layer_seed=...)",
          nn::Connection(options));
    else
      EXPECT_EQ(nn::Connection(options)->spec().text(), options.spec().text());
  }
  EXPECT_MESSAGE("recipe 'dynamic': the initial values of parameter 'static_alpha' depend on which",
                 nn::HyperConnection(nn::HyperConnectionOptions(6)));
  EXPECT_MESSAGE("recipe 'deepseek': the initial values of parameter 'base' depend on which",
                 nn::Connection(SiteSpec::parse("deepseek:n=4,d=6,layer_index=none")));
  EXPECT_MESSAGE("layer_index=1 and layer_seed=2 are both given",
                 nn::Connection(ConnectionOptions("static", 6).layerIndex(1).layerSeed(2)));
  EXPECT_MESSAGE("option 'layer_index' of recipe 'static' is '-1'; it takes none, or an integer from 0",
                 nn::Connection(ConnectionOptions("static", 6).layerIndex(-1)));
  EXPECT_MESSAGE("option 'layer_index' of recipe 'static' is 'two'",
                 nn::Connection(SiteSpec::parse("static:n=4,d=6,layer_index=two")));
  EXPECT_EQ(nn::Connection(ConnectionOptions("static", 6).streams(1))->options.layerIndex(), std::nullopt);
  nn::Connection(ConnectionOptions("manifold", 6).option("init", "uniform_read")); // all streams start alike
}

TEST(Modules, LayerSeedDrawsTheStart) {
  const auto read = [](int64_t seed) {
    nn::HyperConnection layer(nn::HyperConnectionOptions(6).streams(3).layerSeed(seed));
    return layer->namedSiteParameters().at("static_alpha").detach().select(1, 0).argmax().item<int64_t>();
  };
  std::vector<int64_t> count(3);
  for (int64_t seed = 0; seed < 300; ++seed) {
    EXPECT_EQ(read(seed), read(seed));
    ++count[read(seed)];
  }
  for (int64_t of : count)
    EXPECT_NEAR(of, 100, 30);
  nn::Connection layer(SiteSpec::parse("static:n=3,d=6,layer_seed=7"));
  std::ostringstream text;
  text << *layer;
  EXPECT_EQ(text.str(), "hyperjit::nn::Connection(static:n=3,m=1,d=6,dtype=fp32, layer_seed=7)");
  EXPECT_EQ(layer->spec().text(), "static:n=3,m=1,d=6,dtype=fp32");
}

/// Equal proposals would stay equal for ever; lucidrains has them so.
TEST(Modules, ProposalsStartApart) {
  const auto start = [](const char *init) {
    nn::Connection layer(nn::ConnectionOptions("manifold-streams", 64)
                             .streams(4)
                             .layerIndex(0)
                             .option("proposals", "3")
                             .option("init", init));
    return layer->namedSiteParameters().at("dynamic_alpha_fn").detach();
  };
  torch::manual_seed(3);
  const at::Tensor fresh = start("mhc_lite");
  EXPECT_EQ(fresh[0].abs().max().item<double>(), 0);
  for (int64_t proposal : {1, 2})
    EXPECT_NEAR(fresh[proposal].std().item<double>(), 0.02, 0.004); // of 320 numbers
  EXPECT_FALSE(at::equal(fresh[1], fresh[2]));
  EXPECT_EQ(start("lucidrains").abs().max().item<double>(), 0);
}

/// What a fresh layer does is what the papers start from: the pre-norm residual.
TEST(Modules, StartAsAResidual) {
  nn::HyperConnection layer(nn::HyperConnectionOptions(6).streams(3).layerIndex(1));
  const at::Tensor x = streams(*layer);
  at::Tensor seen;
  nn::Stream stream = layer->forward(x, [&](const at::Tensor &u) { return seen = u * 2; });
  EXPECT_LT(difference(seen, x.select(1, 1) * 2), 1e-6);
  EXPECT_LT(difference(stream.tensor(), x + seen.unsqueeze(1)), 1e-6);
}

/// As any module whose forward takes one thing.
TEST(Modules, StandInASequential) {
  nn::ExpandStreams expand(nn::ExpandStreamsOptions(3, 6));
  nn::Connection layer = makeLayer("dynamic:n=3,d=6");
  nn::ManifoldHyperConnection other(nn::ManifoldHyperConnectionOptions().streams(3).dim(6).layerIndex(1));
  nn::ReduceStreams reduce("mean");
  layer->wrap(torch::nn::Linear(6, 6));
  other->wrap(torch::nn::Linear(6, 6));
  torch::nn::Sequential all(expand, layer, other, reduce);
  const at::Tensor h = random({5, 6}, 3);
  EXPECT_TRUE(at::equal(all->forward(h), reduce->forward(other->forward(layer->forward(expand->forward(h))))));
  EXPECT_TRUE(names(*all).count("1.branch.weight"));
  EXPECT_EQ(all->forward(h).sizes(), h.sizes());
}

TEST(Modules, ResetMakesTheStartAnew) {
  nn::Connection layer(nn::ConnectionOptions("static", 6).streams(2).layerIndex(0));
  const at::Tensor start = layer->siteParameters()[0].detach().clone();
  randomise(*layer, 1);
  layer->reset();
  EXPECT_TRUE(at::equal(layer->siteParameters()[0], start));
  EXPECT_EQ(layer->named_parameters().size(), 2u);
}

TEST(Modules, WrapModuleAndFunction) {
  torch::nn::Linear linear(6, 6);
  const auto options = nn::ConnectionOptions("dynamic", 6).streams(2).layerIndex(0);
  nn::Connection module(options), function(options);
  module->wrap(linear);
  function->wrap([&](const at::Tensor &u) { return linear->forward(u); });
  EXPECT_TRUE(names(*module).count("branch.weight"));
  EXPECT_FALSE(names(*function).count("branch.weight"));
  const at::Tensor x = streams(*module);
  EXPECT_TRUE(at::equal(module->forward(x).tensor(), function->forward(x).tensor()));
  EXPECT_MESSAGE("already has a branch", module->wrap(linear));
  EXPECT_MESSAGE("no branch; call wrap(branch)", nn::Connection(options)->forward(x));
  const nn::ConnectionImpl::Branch empty;
  EXPECT_MESSAGE("no branch; call wrap(branch)", nn::Connection(options)->forward(x, empty));
  EXPECT_MESSAGE("the branch function is empty", nn::Connection(options)->wrap(empty));
  EXPECT_TRUE(at::equal(module->forward(x, empty).tensor(), module->forward(x).tensor()));
  torch::nn::Sequential block(torch::nn::Linear(6, 6), torch::nn::Linear(6, 6));
  nn::Connection deep(nn::ConnectionOptions("static", 6).streams(2).layerIndex(0));
  deep->wrap(block);
  EXPECT_TRUE(names(*deep).count("branch.1.bias"));
  EXPECT_TRUE(deep->forward(x).tensor().isfinite().all().item<bool>());
}

TEST(Modules, ManualUseEqualsForward) {
  for (const Named &named : namedModules()) {
    SCOPED_TRACE(named.recipe);
    auto layer = named.make();
    randomise(*layer, 5);
    const at::Tensor x = streams(*layer);
    auto [u, open] = layer->widthConnection(x);
    EXPECT_EQ(u.sizes(), at::IntArrayRef({5, 6}));
    const at::Tensor manual = layer->depthConnection(u * 0.5, open).tensor();
    EXPECT_TRUE(at::equal(manual, layer->forward(x, [](const at::Tensor &u) { return u * 0.5; }).tensor()));
  }
}

TEST(Modules, ConvertWithTheModel) {
  nn::Connection layer(nn::ConnectionOptions("manifold", 6).streams(2).layerIndex(0));
  layer->to(at::kDouble);
  const at::Tensor x = random({5, 2, 6}, 1, at::kDouble);
  EXPECT_EQ(layer->forward(x, [](const at::Tensor &u) { return u; }).tensor().scalar_type(), at::kDouble);
  layer->to(at::kBFloat16);
  const at::Tensor low = random({5, 2, 6}, 1, at::kBFloat16);
  EXPECT_EQ(layer->forward(low, [](const at::Tensor &u) { return u; }).tensor().scalar_type(), at::kBFloat16);
  EXPECT_EQ(layer->spec(at::kBFloat16).text(), "manifold:n=2,m=1,d=6,dtype=bf16,weight=bf16");
  std::ostringstream text;
  layer->pretty_print(text);
  EXPECT_EQ(text.str(), "hyperjit::nn::Connection(manifold:n=2,m=1,d=6,dtype=fp32,weight=bf16, layer_index=0)");
}

/// 32 layers that differ in their index share all kernels.
TEST(Modules, LayerIndexIsInNoKey) {
  for (const Named &named : namedModules()) {
    std::set<std::string> keys;
    for (int64_t index = 0; index < 32; ++index) {
      nn::ConnectionOptions options(named.make()->spec());
      nn::Connection layer(index % 2 ? options.layerIndex(index) : options.layerSeed(index));
      const SiteSpec spec = layer->spec(at::kBFloat16);
      for (const KernelSpec &kernel : {KernelSpec::beforeForward(spec, true, Bucket::Large),
                                       KernelSpec::boundaryForward(spec, spec, true, Bucket::Large),
                                       KernelSpec::backward(spec, spec, "xuc", "xycp", Bucket::Large)})
        keys.insert(CacheKey::of(KernelManager::global().keyFields(kernel, Target::parse("x86-64-v3"))).hex());
    }
    EXPECT_EQ(keys.size(), 3u) << named.recipe;
  }
}

TEST(Modules, ImpossibleOptionsAreRefused) {
  using nn::ConnectionOptions;
  auto make = [](ConnectionOptions options) { return [options] { nn::Connection layer(options); }; };
  EXPECT_MESSAGE("did you mean 'manifold'", make(ConnectionOptions("manifol", 8))());
  EXPECT_MESSAGE("m=3 does not divide d=8", make(ConnectionOptions("joint", 8).fracs(3))());
  EXPECT_MESSAGE("each must be at least 1", make(ConnectionOptions("static", 8).streams(0))());
  EXPECT_MESSAGE("fused kernels take at most 32", make(ConnectionOptions("static", 8).streams(33))());
  EXPECT_MESSAGE("unknown option of recipe 'manifold' 'iteratons'; did you mean 'iterations'",
                 make(ConnectionOptions("manifold", 8).option("iteratons", "3"))());
  EXPECT_MESSAGE("option 'iterations' of recipe 'manifold' is '0'; it takes an integer from 1 to 1000",
                 make(ConnectionOptions("manifold", 8).option("iterations", "0"))());
  EXPECT_MESSAGE("recipe 'permutation' takes n <= 5, the spec has n = 6; there are n! coefficients a token",
                 make(ConnectionOptions("permutation", 8).streams(6))());
  EXPECT_MESSAGE("hyperjit::nn: parameterDtype is Int; BFloat16, Half, Float and Double are supported",
                 make(ConnectionOptions("static", 8).parameterDtype(at::kInt))());
  EXPECT_MESSAGE("form is 'flat'; flattened, deepseek and streams are supported",
                 nn::ManifoldHyperConnection(nn::ManifoldHyperConnectionOptions(8).form("flat")));
}

/// A few steps of training: what a first user does.
TEST(Modules, Train) {
  torch::nn::Linear target(6, 6), head(6, 6);
  nn::ExpandStreams expand(nn::ExpandStreamsOptions(2, 6));
  std::vector<nn::Connection> layers;
  std::vector<at::Tensor> parameters = head->parameters();
  for (int64_t index = 0; index < 3; ++index) {
    layers.emplace_back(nn::ConnectionOptions(index == 1 ? "manifold" : "dynamic", 6).streams(2).layerIndex(index));
    layers.back()->wrap(torch::nn::Linear(6, 6));
    for (const at::Tensor &parameter : layers.back()->parameters())
      parameters.push_back(parameter);
  }
  torch::optim::SGD optimiser(parameters, torch::optim::SGDOptions(0.02));
  const at::Tensor input = random({64, 6}, 1), wanted = target->forward(input).detach();
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    optimiser.zero_grad();
    nn::Stream stream = expand->forward(input);
    for (nn::Connection &layer : layers)
      stream = layer->forward(stream);
    const at::Tensor loss = (head->forward(stream.tensor().sum(1)) - wanted).square().mean();
    loss.backward();
    optimiser.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.5 * first);
}

/// A chain asks at its ends, too, for no other kernels than those that `prepare` made: where carries begin as constants
/// or are read by nobody, and with both buckets.
TEST(Prepared, TrainingCompilesNothing) {
  KernelManager &manager = KernelManager::global();
  for (const std::string &spec : smallSites()) {
    SCOPED_TRACE(spec);
    prepare({spec});
    const int64_t compiled = manager.statistics().compiled;
    const SiteSpec site = ProgramSource::global().normalise(SiteSpec::parse(spec));
    for (int64_t tokens : {3, 70})
      for (const char *mode : {"mean", "sum"}) {
        const at::Tensor x = random({tokens, site.n, site.d}, 5).requires_grad_();
        nn::Stream stream(x * 2);
        std::vector<nn::Connection> layers;
        for (uint64_t i = 0; i < 3; ++i) {
          layers.push_back(makeLayer(spec, i));
          stream = layers.back()->forward(stream, [](const at::Tensor &u) { return u.sin(); });
        }
        nn::ReduceStreams(mode)->forward(stream).sum().backward();
        EXPECT_TRUE(x.grad().defined());
      }
    EXPECT_EQ(manager.statistics().compiled, compiled);
  }
}

} // namespace
} // namespace hyperjit::tests
