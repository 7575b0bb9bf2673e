// What the commands of `hyperjit cache` share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Tool.h"

#include <string>
#include <vector>

namespace hyperjit::tools {

struct CacheOptions {
  std::string json, key, target, file, folder, log;
  std::vector<std::string> places;
  bool manifest = false;
  SpecArguments specs;
};

/// The commands of CacheShipping.cpp. The exit code.
int packCache(const CacheOptions &options);
int unpackCache(const CacheOptions &options);
int diffCaches(const CacheOptions &options);

} // namespace hyperjit::tools
