// What a Stream holds, shared by Stream.cpp and Connection.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/SiteSignature.h>
#include <hyperjit/torch/Connection.h>
#include <hyperjit/torch/Stream.h>

#include <c10/core/Stream.h>

#include <optional>

namespace hyperjit::nn {

/// A site with its dtypes: what its operators are called with.
struct ConnectionImpl::Site {
  at::ScalarType stream, branchOut, weight;
  std::shared_ptr<const SiteProgram> program;
  std::string text;
};

/// One of: finished (x alone), open (branch running), pending (y has come, the write has not run).
struct Stream::State {
  at::Tensor x;
  at::Tensor y;
  std::vector<at::Tensor> coefficients;
  std::map<std::string, at::Tensor> carries;
  /// Site text for `stream`, `branchOut` and the parameters' dtype, of the site that is open or pending, or was.
  std::string site;
  SiteSpec spec;
  /// The layer that opened it.
  const void *owner = nullptr;
  bool open = false;
  /// The modes the pending site ran under: its write runs under the same, as if it had not waited.
  bool gradMode = true, inferenceMode = false;
  /// Version counters of x and the coefficients when the branch was opened, and of y when it came back.
  std::vector<uint32_t> versions;
  uint32_t yVersion = 0;
  /// Of a GPU: the stream that made y, on which the write would have run if it had not waited.
  std::optional<c10::Stream> stream;
  /// The next streams once tensor() has made them.
  at::Tensor finished;

  bool pending() const { return y.defined() && !finished.defined(); }
  /// 0 for tensors of inference mode, which have no counter.
  static uint32_t versionOf(const at::Tensor &tensor) { return tensor.is_inference() ? 0 : tensor._version(); }
  void recordVersions();
  /// Refuses operands that were changed in place while the write was pending.
  void checkVersions() const;
  void recordStream();
  /// Operands of a write that runs on another stream stay until it has run: nobody else can reach them for
  /// record_stream.
  void keepForThisStream() const;
  /// Runs the pending write, or returns the streams.
  at::Tensor materialise();
};

} // namespace hyperjit::nn
