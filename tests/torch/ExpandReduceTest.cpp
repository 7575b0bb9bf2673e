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

} // namespace
} // namespace hyperjit::tests
