// What the compiler tells the skeleton clusterColumns: rings of rows, the first record, stages.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_COLUMNS_PLAN_CUH
#define HYPERJIT_COLUMNS_PLAN_CUH

#include "hyperjit/tiles.cuh"

namespace hyperjit {

/// Slots for rows that stages First .. Last read, given back by a sweep of the last one (`Early`: releaseRing) or after
/// it; TokenBytes is an odd multiple of what the lanes of a token read at once, so that neighbouring tokens hit
/// different banks.
template <int Slots, int First, int Last, bool Early, int TokenBytes, class... I> struct Ring {
  using Inputs = List<I...>;
  static constexpr int slots = Slots, first = First, last = Last, tokenBytes = TokenBytes;
  static constexpr bool early = Early;
};
/// Entries [First, First + Count) of a token's record, as they lie in memory from number Skip on, copied by Unit.
template <class Ref_, int Skip, int First, int Count, int Unit> struct RecordCopy {
  using Ref = Ref_;
  static constexpr int skip = Skip, first = First, count = Count, unit = Unit;
};
/// `Tiles` mma tiles of weight gradients that a lane sums for the whole kernel, and the sweeps that make and store
/// them.
template <int Tiles, class... Sweeps> struct Gradients {
  static constexpr int tiles = Tiles;
  /// A cluster's sums are those of chunk `cluster`; zeros are those of chunks that no cluster has.
  template <class N> HYPERJIT_METHOD static void store(N &lane, long long cluster, long long clusters) {
    (Sweeps::store(lane, cluster), ...);
#pragma unroll
    for (int i = 0; i < 4 * Tiles; ++i)
      lane.gradient[i / 4][i % 4] = 0;
    for (long long chunk = cluster + clusters; chunk < lane.launch.chunks; chunk += clusters)
      (Sweeps::store(lane, chunk), ...);
  }
};
template <class G> struct GradientTiles { static constexpr int value = G::tiles; };
template <> struct GradientTiles<Nothing> { static constexpr int value = 0; };
/// Whether a sweep is one of those that sum weight gradients.
template <class G, class Sweep> struct SumsGradient { static constexpr bool value = false; };
template <int Tiles, class... Sweeps, class Sweep> struct SumsGradient<Gradients<Tiles, Sweeps...>, Sweep> {
  static constexpr bool value = (false || ... || Same<Sweeps, Sweep>::value);
};
/// Several clusters share a token's rows: how many, and where in memory the words lie by which each tells the others a
/// token's sums.
template <int Parts, class Ref_> struct Exchange {
  using Ref = Ref_;
  static constexpr int parts = Parts;
};
template <class E> struct PartsOf { static constexpr int value = E::parts; };
template <> struct PartsOf<Nothing> { static constexpr int value = 1; };
/// Tiles between stages, records in shared memory, preparing warps, owning warps, numbers that each of those fetches
/// ahead, what the record begins with (RecordCopy's, or Nothing where stage 0 has maths), words of a lane that stage
/// `HeldFrom` leaves in registers for the next one, bytes of all staged weights, bytes of shared memory, rings, weights
/// that are copied as they were packed, what packs others, weight gradients, long maths of tokens when all sweeps are
/// done (or AtOnce), and what several clusters share.
template <int Lag, int Records, int Preparers, int Owners, int Fetched, class Image_, int HeldFrom, int HeldWords,
          int WeightBytes, int Shared, class Rings_, class Weights_, class Pack_, class Gradients_, class Ends_,
          class Exchange_ = Nothing>
struct Flow {
  using Exchange = Exchange_;
  using Gradients = Gradients_;
  using Ends = Ends_;
  using Image = Image_;
  using Rings = Rings_;
  using Weights = Weights_;
  using Pack = Pack_;
  static constexpr int lag = Lag, records = Records, preparers = Preparers, owners = Owners, fetched = Fetched,
                       heldFrom = HeldFrom, heldWords = HeldWords, weightBytes = WeightBytes, shared = Shared;
};

/// Long maths that owners do as soon as a token's numbers are stored, one lane each: of few tokens, that is the sooner.
template <class Maths> struct AtOnce { using Long = Maths; };
template <class> struct IsAtOnce { static constexpr bool value = false; };
template <class Maths> struct IsAtOnce<AtOnce<Maths>> { static constexpr bool value = true; };

/// Coefficient maths, what of the record sweeps wait for, maths that they do not wait for, what the maths needs of
/// memory, and sweeps.
template <int First, int Count, class S, class Late = Nothing, class Fetch = Nothing> struct Publish;
template <int First, int Count, class Maths, class... Passes, class Late_, class Fetch_>
struct Publish<First, Count, Stage<Maths, Passes...>, Late_, Fetch_> {
  using Stage = hyperjit::Stage<Maths, Passes...>;
  using Late = Late_;
  using Fetch = Fetch_;
  static constexpr int first = First, count = Count, passes = sizeof...(Passes);
  static constexpr int sums = (0 + ... + Passes::slots);
  static constexpr bool maths = !IsNothing<Maths>::value, late = !IsNothing<Late>::value,
                        fetches = !IsNothing<Fetch>::value;
};

/// What is known of all stages together.
template <class... Stages> struct StageTable {
  /// Of each token, padded to whole pieces of 16 bytes.
  HYPERJIT_METHOD static constexpr int sums(int stage) {
    const int all[] = {Stages::sums...};
    return (all[stage] + 3) / 4 * 4;
  }
  HYPERJIT_METHOD static constexpr int sumsBefore(int stage) {
    int result = 0;
    for (int i = 0; i < stage; ++i)
      result += sums(i);
    return result;
  }
  HYPERJIT_METHOD static constexpr int lastSweep() {
    const int passes[] = {Stages::passes...};
    int result = 0;
    for (int i = 0; i < static_cast<int>(sizeof...(Stages)); ++i)
      if (passes[i] > 0)
        result = i;
    return result;
  }
};

/// One of several.
template <int Ring, class First, class... Rest> struct RingAt : RingAt<Ring - 1, Rest...> {};
template <class First, class... Rest> struct RingAt<0, First, Rest...> { using Type = First; };

/// What is known of all rings together.
template <class> struct RingTable;
template <class... R> struct RingTable<List<R...>> {
  static constexpr int count = sizeof...(R);
  static_assert(count <= mostRings, "a lane has places for so many");
  static constexpr bool inSectors = ((R::tokenBytes % 32 == 0) && ...);
  template <int Ring> using At = typename RingAt<Ring, R...>::Type;
  HYPERJIT_METHOD static constexpr int slotsBefore(int ring) {
    const int slots[] = {R::slots..., 0};
    int result = 0;
    for (int i = 0; i < ring; ++i)
      result += slots[i];
    return result;
  }
  /// Of one token in one slot each, times slots.
  HYPERJIT_METHOD static constexpr int bytesBefore(int ring) {
    const int bytes[] = {R::slots * R::tokenBytes..., 0};
    int result = 0;
    for (int i = 0; i < ring; ++i)
      result += bytes[i];
    return result;
  }
};

} // namespace hyperjit

#endif
