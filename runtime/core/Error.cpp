// Error.cpp - the two kinds of error, and help with words that were mistyped.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Error.h"

#include "hyperjit/core/CacheKey.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

using namespace hyperjit;

std::string_view hyperjit::name(ErrorId id) {
  switch (id) {
  case ErrorId::InvalidSpec:
    return "invalid-spec";
  case ErrorId::UnknownRecipe:
    return "unknown-recipe";
  case ErrorId::UnknownKey:
    return "unknown-key";
  case ErrorId::UnknownValue:
    return "unknown-value";
  case ErrorId::InvalidValue:
    return "invalid-value";
  case ErrorId::UnknownTarget:
    return "unknown-target";
  case ErrorId::LimitExceeded:
    return "limit-exceeded";
  case ErrorId::Unsupported:
    return "unsupported";
  case ErrorId::InvalidOperand:
    return "invalid-operand";
  case ErrorId::InvalidRecipe:
    return "invalid-recipe";
  case ErrorId::InvalidSchedule:
    return "invalid-schedule";
  case ErrorId::InvalidSetting:
    return "invalid-setting";
  case ErrorId::MissingKernel:
    return "missing-kernel";
  case ErrorId::NotPrepared:
    return "not-prepared";
  case ErrorId::CompilerMissing:
    return "compiler-missing";
  case ErrorId::BackendMissing:
    return "backend-missing";
  case ErrorId::LibraryMissing:
    return "library-missing";
  case ErrorId::DeviceFailure:
    return "device-failure";
  case ErrorId::InvalidFile:
    return "invalid-file";
  case ErrorId::Internal:
    return "internal";
  case ErrorId::CompilerBug:
    return "compiler-bug";
  case ErrorId::ImageRejected:
    return "image-rejected";
  }
  return "unknown";
}

Error::Error(ErrorId id, const std::string &message) : std::runtime_error(message), errorId(id) {}
// Out of line: one type_info in one library, so that a catch in another library matches.
Error::~Error() = default;
UserError::~UserError() = default;
MissingKernelError::~MissingKernelError() = default;
InternalError::~InternalError() = default;

static std::string internalText(const std::string &message, const std::string &reproducer) {
  std::string text = fmt::format("{}\nThis is a bug in hyperjit {}, please report it with this message.", message,
                                 hyperjit::version());
  if (!reproducer.empty())
    text += "\nTo reproduce: " + reproducer;
  return text;
}

InternalError::InternalError(ErrorId id, const std::string &message, const std::string &reproducer)
    : Error(id, internalText(message, reproducer)) {}

static std::string lower(std::string_view text) {
  std::string result(text);
  for (char &c : result)
    c = c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  return result;
}

/// Edit distance in which swapping two neighbours counts once: the commonest slip of a typist.
static size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i)
    cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j)
    cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  return cost[a.size()][b.size()];
}

std::string hyperjit::nearestWord(std::string_view word, const std::vector<std::string> &words) {
  if (word.empty() || word.size() > 100)
    return {};
  std::string best;
  size_t bestDistance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string &candidate : words) {
    size_t between = distance(lower(word), lower(candidate));
    if (between >= candidate.size()) // as far as any other
      continue;
    // A beginning of at least three letters is meant, however long the rest, before words with another letter.
    if (word.size() >= 3 && lower(candidate).starts_with(lower(word)))
      between = 0;
    if (between < bestDistance) {
      bestDistance = between;
      best = candidate;
    }
  }
  return best;
}

std::string hyperjit::unknownWord(std::string_view kind, std::string_view word, const std::vector<std::string> &words) {
  std::string text = fmt::format("unknown {} '{}'", kind, word);
  if (std::string nearest = nearestWord(word, words); !nearest.empty())
    text += fmt::format("; did you mean '{}'?", nearest);
  else
    text += ".";
  return text +
         (words.empty() ? std::string(" There is none.") : fmt::format(" There are: {}", fmt::join(words, ", ")));
}
