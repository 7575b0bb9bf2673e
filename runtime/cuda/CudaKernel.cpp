// CudaKernel.cpp - modules per device and binary, and launches on the caller's stream. Nothing is allocated or
// synchronised; modules of a loaded kernel are never unloaded, because captured graphs keep pointers into them.
// SPDX-License-Identifier: Apache-2.0
#include "CudaKernel.h"

#include "Driver.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/cuda/Cuda.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

using namespace hyperjit;
using namespace hyperjit::cuda;

namespace {

constexpr int kMaxDevices = 64;
constexpr int64_t kMaxGridX = 0x7fffffff, kMaxGridYZ = 65535;

/// Whether a status speaks of the binary (CUDA_ERROR_INVALID_IMAGE, NO_BINARY_FOR_GPU, INVALID_PTX,
/// UNSUPPORTED_PTX_VERSION, INVALID_SOURCE), so that another one may be taken. Memory that is short, or a device that
/// has failed, is no reason to compile.
bool refusesImage(Status status) {
  return status == 200 || status == 209 || status == 218 || status == 222 || status == 300;
}

/// One launch on one device.
struct LoadedLaunch {
  Function function = nullptr;
  int64_t residentBlocks = 1; ///< of the whole device, for persistent grids
};
struct LoadedModule {
  std::vector<LoadedLaunch> launches;
};

/// What LaunchInfo::extra adds for CUDA.
struct GridExtra {
  int64_t y = 1, z = 1, tokensPerBlock = 1;
  int64_t moreBlocks = 0;    ///< beside those of tokens
  int64_t percentOfWave = 0; ///< launched where tokens fill waves to so much; else the one that is `otherwise`
  int64_t parts = 1;         ///< clusters that share a token and wait for one another: they must all be there
  bool clustersAreChunks = false;
  bool overlaps = false; ///< begins while the launch before it ends, and waits for it itself
  bool yIsChunks = false;
  bool otherwise = false;
};

class Attributes {
public:
  Attributes(const LaunchInfo &launch, const GridExtra &extra) {
    if (launch.cluster > 1) {
      LaunchAttribute &cluster = list[count++];
      cluster.id = kAttributeCluster;
      cluster.value.cluster = {unsigned(launch.cluster), 1, 1};
    }
    if (extra.parts > 1) {
      LaunchAttribute &cooperative = list[count++];
      cooperative.id = kAttributeCooperative;
      cooperative.value.cooperative = 1;
    }
    if (extra.overlaps) {
      LaunchAttribute &overlaps = list[count++];
      overlaps.id = kAttributeOverlaps;
      overlaps.value.overlaps = 1;
    }
  }
  LaunchConfig config(const LaunchInfo &launch, int64_t x, int64_t y, int64_t z, void *stream) {
    return {unsigned(x),
            unsigned(y),
            unsigned(z),
            unsigned(launch.block),
            1,
            1,
            unsigned(launch.sharedBytes),
            static_cast<StreamHandle>(stream),
            count ? list.data() : nullptr,
            count};
  }

private:
  std::array<LaunchAttribute, 3> list{};
  unsigned count = 0;
};

/// Makes a device's primary context current for as long as it lives, if it is not. `launches`: a thread without a context
/// works on device 0 as far as CUDA's runtime is concerned, whose first launch makes the context of 0 current for good;
/// so does this one. (A thread of autograd's that launches nothing else would ask the driver for its device several
/// times an operator, in vain each time, and the driver formats an error message for its log: a fifth of that thread's
/// time.)
class ContextGuard {
public:
  ContextGuard(const Driver &driver, int device, bool launches = false) : driver(driver) {
    Context current = nullptr;
    DeviceHandle handle = 0, here = -1;
    driver.check(driver.deviceGet(&handle, device), fmt::format("device {}", device));
    const bool any = driver.contextGetCurrent(&current) == 0 && current;
    if (any && driver.contextGetDevice(&here) == 0 && here == handle)
      return;
    driver.check(driver.contextPush(primary(driver, device, handle)), "making a context current");
    pushed = any || device != 0 || !launches;
  }
  ~ContextGuard() {
    Context ignored;
    if (pushed)
      driver.contextPop(&ignored);
  }
  ContextGuard(const ContextGuard &) = delete;

private:
  /// Retained once and kept: the primary context outlives every kernel.
  static Context primary(const Driver &driver, int device, DeviceHandle handle) {
    static std::array<std::once_flag, kMaxDevices> once;
    static std::array<Context, kMaxDevices> contexts{};
    if (device < 0 || device >= kMaxDevices)
      throw UserError(ErrorId::DeviceFailure, fmt::format("device {} is beyond the {} supported", device, kMaxDevices));
    std::call_once(once[device], [&] {
      driver.check(driver.primaryContextRetain(&contexts[device], handle), "retaining a context");
    });
    return contexts[device];
  }

  const Driver &driver;
  bool pushed = false;
};

class CudaKernel final : public Kernel {
public:
  explicit CudaKernel(std::shared_ptr<const Artifact> given) : Kernel(std::move(given)) {
    for (const LaunchInfo &launch : meta().launches) {
      GridExtra extra;
      if (!launch.extra.empty()) {
        const auto json = nlohmann::json::parse(launch.extra);
        // Of an entry that somebody else may have written: what is divided by or launched is checked here.
        auto number = [&](const char *key, int64_t fallback, int64_t least, int64_t most) {
          auto found = json.find(key);
          if (found == json.end())
            return fallback;
          const int64_t value = found->is_number_integer() ? found->get<int64_t>() : least - 1;
          if (value < least || value > most)
            throw InternalError(fmt::format("the meta data of a kernel make no sense: {} of {} is {}, not {} .. {}",
                                            key, launch.entry, found->dump(), least, most));
          return value;
        };
        auto flag = [&](const char *key) { return json.contains(key) && json[key] == true; };
        extra.yIsChunks = json.contains("grid_y") && json["grid_y"] == "chunks";
        extra.y = extra.yIsChunks ? 1 : number("grid_y", 1, 1, 65535);
        extra.z = number("grid_z", 1, 1, 65535);
        extra.tokensPerBlock = number("tokens_per_block", 1, 1, 1 << 20);
        extra.clustersAreChunks = flag("clusters_are_chunks");
        extra.parts = number("parts", 1, 1, 1 << 10);
        extra.overlaps = flag("overlaps") && Driver::get().overlaps;
        extra.moreBlocks = number("more_blocks", 0, 0, 1 << 20);
        extra.percentOfWave = number("percent_of_wave", 0, 0, 100);
        extra.otherwise = flag("otherwise");
      }
      extras.push_back(extra);
    }
  }

  /// The module on a device, loaded if it is not there. `stream`: refuse where it is being captured.
  const LoadedModule &loaded(int device, void *const *stream = nullptr) const {
    if (device < 0 || device >= kMaxDevices)
      throw UserError(ErrorId::DeviceFailure, fmt::format("device {} of {} does not exist", device, meta().spec));
    if (const LoadedModule *there = modules[device].load(std::memory_order_acquire))
      return *there;
    const Driver &driver = Driver::get();
    int capturing = 0;
    ContextGuard guard(driver, device); // a thread that has not worked on the device yet has no context
    if (stream && driver.streamIsCapturing(static_cast<StreamHandle>(*stream), &capturing) == 0 && capturing)
      throw UserError(ErrorId::NotPrepared,
                      fmt::format("kernel {} for {} is not loaded on device {} and its stream is being captured; call "
                                  "prepare() or run one warm-up step before the capture",
                                  meta().spec, meta().target, device));
    std::lock_guard lock(loading);
    if (const LoadedModule *there = modules[device].load(std::memory_order_acquire))
      return *there;
    owned[device] = loadModule(driver, device);
    modules[device].store(owned[device].get(), std::memory_order_release);
    return *owned[device];
  }

private:
  std::unique_ptr<LoadedModule> loadModule(const Driver &driver, int device) const {
    ContextGuard context(driver, device);
    struct Modules {
      const Driver &driver;
      std::map<int64_t, Module> byOffset;
      ~Modules() { // of a kernel that could not be loaded whole: nobody has seen them
        for (auto [offset, module] : byOffset)
          if (module)
            driver.moduleUnload(module);
      }
    } modules{driver, {}};
    auto moduleAt = [&](int64_t offset) {
      Module &module = modules.byOffset.try_emplace(offset, nullptr).first->second;
      if (module)
        return module;
      const Status status = driver.moduleLoadData(&module, artifact->payload.data() + offset);
      if (refusesImage(status)) {
        const char *text = nullptr;
        driver.errorString(status, &text);
        throw InternalError(ErrorId::ImageRejected,
                            fmt::format("the driver refused the binary of {} for {}: {} ({})", meta().spec,
                                        meta().target, text ? text : "unknown", status),
                            meta().spec);
      }
      driver.check(status, "loading the binary of " + meta().spec);
      return module;
    };
    DeviceHandle handle = 0;
    int processors = 1;
    driver.check(driver.deviceGet(&handle, device), "device");
    driver.check(driver.deviceGetAttribute(&processors, kDeviceProcessors, handle), "device");
    auto result = std::make_unique<LoadedModule>();
    for (size_t i = 0; i < meta().launches.size(); ++i) {
      const LaunchInfo &launch = meta().launches[i];
      LoadedLaunch loaded;
      if (driver.moduleGetFunction(&loaded.function, moduleAt(launch.offset), launch.entry.c_str()))
        throw InternalError(ErrorId::ImageRejected,
                            fmt::format("the binary of {} has no entry {}", meta().spec, launch.entry), meta().spec);
      if (launch.sharedBytes > 0) // static memory counts, too: the sum may pass what is granted unasked
        driver.check(driver.functionSetAttribute(loaded.function, kFunctionDynamicShared, int(launch.sharedBytes)),
                     fmt::format("{} bytes of shared memory for {}", launch.sharedBytes, launch.entry));
      if (launch.cluster > 8)
        driver.check(driver.functionSetAttribute(loaded.function, kFunctionNonPortableCluster, 1), "clusters above 8");
      int count = 1; // of blocks on a processor, or of clusters on the device
      if (launch.cluster > 1) {
        const int64_t parts = extras[i].parts;
        Attributes attributes(launch, {}); // how many fit does not depend on whether they must all be there
        LaunchConfig config = attributes.config(launch, launch.cluster * parts, 1, 1, nullptr);
        driver.check(driver.activeClusters(&count, loaded.function, &config), launch.entry);
        if (count < parts)
          throw UserError(
              ErrorId::DeviceFailure,
              fmt::format(
                  "device {} has room for {} clusters of {} blocks of {} with {} bytes of shared memory at once, and "
                  "{} "
                  "are needed (it may be a part of a GPU); ask for another schedule, 'rows' for example, with a "
                  "tuning result",
                  device, count, launch.cluster, launch.entry, launch.sharedBytes, parts));
        loaded.residentBlocks = count / parts * parts * launch.cluster;
      } else {
        driver.check(driver.occupancy(&count, loaded.function, launch.block, size_t(launch.sharedBytes)), launch.entry);
        loaded.residentBlocks = std::max<int64_t>(1, int64_t(count) * processors);
      }
      result->launches.push_back(loaded);
    }
    modules.byOffset.clear();
    return result;
  }

  void run(void *const *operands, void *workspace, int64_t tokens, const LaunchContext &context) const override {
    const ArtifactMeta &what = meta();
    const LoadedModule &module = loaded(context.device, &context.stream);
    for (size_t i = 0; i < what.operands.size(); ++i)
      if (what.operands[i].used && reinterpret_cast<uintptr_t>(operands[i]) % 16)
        throw UserError(
            ErrorId::InvalidOperand,
            fmt::format("operand {} ('{}') of {} starts at an address that is no multiple of 16 bytes; copy the "
                        "tensor (it is a view into another one)",
                        i, what.operands[i].name, what.spec));
    if (reinterpret_cast<uintptr_t>(workspace) % 16)
      throw UserError(
          ErrorId::InvalidOperand,
          fmt::format("the workspace of {} starts at an address that is no multiple of 16 bytes", what.spec));
    const Driver &driver = Driver::get();
    ContextGuard guard(driver, context.device, /*launches=*/true);

    // Launch<N> of templates/hyperjit/numeric.cuh.
    std::array<char, 4096> parameters;
    size_t count = what.operands.size();
    if (count * 8 + 32 > parameters.size())
      throw InternalError(fmt::format("{} operands do not fit the parameters of a kernel", count), what.spec);
    int64_t chunkTokens = what.chunkTokens(tokens), chunks = what.chunks(tokens);
    std::memcpy(parameters.data(), operands, count * 8);
    char *tail = parameters.data() + count * 8;
    std::memcpy(tail, &workspace, 8);
    std::memcpy(tail + 8, &tokens, 8);
    std::memcpy(tail + 16, &chunkTokens, 8);
    int chunkCount = int(chunks);
    std::memcpy(tail + 24, &chunkCount, 4);
    std::memset(tail + 28, 0, 4);

    // A last wave of few tokens takes as long as a full one.
    bool fillsWaves = false;
    for (size_t i = 0; i < extras.size(); ++i)
      if (int64_t percent = extras[i].percentOfWave) {
        const int64_t wave = module.launches[i].residentBlocks * extras[i].tokensPerBlock;
        fillsWaves = 100 * tokens >= (tokens + wave - 1) / wave * wave * percent;
      }

    for (size_t i = 0; i < what.launches.size(); ++i) {
      const LaunchInfo &launch = what.launches[i];
      const GridExtra &extra = extras[i];
      if (fillsWaves ? extra.otherwise : extra.percentOfWave > 0)
        continue;
      int64_t x = 1, y = extra.yIsChunks ? chunks : extra.y, z = extra.z;
      switch (launch.grid) {
      case GridKind::Once:
        break;
      case GridKind::Chunks:
        x = chunks;
        break;
      case GridKind::Columns:
        x = (launch.extent + launch.perBlock - 1) / launch.perBlock;
        break;
      case GridKind::Tokens:
        x = extra.moreBlocks + (tokens + launch.perBlock - 1) / launch.perBlock;
        break;
      case GridKind::Fixed:
        x = launch.blocks;
        break;
      case GridKind::Persistent: {
        const int64_t together = launch.cluster * extra.parts;
        int64_t units = (tokens + extra.tokensPerBlock - 1) / extra.tokensPerBlock * together;
        x = std::min(units, module.launches[i].residentBlocks);
        if (extra.clustersAreChunks)
          x = std::min(x, chunks * together);
        break;
      }
      }
      if (x == 0 || y == 0 || z == 0)
        continue;
      if (x > kMaxGridX || y > kMaxGridYZ || z > kMaxGridYZ)
        throw UserError(ErrorId::LimitExceeded,
                        fmt::format("{} tokens give {} a grid of {} x {} x {}, above the device's limit", tokens,
                                    launch.entry, x, y, z));
      Attributes attributes(launch, extra);
      LaunchConfig config = attributes.config(launch, x, y, z, context.stream);
      void *arguments[] = {parameters.data()};
      if (Status status = driver.launchKernelEx(&config, module.launches[i].function, arguments, nullptr))
        driver.check(status, "launching " + launch.entry);
    }
  }

  std::vector<GridExtra> extras;
  mutable std::mutex loading;
  mutable std::array<std::unique_ptr<LoadedModule>, kMaxDevices> owned;
  mutable std::array<std::atomic<const LoadedModule *>, kMaxDevices> modules{};
};

/// The device that this thread works on; without one (a thread that only compiles), one of the target that the process
/// works on; else -1.
int deviceInUse(const Driver &driver, const Target &target) {
  Context current = nullptr;
  DeviceHandle mine = -1;
  const bool works = driver.contextGetCurrent(&current) == 0 && current && driver.contextGetDevice(&mine) == 0;
  for (int device = 0, count = deviceCount(); device < count; ++device) {
    DeviceHandle handle = -1;
    unsigned flags = 0;
    int active = 0;
    if (driver.deviceGet(&handle, device) != 0)
      continue;
    if (works ? handle == mine
              : driver.primaryContextState(handle, &flags, &active) == 0 && active && targetOf(device) == target)
      return device;
  }
  return -1;
}

} // namespace

std::shared_ptr<const Kernel> cuda::loadCudaKernel(std::shared_ptr<const Artifact> artifact) {
  static constexpr unsigned char elf[] = {0x7f, 'E', 'L', 'F'};
  const auto binaries = binariesOf(*artifact);
  if (artifact->kind != PayloadKind::Cubin || !std::all_of(binaries.begin(), binaries.end(), [](auto binary) {
        return binary.size() >= sizeof elf && !std::memcmp(binary.data(), elf, sizeof elf);
      }))
    throw InternalError(ErrorId::ImageRejected, "what came to the CUDA back end is no cubin: " + artifact->meta.spec,
                        artifact->meta.spec);
  auto kernel = std::make_shared<CudaKernel>(std::move(artifact));
  if (const int device = deviceInUse(Driver::get(), Target::parse(kernel->meta().target)); device >= 0)
    kernel->loaded(device); // a refusal shows now, while the caller can still compile anew
  return kernel;
}

void cuda::prepare(const Kernel &kernel, int device) {
  if (const auto *mine = dynamic_cast<const CudaKernel *>(&kernel))
    mine->loaded(device);
}
