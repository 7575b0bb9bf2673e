// KernelManager.h - from a KernelSpec to a loaded Kernel: memory, disk, compiler, in this order; each key is compiled
// by one thread while the others wait, and no lock is held meanwhile.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_KERNELMANAGER_H
#define HYPERJIT_CORE_KERNELMANAGER_H

#include "hyperjit/core/Backend.h"
#include "hyperjit/core/CompilerPlugin.h"
#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Export.h"
#include "hyperjit/core/Kernel.h"
#include "hyperjit/core/KernelCache.h"
#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/ProgramSource.h"
#include "hyperjit/core/Schedule.h"
#include "hyperjit/core/Target.h"

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace hyperjit {

struct KernelManagerOptions {
  Settings settings = Settings::fromEnvironment();
  ProgramSource *programs = nullptr;                    ///< null: ProgramSource::global()
  std::shared_ptr<Compiler> compiler;                   ///< null: the plugin
  std::vector<std::shared_ptr<const Backend>> backends; ///< tried before Backend::find
  /// Asked instead of the tuning files: a schedule for a normalised spec, or auto. Null: TuningTable::fromSettings.
  /// Thread safe.
  std::function<Schedule(const KernelSpec &, const Target &)> tuning;
  FileSystem *files = nullptr; ///< of the disk cache; null: the system's. Outlives the manager
  /// Only the writable root is looked in, and only for the very target and schedule: what another folder or another
  /// target holds does not fill this one.
  bool ownOnly = false;
  /// Where the kernel with a tuning table's schedule can neither be found nor be made, the one without it is taken.
  bool substitutes = true;
};

struct ManagerStatistics {
  int64_t memoryHits = 0;
  int64_t diskHits = 0; ///< soft misses: not in memory, found on disk
  int64_t compiled = 0; ///< hard misses
  int64_t rejected = 0; ///< valid entries that driver or loader refused
  double compileMilliseconds = 0;
  double loadMilliseconds = 0;
  CacheStatistics cache;
};

/// Where an artifact came from.
enum class Origin : uint8_t { Disk, Compiled };

struct ResolvedArtifact {
  std::shared_ptr<const Artifact> artifact;
  KeyFields fields;
  CacheKey key;
  Origin origin = Origin::Disk;
  double milliseconds = 0;
};

struct KernelRequest {
  KernelSpec spec;
  Target target;
  Schedule schedule; ///< auto: the tuning table, else the cost model
};

/// A legal schedule and what the cost model expects of it.
struct ScheduleCandidate {
  Schedule schedule; ///< complete
  double cost = 0;   ///< nanoseconds a token: for an order, not a promise
};

/// Thread safe. Errors: UserError (UnknownRecipe, ..., MissingKernel with HYPERJIT_JIT=off, CompilerMissing,
/// BackendMissing, LibraryMissing), InternalError (CompilerBug) with a reproducer. A failed request is tried again by
/// the next call.
class HYPERJIT_EXPORT KernelManager {
public:
  explicit KernelManager(KernelManagerOptions options = {});
  ~KernelManager();

  /// The kernel, compiled if need be. Callers on a hot path keep the pointer: looking up builds the spec's text.
  std::shared_ptr<const Kernel> get(const KernelSpec &spec, const Target &target, const Schedule &schedule = {});
  /// The kernel if it is in memory, else null. Never compiles, loads or waits: safe while a graph is captured.
  std::shared_ptr<const Kernel> peek(const KernelSpec &spec, const Target &target, const Schedule &schedule = {}) const;
  /// Compiles and loads what is not in memory yet, several at a time, in an order that differs between processes so
  /// that they share the work through the disk. Throws the first error after all have been tried.
  void prepare(std::span<const KernelRequest> requests);

  /// The artifact without loading it: needs no device (`precompile`, `show`).
  ResolvedArtifact artifact(const KernelSpec &spec, const Target &target, const Schedule &schedule = {});
  /// The key without compiling. `toolchain` is empty where this machine lacks it.
  KeyFields keyFields(const KernelSpec &spec, const Target &target, const Schedule &schedule = {});
  /// Text of a compiler stage: recipe|hc|specialized|adjoint|split|fused|phases|emitc|cuda|vector|llvm|asm.
  /// `cut`: early|late|auto, where a boundary's backward is cut in two; empty: early, which is what runs.
  std::string stage(const KernelSpec &spec, const Target &target, std::string_view stage, const Schedule &schedule = {},
                    std::string_view cut = {});

  /// At most `limit` legal schedules, best first by the cost model; the first is what auto uses. Needs the compiler, no
  /// device.
  std::vector<ScheduleCandidate> schedules(const KernelSpec &spec, const Target &target, size_t limit);

  ManagerStatistics statistics() const;
  /// Leaves this process's counters beside the cache, for `hyperjit cache stats`; done at the end of a process too.
  void saveStatistics() const;
  KernelCache &cache();
  const Settings &settings() const;
  ProgramSource &programs() const;

  /// Made from the environment at its first use.
  static KernelManager &global();

private:
  struct State;
  struct Forks;
  std::unique_ptr<State> state;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_KERNELMANAGER_H
