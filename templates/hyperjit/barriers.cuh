// Barriers in shared memory, bulk copies and remote stores of a cluster: what warps of different work wait by.
// SPDX-License-Identifier: Apache-2.0
//
// A phase of a barrier ends when its arrivals have come and its announced bytes have landed; bytes may land before they
// are announced, because the announcing arrival keeps the phase open. Waits are for the parity of a phase: even phases 0.
#ifndef HYPERJIT_BARRIERS_CUH
#define HYPERJIT_BARRIERS_CUH

#include "hyperjit/numeric.cuh"

namespace hyperjit {

#if __CUDA_ARCH__ >= 900

HYPERJIT_DEVICE unsigned sharedAddress(const void *pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
/// The same place in the shared memory of another CTA of the cluster.
HYPERJIT_DEVICE unsigned remoteAddress(unsigned address, int rank) {
  unsigned remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

/// Barriers are named by their address in shared memory.
HYPERJIT_DEVICE void initBarrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
HYPERJIT_DEVICE void arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
HYPERJIT_DEVICE void arriveAndExpect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// `Remote`: for what other CTAs of the cluster have stored (and the SM's L1 cache forgets what it holds). `Sleep`: nanoseconds
/// between two looks: a warp that looks without a pause takes issue slots from those that work.
template <bool Remote = false, int Sleep = 0> HYPERJIT_DEVICE void waitFor(unsigned barrier, int parity) {
  for (;;) {
    unsigned done;
    if constexpr (Remote)
      asm volatile("{\n.reg .pred p;\n"
                   "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
                   "selp.u32 %0, 1, 0, p;\n}"
                   : "=r"(done)
                   : "r"(barrier), "r"(parity)
                   : "memory");
    else
      asm volatile("{\n.reg .pred p;\n"
                   "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                   "selp.u32 %0, 1, 0, p;\n}"
                   : "=r"(done)
                   : "r"(barrier), "r"(parity)
                   : "memory");
    if (done)
      return;
    if constexpr (Sleep > 0)
      asm volatile("nanosleep.u32 %0;" ::"n"(Sleep));
  }
}

/// From global to shared memory; both addresses and the size are multiples of 16. Counts bytes at the barrier.
HYPERJIT_DEVICE void bulkLoad(unsigned target, const void *source, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target), "l"(source),
               "r"(bytes), "r"(barrier)
               : "memory");
}
/// 16 bytes from global to shared memory, by one lane.
HYPERJIT_DEVICE void copyAsync(unsigned target, const void *source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(__cvta_generic_to_global(source)) : "memory");
}
/// One arrival of this lane when all its copies so far have landed.
HYPERJIT_DEVICE void arriveWithCopies(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
/// To an address of another CTA, counting bytes at a barrier of that CTA.
HYPERJIT_DEVICE void storeRemote(unsigned target, float value, unsigned barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(target), "r"(__float_as_uint(value)),
               "r"(barrier)
               : "memory");
}
HYPERJIT_DEVICE void storeRemote(unsigned target, const float (&v)[4], unsigned barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(target),
               "r"(__float_as_uint(v[0])), "r"(__float_as_uint(v[1])), "r"(__float_as_uint(v[2])), "r"(__float_as_uint(v[3])),
               "r"(barrier)
               : "memory");
}
/// What is seen of stores to shared memory comes before later bulk copies there.
HYPERJIT_DEVICE void orderBulkCopies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// All warps of four in a row give up registers of the kernel's share, or take more.
template <int Registers> HYPERJIT_DEVICE void giveUpRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers> HYPERJIT_DEVICE void takeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
HYPERJIT_DEVICE void publishBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// The lane's warp has loaded all that it reads of the ring's slot.
template <int Ring, class N> HYPERJIT_DEVICE void releaseRing(N &lane) {
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    arrive(lane.empty[Ring]);
}

#endif

} // namespace hyperjit

#endif
