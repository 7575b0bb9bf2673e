// KernelManagerState.h - what a manager holds; its parts are in KernelManager.cpp (memory) and KernelLookup.cpp (disk,
// then compiler).
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_KERNELMANAGERSTATE_H
#define HYPERJIT_CORE_KERNELMANAGERSTATE_H

#include "CompilerRequest.h"
#include "Gate.h"
#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/TuningTable.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unistd.h>

namespace hyperjit {

using Clock = std::chrono::steady_clock;
using KernelPointer = std::shared_ptr<const Kernel>;

inline double millisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

struct Slot {
  std::shared_future<KernelPointer> future;
  pid_t owner; ///< the process whose thread fulfils it: a forked child must not wait for its parent's threads
  bool ready() const { return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
};

struct KernelManager::State {
  KernelManagerOptions options;
  KernelCache cache;
  TuningTable tuning;
  std::unique_ptr<Gate> gate;
  mutable std::mutex mutex;
  std::map<std::string, Slot, std::less<>> slots;
  std::mutex recordMutex;
  std::set<std::string> recorded;
  std::atomic<int64_t> memoryHits{0}, diskHits{0}, compiled{0}, rejected{0};
  std::atomic<int64_t> compileMicroseconds{0}, loadMicroseconds{0};

  explicit State(KernelManagerOptions given);
  ~State();
  int jobs() const { return options.settings.compileJobs ? options.settings.compileJobs : defaultCompileJobs(); }

  ProgramSource &programs() const { return options.programs ? *options.programs : ProgramSource::global(); }
  std::shared_ptr<const Backend> backend(const Target &target) const;
  KernelSpec normalise(const KernelSpec &spec) const;
  /// `tuned`: auto may become what a tuning table says.
  ResolvedKernel resolve(const KernelSpec &normalised, const Target &target, const Schedule &schedule,
                         bool tuned = true) const;
  KeyFields fields(const ResolvedKernel &kernel, const Target &target, const Backend &backend) const;
  std::exception_ptr addToolchain(KeyFields &fields, const Backend &backend) const;
  Artifact compile(const ResolvedKernel &kernel, const Target &target, const Backend &backend, const KeyFields &fields,
                   const CacheKey &key);
  ResolvedArtifact find(const KernelSpec &normalised, const Target &target, const Schedule &schedule,
                        bool compileAnyway = false, bool tuned = true);
  Schedule tunedFor(const ResolvedKernel &kernel, const Target &target) const;
  std::optional<Artifact> findShipped(const ResolvedKernel &kernel, bool byRule, const Target &target,
                                      KeyFields &fields, CacheKey &key);
  std::optional<Artifact> findUntuned(ResolvedKernel kernel, const Target &target, KeyFields &fields, CacheKey &key);
  std::string searched() const;
  void record(const std::string &spec);
  KernelPointer load(const KernelSpec &normalised, const Target &target, const Schedule &schedule);
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_KERNELMANAGERSTATE_H
