// Barriers in shared memory: what warps of different work wait by.
// SPDX-License-Identifier: Apache-2.0
//
// A phase of a barrier ends when its arrivals have come and its announced bytes have landed; bytes may land before they
// are announced, because the announcing arrival keeps the phase open. Waits are for the parity of a phase: even phases
// 0.
#ifndef HYPERJIT_BARRIERS_CUH
#define HYPERJIT_BARRIERS_CUH

#include "hyperjit/numeric.cuh"

namespace hyperjit {

/// With HYPERJIT_CHECK_WAITS (the setting of that name), a wait that takes ten seconds says so and ends the kernel, and
/// with it the process's use of the device. Barriers of whole blocks and clusters are the hardware's, and wait for
/// ever.
struct Patience {
#ifdef HYPERJIT_CHECK_WAITS
  const unsigned long long begin = nanoseconds();
  HYPERJIT_METHOD void check(const char *what, unsigned long long which) const {
    if (nanoseconds() - begin < 10000000000ull)
      return;
    printf("hyperjit: block %u of %u, thread %u of %u has waited ten seconds for %s %llx\n", blockIdx.x, gridDim.x,
           threadIdx.x, blockDim.x, what, which);
    __trap();
  }
#else
  HYPERJIT_METHOD void check(const char *, unsigned long long) const {}
#endif
};

/// `Remote`: for what other CTAs of the cluster have stored. `Sleep`: nanoseconds between two looks: a warp that looks
/// without a pause takes issue slots from those that work.
template <bool Remote = false, int Sleep = 0> HYPERJIT_DEVICE void waitFor(unsigned barrier, int parity) {
  const Patience patience;
  while (!phaseEnded<Remote>(barrier, parity)) {
    if constexpr (Sleep > 0)
      sleepFor<Sleep>();
    patience.check(parity ? "the odd phase of barrier" : "the even phase of barrier", barrier);
  }
}

/// The lane's warp has loaded all that it reads of the ring's slot.
template <int Ring, class N> HYPERJIT_DEVICE void releaseRing(N &lane) {
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    arrive(lane.empty[Ring]);
}

} // namespace hyperjit

#endif
