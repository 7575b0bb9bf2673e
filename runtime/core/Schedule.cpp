// Schedule.cpp - text of a schedule and the bounds of its numbers.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Schedule.h"

#include "Text.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Target.h"

#include <algorithm>
#include <fmt/format.h>

using namespace hyperjit;

static constexpr ScheduleParameter kKnown[] = {
    {"block", "tokens of a block that one worker takes at a time", 1, 65536},
    {"chunks", "most chunks of tokens, each with its own partial sums", 1, 65536},
    {"cluster", "blocks of a cluster that share a token", 1, 16},
    {"planes", "bf16 planes a weight is split into for tensor cores", 1, 3},
    {"stages", "buffers in flight", 1, 16},
    {"threads", "threads of a block", 32, 1024},
    {"tokens", "tokens of a tile", 1, 1024},
    {"unroll", "independent accumulators of a loop", 1, 64},
    {"vector", "numbers of one load", 1, 64},
    {"warps", "compute warps of a block", 1, 32},
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

void Schedule::check(const Target &target) const {
  for (const auto &[key, value] : parameters) {
    const auto *row = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const auto &row) { return row.name == key; });
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
