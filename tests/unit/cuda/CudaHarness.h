// What CudaTest asks of the runtime's CUDA back end. Apart, because LLVM code is built without exceptions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hyperjit/core/Artifact.h"

#include <string>
#include <vector>

struct Compiled {
  std::string error; ///< empty: it compiled
  std::vector<hyperjit::EntryInfo> entries;
};

/// Empty where NVRTC is there, else why not.
std::string nvrtcMissing();
Compiled compileCuda(const std::string &text, const std::string &target);
/// The headers of templates/, as they are included.
std::vector<std::string> templateNames();
