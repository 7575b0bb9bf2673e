// The CUDA key: torch's current stream, the device's target, graph capture. No CUDA header and no link-time CUDA
// library: the driver and LibTorch's C shim are looked up by name, so the library also loads beside a CPU-only
// LibTorch.
// SPDX-License-Identifier: Apache-2.0

#include "Devices.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/cuda/Cuda.h>

#include <c10/util/Exception.h>
#include <torch/library.h>

#include <dlfcn.h>

#include <array>
#include <mutex>

namespace hyperjit::ops {
namespace {

constexpr int kMaxDevices = 64;

/// What LibTorch and the driver say of streams; libcuda is in the process already when a CUDA tensor exists.
struct Streams {
  int (*streamIsCapturing)(void *, int *) = nullptr;
  int32_t (*currentStream)(int32_t, void **) = nullptr; // aoti_torch_get_current_cuda_stream

  Streams() {
    if (void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL))
      find(library, "cuStreamIsCapturing", streamIsCapturing);
    find(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream", currentStream);
    if (!currentStream)
      if (void *library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD))
        find(library, "aoti_torch_get_current_cuda_stream", currentStream);
    if (!streamIsCapturing || !currentStream)
      throw UserError(ErrorId::LibraryMissing,
                      "a CUDA tensor was given, but libcuda.so.1 or libtorch_cuda.so is not loaded; "
                      "use a CUDA build of LibTorch and a machine with an NVIDIA driver");
  }
  template <typename Function> static void find(void *library, const char *name, Function &function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
  }
};

const Streams &streams() {
  static const Streams instance;
  return instance;
}

void *currentStream(int device) {
  void *stream = nullptr;
  TORCH_CHECK(streams().currentStream(device, &stream) == 0, "hyperjit: torch has no current stream for cuda:", device);
  return stream;
}

} // namespace

const Target &cudaTarget(int device) {
  static std::array<std::once_flag, kMaxDevices> once;
  static std::array<Target, kMaxDevices> targets;
  TORCH_CHECK(device >= 0 && device < kMaxDevices, "hyperjit: cuda:", device, " is beyond the ", kMaxDevices,
              " devices supported");
  std::call_once(once[device], [&] { targets[device] = cuda::targetOf(device); });
  return targets[device];
}

bool cudaIsCapturing(int device) {
  int status = 0;
  streams().streamIsCapturing(currentStream(device), &status);
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
