// ProgramSource.cpp - the process's source of recorded programs.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/ProgramSource.h"

#include "hyperjit/core/Error.h"

#include <vector>

using namespace hyperjit;

ProgramSource::~ProgramSource() = default;

namespace {
/// Sources are kept for the process's life: callers hold plain references. Never destroyed, as kernels may be asked for
/// by destructors of other libraries.
std::vector<std::shared_ptr<ProgramSource>> &sources() {
  static auto *list = new std::vector<std::shared_ptr<ProgramSource>>();
  return *list;
}
} // namespace

ProgramSource &ProgramSource::global() {
  if (sources().empty())
    throw InternalError("no source of recipes is installed: libhyperjit was linked without its DSL");
  return *sources().back();
}

void ProgramSource::install(std::shared_ptr<ProgramSource> source) { sources().push_back(std::move(source)); }
