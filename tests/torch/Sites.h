// What the LibTorch tests share: the recipes, small sites of each, layers with random parameters, messages of errors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/Error.h>
#include <hyperjit/core/ProgramSource.h>
#include <hyperjit/torch/torch.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace hyperjit::tests {

/// A small site of a recipe, "dynamic:n=3,m=1,d=6": three streams, or where it takes one, its fracs; joint has both.
inline std::string smallSite(const std::string &recipe) {
  std::string spec = recipe + (recipe == "joint" ? ":n=3,m=2,d=6" : ":n=3,m=1,d=6");
  try {
    ProgramSource::global().normalise(SiteSpec::parse(spec));
  } catch (const UserError &) {
    spec = recipe + ":n=1,m=2,d=6";
  }
  return spec;
}

/// One of every recipe.
inline std::vector<std::string> smallSites() {
  std::vector<std::string> specs;
  for (const std::string &recipe : ProgramSource::global().recipes())
    specs.push_back(smallSite(recipe));
  return specs;
}

inline std::string testName(const std::string &spec) {
  std::string name;
  for (char c : spec)
    name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

/// Every element of every parameter random: zero dynamic weights would hide errors.
inline void randomise(nn::ConnectionImpl &layer, uint64_t seed) {
  const at::NoGradGuard guard;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const at::Tensor &parameter : layer.siteParameters())
    at::Tensor(parameter).normal_(0.2, 0.4, generator);
}

/// What was written, as it is read from a file.
inline torch::serialize::InputArchive readBack(torch::serialize::OutputArchive &out) {
  std::stringstream file;
  out.save_to(file);
  torch::serialize::InputArchive in;
  in.load_from(file);
  return in;
}

inline torch::serialize::InputArchive saved(const torch::nn::Module &module) {
  torch::serialize::OutputArchive out;
  module.save(out);
  return readBack(out);
}

inline nn::Connection makeLayer(const std::string &spec, uint64_t seed = 1) {
  nn::Connection layer(nn::ConnectionOptions(SiteSpec::parse(spec)).layerIndex(0));
  randomise(*layer, seed);
  return layer;
}

inline at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type = at::kFloat) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(sizes, generator, at::TensorOptions().dtype(at::kDouble)).to(type);
}

/// The message of the exception that `call` throws; empty if it throws none. c10::Error without its backtrace.
inline std::string messageOf(const std::function<void()> &call) {
  try {
    call();
  } catch (const c10::Error &error) {
    return error.what_without_backtrace();
  } catch (const std::exception &error) {
    return error.what();
  }
  return "";
}

#define EXPECT_MESSAGE(part, ...)                                                                                      \
  do {                                                                                                                 \
    const std::string message = ::hyperjit::tests::messageOf([&] { (void)(__VA_ARGS__); });                            \
    EXPECT_NE(message.find(part), std::string::npos) << "message: " << message << "\n  expected: " << part;            \
  } while (false)

/// Largest difference relative to the largest element.
inline double difference(const at::Tensor &a, const at::Tensor &b) {
  if (a.sizes() != b.sizes())
    return std::numeric_limits<double>::infinity();
  if (a.numel() == 0)
    return 0;
  const at::Tensor truth = b.detach().to(at::kDouble);
  const double worst = (a.detach().to(at::kDouble) - truth).abs().max().item<double>();
  return std::isnan(worst) ? std::numeric_limits<double>::infinity()
                           : worst / std::max(truth.abs().max().item<double>(), 1e-3);
}

} // namespace hyperjit::tests
