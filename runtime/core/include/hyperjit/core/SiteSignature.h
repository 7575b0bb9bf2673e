// SiteSignature.h - what a recorded site needs and gives, computed from its program without LLVM: all that a caller
// needs to make tensors for its kernels. T tokens, n streams, m fracs, D model dim, d = D/m row width.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_SITESIGNATURE_H
#define HYPERJIT_CORE_SITESIGNATURE_H

#include "hyperjit/core/DType.h"
#include "hyperjit/core/SiteSpec.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace hyperjit {

/// What a parameter is to the program.
enum class ParameterKind : uint8_t {
  Coefficients, ///< a few numbers: !hc.coeffs<...> in the declared shape
  Rows,         ///< channel vectors: !hc.rows<R, d>, declared (d), (D) or (R, d)
  Weight,       ///< wide: !hc.weight<R, d, K>
};

/// How a parameter starts. Module options (a layer's index, say) choose it; it never enters a kernel.
struct Initialisation {
  enum class Kind : uint8_t {
    Constant, ///< every element is `first`
    Normal,   ///< mean `first`, standard deviation `second`
    Uniform,  ///< from `first` to `second`
    Values,   ///< `values`, row-major, one for each element
    PerLayer, ///< differs by layer, and the spec gives neither layer_index nor layer_seed
    Unknown,  ///< of a program that came as text: it says no values, and none are made up
  };
  Kind kind = Kind::Constant;
  double first = 0;
  double second = 0;
  int64_t zeroSlices = 0; ///< Normal, Uniform: so many slices of the first axis are zero instead
  std::vector<double> values;
  std::string text; ///< for people: "zeros", "one-hot at layer_index mod n", "normal(0, 0.02)"
};

struct ParameterInfo {
  std::string name;
  std::vector<int64_t> shape; ///< as the recipe declares it, n, m and D bound; memory is row-major contiguous
  ParameterKind kind = ParameterKind::Coefficients;
  DType dtype = DType::Float32; ///< the spec's weight dtype
  Initialisation initialisation;

  int64_t elements() const {
    int64_t product = 1;
    for (int64_t size : shape)
      product *= size;
    return product;
  }
};

/// A value that travels from site to site beside the streams: tensor [T, size] in the compute type.
struct CarryInfo {
  std::string name;
  int64_t size = 0;
  std::vector<double> start; ///< carries in: what a token starts with where no site made one; `size` numbers,
                             ///< or none where the program came as text
};

struct SiteSignature {
  int64_t streamRows = 0;            ///< n m
  int64_t rowWidth = 0;              ///< d = D / m
  int64_t branchInputRows = 0;       ///< v m: U is [T, v, D]
  int64_t branchOutputRows = 0;      ///< m: Y is [T, D]
  int64_t tokenCoefficients = 0;     ///< C: tensor [T, C] in the compute type
  int64_t uniformCoefficients = 0;   ///< Cu: tensor [Cu] in the compute type
  int64_t channelRows = 0;           ///< Rv: tensor [Rv, d] in the compute type
  int64_t saved = 0;                 ///< S: tensor [T, S] in the compute type, written by forward:save
  std::vector<CarryInfo> carriesIn;  ///< in declaration order
  std::vector<CarryInfo> carriesOut; ///< in declaration order; `start` is empty

  /// v, the D-vectors of U.
  int64_t branchInputs() const { return branchOutputRows ? branchInputRows / branchOutputRows : 0; }
};

/// A recorded site. Immutable, shared.
struct SiteProgram {
  SiteSpec spec;      ///< normalised: kernel options only, defaults omitted, declaration order
  std::string text;   ///< canonical hc assembly, `d` symbolic
  std::string digest; ///< 64 hex digits of BLAKE2b-256 of `text` (hyperjit::digestText)
  SiteSignature signature;
  std::vector<ParameterInfo> parameters; ///< declaration order; for initialisations ask ProgramSource::parameters
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_SITESIGNATURE_H
