// How modules take parameters out of an archive.
// SPDX-License-Identifier: Apache-2.0
//
// LibTorch reads by tensor.set_(what the file holds): another dtype is an obscure error, another shape is adopted
// without a word and refused by the first forward. Here a file's tensor is looked at first and copied into the
// parameter, which keeps its dtype, device and shape.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/serialize/archive.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace hyperjit::nn {

class ParameterLoader {
public:
  /// `module` is what messages begin with. The archive is used until finish().
  ParameterLoader(std::string module, torch::serialize::InputArchive &archive)
      : module(std::move(module)), archive(archive) {}

  /// Reads `name` ("norm.gamma" lies in the sub-archive "norm") for `parameter`. Throws UserError where it is missing,
  /// has another kind of number (floating-point or not) or another shape; one number may be () or (1,).
  void read(const std::string &name, const at::Tensor &parameter);
  /// What else is registered in `owner` than parameters and modules that are its own; a branch, and other modules, know
  /// themselves how they are read, and are read at once.
  void readOthers(const torch::nn::Module &owner, const std::function<bool(const std::string &)> &isOwnParameter,
                  const std::function<bool(const torch::nn::Module &)> &isOwnModule);
  /// Copies everything that was read. Until then no parameter has changed.
  void finish();

private:
  std::string module;
  torch::serialize::InputArchive &archive;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies; ///< parameter, value
};

} // namespace hyperjit::nn
