// The `hyperjit` command: one sub-command a file. stdout is data, stderr is progress and log.
// Exit: 0 ok, 1 a problem was found, 2 usage, 3 environment.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <cstdio>
#include <iostream>

using namespace hyperjit::tools;

/// Words that nobody knows, with the nearest that somebody does: the parser would call them extra arguments.
static void checkWords(const CLI::App &app, int argc, char **argv) {
  const CLI::App *command = &app;
  std::string path;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--" || command->get_allow_extras())
      return;
    if (word.starts_with("--")) {
      word = word.substr(2, word.find('=') - 2);
      std::vector<std::string> names;
      for (const CLI::Option *option : command->get_options())
        for (const std::string &name : option->get_lnames())
          names.push_back(name);
      if (std::find(names.begin(), names.end(), word) == names.end())
        throw UsageError(hyperjit::unknownWord("option" + (path.empty() ? "" : " of " + path), word, names));
      continue;
    }
    auto commands = command->get_subcommands([](const CLI::App *) { return true; });
    if (commands.empty() || word.starts_with("-"))
      continue;
    std::vector<std::string> names;
    for (const CLI::App *each : commands)
      names.push_back(each->get_name());
    auto found = std::find(names.begin(), names.end(), word);
    if (found == names.end())
      throw UsageError(hyperjit::unknownWord("command" + (path.empty() ? "" : " of " + path), word, names));
    command = commands[size_t(found - names.begin())];
    path += (path.empty() ? "" : " ") + word;
  }
}

/// A word after --json is a spec or a key as often as a file, and a file is overwritten: where the option says
/// FILE.json, a word that does not end so stays the command's own.
static std::vector<const char *> settleJson(const CLI::App &app, int argc, char **argv) {
  std::vector<const char *> words(argv, argv + argc);
  const CLI::App *command = &app;
  for (int i = 1; i < argc; ++i) {
    std::string_view word = argv[i];
    if (word == "--")
      break;
    for (const CLI::App *next :
         command->get_subcommands([&](const CLI::App *each) { return each->get_name() == word; }))
      command = next;
    if (word != "--json" || i + 1 == argc)
      continue;
    const CLI::Option *json = command->get_option_no_throw("--json");
    std::string_view file = argv[i + 1];
    if (json && json->get_type_name() == "[FILE.json]" && file != "-" && !file.ends_with(".json"))
      words[size_t(i)] = "--json=-";
  }
  return words;
}

int main(int argc, char **argv) {
  holdStandardDescriptors();
  CLI::App app(
      "hyperjit makes fused kernels for hyper-connections, forward and backward, from a description of one token's "
      "mathematics",
      "hyperjit");
  app.set_version_flag("--version", "hyperjit " + std::string(hyperjit::version()));
  app.require_subcommand(1);
  app.footer(examples("demo --variants plain,manifold", "show manifold:n=4,d=4096,dtype=bf16 --traffic"));
  int exit = exitOk;
  addDemo(app, exit);
  addShow(app, exit);
  addPrecompile(app, exit);
  addAutotune(app, exit);
  addBench(app, exit);
  addCache(app, exit);
  addRecipes(app, exit);
  addEnv(app, exit);
  addDoctor(app, exit);
  try {
    checkWords(app, argc, argv);
    app.parse(argc, settleJson(app, argc, argv).data());
  } catch (const CLI::ParseError &error) {
    exit = app.exit(error) == 0 ? exitOk : exitUsage;
  } catch (const std::exception &error) {
    if (!std::ferror(stdout)) // else what follows says it
      exit = report(error);
  } catch (...) { // a recipe's code, whatever it throws
    say("what a recipe threw is no std::exception");
    exit = exitUsage;
  }
  // What did not arrive is no success: a full disk, a closed descriptor.
  if (!std::cout.flush() || std::fflush(stdout) != 0 || std::ferror(stdout)) {
    say("not all could be written to the standard output");
    return exitEnvironment;
  }
  return exit;
}
