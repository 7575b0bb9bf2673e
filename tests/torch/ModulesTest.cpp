// torch::nn modules of every recipe: parameters, state dicts, copies, text, wrap, manual use.
// SPDX-License-Identifier: Apache-2.0

#include "Sites.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/KernelSpec.h>
#include <hyperjit/core/Target.h>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <c10/util/ScopeExit.h>
#include <locale>
#include <set>

namespace hyperjit::tests {
namespace {

struct Named {
  std::string type, recipe;
  std::function<std::shared_ptr<nn::ConnectionImpl>()> make;
  std::vector<std::string> parameters;
};

std::vector<Named> namedModules() {
  using namespace nn;
  const std::vector<std::string> dynamic = {"static_alpha",      "static_beta",     "norm.gamma",
                                            "dynamic_alpha_fn",  "dynamic_beta_fn", "dynamic_alpha_scale",
                                            "dynamic_beta_scale"},
                                 constant = {"static_alpha", "static_beta"}, deepseek = {"fn", "base", "scale"},
                                 streams = {"static_alpha", "static_beta", "pre_branch_scale", "residual_scale",
                                            "h_post_scale", "norm.gamma",  "dynamic_alpha_fn", "dynamic_beta_fn"};
  std::vector<Named> all = {
      {"HyperConnection", "dynamic",
       [] { return HyperConnection(HyperConnectionOptions(6).streams(3).layerIndex(0)).ptr(); }, dynamic},
      {"HyperConnection", "static",
       [] { return HyperConnection(HyperConnectionOptions(6).streams(3).layerIndex(0).dynamic(false)).ptr(); },
       constant},
      {"FracConnection",
       "frac",
       [] { return FracConnection(FracConnectionOptions(6).fracs(2)).ptr(); },
       {"static_alpha", "static_beta", "norm.weight", "norm.bias", "dynamic_alpha_fn", "dynamic_beta_fn",
        "dynamic_alpha_scale", "dynamic_beta_scale"}},
      {"JointConnection", "joint", [] { return JointConnection(JointConnectionOptions(6).layerIndex(0)).ptr(); },
       dynamic},
      {"ManifoldHyperConnection",
       "manifold",
       [] { return ManifoldHyperConnection(ManifoldHyperConnectionOptions(6).streams(3).layerIndex(0)).ptr(); },
       {"b", "alpha_pre", "alpha_post", "alpha_res", "phi"}},
      {"ManifoldHyperConnection", "deepseek",
       [] {
         return ManifoldHyperConnection(ManifoldHyperConnectionOptions(6).streams(3).layerIndex(0).form("deepseek"))
             .ptr();
       },
       deepseek},
      {"ManifoldHyperConnection", "manifold-streams",
       [] {
         return ManifoldHyperConnection(ManifoldHyperConnectionOptions(6).streams(3).layerIndex(0).form("streams"))
             .ptr();
       },
       streams},
      {"DelayedPreConnection", "delayed-pre",
       [] { return DelayedPreConnection(DelayedPreConnectionOptions(6).streams(3).layerIndex(0)).ptr(); }, deepseek},
      {"PermutationConnection", "permutation",
       [] { return PermutationConnection(PermutationConnectionOptions(6).streams(3).layerIndex(0)).ptr(); }, streams},
  };
  // A recipe without a module of its own is hosted by the generic one, with what it declares.
  for (const std::string &recipe : ProgramSource::global().recipes())
    if (std::none_of(all.begin(), all.end(), [&](const Named &named) { return named.recipe == recipe; })) {
      const SiteSpec spec = SiteSpec::parse(smallSite(recipe));
      std::vector<std::string> parameters;
      for (const ParameterInfo &info : ProgramSource::global().parameters(spec))
        parameters.push_back(info.name);
      all.push_back({"Connection", recipe, [spec] { return Connection(ConnectionOptions(spec).layerIndex(0)).ptr(); },
                     parameters});
    }
  return all;
}

std::set<std::string> names(const torch::nn::Module &module) {
  std::set<std::string> result;
  for (const auto &entry : module.named_parameters())
    result.insert(entry.key());
  return result;
}

at::Tensor streams(const nn::ConnectionImpl &layer, int64_t tokens = 5) {
  return random({tokens, layer.options.streams(), layer.options.dim()}, 9);
}

void expectTheSame(nn::ConnectionImpl &a, nn::ConnectionImpl &b) {
  auto branch = [](const at::Tensor &u) { return u * 0.5; };
  const at::Tensor x = streams(a);
  EXPECT_TRUE(at::equal(a.forward(x, branch).tensor(), b.forward(x, branch).tensor()));
}

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

TEST(Modules, SaveAndLoad) {
  for (const Named &named : namedModules()) {
    SCOPED_TRACE(named.recipe);
    auto layer = named.make(), other = named.make();
    randomise(*layer, 5);
    torch::serialize::InputArchive in = saved(*layer);
    other->load(in);
    for (const auto &[name, value] : layer->namedSiteParameters())
      EXPECT_TRUE(at::equal(value, other->namedSiteParameters().at(name))) << name;
    expectTheSame(*layer, *other);
    c10::IValue spec;
    in.read("hyperjit_spec", spec);
    EXPECT_EQ(spec.toStringRef(), layer->spec().text());
  }
}

TEST(Modules, LoadRefusesAnotherSite) {
  nn::Connection four(nn::ConnectionOptions("dynamic", 8).streams(4).layerIndex(0)),
      two(nn::ConnectionOptions("dynamic", 8).streams(2).layerIndex(0));
  torch::serialize::InputArchive in = saved(*four);
  EXPECT_MESSAGE("the archive holds dynamic:n=4,m=1,d=8,dtype=fp32, this module is dynamic:n=2,m=1,d=8,dtype=fp32",
                 two->load(in));
}

/// What is written under a dotted name lies in sub-archives, as a module's children do.
torch::serialize::InputArchive archiveOf(const std::map<std::string, at::Tensor> &tensors) {
  torch::serialize::OutputArchive out;
  std::map<std::string, torch::serialize::OutputArchive> groups;
  for (const auto &[name, value] : tensors) {
    const size_t dot = name.find('.');
    if (dot == std::string::npos)
      out.write(name, value);
    else
      groups[name.substr(0, dot)].write(name.substr(dot + 1), value);
  }
  for (auto &[name, group] : groups)
    out.write(name, group);
  return readBack(out);
}

std::map<std::string, at::Tensor> detached(const nn::ConnectionImpl &layer) {
  std::map<std::string, at::Tensor> result;
  for (const auto &[name, value] : layer.namedSiteParameters())
    result[name] = value.detach().clone();
  return result;
}

TEST(Modules, LoadConvertsTheFilesDtype) {
  for (const Named &named : namedModules()) {
    SCOPED_TRACE(named.recipe);
    for (const auto &[from, to] :
         {std::pair{at::kBFloat16, at::kFloat}, {at::kFloat, at::kBFloat16}, {at::kDouble, at::kFloat}}) {
      auto layer = named.make(), other = named.make();
      randomise(*layer, 5);
      layer->to(from);
      other->to(to);
      auto archive = saved(*layer);
      other->load(archive);
      const auto values = other->namedSiteParameters();
      for (const auto &[name, value] : layer->namedSiteParameters()) {
        EXPECT_EQ(values.at(name).scalar_type(), to) << name;
        EXPECT_TRUE(at::equal(values.at(name), value.to(to))) << name;
        EXPECT_TRUE(values.at(name).requires_grad() && values.at(name).is_leaf()) << name;
      }
      const at::Tensor x = streams(*other).to(to);
      EXPECT_TRUE(other->forward(x, [](const at::Tensor &u) { return u; }).tensor().isfinite().all().item<bool>());
    }
  }
}

/// Other libraries keep scalars without an axis.
TEST(Modules, LoadTakesScalarsWithoutAnAxis) {
  nn::Connection layer = makeLayer("dynamic:n=3,d=6"), other = makeLayer("dynamic:n=3,d=6", 7);
  auto tensors = detached(*layer);
  for (const char *name : {"dynamic_alpha_scale", "dynamic_beta_scale"})
    tensors[name] = tensors[name].reshape({});
  auto archive = archiveOf(tensors);
  other->load(archive);
  for (const auto &[name, value] : layer->namedSiteParameters()) {
    EXPECT_EQ(other->namedSiteParameters().at(name).sizes(), value.sizes()) << name;
    EXPECT_TRUE(at::equal(other->namedSiteParameters().at(name), value)) << name;
  }
  expectTheSame(*layer, *other);
}

TEST(Modules, LoadRefusesByNameAndChangesNothing) {
  nn::Connection layer = makeLayer("dynamic:n=3,d=6");
  const auto before = detached(*layer);
  const auto refused = [&](const char *message, auto &&spoil) {
    auto tensors = before;
    for (auto &[name, value] : tensors)
      value = value + 1;
    spoil(tensors);
    auto archive = archiveOf(tensors);
    EXPECT_MESSAGE(message, layer->load(archive));
    for (const auto &[name, value] : before)
      EXPECT_TRUE(at::equal(layer->namedSiteParameters().at(name), value)) << name;
  };
  using Tensors = std::map<std::string, at::Tensor>;
  refused("hyperjit::nn::Connection: parameter 'static_alpha' is (4, 3) in the archive and (3, 4) here",
          [](Tensors &tensors) { tensors["static_alpha"] = tensors["static_alpha"].t().contiguous(); });
  refused("parameter 'norm.gamma' is (5,) in the archive and (6,) here",
          [](Tensors &tensors) { tensors["norm.gamma"] = at::zeros({5}); });
  refused("parameter 'static_beta' is () in the archive and (3,) here",
          [](Tensors &tensors) { tensors["static_beta"] = at::zeros({}); });
  refused("parameter 'dynamic_beta_scale' is (1, 1) in the archive and (1,) here", [](Tensors &tensors) {
    tensors["dynamic_beta_scale"] = at::zeros({1, 1});
  });
  refused("parameter 'static_beta' is Long in the archive; a floating-point dtype is supported",
          [](Tensors &tensors) { tensors["static_beta"] = at::zeros({3}, at::kLong); });
  refused("hyperjit::nn::Connection: the archive has no parameter 'dynamic_alpha_fn', which is (6, 4) here",
          [](Tensors &tensors) { tensors.erase("dynamic_alpha_fn"); });
  refused("the archive has no parameter 'norm.gamma', which is (6,) here",
          [](Tensors &tensors) { tensors.erase("norm.gamma"); });
}

TEST(Modules, LoadReadsTheBranch) {
  nn::Connection layer = makeLayer("dynamic:n=3,d=6"), other = makeLayer("dynamic:n=3,d=6", 7),
                 bare = makeLayer("dynamic:n=3,d=6");
  layer->wrap(torch::nn::Linear(6, 6));
  other->wrap(torch::nn::Linear(6, 6));
  auto archive = saved(*layer), without = saved(*bare);
  other->load(archive);
  const at::Tensor x = streams(*layer);
  EXPECT_TRUE(at::equal(other->forward(x).tensor(), layer->forward(x).tensor()));
  EXPECT_MESSAGE("the archive has no module 'branch', which this one has", other->load(without));
  // Nor is it dropped where a layer gets its branch later.
  const at::Tensor before = bare->siteParameters()[0].detach().clone();
  EXPECT_MESSAGE("the archive holds a branch, this layer has no module for it; wrap() one before load",
                 bare->load(archive));
  EXPECT_TRUE(at::equal(bare->siteParameters()[0], before));
}

TEST(Modules, LoadDropsNoEmbedding) {
  nn::ExpandStreams embeds(nn::ExpandStreamsOptions(3, 6).embedding(true)), plain(nn::ExpandStreamsOptions(3, 6));
  auto archive = saved(*embeds), without = saved(*plain);
  EXPECT_MESSAGE("the archive has parameter 'stream_embed', this module has none; make it with embedding(true)",
                 plain->load(archive));
  EXPECT_MESSAGE("the archive has no parameter 'stream_embed'", embeds->load(without));
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

/// Holds a layer and wraps its branch where LibTorch says that a module makes its parts.
struct BlockImpl : torch::nn::Cloneable<BlockImpl> {
  explicit BlockImpl(bool wraps) : wraps(wraps) { BlockImpl::reset(); }
  void reset() override {
    layer = register_module(
        "layer", nn::ManifoldHyperConnection(nn::ManifoldHyperConnectionOptions().streams(3).dim(6).layerIndex(0)));
    if (wraps)
      layer->wrap(torch::nn::Sequential(torch::nn::Linear(6, 6), torch::nn::Linear(6, 6)));
  }
  bool wraps;
  nn::ManifoldHyperConnection layer{nullptr};
};

TEST(Modules, CloneOfAParentCopiesBranches) {
  for (bool wraps : {true, false}) {
    auto block = std::make_shared<BlockImpl>(wraps);
    if (!wraps) // behind reset()'s back: the copy's layer has none yet
      block->layer->wrap(torch::nn::Sequential(torch::nn::Linear(6, 6), torch::nn::Linear(6, 6)));
    block->layer->named_modules()["branch.1"]->eval();
    auto copy = std::dynamic_pointer_cast<BlockImpl>(block->clone());
    ASSERT_TRUE(copy);
    const auto mine = block->named_parameters(), theirs = copy->named_parameters();
    ASSERT_EQ(mine.size(), theirs.size());
    for (const auto &parameter : mine) {
      EXPECT_TRUE(at::equal(parameter.value(), theirs[parameter.key()])) << parameter.key();
      EXPECT_FALSE(parameter.value().is_same(theirs[parameter.key()])) << parameter.key();
    }
    EXPECT_TRUE(copy->layer->is_training());
    EXPECT_FALSE(copy->layer->named_modules()["branch.1"]->is_training());
    const at::Tensor x = at::randn({5, 3, 6});
    EXPECT_TRUE(at::equal(block->layer->forward(x).tensor(), copy->layer->forward(x).tensor()));
  }
}

TEST(Modules, CloneIsDeep) {
  for (const Named &named : namedModules()) {
    SCOPED_TRACE(named.recipe);
    auto layer = named.make();
    randomise(*layer, 5);
    torch::nn::Linear branch(6, 6);
    branch->weight.set_requires_grad(false);
    layer->wrap(branch);
    at::Tensor(layer->siteParameters()[0]).set_requires_grad(false);
    auto copy = std::dynamic_pointer_cast<nn::ConnectionImpl>(layer->clone());
    ASSERT_TRUE(copy);
    EXPECT_EQ(copy->name(), layer->name());
    EXPECT_EQ(names(*copy), names(*layer));
    EXPECT_FALSE(copy->siteParameters()[0].requires_grad());
    EXPECT_FALSE(copy->named_parameters()["branch.weight"].requires_grad());
    EXPECT_TRUE(copy->named_parameters()["branch.bias"].requires_grad());
    const at::Tensor x = streams(*layer), before = layer->forward(x).tensor().detach();
    EXPECT_TRUE(at::equal(before, copy->forward(x).tensor()));
    {
      const at::NoGradGuard guard;
      for (const at::Tensor &parameter : copy->parameters())
        at::Tensor(parameter).add_(0.1);
    }
    EXPECT_TRUE(at::equal(before, layer->forward(x).tensor()));
    EXPECT_FALSE(at::equal(before, copy->forward(x).tensor()));
  }
}

TEST(Modules, WhatElseIsRegisteredIsReadAndNeverDropped) {
  const auto make = [](double value) {
    nn::Connection layer(nn::ConnectionOptions("static", 6).streams(2).layerIndex(0));
    layer->register_parameter("gate", at::full({3}, value));
    layer->register_buffer("count", at::full({2}, int64_t(value)));
    return layer;
  };
  nn::Connection one = make(1), two = make(2);
  auto archive = saved(*one);
  two->load(archive);
  EXPECT_TRUE(at::equal(two->named_parameters()["gate"], at::ones({3})));
  EXPECT_TRUE(at::equal(two->named_buffers()["count"], at::ones({2}, at::kLong)));
  EXPECT_MESSAGE("clone() cannot carry the parameter 'gate'", one->clone());
  nn::Connection other(nn::ConnectionOptions("static", 6).streams(2).layerIndex(0));
  other->register_buffer("count", at::zeros({2}));
  EXPECT_MESSAGE("parameter 'count' is Long in the archive; a floating-point dtype is supported", other->load(archive));
  other->register_buffer("more", at::zeros({2}));
  EXPECT_MESSAGE("clone() cannot carry the buffer 'count'", other->clone());
  // A module without a number of its own, too.
  nn::Connection drops(nn::ConnectionOptions("static", 6).streams(2).layerIndex(0));
  drops->register_module("drop", torch::nn::Dropout(0.5));
  EXPECT_MESSAGE("clone() cannot carry the module 'drop'", drops->clone());
  // An expansion reads as a layer does.
  const auto expansion = [](double value) {
    nn::ExpandStreams expand(nn::ExpandStreamsOptions(2, 6).embedding(true));
    expand->register_module("proj", torch::nn::Linear(3, 3));
    const at::NoGradGuard guard;
    for (const at::Tensor &parameter : expand->parameters())
      at::Tensor(parameter).fill_(value);
    return expand;
  };
  nn::ExpandStreams written = expansion(1), read = expansion(2);
  auto expanding = saved(*written);
  read->load(expanding);
  for (const auto &parameter : read->named_parameters())
    EXPECT_TRUE(at::equal(parameter.value(), at::ones_like(parameter.value()))) << parameter.key();
}

TEST(Modules, OptionsAreWrittenWithAPointWhateverTheLocale) {
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Comma));
  const auto restore = c10::make_scope_exit([&] { std::locale::global(before); });
  nn::HyperConnection layer(nn::HyperConnectionOptions(6).streams(2).layerIndex(0).normEps(0.001));
  EXPECT_NE(layer->spec().text().find("norm_eps=0.001"), std::string::npos) << layer->spec().text();
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
