// Programs.h - the texts that this process has compiled. Kernels of several keys often have one text: with and without
// what backward needs, recipes that end alike; few tokens and many, where launches of few do not overlap.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CUDA_PROGRAMS_H
#define HYPERJIT_CUDA_PROGRAMS_H

#include "hyperjit/core/Artifact.h"

#include <functional>
#include <memory>
#include <string>

namespace hyperjit::cuda {

struct CompiledProgram {
  std::vector<std::byte> cubin;
  std::vector<EntryInfo> entries;
};

/// What `compile` makes of `source` (flags and text), now or earlier in this process. Whoever asks while another thread
/// compiles the same waits for that. Throws what `compile` throws; failures are not kept.
std::shared_ptr<const CompiledProgram> compileOnce(const std::string &source,
                                                   const std::function<CompiledProgram()> &compile);

} // namespace hyperjit::cuda

#endif // HYPERJIT_CUDA_PROGRAMS_H
