// SPDX-License-Identifier: Apache-2.0
#include "Search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

namespace hyperjit::tools {

namespace {

/// The number in which two schedules of one skeleton differ; empty where they differ in more, or in the skeleton.
std::string onlyDifference(const Schedule &a, const Schedule &b) {
  std::set<std::string> names;
  for (const Schedule *schedule : {&a, &b})
    for (const auto &[name, value] : schedule->parameters)
      if (a.parameter(name) != b.parameter(name))
        names.insert(name);
  return a.skeleton == b.skeleton && names.size() == 1 ? *names.begin() : "";
}

/// The values that the candidates have for each number, and which were tried.
class Axes {
public:
  explicit Axes(const std::vector<ScheduleCandidate> &candidates) {
    for (const ScheduleCandidate &candidate : candidates)
      for (const auto &[name, value] : candidate.schedule.parameters)
        values[name][value] = false;
  }
  void tried(const Schedule &schedule) {
    for (const auto &[name, value] : schedule.parameters)
      values[name][value] = true;
  }
  /// How many values lie between this one and the next that was tried.
  size_t gap(const std::string &name, const Schedule &schedule) const {
    auto axis = values.find(name);
    auto value = schedule.parameter(name);
    if (axis == values.end() || !value)
      return 0;
    size_t nearest = axis->second.size(), place = 0,
           mine = size_t(std::distance(axis->second.begin(), axis->second.find(*value)));
    for (const auto &[each, wasTried] : axis->second) {
      if (wasTried)
        nearest = std::min(nearest, place > mine ? place - mine : mine - place);
      ++place;
    }
    return nearest;
  }

private:
  std::map<std::string, std::map<int64_t, bool>> values;
};

/// Of the difference of two medians.
double sigma(const Trial &a, const Trial &b) { return std::hypot(a.noise() * a.median(), b.noise() * b.median()); }

/// Whether more samples could change what `beats` says.
bool undecided(const Trial &mine, const Trial &base) {
  return std::fabs(mine.median() - base.median() * (1 - tuningMargin)) < 3 * sigma(mine, base);
}

} // namespace

bool beats(const Trial &mine, const Trial &base) {
  double fast = mine.median(), slow = base.median();
  if (!std::isfinite(fast) || !(fast < slow * (1 - tuningMargin)))
    return false;
  return slow - fast > 3 * sigma(mine, base);
}

SearchResult search(const std::vector<ScheduleCandidate> &candidates, const std::map<std::string, Trial> &known,
                    bool exhaustive, const SearchTools &tools) {
  constexpr int screening = 3, confirming = 2 * 32;
  SearchResult result;
  std::vector<bool> seen(candidates.size());
  Axes axes(candidates);
  std::set<std::string> texts; // a candidate may turn out to be another one once its numbers are complete
  size_t best = 0, planned = exhaustive ? candidates.size() : std::clamp<size_t>(candidates.size() / 10, 8, 48);
  planned = std::min(planned, candidates.size());
  double bestUs = INFINITY, baseUs = INFINITY;

  double opened = tools.seconds(), trying = 0;
  // Seconds that this search may take, opening and finals included, by what trying everything would take.
  auto each = [&] { return trying / double(std::max<size_t>(result.tried - result.remembered, 1)); };
  auto finals = [&](int samples) { return samples * std::max(baseUs, 200.0) * 1e-6; };
  auto allowance = [&] {
    // 9 x 8, 5 x 16, 3 x 32, 2 x 64 samples; then the best in a process of its own.
    double everything = opened + each() * double(candidates.size()) + finals(376) + opened + finals(confirming);
    return exhaustive ? INFINITY : searchShare * everything;
  };
  auto mayTry = [&] { // and then 3 x 8, 2 x 32 samples and the best in a process of its own
    return !tools.timeUp() && (result.tried < leastTried ||
                               tools.seconds() + each() + finals(88) + opened + finals(confirming) < allowance());
  };

  auto attempt = [&](size_t i) {
    seen[i] = true;
    axes.tried(candidates[i].schedule);
    Trial trial;
    if (auto found = known.find(candidates[i].schedule.text()); found != known.end() && i > 0) {
      trial = found->second;
      ++result.remembered;
    } else {
      // One that is far behind in its first sample is not sampled again.
      double begin = tools.seconds();
      trial = tools.attempt(candidates[i].schedule, screening, bestUs * 1.25);
      trying += tools.seconds() - begin;
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

  attempt(0);
  // Costs of one skeleton say little about another's: the first of each is tried.
  std::set<std::string> skeletons = {candidates[0].schedule.skeleton};
  for (size_t i = 1; i < candidates.size() && mayTry(); ++i)
    if (skeletons.insert(candidates[i].schedule.skeleton).second)
      attempt(i);
  // Then what differs from the best in one number, the numbers in turn: what one does to the time, it does beside most
  // values of the others. First the value that is furthest from those tried, which says most about whether the number
  // matters. Where nothing is left that differs in one, the cost model says what is next.
  std::map<std::string, int> steps; // of a number
  std::vector<std::pair<size_t, std::string>> near;
  size_t centre = candidates.size();
  auto next = [&] {
    if (centre != best && !exhaustive) {
      centre = best;
      near.clear();
      for (size_t i = 0; i < candidates.size(); ++i)
        if (std::string name = onlyDifference(candidates[i].schedule, candidates[centre].schedule); !name.empty())
          near.emplace_back(i, name);
    }
    const std::pair<size_t, std::string> *step = nullptr;
    auto urgency = [&](const auto &each) {
      return std::pair(-steps[each.second], axes.gap(each.second, candidates[each.first].schedule));
    };
    for (const auto &each : near)
      if (!seen[each.first] && (!step || urgency(each) > urgency(*step)))
        step = &each;
    if (step)
      ++steps[step->second];
    return step                     ? step->first
           : result.tried < planned ? size_t(std::find(seen.begin(), seen.end(), false) - seen.begin())
                                    : candidates.size();
  };
  for (size_t i = 0; mayTry() && (i = next()) < candidates.size();)
    attempt(i);

  // Halving: the fastest ones again, turn by turn with the default, half of them each time with twice the samples.
  std::vector<const Trial *> good;
  std::set<std::string> taken = {result.trials[0].schedule.text()};
  for (const Trial &trial : result.trials)
    if (trial.good() && (&trial == &result.trials[0] || taken.insert(trial.schedule.text()).second))
      good.push_back(&trial);
  std::stable_sort(good.begin() + 1, good.end(),
                   [](const Trial *a, const Trial *b) { return a->median() < b->median(); });
  std::vector<Trial> finalists;
  size_t others = std::clamp<size_t>(good.size() / 4, 2, 8);
  for (const Trial *trial : good)
    if (finalists.size() < 1 + others)
      finalists.push_back(*trial);
  result.base = result.best = result.trials[0];
  for (int samples = 8;; samples *= 2) {
    if (finalists.size() <= 2)
      samples = std::max(samples, 32);
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
    bool late = tools.timeUp() || tools.seconds() > allowance();
    bool settled = finalists.size() < 2 || samples >= 128 || late || !undecided(finalists[1], finalists[0]);
    if ((finalists.size() <= 2 && settled) || (samples >= 16 && tools.timeUp())) {
      result.wins = finalists.size() > 1 && beats(finalists[1], finalists[0]);
      result.best = result.wins ? finalists[1] : finalists[0];
      break;
    }
    finalists.resize(1 + std::max<size_t>(1, (finalists.size() - 1) / 2));
  }
  if (result.wins) {
    std::vector<std::vector<double>> times =
        tools.confirm({result.base.schedule, result.best.schedule}, confirming / 2);
    Trial base = result.base, best = result.best;
    if (times.size() == 2)
      base.us = times[0], best.us = times[1];
    result.wins = times.size() == 2 && beats(best, base);
    // These times are nobody's choice of the best of many.
    result.best = result.wins ? best : result.base;
    if (result.wins)
      result.base = base;
  }
  return result;
}

} // namespace hyperjit::tools
