//===- CpuImage.h - Closed machine code for the CPU -------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// The CPU exit, second half: the LLVM dialect becomes an object file, and the
// object a *closed image*: code and constants in one position-independent
// block of bytes, linked when compiled, with no relocation left, no outside
// symbol and nothing writable. A process maps it and jumps in, without LLVM.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_TARGET_CPUIMAGE_H
#define HYPERJIT_TARGET_CPUIMAGE_H

#include "hyperjit/Conversion/HCToVector.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/MemoryBufferRef.h"

#include <memory>

namespace llvm {
class Module;
class TargetMachine;
} // namespace llvm

namespace hyperjit::cpu {

struct ImageLaunch {
  std::string entry;
  /// "once", "chunks" or "columns": what begin and end of LaunchArguments count.
  std::string grid;
  /// How many columns there are.
  int64_t extent = 0;
  /// Bytes from the start of the image to the function.
  uint64_t offset = 0;
};

struct CpuImage {
  /// Loads at any 4096-byte aligned address, readable and executable.
  std::vector<char> bytes;
  std::vector<ImageLaunch> launches;
  KernelLayout layout;
};

/// Optional texts of the stages on the way; null pointers are skipped.
struct CpuTexts {
  std::string *vector = nullptr;   ///< scf, arith, math, vector
  std::string *llvm = nullptr;     ///< LLVM IR after optimisation
  std::string *assembly = nullptr; ///< AT&T assembly
};

/// Compiles a kernel in phases form. `target` is "x86-64-v3", "x86-64-v4" or
/// "triple/level/features", `schedule` "auto" or numbers of the skeleton
/// `blocks`. Errors are diagnostics on the kernel's context. The context must
/// have the hc dialect loaded; the others are loaded here.
mlir::LogicalResult buildCpuImage(hc::FuncOp kernel, llvm::StringRef target, llvm::StringRef schedule, CpuImage &image,
                                  CpuTexts texts = {});

/// How the vectors of a target look; an error names the targets there are.
llvm::Expected<VectorTarget> vectorTarget(llvm::StringRef target);

/// The code generator of a target: position independent, small code model.
llvm::Expected<std::unique_ptr<llvm::TargetMachine>> createTargetMachine(llvm::StringRef target);

/// Optimises a module whose functions are already vector code. No library
/// function is known to the optimiser, so none is called.
void optimizeModule(llvm::Module &module, llvm::TargetMachine &machine);

/// A closed image and the offsets of its defined global functions.
struct LinkedImage {
  std::vector<char> bytes;
  std::vector<std::pair<std::string, uint64_t>> functions;
};

/// Lays out the sections of an ELF x86-64 object and resolves its relocations.
/// Refuses by name undefined symbols, absolute relocations and writable data.
llvm::Expected<LinkedImage> linkClosedImage(llvm::MemoryBufferRef object);

} // namespace hyperjit::cpu

#endif
