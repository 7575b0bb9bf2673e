// Measuring in a process of its own: a candidate that crashes or hangs takes that process with it and nothing else.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Console.h"
#include "Workbench.h"

#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace hyperjit::tools {

/// Ctrl-C was pressed while a worker was waited for; the worker is gone.
struct Interrupted {};

/// What a worker says about the kernel it was given.
struct OpenedKernel {
  std::string device;
  int threads = 0;
  Schedule base;         ///< what auto stands for, complete
  int64_t wideBytes = 0; ///< a token's, read plus written, as the compiler counts them
  double copyGBs = 0;    ///< of this machine
};

class Worker {
public:
  /// `opening`: the words of --load and --recipe. `limit`: seconds that one request may take.
  Worker(std::vector<std::string> opening, double limit);
  ~Worker();
  Worker(const Worker &) = delete;
  Worker &operator=(const Worker &) = delete;

  /// Starts a process if there is none. Throws EnvironmentProblem (no such machine) or std::runtime_error with what the
  /// default schedule failed of.
  OpenedKernel open(const KernelSpec &spec, const Target &target, int64_t tokens);
  Trial attempt(const Schedule &schedule, int samples, double hopeless);
  /// Empty where the process was lost.
  std::vector<std::vector<double>> duel(const std::vector<Schedule> &schedules, int samples);
  /// The next request goes to a fresh process.
  void renew() { stop(); }

private:
  struct Answer {
    Json json;
    std::string failure; ///< "timeout" | "crash"; empty: answered
    std::string detail;
  };
  Answer ask(const Json &request);
  void start();
  void stop();
  Answer reopen();

  std::vector<std::string> openingWords;
  double limit;
  pid_t process = -1;
  int channel = -1;
  std::string received;
  Json opening; ///< sent again to a new process
  bool opened = false;
  double copyGBs = 0;
};

/// The other end: answers requests on a descriptor until it is closed. The exit code of the process.
int serveTuning(int channel);

} // namespace hyperjit::tools
