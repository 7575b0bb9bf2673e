// Packs weights for tensor cores (weights.cuh): in the workspace by a grid, or a CTA's part in its shared memory.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_PACKING_CUH
#define HYPERJIT_PACKING_CUH

#include "hyperjit/barriers.cuh"
#include "hyperjit/weights.cuh"

namespace hyperjit {

/// Which fragments are made where, by whom: all of them in the workspace, by the threads of a grid.
template <class P> struct Packing {
  static constexpr bool staged = false;
  static constexpr int chunks = P::chunks;
  template <class U> HYPERJIT_METHOD static char *target(const U &u) {
    return reinterpret_cast<char *>(P::Ref::at(u.launch, 0));
  }
  template <class U> HYPERJIT_METHOD static int firstChunk(const U &) { return 0; }
  template <class U> HYPERJIT_METHOD static int begin(const U &u) { return u.block * blockDim.x + threadIdx.x; }
  template <class U> HYPERJIT_METHOD static int stride(const U &u) { return u.blocks * blockDim.x; }
};
/// A CTA's chunks in its shared memory, by some of its threads.
template <class P, int Offset, int Chunks> struct Packing<StagedPlanes<P, Offset, Chunks>> {
  static constexpr bool staged = true;
  static constexpr int chunks = Chunks;
  template <class U> HYPERJIT_METHOD static char *target(const U &u) {
    return reinterpret_cast<char *>(u.weights) + Offset;
  }
  template <class U> HYPERJIT_METHOD static int firstChunk(const U &u) { return u.rank * Chunks; }
  template <class U> HYPERJIT_METHOD static int begin(const U &u) { return u.thread; }
  template <class U> HYPERJIT_METHOD static int stride(const U &) { return U::threads; }
};
/// The launch seen by a thread that packs for its CTA, one of `Threads`.
template <class T_, class L, int Width_, int Threads_> struct Packer {
  using T = T_;
  static constexpr int width = Width_, threads = Threads_;
  const L &launch;
  unsigned char *weights;
  int rank, thread;
  unsigned landed; // barriers of `packingSteps` (all threads arrive)
  int parity = 0;  // of the next weight's phase
};
/// A CTA's numbers come in so many portions, and are packed as they come.
constexpr int packingSteps = 4;

/// A weight's numbers of channels c .. c + 3, c a multiple of 4.
template <class U, class W>
HYPERJIT_DEVICE void fourChannels(const U &u, const W &w, int r, int c, int k, float (&x)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e)
    x[e] = w.at(u, r, c + e, k);
}
/// Whether a weight is what lies in memory, and where.
template <class W> struct StoredWeight { static constexpr bool value = false; };

/// Weights x[0 .. 3] of four channels and one coefficient.
HYPERJIT_DEVICE uint4 fragmentOf(const float (&x)[4]) {
  uint4 fragment;
  splitPair(x[0], x[1], fragment.x, fragment.y);
  splitPair(x[2], x[3], fragment.z, fragment.w);
  return fragment;
}

/// Numbers that lie in memory as they are come to where their fragments will lie, whole lines at a time, and each warp
/// packs a row's chunk in its place: lanes that read four channels of one coefficient each from global memory touch
/// four lines for 128 bytes (8300 cycles for four streams of 256 channels, and twice that where all processors pack).
/// A lane begins at another of its four channels than its neighbour, because theirs lie in the same banks.
template <class P, int V, class W, class U> HYPERJIT_DEVICE void packInPlace(U &u) {
  using Range = Packing<P>;
  static_assert(U::width % (4 * V) == 0, "whole chunks");
  constexpr int warps = U::threads / 32, chunks = Range::chunks, blocks = P::R * chunks,
                together = (blocks + packingSteps - 1) / packingSteps;
  constexpr int pieces = V * P::K; // of 16 bytes
  const int warp = u.thread / 32, self = u.thread % 32, q = self % 4, g = self / 4;
  char *const target = Range::target(u);
  const float *source =
      StoredWeight<W>::numbers(u.launch) + static_cast<long long>(Range::firstChunk(u)) * 4 * V * P::K;
#pragma unroll 1
  for (int step = 0; step < packingSteps; ++step) {
#pragma unroll 1
    for (int block = step * together + warp; block < (step + 1) * together && block < blocks; block += warps) {
      const unsigned to = sharedAddress(target + block * P::chunkBytes) + 16 * self;
      const float *from = source + (block / chunks * U::width + block % chunks * 4 * V) * P::K + 4 * self;
#pragma unroll
      for (int i = 0; i < pieces; i += 32)
        if (pieces % 32 == 0 || i + self < pieces)
          copyAsync<16>(to + 16 * i, from + 4 * i);
    }
    arriveWithCopies(u.landed + 8 * step);
  }
  int skip[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    skip[j] = q * V * P::K + g + (j + q) % 4 * P::K;
#pragma unroll 1
  for (int block = warp; block < blocks; block += warps) {
    waitFor(u.landed + 8 * (block / together), u.parity);
    const float *numbers = reinterpret_cast<const float *>(target + block * P::chunkBytes);
    float x[P::steps][P::tiles][4];
#pragma unroll
    for (int step = 0; step < P::steps; ++step)
#pragma unroll
      for (int tile = 0; tile < P::tiles; ++tile) {
        const bool exists = P::K % 8 == 0 || 8 * tile + g < P::K;
        float read[4], half[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          read[j] = exists ? numbers[4 * step * P::K + 8 * tile + skip[j]] : 0.0f;
#pragma unroll
        for (int e = 0; e < 4; ++e)
          half[e] = q & 1 ? read[(e + 3) % 4] : read[e];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          x[step][tile][e] = q & 2 ? half[(e + 2) % 4] : half[e];
      }
    __syncwarp();
    uint4 *fragments = reinterpret_cast<uint4 *>(target + block * P::chunkBytes) + self;
#pragma unroll
    for (int step = 0; step < P::steps; ++step)
#pragma unroll
      for (int tile = 0; tile < P::tiles; ++tile)
        fragments[(step * P::tiles + tile) * 32] = fragmentOf(x[step][tile]);
  }
  // A warp that had other portions to wait for, or none, may not arrive for the next weight before all have for this.
#pragma unroll 1
  for (int step = 0; step < packingSteps; ++step)
    waitFor(u.landed + 8 * step, u.parity);
  u.parity ^= 1;
}

template <class P, int V, class U, class W> HYPERJIT_DEVICE void packEach(U &u, const W &w) {
  using Range = Packing<P>;
  static_assert(P::count < 1ll << 31, "fragments are counted by an int");
  uint4 *target = reinterpret_cast<uint4 *>(Range::target(u));
  // Numbers of several fragments on their way together.
#pragma unroll 8
  for (int i = Range::begin(u); i < P::R * Range::chunks * P::steps * P::tiles * 32; i += Range::stride(u)) {
    const int lane = i % 32, tile = i / 32 % P::tiles, step = i / 32 / P::tiles % P::steps;
    const int chunk = i / 32 / P::tiles / P::steps % Range::chunks, row = i / 32 / P::tiles / P::steps / Range::chunks;
    const int k = 8 * tile + lane / 4, c = (Range::firstChunk(u) + chunk) * 4 * V + lane % 4 * V + 4 * step;
    // Rows are multiples of 4; what is known of all numbers costs no branch.
    const bool exists = (P::K % 8 == 0 || k < P::K) && (U::width % (4 * V) == 0 || c < U::width);
    float x[4] = {};
    if (exists)
      fourChannels(u, w, row, c, k, x);
    target[i] = fragmentOf(x);
  }
}

template <class P, int V, class U, class W> HYPERJIT_DEVICE void packProjection(U &u, const W &w) {
  if constexpr (Packing<P>::staged && StoredWeight<W>::value)
    packInPlace<P, V, W>(u);
  else
    packEach<P, V>(u, w);
}

template <class P, int V, class U, class W> HYPERJIT_DEVICE void packExpansion(U &u, const W &w) {
  using Range = Packing<P>;
  static_assert(P::count < 1ll << 31, "fragments are counted by an int");
  unsigned *target = reinterpret_cast<unsigned *>(Range::target(u));
  constexpr int groups = V / 2 / P::blocks;
  for (int i = Range::begin(u); i < P::R * Range::chunks * groups * 32; i += Range::stride(u)) {
    const int lane = i % 32, j = i / 32 % groups * P::blocks;
    const int chunk = i / 32 / groups % Range::chunks, row = i / 32 / groups / Range::chunks;
    const int g = lane / 4, q = lane % 4, c = (Range::firstChunk(u) + chunk) * 4 * V + g / 2 * V + 2 * j + g % 2;
    unsigned *group = target + static_cast<long long>(i / 32) * P::words;
    auto at = [&](int c, int k) { return k < P::K && c < U::width ? w.at(u, row, c, k) : 0.0f; };
    // Two coefficients: both planes of a channel, or hi of one in each of two blocks.
    auto split = [&](int k, unsigned &first, unsigned &second) {
      if constexpr (P::blocks == 1) {
        splitPair(at(c, k), at(c, k + 1), first, second);
      } else {
        first = packBfloat16(at(c, k), at(c, k + 1));
        second = packBfloat16(at(c + 2, k), at(c + 2, k + 1));
      }
    };
#pragma unroll
    for (int step = 0; step < P::steps; ++step) {
      unsigned *words = group + 128 * step + 4 * lane;
      const int k = 16 * step + 2 * q;
      split(k, words[0], words[2]);
      split(k + 8, words[1], words[3]);
    }
    if constexpr (P::tail) {
      unsigned *words = group + 128 * P::steps + 2 * lane;
      split(16 * P::steps + 2 * q, words[0], words[1]);
    }
  }
}

} // namespace hyperjit

#endif
