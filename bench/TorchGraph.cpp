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

/// A capture that an exception ends is ended for the stream and the allocator, too.
static void record(at::cuda::CUDAGraph &graph, at::cuda::MempoolId_t pool, const std::function<void()> &work) {
  graph.capture_begin(pool);
  try {
    work();
  } catch (...) {
    try {
      graph.capture_end();
    } catch (const std::exception &) { // the first error is the one to tell
    }
    throw;
  }
  graph.capture_end();
}

bool TrainingGraph::available() { return true; }

TrainingGraph::TrainingGraph(at::Device device, const std::function<at::Tensor()> &forward,
                             const std::function<void(const at::Tensor &)> &backward)
    : state(std::make_unique<State>()) {
  synchronise(device); // operands come from another stream
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool(false, device.index()));
  for (int i = 0; i < 2; ++i) // kernels are loaded; no graph of autograd is left that began on another stream
    backward(forward());
  synchronise(device);
  c10::cuda::CUDACachingAllocator::emptyCache(); // a graph has memory of its own
  record(state->forward, {0, 0}, [&] { state->output = forward(); });
  record(state->backward, state->forward.pool(), [&] { backward(state->output); });
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

bool TrainingGraph::available() { return false; }

TrainingGraph::TrainingGraph(at::Device, const std::function<at::Tensor()> &,
                             const std::function<void(const at::Tensor &)> &) {
  throw EnvironmentProblem(
      "this build has no CUDA graphs: it was made without LibTorch's CUDA library or without all of CUDA's headers; "
      "install a toolkit, or nvidia-cuda-crt beside the torch wheel, and build again");
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
