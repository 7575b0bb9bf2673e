// KernelManager.cpp - memory, disk, compiler. The one lock guards the map of futures; it is held for a look-up only.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/KernelManager.h"

#include "CompilerRequest.h"
#include "Gate.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Log.h"
#include "hyperjit/core/SpecList.h"
#include "hyperjit/core/TuningTable.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <future>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <pthread.h>
#include <random>
#include <set>
#include <unistd.h>

using namespace hyperjit;
using Clock = std::chrono::steady_clock;

static double millisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

namespace {
using KernelPointer = std::shared_ptr<const Kernel>;

struct Slot {
  std::shared_future<KernelPointer> future;
  pid_t owner; ///< the process whose thread fulfils it: a forked child must not wait for its parent's threads
  bool ready() const { return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
};
} // namespace

struct KernelManager::State {
  KernelManagerOptions options;
  KernelCache cache;
  TuningTable tuning;
  std::unique_ptr<Gate> gate;
  mutable std::mutex mutex;
  std::map<std::string, Slot, std::less<>> slots;
  std::mutex recordMutex;
  std::set<std::string> recorded;
  std::atomic<int64_t> memoryHits{0}, diskHits{0}, compiled{0}, rejected{0};
  std::atomic<int64_t> compileMicroseconds{0}, loadMicroseconds{0};

  explicit State(KernelManagerOptions given);
  ~State();
  int jobs() const { return options.settings.compileJobs ? options.settings.compileJobs : defaultCompileJobs(); }

  ProgramSource &programs() const { return options.programs ? *options.programs : ProgramSource::global(); }
  std::shared_ptr<const Backend> backend(const Target &target) const;
  KernelSpec normalise(const KernelSpec &spec) const;
  /// `tuned`: auto may become what a tuning table says.
  ResolvedKernel resolve(const KernelSpec &normalised, const Target &target, const Schedule &schedule,
                         bool tuned = true) const;
  KeyFields fields(const ResolvedKernel &kernel, const Target &target, const Backend &backend) const;
  Artifact compile(const ResolvedKernel &kernel, const Target &target, const Backend &backend, const KeyFields &fields,
                   const CacheKey &key);
  ResolvedArtifact find(const KernelSpec &normalised, const Target &target, const Schedule &schedule,
                        bool compileAnyway = false, bool tuned = true);
  Schedule tunedFor(const ResolvedKernel &kernel, const Target &target) const;
  std::optional<Artifact> findShipped(const ResolvedKernel &kernel, bool byRule, const Target &target,
                                      KeyFields &fields, CacheKey &key);
  std::string searched() const;
  void record(const std::string &spec);
  KernelPointer load(const KernelSpec &normalised, const Target &target, const Schedule &schedule);
};

/// A child that is forked while other threads work has none of these threads, and all that they held. So nobody is
/// inside the maps while a fork happens, and the child gets a gate with all its places free.
struct KernelManager::Forks {
  std::mutex mutex;
  std::set<State *> managers;

  static Forks &all() {
    static auto *forks = [] {
      auto *made = new Forks();
      ::pthread_atfork([] { all().freeze(); }, [] { all().thaw(false); }, [] { all().thaw(true); });
      return made;
    }();
    return *forks;
  }
  void freeze() {
    mutex.lock();
    for (State *manager : managers) {
      manager->recordMutex.lock();
      manager->mutex.lock();
    }
  }
  void thaw(bool child) {
    for (State *manager : managers) {
      manager->mutex.unlock();
      manager->recordMutex.unlock();
      if (child) {
        (void)manager->gate.release(); // its condition variable still counts the parent's threads
        manager->gate = std::make_unique<Gate>(manager->jobs());
      }
    }
    mutex.unlock();
  }
};

KernelManager::State::State(KernelManagerOptions given)
    : options(std::move(given)), cache(options.settings, options.files ? *options.files : FileSystem::system()),
      gate(std::make_unique<Gate>(jobs())) {
  if (!options.compiler)
    options.compiler = std::make_shared<CompilerPlugin>();
  if (!options.tuning)
    tuning = TuningTable::fromSettings(options.settings);
  // Made now, so that no child is forked while a thread makes it.
  (void)Target::table();
  std::lock_guard guard(Forks::all().mutex);
  Forks::all().managers.insert(this);
}

KernelManager::State::~State() {
  std::lock_guard guard(Forks::all().mutex);
  Forks::all().managers.erase(this);
}

std::shared_ptr<const Backend> KernelManager::State::backend(const Target &target) const {
  for (const std::shared_ptr<const Backend> &backend : options.backends)
    if (backend->device() == target.device)
      return backend;
  if (std::shared_ptr<const Backend> backend = Backend::find(target.device))
    return backend;
  throw UserError(ErrorId::BackendMissing, fmt::format("this build has no back end for {} targets, so nothing can be "
                                                       "made for {}",
                                                       name(target.device), target.text()));
}

KernelSpec KernelManager::State::normalise(const KernelSpec &spec) const {
  return hyperjit::normalise(spec, programs());
}

ResolvedKernel KernelManager::State::resolve(const KernelSpec &spec, const Target &target, const Schedule &schedule,
                                             bool tuned) const {
  ResolvedKernel result;
  result.spec = spec;
  if (spec.after)
    result.after = programs().site(*spec.after);
  if (spec.before)
    result.before = programs().site(*spec.before);
  result.schedule = schedule;
  if (schedule.isAuto() && tuned)
    result.schedule = tunedFor(result, target);
  result.tuned = schedule.isAuto() && !result.schedule.isAuto();
  return result;
}

Schedule KernelManager::State::tunedFor(const ResolvedKernel &kernel, const Target &target) const {
  if (options.tuning)
    return options.tuning(kernel.spec, target);
  return tuning.find(kernel.spec, kernel.after ? kernel.after->digest : "", kernel.before ? kernel.before->digest : "",
                     target);
}

KeyFields KernelManager::State::fields(const ResolvedKernel &kernel, const Target &target,
                                       const Backend &backend) const {
  KeyFields fields;
  fields.compilerDigest = hyperjit::compilerDigest();
  if (target.device == DeviceType::Cuda)
    fields.templateDigest = hyperjit::templateDigest();
  fields.spec = kernel.spec.text();
  if (kernel.after)
    fields.afterProgram = kernel.after->digest;
  if (kernel.before)
    fields.beforeProgram = kernel.before->digest;
  fields.schedule = kernel.schedule.text();
  fields.target = target.text();
  fields.flags = backend.flags(target);
  fields.nameSpace = options.settings.cacheNamespace;
  return fields;
}

Artifact KernelManager::State::compile(const ResolvedKernel &kernel, const Target &target, const Backend &backend,
                                       const KeyFields &fields, const CacheKey &key) {
  Clock::time_point start = Clock::now();
  log(LogLevel::Info, fmt::format("compiling {} for {}", fields.spec, fields.target));
  std::string asked = compilerRequest(kernel, target, "");
  CompilerReply reply = options.compiler->run(asked);
  std::string dumpName =
      fmt::format("{}-{}-{}", name(kernel.spec.role), name(kernel.spec.direction), key.hex().substr(0, 12));
  if (dumps()) {
    dump(dumpName + ".request.json", asked.data(), asked.size());
    for (const auto &[end, program] : {std::pair{".after.hc", kernel.after}, std::pair{".before.hc", kernel.before}})
      if (program)
        dump(dumpName + end, program->text.data(), program->text.size());
    dump(dumpName + (target.device == DeviceType::Cuda ? ".cu" : ".image"), reply.payload.data(), reply.payload.size());
  }
  Artifact artifact = backend.build(ArtifactMeta::parse(reply.json), std::move(reply.payload), target,
                                    {[&] { return gate->tryEnter(); }, [&] { gate->leave(); }});
  artifact.meta.keyFields = fields.list();
  artifact.meta.compileMilliseconds = millisecondsSince(start);
  if (dumps()) {
    std::string meta = artifact.meta.json();
    dump(dumpName + ".meta.json", meta.data(), meta.size());
    if (artifact.kind == PayloadKind::Cubin)
      for (int number = 0; std::span<const std::byte> binary : binariesOf(artifact))
        dump(fmt::format("{}.{}.cubin", dumpName, number++), binary.data(), binary.size());
  }
  ++compiled;
  compileMicroseconds += int64_t(artifact.meta.compileMilliseconds * 1000);
  log(LogLevel::Info, fmt::format("compiled {} in {:.0f} ms, {} bytes", fields.spec, artifact.meta.compileMilliseconds,
                                  artifact.payload.size()));
  return artifact;
}

static void explainMiss(const KernelCache &cache, const KeyFields &fields, const CacheKey &key) {
  std::string text = fmt::format("miss of {}\n{}", key.hex(), fields.text());
  if (std::optional<NearestEntry> nearest = cache.nearest(fields)) {
    text += fmt::format("nearest entry {}", nearest->path);
    for (const NearestEntry::Difference &difference : nearest->differences)
      text += fmt::format("\n  {}: here '{}', there '{}'", difference.field, difference.wanted, difference.found);
  } else {
    text += "the caches hold no entry";
  }
  log(LogLevel::Warning, text);
}

ResolvedArtifact KernelManager::State::find(const KernelSpec &spec, const Target &target, const Schedule &schedule,
                                            bool compileAnyway, bool tuned) {
  Clock::time_point start = Clock::now();
  std::shared_ptr<const Backend> maker = backend(target);
  ResolvedKernel kernel = resolve(spec, target, schedule, tuned);
  ResolvedArtifact result;
  result.fields = fields(kernel, target, *maker);
  auto finish = [&](Artifact artifact, Origin origin) {
    result.artifact = std::make_shared<const Artifact>(std::move(artifact));
    result.origin = origin;
    result.milliseconds = millisecondsSince(start);
    return std::move(result);
  };

  // Without its toolchain a machine still runs kernels that somebody else compiled.
  std::exception_ptr noToolchain;
  try {
    result.fields.toolchain = maker->toolchain();
  } catch (const UserError &) {
    noToolchain = std::current_exception();
  }
  result.key = CacheKey::of(result.fields);
  if (!compileAnyway) {
    std::optional<Artifact> found = cache.find(result.key);
    if (!found)
      found = findShipped(kernel, schedule.isAuto() && tuned, target, result.fields, result.key);
    if (found) {
      ++diskHits;
      if (options.settings.verify == CacheVerify::Regenerate && options.settings.jit && !noToolchain &&
          result.fields.target == target.text() && result.fields.toolchain == maker->toolchain()) {
        Passage passage(*gate);
        Artifact again = compile(kernel, target, *maker, result.fields, result.key);
        if (again.payload != found->payload)
          throw InternalError(
              "a kernel on disk differs from the same kernel compiled now: its key is incomplete or its "
              "compiler is not deterministic (HYPERJIT_CACHE_VERIFY=regen)",
              result.fields.text());
      }
      return finish(std::move(*found), Origin::Disk);
    }
    if (options.settings.explainMiss)
      explainMiss(cache, result.fields, result.key);
  }
  if (!options.settings.jit) {
    const std::vector<std::string> &offered = cache.shipped().targets;
    throw MissingKernelError(
        fmt::format("no compiled kernel for '{}', target {} (key {}), and HYPERJIT_JIT=off forbids to compile it. {}. "
                    "Compile it ahead "
                    "with: hyperjit precompile --specs FILE --target {}{}",
                    result.fields.spec, result.fields.target, result.key.hex(), searched(), result.fields.target,
                    offered.empty() || std::find(offered.begin(), offered.end(), result.fields.target) != offered.end()
                        ? std::string()
                        : fmt::format(". The shipped kernels are for {}", fmt::join(offered, ", "))));
  }
  try {
    if (noToolchain)
      std::rethrow_exception(noToolchain);

    Passage passage(*gate);
    // Others may be compiling the same kernel: whoever waited looks again.
    KernelCache::ShardLock lock;
    if (!compileAnyway) {
      lock = cache.lock(result.key);
      if (lock.held())
        if (std::optional<Artifact> found = cache.find(result.key, KernelCache::Look::Again)) {
          ++diskHits;
          return finish(std::move(*found), Origin::Disk);
        }
    }
    Artifact artifact = compile(kernel, target, *maker, result.fields, result.key);
    if (!compileAnyway)
      cache.publish(result.key, artifact);
    return finish(std::move(artifact), Origin::Compiled);
  } catch (const UserError &error) {
    if (kernel.tuned && error.id() == ErrorId::Unsupported) {
      // A tuning file may be edited, or older than a limit; it only proposes.
      warnOnce("tuned " + result.fields.spec,
               fmt::format("the tuning table's schedule for '{}' is not legal and is ignored: {}", result.fields.spec,
                           error.what()));
      return find(spec, target, schedule, compileAnyway, /*tuned=*/false);
    }
    if (error.id() != ErrorId::CompilerMissing && error.id() != ErrorId::LibraryMissing)
      throw;
    throw UserError(error.id(), fmt::format("{}\nIt was wanted for '{}', target {} (key {}). {}.", error.what(),
                                            result.fields.spec, result.fields.target, result.key.hex(), searched()));
  }
}

/// Layers with a manifest are looked up under their own toolchain: another patch release, or none, would miss all of
/// them. And under the plainer targets that this one runs: a pack is made for x86-64-v3 or sm_90a, not for every
/// product. Where the schedule is the rules' (`byRule`), it is what a table says for that target, as it was when the
/// pack was made.
std::optional<Artifact> KernelManager::State::findShipped(const ResolvedKernel &kernel, bool byRule,
                                                          const Target &target, KeyFields &fields, CacheKey &key) {
  const ManifestHead &shipped = cache.shipped();
  if (shipped.targets.empty() && shipped.toolchains.empty())
    return std::nullopt;
  std::vector<std::string> targets = {fields.target};
  if (target.device == DeviceType::Cuda)
    targets.push_back(target.isa);
  else if (target.runsHere())
    // Levels in the order of their names: none above the one asked for, though this host may run it.
    for (std::string_view level : {"x86-64-v4", "x86-64-v3"})
      if (level <= target.cpu)
        targets.emplace_back(level);
  std::vector<std::string> toolchains = {fields.toolchain};
  toolchains.insert(toolchains.end(), shipped.toolchains.begin(), shipped.toolchains.end());
  std::set<CacheKey> tried = {key};
  for (const std::string &name : targets) {
    if (name != fields.target &&
        std::find(shipped.targets.begin(), shipped.targets.end(), name) == shipped.targets.end())
      continue;
    std::string schedule =
        byRule && name != fields.target ? tunedFor(kernel, Target::parse(name)).text() : fields.schedule;
    for (const std::string &toolchain : toolchains) {
      KeyFields theirs = fields;
      theirs.target = name;
      theirs.schedule = schedule;
      theirs.toolchain = toolchain;
      CacheKey candidate = CacheKey::of(theirs);
      if (toolchain.empty() || !tried.insert(candidate).second)
        continue;
      if (std::optional<Artifact> found = cache.find(candidate, KernelCache::Look::Shipped)) {
        fields = std::move(theirs);
        key = candidate;
        return found;
      }
    }
  }
  return std::nullopt;
}

std::string KernelManager::State::searched() const {
  std::vector<std::string> roots;
  for (const KernelCache::Layer &layer : cache.layers())
    roots.push_back(layer.root);
  return roots.empty() ? std::string("Searched: no folder") : fmt::format("Searched: {}", fmt::join(roots, ", "));
}

void KernelManager::State::record(const std::string &spec) {
  const std::string &path = options.settings.recordFile;
  if (path.empty())
    return;
  {
    std::lock_guard guard(recordMutex);
    if (!recorded.insert(spec).second)
      return;
  }
  // One write with O_APPEND: lines of several processes do not mix.
  std::string line = spec + "\n";
  int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  bool written = file >= 0 && ::write(file, line.data(), line.size()) == ssize_t(line.size());
  if (file >= 0)
    ::close(file);
  if (!written)
    warnOnce("record", fmt::format("cannot append to {} (HYPERJIT_RECORD)", path));
}

KernelPointer KernelManager::State::load(const KernelSpec &spec, const Target &target, const Schedule &schedule) {
  record(spec.text());
  ResolvedArtifact resolved = find(spec, target, schedule);
  std::shared_ptr<const Backend> maker = backend(target);
  Clock::time_point start = Clock::now();
  KernelPointer kernel;
  try {
    kernel = maker->load(resolved.artifact);
  } catch (const InternalError &error) {
    if (error.id() != ErrorId::ImageRejected || resolved.origin == Origin::Compiled || !options.settings.jit)
      throw;
    // A whole entry that this driver refuses: the file stays for others, this process compiles once for itself.
    ++rejected;
    log(LogLevel::Info,
        fmt::format("entry {} was refused and is compiled again: {}", resolved.key.hex(), error.what()));
    resolved = find(spec, target, schedule, /*compileAnyway=*/true);
    kernel = maker->load(resolved.artifact);
  }
  loadMicroseconds += int64_t(millisecondsSince(start) * 1000);
  return kernel;
}

static std::string slotName(const KernelSpec &spec, const Target &target, const Schedule &schedule) {
  return spec.text() + '\n' + target.text() + '\n' + schedule.text();
}

KernelManager::KernelManager(KernelManagerOptions options) : state(std::make_unique<State>(std::move(options))) {}
KernelManager::~KernelManager() { saveStatistics(); }

void KernelManager::saveStatistics() const {
  state->cache.saveStatistics(state->compiled, double(state->compileMicroseconds) / 1000);
}

std::shared_ptr<const Kernel> KernelManager::get(const KernelSpec &spec, const Target &target,
                                                 const Schedule &schedule) {
  std::string slot = slotName(spec, target, schedule);
  std::promise<KernelPointer> promise;
  std::shared_future<KernelPointer> wait;
  {
    std::lock_guard guard(state->mutex);
    auto it = state->slots.find(slot);
    if (it != state->slots.end() && (it->second.owner == ::getpid() || it->second.ready()))
      wait = it->second.future;
    else
      state->slots.insert_or_assign(slot, Slot{promise.get_future().share(), ::getpid()});
  }
  if (wait.valid()) {
    ++state->memoryHits;
    return wait.get();
  }
  try {
    KernelSpec normalised = state->normalise(spec);
    // Another spelling of a spec shares the kernel of the canonical one.
    KernelPointer kernel = normalised.text() == spec.text() ? state->load(normalised, target, schedule)
                                                            : get(normalised, target, schedule);
    promise.set_value(kernel);
    return kernel;
  } catch (...) {
    {
      // Whoever waits gets this error; the next call tries again.
      std::lock_guard guard(state->mutex);
      state->slots.erase(slot);
    }
    promise.set_exception(std::current_exception());
    throw;
  }
}

std::shared_ptr<const Kernel> KernelManager::peek(const KernelSpec &spec, const Target &target,
                                                  const Schedule &schedule) const {
  std::string slot = slotName(spec, target, schedule);
  std::shared_future<KernelPointer> future;
  {
    std::lock_guard guard(state->mutex);
    auto it = state->slots.find(slot);
    if (it == state->slots.end() || !it->second.ready())
      return nullptr;
    future = it->second.future;
  }
  try {
    return future.get();
  } catch (const std::exception &) {
    return nullptr;
  }
}

void KernelManager::prepare(std::span<const KernelRequest> requests) {
  std::vector<const KernelRequest *> order;
  std::set<std::string> seen;
  for (const KernelRequest &request : requests)
    if (seen.insert(slotName(request.spec, request.target, request.schedule)).second)
      order.push_back(&request);
  if (order.empty())
    return;
  // R processes take R different orders and find what others made on disk. True random numbers: process numbers are
  // equal in containers, ranks are not always named.
  std::shuffle(order.begin(), order.end(), std::mt19937_64(std::random_device()()));
  // Few tokens and many often have one text, and who asks for it while it is compiled waits: so not one beside the
  // other.
  std::stable_partition(order.begin(), order.end(),
                        [](auto *request) { return request->spec.bucket == Bucket::Large; });

  runAll(
      order.size(), [&](size_t i) { get(order[i]->spec, order[i]->target, order[i]->schedule); },
      Workers::upTo(state->jobs()));
}

ResolvedArtifact KernelManager::artifact(const KernelSpec &spec, const Target &target, const Schedule &schedule) {
  return state->find(state->normalise(spec), target, schedule);
}

KeyFields KernelManager::keyFields(const KernelSpec &spec, const Target &target, const Schedule &schedule) {
  std::shared_ptr<const Backend> maker = state->backend(target);
  KeyFields fields = state->fields(state->resolve(state->normalise(spec), target, schedule), target, *maker);
  fields.toolchain = maker->toolchain();
  return fields;
}

std::string KernelManager::stage(const KernelSpec &spec, const Target &target, std::string_view stage,
                                 const Schedule &schedule, std::string_view cut) {
  ResolvedKernel kernel = state->resolve(state->normalise(spec), target, schedule);
  return state->options.compiler->run(compilerRequest(kernel, target, stage, 0, cut)).payload;
}

std::vector<ScheduleCandidate> KernelManager::schedules(const KernelSpec &spec, const Target &target, size_t limit) {
  ResolvedKernel kernel = state->resolve(state->normalise(spec), target, {}, /*tuned=*/false);
  std::string asked = compilerRequest(kernel, target, "", std::max<size_t>(limit, 1));
  nlohmann::json reply = nlohmann::json::parse(state->options.compiler->run(asked).json, nullptr, false);
  std::vector<ScheduleCandidate> list;
  if (reply.is_object() && reply.contains("schedules") && reply["schedules"].is_array())
    for (const nlohmann::json &entry : reply["schedules"])
      if (entry.is_object() && entry.contains("schedule") && entry["schedule"].is_string())
        list.push_back({Schedule::parse(entry["schedule"].get<std::string>()), entry.value("cost", 0.0)});
  if (list.empty())
    throw InternalError(ErrorId::CompilerBug, "the compiler lists no schedule", kernel.spec.text());
  return list;
}

ManagerStatistics KernelManager::statistics() const {
  ManagerStatistics statistics;
  statistics.memoryHits = state->memoryHits;
  statistics.diskHits = state->diskHits;
  statistics.compiled = state->compiled;
  statistics.rejected = state->rejected;
  statistics.compileMilliseconds = double(state->compileMicroseconds) / 1000;
  statistics.loadMilliseconds = double(state->loadMicroseconds) / 1000;
  statistics.cache = state->cache.statistics();
  return statistics;
}

KernelCache &KernelManager::cache() { return state->cache; }
const Settings &KernelManager::settings() const { return state->options.settings; }
ProgramSource &KernelManager::programs() const { return state->programs(); }

KernelManager &KernelManager::global() {
  // Never destroyed: modules live as long as the process (warp #401), and so may what calls them.
  static auto *manager = [] {
    auto *made = new KernelManager();
    std::atexit([] { global().saveStatistics(); });
    return made;
  }();
  return *manager;
}
