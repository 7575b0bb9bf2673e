// The specs in a saved module: hyperjit's modules save their site's spec as one string attribute, and consecutive
// modules in the order of the archive share a boundary. A guess where a model calls its layers in another order: then
// HYPERJIT_RECORD of one run is the authority.
// SPDX-License-Identifier: Apache-2.0
#include "Console.h"
#include "TorchTools.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/ProgramSource.h>

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <fstream>

namespace hyperjit::tools {

namespace {

constexpr const char *specAttribute = "hyperjit_spec";

void collect(torch::serialize::InputArchive &archive, std::vector<SiteSpec> &sites) {
  c10::IValue value;
  if (archive.try_read(specAttribute, value) && value.isString())
    sites.push_back(ProgramSource::global().normalise(SiteSpec::parse(value.toStringRef())));
  for (const std::string &key : archive.keys()) {
    torch::serialize::InputArchive child;
    if (archive.try_read(key, child))
      collect(child, sites);
  }
}

std::vector<std::string> specsOf(const std::string &path) {
  if (!std::ifstream(path))
    throw UsageError(fmt::format("--model {}: the file cannot be read", path));
  torch::serialize::InputArchive archive;
  try {
    archive.load_from(path);
  } catch (const std::exception &error) {
    std::string why = error.what();
    throw UserError(ErrorId::InvalidFile, fmt::format("--model {}: {}", path, why.substr(0, why.find('\n'))));
  }
  std::vector<SiteSpec> sites;
  collect(archive, sites);
  if (sites.empty())
    throw UserError(ErrorId::InvalidFile,
                    fmt::format("--model {}: it holds no hyperjit layer; it must have been written by "
                                "torch::save of a C++ module",
                                path));
  std::vector<std::string> specs;
  auto add = [&](std::string spec) {
    if (std::find(specs.begin(), specs.end(), spec) == specs.end())
      specs.push_back(std::move(spec));
  };
  for (const SiteSpec &site : sites)
    add(site.text());
  for (size_t i = 1; i < sites.size(); ++i) {
    const SiteSpec &after = sites[i - 1], &before = sites[i];
    // Equal neighbours are in the list of the one spec; streams that do not fit are not passed on.
    if (!(after == before) && after.n == before.n && after.d == before.d && after.m == before.m &&
        after.stream == before.stream)
      add(fmt::format("boundary({}|{})", after.text(), before.text()));
  }
  return specs;
}

} // namespace

extern "C" __attribute__((visibility("default"))) std::vector<std::string>
hyperjit_tools_model(const std::string &path);
std::vector<std::string> hyperjit_tools_model(const std::string &path) { return specsOf(path); }

} // namespace hyperjit::tools
