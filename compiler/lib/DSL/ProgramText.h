//===- ProgramText.h - Recorded programs read back from their text ------------*- C++ -*-===//
//
// The counterpart of Recorder::finish: what was recorded, read without LLVM. A program is read into a list of
// operations, and recorded once more from that list; so its text, signature and digest come from where those of every
// recipe come from, and a text that says the same in other spaces gives the same program.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#pragma once

#include "Recorder.h"

namespace hyperjit::dsl::detail {

/// A value as it stands in a text, with its type beside it.
struct TextValue {
  std::string name; // with its %
  Type type;
};

struct TextOperation {
  int line = 0;
  std::string name;
  std::vector<TextValue> results, operands;
  std::vector<Attribute> attributes;
};

/// An argument (streams, parameter, carry) or a result (streams, carry) of a program.
struct TextOperand {
  int line = 0;
  std::string operand, name; // hc.operand and hc.name
  TextValue value;
};

struct ProgramText {
  int64_t n = 0, m = 0;
  std::vector<TextOperand> arguments, results;
  std::vector<TextOperation> operations;
};

/// Throws UserError with the line, what is expected there and what was found.
ProgramText readProgram(std::string_view text);
/// Records the program again.
void replay(const ProgramText &program, Site &site);

} // namespace hyperjit::dsl::detail
