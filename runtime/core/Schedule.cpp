// Schedule.cpp - text of a schedule and the bounds of its numbers.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Schedule.h"

#include "Text.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Target.h"

#include <algorithm>
#include <fmt/format.h>

using namespace hyperjit;

/// Of all skeletons: `blocks` on the CPU, `rows` and `columns` on CUDA. What is legal on a target is the compiler's to
/// say.
static constexpr ScheduleParameter kKnown[] = {
    {"ahead", "whether rows of the next tokens are fetched meanwhile", 0, 1},
    {"blocks", "blocks of an SM", 1, 8},
    {"chunks",
     "most chunks of tokens, each with its own partial sums (and at most one cluster, where sweeps make them)", 1, 256},
    {"cluster", "blocks of a cluster that share a token", 1, 16, true},
    {"columns", "columns of a projection in registers", 1, 6},
    {"lag", "tiles between the stages of a kernel", 1, 8},
    {"parts", "clusters that share the channels of a token", 1, 8, true},
    {"planes", "bf16 planes a weight is split into for tensor cores, 0 without them", 0, 2, true},
    {"preparers", "warps for the maths before the first stage", 1, 12},
    {"ring", "most tiles fetched ahead into shared memory", 2, 32},
    {"slots", "sums of one sweep", 32, 96},
    {"stream", "MiB of a launch's rows from which on its results are stored past the cache", 0, 65536},
    {"sums", "sums of one pass over channels", 1, 28},
    {"tokens", "tokens of a block or tile", 1, 64, true},
    {"unroll", "vectors of channels of a product in registers", 1, 6},
    {"vector", "CPU: bytes of a vector; CUDA: numbers of one load", 1, 64, true},
    {"warps", "compute warps of a block", 1, 16, true},
};

std::span<const ScheduleParameter> Schedule::known() { return kKnown; }

std::optional<int64_t> Schedule::parameter(std::string_view wanted) const {
  for (const auto &[key, value] : parameters)
    if (key == wanted)
      return value;
  return std::nullopt;
}

void Schedule::set(std::string_view wanted, int64_t value) {
  auto place = std::lower_bound(parameters.begin(), parameters.end(), wanted,
                                [](const auto &entry, std::string_view key) { return entry.first < key; });
  if (place != parameters.end() && place->first == wanted)
    place->second = value;
  else
    parameters.emplace(place, wanted, value);
}

Schedule Schedule::parse(std::string_view whole) {
  auto fail = [&](const std::string &why) {
    return UserError(ErrorId::InvalidSchedule,
                     fmt::format("schedule '{}': {}; a schedule is auto or skeleton:name=number,...", whole, why));
  };
  std::string_view text = text::trim(whole);
  Schedule schedule;
  if (text == "auto")
    return schedule;
  size_t colon = text.find(':');
  schedule.skeleton = std::string(text.substr(0, colon));
  if (!text::isWord(schedule.skeleton) || schedule.skeleton == "auto")
    throw fail("it does not start with a skeleton's name");
  if (colon == std::string_view::npos)
    return schedule;
  for (std::string_view piece : text::split(text.substr(colon + 1), ',')) {
    size_t equal = piece.find('=');
    std::string_view key = piece.substr(0, equal);
    if (equal == std::string_view::npos || !text::isWord(key))
      throw fail(fmt::format("'{}' is not name=number", piece));
    std::optional<int64_t> value = text::number<int64_t>(piece.substr(equal + 1));
    if (!value)
      throw fail(fmt::format("{} takes a whole number, not '{}'", key, piece.substr(equal + 1)));
    if (schedule.parameter(key))
      throw fail(fmt::format("'{}' is given twice", key));
    schedule.set(key, *value);
  }
  return schedule;
}

std::string Schedule::text() const {
  if (isAuto())
    return "auto";
  std::string text = skeleton;
  char separator = ':';
  for (const auto &[key, value] : parameters) {
    text += fmt::format("{}{}={}", separator, key, value);
    separator = ',';
  }
  return text;
}

std::string Schedule::order() const {
  Schedule ordering;
  ordering.skeleton = skeleton;
  for (const auto &[key, value] : parameters) {
    const auto *row =
        std::find_if(std::begin(kKnown), std::end(kKnown), [&](const auto &row) { return row.name == key; });
    // A number that nobody knows may order anything.
    if (row == std::end(kKnown) || row->orders)
      ordering.set(key, value);
  }
  return ordering.text();
}

void Schedule::check(const Target &target) const {
  for (const auto &[key, value] : parameters) {
    const auto *row =
        std::find_if(std::begin(kKnown), std::end(kKnown), [&](const auto &row) { return row.name == key; });
    if (row == std::end(kKnown))
      continue; // The skeleton's own; the compiler knows it.
    if (value < row->least || value > row->most)
      throw UserError(ErrorId::InvalidSchedule, fmt::format("schedule '{}': {}={}, {}, is from {} to {}", text(), key,
                                                            value, row->meaning, row->least, row->most));
    if (key == "cluster" && value > target.maxCluster)
      throw UserError(ErrorId::InvalidSchedule, fmt::format("schedule '{}': {} has clusters of at most {} blocks",
                                                            text(), target.text(), target.maxCluster));
  }
}
