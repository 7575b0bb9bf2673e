// SPDX-License-Identifier: Apache-2.0
#include "LanguageModel.h"

#include <cmath>

namespace hyperjit::tools {

// A short training wants weights that pass signals on from the first step: 0.7 / sqrt(in), and what is written to the
// streams small against them.
constexpr double gain = 0.7, writeGain = 0.25, embeddingDeviation = 0.06;

static torch::nn::Linear linear(int64_t in, int64_t out, double gain) {
  torch::nn::Linear layer(torch::nn::LinearOptions(in, out).bias(false));
  torch::nn::init::normal_(layer->weight, 0, gain / std::sqrt(double(in)));
  return layer;
}

AttentionImpl::AttentionImpl(int64_t dim, int64_t heads) : heads(heads) {
  norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim})));
  qkv = register_module("qkv", linear(dim, 3 * dim, gain));
  out = register_module("out", linear(dim, dim, writeGain));
}

at::Tensor AttentionImpl::forward(const at::Tensor &x) {
  int64_t batch = x.size(0), length = x.size(1), dim = x.size(2);
  at::Tensor all = qkv(norm(x)).view({batch, length, 3, heads, dim / heads}).permute({2, 0, 3, 1, 4});
  at::Tensor y =
      at::scaled_dot_product_attention(all[0], all[1], all[2], /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true);
  return out(y.transpose(1, 2).reshape({batch, length, dim}));
}

MlpImpl::MlpImpl(int64_t dim) {
  norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim})));
  up = register_module("up", linear(dim, 4 * dim, gain));
  down = register_module("down", linear(4 * dim, dim, writeGain));
}

at::Tensor MlpImpl::forward(const at::Tensor &x) { return down(at::gelu(up(norm(x)))); }

LanguageModelImpl::LanguageModelImpl(const LanguageModelOptions &options, const ConnectionFactory &factory)
    : options(options) {
  tokens = register_module("tokens", torch::nn::Embedding(options.vocabulary, options.dim));
  positions = register_module("positions", torch::nn::Embedding(options.context, options.dim));
  torch::nn::init::normal_(tokens->weight, 0, embeddingDeviation);
  torch::nn::init::normal_(positions->weight, 0, embeddingDeviation);
  attentions = register_module("attentions", torch::nn::ModuleList());
  mlps = register_module("mlps", torch::nn::ModuleList());
  for (int64_t layer = 0; layer < options.layers; ++layer) {
    attentions->push_back(Attention(options.dim, options.heads));
    mlps->push_back(Mlp(options.dim));
  }
  finalNorm = register_module("final_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.dim})));
  head = register_module("head", linear(options.dim, options.vocabulary, gain));
  connections = register_module("connections", factory(2 * options.layers, options.dim));
}

at::Tensor LanguageModelImpl::forward(const at::Tensor &ids) {
  at::Tensor at = at::arange(ids.size(1), ids.options());
  at::Tensor x = tokens(ids) + positions(at);
  std::vector<Branch> branches;
  for (int64_t layer = 0; layer < options.layers; ++layer) {
    branches.emplace_back(
        [this, layer](const at::Tensor &u) { return attentions[layer]->as<AttentionImpl>()->forward(u); });
    branches.emplace_back([this, layer](const at::Tensor &u) { return mlps[layer]->as<MlpImpl>()->forward(u); });
  }
  return head(finalNorm(connections->forward(x, branches)));
}

at::Tensor LanguageModelImpl::loss(const at::Tensor &ids, const at::Tensor &targets) {
  return at::cross_entropy_loss(forward(ids).flatten(0, 1), targets.flatten());
}

std::vector<int64_t> LanguageModelImpl::generate(std::vector<int64_t> text, int64_t count, double temperature,
                                                 at::Generator generator) {
  torch::NoGradGuard noGradients;
  at::Device device = tokens->weight.device();
  // The window is always `context` long: what stands behind the text is never seen by causal attention, and one token
  // count needs one set of kernels where growing ones would need those for few tokens as well.
  for (int64_t i = 0; i < count; ++i) {
    std::vector<int64_t> window(text.end() - std::min<int64_t>(int64_t(text.size()), options.context), text.end());
    int64_t last = int64_t(window.size()) - 1;
    window.resize(size_t(options.context), window.front());
    at::Tensor ids = at::tensor(window, at::kLong).unsqueeze(0).to(device);
    at::Tensor logits = forward(ids)[0][last].to(at::kCPU, at::kDouble) / temperature;
    logits[0] = -INFINITY; // the character that stands for all rare ones is no text
    text.push_back(at::multinomial(at::softmax(logits, -1), 1, false, generator).item<int64_t>());
  }
  return text;
}

} // namespace hyperjit::tools
