// SPDX-License-Identifier: Apache-2.0
#include "TorchTools.h"
#include "Console.h"

#include <fmt/format.h>

#include <dlfcn.h>

namespace fs = std::filesystem;

namespace hyperjit::tools {

std::string torchToolsPath() {
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const char *place : {"../lib", "../" HYPERJIT_LIBRARY_FOLDER, "."}) {
    fs::path path = folder / place / "libhyperjit-tools.so";
    if (fs::exists(path, error))
      return fs::weakly_canonical(path, error).string();
  }
  return {};
}

void *torchToolsEntry(const char *name) {
  std::string path = torchToolsPath();
  if (path.empty())
    throw EnvironmentProblem(
        "this build has no LibTorch part (libhyperjit-tools.so beside the command); demo, bench and --model "
        "need one: configure with HYPERJIT_BUILD_TORCH=ON, scripts/setup does");
  void *library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw EnvironmentProblem(
        fmt::format("{}: {}; LibTorch (the torch wheel of the build) must be found by the loader", path, ::dlerror()));
  void *entry = ::dlsym(library, name);
  if (!entry)
    throw EnvironmentProblem(fmt::format("{} is of another build: it has no {}", path, name));
  return entry;
}

} // namespace hyperjit::tools
