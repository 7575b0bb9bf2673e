// Programs.h - a kernel's text as programs, one a launch, and the programs that this process has compiled. Kernels of
// several keys often have some in common: with and without what backward needs, recipes that end alike, few tokens and
// many, schedules that differ in one launch.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CUDA_PROGRAMS_H
#define HYPERJIT_CUDA_PROGRAMS_H

#include "hyperjit/core/Artifact.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit::cuda {

/// What NVRTC is given at a time. A compiler's time grows faster than a text, and programs are compiled side by side.
struct ProgramText {
  std::string entry; ///< empty where the text is not divided
  std::string text;
};

/// The programs of a kernel's text: lines "//===- ENTRY" divide it, and what stands before the first belongs to all.
std::vector<ProgramText> programsOf(std::string_view text);

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
