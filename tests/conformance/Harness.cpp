// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <hyperjit/torch/Reference.h>

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <sstream>

namespace hyperjit::conformance {

Program site(const std::string &text) { return ProgramSource::global().site(SiteSpec::parse(text)); }

//===----------------------------------------------------------------------===//
// Samples
//===----------------------------------------------------------------------===//

namespace {

at::Tensor randomTensor(at::IntArrayRef sizes, double deviation, at::ScalarType type, at::Generator &generator) {
  return at::randn(sizes, generator, at::TensorOptions().dtype(at::kDouble)).mul_(deviation).to(type);
}

at::Tensor parameterValue(const ParameterInfo &info, at::Generator &generator) {
  const auto count = static_cast<double>(std::max<int64_t>(1, info.elements()));
  double deviation = 0.5, mean = 0;
  if (info.kind == ParameterKind::Weight) // [..., d, K]: a projection sums over all but the last axis
    deviation = std::sqrt(static_cast<double>(info.shape.back()) / count);
  else if (info.kind == ParameterKind::Rows) {
    const bool norm = info.name.rfind("norm.", 0) == 0;
    deviation = norm ? 0.2 : 1 / std::sqrt(static_cast<double>(info.shape.back()));
    mean = info.name == "norm.weight" ? 1 : 0;
  } else if (info.name.find("scale") != std::string::npos || info.name.rfind("alpha_", 0) == 0) {
    deviation = 0.1;
    mean = 0.7;
  }
  return (randomTensor(info.shape, deviation, at::kDouble, generator) + mean).to(ops::scalarType(info.dtype));
}

std::vector<int64_t> with(std::vector<int64_t> lead, std::initializer_list<int64_t> tail) {
  lead.insert(lead.end(), tail);
  return lead;
}

/// exp(-35) = 6e-16 relative to the largest in one row and one column of the residual logits: a sum below 1e-12,
/// whichever side Sinkhorn starts with. Of a mixture of permutations, one of weight zero.
void spreadLogits(const SiteProgram &program, std::vector<at::Tensor> &parameters) {
  const std::string &recipe = program.spec.recipe;
  const int64_t rows = program.spec.n * program.spec.m;
  auto spread = [rows](const at::Tensor &residual) {
    residual.select(0, 0).sub_(35);
    residual.select(1, rows - 1).sub_(35);
    residual.select(0, 0).select(0, rows - 1).add_(35); // once is enough for an exp without a maximum in fp32
  };
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string &name = program.parameters[i].name;
    const at::Tensor &value = parameters[i];
    if (recipe == "manifold-streams" && name == "static_alpha")
      spread(value.narrow(1, value.size(1) - rows, rows));
    else if (name == "b" || name == "base")
      spread(value.narrow(0, value.size(0) - rows * rows, rows * rows).view({rows, rows}));
    else if (recipe == "permutation" && name == "static_alpha")
      value.narrow(0, value.size(0) - 1, 1).sub_(35);
  }
}

/// A row of zeros as the formulas see it in the limit: ATen's own gradient of a root there is 0 / 0. Far below any eps.
at::Tensor nearZero(const at::Tensor &x) {
  return at::where((x == 0).all(-1, true), at::full_like(x, x.scalar_type() == at::kDouble ? 1e-30 : 1e-15), x);
}

/// Keeps the order in which inputs were made, and gives their gradients names.
struct Leaves {
  std::vector<std::string> names;
  std::vector<at::Tensor> tensors;
  at::Tensor add(std::string name, const at::Tensor &value) {
    names.push_back(std::move(name));
    tensors.push_back(value.detach().clone().set_requires_grad(true));
    return tensors.back();
  }
};

/// Gradients of sum <cotangents, outputs>; zeros where there is no path.
void addGradients(Outcome &outcome, const std::vector<std::pair<at::Tensor, at::Tensor>> &outputs,
                  const Leaves &leaves) {
  std::vector<at::Tensor> usable, given;
  for (const auto &[output, cotangent] : outputs)
    if (output.requires_grad()) {
      usable.push_back(output);
      given.push_back(cotangent.to(output.options().requires_grad(false)));
    }
  std::vector<at::Tensor> gradients = torch::autograd::grad(usable, leaves.tensors, given, /*retain_graph=*/false,
                                                            /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < gradients.size(); ++i)
    outcome["d " + leaves.names[i]] = gradients[i].defined() ? gradients[i] : at::zeros_like(leaves.tensors[i]);
}

at::Tensor toTruth(const at::Tensor &tensor) { return tensor.detach().to(at::kDouble); }

/// In fp64 a GPU's own operators are as good a reference as the host's, and far faster. In fp32 the host's sums are the
/// plainer ones: a GPU's trees say less about how well a result is conditioned.
at::Tensor forReference(const at::Tensor &tensor, at::ScalarType arithmetic) {
  return tensor.detach().to(arithmetic == at::kDouble ? tensor.device() : at::Device(at::kCPU), arithmetic);
}

/// Rounds the value; in plain arithmetic (fp32) the gradient too, as the operators do where they hand it on.
at::Tensor rounded(const at::Tensor &x, DType type) {
  const at::Tensor value = x.detach();
  at::Tensor result = x + (value.to(ops::scalarType(type)).to(x.scalar_type()) - value);
  if (x.scalar_type() == at::kFloat && result.requires_grad())
    result.register_hook(
        [type](const at::Tensor &gradient) { return gradient.to(ops::scalarType(type)).to(at::kFloat); });
  return result;
}

at::Tensor branch(const at::Tensor &u, const at::Tensor &shift, const SiteProgram &program) {
  const at::ScalarType compute = ops::scalarType(computeType(program.spec.stream));
  at::Tensor wide = u.to(shift.scalar_type() == at::kDouble ? at::kDouble : compute);
  if (program.signature.branchInputs() != 1)
    wide = wide.sum(-2);
  return 1.5 * wide.tanh() + shift.to(wide.scalar_type());
}

} // namespace

Sample makeSample(const std::vector<Program> &sites, const std::vector<int64_t> &lead, uint64_t seed, at::Device device,
                  Inputs inputs) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const SiteSpec &spec = sites.front()->spec;
  const at::ScalarType compute = ops::scalarType(computeType(spec.stream));
  const int64_t D = spec.d, v = sites.front()->signature.branchInputs();
  Sample sample;
  sample.tokens = 1;
  for (int64_t size : lead)
    sample.tokens *= size;
  // Norms divide by a row's length: keep every element away from zero.
  at::Tensor wide = randomTensor(with(lead, {spec.n, D}), 0.8, at::kDouble, generator);
  wide = wide + 0.3 * wide.sign();
  if (inputs == Inputs::Corners) {
    wide[0].zero_();
    wide[1].mul_(1e-4);
  } else if (inputs == Inputs::Offset)
    wide.add_(100);
  sample.x = wide.to(ops::scalarType(spec.stream)).to(device);
  for (const Program &program : sites) {
    sample.shifts.push_back(
        randomTensor(with(lead, {D}), 1, ops::scalarType(program->spec.branchOut), generator).to(device));
    std::vector<at::Tensor> &parameters = sample.parameters.emplace_back();
    for (const ParameterInfo &info : program->parameters)
      parameters.push_back(parameterValue(info, generator).to(device));
    if (inputs == Inputs::Corners)
      spreadLogits(*program, parameters);
    // What nobody made before this site is an input of the chain, what remains at the end is an output.
    for (const CarryInfo &carry : program->signature.carriesIn)
      if (!sample.carries.count(carry.name) && !sample.dCarries.count(carry.name))
        sample.carries[carry.name] = randomTensor(with(lead, {carry.size}), 0.5, compute, generator).to(device);
    for (const CarryInfo &carry : program->signature.carriesOut)
      sample.dCarries[carry.name] = randomTensor(with(lead, {carry.size}), 1, compute, generator).to(device);
  }
  sample.du = randomTensor(v == 1 ? with(lead, {D}) : with(lead, {v, D}), 1, ops::scalarType(spec.branchIn), generator)
                  .to(device);
  sample.dNext = randomTensor(with(lead, {spec.n, D}), 1, ops::scalarType(spec.stream), generator).to(device);
  return sample;
}

Sample someTokens(const Sample &sample, int64_t begin, int64_t count) {
  Sample part = sample;
  auto cut = [&](at::Tensor &tensor) { tensor = tensor.narrow(0, begin, count).contiguous(); };
  cut(part.x);
  cut(part.du);
  cut(part.dNext);
  for (at::Tensor &shift : part.shifts)
    cut(shift);
  for (auto *carries : {&part.carries, &part.dCarries})
    for (auto &[name, carry] : *carries)
      cut(carry);
  part.tokens = count;
  return part;
}

//===----------------------------------------------------------------------===//
// Runs
//===----------------------------------------------------------------------===//

Outcome runKernels(const SiteProgram &program, const Sample &sample) {
  const std::string spec = program.spec.text();
  const SiteSignature &signature = program.signature;
  Leaves leaves;
  const at::Tensor x = leaves.add("x", sample.x), y = leaves.add("y", sample.shifts[0]);
  std::vector<at::Tensor> parameters, carries;
  for (size_t i = 0; i < sample.parameters[0].size(); ++i)
    parameters.push_back(leaves.add(program.parameters[i].name, sample.parameters[0][i]));
  for (const CarryInfo &carry : signature.carriesIn)
    carries.push_back(leaves.add("carry " + carry.name, sample.carries.at(carry.name)));
  const std::vector<at::Tensor> made = ops::before(x, parameters, carries, spec);
  const size_t carryCount = signature.carriesOut.size();
  const std::vector<at::Tensor> coefficients(made.begin() + 1, made.end() - static_cast<int64_t>(carryCount));
  const at::Tensor next = ops::after(x, y, coefficients, spec);

  Outcome outcome{{"u", made[0]}, {"next", next}};
  std::vector<std::pair<at::Tensor, at::Tensor>> outputs{{made[0], sample.du}, {next, sample.dNext}};
  for (size_t i = 0; i < carryCount; ++i) {
    const std::string &name = signature.carriesOut[i].name;
    outputs.emplace_back(outcome["carry " + name] = made[made.size() - carryCount + i], sample.dCarries.at(name));
  }
  addGradients(outcome, outputs, leaves);
  return outcome;
}

Outcome runReference(const SiteProgram &program, const Sample &sample, at::ScalarType arithmetic) {
  auto toTruth = [arithmetic](const at::Tensor &tensor) { return forReference(tensor, arithmetic); };
  const SiteSignature &signature = program.signature;
  const Reference reference(program.spec);
  Leaves leaves;
  const at::Tensor x = leaves.add("x", nearZero(toTruth(sample.x))), y = leaves.add("y", toTruth(sample.shifts[0]));
  Reference::Tensors parameters, carries;
  for (size_t i = 0; i < sample.parameters[0].size(); ++i) {
    const std::string &name = program.parameters[i].name;
    parameters[name] = leaves.add(name, toTruth(sample.parameters[0][i]));
  }
  for (const CarryInfo &carry : signature.carriesIn)
    carries[carry.name] = leaves.add("carry " + carry.name, toTruth(sample.carries.at(carry.name)));
  const Reference::Width width = reference.width(x, parameters, carries);
  Outcome outcome{{"u", width.u}, {"next", reference.depth(y, width)}};
  std::vector<std::pair<at::Tensor, at::Tensor>> outputs{{width.u, sample.du}, {outcome["next"], sample.dNext}};
  for (const CarryInfo &carry : signature.carriesOut)
    outputs.emplace_back(outcome["carry " + carry.name] = width.carries.at(carry.name), sample.dCarries.at(carry.name));
  addGradients(outcome, outputs, leaves);
  return outcome;
}

Outcome firstTokensApart(const Outcome &outcome, int64_t tokens) {
  Outcome result;
  for (const auto &[name, tensor] : outcome) {
    const bool perToken =
        name == "u" || name == "next" || name == "d x" || name == "d y" || name.find("carry ") != std::string::npos;
    if (!perToken) {
      result[name] = tensor;
      continue;
    }
    const at::Tensor detached = tensor.detach();
    result[name + " [0]"] = detached.narrow(0, 0, 1);
    result[name + " [1]"] = detached.narrow(0, 1, 1);
    result[name + " [2...]"] = detached.narrow(0, 2, tokens - 2);
  }
  return result;
}

Outcome runKernelChain(const std::vector<Program> &sites, const Sample &sample, std::vector<Edge> *edges) {
  Leaves leaves;
  at::Tensor x = leaves.add("x", sample.x), y;
  std::map<std::string, at::Tensor> carries;
  for (const auto &[name, carry] : sample.carries)
    carries[name] = leaves.add("carry " + name, carry);
  std::vector<at::Tensor> coefficients;
  Outcome outcome;
  std::string last;
  for (size_t i = 0; i < sites.size(); ++i) {
    const SiteProgram &program = *sites[i];
    const SiteSignature &signature = program.signature;
    const std::string spec = program.spec.text(), prefix = std::to_string(i) + ".";
    std::vector<at::Tensor> parameters, carriesIn;
    for (size_t p = 0; p < sample.parameters[i].size(); ++p)
      parameters.push_back(leaves.add(prefix + program.parameters[p].name, sample.parameters[i][p]));
    for (const CarryInfo &carry : signature.carriesIn)
      carriesIn.push_back(carries.at(carry.name));
    std::vector<at::Tensor> made;
    if (i == 0)
      std::tie(x, made) = ops::begin(x, parameters, carriesIn, spec);
    else {
      if (edges)
        edges->push_back({sites[i - 1], sites[i], x, y, coefficients, parameters, carriesIn});
      made = ops::boundary(x, y, coefficients, parameters, carriesIn, last + "|" + spec);
      x = made[0];
      made.erase(made.begin());
    }
    if (i == 0)
      outcome["u"] = made[0];
    const auto carryCount = static_cast<int64_t>(signature.carriesOut.size());
    coefficients.assign(made.begin() + 1, made.end() - carryCount);
    for (int64_t c = 0; c < carryCount; ++c)
      carries[signature.carriesOut[c].name] = made[made.size() - carryCount + c];
    const at::Tensor shift = leaves.add(prefix + "shift", sample.shifts[i]);
    y = branch(made[0], shift, program).to(ops::scalarType(program.spec.branchOut));
    last = spec;
  }
  outcome["next"] = ops::after(x, y, coefficients, last);
  std::vector<std::pair<at::Tensor, at::Tensor>> outputs{{outcome["u"], sample.du}, {outcome["next"], sample.dNext}};
  for (const auto &[name, cotangent] : sample.dCarries)
    outputs.emplace_back(outcome["carry " + name] = carries.at(name), cotangent);
  addGradients(outcome, outputs, leaves);
  return outcome;
}

Outcome runBoundary(const Edge &edge, Boundary form) {
  Leaves leaves;
  const at::Tensor x = leaves.add("x", edge.x), y = leaves.add("y", edge.y);
  std::vector<at::Tensor> coefficients, parameters, carries;
  for (size_t i = 0; i < edge.coefficients.size(); ++i)
    coefficients.push_back(leaves.add("coefficients " + std::to_string(i), edge.coefficients[i]));
  for (size_t i = 0; i < edge.parameters.size(); ++i)
    parameters.push_back(leaves.add(edge.before->parameters[i].name, edge.parameters[i]));
  const SiteSignature &signature = edge.before->signature;
  for (size_t i = 0; i < edge.carries.size(); ++i)
    carries.push_back(leaves.add("carry " + signature.carriesIn[i].name, edge.carries[i]));

  const std::string after = edge.after->spec.text(), before = edge.before->spec.text();
  std::vector<at::Tensor> made;
  if (form == Boundary::Fused)
    made = ops::boundary(x, y, coefficients, parameters, carries, after + "|" + before);
  else {
    const at::Tensor next = ops::after(x, y, coefficients, after);
    made = ops::before(next, parameters, carries, before);
    made.insert(made.begin(), next);
  }
  Outcome outcome;
  std::vector<std::pair<at::Tensor, at::Tensor>> outputs;
  at::Generator generator = at::detail::createCPUGenerator(1);
  const size_t carryCount = signature.carriesOut.size(), firstCarry = made.size() - carryCount;
  for (size_t i = 0; i < made.size(); ++i) {
    const std::string name = i == 0           ? "next"
                             : i == 1         ? "u"
                             : i < firstCarry ? "coefficients " + std::to_string(i - 2)
                                              : "carry " + signature.carriesOut[i - firstCarry].name;
    outcome[name] = made[i];
    outputs.emplace_back(made[i],
                         randomTensor(made[i].sizes(), 1, made[i].scalar_type(), generator).to(made[i].device()));
  }
  addGradients(outcome, outputs, leaves);
  return outcome;
}

Outcome runReferenceChain(const std::vector<Program> &sites, const Sample &sample, at::ScalarType arithmetic) {
  auto toTruth = [arithmetic](const at::Tensor &tensor) { return forReference(tensor, arithmetic); };
  Leaves leaves;
  at::Tensor x = leaves.add("x", toTruth(sample.x));
  Reference::Tensors carries;
  for (const auto &[name, carry] : sample.carries)
    carries[name] = leaves.add("carry " + name, toTruth(carry));
  Outcome outcome;
  for (size_t i = 0; i < sites.size(); ++i) {
    const SiteProgram &program = *sites[i];
    const std::string prefix = std::to_string(i) + ".";
    Reference::Tensors parameters;
    for (size_t p = 0; p < sample.parameters[i].size(); ++p)
      parameters[program.parameters[p].name] =
          leaves.add(prefix + program.parameters[p].name, toTruth(sample.parameters[i][p]));
    const Reference reference(program.spec);
    const Reference::Width width = reference.width(x, parameters, carries);
    const at::Tensor u = rounded(width.u, program.spec.branchIn);
    if (i == 0)
      outcome["u"] = u;
    const at::Tensor shift = leaves.add(prefix + "shift", toTruth(sample.shifts[i]));
    const at::Tensor y = rounded(branch(u, shift, program), program.spec.branchOut);
    x = rounded(reference.depth(y, width), program.spec.stream);
    for (const auto &[name, carry] : width.carries)
      carries[name] = carry;
  }
  outcome["next"] = x;
  std::vector<std::pair<at::Tensor, at::Tensor>> outputs{{outcome["u"], sample.du}, {x, sample.dNext}};
  for (const auto &[name, cotangent] : sample.dCarries)
    outputs.emplace_back(outcome["carry " + name] = carries.at(name), cotangent);
  addGradients(outcome, outputs, leaves);
  return outcome;
}

//===----------------------------------------------------------------------===//
// Comparison
//===----------------------------------------------------------------------===//

static double unitRoundoff(at::ScalarType type) {
  switch (type) {
  case at::kBFloat16:
    return std::ldexp(1, -8);
  case at::kHalf:
    return std::ldexp(1, -11);
  case at::kDouble:
    return std::ldexp(1, -53);
  default:
    return std::ldexp(1, -24);
  }
}

// The only place that says how exact a result must be. e: unit roundoff of the compute type (fp32, or fp64 for fp64
// streams).
//   * arithmetic: coefficients pass through some tens of operations (a norm, a projection, Sinkhorn and its adjoint),
//     each of which adds a few e; a sum over K terms adds about sqrt(K) e. K is what a projection or a weight gradient
//     sums.
//   * planes: CUDA kernels that compute in fp32 multiply on tensor cores, a weight, a coefficient's cotangent or a row
//     of more than 8 bits as two bf16 numbers: 2^-17 off, some of which add up where a gradient cancels (4e-5 and 7e-5
//     were seen on an H100).
//   * storage: a result is rounded once to its own dtype. "d x" is the sum of two parts that are each rounded.
//   * in a chain, streams, branch tensors and their gradients are rounded at every edge on the way, and one site's
//     arithmetic error is amplified by those that follow.
//   * conditioning: results of cancellation (a norm of one channel, the gradient of a weight whose scale a norm takes
//     out) are known less well. How much less is measured: the same formulas in plain fp32 are off by some amount, of
//     which kernels may have a multiple, scaled to their own e; in a chain, the same formulas with all roundings at the
//     edges.
double Tolerance::arithmetic(const at::Tensor &got) const {
  const SiteSpec &spec = sites.front()->spec;
  const double e = unitRoundoff(ops::scalarType(computeType(spec.stream)));
  const auto terms = static_cast<double>(std::max<int64_t>(spec.n * spec.d, tokens));
  double arithmetic = (64 + 8 * std::sqrt(terms)) * e;
  if (got.is_cuda() && sizeOf(spec.stream) <= 4 && sites.front()->text.find("project") != std::string::npos)
    arithmetic += std::ldexp(8, -17);
  arithmetic += cancellation;
  return sites.size() == 1 ? arithmetic : 4 * static_cast<double>(sites.size()) * arithmetic;
}

static at::Tensor normedRows(const Sample &sample, const SiteSpec &spec) {
  const bool flat = spec.recipe == "manifold" || spec.recipe == "permutation"; // one norm over all streams of a token
  return toTruth(sample.x).reshape({-1, flat ? spec.n * spec.d : spec.d / spec.m});
}

// Kernels read streams once, so they sum x and x^2 together: the mean and the mean square are each off by some e,
// relative, and their difference by as much of mean^2. The scale of a LayerNorm is off by half of that, over the
// variance (seen: e mean^2 / variance), and logits of a few units pass through an exp.
double cancellationOf(const Sample &sample, const SiteSpec &spec) {
  const at::Tensor rows = normedRows(sample, spec);
  const std::string *given = spec.option("norm_eps");
  const double eps =
      given && *given != "auto" ? std::stod(*given) : 1e-5; // rows of zeros, which corners have, lose nothing
  const at::Tensor ratio = rows.mean(-1).square() / (rows.var(-1, /*unbiased=*/false) + eps);
  return 16 * unitRoundoff(ops::scalarType(computeType(spec.stream))) * ratio.max().item<double>();
}
// Of few random channels some are nearly the same: seen with two, in fp64 and fp32. Formulas that take the mean away
// before they square say nothing of such a loss.
bool mayCancel(const Sample &sample, const SiteProgram &site) {
  const int64_t channels = normedRows(sample, site.spec).size(-1);
  return site.text.find("\"layernorm\"") != std::string::npos && channels > 1 && channels <= 8;
}

// Gradients that vanish identically are differences of numbers of order one. What a site hands on never does. That of a
// single number, a scale, is a sum over all tokens and streams, of either sign, of dots of two rows, of order sqrt(d),
// times small numbers. (Seen on an H100: 2.7e-5 instead of an exact 0 and 4.6e-5 of 0.23, both with some thousand
// channels; plain fp32 happened to be right.)
double Tolerance::floor(const std::string &name, bool single) const {
  const std::string result = name.substr(0, name.find(" ["));
  if (result == "u" || result == "next" || result == "d y" || result.rfind("carry", 0) == 0)
    return 0;
  if (offset > 0) // a coefficient's gradient is a dot of rows, of the order of their mean
    return offset;
  return single ? std::max(0.1, std::sqrt(double(sites.front()->spec.d)) / 16) : 0.1;
}

double Tolerance::storage(const std::string &name, const at::Tensor &got) const {
  const double own = unitRoundoff(got.scalar_type());
  if (sites.size() == 1)
    return (name.rfind("d x", 0) == 0 ? 4 : 1.5) * own;
  double edges = 0;
  for (const Program &site : sites)
    for (DType type : {site->spec.stream, site->spec.branchIn, site->spec.branchOut})
      edges = std::max(edges, unitRoundoff(ops::scalarType(type)));
  return 1.5 * own + 4 * static_cast<double>(sites.size()) * edges;
}

double Tolerance::conditioning(const std::string &name, const at::Tensor &truth) const {
  auto found = plain.find(name);
  if (found == plain.end() || truth.numel() == 0)
    return 0;
  const double error = (found->second.detach().to(truth.options()) - truth).abs().max().item<double>();
  const double e = unitRoundoff(ops::scalarType(computeType(sites.front()->spec.stream)));
  // In a chain the plain error already has the roundings of low precision in it, which are of the size of ours. It is
  // one sample: where a few elements make up the error, another sample is some times as large. (Seen with fp16 on an
  // H200: 7.2 times, at 2.4 % of the largest element, behind a Sinkhorn that begins with exp of a logit as it is.)
  const at::ScalarType stream = ops::scalarType(sites.front()->spec.stream);
  const double factor = sites.size() > 1 && stream != at::kDouble && stream != at::kHalf ? 4 : 16;
  return std::isfinite(error) ? factor * error * e / unitRoundoff(at::kFloat) : 0;
}

double Tolerance::allowed(const std::string &name, const at::Tensor &got, const at::Tensor &truth) const {
  const double largest = truth.abs().max().item<double>();
  // A root of at least 1e-30 keeps the gradient of zero rows finite in 1 / (root + eps), eps = 1e-6 by default.
  const bool zeroRow = name == "d x [0]" && sites.front()->text.find("rms_outside") != std::string::npos;
  if (zeroRow)
    return (arithmetic(got) + storage(name, got) + 2 * 1e-15 / 1e-6) * largest;
  return arithmetic(got) * std::max(largest, floor(name, truth.numel() == 1)) + storage(name, got) * largest +
         conditioning(name, truth);
}

std::string compare(const Outcome &got, const Outcome &expected, const Tolerance &tolerance, double *worst) {
  std::ostringstream report;
  for (const auto &[name, reference] : expected) {
    auto found = got.find(name);
    if (found == got.end()) {
      report << "  " << name << " is missing\n";
      continue;
    }
    const at::Tensor value = toTruth(found->second), truth = toTruth(reference);
    if (value.numel() != truth.numel()) {
      report << "  " << name << " has sizes " << value.sizes() << ", expected " << truth.sizes() << "\n";
      continue;
    }
    if (truth.numel() == 0)
      continue;
    // Beyond what a dtype holds, infinity is right.
    const at::Tensor shaped = value.reshape(truth.sizes()),
                     held = truth.to(found->second.scalar_type()).to(at::kDouble);
    const at::Tensor error = at::where(shaped == held, at::zeros_like(truth), (shaped - truth).abs());
    const double largest = error.max().item<double>(), allowed = tolerance.allowed(name, found->second, truth);
    if (worst && largest > 0)
      *worst = std::max(*worst, largest / allowed);
    if (!(largest <= allowed)) { // also for NaN
      const auto index = at::argmax(at::nan_to_num(error, 1e300)).item<int64_t>();
      report << "  " << name << " " << found->second.scalar_type() << " " << truth.sizes() << ": differs by " << largest
             << ", allowed " << allowed << ", largest element " << truth.abs().max().item<double>()
             << "; at flat index " << index << " got " << value.reshape(-1)[index].item<double>() << ", expected "
             << truth.reshape(-1)[index].item<double>() << "; "
             << (error > allowed).sum().item<int64_t>() + error.isnan().sum().item<int64_t>() << " elements differ\n";
    }
  }
  return report.str();
}

std::string compareFused(const Outcome &fused, const Outcome &separate, const Edge &edge) {
  const int64_t tokens = edge.x.numel() / std::max<int64_t>(1, edge.x.size(-1) * edge.x.size(-2));
  const std::vector<Program> one{edge.before};
  const Tolerance alone{one, tokens, {}};
  const double e = unitRoundoff(ops::scalarType(computeType(edge.before->spec.stream)));
  // On a GPU a fused backward makes the streams between the sites again, where two kernels read them: a few are rounded
  // differently, as few as may be below, each by one unit. Multiplied with normal numbers and summed over tokens they
  // walk at random, in a gradient that may be small beside what it is a sum of.
  const at::Tensor next = toTruth(separate.at("next"));
  const double unit = unitRoundoff(separate.at("next").scalar_type());
  const double flips = 2 + std::min(0.15, 16 * e / unit) * static_cast<double>(next.numel());
  const double moves =
      unit > e && next.numel() > 0 ? 4 * unit * std::sqrt(flips * next.square().mean().item<double>()) : 0;
  std::ostringstream report;
  for (const auto &[name, other] : separate) {
    const at::Tensor given = fused.at(name), a = toTruth(given), b = toTruth(other);
    if (a.numel() == 0)
      continue;
    const at::Tensor error = (a - b).abs();
    const double peak = b.abs().max().item<double>(), storage = unitRoundoff(given.scalar_type()),
                 arithmetic = alone.arithmetic(given);
    at::Tensor allowed; // of each element
    if (name == "next" || name == "u") {
      // Before their rounding next streams differ by the order of a few operations, u by what its coefficients do.
      const double before = name == "next" ? 8 * e : arithmetic;
      const bool narrow = storage > e;
      allowed = before * peak + (narrow ? 2 * storage : 0) * b.abs();
      const auto moved = (error > (narrow ? 0 : before * peak)).sum().item<int64_t>();
      // Half a unit apart (a rounding left out at the edge) a third of the elements would move; `before` apart these
      // do.
      const double share = std::min(0.15, 2 * before / storage);
      if (narrow && static_cast<double>(moved) > 2 + share * static_cast<double>(a.numel()))
        report << "  " << name << ": " << moved << " of " << a.numel() << " elements are rounded differently, " << share
               << " of them may be\n";
    } else {
      // The streams' cotangent is rounded between two kernels, and perhaps not inside of one: what the site that ends
      // makes of it differs by that.
      const bool ends = name == "d x" || name == "d y" || name.rfind("d coefficients", 0) == 0;
      const double edges = ends ? 4 * unitRoundoff(ops::scalarType(edge.before->spec.stream)) : 0;
      const double again = name.rfind("d ", 0) == 0 && !ends && given.is_cuda() ? moves : 0;
      allowed = at::full_like(b, arithmetic * std::max(peak, alone.floor(name, b.numel() == 1)) +
                                     (edges + 1.5 * storage) * peak + again);
    }
    const auto wrong = at::logical_not(error <= allowed); // also for NaN
    if (wrong.any().item<bool>()) {
      const auto index = at::argmax(at::nan_to_num(error - allowed, 1e300)).item<int64_t>();
      report << "  " << name << " " << given.scalar_type() << " " << b.sizes() << ": the fused kernel has "
             << a.reshape(-1)[index].item<double>() << " at flat index " << index << ", two kernels have "
             << b.reshape(-1)[index].item<double>() << ", allowed " << allowed.reshape(-1)[index].item<double>()
             << ", largest element " << peak << "; " << wrong.sum().item<int64_t>() << " elements differ\n";
    }
  }
  return report.str();
}

std::string compareBits(const Outcome &a, const Outcome &b) {
  std::ostringstream report;
  for (const auto &[name, first] : a) {
    const at::Tensor x = first.detach(), y = b.at(name).detach();
    const auto bytes = [](const at::Tensor &tensor) { return tensor.contiguous().reshape(-1).view(at::kByte); };
    if (x.sizes() == y.sizes() && (x.numel() == 0 || at::equal(bytes(x), bytes(y))))
      continue;
    report << "  " << name << " differs";
    if (x.sizes() == y.sizes())
      report << " in " << (x != y).sum().item<int64_t>() << " of " << x.numel() << " elements, by up to "
             << (x.to(at::kDouble) - y.to(at::kDouble)).abs().max().item<double>();
    report << "\n";
  }
  return report.str();
}

} // namespace hyperjit::conformance
