// Rows of a few neighbouring channels in registers, and the maps and reductions over channels that sweeps are made of.
// SPDX-License-Identifier: Apache-2.0
//
// A lane owns V neighbouring channels of all rows of `Tokens` tokens. Maps are local. Reductions add into the lane's
// slots; the skeleton sums slots over lanes and warps in a fixed order. Every loop is unrolled and every index known
// when compiling, so nothing here needs local memory.
#ifndef HYPERJIT_ROWS_CUH
#define HYPERJIT_ROWS_CUH

#include "hyperjit/numeric.cuh"

namespace hyperjit {

/// `Exact`: a storage type that holds the numbers as they are, or void.
template <class T_, int Tokens_, int R_, int V_, class Exact_ = void> struct Rows {
  using T = T_;
  using Exact = Exact_;
  static constexpr int R = R_;
  T v[Tokens_][R_][V_];
};

/// Rings of rows that a lane of clusterColumns reads, at most.
constexpr int mostRings = 4;

template <class T_, class L, int Width_, int Tokens_, int V_, int Slots_, int Tiles_ = 0, int Squares_ = 0>
struct Lane {
  using T = T_;
  static constexpr int width = Width_, tokens = Tokens_, V = V_, slots = Slots_, tiles = Tiles_, squares = Squares_;
  template <int R, class Exact = void> using RowsOf = Rows<T, Tokens_, R, V_, Exact>;
  const L &launch;
  long long token[Tokens_];
  bool live[Tokens_];       // the token exists; rows of others read as zero and are not stored
  const T *record[Tokens_]; // the token's numbers in shared memory, 16-byte aligned
  const T *uniform;         // numbers that all tokens share, in shared memory
  int channel;              // first of V
  bool active;              // channel < width
  // Cluster columns: the token's staged rows by ring and the barrier of their slot, staged weights, rows held in
  // registers, first of V in the CTA's channels.
  unsigned char *staged[mostRings][Tokens_];
  unsigned empty[mostRings];
  const unsigned char *weights;
  unsigned *held;
  int local;
  float (*gradient)[4]; // sums of weight gradients, for the whole kernel
  const T *records;     // weight gradients: records of the tile's tokens, `recordStride` apart; `count` tokens exist
  int recordStride, count;
  int firstColumn;              // weight gradients: of the columns that this lane sums
  const unsigned char *fetched; // weight gradients: the lane's rows in shared memory
  T slot[Tokens_][Slots_ > 0 ? Slots_ : 1];
  float tile[Tokens_][Tiles_ > 0 ? Tiles_ : 1][4];                // accumulators of mma, weights.cuh
  float square[Tokens_][(Squares_ + 1) / 2 + (Squares_ == 0)][4]; // the same, for two dots each, on their diagonals
};

/// Where a map finds its coefficients.
template <int Offset> struct InRecord {
  template <class N> HYPERJIT_METHOD static const typename N::T *at(const N &lane, int t) {
    return lane.record[t] + Offset;
  }
  template <class N> HYPERJIT_METHOD static const typename N::T *ofTile(const N &lane, int i) {
    return lane.records + i * lane.recordStride + Offset;
  }
  static constexpr bool ofToken = true, aligned = Offset % 4 == 0;
};
template <int Offset> struct InUniform {
  template <class N> HYPERJIT_METHOD static const typename N::T *at(const N &lane, int) {
    return lane.uniform + Offset;
  }
  template <class N> HYPERJIT_METHOD static const typename N::T *ofTile(const N &lane, int) {
    return lane.uniform + Offset;
  }
  static constexpr bool ofToken = false, aligned = Offset % 4 == 0;
};

template <bool Aligned, int N, class T> HYPERJIT_DEVICE void readShared(const T *source, T (&target)[N]) {
  if constexpr (Aligned && N % 4 == 0 && sizeof(T) == 4) {
    loadVector(source, target);
  } else if constexpr (Aligned && N > 4 && sizeof(T) == 4) {
    constexpr int whole = N / 4 * 4;
    T head[whole];
    loadVector(source, head);
#pragma unroll
    for (int i = 0; i < N; ++i)
      target[i] = i < whole ? head[i < whole ? i : 0] : source[i];
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      target[i] = source[i];
  }
}

#define HYPERJIT_EACH(rows)                                                                                            \
  _Pragma("unroll") for (int t = 0; t < N::tokens; ++t) _Pragma("unroll") for (int r = 0; r < (rows); ++r)             \
      _Pragma("unroll") for (int v = 0; v < N::V; ++v)

//===-- memory ------------------------------------------------------------===//

/// Rows of a token in its slot of a ring in shared memory, `Channels` of each from `Offset` bytes on; stored, they go
/// to `Ref` too.
template <class Ref_, int Ring, int Offset, int Channels> struct Staged {
  using Ref = Ref_;
  using Storage = typename Ref_::Storage;
  static constexpr int offset = Offset;
};
/// Where a lane's rows begin, and how far one is from the next.
template <class Ref> struct RowPlace {
  using Storage = typename Ref::Storage;
  static constexpr bool staged = false;
  template <class N> HYPERJIT_METHOD static auto *at(const N &lane, int t) {
    return Ref::at(lane.launch, lane.token[t]) + lane.channel;
  }
  template <class N> HYPERJIT_METHOD static constexpr long long stride() { return N::width; }
};
template <class Ref, int Ring, int Offset, int Channels> struct RowPlace<Staged<Ref, Ring, Offset, Channels>> {
  using Storage = typename Ref::Storage;
  static constexpr bool staged = true;
  using Global = RowPlace<Ref>;
  template <class N> HYPERJIT_METHOD static auto *at(const N &lane, int t) {
    return reinterpret_cast<typename Ref::Storage *>(lane.staged[Ring][t] + Offset) + lane.local;
  }
  template <class N> HYPERJIT_METHOD static constexpr long long stride() { return Channels; }
};

/// Rows of 16 tokens in shared memory, from row `Index` of the slot on; a row of the next token is `Stride` numbers
/// away.
template <class Ref_, int Index, int Stride> struct Fetched {
  using Ref = Ref_;
  using Storage = typename Ref_::Storage;
  static constexpr int index = Index;
};
template <class Ref, int Index, int Stride> struct RowPlace<Fetched<Ref, Index, Stride>> {
  using Storage = typename Ref::Storage;
  static constexpr bool staged = true; // numbers of tokens that do not exist are zeros there
  template <class N> HYPERJIT_METHOD static auto *at(const N &lane, int t) {
    return reinterpret_cast<const Storage *>(lane.fetched) + (Index * 16 + 8 * t) * Stride;
  }
  template <class N> HYPERJIT_METHOD static constexpr long long stride() { return 16 * Stride; }
};

/// Rows that a lane holds from one stage to the next, as pairs, `Word` words into lane.held; stored, they go to `Ref`
/// too.
template <class Ref_, int Word> struct Held {
  using Ref = Ref_;
  using Storage = typename Ref_::Storage;
};
/// Rows that have no place in memory.
template <class S> struct Rounded { using Storage = S; };
template <class Ref> struct IsHeld { static constexpr bool value = false; };
template <class Ref_, int Word> struct IsHeld<Held<Ref_, Word>> {
  using Ref = Ref_;
  static constexpr bool value = true;
  static constexpr int word = Word;
};

template <class Place, class N, class X> HYPERJIT_DEVICE void holdRows(N &lane, const X &x) {
  using P = Pair<typename Place::Storage>;
  int word = IsHeld<Place>::word;
  HYPERJIT_EACH(X::R) if (v % 2 == 0) lane.held[word++] = P::packExact(x.v[t][r][v], x.v[t][r][v + 1]);
}

template <class Ref, int R, class N> HYPERJIT_DEVICE auto loadRows(N &lane) {
  typename N::template RowsOf<R, typename Ref::Storage> x;
  if constexpr (IsHeld<Ref>::value) {
    using P = Pair<typename Ref::Storage>;
    int word = IsHeld<Ref>::word;
    HYPERJIT_EACH(R) if (v % 2 == 0) {
      const unsigned pair = lane.held[word++];
      x.v[t][r][v] = P::low(pair);
      x.v[t][r][v + 1] = P::high(pair);
    }
  } else {
    using Place = RowPlace<Ref>;
#pragma unroll
    for (int t = 0; t < N::tokens; ++t) {
      const auto *source = Place::at(lane, t);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        // Numbers of a slot without a token stay among their own.
        if (Place::staged || (lane.active && lane.live[t]))
          loadVector(source + r * Place::template stride<N>(), x.v[t][r]);
        else
#pragma unroll
          for (int v = 0; v < N::V; ++v)
            x.v[t][r][v] = 0;
      }
    }
  }
  return x;
}

template <class Place, class N, class X> HYPERJIT_DEVICE void storeRowsAt(N &lane, const X &x) {
  constexpr bool exact = Same<typename X::Exact, typename Place::Storage>::value;
  // More rows would all be worked out before any is stored, and spill. Short words are left to the compiler but in
  // clusterColumns (where dots are squares): static's backward takes 103 registers instead of 96, and has a block a
  // processor less.
  constexpr bool whole = N::V * sizeof(typename Place::Storage) >= 16,
                 few = N::tokens * X::R * N::V <= 32 && (whole || N::squares > 0);
#pragma unroll
  for (int t = 0; t < N::tokens; ++t) {
    auto *target = Place::at(lane, t);
    const bool exists = lane.active && lane.live[t];
#pragma unroll
    for (int r = 0; r < X::R; ++r)
      if constexpr (!Place::staged && few)
        storeVector<exact, true>(target + r * Place::template stride<N>(), x.v[t][r], exists);
      else if (exists)
        storeVector<exact, !Place::staged && whole>(target + r * Place::template stride<N>(), x.v[t][r]);
  }
}
template <class Ref, class N, class X> HYPERJIT_DEVICE void storeRows(N &lane, const X &x) {
  if constexpr (IsHeld<Ref>::value) {
    holdRows<Ref>(lane, x);
    storeRowsAt<RowPlace<typename IsHeld<Ref>::Ref>>(lane, x);
  } else {
    storeRowsAt<RowPlace<Ref>>(lane, x);
    if constexpr (RowPlace<Ref>::staged)
      storeRowsAt<typename RowPlace<Ref>::Global>(lane, x);
  }
}

//===-- maps --------------------------------------------------------------===//

/// out_i = sum_j c[i, j] x_j
template <class Source, int R, class N, class X> HYPERJIT_DEVICE auto mix(N &lane, const X &x) {
  typename N::template RowsOf<R> out;
#pragma unroll
  for (int t = 0; t < N::tokens; ++t) {
    const typename N::T *source = Source::at(lane, t);
    constexpr int block = R * X::R <= 16 ? R : 1; // rows of coefficients read at once
#pragma unroll
    for (int r0 = 0; r0 < R; r0 += block) {
      typename N::T c[block * X::R];
      if constexpr (X::R > 4 && block == 1)
        orderReads();
      readShared<Source::aligned && (block == R || X::R % 4 == 0)>(source + r0 * X::R, c);
#pragma unroll
      for (int r = 0; r < block; ++r)
#pragma unroll
        for (int v = 0; v < N::V; ++v) {
          typename N::T sum = c[r * X::R] * x.v[t][0][v];
#pragma unroll
          for (int s = 1; s < X::R; ++s)
            sum += c[r * X::R + s] * x.v[t][s][v];
          out.v[t][r0 + r][v] = sum;
        }
    }
  }
  return out;
}

/// out_i = c[i] x_i
template <class Source, class N, class X> HYPERJIT_DEVICE auto scaleRows(N &lane, const X &x) {
  typename N::template RowsOf<X::R> out;
#pragma unroll
  for (int t = 0; t < N::tokens; ++t) {
    typename N::T c[X::R];
    readShared<Source::aligned>(Source::at(lane, t), c);
#pragma unroll
    for (int r = 0; r < X::R; ++r)
#pragma unroll
      for (int v = 0; v < N::V; ++v)
        out.v[t][r][v] = c[r] * x.v[t][r][v];
  }
  return out;
}

/// out_i = c[i] in every channel
template <class Source, int R, class N> HYPERJIT_DEVICE auto fillRows(N &lane) {
  typename N::template RowsOf<R> out;
#pragma unroll
  for (int t = 0; t < N::tokens; ++t) {
    typename N::T c[R];
    readShared<Source::aligned>(Source::at(lane, t), c);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int v = 0; v < N::V; ++v)
        out.v[t][r][v] = lane.active ? c[r] : typename N::T(0);
  }
  return out;
}

/// out_i = x_{indices[i]}
template <int... Indices, class N, class X> HYPERJIT_DEVICE auto gatherRows(N &lane, const X &x) {
  typename N::template RowsOf<sizeof...(Indices), typename X::Exact> out;
  constexpr int indices[] = {Indices...};
  HYPERJIT_EACH(static_cast<int>(sizeof...(Indices))) out.v[t][r][v] = x.v[t][indices[r]][v];
  return out;
}

/// out_j = sum of x_i over indices[i] = j
template <int R, int... Indices, class N, class X> HYPERJIT_DEVICE auto scatterRows(N &lane, const X &x) {
  typename N::template RowsOf<R> out;
  constexpr int indices[] = {Indices...};
  HYPERJIT_EACH(R) {
    typename N::T sum = 0;
#pragma unroll
    for (int i = 0; i < X::R; ++i)
      if (indices[i] == r)
        sum += x.v[t][i][v];
    out.v[t][r][v] = sum;
  }
  return out;
}

template <class S, class N, class X> HYPERJIT_DEVICE auto roundRows(N &lane, const X &x) {
  typename N::template RowsOf<X::R, S> out;
  if constexpr (Same<typename X::Exact, S>::value) {
    HYPERJIT_EACH(X::R) out.v[t][r][v] = x.v[t][r][v];
  } else if constexpr (InPairs<S, typename N::T, N::V>::value) {
    HYPERJIT_EACH(X::R) {
      if (v % 2)
        continue;
      const unsigned pair = Pair<S>::pack(x.v[t][r][v], x.v[t][r][v + 1 < N::V ? v + 1 : v]);
      out.v[t][r][v] = Pair<S>::low(pair);
      out.v[t][r][v + 1 < N::V ? v + 1 : v] = Pair<S>::high(pair);
    }
  } else {
    HYPERJIT_EACH(X::R) out.v[t][r][v] = roundTo<S>(x.v[t][r][v]);
  }
  return out;
}

#define HYPERJIT_BINARY(name, op)                                                                                      \
  template <class T, int K, int R, int V, class A, class B>                                                            \
  HYPERJIT_DEVICE Rows<T, K, R, V> name(const Rows<T, K, R, V, A> &a, const Rows<T, K, R, V, B> &b) {                  \
    Rows<T, K, R, V> out;                                                                                              \
    _Pragma("unroll") for (int t = 0; t < K; ++t) _Pragma("unroll") for (int r = 0; r < R; ++r)                        \
        _Pragma("unroll") for (int v = 0; v < V; ++v) out.v[t][r][v] = a.v[t][r][v] op b.v[t][r][v];                   \
    return out;                                                                                                        \
  }
HYPERJIT_BINARY(add, +)
HYPERJIT_BINARY(subtract, -)
HYPERJIT_BINARY(multiply, *)
#undef HYPERJIT_BINARY

//===-- projections with weights as stored --------------------------------===//

/// A weight [R, width, K] in memory, row-major. Every lane reads its own channels' columns.
template <class Ref_, int R_, int K_> struct PlainWeight {
  using Ref = Ref_;
  static constexpr int R = R_, K = K_;
};

/// Columns are read in groups of up to four.
template <int K, int K0, int KN> struct ColumnGroup {
  static constexpr int size = (K % 4 == 0 && K0 % 4 == 0 && KN % 4 == 0)   ? 4
                              : (K % 2 == 0 && K0 % 2 == 0 && KN % 2 == 0) ? 2
                                                                           : 1;
};

/// slots [Slot + g KN + k] += sum over r, c of x_{gR+r}[c] W[r, c, K0 + k], for k < KN and groups G0 .. G0 + GN - 1
template <int Slot, class Weight, int G0, int GN, int K0, int KN, class N, class X>
HYPERJIT_DEVICE void project(N &lane, const X &x) {
  if (!lane.active)
    return;
  constexpr int group = ColumnGroup<Weight::K, K0, KN>::size;
  const auto *weight = Weight::Ref::at(lane.launch, 0);
#pragma unroll
  for (int r = 0; r < Weight::R; ++r)
#pragma unroll
    for (int v = 0; v < N::V; ++v) {
      const auto *column = weight + (static_cast<long long>(r) * N::width + lane.channel + v) * Weight::K + K0;
      orderReads();
#pragma unroll
      for (int k = 0; k < KN; k += group) {
        typename N::T w[group];
        loadVector(column + k, w);
#pragma unroll
        for (int t = 0; t < N::tokens; ++t)
#pragma unroll
          for (int g = 0; g < GN; ++g)
#pragma unroll
            for (int i = 0; i < group; ++i)
              lane.slot[t][Slot + g * KN + k + i] += x.v[t][(G0 + g) * Weight::R + r][v] * w[i];
      }
    }
}

/// out_{gR+r}[c] = sum_k p[g, k] W[r, c, k]
template <class Source, class Weight, int G, class N> HYPERJIT_DEVICE auto expand(N &lane) {
  typename N::template RowsOf<G * Weight::R> out;
  HYPERJIT_EACH(G * Weight::R) out.v[t][r][v] = 0;
  if (!lane.active)
    return out;
  constexpr int group = ColumnGroup<Weight::K, 0, Weight::K>::size;
  const auto *weight = Weight::Ref::at(lane.launch, 0);
#pragma unroll 1
  for (int k = 0; k < Weight::K; k += group) {
    typename N::T p[N::tokens][G][group];
#pragma unroll
    for (int t = 0; t < N::tokens; ++t)
#pragma unroll
      for (int g = 0; g < G; ++g)
        readShared<Source::aligned && group == 4>(Source::at(lane, t) + g * Weight::K + k, p[t][g]);
#pragma unroll
    for (int r = 0; r < Weight::R; ++r)
#pragma unroll
      for (int v = 0; v < N::V; ++v) {
        typename N::T w[group];
        loadVector(weight + (static_cast<long long>(r) * N::width + lane.channel + v) * Weight::K + k, w);
#pragma unroll
        for (int t = 0; t < N::tokens; ++t)
#pragma unroll
          for (int g = 0; g < G; ++g)
#pragma unroll
            for (int i = 0; i < group; ++i)
              out.v[t][g * Weight::R + r][v] += p[t][g][i] * w[i];
      }
  }
  return out;
}

//===-- reductions over channels ------------------------------------------===//

/// slots [Slot + i S + j] += <a_{I0+i}, b_j> for i < IN
template <int Slot, int I0, int IN, class N, class A, class B>
HYPERJIT_DEVICE void dot(N &lane, const A &a, const B &b) {
#pragma unroll
  for (int t = 0; t < N::tokens; ++t)
#pragma unroll
    for (int i = 0; i < IN; ++i)
#pragma unroll
      for (int j = 0; j < B::R; ++j)
#pragma unroll
        for (int v = 0; v < N::V; ++v)
          lane.slot[t][Slot + i * B::R + j] += a.v[t][I0 + i][v] * b.v[t][j][v];
}

/// slots [Slot + i] += <a_{I0+i}, b_{I0+i}>
template <int Slot, int I0, int IN, class N, class A, class B>
HYPERJIT_DEVICE void dotRows(N &lane, const A &a, const B &b) {
#pragma unroll
  for (int t = 0; t < N::tokens; ++t)
#pragma unroll
    for (int i = 0; i < IN; ++i)
#pragma unroll
      for (int v = 0; v < N::V; ++v)
        lane.slot[t][Slot + i] += a.v[t][I0 + i][v] * b.v[t][I0 + i][v];
}

/// slots [Slot + i] += sum over channels of x_{I0+i}
template <int Slot, int I0, int IN, class N, class X> HYPERJIT_DEVICE void rowSum(N &lane, const X &x) {
#pragma unroll
  for (int t = 0; t < N::tokens; ++t)
#pragma unroll
    for (int i = 0; i < IN; ++i)
#pragma unroll
      for (int v = 0; v < N::V; ++v)
        lane.slot[t][Slot + i] += x.v[t][I0 + i][v];
}

//===-- sums over tokens, one lane per channel ----------------------------===//

/// slots [(r KN + k) V + v] += sum over groups of x_{gR+r}[v] p[g, first + k], with first = lane.firstColumn
template <class Source, int R, int K, int KN, class N, class X>
HYPERJIT_DEVICE void weightGradient(N &lane, const X &x) {
  constexpr int groups = X::R / R;
#pragma unroll
  for (int g = 0; g < groups; ++g) {
    const typename N::T *source = Source::at(lane, 0) + g * K + lane.firstColumn;
    typename N::T p[KN];
#pragma unroll
    for (int k = 0; k < KN; ++k)
      p[k] = K % KN == 0 || lane.firstColumn + k < K ? source[k] : typename N::T(0);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int k = 0; k < KN; ++k)
#pragma unroll
        for (int v = 0; v < N::V; ++v)
          lane.slot[0][(r * KN + k) * N::V + v] += x.v[0][g * R + r][v] * p[k];
  }
}

/// Writes them to a weight [R, width, K].
template <class Ref, int R, int K, int KN, class N> HYPERJIT_DEVICE void storeGradient(N &lane, long long chunk) {
  auto *target = Ref::at(lane.launch, chunk);
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int v = 0; v < N::V; ++v)
#pragma unroll
      for (int k = 0; k < KN; ++k)
        if (K % KN == 0 || lane.firstColumn + k < K)
          target[(static_cast<long long>(r) * N::width + lane.channel + v) * K + lane.firstColumn + k] =
              lane.slot[0][(r * KN + k) * N::V + v];
}

/// slots [i V + v] += x_{I0+i}[v]
template <int I0, int IN, class N, class X> HYPERJIT_DEVICE void rowsSum(N &lane, const X &x) {
#pragma unroll
  for (int i = 0; i < IN; ++i)
#pragma unroll
    for (int v = 0; v < N::V; ++v)
      lane.slot[0][i * N::V + v] += x.v[0][I0 + i][v];
}

/// Writes them to rows I0 .. I0 + IN - 1.
template <class Ref, int I0, int IN, class N> HYPERJIT_DEVICE void storeRowSums(N &lane, long long chunk) {
  auto *target = Ref::at(lane.launch, chunk);
#pragma unroll
  for (int i = 0; i < IN; ++i)
#pragma unroll
    for (int v = 0; v < N::V; ++v)
      target[static_cast<long long>(I0 + i) * N::width + lane.channel + v] = lane.slot[0][i * N::V + v];
}

#undef HYPERJIT_EACH

} // namespace hyperjit

#endif
