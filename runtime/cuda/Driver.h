// Driver.h - the CUDA driver and NVRTC, opened at run time into one symbol table each. Neither is needed to build, to
// link or to load the library; asking for one that is not there is refused by name.
// SPDX-License-Identifier: Apache-2.0
//
// The few types of the driver's C interface are declared here as its ABI has them, so that no CUDA header is needed.
#ifndef HYPERJIT_CUDA_DRIVER_H
#define HYPERJIT_CUDA_DRIVER_H

#include <cstddef>
#include <cstdint>
#include <string>

namespace hyperjit::cuda {

using Status = int; ///< CUresult; 0 is success
using DeviceHandle = int;
struct ContextObject;
struct ModuleObject;
struct FunctionObject;
struct StreamObject;
struct EventObject;
struct GraphObject;
struct ExecutableObject;
using Context = ContextObject *;
using Module = ModuleObject *;
using Function = FunctionObject *;
using StreamHandle = StreamObject *;
using EventHandle = EventObject *;
using GraphHandle = GraphObject *;
using ExecutableHandle = ExecutableObject *;
using DevicePointer = uint64_t;

/// CUlaunchAttribute
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } cluster;
    int cooperative, overlaps;
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);
inline constexpr int kAttributeCooperative = 2, kAttributeCluster = 4,
                     kAttributeOverlaps = 6; ///< 6: programmatic stream serialization

/// CUlaunchConfig
struct LaunchConfig {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  StreamHandle stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};

inline constexpr int kDeviceProcessors = 16, kDeviceMajor = 75, kDeviceMinor = 76;
inline constexpr int kFunctionDynamicShared = 8, kFunctionNonPortableCluster = 14;

struct Driver {
  Status (*init)(unsigned);
  Status (*errorString)(Status, const char **);
  Status (*deviceGetCount)(int *);
  Status (*deviceGet)(DeviceHandle *, int);
  Status (*deviceGetName)(char *, int, DeviceHandle);
  Status (*deviceGetAttribute)(int *, int, DeviceHandle);
  Status (*primaryContextRetain)(Context *, DeviceHandle);
  Status (*primaryContextState)(DeviceHandle, unsigned *, int *);
  Status (*contextGetCurrent)(Context *);
  Status (*contextGetDevice)(DeviceHandle *);
  Status (*contextPush)(Context);
  Status (*contextPop)(Context *);
  Status (*moduleLoadData)(Module *, const void *);
  Status (*moduleUnload)(Module);
  Status (*moduleGetFunction)(Function *, Module, const char *);
  Status (*functionSetAttribute)(Function, int, int);
  Status (*occupancy)(int *, Function, int, size_t);
  Status (*activeClusters)(int *, Function, const LaunchConfig *);
  Status (*streamIsCapturing)(StreamHandle, int *);
  Status (*launchKernelEx)(const LaunchConfig *, Function, void **, void **);
  Status (*driverGetVersion)(int *);
  // For Device.h.
  Status (*memoryAllocate)(DevicePointer *, size_t);
  Status (*memoryFree)(DevicePointer);
  Status (*copyToDevice)(DevicePointer, const void *, size_t);
  Status (*copyFromDevice)(void *, DevicePointer, size_t);
  Status (*copyOnDevice)(DevicePointer, DevicePointer, size_t, StreamHandle);
  Status (*fillBytes)(DevicePointer, unsigned char, size_t, StreamHandle);
  Status (*streamCreate)(StreamHandle *, unsigned);
  Status (*streamDestroy)(StreamHandle);
  Status (*streamSynchronize)(StreamHandle);
  Status (*beginCapture)(StreamHandle, int);
  Status (*endCapture)(StreamHandle, GraphHandle *);
  Status (*graphInstantiate)(ExecutableHandle *, GraphHandle, unsigned long long);
  Status (*graphLaunch)(ExecutableHandle, StreamHandle);
  Status (*graphDestroy)(GraphHandle);
  Status (*executableDestroy)(ExecutableHandle);
  Status (*eventCreate)(EventHandle *, unsigned);
  Status (*eventDestroy)(EventHandle);
  Status (*eventRecord)(EventHandle, StreamHandle);
  Status (*eventSynchronize)(EventHandle);
  Status (*eventElapsed)(float *, EventHandle, EventHandle);
  bool overlaps = false; ///< graphs may hold launches that begin before the one before them has ended: since CUDA 12.3

  /// Opens libcuda.so.1 once. Throws UserError (LibraryMissing).
  static const Driver &get();
  /// Null where the machine has no driver.
  static const Driver *find();
  /// Throws UserError (DeviceFailure) with the driver's own words where `status` is no success.
  void check(Status status, const std::string &what) const;
};

struct ProgramObject;
using Program = ProgramObject *;

struct Nvrtc {
  const char *(*errorString)(int);
  int (*version)(int *, int *);
  int (*createProgram)(Program *, const char *, const char *, int, const char *const *, const char *const *);
  int (*destroyProgram)(Program *);
  int (*compileProgram)(Program, int, const char *const *);
  int (*getCubinSize)(Program, size_t *);
  int (*getCubin)(Program, char *);
  int (*getPtxSize)(Program, size_t *);
  int (*getPtx)(Program, char *);
  int (*getLogSize)(Program, size_t *);
  int (*getLog)(Program, char *);
  std::string identity; ///< "nvrtc 13.0 <build id>", without paths

  /// Opens libnvrtc once: HYPERJIT_NVRTC_PATH, what the process has loaded, added folders, nvidia/cu13/lib beside a
  /// loaded LibTorch, lib64 of $CUDA_HOME and $CUDA_PATH, nvidia/cu13/lib of $VIRTUAL_ENV, the loader's search. Throws
  /// UserError (LibraryMissing) that lists what was tried.
  static const Nvrtc &get();
  static void addFolder(const std::string &folder);
};

} // namespace hyperjit::cuda

#endif // HYPERJIT_CUDA_DRIVER_H
