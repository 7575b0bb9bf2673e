// What differs between the CPU and CUDA under an operator: the target, the launch context, the registration.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "OpPlan.h"

#include <hyperjit/core/Kernel.h>
#include <hyperjit/core/KernelSpec.h>
#include <hyperjit/core/Target.h>

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

namespace hyperjit::ops {

/// The loaded kernel; compiles on a miss. `device` is a CUDA ordinal, or -1 for the CPU. While a CUDA graph is captured
/// a kernel that is not in memory yet is refused (NotPrepared) and the capture can still be ended.
std::shared_ptr<const Kernel> resolveKernel(const KernelSpec &spec, int device);

const Target &cudaTarget(int device);  ///< CUDA.cpp
bool cudaIsCapturing(int device);      ///< CUDA.cpp
LaunchContext cudaContext(int device); ///< CUDA.cpp: torch's current stream
LaunchContext cpuContext();            ///< CPU.cpp: at::parallel_for

/// The kernels of both device keys (Launch.cpp).
std::vector<at::Tensor> beforeKernel(const at::Tensor &x, at::TensorList parameters, OptionalList carries,
                                     std::string_view spec, bool save);
std::vector<at::Tensor> beforeBackwardKernel(const at::Tensor &x, at::TensorList parameters, at::TensorList carries,
                                             const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                             std::string_view spec, std::string_view given, std::string_view want);
std::vector<at::Tensor> boundaryKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                       at::TensorList parameters, OptionalList carries, std::string_view spec,
                                       bool save);
std::vector<at::Tensor> boundaryBackwardKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                               at::TensorList parameters, at::TensorList carries,
                                               const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                               std::string_view spec, std::string_view given, std::string_view want);
at::Tensor afterKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, std::string_view spec);
std::vector<at::Tensor> afterBackwardKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                            const at::Tensor &cotangent, std::string_view spec, std::string_view want);
at::Tensor expandKernel(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams);
std::tuple<at::Tensor, at::Tensor> expandBackwardKernel(const at::Tensor &cotangent, bool embedding);
at::Tensor reduceKernel(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode);
std::tuple<at::Tensor, at::Tensor> reduceBackwardKernel(const at::Tensor &cotangent, const std::optional<at::Tensor> &x,
                                                        const std::optional<at::Tensor> &weights, int64_t streams,
                                                        std::string_view mode);

/// Registers all of them under one dispatch key.
#define HYPERJIT_REGISTER_KERNELS(library)                                                                             \
  library.impl("before", TORCH_FN(::hyperjit::ops::beforeKernel));                                                     \
  library.impl("before_backward", TORCH_FN(::hyperjit::ops::beforeBackwardKernel));                                    \
  library.impl("boundary", TORCH_FN(::hyperjit::ops::boundaryKernel));                                                 \
  library.impl("boundary_backward", TORCH_FN(::hyperjit::ops::boundaryBackwardKernel));                                \
  library.impl("after", TORCH_FN(::hyperjit::ops::afterKernel));                                                       \
  library.impl("after_backward", TORCH_FN(::hyperjit::ops::afterBackwardKernel));                                      \
  library.impl("expand", TORCH_FN(::hyperjit::ops::expandKernel));                                                     \
  library.impl("expand_backward", TORCH_FN(::hyperjit::ops::expandBackwardKernel));                                    \
  library.impl("reduce", TORCH_FN(::hyperjit::ops::reduceKernel));                                                     \
  library.impl("reduce_backward", TORCH_FN(::hyperjit::ops::reduceBackwardKernel))

/// Checks of expand and reduce, shared with Meta and Autograd.
void checkExpand(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams);
void checkExpandBackward(const at::Tensor &cotangent);
void checkReduce(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode);
void checkReduceBackward(const at::Tensor &cotangent, const std::optional<at::Tensor> &x,
                         const std::optional<at::Tensor> &weights, int64_t streams, std::string_view mode);

} // namespace hyperjit::ops
