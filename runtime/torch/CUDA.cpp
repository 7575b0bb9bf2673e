// The CUDA key: torch's current stream, the device's target, graph capture. No CUDA header and no link-time CUDA
// library: the driver and LibTorch's C shim are looked up by name, so the library also loads beside a CPU-only
// LibTorch.
// SPDX-License-Identifier: Apache-2.0

#include "Devices.h"

#include <hyperjit/core/Error.h>

#include <c10/util/Exception.h>
#include <torch/library.h>

#include <dlfcn.h>

#include <array>
#include <mutex>

#ifndef HYPERJIT_OP_NAMESPACE
#define HYPERJIT_OP_NAMESPACE hyperjit
#endif

namespace hyperjit::ops {
namespace {

constexpr int kMaxDevices = 64;

/// The few driver calls that the operators need; libcuda is in the process already when a CUDA tensor exists.
struct Driver {
  int (*deviceGet)(int *, int) = nullptr;
  int (*deviceGetAttribute)(int *, int, int) = nullptr;
  int (*deviceGetName)(char *, int, int) = nullptr;
  int (*streamIsCapturing)(void *, int *) = nullptr;
  int32_t (*currentStream)(int32_t, void **) = nullptr; // aoti_torch_get_current_cuda_stream

  Driver() {
    if (void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) {
      find(library, "cuDeviceGet", deviceGet);
      find(library, "cuDeviceGetAttribute", deviceGetAttribute);
      find(library, "cuDeviceGetName", deviceGetName);
      find(library, "cuStreamIsCapturing", streamIsCapturing);
    }
    find(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream", currentStream);
    if (!currentStream)
      if (void *library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD))
        find(library, "aoti_torch_get_current_cuda_stream", currentStream);
    if (!deviceGet || !deviceGetAttribute || !deviceGetName || !streamIsCapturing || !currentStream)
      throw UserError(ErrorId::LibraryMissing,
                      "a CUDA tensor was given, but libcuda.so.1 or libtorch_cuda.so is not loaded; "
                      "use a CUDA build of LibTorch and a machine with an NVIDIA driver");
  }
  template <typename Function> static void find(void *library, const char *name, Function &function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
  }
};

const Driver &driver() {
  static const Driver instance;
  return instance;
}

void *currentStream(int device) {
  void *stream = nullptr;
  TORCH_CHECK(driver().currentStream(device, &stream) == 0, "hyperjit: torch has no current stream for cuda:", device);
  return stream;
}

Target findTarget(int device) {
  constexpr int kMajor = 75, kMinor = 76; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  int handle = 0, major = 0, minor = 0;
  char name[256] = {};
  const Driver &table = driver();
  if (table.deviceGet(&handle, device) || table.deviceGetAttribute(&major, kMajor, handle) ||
      table.deviceGetAttribute(&minor, kMinor, handle) || table.deviceGetName(name, sizeof(name) - 1, handle))
    throw UserError(ErrorId::DeviceFailure, "the driver does not describe cuda:" + std::to_string(device));
  return Target::forCudaDevice(major, minor, name);
}

} // namespace

const Target &cudaTarget(int device) {
  static std::array<std::once_flag, kMaxDevices> once;
  static std::array<Target, kMaxDevices> targets;
  TORCH_CHECK(device >= 0 && device < kMaxDevices, "hyperjit: cuda:", device, " is beyond the ", kMaxDevices,
              " devices supported");
  std::call_once(once[device], [&] { targets[device] = findTarget(device); });
  return targets[device];
}

bool cudaIsCapturing(int device) {
  int status = 0;
  driver().streamIsCapturing(currentStream(device), &status);
  return status != 0;
}

LaunchContext cudaContext(int device) {
  LaunchContext context;
  context.device = device;
  context.stream = currentStream(device);
  return context;
}

} // namespace hyperjit::ops

TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, CUDA, library) { HYPERJIT_REGISTER_KERNELS(library); }
