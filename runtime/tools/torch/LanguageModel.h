// A GPT-style character language model whose residual connections are interchangeable: embedding, causal attention and
// MLP with pre-norm, and around every branch a connection: the plain sum, or a hyper-connection in its JIT or eager
// form.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Connection.h"

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace hyperjit::tools {

struct LanguageModelOptions {
  int64_t vocabulary = 0;
  int64_t dim = 128;
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t context = 128;
};

/// x [B, L, D] -> [B, L, D]: norm, causal self-attention, output projection.
class AttentionImpl : public torch::nn::Module {
public:
  AttentionImpl(int64_t dim, int64_t heads);
  at::Tensor forward(const at::Tensor &x);

private:
  int64_t heads;
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear qkv{nullptr}, out{nullptr};
};
TORCH_MODULE(Attention);

/// x [B, L, D] -> [B, L, D]: norm, four times as wide, GELU, back.
class MlpImpl : public torch::nn::Module {
public:
  explicit MlpImpl(int64_t dim);
  at::Tensor forward(const at::Tensor &x);

private:
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear up{nullptr}, down{nullptr};
};
TORCH_MODULE(Mlp);

/// ids [B, L] -> logits [B, L, vocabulary]. Site 2l is the attention of layer l, site 2l + 1 its MLP.
class LanguageModelImpl : public torch::nn::Module {
public:
  /// The model's own weights are drawn before the connections', so every connection sees the same ones after
  /// manual_seed.
  LanguageModelImpl(const LanguageModelOptions &options, const ConnectionFactory &connections);
  at::Tensor forward(const at::Tensor &ids);
  /// Cross entropy of the next character, averaged over the batch. targets as ids.
  at::Tensor loss(const at::Tensor &ids, const at::Tensor &targets);
  /// Continues `prompt` by `count` characters drawn at `temperature`.
  std::vector<int64_t> generate(std::vector<int64_t> prompt, int64_t count, double temperature,
                                at::Generator generator);
  const LanguageModelOptions options;

private:
  torch::nn::Embedding tokens{nullptr}, positions{nullptr};
  torch::nn::ModuleList attentions, mlps;
  torch::nn::LayerNorm finalNorm{nullptr};
  torch::nn::Linear head{nullptr};
  std::shared_ptr<Connections> connections;
};
TORCH_MODULE(LanguageModel);

} // namespace hyperjit::tools
