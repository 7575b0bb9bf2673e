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
  int attempts = 0, duelSamples = 0, timeLeft = 1 << 30;
  double clock = 0.3;   ///< what opening took
  double elsewhere = 1; ///< what a fresh process makes of the time of the best
  std::mt19937 random{7};

  World(int a = 8, int b = 16) {
    for (int i = 0; i < a; ++i)
      for (int j = 0; j < b; ++j)
        candidates.push_back(
            {Schedule::parse("blocks:tokens=" + std::to_string(i) + ",unroll=" + std::to_string(j)), 1.0 + i + j});
  }
  std::map<std::string, double> effects; ///< of "name=value" on the logarithm of the time, instead of the valley

  /// As kernels were found to be: a few numbers, each with its own effect, large for some and small for most, and a
  /// little that belongs to the combination. The cost model knows the largest.
  static World ofEffects(int seed, int columns = 4) {
    World world(0, 0);
    std::mt19937 random(seed);
    std::normal_distribution<double> effect(0, 0.03);
    for (int tokens = 0; tokens < 4; ++tokens)
      for (int column = 0; column < columns; ++column)
        for (int ahead = 0; ahead < 2; ++ahead)
          for (int vector = 0; vector < 2; ++vector)
            world.candidates.push_back(
                {Schedule::parse("blocks:ahead=" + std::to_string(ahead) + ",columns=" + std::to_string(column) +
                                 ",tokens=" + std::to_string(tokens) + ",vector=" + std::to_string(vector)),
                 1.0 + tokens + column + 8 * ahead + vector});
    std::stable_sort(world.candidates.begin(), world.candidates.end(),
                     [](const ScheduleCandidate &a, const ScheduleCandidate &b) { return a.cost < b.cost; });
    world.effects["ahead=0"] = 0, world.effects["ahead=1"] = 0.25;
    for (const ScheduleCandidate &candidate : world.candidates) {
      for (const auto &[name, value] : candidate.schedule.parameters)
        world.effects.emplace(name + "=" + std::to_string(value), (name == "vector" ? 4 : 1) * effect(random));
      world.effects.emplace(candidate.schedule.text(), 0.2 * effect(random));
    }
    return world;
  }
  double truth(const Schedule &schedule) const {
    if (!effects.empty()) {
      double sum = effects.at(schedule.text());
      for (const auto &[name, value] : schedule.parameters)
        sum += effects.at(name + "=" + std::to_string(value));
      return 100 * std::exp(sum);
    }
    auto i = double(*schedule.parameter("tokens")), j = double(*schedule.parameter("unroll"));
    return 100 * (1 - valley * std::exp(-((i - 5) * (i - 5) + (j - 9) * (j - 9)) / 30));
  }
  double sample(const Schedule &schedule) {
    return truth(schedule) * std::normal_distribution<double>(1, noise)(random);
  }

  SearchResult run(const std::map<std::string, Trial> &known = {}, bool exhaustive = false) {
    SearchTools tools;
    tools.attempt = [&](const Schedule &schedule, int samples, double hopeless) {
      ++attempts, --timeLeft;
      clock += 0.1;
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
        for (size_t k = 0; k < schedules.size(); ++k, ++duelSamples) {
          times[k].push_back(sample(schedules[k]));
          clock += 2e-4;
        }
      return times;
    };
    tools.confirm = [&](const std::vector<Schedule> &schedules, int samples) {
      clock += 0.3;
      std::vector<std::vector<double>> times = tools.duel(schedules, samples);
      for (double &us : times[1])
        us *= elsewhere;
      return times;
    };
    tools.timeUp = [&] { return timeLeft <= 0; };
    tools.seconds = [&] { return clock; };
    tools.progress = [](const Trial &, size_t done, size_t planned, double, double) { EXPECT_LE(done, planned); };
    return search(candidates, known, exhaustive, tools);
  }
};

TEST(Search, ComesNearTheBestInAFifthOfTheTime) {
  for (int columns : {4, 64}) {
    int near = 0;
    for (int seed = 1; seed <= 20; ++seed) {
      World world = World::ofEffects(seed, columns), all = World::ofEffects(seed, columns);
      SearchResult found = world.run();
      SearchResult exhaustive = all.run({}, true);
      EXPECT_EQ(exhaustive.tried, all.candidates.size());
      EXPECT_LE(world.clock, 0.2 * all.clock);
      near += world.truth(found.best.schedule) <= 1.03 * all.truth(exhaustive.best.schedule);
    }
    EXPECT_GE(near, 16) << columns;
  }
}

TEST(Search, GoesFarFromWhereTheCostModelPoints) {
  World world(8, 64);
  SearchResult found = world.run();
  EXPECT_TRUE(found.wins);
  EXPECT_LT(world.truth(found.best.schedule), 55); // of 50 to 100
}

TEST(Search, TriesALittleWhereTryingEverythingIsShort) {
  World world(2, 6);
  EXPECT_EQ(world.run().tried, leastTried);
  World slow(2, 6); // opening takes so long that a fifth of everything is more than all candidates
  slow.clock = 100;
  EXPECT_EQ(slow.run().tried, leastTried);
}

TEST(Search, TakesFewerSamplesWhereTheyAgree) {
  World clear, close;
  clear.noise = 0.001;
  close.valley = 0.05, close.noise = 0.1;
  clear.run({}, true), close.run({}, true);
  EXPECT_LT(clear.duelSamples, close.duelSamples);
}

TEST(Search, TriesAnotherSkeletonWhereverItsCostsStand) {
  World world;
  world.candidates.push_back({Schedule::parse("rows:tokens=5,unroll=9"), 1e6});
  SearchResult result = world.run();
  EXPECT_EQ(result.trials[1].schedule, world.candidates.back().schedule);
  EXPECT_EQ(result.best.schedule, world.candidates.back().schedule);
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

TEST(Search, WhatWinsInOneProcessOnlyLeavesTheDefault) {
  World world;
  world.elsewhere = 2.2;
  SearchResult result = world.run();
  EXPECT_FALSE(result.wins);
  EXPECT_EQ(result.best.schedule, world.candidates[0].schedule);
  world.elsewhere = 1.2; // what a fresh process says is what is reported
  result = world.run();
  EXPECT_TRUE(result.wins);
  EXPECT_NEAR(result.best.median(), 1.2 * world.truth(result.best.schedule), 1);
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
