// Program.h - a kernel of a test's own on the emulated GPU
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_TESTS_EMULATOR_PROGRAM_H
#define HYPERJIT_TESTS_EMULATOR_PROGRAM_H

#include "Sides.h"

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/Backend.h"

namespace hyperjit::test {

/// A kernel of one operand, floats; of `parts` clusters that run at once.
class Program {
public:
  Program(const std::string &body, int threads, int cluster = 1, int64_t sharedBytes = 1024, int64_t floats = 1024,
          const std::string &preamble = "#include \"hyperjit/barriers.cuh\"\nusing namespace hyperjit;\n",
          int parts = 1) {
    ArtifactMeta meta;
    meta.spec = "test";
    meta.target = "sm_90a";
    OperandInfo operand;
    operand.name = "out";
    operand.scope = OperandScope::Uniform;
    operand.elements = floats;
    meta.operands = {operand};
    LaunchInfo launch;
    launch.entry = "test";
    launch.grid = GridKind::Fixed;
    launch.blocks = cluster * parts;
    launch.extra = "{\"parts\":" + std::to_string(parts) + "}";
    launch.block = threads;
    launch.cluster = cluster;
    launch.sharedBytes = sharedBytes;
    meta.launches = {launch};
    auto backend = Backend::find(DeviceType::Cuda);
    kernel = backend->load(std::make_shared<Artifact>(backend->build(
        meta,
        preamble +
            "extern \"C\" __global__ void test(const __grid_constant__ Launch<1> launch) {\n"
            "  float *out = static_cast<float *>(launch.operands[0]);\n  unsigned char *memory = dynamicShared();\n"
            "  const int self = threadIdx.x;\n" +
            body + "}\n",
        Target::parse("sm_90a"), {})));
    data = static_cast<float *>(device.allocate(size_t(floats) * 4));
  }
  float *run() {
    void *operands[] = {data};
    kernel->launch(operands, device.allocate(256), 1, {0, nullptr});
    return data;
  }
  /// Whether one of many runs, each in another order, leaves something else than `wanted` in the first number.
  bool everDiffers(float wanted) {
    bool differs = false;
    for (int i = 0; i < 200; ++i)
      differs |= !(run()[0] == wanted);
    return differs;
  }
  float *data;

private:
  cuda::Device device{0};
  std::shared_ptr<const Kernel> kernel;
};

} // namespace hyperjit::test

#endif
