//===- Pipeline.h - From recorded programs to a kernel in phases -*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_PIPELINE_H
#define HYPERJIT_PIPELINE_H

#include "hyperjit/Dialect/HC/IR/HC.h"
#include "mlir/IR/OwningOpRef.h"

#include <functional>
#include <optional>
#include <string>

namespace hyperjit {

/// One recorded site and what binds it.
struct SiteRequest {
  std::string program;                             ///< hc assembly with one function
  int64_t width = 0;                               ///< channels of a row, D / m
  int64_t fracs = 1;                               ///< m
  std::string stream, branchIn, branchOut, weight; ///< storage types: bf16, f16, f32, f64
  std::optional<int64_t> saved =
      std::nullopt; ///< what callers allocate for `saved`, in numbers of a token; none: what the reductions need
};

/// The kernel that is wanted: role x direction of one or two sites.
struct CompileRequest {
  std::string role; ///< "before", "boundary", "after"
  bool backward = false;
  bool save = false;       ///< forward: also what backward reads
  std::string given, want; ///< backward: cotangents that exist, cotangents to make
  std::optional<SiteRequest> after, before;
  /// Backward of a boundary: "early" (dots with recompute, local to the boundary: what LibTorch needs), "late" (full
  /// deferral) or "auto" (the one that costs less).
  std::string cut = "early";
  std::string name; ///< of the kernel function
  std::string bucket, target, schedule;
};

/// Called after each named stage; returning false ends the pipeline there.
using StageCallback = std::function<bool(llvm::StringRef stage, mlir::ModuleOp module)>;

/// The names of the stages, in order: hc, specialized, split, fused, adjoint, phases.
llvm::ArrayRef<llvm::StringLiteral> pipelineStages();

/// Runs the pass table. Returns the module with one function in phases form, or null after a diagnostic (or after a
/// callback that said stop). `failedPass` names the pass that failed.
mlir::OwningOpRef<mlir::ModuleOp> buildKernel(mlir::MLIRContext *context, const CompileRequest &request,
                                              const StageCallback &onStage, std::string &failedPass);

} // namespace hyperjit

#endif
