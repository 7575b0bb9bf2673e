// What clusterColumns fetches from memory, and what clusters that share rows tell each other by it.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_COLUMNS_MEMORY_CUH
#define HYPERJIT_COLUMNS_MEMORY_CUH

#include "hyperjit/barriers.cuh"

namespace hyperjit {

/// A warp copies channels [channel, channel + Channels) of an input's rows, of `live` tokens of a tile from `first` on,
/// to a slot of TokenBytes a token. A loader that works out every address is slower than the sweeps: of a whole tile,
/// all distances are constants.
template <class I, int Tile, int TokenBytes, int Width, int Channels, class L>
HYPERJIT_DEVICE void copyRows(const L &launch, unsigned target, long long first, int live, int channel, int lane) {
  constexpr int size = static_cast<int>(sizeof(typename I::Place::Storage)), pieces = Channels * size / 16,
                all = I::rows * pieces;
  constexpr int rounds = (all + 31) / 32, between = (Width - Channels) * size;
  const char *source = reinterpret_cast<const char *>(I::Place::Ref::at(launch, first) + channel) + 16 * lane;
  target += 16 * lane;
  int skipped[rounds]; // bytes of other CTAs before the lane's pieces
#pragma unroll
  for (int i = 0; i < rounds; ++i)
    skipped[i] = (pieces % 32 == 0 ? i * 32 / pieces : (i * 32 + lane) / pieces) * between;
  auto copyToken = [&](int token) {
    constexpr long long next = I::Place::Ref::stride * size;
#pragma unroll
    for (int i = 0; i < rounds; ++i)
      if (all % 32 == 0 || i * 32 + lane < all)
        copyAsync<16>(target + token * TokenBytes + i * 512, source + token * next + skipped[i] + i * 512);
  };
  if (live == Tile) {
#pragma unroll
    for (int token = 0; token < Tile; ++token)
      copyToken(token);
  } else {
#pragma unroll 1
    for (int token = 0; token < live; ++token)
      copyToken(token);
  }
}

/// Tells the other parts this one's sums of a token, one in 32 a lane from `slot` on, and adds theirs in the order of
/// the parts. `words` are the token's, `Words` of each part.
template <int Parts, int Words, int Slots, int Rounds>
HYPERJIT_DEVICE void exchangeSums(void *words, int part, int slot, int lane, float (&sum)[Rounds]) {
  unsigned long long *mine = static_cast<unsigned long long *>(words) + slot;
#pragma unroll
  for (int i = 0; i < Rounds; ++i)
    if (lane + 32 * i < Slots)
      tell(mine + part * Words + 32 * i, sum[i]);
#pragma unroll
  for (int i = 0; i < Rounds; ++i)
    if (lane + 32 * i < Slots) {
      float heard[Parts];
      const Patience patience;
      for (bool there = false; !there;) { // all of them on their way together
        there = true;
#pragma unroll
        for (int other = 0; other < Parts; ++other)
          there &= hear(mine + other * Words + 32 * i, heard[other]);
        patience.check("sums of another cluster, by words", reinterpret_cast<unsigned long long>(mine + 32 * i));
      }
      sum[i] = 0;
#pragma unroll
      for (int other = 0; other < Parts; ++other)
        sum[i] += heard[other];
    }
}

/// Before the kernel that tells: `Words` pairs of them, of each token.
template <class Ref, int Words, class L> HYPERJIT_DEVICE void clearWords(const L &launch) {
  const uint4 nothing = {0, 0, 0, 0};
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < launch.tokens * Words;
       i += static_cast<long long>(gridDim.x) * blockDim.x)
    reinterpret_cast<uint4 *>(Ref::at(launch, i / Words))[i % Words] = nothing;
}

} // namespace hyperjit

#endif
