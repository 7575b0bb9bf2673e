// Environment.h - every HYPERJIT_* variable, in one table that also feeds `hyperjit env` and the README, and the typed
// settings made from it. Nothing else reads them. (Where CUDA lies comes from
// CUDA_HOME, CUDA_PATH and VIRTUAL_ENV: Driver.h.)
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_ENVIRONMENT_H
#define HYPERJIT_CORE_ENVIRONMENT_H

#include "hyperjit/core/Export.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

struct EnvironmentVariable {
  std::string_view name;
  std::string_view defaultValue; ///< for people; may describe ("$XDG_CACHE_HOME/hyperjit")
  std::string_view values;       ///< "rw|ro|off|refresh", "bytes", "folder"; for people
  std::string_view meaning;      ///< one sentence
};

/// Sorted by name.
HYPERJIT_EXPORT std::span<const EnvironmentVariable> environmentTable();
/// The value of a variable of the table; empty if unset or empty. Throws InternalError for a name outside the table.
HYPERJIT_EXPORT std::optional<std::string> environment(std::string_view name);
/// HYPERJIT_* variables that are set and not in the table, each with the nearest right name ("" if none is near).
HYPERJIT_EXPORT std::vector<std::pair<std::string, std::string>> unknownEnvironment();

enum class CacheMode : uint8_t { ReadWrite, ReadOnly, Off, Refresh }; ///< rw | ro | off | refresh
enum class CacheTrust : uint8_t { Owner, Path, Any };                 ///< owner | path | any
enum class CacheVerify : uint8_t { Checksum, Regenerate };            ///< checksum | regen

/// What the variables say, typed. A manager reads it once, when it is made.
struct HYPERJIT_EXPORT Settings {
  std::string cacheDirectory;         ///< writable root; empty: memory only
  std::vector<std::string> cachePath; ///< read-only layers in order
  std::string cacheNamespace;
  CacheMode cache = CacheMode::ReadWrite;
  CacheTrust trust = CacheTrust::Owner;
  CacheVerify verify = CacheVerify::Checksum;
  int64_t cacheMaxBytes = int64_t(2) << 30;
  double lockTimeoutSeconds = 30;
  int compileJobs = 0;                        ///< 0: decided from the CPUs at hand
  int64_t keepMemoryBytes = int64_t(1) << 30; ///< of freed CPU results
  bool jit = true;
  bool explainMiss = false;
  std::string recordFile;              ///< empty: no record
  std::vector<std::string> tuningPath; ///< read-only tuning files, or folders of them

  /// Throws UserError (InvalidSetting) that names the variable, its value and what it takes.
  static Settings fromEnvironment();
};

/// CPUs this process may use / processes of this node's job: affinity, cgroup quota, LOCAL_WORLD_SIZE. At least 1.
HYPERJIT_EXPORT int availableProcessors();
/// min(4, availableProcessors()).
HYPERJIT_EXPORT int defaultCompileJobs();

} // namespace hyperjit

#endif // HYPERJIT_CORE_ENVIRONMENT_H
