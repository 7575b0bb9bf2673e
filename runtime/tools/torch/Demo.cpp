// hyperjit demo: one small language model, trained once per connection from the same seed on the same batches.
// SPDX-License-Identifier: Apache-2.0
#include "Connection.h"
#include "Console.h"
#include "Corpus.h"
#include "LanguageModel.h"
#include "Measure.h"
#include "Plot.h"
#include "TorchTools.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/torch/Reference.h>

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <iostream>
#include <optional>

namespace hyperjit::tools {

namespace {

constexpr int validationBatches = 8, eagerSteps = 5, tailSteps = 10, sampleLength = 320;
constexpr double peakRate = 3e-3, temperature = 0.7;

struct Variant {
  std::string name;
  std::optional<SiteSpec> site; ///< none: the plain residual
};

struct Run {
  Variant variant;
  int64_t parameters = 0;
  std::vector<double> loss, stepMilliseconds;
  double validationLoss = NAN;
  Timing eagerStep, connectionJit, connectionEager;
  ManagerStatistics jit;
  bool formulas = false; ///< the recipe has some in plain ATen: the kernels stand beside them
  double outputError = 0, gradientError = 0;
  bool complete = false;
  std::string sample;

  double lastLoss() const {
    size_t count = std::min<size_t>(tailSteps, loss.size());
    double sum = 0;
    for (size_t i = loss.size() - count; i < loss.size(); ++i)
      sum += loss[i];
    return sum / double(count);
  }
  Timing step() const {
    // The first steps compile or load kernels and warm the allocator.
    size_t skip = std::min<size_t>(3, stepMilliseconds.size() - 1);
    return summarise({stepMilliseconds.begin() + int64_t(skip), stepMilliseconds.end()});
  }
  double speedup() const { return formulas && eagerStep.median > 0 ? eagerStep.median / step().median : 1.0; }
};

/// A comma inside a spec ("dynamic:n=2,tanh=off") belongs to it: such a piece has '=' and no recipe before it.
std::vector<std::string> splitVariants(const std::string &text) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(',', begin), text.size());
    std::string word = text.substr(begin, end - begin);
    if (!words.empty() && word.find('=') != std::string::npos && word.find(':') == std::string::npos)
      words.back() += "," + word;
    else if (!word.empty())
      words.push_back(word);
    begin = end + 1;
  }
  return words;
}

Variant parseVariant(const std::string &word, const DemoOptions &options) {
  if (word == "plain")
    return {word, std::nullopt};
  ProgramSource &programs = ProgramSource::global();
  std::string recipe = word.substr(0, word.find(':'));
  std::vector<std::string> known = programs.recipes();
  if (std::find(known.begin(), known.end(), recipe) == known.end()) {
    known.insert(known.begin(), "plain");
    throw UsageError(unknownWord("variant", recipe, known));
  }
  // What the text leaves open comes from the options: frac cuts one stream, the others have several.
  bool frac = recipe == "frac";
  std::string text = word + (word.find(':') == std::string::npos ? ":" : ",");
  auto given = [&](std::string_view key) { // a whole key: m is none of norm=
    return word.find(fmt::format(":{}=", key)) != std::string::npos ||
           word.find(fmt::format(",{}=", key)) != std::string::npos;
  };
  if (!given("n"))
    text += fmt::format("n={},", frac ? 1 : options.streams);
  if (!given("m"))
    text += fmt::format("m={},", frac ? options.fracs : 1);
  if (given("d"))
    throw UsageError(fmt::format("variant '{}': the width comes from --dim", word));
  for (const char *key : {"dtype", "branch", "branch_in", "branch_out"})
    if (given(key))
      throw UsageError(fmt::format(
          "variant '{}': {}= is not taken, the demo trains in fp32; leave it out (bench times other dtypes)", word,
          key));
  SiteSpec site = SiteSpec::parse(text + fmt::format("d={}", options.dim));
  site.validate();
  // Unknown options, limits and a recipe without initial values are refused before anything is trained.
  nn::Connection(nn::ConnectionOptions(site).layerIndex(0));
  return {word, site};
}

class Training {
public:
  Training(const DemoOptions &options, const Corpus &corpus, at::Device device)
      : options(options), corpus(corpus), device(device) {
    model.vocabulary = int64_t(corpus.vocabulary.size());
    model.dim = options.dim;
    model.layers = options.layers;
    model.heads = options.dim % 32 == 0 ? options.dim / 32 : 1;
    model.context = options.context;
    at::Tensor all = at::tensor(corpus.characters, at::kLong).to(device);
    int64_t held = std::max<int64_t>(all.size(0) / 10, options.context + 2);
    train = all.slice(0, 0, all.size(0) - held);
    validation = all.slice(0, all.size(0) - held);
  }

  Run run(const Variant &variant);
  const LanguageModelOptions &modelOptions() const { return model; }

private:
  struct Batch {
    at::Tensor ids, targets;
  };
  Batch draw(const at::Tensor &text, at::Generator generator) const {
    at::Tensor start =
        at::randint(text.size(0) - options.context - 1, {options.batch, 1}, generator, at::kLong).to(device);
    at::Tensor index = start + at::arange(options.context + 1, start.options());
    at::Tensor window = text.index_select(0, index.flatten()).view(index.sizes());
    return {window.slice(1, 0, options.context), window.slice(1, 1)};
  }
  static at::Generator generator(uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }
  void compare(LanguageModel &net, HyperConnections &connections, Run &run);
  Timing connectionOnly(HyperConnections &connections);

  const DemoOptions &options;
  const Corpus &corpus;
  at::Device device;
  LanguageModelOptions model;
  at::Tensor train, validation;
};

double learningRate(int64_t step, int64_t steps) {
  double warm = std::max(1.0, 0.1 * double(steps));
  if (double(step) < warm)
    return peakRate * double(step + 1) / warm;
  double rest = (double(step) - warm) / std::max(1.0, double(steps) - warm);
  return peakRate * (0.1 + 0.9 * 0.5 * (1 + std::cos(M_PI * rest)));
}

Run Training::run(const Variant &variant) {
  Run run;
  run.variant = variant;
  torch::manual_seed(options.seed);
  std::shared_ptr<HyperConnections> hyper;
  ConnectionFactory factory = plainConnections();
  if (variant.site)
    factory = [&](int64_t sites, int64_t) { return hyper = std::make_shared<HyperConnections>(*variant.site, sites); };
  LanguageModel net(model, factory);
  net->to(device);
  for (const at::Tensor &parameter : net->parameters())
    run.parameters += parameter.numel();
  torch::optim::AdamW optimizer(net->parameters(),
                                torch::optim::AdamWOptions(peakRate).betas({0.9, 0.99}).weight_decay(0.01));

  auto step = [&](const Batch &batch, int64_t index) {
    for (auto &group : optimizer.param_groups())
      group.options().set_lr(learningRate(index, options.steps));
    optimizer.zero_grad();
    at::Tensor loss = net->loss(batch.ids, batch.targets);
    loss.backward();
    torch::nn::utils::clip_grad_norm_(net->parameters(), 1.0);
    optimizer.step();
    return loss.item<double>();
  };

  ManagerStatistics before = KernelManager::global().statistics();
  Progress progress(variant.name, options.steps);
  at::Generator order = generator(options.seed + 1);
  for (int64_t i = 0; i < options.steps && !interrupted(); ++i) {
    Batch batch = draw(train, order);
    auto start = std::chrono::steady_clock::now();
    run.loss.push_back(step(batch, i));
    synchronise(device);
    run.stepMilliseconds.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    progress.advance(i + 1, fmt::format("loss {:.3f}", run.loss.back()));
  }
  if (interrupted())
    return run;
  progress.finish(fmt::format("loss {:.3f}", run.loss.back()));

  {
    torch::NoGradGuard noGradients;
    at::Generator fixed = generator(options.seed + 2);
    double sum = 0;
    for (int i = 0; i < validationBatches; ++i) {
      Batch batch = draw(validation, fixed);
      sum += net->loss(batch.ids, batch.targets).item<double>();
    }
    run.validationLoss = sum / validationBatches;
  }
  std::vector<int64_t> prompt(corpus.characters.end() - std::min<int64_t>(validation.size(0), options.context),
                              corpus.characters.end());
  prompt.resize(std::min<size_t>(prompt.size(), 48));
  run.sample = corpus.decode(net->generate(prompt, sampleLength, temperature, generator(options.seed + 3)));

  run.formulas = hyper && Reference::knows(*variant.site);
  if (run.formulas)
    compare(net, *hyper, run);
  if (hyper)
    run.connectionJit = connectionOnly(*hyper);
  ManagerStatistics after = KernelManager::global().statistics();
  run.jit.compiled = after.compiled - before.compiled;
  run.jit.memoryHits = after.memoryHits - before.memoryHits;
  run.jit.diskHits = after.diskHits - before.diskHits;
  run.jit.compileMilliseconds = after.compileMilliseconds - before.compileMilliseconds;
  if (run.formulas) {
    hyper->eager = true;
    run.connectionEager = connectionOnly(*hyper);
    std::vector<double> samples;
    at::Generator again = generator(options.seed + 4);
    for (int i = 0; i <= eagerSteps && !interrupted(); ++i) {
      Batch batch = draw(train, again);
      auto start = std::chrono::steady_clock::now();
      step(batch, options.steps - 1);
      synchronise(device);
      if (i > 0)
        samples.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    run.eagerStep = summarise(samples);
  } else if (!hyper) {
    run.eagerStep = run.step();
  }
  run.complete = !interrupted();
  return run;
}

void Training::compare(LanguageModel &net, HyperConnections &connections, Run &run) {
  Batch batch = draw(validation, generator(options.seed + 5));
  auto evaluate = [&](bool eager) {
    connections.eager = eager;
    net->zero_grad();
    at::Tensor logits = net->forward(batch.ids);
    at::cross_entropy_loss(logits.flatten(0, 1), batch.targets.flatten()).backward();
    std::vector<at::Tensor> gradients;
    for (const at::Tensor &parameter : net->parameters())
      gradients.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::zeros_like(parameter));
    return std::pair(logits.detach(), gradients);
  };
  auto [logits, gradients] = evaluate(false);
  auto [wantedLogits, wantedGradients] = evaluate(true);
  connections.eager = false;
  run.outputError = relativeDifference(logits, wantedLogits);
  // Some gradients are zero but for rounding (of a scale whose projection is still zero): these are measured against a
  // millionth of the model's largest, all others against their own largest.
  double largest = 0;
  for (const at::Tensor &gradient : wantedGradients)
    largest = std::max(largest, gradient.abs().max().item<double>());
  for (size_t i = 0; i < gradients.size(); ++i) {
    const double own = wantedGradients[i].abs().max().item<double>();
    const double difference = (gradients[i] - wantedGradients[i]).abs().max().item<double>();
    run.gradientError = std::max(run.gradientError, difference / std::max({own, 1e-6 * largest, 1e-30}));
  }
}

Timing Training::connectionOnly(HyperConnections &connections) {
  // The branches do nothing: what is left is expand, every site, reduce, and their backward.
  std::vector<Branch> branches(size_t(2 * options.layers), [](const at::Tensor &u) { return u; });
  at::Tensor x = at::randn({options.batch, options.context, options.dim}, at::device(device)).requires_grad_();
  at::Tensor cotangent = at::randn_like(x);
  return timed(device, eagerSteps, [&] {
    connections.zero_grad();
    x.mutable_grad() = at::Tensor();
    connections.forward(x, branches).backward(cotangent);
  });
}

Json timingJson(const Timing &timing) { return {{"median", timing.median}, {"min", timing.min}, {"max", timing.max}}; }

Json runJson(const Run &run) {
  const bool beside = run.formulas || !run.variant.site; // else there is nothing that the kernels could be held against
  auto ifSo = [beside](Json value) { return beside ? std::move(value) : Json(); };
  return {{"variant", run.variant.name},
          {"spec", run.variant.site ? run.variant.site->text() : ""},
          {"parameters", run.parameters},
          {"loss", run.loss},
          {"validation_loss", run.validationLoss},
          {"step_ms", timingJson(run.step())},
          {"eager_step_ms", ifSo(timingJson(run.eagerStep))},
          {"connection_ms", {{"jit", run.connectionJit.median}, {"eager", ifSo(run.connectionEager.median)}}},
          {"speedup", ifSo(run.speedup())},
          {"jit",
           {{"compiled", run.jit.compiled},
            {"memory_hits", run.jit.memoryHits},
            {"disk_hits", run.jit.diskHits},
            {"compile_ms", run.jit.compileMilliseconds}}},
          {"max_output_error", ifSo(run.outputError)},
          {"max_gradient_error", ifSo(run.gradientError)},
          {"sample", run.sample}};
}

int demo(const DemoOptions &options) {
  at::Device device = chooseDevice(options.device);
  std::vector<Variant> variants;
  for (const std::string &word : splitVariants(options.variants))
    variants.push_back(parseVariant(word, options));
  if (variants.empty())
    throw UsageError("--variants names no variant");
  Corpus corpus = readCorpus(options.text, 20 * (options.context + 2));
  Training training(options, corpus, device);
  const LanguageModelOptions &model = training.modelOptions();
  std::string name = deviceName(device);
  tell(fmt::format(
      "text: {}, {}, {} different characters\nmodel: {} layers, width {}, {} heads, context {}, batch {}, {} "
      "steps; on {}\n",
      corpus.source, humanBytes(corpus.bytes), corpus.vocabulary.size(), model.layers, model.dim, model.heads,
      model.context, options.batch, options.steps, name));

  std::vector<Run> runs;
  for (const Variant &variant : variants) {
    Run run = training.run(variant);
    if (run.complete)
      runs.push_back(std::move(run));
    if (interrupted())
      break;
  }

  bool jsonToStdout = options.json == "-";
  // Where it is no data, it may be lost; what stdout lost is said at the end.
  auto print = [out = jsonToStdout ? stderr : stdout](const std::string &text) {
    std::fwrite(text.data(), 1, text.size(), out);
  };
  if (!runs.empty()) {
    Table training(
        {"variant", "parameters", "first loss", "last loss", "validation", "step ms", "eager step ms", "speedup"});
    Table kernels({"variant", "connections ms", "eager ms", "speedup", "compiled", "from disk", "in memory",
                   "output diff", "gradient diff"});
    bool any = false;
    for (const Run &run : runs) {
      const bool jit = run.variant.site.has_value();
      auto only = [&](std::string text) { return run.formulas ? std::move(text) : std::string("-"); };
      training.add({run.variant.name, humanCount(run.parameters), fmt::format("{:.3f}", run.loss.front()),
                    fmt::format("{:.3f}", run.lastLoss()), fmt::format("{:.3f}", run.validationLoss),
                    fmt::format("{:.1f}", run.step().median), only(fmt::format("{:.1f}", run.eagerStep.median)),
                    only(fmt::format("{:.2f}x", run.speedup()))});
      any |= jit;
      if (jit)
        kernels.add({run.variant.name, fmt::format("{:.2f}", run.connectionJit.median),
                     only(fmt::format("{:.2f}", run.connectionEager.median)),
                     only(fmt::format("{:.2f}x", run.connectionEager.median / run.connectionJit.median)),
                     fmt::format("{}", run.jit.compiled), fmt::format("{}", run.jit.diskHits),
                     fmt::format("{}", run.jit.memoryHits), only(fmt::format("{:.1e}", run.outputError)),
                     only(fmt::format("{:.1e}", run.gradientError))});
    }
    print(fmt::format("\n{}last loss: mean of the last {} steps; eager: the same connections in plain ATen\n",
                      training.text(), tailSteps));
    if (any)
      print(fmt::format(
          "\n{}connections: all {} of a step without their branches, forward and backward; compiled, from disk, "
          "in memory: kernels;\n"
          "diff: largest difference from eager over its largest value\n",
          kernels.text(), 2 * model.layers));
    print("\n");
  }

  Plot plot;
  plot.title = "Training loss";
  plot.subtitle = fmt::format("{} layers, width {}, {} steps, {}", model.layers, model.dim, options.steps, name);
  plot.xLabel = "step";
  plot.yLabel = "cross entropy per character (mean of 9 steps)";
  for (const Run &run : runs) {
    Curve curve{run.variant.name, {}, smoothed(run.loss, 9), !run.variant.site.has_value()};
    for (size_t i = 0; i < run.loss.size(); ++i)
      curve.x.push_back(double(i + 1));
    plot.curves.push_back(std::move(curve));
  }
  bool plotted = options.plot != "none" && !options.plot.empty() && !runs.empty();
  if (plotted) {
    writeFileWhole(options.plot, plot.svg());
    print(fmt::format("plot: {}\n", options.plot));
  }

  Json answer = jsonHead("demo", name);
  answer["text"] = {{"source", corpus.source},
                    {"bytes", corpus.bytes},
                    {"characters", corpus.characters.size()},
                    {"vocabulary", corpus.vocabulary.size()}};
  answer["config"] = {{"steps", options.steps},   {"streams", options.streams}, {"fracs", options.fracs},
                      {"dim", options.dim},       {"layers", options.layers},   {"heads", model.heads},
                      {"batch", options.batch},   {"context", options.context}, {"seed", options.seed},
                      {"learning_rate", peakRate}};
  answer["plot"] = plotted ? options.plot : "";
  answer["interrupted"] = interrupted();
  answer["runs"] = Json::array();
  for (const Run &run : runs)
    answer["runs"].push_back(runJson(run));
  if (options.json != "none")
    writeJson(answer, options.json);
  if (!jsonToStdout && options.json != "none" && !options.json.empty())
    print(fmt::format("results: {}\n", options.json));
  if (!runs.empty())
    print(fmt::format("\nThe model with {} connections continues the text:\n---\n{}\n---\n", runs.back().variant.name,
                      runs.back().sample));
  return interrupted() ? exitProblem : exitOk;
}

} // namespace

} // namespace hyperjit::tools

extern "C" __attribute__((visibility("default"))) int hyperjit_tools_demo(const hyperjit::tools::DemoOptions &options) {
  hyperjit::tools::watchInterrupt();
  return hyperjit::tools::withoutStack([&] { return hyperjit::tools::demo(options); });
}
