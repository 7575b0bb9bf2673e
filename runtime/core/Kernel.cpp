// Kernel.cpp - checks of a call that are the same on every device.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Kernel.h"

#include "hyperjit/core/Error.h"

#include <fmt/format.h>

using namespace hyperjit;

Kernel::Kernel(std::shared_ptr<const Artifact> artifact) : artifact(std::move(artifact)) {}
Kernel::~Kernel() = default;

void Kernel::launch(std::span<void *const> operands, void *workspace, int64_t tokens,
                    const LaunchContext &context) const {
  const ArtifactMeta &meta = artifact->meta;
  if (operands.size() != meta.operands.size())
    throw UserError(ErrorId::InvalidOperand, fmt::format("{} operands given, {} expected by {}", operands.size(),
                                                         meta.operands.size(), meta.spec));
  if (tokens < 0)
    throw UserError(ErrorId::InvalidOperand, fmt::format("tokens = {} is negative in {}", tokens, meta.spec));
  for (size_t i = 0; i < operands.size(); ++i)
    if (!operands[i] && meta.operands[i].used && meta.operands[i].elements &&
        (tokens || meta.operands[i].scope == OperandScope::Uniform))
      throw UserError(ErrorId::InvalidOperand,
                      fmt::format("operand {} ('{}') is null in {}", i, meta.operands[i].name, meta.spec));
  if (!workspace && meta.workspaceBytes(tokens))
    throw UserError(ErrorId::InvalidOperand,
                    fmt::format("no workspace, {} bytes expected by {}", meta.workspaceBytes(tokens), meta.spec));
  run(operands.data(), workspace, tokens, context);
}
