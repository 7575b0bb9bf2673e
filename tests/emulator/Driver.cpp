// Driver.cpp - as much of libcuda as the runtime opens: one device of three processors whose memory is the process's.
// SPDX-License-Identifier: Apache-2.0
//
// HYPERJIT_EMULATOR_SEED: of the order in which warps go on. A launch that fails is refused with its reason on stderr.
#include "Machine.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <fstream>
#include <map>
#include <string>
#include <time.h>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace hyperjit;

namespace {

// As runtime/cuda/Driver.h declares them.
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    char bytes[64];
    emulator::Index cluster;
    int cooperative;
  } value;
  LaunchAttribute() = delete;
};
struct LaunchConfig {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  void *stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};
struct Function {
  void (*kernel)(const void *);
  std::string name;
};

constexpr int invalid = 1, notFound = 500, failed = 719;
/// A launch with its own copy of the parameters.
struct GraphNode {
  emulator::Launch launch;
  std::vector<char> parameters;
};
struct Graph {
  std::vector<GraphNode> nodes;
};

constexpr int processors = 3, clusters = 2, parameterBytes = 4096;
constexpr int captureInvalid = 901, captureUnsupported = 900;
thread_local int current = 0; ///< contexts pushed
std::atomic<bool> retained{false};
std::atomic<int> refusal{0}, refusals{0}; ///< what the next loads answer, and how many of them
uint64_t launches = 0;
std::map<std::string, int> launched; ///< how often, by name
Graph *captured = nullptr;           ///< of a stream that is being captured
bool captureBroken = false;          ///< by a call that may not be made meanwhile

uint64_t seed() {
  static const char *given = std::getenv("HYPERJIT_EMULATOR_SEED");
  return (given ? std::strtoull(given, nullptr, 10) : 1) * 1000003 + launches++;
}

int launchNow(const emulator::Launch &launch) {
  std::string error = emulator::run(launch, seed());
  if (error.empty())
    return 0;
  std::fprintf(stderr, "emulator: %s\n", error.c_str());
  return failed;
}
/// What allocates, loads or waits breaks a capture.
int notInCapture() {
  captureBroken |= captured != nullptr;
  return captured ? captureUnsupported : 0;
}

} // namespace

#define EXPORT extern "C" HYPERJIT_EMULATOR_EXPORT int

EXPORT cuInit(unsigned) { return 0; }
EXPORT cuGetErrorString(int status, const char **text) {
  *text = status == failed ? "the launch failed, see stderr" : "invalid";
  return 0;
}
EXPORT cuDriverGetVersion(int *version) {
  *version = 13000;
  return 0;
}
EXPORT cuDeviceGetCount(int *count) {
  *count = 1;
  return 0;
}
EXPORT cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? 0 : invalid;
}
EXPORT cuDeviceGetName(char *name, int bytes, int) {
  std::snprintf(name, size_t(bytes), "emulated GPU");
  return 0;
}
EXPORT cuDeviceGetAttribute(int *value, int attribute, int) {
  *value = attribute == 16 ? processors : attribute == 75 ? 9 : 0;
  return 0;
}
EXPORT cuDevicePrimaryCtxRetain(void **context, int) {
  retained = true;
  *context = &launches;
  return 0;
}
EXPORT cuDevicePrimaryCtxGetState(int, unsigned *flags, int *active) {
  *flags = 0;
  *active = retained;
  return 0;
}
EXPORT cuCtxGetCurrent(void **context) {
  *context = current ? &launches : nullptr;
  return 0;
}
EXPORT cuCtxGetDevice(int *device) {
  *device = 0;
  return 0;
}
EXPORT cuCtxPushCurrent_v2(void *) {
  ++current;
  return 0;
}
EXPORT cuCtxPopCurrent_v2(void **) {
  --current;
  return 0;
}

/// For tests: the next `times` loads answer `status`.
EXPORT emulatorRefuseLoads(int status, int times) {
  refusal = status;
  refusals = times;
  return 0;
}
/// For tests: launches so far of kernels whose names end so.
EXPORT emulatorLaunchesOf(const char *ending) {
  int count = 0;
  for (const auto &[name, times] : launched)
    count += name.ends_with(ending) ? times : 0;
  return count;
}
EXPORT cuModuleUnload(void *module) { return dlclose(module); }
/// A "cubin" is a shared object, whose length is in its own header.
EXPORT cuModuleLoadData(void **module, const void *image) {
  if (int status = notInCapture())
    return status;
  if (refusals > 0 && refusals-- > 0)
    return refusal;
  const auto *header = static_cast<const Elf64_Ehdr *>(image);
  if (std::memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != EM_X86_64)
    return 209; // no binary for this device
  char name[] = "/tmp/hyperjit-emulated-XXXXXX";
  int file = mkstemp(name);
  if (file < 0)
    return invalid;
  close(file);
  std::ofstream(name, std::ios::binary)
      .write(static_cast<const char *>(image),
             std::streamsize(header->e_shoff + size_t(header->e_shnum) * header->e_shentsize));
  *module = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  unlink(name);
  if (*module)
    return 0;
  std::fprintf(stderr, "emulator: %s\n", dlerror());
  return invalid;
}
EXPORT cuModuleGetFunction(void **function, void *module, const char *name) {
  auto kernel = reinterpret_cast<void (*)(const void *)>(dlsym(module, name));
  *function = kernel ? new Function{kernel, name} : nullptr;
  return kernel ? 0 : notFound;
}
EXPORT cuFuncSetAttribute(void *, int, int) { return 0; }
EXPORT cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, void *, int, size_t) {
  *count = 1;
  return 0;
}
/// Whether all blocks run at once.
static bool isCooperative(const LaunchConfig &config) {
  bool is = false;
  for (unsigned i = 0; i < config.attributeCount; ++i)
    is |= config.attributes[i].id == 2 && config.attributes[i].value.cooperative != 0;
  return is;
}
EXPORT cuOccupancyMaxActiveClusters(int *count, void *, const LaunchConfig *config) {
  int cluster = 1;
  for (unsigned i = 0; i < config->attributeCount; ++i)
    if (config->attributes[i].id == 4)
      cluster = int(config->attributes[i].value.cluster.x);
  const char *given = std::getenv("HYPERJIT_EMULATOR_BLOCKS");
  const int blocks = given ? std::atoi(given) : 40;
  *count =
      int(config->gridX) > cluster ? blocks / cluster : clusters; // of those that are asked for together, some more
  return 0;
}
EXPORT cuLaunchKernelEx(const LaunchConfig *config, void *function, void **arguments, void **) {
  const auto *what = static_cast<const Function *>(function);
  emulator::Launch launch;
  launch.kernel = what->kernel;
  launch.parameters = arguments[0];
  launch.name = what->name;
  launch.grid = {config->gridX, config->gridY, config->gridZ};
  launch.block = {config->blockX, config->blockY, config->blockZ};
  launch.sharedBytes = int(config->sharedBytes);
  for (unsigned i = 0; i < config->attributeCount; ++i)
    if (config->attributes[i].id == 4)
      launch.cluster = int(config->attributes[i].value.cluster.x);
  launch.cooperative = isCooperative(*config);
  ++launched[what->name];
  if (!captured)
    return launchNow(launch);
  const auto *first = static_cast<const char *>(arguments[0]);
  captured->nodes.push_back({launch, {first, first + parameterBytes}});
  return 0;
}

EXPORT cuStreamBeginCapture_v2(void *, int) {
  captured = new Graph;
  captureBroken = false;
  return 0;
}
EXPORT cuStreamEndCapture(void *, Graph **graph) {
  *graph = std::exchange(captured, nullptr);
  return captureBroken ? captureInvalid : 0;
}
EXPORT cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
  *executable = new Graph(*graph);
  return 0;
}
EXPORT cuGraphLaunch(Graph *executable, void *) {
  for (GraphNode &node : executable->nodes) {
    node.launch.parameters = node.parameters.data();
    if (int status = launchNow(node.launch))
      return status;
  }
  return 0;
}

EXPORT cuGraphDestroy(Graph *graph) {
  delete graph;
  return 0;
}
EXPORT cuGraphExecDestroy(Graph *executable) {
  delete executable;
  return 0;
}

EXPORT cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
  if (int status = notInCapture())
    return status;
  *pointer = reinterpret_cast<uint64_t>(emulator::allocate(bytes));
  return *pointer ? 0 : 2;
}
EXPORT cuMemFree_v2(uint64_t pointer) {
  emulator::release(reinterpret_cast<void *>(pointer));
  return 0;
}
EXPORT cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
  std::memcpy(reinterpret_cast<void *>(to), from, bytes);
  return 0;
}
EXPORT cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
  std::memcpy(to, reinterpret_cast<void *>(from), bytes);
  return 0;
}
EXPORT cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
  std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes);
  return 0;
}
EXPORT cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *) {
  std::memset(reinterpret_cast<void *>(to), value, bytes);
  return 0;
}
EXPORT cuStreamCreate(void **stream, unsigned) {
  *stream = &launches;
  return 0;
}
EXPORT cuStreamDestroy_v2(void *) { return 0; }
EXPORT cuStreamSynchronize(void *) { return notInCapture(); }
EXPORT cuStreamIsCapturing(void *, int *status) {
  *status = captured != nullptr;
  return 0;
}

EXPORT cuEventCreate(void **event, unsigned) {
  *event = new timespec{};
  return 0;
}
EXPORT cuEventDestroy_v2(void *event) {
  delete static_cast<timespec *>(event);
  return 0;
}
EXPORT cuEventRecord(void *event, void *) { return clock_gettime(CLOCK_MONOTONIC, static_cast<timespec *>(event)); }
EXPORT cuEventSynchronize(void *) { return 0; }
EXPORT cuEventElapsedTime(float *milliseconds, void *begin, void *end) {
  const auto *a = static_cast<timespec *>(begin), *b = static_cast<timespec *>(end);
  *milliseconds = float(double(b->tv_sec - a->tv_sec) * 1e3 + double(b->tv_nsec - a->tv_nsec) * 1e-6);
  return 0;
}
