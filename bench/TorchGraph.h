// Forward and backward of LibTorch code as CUDA graphs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>

namespace hyperjit::tools {

/// One forward and one backward, recorded as two graphs that share their memory, to be replayed in turn: what the
/// device takes, without the host. Operands are read where they lay when recorded; what is made lives as long as this
/// object.
class TrainingGraph {
public:
  /// Whether this build can: it was made with LibTorch's CUDA library and all of CUDA's headers (a toolkit's,
  /// or those beside the torch wheel and the package nvidia-cuda-crt).
  static bool available();
  /// Runs both to warm up, then records. `backward` gets what `forward` returned. Errors are LibTorch's;
  /// EnvironmentProblem if it is not available.
  TrainingGraph(at::Device device, const std::function<at::Tensor()> &forward,
                const std::function<void(const at::Tensor &)> &backward);
  ~TrainingGraph();

  /// On the current stream.
  void replayForward();
  void replayBackward();
  /// What the last replay of forward made.
  const at::Tensor &output() const;

private:
  struct State;
  std::unique_ptr<State> state;
};

} // namespace hyperjit::tools
