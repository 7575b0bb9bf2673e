// Instructions of the GPU that CUDA C++ has no names for, one function each, and no other PTX anywhere.
// SPDX-License-Identifier: Apache-2.0
//
// Includes nothing, so that NVRTC needs neither -I nor a toolkit. tests/emulator has the same functions for a machine
// without a GPU: what they do there is what they are taken to do here.
#ifndef HYPERJIT_DEVICE_CUH
#define HYPERJIT_DEVICE_CUH

#define HYPERJIT_DEVICE static __device__ __forceinline__
#define HYPERJIT_METHOD __device__ __forceinline__

namespace hyperjit {

//===-- conversions: round to nearest even --------------------------------===//

HYPERJIT_DEVICE float halfToFloat(unsigned short bits) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
  return result;
}
HYPERJIT_DEVICE unsigned short floatToHalf(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
HYPERJIT_DEVICE unsigned short floatToBfloat(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
/// Two at once, the first in the low half.
HYPERJIT_DEVICE unsigned floatsToHalves(float low, float high) {
  unsigned result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
HYPERJIT_DEVICE unsigned floatsToBfloats(float low, float high) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

//===-- memory ------------------------------------------------------------===//

/// The shared memory whose size the launch says.
HYPERJIT_DEVICE unsigned char *dynamicShared() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}
HYPERJIT_DEVICE unsigned sharedAddress(const void *pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
/// In one piece (a compiler splits some stores of a struct into four), and without a branch, which would part what can
/// overlap.
HYPERJIT_DEVICE void storeGlobal(uint4 *target, uint4 v, bool exists) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n@p st.global.v4.b32 [%0], {%1, %2, %3, %4};\n}" ::"l"(
                   __cvta_generic_to_global(target)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(static_cast<int>(exists))
               : "memory");
}
HYPERJIT_DEVICE void storeGlobal(uint2 *target, uint2 v, bool exists) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %3, 0;\n@p st.global.v2.b32 [%0], {%1, %2};\n}" ::"l"(
                   __cvta_generic_to_global(target)),
               "r"(v.x), "r"(v.y), "r"(static_cast<int>(exists))
               : "memory");
}
/// To 1 ulp, without a branch for subnormal numbers: they count as 0.
HYPERJIT_DEVICE float approximateReciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
/// Keeps reads near their use: read ahead without bound, they fill the registers and spill.
HYPERJIT_DEVICE void orderReads() { asm volatile("" ::: "memory"); }
/// The same number, of which nothing is worked out before this point: kept over a sweep, such results spill.
HYPERJIT_DEVICE int fromHere(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

//===-- a warp: all lanes together ----------------------------------------===//

/// d += a b. bf16 [16, 16] by [16, 8]: lane 4 g + q holds rows g and g + 8 of a, column g of b, and of d the columns 2
/// q, 2 q + 1.
HYPERJIT_DEVICE void mma16816(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                              unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/// The same of fp16.
HYPERJIT_DEVICE void mma16816Half(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                  unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/// bf16 [16, 8] by [8, 8].
HYPERJIT_DEVICE void mma1688(float (&d)[4], unsigned a0, unsigned a1, unsigned b0) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(b0));
}
/// Of [8, 8] numbers of 16 bits, lane 4 g + q holds row g, columns 2 q and 2 q + 1, before and after.
HYPERJIT_DEVICE unsigned transposeBlock(unsigned block) {
  unsigned result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(block));
  return result;
}

//===-- barriers in shared memory, named by their address -----------------===//

HYPERJIT_DEVICE void initBarrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Before the barrier of the block or cluster behind which others use what was initialised.
HYPERJIT_DEVICE void publishBarriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
HYPERJIT_DEVICE void arrive(unsigned barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#else
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
#endif
}
/// Whether the phase of that parity has ended, after a short wait where the GPU has one. `Remote`: for what other CTAs
/// of the cluster have stored (and the SM's L1 cache forgets what it holds).
template <bool Remote> HYPERJIT_DEVICE bool phaseEnded(unsigned barrier, int parity) {
  unsigned done;
#if __CUDA_ARCH__ >= 900
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
#else
  static_assert(!Remote, "there are no clusters");
  asm volatile("{\n.reg .pred p;\n"
               "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
               "selp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
#endif
  return done;
}
/// Of a clock that all blocks share.
HYPERJIT_DEVICE unsigned long long nanoseconds() {
  unsigned long long time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}
template <int Nanoseconds> HYPERJIT_DEVICE void sleepFor() { asm volatile("nanosleep.u32 %0;" ::"n"(Nanoseconds)); }

//===-- copies that arrive at a barrier -----------------------------------===//

/// `Bytes` (4, 8, 16) from global to shared memory, by one lane.
template <int Bytes> HYPERJIT_DEVICE void copyAsync(unsigned target, const void *source) {
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(__cvta_generic_to_global(source))
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(__cvta_generic_to_global(source)),
                 "n"(Bytes)
                 : "memory");
}
/// `Bytes`, or zeros where `exists` is false.
template <int Bytes> HYPERJIT_DEVICE void copyOrClear(unsigned target, const void *source, bool exists) {
  const int size = exists ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(__cvta_generic_to_global(source)),
                 "r"(size)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(__cvta_generic_to_global(source)),
                 "n"(Bytes), "r"(size)
                 : "memory");
}
/// One arrival of this lane when all its copies so far have landed.
HYPERJIT_DEVICE void arriveWithCopies(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

//===-- launches --------------------------------------------------------===//

/// Where a launch may begin before the one before it in its stream has ended (launch key `overlaps`), nothing that lies
/// in global memory may be touched before this: then all that earlier launches read and wrote is done, and seen: reads
/// behind it, also those past the first-level cache's coherence (`ld.global.nc`), gave no old line (H200, lines that
/// the processor's cache held from a launch that still ran when this one began). The next launch may begin then, and not
/// before: never are more than two there.
HYPERJIT_DEVICE void waitForLaunchesBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

//===-- a cluster ---------------------------------------------------------===//

/// All threads of all CTAs; what they stored before it is seen after it.
HYPERJIT_DEVICE void clusterBarrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
HYPERJIT_DEVICE int clusterRank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}

//===-- clusters of one grid, which all run at once -----------------------===//

/// A number for another cluster, in one word with the news that it is there: nothing else has to be ordered before it
/// or behind it.
HYPERJIT_DEVICE void tell(unsigned long long *word, float value) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(word)),
               "l"(1ull << 32 | __float_as_uint(value))
               : "memory");
}
/// Whether it is there, past caches that do not know of it. Who cleared the word did so before the kernel.
HYPERJIT_DEVICE bool hear(const unsigned long long *word, float &value) {
  unsigned long long whole;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(whole) : "l"(__cvta_generic_to_global(word)) : "memory");
  value = __uint_as_float(static_cast<unsigned>(whole));
  return whole >> 32 != 0;
}

#if __CUDA_ARCH__ >= 900

/// The same place in the shared memory of another CTA of the cluster.
HYPERJIT_DEVICE unsigned remoteAddress(unsigned address, int rank) {
  unsigned remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}
HYPERJIT_DEVICE void loadRemote(unsigned address, float &value) {
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
}
HYPERJIT_DEVICE void loadRemote(unsigned address, double &value) {
  asm volatile("ld.shared::cluster.f64 %0, [%1];" : "=d"(value) : "r"(address) : "memory");
}
/// To an address of another CTA, counting bytes at a barrier of that CTA.
HYPERJIT_DEVICE void storeRemote(unsigned target, float value, unsigned barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(target),
               "r"(__float_as_uint(value)), "r"(barrier)
               : "memory");
}
HYPERJIT_DEVICE void storeRemote(unsigned target, const float (&v)[4], unsigned barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(target),
      "r"(__float_as_uint(v[0])), "r"(__float_as_uint(v[1])), "r"(__float_as_uint(v[2])), "r"(__float_as_uint(v[3])),
      "r"(barrier)
      : "memory");
}

/// For the bytes of bulk copies and of stores from other CTAs.
HYPERJIT_DEVICE void arriveAndExpect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// From global to shared memory; both addresses and the size are multiples of 16. Counts bytes at the barrier.
HYPERJIT_DEVICE void bulkLoad(unsigned target, const void *source, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
               "l"(source), "r"(bytes), "r"(barrier)
               : "memory");
}
/// From memory to L2, where it will be read from soon: at least the 32 bytes around the address. (Lanes do this side by
/// side; a bulk prefetch of more would be made by one lane after the other.)
HYPERJIT_DEVICE void fetchToL2(const void *source) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(source)));
}

//===-- registers ---------------------------------------------------------===//

/// All warps of four in a row give up registers of the kernel's share, or take more.
template <int Registers> HYPERJIT_DEVICE void giveUpRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers> HYPERJIT_DEVICE void takeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

#endif

} // namespace hyperjit

#endif
