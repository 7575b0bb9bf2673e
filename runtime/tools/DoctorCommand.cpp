// hyperjit doctor: what of the machine hyperjit finds, and what to do about what it does not.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"
#include "TorchTools.h"
#include "autotune/Machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <dlfcn.h>
#include <functional>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

namespace hyperjit::tools {

namespace {

struct Check {
  explicit Check(std::string name) : name(std::move(name)) {}
  std::string name;
  bool ok = false;
  std::string found, advice;
  /// An optional part that is missing is reported, but is no problem.
  bool optional = false;
};

Check compiler() {
  Check check{"compiler"};
  check.optional = !Settings::fromEnvironment().jit; // a production image with its pack has none
  CompilerPlugin plugin;
  try {
    plugin.open();
    check.found = fmt::format("{} at {}", plugin.version(), plugin.path());
    check.ok = true;
  } catch (const std::exception &error) {
    check.found = error.what();
    check.advice = "kernels that no cache holds cannot be compiled; build the target hyperjit-compiler or set "
                   "HYPERJIT_COMPILER_PATH";
  }
  return check;
}

/// Tried, not asked: for root every folder looks writable, also one that takes no file (/proc, a read-only mount).
bool takesFiles(const std::filesystem::path &folder) {
  std::string name = (folder / ".hyperjit-doctor-XXXXXX").string();
  int file = ::mkstemp(name.data());
  if (file < 0)
    return false;
  ::close(file);
  ::unlink(name.c_str());
  return true;
}

/// A folder that others may write is not read either: what KernelCache would say at the first look.
bool anybodyWrites(const std::string &path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && (status.st_mode & S_IWOTH) && !(status.st_mode & S_ISVTX);
}

bool belongsToOthers(const std::string &path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && status.st_uid != ::geteuid() && status.st_uid != 0;
}

Check cache() {
  Check check{"cache"};
  const Settings settings = Settings::fromEnvironment();
  const std::string &root = settings.cacheDirectory;
  constexpr const char *alone = "every process compiles for itself";
  if (settings.cache == CacheMode::Off) {
    check.found = "HYPERJIT_CACHE=off: kernels are kept in memory only";
    check.advice = fmt::format("{}; leave HYPERJIT_CACHE at rw to keep them", alone);
    check.optional = true; // as it was asked for
    return check;
  }
  if (root.empty()) {
    check.found = "no writable directory";
    check.optional = !settings.jit; // a production image with its pack needs none
    check.advice = fmt::format("{}; set HYPERJIT_CACHE_DIR to a folder you can write", alone);
    return check;
  }
  check.found = root;
  const bool open = anybodyWrites(root) || anybodyWrites(root + "/v1"), foreign = belongsToOthers(root + "/v1");
  if (settings.trust == CacheTrust::Owner && (open || foreign)) {
    check.found += open ? " (writable by everybody)" : " (belongs to somebody else)";
    check.advice = fmt::format(
        "it is neither read nor written: chmod o-w {0}, or set HYPERJIT_CACHE_DIR, or HYPERJIT_CACHE_TRUST=path "
        "if you vouch for it",
        root);
    return check;
  }
  if (settings.cache == CacheMode::ReadOnly) {
    const size_t entries = KernelCache::list(root).size();
    check.found += fmt::format(" (HYPERJIT_CACHE=ro: it is read and never written): {} kernels", entries);
    check.advice = fmt::format("what is not there {}; set HYPERJIT_CACHE to rw to keep what is compiled",
                               settings.jit ? "is compiled by every process for itself" : "is an error");
    check.ok = entries > 0;
    check.optional = true; // kernels may be in other folders
    return check;
  }
  // The root is created at the first store; what counts is its nearest ancestor that exists.
  std::filesystem::path folder = root;
  while (!folder.empty() && !std::filesystem::exists(folder) && folder != folder.parent_path())
    folder = folder.parent_path();
  if (!takesFiles(folder)) {
    check.found += fmt::format(" ({} is not writable)", folder.string());
    check.advice = fmt::format("{}; set HYPERJIT_CACHE_DIR to a folder you can write", alone);
    return check;
  }
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  check.ok = error || space.available >= uint64_t(64) << 20;
  if (!check.ok) {
    check.found += fmt::format(" ({} left on its disk)", humanBytes(space.available));
    check.advice = "kernels are compiled and not kept; make room, or lower HYPERJIT_CACHE_MAX_SIZE and run "
                   "hyperjit cache prune";
  }
  return check;
}

/// HYPERJIT_CACHE_PATH and what came with the installation.
std::vector<Check> shipped() {
  std::vector<Check> checks;
  const Settings settings = Settings::fromEnvironment();
  KernelCache cache(settings);
  const bool own = !settings.cacheDirectory.empty(); // the first layer, also where it is only read
  for (size_t i = own ? 1 : 0; i < cache.layers().size(); ++i) {
    const KernelCache::Layer &layer = cache.layers()[i];
    Check check("shipped kernels");
    size_t entries = KernelCache::list(layer.root).size();
    std::error_code error;
    bool manifest = std::filesystem::exists(layer.root + "/manifest.json", error);
    check.found = fmt::format("{}: {} kernels{}", layer.root, entries, manifest ? "" : ", no manifest");
    check.ok = entries > 0;
    if (!check.ok)
      check.advice = fmt::format(
          "nothing is found there: is '{}' the folder that precompile --out or cache unpack --to filled?", layer.root);
    else if (!manifest)
      check.advice = "without a manifest only a machine with the same toolchain and the very target finds them; fill "
                     "it with precompile --out";
    checks.push_back(check);
  }
  if (const ManifestHead &head = cache.shipped(); !head.targets.empty()) {
    Check check("shipped targets");
    check.found = fmt::format("{}", fmt::join(head.targets, ", "));
    for (const std::string &name : head.targets)
      try {
        Target target = Target::parse(name);
        check.ok |= target.device == DeviceType::Cuda ? ::access("/dev/nvidiactl", F_OK) == 0 : target.runsHere();
      } catch (const std::exception &) {
        // Of a newer version.
      }
    if (!check.ok)
      check.advice = "none of them runs on this machine; precompile for its target (hyperjit env, nvidia-smi)";
    checks.push_back(check);
  }
  return checks;
}

Check toolchain(DeviceType device, const char *name, const char *advice, bool optional) {
  Check check{name};
  check.optional = optional;
  try {
    auto backend = Backend::find(device);
    if (!backend) {
      check.found = "no back end in this build";
    } else {
      check.found = backend->toolchain();
      check.ok = true;
    }
  } catch (const std::exception &error) {
    check.found = error.what();
  }
  if (!check.ok)
    check.advice = advice;
  return check;
}

Check driver() {
  Check check{"cuda driver"};
  check.optional = true;
  check.advice = "no GPU is used; kernels for one can still be compiled (precompile, show)";
  void *library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    check.found = "libcuda.so.1 is not here";
    return check;
  }
  auto initialise = reinterpret_cast<int (*)(unsigned)>(::dlsym(library, "cuInit"));
  auto version = reinterpret_cast<int (*)(int *)>(::dlsym(library, "cuDriverGetVersion"));
  auto count = reinterpret_cast<int (*)(int *)>(::dlsym(library, "cuDeviceGetCount"));
  auto deviceName = reinterpret_cast<int (*)(char *, int, int)>(::dlsym(library, "cuDeviceGetName"));
  int status = initialise ? initialise(0) : -1, devices = 0, number = 0;
  if (status != 0 || !version || !count || !deviceName || version(&number) || count(&devices)) {
    check.found = fmt::format("libcuda.so.1 is here, cuInit answers {}", status);
    return check;
  }
  std::string names;
  for (int device = 0; device < devices; ++device) {
    char text[128] = "";
    deviceName(text, sizeof text, device);
    names += (device ? ", " : "") + std::string(text);
  }
  check.ok = devices > 0;
  check.found = fmt::format("CUDA {}.{}, {} device{}{}{}", number / 1000, number % 1000 / 10, devices,
                            devices == 1 ? "" : "s", devices ? ": " : "", names);
  if (check.ok)
    check.advice.clear();
  return check;
}

/// Compiles, loads and runs the smallest kernel there is.
Check launch(const char *name, const std::function<Target()> &where, const char *advice) {
  Check check{name};
  try {
    const Target target = where();
    ProgramSource &programs = ProgramSource::global();
    std::vector<std::string> names = programs.recipes();
    if (names.empty())
      throw EnvironmentProblem("this build holds no recipe");
    SiteSpec site;
    site.recipe = std::find(names.begin(), names.end(), "static") != names.end() ? "static" : names.front();
    site.n = 2;
    site.d = 8;
    KernelSpec spec = KernelSpec::beforeForward(programs.normalise(site), false, Bucket::Small);
    auto begin = std::chrono::steady_clock::now();
    auto kernel = KernelManager::global().get(spec, target);
    double milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    const std::unique_ptr<Machine> machine = machineFor(target);
    std::vector<void *> operands;
    for (const OperandInfo &operand : kernel->meta().operands)
      operands.push_back(machine->allocate(size_t(operand.elements * sizeOf(operand.dtype))));
    void *workspace = machine->allocate(std::max<size_t>(size_t(kernel->workspaceBytes(1)), 1));
    machine->launch(*kernel, operands, workspace, 1);
    machine->finish();
    check.ok = true;
    check.found = fmt::format("{} for {} in {:.1f} ms", spec.text(), target.text(), milliseconds);
  } catch (const std::exception &error) {
    check.found = error.what();
    check.advice = advice;
  }
  return check;
}

/// Opened as the commands do: a file of that name may be half of it, or its LibTorch missing.
Check torchTools() {
  Check check("libtorch tools");
  check.optional = true;
  try {
    torchToolsEntry(demoEntryName);
    check.found = torchToolsPath();
    check.ok = true;
  } catch (const EnvironmentProblem &problem) {
    check.found = problem.what();
    check.advice = "demo and bench need it; build with LibTorch (HYPERJIT_BUILD_TORCH=ON)";
  }
  return check;
}

int run(const std::string &json) {
  std::vector<Check> checks;
  Check self("hyperjit");
  self.ok = true;
  self.found = fmt::format("{}, compiler sources {}", version(), compilerDigest().substr(0, 12));
  checks.push_back(self);
  checks.push_back(compiler());
  checks.push_back(cache());
  for (Check &check : shipped())
    checks.push_back(std::move(check));
  Check cpu = launch("compile, load, launch", Target::hostLevel,
                     "the CPU back end does not work here; the message says which part");
  cpu.optional = !Settings::fromEnvironment().jit; // its kernel need not be in a pack
  checks.push_back(std::move(cpu));
  checks.push_back(toolchain(
      DeviceType::Cuda, "nvrtc",
      "kernels for NVIDIA GPUs cannot be compiled; NVRTC comes with the torch wheel, or set HYPERJIT_NVRTC_PATH",
      true));
  const bool compiles = checks.back().ok;
  checks.push_back(driver());
  if (checks.back().ok) {
    Check gpu = launch("launch on the GPU", targetHere, "kernels do not run on the GPU; the message says which part");
    gpu.optional = !compiles || !Settings::fromEnvironment().jit; // its own kernel is in no pack
    checks.push_back(std::move(gpu));
  }
  checks.push_back(torchTools()); // last: LibTorch brings libraries that the others are not to find by that
  Json answer = jsonHead("doctor", Target::native().text());
  answer["checks"] = Json::array();
  bool good = true;
  for (const Check &check : checks) {
    answer["checks"].push_back({{"name", check.name},
                                {"ok", check.ok},
                                {"found", check.found},
                                {"advice", check.advice},
                                {"optional", check.optional}});
    good &= check.ok || check.optional;
    if (json.empty()) {
      fmt::print("{:<22} {:<5} {}\n", check.name, check.ok ? "ok" : check.optional ? "-" : "BAD", check.found);
      if (!check.advice.empty())
        fmt::print("{:<28} {}\n", "", check.advice);
    }
  }
  writeJson(answer, json);
  return good ? exitOk : exitProblem;
}

} // namespace

void addDoctor(CLI::App &app, int &exit) {
  auto json = std::make_shared<std::string>();
  CLI::App *command = app.add_subcommand(
      "doctor",
      "checks compiler, cache, back ends and libraries, and says what to do; exit 1 if a needed part is missing");
  addJson(*command, *json);
  command->footer(examples("doctor", "doctor --json"));
  command->callback([json, &exit] { exit = run(*json); });
}

} // namespace hyperjit::tools
