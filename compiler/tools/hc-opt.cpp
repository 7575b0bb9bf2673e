//===- hc-opt.cpp - Runs passes over hc assembly --------------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// A test driver, not a product: the dialect, its passes, its way to vectors, canonicalization.
//===----------------------------------------------------------------------===//
#include "hyperjit/Conversion/HCToVector.h"
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  registry.insert<hyperjit::hc::HCDialect>();
  hyperjit::cpu::registerVectorDialects(registry); // what its own output is in
  hyperjit::hc::registerHCPasses();
  hyperjit::cpu::registerHCToVectorPass();
  mlir::registerCanonicalizerPass();
  mlir::registerCSEPass();
  return mlir::asMainReturnCode(mlir::MlirOptMain(argc, argv, "hyperjit optimizer driver\n", registry));
}
