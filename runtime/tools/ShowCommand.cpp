// hyperjit show SPEC: what becomes of a spec: parameters, kernels with their wide traffic, any stage of the compiler.
// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hyperjit::tools {

namespace {

// recipe needs no compiler, ptx is NVRTC's, sass is read from the finished cubin; the others are the compiler's.
const std::vector<std::string> stages = {"recipe", "hc",   "specialized", "adjoint", "split", "fused", "phases",
                                         "emitc",  "cuda", "vector",      "llvm",    "asm",   "ptx",   "sass"};

/// The recorded programs of a kernel's sites as files of hc assembly, split as -split-input-file wants it.
std::string recorded(const KernelSpec &kernel) {
  std::string text;
  for (const auto *site : {&kernel.after, &kernel.before})
    if (*site) {
      std::string program = ProgramSource::global().site(**site)->text;
      if (text != program) // twice the same site is one program
        text += (text.empty() ? "" : "\n// -----\n\n") + program;
    }
  return text;
}

struct Options {
  SpecArguments specs;
  std::string stage, role, direction, tokens, target, cut, schedule, json; ///< tokens: large if empty
  bool traffic = false;
};

struct Traffic {
  int64_t wide = 0, narrow = 0;
  void add(const TrafficInfo &info) {
    wide += info.readsU + info.writesU;
    narrow += info.narrowBytes;
  }
};

/// The compiler ends with CUDA C++; its PTX is the back end's.
std::string ptx(KernelManager &manager, const KernelSpec &kernel, const Target &target, const Schedule &schedule,
                const std::string &cut) {
  std::shared_ptr<const Backend> backend = Backend::find(target.device);
  if (!backend || target.device != DeviceType::Cuda)
    throw UsageError(fmt::format(
        "--stage ptx needs a CUDA target that this build has, for example --target sm_90a, not {}", target.text()));
  backend->toolchain(); // where NVRTC is missing, that is the answer
  return backend->assembly(manager.stage(kernel, target, "cuda", schedule, cut), target);
}

/// A folder that nobody else can have prepared, and that goes with all that is in it.
class TemporaryFolder {
public:
  TemporaryFolder() {
    std::error_code error;
    const std::string place = std::filesystem::temp_directory_path(error).string();
    name = place + "/hyperjit-XXXXXX";
    if (!error && !::mkdtemp(name.data()))
      error = std::error_code(errno, std::generic_category());
    if (error)
      throw EnvironmentProblem(
          fmt::format("no folder can be made in {}: {}", place.empty() ? "TMPDIR" : place, error.message()));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(name, ignored);
  }
  TemporaryFolder(const TemporaryFolder &) = delete;
  std::string file(const char *of) const { return name + "/" + of; }

private:
  std::string name;
};

std::string contentOf(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What nvdisasm prints about a cubin.
std::string nvdisasm(std::span<const std::byte> binary) {
  const TemporaryFolder folder;
  std::string cubin = folder.file("kernel.cubin"), out = folder.file("out"), err = folder.file("err");
  writeFileWhole(cubin, {reinterpret_cast<const char *>(binary.data()), binary.size()});
  std::string tool = "nvdisasm", option = "-c";
  char *words[] = {tool.data(), option.data(), cubin.data(), nullptr};
  posix_spawn_file_actions_t files; // no pipes: whoever waits for one of two may wait for ever
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
  ::posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
  pid_t process = -1;
  const int error = ::posix_spawnp(&process, words[0], &files, nullptr, words, environ);
  ::posix_spawn_file_actions_destroy(&files);
  if (error == ENOENT)
    throw EnvironmentProblem("nvdisasm is not on PATH; it comes with the CUDA toolkit (package cuda-nvdisasm-13-0). "
                             "--stage cuda shows the source");
  if (error)
    throw EnvironmentProblem(fmt::format("nvdisasm cannot be started: {}", std::strerror(error)));
  int status = 0;
  while (::waitpid(process, &status, 0) < 0 && errno == EINTR)
    ;
  if (status != 0) {
    std::string said = contentOf(err);
    said.erase(said.find_last_not_of(" \t\r\n") + 1);
    throw EnvironmentProblem(fmt::format("nvdisasm {}{}{}",
                                         WIFSIGNALED(status) ? fmt::format("died of signal {}", WTERMSIG(status))
                                                             : fmt::format("ended with {}", WEXITSTATUS(status)),
                                         said.empty() ? "" : ": ", said));
  }
  return contentOf(out);
}

std::string disassemble(const ResolvedArtifact &resolved) {
  if (resolved.artifact->kind != PayloadKind::Cubin)
    throw UsageError("--stage sass needs a CUDA target, for example --target sm_90a");
  std::string text;
  for (std::span<const std::byte> binary : binariesOf(*resolved.artifact))
    text += nvdisasm(binary);
  return text;
}

KernelSpec kernelOf(const Options &options, const std::string &text) {
  if (isKernelText(text))
    return parseKernel(text);
  Part part = parsePart(text);
  Role role = options.role == "before" ? Role::Before : options.role == "after" ? Role::After : Role::Boundary;
  Direction direction = options.direction == "backward" ? Direction::Backward : Direction::Forward;
  return trainingKernel(part, role, direction, options.tokens == "small" ? Bucket::Small : Bucket::Large);
}

int showStage(const Options &options, const std::string &text) {
  KernelManager &manager = KernelManager::global();
  KernelSpec kernel = kernelOf(options, text);
  if (!options.cut.empty() && (kernel.role != Role::Boundary || kernel.direction != Direction::Backward ||
                               options.stage == "recipe" || options.stage == "sass"))
    throw UsageError(
        "--cut is of the backward of a boundary, in the stages of the compiler: --role boundary --direction "
        "backward --stage phases, for example");
  const Schedule schedule = Schedule::parse(options.schedule.empty() ? "auto" : options.schedule);
  const std::vector<std::string> scheduled = {"emitc", "cuda", "vector", "llvm", "asm", "ptx", "sass"};
  if (!options.schedule.empty() && std::find(scheduled.begin(), scheduled.end(), options.stage) == scheduled.end())
    throw UsageError(fmt::format("--schedule changes the stages {}; '{}' comes before them", fmt::join(scheduled, ", "),
                                 options.stage));
  // A CUDA stage without a target means the newest table entry that most people have.
  bool cuda = options.stage == "cuda" || options.stage == "emitc" || options.stage == "ptx" || options.stage == "sass";
  Target target = targetOf(options.target.empty() && cuda ? "sm_90a" : options.target);
  std::string content = options.stage == "recipe" ? recorded(kernel)
                        : options.stage == "ptx"  ? ptx(manager, kernel, target, schedule, options.cut)
                        : options.stage == "sass" ? disassemble(manager.artifact(kernel, target, schedule))
                                                  : manager.stage(kernel, target, options.stage, schedule, options.cut);
  if (options.json.empty()) {
    std::cout << content;
    if (content.empty() || content.back() != '\n')
      std::cout << '\n';
  } else {
    Json answer = jsonHead("show", target.text());
    answer["spec"] = kernel.text();
    answer["target"] = target.text();
    answer["stage"] = options.stage;
    if (!options.schedule.empty())
      answer["schedule"] = schedule.text();
    answer["text"] = content;
    writeJson(answer, options.json);
  }
  return exitOk;
}

int showSummary(const Options &options, const std::string &text) {
  KernelManager &manager = KernelManager::global();
  Target target = targetOf(options.target);
  Bucket bucket = options.tokens == "small" ? Bucket::Small : Bucket::Large;
  std::vector<KernelSpec> kernels;
  Json answer = jsonHead("show", target.text());
  answer["spec"] = text;
  answer["target"] = target.text();
  answer["schedule"] = "auto";
  answer["parameters"] = Json::array();
  Table parameters({"parameter", "shape", "dtype", "initialisation"});
  size_t parameterCount = 0;
  std::string title;
  if (isKernelText(text)) {
    kernels = {parseKernel(text)};
    title = kernels[0].text();
  } else {
    Part part = parsePart(text);
    title = part.text();
    for (const ParameterInfo &p : ProgramSource::global().parameters(part.before)) {
      parameters.add(
          {p.name, fmt::format("({})", fmt::join(p.shape, ", ")), std::string(name(p.dtype)), p.initialisation.text});
      answer["parameters"].push_back({{"name", p.name},
                                      {"shape", p.shape},
                                      {"dtype", std::string(name(p.dtype))},
                                      {"initialisation", p.initialisation.text}});
      ++parameterCount;
    }
    for (Role role : {Role::Before, Role::Boundary, Role::After})
      for (Direction direction : {Direction::Forward, Direction::Backward}) {
        bool wanted = (options.role.empty() || name(role) == options.role) &&
                      (options.direction.empty() || name(direction) == options.direction);
        if (wanted)
          kernels.push_back(trainingKernel(part, role, direction, bucket));
      }
  }
  answer["spec"] = title;
  answer["kernels"] = Json::array();

  Traffic chained[2], alone[2];
  Table table({"kernel", "direction", "reads u", "writes u", "saved u", "narrow B", "stages", "registers", "spills",
               "schedule"});
  Progress progress("kernels", int64_t(kernels.size()));
  int64_t done = 0;
  for (const KernelSpec &kernel : kernels) {
    ResolvedArtifact resolved = manager.artifact(kernel, target);
    const ArtifactMeta &meta = resolved.artifact->meta;
    Traffic *sums = kernel.role == Role::Boundary ? chained : alone;
    sums[kernel.direction == Direction::Backward].add(meta.traffic);
    int registers = 0;
    int64_t shared = 0, spills = 0;
    for (const EntryInfo &entry : meta.entries) {
      registers = std::max(registers, entry.registers);
      shared = std::max(shared, entry.sharedBytes);
      spills += entry.spills;
    }
    table.add({std::string(name(kernel.role)), std::string(name(kernel.direction)),
               fmt::format("{}", meta.traffic.readsU), fmt::format("{}", meta.traffic.writesU),
               fmt::format("{}", meta.traffic.savedU), fmt::format("{}", meta.traffic.narrowBytes),
               fmt::format("{}", meta.stages), fmt::format("{}", registers), fmt::format("{}", spills), meta.schedule});
    answer["schedule"] = meta.schedule;
    std::string entry = meta.launches.empty() ? "" : meta.launches.front().entry;
    answer["kernels"].push_back({{"entry", entry},
                                 {"role", std::string(name(kernel.role))},
                                 {"direction", std::string(name(kernel.direction))},
                                 {"spec", kernel.text()},
                                 {"reads_u", meta.traffic.readsU},
                                 {"writes_u", meta.traffic.writesU},
                                 {"saved_u", meta.traffic.savedU},
                                 {"narrow_bytes", meta.traffic.narrowBytes},
                                 {"registers", registers},
                                 {"shared_bytes", shared},
                                 {"spills", spills},
                                 {"schedule", meta.schedule},
                                 {"launches", meta.launches.size()}});
    progress.advance(++done);
  }
  auto both = [](const Traffic sums[2]) {
    return Json{
        {"forward_u", sums[0].wide}, {"backward_u", sums[1].wide}, {"narrow_bytes", sums[0].narrow + sums[1].narrow}};
  };
  answer["chained"] = both(chained);
  answer["alone"] = both(alone);
  if (options.json.empty()) {
    if (!options.traffic) {
      fmt::print("{}\ntarget {}\n\n", title, target.text());
      if (parameterCount)
        fmt::print("{}\n", parameters.text());
      fmt::print("{}\n", table.text());
    }
    auto line = [](const char *what, const Traffic sums[2]) {
      if (sums[0].wide && sums[1].wide)
        fmt::print("{} {:.1f}u forward, {:.1f}u backward\n", what, double(sums[0].wide), double(sums[1].wide));
      else if (sums[0].wide || sums[1].wide)
        fmt::print("{} {:.1f}u {}\n", what, double(sums[0].wide + sums[1].wide), sums[0].wide ? "forward" : "backward");
    };
    line("chained", chained);
    line("alone", alone);
  }
  writeJson(answer, options.json);
  return exitOk;
}

int run(const Options &options) {
  std::string text = options.specs.read().front().text;
  if (isKernelText(text) && !(options.role + options.direction + options.tokens).empty())
    throw UsageError(fmt::format(
        "'{}' is a kernel, which says itself what --role, --direction and --tokens say; leave them out", text));
  if (!options.cut.empty() && options.stage.empty())
    throw UsageError("--cut needs --stage: what runs is cut early");
  if (!options.schedule.empty() && options.stage.empty())
    throw UsageError("--schedule needs --stage: a summary is of what runs");
  if (options.traffic && !options.stage.empty())
    throw UsageError("--traffic and --stage show different things; give one");
  if (options.stage.empty())
    return showSummary(options, text);
  if (std::find(stages.begin(), stages.end(), options.stage) == stages.end())
    throw UsageError(unknownWord("stage", options.stage, stages));
  return showStage(options, text);
}

} // namespace

void addShow(CLI::App &app, int &exit) {
  auto options = std::make_shared<Options>();
  CLI::App *command =
      app.add_subcommand("show", "what becomes of a spec: parameters, kernels, traffic, any stage of the compiler");
  options->specs.add(*command, false);
  command->add_option("--stage", options->stage, "print this stage: " + fmt::format("{}", fmt::join(stages, "|")));
  command->add_option("--role", options->role, "before|boundary|after (with --stage: boundary)")
      ->check(CLI::IsMember({"before", "boundary", "after"}));
  command->add_option("--direction", options->direction, "forward|backward (with --stage: forward)")
      ->check(CLI::IsMember({"forward", "backward"}));
  command->add_option("--tokens", options->tokens, "small|large: the token count the kernel is made for (large)")
      ->check(CLI::IsMember({"small", "large"}));
  command->add_option("--target", options->target,
                      "native, x86-64-v3, sm_90a/h100, ... (native; sm_90a for a CUDA stage)");
  command
      ->add_option(
          "--cut", options->cut,
          "early|late|auto: with --stage, which of the two equal cuts of a boundary's backward (early: what runs)")
      ->check(CLI::IsMember({"early", "late", "auto"}));
  command->add_option("--schedule", options->schedule,
                      "with --stage emitc|cuda|vector|llvm|asm|ptx|sass, another schedule than the cost model's: "
                      "skeleton:name=integer,... as `autotune --list` prints them (auto)");
  command->add_flag("--traffic", options->traffic, "only the wide traffic of a site, in u");
  addJson(*command, options->json);
  command->footer(examples("show manifold:n=4,d=4096,dtype=bf16 --traffic",
                           "show dynamic:n=4,d=512 --stage cuda --role boundary --direction backward --target sm_90a"));
  command->callback([options, &exit] { exit = run(*options); });
}

} // namespace hyperjit::tools
