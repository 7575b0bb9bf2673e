// ProgramSource.cpp - the process's source of recorded programs.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/ProgramSource.h"

#include "hyperjit/core/Error.h"

#include <atomic>
#include <mutex>
#include <vector>

using namespace hyperjit;

ProgramSource::~ProgramSource() = default;

namespace {
/// Sources are kept for the process's life: callers hold plain references. Never destroyed, as kernels may be asked for
/// by destructors of other libraries.
struct Sources {
  std::mutex mutex;
  std::vector<std::shared_ptr<ProgramSource>> list;
  std::atomic<ProgramSource *> last{nullptr}; ///< read without the lock: a child of fork may find that held
};
Sources &sources() {
  static auto *value = new Sources();
  return *value;
}
} // namespace

ProgramSource &ProgramSource::global() {
  if (ProgramSource *source = sources().last.load(std::memory_order_acquire))
    return *source;
  throw InternalError("no source of recipes is installed: libhyperjit was linked without its DSL");
}

void ProgramSource::install(std::shared_ptr<ProgramSource> source) {
  std::lock_guard guard(sources().mutex);
  sources().list.push_back(std::move(source));
  sources().last.store(sources().list.back().get(), std::memory_order_release);
}
