// Weight gradients on tensor cores: dW[r, c, k] = sum over tokens of x_r[c] p[k], tokens on the k axis of mma.
// SPDX-License-Identifier: Apache-2.0
//
// A lane loads V channels of tokens g and g + 8 of a tile of 16 (lane = 4 g + q). movmatrix turns each register, an 8 x 8
// block of tokens and channels, into a fragment of A with channels as rows: fragment j holds channels (g / 2) V + 2 j +
// g % 2. B is p in two bf16 planes. Sums stay in registers for the whole chunk of tokens; chunks are added by whoever
// reads the gradient, in order.
#ifndef HYPERJIT_GRADIENTS_CUH
#define HYPERJIT_GRADIENTS_CUH

#include "hyperjit/token_sums.cuh"

namespace hyperjit {

/// tile [(r V / 4 + m) JN + j] += rows r of all groups with coefficients firstColumn + 8 j .., summed over the tile's tokens.
template <class Source, int R, int K, int JN, int XPlanes, class N, class X>
HYPERJIT_DEVICE void gradientTiles(N &lane, const X &x) {
  static_assert(N::tokens == 2, "a tile has 16 tokens");
  constexpr int V = N::V, groups = X::R / R;
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    unsigned b[JN][2][2]; // [tile][plane][token half]
#pragma unroll
    for (int j = 0; j < JN; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int k = lane.firstColumn + 8 * j + g, token = 8 * half + 2 * q;
        auto at = [&](int i) {
          return k < K && i < lane.count ? Source::ofTile(lane, i)[group * K + k] : 0.0f;
        };
        splitPair(at(token), at(token + 1), b[j][0][half], b[j][1][half]);
      }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int m = 0; m < V / 4; ++m) {
        unsigned a[XPlanes][4];
#pragma unroll
        for (int t = 0; t < 2; ++t)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const auto &v = x.v[t][group * R + r];
            if constexpr (XPlanes == 2) {
              unsigned high, low;
              splitPair(v[4 * m + 2 * i], v[4 * m + 2 * i + 1], high, low);
              a[0][2 * t + i] = transposeBlock(high);
              a[XPlanes - 1][2 * t + i] = transposeBlock(low);
            } else {
              a[0][2 * t + i] = transposeBlock(packBfloat16(v[4 * m + 2 * i], v[4 * m + 2 * i + 1]));
            }
          }
#pragma unroll
        for (int j = 0; j < JN; ++j)
#pragma unroll
          for (int xPlane = 0; xPlane < XPlanes; ++xPlane)
#pragma unroll
            for (int plane = 0; plane < 2; ++plane)
              mma16816(lane.tile[0][(r * (V / 4) + m) * JN + j], a[xPlane][0], a[xPlane][1], a[xPlane][2],
                       a[xPlane][3], b[j][plane][0], b[j][plane][1]);
      }
  }
}

/// Writes the chunk's sums to a weight [R, width, K].
template <class Ref, int R, int K, int JN, class N> HYPERJIT_DEVICE void storeTiles(N &lane, long long chunk) {
  constexpr int V = N::V;
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  auto *target = Ref::at(lane.launch, chunk);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int m = 0; m < V / 4; ++m)
#pragma unroll
      for (int j = 0; j < JN; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int c = lane.channel - q * V + g / 2 * V + 2 * (2 * m + i / 2) + g % 2, k = lane.firstColumn + 8 * j + 2 * q + i % 2;
          if (c < N::width && k < K)
            target[(static_cast<long long>(r) * N::width + c) * K + k] = lane.tile[0][(r * (V / 4) + m) * JN + j][i];
        }
}

/// One sweep of columnTiles: mma tiles a lane, columns of the weight that it sums, blocks of columns it is run for, rows it reads.
template <class Sweep_, int Tiles, int Columns, int Repeats, class... Inputs_> struct TilePass {
  using Sweep = Sweep_;
  using Inputs = List<Inputs_...>;
  static constexpr int tiles = Tiles, columns = Columns, repeats = Repeats;
  static constexpr int vectors = (0 + ... + Inputs_::rows); // of a token
};

/// A tile's records and rows on their way from memory. A slot holds records of 16 tokens, then the lanes' own vectors.
template <class S, class Records, int Size, class P, class L> struct TileFetcher {
  static constexpr int vectorBytes = 2 * S::v, recordBytes = Size > 0 ? 16 * 4 * S::record : 0;
  static constexpr int slotBytes = recordBytes + P::vectors * 2 * S::threads * vectorBytes;
  const L &launch;
  unsigned char *slots;
  int channel; // of the lane; none beyond the row
  long long end;

  HYPERJIT_METHOD unsigned char *slot(int index) const { return slots + index * slotBytes; }
  HYPERJIT_METHOD const unsigned char *rowsOf(int index) const { return slot(index) + recordBytes + threadIdx.x * vectorBytes; }
  HYPERJIT_METHOD void fetch(int index, long long first) const {
    if constexpr (Size > 0) {
      constexpr int pieces = Size / 4;
      for (int i = threadIdx.x; i < 16 * pieces; i += S::threads) {
        const int token = i / pieces, piece = i % pieces;
        const bool exists = first + token < end;
        copyOrClear<16>(sharedAddress(slot(index) + 4 * (token * S::record + 4 * piece)),
                        Records::at(launch, exists ? first + token : first) + 4 * piece, exists);
      }
    }
    fetchRows(sharedAddress(rowsOf(index)), first, typename P::Inputs());
  }
  template <class... I> HYPERJIT_METHOD void fetchRows(unsigned target, long long first, List<I...>) const {
    (fetchInput<I>(target, first), ...);
  }
  template <class I> HYPERJIT_METHOD void fetchInput(unsigned target, long long first) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const long long token = first + 8 * t + threadIdx.x % 32 / 4;
      const bool exists = token < end && channel < S::width;
      const auto *source = I::Place::Ref::at(launch, exists ? token : first) + (exists ? channel : 0);
#pragma unroll
      for (int r = 0; r < I::rows; ++r)
        copyOrClear<vectorBytes>(target + ((I::Place::index + r) * 2 + t) * S::threads * vectorBytes,
                                 source + static_cast<long long>(r) * S::width, exists);
    }
  }
};

/// As `columns`, with a warp on 4 V channels and 16 tokens at once, which come Slots - 1 tiles ahead. A lane's rows are its own; all
/// share the records. A slot is written again behind the barrier that follows its last reads. The first blocks of a chunk make its
/// `Sums`, too (TokenSums, or Nothing).
template <class S, class Uniform, class Records, int Size, int Slots, class Sums, class... Passes, class L>
HYPERJIT_DEVICE void columnTiles(const L &launch) {
  if constexpr (!IsNothing<Sums>::value)
    if (blockIdx.z == 0)
      Sums::template run<float, S::warps>(launch, blockIdx.y, blockIdx.x, gridDim.x);
  const SharedMemory<S> memory(0);
  uniformOfKernel<S, Uniform>(launch, memory);
  const long long begin = blockIdx.y * launch.chunkTokens;
  const long long end = begin + launch.chunkTokens < launch.tokens ? begin + launch.chunkTokens : launch.tokens;
  const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
  const int tiles = static_cast<int>((end - begin + 15) / 16);
  auto body = [&](auto pass, int repeat) {
    using P = decltype(pass);
    Lane<float, L, S::width, 2, S::v, 0, P::tiles> lane{launch};
    const int base = (blockIdx.x * S::warps + warp) * 4 * S::v;
    lane.channel = base + column * S::v;
    lane.active = lane.channel < S::width;
    lane.uniform = memory.uniform;
    lane.recordStride = S::record;
    lane.firstColumn = repeat * P::columns;
#pragma unroll
    for (int i = 0; i < 4 * P::tiles; ++i)
      lane.tile[0][i / 4][i % 4] = 0;
    const TileFetcher<S, Records, Size, P, L> fetcher{launch, reinterpret_cast<unsigned char *>(memory.records), lane.channel, end};
#pragma unroll
    for (int k = 0; k < Slots - 1; ++k) {
      if (k < tiles)
        fetcher.fetch(k, begin + 16 * k);
      groupCopies();
    }
    for (int k = 0; k < tiles; ++k) {
      waitForGroups<Slots - 2>();
      __syncthreads();
      if (k + Slots - 1 < tiles)
        fetcher.fetch((k + Slots - 1) % Slots, begin + 16ll * (k + Slots - 1));
      groupCopies();
      if (base < S::width) {
        const long long first = begin + 16ll * k;
        lane.records = reinterpret_cast<const float *>(fetcher.slot(k % Slots));
        lane.fetched = fetcher.rowsOf(k % Slots);
        lane.count = end - first < 16 ? static_cast<int>(end - first) : 16;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          lane.token[t] = first + 8 * t + row;
          lane.live[t] = lane.token[t] < end;
          lane.record[t] = lane.records + (8 * t + row) * S::record;
        }
        P::Sweep::run(lane);
      }
    }
    if (base < S::width)
      P::Sweep::store(lane, blockIdx.y);
  };
  int index = blockIdx.z;
  ((index >= 0 && index < Passes::repeats ? body(Passes(), index) : void(), index -= Passes::repeats), ...);
}

} // namespace hyperjit

#endif
