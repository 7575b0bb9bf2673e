// Sums over tokens in a fixed order: the tokens are split into chunks that depend on the token count alone (for sums
// that sweeps of clusterColumns make, on the number of clusters that fit the GPU, too), every chunk's partial sum goes
// to the workspace, and whoever reads the sum adds the chunks in order. No atomics.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_TOKEN_SUMS_CUH
#define HYPERJIT_TOKEN_SUMS_CUH

#include "hyperjit/row_reduced.cuh"

namespace hyperjit {

/// Sums of rows and weight gradients. blockIdx.x = block of channels, .y = chunk, .z = pass; a lane owns V channels of
/// all rows and keeps their sums in registers over the whole chunk. Records (Size numbers a token, in the workspace at
/// Records) are staged in shared memory, S::tokens at a time.
template <class S, class Uniform, class Records, int Size, class... Passes, class L>
HYPERJIT_DEVICE void columns(const L &launch) {
  const SharedMemory<S> memory(0);
  uniformOfKernel<S, Uniform>(launch, memory);
  const long long begin = blockIdx.y * launch.chunkTokens;
  const long long end = begin + launch.chunkTokens < launch.tokens ? begin + launch.chunkTokens : launch.tokens;
  auto body = [&](auto pass, int repeat) {
    using P = decltype(pass);
    Lane<typename S::T, L, S::width, 1, S::v, P::slots> lane{launch};
    lane.channel = (blockIdx.x * S::threads + threadIdx.x) * S::v;
    lane.active = lane.channel < S::width;
    lane.uniform = memory.uniform;
    lane.firstColumn = repeat * P::columns;
    lane.live[0] = true;
#pragma unroll
    for (int s = 0; s < P::slots; ++s)
      lane.slot[0][s] = 0;
    for (long long first = begin; first < end; first += S::tokens) {
      const int count = end - first < S::tokens ? static_cast<int>(end - first) : S::tokens;
      if constexpr (Size > 0) {
        __syncthreads();
        copyRecords<S, Records, Size>(launch, memory, first, count);
        __syncthreads();
      }
      if (lane.active) {
#pragma unroll 2
        for (int i = 0; i < count; ++i) {
          lane.token[0] = first + i;
          lane.record[0] = memory.records + i * S::record;
          P::Sweep::run(lane);
        }
      }
    }
    if (lane.active)
      P::Sweep::store(lane, blockIdx.y);
  };
  int index = blockIdx.z;
  ((index >= 0 && index < Passes::repeats ? body(Passes(), index) : void(), index -= Passes::repeats), ...);
}

/// One sweep of the columns kernel: sums a lane, columns of a weight that it sums, blocks of columns it is run for.
template <class Sweep_, int Slots, int Columns, int Repeats> struct ColumnPass {
  using Sweep = Sweep_;
  static constexpr int slots = Slots, columns = Columns, repeats = Repeats;
};

/// Sums of a token's numbers: Source holds Count numbers a token, Target Count a chunk. A block sums `Columns` numbers
/// at once: thread (row, column) takes every rows-th token of the chunk, and the rows are added in order.
template <class Source, class Target, int Count> struct TokenSums {
  /// Of columns Columns block, Columns (block + blocks), ..
  template <class T, int Threads, int Columns, class L>
  HYPERJIT_METHOD static void run(const L &launch, long long chunk, int block, int blocks) {
    constexpr int rows = Threads / Columns;
    static_assert(Threads % Columns == 0);
    __shared__ T partial[rows][Columns + 1];
    const long long begin = chunk * launch.chunkTokens;
    const long long end = begin + launch.chunkTokens < launch.tokens ? begin + launch.chunkTokens : launch.tokens;
    const int column = threadIdx.x % Columns, row = threadIdx.x / Columns;
    for (int base = Columns * block; base < Count; base += Columns * blocks) {
      const int index = base + column;
      T sum = 0;
      if (index < Count)
        sum = sumInOrder<T, rows * Source::bytes>(Source::at(launch, begin + row) + index,
                                                  (end - begin - row + rows - 1) / rows);
      partial[row][column] = sum;
      __syncthreads();
      if (row == 0 && index < Count) {
        T total = 0;
#pragma unroll 8
        for (int r = 0; r < rows; ++r)
          total += partial[r][column];
        Target::at(launch, chunk)[index] = total;
      }
      __syncthreads();
    }
  }
};
/// CTAs of 256 threads: blockIdx.x = four numbers, .y = chunk.
template <class T, class Sums, class L> HYPERJIT_DEVICE void tokenSums(const L &launch) {
  Sums::template run<T, 256, 4>(launch, blockIdx.y, blockIdx.x, gridDim.x);
}

} // namespace hyperjit

#endif
