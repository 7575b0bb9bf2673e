// hyperjit bench: time and share of copy bandwidth of chained sites, against plain ATen.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"
#include "TorchTools.h"

#include <algorithm>
#include <fmt/format.h>

namespace hyperjit::tools {

void addBench(CLI::App &app, int &exit) {
  auto options = std::make_shared<BenchOptions>();
  auto specs = std::make_shared<SpecArguments>();
  CLI::App *command = app.add_subcommand(
      "bench", "time chained sites forward and backward against plain ATen, with the copy bandwidth of the same run");
  specs->add(*command, true);
  command->get_option("SPEC")->description("recipe:key=value,...; with --mode alone also a kernel's text");
  command->add_option("--tokens", options->tokens, "comma list of token counts")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(wholeNumber(kMostTokens))
      ->capture_default_str();
  command->add_option("--against", options->against, "comma list: eager (plain ATen formulas); none")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"eager", "none"}))
      ->capture_default_str();
  command
      ->add_option("--mode", options->modes,
                   "comma list: chain (sites of a chain), alone (each kernel by itself), decode (a boundary of few "
                   "tokens without gradients)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"chain", "alone", "decode"}))
      ->capture_default_str();
  command
      ->add_option("--schedule", options->schedules,
                   "time kernels, given by their text, with this schedule instead of the one that runs: "
                   "skeleton:name=integer,... as `autotune --list` prints them; may be given again, for several")
      ->allow_extra_args(false);
  command->add_option("--sites", options->sites, "sites of a chain, each with parameters of its own")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--device", options->device, "auto|cpu|cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "timed repetitions; the median is reported")
      ->check(wholeNumber(1000000))
      ->capture_default_str();
  command
      ->add_option("--allocator", options->allocator,
                   "CPU memory: keep freed blocks in the process, or leave them to the system's allocator")
      ->check(CLI::IsMember({"keep", "system"}))
      ->capture_default_str();
  command->add_flag("--check,!--no-check", options->check,
                    "hold each chain against its formulas in fp64 and compare the bits of ten runs, when all is timed");
  writes(command->add_option("--plot", options->plot, "SVG of the shares of copy bandwidth"));
  addJson(*command, options->json);
  command->footer(
      examples("bench manifold:n=4,d=512 --tokens 4096 --sites 4",
               "bench --specs specs.txt --device cuda --tokens 8192 --mode chain,alone,decode --json bench.json"));
  command->callback([options, specs, &exit] {
    if (!options->plot.empty() &&
        std::find(options->modes.begin(), options->modes.end(), "chain") == options->modes.end())
      throw UsageError("--plot shows chains, and --mode names none; add chain to --mode or leave --plot out");
    refuseSameFile({{"--plot", options->plot}, {"--json", options->json}, {"--specs", specs->specsFile}});
    specs->open();
    if (specs->specs.empty() && specs->specsFile.empty())
      options->specs = {
          {"static:n=4,d=512", ""}, {"dynamic:n=4,d=512", ""}, {"frac:n=1,m=4,d=512", ""}, {"manifold:n=4,d=512", ""}};
    else
      options->specs = specs->read();
    exit = reinterpret_cast<BenchEntry>(torchToolsEntry(benchEntryName))(*options);
  });
}

} // namespace hyperjit::tools
