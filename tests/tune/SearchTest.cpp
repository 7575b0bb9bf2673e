// The search by itself, over times that are made up: what it tries, what it refuses, when the default stays.
// SPDX-License-Identifier: Apache-2.0
#include "autotune/Search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

using namespace hyperjit;
using namespace hyperjit::tools;

namespace {

/// Two numbers a candidate; its time is a valley with a ripple, the default lies at its side.
struct World {
  std::vector<ScheduleCandidate> candidates;
  std::set<std::string> broken;
  double noise = 0.002, valley = 0.5;
  bool duels = true;
  int attempts = 0, timeLeft = 1 << 30;
  std::mt19937 random{7};

  World(int a = 8, int b = 16) {
    for (int i = 0; i < a; ++i)
      for (int j = 0; j < b; ++j)
        candidates.push_back({Schedule::parse("blocks:tokens=" + std::to_string(i) + ",unroll=" + std::to_string(j)), 1.0 + i + j});
  }
  double truth(const Schedule &schedule) const {
    auto i = double(*schedule.parameter("tokens")), j = double(*schedule.parameter("unroll"));
    return 100 * (1 - valley * std::exp(-((i - 5) * (i - 5) + (j - 9) * (j - 9)) / 30));
  }
  double sample(const Schedule &schedule) { return truth(schedule) * std::normal_distribution<double>(1, noise)(random); }

  SearchResult run(const std::map<std::string, Trial> &known = {}, bool exhaustive = false) {
    SearchTools tools;
    tools.attempt = [&](const Schedule &schedule, int samples, double hopeless) {
      ++attempts, --timeLeft;
      Trial trial;
      trial.schedule = schedule;
      if (broken.count(schedule.text())) {
        trial.status = "wrong";
        return trial;
      }
      for (int i = 0; i < samples && (i == 0 || trial.us[0] <= hopeless); ++i)
        trial.us.push_back(sample(schedule));
      return trial;
    };
    tools.duel = [&](const std::vector<Schedule> &schedules, int samples) {
      std::vector<std::vector<double>> times(duels ? schedules.size() : 0);
      for (int i = 0; i < samples && duels; ++i)
        for (size_t k = 0; k < schedules.size(); ++k)
          times[k].push_back(sample(schedules[k]));
      return times;
    };
    tools.timeUp = [&] { return timeLeft <= 0; };
    tools.progress = [](const Trial &, size_t done, size_t planned, double, double) { EXPECT_LE(done, planned); };
    return search(candidates, known, exhaustive, tools);
  }
};

TEST(Search, ComesNearTheBestWithAFifthOfTheTrials) {
  World world, all;
  SearchResult found = world.run();
  SearchResult exhaustive = all.run({}, true);
  EXPECT_EQ(exhaustive.tried, all.candidates.size());
  EXPECT_TRUE(found.wins);
  EXPECT_LE(world.truth(found.best.schedule), 1.03 * all.truth(exhaustive.best.schedule));
  EXPECT_LE(world.attempts, all.attempts * 2 / 3); // a valley far from where the cost model points
  EXPECT_LT(found.best.median(), found.base.median());
}

TEST(Search, TheDefaultStaysUnlessItIsBeaten) {
  for (double valley : {0.0, 0.005, 0.012}) {
    World world;
    world.valley = valley;
    SearchResult result = world.run();
    EXPECT_FALSE(result.wins) << valley;
    EXPECT_EQ(result.best.schedule, world.candidates[0].schedule);
  }
  World loud;
  loud.valley = 0.03;
  loud.noise = 0.5; // three standard errors hide 3 %
  EXPECT_FALSE(loud.run().wins);
}

TEST(Search, WhatFailsNeverWins) {
  World world;
  for (const ScheduleCandidate &candidate : world.candidates)
    if (world.truth(candidate.schedule) < 60)
      world.broken.insert(candidate.schedule.text());
  ASSERT_GT(world.broken.size(), 3u);
  SearchResult result = world.run({}, true);
  EXPECT_EQ(result.rejected, world.broken.size());
  EXPECT_FALSE(world.broken.count(result.best.schedule.text()));
  EXPECT_TRUE(result.wins);
  // Nothing but the default works.
  for (size_t i = 1; i < world.candidates.size(); ++i)
    world.broken.insert(world.candidates[i].schedule.text());
  EXPECT_FALSE(world.run({}, true).wins);
  world.broken.insert(world.candidates[0].schedule.text());
  EXPECT_THROW(world.run(), std::runtime_error);
}

TEST(Search, AFinalThatCannotBeMeasuredLeavesTheDefault) {
  World world;
  world.duels = false;
  EXPECT_FALSE(world.run().wins);
}

TEST(Search, StopsWhenTheTimeIsUp) {
  World world;
  world.timeLeft = 5;
  SearchResult result = world.run();
  EXPECT_EQ(result.tried, 5u);
}

TEST(Search, GoesOnFromWhatIsKnown) {
  World world;
  SearchResult first = world.run({}, true);
  std::map<std::string, Trial> known;
  for (const Trial &trial : first.trials)
    known[trial.schedule.text()] = trial;
  world.attempts = 0;
  SearchResult second = world.run(known, true);
  EXPECT_EQ(world.attempts, 1); // the default, which everything is compared with
  EXPECT_EQ(second.remembered, world.candidates.size() - 1);
  EXPECT_TRUE(second.wins);
}

TEST(Search, BeatsByTheMarginAndTheNoise) {
  Trial base, mine;
  base.us = {100, 100, 100, 100};
  mine.us = {97.9, 97.9, 97.9};
  EXPECT_TRUE(beats(mine, base));
  mine.us = {98.1, 98.1, 98.1};
  EXPECT_FALSE(beats(mine, base));
  mine.us = {80, 97, 110};
  EXPECT_FALSE(beats(mine, base));
  mine.us = {};
  EXPECT_FALSE(beats(mine, base));
}

} // namespace
