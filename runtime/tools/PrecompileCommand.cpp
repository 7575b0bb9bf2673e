// hyperjit precompile: fills a cache directory with the kernels of the given specs, for targets that need not be here.
// What is there already is left as it is, so an interrupted run goes on where it stopped.
// SPDX-License-Identifier: Apache-2.0
#include "Pack.h"
#include "Tool.h"
#include "TorchTools.h"
#include "autotune/Machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <numeric>
#include <set>
#include <system_error>
#include <thread>
#include <tuple>
#include <unistd.h>

namespace hyperjit::tools {

namespace {

struct Options {
  SpecArguments specs;
  std::string model, targets, out, json;
  int jobs = 0;
};

struct Failure {
  std::string spec, target, error;
};

/// Shared by the workers.
struct Work {
  std::vector<KernelRequest> requests;
  std::vector<Failure> failed;
  int worst = exitOk;
};

void fail(Work &work, const std::string &spec, const std::string &target, const std::string &error, int code) {
  fmt::print(stderr, "hyperjit: {}: {}\n", spec, error);
  work.failed.push_back({spec, target, error});
  work.worst = std::max(work.worst, code);
}

/// Each distinct kernel once a target. A spec with a mistake is named and the rest goes on.
Work collect(const Options &options, const std::vector<Target> &targets) {
  Work work;
  std::vector<SpecArguments::Text> texts = options.specs.readWithPlaces();
  if (!options.model.empty()) {
    auto entry = reinterpret_cast<ModelEntry>(torchToolsEntry(modelEntryName));
    for (std::string &spec : entry(options.model))
      texts.push_back({std::move(spec), options.model});
  }
  if (texts.empty())
    throw UsageError(
        "no spec given; write one like manifold:n=4,d=4096,dtype=bf16, or name a file with --specs or --model");
  std::set<std::string> seen;
  for (const SpecArguments::Text &text : texts) {
    std::vector<KernelSpec> kernels;
    try {
      kernels = kernelsOf(text.text);
    } catch (const std::exception &error) {
      // A mistake on the command line is one of usage; one in a file is a finding, and the other lines are good.
      if (text.where.empty())
        throw;
      fail(work, text.text, "", fmt::format("{}: {}", text.where, error.what()), exitProblem);
      continue;
    }
    for (const Target &target : targets)
      for (const KernelSpec &kernel : kernels)
        if (seen.insert(kernel.text() + "\n" + target.text()).second)
          work.requests.push_back({kernel, target, {}});
  }
  return work;
}

/// The longest compiles first, so that no worker ends long after the others; and far apart what often has one text (few
/// tokens and many, kept or not), since whoever asks for it while it is compiled waits.
std::vector<size_t> orderOfWork(const std::vector<KernelRequest> &requests) {
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), size_t(0));
  auto rank = [&](size_t i) {
    const KernelSpec &spec = requests[i].spec;
    return std::tuple(spec.bucket != Bucket::Large, spec.direction != Direction::Backward, spec.save,
                      spec.role != Role::Boundary);
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
  return order;
}

/// Without a manifest a run looks for the exact target of its machine: says so of others that would run here.
void nameUnused(const std::vector<Target> &targets) {
  const Target here = targetHere();
  for (const Target &target : targets) {
    const bool cuda = target.device == DeviceType::Cuda;
    if (cuda && here.device != DeviceType::Cuda)
      continue;
    const Target own = cuda ? here : Target::hostLevel();
    if (target.text() != own.text() && (cuda ? target.isa == own.isa : target.runsHere()))
      fmt::print(
          stderr,
          "hyperjit: this machine is {}, and finds kernels for {} only in a folder with a manifest (--out DIR, then "
          "HYPERJIT_CACHE_PATH=DIR); for its own cache, name --target {}\n",
          own.text(), target.text(), own.text());
  }
}

int run(const Options &options) {
  auto begin = std::chrono::steady_clock::now();
  std::vector<Target> targets = targetsOf(options.targets);
  Work work = collect(options, targets);
  if (options.out.empty())
    nameUnused(targets);
  int jobs = options.jobs > 0 ? options.jobs : std::max(1, int(std::thread::hardware_concurrency()));
  KernelManagerOptions managerOptions;
  managerOptions.settings.compileJobs = jobs;
  managerOptions.settings.jit = true;
  managerOptions.settings.recordFile.clear();
  if (!options.out.empty()) {
    // A folder that is to be shipped has the modes of the umask, and never forgets what was put there.
    std::error_code error;
    managerOptions.settings.cacheDirectory = std::filesystem::absolute(options.out, error).string();
    managerOptions.settings.cache = CacheMode::ReadWrite;
    managerOptions.settings.trust = CacheTrust::Path;
    managerOptions.settings.cacheMaxBytes = int64_t(1) << 50;
    managerOptions.settings.cachePath.clear();
  }
  KernelManager manager(managerOptions);
  const std::string &root = manager.settings().cacheDirectory;
  if (root.empty() || manager.settings().cache == CacheMode::Off || manager.settings().cache == CacheMode::ReadOnly)
    throw EnvironmentProblem(
        "there is no writable cache to fill: name a folder with --out DIR or HYPERJIT_CACHE_DIR, and "
        "leave HYPERJIT_CACHE at rw");
  if (!options.out.empty()) { // before anything is compiled for it
    std::error_code error;
    std::filesystem::create_directories(root, error);
    if (!error && ::access(root.c_str(), W_OK | X_OK) != 0)
      error = std::error_code(errno, std::generic_category());
    if (error)
      throw EnvironmentProblem(fmt::format("--out {}: {}", options.out, error.message()));
  }

  Progress progress("precompile", int64_t(work.requests.size()));
  std::mutex mutex;
  int64_t compiled = 0, cached = 0, done = 0;
  std::vector<Json> entries(work.requests.size());
  const std::vector<size_t> order = orderOfWork(work.requests);
  auto compile = [&](size_t turn) {
    if (interrupted())
      return;
    const size_t i = order[turn];
    const KernelRequest &request = work.requests[i];
    std::string spec = request.spec.text(), target = request.target.text();
    try {
      ResolvedArtifact resolved = manager.artifact(request.spec, request.target);
      // Publishing is best effort inside the cache; for this command it is the whole point.
      std::error_code error;
      std::string path = manager.cache().pathOf(resolved.key);
      uint64_t bytes = std::filesystem::file_size(path, error);
      std::lock_guard lock(mutex);
      if (error && resolved.origin == Origin::Compiled) {
        fail(work, spec, target, fmt::format("compiled, but '{}' could not be written", path), exitEnvironment);
      } else {
        ++(resolved.origin == Origin::Compiled ? compiled : cached);
        entries[i] = {{"spec", spec},
                      {"target", target},
                      {"key", resolved.key.hex()},
                      {"bytes", error ? 0 : bytes},
                      {"ms", resolved.milliseconds}};
      }
    } catch (const std::exception &error) {
      std::lock_guard lock(mutex);
      fail(work, spec, target, error.what(), std::max<int>(exitProblem, exitCodeOf(error)));
    }
    std::lock_guard lock(mutex);
    progress.advance(++done, spec);
  };
  runAll(order.size(), compile, Workers::upTo(jobs));
  progress.finish();
  // Also after Ctrl-C: what is there can be shipped.
  std::vector<std::string> skipped;
  if (!options.out.empty() && compiled + cached > 0)
    skipped = writeManifest(root);

  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Json answer = jsonHead("precompile", "none");
  answer["directory"] = root;
  answer["compiled"] = compiled;
  answer["cached"] = cached;
  answer["failed"] = Json::array();
  for (const Failure &failure : work.failed)
    answer["failed"].push_back({{"spec", failure.spec}, {"target", failure.target}, {"error", failure.error}});
  answer["seconds"] = seconds;
  answer["entries"] = Json::array();
  for (Json &entry : entries)
    if (!entry.is_null())
      answer["entries"].push_back(std::move(entry));
  if (options.json.empty())
    fmt::print("{}: {} compiled, {} already there, {} failed, {:.1f} s{}\n", root, compiled, cached, work.failed.size(),
               seconds,
               interrupted() ? fmt::format(" (interrupted: {} left, the same command goes on)",
                                           int64_t(work.requests.size()) - done)
                             : "");
  writeJson(answer, options.json);
  if (interrupted())
    return exitProblem;
  return work.failed.empty() && skipped.empty() ? exitOk : std::max<int>(work.worst, exitProblem);
}

} // namespace

void addPrecompile(CLI::App &app, int &exit) {
  auto options = std::make_shared<Options>();
  CLI::App *command = app.add_subcommand(
      "precompile", "compile the kernels of specs into the cache, for any target, without its device");
  options->specs.add(*command, true);
  command->add_option("--model", options->model, "a module saved by torch::save: the kernels of its hyperjit layers");
  command->add_option("--target", options->targets,
                      "comma list: native, x86-64-v3, sm_90a, sm_90a/h100, ... (the best x86-64 level of this CPU)");
  command->add_option("--jobs", options->jobs, "kernels at a time (one per processor)")->check(aboveZero());
  command->add_option("--out", options->out,
                      "the directory to fill and to give a manifest, ready to be shipped (HYPERJIT_CACHE_DIR)");
  addJson(*command, options->json);
  command->footer(examples("precompile manifold:n=4,d=4096,dtype=bf16 --target sm_90a --out kernels",
                           "precompile --specs specs.txt --target x86-64-v3,sm_90a,sm_100a"));
  command->callback([options, &exit] { exit = run(*options); });
}

} // namespace hyperjit::tools
