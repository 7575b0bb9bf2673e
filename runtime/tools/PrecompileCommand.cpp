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
  say("{}: {}", spec, error);
  work.failed.push_back({spec, target, error});
  work.worst = std::max(work.worst, code);
}

/// Each distinct kernel once a target. A spec with a mistake is named and the rest goes on.
Work collect(const Options &options, const std::vector<Target> &targets) {
  Work work;
  std::vector<SpecText> texts = options.specs.readAny();
  if (!options.model.empty()) {
    auto entry = reinterpret_cast<ModelEntry>(torchToolsEntry(modelEntryName));
    for (std::string &spec : entry(options.model))
      texts.push_back({std::move(spec), options.model});
  }
  if (texts.empty())
    throw UsageError(
        "no spec given; write one like manifold:n=4,d=4096,dtype=bf16, or name a file with --specs or --model");
  std::set<std::string> seen;
  const std::vector<SpecMistake> mistakes = eachSpec(texts, [&](const SpecText &text) {
    std::vector<KernelSpec> kernels = kernelsOf(text.text);
    for (const Target &target : targets)
      for (const KernelSpec &kernel : kernels)
        if (seen.insert(kernel.text() + "\n" + target.text()).second)
          work.requests.push_back({kernel, target, {}});
  });
  for (const SpecMistake &mistake : mistakes) {
    work.failed.push_back({mistake.text, "", mistake.error});
    work.worst = std::max<int>(work.worst, exitProblem);
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
      say("this machine is {}, and finds kernels for {} only in a folder with a manifest (--out DIR, then "
          "HYPERJIT_CACHE_PATH=DIR); for its own cache, name --target {}",
          own.text(), target.text(), own.text());
  }
}

int run(const Options &options) {
  refuseSameFile({{"--specs", options.specs.specsFile}, {"--json", options.json}});
  auto begin = std::chrono::steady_clock::now();
  std::vector<Target> targets = targetsOf(options.targets);
  Work work = collect(options, targets);
  watchInterrupt();
  if (options.out.empty())
    nameUnused(targets);
  KernelManagerOptions managerOptions;
  // Nothing else is done meanwhile, so without a word it is one a processor, not the few of a program that runs.
  const int set = managerOptions.settings.compileJobs, jobs = options.jobs ? options.jobs
                                                              : set        ? set
                                                                           : availableProcessors();
  managerOptions.settings.compileJobs = jobs;
  managerOptions.settings.jit = true;
  managerOptions.settings.recordFile.clear();
  // The folder is to hold each of these kernels, whatever lies elsewhere or would do instead.
  managerOptions.ownOnly = true;
  managerOptions.substitutes = false;
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
    std::error_code error = makeFolders(root);
    if (!error && ::access(root.c_str(), W_OK | X_OK) != 0)
      error = std::error_code(errno, std::generic_category());
    if (error)
      throw EnvironmentProblem(fmt::format("--out {}: {}", options.out, error.message()));
  }

  // Publishing is best effort inside the cache; for this command it is the whole point. So each kernel is looked for
  // again, as a run would look.
  Settings reading = manager.settings();
  reading.cache = CacheMode::ReadOnly;
  KernelCache written(reading, FileSystem::system(), /*ownOnly=*/true);

  Progress progress("precompile", int64_t(work.requests.size()));
  std::mutex mutex;
  int64_t compiled = 0, cached = 0, done = 0;
  std::vector<Json> entries(work.requests.size());
  std::vector<int64_t *> counts(work.requests.size()); // where each was counted
  const std::vector<size_t> order = orderOfWork(work.requests);
  auto compile = [&](size_t turn) {
    if (interrupted())
      return;
    const size_t i = order[turn];
    const KernelRequest &request = work.requests[i];
    std::string spec = request.spec.text(), target = request.target.text();
    try {
      ResolvedArtifact resolved = manager.artifact(request.spec, request.target);
      std::string path = manager.cache().pathOf(resolved.key);
      std::optional<Artifact> there = written.find(resolved.key);
      std::error_code error;
      uint64_t bytes = std::filesystem::file_size(path, error);
      std::lock_guard lock(mutex);
      if (!error && (!there || there->meta.target != target)) {
        std::string why = there ? "it is for " + there->meta.target : KernelCache::inspect(path).reason;
        fail(work, spec, target,
             fmt::format("'{}' is in the kernel's place and is not taken: {}; remove it, or fill another folder", path,
                         why.empty() ? "its owner or mode is not trusted" : why),
             exitEnvironment);
      } else {
        counts[i] = resolved.origin == Origin::Compiled ? &compiled : &cached;
        ++*counts[i];
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
  // Only now: what was stored may have made room for what came after it.
  const CacheStatistics stored = manager.cache().statistics();
  const bool removed = stored.published + stored.lost >= compiled;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!counts[i])
      continue;
    const std::string path = manager.cache().pathOf(*CacheKey::fromHex(entries[i]["key"].get<std::string>()));
    if (std::error_code error; std::filesystem::exists(path, error))
      continue;
    --*counts[i];
    entries[i] = nullptr;
    fail(work, work.requests[i].spec.text(), work.requests[i].target.text(),
         removed ? fmt::format("there is no '{}': it was removed again; HYPERJIT_CACHE_MAX_SIZE, which is {}, may be "
                               "too little for all of these kernels",
                               path, humanBytes(uint64_t(manager.settings().cacheMaxBytes)))
                 : fmt::format("there is no '{}': it could not be written", path),
         exitEnvironment);
  }
  // Also after Ctrl-C: what is there can be shipped.
  std::vector<std::string> skipped;
  if (!options.out.empty() && compiled + cached > 0)
    skipped = writeManifest(root);

  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Json answer = jsonHead("precompile", "none");
  answer["directory"] = root;
  answer["jobs"] = jobs;
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
  command->add_option("--jobs", options->jobs, "kernels at a time (HYPERJIT_COMPILE_JOBS, else one per processor)")
      ->check(wholeNumber(1024));
  command->add_option("--out", options->out,
                      "the directory to fill and to give a manifest, ready to be shipped (HYPERJIT_CACHE_DIR)");
  addJson(*command, options->json);
  command->footer(examples("precompile manifold:n=4,d=4096,dtype=bf16 --target sm_90a --out kernels",
                           "precompile --specs specs.txt --target x86-64-v3,sm_90a,sm_100a"));
  command->callback([options, &exit] { exit = run(*options); });
}

} // namespace hyperjit::tools
