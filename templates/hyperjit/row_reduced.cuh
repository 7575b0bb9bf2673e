// Skeletons over tiles of tokens: `rowReduced` where later stages need sums over a token's whole row, `streaming`
// where none does, `tokenwise` for coefficient maths alone.
// SPDX-License-Identifier: Apache-2.0
//
// Split of work. A tile is S::tile tokens. Channels go to warps: warp w of CTA r of the tile's `slices` (the CTAs of a
// cluster; in `streaming` gridDim.y) has chunks r * warps + w, and every slices * warps further; with S::ranges a warp has
// one range of whole chunks. S::channelLanes lanes share a token's channels of a chunk, S::tokenLanes groups of them have
// tokens of their own. Grids are persistent: tiles of a CTA are gridDim apart.
//
// A stage: coefficient maths, a warp a token of the tile; then its sweeps over the rows. A sweep's sums go from lanes to
// warps' partials, from there in the order of warps to the tokens' records, in a cluster by way of every CTA's exchange, in
// the order of ranks; so each order is fixed, whatever the tile or the grid.
//
// Shared memory, in numbers (SharedMemory, tiles.cuh): those that all tokens share; S::tile records; partials, a sum for
// each warp; in a cluster two exchanges; scratch of each warp's maths.
//
// Barriers, all of the block or the cluster, no mbarrier: one behind the maths of a stage (records are whole), one behind
// depositing (partials are whole), in a cluster its own instead of waiting for others' exchanges, one behind the sums
// (records are whole again), one behind a tile. Reuse: partials are written again behind the barrier that follows their
// reading. An exchange is written again two sweeps later: whoever does so has passed the cluster's barrier of the sweep
// between, which no CTA reaches before it has read the others' exchanges of the sweep before. Records of the next tile are
// written behind the tile's barrier. The last barrier of a cluster keeps every CTA until others have read its sums.
#ifndef HYPERJIT_ROW_REDUCED_CUH
#define HYPERJIT_ROW_REDUCED_CUH

#include "hyperjit/lane_sinkhorn.cuh"
#include "hyperjit/sinkhorn.cuh"
#include "hyperjit/tiles.cuh"

namespace hyperjit {

/// A CTA, or a cluster of them, owns all channels of a tile; rows that a later stage needs again come from L1 or L2.
/// Persistent grid. Stores of coefficients are made by all CTAs of a cluster alike.
template <class S, class Uniform, class... Stages, class L> HYPERJIT_DEVICE void rowReduced(const L &launch) {
  int slots = 0;
  ((slots = slotsOf(Stages()) > slots ? slotsOf(Stages()) : slots), ...);
  const SharedMemory<S> memory(S::tile * slots);
  uniformOfKernel<S, Uniform>(launch, memory);
  const int rank = S::cluster > 1 ? clusterRank() : 0;
  for (long long first = static_cast<long long>(blockIdx.x / S::cluster) * S::tile; first < launch.tokens;
       first += static_cast<long long>(gridDim.x / S::cluster) * S::tile) {
    (runStage<S>(launch, memory, first, rank, S::cluster, Stages()), ...);
    __syncthreads();
  }
  if constexpr (S::cluster > 1)
    clusterBarrier(); // no CTA leaves while others may read its sums
}

/// No sums over channels: `blockIdx.y` of `gridDim.y` CTAs share the channels of a tile.
template <class S, class Uniform, class OnlyStage, class L> HYPERJIT_DEVICE void streaming(const L &launch) {
  const SharedMemory<S> memory(0);
  uniformOfKernel<S, Uniform>(launch, memory);
  for (long long first = static_cast<long long>(blockIdx.x) * S::tile; first < launch.tokens;
       first += static_cast<long long>(gridDim.x) * S::tile) {
    runStage<S>(launch, memory, first, blockIdx.y, gridDim.y, OnlyStage());
    __syncthreads();
  }
}

/// Coefficient maths of every token off the path of the wide kernels, by one warp or one lane a token: S::tokenLanes is
/// 1 or 32. The last `Others` blocks of the grid do something else.
template <class S, class Maths, int Others = 0, class L> HYPERJIT_DEVICE void tokenwise(const L &launch) {
  using T = typename S::T;
  constexpr int block = S::warps * S::tokenLanes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T *scratch = reinterpret_cast<T *>(dynamicShared()) + warp * S::tokenLanes * S::scratch;
  const long long step = static_cast<long long>(gridDim.x - Others) * block;
  if constexpr (S::channelLanes == 1) {
    TokenOfWarp<T, L, S::scratch> token{{launch, 0, scratch + lane}, scratch, false};
    for (long long first = static_cast<long long>(blockIdx.x) * block + 32 * warp; first < launch.tokens;
         first += step) {
      token.live = first + lane < launch.tokens;
      token.token = token.live ? first + lane : first;
      Maths::run(token);
    }
  } else {
    Token<T, L> token{launch, 0, nullptr, scratch, lane};
    for (token.token = static_cast<long long>(blockIdx.x) * block + warp; token.token < launch.tokens;
         token.token += step)
      Maths::run(token);
  }
}

} // namespace hyperjit

#endif
