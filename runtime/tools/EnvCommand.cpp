// hyperjit env: every setting, its value and where the value came from.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <fmt/format.h>

namespace hyperjit::tools {

static int run(const std::string &json) {
  Table table({"variable", "value", "from", "takes", "meaning"});
  Json answer = jsonHead("env", "none");
  answer["settings"] = Json::array();
  for (const EnvironmentVariable &variable : environmentTable()) {
    auto value = environment(variable.name);
    table.add({std::string(variable.name), value.value_or(std::string(variable.defaultValue)),
               value ? "environment" : "default", std::string(variable.values), std::string(variable.meaning)});
    answer["settings"].push_back({{"name", variable.name}, {"value", value.value_or(std::string(variable.defaultValue))},
                                  {"from", value ? "environment" : "default"}, {"takes", variable.values},
                                  {"meaning", variable.meaning}});
  }
  answer["unknown"] = Json::array();
  auto unknown = unknownEnvironment();
  for (auto &[name, near] : unknown) {
    answer["unknown"].push_back({{"name", name}, {"nearest", near}});
    fmt::print(stderr, "hyperjit: {} is set but means nothing{}\n", name, near.empty() ? "" : fmt::format("; did you mean {}?", near));
  }
  if (json.empty())
    fmt::print("{}", table.text());
  writeJson(answer, json);
  // Typed once, so that a value that means nothing is found here and not in the middle of a run.
  Settings::fromEnvironment();
  return unknown.empty() ? exitOk : exitProblem;
}

void addEnv(CLI::App &app, int &exit) {
  auto json = std::make_shared<std::string>();
  CLI::App *command = app.add_subcommand("env", "every HYPERJIT_* setting, its value and where it came from");
  addJson(*command, *json);
  command->footer(examples("env", "env --json"));
  command->callback([json, &exit] { exit = run(*json); });
}

} // namespace hyperjit::tools
