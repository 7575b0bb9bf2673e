// A block of clusterColumns: what lies where in its shared memory, and its barriers. cluster_columns.cuh says what they
// are for.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_COLUMNS_BLOCK_CUH
#define HYPERJIT_COLUMNS_BLOCK_CUH

#include "hyperjit/columns_memory.cuh"
#include "hyperjit/columns_plan.cuh"

namespace hyperjit {

#if __CUDA_ARCH__ >= 900

template <class S, class F, class L, class... Stages> struct ColumnsBlock {
  using Rings = RingTable<typename F::Rings>;
  using Table = StageTable<Stages...>;
  static constexpr int preparers = F::preparers, owners = F::owners;
  static constexpr bool hasImage = !IsNothing<typename F::Image>::value;
  static constexpr int stages = sizeof...(Stages);
  static constexpr int parts = PartsOf<typename F::Exchange>::value; // clusters that share a row
  // Where both kinds of warps come in fours, compute warps take registers from the others. Maths of large records, and
  // sums of several clusters, take more.
  static constexpr int helpers = 2 + owners + preparers, share = 65536 / (32 * (S::warps + helpers)) / 8 * 8;
  static constexpr int helperRegisters = share > 96 ? (S::record > 200 ? 88 : parts > 1 ? 96 : 72) : share;
  static constexpr int spare = (share - helperRegisters) * helpers / S::warps, most = (share + spare) / 8 * 8;
  static constexpr int computeRegisters = most > 240 ? 240 : most;
  static constexpr bool moveRegisters = S::warps % 4 == 0 && helpers % 4 == 0 && computeRegisters >= share;
  static constexpr int cluster = S::cluster, channels = S::width / (cluster * parts);
  static constexpr int owned =
      (S::tile + cluster - 1) / cluster; // tokens of a tile that a CTA owns; the last CTAs may have one less
  static constexpr int span = cluster > S::tile ? cluster / S::tile : 1; // of how many tiles it owns some of one
  HYPERJIT_METHOD static constexpr int align(int bytes) { return (bytes + 15) / 16 * 16; }
  static constexpr int depth = (F::records + span - 1) / span; // of an exchange, in tiles of which the CTA owns some
  static constexpr int allSlots = Rings::slotsBefore(Rings::count);
  static constexpr int packings = IsNothing<typename F::Pack>::value ? 0 : packingSteps,
                       packers = 32 * (S::warps + helpers - 1); // barriers of numbers to pack, and who packs them
  static constexpr int barriersOfStage = 2 * F::records + 4,
                       firstOfStages = 2 * allSlots + 2 * F::records + 1 + packings;
  static constexpr int partialsOf = 2 * S::warps * S::tile * 4, exchangeOf = depth * cluster * owned * 4; // bytes a sum
  static constexpr int barrierBytes = align(8 * (firstOfStages + stages * barriersOfStage));
  // Weights and rows lie in shared memory as in the lines of memory that they come from: of copies to a place that is no
  // multiple of 32 bytes, L2 is asked for every sector twice.
  HYPERJIT_METHOD static constexpr int alignLines(int bytes) { return (bytes + 127) / 128 * 128; }
  static constexpr int uniformAt = barrierBytes, weightsAt = alignLines(uniformAt + 4 * S::uniform);
  static constexpr int ringsAt = alignLines(weightsAt + F::weightBytes),
                       recordsAt = ringsAt + S::tile * Rings::bytesBefore(Rings::count);
  static constexpr int partialsAt = recordsAt + F::records * S::tile * S::record * 4;
  static constexpr int exchangeAt = partialsAt + partialsOf * Table::sumsBefore(stages);
  static constexpr int scratchAt = exchangeAt + exchangeOf * Table::sumsBefore(stages);
  static constexpr int fetchedAt = scratchAt + 4 * S::scratch * (owners + preparers);
  static_assert(fetchedAt + 4 * F::fetched * owners == F::shared, "the compiler plans another amount of shared memory");
  static_assert(Rings::inSectors, "a token's rows begin within a sector of memory");
  static_assert(cluster <= S::tile || cluster % S::tile == 0, "blocks own tokens of different numbers of tiles");
  static_assert(F::records > F::lag * (stages - 1), "a record is used again before its last stage");
  static_assert(F::heldWords == 0 || channels / S::chunk == S::warps,
                "rows are held in registers by lanes of one chunk");

  const L &launch;
  unsigned char *memory;
  unsigned base;
  int warp, self, rank, part, slice, tiles, firstTile,
      tileStride; // slice: of the channels, among all CTAs that share a row

  HYPERJIT_METHOD ColumnsBlock(const L &launch, unsigned char *memory)
      : launch(launch), memory(memory), base(sharedAddress(memory)), warp(threadIdx.x / 32), self(threadIdx.x % 32),
        rank(cluster > 1 ? clusterRank() : 0), part(parts > 1 ? blockIdx.x / cluster % parts : 0),
        slice(part * cluster + rank) {
    firstTile = blockIdx.x / (cluster * parts);
    tileStride = gridDim.x / (cluster * parts);
    // Tiles are counted in 32 bits: 2^34 tokens are more than any memory holds.
    const int all = static_cast<int>((launch.tokens + S::tile - 1) / S::tile);
    tiles = firstTile < all ? (all - firstTile + tileStride - 1) / tileStride : 0;
  }

  // What is asked for by a template argument is a constant; by an argument, a table in local memory may be looked up.
  template <int Ring> HYPERJIT_METHOD unsigned full(int slot) const {
    constexpr int before = Rings::slotsBefore(Ring);
    return base + 8 * (before + slot);
  }
  template <int Ring> HYPERJIT_METHOD unsigned empty(int slot) const { return full<Ring>(slot) + 8 * allSlots; }
  HYPERJIT_METHOD unsigned prepared(int place) const { return base + 8 * (2 * allSlots + place); }
  HYPERJIT_METHOD unsigned finished(int place) const { return base + 8 * (2 * allSlots + F::records + place); }
  HYPERJIT_METHOD unsigned weights() const { return base + 8 * (2 * allSlots + 2 * F::records); }
  HYPERJIT_METHOD unsigned landed() const { return weights() + 8; }
  HYPERJIT_METHOD unsigned ofStage(int stage, int index) const {
    return base + 8 * (firstOfStages + stage * barriersOfStage + index);
  }
  HYPERJIT_METHOD unsigned ready(int stage, int place) const { return ofStage(stage, place); }
  HYPERJIT_METHOD unsigned deposited(int stage, int turn) const { return ofStage(stage, F::records + turn); }
  HYPERJIT_METHOD unsigned taken(int stage, int turn) const { return ofStage(stage, F::records + 2 + turn); }
  HYPERJIT_METHOD unsigned arrived(int stage, int turn) const { return ofStage(stage, F::records + 4 + turn); }

  HYPERJIT_METHOD float *fetched(int owner) const {
    return reinterpret_cast<float *>(memory + fetchedAt) + owner * F::fetched;
  }
  HYPERJIT_METHOD const float *uniform() const { return reinterpret_cast<const float *>(memory + uniformAt); }
  HYPERJIT_METHOD int ownedHere() const {
    return span == 1 && S::tile % cluster && rank >= S::tile % cluster ? owned - 1 : owned;
  }
  HYPERJIT_METHOD long long firstToken(int k) const {
    return static_cast<long long>(firstTile + k * tileStride) * S::tile;
  }
  HYPERJIT_METHOD int liveTokens(long long first) const {
    return launch.tokens - first < S::tile ? static_cast<int>(launch.tokens - first) : S::tile;
  }
  HYPERJIT_METHOD float *scratch(int helper) const {
    return reinterpret_cast<float *>(memory + scratchAt) + helper * S::scratch;
  }
  HYPERJIT_METHOD float *record(int place, int token) const {
    return reinterpret_cast<float *>(memory + recordsAt) + (place * S::tile + token) * S::record;
  }
  template <int I> HYPERJIT_METHOD float *partials(int turn) const {
    constexpr int at = partialsAt + partialsOf * Table::sumsBefore(I), numbers = S::warps * S::tile * Table::sums(I);
    return reinterpret_cast<float *>(memory + at) + turn * numbers;
  }
  /// Sums of the token with index `own` among those that the owner has of a tile, from `source`.
  template <int I> HYPERJIT_METHOD static int exchange(int turn, int source, int own) {
    constexpr int at = exchangeAt + exchangeOf * Table::sumsBefore(I), bytes = Table::sums(I) * 4;
    return at + ((turn * cluster + source) * owned + own) * bytes;
  }

  template <int I, class First, class... Rest> HYPERJIT_METHOD void initStage(First, Rest... rest) {
    for (int i = 0; i < F::records; ++i)
      initBarrier(ready(I, i), 1);
    for (int i = 0; i < 2; ++i) {
      initBarrier(deposited(I, i), S::warps);
      initBarrier(taken(I, i), 1);
    }
    for (int i = 0; i < depth; ++i) {
      initBarrier(arrived(I, i), 1);
      if constexpr (First::sums > 0)
        arriveAndExpect(arrived(I, i), cluster * ownedHere() * First::sums * 4);
    }
    if constexpr (sizeof...(Rest) > 0)
      initStage<I + 1>(rest...);
  }
  HYPERJIT_METHOD void init() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < allSlots; ++i) {
        initBarrier(full<0>(i), 32);
        initBarrier(empty<0>(i), S::warps);
      }
      for (int i = 0; i < F::records; ++i) {
        initBarrier(prepared(i), hasImage ? 32 : preparers);
        initBarrier(finished(i), S::warps + owners);
      }
      initBarrier(weights(), S::warps + helpers);
      for (int i = 0; i < packings; ++i)
        initBarrier(landed() + 8 * i, packers);
      initStage<0>(Stages()...);
      publishBarriers();
    }
  }
};

#endif

} // namespace hyperjit

#endif
