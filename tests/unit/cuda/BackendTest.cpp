// The runtime's CUDA back end without a GPU: identity, flags, errors, what is refused.
// SPDX-License-Identifier: Apache-2.0
#include "CudaHarness.h"

#include "hyperjit/core/Backend.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/cuda/Cuda.h"

#include <gtest/gtest.h>

#include <regex>

using namespace hyperjit;

namespace {

const Backend &backend() { return *Backend::find(DeviceType::Cuda); }

TEST(CudaBackend, ToolchainNamesNvrtcWithoutPaths) {
  if (std::string why = nvrtcMissing(); !why.empty())
    GTEST_SKIP() << why;
  std::string toolchain = backend().toolchain();
  EXPECT_EQ(toolchain.rfind("nvrtc 1", 0), 0u) << toolchain;
  EXPECT_EQ(toolchain.find('/'), std::string::npos) << toolchain;
  // Of NVRTC and of its builtins, which lie beside it: releases of one version differ in either.
  EXPECT_TRUE(std::regex_match(toolchain, std::regex("nvrtc [0-9.]+ [0-9a-f]{16} [0-9a-f]{16}"))) << toolchain;
}

TEST(CudaBackend, FlagsNameTheArchitecture) {
  EXPECT_NE(backend().flags(Target::parse("sm_90a/h200")).find("sm_90a"), std::string::npos);
  EXPECT_EQ(backend().flags(Target::parse("sm_90a/h200")), backend().flags(Target::parse("sm_90a/h100")));
}

TEST(CudaBackend, WaitsAreCheckedWhereAsked) {
  const Target target = Target::parse("sm_90a");
  const std::string text =
      "#include \"hyperjit/barriers.cuh\"\nextern \"C\" __global__ void test() { hyperjit::waitFor(0, 0); }\n";
  const std::string usual = backend().flags(target);
  ::setenv("HYPERJIT_CHECK_WAITS", "1", 1);
  const std::string checked = backend().flags(target);
  std::string assembly[2];
  if (nvrtcMissing().empty())
    assembly[1] = backend().assembly(text, target);
  ::unsetenv("HYPERJIT_CHECK_WAITS");
  EXPECT_NE(checked, usual) << "the key would not tell such kernels from others";
  if (std::string why = nvrtcMissing(); !why.empty())
    GTEST_SKIP() << why;
  assembly[0] = backend().assembly(text, target);
  for (int i = 0; i < 2; ++i)
    for (const char *word : {"trap;", "globaltimer", "vprintf"})
      EXPECT_EQ(assembly[i].find(word) != std::string::npos, i == 1) << word << "\n" << assembly[i];
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
