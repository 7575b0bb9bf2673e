// Forward and backward of LibTorch code as CUDA graphs.
// SPDX-License-Identifier: Apache-2.0
#include "TorchGraph.h"
#include "Console.h"
#include "torch/Measure.h"

#if HYPERJIT_TORCH_GRAPHS

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

namespace hyperjit::tools {

struct TrainingGraph::State {
  at::cuda::CUDAGraph forward, backward;
  at::Tensor output;
};

TrainingGraph::TrainingGraph(at::Device device, const std::function<at::Tensor()> &forward,
                             const std::function<void(const at::Tensor &)> &backward)
    : state(std::make_unique<State>()) {
  synchronise(device); // operands come from another stream
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool(false, device.index()));
  for (int i = 0; i < 2; ++i) // kernels are loaded, and leaves have their nodes on this stream
    backward(forward());
  synchronise(device);
  state->forward.capture_begin();
  state->output = forward();
  state->forward.capture_end();
  state->backward.capture_begin(state->forward.pool());
  backward(state->output);
  state->backward.capture_end();
  synchronise(device);
}
TrainingGraph::~TrainingGraph() = default;

void TrainingGraph::replayForward() { state->forward.replay(); }
void TrainingGraph::replayBackward() { state->backward.replay(); }
const at::Tensor &TrainingGraph::output() const { return state->output; }

} // namespace hyperjit::tools

#else

namespace hyperjit::tools {

struct TrainingGraph::State {};

TrainingGraph::TrainingGraph(at::Device, const std::function<at::Tensor()> &, const std::function<void(const at::Tensor &)> &) {
  throw EnvironmentProblem("chains on a GPU are timed by replaying CUDA graphs, and this build was made without LibTorch's CUDA library or "
                           "CUDA's headers (cuda_runtime_api.h, in nvidia/cu13/include beside the torch wheel); --mode alone needs neither");
}
TrainingGraph::~TrainingGraph() = default;

void TrainingGraph::replayForward() {}
void TrainingGraph::replayBackward() {}
const at::Tensor &TrainingGraph::output() const {
  static const at::Tensor none;
  return none;
}

} // namespace hyperjit::tools

#endif
