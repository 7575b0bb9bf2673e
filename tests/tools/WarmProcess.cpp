// Gets a kernel, runs it, and prints where it came from and which files this process has mapped.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <vector>

using namespace hyperjit;

static void run() {
  // The streams of 3 tokens read by a static site: stream 1 alone.
  constexpr int64_t tokens = 3, n = 2, d = 8;
  KernelSpec spec = KernelSpec::beforeForward(SiteSpec::parse("static:n=2,d=8"), false, Bucket::Small);
  auto kernel = KernelManager::global().get(spec, Target::hostLevel());
  float x[tokens * n * d], alpha[n * (1 + n)] = {0, 1, 0, 1, 0, 1}, beta[n] = {1, 1}, u[tokens * d] = {}, others[64];
  for (int i = 0; i < tokens * n * d; ++i)
    x[i] = float(i);
  std::vector<void *> operands;
  for (const OperandInfo &operand : kernel->meta().operands)
    operands.push_back(operand.name == "x"              ? x
                       : operand.name == "static_alpha" ? alpha
                       : operand.name == "static_beta"  ? beta
                       : operand.name == "u"            ? u
                                                        : others);
  size_t bytes = (kernel->workspaceBytes(tokens) + 64) / 64 * 64;
  std::unique_ptr<void, void (*)(void *)> workspace(std::aligned_alloc(64, bytes), std::free);
  kernel->launch(operands, workspace.get(), tokens, {});
  bool right = true;
  for (int token = 0; token < tokens; ++token)
    for (int c = 0; c < d; ++c)
      right &= u[token * d + c] == x[(token * n + 1) * d + c];
  ManagerStatistics statistics = KernelManager::global().statistics();
  std::printf("right %d\ncompiled %d\ndisk %d\n", right, int(statistics.compiled), int(statistics.diskHits));
}

int main() {
  try {
    run();
  } catch (const Error &error) {
    std::cerr << error.what() << "\n";
    return 3;
  }
  std::ifstream maps("/proc/self/maps");
  std::set<std::string> files;
  for (std::string line; std::getline(maps, line);)
    if (size_t slash = line.find('/'); slash != std::string::npos && files.insert(line.substr(slash)).second)
      std::printf("maps %s\n", line.substr(slash).c_str());
}
