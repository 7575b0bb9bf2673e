//===- HCToVector.h - Kernels in phases to vectors and loops ----*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// The CPU exit, first half: one `hc.func` in phases form (flat, widths bound,
// every op with `phase` and `stage`) becomes a few functions over
// scf, arith, math, vector and LLVM pointers:
//
//   <name>_pack<i>    grid columns  a large weight into its packed layout
//   <name>_prologue   grid once     small weights, what depends on no token (phase P), uniform outputs of it
//   <name>_tokens     grid chunks   blocks of tokens: R, C, M, partial sums W
//   <name>_sums<i>    grid columns  large partial sums, in chunk order
//   <name>_epilogue   grid once     the others, then phase E
//   <name>_unpack<i>  grid columns  a large weight's gradient into the operand's layout
//
// Each takes one pointer to LaunchArguments {operands, workspace, scratch,
// tokens, chunkTokens, begin, end}. Operands are contiguous: token rows
// [T, R, d], token coefficients [T, elements], uniform ones without T, weights
// [R, d, K]; the table has the function's arguments, then its results.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_CONVERSION_HCTOVECTOR_H
#define HYPERJIT_CONVERSION_HCTOVECTOR_H

#include "hyperjit/Dialect/HC/IR/HC.h"
#include "hyperjit/Target/CostModel.h"
#include "hyperjit/Target/ScheduleText.h"

#include <string>
#include <vector>

namespace hyperjit::cpu {

/// What the lowering must know of a CPU: bytes of a vector register (32 for x86-64-v3, 64 for x86-64-v4), vector
/// registers, bytes of second-level cache that a block of tokens may fill.
using VectorTarget = CpuShape;

enum class Grid { Once, Chunks, Columns };

struct Launch {
  std::string entry;
  Grid grid;
  int64_t extent = 0; ///< units of Columns
};

/// What the caller of the kernel must provide.
struct KernelLayout {
  std::vector<Launch> launches;
  int64_t workspaceFixed = 0;    ///< bytes, shared by all chunks
  int64_t workspacePerChunk = 0; ///< bytes
  int64_t blockTokens = 1;       ///< a chunk is a multiple of it
  int64_t maxChunks = 1;
  int64_t scratchBytes = 0; ///< per worker
  int64_t vectorBytes = 32; ///< of the vectors that were used
  std::string schedule;     ///< what was used, complete
};

/// Appends the functions of `kernel` to `module`. `schedule` is "auto" or text such as "blocks:tokens=8,vector=32";
/// numbers that it leaves out are the rules'. Errors are diagnostics that name the operation, or an illegal number and
/// its bounds.
mlir::LogicalResult lowerToVector(hc::FuncOp kernel, const VectorTarget &target, llvm::StringRef schedule,
                                  mlir::ModuleOp module, KernelLayout &layout);

/// Legal schedules of a kernel, complete, best first; the first is what "auto" uses.
mlir::LogicalResult listSchedules(hc::FuncOp kernel, const VectorTarget &target,
                                  llvm::SmallVectorImpl<RankedSchedule> &out);

/// scf, arith, math and vector to the LLVM dialect, in place.
mlir::LogicalResult convertVectorToLLVM(mlir::ModuleOp module);

/// The dialects that the two functions above make operations of.
void registerVectorDialects(mlir::DialectRegistry &registry);

/// Registers `--convert-hc-to-vector` and `--convert-hc-vector-to-llvm`.
void registerHCToVectorPass();

} // namespace hyperjit::cpu

#endif
