// The runtime's CUDA back end without a GPU: identity, flags, errors, what is refused.
// SPDX-License-Identifier: Apache-2.0
#include "CudaHarness.h"

#include "hyperjit/core/Backend.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/cuda/Cuda.h"

#include <gtest/gtest.h>

using namespace hyperjit;

namespace {

const Backend &backend() { return *Backend::find(DeviceType::Cuda); }

TEST(CudaBackend, ToolchainNamesNvrtcWithoutPaths) {
  if (std::string why = nvrtcMissing(); !why.empty())
    GTEST_SKIP() << why;
  std::string toolchain = backend().toolchain();
  EXPECT_EQ(toolchain.rfind("nvrtc 1", 0), 0u) << toolchain;
  EXPECT_EQ(toolchain.find('/'), std::string::npos) << toolchain;
}

TEST(CudaBackend, FlagsNameTheArchitecture) {
  EXPECT_NE(backend().flags(Target::parse("sm_90a/h200")).find("sm_90a"), std::string::npos);
  EXPECT_EQ(backend().flags(Target::parse("sm_90a/h200")), backend().flags(Target::parse("sm_90a/h100")));
}

TEST(CudaBackend, ErrorsShowTheGeneratedLine) {
  if (std::string why = nvrtcMissing(); !why.empty())
    GTEST_SKIP() << why;
  Compiled compiled = compileCuda("#include \"hyperjit/rows.cuh\"\nint wrong = missingName;\n", "sm_80");
  EXPECT_NE(compiled.error.find("missingName"), std::string::npos);
  EXPECT_NE(compiled.error.find("    2 | int wrong = missingName;"), std::string::npos) << compiled.error;
}

TEST(CudaBackend, RefusesWhatIsNoCubin) {
  auto artifact = std::make_shared<Artifact>();
  artifact->kind = PayloadKind::Cubin;
  artifact->payload.resize(16);
  try {
    backend().load(artifact);
    FAIL();
  } catch (const Error &error) {
    EXPECT_EQ(error.id(), ErrorId::ImageRejected);
  }
}

TEST(CudaBackend, NamesTheMissingDriver) {
  if (cuda::deviceCount() > 0)
    GTEST_SKIP() << "this machine has a device";
  try {
    cuda::targetOf(0);
    FAIL();
  } catch (const UserError &error) {
    EXPECT_EQ(error.id(), ErrorId::LibraryMissing);
    EXPECT_NE(std::string(error.what()).find("driver"), std::string::npos);
  }
}

} // namespace
