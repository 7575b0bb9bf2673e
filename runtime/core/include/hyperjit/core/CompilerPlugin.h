// CompilerPlugin.h - the door to libhyperjit-compiler.so, which holds LLVM and MLIR. It is opened at the first miss, so
// a warm process maps none of it. The C side of the door is hyperjit/Compiler.h.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_COMPILERPLUGIN_H
#define HYPERJIT_CORE_COMPILERPLUGIN_H

#include "hyperjit/core/Export.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

/// The LLVM that the build found, "22.1.8"; part of the key of CPU kernels. Empty where the build found none.
HYPERJIT_EXPORT std::string_view llvmVersion();

/// What the compiler gave back: `json` is artifact meta (or {"stage": ...}), `payload` an image, CUDA C++ or a stage's
/// text.
struct CompilerReply {
  std::string json;
  std::string payload;
};

/// Abstract, so that tests put their own compiler into a KernelManager.
class HYPERJIT_EXPORT Compiler {
public:
  virtual ~Compiler();
  /// "llvm 22.1.8 ..."
  virtual std::string version() = 0;
  /// Runs one request (JSON of hyperjit/Compiler.h). Throws UserError for what the user asked wrongly, InternalError
  /// (CompilerBug) with pass and diagnostic otherwise; CompilerMissing where the plugin cannot be opened.
  virtual CompilerReply run(const std::string &request) = 0;
};

/// The plugin beside libhyperjit.so, or at HYPERJIT_COMPILER_PATH (a file, or a folder that holds it). Thread safe.
class HYPERJIT_EXPORT CompilerPlugin final : public Compiler {
public:
  CompilerPlugin();
  /// `path` empty: as above.
  explicit CompilerPlugin(std::string path);
  ~CompilerPlugin() override;

  std::string version() override;
  CompilerReply run(const std::string &request) override;

  /// The files that are tried, in order.
  std::vector<std::string> candidates() const;
  /// Opens the plugin. Throws UserError (CompilerMissing) that lists what was tried and why each failed.
  void open();
  /// The file that was opened; empty before.
  std::string path() const;

private:
  struct State;
  std::unique_ptr<State> state;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_COMPILERPLUGIN_H
