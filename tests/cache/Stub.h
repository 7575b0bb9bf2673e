// Kernels of the tests' own: any recipe, a compiler that makes the same bytes from the same request and says so in a
// log that all processes share, a back end that only keeps the bytes. So that hundreds of processes fit on few cores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hyperjit/core/KernelManager.h"

#include <string>

namespace hyperjit::stub {

struct Options {
  std::string log; ///< gets one line a compile, the spec; empty: none
  int compileMilliseconds = 0;
  bool hasToolchain = true;
  std::string toolchain = "stub 1";
  std::string salt; ///< changes the code without changing the key
  int rejects = 0;  ///< so many loads are refused, as a driver does
};

/// The i-th kernel of the tests.
KernelSpec spec(int i);
Target target();
/// Settings that know nothing of the environment.
Settings settings(const std::string &root);
KernelManagerOptions manager(const Settings &settings, const Options &options = {});
/// The bytes of a loaded kernel; of one that the stub loaded.
const std::vector<std::byte> &payload(const Kernel &kernel);
/// What the compiler makes of a spec: 1 to 40 KiB.
std::vector<std::byte> code(const std::string &spec, const std::string &salt = {});
bool right(const Kernel &kernel, int i);

/// For tests below the manager: an entry of the i-th key.
CacheKey key(int i);
Artifact artifact(int i);
bool right(const Artifact &artifact, int i);

} // namespace hyperjit::stub
