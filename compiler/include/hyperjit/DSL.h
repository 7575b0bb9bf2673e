//===- DSL.h - Hyper-connections written as mathematics for one token ------------------------------------------===//
//
// A recipe describes one connection around one branch (attention, MLP, ...): streams in, branch input, the hole where
// the branch runs, branch output, streams out. Running a recipe records a program; shapes are checked while it runs.
//
//   void hyper(Site &s) {                                       // arXiv 2409.19606, static form
//     Rows x = s.streams();                                     // n rows of d channels
//     Coefficients a = s.coefficients("static_alpha", {s.n(), 1 + s.n()}, ...);
//     auto [read, residual] = split(transpose(a), {1, s.n()});  // mix takes [out, in]
//     s.branchInput(mix(read, x));
//     s.next(mix(residual, x) + write(s.coefficients("static_beta", {s.n()}, constant(1)), s.branchOutput()));
//   }
//   hyperjit::define("mine", hyper);
//
// n, m and options are integers and words while a recipe runs; only the row width d = D/m is symbolic. A program has at
// most 2048 different values (a loop in C++ records its body once a round), each of at most 2^20 numbers; kernels have
// rows of at most 96 for a token, and at most six sums over channels (norms, dots, projections) that wait for one
// another, of which backward, derived, may need more than forward: what needs more is refused by the first kernel.
// Errors are hyperjit::UserError and name the operand and both shapes. No MLIR, CUDA or torch is needed to use this
// header.
//
// SPDX-License-Identifier: Apache-2.0
//===------------------------------------------------------------------------------------------------------===//
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hyperjit/core/Export.h"
#include "hyperjit/core/ProgramSource.h"

namespace hyperjit::dsl {

namespace detail {
class Recorder;
struct Access;
} // namespace detail

//===------------------------------------------------------------------------------------------------------===//
// Shapes and initial values of parameters
//===------------------------------------------------------------------------------------------------------===//

/// One extent of a parameter's shape: a number, or a number times the row width d.
struct Extent {
  int64_t factor = 1;
  bool channels = false;
  Extent(std::integral auto size) : factor(static_cast<int64_t>(size)) {}
  Extent(int64_t factor, bool channels) : factor(factor), channels(channels) {}
  friend Extent operator*(int64_t factor, Extent extent) { return {factor * extent.factor, extent.channels}; }
};
using Shape = std::vector<Extent>;

/// Initial values. `values` lists them row-major and is meant for small parameters; `text` says what they are.
HYPERJIT_EXPORT Initialisation constant(double value);
HYPERJIT_EXPORT Initialisation normal(double standardDeviation);
/// Zero in the first slice of the first axis, normal in the others.
HYPERJIT_EXPORT Initialisation normalAfterFirst(double standardDeviation);
HYPERJIT_EXPORT Initialisation values(std::vector<double> list, std::string text = {});
/// size x size, ones on the diagonal.
HYPERJIT_EXPORT std::vector<double> identityMatrix(int64_t size);
/// `size` numbers: `on` at `index` (taken modulo size), `off` elsewhere.
HYPERJIT_EXPORT std::vector<double> oneHot(int64_t size, int64_t index, double on = 1, double off = 0);

//===------------------------------------------------------------------------------------------------------===//
// Values
//===------------------------------------------------------------------------------------------------------===//

/// A value of a program that is being recorded: cheap to copy, belongs to one site.
class HYPERJIT_EXPORT Value {
public:
  Value() = default;
  bool valid() const { return recorder != nullptr; }
  /// The same for all tokens: a parameter, a constant, or computed from such values only.
  bool uniform() const;

protected:
  Value(std::shared_ptr<detail::Recorder> recorder, int id) : recorder(std::move(recorder)), id(id) {}
  std::shared_ptr<detail::Recorder> recorder;
  int id = -1;
  friend struct detail::Access;
};

/// A few numbers of rank >= 1, row-major, in compute precision.
class HYPERJIT_EXPORT Coefficients : public Value {
public:
  Coefficients() = default;
  const std::vector<int64_t> &shape() const;
  int64_t rank() const { return static_cast<int64_t>(shape().size()); }
  int64_t size(int64_t axis = 0) const;
  int64_t elements() const;

private:
  using Value::Value;
  friend struct detail::Access;
};

/// R rows of d channels: streams (row s m + f is frac f of stream s), branch input and output, channel vectors.
class HYPERJIT_EXPORT Rows : public Value {
public:
  Rows() = default;
  int64_t rows() const;
  /// Rows that a norm takes together: 1, unless flatten or groupRows said otherwise. (A projection takes as many as its
  /// weight has: without flatten, norm(x) of each row by itself, and then all rows with one weight [n, D, K].)
  int64_t group() const { return rowsPerGroup; }
  bool flattened() const { return flat; }

private:
  using Value::Value;
  int64_t rowsPerGroup = 1;
  bool flat = false;
  friend struct detail::Access;
};
/// A uniform Rows: a parameter of shape (d,), (D,), (n D,), (k, D), ...
using Channels = Rows;

/// A wide parameter [R, d, K], the same for all tokens: R rows of d channels to K numbers.
class HYPERJIT_EXPORT Weight : public Value {
public:
  Weight() = default;
  int64_t rows() const;
  int64_t columns() const;

private:
  using Value::Value;
  friend struct detail::Access;
};

//===------------------------------------------------------------------------------------------------------===//
// Maps over channels
//===------------------------------------------------------------------------------------------------------===//

/// out_i = sum_j c[i, j] x_j for c [out, in] and x of `in` rows; c [in] makes one row.
HYPERJIT_EXPORT Rows mix(const Coefficients &c, const Rows &x);
/// out_i = c[i] x_i.
HYPERJIT_EXPORT Rows scaleRows(const Coefficients &c, const Rows &x);
/// Each row times a channel vector: `channels` has as many rows as x, or fewer that repeat (1, or m for D-vectors).
HYPERJIT_EXPORT Rows scale(const Rows &x, const Channels &channels);
/// Spread a branch's output over the rows of the streams: beta [rows] gives row (s, f) beta[s, f] y_f,
/// beta [rows, m] gives row i sum_f beta[i, f] y_f.
HYPERJIT_EXPORT Rows write(const Coefficients &beta, const Rows &y);
/// out_i = x_{indices[i]}.
HYPERJIT_EXPORT Rows gatherRows(const Rows &x, const std::vector<int64_t> &indices);
/// `rows` rows; out_j = sum of x_i with indices[i] = j.
HYPERJIT_EXPORT Rows scatterRows(const Rows &x, const std::vector<int64_t> &indices, int64_t rows);
/// Row i holds c[i] in every channel.
HYPERJIT_EXPORT Rows fillRows(const Coefficients &c);
/// out_{g R + r}[c] = sum_k p[g, k] W[r, c, k]: what a projection transposed does.
HYPERJIT_EXPORT Rows expand(const Coefficients &p, const Weight &weight);
HYPERJIT_EXPORT Rows operator+(const Rows &a, const Rows &b);
HYPERJIT_EXPORT Rows operator-(const Rows &a, const Rows &b);
HYPERJIT_EXPORT Rows operator*(const Rows &a, const Rows &b);

/// Take all rows together in the next norm or projection (their channels in memory order).
HYPERJIT_EXPORT Rows flatten(const Rows &x);
/// Take `rows` consecutive rows together; with m, a stream's fracs.
HYPERJIT_EXPORT Rows groupRows(const Rows &x, int64_t rows);

//===------------------------------------------------------------------------------------------------------===//
// Reductions over channels
//===------------------------------------------------------------------------------------------------------===//

/// x / max(|x|, eps) sqrt(dim) (gamma + 1) | x (mean x^2 + eps)^-1/2 w | x / (sqrt(mean x^2) + eps) w |
/// (x - mean) (var + eps)^-1/2 w + b
enum class NormKind { L2UnitOffset, RmsInside, RmsOutside, LayerNorm };
struct NormOptions {
  double epsilon = 1e-6;
  Channels gain; // gamma for L2UnitOffset, else w; as many rows as a group, or none
  Channels bias; // LayerNorm with a gain only
};
HYPERJIT_EXPORT NormKind parseNormKind(std::string_view text);
/// Per group of rows, see flatten; the result keeps the grouping of x.
HYPERJIT_EXPORT Rows norm(NormKind kind, const Rows &x, const NormOptions &options);
HYPERJIT_EXPORT Rows rmsNorm(const Rows &x, double epsilon);

/// x in groups of R rows, weight [R, d, K]: coefficients [groups, K], or [K] if x was flattened.
HYPERJIT_EXPORT Coefficients project(const Rows &x, const Weight &weight);
HYPERJIT_EXPORT std::vector<Coefficients> project(const Rows &x, std::span<const Weight> weights);
/// Several weights of equal rows in one projection, or the columns of one weight in pieces:
/// auto [a, b] = project(x, {weightA, weightB});   auto [pre, post] = project(x, weight, {n, n});
template <std::size_t N> std::array<Coefficients, N> project(const Rows &x, const Weight (&weights)[N]);
template <std::size_t N>
std::array<Coefficients, N> project(const Rows &x, const Weight &weight, const int64_t (&sizes)[N]);
/// All pairs of rows: [x rows, y rows].
HYPERJIT_EXPORT Coefficients dot(const Rows &x, const Rows &y);
/// Row by row: [rows].
HYPERJIT_EXPORT Coefficients dotRows(const Rows &x, const Rows &y);
/// Sum of each row's channels: [rows].
HYPERJIT_EXPORT Coefficients rowSum(const Rows &x);

//===------------------------------------------------------------------------------------------------------===//
// Wide parameters
//===------------------------------------------------------------------------------------------------------===//

/// Side by side along K.
HYPERJIT_EXPORT Weight concatWeights(std::span<const Weight> weights);
/// Columns [offset, offset + size).
HYPERJIT_EXPORT Weight sliceWeight(const Weight &weight, int64_t offset, int64_t size);
/// W[r, c, k] g[r, c].
HYPERJIT_EXPORT Weight scaleWeight(const Weight &weight, const Channels &channels);
/// A transposed weight: K R rows, row k R + r, to [R, d, K].
HYPERJIT_EXPORT Weight weightFromRows(const Channels &rows, int64_t rowsPerColumn = 1);
HYPERJIT_EXPORT Channels rowsFromWeight(const Weight &weight);

//===------------------------------------------------------------------------------------------------------===//
// Coefficient maths. Shapes broadcast from the right as in NumPy; what that adds stands in the program.
//===------------------------------------------------------------------------------------------------------===//

HYPERJIT_EXPORT Coefficients operator+(const Coefficients &a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator-(const Coefficients &a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator*(const Coefficients &a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator/(const Coefficients &a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator+(const Coefficients &a, double b);
HYPERJIT_EXPORT Coefficients operator-(const Coefficients &a, double b);
HYPERJIT_EXPORT Coefficients operator*(const Coefficients &a, double b);
HYPERJIT_EXPORT Coefficients operator/(const Coefficients &a, double b);
HYPERJIT_EXPORT Coefficients operator+(double a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator-(double a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator*(double a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator/(double a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients operator-(const Coefficients &a);
HYPERJIT_EXPORT Coefficients max(const Coefficients &a, const Coefficients &b);
HYPERJIT_EXPORT Coefficients max(const Coefficients &a, double b);
HYPERJIT_EXPORT Coefficients exp(const Coefficients &a);
HYPERJIT_EXPORT Coefficients log(const Coefficients &a);
HYPERJIT_EXPORT Coefficients tanh(const Coefficients &a);
HYPERJIT_EXPORT Coefficients sigmoid(const Coefficients &a);
HYPERJIT_EXPORT Coefficients sqrt(const Coefficients &a);
HYPERJIT_EXPORT Coefficients rsqrt(const Coefficients &a);
HYPERJIT_EXPORT Coefficients reciprocal(const Coefficients &a);

HYPERJIT_EXPORT Coefficients reshape(const Coefficients &a, const std::vector<int64_t> &shape);
/// All axes reversed, or in the given order: result axis i is operand axis order[i].
HYPERJIT_EXPORT Coefficients transpose(const Coefficients &a);
HYPERJIT_EXPORT Coefficients transpose(const Coefficients &a, const std::vector<int64_t> &order);
/// [offset, offset + size) along `axis`; a negative axis counts from the back.
HYPERJIT_EXPORT Coefficients slice(const Coefficients &a, int64_t axis, int64_t offset, int64_t size);
HYPERJIT_EXPORT Coefficients concat(std::span<const Coefficients> parts, int64_t axis = 0);
HYPERJIT_EXPORT Coefficients concat(std::initializer_list<Coefficients> parts, int64_t axis = 0);
HYPERJIT_EXPORT Coefficients broadcast(const Coefficients &a, const std::vector<int64_t> &shape);
/// Drops the axes; a sum of all is [1].
HYPERJIT_EXPORT Coefficients reduceSum(const Coefficients &a, const std::vector<int64_t> &axes);
HYPERJIT_EXPORT Coefficients mean(const Coefficients &a, const std::vector<int64_t> &axes);
HYPERJIT_EXPORT Coefficients matmul(const Coefficients &a, const Coefficients &b);
/// Over the last axis.
HYPERJIT_EXPORT Coefficients softmax(const Coefficients &a);
/// Pieces along `axis` whose sizes add up to its size: auto [a, b] = split(c, {1, n});
template <std::size_t N>
std::array<Coefficients, N> split(const Coefficients &a, const int64_t (&sizes)[N], int64_t axis = 0);
HYPERJIT_EXPORT std::vector<Coefficients> split(const Coefficients &a, std::span<const int64_t> sizes,
                                                int64_t axis = 0);

/// The Sinkhorn operator on a square matrix. A "row" step makes sums over the last axis 1, a "col" step sums over the
/// first. `iterations` counts {first, second} pairs; with start "softmax_eps" the softmax and a col step are the first.
/// There are at most 2^14.
struct Sinkhorn {
  int64_t iterations = 20;
  std::string start = "exp";  // exp | exp_raw | softmax_eps
  std::string first = "col";  // row | col
  std::string place = "none"; // where eps enters a division: none | clamp | add
  double epsilon = 0;
  double temperature = 1;
  bool logDomain = false;
};
HYPERJIT_EXPORT Coefficients sinkhorn(const Coefficients &logits, const Sinkhorn &options);
/// c of n! weights, permutations in lexicographic order: H[j, pi_r(j)] = sum of c_r. n is at most 6.
HYPERJIT_EXPORT Coefficients permutationMixture(const Coefficients &c, int64_t n);

//===------------------------------------------------------------------------------------------------------===//
// The site
//===------------------------------------------------------------------------------------------------------===//

/// What a recipe is given: one connection with its streams, parameters, options and hole.
class HYPERJIT_EXPORT Site {
public:
  int64_t n() const;
  int64_t m() const;
  /// n m, the rows of the streams.
  int64_t rows() const { return n() * m(); }
  /// Symbolic sizes for parameter shapes: the row width d and the model's D = m d.
  Extent d() const { return {1, true}; }
  Extent D() const { return {m(), true}; }

  bool flag(std::string_view option) const;
  int64_t integer(std::string_view option) const;
  double number(std::string_view option) const;
  const std::string &text(std::string_view option) const;
  /// The sublayer, see layerOptions. Module options only choose initial values; a program must not depend on them.
  int64_t layerIndex() const;

  /// The streams of one token: n m rows; row s m + f is frac f of stream s.
  Rows streams();

  /// Parameters, in the order of declaration. A name is declared once. Dots make child modules of a layer ("norm.gamma"),
  /// so no name stands before another's dot; "branch", "hyperjit_spec" and LibTorch's keywords are taken.
  Coefficients coefficients(std::string_view name, const std::vector<int64_t> &shape, const Initialisation &);
  Coefficients scalar(std::string_view name, double initial); // shape (1,)
  Channels channels(std::string_view name, const Shape &shape, const Initialisation &);
  Weight weight(std::string_view name, const Shape &shape, const Initialisation &);
  /// Numbers that are part of the recipe, row-major.
  Coefficients constants(const std::vector<int64_t> &shape, const std::vector<double> &list);

  /// Into the hole: v m rows for v input views, at most 32. Rounded to the branch's dtype.
  void branchInput(const Rows &u);
  /// Out of the hole: m rows.
  Rows branchOutput();
  /// The new streams. Rounded to the streams' dtype.
  void next(const Rows &x);

  /// What travels from site to site beside the streams, a token's own; `start` is its value before the first site.
  Coefficients carryIn(std::string_view name, const std::vector<int64_t> &shape, const std::vector<double> &start);
  /// Must not depend on the branch's output.
  void carryOut(std::string_view name, const Coefficients &value);

private:
  explicit Site(std::shared_ptr<detail::Recorder> recorder) : recorder(std::move(recorder)) {}
  std::shared_ptr<detail::Recorder> recorder;
  friend struct detail::Access;
};

//===------------------------------------------------------------------------------------------------------===//
// Definition
//===------------------------------------------------------------------------------------------------------===//

/// An option of a recipe. Values are text in a spec; each has one canonical spelling.
struct Option {
  enum class Type { Flag, Integer, Number, Word };
  std::string name;
  Type type = Type::Word;
  std::string defaultValue;
  std::vector<std::string> words; // what a Word takes; what a Number takes beside numbers
  double minimum = 0, maximum = std::numeric_limits<double>::infinity();
  std::string meaning;
  bool kernel = true; // false: chooses initial values only and enters no kernel
};
HYPERJIT_EXPORT Option flagOption(std::string name, bool defaultValue, std::string meaning);
HYPERJIT_EXPORT Option integerOption(std::string name, int64_t defaultValue, int64_t minimum, int64_t maximum,
                                     std::string meaning);
HYPERJIT_EXPORT Option numberOption(std::string name, double defaultValue, double minimum, double maximum,
                                    std::string meaning);
HYPERJIT_EXPORT Option wordOption(std::string name, std::string defaultValue, std::vector<std::string> words,
                                  std::string meaning);
/// The same option as a module option.
HYPERJIT_EXPORT Option moduleOption(Option option);
/// `layer_index`: which sublayer this is, counted from 0 over the model; read modulo n where a stream is chosen.
/// `layer_seed`: what it is drawn from instead. Neither has a default: who makes parameters whose start differs by
/// layer must give one. Kernels and shapes need none.
HYPERJIT_EXPORT std::vector<Option> layerOptions();

using Recipe = std::function<void(Site &)>;

/// What a recipe says of itself, and the sizes it takes beside the limit n m <= 32 of all.
struct Definition {
  std::string summary, paper, equation;
  std::vector<Option> options;
  int maximumStreams = 32, maximumFracs = 32;
  std::string limitReason; // why, and what to use instead
};

//===------------------------------------------------------------------------------------------------------===//
// Inline parts
//===------------------------------------------------------------------------------------------------------===//

namespace detail {
template <std::size_t N> std::array<Coefficients, N> asArray(std::vector<Coefficients> list) {
  std::array<Coefficients, N> result;
  for (std::size_t i = 0; i < N; ++i)
    result[i] = std::move(list[i]);
  return result;
}
} // namespace detail

template <std::size_t N>
std::array<Coefficients, N> split(const Coefficients &a, const int64_t (&sizes)[N], int64_t axis) {
  return detail::asArray<N>(split(a, std::span<const int64_t>(sizes, N), axis));
}
template <std::size_t N> std::array<Coefficients, N> project(const Rows &x, const Weight (&weights)[N]) {
  return detail::asArray<N>(project(x, std::span<const Weight>(weights, N)));
}
template <std::size_t N>
std::array<Coefficients, N> project(const Rows &x, const Weight &weight, const int64_t (&sizes)[N]) {
  return detail::asArray<N>(split(project(x, weight), std::span<const int64_t>(sizes, N), -1));
}

} // namespace hyperjit::dsl

namespace hyperjit {
/// Makes a variant known under a name ([a-z][a-z0-9_.-]*), with the speed, gradients and back ends of the shipped ones.
/// The recipe runs when a site of it is first needed, perhaps on several threads at once. Throws UserError when the
/// name is taken or an option is declared twice.
HYPERJIT_EXPORT void define(std::string name, dsl::Recipe recipe, dsl::Definition definition = {});

/// Opens a shared library whose initialisers call `define`. Throws UserError: LibraryMissing with the loader's reason, or
/// what the first `define` that fails would throw (which cannot pass through the loader).
HYPERJIT_EXPORT void loadRecipes(const std::string &path);

/// The same for a recorded program: what `hyperjit show SPEC --stage recipe` prints. It serves every d and all dtypes,
/// and the one n, m and set of options that it was recorded with; a spec that asks for others is refused. A text has no
/// initial values, so torch modules of it are refused too. `origin` is what messages call it, a file for example.
HYPERJIT_EXPORT void defineProgram(std::string name, std::string_view text, std::string origin);
} // namespace hyperjit
