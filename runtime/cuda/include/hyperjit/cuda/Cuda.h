// Cuda.h - what the rest of the runtime may ask of the CUDA back end, beside core's Backend.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CUDA_CUDA_H
#define HYPERJIT_CUDA_CUDA_H

#include "hyperjit/core/Export.h"
#include "hyperjit/core/Kernel.h"
#include "hyperjit/core/Target.h"

#include <string>

namespace hyperjit::cuda {

/// One more folder in which libnvrtc may lie, for a caller that knows where its vendor libraries are. Call it before
/// the first compile; it is looked at after HYPERJIT_NVRTC_PATH and what the process has loaded.
HYPERJIT_EXPORT void addLibraryFolder(const std::string &folder);

/// Devices of the driver; 0 without a driver.
HYPERJIT_EXPORT int deviceCount();

/// The target of a device. Throws UserError: LibraryMissing without a driver, DeviceFailure for no such device.
HYPERJIT_EXPORT Target targetOf(int device);

/// Loads a kernel on a device now, so that a later launch under graph capture finds it. A kernel of another back end is
/// left alone. Throws UserError (DeviceFailure) and InternalError (ImageRejected).
HYPERJIT_EXPORT void prepare(const Kernel &kernel, int device);

} // namespace hyperjit::cuda

#endif // HYPERJIT_CUDA_CUDA_H
