// hyperjit env: every setting, its value and where the value came from.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <fmt/format.h>

namespace hyperjit::tools {

/// What an unset variable comes to on this machine; empty where its default says all.
static std::string effective(std::string_view name, const Settings &settings) {
  if (name == "HYPERJIT_CACHE_DIR")
    return settings.cacheDirectory.empty() ? "none: HOME is not set" : settings.cacheDirectory;
  if (name == "HYPERJIT_COMPILE_JOBS")
    return fmt::format("{}", settings.compileJobs ? settings.compileJobs : defaultCompileJobs());
  if (name == "HYPERJIT_COMPILER_PATH") {
    std::vector<std::string> places = CompilerPlugin().candidates();
    for (const std::string &place : places)
      if (std::error_code error; std::filesystem::exists(place, error))
        return place;
    return "not there";
  }
  return {};
}

static int run(const std::string &json) {
  // Typed at once, so that a value that means nothing is found here and not in the middle of a run; told after the
  // table.
  Settings settings;
  std::exception_ptr wrong;
  try {
    settings = Settings::fromEnvironment();
  } catch (const Error &) {
    wrong = std::current_exception();
  }
  Table table({"variable", "value", "from", "takes", "meaning"});
  Json answer = jsonHead("env", "none");
  answer["settings"] = Json::array();
  for (const EnvironmentVariable &variable : environmentTable()) {
    auto value = environment(variable.name);
    std::string inForce = wrong ? std::string() : effective(variable.name, settings);
    table.add({std::string(variable.name),
               value             ? *value
               : inForce.empty() ? std::string(variable.defaultValue)
                                 : inForce,
               value ? "environment" : "default", std::string(variable.values), std::string(variable.meaning)});
    answer["settings"].push_back({{"name", variable.name},
                                  {"value", value.value_or(std::string(variable.defaultValue))},
                                  {"from", value ? "environment" : "default"},
                                  {"takes", variable.values},
                                  {"meaning", variable.meaning}});
    if (!inForce.empty())
      answer["settings"].back()["in_force"] = inForce;
  }
  answer["unknown"] = Json::array();
  auto unknown = unknownEnvironment();
  for (auto &[name, near] : unknown) {
    answer["unknown"].push_back({{"name", name}, {"nearest", near}});
    say("{} is set but means nothing{}", name, near.empty() ? "" : fmt::format("; did you mean {}?", near));
  }
  if (json.empty())
    fmt::print("{}", table.text());
  writeJson(answer, json);
  if (wrong)
    std::rethrow_exception(wrong);
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
