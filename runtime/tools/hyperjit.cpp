// The `hyperjit` command: one sub-command a file. stdout is data, stderr is progress and log.
// Exit: 0 ok, 1 a problem was found, 2 usage, 3 environment.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <cstdio>

using namespace hyperjit::tools;

int main(int argc, char **argv) {
  CLI::App app("hyperjit makes fused kernels for hyper-connections, forward and backward, from a description of one token's "
               "mathematics",
               "hyperjit");
  app.set_version_flag("--version", "hyperjit " + std::string(hyperjit::version()));
  app.require_subcommand(1);
  app.footer(examples("demo --variants plain,manifold", "show manifold:n=4,d=4096,dtype=bf16 --traffic"));
  int exit = exitOk;
  addDemo(app, exit);
  addShow(app, exit);
  addPrecompile(app, exit);
  addBench(app, exit);
  addCache(app, exit);
  addRecipes(app, exit);
  addEnv(app, exit);
  addDoctor(app, exit);
  watchInterrupt();
  try {
    // A word that is no sub-command would be reported as an extra argument; the nearest command helps more.
    if (argc > 1 && argv[1][0] != '-') {
      std::vector<std::string> names;
      for (const CLI::App *command : app.get_subcommands([](const CLI::App *) { return true; }))
        names.push_back(command->get_name());
      if (std::find(names.begin(), names.end(), argv[1]) == names.end())
        throw UsageError(hyperjit::unknownWord("command", argv[1], names));
    }
    app.parse(argc, argv);
  } catch (const CLI::ParseError &error) {
    return app.exit(error) == 0 ? exitOk : exitUsage;
  } catch (const std::exception &error) {
    return report(error);
  }
  return exit;
}
