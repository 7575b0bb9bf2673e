// Projections on tensor cores: weights packed as bf16 planes in the order of mma fragments (by packing.cuh).
// SPDX-License-Identifier: Apache-2.0
//
// fp32-grade: W = hi + lo in bf16 (16 bits), accumulated in fp32. Rows are one plane (bf16) or two (fp16, fp32,
// sums). A warp works for 8 tokens a register (lane = 4 g + q: token g) and owns 4 V channels, of which
// lane q owns V q .. V q + V - 1: the registers of a vector load are the fragments, nothing is moved.
//
// project: D[coefficient, token] = A[coefficient, channel] B[channel, token]. Rows 0-7 of A are hi, rows 8-15 lo of the
// same 8 coefficients, so both sums land in one lane. Channels are permuted in k: 2q+e is channel Vq+4h+e, 2q+8+e is
// Vq+4h+2+e of k-step h.
// expand: D[token, channel] = A[token, coefficient] B[coefficient, channel]. Rows 0-7 of A are hi, rows 8-15 lo of p.
// Column 2q+e of mma j is channel Vq+2j+e, so results land in the lane that owns them.
#ifndef HYPERJIT_WEIGHTS_CUH
#define HYPERJIT_WEIGHTS_CUH

#include "hyperjit/rows.cuh"

namespace hyperjit {

/// Two floats as packed bf16 and what the packing lost, packed.
HYPERJIT_DEVICE void splitPair(float x, float y, unsigned &high, unsigned &low) {
  high = packBfloat16(x, y);
  low = packBfloat16(x - __uint_as_float(high << 16), y - __uint_as_float(high & 0xffff0000u));
}

/// Two numbers of rows X as packed bf16.
template <class X> HYPERJIT_DEVICE unsigned packPlane(float x, float y) {
  return Same<typename X::Exact, bfloat16>::value ? Pair<bfloat16>::packExact(x, y) : packBfloat16(x, y);
}

/// Fragments for `project`: uint4 [row][chunk of 4 V channels][k-step][8 coefficients][lane].
template <class Ref_, int R_, int K_, int Width, int V> struct ProjectionPlanes {
  using Ref = Ref_;
  static constexpr int R = R_, K = K_, tiles = (K_ + 7) / 8, steps = V / 4, chunks = (Width + 4 * V - 1) / (4 * V);
  static constexpr int chunkBytes = 512 * steps * tiles;
  static constexpr long long count = 1ll * R * chunks * steps * tiles * 32;
};
/// A CTA's chunks of such fragments, `Offset` bytes into what is staged in shared memory.
template <class P, int Offset, int Chunks> struct StagedPlanes : P {
  static constexpr int offset = Offset, stagedBytes = P::R * Chunks * P::chunkBytes;
};
/// The fragments of the lane's first row and chunk, and how many chunks are between rows.
template <class P> struct PlanesPlace {
  template <class N> HYPERJIT_METHOD static const char *at(const N &lane, int chunk, int bytes) {
    return reinterpret_cast<const char *>(P::Ref::at(lane.launch, 0)) + static_cast<long long>(chunk) * bytes;
  }
  static constexpr long long chunks = P::chunks;
};
template <class P, int Offset, int Chunks> struct PlanesPlace<StagedPlanes<P, Offset, Chunks>> {
  template <class N> HYPERJIT_METHOD static const char *at(const N &lane, int, int bytes) {
    return reinterpret_cast<const char *>(lane.weights) + Offset + lane.local / (4 * N::V) * bytes;
  }
  static constexpr long long chunks = Chunks;
};

/// The fragments of one chunk, `Offset` bytes into its place in shared memory, through which they pass.
template <class P, int Offset> struct PassingPlanes : P { static constexpr int offset = Offset; };
template <class P, int Offset> struct PlanesPlace<PassingPlanes<P, Offset>> {
  template <class N> HYPERJIT_METHOD static const char *at(const N &lane, int, int) {
    return reinterpret_cast<const char *>(lane.weights) + Offset;
  }
  static constexpr long long chunks = 1;
};

/// Fragments for `expand`: words [row][chunk][V / 2 / blocks][k-steps of 16: lane, 4][k-step of 8: lane, 2]. A lane's
/// words are both planes of one block of channels, or, where products are rounded to bf16 anyway, hi of two blocks.
template <class Ref_, int R_, int K_, int Width, int V, int Planes> struct ExpansionPlanes {
  using Ref = Ref_;
  static constexpr int R = R_, K = K_, chunks = (Width + 4 * V - 1) / (4 * V), blocks = 2 / Planes;
  static constexpr int steps = K % 16 > 8 || K % 16 == 0 ? (K + 15) / 16 : K / 16; // of 16 coefficients
  static constexpr int tail = K > 16 * steps ? 1 : 0;                              // of 8
  static constexpr int words = 128 * steps + 64 * tail, chunkBytes = 2 * V / blocks * words;
  static constexpr long long count = 1ll * R * chunks * (V / 2 / blocks) * 32;
};

//===-- use, in sweeps ----------------------------------------------------===//

/// A copy for another place among the registers of an mma. One that the assembler sees through is made again for each
/// mma.
template <class N> HYPERJIT_DEVICE unsigned ownCopy(const N &lane, unsigned word) {
  return word ^ static_cast<unsigned>(lane.launch.tokens >> 62); // there are no 2^62 tokens
}

/// tile [Tile + (g - G0) JN + j] += the products of row groups G0 .. G0 + GN - 1 with coefficients 8 (J0 + j) ..
template <int Tile, class P, int G0, int GN, int J0, int JN, int XPlanes, class N, class X>
HYPERJIT_DEVICE void projectTiles(N &lane, const X &x) {
  constexpr int V = N::V;
  const int self = threadIdx.x % 32;
  using Place = PlanesPlace<P>;
  const uint4 *fragments =
      reinterpret_cast<const uint4 *>(Place::at(lane, lane.channel / (4 * V), P::chunkBytes)) + J0 * 32 + self;
#pragma unroll
  for (int r = 0; r < P::R; ++r)
#pragma unroll
    for (int h = 0; h < P::steps; ++h) {
      unsigned b[N::tokens][GN][XPlanes][2];
#pragma unroll
      for (int t = 0; t < N::tokens; ++t)
#pragma unroll
        for (int g = 0; g < GN; ++g) {
          const auto &v = x.v[t][(G0 + g) * P::R + r];
          if constexpr (XPlanes == 2) {
            splitPair(v[4 * h], v[4 * h + 1], b[t][g][0][0], b[t][g][1][0]);
            splitPair(v[4 * h + 2], v[4 * h + 3], b[t][g][0][1], b[t][g][1][1]);
          } else {
            b[t][g][0][0] = packPlane<X>(v[4 * h], v[4 * h + 1]);
            b[t][g][0][1] = packPlane<X>(v[4 * h + 2], v[4 * h + 3]);
          }
        }
#pragma unroll
      for (int j = 0; j < JN; ++j) {
        const uint4 a = fragments[((r * Place::chunks * P::steps + h) * P::tiles + j) * 32];
#pragma unroll
        for (int t = 0; t < N::tokens; ++t)
#pragma unroll
          for (int g = 0; g < GN; ++g)
#pragma unroll
            for (int plane = 0; plane < XPlanes; ++plane)
              mma16816(lane.tile[t][Tile + g * JN + j], a.x, a.y, a.z, a.w, b[t][g][plane][0], b[t][g][plane][1]);
      }
    }
}

/// Two numbers of rows that are all of one type of 16 bits, and the product of tiles of them, which is exact.
template <class X> HYPERJIT_DEVICE unsigned packExactly(float x, float y) {
  return Pair<typename X::Exact>::packExact(x, y);
}
template <class X>
HYPERJIT_DEVICE void multiplyExactly(float (&sums)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                     unsigned b1) {
  if constexpr (Same<typename X::Exact, bfloat16>::value)
    mma16816(sums, a0, a1, a2, a3, b0, b1);
  else
    mma16816Half(sums, a0, a1, a2, a3, b0, b1);
}
/// Dots of such rows: products of 8 tokens with 8 tokens, of which the diagonal counts. Rows 0-7 of A are the left
/// operand of an even slot, rows 8-15 that of the odd one after it.
template <int Slot, int I, int J, class N, class A, class B>
HYPERJIT_DEVICE void square(N &lane, int t, const A &a, const B &b) {
  static_assert(Same<typename A::Exact, typename B::Exact>::value, "rows of two types");
#pragma unroll
  for (int h = 0; h < N::V / 4; ++h) {
    const auto &x = a.v[t][I], &y = b.v[t][J];
    const unsigned x0 = packExactly<A>(x[4 * h], x[4 * h + 1]), x1 = packExactly<A>(x[4 * h + 2], x[4 * h + 3]);
    const unsigned y0 = packExactly<B>(y[4 * h], y[4 * h + 1]), y1 = packExactly<B>(y[4 * h + 2], y[4 * h + 3]);
    if constexpr (Slot % 2 == 0)
      multiplyExactly<A>(lane.square[t][Slot / 2], x0, 0, x1, 0, y0, y1);
    else
      multiplyExactly<A>(lane.square[t][Slot / 2], 0, x0, 0, x1, y0, y1);
  }
}
/// Two of them with one right operand, at an even slot.
template <int Slot, int I, int J, class N, class A, class B>
HYPERJIT_DEVICE void squarePair(N &lane, int t, const A &a, const B &b) {
  static_assert(Same<typename A::Exact, typename B::Exact>::value, "rows of two types");
#pragma unroll
  for (int h = 0; h < N::V / 4; ++h) {
    const auto &x = a.v[t][I], &z = a.v[t][I + 1], &y = b.v[t][J];
    multiplyExactly<A>(lane.square[t][Slot / 2], packExactly<A>(x[4 * h], x[4 * h + 1]),
                       packExactly<A>(z[4 * h], z[4 * h + 1]), packExactly<A>(x[4 * h + 2], x[4 * h + 3]),
                       packExactly<A>(z[4 * h + 2], z[4 * h + 3]), packExactly<B>(y[4 * h], y[4 * h + 1]),
                       packExactly<B>(y[4 * h + 2], y[4 * h + 3]));
  }
}
/// slots [Slot + i S + j] += <a_{I0+i}, b_j> for i < IN. The product is symmetric: with several b, they are the pairs.
template <int Slot, int I0, int IN, int I = 0, int J = 0, class N, class A, class B>
HYPERJIT_DEVICE void dotSquares(N &lane, const A &a, const B &b) {
  constexpr int slot = Slot + I * B::R + J;
  constexpr bool along = B::R > 1 && slot % 2 == 0 && J + 1 < B::R; // b_j and b_{j+1}
  constexpr bool across = B::R == 1 && slot % 2 == 0 && I + 1 < IN; // a_i and a_{i+1}
#pragma unroll
  for (int t = 0; t < N::tokens; ++t) {
    if constexpr (along)
      squarePair<slot, J, I0 + I>(lane, t, b, a);
    else if constexpr (across)
      squarePair<slot, I0 + I, 0>(lane, t, a, b);
    else
      square<slot, I0 + I, J>(lane, t, a, b);
  }
  constexpr int next = I * B::R + J + (along || across ? 2 : 1);
  if constexpr (next < IN * B::R)
    dotSquares<Slot, I0, IN, next / B::R, next % B::R>(lane, a, b);
}
/// Dots of rows I and I + 1 with their own right operands, at an even slot: two products, of each of which one half
/// counts, take fewer registers moved than two with zeros.
template <int Slot, int I, class N, class A, class B>
HYPERJIT_DEVICE void squareRows(N &lane, int t, const A &a, const B &b) {
  static_assert(Same<typename A::Exact, typename B::Exact>::value, "rows of two types");
  float products[2][4] = {};
#pragma unroll
  for (int h = 0; h < N::V / 4; ++h) {
    const auto &x = a.v[t][I], &z = a.v[t][I + 1];
    const unsigned x0 = ownCopy(lane, packExactly<A>(x[4 * h], x[4 * h + 1])),
                   x1 = ownCopy(lane, packExactly<A>(x[4 * h + 2], x[4 * h + 3]));
    const unsigned z0 = ownCopy(lane, packExactly<A>(z[4 * h], z[4 * h + 1])),
                   z1 = ownCopy(lane, packExactly<A>(z[4 * h + 2], z[4 * h + 3]));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto &y = b.v[t][I + i];
      multiplyExactly<A>(products[i], x0, z0, x1, z1, packExactly<B>(y[4 * h], y[4 * h + 1]),
                         packExactly<B>(y[4 * h + 2], y[4 * h + 3]));
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    lane.square[t][Slot / 2][i] += products[i / 2][i];
}
/// slots [Slot + i] += <a_{I0+i}, b_{I0+i}>
template <int Slot, int I0, int IN, int I = 0, class N, class A, class B>
HYPERJIT_DEVICE void dotRowsSquares(N &lane, const A &a, const B &b) {
  constexpr bool both = (Slot + I) % 2 == 0 && I + 1 < IN;
#pragma unroll
  for (int t = 0; t < N::tokens; ++t)
    if constexpr (both)
      squareRows<Slot + I, I0 + I>(lane, t, a, b);
    else
      square<Slot + I, I0 + I, I0 + I>(lane, t, a, b);
  if constexpr (I + (both ? 2 : 1) < IN)
    dotRowsSquares<Slot, I0, IN, I + (both ? 2 : 1)>(lane, a, b);
}

/// out_{gR+r}[c] = sum_k p[g, k] W[r, c, k] + what is in `summands`, of which there are at most two: the tiles begin
/// with one above the coefficients' upper planes and one above their lower planes.
template <class Source, class P, int G, class N, class... Summands>
HYPERJIT_DEVICE auto expandTiles(N &lane, const Summands &...summands) {
  constexpr int V = N::V, blocks = V / 2;
  constexpr bool onePlane = P::blocks == 2;
  // Fragments of many coefficients are made for each row anew, for all its blocks of channels together: held, they
  // spill.
  constexpr bool held = P::steps <= 2;
  constexpr int together = held ? P::blocks : blocks;
  typename N::template RowsOf<G * P::R> out;
  const int self = threadIdx.x % 32, q = self % 4;
  auto at = [&](int t, int g, int k) { return k < P::K ? Source::at(lane, t)[g * P::K + k] : 0.0f; };
  auto fragment = [&](int t, int g, int step, unsigned(&f)[4]) {
    const int k = 16 * step + 2 * q;
    splitPair(at(t, g, k), at(t, g, k + 1), f[0], f[1]);
    splitPair(at(t, g, k + 8), at(t, g, k + 9), f[2], f[3]);
  };
  // Twice, for both planes of W: copies of their own, too. These are two a tile, so a shuffle costs little; ownCopy
  // made the order of four channels a lane worse (an H200, D=2560: 315 us instead of 308).
  auto tailFragment = [&](int t, int g, unsigned(&f)[4]) {
    splitPair(at(t, g, 16 * P::steps + 2 * q), at(t, g, 16 * P::steps + 2 * q + 1), f[0], f[1]);
    if constexpr (!onePlane) {
      f[2] = __shfl_sync(0xffffffffu, f[0], self);
      f[3] = __shfl_sync(0xffffffffu, f[1], self);
    }
  };
  unsigned a[N::tokens][G][held && P::steps > 0 ? P::steps : 1][4], tail[N::tokens][G][4];
  if constexpr (held) {
#pragma unroll
    for (int t = 0; t < N::tokens; ++t)
#pragma unroll
      for (int g = 0; g < G; ++g) {
#pragma unroll
        for (int step = 0; step < P::steps; ++step)
          fragment(t, g, step, a[t][g][step]);
        if constexpr (P::tail)
          tailFragment(t, g, tail[t][g]);
      }
  }
  using Place = PlanesPlace<P>;
  const unsigned *words = reinterpret_cast<const unsigned *>(Place::at(lane, lane.channel / (4 * V), P::chunkBytes));
#pragma unroll
  for (int r = 0; r < P::R; ++r) {
    if constexpr (P::R > 4)
      orderReads();
#pragma unroll
    for (int first = 0; first < blocks; first += together) {
      float sum[together][N::tokens][G][4];
#pragma unroll
      for (int j = 0; j < together; ++j)
#pragma unroll
        for (int t = 0; t < N::tokens; ++t)
#pragma unroll
          for (int g = 0; g < G; ++g)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              sum[j][t][g][i] = 0;
      int half = 0;
      auto beginWith = [&](const auto &rows) {
#pragma unroll
        for (int j = 0; j < together; ++j)
#pragma unroll
          for (int t = 0; t < N::tokens; ++t)
#pragma unroll
            for (int g = 0; g < G; ++g)
#pragma unroll
              for (int i = 0; i < 2; ++i)
                sum[j][t][g][half + i] = rows.v[t][g * P::R + r][2 * (first + j) + i];
        half += 2;
      };
      (beginWith(summands), ...);
      // Of one block of channels, or two.
      auto block = [&](int j) { return words + (r * Place::chunks * blocks + first + j) / P::blocks * P::words; };
      // Of sixteen streams there are up to 72 steps for each of 32 rows: written out, minutes of compiling.
#pragma unroll(P::steps <= 8 ? 8 : 2)
      for (int step = 0; step < P::steps; ++step) {
        if constexpr (!held)
#pragma unroll
          for (int t = 0; t < N::tokens; ++t)
#pragma unroll
            for (int g = 0; g < G; ++g)
              fragment(t, g, step, a[t][g][0]);
#pragma unroll
        for (int j = 0; j < together; j += P::blocks) {
          const uint4 b = *reinterpret_cast<const uint4 *>(block(j) + 128 * step + 4 * self);
#pragma unroll
          for (int t = 0; t < N::tokens; ++t)
#pragma unroll
            for (int g = 0; g < G; ++g) {
              const unsigned(&f)[4] = a[t][g][held ? step : 0];
              mma16816(sum[j][t][g], f[0], f[1], f[2], f[3], b.x, b.y);
              mma16816(sum[j + P::blocks - 1][t][g], f[0], f[1], f[2], f[3], b.z, b.w);
            }
        }
      }
      if constexpr (P::tail) {
        if constexpr (!held)
#pragma unroll
          for (int t = 0; t < N::tokens; ++t)
#pragma unroll
            for (int g = 0; g < G; ++g)
              tailFragment(t, g, tail[t][g]);
#pragma unroll
        for (int j = 0; j < together; j += P::blocks) {
          const uint2 b = *reinterpret_cast<const uint2 *>(block(j) + 128 * P::steps + 2 * self);
#pragma unroll
          for (int t = 0; t < N::tokens; ++t)
#pragma unroll
            for (int g = 0; g < G; ++g) {
              const unsigned(&f)[4] = tail[t][g];
              if constexpr (onePlane) {
                mma1688(sum[j][t][g], f[0], f[1], b.x);
                mma1688(sum[j + 1][t][g], f[0], f[1], b.y);
              } else {
                mma16816(sum[j][t][g], f[0], f[1], f[2], f[3], b.x, b.y); // both planes of W at once
              }
            }
        }
      }
#pragma unroll
      for (int j = 0; j < together; ++j)
#pragma unroll
        for (int t = 0; t < N::tokens; ++t)
#pragma unroll
          for (int g = 0; g < G; ++g) {
            auto &row = out.v[t][g * P::R + r];
            row[2 * (first + j)] = sum[j][t][g][0] + sum[j][t][g][2];
            row[2 * (first + j) + 1] = sum[j][t][g][1] + sum[j][t][g][3];
          }
    }
  }
  return out;
}

} // namespace hyperjit

#endif
