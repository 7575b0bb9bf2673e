// Driver.cpp - finding and opening libcuda and libnvrtc.
// SPDX-License-Identifier: Apache-2.0
#include "Driver.h"

#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Error.h"

#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <iterator>
#include <link.h>
#include <mutex>
#include <vector>

using namespace hyperjit;
using namespace hyperjit::cuda;

namespace {

template <class F> bool bind(void *library, const char *name, F &function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function;
}

struct OpenDriver {
  Driver table{};
  std::string error;

  OpenDriver() {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      error = fmt::format("libcuda.so.1 cannot be opened ({}); CUDA kernels need an NVIDIA driver", dlerror());
      return;
    }
    auto need = [&](const char *name, auto &function) {
      if (!bind(library, name, function) && error.empty())
        error = fmt::format("libcuda.so.1 has no {}; hyperjit needs a driver for CUDA 12 or newer", name);
    };
    need("cuInit", table.init);
    need("cuGetErrorString", table.errorString);
    need("cuDeviceGetCount", table.deviceGetCount);
    need("cuDeviceGet", table.deviceGet);
    need("cuDeviceGetName", table.deviceGetName);
    need("cuDeviceGetAttribute", table.deviceGetAttribute);
    need("cuDevicePrimaryCtxRetain", table.primaryContextRetain);
    need("cuDevicePrimaryCtxGetState", table.primaryContextState);
    need("cuCtxGetCurrent", table.contextGetCurrent);
    need("cuCtxGetDevice", table.contextGetDevice);
    need("cuCtxPushCurrent_v2", table.contextPush);
    need("cuCtxPopCurrent_v2", table.contextPop);
    need("cuModuleLoadData", table.moduleLoadData);
    need("cuModuleUnload", table.moduleUnload);
    need("cuModuleGetFunction", table.moduleGetFunction);
    need("cuFuncSetAttribute", table.functionSetAttribute);
    need("cuOccupancyMaxActiveBlocksPerMultiprocessor", table.occupancy);
    need("cuOccupancyMaxActiveClusters", table.activeClusters);
    need("cuStreamIsCapturing", table.streamIsCapturing);
    need("cuLaunchKernelEx", table.launchKernelEx);
    need("cuDriverGetVersion", table.driverGetVersion);
    need("cuMemAlloc_v2", table.memoryAllocate);
    need("cuMemFree_v2", table.memoryFree);
    need("cuMemcpyHtoD_v2", table.copyToDevice);
    need("cuMemcpyDtoH_v2", table.copyFromDevice);
    need("cuMemcpyDtoDAsync_v2", table.copyOnDevice);
    need("cuMemsetD8Async", table.fillBytes);
    need("cuStreamCreate", table.streamCreate);
    need("cuStreamDestroy_v2", table.streamDestroy);
    need("cuStreamSynchronize", table.streamSynchronize);
    need("cuStreamBeginCapture_v2", table.beginCapture);
    need("cuStreamEndCapture", table.endCapture);
    need("cuGraphInstantiateWithFlags", table.graphInstantiate);
    need("cuGraphLaunch", table.graphLaunch);
    need("cuGraphDestroy", table.graphDestroy);
    need("cuGraphExecDestroy", table.executableDestroy);
    need("cuEventCreate", table.eventCreate);
    need("cuEventDestroy_v2", table.eventDestroy);
    need("cuEventRecord", table.eventRecord);
    need("cuEventSynchronize", table.eventSynchronize);
    need("cuEventElapsedTime", table.eventElapsed);
    if (error.empty() && table.init(0) != 0)
      error = "the NVIDIA driver finds no usable device (cuInit failed)";
    if (int version = 0; error.empty() && table.driverGetVersion(&version) == 0)
      table.overlaps = version >= 12030;
  }
};

const OpenDriver &openDriver() {
  static const OpenDriver instance;
  return instance;
}

std::mutex folderMutex;
std::vector<std::string> &addedFolders() {
  static std::vector<std::string> folders;
  return folders;
}

/// Folders of the shared objects of this process whose file name starts with one of the given words.
std::vector<std::string> foldersOfLoaded(std::initializer_list<std::string_view> names) {
  struct Search {
    std::initializer_list<std::string_view> names;
    std::vector<std::string> folders;
  } search{names, {}};
  dl_iterate_phdr(
      [](dl_phdr_info *info, size_t, void *data) {
        auto &search = *static_cast<Search *>(data);
        std::filesystem::path path = info->dlpi_name ? info->dlpi_name : "";
        for (std::string_view name : search.names)
          if (path.filename().string().starts_with(name))
            search.folders.push_back(path.parent_path().string());
        return 0;
      },
      &search);
  return search.folders;
}

/// What tells two builds of the shared object that holds an address apart: 16 digits of its GNU build id, or of a digest
/// of the whole file where it has none.
std::string buildIdOf(const void *address) {
  struct Search {
    uintptr_t address;
    std::string id;
  } search{reinterpret_cast<uintptr_t>(address), {}};
  dl_iterate_phdr(
      [](dl_phdr_info *info, size_t, void *data) {
        auto &search = *static_cast<Search *>(data);
        bool holds = false;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto &header = info->dlpi_phdr[i];
          uintptr_t begin = info->dlpi_addr + header.p_vaddr;
          holds |= header.p_type == PT_LOAD && search.address >= begin && search.address < begin + header.p_memsz;
        }
        for (int i = 0; holds && i < info->dlpi_phnum; ++i) {
          const auto &header = info->dlpi_phdr[i];
          if (header.p_type != PT_NOTE)
            continue;
          const char *note = reinterpret_cast<const char *>(info->dlpi_addr + header.p_vaddr);
          const char *end = note + header.p_memsz;
          while (note + sizeof(ElfW(Nhdr)) <= end) {
            ElfW(Nhdr) head;
            std::memcpy(&head, note, sizeof head);
            const char *name = note + sizeof head;
            const char *value = name + (head.n_namesz + 3) / 4 * 4;
            if (head.n_type == NT_GNU_BUILD_ID && head.n_namesz == 4 && !std::memcmp(name, "GNU", 4))
              for (unsigned k = 0; k < head.n_descsz && k < 8; ++k)
                search.id += fmt::format("{:02x}", static_cast<unsigned char>(value[k]));
            note = value + (head.n_descsz + 3) / 4 * 4;
          }
        }
        return holds ? 1 : 0;
      },
      &search);
  Dl_info info{};
  if (search.id.empty() && dladdr(address, &info) && info.dli_fname) {
    std::ifstream file(info.dli_fname, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    search.id = digestText(bytes).substr(0, 16);
  }
  return search.id;
}

struct OpenNvrtc {
  Nvrtc table{};
  std::vector<std::string> tried;
  bool found = false;

  OpenNvrtc() {
    if (std::optional<std::string> path = environment("HYPERJIT_NVRTC_PATH")) {
      open(*path, true);
      return; // an explicit choice is not second-guessed
    }
    for (const char *name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"})
      if (void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD))
        if (take(library))
          return;
    std::vector<std::string> folders;
    {
      std::lock_guard lock(folderMutex);
      folders = addedFolders();
    }
    for (const std::string &torch : foldersOfLoaded({"libtorch", "libc10"}))
      for (const char *vendor : {"/../../nvidia/cu13/lib", "/../../nvidia/cuda_nvrtc/lib", ""})
        folders.push_back(torch + vendor);
    for (const char *variable : {"CUDA_HOME", "CUDA_PATH"})
      if (const char *home = std::getenv(variable))
        folders.push_back(std::string(home) + "/lib64");
    if (const char *environmentRoot = std::getenv("VIRTUAL_ENV")) {
      std::error_code ignored;
      for (const auto &entry : std::filesystem::directory_iterator(std::string(environmentRoot) + "/lib", ignored))
        folders.push_back(entry.path().string() + "/site-packages/nvidia/cu13/lib");
    }
    auto inFolder = [&](const std::string &folder) {
      return open(folder + "/libnvrtc.so.13", true) || open(folder + "/libnvrtc.so.12", true);
    };
    for (const std::string &folder : folders)
      if (inFolder(folder))
        return;
    // By the loader: its own folders, and the wheel's that a build tree names in the run path of libhyperjit.so.
    for (const char *name : {"libnvrtc.so.13", "libnvrtc.so.12"})
      if (open(name, false))
        return;
    inFolder("/usr/local/cuda/lib64");
  }

  /// NVRTC opens its builtins by bare name: they must be in the process before the first compile. Returns what tells
  /// them apart, empty where they do not lie beside it.
  static std::string loadBuiltins(const std::filesystem::path &folder) {
    std::error_code ignored;
    std::string identity;
    for (const auto &entry : std::filesystem::directory_iterator(folder, ignored)) {
      link_map *map = nullptr;
      if (entry.path().filename().string().starts_with("libnvrtc-builtins.so"))
        if (void *library = dlopen(entry.path().c_str(), RTLD_NOW | RTLD_GLOBAL);
            library && dlinfo(library, RTLD_DI_LINKMAP, &map) == 0)
          identity = buildIdOf(map->l_ld);
    }
    return identity;
  }

  bool open(const std::string &path, bool isFile) {
    std::error_code ignored;
    if (isFile && !std::filesystem::exists(path, ignored)) {
      tried.push_back(path + ": no such file");
      return false;
    }
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      tried.push_back(path + ": " + dlerror());
      return false;
    }
    return take(library);
  }

  bool take(void *library) {
    bool whole =
        bind(library, "nvrtcGetErrorString", table.errorString) && bind(library, "nvrtcVersion", table.version) &&
        bind(library, "nvrtcCreateProgram", table.createProgram) &&
        bind(library, "nvrtcDestroyProgram", table.destroyProgram) &&
        bind(library, "nvrtcCompileProgram", table.compileProgram) &&
        bind(library, "nvrtcGetCUBINSize", table.getCubinSize) && bind(library, "nvrtcGetCUBIN", table.getCubin) &&
        bind(library, "nvrtcGetPTXSize", table.getPtxSize) && bind(library, "nvrtcGetPTX", table.getPtx) &&
        bind(library, "nvrtcGetProgramLogSize", table.getLogSize) && bind(library, "nvrtcGetProgramLog", table.getLog);
    if (!whole) {
      tried.push_back("a libnvrtc without the calls of CUDA 12");
      return false;
    }
    Dl_info info{};
    dladdr(reinterpret_cast<const void *>(table.version), &info);
    const std::string builtins =
        loadBuiltins(std::filesystem::path(info.dli_fname ? info.dli_fname : "").parent_path());
    int major = 0, minor = 0;
    table.version(&major, &minor);
    table.identity =
        fmt::format("nvrtc {}.{} {}", major, minor, buildIdOf(reinterpret_cast<const void *>(table.version)));
    if (!builtins.empty())
      table.identity += " " + builtins;
    return found = true;
  }
};

} // namespace

const Driver *Driver::find() { return openDriver().error.empty() ? &openDriver().table : nullptr; }

const Driver &Driver::get() {
  if (!openDriver().error.empty())
    throw UserError(ErrorId::LibraryMissing, openDriver().error);
  return openDriver().table;
}

void Driver::check(Status status, const std::string &what) const {
  if (status == 0)
    return;
  const char *text = nullptr;
  errorString(status, &text);
  throw UserError(ErrorId::DeviceFailure,
                  fmt::format("{}: the CUDA driver says '{}' ({})", what, text ? text : "unknown", status));
}

const Nvrtc &Nvrtc::get() {
  static const OpenNvrtc instance;
  if (!instance.found)
    throw UserError(
        ErrorId::LibraryMissing,
        fmt::format("libnvrtc was not found, so CUDA kernels cannot be compiled; it comes with the torch wheel "
                    "(nvidia/cu13/lib) or the CUDA toolkit, or name it in HYPERJIT_NVRTC_PATH. Tried: {}",
                    fmt::join(instance.tried, "; ")));
  return instance.table;
}

void Nvrtc::addFolder(const std::string &folder) {
  std::lock_guard lock(folderMutex);
  addedFolders().push_back(folder);
}
