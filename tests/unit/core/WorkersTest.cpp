// Pieces of work that threads share.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace hyperjit;

namespace {

TEST(Workers, EachPieceOnce) {
  for (int threads : {1, 2, 7}) {
    std::vector<std::atomic<int>> done(100);
    runAll(
        done.size(), [&](size_t i) { ++done[i]; }, Workers::upTo(threads));
    for (const std::atomic<int> &times : done)
      EXPECT_EQ(times, 1);
  }
  runAll(
      0, [](size_t) { FAIL(); }, Workers::upTo(2));
}

/// Three pieces that wait for one another need three threads.
TEST(Workers, SoManyThreadsAtATime) {
  std::barrier all(3);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  auto work = [&](size_t) {
    all.arrive_and_wait();
    std::lock_guard guard(mutex);
    threads.insert(std::this_thread::get_id());
  };
  runAll(3, work, Workers::upTo(3));
  EXPECT_EQ(threads.size(), 3u);
}

TEST(Workers, TheCallerAloneWhereNoOtherMayEnter) {
  runAll(5, [caller = std::this_thread::get_id()](size_t) { EXPECT_EQ(std::this_thread::get_id(), caller); }, {});
}

/// No more threads than pieces, and each leaves that entered.
TEST(Workers, LeaveAsTheyEntered) {
  int entered = 0;
  std::atomic<int> left{0};
  auto fails = [](size_t i) {
    if (i == 2)
      throw std::runtime_error("two");
  };
  EXPECT_THROW(runAll(4, fails, {[&] { return ++entered > 0; }, [&] { ++left; }}), std::runtime_error);
  EXPECT_EQ(entered, 3);
  EXPECT_EQ(left, 3);
}

/// One that fails keeps no other from being done.
TEST(Workers, AllAreDoneBeforeAFailureIsTold) {
  for (int threads : {1, 3}) {
    std::atomic<int> done{0};
    auto work = [&](size_t i) {
      ++done;
      if (i % 2)
        throw std::runtime_error("odd");
    };
    EXPECT_THROW(runAll(10, work, Workers::upTo(threads)), std::runtime_error);
    EXPECT_EQ(done, 10);
  }
}

} // namespace
