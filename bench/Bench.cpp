// hyperjit bench: a chain of sites forward and backward, against plain ATen, with the copy bandwidth of the same run.
// SPDX-License-Identifier: Apache-2.0
//
// A row's time is that of a whole chain divided by its sites: expand and reduce are outside, the branches return what
// they are given. The counted traffic u comes from the compiler's own kernels; share = bytes of u / time / copy
// bandwidth.
#include "Alone.h"
#include "Console.h"
#include "Plot.h"
#include "TorchGraph.h"
#include "TorchTools.h"
#include "torch/Measure.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/cuda/Cuda.h>
#include <hyperjit/torch/Connection.h>
#include <hyperjit/torch/Ops.h>
#include <hyperjit/torch/Reference.h>

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>

namespace hyperjit::tools {

namespace {

struct Row {
  std::string implementation, spec, direction, mode, schedule; ///< schedule: of a kernel
  int64_t tokens = 0;
  Timing us;                      ///< of one site; hyperjit's on a GPU of replays of a graph
  std::optional<Timing> launched; ///< of one site of a chain, launched by the host call by call
  std::optional<Timing> host;     ///< what launching takes the host, forward and backward of one site of a chain (CUDA)
  double u = 0, share = 0, speedup = 1;
};

/// The counted traffic of one site of a chain: its two halves meet their neighbours' in boundary kernels; the chain's
/// ends are single halves. Read from the compiled kernels.
struct CountedTraffic {
  double forward = 0, backward = 0;
};

struct Chain {
  SiteSpec spec;
  std::vector<nn::Connection> layers;
  at::Tensor x, cotangent;

  Chain(const SiteSpec &spec, int64_t sites, int64_t tokens, at::Device device) : spec(spec) {
    torch::manual_seed(1);
    for (int64_t i = 0; i < sites; ++i) {
      nn::Connection layer(nn::ConnectionOptions(spec).layerIndex(i));
      layer->to(device);
      torch::NoGradGuard noGradients;
      // Initial values make many coefficients zero or one; a trained layer's are neither.
      for (at::Tensor &parameter : layer->parameters())
        parameter.add_(at::randn_like(parameter), 0.02);
      layers.push_back(layer);
    }
    auto options = at::device(device).dtype(ops::scalarType(spec.stream));
    x = at::randn({tokens, spec.n, spec.d}, options).requires_grad_();
    cotangent = at::randn({tokens, spec.n, spec.d}, options);
  }

  at::Tensor jit() const {
    nn::Stream stream(x);
    for (const nn::Connection &layer : layers)
      stream = nn::Connection(layer)->forward(stream, [](const at::Tensor &u) { return u; });
    return stream.tensor();
  }
  at::Tensor eager() const {
    const Reference reference = [&] {
      try {
        return Reference(spec);
      } catch (const UserError &error) {
        if (error.id() != ErrorId::UnknownRecipe)
          throw;
        throw UsageError(fmt::format("{}; --against none times it by itself", error.what()));
      }
    }();
    Reference::Tensors carries;
    at::Tensor streams = x;
    for (const nn::Connection &layer : layers) {
      Reference::Width width = reference.width(streams, layer->namedSiteParameters(), carries);
      streams = reference.depth(width.u, width);
      for (auto &[name, value] : width.carries)
        carries[name] = value;
    }
    return streams;
  }
};

/// u of one site in the chain as it is really run: K - 1 boundaries and the two single ends, divided by K.
CountedTraffic countTraffic(const SiteSpec &given, int64_t sites, int64_t tokens, const Target &target) {
  KernelManager &manager = KernelManager::global();
  CountedTraffic counted;
  for (const KernelSpec &kernel : trainingKernels(given, bucketOf(tokens))) {
    const TrafficInfo traffic = manager.artifact(kernel, target).artifact->meta.traffic;
    const double times = kernel.role == Role::Boundary ? double(sites - 1) : 1;
    (kernel.direction == Direction::Forward ? counted.forward : counted.backward) +=
        times * double(traffic.readsU + traffic.writesU);
  }
  counted.forward /= double(sites);
  counted.backward /= double(sites);
  return counted;
}

/// Forward (as in training), backward, and both of one chain.
std::vector<Row> measure(const Chain &chain, bool eager, const BenchOptions &options, int64_t tokens,
                         at::Device device) {
  auto clear = [&] {
    for (const nn::Connection &layer : chain.layers)
      nn::Connection(layer)->zero_grad();
    chain.x.mutable_grad() = at::Tensor();
  };
  auto forward = [&] { return eager ? chain.eager() : chain.jit(); };
  auto backward = [&](const at::Tensor &out) { out.backward(chain.cotangent); };
  const TrainingTiming launched = timedTraining(device, options.repeats, forward, backward, clear);
  TrainingTiming timing = launched;
  if (device.is_cuda() && !eager && TrainingGraph::available()) {
    clear();
    at::Tensor expected = forward();
    backward(expected);
    expected = expected.detach(); // no node of this stream may live on into the graphs
    const at::Tensor gradient = chain.x.grad();
    auto cleared = [&] {
      clear(); // a graph makes gradients anew, as the step after zero_grad does
      return forward();
    };
    TrainingGraph graph(device, cleared, backward);
    auto replayForward = [&] {
      graph.replayForward();
      return graph.output();
    };
    auto replayBackward = [&](const at::Tensor &) { graph.replayBackward(); };
    timing =
        timedTraining(device, options.repeats, replayForward, replayBackward, [&] { replayBackward(replayForward()); });
    if (!at::equal(graph.output(), expected) || !at::equal(chain.x.grad(), gradient))
      throw InternalError("a chain replayed as CUDA graphs differs from the same chain launched", chain.spec.text());
    clear();
  }
  clear();
  const double scale = 1e3 / double(options.sites); // ms of a chain to us of a site
  auto scaled = [&](Timing t) { return Timing{t.median * scale, t.min * scale, t.max * scale}; };
  auto row = [&](const char *direction, const Timing &us, const Timing &byHost) {
    return Row{eager ? "eager" : "hyperjit",
               chain.spec.text(),
               direction,
               "chain",
               "",
               tokens,
               scaled(us),
               scaled(byHost),
               std::nullopt};
  };
  Row both = row("both", timing.both, launched.both);
  if (device.is_cuda())
    both.host = scaled(launched.host);
  return {row("forward", timing.forward, launched.forward), row("backward", timing.backward, launched.backward), both};
}

double millisecondsOf(const std::function<void()> &work) {
  auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// First call of one kernel: compiled, from disk in a fresh manager, from memory.
Json firstCall(const SiteSpec &given, const Target &target) {
  ProgramSource &programs = ProgramSource::global();
  SiteSpec spec = programs.normalise(given);
  // A namespace of its own makes the kernel new to the cache.
  KernelManagerOptions fresh;
  fresh.settings.cacheNamespace += fmt::format("bench-{}", std::chrono::steady_clock::now().time_since_epoch().count());
  KernelSpec kernel = KernelSpec::boundaryForward(spec, spec, true, Bucket::Large);
  Json answer = {{"cold", nullptr}, {"disk", nullptr}, {"memory", nullptr}};
  std::string path;
  {
    KernelManager cold(fresh);
    // Another kernel opens the compiler's libraries.
    const SiteSpec small = programs.normalise(SiteSpec::parse("static:n=1,d=24"));
    const KernelSpec other = KernelSpec::boundaryForward(small, small, true, Bucket::Large);
    cold.get(other, target);
    std::error_code error;
    std::filesystem::remove(cold.cache().pathOf(CacheKey::of(cold.keyFields(other, target))), error);
    answer["cold"] = millisecondsOf([&] { cold.get(kernel, target); });
    double memory = millisecondsOf([&] {
      for (int i = 0; i < 1000; ++i)
        cold.get(kernel, target);
    });
    answer["memory"] = memory / 1000;
    path = cold.cache().pathOf(CacheKey::of(cold.keyFields(kernel, target)));
  }
  KernelManager disk(fresh);
  double milliseconds = millisecondsOf([&] { disk.get(kernel, target); });
  if (disk.statistics().diskHits == 1)
    answer["disk"] = milliseconds;
  std::error_code error;
  std::filesystem::remove(path, error);
  return answer;
}

/// Host time of a forward call through the dispatcher with almost no work in it.
double hostMicroseconds(const SiteSpec &given, at::Device device) {
  SiteSpec spec = given;
  Chain chain(spec, 2, 1, device);
  torch::NoGradGuard noGradients;
  chain.jit();
  synchronise(device);
  constexpr int calls = 200;
  double milliseconds = millisecondsOf([&] {
    for (int i = 0; i < calls; ++i)
      chain.jit();
  });
  synchronise(device);
  return milliseconds * 1e3 / (calls * 3); // before, boundary, after
}

/// What a call of the boundary operator costs the host at one token on the CPU, by parts (us): a call of an operator
/// that does nothing, the results as LibTorch makes them, the kernel itself, and the rest, which is hyperjit's own:
/// plan and kernel looked up, operands checked, pointers collected, launched. On one thread, as the kernel is launched
/// by itself too.
struct LaunchCost {
  double call = 0, dispatch = 0, results = 0, kernel = 0;
  /// A difference: nothing beside a kernel whose own time varies by more.
  std::optional<double> own() const {
    return kernel < 100 ? std::optional(call - dispatch - results - kernel) : std::nullopt;
  }
};

std::vector<at::Tensor> nothing(const at::Tensor &, const at::Tensor &, at::TensorList, at::TensorList,
                                std::optional<at::TensorList>, std::string_view, bool) {
  return {};
}

TORCH_LIBRARY(hyperjit_bench, library) {
  library.def("nothing(Tensor x, Tensor y, Tensor[] coefficients, Tensor[] parameters, Tensor[]? carries, str spec, "
              "bool save) -> "
              "Tensor[]");
}
TORCH_LIBRARY_IMPL(hyperjit_bench, CPU, library) { library.impl("nothing", TORCH_FN(nothing)); }

LaunchCost launchCost(const SiteSpec &given) {
  torch::NoGradGuard noGradients;
  const at::AutoDispatchBelowADInplaceOrView below;
  Chain chain(given, 1, 1, at::kCPU);
  const auto program = ProgramSource::global().site(given);
  const std::string site = program->spec.text(), both = site + "|" + site;
  const at::Tensor x = chain.x.detach(),
                   y = at::randn({1, given.d}, at::dtype(ops::scalarType(program->spec.branchOut)));
  std::vector<at::Tensor> parameters, carries;
  for (const at::Tensor &parameter : chain.layers[0]->siteParameters())
    parameters.push_back(parameter.detach());
  for (const CarryInfo &carry : program->signature.carriesIn)
    carries.push_back(at::randn({1, carry.size}, at::dtype(ops::scalarType(computeType(program->spec.stream)))));
  const std::vector<at::Tensor> made = ops::before(x, parameters, carries, site);
  const std::vector<at::Tensor> coefficients(made.begin() + 1,
                                             made.end() - int64_t(program->signature.carriesOut.size()));
  const std::vector<at::Tensor> results = ops::boundary(x, y, coefficients, parameters, carries, both);

  const auto kernel = KernelManager::global().get(
      KernelSpec::boundaryForward(program->spec, program->spec, false, bucketOf(1)), Target::hostLevel());
  std::vector<void *> pointers = {x.data_ptr(), y.data_ptr()};
  for (const std::vector<at::Tensor> *list :
       std::initializer_list<const std::vector<at::Tensor> *>{&coefficients, &parameters, &carries, &results})
    for (const at::Tensor &tensor : *list)
      pointers.push_back(tensor.data_ptr());
  std::vector<char> workspaceMemory(kernel->workspaceBytes(1) + 64);
  void *workspace = workspaceMemory.data();
  size_t room = workspaceMemory.size();
  std::align(64, workspaceMemory.size() - 64, workspace, room);
  const auto doNothing =
      c10::Dispatcher::singleton().findSchemaOrThrow("hyperjit_bench::nothing", "").typed<decltype(nothing)>();

  // The least of many short runs: what interrupts the host is no part of a call. Wide kernels take milliseconds: a run
  // of few.
  const double first = millisecondsOf([&] { kernel->launch(pointers, workspace, 1, {}); });
  const int calls = static_cast<int>(std::clamp(10 / std::max(first, 1e-3), 5.0, 500.0));
  constexpr int runs = 30;
  auto aRun = [calls](const std::function<void()> &call) {
    return millisecondsOf([&] {
             for (int i = 0; i < calls; ++i)
               call();
           }) *
           1e3 / calls;
  };
  auto microseconds = [&](const std::function<void()> &call) {
    double least = INFINITY;
    for (int run = 0; run < runs; ++run)
      least = std::min(least, aRun(call));
    return least;
  };
  LaunchCost cost;
  cost.call = microseconds([&] { ops::boundary(x, y, coefficients, parameters, carries, both); });
  cost.dispatch = microseconds(
      [&] { doNothing.call(x, y, coefficients, parameters, std::optional<at::TensorList>(), both, false); });
  cost.results = microseconds([&] {
    std::vector<at::Tensor> list;
    list.reserve(results.size());
    for (const at::Tensor &result : results)
      list.emplace_back(at::detail::empty_cpu(result.sizes(), result.scalar_type(), false));
  });
  auto launch = [&](int64_t tokens) { return aRun([&] { kernel->launch(pointers, workspace, tokens, {}); }); };
  // Without tokens all is done but the work; where some of it is the call's, not a token's, the checks of pointers
  // count as work.
  const std::vector<LaunchInfo> &launches = kernel->meta().launches;
  bool ofTokens = std::all_of(launches.begin(), launches.end(),
                              [](const LaunchInfo &each) { return each.grid == GridKind::Chunks; });
  double one = INFINITY, none = ofTokens ? INFINITY : 0; // by turns: the host's speed is not that of the run before
  for (int run = 0; run < runs; ++run) {
    one = std::min(one, launch(1));
    if (ofTokens)
      none = std::min(none, launch(0));
  }
  cost.kernel = one - none;
  return cost;
}

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
             decode = asked(options.modes, "decode");
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
  bool eager = asked(options.against, "eager");
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
  Progress progress("bench", int64_t(specs.size() * (options.tokens.size() + few.size())));
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
        mine = measure(chain, false, options, tokens, device);
        if (eager && !interrupted())
          theirs = measure(chain, true, options, tokens, device);
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
  answer["interrupted"] = interrupted();
  answer["failed"] = mistakesJson(mistakes);
  answer["rows"] = Json::array();
  Table table({"spec", "tokens", "direction", "implementation", "us", "min", "max", "launched", "host", "u", "share",
               "speedup"});
  auto json = [](const Timing &timing) {
    return Json{{"median", timing.median}, {"min", timing.min}, {"max", timing.max}};
  };
  for (const Row &row : rows) {
    table.add({options.schedules.empty() ? row.spec : row.spec + " " + row.schedule, fmt::format("{}", row.tokens),
               row.direction, row.implementation, fmt::format("{:.1f}", row.us.median),
               fmt::format("{:.1f}", row.us.min), fmt::format("{:.1f}", row.us.max),
               row.launched ? fmt::format("{:.1f}", row.launched->median) : "-",
               row.host ? fmt::format("{:.1f}", row.host->median) : "-", fmt::format("{:.2f}", row.u),
               fmt::format("{:.3f}", row.share), fmt::format("{:.2f}x", row.speedup)});
    answer["rows"].push_back({{"implementation", row.implementation},
                              {"spec", row.spec},
                              {"tokens", row.tokens},
                              {"direction", row.direction},
                              {"mode", row.mode},
                              {"schedule", row.schedule.empty() ? Json() : Json(row.schedule)},
                              {"us", json(row.us)},
                              {"launched_us", row.launched ? json(*row.launched) : Json()},
                              {"host_us", row.host ? json(*row.host) : Json()},
                              {"u", row.u},
                              {"share", row.share},
                              {"speedup", row.speedup}});
  }
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
               options.sites, graphs, table.text());
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
  if (!options.plot.empty()) {
    Plot plot;
    plot.title = "Share of copy bandwidth, forward + backward";
    plot.subtitle = fmt::format("{}, copy {:.1f} GB/s, chains of {} sites{}", name, copy, options.sites, graphs);
    // Over D where that is what differs.
    std::set<int64_t> widths;
    for (const SiteSpec &spec : specs)
      widths.insert(spec.d);
    const bool overWidths = widths.size() > 1 && options.tokens.size() == 1;
    plot.xLabel = overWidths ? "channels D" : "tokens";
    plot.yLabel = "share";
    plot.yFromZero = true;
    std::map<std::string, Curve> curves;
    std::vector<Row> drawn; // of chains
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(drawn),
                 [](const Row &row) { return row.direction == "both"; });
    std::stable_sort(drawn.begin(), drawn.end(), [overWidths](const Row &a, const Row &b) {
      return overWidths ? SiteSpec::parse(a.spec).d < SiteSpec::parse(b.spec).d : a.tokens < b.tokens;
    });
    for (const Row &row : drawn) {
      const SiteSpec spec = SiteSpec::parse(row.spec);
      Curve &curve = curves[fmt::format("{} {} n={}{}{}", row.implementation, spec.recipe, spec.n,
                                        spec.m > 1 ? fmt::format(" m={}", spec.m) : "",
                                        overWidths || widths.size() == 1 ? "" : fmt::format(" D={}", spec.d))];
      curve.dashed = row.implementation == "eager";
      curve.x.push_back(double(overWidths ? spec.d : row.tokens));
      curve.y.push_back(row.share);
    }
    for (auto &[title, curve] : curves) {
      curve.name = title;
      plot.curves.push_back(curve);
    }
    writeFileWhole(options.plot, plot.svg());
  }
  writeJson(answer, options.json);
  if (interrupted())
    say("interrupted: {} of {} measured", done, specs.size() * (options.tokens.size() + few.size()));
  return interrupted() || !mistakes.empty() ? exitProblem : exitOk;
}

} // namespace

} // namespace hyperjit::tools

extern "C" __attribute__((visibility("default"))) int
hyperjit_tools_bench(const hyperjit::tools::BenchOptions &options) {
  hyperjit::tools::watchInterrupt();
  return hyperjit::tools::withoutStack([&] { return hyperjit::tools::bench(options); });
}
