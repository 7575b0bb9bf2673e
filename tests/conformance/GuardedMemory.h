// Tensors whose memory ends at a page that nobody may touch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace hyperjit::conformance {

/// From here on every CPU tensor ends before a forbidden page, and starts after one: a kernel that reads or writes
/// outside of a tensor or its workspace dies where it does so. Up to 15 bytes of alignment are left between; what is
/// written there is found when the tensor is freed. Both say what ran.
void guardMemory();
/// What runs now, for the message. The text must live on.
void setCurrentCase(const char *text);

} // namespace hyperjit::conformance
