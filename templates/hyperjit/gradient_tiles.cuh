// Weight gradients on tensor cores: dW[r, c, k] = sum over tokens of x_r[c] p[k], tokens on the k axis of mma.
// SPDX-License-Identifier: Apache-2.0
//
// A lane loads V channels of a token of eight (lane = 4 g + q, token g). movmatrix turns each register, an 8 x 8
// block of tokens and channels, into a fragment of A with channels as rows: fragment j holds channels (g / 2) V + 2 j +
// g % 2. B is p in two bf16 planes. Sums stay in registers for a chunk of tokens (in clusterColumns, in lane.gradient
// for all tokens of a cluster, whose index is the chunk's); chunks are added by whoever reads the gradient, in order.
#ifndef HYPERJIT_GRADIENT_TILES_CUH
#define HYPERJIT_GRADIENT_TILES_CUH

#include "hyperjit/weights.cuh"

namespace hyperjit {

/// tile [(r V / 4 + m) JN + j] += rows r of all groups with coefficients firstColumn + 8 j .., summed over the tile's
/// tokens.
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
        const bool column = K % 8 == 0 ? lane.firstColumn + 8 * j < K : k < K;
        auto at = [&](int i) { // records of tokens that do not exist are zeros
          return column && (Source::ofToken || i < lane.count) ? Source::ofTile(lane, i)[group * K + k] : 0.0f;
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
              a[0][2 * t + i] = transposeBlock(packPlane<X>(v[4 * m + 2 * i], v[4 * m + 2 * i + 1]));
            }
          }
#pragma unroll
        for (int j = 0; j < JN; ++j)
#pragma unroll
          for (int xPlane = 0; xPlane < XPlanes; ++xPlane)
#pragma unroll
            for (int plane = 0; plane < 2; ++plane)
              mma16816(lane.tile[0][(r * (V / 4) + m) * JN + j], a[xPlane][0], a[xPlane][1], a[xPlane][2], a[xPlane][3],
                       b[j][plane][0], b[j][plane][1]);
      }
  }
}

/// The same from tile `At` of lane.gradient on, for the 8 tokens of a tile of clusterColumns.
template <class Source, int R, int K, int JN, int XPlanes, int At, class N, class X>
HYPERJIT_DEVICE void sweptGradient(N &lane, const X &x) {
  static_assert(N::tokens == 1, "a tile has 8 tokens");
  constexpr int V = N::V, groups = X::R / R;
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  // Records and rows of tokens that do not exist are anything.
  const bool low = __shfl_sync(0xffffffffu, lane.live[0], 8 * q),
             high = __shfl_sync(0xffffffffu, lane.live[0], 8 * q + 4);
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    unsigned b[JN][2];
#pragma unroll
    for (int j = 0; j < JN; ++j) {
      const int k = 8 * j + g;
      auto at = [&](int token, bool exists) {
        return k < K && exists ? Source::ofTile(lane, token)[group * K + k] : 0.0f;
      };
      splitPair(at(2 * q, low), at(2 * q + 1, high), b[j][0], b[j][1]);
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int m = 0; m < V / 4; ++m) {
        const auto &v = x.v[0][group * R + r];
        unsigned a[XPlanes][2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          unsigned pair[XPlanes];
          if constexpr (XPlanes == 2)
            splitPair(v[4 * m + 2 * i], v[4 * m + 2 * i + 1], pair[0], pair[1]);
          else
            pair[0] = packPlane<X>(v[4 * m + 2 * i], v[4 * m + 2 * i + 1]);
#pragma unroll
          for (int xPlane = 0; xPlane < XPlanes; ++xPlane)
            a[xPlane][i] = transposeBlock(lane.live[0] ? pair[xPlane] : 0);
        }
        // Both planes of p at once; the product of two low planes is below what planes lose.
#pragma unroll
        for (int j = 0; j < JN; ++j) {
          float(&sum)[4] = lane.gradient[At + (r * (V / 4) + m) * JN + j];
          mma16816(sum, a[0][0], a[0][1], a[0][0], a[0][1], b[j][0], b[j][1]);
          if constexpr (XPlanes == 2)
            mma1688(sum, a[XPlanes - 1][0], a[XPlanes - 1][1], b[j][0]);
        }
      }
  }
}

/// Writes a chunk's sums to a weight [R, width, K], whose columns from `firstColumn` on they are.
template <class Ref, int R, int K, int JN, class N>
HYPERJIT_DEVICE void writeTiles(N &lane, const float (*tile)[4], int firstColumn, long long chunk) {
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
          const int c = lane.channel - q * V + g / 2 * V + 2 * (2 * m + i / 2) + g % 2,
                    k = firstColumn + 8 * j + 2 * q + i % 2;
          if (c < N::width && k < K)
            target[(static_cast<long long>(r) * N::width + c) * K + k] = tile[(r * (V / 4) + m) * JN + j][i];
        }
}
template <class Ref, int R, int K, int JN, class N> HYPERJIT_DEVICE void storeTiles(N &lane, long long chunk) {
  writeTiles<Ref, R, K, JN>(lane, lane.tile[0], lane.firstColumn, chunk);
}
template <class Ref, int R, int K, int JN, int At, class N>
HYPERJIT_DEVICE void storeSweptGradient(N &lane, long long chunk) {
  writeTiles<Ref, R, K, JN>(lane, lane.gradient + At, 0, chunk);
}

} // namespace hyperjit

#endif
