// The door to libhyperjit-tools.so, which holds what needs LibTorch (demo, bench). It is opened when such a command
// runs: the other commands start without mapping a gigabyte of LibTorch, and work where there is none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Specs.h"

#include <cstdint>
#include <string>
#include <vector>

namespace hyperjit::tools {

struct DemoOptions {
  std::string text; ///< file or folder; empty: the project's own text
  int64_t steps = 250;
  std::string variants = "plain,static,dynamic,frac,manifold";
  int64_t streams = 4;
  int64_t fracs = 4;
  int64_t dim = 128;
  int64_t layers = 4;
  int64_t batch = 16;
  int64_t context = 64;
  std::string device = "auto"; ///< auto | cpu | cuda
  uint64_t seed = 1;
  std::string plot = "hyperjit-demo.svg";  ///< "none": no plot
  std::string json = "hyperjit-demo.json"; ///< "-": stdout, "none": no JSON
};

struct BenchOptions {
  std::vector<SpecText> specs;
  std::vector<int64_t> tokens = {4096};
  std::vector<std::string> against = {"eager"};
  std::vector<std::string> modes = {"chain"}; ///< chain, alone, decode
  std::vector<std::string> schedules;         ///< of kernels by their text, each timed with each; none: what runs
  int64_t sites = 4;
  std::string device = "auto";
  int repeats = 7;
  std::string allocator = "keep"; ///< keep|system: what becomes of freed CPU memory
  bool check = true;              ///< chains against fp64, and their bits
  std::string plot, json;
};

/// Exported by the library under these names; both throw what the commands throw.
using DemoEntry = int (*)(const DemoOptions &);
using BenchEntry = int (*)(const BenchOptions &);
/// The specs of the hyperjit layers in a saved module, then the boundaries of consecutive ones.
using ModelEntry = std::vector<std::string> (*)(const std::string &path);
inline constexpr const char *demoEntryName = "hyperjit_tools_demo";
inline constexpr const char *benchEntryName = "hyperjit_tools_bench";
inline constexpr const char *modelEntryName = "hyperjit_tools_model";

/// The library's file; empty when this build has none.
std::string torchToolsPath();
/// The entry; EnvironmentProblem that says why there is none.
void *torchToolsEntry(const char *name);

} // namespace hyperjit::tools
