// hyperjit doctor: what of the machine hyperjit finds, and what to do about what it does not.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"
#include "TorchTools.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <dlfcn.h>
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
  Settings settings = Settings::fromEnvironment();
  KernelCache cache(settings);
  for (const auto &layer : cache.layers()) {
    if (!layer.writable)
      continue;
    // The root is created at the first store; what counts is its nearest ancestor that exists.
    std::filesystem::path folder = layer.root;
    while (!folder.empty() && !std::filesystem::exists(folder) && folder != folder.parent_path())
      folder = folder.parent_path();
    bool writable = takesFiles(folder);
    bool open = anybodyWrites(layer.root) || anybodyWrites(layer.root + "/v1"),
         foreign = belongsToOthers(layer.root + "/v1");
    check.ok = writable && (settings.trust != CacheTrust::Owner || (!open && !foreign));
    check.found = layer.root;
    if (!writable) {
      check.found += fmt::format(" ({} is not writable)", folder.string());
      check.advice = "every process compiles for itself; set HYPERJIT_CACHE_DIR to a folder you can write";
    } else if (!check.ok) {
      check.found += open ? " (writable by everybody)" : " (belongs to somebody else)";
      check.advice = fmt::format(
          "it is neither read nor written: chmod o-w {0}, or set HYPERJIT_CACHE_DIR, or HYPERJIT_CACHE_TRUST=path "
          "if you vouch for it",
          layer.root);
    } else {
      std::error_code error;
      auto space = std::filesystem::space(folder, error);
      if (!error && space.available < uint64_t(64) << 20) {
        check.ok = false;
        check.found += fmt::format(" ({} left on its disk)", humanBytes(space.available));
        check.advice = "kernels are compiled and not kept; make room, or lower HYPERJIT_CACHE_MAX_SIZE and run "
                       "hyperjit cache prune";
      }
    }
  }
  if (check.found.empty()) {
    check.found = "no writable directory";
    check.optional = !settings.jit; // a production image with its pack needs none
    check.advice = "every process compiles for itself; set HYPERJIT_CACHE_DIR to a folder you can write";
  }
  return check;
}

/// HYPERJIT_CACHE_PATH and what came with the installation.
std::vector<Check> shipped() {
  std::vector<Check> checks;
  KernelCache cache(Settings::fromEnvironment());
  for (const auto &layer : cache.layers()) {
    if (layer.writable)
      continue;
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

// Compiles, loads and runs the smallest kernel there is on this host.
Check launch() {
  Check check{"compile, load, launch"};
  try {
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
    auto kernel = KernelManager::global().get(spec, Target::hostLevel());
    double milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    std::vector<std::vector<std::byte>> memory;
    std::vector<void *> operands;
    auto aligned = [&](size_t bytes) {
      memory.emplace_back(bytes + 64);
      size_t address = reinterpret_cast<size_t>(memory.back().data());
      return memory.back().data() + (64 - address % 64);
    };
    for (const OperandInfo &operand : kernel->meta().operands)
      operands.push_back(aligned(size_t(operand.elements * sizeOf(operand.dtype))));
    void *workspace = aligned(kernel->workspaceBytes(1));
    kernel->launch(operands, workspace, 1, {});
    check.ok = true;
    check.found = fmt::format("{} for {} in {:.1f} ms", spec.text(), Target::hostLevel().text(), milliseconds);
  } catch (const std::exception &error) {
    check.found = error.what();
    check.advice = "the CPU back end does not work here; the message says which part";
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
  checks.push_back(launch());
  Check torch("libtorch tools");
  torch.found = torchToolsPath();
  torch.ok = !torch.found.empty();
  torch.optional = true;
  if (!torch.ok) {
    torch.found = "not built";
    torch.advice = "demo and bench need a build with LibTorch (HYPERJIT_BUILD_TORCH=ON)";
  }
  checks.push_back(torch);
  checks.push_back(toolchain(
      DeviceType::Cuda, "nvrtc",
      "kernels for NVIDIA GPUs cannot be compiled; NVRTC comes with the torch wheel, or set HYPERJIT_NVRTC_PATH",
      true));
  checks.push_back(driver());
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
