// Backend.h - makes the compiler's output loadable, and loads it. One for each DeviceType; a library that holds one
// registers it from its initialiser.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_BACKEND_H
#define HYPERJIT_CORE_BACKEND_H

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/Export.h"
#include "hyperjit/core/Kernel.h"
#include "hyperjit/core/Target.h"
#include "hyperjit/core/Workers.h"

#include <memory>
#include <string>

namespace hyperjit {

/// Thread safe. No lock is held while `build` runs.
class HYPERJIT_EXPORT Backend {
public:
  virtual ~Backend();

  virtual DeviceType device() const = 0;
  /// Identity of what turns the compiler's text into code, without paths: "nvrtc 13.0 <build-ids>", "llvm 22.1".
  /// Cheap after the first call. Throws UserError (LibraryMissing) where the library is not there.
  virtual std::string toolchain() const = 0;
  /// Normalised compile flags for a target, without paths; part of the key.
  virtual std::string flags(const Target &target) const = 0;
  /// CUDA C++ text to cubins, one a launch and side by side where `workers` allow, or a closed image as it is. Fills
  /// meta.entries and the launches' offsets where the payload has several binaries. Throws UserError (LibraryMissing)
  /// or InternalError (CompilerBug) with the tool's log.
  virtual Artifact build(ArtifactMeta meta, std::string payload, const Target &target,
                         const Workers &workers) const = 0;
  /// What the toolchain makes of the compiler's text before the binary (PTX), for people. Throws as `build` does, and
  /// UserError (Unsupported) where there is no such text.
  virtual std::string assembly(const std::string &payload, const Target &target) const;
  /// Throws InternalError (ImageRejected) where driver or loader refuses the binary; then KernelManager keeps the file
  /// and compiles once in memory.
  virtual std::shared_ptr<const Kernel> load(std::shared_ptr<const Artifact> artifact) const = 0;

  /// The process's back ends. find returns null where the build has none for the device.
  static void install(std::shared_ptr<const Backend> backend);
  static std::shared_ptr<const Backend> find(DeviceType device);
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_BACKEND_H
