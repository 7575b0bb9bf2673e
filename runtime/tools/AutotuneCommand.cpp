// hyperjit autotune: searches legal schedules by measuring them, and writes what won as lines that every run then
// reads.
// SPDX-License-Identifier: Apache-2.0
#include "Plot.h"
#include "Tool.h"
#include "autotune/Search.h"
#include "autotune/TuningFiles.h"
#include "autotune/Worker.h"

#include <hyperjit/core/SpecList.h>
#include <hyperjit/core/TuningTable.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <filesystem>
#include <set>

namespace hyperjit::tools {

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  SpecArguments specs;
  std::string fromRecord, target, out, check, plot, json, role, direction;
  std::vector<int64_t> tokens = {4096};
  double budget = 0, limit = 60;
  bool resume = false, exhaustive = false, dryRun = false, list = false;
  int worker = -1;
};

/// One kernel and the number of tokens it is measured with.
struct Task {
  std::string where; ///< line of the user's text
  KernelSpec kernel;
  int64_t tokens = 0;
};

struct Outcome {
  Task task;
  SearchResult search;
  OpenedKernel opened;
  std::vector<std::pair<double, double>> path; ///< candidate number, microseconds
  std::string failed;
  bool remembered = false; ///< decided by an earlier run
  TuningRecord record;
};

/// A manager that compiles, and takes no schedule from tables: here the default is the cost model's.
KernelManager &manager() {
  static auto *made = [] {
    KernelManagerOptions options;
    options.settings.cache = CacheMode::Off;
    options.settings.recordFile.clear();
    options.tuning = [](const KernelSpec &, const Target &) { return Schedule(); };
    return new KernelManager(std::move(options));
  }();
  return *made;
}

double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// "boundary bwd n=4 D=7168 bf16"
std::string label(const KernelSpec &kernel) {
  const SiteSpec &site = kernel.before ? *kernel.before : *kernel.after;
  return fmt::format(
      "{} {} {}{} n={} D={} {}", site.recipe, name(kernel.role), kernel.direction == Direction::Forward ? "fwd" : "bwd",
      kernel.direction == Direction::Forward && kernel.role != Role::After && !kernel.save ? " infer" : "", site.n,
      site.d, name(site.stream));
}

/// The kernels to tune; lines of a file that are no specs are said and added to `mistakes`.
std::vector<Task> tasksOf(const Options &options, std::vector<SpecMistake> &mistakes) {
  std::map<Bucket, int64_t> counts;
  for (int64_t tokens : options.tokens)
    if (auto [place, first] = counts.emplace(bucketOf(tokens), tokens); !first && place->second != tokens)
      throw UsageError(
          fmt::format("--tokens {} and {}: one kernel serves both (small is up to {} tokens, large is above); name one "
                      "count of each",
                      place->second, tokens, kSmallTokens));
  std::vector<Task> tasks;
  std::set<std::string> seen;
  mistakes = eachSpec(options.specs.readAny(), [&](const SpecText &text) {
    for (const KernelSpec &kernel : kernelsOf(text.text)) {
      bool wanted = (options.role.empty() || name(kernel.role) == options.role) &&
                    (options.direction.empty() || name(kernel.direction) == options.direction);
      auto asked = counts.find(kernel.bucket);
      int64_t tokens = asked != counts.end() ? asked->second : 0;
      // A kernel that is named by its own text says its bucket; --tokens then is about the others.
      if (isKernelText(text.text) && !tokens)
        tokens = kernel.bucket == Bucket::Small ? kSmallTokens : 4096;
      if (wanted && tokens && seen.insert(kernel.text()).second)
        tasks.push_back({text.text, kernel, tokens});
    }
  });
  if (tasks.empty() && mistakes.empty())
    throw UsageError(
        "no kernel to tune: write a spec like manifold:n=4,d=4096,dtype=bf16, or name a file with --specs");
  // The large bucket decides what orders a token's sums, for both.
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task &a, const Task &b) {
    return a.kernel.bucket == Bucket::Large && b.kernel.bucket == Bucket::Small;
  });
  return tasks;
}

std::string outPath(const Options &options, const Target &target) {
  if (!options.out.empty())
    return options.out;
  if (Settings::fromEnvironment().cache == CacheMode::ReadOnly)
    throw EnvironmentProblem(
        "HYPERJIT_CACHE=ro keeps the cache folder as it is: name a file for the results with --out FILE.jsonl");
  const std::string &root = manager().settings().cacheDirectory;
  if (root.empty())
    throw EnvironmentProblem("there is no cache folder to keep results in: name a file with --out FILE.jsonl");
  if (TuningTable::refused(manager().settings()))
    throw EnvironmentProblem(
        fmt::format("no run would read results in {}, which is not trusted: name a file with --out FILE.jsonl", root));
  std::string file =
      target.device == DeviceType::Cpu ? (target.isa == target.cpu ? target.isa : "native") : target.text();
  std::replace(file.begin(), file.end(), '/', '-');
  return fmt::format("{}/tuning/{}.jsonl", root, file);
}

size_t listLimit(const Options &options, const Target &target) {
  if (options.exhaustive)
    return 5000;
  return target.device == DeviceType::Cuda ? 400 : 2000; // a CUDA schedule is found legal by making its source
}

TuningRecord recordFor(const Task &task, const Target &target, const OpenedKernel &opened) {
  KeyFields fields = manager().keyFields(task.kernel, target);
  TuningRecord record;
  record.spec = task.kernel.text();
  record.after = fields.afterProgram;
  record.before = fields.beforeProgram;
  record.target = target.text();
  record.compiler = tuningCompiler(target.device);
  record.tokens = task.tokens;
  record.device = opened.device;
  record.toolchain = fields.toolchain;
  record.version = std::string(version());
  record.threads = opened.threads;
  record.base = opened.base;
  return record;
}

/// Whether a result of an earlier run is about the same thing, measured on the same kind of machine.
bool sameQuestion(const TuningRecord &a, const TuningRecord &b) {
  return a.key() == b.key() && a.tokens == b.tokens && a.device == b.device && a.threads == b.threads;
}

struct Run {
  const Options &options;
  Target target;
  std::string out;
  std::vector<TuningRecord> earlier;
  Worker worker;
  Clock::time_point begin = Clock::now();
  double copyGBs = 0;
  std::vector<Outcome> outcomes;
  std::vector<SpecMistake> mistakes;

  Run(const Options &options, const Target &target)
      : options(options), target(target), worker(options.specs.openingWords(), options.limit) {}

  void tune(const Task &task, size_t index, size_t count);
  double share(const Outcome &outcome, double us) const {
    return copyGBs > 0 && us > 0 ? double(outcome.opened.wideBytes) * double(outcome.task.tokens) / (us * 1e3) / copyGBs
                                 : 0;
  }
};

void Run::tune(const Task &task, size_t index, size_t count) {
  double left = options.budget > 0 ? std::max(0.0, options.budget - secondsSince(begin)) / double(count - index) : 30;
  Clock::time_point start = Clock::now();
  Outcome outcome;
  outcome.task = task;
  try {
    outcome.opened = worker.open(task.kernel, target, task.tokens);
    copyGBs = outcome.opened.copyGBs;
    TuningRecord blank = recordFor(task, target, outcome.opened);
    std::map<std::string, Trial> known;
    if (options.resume)
      for (const TuningRecord &record : earlier)
        if (sameQuestion(record, blank)) {
          if (record.decides()) {
            outcome.remembered = true;
            outcome.record = record;
          } else {
            Trial trial;
            trial.schedule = record.schedule;
            trial.status = record.status;
            trial.message = record.message;
            trial.error = record.error;
            if (trial.good())
              trial.us = {record.us};
            known[record.schedule.text()] = trial;
          }
        }
    if (outcome.remembered) {
      outcomes.push_back(std::move(outcome));
      return;
    }
    std::vector<ScheduleCandidate> candidates = manager().schedules(task.kernel, target, listLimit(options, target));
    if (task.kernel.bucket == Bucket::Small) {
      // A token has the same bits in a small batch: what orders its sums is what the large bucket uses.
      KernelSpec large = task.kernel;
      large.bucket = Bucket::Large;
      Schedule leader = candidates.front().schedule;
      for (const TuningRecord &record : earlier)
        if (record.decides() && record.spec == large.text() && record.target == blank.target &&
            record.compiler == blank.compiler && record.after == blank.after && record.before == blank.before)
          leader = record.schedule.isAuto() ? record.base : record.schedule;
      std::string order = leader.order();
      // The default leads the list, whether or not the large bucket left its order.
      std::erase_if(candidates, [&, first = candidates.front().schedule](const ScheduleCandidate &candidate) {
        return candidate.schedule.order() != order && !(candidate.schedule == first);
      });
    }
    // What would run for tokens that fill waves only is not what would be timed.
    std::erase_if(candidates, [&, first = candidates.front().schedule](const ScheduleCandidate &candidate) {
      const Schedule &schedule = candidate.schedule;
      const int64_t percent = schedule.parameter("apart").value_or(0);
      if (percent <= 1 || schedule == first)
        return false;
      const int64_t wave = std::max<int64_t>(1, target.processors * schedule.parameter("warps").value_or(1) *
                                                    schedule.parameter("tokens").value_or(1));
      return 100 * task.tokens < (task.tokens + wave - 1) / wave * wave * percent;
    });
    Progress progress(fmt::format("autotune {}/{}", index + 1, count), int64_t(candidates.size()));
    SearchTools tools;
    tools.attempt = [&](const Schedule &schedule, int samples, double hopeless) {
      Trial trial = worker.attempt(schedule, samples, hopeless);
      TuningRecord record = blank;
      record.schedule = trial.schedule;
      record.status = trial.status;
      record.message = trial.message.substr(0, 500);
      record.us = trial.good() ? trial.median() : 0;
      record.noise = trial.noise();
      record.samples = int(trial.us.size());
      record.error = std::isfinite(trial.error) ? trial.error : 1e300;
      record.time = timeNow();
      appendRecord(out, record);
      return trial;
    };
    tools.duel = [&](const std::vector<Schedule> &schedules, int samples) { return worker.duel(schedules, samples); };
    tools.confirm = [&](const std::vector<Schedule> &schedules, int samples) {
      worker.renew();
      return worker.duel(schedules, samples);
    };
    // A quarter of the time is the finalists'.
    tools.timeUp = [&] { return secondsSince(start) > 0.75 * left; };
    tools.seconds = [&] { return secondsSince(start); };
    tools.progress = [&](const Trial &last, size_t done, size_t planned, double best, double base) {
      if (last.good())
        outcome.path.emplace_back(double(done), last.median());
      progress.advance(int64_t(done),
                       fmt::format("[{:3}/{}] {}  best {:.1f} us ({:.2f}x default{})", done, planned,
                                   label(task.kernel), best, base / best,
                                   copyGBs > 0 ? fmt::format(", {:.0f} % of copy bandwidth", 100 * share(outcome, best))
                                               : std::string()));
    };
    outcome.search = search(candidates, known, options.exhaustive, tools);
    progress.finish(fmt::format("{}  best {:.1f} us ({:.2f}x default)", label(task.kernel),
                                outcome.search.best.median(),
                                outcome.search.base.median() / outcome.search.best.median()));
    TuningRecord record = blank;
    record.base = outcome.search.base.schedule;
    record.schedule = outcome.search.wins ? outcome.search.best.schedule : Schedule();
    record.us = outcome.search.best.median();
    record.baseUs = outcome.search.base.median();
    record.noise = outcome.search.best.noise();
    record.samples = int(outcome.search.best.us.size());
    record.error = outcome.search.best.error;
    record.time = timeNow();
    appendRecord(out, record);
    outcome.record = record;
    earlier.push_back(record);
  } catch (const std::runtime_error &error) {
    if (dynamic_cast<const EnvironmentProblem *>(&error))
      throw;
    outcome.failed = error.what();
    say("{}: {}", task.kernel.text(), error.what());
  }
  outcomes.push_back(std::move(outcome));
}

void writePlot(const std::string &path, const std::vector<Outcome> &outcomes, const std::string &device) {
  Plot plot;
  plot.title = "hyperjit autotune: speed-up over the default schedule";
  plot.subtitle = device;
  plot.xLabel = "candidates tried, in the order of the cost model";
  plot.yLabel = "default / best so far";
  bool one = std::count_if(outcomes.begin(), outcomes.end(),
                           [](const Outcome &outcome) { return !outcome.path.empty(); }) == 1;
  for (const Outcome &outcome : outcomes) {
    if (outcome.path.empty())
      continue;
    Curve best{label(outcome.task.kernel), {}, {}}, each{"each candidate", {}, {}, true};
    double base = outcome.path.front().second, least = INFINITY;
    for (auto [x, us] : outcome.path) {
      least = std::min(least, us);
      best.x.push_back(x), best.y.push_back(base / least);
      each.x.push_back(x), each.y.push_back(base / us);
    }
    plot.curves.push_back(std::move(best));
    if (one)
      plot.curves.push_back(std::move(each));
  }
  writeFileWhole(path, plot.svg());
}

int report(const Run &run) {
  Json answer = jsonHead("autotune", run.outcomes.empty() ? "none" : run.outcomes.front().opened.device);
  answer["target"] = run.target.text();
  answer["out"] = run.out;
  answer["copy_gbps"] = run.copyGBs;
  answer["failed"] = mistakesJson(run.mistakes);
  answer["results"] = Json::array();
  Table table({"kernel", "tokens", "default us", "best us", "speed-up", "share", "tried", "rejected", "schedule"});
  int code = run.mistakes.empty() ? exitOk : exitProblem;
  for (const Outcome &outcome : run.outcomes) {
    const TuningRecord &record = outcome.record;
    if (!outcome.failed.empty()) {
      code = exitProblem;
      answer["results"].push_back({{"spec", outcome.task.kernel.text()},
                                   {"tokens", outcome.task.tokens},
                                   {"target", run.target.text()},
                                   {"error", outcome.failed}});
      continue;
    }
    auto timed = [&](const Schedule &schedule, double us) {
      return Json{{"schedule", schedule.text()}, {"us", us}, {"share", run.share(outcome, us)}};
    };
    const Schedule &best = record.schedule.isAuto() ? record.base : record.schedule;
    answer["results"].push_back({{"spec", record.spec},
                                 {"tokens", record.tokens},
                                 {"target", record.target},
                                 {"best", timed(best, record.us)},
                                 {"default", timed(record.base, record.baseUs)},
                                 {"tuned", !record.schedule.isAuto()},
                                 {"speedup", record.baseUs / record.us},
                                 {"rel_noise", record.noise},
                                 {"tried", outcome.search.tried},
                                 {"rejected", outcome.search.rejected},
                                 {"resumed", outcome.remembered ? Json(true) : Json(outcome.search.remembered > 0)}});
    table.add({label(outcome.task.kernel), fmt::format("{}", record.tokens), fmt::format("{:.1f}", record.baseUs),
               fmt::format("{:.1f}", record.us), fmt::format("{:.2f}", record.baseUs / record.us),
               fmt::format("{:.2f}", run.share(outcome, record.us)), fmt::format("{}", outcome.search.tried),
               fmt::format("{}", outcome.search.rejected),
               record.schedule.isAuto() ? "the default stays" : record.schedule.text()});
  }
  answer["seconds"] = secondsSince(run.begin);
  if (!run.options.plot.empty())
    writePlot(run.options.plot, run.outcomes, run.outcomes.empty() ? "" : run.outcomes.front().opened.device);
  if (run.options.json.empty() && !run.outcomes.empty())
    fmt::print("{}\n{}: {} results, {:.0f} s{}\n", table.text(), run.out, run.outcomes.size(), secondsSince(run.begin),
               interrupted() ? " (interrupted; the same command with --resume goes on)" : "");
  writeJson(answer, run.options.json);
  return interrupted() ? exitProblem : code;
}

int showList(const Options &options, const Target &target, const std::vector<Task> &tasks,
             const std::vector<SpecMistake> &mistakes) {
  Json answer = jsonHead("autotune", "none");
  answer["target"] = target.text();
  answer["failed"] = mistakesJson(mistakes);
  answer["kernels"] = Json::array();
  for (const Task &task : tasks) {
    std::vector<ScheduleCandidate> candidates = manager().schedules(task.kernel, target, listLimit(options, target));
    Json schedules = Json::array();
    Table table({"cost ns", "schedule"});
    for (const ScheduleCandidate &candidate : candidates) {
      schedules.push_back({{"schedule", candidate.schedule.text()}, {"cost", candidate.cost}});
      table.add({fmt::format("{:.2f}", candidate.cost), candidate.schedule.text()});
    }
    answer["kernels"].push_back({{"spec", task.kernel.text()},
                                 {"tokens", task.tokens},
                                 {"count", candidates.size()},
                                 {"schedules", options.list ? std::move(schedules) : Json::array()}});
    if (!options.json.empty())
      continue;
    if (options.list)
      fmt::print("{}\n{}\n", task.kernel.text(), table.text());
    else
      fmt::print("{}: {} legal schedules\n", task.kernel.text(), candidates.size());
  }
  writeJson(answer, options.json);
  return mistakes.empty() ? exitOk : exitProblem;
}

int checkFile(const Options &options) {
  if (std::error_code error; !std::filesystem::exists(options.check, error))
    throw UsageError(fmt::format("--check {}: the file cannot be read", options.check));
  TuningFile file = readTuningFile(options.check);
  for (const std::string &problem : file.problems)
    say("{}, {}", options.check, problem);
  watchInterrupt();
  Worker worker(options.specs.openingWords(), options.limit);
  Json answer = jsonHead("autotune", "none");
  answer["file"] = options.check;
  answer["checked"] = Json::array();
  answer["skipped"] = Json::array();
  Table table({"kernel", "tokens", "default us", "tuned us", "speed-up", "then", "verdict"});
  int code = file.problems.empty() ? exitOk : exitProblem;
  int64_t done = 0;
  std::vector<TuningRecord> records = compacted(file.records);
  Progress progress("check", int64_t(records.size()));
  for (const TuningRecord &record : records) {
    if (interrupted())
      break;
    auto skip = [&](const std::string &why) {
      answer["skipped"].push_back({{"spec", record.spec}, {"schedule", record.schedule.text()}, {"why", why}});
    };
    progress.advance(++done, record.spec);
    if (record.schedule.isAuto()) {
      skip("the default stays");
      continue;
    }
    try {
      const Target target = Target::parse(record.target);
      if (record.compiler != tuningCompiler(target.device)) {
        skip("of another compiler");
        continue;
      }
      const MachineLock lock(target);
      OpenedKernel opened = worker.open(KernelSpec::parse(record.spec), target, record.tokens);
      answer["device"] = opened.device;
      Trial tuned = worker.attempt(record.schedule, 3, INFINITY), base;
      base.schedule = opened.base;
      if (tuned.good())
        if (auto times = worker.duel({record.schedule, opened.base}, 32); times.size() == 2)
          tuned.us = times[0], base.us = times[1];
      const bool compared = !base.us.empty(), wins = tuned.good() && compared && beats(tuned, base);
      if (!wins)
        code = exitProblem;
      std::string verdict = wins ? "wins" : !tuned.good() ? tuned.status : compared ? "no longer wins" : "crash";
      answer["checked"].push_back({{"spec", record.spec},
                                   {"tokens", record.tokens},
                                   {"target", record.target},
                                   {"schedule", record.schedule.text()},
                                   {"us", tuned.good() ? tuned.median() : 0},
                                   {"default_us", base.us.empty() ? 0 : base.median()},
                                   {"wins", wins},
                                   {"verdict", verdict}});
      table.add({label(KernelSpec::parse(record.spec)), fmt::format("{}", record.tokens),
                 compared ? fmt::format("{:.1f}", base.median()) : "-",
                 tuned.us.empty() ? "-" : fmt::format("{:.1f}", tuned.median()),
                 compared ? fmt::format("{:.2f}", base.median() / tuned.median()) : "-",
                 fmt::format("{:.2f}", record.baseUs / record.us), verdict});
    } catch (const Interrupted &) {
      break;
    } catch (const EnvironmentProblem &problem) {
      skip(problem.what());
    } catch (const std::exception &problem) { // a target or a recipe that is not known here, a default that crashes
      skip(problem.what());
      code = exitProblem;
    }
  }
  progress.finish();
  if (options.json.empty())
    fmt::print("{}{} checked, {} skipped\n", answer["checked"].empty() ? "" : table.text(), answer["checked"].size(),
               answer["skipped"].size());
  writeJson(answer, options.json);
  return interrupted() ? exitProblem : code;
}

int run(Options &options) {
  if (options.worker >= 0) {
    options.specs.open();
    return serveTuning(options.worker);
  }
  refuseSameFile({{"--out", options.out},
                  {"--check", options.check},
                  {"--plot", options.plot},
                  {"--json", options.json},
                  {"--specs", options.specs.specsFile},
                  {"--from-record", options.fromRecord}});
  if (!options.specs.specs.empty() && (options.specs.specs[0] == "merge" || options.specs.specs[0] == "prune"))
    return editFiles(options.specs.specs, options.out, options.json);
  if (!options.check.empty()) {
    options.specs.open();
    return checkFile(options);
  }
  if (!options.fromRecord.empty()) {
    if (!options.specs.specsFile.empty())
      throw UsageError("--from-record and --specs both name the file of specs; give one");
    options.specs.specsFile = options.fromRecord;
  }
  std::vector<SpecMistake> mistakes;
  std::vector<Task> tasks = tasksOf(options, mistakes);
  Target target = options.target.empty() ? targetHere() : Target::parse(options.target);
  if (options.list || options.dryRun)
    return showList(options, target, tasks, mistakes);

  Run run(options, target);
  run.mistakes = std::move(mistakes);
  run.out = outPath(options, target);
  run.earlier = prepareOut(run.out);
  watchInterrupt();
  MachineLock lock(target);
  run.begin = Clock::now();
  for (size_t i = 0; i < tasks.size() && !interrupted(); ++i) {
    if (options.budget > 0 && secondsSince(run.begin) > options.budget && i > 0) {
      say("the budget of {} s is spent; {} of {} kernels are left, the same command with --resume goes on",
          options.budget, tasks.size() - i, tasks.size());
      break;
    }
    try {
      run.tune(tasks[i], i, tasks.size());
    } catch (const Interrupted &) {
      break;
    }
  }
  return report(run);
}

} // namespace

void addAutotune(CLI::App &app, int &exit) {
  auto options = std::make_shared<Options>();
  CLI::App *command = app.add_subcommand(
      "autotune", "search the schedules of kernels by measuring them here; merge A B..., prune FILE");
  options->specs.add(*command, true);
  command->add_option("--from-record", options->fromRecord,
                      "the file that HYPERJIT_RECORD wrote: the kernels of a run");
  command->add_option("--role", options->role, "before|boundary|after (all)")
      ->check(CLI::IsMember({"before", "boundary", "after"}));
  command->add_option("--direction", options->direction, "forward|backward (both)")
      ->check(CLI::IsMember({"forward", "backward"}));
  command->add_option("--tokens", options->tokens, "tokens to measure with: one count up to 64, one above, or both")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(wholeNumber(kMostTokens))
      ->capture_default_str();
  command->add_option("--target", options->target,
                      "native, x86-64-v3, sm_90a/h100, ... (the GPU's, else the best level of this CPU)");
  command
      ->add_option(
          "--budget", options->budget,
          "seconds for all kernels together (30 a kernel); what a first measurement of each takes is not cut short")
      ->check(aboveZero());
  command->add_option("--timeout", options->limit, "seconds that one candidate may take to compile and run")
      ->check(aboveZero(86400))
      ->capture_default_str();
  command->add_option("--out", options->out,
                      "JSON lines to append to (TARGET.jsonl in the cache's tuning folder, which every run reads)");
  command->add_flag(
      "--resume", options->resume,
      "keep what --out holds: decided kernels are not searched again, measured candidates not tried again");
  command->add_flag("--exhaustive", options->exhaustive, "try every legal schedule");
  command->add_flag("--list", options->list,
                    "print the legal schedules, best first by the cost model; measures nothing");
  command->add_flag("--dry-run", options->dryRun,
                    "print the kernels and how many schedules each has; measures nothing");
  CLI::Option *check = command->add_option("--check", options->check,
                                           "measure the results of this file again; exit 1 where one no longer wins");
  CLI::Option *plot = writes(command->add_option("--plot", options->plot, "SVG of the search"));
  // The file says what is measured.
  for (CLI::Option *other :
       {plot, command->get_option("SPEC"), command->get_option("--specs"), command->get_option("--from-record"),
        command->get_option("--list"), command->get_option("--dry-run"), command->get_option("--resume")})
    check->excludes(other);
  for (const char *nothing : {"--list", "--dry-run"}) // is measured that could be drawn
    command->get_option(nothing)->excludes(plot);
  command->add_option("--worker", options->worker)->group(""); // what a search starts
  addJson(*command, options->json);
  command->footer(examples("autotune manifold:n=4,d=512 --budget 60 --plot search.svg",
                           "autotune --from-record specs.txt --tokens 64,8192 --resume"));
  command->callback([options, &exit] { exit = run(*options); });
}

} // namespace hyperjit::tools
