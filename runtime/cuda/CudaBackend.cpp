// CudaBackend.cpp - CUDA C++ to cubin: flags, headers, and what ptxas reports.
// SPDX-License-Identifier: Apache-2.0
#include "CudaBackend.h"

#include "CudaKernel.h"
#include "Driver.h"
#include "Programs.h"
#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/cuda/Cuda.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstring>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <numeric>

using namespace hyperjit;
using namespace hyperjit::cuda;

namespace {

std::vector<std::string> options(const Target &target) {
  // -v makes ptxas report registers and spills in the log; generic lambdas of the templates carry no annotation. Not
  // --split-compile: which of its threads is first decides the code, so that one text has several cubins.
  std::vector<std::string> list{"--std=c++20", "-default-device", "--gpu-architecture=" + target.isa,
                                "--ptxas-options=-v"};
  if (environment("HYPERJIT_CHECK_WAITS") == "1")
    list.push_back("-DHYPERJIT_CHECK_WAITS");
  return list;
}

/// The number in front of `word` in a line: "16 bytes spill stores".
int64_t numberBefore(std::string_view line, std::string_view word) {
  size_t at = line.find(word);
  if (at == std::string_view::npos)
    return 0;
  size_t end = line.find_last_of("0123456789", at);
  if (end == std::string_view::npos)
    return 0;
  size_t begin = end;
  while (begin > 0 && std::isdigit(static_cast<unsigned char>(line[begin - 1])))
    --begin;
  int64_t value = 0;
  std::from_chars(line.data() + begin, line.data() + end + 1, value);
  return value;
}

/// Registers, static shared memory, and bytes of spills and stack of every entry, from ptxas -v.
std::vector<EntryInfo> readReport(std::string_view log) {
  std::vector<EntryInfo> entries;
  bool inEntry = false;
  while (!log.empty()) {
    size_t end = log.find('\n');
    std::string_view line = log.substr(0, end);
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);
    if (size_t at = line.find("Compiling entry function '"); at != std::string_view::npos) {
      std::string_view name = line.substr(at + strlen("Compiling entry function '"));
      entries.push_back({std::string(name.substr(0, name.find('\''))), 0, 0, 0});
      inEntry = true;
    } else if (line.find("Function properties for ") != std::string_view::npos) {
      inEntry = !entries.empty() && line.find(entries.back().name) != std::string_view::npos;
    } else if (inEntry && line.find(" registers") != std::string_view::npos) {
      entries.back().registers = static_cast<int>(numberBefore(line, " registers"));
      entries.back().sharedBytes = numberBefore(line, " bytes smem");
    } else if (inEntry && line.find("bytes stack frame") != std::string_view::npos) {
      entries.back().spills =
          std::max({numberBefore(line, " bytes stack frame"), numberBefore(line, " bytes spill stores"),
                    numberBefore(line, " bytes spill loads")});
    }
  }
  return entries;
}

struct ProgramHolder {
  const Nvrtc &nvrtc;
  Program program = nullptr;
  ~ProgramHolder() {
    if (program)
      nvrtc.destroyProgram(&program);
  }
};

/// The generated lines that a log names ("kernel.cu(12): error"), so that a report holds what failed and not the
/// library.
std::string linesNamed(std::string_view log, std::string_view text) {
  std::string result;
  int last = 0;
  for (size_t at = log.find("kernel.cu("); at != std::string_view::npos; at = log.find("kernel.cu(", at + 1)) {
    int line = 0;
    std::from_chars(log.data() + at + 10, log.data() + log.size(), line);
    if (line == last || line <= 0)
      continue;
    last = line;
    size_t begin = 0;
    for (int i = 1; i < line && begin != std::string_view::npos; ++i)
      begin = text.find('\n', begin) + 1;
    result += fmt::format("{:5} | {}\n", line, text.substr(begin, text.find('\n', begin) - begin));
    if (result.size() > 2000)
      break;
  }
  return result;
}

void check(int status, const char *what, const std::string &reproducer) {
  if (status)
    throw InternalError(ErrorId::CompilerBug, fmt::format("{}: {}", what, Nvrtc::get().errorString(status)),
                        reproducer);
}

/// Compiles generated text with the embedded headers; returns the log. Throws InternalError with the lines it names.
std::string compileText(ProgramHolder &holder, const std::string &text, const std::vector<std::string> &flags,
                        const Target &target, const std::string &reproducer) {
  const Nvrtc &nvrtc = holder.nvrtc;
  std::vector<const char *> names, texts, arguments;
  for (const TemplateHeader *header = templateHeaders; header->name; ++header) {
    names.push_back(header->name);
    texts.push_back(header->text);
  }
  check(nvrtc.createProgram(&holder.program, text.c_str(), "kernel.cu", static_cast<int>(names.size()), texts.data(),
                            names.data()),
        "nvrtcCreateProgram", reproducer);
  for (const std::string &flag : flags)
    arguments.push_back(flag.c_str());
  int status = nvrtc.compileProgram(holder.program, static_cast<int>(arguments.size()), arguments.data());
  size_t size = 0;
  check(nvrtc.getLogSize(holder.program, &size), "nvrtcGetProgramLogSize", reproducer);
  std::string log(size, '\0');
  check(nvrtc.getLog(holder.program, log.data()), "nvrtcGetProgramLog", reproducer);
  log.resize(std::strlen(log.c_str()));
  if (status)
    throw InternalError(ErrorId::CompilerBug,
                        fmt::format("NVRTC refused generated code for {} ({}):\n{}{}", target.text(),
                                    nvrtc.errorString(status), log.substr(0, 4000), linesNamed(log, text)),
                        reproducer);
  return log;
}

/// The cubin of generated text, and what ptxas says of its entries.
CompiledProgram compileProgram(const std::string &text, const Target &target, const std::string &reproducer) {
  const Nvrtc &nvrtc = Nvrtc::get();
  CompiledProgram program;
  auto compile = [&](const std::vector<std::string> &flags) {
    ProgramHolder holder{nvrtc};
    program.entries = readReport(compileText(holder, text, flags, target, reproducer));
    size_t size = 0;
    check(nvrtc.getCubinSize(holder.program, &size), "nvrtcGetCUBINSize", reproducer);
    program.cubin.resize(size);
    check(nvrtc.getCubin(holder.program, reinterpret_cast<char *>(program.cubin.data())), "nvrtcGetCUBIN", reproducer);
    return std::any_of(program.entries.begin(), program.entries.end(),
                       [](const EntryInfo &entry) { return entry.spills > 0; });
  };
  std::vector<std::string> flags = options(target);
  // Occupancy is worth less than registers in memory: spilled kernels get all registers instead.
  if (compile(flags) && text.find("HYPERJIT_BLOCKS") != std::string::npos) {
    flags.push_back("-DHYPERJIT_RELAXED");
    compile(flags);
  }
  return program;
}

[[maybe_unused]] const bool installed = (Backend::install(std::make_shared<CudaBackend>()), true);

} // namespace

std::string CudaBackend::toolchain() const { return Nvrtc::get().identity; }

std::string CudaBackend::flags(const Target &target) const {
  return fmt::format("{}", fmt::join(options(target), " "));
}

Artifact CudaBackend::build(ArtifactMeta meta, std::string payload, const Target &target,
                            const Workers &workers) const {
  const std::vector<ProgramText> texts = programsOf(payload);
  std::vector<std::shared_ptr<const CompiledProgram>> programs(texts.size());
  std::vector<size_t> longestFirst(texts.size());
  std::iota(longestFirst.begin(), longestFirst.end(), size_t(0));
  std::stable_sort(longestFirst.begin(), longestFirst.end(),
                   [&](size_t a, size_t b) { return texts[a].text.size() > texts[b].text.size(); });
  runAll(
      texts.size(),
      [&](size_t turn) {
        const size_t i = longestFirst[turn];
        programs[i] = compileOnce(flags(target) + "\n" + texts[i].text,
                                  [&] { return compileProgram(texts[i].text, target, meta.spec); });
      },
      workers);
  Artifact artifact;
  artifact.kind = PayloadKind::Cubin;
  artifact.meta = std::move(meta);
  artifact.meta.entries.clear();
  for (size_t i = 0; i < texts.size(); ++i) {
    artifact.payload.resize((artifact.payload.size() + 15) / 16 * 16); // the driver reads numbers where they lie
    for (LaunchInfo &launch : artifact.meta.launches)
      if (launch.entry == texts[i].entry)
        launch.offset = int64_t(artifact.payload.size());
    artifact.payload.insert(artifact.payload.end(), programs[i]->cubin.begin(), programs[i]->cubin.end());
    artifact.meta.entries.insert(artifact.meta.entries.end(), programs[i]->entries.begin(), programs[i]->entries.end());
  }
  return artifact;
}

std::string CudaBackend::assembly(const std::string &payload, const Target &target) const {
  // The virtual architecture of the target: NVRTC stops before ptxas, which therefore has nothing to report.
  std::vector<std::string> flags = options(target);
  for (std::string &flag : flags)
    if (flag == "--gpu-architecture=" + target.isa)
      flag = "--gpu-architecture=compute_" + target.isa.substr(3);
  std::erase(flags, "--ptxas-options=-v");
  std::string all;
  for (const ProgramText &program : programsOf(payload)) {
    ProgramHolder holder{Nvrtc::get()};
    compileText(holder, program.text, flags, target, {});
    size_t size = 0;
    check(holder.nvrtc.getPtxSize(holder.program, &size), "nvrtcGetPTXSize", {});
    std::string text(size, '\0');
    check(holder.nvrtc.getPtx(holder.program, text.data()), "nvrtcGetPTX", {});
    all += text.c_str();
  }
  return all;
}

std::shared_ptr<const Kernel> CudaBackend::load(std::shared_ptr<const Artifact> artifact) const {
  return loadCudaKernel(std::move(artifact));
}

void cuda::addLibraryFolder(const std::string &folder) { Nvrtc::addFolder(folder); }

int cuda::deviceCount() {
  const Driver *driver = Driver::find();
  int count = 0;
  return driver && driver->deviceGetCount(&count) == 0 ? count : 0;
}

Target cuda::targetOf(int device) {
  const Driver &driver = Driver::get();
  DeviceHandle handle = 0;
  int major = 0, minor = 0;
  char name[256] = {};
  std::string what = fmt::format("describing device {}", device);
  driver.check(driver.deviceGet(&handle, device), what);
  driver.check(driver.deviceGetAttribute(&major, kDeviceMajor, handle), what);
  driver.check(driver.deviceGetAttribute(&minor, kDeviceMinor, handle), what);
  driver.check(driver.deviceGetName(name, sizeof name - 1, handle), what);
  return Target::forCudaDevice(major, minor, name);
}
