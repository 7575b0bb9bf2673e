// Compile and load before the first step: at load time, outside graph capture, and shared between ranks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/torch/Export.h>

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace hyperjit {

/// Compiles what no cache holds, loads everything, and resolves it on each device, so that a CUDA graph can be captured
/// next: all that a chain asks for whose first streams, parameters and branches need gradients, and inference; other runs
/// (a frozen layer, a branch that is cut off) name theirs by HYPERJIT_RECORD.
/// `specs` are lines of a spec list (hyperjit/core/SpecList.h): sites, boundaries, or the kernels that
/// HYPERJIT_RECORD wrote. Processes of one job may call this at the same time: each takes the list in another order and
/// finds on disk what the others made; nobody waits for anybody. Throws UserError for a line or a device that makes no
/// sense, and the first error of a compile after all have been tried.
HYPERJIT_TORCH_API void prepare(const std::vector<std::string> &specs,
                                const std::vector<at::Device> &devices = {at::kCPU});

/// The same for the lines of a file; # starts a comment. UserError (InvalidFile) if it cannot be read.
HYPERJIT_TORCH_API void prepareFile(const std::string &path, const std::vector<at::Device> &devices = {at::kCPU});

} // namespace hyperjit
