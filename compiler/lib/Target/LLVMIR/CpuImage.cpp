//===- CpuImage.cpp - A kernel in phases to a closed image ----------------===//
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Target/CpuImage.h"

#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"

#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/InstCombine/InstCombine.h"
#include "llvm/Transforms/Scalar/EarlyCSE.h"
#include "llvm/Transforms/Scalar/LICM.h"
#include "llvm/Transforms/Scalar/LoopPassManager.h"
#include "llvm/Transforms/Scalar/SimplifyCFG.h"
#include "llvm/Transforms/Utils/Cloning.h"

#include <mutex>

using namespace llvm;

namespace hyperjit::cpu {

namespace {

struct CpuName {
  std::string cpu, features;
  bool wide = false;
};

/// A level of the psABI, or `triple/level/+feature,...`, which is how the runtime spells its host.
Expected<CpuName> cpuNamed(StringRef target) {
  auto [triple, rest] = target.contains('/') ? target.split('/') : std::pair<StringRef, StringRef>("x86_64", target);
  auto [level, features] = rest.split('/');
  if (!triple.starts_with("x86_64") || (level != "x86-64-v3" && level != "x86-64-v4"))
    return createStringError(std::make_error_code(std::errc::invalid_argument),
                             "the CPU back end makes code for x86-64-v3, x86-64-v4 and hosts with at least "
                             "x86-64-v3; got '" +
                                 target + "'");
  CpuName name{level.str(), features.str(), level == "x86-64-v4"};
  if (name.wide)
    name.features += name.features.empty() ? "-prefer-256-bit" : ",-prefer-256-bit";
  return name;
}

void initializeX86() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
  });
}

} // namespace

Expected<VectorTarget> vectorTarget(StringRef target) {
  Expected<CpuName> name = cpuNamed(target);
  if (!name)
    return name.takeError();
  VectorTarget result;
  result.vectorBytes = name->wide ? 64 : 32;
  result.registers = name->wide ? 32 : 16;
  return result;
}

Expected<std::unique_ptr<TargetMachine>> createTargetMachine(StringRef target) {
  Expected<CpuName> name = cpuNamed(target);
  if (!name)
    return name.takeError();
  initializeX86();
  Triple triple("x86_64-unknown-linux-gnu");
  std::string message;
  const llvm::Target *found = TargetRegistry::lookupTarget(triple, message);
  if (!found)
    return createStringError(std::make_error_code(std::errc::not_supported), "no x86-64 code generator: " + message);
  TargetOptions options;
  options.AllowFPOpFusion = FPOpFusion::Strict; // every fused multiply-add is written as one
  std::unique_ptr<TargetMachine> machine(found->createTargetMachine(
      triple, name->cpu, name->features, options, Reloc::PIC_, CodeModel::Small, CodeGenOptLevel::Default));
  return machine;
}

void optimizeModule(llvm::Module &module, TargetMachine &machine) {
  // The code is vector code with its loops blocked: cleaning up is all that is wanted, and compile time is a goal.
  LoopAnalysisManager loops;
  FunctionAnalysisManager functions;
  CGSCCAnalysisManager sccs;
  ModuleAnalysisManager modules;
  PipelineTuningOptions tuning;
  tuning.LoopVectorization = false;
  tuning.SLPVectorization = false;
  PassBuilder builder(&machine, tuning);
  TargetLibraryInfoImpl library(machine.getTargetTriple());
  library.disableAllFunctions();
  functions.registerPass([&] { return TargetLibraryAnalysis(library); });
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(sccs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, sccs, modules);

  FunctionPassManager passes;
  passes.addPass(SimplifyCFGPass());
  passes.addPass(EarlyCSEPass(/*UseMemorySSA=*/true));
  passes.addPass(InstCombinePass());
  LoopPassManager loopPasses;
  loopPasses.addPass(LICMPass(LICMOptions()));
  passes.addPass(createFunctionToLoopPassAdaptor(std::move(loopPasses), /*UseMemorySSA=*/true));
  passes.addPass(EarlyCSEPass(/*UseMemorySSA=*/true));
  ModulePassManager pipeline;
  pipeline.addPass(createModuleToFunctionPassAdaptor(std::move(passes)));
  pipeline.run(module, modules);
}

namespace {

Error emit(llvm::Module &module, TargetMachine &machine, CodeGenFileType kind, SmallVectorImpl<char> &out) {
  raw_svector_ostream stream(out);
  legacy::PassManager passes;
  TargetLibraryInfoImpl library(machine.getTargetTriple());
  library.disableAllFunctions();
  passes.add(new TargetLibraryInfoWrapperPass(library));
  if (machine.addPassesToEmitFile(passes, stream, nullptr, kind))
    return createStringError(std::make_error_code(std::errc::not_supported),
                             "the target cannot emit this kind of file");
  passes.run(module);
  return Error::success();
}

} // namespace

mlir::LogicalResult buildCpuImage(hc::FuncOp kernel, StringRef target, StringRef schedule, CpuImage &image,
                                  CpuTexts texts) {
  auto fail = [&](Error error) {
    kernel.emitError() << toString(std::move(error));
    return mlir::failure();
  };
  Expected<VectorTarget> vectors = vectorTarget(target);
  if (!vectors)
    return fail(vectors.takeError());
  Expected<std::unique_ptr<TargetMachine>> machine = createTargetMachine(target);
  if (!machine)
    return fail(machine.takeError());

  mlir::MLIRContext *context = kernel.getContext();
  mlir::DialectRegistry registry;
  registerVectorDialects(registry);
  mlir::registerBuiltinDialectTranslation(registry);
  mlir::registerLLVMDialectTranslation(registry);
  context->appendDialectRegistry(registry);
  context->loadAllAvailableDialects();

  mlir::OwningOpRef<mlir::ModuleOp> module = mlir::ModuleOp::create(kernel.getLoc());
  if (mlir::failed(lowerToVector(kernel, *vectors, schedule, *module, image.layout)))
    return mlir::failure();
  if (texts.vector) {
    raw_string_ostream stream(*texts.vector);
    module->print(stream);
  }
  if (mlir::failed(convertVectorToLLVM(*module)))
    return mlir::failure();

  LLVMContext llvmContext;
  std::unique_ptr<llvm::Module> code = mlir::translateModuleToLLVMIR(*module, llvmContext, "kernel");
  if (!code) {
    kernel.emitError() << "translation to LLVM IR failed";
    return mlir::failure();
  }
  code->setTargetTriple((*machine)->getTargetTriple());
  code->setDataLayout((*machine)->createDataLayout());
  code->setPICLevel(PICLevel::BigPIC);
  for (llvm::Function &function : *code) {
    if (function.isDeclaration())
      continue;
    function.addFnAttr("no-builtins");
    function.addFnAttr(Attribute::NoUnwind);
    function.setUWTableKind(UWTableKind::None);
    function.addFnAttr("prefer-vector-width", std::to_string(image.layout.vectorBytes * 8));
    function.addFnAttr("min-legal-vector-width", std::to_string(image.layout.vectorBytes * 8));
  }
  optimizeModule(*code, **machine);
  if (texts.llvm) {
    raw_string_ostream stream(*texts.llvm);
    code->print(stream, nullptr);
  }
  if (texts.assembly) {
    std::unique_ptr<llvm::Module> copy = CloneModule(*code);
    SmallVector<char, 0> assembly;
    if (Error error = emit(*copy, **machine, CodeGenFileType::AssemblyFile, assembly))
      return fail(std::move(error));
    texts.assembly->assign(assembly.begin(), assembly.end());
  }
  SmallVector<char, 0> object;
  if (Error error = emit(*code, **machine, CodeGenFileType::ObjectFile, object))
    return fail(std::move(error));
  Expected<LinkedImage> linked = linkClosedImage(MemoryBufferRef(StringRef(object.data(), object.size()), "kernel.o"));
  if (!linked)
    return fail(linked.takeError());

  image.bytes = std::move(linked->bytes);
  image.launches.clear();
  for (const Launch &launch : image.layout.launches) {
    auto found = llvm::find_if(linked->functions, [&](auto &function) { return function.first == launch.entry; });
    if (found == linked->functions.end()) {
      kernel.emitError() << "the image lacks its entry '" << launch.entry << "'";
      return mlir::failure();
    }
    const char *grid = launch.grid == Grid::Once ? "once" : launch.grid == Grid::Chunks ? "chunks" : "columns";
    image.launches.push_back({launch.entry, grid, launch.extent, found->second});
  }
  return mlir::success();
}

} // namespace hyperjit::cpu
