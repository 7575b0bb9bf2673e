// Error.h - the two kinds of error, never mixed: the user asked for something impossible (UserError), or hyperjit has a
// bug (InternalError). Every error carries an id that tests and the command line can rely on; its text is for people.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_ERROR_H
#define HYPERJIT_CORE_ERROR_H

#include "hyperjit/core/Export.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

enum class ErrorId : uint16_t {
  // What users can change.
  InvalidSpec = 100,     ///< the text is no spec: syntax
  UnknownRecipe = 101,   ///< no recipe of this name
  UnknownKey = 102,      ///< no option of this name
  UnknownValue = 103,    ///< an option has no such value
  InvalidValue = 104,    ///< a number outside its range, m that does not divide d, ...
  UnknownTarget = 105,   ///< no target of this name
  LimitExceeded = 106,   ///< above a limit of the fused kernels
  Unsupported = 107,     ///< understood, but not offered
  InvalidOperand = 108,  ///< shape, dtype, layout or device of a tensor
  InvalidRecipe = 109,   ///< a recipe's equations do not fit together
  InvalidSchedule = 110, ///< text that is no schedule; one that the target cannot run is Unsupported
  InvalidSetting = 120,  ///< a HYPERJIT_* variable has a value that means nothing
  MissingKernel = 121,   ///< HYPERJIT_JIT=off and no cache holds the kernel
  NotPrepared = 122,     ///< not in memory while a graph is captured
  CompilerMissing = 123, ///< the compiler plugin is not there or does not fit
  BackendMissing = 124,  ///< no back end for the target in this build
  LibraryMissing = 125,  ///< a vendor library (driver, NVRTC) is not there
  DeviceFailure = 126,   ///< the driver refused: out of memory, no device, ...
  InvalidFile = 127,     ///< a file that the user named cannot be read or written
  // Bugs.
  Internal = 200,      ///< an invariant of the runtime is broken
  CompilerBug = 201,   ///< a pass failed on a legal program, or generated code does not compile
  ImageRejected = 202, ///< a loader or driver refused a binary that hyperjit made
};

/// "unknown-recipe" for ErrorId::UnknownRecipe.
HYPERJIT_EXPORT std::string_view name(ErrorId id);

/// Base of both kinds. what() is the whole message.
class HYPERJIT_EXPORT Error : public std::runtime_error {
public:
  Error(ErrorId id, const std::string &message);
  ~Error() override;
  ErrorId id() const { return errorId; }

private:
  ErrorId errorId;
};

/// The user can mend it: the message names the operand, what it is, what is supported, what to do.
class HYPERJIT_EXPORT UserError : public Error {
public:
  explicit UserError(const std::string &message) : Error(ErrorId::Unsupported, message) {}
  UserError(ErrorId id, const std::string &message) : Error(id, message) {}
  ~UserError() override;
};

/// HYPERJIT_JIT=off and no layer of the cache holds the kernel.
class HYPERJIT_EXPORT MissingKernelError : public UserError {
public:
  explicit MissingKernelError(const std::string &message) : UserError(ErrorId::MissingKernel, message) {}
  ~MissingKernelError() override;
};

/// The message asks for a report; `reproducer` is a spec text or a command that shows the bug again.
class HYPERJIT_EXPORT InternalError : public Error {
public:
  explicit InternalError(const std::string &message, const std::string &reproducer = {})
      : InternalError(ErrorId::Internal, message, reproducer) {}
  InternalError(ErrorId id, const std::string &message, const std::string &reproducer = {});
  ~InternalError() override;
};

/// The word of `words` nearest to `word` by edit distance; empty if none is near enough to be meant.
HYPERJIT_EXPORT std::string nearestWord(std::string_view word, const std::vector<std::string> &words);
/// "unknown recipe 'manifol'; did you mean 'manifold'? Recipes: dynamic, manifold, static".
HYPERJIT_EXPORT std::string unknownWord(std::string_view kind, std::string_view word,
                                        const std::vector<std::string> &words);

} // namespace hyperjit

#endif // HYPERJIT_CORE_ERROR_H
