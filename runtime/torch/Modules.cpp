// Typed options to recipe options; expand and reduce.
// SPDX-License-Identifier: Apache-2.0

#include "Loading.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/torch/Modules.h>
#include <hyperjit/torch/Ops.h>

#include <ATen/ATen.h>

#include <locale>
#include <sstream>

namespace hyperjit::nn {
namespace {

std::string text(double value) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic()); // the program's may write a comma
  stream.precision(17);
  stream << value;
  return stream.str();
}
std::string text(bool value) { return value ? "true" : "false"; }

template <typename Options>
ConnectionOptions common(const char *recipe, const Options &options, int64_t streams, int64_t fracs) {
  ConnectionOptions result(recipe, options.dim());
  result.streams(streams).fracs(fracs).parameterDtype(options.parameterDtype());
  if constexpr (requires { options.layerIndex(); }) // frac-connections have one stream, so nothing to choose
    result.layerIndex(options.layerIndex()).layerSeed(options.layerSeed());
  return result;
}

/// tanh, scale and the norm of the dynamic part.
template <typename Options> void addDynamic(ConnectionOptions &target, const Options &options) {
  target.option("tanh", text(options.tanh())).option("scale", text(options.scale())).option("norm", options.norm());
  if (options.normEps())
    target.option("norm_eps", text(*options.normEps()));
}

} // namespace

HyperConnectionOptions::operator ConnectionOptions() const {
  ConnectionOptions result = common(dynamic_ ? "dynamic" : "static", *this, streams_, fracs_);
  if (dynamic_)
    addDynamic(result, *this);
  return result;
}

FracConnectionOptions::operator ConnectionOptions() const {
  ConnectionOptions result = common("frac", *this, 1, fracs_);
  result.option("dynamic", text(dynamic_));
  if (dynamic_)
    addDynamic(result, *this);
  return result;
}

JointConnectionOptions::operator ConnectionOptions() const {
  ConnectionOptions result = common("joint", *this, streams_, fracs_);
  result.option("dynamic", text(dynamic_)).option("beta", fullWrite_ ? "full" : "diag");
  if (dynamic_)
    addDynamic(result, *this);
  return result;
}

ManifoldHyperConnectionOptions::operator ConnectionOptions() const {
  const char *recipe = form_ == "flattened" ? "manifold" : form_ == "deepseek" ? "deepseek" : "manifold-streams";
  if (form_ != "flattened" && form_ != "deepseek" && form_ != "streams")
    throw UserError(ErrorId::UnknownValue, "ManifoldHyperConnectionOptions: form is '" + form_ +
                                               "'; flattened, deepseek and streams are supported");
  ConnectionOptions result = common(recipe, *this, streams_, fracs_);
  result.option("iterations", std::to_string(iterations_)).option("init", init_);
  for (const auto &[name, value] : options_)
    result.option(name, value);
  return result;
}

DelayedPreConnectionOptions::operator ConnectionOptions() const {
  return common("delayed-pre", *this, streams_, 1)
      .option("iterations", std::to_string(iterations_))
      .option("init", init_);
}

PermutationConnectionOptions::operator ConnectionOptions() const {
  return common("permutation", *this, streams_, 1).option("norm", norm_).option("init", init_);
}

//===----------------------------------------------------------------------===//
// Expand and reduce
//===----------------------------------------------------------------------===//

ExpandStreamsImpl::ExpandStreamsImpl(const ExpandStreamsOptions &options)
    : Cloneable("hyperjit::nn::ExpandStreams"), options(options) {
  if (options.streams() < 1 || options.dim() < 1)
    throw UserError(ErrorId::InvalidValue, "ExpandStreams: streams=" + std::to_string(options.streams()) +
                                               ", dim=" + std::to_string(options.dim()) + "; each must be at least 1");
  ExpandStreamsImpl::reset();
}

void ExpandStreamsImpl::reset() {
  if (options.embedding())
    embedding = register_parameter("stream_embed", at::zeros({options.streams(), options.dim()}));
}

void ExpandStreamsImpl::pretty_print(std::ostream &stream) const {
  stream << "hyperjit::nn::ExpandStreams(streams=" << options.streams() << ", dim=" << options.dim()
         << ", embedding=" << text(options.embedding()) << ")";
}

void ExpandStreamsImpl::load(torch::serialize::InputArchive &archive) {
  ParameterLoader loader("hyperjit::nn::ExpandStreams", archive);
  at::Tensor other;
  if (embedding.defined())
    loader.read("stream_embed", embedding);
  else if (archive.try_read("stream_embed", other))
    throw UserError(ErrorId::InvalidFile, "hyperjit::nn::ExpandStreams: the archive has parameter 'stream_embed', this "
                                          "module has none; make it with embedding(true)");
  loader.readOthers(
      *this, [](const std::string &name) { return name == "stream_embed"; }, [](const Module &) { return false; });
  loader.finish();
}

Stream ExpandStreamsImpl::forward(const at::Tensor &h) {
  TORCH_CHECK(h.defined(), "hyperjit::nn::ExpandStreams: h is undefined; [..., D=", options.dim(), "] is supported");
  TORCH_CHECK(h.dim() >= 1 && h.size(-1) == options.dim(), "hyperjit::nn::ExpandStreams: h has sizes ", h.sizes(),
              "; [..., D=", options.dim(), "] is supported");
  return ops::expand(h, embedding.defined() ? std::optional<at::Tensor>(embedding) : std::nullopt, options.streams());
}

ReduceStreamsImpl::ReduceStreamsImpl(const ReduceStreamsOptions &options)
    : Cloneable("hyperjit::nn::ReduceStreams"), options(options) {
  if (options.mode() != "sum" && options.mode() != "mean" && options.mode() != "carry")
    throw UserError(ErrorId::UnknownValue,
                    "ReduceStreams: mode is '" + options.mode() + "'; sum, mean and carry are supported");
}

void ReduceStreamsImpl::pretty_print(std::ostream &stream) const {
  stream << "hyperjit::nn::ReduceStreams(mode=" << options.mode() << ")";
}

at::Tensor ReduceStreamsImpl::forward(const Stream &stream) {
  at::Tensor x = stream.tensor();
  TORCH_CHECK(options.streams() == 0 || (x.dim() >= 2 && x.size(-2) == options.streams()),
              "hyperjit::nn::ReduceStreams: streams have sizes ", x.sizes(), "; [..., n=", options.streams(),
              ", D] is supported");
  if (options.mode() != "carry")
    return ops::reduce(x, std::nullopt, options.mode());
  at::Tensor weights = stream.carry(options.carry());
  TORCH_CHECK(weights.defined(), "hyperjit::nn::ReduceStreams: the stream has no carry '", options.carry(),
              "'; mode carry needs a site that makes it (delayed-pre)");
  return ops::reduce(x, weights, "weighted");
}

} // namespace hyperjit::nn
