// cache-warm FILE: gets every kernel of a spec list as a run would, from whatever the environment says, and launches
// those that this machine can. Prints what it cost and what the process has mapped. Exit 0: all of them were there.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

using namespace hyperjit;
using Clock = std::chrono::steady_clock;

namespace {

/// Every operand zero, one token.
void launch(const Kernel &kernel) {
  std::vector<std::vector<std::byte>> memory;
  auto aligned = [&](size_t bytes) -> void * {
    memory.emplace_back(bytes + 64);
    size_t address = reinterpret_cast<size_t>(memory.back().data());
    return memory.back().data() + (64 - address % 64);
  };
  std::vector<void *> operands;
  for (const OperandInfo &operand : kernel.meta().operands)
    operands.push_back(aligned(size_t(operand.elements * int64_t(sizeOf(operand.dtype)))));
  void *workspace = aligned(kernel.workspaceBytes(1));
  kernel.launch(operands, workspace, 1, {});
}

/// Names of mapped files that hold one of the words.
std::vector<std::string> mapped() {
  std::vector<std::string> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    for (const char *word : {"LLVM", "MLIR", "hyperjit-compiler", "nvrtc"})
      if (line.find(word) != std::string::npos)
        found.push_back(line.substr(line.find('/')));
  return found;
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 2)
    return 2;
  auto begin = Clock::now();
  std::ifstream file(argv[1]);
  nlohmann::json missing = nlohmann::json::array();
  int kernels = 0;
  double worst = 0, first = -1;
  KernelManager &manager = KernelManager::global();
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#')
      continue;
    auto start = Clock::now();
    try {
      auto kernel = manager.get(KernelSpec::parse(line), Target::hostLevel());
      worst = std::max(worst, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
      if (first < 0)
        first = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
      launch(*kernel);
      ++kernels;
    } catch (const Error &error) {
      missing.push_back(error.what());
      std::fprintf(stderr, "hyperjit: %s\n", error.what());
    }
  }
  ManagerStatistics statistics = manager.statistics();
  nlohmann::json answer = {{"kernels", kernels},
                           {"missing", missing},
                           {"disk_hits", statistics.diskHits},
                           {"compiled", statistics.compiled},
                           {"hits", statistics.cache.hits},
                           {"misses", statistics.cache.misses},
                           {"first_ms", first},
                           {"worst_ms", worst},
                           {"all_ms", std::chrono::duration<double, std::milli>(Clock::now() - begin).count()},
                           {"mapped", mapped()}};
  std::printf("%s\n", answer.dump().c_str());
  return missing.empty() && kernels > 0 ? 0 : 1;
}
