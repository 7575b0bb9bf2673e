//===- ScheduleText.h - Text of a schedule, for every exit ------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
//   schedule ::= "auto" | skeleton [":" name "=" integer {"," name "=" integer}]
//
// An exit lists the numbers of its skeleton with where they go and what is
// legal on its target; reading, refusing and writing are the same for all.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_TARGET_SCHEDULETEXT_H
#define HYPERJIT_TARGET_SCHEDULETEXT_H

#include "hyperjit/Dialect/HC/IR/HC.h"

#include <string>

namespace hyperjit {

struct ScheduleNumber {
  llvm::StringRef name;
  int64_t *value;
  int64_t least, most;
  bool power = false; ///< powers of two only
};

/// Reads "auto" (nothing is set) or numbers of `skeleton`; those that the text leaves out stay as they are. An error at
/// the kernel names the number, its value and what is legal. `device` is for people: "CUDA kernels".
mlir::LogicalResult readSchedule(hc::FuncOp kernel, llvm::StringRef text, llvm::StringRef skeleton,
                                 llvm::StringRef device, llvm::ArrayRef<ScheduleNumber> numbers);

/// The canonical text; names come in alphabetical order, negative numbers are left out.
std::string writeSchedule(llvm::StringRef skeleton, llvm::ArrayRef<std::pair<llvm::StringRef, int64_t>> numbers);

/// A legal schedule and what the cost model expects of it.
struct RankedSchedule {
  std::string text;
  double cost = 0; ///< nanoseconds a token
};

} // namespace hyperjit

#endif
