// What the skeletons share: shape of a kernel, tiles of tokens, stages, and reductions over a tile.
// SPDX-License-Identifier: Apache-2.0
//
// A kernel processes tiles of TokenLanes * Tokens tokens with Warps warps. Lane l of a warp works for token
// l / (32 / TokenLanes) and owns V channels; warps own different channels. Stage by stage: one warp a token does the
// coefficient maths on the token's record in shared memory; then all warps sweep over the channels. A cluster of CTAs
// shares the channels of a tile: partial sums are exchanged through distributed shared memory, in two buffers that
// alternate from sweep to sweep, so one cluster barrier a sweep suffices (a buffer is written again after the barrier
// of the sweep between, which every CTA reaches after reading it).
#ifndef HYPERJIT_TILES_CUH
#define HYPERJIT_TILES_CUH

#include "hyperjit/coefficients.cuh"
#include "hyperjit/packing.cuh"

namespace hyperjit {

/// Record: numbers a token keeps in shared memory, = 4 mod 8 so that the tokens of a warp hit different banks.
template <class T_, int Width, int Warps, int TokenLanes, int Tokens, int V, int Record, int Uniform, int Scratch,
          int Cluster = 1, bool Ranges = false>
struct Shape {
  using T = T_;
  static constexpr int width = Width, warps = Warps, tokenLanes = TokenLanes, tokens = Tokens, v = V, record = Record,
                       uniform = Uniform, scratch = Scratch, cluster = Cluster;
  static constexpr bool ranges = Ranges; // each warp has a range of channels, else chunks in turn
  static constexpr int threads = 32 * Warps;
  static constexpr int tile = TokenLanes * Tokens;                                // tokens a tile
  static constexpr int channelLanes = 32 / TokenLanes;                            // lanes that share a token
  static constexpr int chunk = channelLanes * V;                                  // channels a warp covers at once
  static constexpr bool tileLanes = TokenLanes == 8 && V >= 4 && sizeof(T_) == 4; // the lane map of mma fragments
};

/// Numbers [Slot, Slot + Count) of a sweep become record entries [Record, Record + Count).
template <int Slot, int Count, int Record> struct Segment {
  static constexpr int slot = Slot, count = Count, record = Record;
};

/// One sweep over the channels with `Slots` plain sums or `Squares` dots on tensor cores, and `Tiles` mma tiles (of 8
/// slots each, behind the others).
template <class Sweep_, int Slots, int Squares, int Tiles, class... Segments> struct Pass {
  using Sweep = Sweep_;
  static_assert(Slots == 0 || Squares == 0, "dots are all of one kind");
  static constexpr int plain = Slots, squares = Squares, tiles = Tiles, single = Slots + Squares,
                       slots = single + 8 * Tiles;
  /// -1: a slot that pads a tile
  HYPERJIT_METHOD static int record(int slot) {
    int result = -1;
    ((slot >= Segments::slot &&slot < Segments::slot + Segments::count
          ? result = Segments::record + slot - Segments::slot
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

/// Rows of each token that are copied to shared memory, Place = Staged<..> or Fetched<..>.
template <class Place_, int Rows_> struct Input {
  using Place = Place_;
  static constexpr int rows = Rows_;
};

struct Nothing {
  static constexpr bool empty = true;
  template <class C> HYPERJIT_METHOD static void run(C &) {}
};

template <class A> struct IsNothing { static constexpr bool value = Same<A, Nothing>::value; };

/// The regions of a CTA's shared memory, in numbers of type T: uniform, records, partials, exchange, scratch.
template <class S> struct SharedMemory {
  using T = typename S::T;
  T *uniform, *records, *partials, *exchange, *scratch;
  int exchangeSize;
  mutable int turn = 0;
  /// `sums`: the largest number of sums that one sweep makes for a tile.
  HYPERJIT_METHOD SharedMemory(int sums) {
    unsigned char *memory = dynamicShared();
    uniform = reinterpret_cast<T *>(memory);
    records = uniform + (S::uniform + 3) / 4 * 4;
    partials = records + S::tile * S::record;
    exchangeSize = (sums + 3) / 4 * 4;
    exchange = partials + S::warps * exchangeSize;
    scratch = exchange + (S::cluster > 1 ? 2 * exchangeSize : 0);
  }
};

/// Coefficient maths of every token of the tile, one warp a token.
template <class S, class Maths, class L>
HYPERJIT_DEVICE void coefficientsOfTile(const L &launch, const SharedMemory<S> &memory, long long first) {
  if constexpr (!IsNothing<Maths>::value) {
    const int warp = threadIdx.x / 32;
    Token<typename S::T, L> token{
        launch, 0, nullptr, memory.scratch + warp * S::scratch, static_cast<int>(threadIdx.x % 32), memory.uniform};
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

/// Records of `count` tokens from the workspace, where they lie as they are here: Size numbers each, a multiple of 4.
template <class S, class Ref, int Size, class L>
HYPERJIT_DEVICE void copyRecords(const L &launch, const SharedMemory<S> &memory, long long first, int count) {
  using T = typename S::T;
  constexpr int pieces = Size / 4;
#pragma unroll 4
  for (int i = threadIdx.x; i < count * pieces; i += S::threads) {
    const int token = i / pieces, piece = i % pieces;
    T numbers[4];
    loadVector(Ref::at(launch, first + token) + 4 * piece, numbers);
    storeVector(memory.records + token * S::record + 4 * piece, numbers);
  }
}

/// Numbers shared by all tokens, copied once a CTA.
template <class S, class Maths, class L>
HYPERJIT_DEVICE void uniformOfKernel(const L &launch, const SharedMemory<S> &memory) {
  if constexpr (!IsNothing<Maths>::value) {
    if (threadIdx.x < 32) {
      Token<typename S::T, L> token{launch, 0, memory.uniform, memory.scratch, static_cast<int>(threadIdx.x)};
      Maths::run(token);
    }
    __syncthreads();
  }
}

/// A number in the shared memory of another CTA of the cluster, at the address that it has here.
template <class T> HYPERJIT_DEVICE T readRemote(const T *local, int rank) {
  T value = *local;
#if __CUDA_ARCH__ >= 900
  loadRemote(remoteAddress(sharedAddress(local), rank), value);
#endif
  return value;
}

template <class N> HYPERJIT_DEVICE void clearSums(N &lane, int t) {
#pragma unroll
  for (int s = 0; s < N::slots; ++s)
    lane.slot[t][s] = 0;
#pragma unroll
  for (int i = 0; i < 4 * N::tiles; ++i)
    lane.tile[t][i / 4][i % 4] = 0;
#pragma unroll
  for (int i = 0; i < (N::squares + 1) / 2 * 4; ++i)
    lane.square[t][i / 4][i % 4] = 0;
}

template <class S, class P, class L>
HYPERJIT_DEVICE auto laneOfTile(const L &launch, const SharedMemory<S> &memory, long long first) {
  using T = typename S::T;
  Lane<T, L, S::width, S::tokens, S::v, P::plain, P::tiles, P::squares> lane{launch};
  const int row = threadIdx.x % 32 / S::channelLanes;
  lane.uniform = memory.uniform;
#pragma unroll
  for (int t = 0; t < S::tokens; ++t) {
    const int index = t * S::tokenLanes + row;
    lane.token[t] = first + index;
    lane.live[t] = lane.token[t] < launch.tokens;
    lane.record[t] = memory.records + index * S::record;
    clearSums(lane, t);
  }
  return lane;
}

/// Sums Count numbers over the lanes that differ in the bits of Distance, Distance / 2, ..: at every step a lane keeps
/// one half of its numbers and hands the other over. Afterwards it holds numbers first .. first + count - 1.
template <int Distance, int Count, class T>
HYPERJIT_DEVICE void sumHalves(T (&values)[Count], T *target, int first, int count) {
  if constexpr (Distance == 0) {
#pragma unroll
    for (int i = 0; i < Count; ++i)
      if (i < count)
        target[first + i] = values[i];
  } else {
    constexpr int half = (Count + 1) / 2;
    const bool upper = threadIdx.x & Distance;
    T kept[half];
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const T low = values[i], high = i + half < Count ? values[i + half < Count ? i + half : 0] : T(0);
      kept[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, Distance);
    }
    const int lower = count < half ? count : half;
    sumHalves<Distance / 2>(kept, target, upper ? first + half : first, upper ? count - lower : lower);
  }
}

/// Sums the lanes' slots over the warp's channels and puts them where the other warps see them: [warp][token][slot].
template <class S, class P, class N> HYPERJIT_DEVICE void depositSums(N &lane, typename S::T *partials) {
  const int warp = threadIdx.x / 32, row = threadIdx.x % 32 / S::channelLanes, column = threadIdx.x % S::channelLanes;
#pragma unroll
  for (int t = 0; t < S::tokens; ++t) {
    typename S::T *target = partials + (warp * S::tile + t * S::tokenLanes + row) * P::slots;
    if constexpr (P::plain > 0 && S::channelLanes > 4) {
      sumHalves<S::channelLanes / 2>(lane.slot[t], target, 0, P::plain);
    } else {
#pragma unroll
      for (int s = 0; s < P::plain; ++s) {
        typename S::T sum = lane.slot[t][s];
#pragma unroll
        for (int distance = 1; distance < S::channelLanes; distance *= 2)
          sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        if (column == s % S::channelLanes)
          target[s] = sum;
      }
    }
    if constexpr (P::squares > 0) {
      // The diagonal: token `row` is in the lane with column row / 2.
      if (column == row / 2) {
#pragma unroll
        for (int s = 0; s < P::squares; ++s)
          target[s] = row % 2 ? lane.square[t][s / 2][2 * (s % 2) + 1] : lane.square[t][s / 2][2 * (s % 2)];
      }
    }
    if constexpr (P::tiles > 0) {
      // Coefficient `row` of the tile, tokens 2 column and 2 column + 1; hi and lo parts are in one lane.
      typename S::T *pair = partials + (warp * S::tile + t * S::tokenLanes + 2 * column) * P::slots + P::single + row;
#pragma unroll
      for (int i = 0; i < P::tiles; ++i) {
        pair[8 * i] = lane.tile[t][i][0] + lane.tile[t][i][2];
        pair[P::slots + 8 * i] = lane.tile[t][i][1] + lane.tile[t][i][3];
      }
    }
  }
}

/// One sweep of the tile; `slice` of `slices` CTAs share the channels.
template <class S, class P, class L>
HYPERJIT_DEVICE void sweepTile(const L &launch, const SharedMemory<S> &memory, long long first, int slice, int slices) {
  using T = typename S::T;
  auto lane = laneOfTile<S, P>(launch, memory, first);
  const int warp = threadIdx.x / 32, column = threadIdx.x % S::channelLanes;
  constexpr int range = (S::width + S::chunk * S::warps - 1) / (S::chunk * S::warps) * S::chunk;
  static_assert(!S::ranges || S::cluster == 1, "ranges are of a block's warps");
  const int begin = S::ranges ? warp * range : (slice * S::warps + warp) * S::chunk,
            end = S::ranges && begin + range < S::width ? begin + range : S::width,
            step = S::ranges ? S::chunk : slices * S::warps * S::chunk;
#pragma unroll 1
  for (int base = begin; base < end; base += step) {
    // Large matrices of coefficients are read from shared memory where they are used, not kept in registers.
    if constexpr (S::record + S::uniform > 96)
      orderReads();
    lane.channel = base + column * S::v;
    lane.active = S::width % S::chunk == 0 || lane.channel < S::width;
    // mma needs the whole warp; there, lanes beyond the row work on zeros.
    if (S::tileLanes || lane.active)
      P::Sweep::run(lane);
  }
  if constexpr (P::slots > 0) {
    depositSums<S, P>(lane, memory.partials);
    __syncthreads();
    T *const buffer = memory.exchange + (memory.turn & 1) * memory.exchangeSize;
    int own = threadIdx.x;
    if constexpr (S::record > 200) // its sweeps leave no register for addresses of what comes after
      own = fromHere(own);
    for (int index = own; index < S::tile * P::slots; index += S::threads) {
      T sum = 0;
#pragma unroll
      for (int w = 0; w < S::warps; ++w)
        sum += memory.partials[w * S::tile * P::slots + index];
      const int entry = P::record(index % P::slots);
      if constexpr (S::cluster > 1)
        buffer[index] = sum;
      else if (entry >= 0)
        memory.records[index / P::slots * S::record + entry] = sum;
    }
    if constexpr (S::cluster > 1) {
      clusterBarrier();
      for (int index = threadIdx.x; index < S::tile * P::slots; index += S::threads) {
        const int entry = P::record(index % P::slots);
        if (entry < 0)
          continue;
        T part[S::cluster], sum = 0;
#pragma unroll
        for (int rank = 0; rank < S::cluster; ++rank)
          part[rank] = readRemote(buffer + index, rank);
#pragma unroll
        for (int rank = 0; rank < S::cluster; ++rank)
          sum += part[rank];
        memory.records[index / P::slots * S::record + entry] = sum;
      }
      ++memory.turn;
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
