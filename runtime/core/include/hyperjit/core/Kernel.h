// Kernel.h - a loaded kernel and how it is called.
//
// Operand order (inputs, then outputs; [..] only if non-empty; a, b: the after and the before site):
//   before   forward  x, params(b)..., carriesIn(b)... -> u, [coefficients(b)], [uniform(b)], [channels(b)], carriesOut(b)..., [saved(b)]
//   boundary forward  x, y, [coefficients(a)], [uniform(a)], [channels(a)], params(b)..., carriesIn(b)...
//                     -> xNext, u, [coefficients(b)], [uniform(b)], [channels(b)], carriesOut(b)..., [saved(b)]
//   after    forward  x, y, [coefficients(a)], [uniform(a)], [channels(a)] -> xNext
//   backward          the forward inputs of the role, [saved], the given cotangents in the order of the forward outputs (before: first that of the
//                     streams, which it hands on as they are) -> the wanted gradients in the order of the forward inputs
// Shapes: streams [T, n, D], u [T, v, D], y [T, D], coefficients [T, C], uniform [Cu], channels [Rv, d], saved [T, S],
// carries [T, k]; all contiguous, row-major. coefficients, uniform, channels, saved and carries are in the compute
// type; parameters and their gradients in the parameter's dtype and declared shape.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_KERNEL_H
#define HYPERJIT_CORE_KERNEL_H

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/Export.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace hyperjit {

/// What a CPU entry gets: `void entry(const LaunchArguments *)`. begin and end count units of the launch's grid
/// (chunks, columns; 0 and 1 for once). workspace and scratch are aligned to 64 bytes.
struct LaunchArguments {
  void *const *operands;
  void *workspace;
  void *scratch; ///< this worker's, scratch_bytes large, contents undefined
  int64_t tokens;
  int64_t chunkTokens;
  int64_t begin;
  int64_t end;
};
static_assert(sizeof(LaunchArguments) == 56 && offsetof(LaunchArguments, tokens) == 24);

/// Runs `body(bodyContext, begin, end, worker)` on disjoint ranges that cover [0, count), on any threads, and returns
/// when all have returned. The ranges do not change results. `body` does not throw.
using ParallelBody = void (*)(void *bodyContext, int64_t begin, int64_t end, int worker);
using ParallelFor = void (*)(void *context, int64_t count, ParallelBody body, void *bodyContext);

struct LaunchContext {
  int device = -1;                   ///< CUDA ordinal; -1 for the CPU
  void *stream = nullptr;            ///< CUstream
  ParallelFor parallelFor = nullptr; ///< CPU; null runs on the calling thread
  void *parallelContext = nullptr;   ///< first argument of parallelFor
};

/// Immutable and thread safe; lives as long as somebody holds it.
class HYPERJIT_EXPORT Kernel {
public:
  explicit Kernel(std::shared_ptr<const Artifact> artifact);
  virtual ~Kernel();
  Kernel(const Kernel &) = delete;
  Kernel &operator=(const Kernel &) = delete;

  const ArtifactMeta &meta() const { return artifact->meta; }
  /// Bytes of the workspace that `launch` wants for this many tokens; may be 0.
  size_t workspaceBytes(int64_t tokens) const { return artifact->meta.workspaceBytes(tokens); }

  /// Runs all launches in order. `operands` has one pointer for each of meta().operands, aligned to 16 bytes on CUDA;
  /// `workspace` is aligned to 64 bytes (256 on CUDA) and holds workspaceBytes(tokens). CUDA: asynchronous on the
  /// stream, allocates nothing, synchronises nothing. tokens = 0: gradients that are sums over tokens are still written
  /// (zeros). Throws UserError (InvalidOperand) for a wrong count or a null pointer of a used operand.
  void launch(std::span<void *const> operands, void *workspace, int64_t tokens, const LaunchContext &context) const;

protected:
  /// Operands were checked.
  virtual void run(void *const *operands, void *workspace, int64_t tokens, const LaunchContext &context) const = 0;
  std::shared_ptr<const Artifact> artifact;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_KERNEL_H
