//===- hc-translate.cpp - Prints kernels in another language --------------===//
// SPDX-License-Identifier: Apache-2.0
//
// A test driver, not a product: an hc.func in phases form becomes CUDA C++, or
// the EmitC module that it is printed from.
//===----------------------------------------------------------------------===//
#include "hyperjit/Target/CudaSource.h"

#include "mlir/Tools/mlir-translate/MlirTranslateMain.h"
#include "mlir/Tools/mlir-translate/Translation.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace hyperjit;

static llvm::cl::opt<std::string> target("target", llvm::cl::desc("CUDA target"), llvm::cl::init("sm_90a"));
static llvm::cl::opt<std::string> schedule("schedule", llvm::cl::desc("auto or rows:name=number,..."),
                                           llvm::cl::init("auto"));

static void registerTranslations() {
  auto dialects = [](DialectRegistry &registry) { registry.insert<hc::HCDialect>(); };
  static TranslateFromMLIRRegistration toCuda(
      "hc-to-cuda", "hc kernels in phases form to CUDA C++, with their launches",
      [](Operation *module, llvm::raw_ostream &os) {
        for (hc::FuncOp kernel : cast<ModuleOp>(module).getOps<hc::FuncOp>()) {
          cuda::CudaSource source;
          if (failed(cuda::buildCudaSource(kernel, target, schedule, source)))
            return failure();
          os << source.text << "// schedule " << source.schedule << "\n// workspace " << source.workspaceFixed << " + "
             << source.workspacePerChunk << " a chunk + " << source.workspacePerToken << " a token\n";
          for (llvm::json::Value &launch : source.launches)
            os << "// launch " << launch << "\n";
        }
        return success();
      },
      dialects);
  static TranslateFromMLIRRegistration toEmitC(
      "hc-to-emitc", "hc kernels in phases form to EmitC",
      [](Operation *module, llvm::raw_ostream &os) {
        for (hc::FuncOp kernel : cast<ModuleOp>(module).getOps<hc::FuncOp>()) {
          cuda::CudaSource source;
          OwningOpRef<ModuleOp> emitc = cuda::buildCudaModule(kernel, target, schedule, source);
          if (!emitc)
            return failure();
          emitc->print(os);
          os << "\n";
        }
        return success();
      },
      dialects);
}

int main(int argc, char **argv) {
  registerTranslations();
  return failed(mlirTranslateMain(argc, argv, "hyperjit translation driver\n"));
}
