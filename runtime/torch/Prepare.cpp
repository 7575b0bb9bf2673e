// SPDX-License-Identifier: Apache-2.0
#include <hyperjit/torch/Prepare.h>

#include "Devices.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/cuda/Cuda.h>

#include <fstream>

namespace hyperjit {

void prepare(const std::vector<std::string> &specs, const std::vector<at::Device> &devices) {
  std::vector<KernelSpec> kernels;
  for (const std::string &spec : specs)
    for (KernelSpec &kernel : kernelsOf(spec))
      kernels.push_back(std::move(kernel));
  KernelManager &manager = KernelManager::global();
  std::vector<KernelRequest> requests;
  std::vector<int> ordinals;
  for (const at::Device &device : devices) {
    if (device.is_cpu()) {
      for (const KernelSpec &kernel : kernels)
        requests.push_back({kernel, Target::hostLevel(), {}});
    } else if (device.is_cuda()) {
      ordinals.push_back(device.has_index() ? device.index() : 0);
      for (const KernelSpec &kernel : kernels)
        requests.push_back({kernel, ops::cudaTarget(ordinals.back()), {}});
    } else {
      throw UserError(ErrorId::InvalidOperand, "kernels are made for cpu and cuda devices, not for " + device.str());
    }
  }
  manager.prepare(requests);
  for (int ordinal : ordinals)
    for (const KernelSpec &kernel : kernels)
      cuda::prepare(*manager.get(kernel, ops::cudaTarget(ordinal)), ordinal);
}

void prepareFile(const std::string &path, const std::vector<at::Device> &devices) {
  std::ifstream file(path);
  if (!file)
    throw UserError(ErrorId::InvalidFile, path + " cannot be read");
  std::vector<std::string> specs;
  for (std::string line; std::getline(file, line);) {
    line.erase(std::min(line.find('#'), line.size()));
    line.erase(line.find_last_not_of(" \t\r") + 1);
    line.erase(0, line.find_first_not_of(" \t"));
    if (!line.empty())
      specs.push_back(std::move(line));
  }
  prepare(specs, devices);
}

} // namespace hyperjit
