// The two ends of a chain: streams from a tensor, and a tensor from streams.
// SPDX-License-Identifier: Apache-2.0

#include "Sites.h"

#include <hyperjit/core/Error.h>

namespace hyperjit::tests {
namespace {

TEST(ExpandReduce, Repeat) {
  const at::Tensor h = random({2, 3, 6}, 1).set_requires_grad(true);
  nn::ExpandStreams expand(nn::ExpandStreamsOptions(4, 6));
  const at::Tensor x = expand->forward(h).tensor();
  EXPECT_TRUE(at::equal(x, h.unsqueeze(2).expand({2, 3, 4, 6})));
  const at::Tensor weights = random(x.sizes(), 2);
  x.backward(weights);
  EXPECT_LT(difference(h.grad(), weights.sum(2)), 1e-6);
  EXPECT_EQ(expand->parameters().size(), 0u);
  EXPECT_MESSAGE("h has sizes [2, 5]; [..., D=6] is supported", expand->forward(at::zeros({2, 5})));
}

TEST(ExpandReduce, Embedding) {
  nn::ExpandStreams expand(nn::ExpandStreamsOptions(3, 6).embedding(true));
  EXPECT_TRUE(expand->named_parameters().contains("stream_embed"));
  EXPECT_TRUE(at::equal(expand->embedding, at::zeros({3, 6})));
  {
    const at::NoGradGuard guard;
    expand->embedding.copy_(random({3, 6}, 5));
  }
  const at::Tensor h = random({4, 6}, 1).set_requires_grad(true);
  const at::Tensor x = expand->forward(h).tensor(), weights = random({4, 3, 6}, 2);
  EXPECT_LT(difference(x, h.unsqueeze(1) + expand->embedding), 1e-6);
  x.backward(weights);
  EXPECT_LT(difference(expand->embedding.grad(), weights.sum(0)), 1e-6);
  EXPECT_LT(difference(h.grad(), weights.sum(1)), 1e-6);
  nn::ExpandStreams low(nn::ExpandStreamsOptions(3, 6).embedding(true)),
      two(nn::ExpandStreamsOptions(2, 6).embedding(true));
  low->to(at::kBFloat16);
  auto archive = saved(*expand);
  low->load(archive);
  EXPECT_TRUE(at::equal(low->embedding, expand->embedding.to(at::kBFloat16)));
  EXPECT_MESSAGE("hyperjit::nn::ExpandStreams: parameter 'stream_embed' is (3, 6) in the archive and (2, 6) here",
                 two->load(archive));
  auto copy = std::dynamic_pointer_cast<nn::ExpandStreamsImpl>(expand->clone());
  EXPECT_TRUE(at::equal(copy->embedding, expand->embedding));
  EXPECT_NE(copy->embedding.data_ptr(), expand->embedding.data_ptr());
}

TEST(ExpandReduce, SumAndMean) {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (bool mean : {false, true}) {
      const at::Tensor x = random({5, 4, 6}, 1, type).set_requires_grad(true);
      nn::ReduceStreams reduce(nn::ReduceStreamsOptions(mean ? "mean" : "sum", 4));
      const at::Tensor h = reduce->forward(x), weights = random({5, 6}, 2, type);
      const double exact = type == at::kBFloat16 ? 1e-2 : 1e-6;
      EXPECT_EQ(h.scalar_type(), type);
      EXPECT_LT(difference(h, mean ? x.to(at::kDouble).mean(1) : x.to(at::kDouble).sum(1)), exact);
      h.backward(weights);
      EXPECT_LT(difference(x.grad(), (weights.unsqueeze(1) / (mean ? 4 : 1)).expand({5, 4, 6})), exact);
    }
  EXPECT_MESSAGE("streams have sizes [5, 3, 6]; [..., n=4, D] is supported",
                 nn::ReduceStreams(nn::ReduceStreamsOptions("sum", 4))->forward(at::zeros({5, 3, 6})));
  EXPECT_MESSAGE("mode is 'max'; sum, mean and carry are supported",
                 nn::ReduceStreams(nn::ReduceStreamsOptions("max")));
}

TEST(ExpandReduce, Carry) {
  nn::Connection layer = makeLayer("delayed-pre:n=3,d=6", 2);
  const at::Tensor x = random({5, 3, 6}, 1).set_requires_grad(true);
  nn::Stream stream = layer->forward(x, [](const at::Tensor &u) { return u.tanh(); });
  const at::Tensor read = stream.carry("read"),
                   h = nn::ReduceStreams(nn::ReduceStreamsOptions("carry"))->forward(stream);
  ASSERT_TRUE(read.defined());
  EXPECT_LT(difference(h, (stream.tensor() * read.unsqueeze(-1)).sum(1)), 1e-5);
  h.sum().backward();
  EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
  EXPECT_GT(layer->namedSiteParameters().at("fn").grad().abs().max().item<double>(), 0);
  EXPECT_MESSAGE("the stream has no carry 'read'; mode carry needs a site that makes it",
                 nn::ReduceStreams(nn::ReduceStreamsOptions("carry"))->forward(x));
}

at::Tensor meta(const at::Tensor &tensor) { return tensor.to(at::kMeta); }

TEST(ExpandReduce, BackwardOperatorsRefuseByName) {
  for (bool onMeta : {false, true}) {
    SCOPED_TRACE(onMeta);
    const auto on = [&](const at::Tensor &tensor) { return onMeta ? meta(tensor) : tensor; };
    const at::Tensor dh = on(at::ones({5, 6})), x = on(at::ones({5, 3, 6})), weights = on(at::ones({5, 3}));
    EXPECT_MESSAGE("hyperjit::expand_backward: cotangent has rank 1; [..., n, D] is supported",
                   ops::expandBackward(on(at::ones({6})), false));
    EXPECT_MESSAGE("hyperjit::expand_backward: cotangent is Long",
                   ops::expandBackward(on(at::ones({3, 6}, at::kLong)), false));
    EXPECT_MESSAGE("hyperjit::reduce_backward: cotangent has rank 0; [..., D] is supported",
                   ops::reduceBackward(on(at::ones({})), std::nullopt, std::nullopt, 3, "sum"));
    EXPECT_MESSAGE("streams is 0; 1 or more are supported",
                   ops::reduceBackward(dh, std::nullopt, std::nullopt, 0, "sum"));
    EXPECT_MESSAGE("mode is 'max'; sum, mean and weighted are supported",
                   ops::reduceBackward(dh, std::nullopt, std::nullopt, 3, "max"));
    EXPECT_MESSAGE("mode sum takes no weights", ops::reduceBackward(dh, x, weights, 3, "sum"));
    EXPECT_MESSAGE("mode weighted needs x and weights",
                   ops::reduceBackward(dh, std::nullopt, std::nullopt, 3, "weighted"));
    EXPECT_MESSAGE("x has sizes [5, 3, 6]; [5, 7, 6], those of cotangent and streams, are supported",
                   ops::reduceBackward(dh, x, weights, 7, "weighted"));
    EXPECT_MESSAGE("x has sizes [1, 3, 6]",
                   ops::reduceBackward(dh, on(at::ones({1, 3, 6})), on(at::ones({1, 3})), 3, "weighted"));
    EXPECT_MESSAGE("weights are [3]", ops::reduceBackward(dh, x, on(at::ones({3})), 3, "weighted"));
    auto [dx, dWeights] = ops::reduceBackward(dh, x, weights, 3, "weighted");
    EXPECT_EQ(dx.sizes(), x.sizes());
    EXPECT_EQ(dWeights.sizes(), weights.sizes());
  }
}

TEST(ExpandReduce, SparseCotangentsOfTheEnds) {
  const at::Tensor index = at::zeros({2, 1, 6}, at::kLong);
  const auto gradient = [&](bool sparse) {
    const at::Tensor h = random({2, 6}, 1).set_requires_grad(true);
    const at::Tensor x = ops::expand(h, std::nullopt, 3);
    (at::gather(x, 1, index, sparse).to_dense().sum() +
     at::gather(ops::reduce(x, std::nullopt, "mean"), 1, index.squeeze(1), sparse).to_dense().sum())
        .backward();
    return h.grad();
  };
  EXPECT_TRUE(at::equal(gradient(true), gradient(false)));
}

TEST(ExpandReduce, RefusedAtTheEnds) {
  const at::Tensor h = at::ones({2, 6}), x = at::ones({2, 3, 6});
  EXPECT_MESSAGE("hyperjit::expand: h is Float, layout Sparse; a strided floating-point tensor [..., D] is supported",
                 ops::expand(h.to_sparse(), std::nullopt, 3));
  EXPECT_MESSAGE("hyperjit::reduce: x is Float, layout Sparse", ops::reduce(x.to_sparse(), std::nullopt, "sum"));
  EXPECT_MESSAGE("hyperjit::expand: embedding is Double; Float, the dtype of h, is supported",
                 ops::expand(h, at::ones({3, 6}, at::kDouble), 3));
  EXPECT_MESSAGE("hyperjit::nn::ExpandStreams: h is undefined",
                 nn::ExpandStreams(nn::ExpandStreamsOptions(3, 6))->forward(at::Tensor()));
  // Nothing asks for a gradient: no node, so that what follows makes none either.
  EXPECT_FALSE(ops::expand(h, std::nullopt, 3).requires_grad());
  EXPECT_FALSE(ops::reduce(x, std::nullopt, "sum").requires_grad());
}

} // namespace
} // namespace hyperjit::tests
