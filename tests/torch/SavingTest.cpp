// torch::nn modules of every recipe: archives and copies.
// SPDX-License-Identifier: Apache-2.0

#include "NamedModules.h"

#include <hyperjit/core/Error.h>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include <c10/util/ScopeExit.h>
#include <locale>

namespace hyperjit::tests {
namespace {

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

} // namespace
} // namespace hyperjit::tests
