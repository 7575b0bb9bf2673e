// Backend.cpp - the process's back ends.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Backend.h"

#include "hyperjit/core/Error.h"

#include <mutex>
#include <vector>

using namespace hyperjit;

Backend::~Backend() = default;

std::string Backend::assembly(const std::string &, const Target &target) const {
  throw UserError(ErrorId::Unsupported,
                  "there is no PTX for target " + target.text() + "; a CUDA target, sm_90a say, has it");
}

namespace {
struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<const Backend>> backends;
};
Registry &registry() {
  static auto *value = new Registry();
  return *value;
}
} // namespace

void Backend::install(std::shared_ptr<const Backend> backend) {
  std::lock_guard guard(registry().mutex);
  registry().backends.push_back(std::move(backend));
}

std::shared_ptr<const Backend> Backend::find(DeviceType device) {
  std::lock_guard guard(registry().mutex);
  // The latest wins, so that a test or an application can put its own in front.
  for (auto it = registry().backends.rbegin(); it != registry().backends.rend(); ++it)
    if ((*it)->device() == device)
      return *it;
  return nullptr;
}
