// Stream: the lazy residual stream.
// SPDX-License-Identifier: Apache-2.0

#include "StreamState.h"

#include <hyperjit/torch/Ops.h>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace hyperjit::nn {
void Stream::State::recordVersions() {
  versions.clear();
  versions.push_back(versionOf(x));
  for (const at::Tensor &tensor : coefficients)
    versions.push_back(versionOf(tensor));
}

void Stream::State::checkVersions() const {
  auto check = [&](const at::Tensor &tensor, uint32_t version, const char *what) {
    TORCH_CHECK(versionOf(tensor) == version, "hyperjit::nn::Stream: ", what, " of ", site,
                " was changed in place while its write was pending; change a copy, or call tensor() first");
  };
  check(x, versions[0], "the streams");
  check(y, yVersion, "the branch output");
  for (size_t i = 0; i < coefficients.size(); ++i)
    check(coefficients[i], versions[1 + i], "a coefficient tensor");
}

static c10::Stream currentStream(const at::Tensor &x) {
  return c10::impl::VirtualGuardImpl(x.device().type()).getStream(x.device());
}

void Stream::State::recordStream() {
  if (x.is_cuda())
    stream = currentStream(x);
}

void Stream::State::keepForThisStream() const {
  if (!stream || currentStream(x) == *stream)
    return;
  const c10::Stream here = currentStream(x);
  auto keep = [&](const at::Tensor &tensor) {
    if (tensor.is_cuda())
      tensor.record_stream(here);
  };
  keep(x);
  keep(y);
  for (const at::Tensor &tensor : coefficients)
    keep(tensor);
  for (const auto &[name, carry] : carries)
    keep(carry);
}

at::Tensor Stream::State::materialise() {
  TORCH_CHECK(!open, "hyperjit::nn::Stream: the branch of ", site,
              " has not returned; call depthConnection(y, stream) before using the stream");
  if (finished.defined())
    return finished;
  if (!y.defined())
    return x;
  checkVersions();
  keepForThisStream();
  // The mode of then, not of now: laziness must not change which values carry a gradient.
  const c10::InferenceMode inference(inferenceMode);
  const c10::AutoGradMode grad(gradMode && !inferenceMode);
  finished = ops::after(x, y, coefficients, site);
  x = y = at::Tensor(); // autograd keeps what it needs
  coefficients.clear();
  return finished;
}

Stream::Stream(const at::Tensor &x) : state(std::make_shared<State>()) {
  TORCH_CHECK(x.defined(), "hyperjit::nn::Stream: streams x [..., n, D] are undefined");
  state->x = x;
}

Stream::Stream(const at::Tensor &x, std::map<std::string, at::Tensor> carries) : Stream(x) {
  for (const auto &[name, carry] : carries)
    TORCH_CHECK(carry.defined(), "hyperjit::nn::Stream: carry '", name,
                "' is undefined; leave it out to begin it anew");
  state->carries = std::move(carries);
}

at::Tensor Stream::tensor() const {
  TORCH_CHECK(state, "hyperjit::nn::Stream: this stream is empty; make one from streams x [..., n, D]");
  return state->materialise();
}

bool Stream::pending() const { return state && state->pending(); }

at::Tensor Stream::carry(const std::string &name) const {
  if (!state)
    return {};
  auto found = state->carries.find(name);
  return found == state->carries.end() ? at::Tensor() : found->second;
}

std::map<std::string, at::Tensor> Stream::carries() const {
  return state ? state->carries : std::map<std::string, at::Tensor>();
}

std::string Stream::description() const {
  if (!state)
    return "empty";
  const at::Tensor &x = state->finished.defined() ? state->finished : state->x;
  std::string what = state->open ? "open " + state->site : state->pending() ? "pending " + state->site : "streams";
  return c10::str(what, " on ", x.scalar_type(), " ", x.sizes());
}

} // namespace hyperjit::nn
