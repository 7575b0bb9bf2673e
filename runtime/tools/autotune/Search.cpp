// SPDX-License-Identifier: Apache-2.0
#include "Search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

namespace hyperjit::tools {

namespace {

/// Numbers in which two schedules of one skeleton differ.
int distance(const Schedule &a, const Schedule &b) {
  if (a.skeleton != b.skeleton)
    return 99;
  std::set<std::string> names;
  for (const Schedule *schedule : {&a, &b})
    for (const auto &[name, value] : schedule->parameters)
      names.insert(name);
  return int(std::count_if(names.begin(), names.end(),
                           [&](const std::string &name) { return a.parameter(name) != b.parameter(name); }));
}

} // namespace

bool beats(const Trial &mine, const Trial &base) {
  double fast = mine.median(), slow = base.median();
  if (!std::isfinite(fast) || !(fast < slow * (1 - tuningMargin)))
    return false;
  double sigma = std::hypot(mine.noise() * fast, base.noise() * slow);
  return slow - fast > 3 * sigma;
}

SearchResult search(const std::vector<ScheduleCandidate> &candidates, const std::map<std::string, Trial> &known,
                    bool exhaustive, const SearchTools &tools) {
  constexpr int screening = 3;
  SearchResult result;
  std::vector<bool> seen(candidates.size());
  std::set<std::string> texts; // a candidate may turn out to be another one once its numbers are complete
  size_t best = 0, planned = exhaustive ? candidates.size() : std::clamp<size_t>(candidates.size() / 8, 8, 48);
  planned = std::min(planned, candidates.size());
  double bestUs = INFINITY, baseUs = INFINITY;

  auto attempt = [&](size_t i) {
    seen[i] = true;
    Trial trial;
    if (auto found = known.find(candidates[i].schedule.text()); found != known.end() && i > 0) {
      trial = found->second;
      ++result.remembered;
    } else {
      // One that is far behind in its first sample is not sampled again.
      trial = tools.attempt(candidates[i].schedule, screening, bestUs * 1.25);
    }
    trial.cost = candidates[i].cost;
    ++result.tried;
    if (!trial.good()) {
      ++result.rejected;
    } else if (trial.us.empty()) {
      trial.status = "launch_error";
      trial.message = "no time was measured";
      ++result.rejected;
    }
    if (i == 0) {
      if (!trial.good())
        throw std::runtime_error(fmt::format("the default schedule {}: {}", trial.status, trial.message));
      baseUs = trial.median();
    }
    bool fresh = texts.insert(trial.schedule.text()).second;
    if (trial.good() && fresh && trial.median() < bestUs) {
      bestUs = trial.median();
      best = i;
    }
    result.trials.push_back(trial);
    tools.progress(result.trials.back(), result.tried, std::max(planned, result.tried), bestUs, baseUs);
  };

  for (size_t i = 0; i < planned && (i == 0 || !tools.timeUp()); ++i)
    attempt(i);
  // What differs from the best in one number, as long as that finds something better.
  for (bool moved = true; moved && !tools.timeUp();) {
    moved = false;
    size_t centre = best;
    for (size_t i = 0; i < candidates.size() && !tools.timeUp(); ++i)
      if (!seen[i] && distance(candidates[i].schedule, candidates[centre].schedule) == 1) {
        planned = std::max(planned, result.tried + 1);
        attempt(i);
      }
    moved = best != centre;
  }

  // Halving: the fastest ones again, turn by turn with the default, half of them each time with twice the samples.
  std::vector<const Trial *> good;
  std::set<std::string> taken = {result.trials[0].schedule.text()};
  for (const Trial &trial : result.trials)
    if (trial.good() && (&trial == &result.trials[0] || taken.insert(trial.schedule.text()).second))
      good.push_back(&trial);
  std::stable_sort(good.begin() + 1, good.end(), [](const Trial *a, const Trial *b) { return a->median() < b->median(); });
  std::vector<Trial> finalists;
  for (const Trial *trial : good)
    if (finalists.size() < 9) // the default and eight more
      finalists.push_back(*trial);
  result.base = result.best = result.trials[0];
  for (int samples = 8;; samples *= 2) {
    std::vector<Schedule> schedules;
    for (const Trial &trial : finalists)
      schedules.push_back(trial.schedule);
    std::vector<std::vector<double>> times = tools.duel(schedules, samples);
    if (times.size() != finalists.size())
      break; // the times of screening stand, and are not enough to unseat the default
    for (size_t i = 0; i < finalists.size(); ++i)
      finalists[i].us = times[i];
    std::stable_sort(finalists.begin() + 1, finalists.end(),
                     [](const Trial &a, const Trial &b) { return a.median() < b.median(); });
    result.base = finalists[0];
    bool last = finalists.size() <= 2 || (samples >= 16 && tools.timeUp());
    if (last) {
      result.wins = finalists.size() > 1 && beats(finalists[1], finalists[0]);
      result.best = result.wins ? finalists[1] : finalists[0];
      break;
    }
    finalists.resize(1 + std::max<size_t>(1, (finalists.size() - 1) / 2));
  }
  return result;
}

} // namespace hyperjit::tools
