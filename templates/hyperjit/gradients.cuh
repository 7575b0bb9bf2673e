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

/// One sweep of columnTiles: mma tiles a lane, columns of the weight that it sums, blocks of columns it is run for.
template <class Sweep_, int Tiles, int Columns, int Repeats> struct TilePass {
  using Sweep = Sweep_;
  static constexpr int tiles = Tiles, columns = Columns, repeats = Repeats;
};

/// As `columns`, with a warp on 4 V channels and 16 tokens at once. S::tokens tokens (a multiple of 16) are staged together.
template <class S, class Uniform, class Records, int Size, class... Passes, class L>
HYPERJIT_DEVICE void columnTiles(const L &launch) {
  const SharedMemory<S> memory(0);
  uniformOfKernel<S, Uniform>(launch, memory);
  const long long begin = blockIdx.y * launch.chunkTokens;
  const long long end = begin + launch.chunkTokens < launch.tokens ? begin + launch.chunkTokens : launch.tokens;
  const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
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
    for (long long first = begin; first < end; first += S::tokens) {
      const int count = end - first < S::tokens ? static_cast<int>(end - first) : S::tokens;
      if constexpr (Size > 0) {
        __syncthreads();
        copyRecords<S, Records, Size>(launch, memory, first, count, (count + 15) / 16 * 16);
        __syncthreads();
      }
      if (base < S::width) {
#pragma unroll 1
        for (int tile = 0; tile < count; tile += 16) {
          lane.records = memory.records + tile * S::record;
          lane.count = count - tile < 16 ? count - tile : 16;
#pragma unroll
          for (int t = 0; t < 2; ++t) {
            lane.token[t] = first + tile + 8 * t + row;
            lane.live[t] = lane.token[t] < end;
            lane.record[t] = lane.records + (8 * t + row) * S::record;
          }
          P::Sweep::run(lane);
        }
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
