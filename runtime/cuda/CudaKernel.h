// CudaKernel.h - a cubin on the devices that use it.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CUDA_CUDAKERNEL_H
#define HYPERJIT_CUDA_CUDAKERNEL_H

#include "hyperjit/core/Kernel.h"

namespace hyperjit::cuda {

/// Checks the artifact and, where this thread has a device, loads it there.
/// Throws InternalError (ImageRejected) for what is no cubin or what the driver refuses.
std::shared_ptr<const Kernel> loadCudaKernel(std::shared_ptr<const Artifact> artifact);

} // namespace hyperjit::cuda

#endif // HYPERJIT_CUDA_CUDAKERNEL_H
