//===- HCInterfaces.td - What an op tells the passes --------*- tablegen -*-===//
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_HC_INTERFACES
#define HYPERJIT_HC_INTERFACES

include "mlir/IR/OpBase.td"

def HC_AdjointOpInterface : OpInterface<"AdjointOpInterface"> {
  let cppNamespace = "::hyperjit::hc";
  let description = [{
    Reverse mode, one adjoint per op, beside the op. Composite ops
    (`hc.norm`) have none: hc-specialize rewrites them first.
  }];
  let methods = [InterfaceMethod<
    [{
      Builds the cotangents of the operands from the cotangent of the (single)
      result; an entry of `cotangents` may stay null, meaning zero. What nobody
      asks for is cleaned away afterwards. The caller sums over tokens where an
      operand is uniform and its cotangent is not.
    }],
    "void", "buildAdjoint",
    (ins "::mlir::OpBuilder &":$builder, "::mlir::Value":$cotangent,
         "::llvm::SmallVector<::mlir::Value> &":$cotangents)>];
}

#endif
