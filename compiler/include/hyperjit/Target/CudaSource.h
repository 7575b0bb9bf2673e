//===- CudaSource.h - A kernel as CUDA C++ ----------------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// The CUDA exit: plans the launches of one kernel in phases form, converts
// each body to EmitC (HCToEmitC.h) and prints a translation unit that
// instantiates templates/hyperjit. The runtime's NVRTC does the rest.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_TARGET_CUDASOURCE_H
#define HYPERJIT_TARGET_CUDASOURCE_H

#include "hyperjit/Dialect/HC/IR/HC.h"
#include "hyperjit/Target/CostModel.h"
#include "hyperjit/Target/ScheduleText.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/JSON.h"

#include <string>

namespace hyperjit::cuda {

struct CudaSource {
  /// A translation unit in as many parts as there are launches, in their order. A line of `partMark` and the launch's
  /// entry begins each; behind what stands before the first, each is a translation unit by itself.
  std::string text;
  static constexpr llvm::StringLiteral partMark = "//===- ";
  /// In order; keys as in the artifact's meta, and for grids of more than one
  /// axis "grid_y", "grid_z" (numbers, or "chunks"), for persistent ones
  /// "tokens_per_block" and, where a cluster's sums are a chunk's, "clusters_are_chunks";
  /// "parts" where so many clusters share a token, and all of the grid must run at once; "more_blocks" beside those of
  /// tokens; "percent_of_wave" where it is for tokens that fill waves of its blocks (those that run at once) to so much on
  /// average, and "otherwise" where it stands for that one; "overlaps" where a launch may begin before the one before it
  /// has ended, and waits for that itself.
  llvm::json::Array launches;
  /// Bytes: workspace = fixed + perChunk * chunks + perToken * tokens.
  int64_t workspaceFixed = 0, workspacePerChunk = 0, workspacePerToken = 0;
  /// Split of sums over tokens: at most maxChunks chunks of a multiple of blockTokens.
  int64_t blockTokens = 1, maxChunks = 1;
  /// The schedule that was used, as text: skeleton and numbers.
  std::string schedule;
};

/// `kernel` is one hc.func in phases form; `target` a name such as
/// "sm_90a/h200" or "sm_80"; `schedule` is "auto" or text such as
/// "rows:tokens=1,vector=4,warps=8". Errors are diagnostics at the kernel; an
/// illegal schedule names the number and its bounds.
mlir::LogicalResult buildCudaSource(hc::FuncOp kernel, llvm::StringRef target, llvm::StringRef schedule,
                                    CudaSource &result);

/// Bytes of dynamic shared memory that a block of the target, sm_.., may have.
int64_t sharedOf(llvm::StringRef target);

/// At most `limit` legal schedules of a kernel, complete, best first; the first is what "auto" uses. `sharedBytes` is
/// what a block of the target may ask for.
mlir::LogicalResult listSchedules(hc::FuncOp kernel, llvm::StringRef target, const GpuShape &shape, int64_t sharedBytes,
                                  size_t limit, llvm::SmallVectorImpl<RankedSchedule> &out);

/// The EmitC module that the text is printed from, for `--stage emitc`.
mlir::OwningOpRef<mlir::ModuleOp> buildCudaModule(hc::FuncOp kernel, llvm::StringRef target, llvm::StringRef schedule,
                                                  CudaSource &result);

} // namespace hyperjit::cuda

#endif
