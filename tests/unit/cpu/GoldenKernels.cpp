// GoldenKernels.cpp - golden tokens by the kernels `before` and `after` of the CPU in fp64, forward and backward.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"
#include "Golden.h"

namespace hyperjit::test {

namespace {

constexpr Bucket bucket = Bucket::Small;

SiteSpec inDoublePrecision(const std::string &text) {
  return ProgramSource::global().normalise(SiteSpec::parse(text + ",dtype=fp64,weight=fp64"));
}

size_t crossing(const SiteSignature &s) {
  return size_t(s.tokenCoefficients > 0) + (s.uniformCoefficients > 0) + (s.channelRows > 0);
}

/// What both kernels read and make: u, what crosses, carries, saved; then the new streams.
struct Forward {
  std::vector<std::string> names; ///< of before's inputs
  std::vector<Numbers> inputs, made, afterInputs, next;
};

Forward forward(const GoldenToken &token, bool save) {
  SiteSpec spec = inDoublePrecision(token.spec);
  Runner before(KernelSpec::beforeForward(spec, save, bucket)), after(KernelSpec::afterForward(spec, bucket));
  Forward f;
  for (const OperandInfo &operand : before.inputs()) {
    f.names.push_back(f.names.empty() ? "x" : operand.name);
    f.inputs.push_back(token.arguments.at(f.names.back()).data);
  }
  f.made = before.run(f.inputs, 1);
  f.afterInputs = {f.inputs[0], token.y};
  f.afterInputs.insert(f.afterInputs.end(), f.made.begin() + 1,
                       f.made.begin() + 1 + int64_t(crossing(token.program->signature)));
  f.next = after.run(f.afterInputs, 1);
  return f;
}

} // namespace

Outcome GoldenToken::run() const {
  const SiteSignature &s = program->signature;
  Forward f = forward(*this, false);
  Outcome outcome;
  outcome.input = Tensor({int64_t(f.made[0].size())}, f.made[0]);
  outcome.next = Tensor({s.streamRows, s.rowWidth}, f.next[0]);
  for (size_t i = 0; i < s.carriesOut.size(); ++i) {
    const Numbers &carry = f.made[1 + crossing(s) + i];
    outcome.carries[s.carriesOut[i].name] = Tensor({int64_t(carry.size())}, carry);
  }
  return outcome;
}

List GoldenToken::gradient(const std::string &name) {
  SiteSpec spec = inDoublePrecision(this->spec);
  const SiteSignature &s = program->signature;
  bool crosses = crossing(s) > 0;
  Forward f = forward(*this, true);
  // after: x, y and the coefficients.
  std::vector<Numbers> inputs = f.afterInputs;
  inputs.push_back(dx);
  std::vector<Numbers> afterGradients =
      Runner(KernelSpec::backward(spec, {}, "x", crosses ? "xyc" : "xy", bucket)).run(inputs, 1);
  if (name == "y")
    return afterGradients[1];
  // before: x, parameters and carries.
  inputs = f.inputs;
  inputs.insert(inputs.end(), f.made.begin() + 1 + int64_t(crossing(s) + s.carriesOut.size()), f.made.end());
  inputs.push_back(dz.empty() ? List(f.made[0].size(), 0.0) : dz);
  inputs.insert(inputs.end(), afterGradients.begin() + 2, afterGradients.end());
  std::string want = std::string("x") + (program->parameters.empty() ? "" : "p") + (s.carriesIn.empty() ? "" : "k");
  std::vector<Numbers> gradients =
      Runner(KernelSpec::backward({}, spec, crosses ? "uc" : "u", want, bucket)).run(inputs, 1);
  for (size_t i = 0; i < f.names.size(); ++i)
    if (f.names[i] == name) {
      List result = gradients.at(i);
      for (size_t j = 0; i == 0 && j < result.size(); ++j)
        result[j] += afterGradients[0][j];
      return result;
    }
  throw std::runtime_error("no argument " + name);
}

} // namespace hyperjit::test
