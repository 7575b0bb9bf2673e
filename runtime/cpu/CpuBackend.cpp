// CpuBackend.cpp - from a closed image to calls on all cores.
// SPDX-License-Identifier: Apache-2.0
#include "CpuBackend.h"

#include "ImageMemory.h"
#include "hyperjit/core/CompilerPlugin.h"
#include "hyperjit/core/Error.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>

using namespace hyperjit;

namespace {
using Entry = void (*)(const LaunchArguments *);

/// One thread's scratch, grown on demand and kept: kernels run often, and on the same threads.
struct Scratch {
  void *memory = nullptr;
  size_t bytes = 0;
  ~Scratch() { std::free(memory); }

  /// Null where there is no memory: `body` of a parallel loop may not throw.
  void *get(size_t wanted) {
    if (wanted > bytes) {
      std::free(memory);
      bytes = (wanted + 4095) / 4096 * 4096;
      memory = std::aligned_alloc(64, bytes);
      if (!memory)
        bytes = 0;
    }
    return memory;
  }
};
thread_local Scratch threadScratch;

struct Call {
  Entry entry;
  LaunchArguments arguments; ///< scratch, begin and end are each worker's
  size_t scratchBytes;
  std::atomic<bool> noMemory{false};

  static void body(void *context, int64_t begin, int64_t end, int) {
    auto &call = *static_cast<Call *>(context);
    LaunchArguments mine = call.arguments;
    mine.scratch = call.scratchBytes ? threadScratch.get(call.scratchBytes) : nullptr;
    if (call.scratchBytes && !mine.scratch) {
      call.noMemory = true;
      return;
    }
    mine.begin = begin;
    mine.end = end;
    call.entry(&mine);
  }
};

class CpuKernel final : public Kernel {
public:
  CpuKernel(std::shared_ptr<const Artifact> given) : Kernel(std::move(given)), memory(artifact->payload) {}

private:
  void run(void *const *operands, void *workspace, int64_t tokens, const LaunchContext &context) const override {
    const ArtifactMeta &what = meta();
    for (const LaunchInfo &launch : what.launches) {
      int64_t count = launch.grid == GridKind::Once      ? 1
                      : launch.grid == GridKind::Columns ? launch.extent
                                                         : what.chunks(tokens);
      if (count == 0)
        continue;
      Call call{reinterpret_cast<Entry>(const_cast<void *>(memory.at(size_t(launch.offset)))),
                {operands, workspace, nullptr, tokens, what.chunkTokens(tokens), 0, 0},
                size_t(what.scratchBytes)};
      if (context.parallelFor && count > 1)
        context.parallelFor(context.parallelContext, count, &Call::body, &call);
      else
        Call::body(&call, 0, count, 0);
      if (call.noMemory)
        throw UserError(ErrorId::DeviceFailure,
                        fmt::format("no memory for {} bytes of scratch a thread in {}", what.scratchBytes, what.spec));
    }
  }

  ImageMemory memory;
};

[[maybe_unused]] const bool installed = (Backend::install(std::make_shared<CpuBackend>()), true);
} // namespace

std::string CpuBackend::toolchain() const {
  return fmt::format("llvm {}", llvmVersion().empty() ? "unknown" : llvmVersion());
}

std::string CpuBackend::flags(const Target &) const { return "closed-image"; }

Artifact CpuBackend::build(ArtifactMeta meta, std::string payload, const Target &, const Workers &) const {
  Artifact artifact;
  artifact.kind = PayloadKind::Image;
  artifact.meta = std::move(meta);
  artifact.payload.resize(payload.size());
  std::memcpy(artifact.payload.data(), payload.data(), payload.size());
  return artifact;
}

std::shared_ptr<const Kernel> CpuBackend::load(std::shared_ptr<const Artifact> artifact) const {
  const ArtifactMeta &meta = artifact->meta;
  if (artifact->kind != PayloadKind::Image)
    throw InternalError(ErrorId::ImageRejected, "a kernel for a GPU came to the CPU back end: " + meta.spec);
  if (Target target = Target::parse(meta.target); !target.runsHere())
    throw UserError(ErrorId::Unsupported, fmt::format("a kernel for {} cannot run here; this host is {}", target.text(),
                                                      Target::native().text()));
  for (const LaunchInfo &launch : meta.launches) {
    if (launch.offset < 0 || size_t(launch.offset) >= artifact->payload.size())
      throw InternalError(ErrorId::ImageRejected,
                          fmt::format("entry {} at {} is outside its image of {} bytes: {}", launch.entry,
                                      launch.offset, artifact->payload.size(), meta.spec));
    if (launch.grid != GridKind::Once && launch.grid != GridKind::Chunks && launch.grid != GridKind::Columns)
      throw InternalError(ErrorId::ImageRejected,
                          fmt::format("entry {} has a grid of a GPU: {}", launch.entry, meta.spec));
  }
  return std::make_shared<CpuKernel>(std::move(artifact));
}
