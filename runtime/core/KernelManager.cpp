// KernelManager.cpp - kernels in memory. The one lock guards the map of futures; it is held for a look-up only.
// SPDX-License-Identifier: Apache-2.0
#include "KernelManagerState.h"

#include "hyperjit/core/Error.h"
#include "hyperjit/core/Log.h"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <pthread.h>
#include <random>

using namespace hyperjit;

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
    : options(std::move(given)),
      cache(options.settings, options.files ? *options.files : FileSystem::system(), options.ownOnly),
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
  state->addToolchain(fields, *maker);
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
