// Work that depends on no token, done once a call: on parameters before the tokens, on sums over tokens after them.
// SPDX-License-Identifier: Apache-2.0
//
// Wide values are expressions over (row, channel) or (row, channel, column) that are evaluated where they are stored or
// reduced, so a chain of operations is one pass over memory. Coefficients among them are read from memory.
#ifndef HYPERJIT_UNIFORM_CUH
#define HYPERJIT_UNIFORM_CUH

#include "hyperjit/row_reduced.cuh"

namespace hyperjit {

/// The launch seen by a thread of a grid that shares wide work. `Width` is the row width.
template <class T_, class L, int Width_> struct Uniform {
  using T = T_;
  static constexpr int width = Width_;
  const L &launch;
  int blocks, block; // how many share it, and which this is
};

#define HYPERJIT_ROWS_AT HYPERJIT_METHOD typename U::T at(const U &u, int r, int c) const
#define HYPERJIT_WEIGHT_AT HYPERJIT_METHOD typename U::T at(const U &u, int r, int c, int k) const

//===-- leaves ------------------------------------------------------------===//

template <class U, class Ref, int R_> struct UniformRows {
  static constexpr int R = R_;
  HYPERJIT_ROWS_AT { return Ref::template read<typename U::T>(u.launch, 0, static_cast<long long>(r) * U::width + c); }
};
template <class U, class Ref, int R_, int K_> struct UniformWeight {
  static constexpr int R = R_, K = K_;
  HYPERJIT_WEIGHT_AT {
    return Ref::template read<typename U::T>(u.launch, 0, (static_cast<long long>(r) * U::width + c) * K_ + k);
  }
};
/// Where numbers of fp32 lie as they are, [row][channel][column].
template <class U, int Operand_, int R, int K>
struct StoredWeight<UniformWeight<U, Operand<Operand_, float, 0>, R, K>> {
  static constexpr bool value = Same<typename U::T, float>::value;
  template <class L> HYPERJIT_METHOD static const float *numbers(const L &launch) {
    return Operand<Operand_, float, 0>::at(launch, 0);
  }
};
template <class Ref, int R, class U> HYPERJIT_DEVICE auto uniformRows(U &) { return UniformRows<U, Ref, R>(); }
template <class Ref, int R, int K, class U> HYPERJIT_DEVICE auto uniformWeight(U &) {
  return UniformWeight<U, Ref, R, K>();
}

/// Coefficients that are all one number, which the program knows: by the bits of a double.
template <unsigned long long Bits> struct KnownNumber {
  template <class T, class L> HYPERJIT_METHOD static T read(const L &, long long, long long) {
    return static_cast<T>(__builtin_bit_cast(double, Bits));
  }
};
template <class Ref, class U> HYPERJIT_DEVICE typename U::T number(const U &u, int index) {
  return Ref::template read<typename U::T>(u.launch, 0, index);
}

//===-- expressions over rows ---------------------------------------------===//

template <class U, class Ref, int R_, class X> struct UniformMix {
  static constexpr int R = R_;
  X x;
  HYPERJIT_ROWS_AT {
    typename U::T sum = 0;
    for (int s = 0; s < X::R; ++s)
      sum += number<Ref>(u, r * X::R + s) * x.at(u, s, c);
    return sum;
  }
};
template <class Ref, int R, class U, class X> HYPERJIT_DEVICE auto uniformMix(U &, const X &x) {
  return UniformMix<U, Ref, R, X>{x};
}

template <class U, class Ref, class X> struct UniformScaleRows {
  static constexpr int R = X::R;
  X x;
  HYPERJIT_ROWS_AT { return number<Ref>(u, r) * x.at(u, r, c); }
};
template <class Ref, class U, class X> HYPERJIT_DEVICE auto uniformScaleRows(U &, const X &x) {
  return UniformScaleRows<U, Ref, X>{x};
}

template <class U, class Ref, int R_> struct UniformFillRows {
  static constexpr int R = R_;
  HYPERJIT_ROWS_AT { return number<Ref>(u, r); }
};
template <class Ref, int R, class U> HYPERJIT_DEVICE auto uniformFillRows(U &) { return UniformFillRows<U, Ref, R>(); }

template <class U, class X, int... Indices> struct UniformGatherRows {
  static constexpr int R = sizeof...(Indices);
  X x;
  HYPERJIT_ROWS_AT {
    int source = 0, index = 0;
    ((source = index++ == r ? Indices : source), ...);
    return x.at(u, source, c);
  }
};
template <int... Indices, class U, class X> HYPERJIT_DEVICE auto uniformGatherRows(U &, const X &x) {
  return UniformGatherRows<U, X, Indices...>{x};
}

template <class U, class X, int R_, int... Indices> struct UniformScatterRows {
  static constexpr int R = R_;
  X x;
  HYPERJIT_ROWS_AT {
    typename U::T sum = 0;
    int index = 0;
    ((sum += Indices == r ? x.at(u, index, c) : typename U::T(0), ++index), ...);
    return sum;
  }
};
template <int R, int... Indices, class U, class X> HYPERJIT_DEVICE auto uniformScatterRows(U &, const X &x) {
  return UniformScatterRows<U, X, R, Indices...>{x};
}

template <class U, class S, class X> struct UniformRoundRows {
  static constexpr int R = X::R;
  X x;
  HYPERJIT_ROWS_AT { return roundTo<S>(x.at(u, r, c)); }
};
template <class S, class U, class X> HYPERJIT_DEVICE auto uniformRoundRows(U &, const X &x) {
  return UniformRoundRows<U, S, X>{x};
}

template <class U, class Ref, class W, int G> struct UniformExpand {
  static constexpr int R = G * W::R;
  W w;
  HYPERJIT_ROWS_AT {
    typename U::T sum = 0;
    for (int k = 0; k < W::K; ++k)
      sum += number<Ref>(u, r / W::R * W::K + k) * w.at(u, r % W::R, c, k);
    return sum;
  }
};
template <class Ref, int G, class U, class W> HYPERJIT_DEVICE auto uniformExpand(U &, const W &w) {
  return UniformExpand<U, Ref, W, G>{w};
}

template <class U, class A, class B> struct UniformWeightDot {
  static constexpr int R = A::R;
  A a;
  B b;
  HYPERJIT_ROWS_AT {
    typename U::T sum = 0;
    for (int k = 0; k < A::K; ++k)
      sum += a.at(u, r, c, k) * b.at(u, r, c, k);
    return sum;
  }
};
template <class U, class A, class B> HYPERJIT_DEVICE auto uniformWeightDot(U &, const A &a, const B &b) {
  return UniformWeightDot<U, A, B>{a, b};
}

template <class U, class W> struct UniformRowsFromWeight {
  static constexpr int R = W::R * W::K;
  W w;
  HYPERJIT_ROWS_AT { return w.at(u, r % W::R, c, r / W::R); }
};
template <class U, class W> HYPERJIT_DEVICE auto uniformRowsFromWeight(U &, const W &w) {
  return UniformRowsFromWeight<U, W>{w};
}

#define HYPERJIT_BINARY(Name, function, op)                                                                            \
  template <class U, class A, class B> struct Name##Rows {                                                             \
    static constexpr int R = A::R;                                                                                     \
    A a;                                                                                                               \
    B b;                                                                                                               \
    HYPERJIT_ROWS_AT { return a.at(u, r, c) op b.at(u, r, c); }                                                        \
  };                                                                                                                   \
  template <class U, class A, class B> HYPERJIT_DEVICE auto function##Rows(U &, const A &a, const B &b) {              \
    return Name##Rows<U, A, B>{a, b};                                                                                  \
  }                                                                                                                    \
  template <class U, class A, class B> struct Name##Weight {                                                           \
    static constexpr int R = A::R, K = A::K;                                                                           \
    A a;                                                                                                               \
    B b;                                                                                                               \
    HYPERJIT_WEIGHT_AT { return a.at(u, r, c, k) op b.at(u, r, c, k); }                                                \
  };                                                                                                                   \
  template <class U, class A, class B> HYPERJIT_DEVICE auto function##Weight(U &, const A &a, const B &b) {            \
    return Name##Weight<U, A, B>{a, b};                                                                                \
  }
HYPERJIT_BINARY(UniformAdd, uniformAdd, +)
HYPERJIT_BINARY(UniformSubtract, uniformSubtract, -)
HYPERJIT_BINARY(UniformMultiply, uniformMultiply, *)
#undef HYPERJIT_BINARY

//===-- expressions over weights ------------------------------------------===//

template <class U, class Ref, class X, int R_, int K_> struct UniformOuter {
  static constexpr int R = R_, K = K_;
  X x;
  HYPERJIT_WEIGHT_AT {
    typename U::T sum = 0;
    for (int g = 0; g < X::R / R; ++g)
      sum += x.at(u, g * R + r, c) * number<Ref>(u, g * K + k);
    return sum;
  }
};
template <class Ref, int R, int K, class U, class X> HYPERJIT_DEVICE auto uniformOuter(U &, const X &x) {
  return UniformOuter<U, Ref, X, R, K>{x};
}

template <class U, class W, class X> struct UniformScaleWeight {
  static constexpr int R = W::R, K = W::K;
  W w;
  X x;
  HYPERJIT_WEIGHT_AT { return w.at(u, r, c, k) * x.at(u, r, c); }
};
template <class U, class W, class X> HYPERJIT_DEVICE auto uniformScaleWeight(U &, const W &w, const X &x) {
  return UniformScaleWeight<U, W, X>{w, x};
}

template <class U, class A, class B> struct UniformConcatWeights {
  static constexpr int R = A::R, K = A::K + B::K;
  A a;
  B b;
  HYPERJIT_WEIGHT_AT { return k < A::K ? a.at(u, r, c, k) : b.at(u, r, c, k - A::K); }
};
template <class U, class A> HYPERJIT_DEVICE auto uniformConcatWeights(U &, const A &a) { return a; }
template <class U, class A, class B, class... More>
HYPERJIT_DEVICE auto uniformConcatWeights(U &u, const A &a, const B &b, const More &...more) {
  return uniformConcatWeights(u, UniformConcatWeights<U, A, B>{a, b}, more...);
}

template <class U, class W, int Offset, int K_> struct UniformSliceWeight {
  static constexpr int R = W::R, K = K_;
  W w;
  HYPERJIT_WEIGHT_AT { return w.at(u, r, c, k + Offset); }
};
template <int Offset, int K, class U, class W> HYPERJIT_DEVICE auto uniformSliceWeight(U &, const W &w) {
  return UniformSliceWeight<U, W, Offset, K>{w};
}

template <class U, class X, int R_> struct UniformWeightFromRows {
  static constexpr int R = R_, K = X::R / R_;
  X x;
  HYPERJIT_WEIGHT_AT { return x.at(u, k * R + r, c); }
};
template <int R, class U, class X> HYPERJIT_DEVICE auto uniformWeightFromRows(U &, const X &x) {
  return UniformWeightFromRows<U, X, R>{x};
}
/// Of rows of fp32 as they lie in memory, at once.
template <class U, int I, int Rows, int R>
HYPERJIT_DEVICE void fourChannels(const U &u,
                                  const UniformWeightFromRows<U, UniformRows<U, Operand<I, float, 0>, Rows>, R> &,
                                  int r, int c, int k, float (&x)[4]) {
  static_assert(U::width % 4 == 0, "fours lie at multiples of 16 bytes");
  loadVector<true>(Operand<I, float, 0>::at(u.launch, 0) + static_cast<long long>(k * R + r) * U::width + c, x);
}

//===-- ends: stores and sums over channels -------------------------------===//

template <class Ref, class U, class X> HYPERJIT_DEVICE void uniformStoreRows(U &u, const X &x) {
  auto *target = Ref::at(u.launch, 0);
  for (long long i = static_cast<long long>(u.block) * blockDim.x + threadIdx.x;
       i < static_cast<long long>(X::R) * U::width; i += static_cast<long long>(u.blocks) * blockDim.x)
    target[i] = convert<typename Ref::Storage>(x.at(u, static_cast<int>(i / U::width), static_cast<int>(i % U::width)));
}

template <class Ref, class U, class W> HYPERJIT_DEVICE void uniformStoreWeight(U &u, const W &w) {
  auto *target = Ref::at(u.launch, 0);
  constexpr long long count = static_cast<long long>(W::R) * U::width * W::K;
  for (long long i = static_cast<long long>(u.block) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<long long>(u.blocks) * blockDim.x) {
    const int k = static_cast<int>(i % W::K), c = static_cast<int>(i / W::K % U::width);
    target[i] = convert<typename Ref::Storage>(w.at(u, static_cast<int>(i / W::K / U::width), c, k));
  }
}

/// target[o] = sum over Terms of term(o, i), outputs shared by the CTAs of the grid, 256 threads summed in fixed order.
template <class Ref, int Outputs, int Terms, class U, class F> HYPERJIT_DEVICE void uniformReduce(U &u, const F &term) {
  using T = typename U::T;
  __shared__ T partial[256];
  for (int o = u.block; o < Outputs; o += u.blocks) {
    T sum = 0;
    for (int i = threadIdx.x; i < Terms; i += 256)
      sum += term(o, i);
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
      if (static_cast<int>(threadIdx.x) < half)
        partial[threadIdx.x] += partial[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0)
      Ref::at(u.launch, 0)[o] = convert<typename Ref::Storage>(partial[0]);
    __syncthreads();
  }
}

template <class Ref, class U, class A, class B> HYPERJIT_DEVICE void uniformDot(U &u, const A &a, const B &b) {
  uniformReduce<Ref, A::R * B::R, U::width>(u,
                                            [&](int o, int c) { return a.at(u, o / B::R, c) * b.at(u, o % B::R, c); });
}
template <class Ref, class U, class A, class B> HYPERJIT_DEVICE void uniformDotRows(U &u, const A &a, const B &b) {
  uniformReduce<Ref, A::R, U::width>(u, [&](int o, int c) { return a.at(u, o, c) * b.at(u, o, c); });
}
template <class Ref, class U, class X> HYPERJIT_DEVICE void uniformRowSum(U &u, const X &x) {
  uniformReduce<Ref, X::R, U::width>(u, [&](int o, int c) { return x.at(u, o, c); });
}
template <class Ref, class U, class X, class W> HYPERJIT_DEVICE void uniformProject(U &u, const X &x, const W &w) {
  uniformReduce<Ref, X::R / W::R * W::K, W::R * U::width>(u, [&](int o, int i) {
    const int r = i / U::width, c = i % U::width;
    return x.at(u, o / W::K * W::R + r, c) * w.at(u, r, c, o % W::K);
  });
}

template <class T, int Width, class Body, class L> HYPERJIT_DEVICE void uniformWide(const L &launch) {
  Uniform<T, L, Width> u{launch, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x)};
  Body::run(u);
}

/// Coefficient maths that belongs to no token, by one warp.
template <class T, class Body, class L> HYPERJIT_DEVICE void uniformNarrow(const L &launch) {
  unsigned char *memory = dynamicShared();
  Token<T, L> token{launch, 0, nullptr, reinterpret_cast<T *>(memory), static_cast<int>(threadIdx.x)};
  Body::run(token);
}

/// Both at once where neither needs the other: coefficient maths in the last block, wide work in the rest.
template <class T, int Width, class Wide, class Narrow, class L> HYPERJIT_DEVICE void uniformBoth(const L &launch) {
  if (blockIdx.x + 1 < gridDim.x) {
    Uniform<T, L, Width> u{launch, static_cast<int>(gridDim.x) - 1, static_cast<int>(blockIdx.x)};
    Wide::run(u);
  } else if (threadIdx.x < 32) {
    uniformNarrow<T, Narrow>(launch);
  }
}

/// Coefficient maths of every token beside wide work that it needs nothing of. The last `Blocks` blocks do that: the
/// maths of a token takes longer than they all together, so it begins first.
template <class T, int Width, int Blocks, class Wide, class S, class Maths, class L>
HYPERJIT_DEVICE void tokenwiseBeside(const L &launch) {
  const int first = static_cast<int>(gridDim.x) - Blocks, block = static_cast<int>(blockIdx.x) - first;
  if (block < 0) {
    tokenwise<S, Maths, Blocks>(launch);
  } else {
    Uniform<T, L, Width> u{launch, Blocks, block};
    Wide::run(u);
  }
}

#undef HYPERJIT_ROWS_AT
#undef HYPERJIT_WEIGHT_AT

} // namespace hyperjit

#endif
