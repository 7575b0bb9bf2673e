// Schedule.h - how a kernel is executed: a skeleton and its numbers, or "auto" (the cost model picks).
//
//   schedule ::= "auto" | skeleton [":" name "=" integer {"," name "=" integer}]       rows:cluster=2,stages=3,tokens=8
//
// Names are kept sorted, so that equal schedules have equal texts. Which names a skeleton takes, and which numbers are
// legal, is the compiler's knowledge; it refuses others by name. What the names mean: Schedule.cpp.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_SCHEDULE_H
#define HYPERJIT_CORE_SCHEDULE_H

#include "hyperjit/core/Export.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hyperjit {

struct HYPERJIT_EXPORT Schedule {
  std::string skeleton;                                    ///< empty: auto
  std::vector<std::pair<std::string, int64_t>> parameters; ///< sorted by name, each name once

  bool isAuto() const { return skeleton.empty(); }
  std::optional<int64_t> parameter(std::string_view name) const;
  /// Inserts or replaces.
  void set(std::string_view name, int64_t value);

  /// Throws UserError (InvalidSchedule).
  static Schedule parse(std::string_view text);
  std::string text() const;
  /// The text with only the numbers that order a token's sums. Two schedules with the same give a token the same bits.
  std::string order() const;

  bool operator==(const Schedule &) const = default;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_SCHEDULE_H
