// SPDX-License-Identifier: Apache-2.0
#include <hyperjit/torch/Prepare.h>

#include "Devices.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/cuda/Cuda.h>

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <exception>
#include <fstream>
#include <functional>
#include <optional>

namespace hyperjit {

/// 0 where there is none: what looks at it says so.
static int currentCuda() {
  const c10::impl::VirtualGuardImpl cuda(at::kCUDA);
  return cuda.deviceCount() > 0 ? cuda.getDevice().index() : 0;
}

void prepare(const std::vector<std::string> &specs, const std::vector<at::Device> &devices) {
  std::vector<KernelSpec> kernels;
  for (const std::string &spec : specs)
    for (KernelSpec &kernel : kernelsOf(spec))
      kernels.push_back(std::move(kernel));
  KernelManager &manager = KernelManager::global();
  struct Place {
    Target target;
    int ordinal; ///< -1: the CPU
  };
  std::vector<Place> places; // a device that makes no sense is refused before anything is compiled
  for (const at::Device &device : devices) {
    if (device.is_cpu()) {
      places.push_back({Target::hostLevel(), -1});
    } else if (device.is_cuda()) {
      const int ordinal = device.has_index() ? device.index() : currentCuda();
      places.push_back({ops::cudaTarget(ordinal), ordinal});
    } else {
      throw UserError(ErrorId::InvalidOperand, "kernels are made for cpu and cuda devices, not for " + device.str());
    }
  }
  std::exception_ptr first;
  auto tried = [&](const std::function<void()> &part) {
    try {
      part();
    } catch (...) {
      if (!first)
        first = std::current_exception();
    }
  };
  for (const Place &place : places)
    tried([&] {
      const auto &[target, ordinal] = place;
      // A binary is loaded where the thread that got it works: not on a GPU of another kind.
      std::optional<c10::DeviceGuard> guard;
      if (ordinal >= 0)
        guard.emplace(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(ordinal)));
      std::vector<KernelRequest> requests;
      for (const KernelSpec &kernel : kernels)
        requests.push_back({kernel, target, {}});
      tried([&] { manager.prepare(requests); });
      if (ordinal >= 0)
        for (const KernelSpec &kernel : kernels)
          tried([&] { cuda::prepare(*manager.get(kernel, target), ordinal); });
    });
  if (first)
    std::rethrow_exception(first);
}

void prepareFile(const std::string &path, const std::vector<at::Device> &devices) {
  std::ifstream file(path);
  if (!file)
    throw UserError(ErrorId::InvalidFile, path + " cannot be read");
  std::vector<std::string> specs;
  for (SpecLine &line : specLines(file))
    specs.push_back(std::move(line.text));
  if (file.bad()) // a folder opens, and fails to be read
    throw UserError(ErrorId::InvalidFile, path + " cannot be read");
  prepare(specs, devices);
}

} // namespace hyperjit
