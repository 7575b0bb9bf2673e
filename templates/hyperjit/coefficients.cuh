// Coefficients of one token: a few numbers spread over the 32 lanes of one warp, and the maths on them.
// SPDX-License-Identifier: Apache-2.0
//
// Element e of a value lives in lane e % 32, register e / 32, so elementwise maths is local and no array is ever
// indexed at run time. What moves elements reads them by shuffle (up to 32 elements) or through the warp's scratch in
// shared memory. All lanes of the warp call every function here together.
#ifndef HYPERJIT_COEFFICIENTS_CUH
#define HYPERJIT_COEFFICIENTS_CUH

#include "hyperjit/numeric.cuh"

namespace hyperjit {

template <class T_, int N_> struct Coefficients {
  using T = T_;
  static constexpr int N = N_;
  static constexpr int registers = (N + 31) / 32;
  T v[registers];
};

/// One warp working for one token. `record` is the token's row of numbers in shared memory that sweeps read and
/// reductions write; `scratch` belongs to the warp.
template <class T_, class L> struct Token {
  using T = T_;
  const L &launch;
  long long token;
  T *record;
  T *scratch;
  int lane;
};

template <int... D> struct Dims {
  static constexpr int rank = sizeof...(D);
};

/// sum over axes of (index decomposed by Dims) * stride
template <class D, class S> struct Strided;
template <> struct Strided<Dims<>, Dims<>> {
  static constexpr int size = 1;
  HYPERJIT_METHOD static int map(int) { return 0; }
};
template <int D0, int... D, int S0, int... S> struct Strided<Dims<D0, D...>, Dims<S0, S...>> {
  using Rest = Strided<Dims<D...>, Dims<S...>>;
  static constexpr int size = D0 * Rest::size;
  HYPERJIT_METHOD static int map(int index) {
    if constexpr (D0 == 1)
      return Rest::map(index);
    else
      return (index / Rest::size) * S0 + Rest::map(index % Rest::size);
  }
};

/// Random access to a value's elements by all lanes at once.
template <class T, int N, class W> struct Elements {
  W &warp;
  T own;
  HYPERJIT_METHOD Elements(W &warp, const Coefficients<T, N> &x, int base = 0) : warp(warp), own(x.v[0]) {
    if constexpr (N > 32) {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < x.registers; ++j)
        if (warp.lane + 32 * j < N)
          warp.scratch[base + warp.lane + 32 * j] = x.v[j];
      __syncwarp();
    }
    offset = base;
  }
  HYPERJIT_METHOD T at(int index) const {
    if constexpr (N > 32)
      return warp.scratch[offset + (index < N ? index : 0)];
    else
      return __shfl_sync(0xffffffffu, own, index);
  }
  int offset;
};

//===-- memory ------------------------------------------------------------===//

template <class Ref, int N, class W> HYPERJIT_DEVICE Coefficients<typename W::T, N> loadCoefficients(W &warp) {
  Coefficients<typename W::T, N> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j) {
    int index = warp.lane + 32 * j;
    x.v[j] = index < N ? Ref::template read<typename W::T>(warp.launch, warp.token, index) : typename W::T(0);
  }
  return x;
}

template <class Ref, class T, int N, class W>
HYPERJIT_DEVICE void storeCoefficients(W &warp, const Coefficients<T, N> &x) {
  auto *target = Ref::at(warp.launch, warp.token);
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    if (warp.lane + 32 * j < N)
      target[warp.lane + 32 * j] = convert<typename Ref::Storage>(x.v[j]);
}

template <int Offset, int N, class W> HYPERJIT_DEVICE Coefficients<typename W::T, N> readRecord(W &warp) {
  __syncwarp();
  Coefficients<typename W::T, N> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j) {
    int index = warp.lane + 32 * j;
    x.v[j] = index < N ? warp.record[Offset + index] : typename W::T(0);
  }
  return x;
}

template <int Offset, class T, int N, class W>
HYPERJIT_DEVICE void writeRecord(W &warp, const Coefficients<T, N> &x) {
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    if (warp.lane + 32 * j < N)
      warp.record[Offset + warp.lane + 32 * j] = x.v[j];
}

template <int N, class W> HYPERJIT_DEVICE Coefficients<typename W::T, N> splat(W &, double value) {
  Coefficients<typename W::T, N> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    x.v[j] = static_cast<typename W::T>(value);
  return x;
}

/// Constants from a `__constant__` table of the generated text.
template <int N, class W> HYPERJIT_DEVICE Coefficients<typename W::T, N> fromTable(W &warp, const double *table) {
  Coefficients<typename W::T, N> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    x.v[j] = warp.lane + 32 * j < N ? static_cast<typename W::T>(table[warp.lane + 32 * j]) : typename W::T(0);
  return x;
}

//===-- elementwise -------------------------------------------------------===//

#define HYPERJIT_UNARY(name, formula)                                                                                  \
  template <class T, int N> HYPERJIT_DEVICE Coefficients<T, N> name(const Coefficients<T, N> &a) {                     \
    Coefficients<T, N> r;                                                                                              \
    _Pragma("unroll") for (int j = 0; j < r.registers; ++j) {                                                          \
      T x = a.v[j];                                                                                                    \
      r.v[j] = formula;                                                                                                \
    }                                                                                                                  \
    return r;                                                                                                          \
  }
HYPERJIT_UNARY(negate, -x)
HYPERJIT_UNARY(exponential, exponential(x))
HYPERJIT_UNARY(logarithm, logarithm(x))
HYPERJIT_UNARY(hyperbolicTangent, hyperbolicTangent(x))
HYPERJIT_UNARY(sigmoid, T(1) / (T(1) + exponential(-x)))
HYPERJIT_UNARY(squareRoot, squareRoot(x))
HYPERJIT_UNARY(inverseRoot, inverseRoot(x))
HYPERJIT_UNARY(reciprocal, T(1) / x)
HYPERJIT_UNARY(heaviside, x >= T(0) ? T(1) : T(0))
#undef HYPERJIT_UNARY

#define HYPERJIT_BINARY(name, formula)                                                                                 \
  template <class T, int N>                                                                                            \
  HYPERJIT_DEVICE Coefficients<T, N> name(const Coefficients<T, N> &a, const Coefficients<T, N> &b) {                  \
    Coefficients<T, N> r;                                                                                              \
    _Pragma("unroll") for (int j = 0; j < r.registers; ++j) {                                                          \
      T x = a.v[j], y = b.v[j];                                                                                        \
      r.v[j] = formula;                                                                                                \
    }                                                                                                                  \
    return r;                                                                                                          \
  }
HYPERJIT_BINARY(add, x + y)
HYPERJIT_BINARY(subtract, x - y)
HYPERJIT_BINARY(multiply, x *y)
HYPERJIT_BINARY(divide, x / y)
HYPERJIT_BINARY(maximum, larger(x, y))
#undef HYPERJIT_BINARY

//===-- rearrangement -----------------------------------------------------===//

/// out[e] = x[Offset + sum of e's indices (by OutDims) times Strides]: slice, transpose and broadcast.
template <int Offset, class OutDims, class Strides, class T, int N, class W>
HYPERJIT_DEVICE auto gather(W &warp, const Coefficients<T, N> &x) {
  using Map = Strided<OutDims, Strides>;
  Coefficients<T, Map::size> r;
  Elements<T, N, W> source(warp, x);
#pragma unroll
  for (int j = 0; j < r.registers; ++j)
    r.v[j] = source.at(Offset + Map::map(warp.lane + 32 * j));
  return r;
}

template <int Inner, int Total, int Base, class T, int N, class W>
HYPERJIT_DEVICE void concatenatePart(W &warp, const Coefficients<T, N> &x, int outer) {
  const int part = N / outer;
#pragma unroll
  for (int j = 0; j < x.registers; ++j) {
    int index = warp.lane + 32 * j;
    if (index < N)
      warp.scratch[(index / part) * Total + Base + index % part] = x.v[j];
  }
}
template <int Outer, int Total, int Base, class W> HYPERJIT_DEVICE void concatenateParts(W &) {}
template <int Outer, int Total, int Base, class W, class First, class... Rest>
HYPERJIT_DEVICE void concatenateParts(W &warp, const First &first, const Rest &...rest) {
  concatenatePart<1, Total, Base>(warp, first, Outer);
  concatenateParts<Outer, Total, Base + First::N / Outer>(warp, rest...);
}

/// Joins values whose shapes are [Outer, their own]: element o of each part goes behind element o of the one before.
template <int Outer, class W, class... Parts> HYPERJIT_DEVICE auto concatenate(W &warp, const Parts &...parts) {
  constexpr int total = (Parts::N + ...);
  __syncwarp();
  concatenateParts<Outer, total / Outer, 0>(warp, parts...);
  __syncwarp();
  Coefficients<typename W::T, total> r;
#pragma unroll
  for (int j = 0; j < r.registers; ++j)
    r.v[j] = warp.lane + 32 * j < total ? warp.scratch[warp.lane + 32 * j] : typename W::T(0);
  return r;
}

//===-- sums --------------------------------------------------------------===//

/// Sum over the axes (SumDims, SumStrides) for every element of (OutDims, OutStrides).
template <class OutDims, class OutStrides, class SumDims, class SumStrides, class T, int N, class W>
HYPERJIT_DEVICE auto reduceSum(W &warp, const Coefficients<T, N> &x) {
  using Map = Strided<OutDims, OutStrides>;
  using Inner = Strided<SumDims, SumStrides>;
  Coefficients<T, Map::size> r;
  Elements<T, N, W> source(warp, x);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int base = Map::map(warp.lane + 32 * j);
    T sum = 0;
#pragma unroll(Inner::size <= 32 ? Inner::size : 1)
    for (int i = 0; i < Inner::size; ++i)
      sum += source.at(base + Inner::map(i));
    r.v[j] = sum;
  }
  return r;
}

template <int M, int K, int N, class T, class W>
HYPERJIT_DEVICE Coefficients<T, M * N> matmul(W &warp, const Coefficients<T, M * K> &a, const Coefficients<T, K * N> &b) {
  Coefficients<T, M * N> r;
  Elements<T, M * K, W> left(warp, a);
  Elements<T, K * N, W> right(warp, b, M * K);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int index = warp.lane + 32 * j;
    T sum = 0;
#pragma unroll(K <= 8 ? K : 1)
    for (int k = 0; k < K; ++k)
      sum += left.at((index / N) * K + k) * right.at(k * N + index % N);
    r.v[j] = sum;
  }
  return r;
}

/// exp(x - max) / sum over rows of Columns elements.
template <int Columns, class T, int N, class W>
HYPERJIT_DEVICE Coefficients<T, N> softmax(W &warp, const Coefficients<T, N> &x) {
  Coefficients<T, N> r;
  Elements<T, N, W> source(warp, x);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int row = (warp.lane + 32 * j) / Columns * Columns;
    T top = source.at(row);
#pragma unroll(Columns <= 8 ? Columns : 1)
    for (int k = 1; k < Columns; ++k)
      top = larger(top, source.at(row + k));
    T sum = 0;
#pragma unroll(Columns <= 8 ? Columns : 1)
    for (int k = 0; k < Columns; ++k)
      sum += exponential(source.at(row + k) - top);
    r.v[j] = exponential(x.v[j] - top) / sum;
  }
  return r;
}

/// p (dp - <p, dp>) over rows of Columns elements.
template <int Columns, class T, int N, class W>
HYPERJIT_DEVICE Coefficients<T, N> softmaxAdjoint(W &warp, const Coefficients<T, N> &p, const Coefficients<T, N> &dp) {
  Coefficients<T, N> r;
  Coefficients<T, N> product = multiply(p, dp);
  Elements<T, N, W> source(warp, product);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int row = (warp.lane + 32 * j) / Columns * Columns;
    T sum = 0;
#pragma unroll(Columns <= 8 ? Columns : 1)
    for (int k = 0; k < Columns; ++k)
      sum += source.at(row + k);
    r.v[j] = p.v[j] * (dp.v[j] - sum);
  }
  return r;
}

//===-- permutations ------------------------------------------------------===//

/// The images pi_r(0), pi_r(1), ... of the r-th permutation in lexicographic order, four bits each.
template <int N> HYPERJIT_DEVICE unsigned permutation(int rank) {
  unsigned left = (1u << N) - 1, packed = 0;
  int block = 1;
#pragma unroll
  for (int i = 2; i < N; ++i)
    block *= i;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    int digit = rank / block;
    rank %= block;
    if (j < N - 1 && N - 1 - j > 0)
      block /= N - 1 - j;
    int image = 0, seen = -1;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      seen += (left >> k) & 1;
      if (((left >> k) & 1) && seen == digit)
        image = k;
    }
    left &= ~(1u << image);
    packed |= static_cast<unsigned>(image) << (4 * j);
  }
  return packed;
}

/// H[j, pi_r(j)] = sum of c_r.
template <int N, class T, int C, class W>
HYPERJIT_DEVICE Coefficients<T, N * N> permutationMix(W &warp, const Coefficients<T, C> &c) {
  Coefficients<T, N * N> r;
  Elements<T, C, W> source(warp, c);
#pragma unroll
  for (int j = 0; j < r.registers; ++j)
    r.v[j] = 0;
#pragma unroll 1
  for (int rank = 0; rank < C; ++rank) {
    unsigned images = permutation<N>(rank);
    T value = source.at(rank);
#pragma unroll
    for (int j = 0; j < r.registers; ++j) {
      int index = warp.lane + 32 * j;
      if (((images >> (4 * (index / N))) & 15u) == static_cast<unsigned>(index % N))
        r.v[j] += value;
    }
  }
  return r;
}

/// c_r = sum_j H[j, pi_r(j)].
template <int N, int C, class T, class W>
HYPERJIT_DEVICE Coefficients<T, C> permutationDot(W &warp, const Coefficients<T, N * N> &h) {
  Coefficients<T, C> r;
  Elements<T, N * N, W> source(warp, h);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int rank = warp.lane + 32 * j;
    unsigned images = permutation<N>(rank < C ? rank : 0);
    T sum = 0;
#pragma unroll
    for (int i = 0; i < N; ++i)
      sum += source.at(i * N + ((images >> (4 * i)) & 15u));
    r.v[j] = sum;
  }
  return r;
}

} // namespace hyperjit

#endif
