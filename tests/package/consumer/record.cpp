// Core alone, no LibTorch: records the variant, prints its program, and looks at the traffic that the compiler counts,
// for the CPU and for a GPU that need not be here.
// SPDX-License-Identifier: Apache-2.0
#include "TwoHeads.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>

#include <cstdio>

using namespace hyperjit;

int main() {
  consumer::define();
  ProgramSource &programs = ProgramSource::global();
  SiteSpec spec = programs.normalise(SiteSpec::parse("two-heads:n=3,d=16"));
  auto program = programs.site(spec);
  std::printf("%s", program->text.c_str());
  if (program->signature.branchInputs() != 2 || program->parameters.size() != 5) {
    std::fprintf(stderr, "two branch inputs and five parameters expected\n");
    return 1;
  }
  // X, Y in, X', U (two rows) out; backward X, Y, dX', dU in, dX, dY out: nothing else is wide.
  const int64_t n = spec.n, v = 2, forward = 2 * n + 1 + v, backward = 3 * n + 2 + v;
  KernelManager &manager = KernelManager::global();
  bool right = true;
  for (const Target &target : {Target::native(), Target::parse("sm_90a")}) {
    auto wide = [&](const KernelSpec &kernel) {
      const TrafficInfo traffic = manager.artifact(kernel, target).artifact->meta.traffic;
      std::printf("%s, %s: %ldu\n", target.isa.c_str(), kernel.text().c_str(), long(traffic.readsU + traffic.writesU));
      return traffic.readsU + traffic.writesU;
    };
    try {
      right &= wide(KernelSpec::boundaryForward(spec, spec, true, Bucket::Large)) == forward;
      right &= wide(KernelSpec::backward(spec, spec, "xuc", "xycp", Bucket::Large)) == backward;
    } catch (const UserError &error) {
      // A cubin is made by NVRTC, which comes with CUDA or the torch wheel; without it there is nothing to look at.
      if (target.device != DeviceType::Cuda || error.id() != ErrorId::LibraryMissing)
        throw;
      std::printf("%s: %s\n", target.isa.c_str(), error.what());
    }
  }
  if (!right)
    std::fprintf(stderr, "the traffic is not %ldu forward and %ldu backward\n", long(forward), long(backward));
  return right ? 0 : 1;
}
