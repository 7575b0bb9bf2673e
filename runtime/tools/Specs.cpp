// SPDX-License-Identifier: Apache-2.0
#include "Specs.h"

namespace hyperjit::tools {

std::vector<SpecMistake> eachSpec(const std::vector<SpecText> &specs,
                                  const std::function<void(const SpecText &)> &take) {
  std::vector<SpecMistake> mistakes;
  for (const SpecText &spec : specs)
    try {
      take(spec);
    } catch (const std::exception &error) {
      if (spec.where.empty())
        throw;
      mistakes.push_back({spec.text, fmt::format("{}: {}", spec.where, error.what())});
      say("{}: {}", spec.text, mistakes.back().error);
    }
  return mistakes;
}

Json mistakesJson(const std::vector<SpecMistake> &mistakes) {
  Json list = Json::array();
  for (const SpecMistake &mistake : mistakes)
    list.push_back({{"spec", mistake.text}, {"error", mistake.error}});
  return list;
}

} // namespace hyperjit::tools
