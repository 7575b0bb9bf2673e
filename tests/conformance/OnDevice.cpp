// What only a GPU's concurrency and memory can go wrong in: two streams at once, many repeats, more than 2^31 elements.
// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <thread>

namespace hyperjit::conformance {
namespace {

class OnDevice : public testing::Test {
protected:
  void SetUp() override {
    if (!at::hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0)
      GTEST_SKIP() << "no CUDA device";
  }
  static void wait() { c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(0); }
  const at::Device device{at::kCUDA, 0};
};

/// Alone in the first place, so that kernels are loaded; then each on a stream and a thread of its own.
TEST_F(OnDevice, TwoStreamsAtOnceGiveTheBitsOfEach) {
  for (const char *spec : {"manifold:n=4,d=1280,dtype=bf16", "dynamic:n=3,d=2048,dtype=bf16",
                           "manifold:n=4,d=7168,dtype=bf16", "static:n=2,d=4096,dtype=fp16"}) {
    const std::vector<Program> sites{site(spec), site(spec)};
    const Sample samples[] = {makeSample(sites, {300}, 1, device), makeSample(sites, {1031}, 2, device)};
    const Outcome expected[] = {runKernelChain(sites, samples[0]), runKernelChain(sites, samples[1])};
    wait(); // what these streams are given comes from another one
    std::string reports[2];
    auto work = [&](int which) {
      const c10::impl::VirtualGuardImpl streams(at::kCUDA);
      const c10::StreamGuard guard(streams.getStreamFromGlobalPool(device));
      try {
        for (int round = 0; round < 50 && reports[which].empty(); ++round)
          reports[which] = compareBits(expected[which], runKernelChain(sites, samples[which]));
      } catch (const std::exception &error) {
        reports[which] = error.what();
      }
    };
    {
      const std::jthread other(work, 1);
      work(0);
    }
    EXPECT_EQ(reports[0] + reports[1], "") << spec;
  }
}

/// A kernel of each skeleton, of few tokens and of many: what a barrier too few lets through now and then.
TEST_F(OnDevice, AThousandRepeatsGiveTheSameBits) {
  for (const char *spec :
       {"manifold:n=4,d=1280,dtype=bf16", "manifold:n=4,d=4096,dtype=bf16", "manifold:n=4,d=7168,dtype=bf16",
        "manifold:n=3,d=4096,dtype=bf16", "manifold:n=8,d=1024,dtype=bf16", "dynamic:n=4,d=2048,dtype=bf16",
        "frac:n=1,m=8,d=2048,dtype=bf16", "static:n=4,d=2048,dtype=bf16", "manifold:n=2,d=129,dtype=fp32"})
    for (int64_t tokens : {3, 264}) {
      const std::vector<Program> sites{site(spec), site(spec)};
      const Sample sample = makeSample(sites, {tokens}, 1, device);
      const Outcome expected = runKernelChain(sites, sample);
      std::string report;
      for (int repeat = 0; repeat < 1000 && report.empty(); ++repeat)
        report = compareBits(expected, runKernelChain(sites, sample));
      EXPECT_EQ(report, "") << spec << ", " << tokens << " tokens";
    }
}

/// The same tokens again and again: each repeat's results have the bits of the first's, made alone, wherever it lies;
/// sums over tokens are as many times as large.
TEST_F(OnDevice, MoreElementsThan32BitsCount) {
  constexpr int64_t few = 4099, times = 32, width = 16384;
  static_assert(few * times * width > int64_t(1) << 31);
  constexpr size_t needed = size_t(few * times * width) * 2 * 9; // X, next, both gradients, the branch's, and copies
  const auto [free, total] = at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(0);
  if (free < needed)
    GTEST_SKIP() << "the device has " << free << " bytes free, " << needed << " are needed";
  for (const char *spec :
       {"manifold:n=4,d=4096,dtype=bf16", "static:n=4,d=4096,dtype=bf16", "manifold:n=2,d=8192,dtype=bf16"}) {
    const Program program = site(spec);
    const Sample one = makeSample({program}, {few}, 1, device);
    const Outcome expected = runKernels(*program, one);
    Sample all = one;
    all.tokens *= times;
    auto repeat = [](at::Tensor &tensor) {
      std::vector<int64_t> counts(static_cast<size_t>(tensor.dim()), 1);
      counts[0] = times;
      tensor = tensor.repeat(counts);
    };
    for (at::Tensor *tensor : {&all.x, &all.du, &all.dNext, &all.shifts[0]})
      repeat(*tensor);
    const Outcome got = runKernels(*program, all);
    for (const auto &[name, whole] : got) {
      const at::Tensor part = expected.at(name).detach();
      if (part.dim() == 0 || part.size(0) != few) {
        const at::Tensor sum = part.to(at::kDouble) * times, off = whole.detach().to(at::kDouble) - sum;
        EXPECT_LE(off.norm().item<double>(), 1e-3 * sum.norm().item<double>()) << name << " of " << spec;
        continue;
      }
      for (int64_t i = 0; i < times; ++i)
        EXPECT_EQ(compareBits({{name, part}}, {{name, whole.detach().narrow(0, i * few, few)}}), "")
            << "repeat " << i << " of " << spec;
    }
  }
}

} // namespace
} // namespace hyperjit::conformance
