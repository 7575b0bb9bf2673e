// GoldenInterpreter.cpp - golden tokens by the interpreter. Gradients are central differences: they test the recipe's
// equations.
// SPDX-License-Identifier: Apache-2.0
#include "Golden.h"

#include <numeric>

namespace hyperjit::test {

Outcome GoldenToken::run() const {
  Tensor out({program->signature.branchOutputRows, program->signature.rowWidth}, y);
  return test::run(program->text, program->signature.rowWidth, arguments, [&](const Tensor &) { return out; });
}

List GoldenToken::gradient(const std::string &name) {
  auto loss = [&] {
    Outcome outcome = run();
    return std::inner_product(dz.begin(), dz.end(), outcome.input.data.begin(), 0.0) +
           std::inner_product(dx.begin(), dx.end(), outcome.next.data.begin(), 0.0);
  };
  List &values = name == "y" ? y : arguments.at(name).data, result;
  constexpr double step = 1e-5;
  for (double &value : values) {
    double kept = value;
    value = kept + step;
    double above = loss();
    value = kept - step;
    double below = loss();
    value = kept;
    result.push_back((above - below) / (2 * step));
  }
  return result;
}

} // namespace hyperjit::test
