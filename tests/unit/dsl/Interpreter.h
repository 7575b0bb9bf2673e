// Interpreter.h - runs the forward of a recorded program for one token in fp64, straight from its text. It knows the
// meaning of each operation from the dialect's description only, so recipes are tested without the compiler.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace hyperjit::test {

struct Tensor {
  std::vector<int64_t> shape; // rows: {R, d}; weight: {R, d, K}
  std::vector<double> data;

  Tensor() = default;
  Tensor(std::vector<int64_t> shape, std::vector<double> data = {});
  double &at(std::initializer_list<int64_t> index);
  double at(std::initializer_list<int64_t> index) const { return const_cast<Tensor *>(this)->at(index); }
};

struct Outcome {
  Tensor input;                          // U
  Tensor next;                           // the new streams
  std::map<std::string, Tensor> carries; // made by the site
};

/// `arguments` by operand name: "x", parameters, carries. A parameter may have any shape with the right number of
/// elements. The branch maps U to Y. Throws std::runtime_error with the line that it cannot run.
Outcome run(const std::string &program, int64_t rowWidth, const std::map<std::string, Tensor> &arguments,
            const std::function<Tensor(const Tensor &)> &branch);

} // namespace hyperjit::test
