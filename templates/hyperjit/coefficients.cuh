// Coefficients of one token: a few numbers in the registers of one warp, or of one lane, and the maths on them.
// SPDX-License-Identifier: Apache-2.0
//
// Element e of a value lives in lane e % Lanes, register e / Lanes, so elementwise maths is local and no array is ever
// indexed at run time.
// Lanes = 32: what moves elements reads them by shuffle (up to 32 elements) or through the warp's scratch in shared
// memory. All lanes of the warp call every function here together.
// Lanes = 1: loops are unrolled, so that what moves elements only renames registers, and lanes never wait for each
// other.
#ifndef HYPERJIT_COEFFICIENTS_CUH
#define HYPERJIT_COEFFICIENTS_CUH

#include "hyperjit/numeric.cuh"

namespace hyperjit {

template <class T_, int N_, int Lanes_ = 32> struct Coefficients {
  using T = T_;
  static constexpr int N = N_, lanes = Lanes_;
  static constexpr int registers = (N + lanes - 1) / lanes;
  T v[registers];
};

/// One warp working for one token. `record` is the token's row of numbers in shared memory that sweeps read and
/// reductions write; `scratch` belongs to the warp. It stores the token's numbers (`live`) by itself (no `room`: see
/// TokenOfWarp).
template <class T_, class L, int Lanes = 32> struct Token {
  using T = T_;
  static constexpr int lanes = Lanes;
  static constexpr int room = 0;
  static constexpr bool live = true;
  static constexpr bool earlier = true; // what it reads from memory was written by earlier launches
  const L &launch;
  long long token;
  T *record;
  T *scratch;
  int lane;
  const T *uniform = nullptr; // numbers that all tokens share, in shared memory
  T *fetched = nullptr;       // the token's numbers that were fetched ahead, the warp's own
};

/// One lane working for one token. `scratch` has this lane's numbers 32 apart: lanes of a warp hit different banks.
template <class T_, class L> struct Token<T_, L, 1> {
  using T = T_;
  static constexpr int lanes = 1, lane = 0;
  static constexpr int room = 0;
  static constexpr bool live = true;
  static constexpr bool earlier = true;
  const L &launch;
  long long token;
  T *scratch;
};
/// All lanes of a warp at once, one token each; those that are not live work for another's token and store nothing.
/// `shared` is the warp's, `Room` numbers a lane.
template <class T, class L, int Room, bool Earlier = true> struct TokenOfWarp : Token<T, L, 1> {
  static constexpr int room = Room;
  static constexpr bool earlier = Earlier;
  T *shared;
  bool live;
};

/// One lane alone, where some of what it reads was written by this launch.
template <class T, class L> struct TokenOfLaunch : Token<T, L, 1> { static constexpr bool earlier = false; };

/// How far a loop over `Count` elements is unrolled: wholly where one lane has them all.
template <class W, int Count, int Most> struct Unroll {
  static constexpr int count = W::lanes == 1 || Count <= Most ? Count : 1;
};

template <class...> struct List {};
template <int... D> struct Dims { static constexpr int rank = sizeof...(D); };

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
template <class T, int N, class W, int Lanes = W::lanes> struct Elements {
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
template <class T, int N, class W> struct Elements<T, N, W, 1> {
  const Coefficients<T, N, 1> &x;
  HYPERJIT_METHOD Elements(W &, const Coefficients<T, N, 1> &x, int = 0) : x(x) {}
  HYPERJIT_METHOD T at(int index) const { return x.v[index]; }
};

//===-- memory ------------------------------------------------------------===//

/// Leading numbers of N that one lane moves four at once.
template <class Ref, int N, class W> constexpr int inFours() {
  if constexpr (W::lanes == 1)
    return Ref::fours ? N / 4 * 4 : 0;
  return 0;
}

template <class Ref, int N, class W>
HYPERJIT_DEVICE Coefficients<typename W::T, N, W::lanes> loadCoefficients(W &warp) {
  Coefficients<typename W::T, N, W::lanes> x;
  constexpr int fours = inFours<Ref, N, W>();
#pragma unroll
  for (int j = 0; j < fours; j += 4) {
    typename W::T four[4];
    loadVector<W::earlier>(Ref::at(warp.launch, warp.token) + j, four);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      x.v[j + i] = four[i];
  }
#pragma unroll
  for (int j = fours; j < x.registers; ++j) {
    int index = warp.lane + W::lanes * j;
    if constexpr (W::earlier)
      x.v[j] = index < N ? Ref::template read<typename W::T>(warp.launch, warp.token, index) : typename W::T(0);
    else
      x.v[j] = convert<typename W::T>(Ref::at(warp.launch, warp.token)[index]);
  }
  return x;
}

template <class Ref, class T, int N, class W>
HYPERJIT_DEVICE void storeCoefficients(W &warp, const Coefficients<T, N, W::lanes> &x) {
  if (!warp.live)
    return;
  auto *target = Ref::at(warp.launch, warp.token);
  constexpr int fours = inFours<Ref, N, W>();
#pragma unroll
  for (int j = 0; j < fours; j += 4) {
    const T four[4] = {x.v[j], x.v[j + 1], x.v[j + 2], x.v[j + 3]};
    storeVector<false, true>(target + j, four);
  }
#pragma unroll
  for (int j = fours; j < x.registers; ++j)
    if (warp.lane + W::lanes * j < N)
      target[warp.lane + W::lanes * j] = convert<typename Ref::Storage>(x.v[j]);
}

/// A value's place in memory, and among the numbers that its lane leaves in shared memory; and N numbers of a token that
/// are neighbours in both.
template <class Ref_, int At> struct PlaceOf {
  using Ref = Ref_;
  static constexpr int at = At;
};
template <class Ref_, int At, int N> struct Run {
  using Ref = Ref_;
  static constexpr int at = At, unit = Ref::fours && N % 4 == 0 ? 4 : 1, pieces = N / unit;
};
template <class T, int N> HYPERJIT_DEVICE void stageCoefficients(T *target, const Coefficients<T, N, 1> &x) {
#pragma unroll
  for (int j = 0; j < N; j += 4) {
    T four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      four[i] = j + i < N ? x.v[j + i] : T(0);
    storeVector(target + j, four);
  }
}
template <int Pitch, class R, class W> HYPERJIT_DEVICE void storeRun(W &warp) {
#pragma unroll 2
  for (int j = 0; j < R::pieces; ++j) {
    const int piece = 32 * j + static_cast<int>(threadIdx.x % 32), from = piece / R::pieces,
              at = R::unit * (piece % R::pieces);
    const long long token = __shfl_sync(0xffffffffu, warp.live ? warp.token : -1, from);
    typename W::T numbers[R::unit];
    loadVector(warp.shared + Pitch * from + R::at + at, numbers);
    if (token >= 0)
      storeVector<false, true>(R::Ref::at(warp.launch, token) + at, numbers);
  }
}
/// Stores values of a warp's tokens. A lane that stores its own token's touches another line of memory than its
/// neighbours do: instead, all leave them in shared memory, `Pitch` numbers a lane, and then store pieces of one or four
/// numbers, neighbours next to each other. Without room for that lanes store their own.
template <int Pitch, class... Places, class... Runs, class W, class... X>
HYPERJIT_DEVICE void storeTogether(W &warp, List<Places...>, List<Runs...>, const X &...x) {
  static_assert(Pitch % 8 == 4, "lanes move four numbers at once, to different banks");
  if constexpr (Pitch > W::room) {
    (storeCoefficients<typename Places::Ref>(warp, x), ...);
  } else {
    __syncwarp(); // the maths is done with what was here
    (stageCoefficients(warp.shared + Pitch * static_cast<int>(threadIdx.x % 32) + Places::at, x), ...);
    __syncwarp();
    (storeRun<Pitch, Runs>(warp), ...);
    __syncwarp();
  }
}
template <int Pitch, class Places, class Runs, class W, class... X>
HYPERJIT_DEVICE void storeTogether(W &warp, const X &...x) {
  storeTogether<Pitch>(warp, Places(), Runs(), x...);
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

template <int N, class T> HYPERJIT_DEVICE Coefficients<T, N> readNumbers(const T *source, int lane) {
  Coefficients<T, N> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    x.v[j] = lane + 32 * j < N ? source[lane + 32 * j] : T(0);
  return x;
}
template <int Offset, int N, class W> HYPERJIT_DEVICE auto readUniform(W &warp) {
  return readNumbers<N>(warp.uniform + Offset, warp.lane);
}
template <int Offset, int N, class W> HYPERJIT_DEVICE auto readFetched(W &warp) {
  return readNumbers<N>(static_cast<const typename W::T *>(warp.fetched) + Offset, warp.lane);
}
template <int Offset, class T, int N, class W> HYPERJIT_DEVICE void writeFetched(W &warp, const Coefficients<T, N> &x) {
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    if (warp.lane + 32 * j < N)
      warp.fetched[Offset + warp.lane + 32 * j] = x.v[j];
}

template <int Offset, class T, int N, class W> HYPERJIT_DEVICE void writeRecord(W &warp, const Coefficients<T, N> &x) {
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    if (warp.lane + 32 * j < N)
      warp.record[Offset + warp.lane + 32 * j] = x.v[j];
}

template <int N, class W> HYPERJIT_DEVICE Coefficients<typename W::T, N, W::lanes> splat(W &, double value) {
  Coefficients<typename W::T, N, W::lanes> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    x.v[j] = static_cast<typename W::T>(value);
  return x;
}

/// Constants from a `__constant__` table of the generated text.
template <int N, class W>
HYPERJIT_DEVICE Coefficients<typename W::T, N, W::lanes> fromTable(W &warp, const double *table) {
  Coefficients<typename W::T, N, W::lanes> x;
#pragma unroll
  for (int j = 0; j < x.registers; ++j)
    x.v[j] =
        warp.lane + W::lanes * j < N ? static_cast<typename W::T>(table[warp.lane + W::lanes * j]) : typename W::T(0);
  return x;
}

//===-- elementwise -------------------------------------------------------===//

#define HYPERJIT_UNARY(name, formula)                                                                                  \
  template <class T, int N, int Lanes>                                                                                 \
  HYPERJIT_DEVICE Coefficients<T, N, Lanes> name(const Coefficients<T, N, Lanes> &a) {                                 \
    Coefficients<T, N, Lanes> r;                                                                                       \
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
  template <class T, int N, int Lanes>                                                                                 \
  HYPERJIT_DEVICE Coefficients<T, N, Lanes> name(const Coefficients<T, N, Lanes> &a,                                   \
                                                 const Coefficients<T, N, Lanes> &b) {                                 \
    Coefficients<T, N, Lanes> r;                                                                                       \
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
HYPERJIT_DEVICE auto gather(W &warp, const Coefficients<T, N, W::lanes> &x) {
  using Map = Strided<OutDims, Strides>;
  Coefficients<T, Map::size, W::lanes> r;
  Elements<T, N, W> source(warp, x);
#pragma unroll
  for (int j = 0; j < r.registers; ++j)
    r.v[j] = source.at(Offset + Map::map(warp.lane + W::lanes * j));
  return r;
}

/// Element o of the part, of which there are Outer, to target[o * Total + Base].
template <int Outer, int Total, int Base, class T, int N, class W>
HYPERJIT_DEVICE void concatenatePart(W &warp, T *target, const Coefficients<T, N, W::lanes> &x) {
  constexpr int part = N / Outer;
#pragma unroll
  for (int j = 0; j < x.registers; ++j) {
    int index = warp.lane + W::lanes * j;
    if (index < N)
      target[(index / part) * Total + Base + index % part] = x.v[j];
  }
}
template <int Outer, int Total, int Base, class T, class W> HYPERJIT_DEVICE void concatenateParts(W &, T *) {}
template <int Outer, int Total, int Base, class T, class W, class First, class... Rest>
HYPERJIT_DEVICE void concatenateParts(W &warp, T *target, const First &first, const Rest &...rest) {
  concatenatePart<Outer, Total, Base>(warp, target, first);
  concatenateParts<Outer, Total, Base + First::N / Outer>(warp, target, rest...);
}

/// Joins values whose shapes are [Outer, their own]: element o of each part goes behind element o of the one before.
template <int Outer, class W, class... Parts> HYPERJIT_DEVICE auto concatenate(W &warp, const Parts &...parts) {
  constexpr int total = (Parts::N + ...);
  Coefficients<typename W::T, total, W::lanes> r;
  if constexpr (W::lanes == 1) {
    concatenateParts<Outer, total / Outer, 0>(warp, r.v, parts...);
  } else {
    __syncwarp();
    concatenateParts<Outer, total / Outer, 0>(warp, warp.scratch, parts...);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < r.registers; ++j)
      r.v[j] = warp.lane + 32 * j < total ? warp.scratch[warp.lane + 32 * j] : typename W::T(0);
  }
  return r;
}

//===-- sums --------------------------------------------------------------===//

/// Sum over the axes (SumDims, SumStrides) for every element of (OutDims, OutStrides).
template <class OutDims, class OutStrides, class SumDims, class SumStrides, class T, int N, class W>
HYPERJIT_DEVICE auto reduceSum(W &warp, const Coefficients<T, N, W::lanes> &x) {
  using Map = Strided<OutDims, OutStrides>;
  using Inner = Strided<SumDims, SumStrides>;
  Coefficients<T, Map::size, W::lanes> r;
  Elements<T, N, W> source(warp, x);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int base = Map::map(warp.lane + W::lanes * j);
    T sum = 0;
#pragma unroll(Unroll <W, Inner::size, 32>::count)
    for (int i = 0; i < Inner::size; ++i)
      sum += source.at(base + Inner::map(i));
    r.v[j] = sum;
  }
  return r;
}

template <int M, int K, int N, class T, class W>
HYPERJIT_DEVICE Coefficients<T, M * N, W::lanes> matmul(W &warp, const Coefficients<T, M * K, W::lanes> &a,
                                                        const Coefficients<T, K * N, W::lanes> &b) {
  Coefficients<T, M * N, W::lanes> r;
  Elements<T, M * K, W> left(warp, a);
  Elements<T, K * N, W> right(warp, b, M * K);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int index = warp.lane + W::lanes * j;
    T sum = 0;
#pragma unroll(Unroll <W, K, 8>::count)
    for (int k = 0; k < K; ++k)
      sum += left.at((index / N) * K + k) * right.at(k * N + index % N);
    r.v[j] = sum;
  }
  return r;
}

/// exp(x - max) / sum over rows of Columns elements.
template <int Columns, class T, int N, class W>
HYPERJIT_DEVICE Coefficients<T, N, W::lanes> softmax(W &warp, const Coefficients<T, N, W::lanes> &x) {
  Coefficients<T, N, W::lanes> r;
  Elements<T, N, W> source(warp, x);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int row = (warp.lane + W::lanes * j) / Columns * Columns;
    T top = source.at(row);
#pragma unroll(Unroll <W, Columns, 8>::count)
    for (int k = 1; k < Columns; ++k)
      top = larger(top, source.at(row + k));
    T sum = 0;
#pragma unroll(Unroll <W, Columns, 8>::count)
    for (int k = 0; k < Columns; ++k)
      sum += exponential(source.at(row + k) - top);
    r.v[j] = exponential(x.v[j] - top) / sum;
  }
  return r;
}

/// p (dp - <p, dp>) over rows of Columns elements.
template <int Columns, class T, int N, class W>
HYPERJIT_DEVICE Coefficients<T, N, W::lanes> softmaxAdjoint(W &warp, const Coefficients<T, N, W::lanes> &p,
                                                            const Coefficients<T, N, W::lanes> &dp) {
  Coefficients<T, N, W::lanes> r;
  Coefficients<T, N, W::lanes> product = multiply(p, dp);
  Elements<T, N, W> source(warp, product);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int row = (warp.lane + W::lanes * j) / Columns * Columns;
    T sum = 0;
#pragma unroll(Unroll <W, Columns, 8>::count)
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
HYPERJIT_DEVICE Coefficients<T, N * N, W::lanes> permutationMix(W &warp, const Coefficients<T, C, W::lanes> &c) {
  Coefficients<T, N * N, W::lanes> r;
  Elements<T, C, W> source(warp, c);
#pragma unroll
  for (int j = 0; j < r.registers; ++j)
    r.v[j] = 0;
#pragma unroll(Unroll <W, C, 1>::count)
  for (int rank = 0; rank < C; ++rank) {
    unsigned images = permutation<N>(rank);
    T value = source.at(rank);
#pragma unroll
    for (int j = 0; j < r.registers; ++j) {
      int index = warp.lane + W::lanes * j;
      if (((images >> (4 * (index / N))) & 15u) == static_cast<unsigned>(index % N))
        r.v[j] += value;
    }
  }
  return r;
}

/// c_r = sum_j H[j, pi_r(j)].
template <int N, int C, class T, class W>
HYPERJIT_DEVICE Coefficients<T, C, W::lanes> permutationDot(W &warp, const Coefficients<T, N * N, W::lanes> &h) {
  Coefficients<T, C, W::lanes> r;
  Elements<T, N * N, W> source(warp, h);
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int rank = warp.lane + W::lanes * j;
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
