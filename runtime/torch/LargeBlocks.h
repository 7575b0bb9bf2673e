// Memory of large results on the CPU: of torch's allocator, in huge pages, kept for the next result when it is freed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

namespace hyperjit::ops {

/// An uninitialised contiguous CPU tensor. The C library gives large blocks back to the system and gets them anew, so
/// that a kernel waits for the first touch of every page of its results, up to twice its own time (bench/README.md).
/// Blocks of 4 MiB and more are therefore kept when a tensor is freed, up to HYPERJIT_KEEP_MEMORY bytes together, the
/// oldest going first; smaller ones come straight from torch's allocator. Thread safe. A child that was forked while
/// another thread was inside waits 10 ms for it and then takes memory from torch's allocator.
at::Tensor emptyOnCpu(at::IntArrayRef sizes, at::ScalarType dtype);
/// Where its memory comes from.
c10::Allocator &allocatorOnCpu();

} // namespace hyperjit::ops
