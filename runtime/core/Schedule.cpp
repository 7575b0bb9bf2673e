// Schedule.cpp - text of a schedule, and which of its numbers order sums.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Schedule.h"

#include "Text.h"
#include "hyperjit/core/Error.h"

#include <algorithm>
#include <fmt/format.h>

using namespace hyperjit;

/// Of all skeletons, `blocks` on the CPU, `rows` and `columns` on CUDA; what is legal is the compiler's to say.
struct Number {
  std::string_view name;
  bool orders = false;          ///< it decides the order in which a token's numbers are summed, so their last bits
  std::string_view except = {}; ///< a skeleton in which it does not
};
static constexpr Number kNumbers[] = {
    {"ahead"},                   // whether rows of the next tokens are fetched meanwhile
    {"apart"},                   // percent of a wave from which on each warp has tokens of its own (1: always)
    {"blocks"},                  // blocks of an SM
    {"chunks"},                  // most chunks of tokens with partial sums of their own
    {"cluster", true},           // blocks of a cluster that share a token
    {"columns"},                 // columns of a projection in registers
    {"lag"},                     // tiles between the stages of a kernel
    {"parts", true},             // clusters that share the channels of a token
    {"planes", true},            // bf16 planes a weight is split into for tensor cores, 0 without them
    {"preparers"},               // warps for the maths before the first stage
    {"ranges", true},            // of a row's channels, each summed by itself, instead of chunks in turn
    {"ring"},                    // most tiles fetched ahead into shared memory
    {"slots"},                   // sums of one sweep
    {"stream"},                  // MiB of a launch's rows from which on its results are stored past the cache
    {"sums"},                    // sums of one pass over channels
    {"tokens", true, "columns"}, // tokens of a block or tile; in `columns` a lane has the same channels with any number
    {"unroll"},                  // vectors of channels of a product in registers
    {"vector", true},            // CPU: bytes of a vector; CUDA: numbers of one load
    {"warps", true},             // compute warps of a block
};

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
    const Number *number =
        std::find_if(std::begin(kNumbers), std::end(kNumbers), [&](const Number &each) { return each.name == key; });
    // A number that nobody knows may order anything.
    if (number == std::end(kNumbers) || (number->orders && skeleton != number->except))
      ordering.set(key, value);
  }
  return ordering.text();
}
