// One case of the conformance test: sites, their inputs, what the kernels make of them and what the formulas say.
// SPDX-License-Identifier: Apache-2.0
//
// The truth is hyperjit::Reference in fp64 on the CPU, from the same (rounded) inputs. Where low-precision streams
// travel through several sites, it rounds what the contract rounds (streams and branch inputs, at the edges of a site)
// and lets gradients pass these roundings unchanged, as the kernels' adjoint of a rounding does.
#pragma once

#include "Cases.h"

#include <hyperjit/core/ProgramSource.h>
#include <hyperjit/core/SiteSpec.h>
#include <hyperjit/torch/Ops.h>

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hyperjit::conformance {

using Program = std::shared_ptr<const SiteProgram>;
/// `SiteProgram` of a spec text such as "dynamic:n=2,d=8,dtype=fp64".
Program site(const std::string &text);

/// Tensors of one call of a chain of sites (a single site is a chain of one). Cotangents in the dtypes of their
/// outputs.
struct Sample {
  at::Tensor x;                   ///< [lead..., n, D]
  std::vector<at::Tensor> shifts; ///< a site: what its branch adds, [lead..., D]; alone it is the branch's output
  std::vector<std::vector<at::Tensor>> parameters; ///< a site, in declared order
  std::map<std::string, at::Tensor> carries;       ///< those that the chain starts with
  at::Tensor du;                                   ///< of the first site's branch input
  at::Tensor dNext;                                ///< of the last site's streams
  std::map<std::string, at::Tensor> dCarries;      ///< of the carries that leave the chain
  int64_t tokens = 0;
};

/// Outputs and gradients by name: "u", "next", "carry read", "d x", "d y", "d phi", "d carry read"; in a chain "d
/// 1.phi".
using Outcome = std::map<std::string, at::Tensor>;

/// Random, away from singular points; parameters of a size that makes logits of order one. The same numbers for any
/// device.
Sample makeSample(const std::vector<Program> &sites, const std::vector<int64_t> &lead, uint64_t seed, at::Device device,
                  Inputs inputs = Inputs::Ordinary);
/// The tokens begin..begin+count of a sample with one leading axis.
Sample someTokens(const Sample &sample, int64_t begin, int64_t count);

/// One site: before, then after with an independent y.
Outcome runKernels(const SiteProgram &program, const Sample &sample);
Outcome runReference(const SiteProgram &program, const Sample &sample, at::ScalarType arithmetic = at::kDouble);
/// Tokens 0 and 1 under names of their own, "d x [0]": a norm makes their gradients larger than others by orders of
/// magnitude.
Outcome firstTokensApart(const Outcome &outcome, int64_t tokens);
/// What a boundary of a chain was given.
struct Edge {
  Program after, before; ///< the site that ends and the site that begins
  at::Tensor x, y;
  std::vector<at::Tensor> coefficients, parameters, carries;
};
/// Several: before, boundary..., after, with branches y = 1.5 tanh(u) + shift. `edges` (may be null) collects the
/// boundaries.
Outcome runKernelChain(const std::vector<Program> &sites, const Sample &sample, std::vector<Edge> *edges = nullptr);
Outcome runReferenceChain(const std::vector<Program> &sites, const Sample &sample,
                          at::ScalarType arithmetic = at::kDouble);

/// One boundary kernel, or the two kernels it stands for; with random cotangents of everything that leaves it.
enum class Boundary { Fused, Separate };
Outcome runBoundary(const Edge &edge, Boundary form);

/// Largest allowed error of a result.
struct Tolerance {
  const std::vector<Program> &sites;
  int64_t tokens;
  Outcome plain;           ///< the reference in fp32 arithmetic: how well these numbers are determined at all
  double cancellation = 0; ///< added to what computing may cost, relative
  double offset = 0;       ///< mean of the rows, if far from 0
  /// From computing; relative to the largest element, or to `floor` if that is more.
  double arithmetic(const at::Tensor &got) const;
  double floor(const std::string &name, bool single) const; ///< `single`: of one number
  /// From rounding what leaves a site; relative to the largest element.
  double storage(const std::string &name, const at::Tensor &got) const;
  /// Absolute, from what plain arithmetic gets wrong.
  double conditioning(const std::string &name, const at::Tensor &truth) const;
  /// All of it, absolute.
  double allowed(const std::string &name, const at::Tensor &got, const at::Tensor &truth) const;
};
/// What a variance made as E[x^2] - mean^2 may lose on these streams: 16 e mean^2 / (variance + eps), of the row where
/// that is most.
double cancellationOf(const Sample &sample, const SiteSpec &spec);
/// Whether rows of the sample may be such.
bool mayCancel(const Sample &sample, const SiteProgram &site);
/// Empty if all agree, else one line for each tensor that does not. `worst` (may be null) collects error / allowed.
std::string compare(const Outcome &got, const Outcome &expected, const Tolerance &tolerance, double *worst = nullptr);
/// A fused boundary against its two kernels, which start from the same bits: next streams and branch input differ where
/// a rounding fell to the other side, by one unit in the last place of few elements; gradients of parameters, which see
/// the same streams, are as exact as those of one site.
std::string compareFused(const Outcome &fused, const Outcome &separate, const Edge &edge);
/// Empty if equal bit for bit (NaN equals NaN).
std::string compareBits(const Outcome &a, const Outcome &b);

} // namespace hyperjit::conformance
