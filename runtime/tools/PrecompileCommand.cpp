// hyperjit precompile: fills a cache directory with the kernels of the given specs, for targets that need not be here.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <fmt/format.h>

#include <atomic>
#include <mutex>
#include <thread>

namespace hyperjit::tools {

namespace {

struct Options {
  SpecArguments specs;
  std::string targets, out, json;
  int jobs = 0;
};

int run(const Options &options) {
  auto begin = std::chrono::steady_clock::now();
  std::vector<KernelRequest> requests;
  std::vector<Target> targets = targetsOf(options.targets);
  for (const std::string &text : options.specs.read()) {
    std::vector<KernelSpec> kernels;
    if (isKernelText(text))
      kernels = {parseKernel(text)};
    else
      kernels = allKernels(parsePart(text));
    for (const Target &target : targets)
      for (const KernelSpec &kernel : kernels)
        requests.push_back({kernel, target, {}});
  }
  KernelManagerOptions managerOptions;
  if (!options.out.empty()) {
    managerOptions.settings.cacheDirectory = options.out;
    managerOptions.settings.cache = CacheMode::ReadWrite;
  }
  KernelManager manager(managerOptions);
  if (manager.settings().cacheDirectory.empty() || manager.settings().cache == CacheMode::Off ||
      manager.settings().cache == CacheMode::ReadOnly)
    throw EnvironmentProblem("there is no writable cache to fill: name a folder with --out DIR or HYPERJIT_CACHE_DIR, and "
                             "leave HYPERJIT_CACHE at rw");

  int jobs = options.jobs > 0 ? options.jobs : std::max(1, int(std::thread::hardware_concurrency()));
  Progress progress("precompile", int64_t(requests.size()));
  std::atomic<size_t> next{0};
  std::mutex mutex;
  int64_t compiled = 0, cached = 0, done = 0;
  int worst = exitOk;
  Json failed = Json::array();
  std::vector<Json> entries(requests.size());
  auto work = [&] {
    for (size_t i = next++; i < requests.size() && !interrupted(); i = next++) {
      const KernelRequest &request = requests[i];
      try {
        ResolvedArtifact resolved = manager.artifact(request.spec, request.target);
        // Publishing is best effort inside the cache; for this command it is the whole point.
        std::error_code error;
        std::string path = manager.cache().pathOf(resolved.key);
        uint64_t bytes = std::filesystem::file_size(path, error);
        std::lock_guard lock(mutex);
        if (error && resolved.origin == Origin::Compiled) {
          failed.push_back({{"spec", request.spec.text()}, {"target", request.target.text()},
                            {"error", fmt::format("compiled, but '{}' could not be written", path)}});
          worst = std::max<int>(worst, exitEnvironment);
        }
        ++(resolved.origin == Origin::Compiled ? compiled : cached);
        entries[i] = {{"spec", request.spec.text()}, {"target", request.target.text()}, {"key", resolved.key.hex()},
                      {"bytes", error ? 0 : bytes}, {"ms", resolved.milliseconds}};
      } catch (const std::exception &error) {
        std::lock_guard lock(mutex);
        failed.push_back({{"spec", request.spec.text()}, {"target", request.target.text()}, {"error", error.what()}});
        worst = std::max(worst, report(error));
      }
      std::lock_guard lock(mutex);
      progress.advance(++done, request.spec.text());
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < std::min<int>(jobs, int(requests.size())); ++i)
    threads.emplace_back(work);
  work();
  for (std::thread &thread : threads)
    thread.join();
  progress.finish();

  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  Json answer = jsonHead("precompile", "none");
  answer["directory"] = manager.settings().cacheDirectory;
  answer["compiled"] = compiled;
  answer["cached"] = cached;
  size_t failures = failed.size();
  answer["failed"] = std::move(failed);
  answer["seconds"] = seconds;
  answer["entries"] = Json::array();
  for (Json &entry : entries)
    if (!entry.is_null())
      answer["entries"].push_back(std::move(entry));
  if (options.json.empty())
    fmt::print("{}: {} compiled, {} already there, {} failed, {:.1f} s\n", manager.settings().cacheDirectory, compiled, cached,
               failures, seconds);
  writeJson(answer, options.json);
  if (interrupted())
    return exitProblem;
  return failures ? std::max<int>(worst, exitProblem) : exitOk;
}

} // namespace

void addPrecompile(CLI::App &app, int &exit) {
  auto options = std::make_shared<Options>();
  CLI::App *command = app.add_subcommand("precompile", "compile the kernels of specs into the cache, for any target, without its device");
  options->specs.add(*command, true);
  command->add_option("--target", options->targets, "comma list: native, x86-64-v3, sm_90a, sm_90a/h100, ... (native)");
  command->add_option("--jobs", options->jobs, "kernels at a time (one per processor)");
  command->add_option("--out", options->out, "the cache directory to fill (HYPERJIT_CACHE_DIR)");
  addJson(*command, options->json);
  command->footer(examples("precompile manifold:n=4,d=4096,dtype=bf16 --target sm_90a --out kernels",
                           "precompile --specs specs.txt --target x86-64-v3,sm_90a,sm_100a"));
  command->callback([options, &exit] { exit = run(*options); });
}

} // namespace hyperjit::tools
