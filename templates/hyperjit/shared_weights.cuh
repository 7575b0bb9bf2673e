// Skeleton where each warp has tokens of its own, and all warps of a CTA read packed weights from its shared memory:
// `sharedWeights`.
// SPDX-License-Identifier: Apache-2.0
//
// Split of work. A CTA owns S::warps * S::tile tokens. Each warp does all for its S::tile: coefficient maths, and
// sweeps over all channels, one chunk after the other. Weights that fit shared memory stay there (F::resident), and
// warps go on their own. Others pass through it in groups of chunks: warps go from group to group together, and L2 is
// asked for a weight once for all tokens of the CTA. (rowReduced, whose warps share the channels of S::tile tokens,
// asks once for those.)
//
// Sums. Channels are in S::warps ranges. A warp sums range by range and adds the ranges' sums in their order in the
// token's record: what rowReduced does with S::ranges, where each warp has a range. So both give the same bits.
//
// Shared memory: barriers, a ring of slots with the weights of a group each, numbers that all tokens share, records of
// all tokens, scratch of each warp. Barriers (arrivals): full (1 + bytes) of each slot, and that of the block after
// each group, behind which the slot is filled again: all warps have read it. Nothing else is shared, so warps wait for
// one another nowhere else.
//
// Rows of the next channels are on their way to L2 meanwhile: between two barriers a warp loads few itself.
#ifndef HYPERJIT_SHARED_WEIGHTS_CUH
#define HYPERJIT_SHARED_WEIGHTS_CUH

#include "hyperjit/barriers.cuh"
#include "hyperjit/tiles.cuh"

namespace hyperjit {

/// Slots of the ring, chunks of a group, bytes of a chunk's weights, and whether all of them stay.
template <int Slots, int Group, int ChunkBytes, bool Resident> struct WeightRing {
  static constexpr int slots = Slots, group = Group, chunkBytes = ChunkBytes;
  static constexpr bool resident = Resident;
};
/// A pass, the rows that it reads, and the weights that it uses (PassingPlanes).
template <class P, class Inputs_, class... W> struct UsingWeights : P {
  using Inputs = Inputs_;
  using Weights = List<W...>;
};

#if __CUDA_ARCH__ >= 900

template <class S, class F, class L> struct SharingBlock {
  using T = typename S::T;
  static constexpr int slots = F::slots, slotBytes = F::group * F::chunkBytes;
  static constexpr int chunks = (S::width + S::chunk - 1) / S::chunk,
                       chunksOfRange = (chunks + S::warps - 1) / S::warps;
  static constexpr int ringAt = (8 * slots + 127) / 128 * 128, uniformAt = ringAt + slots * slotBytes,
                       recordsAt = uniformAt + (S::uniform + 3) / 4 * 4 * static_cast<int>(sizeof(T)),
                       scratchAt = recordsAt + S::warps * S::tile * S::record * static_cast<int>(sizeof(T));

  const L &launch;
  unsigned char *memory;
  unsigned base;
  int warp, self;
  int turn = 0; // groups whose weights have passed

  HYPERJIT_METHOD SharingBlock(const L &launch, unsigned char *memory)
      : launch(launch), memory(memory), base(sharedAddress(memory)), warp(threadIdx.x / 32), self(threadIdx.x % 32) {}

  HYPERJIT_METHOD unsigned full(int slot) const { return base + 8 * slot; }
  HYPERJIT_METHOD T *uniform() const { return reinterpret_cast<T *>(memory + uniformAt); }
  HYPERJIT_METHOD T *record(int token) const {
    return reinterpret_cast<T *>(memory + recordsAt) + (warp * S::tile + token) * S::record;
  }
  HYPERJIT_METHOD T *scratch() const { return reinterpret_cast<T *>(memory + scratchAt) + warp * S::scratch; }

  template <class Uniform> HYPERJIT_METHOD void init() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < slots; ++i)
        initBarrier(full(i), 1);
      publishBarriers();
    }
    if constexpr (!IsNothing<Uniform>::value)
      if (warp == 0) {
        Token<T, L> token{launch, 0, uniform(), scratch(), self};
        Uniform::run(token);
      }
    __syncthreads();
  }

  //===-- weights ---------------------------------------------------------===//

  static constexpr int groups = (chunks + F::group - 1) / F::group;
  static_assert(!F::resident || groups == 1, "what stays is all");
  HYPERJIT_METHOD static int chunksOf(int group) {
    return (group + 1) * F::group <= chunks ? F::group : chunks - group * F::group;
  }
  template <class W> HYPERJIT_METHOD void copy(int group, int slot) {
    const char *source = reinterpret_cast<const char *>(W::Ref::at(launch, 0));
    const unsigned target = base + ringAt + slot * slotBytes + W::offset;
    const int copies = chunksOf(group) * W::R;
    for (int i = warp; i < copies; i += S::warps) {
      const int chunk = i / W::R, row = i % W::R;
      bulkLoad(target + chunk * F::chunkBytes + row * W::chunkBytes,
               source + (static_cast<long long>(row) * W::chunks + group * F::group + chunk) * W::chunkBytes,
               W::chunkBytes, full(slot));
    }
  }
  /// By a lane of each warp; bytes may land before they are announced.
  template <class... W> HYPERJIT_METHOD void fill(List<W...>, int group, int slot) {
    if (threadIdx.x == 0)
      arriveAndExpect(full(slot), chunksOf(group) * (0 + ... + (W::R * W::chunkBytes)));
    if (self == 0)
      (copy<W>(group, slot), ...);
    __syncwarp();
  }
  /// Fills all slots. They are free: each group of the sweep before ended with the block's barrier.
  template <class... W> HYPERJIT_METHOD void firstWeights(List<W...> weights) {
    if (!F::resident || turn == 0)
      for (int i = 0; i < slots && i < groups; ++i)
        fill(weights, i, (turn + i) % slots);
    if (F::resident) {
      waitFor(full(0), 0);
      turn = 1;
    }
  }
  HYPERJIT_METHOD const unsigned char *weightsOf(int chunk) const {
    if (F::resident)
      return memory + ringAt + chunk * F::chunkBytes;
    if (chunk % F::group == 0)
      waitFor(full(turn % slots), turn / slots & 1);
    return memory + ringAt + turn % slots * slotBytes + chunk % F::group * F::chunkBytes;
  }
  template <class... W> HYPERJIT_METHOD void nextWeights(List<W...> weights, int chunk) {
    if (F::resident || ((chunk + 1) % F::group && chunk + 1 < chunks))
      return;
    __syncthreads();
    if (const int next = chunk / F::group + slots; next < groups)
      fill(weights, next, turn % slots);
    ++turn;
  }

  //===-- rows ------------------------------------------------------------===//

  /// At the first of every 128 bytes of a row, the next 128, as 32 bytes a lane.
  template <class I> HYPERJIT_METHOD void fetchAhead(long long first, int channel) {
    using Storage = typename I::Place::Storage;
    constexpr int size = static_cast<int>(sizeof(Storage)), block = 128 / size, piece = 32 / size;
    const int from = channel + block;
    if (channel % block >= S::chunk || from >= S::width)
      return;
#pragma unroll
    for (int i = self; i < S::tile * I::rows * 4; i += 32) {
      const int row = i / 4 / S::tile, at = from + i % 4 * piece;
      const long long token = first + i / 4 % S::tile;
      if (token < launch.tokens && at < S::width)
        fetchToL2(I::Place::at(launch, token) + static_cast<long long>(row) * S::width + at);
    }
  }
  template <class... I> HYPERJIT_METHOD void fetchRows(List<I...>, long long first, int channel) {
    (fetchAhead<I>(first, channel), ...);
  }

  //===-- sums ------------------------------------------------------------===//

  template <class P> HYPERJIT_METHOD void add(int token, int slot, T sum, bool begins) {
    if (const int entry = P::record(slot); entry >= 0) {
      T &number = record(token)[entry];
      number = (begins ? T(0) : number) + sum;
    }
  }
  /// Of a range, to those of the ranges before.
  template <class P, class N> HYPERJIT_METHOD void addSums(N &lane, bool begins) {
    static_assert(P::squares == 0, "dots on tensor cores are for clusterColumns");
    const int row = self / S::channelLanes, column = self % S::channelLanes;
#pragma unroll
    for (int t = 0; t < S::tokens; ++t) {
#pragma unroll
      for (int s = 0; s < P::plain; ++s) {
        T sum = lane.slot[t][s];
#pragma unroll
        for (int distance = 1; distance < S::channelLanes; distance *= 2)
          sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        if (column == s % S::channelLanes)
          add<P>(t * S::tokenLanes + row, s, sum, begins);
      }
#pragma unroll
      for (int i = 0; i < P::tiles; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          add<P>(t * S::tokenLanes + 2 * column + e, P::single + 8 * i + row,
                 lane.tile[t][i][e] + lane.tile[t][i][e + 2], begins);
      clearSums(lane, t);
    }
  }

  //===-- stages ----------------------------------------------------------===//

  template <class Maths> HYPERJIT_METHOD void coefficients(long long first) {
    if constexpr (!IsNothing<Maths>::value) {
      Token<T, L> token{launch, 0, nullptr, scratch(), self, uniform()};
#pragma unroll 1
      for (int i = 0; i < S::tile; ++i) {
        token.token = first + i;
        token.record = record(i);
        if (token.token < launch.tokens)
          Maths::run(token);
      }
      __syncwarp();
    }
  }
  template <class P> HYPERJIT_METHOD void sweep(long long first) {
    using Weights = typename P::Weights;
    constexpr bool weighted = !Same<Weights, List<>>::value;
    Lane<T, L, S::width, S::tokens, S::v, P::plain, P::tiles, P::squares> lane{launch};
    const int row = self / S::channelLanes, column = self % S::channelLanes;
    lane.uniform = uniform();
#pragma unroll
    for (int t = 0; t < S::tokens; ++t) {
      const int index = t * S::tokenLanes + row;
      lane.token[t] = first + index;
      lane.live[t] = lane.token[t] < launch.tokens;
      lane.record[t] = record(index);
      clearSums(lane, t);
    }
    if constexpr (weighted)
      firstWeights(Weights());
#pragma unroll 1
    for (int range = 0; range < S::warps; ++range) {
      const int end = (range + 1) * chunksOfRange < chunks ? (range + 1) * chunksOfRange : chunks;
#pragma unroll 1
      for (int chunk = range * chunksOfRange; chunk < end; ++chunk) {
        orderReads(); // numbers of records are read where they are used, not kept in registers
        fetchRows(typename P::Inputs(), first, chunk * S::chunk);
        lane.channel = chunk * S::chunk + column * S::v;
        lane.active = S::width % S::chunk == 0 || lane.channel < S::width;
        if constexpr (weighted)
          lane.weights = weightsOf(chunk);
        P::Sweep::run(lane);
        if constexpr (weighted)
          nextWeights(Weights(), chunk);
      }
      if constexpr (P::slots > 0)
        addSums<P>(lane, range == 0);
    }
    __syncwarp();
  }
  template <class Maths, class... Passes> HYPERJIT_METHOD void stage(long long first, Stage<Maths, Passes...>) {
    coefficients<Maths>(first);
    (sweep<Passes>(first), ...);
  }
};

#endif

/// Persistent grid.
template <class S, class F, class Uniform, class... Stages, class L>
HYPERJIT_DEVICE void sharedWeights(const L &launch) {
#if __CUDA_ARCH__ >= 900
  constexpr int tokens = S::warps * S::tile;
  SharingBlock<S, F, L> block(launch, dynamicShared());
  block.template init<Uniform>();
  for (long long first = static_cast<long long>(blockIdx.x) * tokens; first < launch.tokens;
       first += static_cast<long long>(gridDim.x) * tokens)
    (block.stage(first + block.warp * S::tile, Stages()), ...);
#endif
}

} // namespace hyperjit

#endif
