//===- HCToVector.h - Kernels in phases to vectors and loops ----*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// The CPU exit, first half: one `hc.func` in phases form (flat, widths bound,
// every op with `phase` and `stage`) becomes up to three functions over
// scf, arith, math, vector and LLVM pointers:
//
//   <name>_prologue   grid once    what depends on no token (phase P), uniform outputs of it
//   <name>_tokens     grid chunks  blocks of tokens: R, C, M, partial sums W
//   <name>_epilogue   grid once    sums the partials in chunk order, then phase E
//
// Each takes one pointer to LaunchArguments {operands, workspace, scratch,
// tokens, chunkTokens, begin, end}. Operands are contiguous: token rows
// [T, R, d], token coefficients [T, elements], uniform ones without T, weights
// [R, d, K]; the table has the function's arguments, then its results.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_CONVERSION_HCTOVECTOR_H
#define HYPERJIT_CONVERSION_HCTOVECTOR_H

#include "hyperjit/Dialect/HC/IR/HC.h"

#include <string>
#include <vector>

namespace hyperjit::cpu {

/// What the lowering must know of a CPU.
struct VectorTarget {
  /// Bytes of a vector register: 32 (x86-64-v3) or 64 (x86-64-v4).
  int64_t vectorBytes = 32;
  /// Vector registers: they bound the register blocks of products.
  int64_t registers = 16;
  /// Bytes of second-level cache that a block of tokens may fill.
  int64_t blockBytes = 512 * 1024;
};

enum class Grid { Once, Chunks };

struct Launch {
  std::string entry;
  Grid grid;
};

/// What the caller of the kernel must provide.
struct KernelLayout {
  std::vector<Launch> launches;
  int64_t workspaceFixed = 0;    ///< bytes, shared by all chunks
  int64_t workspacePerChunk = 0; ///< bytes
  int64_t blockTokens = 1;       ///< a chunk is a multiple of it
  int64_t maxChunks = 1;
  int64_t scratchBytes = 0; ///< per worker
};

/// Appends the functions of `kernel` to `module`. Errors are diagnostics that name the operation.
mlir::LogicalResult lowerToVector(hc::FuncOp kernel, const VectorTarget &target, mlir::ModuleOp module,
                                  KernelLayout &layout);

/// scf, arith, math and vector to the LLVM dialect, in place.
mlir::LogicalResult convertVectorToLLVM(mlir::ModuleOp module);

/// The dialects that the two functions above make operations of.
void registerVectorDialects(mlir::DialectRegistry &registry);

/// Registers `--convert-hc-to-vector` and `--convert-hc-vector-to-llvm`.
void registerHCToVectorPass();

} // namespace hyperjit::cpu

#endif
