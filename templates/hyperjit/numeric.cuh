// Storage types, conversions, vector memory access and scalar maths of the generated kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Narrowing rounds to nearest even; fp32 maths is the accurate library version (no fast-math), fp64 the built-in one.
#ifndef HYPERJIT_NUMERIC_CUH
#define HYPERJIT_NUMERIC_CUH

#include "hyperjit/device.cuh"

/// Blocks an SM that a kernel's registers must leave room for. The runtime compiles again with HYPERJIT_RELAXED where
/// that made a kernel spill.
#ifdef HYPERJIT_RELAXED
#define HYPERJIT_BLOCKS(n) 1
#else
#define HYPERJIT_BLOCKS(n) n
#endif

namespace hyperjit {

struct bfloat16 {
  unsigned short bits;
};
struct float16 {
  unsigned short bits;
};

template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };

//===-- conversions -------------------------------------------------------===//

template <class T, class S> struct Convert {
  HYPERJIT_METHOD static T to(S value) { return static_cast<T>(value); }
};
template <class T> struct Convert<T, bfloat16> {
  HYPERJIT_METHOD static T to(bfloat16 value) {
    return static_cast<T>(__uint_as_float(static_cast<unsigned>(value.bits) << 16));
  }
};
template <class T> struct Convert<T, float16> {
  HYPERJIT_METHOD static T to(float16 value) { return static_cast<T>(halfToFloat(value.bits)); }
};
template <class S> struct Convert<bfloat16, S> {
  HYPERJIT_METHOD static bfloat16 to(S value) { return {floatToBfloat(static_cast<float>(value))}; }
};
template <class S> struct Convert<float16, S> {
  HYPERJIT_METHOD static float16 to(S value) { return {floatToHalf(static_cast<float>(value))}; }
};
template <> struct Convert<bfloat16, bfloat16> {
  HYPERJIT_METHOD static bfloat16 to(bfloat16 value) { return value; }
};
template <> struct Convert<float16, float16> {
  HYPERJIT_METHOD static float16 to(float16 value) { return value; }
};

template <class T, class S> HYPERJIT_DEVICE T convert(S value) { return Convert<T, S>::to(value); }

/// The value on the grid of storage type S, still in compute precision.
template <class S, class T> HYPERJIT_DEVICE T roundTo(T value) { return convert<T>(convert<S>(value)); }

/// Two neighbours in one register, the first in the low half: one instruction where two conversions are several.
template <class S> struct Pair { static constexpr bool exists = false; };
template <> struct Pair<bfloat16> {
  static constexpr bool exists = true;
  HYPERJIT_METHOD static unsigned pack(float low, float high) { return floatsToBfloats(low, high); }
  /// Of values that are bf16 already: what a compiler sees through when they come from a pair.
  HYPERJIT_METHOD static unsigned packExact(float low, float high) {
    return (__float_as_uint(low) >> 16) | (__float_as_uint(high) & 0xffff0000u);
  }
  HYPERJIT_METHOD static float low(unsigned pair) { return __uint_as_float(pair << 16); }
  HYPERJIT_METHOD static float high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }
};
template <> struct Pair<float16> {
  static constexpr bool exists = true;
  HYPERJIT_METHOD static unsigned pack(float low, float high) { return floatsToHalves(low, high); }
  HYPERJIT_METHOD static unsigned packExact(float low, float high) { return pack(low, high); }
  HYPERJIT_METHOD static float low(unsigned pair) { return convert<float>(float16{static_cast<unsigned short>(pair)}); }
  HYPERJIT_METHOD static float high(unsigned pair) {
    return convert<float>(float16{static_cast<unsigned short>(pair >> 16)});
  }
};
HYPERJIT_DEVICE unsigned packBfloat16(float low, float high) { return Pair<bfloat16>::pack(low, high); }
/// Whether V numbers of storage S go through pairs on their way from or to T.
template <class S, class T, int V> struct InPairs {
  static constexpr bool value = Pair<S>::exists && V % 2 == 0 && Same<T, float>::value;
};

//===-- vector access -----------------------------------------------------===//

/// V consecutive elements are moved by the widest aligned words; the address is a multiple of min(16, V * sizeof(S)).
template <int Bytes> struct Words;
template <> struct Words<16> { using Type = uint4; };
template <> struct Words<8> { using Type = uint2; };
template <> struct Words<4> { using Type = unsigned; };
template <> struct Words<2> { using Type = unsigned short; };

/// `ReadOnly`: of numbers that an earlier launch wrote.
template <bool ReadOnly = false, class S, class T, int V>
HYPERJIT_DEVICE void loadVector(const S *source, T (&target)[V]) {
  constexpr int bytes = V * static_cast<int>(sizeof(S));
  constexpr int word = bytes >= 16 ? 16 : bytes;
  constexpr int words = bytes / word;
  using Word = typename Words<word>::Type;
  union {
    Word whole[words];
    S element[V];
    unsigned pair[(V + 1) / 2];
  } raw;
#pragma unroll
  for (int i = 0; i < words; ++i)
    if constexpr (ReadOnly)
      raw.whole[i] = __ldg(reinterpret_cast<const Word *>(source) + i);
    else
      raw.whole[i] = reinterpret_cast<const Word *>(source)[i];
#pragma unroll
  for (int i = 0; i < V; ++i)
    if constexpr (InPairs<S, T, V>::value)
      target[i] = i % 2 ? Pair<S>::high(raw.pair[i / 2]) : Pair<S>::low(raw.pair[i / 2]);
    else
      target[i] = convert<T>(raw.element[i]);
}

template <class W> HYPERJIT_DEVICE void storeGlobal(W *target, W v, bool exists) {
  if (exists)
    *target = v;
}

/// `Exact`: the numbers are S's already. `Global`: the target is no shared memory. It is written to if it
/// exists.
template <bool Exact = false, bool Global = false, class S, class T, int V>
HYPERJIT_DEVICE void storeVector(S *target, const T (&source)[V], bool exists = true) {
  constexpr int bytes = V * static_cast<int>(sizeof(S));
  constexpr int word = bytes >= 16 ? 16 : bytes;
  constexpr int words = bytes / word;
  using Word = typename Words<word>::Type;
  union {
    Word whole[words];
    S element[V];
    unsigned pair[(V + 1) / 2];
  } raw;
  if constexpr (InPairs<S, T, V>::value) {
#pragma unroll
    for (int i = 0; i < V; i += 2)
      raw.pair[i / 2] = Exact ? Pair<S>::packExact(source[i], source[i + 1]) : Pair<S>::pack(source[i], source[i + 1]);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i)
      raw.element[i] = convert<S>(source[i]);
  }
#pragma unroll
  for (int i = 0; i < words; ++i)
    if constexpr (Global)
      storeGlobal(reinterpret_cast<Word *>(target) + i, raw.whole[i], exists);
    else if (exists)
      reinterpret_cast<Word *>(target)[i] = raw.whole[i];
}

//===-- scalar maths ------------------------------------------------------===//

HYPERJIT_DEVICE float exponential(float x) { return expf(x); }
HYPERJIT_DEVICE double exponential(double x) { return exp(x); }
HYPERJIT_DEVICE float logarithm(float x) { return logf(x); }
HYPERJIT_DEVICE double logarithm(double x) { return log(x); }
HYPERJIT_DEVICE float hyperbolicTangent(float x) { return tanhf(x); }
HYPERJIT_DEVICE double hyperbolicTangent(double x) { return tanh(x); }
HYPERJIT_DEVICE float squareRoot(float x) { return sqrtf(x); }
HYPERJIT_DEVICE double squareRoot(double x) { return sqrt(x); }
HYPERJIT_DEVICE float inverseRoot(float x) { return rsqrtf(x); }
HYPERJIT_DEVICE double inverseRoot(double x) { return rsqrt(x); }
/// Reciprocal inside iterations: in fp32 one approximate step (1 ulp), of numbers below 2^-126 infinite, above 2^126 0.
HYPERJIT_DEVICE float fastReciprocal(float x) { return approximateReciprocal(x); }
HYPERJIT_DEVICE double fastReciprocal(double x) { return 1.0 / x; }
HYPERJIT_DEVICE float larger(float a, float b) { return a >= b || a != a ? a : b; }
HYPERJIT_DEVICE double larger(double a, double b) { return a >= b || a != a ? a : b; }

//===-- launches and memory references ------------------------------------===//
//
// `fours`: whether the numbers of every token begin where four can be moved at once. Operands and the workspace are
// aligned to 16 bytes.

/// What every kernel gets: operands in the order of the kernel's operand list, one workspace, the token count,
/// tokens a chunk and the number of chunks (the fixed split of every sum over tokens).
template <int N> struct Launch {
  void *operands[N];
  void *workspace;
  long long tokens, chunkTokens;
  int chunks;
};

/// A number that an earlier launch wrote: no store of this one is waited for.
template <class S> HYPERJIT_DEVICE S readOnly(const S *source) {
  if constexpr (Same<S, float>::value || Same<S, double>::value)
    return __ldg(source);
  else
    return *source;
}

/// The sum of count numbers, `Bytes` apart, one after the other, eight of which are on their way together.
template <class T, long long Bytes, class S> HYPERJIT_DEVICE T sumInOrder(const S *first, long long count) {
  const char *at = reinterpret_cast<const char *>(first);
  T sum = 0;
#pragma unroll 1
  for (; count > 0; count -= 8, at += 8 * Bytes) {
    T part[8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      part[i] = i < count ? static_cast<T>(readOnly(reinterpret_cast<const S *>(at + i * Bytes))) : T(0);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      sum += part[i];
  }
  return sum;
}

/// Operand I, stored as S; Stride elements a token, 0 when uniform.
template <int I, class S, long long Stride> struct Operand {
  using Storage = S;
  static constexpr long long stride = Stride;
  static constexpr bool fours = Stride % 4 == 0;
  template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long token) {
    return static_cast<S *>(launch.operands[I]) + token * Stride;
  }
  template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long token, long long index) {
    return convert<T>(readOnly(at(launch, token) + index));
  }
};

/// The workspace: `Bytes` once, then `Chunk` bytes a chunk, then `Token` bytes a token.
template <class S, long long Bytes, long long Chunk, long long Token> struct Workspace {
  template <class L> HYPERJIT_METHOD static char *base(const L &launch) {
    return static_cast<char *>(launch.workspace);
  }

  template <long long Offset> struct Fixed {
    using Storage = S;
    static constexpr bool fours = Offset % 16 == 0;
    template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long) {
      return reinterpret_cast<S *>(base(launch) + Offset);
    }
    template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long, long long index) {
      return readOnly(at(launch, 0) + index);
    }
  };
  template <long long Offset> struct PerToken {
    using Storage = S;
    static constexpr long long bytes = Token; // from one token to the next
    static constexpr bool fours = Offset % 16 == 0 && Token % 16 == 0 && Bytes % 16 == 0 && Chunk % 16 == 0;
    template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long token) {
      return reinterpret_cast<S *>(base(launch) + Bytes + Chunk * launch.chunks + Token * token + Offset);
    }
    template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long token, long long index) {
      return readOnly(at(launch, token) + index);
    }
  };
  /// Partial sums of one chunk; reading sums the chunks in order.
  template <long long Offset> struct PerChunk {
    using Storage = S;
    template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long chunk) {
      return reinterpret_cast<S *>(base(launch) + Bytes + Chunk * chunk + Offset);
    }
    template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long, long long index) {
      return sumInOrder<T, Chunk>(at(launch, 0) + index, launch.chunks);
    }
  };
};

} // namespace hyperjit

#endif
