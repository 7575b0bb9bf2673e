//===- CostModel.h - What a schedule costs, from sizes alone ----*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// Pure functions over the sizes of a kernel's phases and of a machine; no MLIR
// type. The rules that "auto" uses are here, and the order in which
// `hyperjit autotune` tries what is legal. Costs are nanoseconds a token: good
// for an order, not for a promise.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_TARGET_COSTMODEL_H
#define HYPERJIT_TARGET_COSTMODEL_H

#include <cstdint>
#include <vector>

namespace hyperjit {

/// What one kernel works on.
struct KernelSizes {
  int64_t width = 1;        ///< channels of a row
  int64_t elementBytes = 4; ///< of the compute type
  int64_t storageBytes = 4; ///< of the widest element among a token's rows
  int64_t wideBytes = 0;    ///< a token's rows that come from memory or go there
  int64_t heldBytes = 0;    ///< a token's rows that a block keeps in cache: those, and rows made on the way
  int64_t sums = 0;         ///< most sums over channels that one fused pass is asked for
  int64_t slotSums = 0;     ///< CUDA: of a stage's sums, those that take slots, not tensor cores
  int64_t coefficients = 0; ///< numbers of coefficients that a token computes
  int64_t projected = 0;    ///< multiply-adds of a token in projections
  int64_t expanded = 0;     ///< in expansions and mixes of many rows
  int64_t gradients = 0;    ///< in weight gradients
  int64_t weightBytes = 0;  ///< of weights that each block of tokens reads
  int64_t partialBytes = 0; ///< of sums over tokens, a chunk
  int64_t liveRows = 0;     ///< CUDA: rows that a lane holds in its heaviest pass
  bool reduces = false;     ///< any sum over channels
};

//===----------------------------------------------------------------------===//
// CPU: blocks of tokens
//===----------------------------------------------------------------------===//

struct CpuShape {
  int64_t vectorBytes = 32, registers = 16, blockBytes = 512 * 1024;
};

/// The numbers of the skeleton `blocks`; -1 leaves one to the rules.
struct BlockNumbers {
  int64_t ahead =
      -1; ///< 1: rows of the next tokens are fetched meanwhile, those of the next block by products if there are any
  int64_t chunks = -1;  ///< most chunks of tokens, each with its own partial sums
  int64_t columns = -1; ///< columns of a projection held in registers, for four tokens
  int64_t stream = -1;  ///< MiB of a launch's rows from which on its results are stored past the cache
  int64_t sums = -1;    ///< sums over channels of one fused pass
  int64_t tokens = -1;  ///< of a block
  int64_t unroll = -1;  ///< vectors of channels held in registers by other products
  int64_t vector = -1;  ///< bytes of a vector
  bool operator==(const BlockNumbers &) const = default;
};

/// The most columns, or vectors of channels, that four tokens leave registers for.
int64_t mostInRegisters(const CpuShape &shape);
/// The most sums of a pass: a few registers stay for the rows.
int64_t mostSums(const CpuShape &shape);
/// Columns of a weight gradient beside `unroll` vectors of channels.
int64_t gradientColumns(const CpuShape &shape, int64_t unroll);

/// Fills what is -1 but `chunks`, which waits for the size of partial sums. The token bucket is no argument: what
/// orders a token's sums is the same in all buckets.
BlockNumbers chooseBlocks(const KernelSizes &sizes, const CpuShape &shape, BlockNumbers given);
int64_t chooseChunks(int64_t partialBytes);
double blocksCost(const KernelSizes &sizes, const CpuShape &shape, const BlockNumbers &numbers);
/// Numbers worth trying, each legal and complete, best first; `first`, what the rules choose, leads. Numbers that make
/// no difference to this kernel stay as they are in `first`.
std::vector<BlockNumbers> listBlocks(const KernelSizes &sizes, const CpuShape &shape, const BlockNumbers &first);

//===----------------------------------------------------------------------===//
// CUDA: rows
//===----------------------------------------------------------------------===//

struct GpuShape {
  int64_t processors = 132, processorThreads = 2048, registers = 65536, maxCluster = 1;
  double copyGBs = 3000;
};

/// The numbers of the skeletons `rows` and `columns`; 0 (planes: -1) leaves one to the rules.
struct RowNumbers {
  int64_t vector = 0, tokens = 0, warps = 0, slots = 0, blocks = 0, chunks = 0, cluster = 0, planes = -1;
  /// `rows`: 0, or as many ranges of a row's channels, each summed by itself, as there are warps; and to how many percent
  /// tokens must fill waves of blocks, on average, for each warp to have tokens of its own, in the main kernel
  /// `sharedWeights` (1: always, 0: never).
  int64_t ranges = 0, apart = 0;
  bool columns = false; ///< the main kernel is `clusterColumns`:
  int64_t lag = 0, preparers = 0,
          ring = 0;  ///< tiles from stage to stage, warps for the first maths, most tiles fetched ahead
  int64_t parts = 0; ///< clusters that share a token's channels
  bool operator==(const RowNumbers &) const = default;
};

/// Clusters of so many blocks that run at once, one block a processor: where most of an eleventh of the processors lie
/// no further one fits (of 132 on an H100 and an H200: 7 of 16 blocks, 15 of 8, 30 of 4).
int64_t clustersAtOnce(int64_t processors, int64_t cluster);
/// Percent of a wave from which on warps with tokens of their own take less time than warps that share a token's channels
/// (us of 8192 tokens, 97 % of a wave of an H200, and of 12288, 73 % of two: five streams of 4096 channels forward 454
/// instead of 560, 847 instead of 838; six 582 and 741, 1045 and 1105).
constexpr int64_t fullEnough = 78;
double rowsCost(const KernelSizes &sizes, const GpuShape &shape, const RowNumbers &numbers);
/// The same for `columns`, and other numbers of it, best first; what they leave open the exit chooses.
double columnsCost(const KernelSizes &sizes, const GpuShape &shape, const RowNumbers &numbers);
std::vector<RowNumbers> listColumns(const KernelSizes &sizes, const GpuShape &shape, const RowNumbers &first);
/// Numbers worth trying around `first`, which leads; the exit still refuses what does not fit together.
std::vector<RowNumbers> listRows(const KernelSizes &sizes, const GpuShape &shape, const RowNumbers &first);

} // namespace hyperjit

#endif
