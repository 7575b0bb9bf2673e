//===- Passes.h - Passes over hc functions ----------------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_DIALECT_HC_TRANSFORMS_PASSES_H
#define HYPERJIT_DIALECT_HC_TRANSFORMS_PASSES_H

#include "hyperjit/Dialect/HC/IR/HC.h"
#include "mlir/Pass/Pass.h"

namespace hyperjit::hc {

#define GEN_PASS_DECL
#define GEN_PASS_REGISTRATION
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"

} // namespace hyperjit::hc

#endif
