// Skeleton of sums over rows and what follows from them, with everything in flight at once: `clusterColumns`.
// SPDX-License-Identifier: Apache-2.0
//
// Split of work. A cluster of `cluster` CTAs owns whole tiles of tokens; each CTA keeps its part of the channels of all
// rows, and its part of the packed weights stays in shared memory, where all warps but the loader pack it before
// anything else if no launch did. Rows come by rings of slots, one for each span of stages that reads them. Stage s
// works on tile k - s Lag while stage 0 works on tile k, so sums have the time of Lag tiles to become coefficients.
//
//   warps                     a tile
//   compute (S::warps)        stage by stage: wait for rows and record, sweep (a slot is given back as soon as its rows are in
//                             registers, where a warp has one chunk of channels), deposit sums, give the record back; sums of
//                             weight gradients (Flow::Gradients) stay in registers to the end
//   loader (1)                copies of the CTA's part of each row into a free slot, 16 bytes a lane: bulk copies of half a
//                             kilobyte, one after the other, take longer than the sweeps; of records, too, that lie in memory
//   preparers                 coefficient maths of stage 0, each CTA for all tokens, where records do not lie in memory
//   sender (1)                adds the compute warps' sums and sends each token's to its owner
//   owners                    a token's owner among the CTAs fetches what the next stage's maths needs of memory while the sums
//                             are on their way, adds all CTAs' sums, does the coefficient maths of the next stage
//                             once, sends what sweeps need of the record to all CTAs, and does the maths that no sweep waits for
//
// Rows that are too wide for a cluster are shared by several (Flow::Exchange): each has an owner of every token, who
// tells the others his cluster's sums by words in memory, waits for theirs, adds all in the order of the clusters, and
// goes on as if he were alone. A word holds a sum and whether it is there: one way through L2, no fence. Each token has
// its own words, which a launch has cleared, so nothing is used twice. All clusters of the grid must run at once; each
// waits only for sums that the others can make with what they have been told before.
//
// Rows that the next stage reads again are held in registers where each warp has one chunk of channels, else in their
// slot, where they may take the place of rows that no later pass reads.
//
// Barriers (arrivals): full (lanes of the loader) and empty (compute warps) of each slot; prepared (preparers, or the
// lanes of the loader) and finished (compute warps and owners) of each record; weights (all warps, the loader's with
// bytes that a launch packed); numbers to pack, by portions (lanes of all warps but the loader); a stage: ready (1 +
// bytes) of each record, deposited[2] (compute warps), taken[2] (1), arrived[depth] (1 + bytes).
//
// Reuse is safe because `finished` keeps a CTA's warps together: no compute warp, owner or preparer begins tile k +
// Records before every compute warp and every owner has done all that it does for tile k. (The loader goes by `empty`,
// the sender by `deposited`, which end once a tile.) So a warp waits at any barrier of tile k for the phase that is
// under way or the one that has just ended: the parity says which. An exchange holds the sums of Records tiles. What
// takes the place of the sums of tile k comes from another CTA: of stage 0, after that has finished tile k, with the
// record that those sums became here; of a later stage, after the record of its own tile has come from here, where all
// owners had finished tile k. Where no sweep waits for stage 1, its owners wait for one another's records, of four
// numbers of the sums: nothing but the word that they were read. A token's sums depend on the split of channels alone:
// CTAs in order, in each its warps in order.
#ifndef HYPERJIT_CLUSTER_COLUMNS_CUH
#define HYPERJIT_CLUSTER_COLUMNS_CUH

#include "hyperjit/columns_block.cuh"
#include "hyperjit/gradient_tiles.cuh"

namespace hyperjit {

#if __CUDA_ARCH__ >= 900

template <class S, class F, class L, class... Stages> struct ColumnsKernel : ColumnsBlock<S, F, L, Stages...> {
  using Block = ColumnsBlock<S, F, L, Stages...>;
  using Block::firstToken, Block::liveTokens, Block::ownedHere, Block::record, Block::uniform, Block::fetched,
      Block::scratch;
  using Block::hasImage, Block::span, Block::depth, Block::owned, Block::ringsAt, Block::weightsAt, Block::firstTile,
      Block::tileStride;
  using Block::launch, Block::memory, Block::base, Block::warp, Block::self, Block::rank, Block::part, Block::slice,
      Block::tiles;
  using Block::moveRegisters, Block::computeRegisters, Block::helperRegisters;
  using Block::owners, Block::preparers, Block::helpers, Block::stages, Block::cluster, Block::parts, Block::channels;
  using Block::prepared, Block::finished, Block::weights, Block::ready, Block::deposited, Block::taken, Block::arrived;
  using typename Block::Rings, typename Block::Table;
  // Nanoseconds between two looks of a warp that nobody waits for yet. Sums on their way to a record have no pause:
  // every CTA waits.
  static constexpr int pause = 200;

  HYPERJIT_METHOD ColumnsKernel(const L &launch, unsigned char *memory) : Block(launch, memory) {}

  //===-- loader ----------------------------------------------------------===//

  /// In the order in which sweeps read them.
  HYPERJIT_METHOD void load() {
    for (int turn = 0; turn < tiles + F::lag * (stages - 1); ++turn) {
      if constexpr (hasImage)
        if (turn < tiles)
          loadRecords(turn, typename F::Image());
      loadRings<0>(turn, typename F::Rings());
    }
  }
  template <int Index, class R, class... Rest> HYPERJIT_METHOD void loadRings(int turn, List<R, Rest...>) {
    const int k = turn - R::first * F::lag;
    if (k >= 0 && k < tiles)
      loadTile<Index, R>(k, typename R::Inputs());
    if constexpr (sizeof...(Rest) > 0)
      loadRings<Index + 1>(turn, List<Rest...>());
  }
  template <int Index, class R, class... I> HYPERJIT_METHOD void loadTile(int k, List<I...>) {
    const int slot = k % R::slots;
    const long long first = firstToken(k);
    if (k >= R::slots)
      waitFor<false, pause>(Block::template empty<Index>(slot), (k / R::slots - 1) & 1);
    constexpr int before = Rings::bytesBefore(Index);
    const unsigned target = base + ringsAt + S::tile * (before + slot * R::tokenBytes);
    (copyRows<I, S::tile, R::tokenBytes, S::width, channels>(launch, target + I::Place::offset, first,
                                                             liveTokens(first), slice * channels, self),
     ...);
    arriveWithCopies(Block::template full<Index>(slot));
  }
  /// The tile's records as they lie in memory.
  template <class... Copies> HYPERJIT_METHOD void loadRecords(int k, List<Copies...>) {
    const int place = k % F::records;
    if (k >= F::records)
      waitFor<false, pause>(finished(place), (k / F::records - 1) & 1);
    if (self == 0)
      expectRecords<0>(place, Stages()...);
    (copyRecords<Copies>(place, firstToken(k)), ...);
    arriveWithCopies(prepared(place));
  }
  template <class Copy> HYPERJIT_METHOD void copyRecords(int place, long long first) {
    constexpr int unit = Copy::unit, pieces = Copy::count / unit;
    const int live = liveTokens(first);
#pragma unroll
    for (int i = self; i < S::tile * pieces; i += 32) {
      const int token = i / pieces, piece = i % pieces;
      if (token < live)
        copyAsync<4 * unit>(sharedAddress(record(place, token) + Copy::first + unit * piece),
                            Copy::Ref::at(launch, first + token) + Copy::skip + unit * piece);
    }
  }
  template <class... W> HYPERJIT_METHOD void loadWeights(List<W...>) {
    if (self == 0) {
      arriveAndExpect(weights(), (0 + ... + W::stagedBytes));
      (loadWeight<W>(), ...);
    }
    __syncwarp();
  }
  template <class W> HYPERJIT_METHOD void loadWeight() {
    constexpr int bytes = W::stagedBytes / W::R;
    const char *source = reinterpret_cast<const char *>(W::Ref::at(launch, 0)) + static_cast<long long>(slice) * bytes;
    for (int row = 0; row < W::R; ++row)
      bulkLoad(base + weightsAt + W::offset + row * bytes,
               source + static_cast<long long>(row) * W::chunks * W::chunkBytes, bytes, weights());
  }

  //===-- preparers -------------------------------------------------------===//

  template <int I, class First, class... Rest> HYPERJIT_METHOD void expectRecords(int place, First, Rest... rest) {
    if constexpr (I > 0 && First::count > 0)
      arriveAndExpect(ready(I, place), S::tile * First::count * 4);
    if constexpr (sizeof...(Rest) > 0)
      expectRecords<I + 1>(place, rest...);
  }
  template <class Maths, class... P, int A, int C, class Late, class Fetch, class... Rest>
  HYPERJIT_METHOD void prepare(int mine, Publish<A, C, Stage<Maths, P...>, Late, Fetch>, Rest...) {
    for (int k = 0; k < tiles; ++k) {
      const int place = k % F::records;
      if (k >= F::records)
        waitFor<false, pause>(finished(place), (k / F::records - 1) & 1);
      if (mine == 0 && self == 0)
        expectRecords<0>(place, Stages()...);
      if constexpr (!IsNothing<Maths>::value) {
        Token<float, L> token{launch, 0, nullptr, scratch(mine), self, uniform()};
        // Beyond the last token, the last one's numbers again: without a branch, loads of two tokens are in flight
        // together.
#pragma unroll 2
        for (int j = 0; j < (S::tile + preparers - 1) / preparers; ++j) {
          const int i = j * preparers + mine < S::tile ? j * preparers + mine : S::tile - 1;
          token.token = firstToken(k) + i < launch.tokens ? firstToken(k) + i : launch.tokens - 1;
          token.record = record(place, i);
          Maths::run(token);
        }
      }
      __syncwarp();
      if (self == 0)
        arrive(prepared(place));
    }
  }

  //===-- compute warps ---------------------------------------------------===//

  static constexpr int gradientTiles = GradientTiles<typename F::Gradients>::value; // of one chunk of channels
  static constexpr int chunks = channels / S::chunk,
                       rounds = (chunks + S::warps - 1) / S::warps; // of warps over the chunks
  /// Whether the warp has a chunk in the round: in the last one some may have none.
  HYPERJIT_METHOD bool sweeps(int round) const { return chunks % S::warps == 0 || round * S::warps + warp < chunks; }
  struct Held {
    unsigned words[F::lag + 1][F::heldWords > 0 ? F::heldWords : 1];
    float gradient[gradientTiles > 0 ? rounds *gradientTiles : 1][4];
  };
  HYPERJIT_METHOD void compute() {
    Held held = {};
    for (int turn = 0; turn < tiles + F::lag * (stages - 1); ++turn) {
      if constexpr (F::heldWords > 0) {
#pragma unroll
        for (int age = F::lag; age > 0; --age)
#pragma unroll
          for (int i = 0; i < F::heldWords; ++i)
            held.words[age][i] = held.words[age - 1][i];
      }
      sweepStages<0>(turn, held, Stages()...);
    }
    if constexpr (gradientTiles > 0)
      storeGradients(held);
  }
  HYPERJIT_METHOD void storeGradients(Held &held) {
    Lane<float, L, S::width, S::tokens, S::v, 0> lane{launch};
#pragma unroll
    for (int round = 0; round < rounds; ++round) {
      lane.channel = slice * channels + (round * S::warps + warp) * S::chunk + self % S::channelLanes * S::v;
      lane.gradient = held.gradient + round * gradientTiles;
      if (sweeps(round))
        F::Gradients::store(lane, firstTile, tileStride);
    }
  }
  template <int I, class First, class... Rest>
  HYPERJIT_METHOD void sweepStages(int turn, Held &held, First, Rest... rest) {
    const int k = turn - I * F::lag;
    if constexpr (First::passes > 0)
      if (k >= 0 && k < tiles)
        sweep<I, First>(k, held, typename First::Stage());
    if constexpr (sizeof...(Rest) > 0)
      sweepStages<I + 1>(turn, held, rest...);
  }
  /// Rings that begin to be read at the stage are waited for; those whose last stage it was are given back.
  template <int I, int Ring> HYPERJIT_METHOD void waitForRings(int k) {
    if constexpr (Ring < Rings::count) {
      using R = typename Rings::template At<Ring>;
      if constexpr (R::first == I)
        waitFor(Block::template full<Ring>(k % R::slots), (k / R::slots) & 1);
      waitForRings<I, Ring + 1>(k);
    }
  }
  template <int I, int Ring> HYPERJIT_METHOD void giveBack(int k) {
    if constexpr (Ring < Rings::count) {
      using R = typename Rings::template At<Ring>;
      if constexpr (R::last == I && !R::early)
        arrive(Block::template empty<Ring>(k % R::slots));
      giveBack<I, Ring + 1>(k);
    }
  }
  template <int I, class P, class Maths, class... Passes>
  HYPERJIT_METHOD void sweep(int k, Held &held, Stage<Maths, Passes...>) {
    const int place = k % F::records, parity = (k / F::records) & 1;
    if constexpr (I == 0) {
      if (k == 0)
        waitFor(weights(), 0);
      waitFor(prepared(place), parity);
    } else if constexpr (P::count > 0) {
      waitFor<true>(ready(I, place), parity);
    }
    waitForRings<I, 0>(k);
    int before = 0;
    (sweepPass<I, Passes>(k, held, before), ...);
    __syncwarp();
    if (self == 0) {
      if constexpr (P::sums > 0)
        arrive(deposited(I, k & 1));
      giveBack<I, 0>(k);
      if constexpr (I == Table::lastSweep())
        arrive(finished(place));
    }
  }
  template <int Ring, class N> HYPERJIT_METHOD void placeRings(N &lane, int t, int index, int k) {
    if constexpr (Ring < Rings::count) {
      using R = typename Rings::template At<Ring>;
      constexpr int before = Rings::bytesBefore(Ring);
      lane.empty[Ring] = Block::template empty<Ring>(k % R::slots);
      lane.staged[Ring][t] = memory + ringsAt + S::tile * before + (k % R::slots * S::tile + index) * R::tokenBytes;
      placeRings<Ring + 1>(lane, t, index, k);
    }
  }
  template <int I, class P> HYPERJIT_METHOD void sweepPass(int k, Held &held, int &before) {
    Lane<float, L, S::width, S::tokens, S::v, P::plain, P::tiles, P::squares> lane{launch};
    const int row = self / S::channelLanes, column = self % S::channelLanes;
    const long long first = firstToken(k);
    lane.uniform = uniform();
    lane.weights = memory + weightsAt;
    lane.gradient = held.gradient;
    lane.records = record(k % F::records, 0);
    lane.recordStride = S::record;
    lane.held = held.words[I == F::heldFrom + 1 ? F::lag : 0];
#pragma unroll
    for (int t = 0; t < S::tokens; ++t) {
      const int index = t * S::tokenLanes + row;
      lane.token[t] = first + index;
      lane.live[t] = lane.token[t] < launch.tokens;
      lane.record[t] = record(k % F::records, index);
      placeRings<0>(lane, t, index, k);
      clearSums(lane, t);
    }
    lane.active = true;
    auto sweepChunk = [&](int chunk) {
      lane.local = chunk * S::chunk + column * S::v;
      lane.channel = slice * channels + lane.local;
      P::Sweep::run(lane);
    };
    if constexpr (chunks == S::warps) {
      sweepChunk(warp);
    } else if constexpr (SumsGradient<typename F::Gradients,
                                      typename P::Sweep>::value) { // in registers: each round has its own
#pragma unroll
      for (int round = 0; round < rounds; ++round) {
        lane.gradient = held.gradient + round * gradientTiles;
        if (sweeps(round))
          sweepChunk(round * S::warps + warp);
      }
    } else {
#pragma unroll 1
      for (int chunk = warp; chunk < chunks; chunk += S::warps)
        sweepChunk(chunk);
    }
    if constexpr (P::slots > 0) {
      if (before == 0 && k >= 2)
        waitFor(taken(I, k & 1), (k / 2 - 1) & 1);
      depositSums<S, P>(lane, Block::template partials<I>(k & 1) + before * S::warps * S::tile);
      before += P::slots;
    }
  }

  //===-- sender ----------------------------------------------------------===//

  HYPERJIT_METHOD void send() {
    for (int turn = 0; turn < tiles + F::lag * (stages - 1); ++turn)
      sendStages<0>(turn, Stages()...);
  }
  template <int I, class First, class... Rest> HYPERJIT_METHOD void sendStages(int turn, First, Rest... rest) {
    const int k = turn - I * F::lag;
    if constexpr (First::sums > 0)
      if (k >= 0 && k < tiles)
        sendSums<I>(k, typename First::Stage());
    if constexpr (sizeof...(Rest) > 0)
      sendStages<I + 1>(turn, rest...);
  }
  template <int I, class Maths, class... Passes> HYPERJIT_METHOD void sendSums(int k, Stage<Maths, Passes...>) {
    waitFor(deposited(I, k & 1), (k / 2) & 1);
    sendPasses<I, 0>(k, List<Passes...>());
    __syncwarp();
    if (self == 0)
      arrive(taken(I, k & 1));
  }
  template <int I, int Before, class P, class... Rest> HYPERJIT_METHOD void sendPasses(int k, List<P, Rest...>) {
    if constexpr (P::slots > 0) {
      constexpr int group = P::slots % 4 == 0 && Before % 4 == 0 ? 4 : 1, groups = S::tile * P::slots / group;
      const float *source = Block::template partials<I>(k & 1) + Before * S::warps * S::tile;
      const int turn = k / span % depth;
#pragma unroll
      for (int i = self; i < groups; i += 32) {
        float sum[group];
#pragma unroll
        for (int e = 0; e < group; ++e)
          sum[e] = 0;
#pragma unroll
        for (int w = 0; w < S::warps; ++w) {
          float part[group];
          loadVector(source + w * S::tile * P::slots + i * group, part);
#pragma unroll
          for (int e = 0; e < group; ++e)
            sum[e] += part[e];
        }
        const int token = i * group / P::slots, slot = Before + i * group % P::slots;
        const int owner = span > 1 ? token + S::tile * (k % span) : token % cluster,
                  own = span > 1 ? 0 : token / cluster;
        const unsigned target = remoteAddress(base + Block::template exchange<I>(turn, rank, own) + 4 * slot, owner);
        const unsigned barrier = remoteAddress(arrived(I, turn), owner);
        if constexpr (group == 4)
          storeRemote(target, sum, barrier);
        else
          storeRemote(target, sum[0], barrier);
      }
    }
    if constexpr (sizeof...(Rest) > 0)
      sendPasses<I, Before + P::slots>(k, List<Rest...>());
  }

  //===-- owners ----------------------------------------------------------===//

  HYPERJIT_METHOD void own(int mine) {
    for (int turn = 0; turn < tiles + F::lag * (stages - 2); ++turn)
      ownStages<0>(turn, mine, Stages()...);
  }
  /// Sums of stage I become the record of stage I + 1.
  template <int I, class First, class Second, class... Rest>
  HYPERJIT_METHOD void ownStages(int turn, int mine, First, Second, Rest... rest) {
    const int k = turn - I * F::lag;
    if (k >= 0 && k < tiles)
      ownTile<I, First, Second>(k, mine, typename First::Stage(), typename Second::Stage());
    if constexpr (sizeof...(Rest) > 0)
      ownStages<I + 1>(turn, mine, Second(), rest...);
  }
  template <int I, class First, class Second, class FirstMaths, class... Passes, class Maths, class... Others>
  HYPERJIT_METHOD void ownTile(int k, int mine, Stage<FirstMaths, Passes...>, Stage<Maths, Others...>) {
    const int place = k % F::records, sequence = k / span, turn = sequence % depth;
    const int firstOwn = span > 1 ? rank - S::tile * (k % span) : rank; // the CTA's first token of the tile
    if (I == 0 && k >= F::records)
      waitFor<false, pause>(finished(place), (k / F::records - 1) & 1);
    if (firstOwn >= 0 && firstOwn < S::tile) {
      Token<float, L> token{launch, 0, nullptr, scratch(preparers + mine), self, uniform(), fetched(mine)};
#pragma unroll 1
      for (int i = (mine + owners - sequence * ownedHere() % owners) % owners; i < ownedHere(); i += owners) {
        const int index = firstOwn + i * cluster;
        token.token = firstToken(k) + index;
        token.record = record(place, index);
        // While sums are on their way.
        if constexpr (Second::fetches)
          if (token.token < launch.tokens)
            Second::Fetch::run(token);
        if constexpr (hasImage)
          waitFor(prepared(place), (k / F::records) & 1);
        waitFor<true>(arrived(I, turn), (sequence / depth) & 1);
        if (i == 0 && self == 0)
          arriveAndExpect(arrived(I, turn), cluster * ownedHere() * First::sums * 4);
        int before = 0;
        (addSums<I, Passes>(token, turn, i, before), ...);
        __syncwarp();
        if constexpr (Second::maths)
          if (token.token < launch.tokens)
            Maths::run(token);
        __syncwarp();
        if constexpr (Second::count > 0) {
          constexpr int pieces = Second::count / 4;
#pragma unroll
          for (int piece = self; piece < pieces * cluster; piece += 32) {
            const int to = piece / pieces;
            float values[4];
            const float *source = token.record + Second::first + 4 * (piece % pieces);
            loadVector(source, values);
            storeRemote(remoteAddress(sharedAddress(source), to), values, remoteAddress(ready(I + 1, place), to));
          }
        }
        if constexpr (Second::late)
          if (part == 0 && token.token < launch.tokens)
            Second::Late::run(token);
        if constexpr (I + 2 == stages && IsAtOnce<typename F::Ends>::value) {
          __syncwarp();
          if (part == 0 && self == 0 && token.token < launch.tokens) {
            TokenOfLaunch<float, L> one{{launch, token.token, nullptr}};
            F::Ends::Long::run(one);
          }
        }
        __syncwarp();
      }
    }
    if constexpr (I + 2 == stages) {
      __syncwarp();
      if constexpr (Second::passes == 0 &&
                    Second::count > 0) { // a tile later, when all blocks have long read their sums
        if (k > 0)
          finish<I + 1>(k - 1);
        if (k + 1 == tiles)
          finish<I + 1>(k);
      } else if (self == 0) {
        arrive(finished(place));
      }
    }
  }
  /// Of a tile whose records no sweep waits for.
  template <int I> HYPERJIT_METHOD void finish(int k) {
    waitFor<true>(ready(I, k % F::records), (k / F::records) & 1);
    if (self == 0)
      arrive(finished(k % F::records));
  }
  template <int I> HYPERJIT_METHOD float sumOfCluster(int turn, int own, int slot) const {
    float sum = 0;
#pragma unroll
    for (int source = 0; source < cluster; ++source)
      sum += reinterpret_cast<const float *>(memory + Block::template exchange<I>(turn, source, own))[slot];
    return sum;
  }
  template <int I, class P> HYPERJIT_METHOD void addSums(const Token<float, L> &token, int turn, int own, int &before) {
    if constexpr (P::slots > 0) {
      constexpr int rounds = (P::slots + 31) / 32;
      float sum[rounds];
#pragma unroll
      for (int i = 0; i < rounds; ++i)
        sum[i] = self + 32 * i < P::slots ? sumOfCluster<I>(turn, own, before + self + 32 * i) : 0;
      if constexpr (parts > 1) {
        constexpr int all = Table::sumsBefore(stages); // words of a cluster
        if (token.token < launch.tokens)
          exchangeSums<parts, all, P::slots>(F::Exchange::Ref::at(launch, token.token), part,
                                             Table::sumsBefore(I) + before + self, self, sum);
      }
#pragma unroll
      for (int i = 0; i < rounds; ++i) {
        const int slot = self + 32 * i, entry = slot < P::slots ? P::record(slot) : -1;
        if (entry >= 0)
          token.record[entry] = sum[i];
      }
      before += P::slots;
    }
  }

  /// A lane a token: long maths that no sweep waits for, of the tokens whose sums this block has added. Weights and
  /// rings have been read.
  template <class Maths> HYPERJIT_METHOD void end(Maths) {
    if (part > 0)
      return;
    const int of = ownedHere(), first = span > 1 ? rank / S::tile : 0,
              own = tiles > first ? (tiles - first + span - 1) / span * of : 0;
    constexpr int room = (Block::recordsAt - Block::weightsAt) / (4 * 32 * S::warps);
    TokenOfWarp<float, L, room, false> token{
        {launch, 0, nullptr}, reinterpret_cast<float *>(memory + Block::weightsAt) + 32 * room * warp, false};
    for (int i = 32 * warp; i < own; i += 32 * S::warps) {
      const int mine = i + self, index = span > 1 ? rank % S::tile : rank + mine % of * cluster;
      token.token = firstToken(mine / of * span + first) + index;
      token.live = mine < own && token.token < launch.tokens;
      const long long least = __shfl_sync(0xffffffffu, token.token, 0);
      if (least >= launch.tokens) // a last tile with fewer tokens
        return;
      if (!token.live)
        token.token = least;
      Maths::run(token);
    }
  }

  HYPERJIT_METHOD void run() {
    constexpr bool ends = !IsNothing<typename F::Ends>::value && !IsAtOnce<typename F::Ends>::value;
    const int role = warp - S::warps;
    if (role >= 0) {
      if constexpr (moveRegisters)
        giveUpRegisters<helperRegisters>();
      help(role);
      __syncwarp();
      if constexpr (ends)
        __syncthreads();
    } else {
      if constexpr (moveRegisters)
        takeRegisters<computeRegisters>();
      compute();
      __syncwarp();
      if constexpr (ends) { // here, where lanes have registers for it
        __syncthreads();
        ColumnsKernel(launch, memory).end(typename F::Ends()); // anew: no number is kept for it through all sweeps
      }
    }
  }
  HYPERJIT_METHOD void help(int role) {
    if (role == 0) {
      loadWeights(typename F::Weights());
      return load();
    }
    if (role == 1)
      return send();
    waitFor(weights(), 0); // and numbers that all tokens share
    if (role < 2 + owners)
      return own(role - 2);
    if constexpr (preparers > 0)
      prepare(role - 2 - owners, Stages()...);
  }
};

#endif

/// Persistent grid of clusters.
template <class S, class F, class Uniform, class... Stages, class L>
HYPERJIT_DEVICE void clusterColumns(const L &launch) {
#if __CUDA_ARCH__ >= 900
  unsigned char *memory = dynamicShared();
  using Kernel = ColumnsKernel<S, F, L, Stages...>;
  Kernel kernel(launch, memory);
  kernel.init();
  clusterBarrier();
  waitForLaunchesBefore();
  // Rows are on their way while the other warps make what the first sweep needs beside them.
  if (kernel.warp != S::warps) {
    if constexpr (!IsNothing<Uniform>::value)
      if (kernel.warp == S::warps + 1) {
        Token<float, L> token{launch, 0, reinterpret_cast<float *>(memory + Kernel::uniformAt), kernel.scratch(0),
                              kernel.self};
        Uniform::run(token);
      }
    if constexpr (!IsNothing<typename F::Pack>::value) {
      Packer<float, L, S::width, Kernel::packers> packer{
          launch, memory + Kernel::weightsAt, kernel.slice,
          static_cast<int>(threadIdx.x) - (kernel.warp > S::warps ? 32 : 0), kernel.landed()};
      F::Pack::run(packer);
    }
    __syncwarp();
    if (kernel.self == 0)
      arrive(kernel.weights());
  }
  if constexpr (IsNothing<typename F::Pack>::value)
    __syncthreads(); // little to wait for; where warps come one by one, the assembler spills words of full lanes
  kernel.run();
  __syncwarp();
  clusterBarrier(); // no CTA leaves while others may write to it
#endif
}

} // namespace hyperjit

#endif
