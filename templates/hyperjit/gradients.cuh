// Weight gradients as a launch of their own: tiles of 16 tokens, copied ahead by one warp.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_GRADIENTS_CUH
#define HYPERJIT_GRADIENTS_CUH

#include "hyperjit/barriers.cuh"
#include "hyperjit/gradient_tiles.cuh"
#include "hyperjit/token_sums.cuh"

namespace hyperjit {

/// Bytes of a number of the first rows.
template <class First, class...> struct StorageOfFirst {
  static constexpr int value = static_cast<int>(sizeof(typename First::Place::Storage));
};
/// One sweep of columnTiles: mma tiles a lane, columns of the weight that it sums, blocks of columns it is run for,
/// rows it reads.
template <class Sweep_, int Tiles, int Columns, int Repeats, class... Inputs_> struct TilePass {
  using Sweep = Sweep_;
  using Inputs = List<Inputs_...>;
  static constexpr int tiles = Tiles, columns = Columns, repeats = Repeats;
  static constexpr int vectors = (0 + ... + Inputs_::rows);      // of a token
  static constexpr int size = StorageOfFirst<Inputs_...>::value; // bytes of a number, of all rows alike
};

/// A tile's records and rows on their way from memory, copied by one warp. A slot holds records of 16 tokens, then row
/// by row those of 16 tokens, each the block's channels and a gap, which makes the lanes of a warp hit different banks.
template <class S, class Records, int Size, class P, class L> struct TileLoader {
  static constexpr int channels = S::warps * 4 * S::v, size = P::size,
                       rowStride = channels + 4 * S::v; // in numbers of `size` bytes
  static constexpr int recordBytes = Size > 0 ? 16 * 4 * S::record : 0,
                       slotBytes = recordBytes + P::vectors * 16 * rowStride * size;
  /// Neighbours copy neighbouring pieces: requests for whole lines of memory.
  static constexpr int piece = size == 2 && S::width % 8 == 0 ? 8 : 4, pieces = channels / piece,
                       together = 32 / pieces;
  static_assert(32 % pieces == 0 && 16 % together == 0, "a lane copies pieces of one column");
  const L &launch;
  unsigned slots;
  long long end;
  const int self = threadIdx.x % 32, own = self % pieces * piece, firstToken = self / pieces;
  const int channel = blockIdx.x * channels + own;

  HYPERJIT_METHOD void load(int index, long long first) const {
    const unsigned slot = slots + index * slotBytes;
    if constexpr (Size > 0) {
      constexpr int each = Size / 4;
#pragma unroll
      for (int i = self; i < 16 * each; i += 32) {
        const int token = i / each, at = i % each;
        const bool exists = first + token < end;
        copyOrClear<16>(slot + 4 * (token * S::record + 4 * at),
                        Records::at(launch, exists ? first + token : first) + 4 * at, exists);
      }
    }
    loadRows(slot + recordBytes + (firstToken * rowStride + own) * size, first, typename P::Inputs());
  }
  template <class... I> HYPERJIT_METHOD void loadRows(unsigned target, long long first, List<I...>) const {
    if (first + 16 <= end && (blockIdx.x + 1) * channels <= S::width)
      (loadInput<I, true>(target, first), ...);
    else
      (loadInput<I, false>(target, first), ...);
  }
  /// Of a whole tile, all distances are constants.
  template <class I, bool Whole> HYPERJIT_METHOD void loadInput(unsigned target, long long first) const {
    const auto *source = I::Place::Ref::at(launch, first + firstToken) + channel;
    auto copyTokens = [&](int t) {
#pragma unroll
      for (int r = 0; r < I::rows; ++r) {
        const unsigned to = target + ((I::Place::index + r) * 16 + t) * rowStride * size;
        const auto *from = source + t * I::Place::Ref::stride + static_cast<long long>(r) * S::width;
        if constexpr (Whole) {
          copyAsync<piece * size>(to, from);
        } else {
          const bool exists = first + firstToken + t < end && channel < S::width;
          copyOrClear<piece * size>(to, exists ? from : I::Place::Ref::at(launch, 0), exists);
        }
      }
    };
    if constexpr (Whole) {
#pragma unroll
      for (int t = 0; t < 16; t += together)
        copyTokens(t);
    } else {
#pragma unroll 1
      for (int t = 0; t < 16; t += together)
        copyTokens(t);
    }
  }
};

/// As `columns`, with S::warps warps on 4 V channels and 16 tokens each, and one more warp that copies tiles ahead into
/// `Slots` slots. Shared memory: uniform numbers, barriers, slots. Barriers (arrivals): full (lanes of the loader) and
/// empty (the other warps) of each slot; a slot is written again when all warps have done its tile, k - Slots. The
/// first blocks of a chunk make its `Sums`, too (TokenSums, or Nothing).
template <class S, class Uniform, class Records, int Size, int Slots, class Sums, class... Passes, class L>
HYPERJIT_DEVICE void columnTiles(const L &launch) {
  const SharedMemory<S> memory(0);
  static_assert(S::uniform % 8 == 0,
                "slots begin at multiples of 32 bytes, as what is copied into them does in memory");
  unsigned char *const slots = reinterpret_cast<unsigned char *>(memory.records) + (16 * Slots + 31) / 32 * 32;
  auto full = [&](int slot) { return sharedAddress(memory.records) + 8 * slot; };
  auto empty = [&](int slot) { return full(Slots + slot); };
  if (threadIdx.x == 0) {
    for (int i = 0; i < Slots; ++i) {
      initBarrier(full(i), 32);
      initBarrier(empty(i), S::warps);
    }
    publishBarriers();
  }
  uniformOfKernel<S, Uniform>(launch, memory);
  __syncthreads();
  const long long begin = blockIdx.y * launch.chunkTokens;
  const long long end = begin + launch.chunkTokens < launch.tokens ? begin + launch.chunkTokens : launch.tokens;
  const int warp = threadIdx.x / 32, self = threadIdx.x % 32, row = self / 4, column = self % 4;
  const int tiles = static_cast<int>((end - begin + 15) / 16);
  auto body = [&](auto pass, int repeat) {
    using P = decltype(pass);
    using Loader = TileLoader<S, Records, Size, P, L>;
    auto load = [&](int first, int last) {
      const Loader loader{launch, sharedAddress(slots), end};
      for (int k = first; k < last && k < tiles; ++k) {
        if (k >= Slots)
          waitFor<false, 200>(empty(k % Slots), (k / Slots - 1) & 1);
        loader.load(k % Slots, begin + 16ll * k);
        arriveWithCopies(full(k % Slots));
      }
    };
    if (warp == S::warps)
      load(0, Slots);
    if constexpr (!IsNothing<Sums>::value)
      if (blockIdx.z == 0) // a few numbers each, while the first tiles are on their way
        Sums::template run<float, 32 * (S::warps + 1), 4>(launch, blockIdx.y, blockIdx.x, gridDim.x);
    if (warp == S::warps)
      return load(Slots, tiles);
    Lane<float, L, S::width, 2, S::v, 0, P::tiles> lane{launch};
    const int base = (blockIdx.x * S::warps + warp) * 4 * S::v;
    lane.channel = base + column * S::v;
    lane.active = lane.channel < S::width;
    lane.uniform = memory.uniform;
    lane.recordStride = S::record;
    lane.firstColumn = P::repeats > 1 ? repeat * P::columns : 0;
#pragma unroll
    for (int i = 0; i < 4 * P::tiles; ++i)
      lane.tile[0][i / 4][i % 4] = 0;
    for (int k = 0; k < tiles; ++k) {
      waitFor(full(k % Slots), (k / Slots) & 1);
      if (base < S::width) {
        const long long first = begin + 16ll * k;
        const unsigned char *slot = slots + k % Slots * Loader::slotBytes;
        lane.records = reinterpret_cast<const float *>(slot);
        lane.fetched =
            slot + Loader::recordBytes + (row * Loader::rowStride + (warp * 4 + column) * S::v) * Loader::size;
        lane.count = end - first < 16 ? static_cast<int>(end - first) : 16;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          lane.token[t] = first + 8 * t + row;
          lane.live[t] = lane.token[t] < end;
          lane.record[t] = lane.records + (8 * t + row) * S::record;
        }
        P::Sweep::run(lane);
      }
      __syncwarp();
      if (self == 0)
        arrive(empty(k % Slots));
    }
    if (base < S::width)
      P::Sweep::store(lane, blockIdx.y);
  };
  int index = blockIdx.z;
  ((index >= 0 && index < Passes::repeats ? body(Passes(), index) : void(), index -= Passes::repeats), ...);
}

} // namespace hyperjit

#endif
