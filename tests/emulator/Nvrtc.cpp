// Nvrtc.cpp - as much of libnvrtc as the runtime opens: the C++ compiler of this machine in place of NVIDIA's. A
// "cubin" is a shared object that wants the emulated libcuda.
// SPDX-License-Identifier: Apache-2.0
#include "Machine.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>
#include <utility>
#include <vector>

namespace fs = std::filesystem;

namespace {

struct Program {
  std::string text, log, binary;
  std::vector<std::pair<std::string, std::string>> headers;
};

void write(const fs::path &path, const std::string &text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}
std::string read(const fs::path &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
int give(const std::string &from, char *to) {
  std::memcpy(to, from.data(), from.size());
  return 0;
}

} // namespace

#define EXPORT extern "C" HYPERJIT_EMULATOR_EXPORT int

extern "C" HYPERJIT_EMULATOR_EXPORT const char *nvrtcGetErrorString(int) { return "the C++ compiler refused it"; }
EXPORT nvrtcVersion(int *major, int *minor) {
  *major = 13;
  *minor = 0;
  return 0;
}
EXPORT nvrtcCreateProgram(Program **program, const char *text, const char *, int count, const char *const *headers,
                          const char *const *names) {
  *program = new Program{text, {}, {}, {}};
  for (int i = 0; i < count; ++i)
    (*program)->headers.emplace_back(names[i], headers[i]);
  return 0;
}
EXPORT nvrtcDestroyProgram(Program **program) {
  delete std::exchange(*program, nullptr);
  return 0;
}
EXPORT nvrtcCompileProgram(Program *program, int count, const char *const *options) {
  char name[] = "/tmp/hyperjit-emulator-XXXXXX";
  if (!mkdtemp(name))
    return 1;
  const fs::path folder = name;
  for (const auto &[header, text] : program->headers)
    write(folder / header, text);
  const fs::path own = HYPERJIT_EMULATOR_SOURCE;
  write(folder / "hyperjit/device.cuh", read(own / "device.cuh"));
  write(folder / "Machine.h", read(own / "Machine.h"));
  // A kernel of any parameters is called with their address.
  write(folder / "kernel.cpp",
        std::regex_replace(program->text, std::regex(R"(const __grid_constant__ (\w+<\d+>) (\w+))"), "const $1 &$2"));
  std::string command =
      HYPERJIT_EMULATOR_COMPILER " -std=c++20 -O1 -shared -fPIC -w -fno-strict-aliasing -fvisibility=hidden";
  for (int i = 0; i < count; ++i) {
    const std::string option = options[i], architecture = "--gpu-architecture=sm_";
    if (option.starts_with("-D"))
      command += " " + option;
    if (option.starts_with(architecture))
      command += " -D__CUDA_ARCH__=" + std::to_string(10 * std::atoi(option.c_str() + architecture.size()));
  }
  const std::string base = folder.string();
  command += " -I" + base + " -include hyperjit/device.cuh " + base + "/kernel.cpp -o " + base +
             "/kernel.so -L" HYPERJIT_EMULATOR_FOLDER " -l:libcuda.so.1 2>" + base + "/log";
  const int status = std::system(command.c_str());
  program->log = read(folder / "log");
  if (status == 0)
    program->binary = read(folder / "kernel.so");
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return status == 0 ? 0 : 6;
}
EXPORT nvrtcGetCUBINSize(Program *program, size_t *bytes) {
  *bytes = program->binary.size();
  return 0;
}
EXPORT nvrtcGetCUBIN(Program *program, char *to) { return give(program->binary, to); }
EXPORT nvrtcGetPTXSize(Program *, size_t *) { return 1; }
EXPORT nvrtcGetPTX(Program *, char *) { return 1; }
EXPORT nvrtcGetProgramLogSize(Program *program, size_t *bytes) {
  *bytes = program->log.size() + 1;
  return 0;
}
EXPORT nvrtcGetProgramLog(Program *program, char *to) {
  to[program->log.size()] = 0;
  return give(program->log, to);
}
