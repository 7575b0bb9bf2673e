// hyperjit autotune: its name is taken and it says that it is not there yet, so that no script takes silence for a result.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

namespace hyperjit::tools {

void addAutotune(CLI::App &app, int &exit) {
  CLI::App *command = app.add_subcommand("autotune", "not there yet: searches schedules by measuring them");
  command->allow_extras();
  command->footer(examples("show manifold:n=4,d=4096,dtype=bf16 --target sm_90a", "bench manifold:n=4,d=512"));
  command->callback([&exit] {
    throw EnvironmentProblem("autotune is NOT THERE YET in this version: nothing was measured and nothing written. Every kernel "
                             "runs with the schedule that the cost model chooses; hyperjit show SPEC --target TARGET prints it, "
                             "hyperjit bench SPEC times it");
  });
}

} // namespace hyperjit::tools
