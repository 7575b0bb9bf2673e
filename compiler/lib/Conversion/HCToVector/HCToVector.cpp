//===- HCToVector.cpp - Kernels in phases to vectors, vectors to LLVM -----===//
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Conversion/HCToVector.h"

#include "KernelEmitter.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/LLVMCommon/ConversionTarget.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Conversion/VectorToLLVM/ConvertVectorToLLVM.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Pass/Pass.h"
#include "mlir/Transforms/DialectConversion.h"

using namespace mlir;

namespace hyperjit::cpu {

LogicalResult lowerToVector(hc::FuncOp kernel, const VectorTarget &target, StringRef schedule, ModuleOp module,
                            KernelLayout &layout) {
  layout = KernelLayout();
  return KernelEmitter(kernel, target, module, layout).run(schedule);
}

LogicalResult convertVectorToLLVM(ModuleOp module) {
  MLIRContext *context = module.getContext();
  ConversionConfig config;
  config.allowPatternRollback = false; // nothing is tried twice, and compile time is a goal
  {
    RewritePatternSet patterns(context);
    populateSCFToControlFlowConversionPatterns(patterns);
    ConversionTarget target(*context);
    target.addIllegalDialect<scf::SCFDialect>();
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    if (failed(applyPartialConversion(module, target, std::move(patterns), config)))
      return failure();
  }
  LLVMTypeConverter converter(context);
  RewritePatternSet patterns(context);
  arith::populateArithToLLVMConversionPatterns(converter, patterns);
  populateMathToLLVMConversionPatterns(converter, patterns);
  populateVectorToLLVMConversionPatterns(converter, patterns);
  cf::populateControlFlowToLLVMConversionPatterns(converter, patterns);
  LLVMConversionTarget target(*context);
  target.addLegalOp<ModuleOp>();
  return applyFullConversion(module, target, std::move(patterns), config);
}

void registerVectorDialects(DialectRegistry &registry) {
  registry.insert<arith::ArithDialect, cf::ControlFlowDialect, LLVM::LLVMDialect, math::MathDialect, scf::SCFDialect,
                  vector::VectorDialect>();
}

namespace {

struct ConvertHCToVector : PassWrapper<ConvertHCToVector, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(ConvertHCToVector)
  ConvertHCToVector() = default;
  ConvertHCToVector(const ConvertHCToVector &other) : PassWrapper(other) {}

  StringRef getArgument() const override { return "convert-hc-to-vector"; }
  StringRef getDescription() const override { return "Kernels in phases to loops and vectors for a CPU"; }
  void getDependentDialects(DialectRegistry &registry) const override { registerVectorDialects(registry); }

  void runOnOperation() override {
    VectorTarget target;
    target.vectorBytes = vectorBytes;
    target.registers = vectorBytes == 64 ? 32 : 16;
    SmallVector<hc::FuncOp> kernels(getOperation().getOps<hc::FuncOp>());
    for (hc::FuncOp kernel : kernels) {
      KernelLayout layout;
      if (failed(lowerToVector(kernel, target, schedule, getOperation(), layout)))
        return signalPassFailure();
      kernel.erase();
    }
  }

  Option<int64_t> vectorBytes{*this, "vector-bytes", llvm::cl::desc("Bytes of a vector register: 32 or 64"),
                              llvm::cl::init(32)};
  Option<std::string> schedule{*this, "schedule", llvm::cl::desc("auto, or numbers of the skeleton blocks"),
                               llvm::cl::init("auto")};
};

struct ConvertHCVectorToLLVM : PassWrapper<ConvertHCVectorToLLVM, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(ConvertHCVectorToLLVM)

  StringRef getArgument() const override { return "convert-hc-vector-to-llvm"; }
  StringRef getDescription() const override { return "Loops and vectors to the LLVM dialect"; }
  void getDependentDialects(DialectRegistry &registry) const override { registerVectorDialects(registry); }

  void runOnOperation() override {
    if (failed(convertVectorToLLVM(getOperation())))
      signalPassFailure();
  }
};

} // namespace

void registerHCToVectorPass() {
  PassRegistration<ConvertHCToVector>();
  PassRegistration<ConvertHCVectorToLLVM>();
}

} // namespace hyperjit::cpu
