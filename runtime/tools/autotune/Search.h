// The search for a schedule: steps of one number from the best so far, then candidates in the order of the cost model,
// then the best ones again and again with more samples. All of it takes a share of what trying everything would take,
// as far as the candidates tried so far say. It knows no kernel, no process and no clock but the one it is given.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Workbench.h"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace hyperjit::tools {

struct SearchTools {
  /// Measures one candidate; `hopeless` microseconds end it after the first sample.
  std::function<Trial(const Schedule &, int samples, double hopeless)> attempt;
  /// Times schedules turn by turn; empty where that failed.
  std::function<std::vector<std::vector<double>>(const std::vector<Schedule> &, int samples)> duel;
  /// The same in a fresh process.
  std::function<std::vector<std::vector<double>>(const std::vector<Schedule> &, int samples)> confirm;
  /// True once the time is up: what is measured is compared, nothing more is tried.
  std::function<bool()> timeUp;
  /// Since the work on this kernel began, its opening included.
  std::function<double()> seconds;
  /// After each candidate: how many are done of how many, and the best so far.
  std::function<void(const Trial &last, size_t done, size_t planned, double bestUs, double baseUs)> progress;
};

struct SearchResult {
  Trial base, best;          ///< the same where the default stays
  bool wins = false;         ///< `best` beats the default by the margin
  std::vector<Trial> trials; ///< in order, the default first
  size_t tried = 0, rejected = 0, remembered = 0;
};

/// A tuned schedule must be this much faster than the default, and by more than three standard errors: among the
/// others, and once more in a fresh process. Where memory lies and who else uses the cache may change a time more than
/// a schedule does.
inline constexpr double tuningMargin = 0.02;

/// A search takes at most this share of the time of trying every candidate, unless that leaves fewer than `leastTried`.
inline constexpr double searchShare = 0.2;
inline constexpr size_t leastTried = 5;

/// Whether `mine` beats `base` by the margin and the noise.
bool beats(const Trial &mine, const Trial &base);

/// `candidates` has the default first. `known` are results of an earlier run by schedule text: good ones are not tried
/// again before the final rounds, failures never. `exhaustive` tries all. Throws what the tools throw, and
/// std::runtime_error where not even the default could be measured.
SearchResult search(const std::vector<ScheduleCandidate> &candidates, const std::map<std::string, Trial> &known,
                    bool exhaustive, const SearchTools &tools);

} // namespace hyperjit::tools
