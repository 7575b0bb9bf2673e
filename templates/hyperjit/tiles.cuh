// What the skeletons share: shape of a kernel, tiles of tokens, stages, and reductions over a tile.
// SPDX-License-Identifier: Apache-2.0
//
// A kernel processes tiles of TokenLanes * Tokens tokens with Warps warps. Lane l of a warp works for token
// l / (32 / TokenLanes) and owns V channels; warps own different channels. Stage by stage: one warp a token does the
// coefficient maths on the token's record in shared memory; then all warps sweep over the channels.
#ifndef HYPERJIT_TILES_CUH
#define HYPERJIT_TILES_CUH

#include "hyperjit/coefficients.cuh"
#include "hyperjit/rows.cuh"

namespace hyperjit {

/// Record: numbers a token keeps in shared memory, = 4 mod 8 so that the tokens of a warp hit different banks.
template <class T_, int Width, int Warps, int TokenLanes, int Tokens, int V, int Record, int Uniform, int Scratch>
struct Shape {
  using T = T_;
  static constexpr int width = Width, warps = Warps, tokenLanes = TokenLanes, tokens = Tokens, v = V, record = Record,
                       uniform = Uniform, scratch = Scratch;
  static constexpr int threads = 32 * Warps;
  static constexpr int tile = TokenLanes * Tokens;       // tokens a tile
  static constexpr int channelLanes = 32 / TokenLanes;   // lanes that share a token
  static constexpr int chunk = channelLanes * V;         // channels a warp covers at once
};

/// Numbers [Slot, Slot + Count) of a sweep become record entries [Record, Record + Count).
template <int Slot, int Count, int Record> struct Segment {
  static constexpr int slot = Slot, count = Count, record = Record;
};

/// One sweep over the channels.
template <class Sweep_, class... Segments> struct Pass {
  using Sweep = Sweep_;
  static constexpr int slots = (0 + ... + Segments::count);
  HYPERJIT_METHOD static int record(int slot) {
    int result = 0;
    ((slot >= Segments::slot && slot < Segments::slot + Segments::count ? result = Segments::record + slot - Segments::slot
                                                                        : 0),
     ...);
    return result;
  }
};

/// Coefficient maths, then sweeps.
template <class Coefficients_, class... Passes> struct Stage {
  using Coefficients = Coefficients_;
  static constexpr int maxSlots = 0;
};

struct Nothing {
  static constexpr bool empty = true;
  template <class C> HYPERJIT_METHOD static void run(C &) {}
};

template <class A> struct IsNothing {
  static constexpr bool value = Same<A, Nothing>::value;
};

/// The regions of a CTA's shared memory, in numbers of type T: uniform, records, partials, scratch.
template <class S> struct SharedMemory {
  using T = typename S::T;
  T *uniform, *records, *partials, *scratch;
  HYPERJIT_METHOD SharedMemory(int partialCount) {
    extern __shared__ __align__(16) unsigned char memory[];
    uniform = reinterpret_cast<T *>(memory);
    records = uniform + (S::uniform + 3) / 4 * 4;
    partials = records + S::tile * S::record;
    scratch = partials + (partialCount + 3) / 4 * 4;
  }
};

/// Coefficient maths of every token of the tile, one warp a token.
template <class S, class Maths, class L>
HYPERJIT_DEVICE void coefficientsOfTile(const L &launch, const SharedMemory<S> &memory, long long first) {
  if constexpr (!IsNothing<Maths>::value) {
    const int warp = threadIdx.x / 32;
    Token<typename S::T, L> token{launch, 0, nullptr, memory.scratch + warp * S::scratch, static_cast<int>(threadIdx.x % 32)};
#pragma unroll 1
    for (int i = warp; i < S::tile; i += S::warps) {
      token.token = first + i;
      token.record = memory.records + i * S::record;
      if (token.token < launch.tokens)
        Maths::run(token);
    }
    __syncthreads();
  }
}

/// Numbers shared by all tokens, copied once a CTA.
template <class S, class Maths, class L> HYPERJIT_DEVICE void uniformOfKernel(const L &launch, const SharedMemory<S> &memory) {
  if constexpr (!IsNothing<Maths>::value) {
    if (threadIdx.x < 32) {
      Token<typename S::T, L> token{launch, 0, memory.uniform, memory.scratch, static_cast<int>(threadIdx.x)};
      Maths::run(token);
    }
    __syncthreads();
  }
}

template <class S, int Slots, class L>
HYPERJIT_DEVICE auto laneOfTile(const L &launch, const SharedMemory<S> &memory, long long first) {
  using T = typename S::T;
  Lane<T, L, S::width, S::tokens, S::v, Slots> lane{launch};
  const int row = threadIdx.x % 32 / S::channelLanes;
  lane.uniform = memory.uniform;
#pragma unroll
  for (int t = 0; t < S::tokens; ++t) {
    const int index = t * S::tokenLanes + row;
    lane.token[t] = first + index;
    lane.live[t] = lane.token[t] < launch.tokens;
    lane.record[t] = memory.records + index * S::record;
#pragma unroll
    for (int s = 0; s < Slots; ++s)
      lane.slot[t][s] = 0;
  }
  return lane;
}

/// Sums the lanes' slots over the warp's channels and puts them where the other warps see them: [warp][token][slot].
template <class S, class N> HYPERJIT_DEVICE void depositSlots(N &lane, typename S::T *partials) {
  const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / S::channelLanes, column = threadIdx.x % S::channelLanes;
#pragma unroll
  for (int t = 0; t < S::tokens; ++t) {
    typename S::T *target = partials + (warp * S::tile + t * S::tokenLanes + row) * N::slots;
#pragma unroll
    for (int s = 0; s < N::slots; ++s) {
      typename S::T sum = lane.slot[t][s];
#pragma unroll
      for (int distance = 1; distance < S::channelLanes; distance *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
      if (column == s % S::channelLanes)
        target[s] = sum;
    }
  }
}

/// One sweep of the tile; `slice` of `slices` CTAs share the channels (1 when the sweep reduces).
template <class S, class P, class L>
HYPERJIT_DEVICE void sweepTile(const L &launch, const SharedMemory<S> &memory, long long first, int slice, int slices) {
  using T = typename S::T;
  auto lane = laneOfTile<S, P::slots>(launch, memory, first);
  const int warp = threadIdx.x / 32, column = threadIdx.x % S::channelLanes;
#pragma unroll 1
  for (int base = (slice * S::warps + warp) * S::chunk; base < S::width; base += slices * S::warps * S::chunk) {
    lane.channel = base + column * S::v;
    lane.active = S::width % S::chunk == 0 || lane.channel < S::width;
    if (lane.active)
      P::Sweep::run(lane);
  }
  if constexpr (P::slots > 0) {
    depositSlots<S>(lane, memory.partials);
    __syncthreads();
    for (int index = threadIdx.x; index < S::tile * P::slots; index += S::threads) {
      T sum = 0;
#pragma unroll
      for (int w = 0; w < S::warps; ++w)
        sum += memory.partials[w * S::tile * P::slots + index];
      memory.records[index / P::slots * S::record + P::record(index % P::slots)] = sum;
    }
    __syncthreads();
  }
}

template <class S, class L, class Maths, class... Passes>
HYPERJIT_DEVICE void runStage(const L &launch, const SharedMemory<S> &memory, long long first, int slice, int slices,
                              Stage<Maths, Passes...>) {
  coefficientsOfTile<S, Maths>(launch, memory, first);
  (sweepTile<S, Passes>(launch, memory, first, slice, slices), ...);
}

template <class Maths, class... Passes> HYPERJIT_DEVICE constexpr int slotsOf(Stage<Maths, Passes...>) {
  int result = 0;
  ((result = Passes::slots > result ? Passes::slots : result), ...);
  return result;
}

} // namespace hyperjit

#endif
