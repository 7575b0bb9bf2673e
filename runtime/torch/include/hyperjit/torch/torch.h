// Everything hyperjit offers to LibTorch programs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/Error.h>
#include <hyperjit/torch/Modules.h>
#include <hyperjit/torch/Ops.h>
#include <hyperjit/torch/Prepare.h>
#include <hyperjit/torch/Reference.h>
