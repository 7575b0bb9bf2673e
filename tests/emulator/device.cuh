// In place of templates/hyperjit/device.cuh for a machine without a GPU: the same functions, and the words of CUDA C++
// that a C++ compiler does not know.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_DEVICE_CUH
#define HYPERJIT_DEVICE_CUH

#include "Machine.h"

#include <cmath>
#include <cstring>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __constant__ static
#define __shared__ static // one block at a time; blocks of a cluster have none
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

#define HYPERJIT_DEVICE static inline
#define HYPERJIT_METHOD inline

#define threadIdx (hyperjit::emulator::thread->threadIdx)
#define blockIdx (hyperjit::emulator::thread->blockIdx)
#define blockDim (hyperjit::emulator::thread->blockDim)
#define gridDim (hyperjit::emulator::thread->gridDim)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
template <class T> inline T __ldg(const T *source) { return *source; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

inline void __syncwarp() { hyperjit::emulator::meetWarp(nullptr, 0); }
inline void __syncthreads() { hyperjit::emulator::meetBlock(); }
template <class T> inline T __shfl_sync(unsigned, T value, int lane) {
  T result;
  std::memcpy(&result, hyperjit::emulator::meetWarp(&value, sizeof value) + lane % 32 * 64, sizeof result);
  return result;
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int distance) {
  T result;
  const int lane = static_cast<int>(threadIdx.x % 32) ^ distance;
  std::memcpy(&result, hyperjit::emulator::meetWarp(&value, sizeof value) + lane * 64, sizeof result);
  return result;
}

namespace hyperjit {

HYPERJIT_DEVICE float halfToFloat(unsigned short bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return static_cast<float>(value);
}
HYPERJIT_DEVICE unsigned short floatToHalf(float value) {
  const _Float16 narrow = static_cast<_Float16>(value);
  unsigned short bits;
  std::memcpy(&bits, &narrow, 2);
  return bits;
}
HYPERJIT_DEVICE unsigned short floatToBfloat(float value) {
  if (value != value)
    return 0x7fff;
  const unsigned bits = __float_as_uint(value);
  return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
HYPERJIT_DEVICE unsigned floatsToHalves(float low, float high) {
  return floatToHalf(low) | static_cast<unsigned>(floatToHalf(high)) << 16;
}
HYPERJIT_DEVICE unsigned floatsToBfloats(float low, float high) {
  return floatToBfloat(low) | static_cast<unsigned>(floatToBfloat(high)) << 16;
}

HYPERJIT_DEVICE unsigned char *dynamicShared() { return emulator::thread->shared; }
HYPERJIT_DEVICE unsigned sharedAddress(const void *pointer) { return emulator::sharedAddress(pointer); }
HYPERJIT_DEVICE void storeGlobal(uint4 *target, uint4 v, bool exists) {
  if (exists)
    *target = v;
}
HYPERJIT_DEVICE void storeGlobal(uint2 *target, uint2 v, bool exists) {
  if (exists)
    *target = v;
}
HYPERJIT_DEVICE void orderReads() {}
HYPERJIT_DEVICE int fromHere(int number) { return number; }
HYPERJIT_DEVICE float approximateReciprocal(float x) {
  const float least = 1.17549435e-38f, y = 1 / (std::fabs(x) < least ? std::copysign(0.0f, x) : x);
  return std::fabs(y) < least ? std::copysign(0.0f, y) : y;
}

struct Fragments {
  unsigned a[4], b[2];
};
struct OfBfloat {
  static float at(unsigned pair, int half) { return __uint_as_float(half ? pair & 0xffff0000u : pair << 16); }
};
struct OfHalf {
  static float at(unsigned pair, int half) {
    return halfToFloat(static_cast<unsigned short>(half ? pair >> 16 : pair));
  }
};
/// `Steps` pairs of columns of eight.
template <int Steps, class Of = OfBfloat> HYPERJIT_DEVICE void multiplyTiles(float (&d)[4], const Fragments &mine) {
  const unsigned char *all = emulator::meetWarp(&mine, sizeof mine);
  auto of = [&](int lane) { return reinterpret_cast<const Fragments *>(all + 64 * lane); };
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int upper = i / 2, column = 2 * q + i % 2;
    float sum = 0;
    for (int k = 0; k < 8 * Steps; ++k)
      sum += Of::at(of(4 * g + k % 8 / 2)->a[2 * (k / 8) + upper], k % 2) *
             Of::at(of(4 * column + k % 8 / 2)->b[k / 8], k % 2);
    d[i] += sum;
  }
}
HYPERJIT_DEVICE void mma16816(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                              unsigned b1) {
  multiplyTiles<2>(d, {{a0, a1, a2, a3}, {b0, b1}});
}
HYPERJIT_DEVICE void mma16816Half(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                  unsigned b1) {
  multiplyTiles<2, OfHalf>(d, {{a0, a1, a2, a3}, {b0, b1}});
}
HYPERJIT_DEVICE void mma1688(float (&d)[4], unsigned a0, unsigned a1, unsigned b0) {
  multiplyTiles<1>(d, {{a0, a1}, {b0}});
}
HYPERJIT_DEVICE unsigned transposeBlock(unsigned block) {
  const unsigned char *all = emulator::meetWarp(&block, 4);
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  unsigned result = 0;
  for (int i = 0; i < 2; ++i) {
    unsigned pair;
    std::memcpy(&pair, all + 64 * (4 * (2 * q + i) + g / 2), 4);
    result |= (pair >> 16 * (g % 2) & 0xffff) << 16 * i;
  }
  return result;
}

HYPERJIT_DEVICE void tell(unsigned long long *word, float value) { emulator::tell(word, __float_as_uint(value)); }
HYPERJIT_DEVICE bool hear(const unsigned long long *word, float &value) {
  value = __uint_as_float(emulator::hear(word));
  return true;
}

HYPERJIT_DEVICE void waitForLaunchesBefore() {}
HYPERJIT_DEVICE void clusterBarrier() { emulator::meetCluster(); }
HYPERJIT_DEVICE int clusterRank() { return emulator::thread->clusterRank; }
HYPERJIT_DEVICE unsigned remoteAddress(unsigned address, int rank) { return emulator::remoteAddress(address, rank); }
template <class T> HYPERJIT_DEVICE void loadRemote(unsigned address, T &value) {
  std::memcpy(&value, emulator::sharedPointer(address, sizeof value), sizeof value);
}
HYPERJIT_DEVICE void storeRemote(unsigned target, float value, unsigned barrier) {
  emulator::storeRemote(target, &value, 4, barrier);
}
HYPERJIT_DEVICE void storeRemote(unsigned target, const float (&v)[4], unsigned barrier) {
  emulator::storeRemote(target, v, 16, barrier);
}

HYPERJIT_DEVICE void initBarrier(unsigned barrier, int arrivals) { emulator::initBarrier(barrier, arrivals); }
HYPERJIT_DEVICE void publishBarriers() {}
HYPERJIT_DEVICE void arrive(unsigned barrier) { emulator::arrive(barrier, 0); }
HYPERJIT_DEVICE void arriveAndExpect(unsigned barrier, int bytes) { emulator::arrive(barrier, bytes); }
template <bool Remote> HYPERJIT_DEVICE bool phaseEnded(unsigned barrier, int parity) {
  emulator::waitForPhase(barrier, parity);
  return true;
}
HYPERJIT_DEVICE unsigned long long nanoseconds() { return 0; }
template <int Nanoseconds> HYPERJIT_DEVICE void sleepFor() {}

HYPERJIT_DEVICE void bulkLoad(unsigned target, const void *source, int bytes, unsigned barrier) {
  emulator::copyBulk(target, source, bytes, barrier);
}
HYPERJIT_DEVICE void fetchToL2(const void *) {}
template <int Bytes> HYPERJIT_DEVICE void copyAsync(unsigned target, const void *source) {
  emulator::copyAsync(target, source, Bytes);
}
template <int Bytes> HYPERJIT_DEVICE void copyOrClear(unsigned target, const void *source, bool exists) {
  alignas(16) static const unsigned char zeros[16] = {};
  emulator::copyAsync(target, exists ? source : zeros, Bytes);
}
HYPERJIT_DEVICE void arriveWithCopies(unsigned barrier) { emulator::arriveWithCopies(barrier); }

template <int Registers> HYPERJIT_DEVICE void giveUpRegisters() { emulator::meetWarp(nullptr, 0); }
template <int Registers> HYPERJIT_DEVICE void takeRegisters() { emulator::meetWarp(nullptr, 0); }

} // namespace hyperjit

#endif
