// hyperjit demo: trains a small character language model once per connection and compares them.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"
#include "TorchTools.h"

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <fmt/format.h>

namespace hyperjit::tools {

void addDemo(CLI::App &app, int &exit) {
  auto options = std::make_shared<DemoOptions>();
  auto recipes = std::make_shared<SpecArguments>();
  CLI::App *command = app.add_subcommand(
      "demo", "train a small language model on real text with plain and hyper-connections, and compare them");
  command->add_option("--text", options->text,
                      "a UTF-8 file, or a folder of them (the project's own sources and documents)");
  command->add_option("--steps", options->steps, "training steps of each variant")
      ->check(wholeNumber(1000000000))
      ->capture_default_str();
  command
      ->add_option("--variants", options->variants,
                   "comma list of: plain, a recipe, or a spec like dynamic:n=2,tanh=off")
      ->capture_default_str();
  command->add_option("--streams", options->streams, "residual streams n")
      ->check(wholeNumber(1024))
      ->capture_default_str();
  command->add_option("--fracs", options->fracs, "fracs m of the variant frac")
      ->check(wholeNumber(1024))
      ->capture_default_str();
  command->add_option("--dim", options->dim, "model width D")->check(wholeNumber(65536))->capture_default_str();
  command->add_option("--layers", options->layers, "transformer layers; each has two connections")
      ->check(wholeNumber(1000))
      ->capture_default_str();
  command->add_option("--batch", options->batch, "sequences a step")
      ->check(wholeNumber(1000000))
      ->capture_default_str();
  command->add_option("--context", options->context, "characters a sequence")
      ->check(wholeNumber(1000000))
      ->capture_default_str();
  command->add_option("--device", options->device, "auto|cpu|cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of weights, data order and sampled text")
      ->check(CLI::Validator(
          [](std::string &word) {
            uint64_t seed = 0;
            const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), seed);
            return error == std::errc() && end == word.data() + word.size()
                       ? std::string()
                       : fmt::format("{} is no whole number from 0 to {}", word, UINT64_MAX);
          },
          "UINT"))
      ->capture_default_str();
  command->add_option("--plot", options->plot, "SVG of the losses; none: no plot")->capture_default_str();
  command
      ->add_option("--json", options->json,
                   fmt::format("results as JSON ({}); without a word or -: stdout, none: no JSON", options->json))
      ->expected(0, 1)
      ->default_str("-")
      ->type_name("[FILE]");
  recipes->addLibraries(*command);
  command->footer(examples("demo", "demo --variants plain,manifold --steps 500 --text book.txt --plot loss.svg"));
  command->callback([options, recipes, &exit] {
    if (options->plot == "-")
      throw UsageError("--plot -: only JSON goes to the standard output; name a file, or none");
    if (options->plot != "none")
      checkDestination(options->plot);
    if (options->json != "none" && options->json != "-")
      checkDestination(options->json);
    refuseSameFile({{"--plot", options->plot}, {"--json", options->json}});
    recipes->open();
    // Threads that spin while they wait make each other wait where anything else uses the processors: ten times slower.
    // Read by OpenMP when LibTorch is opened; measurements proper (bench) leave it alone.
    ::setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
    exit = reinterpret_cast<DemoEntry>(torchToolsEntry(demoEntryName))(*options);
  });
}

} // namespace hyperjit::tools
