// One kernel on a machine: operands made once, the default schedule's results, and how a candidate is checked and
// timed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Machine.h"

#include <hyperjit/core/KernelManager.h>

#include <memory>
#include <string>
#include <vector>

namespace hyperjit::tools {

/// What came of a schedule, in the words of a tuning file.
struct Trial {
  Schedule schedule;                ///< complete once it was compiled
  std::string status = "candidate"; ///< candidate | wrong | compile_error | launch_error | timeout | crash
  std::string message;
  std::vector<double> us; ///< samples
  double error = 0; ///< largest difference from the default's results, relative to the largest number of an operand
  double cost = 0;  ///< what the cost model says
  bool good() const { return status == "candidate"; }
  double median() const;
  /// Of the median, from the spread of the samples.
  double noise() const;
};

class Workbench {
public:
  /// Makes operands of random numbers, runs the default schedule and keeps what it wrote. Throws what compiling and
  /// launching throw.
  Workbench(KernelManager &manager, Machine &machine, const KernelSpec &spec, const Target &target, int64_t tokens);

  const ArtifactMeta &base() const { return kernel->meta(); }
  /// Compiles, checks against the default's results, then times: `samples` times, but once only if the first is above
  /// `hopeless` microseconds. Each sample has the default's beside it, and counts as what it would be if that had taken
  /// what it took at first: what slows the machine for a while moves no candidate. `fault`: HYPERJIT_TUNING_FAULT.
  Trial attempt(const Schedule &schedule, int samples, double hopeless, const std::string &fault);
  /// Times good schedules turn by turn, so that what disturbs the machine disturbs all.
  std::vector<std::vector<double>> duel(const std::vector<Schedule> &schedules, int samples);

private:
  std::shared_ptr<const Kernel> kernelOf(const Schedule &schedule);
  void run(const Kernel &kernel);
  double sample(const Kernel &kernel, int launches);
  int launchesOf(const Kernel &kernel);
  void results(std::vector<std::vector<std::byte>> &all);
  double compare(std::string &message) const;

  KernelManager &manager;
  Machine &machine;
  KernelSpec spec;
  Target target;
  int64_t tokens;
  std::shared_ptr<const Kernel> kernel;
  std::vector<void *> operands;
  std::vector<size_t> sizes;
  void *workspace = nullptr;
  size_t workspaceBytes = 0;
  std::vector<std::vector<std::byte>> expected, got; ///< one an output
  int baseLaunches = 1;
  double baseUs = 0;
};

} // namespace hyperjit::tools
