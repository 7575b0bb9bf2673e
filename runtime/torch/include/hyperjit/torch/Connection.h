// Connection: the torch::nn module that hosts any recipe, and the options it is made from.
// SPDX-License-Identifier: Apache-2.0
//
// Parameters carry the names, shapes and initial values that the recipe declares ("norm.gamma" lives in a child
// "norm"). The dtype of the streams is that of what comes in; parameters keep theirs (fp32 unless converted), the
// branch's output may have another dtype than the streams (autocast).
//
//   hyperjit::nn::Connection layer(hyperjit::nn::ConnectionOptions("manifold", 512).streams(4).layerIndex(3));
//   layer->wrap(mlp);                                   // a module holder or any callable Tensor -> Tensor
//   stream = layer->forward(stream);
//   // or by hand:
//   auto [u, open] = layer->widthConnection(stream);
//   stream = layer->depthConnection(branch(u), open);
#pragma once

#include <hyperjit/core/SiteSignature.h>
#include <hyperjit/core/SiteSpec.h>
#include <hyperjit/torch/Export.h>
#include <hyperjit/torch/Stream.h>

#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>
#include <torch/nn/pimpl.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace hyperjit::nn {

/// Option names and values, as in a spec text.
using RecipeWords = std::vector<std::pair<std::string, std::string>>;

struct HYPERJIT_TORCH_API ConnectionOptions {
  ConnectionOptions() = default;
  explicit ConnectionOptions(std::string recipe, int64_t dim = 512) : recipe_(std::move(recipe)), dim_(dim) {}
  /// Recipe, n, m, D and options of a spec; its dtypes are not used, except for that of the parameters.
  explicit ConnectionOptions(const SiteSpec &spec);

  TORCH_ARG(std::string, recipe) = "dynamic";
  TORCH_ARG(int64_t, dim) = 512;   ///< D
  TORCH_ARG(int64_t, streams) = 4; ///< n
  TORCH_ARG(int64_t, fracs) = 1;   ///< m
  /// Which sublayer this is, counted from 0 over the model: it chooses the stream that the branch reads at the start.
  /// One of the two is required where the recipe's initial values depend on it (n > 1); without effect on a recipe that
  /// does not declare layerOptions().
  TORCH_ARG(std::optional<int64_t>, layerIndex);
  /// The index is drawn from this seed, which each layer has for itself: layerSeed(seed + i).
  TORCH_ARG(std::optional<int64_t>, layerSeed);
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;
  TORCH_ARG(RecipeWords, options); ///< the recipe's own, as in a spec text

public:
  ConnectionOptions &option(std::string name, std::string value) {
    options_.emplace_back(std::move(name), std::move(value));
    return *this;
  }
  /// The spec with these streams; throws UserError for what the recipe does not know. It needs no layer: kernels have
  /// none.
  SiteSpec spec(at::ScalarType stream = at::kFloat) const;
};

class HYPERJIT_TORCH_API ConnectionImpl : public torch::nn::Module {
public:
  using Branch = std::function<at::Tensor(const at::Tensor &)>;

  /// Throws UserError when recipe, sizes or options are impossible, and when the initial values depend on the layer and
  /// neither layerIndex nor layerSeed is given.
  explicit ConnectionImpl(ConnectionOptions options);
  explicit ConnectionImpl(const SiteSpec &spec) : ConnectionImpl(ConnectionOptions(spec)) {}

  /// Makes the parameters anew with their initial values (torch's generator where these are random).
  void reset();
  void pretty_print(std::ostream &stream) const override;
  /// A deep copy, the wrapped branch module included; a wrapped function is shared. Keeps requires_grad. Refused by name
  /// where something else was registered here.
  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device> &device = std::nullopt) const override;
  /// As any module, plus the string attribute "hyperjit_spec".
  void save(torch::serialize::OutputArchive &archive) const override;
  /// Copies the file's values into the parameters, which keep dtype and device; a file's () is taken for (1,). Refuses
  /// (UserError) an archive of another recipe, n, m, D or kernel options, one that holds a branch's values where this layer has
  /// no module for them, and a parameter that is missing or has another shape, by name.
  void load(torch::serialize::InputArchive &archive) override;

  /// Runs the branch given here or, if it is empty, the wrapped one: u [..., D] (or [..., v, D]) -> y [..., D]. Refused by
  /// name where there is neither. Of torch::nn::Sequential the layers follow an ExpandStreams.
  Stream forward(const Stream &stream, const Branch &branch = {});

  /// By hand: u and the stream with its branch open, to be closed by depthConnection.
  std::pair<at::Tensor, Stream> widthConnection(const Stream &stream);
  Stream depthConnection(const at::Tensor &y, const Stream &open);

  /// A module (registered as child "branch"; a holder, or what it holds; an AnyModule within a Sequential) or a function
  /// becomes this layer's branch. Returns this layer. Refused if it already has one.
  template <typename Contained>
  requires std::is_base_of_v<torch::nn::Module, Contained> std::shared_ptr<ConnectionImpl>
  wrap(const std::shared_ptr<Contained> &branch) {
    return wrapModule(branch, [](torch::nn::Module &module, const at::Tensor &u) -> at::Tensor {
      return static_cast<Contained &>(module).forward(u);
    });
  }
  template <typename Holder>
  requires requires(Holder holder) {
    typename Holder::ContainedType;
    holder.ptr();
  }
  std::shared_ptr<ConnectionImpl> wrap(const Holder &branch) { return wrap(branch.ptr()); }
  template <typename Function>
  requires std::is_invocable_r_v<at::Tensor, Function, const at::Tensor &> &&(!requires {
    typename std::remove_cvref_t<Function>::ContainedType;
  })std::shared_ptr<ConnectionImpl> wrap(Function branch) {
    return wrapFunction(std::move(branch));
  }

  /// The recipe's parameters in its order, and under its names.
  const std::vector<at::Tensor> &siteParameters() const { return values; }
  std::map<std::string, at::Tensor> namedSiteParameters() const;
  /// The normalised spec for streams of this dtype, with the dtype that the parameters have now.
  SiteSpec spec(at::ScalarType stream = at::kFloat) const;
  const SiteSignature &signature() const { return program->signature; }

  ConnectionOptions options;

protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(Branch())})
  ConnectionImpl(std::string name, ConnectionOptions options);
  /// A fresh layer of the same type and options.
  virtual std::shared_ptr<ConnectionImpl> make() const;
  std::string typeName;

private:
  struct Site;
  void clone_(torch::nn::Module &other, const std::optional<at::Device> &device) override;
  void copyFrom(const ConnectionImpl &other, const std::optional<at::Device> &device);
  void copyBranch(torch::nn::Module &mine, const torch::nn::Module &other,
                  const std::optional<at::Device> &device) const;
  using ModuleCall = at::Tensor (*)(torch::nn::Module &, const at::Tensor &);
  std::shared_ptr<ConnectionImpl> wrapModule(std::shared_ptr<torch::nn::Module> module, ModuleCall call);
  std::shared_ptr<ConnectionImpl> wrapFunction(Branch branch);
  at::ScalarType weightType() const;
  std::shared_ptr<const Site> site(at::ScalarType stream, at::ScalarType branchOut) const;

  std::shared_ptr<const SiteProgram> program;
  std::vector<ParameterInfo> declared;
  std::vector<at::Tensor> values; ///< handles in the order of `declared`; Module::to and load keep them
  std::shared_ptr<torch::nn::Module> branchModule;
  ModuleCall branchCall = nullptr;
  Branch branchFunction;
  mutable std::mutex mutex;
  mutable std::vector<std::shared_ptr<const Site>> sites;
};
TORCH_MODULE(Connection);

} // namespace hyperjit::nn
