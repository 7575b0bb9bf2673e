// Library.cpp - libhyperjit.so is made of whole archives; this file only gives it a translation unit of its own.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/CacheKey.h"

/// Lets a debugger or `strings` tell which build a library is.
extern "C" HYPERJIT_EXPORT const char *hyperjit_version() { return hyperjit::version().data(); }
