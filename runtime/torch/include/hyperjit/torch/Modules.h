// The named connection modules, and how streams begin and end. Each is a Connection with typed options.
// SPDX-License-Identifier: Apache-2.0
//
//   hyperjit::nn::ManifoldHyperConnection layer(
//       hyperjit::nn::ManifoldHyperConnectionOptions().streams(4).dim(512).layerIndex(3));
#pragma once

#include <hyperjit/torch/Connection.h>

#include <torch/nn/cloneable.h>

#include <optional>

namespace hyperjit::nn {

/// arXiv 2409.19606: static (learned constants) or dynamic (they depend on the token).
struct HYPERJIT_TORCH_API HyperConnectionOptions {
  HyperConnectionOptions() = default;
  explicit HyperConnectionOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim) = 512;
  TORCH_ARG(int64_t, streams) = 4;
  TORCH_ARG(int64_t, fracs) = 1;
  TORCH_ARG(std::optional<int64_t>, layerIndex); ///< required for n > 1, or layerSeed: see ConnectionOptions
  TORCH_ARG(std::optional<int64_t>, layerSeed);
  TORCH_ARG(bool, dynamic) = true;
  TORCH_ARG(bool, tanh) = true;
  TORCH_ARG(bool, scale) = true;
  TORCH_ARG(std::string, norm) = "l2_unit_offset"; ///< rms_inside, rms_outside, layernorm
  TORCH_ARG(std::optional<double>, normEps);
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;

public:
  operator ConnectionOptions() const; // NOLINT: options of the generic module
};

/// arXiv 2503.14125: one stream cut into m fracs.
struct HYPERJIT_TORCH_API FracConnectionOptions {
  FracConnectionOptions() = default;
  explicit FracConnectionOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim) = 512;
  TORCH_ARG(int64_t, fracs) = 4;
  TORCH_ARG(bool, dynamic) = true;
  TORCH_ARG(bool, tanh) = true;
  TORCH_ARG(bool, scale) = true;
  TORCH_ARG(std::string, norm) = "layernorm"; ///< or none, l2_unit_offset, rms_inside, rms_outside
  TORCH_ARG(std::optional<double>, normEps);
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;

public:
  operator ConnectionOptions() const; // NOLINT
};

/// n streams of m fracs.
struct HYPERJIT_TORCH_API JointConnectionOptions {
  JointConnectionOptions() = default;
  explicit JointConnectionOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim) = 512;
  TORCH_ARG(int64_t, streams) = 2;
  TORCH_ARG(int64_t, fracs) = 2;
  TORCH_ARG(std::optional<int64_t>, layerIndex);
  TORCH_ARG(std::optional<int64_t>, layerSeed);
  TORCH_ARG(bool, fullWrite) = true; ///< a branch's frac may be written to every frac; false: to its own
  TORCH_ARG(bool, dynamic) = true;
  TORCH_ARG(bool, tanh) = true;
  TORCH_ARG(bool, scale) = true;
  TORCH_ARG(std::string, norm) = "l2_unit_offset";
  TORCH_ARG(std::optional<double>, normEps);
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;

public:
  operator ConnectionOptions() const; // NOLINT
};

/// arXiv 2512.24880 (mHC): the residual matrix is kept doubly stochastic by Sinkhorn iterations.
struct HYPERJIT_TORCH_API ManifoldHyperConnectionOptions {
  ManifoldHyperConnectionOptions() = default;
  explicit ManifoldHyperConnectionOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim) = 512;
  TORCH_ARG(int64_t, streams) = 4;
  TORCH_ARG(int64_t, fracs) = 1;
  TORCH_ARG(std::optional<int64_t>, layerIndex);
  TORCH_ARG(std::optional<int64_t>, layerSeed);
  /// "flattened" (the paper), "deepseek" (DeepSeek V4: fn, base, scale), "streams" (norm and projection per stream).
  TORCH_ARG(std::string, form) = "flattened";
  TORCH_ARG(std::string, init) = "mhc_lite"; ///< residual_equivalent, zero, lucidrains, uniform_read, kareem, liger
  TORCH_ARG(int64_t, iterations) = 20;
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;
  TORCH_ARG(RecipeWords, options); ///< further options of the form's recipe

public:
  operator ConnectionOptions() const; // NOLINT
};

/// DeepSeek V4.1: the read weights made at a site serve the next one; they travel in the Stream.
struct HYPERJIT_TORCH_API DelayedPreConnectionOptions {
  DelayedPreConnectionOptions() = default;
  explicit DelayedPreConnectionOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim) = 512;
  TORCH_ARG(int64_t, streams) = 4;
  TORCH_ARG(std::optional<int64_t>, layerIndex);
  TORCH_ARG(std::optional<int64_t>, layerSeed);
  TORCH_ARG(std::string, init) = "mhc_lite";
  TORCH_ARG(int64_t, iterations) = 20;
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;

public:
  operator ConnectionOptions() const; // NOLINT
};

/// arXiv 2601.05732 (mHC-lite): a convex mixture of all n! permutations, n <= 5.
struct HYPERJIT_TORCH_API PermutationConnectionOptions {
  PermutationConnectionOptions() = default;
  explicit PermutationConnectionOptions(int64_t dim) : dim_(dim) {}
  TORCH_ARG(int64_t, dim) = 512;
  TORCH_ARG(int64_t, streams) = 4;
  TORCH_ARG(std::optional<int64_t>, layerIndex);
  TORCH_ARG(std::optional<int64_t>, layerSeed);
  TORCH_ARG(std::string, init) = "mhc_lite";
  TORCH_ARG(std::string, norm) = "l2_unit_offset";
  TORCH_ARG(at::ScalarType, parameterDtype) = at::kFloat;

public:
  operator ConnectionOptions() const; // NOLINT
};

namespace detail {
/// A Connection under a name of its own.
template <typename Derived, typename Options> class NamedConnection : public ConnectionImpl {
public:
  explicit NamedConnection(const Options &options = {})
      : ConnectionImpl(Derived::kName, static_cast<ConnectionOptions>(options)), typedOptions(options) {}
  const Options typedOptions;

protected:
  std::shared_ptr<ConnectionImpl> make() const override { return std::make_shared<Derived>(typedOptions); }
};
} // namespace detail

#define HYPERJIT_NAMED_CONNECTION(name)                                                                                \
  class HYPERJIT_TORCH_API name##Impl : public detail::NamedConnection<name##Impl, name##Options> {                    \
  public:                                                                                                              \
    static constexpr const char *kName = "hyperjit::nn::" #name;                                                       \
    using NamedConnection::NamedConnection;                                                                            \
  };                                                                                                                   \
  TORCH_MODULE(name)

HYPERJIT_NAMED_CONNECTION(HyperConnection);
HYPERJIT_NAMED_CONNECTION(FracConnection);
HYPERJIT_NAMED_CONNECTION(JointConnection);
HYPERJIT_NAMED_CONNECTION(ManifoldHyperConnection);
HYPERJIT_NAMED_CONNECTION(DelayedPreConnection);
HYPERJIT_NAMED_CONNECTION(PermutationConnection);
#undef HYPERJIT_NAMED_CONNECTION

//===----------------------------------------------------------------------===//
// Beginning and end of the streams
//===----------------------------------------------------------------------===//

struct HYPERJIT_TORCH_API ExpandStreamsOptions {
  ExpandStreamsOptions(int64_t streams = 4, int64_t dim = 512) : streams_(streams), dim_(dim) {} // NOLINT
  TORCH_ARG(int64_t, streams);
  TORCH_ARG(int64_t, dim);
  TORCH_ARG(bool, embedding) = false; ///< adds row s of the parameter stream_embed [n, D], at first zero, to stream s
};

/// h [..., D] -> streams [..., n, D]: n copies, and the stream embedding if asked for. With fracs n counts streams as
/// ever: cutting D into m rows is a matter of reading, so frac-connections take n = 1.
class HYPERJIT_TORCH_API ExpandStreamsImpl : public torch::nn::Cloneable<ExpandStreamsImpl> {
public:
  explicit ExpandStreamsImpl(const ExpandStreamsOptions &options = {});
  void reset() override;
  void pretty_print(std::ostream &stream) const override;
  /// As a Connection's: values are copied, and refused by name.
  void load(torch::serialize::InputArchive &archive) override;
  Stream forward(const at::Tensor &h);
  ExpandStreamsOptions options;
  at::Tensor embedding; ///< undefined without one
};
TORCH_MODULE(ExpandStreams);

struct HYPERJIT_TORCH_API ReduceStreamsOptions {
  ReduceStreamsOptions(std::string mode = "sum", int64_t streams = 0)
      : mode_(std::move(mode)), streams_(streams) {}                                  // NOLINT
  ReduceStreamsOptions(const char *mode) : ReduceStreamsOptions(std::string(mode)) {} // NOLINT: ReduceStreams("mean")
  /// "sum", "mean", or "carry": weighted by the stream's carry named below (DeepSeek V4.1's last read weights).
  TORCH_ARG(std::string, mode);
  TORCH_ARG(int64_t, streams); ///< checked if not 0
  TORCH_ARG(std::string, carry) = "read";
};

/// streams [..., n, D] -> h [..., D].
class HYPERJIT_TORCH_API ReduceStreamsImpl : public torch::nn::Cloneable<ReduceStreamsImpl> {
public:
  explicit ReduceStreamsImpl(const ReduceStreamsOptions &options = {});
  void reset() override {}
  void pretty_print(std::ostream &stream) const override;
  at::Tensor forward(const Stream &stream);
  ReduceStreamsOptions options;
};
TORCH_MODULE(ReduceStreams);

} // namespace hyperjit::nn
