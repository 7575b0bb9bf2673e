// What the commands that take a file of specs share: a wrong line is said, and the others are good.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Console.h"

#include <functional>
#include <string>
#include <vector>

namespace hyperjit::tools {

struct SpecText {
  std::string text, where; ///< where it stood: "" on the command line, "FILE, line 7" in a file
};

struct SpecMistake {
  std::string text, error; ///< error: "FILE, line 7: what is wrong"
};

/// Gives each spec to `take`, which throws where it is none. A mistake on the command line is one of usage and ends the
/// command; one in a file is said and returned, and the rest goes on.
std::vector<SpecMistake> eachSpec(const std::vector<SpecText> &specs,
                                  const std::function<void(const SpecText &)> &take);

/// [{"spec", "error"}], the "failed" of the commands' JSON.
Json mistakesJson(const std::vector<SpecMistake> &mistakes);

} // namespace hyperjit::tools
