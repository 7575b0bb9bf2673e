// SPDX-License-Identifier: Apache-2.0
#include "CudaHarness.h"

#include "hyperjit/core/Backend.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/cuda/Cuda.h"

#include <algorithm>
#include <filesystem>

using namespace hyperjit;

std::string nvrtcMissing() {
#ifdef HYPERJIT_TEST_NVRTC_FOLDER
  static bool once = (cuda::addLibraryFolder(HYPERJIT_TEST_NVRTC_FOLDER), true);
  (void)once;
#endif
  try {
    Backend::find(DeviceType::Cuda)->toolchain();
    return {};
  } catch (const Error &error) {
    return error.what();
  }
}

Compiled compileCuda(const std::string &text, const std::string &target) {
  try {
    Artifact artifact = Backend::find(DeviceType::Cuda)->build(ArtifactMeta{}, text, Target::parse(target), {});
    return {"", artifact.meta.entries};
  } catch (const Error &error) {
    return {error.what(), {}};
  }
}

std::vector<std::string> templateNames() {
  namespace fs = std::filesystem;
  std::vector<std::string> names;
  // In a bundle the templates lie beside bin/, and the source tree is on another machine.
  fs::path bundled = fs::read_symlink("/proc/self/exe").parent_path() / "../templates/hyperjit";
  for (const auto &entry :
       fs::directory_iterator(fs::exists(bundled) ? bundled : fs::path(HYPERJIT_SOURCE_DIR "/templates/hyperjit")))
    names.push_back("hyperjit/" + entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}
