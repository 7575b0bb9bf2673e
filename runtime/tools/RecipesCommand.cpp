// hyperjit recipes: every recipe with its equation, options and parameters.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <fmt/format.h>

#include <iostream>

namespace hyperjit::tools {

namespace {

struct Options {
  std::string recipe, json;
  SpecArguments specs;
};

std::string shapeText(const std::vector<int64_t> &shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

void print(const RecipeInfo &info, const std::vector<ParameterInfo> &parameters,
           const std::vector<CarryInfo> &carries) {
  fmt::print("{}: {}\n", info.name, info.summary);
  if (!info.paper.empty())
    fmt::print("  {}\n", info.paper);
  if (!info.equation.empty())
    fmt::print("  {}\n", info.equation);
  for (const RecipeOption &option : info.options)
    fmt::print("  option {}={} {}{}{}\n", option.name, option.defaultValue,
               option.values.empty() ? "" : fmt::format("[{}] ", fmt::join(option.values, "|")), option.meaning,
               option.kernel ? "" : " (module only)");
  for (const ParameterInfo &parameter : parameters)
    fmt::print("  parameter {} {} {}\n", parameter.name, shapeText(parameter.shape), parameter.initialisation.text);
  for (const CarryInfo &carry : carries)
    fmt::print("  carry {} {} from site to site{}\n", carry.name, shapeText({carry.size}),
               carry.start.empty() ? "" : fmt::format(", starts at {}", fmt::join(carry.start, ",")));
}

// Shapes are shown for n = 4 and d = 512; a recipe that takes one stream shows four fracs of it instead, and a recorded
// program the only n and m it has.
SiteSpec shownSpec(const std::string &recipe) {
  SiteSpec spec;
  spec.recipe = recipe;
  if (RecipeInfo info = ProgramSource::global().describe(recipe); info.n) {
    spec.n = info.n;
    spec.m = info.m;
    spec.d = 512 / info.m * info.m;
    return spec;
  }
  try {
    ProgramSource::global().parameters(spec);
  } catch (const UserError &) {
    spec.n = 1;
    spec.m = 4;
  }
  return spec;
}

int run(const Options &options) {
  options.specs.open();
  ProgramSource &programs = ProgramSource::global();
  std::vector<std::string> names = programs.recipes();
  if (!options.recipe.empty()) {
    if (std::find(names.begin(), names.end(), options.recipe) == names.end())
      throw UsageError(unknownWord("recipe", options.recipe, names));
    names = {options.recipe};
  }
  Json answer = jsonHead("recipes", "none");
  answer["recipes"] = Json::array();
  for (const std::string &name : names) {
    RecipeInfo info = programs.describe(name);
    const SiteSpec spec = shownSpec(name);
    std::vector<ParameterInfo> parameters = programs.parameters(spec);
    const std::vector<CarryInfo> carries = programs.site(programs.normalise(spec))->signature.carriesIn;
    Json entry = {{"name", info.name}, {"summary", info.summary}, {"paper", info.paper}, {"equation", info.equation}};
    entry["options"] = Json::array();
    for (const RecipeOption &option : info.options)
      entry["options"].push_back({{"name", option.name},
                                  {"default", option.defaultValue},
                                  {"values", option.values},
                                  {"meaning", option.meaning},
                                  {"kernel", option.kernel}});
    entry["parameters"] = Json::array();
    for (const ParameterInfo &parameter : parameters)
      entry["parameters"].push_back({{"name", parameter.name},
                                     {"shape", parameter.shape},
                                     {"dtype", std::string(hyperjit::name(parameter.dtype))},
                                     {"initialisation", parameter.initialisation.text}});
    entry["carries"] = Json::array();
    for (const CarryInfo &carry : carries)
      entry["carries"].push_back({{"name", carry.name}, {"shape", {carry.size}}, {"start", carry.start}});
    answer["recipes"].push_back(std::move(entry));
    if (options.json.empty())
      print(info, parameters, carries);
  }
  if (options.json.empty())
    fmt::print("\nShapes are those of n=4,m=1,d=512 (n=1,m=4,d=512 where there is one stream; a recorded program has "
               "its own n and m). Every recipe takes n, m, d, dtype, branch, branch_in, branch_out, "
               "weight: manifold:n=4,d=4096,dtype=bf16\n");
  writeJson(answer, options.json);
  return exitOk;
}

} // namespace

void addRecipes(CLI::App &app, int &exit) {
  auto options = std::make_shared<Options>();
  CLI::App *command = app.add_subcommand("recipes", "list the recipes with their equations, options and parameters");
  command->add_option("RECIPE", options->recipe, "only this one");
  options->specs.addRecipes(*command);
  addJson(*command, options->json);
  command->footer(examples("recipes", "recipes manifold --json"));
  command->callback([options, &exit] { exit = run(*options); });
}

} // namespace hyperjit::tools
