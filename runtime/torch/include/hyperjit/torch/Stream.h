// Stream: residual streams on their way through a model, with the last site's write still pending.
// SPDX-License-Identifier: Apache-2.0
//
//   hyperjit::nn::Stream stream = expand->forward(embedding);
//   for (auto &layer : layers) stream = layer->forward(stream);   // after(l) runs inside before(l + 1): one kernel
//   at::Tensor out = reduce->forward(stream);
//
// A stream holds tensors only, so autograd owns everything, and behaves as if each site had been finished at once:
//   * tensor() finishes the pending site; from then on the stream is that tensor, so hooks, retain_grad and in-place
//     use of it work. Copies of a stream share this.
//   * Several consumers of one stream are right: each computes from the same operands, gradients add up.
//   * What was made under no_grad (or in inference mode) stays without gradient when it is finished under another mode,
//     and the other way round; two sites made under different modes are not fused.
//   * retain_graph, backward twice and branches that return what they were given work as with eager code.
// Refused by name (c10::Error): use of a stream whose branch has not returned; operands changed in place while the
// write was pending (but in inference mode, whose tensors have no version: there such a change is not seen); a stream
// of other n or D than the layer's.
#pragma once

#include <hyperjit/torch/Export.h>

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hyperjit::nn {

class ConnectionImpl;

class HYPERJIT_TORCH_API Stream {
public:
  Stream() = default;
  /// From streams x [..., n, D]; nothing pending, no carries: the next site begins them anew.
  Stream(const at::Tensor &x); // NOLINT: a tensor is a stream
  /// With what `carry` gave, where a stream goes on as tensors: to another device, through a pipeline or a checkpoint.
  Stream(const at::Tensor &x, std::map<std::string, at::Tensor> carries);

  bool defined() const { return state != nullptr; }
  /// The streams [..., n, D]; runs the pending site's write if there is one.
  at::Tensor tensor() const;
  /// Whether a site's write has not run yet.
  bool pending() const;
  /// What a site hands to later ones beside the streams, [..., k]; undefined if no site made it.
  at::Tensor carry(const std::string &name) const;
  /// All of them by name; empty for the recipes that hand nothing on.
  std::map<std::string, at::Tensor> carries() const;
  /// For debugging: "pending static:n=4,... on x [2, 3, 4, 512]".
  std::string description() const;

  struct State;

private:
  explicit Stream(std::shared_ptr<State> state) : state(std::move(state)) {}
  std::shared_ptr<State> state;
  friend class ConnectionImpl;
};

} // namespace hyperjit::nn
