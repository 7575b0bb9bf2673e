// Storage types, conversions, vector memory access and scalar maths of the generated kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Includes nothing, so that NVRTC needs neither -I nor a toolkit. Narrowing rounds to nearest even (PTX cvt.rn);
// fp32 maths is the accurate library version (no fast-math), fp64 the built-in one.
#ifndef HYPERJIT_NUMERIC_CUH
#define HYPERJIT_NUMERIC_CUH

#define HYPERJIT_DEVICE static __device__ __forceinline__
#define HYPERJIT_METHOD __device__ __forceinline__

/// Blocks an SM that a kernel's registers must leave room for. The runtime compiles again with HYPERJIT_RELAXED where that
/// made a kernel spill.
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

template <class A, class B> struct Same {
  static constexpr bool value = false;
};
template <class A> struct Same<A, A> {
  static constexpr bool value = true;
};

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
  HYPERJIT_METHOD static T to(float16 value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return static_cast<T>(result);
  }
};
template <class S> struct Convert<bfloat16, S> {
  HYPERJIT_METHOD static bfloat16 to(S value) {
    bfloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(static_cast<float>(value)));
    return result;
  }
};
template <class S> struct Convert<float16, S> {
  HYPERJIT_METHOD static float16 to(S value) {
    float16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(static_cast<float>(value)));
    return result;
  }
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

/// Two neighbours packed as bf16, the first in the low half.
HYPERJIT_DEVICE unsigned packBfloat16(float low, float high) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

//===-- vector access -----------------------------------------------------===//

/// V consecutive elements are moved by the widest aligned words; the address is a multiple of min(16, V * sizeof(S)).
template <int Bytes> struct Words;
template <> struct Words<16> {
  using Type = uint4;
};
template <> struct Words<8> {
  using Type = uint2;
};
template <> struct Words<4> {
  using Type = unsigned;
};
template <> struct Words<2> {
  using Type = unsigned short;
};

template <class S, class T, int V> HYPERJIT_DEVICE void loadVector(const S *source, T (&target)[V]) {
  constexpr int bytes = V * static_cast<int>(sizeof(S));
  constexpr int word = bytes >= 16 ? 16 : bytes;
  constexpr int words = bytes / word;
  using Word = typename Words<word>::Type;
  union {
    Word words[words];
    S element[V];
  } raw;
#pragma unroll
  for (int i = 0; i < words; ++i)
    raw.words[i] = reinterpret_cast<const Word *>(source)[i];
#pragma unroll
  for (int i = 0; i < V; ++i)
    target[i] = convert<T>(raw.element[i]);
}

template <class S, class T, int V> HYPERJIT_DEVICE void storeVector(S *target, const T (&source)[V]) {
  constexpr int bytes = V * static_cast<int>(sizeof(S));
  constexpr int word = bytes >= 16 ? 16 : bytes;
  constexpr int words = bytes / word;
  using Word = typename Words<word>::Type;
  union {
    Word words[words];
    S element[V];
  } raw;
#pragma unroll
  for (int i = 0; i < V; ++i)
    raw.element[i] = convert<S>(source[i]);
#pragma unroll
  for (int i = 0; i < words; ++i)
    reinterpret_cast<Word *>(target)[i] = raw.words[i];
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
/// Reciprocal inside iterations: one approximate step (1 ulp) in fp32.
HYPERJIT_DEVICE float fastReciprocal(float x) { return __fdividef(1.0f, x); }
HYPERJIT_DEVICE double fastReciprocal(double x) { return 1.0 / x; }
HYPERJIT_DEVICE float larger(float a, float b) { return a >= b || a != a ? a : b; }
HYPERJIT_DEVICE double larger(double a, double b) { return a >= b || a != a ? a : b; }

//===-- launches and memory references ------------------------------------===//

/// What every kernel gets: operands in the order of the kernel's operand list, one workspace, the token count,
/// tokens a chunk and the number of chunks (the fixed split of every sum over tokens).
template <int N> struct Launch {
  void *operands[N];
  void *workspace;
  long long tokens, chunkTokens;
  int chunks;
};

/// Operand I, stored as S; Stride elements a token, 0 when uniform.
template <int I, class S, long long Stride> struct Operand {
  using Storage = S;
  static constexpr long long stride = Stride;
  template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long token) {
    return static_cast<S *>(launch.operands[I]) + token * Stride;
  }
  template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long token, long long index) {
    return convert<T>(at(launch, token)[index]);
  }
};

/// The workspace: `Bytes` once, then `Chunk` bytes a chunk, then `Token` bytes a token.
template <class S, long long Bytes, long long Chunk, long long Token> struct Workspace {
  template <class L> HYPERJIT_METHOD static char *base(const L &launch) { return static_cast<char *>(launch.workspace); }

  template <long long Offset> struct Fixed {
    using Storage = S;
    template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long) {
      return reinterpret_cast<S *>(base(launch) + Offset);
    }
    template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long, long long index) {
      return at(launch, 0)[index];
    }
  };
  template <long long Offset> struct PerToken {
    using Storage = S;
    template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long token) {
      return reinterpret_cast<S *>(base(launch) + Bytes + Chunk * launch.chunks + Token * token + Offset);
    }
    template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long token, long long index) {
      return at(launch, token)[index];
    }
  };
  /// Partial sums of one chunk; reading sums the chunks in order.
  template <long long Offset> struct PerChunk {
    using Storage = S;
    template <class L> HYPERJIT_METHOD static S *at(const L &launch, long long chunk) {
      return reinterpret_cast<S *>(base(launch) + Bytes + Chunk * chunk + Offset);
    }
    template <class T, class L> HYPERJIT_METHOD static T read(const L &launch, long long, long long index) {
      T sum = 0;
#pragma unroll 4
      for (int chunk = 0; chunk < launch.chunks; ++chunk)
        sum += at(launch, chunk)[index];
      return sum;
    }
  };
};

} // namespace hyperjit

#endif
