// Visibility of what libhyperjit_torch exports.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#define HYPERJIT_TORCH_API __attribute__((visibility("default")))
