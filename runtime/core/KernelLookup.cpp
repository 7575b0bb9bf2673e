// KernelLookup.cpp - where a kernel comes from: the caches, else the compiler; and whose schedule it has.
// SPDX-License-Identifier: Apache-2.0
#include "Json.h"
#include "KernelManagerState.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Log.h"
#include "hyperjit/core/SpecList.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <set>

using namespace hyperjit;

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

/// Returns why there is none: without its toolchain a machine still runs kernels that somebody else compiled.
std::exception_ptr KernelManager::State::addToolchain(KeyFields &fields, const Backend &backend) const {
  try {
    fields.toolchain = backend.toolchain();
    return {};
  } catch (const UserError &) {
    return std::current_exception();
  }
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

/// What stands under the key of a schedule that the compiler does not take: who reads it need not open the compiler.
static Artifact refusal(const KeyFields &fields, const std::string &why) {
  Artifact artifact;
  artifact.meta.spec = fields.spec;
  artifact.meta.target = fields.target;
  artifact.meta.schedule = fields.schedule;
  artifact.meta.keyFields = fields.list();
  artifact.meta.extra = nlohmann::json{{"refused", why}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return artifact;
}

static bool isRefusal(const Artifact &artifact) { return artifact.payload.empty(); }

static UserError refused(const Artifact &artifact) {
  auto extra = parseJson<nlohmann::json>(artifact.meta.extra);
  auto why = extra.is_object() ? extra.find("refused") : extra.end();
  return UserError(ErrorId::Unsupported,
                   why != extra.end() && why->is_string() ? why->get<std::string>() : "the schedule is not legal");
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

  const std::exception_ptr noToolchain = addToolchain(result.fields, *maker);
  result.key = CacheKey::of(result.fields);
  const bool byRule = schedule.isAuto() && tuned;
  std::optional<Artifact> found;
  if (!compileAnyway) {
    // Without the table it is the same kernel once more.
    found = cache.find(result.key, tuned ? KernelCache::Look::First : KernelCache::Look::Again);
    if (!found && !options.ownOnly)
      found = findShipped(kernel, byRule, target, result.fields, result.key);
    if (found && !isRefusal(*found)) {
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
    if (options.settings.explainMiss && !found)
      explainMiss(cache, result.fields, result.key);
  }
  try {
    if (found)
      throw refused(*found);
    if (!options.settings.jit) {
      const std::vector<std::string> &offered = cache.shipped().targets;
      throw MissingKernelError(fmt::format(
          "no compiled kernel for '{}', target {} (key {}), and HYPERJIT_JIT=off forbids to compile it. {}. "
          "Compile it ahead with: hyperjit precompile --specs FILE --target {}{}",
          result.fields.spec, result.fields.target, result.key.hex(), searched(), result.fields.target,
          offered.empty() || std::find(offered.begin(), offered.end(), result.fields.target) != offered.end()
              ? std::string()
              : fmt::format(". The shipped kernels are for {}", fmt::join(offered, ", "))));
    }
    if (noToolchain)
      std::rethrow_exception(noToolchain);

    Passage passage(*gate);
    // Others may be compiling the same kernel: whoever waited looks again.
    KernelCache::ShardLock lock;
    if (!compileAnyway) {
      lock = cache.lock(result.key);
      if (lock.held())
        found = cache.find(result.key, KernelCache::Look::Again);
      if (found && isRefusal(*found))
        throw refused(*found);
      if (found) {
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
      ResolvedArtifact untuned = find(spec, target, schedule, compileAnyway, /*tuned=*/false);
      // A folder that is to be shipped gets kernels only.
      if (!found && !compileAnyway && !options.ownOnly)
        cache.publish(result.key, refusal(result.fields, error.what()));
      return untuned;
    }
    const bool compilerMissing = error.id() == ErrorId::CompilerMissing || error.id() == ErrorId::LibraryMissing;
    if (byRule && options.substitutes && !compileAnyway && (compilerMissing || error.id() == ErrorId::MissingKernel)) {
      if (std::optional<Artifact> untuned = findUntuned(kernel, target, result.fields, result.key)) {
        ++diskHits;
        return finish(std::move(*untuned), Origin::Disk);
      }
    }
    if (!compilerMissing)
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
      if (std::optional<Artifact> found = cache.find(candidate, KernelCache::Look::Shipped);
          found && !isRefusal(*found)) {
        fields = std::move(theirs);
        key = candidate;
        return found;
      }
    }
  }
  return std::nullopt;
}

/// The kernel as if there were no tuning table. A table proposes: it takes away no kernel that is there.
std::optional<Artifact> KernelManager::State::findUntuned(ResolvedKernel kernel, const Target &target,
                                                          KeyFields &fields, CacheKey &key) {
  if (!options.tuning && tuning.empty())
    return std::nullopt;
  kernel.schedule = {};
  kernel.tuned = false;
  KeyFields theirs = fields;
  theirs.schedule = kernel.schedule.text();
  CacheKey candidate = CacheKey::of(theirs);
  std::optional<Artifact> found = cache.find(candidate, KernelCache::Look::Again);
  if (!found)
    found = findShipped(kernel, /*byRule=*/false, target, theirs, candidate);
  if (!found || isRefusal(*found))
    return std::nullopt;
  warnOnce("tuned " + fields.spec,
           fmt::format("the kernel with the tuning table's schedule for '{}' is in no cache and "
                       "cannot be compiled here; the one with the default schedule is used",
                       fields.spec));
  fields = std::move(theirs);
  key = candidate;
  return found;
}

std::string KernelManager::State::searched() const {
  std::vector<std::string> roots;
  for (const KernelCache::Layer &layer : cache.layers())
    roots.push_back(layer.root);
  return roots.empty() ? std::string("Searched: no folder") : fmt::format("Searched: {}", fmt::join(roots, ", "));
}
