// Parameters out of an archive: looked at by name, then copied.
// SPDX-License-Identifier: Apache-2.0

#include "Loading.h"

#include <hyperjit/core/Error.h>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <sstream>

namespace hyperjit::nn {
namespace {

std::string shapeText(at::IntArrayRef sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i)
    text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

/// False if there is no tensor of this name.
bool find(torch::serialize::InputArchive &archive, const std::string &name, at::Tensor &value) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos)
    return archive.try_read(name, value);
  torch::serialize::InputArchive child;
  return archive.try_read(name.substr(0, dot), child) && find(child, name.substr(dot + 1), value);
}

} // namespace

void ParameterLoader::read(const std::string &name, const at::Tensor &parameter) {
  at::Tensor value;
  if (!find(archive, name, value))
    throw UserError(ErrorId::InvalidFile, module + ": the archive has no parameter '" + name + "', which is " +
                                              shapeText(parameter.sizes()) + " here");
  if (value.is_floating_point() != parameter.is_floating_point()) { // a buffer may count
    std::ostringstream type;
    type << value.scalar_type();
    throw UserError(ErrorId::InvalidFile,
                    module + ": parameter '" + name + "' is " + type.str() + " in the archive; " +
                        (parameter.is_floating_point() ? "a floating-point dtype" : "an integer dtype, as here,") +
                        " is supported");
  }
  const bool oneNumber = parameter.dim() <= 1 && parameter.numel() == 1 && value.dim() <= 1 && value.numel() == 1;
  if (!oneNumber && value.sizes() != parameter.sizes())
    throw UserError(ErrorId::InvalidFile, module + ": parameter '" + name + "' is " + shapeText(value.sizes()) +
                                              " in the archive and " + shapeText(parameter.sizes()) + " here");
  copies.emplace_back(parameter, value.reshape(parameter.sizes()));
}

void ParameterLoader::readOthers(const torch::nn::Module &owner,
                                 const std::function<bool(const std::string &)> &isOwnParameter,
                                 const std::function<bool(const torch::nn::Module &)> &isOwnModule) {
  for (const auto &parameter : owner.named_parameters(/*recurse=*/false))
    if (!isOwnParameter(parameter.key()))
      read(parameter.key(), parameter.value());
  for (const auto &buffer : owner.named_buffers(/*recurse=*/false))
    read(buffer.key(), buffer.value());
  for (const auto &child : owner.named_children()) {
    if (isOwnModule(*child.value()) || !child.value()->is_serializable())
      continue;
    torch::serialize::InputArchive inner;
    if (!archive.try_read(child.key(), inner))
      throw UserError(ErrorId::InvalidFile,
                      module + ": the archive has no module '" + child.key() + "', which this one has");
    child.value()->load(inner);
  }
}

void ParameterLoader::finish() {
  const c10::AutoGradMode noGrad(false);
  for (auto &[parameter, value] : copies)
    parameter.copy_(value);
  copies.clear();
}

} // namespace hyperjit::nn
