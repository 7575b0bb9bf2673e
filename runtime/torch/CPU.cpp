// The CPU key: torch's own thread pool drives the kernels.
// SPDX-License-Identifier: Apache-2.0

#include "Devices.h"

#include <ATen/Parallel.h>
#ifndef INTRA_OP_PARALLEL
#error "at::parallel_for is serial here: compile with OpenMP, as LibTorch was"
#endif
#include <torch/library.h>

namespace hyperjit::ops {
namespace {

void parallelFor(void *, int64_t count, ParallelBody body, void *bodyContext) {
  at::parallel_for(0, count, 1,
                   [&](int64_t begin, int64_t end) { body(bodyContext, begin, end, at::get_thread_num()); });
}

} // namespace

LaunchContext cpuContext() {
  LaunchContext context;
  context.parallelFor = parallelFor;
  return context;
}

} // namespace hyperjit::ops

TORCH_LIBRARY_IMPL(HYPERJIT_OP_NAMESPACE, CPU, library) { HYPERJIT_REGISTER_KERNELS(library); }
