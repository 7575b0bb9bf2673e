// hyperjit bench: a chain of sites forward and backward, against plain ATen, with the copy bandwidth of the same run.
// SPDX-License-Identifier: Apache-2.0
//
// The counted traffic u comes from the compiler's own kernels; share = bytes of u / time / copy bandwidth.
#include "Alone.h"
#include "Calls.h"
#include "Chain.h"
#include "Report.h"
#include "TorchGraph.h"
#include "TorchTools.h"
#include "torch/Measure.h"

#include <hyperjit/core/Environment.h>
#include <hyperjit/core/Error.h>
#include <hyperjit/core/ProgramSource.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/cuda/Cuda.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>

namespace hyperjit::tools {

namespace {

/// Runs of a chain whose bits are compared.
constexpr int kRuns = 10;

int64_t peakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:"))
      return std::stoll(line.substr(6)) * 1024;
  return 0;
}

int bench(const BenchOptions &options) {
  if (options.allocator == "keep")
    keepMemory();
  const OtherWork otherWork;
  at::Device device = chooseDevice(options.device);
  std::string name = deviceName(device);
  auto asked = [](const std::vector<std::string> &list, const char *word) {
    return std::find(list.begin(), list.end(), word) != list.end();
  };
  const bool chains = asked(options.modes, "chain"), alone = asked(options.modes, "alone"),
             decode = asked(options.modes, "decode"), eager = asked(options.against, "eager");
  std::vector<Schedule> schedules(options.schedules.empty() ? 1 : 0);
  for (const std::string &text : options.schedules)
    schedules.push_back(Schedule::parse(text));
  std::vector<SiteSpec> specs;
  std::vector<std::optional<KernelSpec>> kernelTexts; // of each spec: this kernel and no others
  std::vector<SpecMistake> mistakes = eachSpec(options.specs, [&](const SpecText &given) {
    const std::string &text = given.text;
    SiteSpec spec;
    std::optional<KernelSpec> kernel;
    if (isKernelText(text)) {
      if (chains || decode || !alone)
        throw UserError(
            ErrorId::InvalidSpec,
            fmt::format("'{}' is a kernel, and kernels are timed by themselves: write --mode alone, or a site", text));
      kernel = normalise(KernelSpec::parse(text), ProgramSource::global());
      for (int64_t tokens : options.tokens)
        if (bucketOf(tokens) != kernel->bucket)
          throw UserError(ErrorId::InvalidSpec,
                          fmt::format("'{}' is not the kernel for {} tokens; --tokens says how many", text, tokens));
      spec = kernel->before ? *kernel->before : *kernel->after;
    } else if (!options.schedules.empty()) {
      throw UserError(ErrorId::InvalidSchedule,
                      fmt::format("--schedule is of kernels, and '{}' is none: give a kernel's text, as `autotune "
                                  "--dry-run {}` prints them, with --mode alone",
                                  text, text));
    } else if (text.starts_with("boundary(")) {
      throw UserError(ErrorId::InvalidSpec,
                      fmt::format("'{}' names two sites, and a chain has one: write a site, or a kernel of the two "
                                  "('{}:forward:save:tokens=large') with --mode alone",
                                  text, text));
    } else {
      spec = SiteSpec::parse(text);
      spec.validate();
      if (chains && eager && !Reference::knows(ProgramSource::global().normalise(spec)))
        throw UserError(ErrorId::Unsupported,
                        fmt::format("recipe '{}' has no formulas in plain ATen to be timed against; "
                                    "--against none times it by itself",
                                    spec.recipe));
    }
    ProgramSource::global().site(spec);
    specs.push_back(spec);
    kernelTexts.push_back(kernel);
  });
  if (specs.empty()) {
    Json answer = jsonHead("bench", name);
    answer["rows"] = Json::array();
    answer["failed"] = mistakesJson(mistakes);
    writeJson(answer, options.json);
    return exitProblem;
  }
  const Target target = device.is_cuda() ? cuda::targetOf(device.index()) : Target::hostLevel();
  // What a call of a layer costs is asked of sites, with kernels of its own, for which nothing else may ask
  // (HYPERJIT_JIT=off). First of all: CUDA text that this process has compiled already is not compiled again.
  const bool calls = !kernelTexts.back() && Settings::fromEnvironment().jit;
  const Json first = calls ? firstCall(specs.back(), target) : Json();
  double copy = copyBandwidth(device);
  std::vector<Row> rows;
  std::vector<int64_t> few; // tokens of a decoding step
  if (decode) {
    std::copy_if(options.tokens.begin(), options.tokens.end(), std::back_inserter(few),
                 [](int64_t tokens) { return bucketOf(tokens) == Bucket::Small; });
    if (few.empty())
      few = {1, 16};
  }
  const size_t steps = specs.size() * (options.tokens.size() + few.size());
  Progress progress("bench", int64_t(steps));
  int64_t done = 0;
  auto bytesOf = [](const SiteSpec &spec, int64_t tokens) {
    return double(sizeOf(spec.stream)) * double(spec.d) * double(tokens);
  };
  auto addKernel = [&](const SiteSpec &spec, const AloneTiming &one, const char *mode, int64_t tokens) {
    rows.push_back({"hyperjit", one.kernel.text(), one.kernel.direction == Direction::Forward ? "forward" : "backward",
                    mode, one.schedule, tokens, one.us, std::nullopt, std::nullopt, one.u,
                    one.u * bytesOf(spec, tokens) / (one.us.median * 1e3) / copy, 1});
  };
  // A schedule may be for some of the kernels; one that is for none is a mistake of usage.
  std::optional<UserError> refusal;
  auto refused = [&](const KernelSpec &kernel, const Schedule &schedule, const UserError &error) {
    if (!refusal)
      refusal = error;
    mistakes.push_back({kernel.text() + " " + schedule.text(), error.what()});
  };
  // What was under way when the process was asked to end has too few repeats: it is no row.
  for (size_t index = 0; index < specs.size(); ++index) {
    const SiteSpec &spec = specs[index];
    for (int64_t tokens : few) {
      const AloneTiming one = timeDecode(spec, tokens, device, target, options.repeats);
      if (interrupted())
        break;
      addKernel(spec, one, "decode", tokens);
      progress.advance(++done, spec.text());
    }
    for (int64_t tokens : options.tokens) {
      if (interrupted())
        break;
      const double bytes = bytesOf(spec, tokens);
      std::vector<AloneTiming> kernels;
      if (alone)
        kernels =
            timeAlone(kernelTexts[index] ? std::vector{*kernelTexts[index]} : trainingKernels(spec, bucketOf(tokens)),
                      schedules, tokens, device, target, options.repeats, refused);
      std::vector<Row> mine, theirs;
      CountedTraffic counted;
      if (chains && !interrupted()) {
        Chain chain(spec, options.sites, tokens, device);
        counted = countTraffic(spec, options.sites, tokens, target);
        mine = timeChain(chain, false, options.repeats, device);
        if (eager && !interrupted())
          theirs = timeChain(chain, true, options.repeats, device);
      }
      if (interrupted())
        break;
      for (const AloneTiming &one : kernels)
        addKernel(spec, one, "alone", tokens);
      for (std::vector<Row> *list : {&mine, &theirs})
        for (size_t i = 0; i < list->size(); ++i) {
          Row &row = (*list)[i];
          row.u = row.direction == "forward"    ? counted.forward
                  : row.direction == "backward" ? counted.backward
                                                : counted.forward + counted.backward;
          row.share = row.u * bytes / (row.us.median * 1e3) / copy;
          row.speedup = eager ? theirs[i].launched->median / row.launched->median : 1;
          rows.push_back(row);
        }
      progress.advance(++done, spec.text());
    }
    if (interrupted())
      break;
  }
  progress.finish();
  if (rows.empty() && refusal)
    throw *refusal;
  if (refusal)
    say("left out: {}", refusal->what());

  Json answer = jsonHead("bench", name);
  answer["copy_gbps"] = copy;
  answer["sites"] = options.sites;
  answer["allocator"] = options.allocator;
  answer["rows"] = jsonOf(rows);
  LaunchCost launch;
  if (calls) {
    answer["first_call_ms"] = first;
    answer["host_us_per_call"] = hostMicroseconds(specs.back(), device);
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    launch = launchCost(specs.back());
    at::set_num_threads(threads);
    answer["launch_us"] = {{"call", launch.call},
                           {"dispatch", launch.dispatch},
                           {"results", launch.results},
                           {"kernel", launch.kernel},
                           {"own", launch.own() ? Json(*launch.own()) : Json()}};
  }
  answer["peak_bytes"] = peakBytes();
  const double others = otherWork.share();
  answer["other_work"] = others;
  if (others > 0.05)
    say("other processes took {:.0f} % of the processors during this run; its times are not worth keeping",
        100 * others);
  const char *graphs = !device.is_cuda() ? ""
                       : TrainingGraph::available()
                           ? "; hyperjit's chains replayed as graphs, eager's and all speedups as launched"
                           : "; all as launched by the host: this build has no CUDA graphs (install a toolkit or "
                             "nvidia-cuda-crt, build again)";
  if (options.json != "-") {
    fmt::print("{}, copy {:.1f} GB/s, chains of {} sites, times of one site or of one kernel{}\n\n{}\n", name, copy,
               options.sites, graphs, tableOf(rows, !options.schedules.empty()));
    if (calls) {
      fmt::print("one kernel of {}: first call {:.1f} ms", specs.back().text(), first["cold"].get<double>());
      if (first["disk"].is_number())
        fmt::print(", from disk {:.2f} ms", first["disk"].get<double>());
      fmt::print(", from memory {:.2f} us; host {:.1f} us a call at 1 token\n", 1e3 * first["memory"].get<double>(),
                 answer["host_us_per_call"].get<double>());
      const std::string own =
          launch.own() ? fmt::format("{:.2f}", *launch.own()) : "not to be told beside such a kernel";
      fmt::print("boundary operator at 1 token on the CPU: {:.2f} us; dispatcher {:.2f}, making results {:.2f}, kernel "
                 "{:.2f}, hyperjit's own {}\n",
                 launch.call, launch.dispatch, launch.results, launch.kernel, own);
    }
  }
  // When all is timed and said: the formulas in fp64 take time and memory, and may fail for want of it.
  std::vector<Check> checks;
  if (chains && options.check) {
    std::fflush(stdout);
    Progress checking("checks", int64_t(specs.size() * options.tokens.size()));
    int64_t tried = 0;
    for (const SiteSpec &spec : specs)
      for (int64_t tokens : options.tokens) {
        if (interrupted())
          break;
        try {
          checks.push_back(checkChain(Chain(spec, options.sites, tokens, device), kRuns, device));
        } catch (const std::exception &error) {
          mistakes.push_back({spec.text(), fmt::format("the check of {} tokens: {}", tokens, error.what())});
          say("{}: {}", mistakes.back().text, mistakes.back().error);
        }
        checking.advance(++tried, spec.text());
      }
    checking.finish();
  }
  answer["interrupted"] = interrupted();
  answer["failed"] = mistakesJson(mistakes);
  answer["checks"] = jsonOf(checks);
  if (options.json != "-")
    for (const Check &check : checks)
      fmt::print("{}\n", check.text());
  if (!options.plot.empty())
    writeFileWhole(options.plot, plotOf(rows, name, copy, options.sites, graphs).svg());
  writeJson(answer, options.json);
  if (interrupted())
    say("interrupted: {} of {} measured, {} checked", done, steps, checks.size());
  const bool wrong = std::any_of(checks.begin(), checks.end(), [](const Check &check) { return check.wrong(); });
  return interrupted() || wrong || !mistakes.empty() ? exitProblem : exitOk;
}

} // namespace

} // namespace hyperjit::tools

extern "C" __attribute__((visibility("default"))) int
hyperjit_tools_bench(const hyperjit::tools::BenchOptions &options) {
  hyperjit::tools::watchInterrupt();
  return hyperjit::tools::withoutStack([&] { return hyperjit::tools::bench(options); });
}
