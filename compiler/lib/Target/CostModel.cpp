//===- CostModel.cpp - What a schedule costs, from sizes alone ------------===//
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Target/CostModel.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

using namespace hyperjit;

static int64_t divideCeil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Best first; what costs the same keeps its order, so that the list is the same on every machine.
template <typename Numbers, typename Cost> static void sortAfterFirst(std::vector<Numbers> &all, Cost cost) {
  std::vector<std::pair<double, Numbers>> priced;
  for (const Numbers &numbers : all)
    priced.emplace_back(cost(numbers), numbers);
  std::stable_sort(priced.begin() + 1, priced.end(), [](auto &a, auto &b) { return a.first < b.first; });
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = priced[i].second;
}

//===----------------------------------------------------------------------===//
// CPU
//===----------------------------------------------------------------------===//

// A projection keeps 4 c sums, c weights and one vector of rows; an expansion 4 u sums, u weights, one coefficient.
int64_t hyperjit::mostInRegisters(const CpuShape &shape) { return (shape.registers - 1) / 5; }
int64_t hyperjit::mostSums(const CpuShape &shape) { return shape.registers - 4; }

int64_t hyperjit::gradientColumns(const CpuShape &shape, int64_t unroll) {
  return std::clamp<int64_t>((shape.registers - 1 - unroll) / unroll, 1, shape.registers >= 32 ? 6 : 4);
}

BlockNumbers hyperjit::chooseBlocks(const KernelSizes &sizes, const CpuShape &shape, BlockNumbers given) {
  bool many = shape.registers >= 32;
  auto fill = [](int64_t &number, int64_t rule) { number = number < 0 ? rule : number; };
  fill(given.ahead, 1);
  fill(given.columns, many ? 6 : 3);
  fill(given.stream, 32); // as much as a last-level cache
  fill(given.sums, many ? 20 : 9);
  fill(given.unroll, many ? 4 : 2);
  fill(given.vector, shape.vectorBytes);
  if (given.tokens < 0)
    // Weights are read once a block, so blocks are large; rows that a later phase reads again must still be in cache.
    for (given.tokens = 16; given.tokens > 4 && given.tokens * sizes.heldBytes > shape.blockBytes;)
      given.tokens /= 2;
  return given;
}

/// Each chunk costs a sum of its own at the end; few chunks leave processors idle.
int64_t hyperjit::chooseChunks(int64_t partialBytes) {
  return partialBytes > (256 << 10) ? 16 : partialBytes ? 32 : 256;
}

double hyperjit::blocksCost(const KernelSizes &s, const CpuShape &shape, const BlockNumbers &n) {
  // Bytes a nanosecond of one core, of memory and of second-level cache; nanoseconds of an instruction of either of two
  // ports.
  constexpr double memory = 8, cache = 40, port = 0.15;
  double tokens = double(n.tokens), lanes = double(n.vector) / double(s.elementBytes);
  double rows = double(s.wideBytes) / memory;
  double held = tokens * double(s.heldBytes), fits = double(shape.blockBytes);
  if (held > fits)
    rows += double(s.heldBytes) / memory * (1 - fits / held);
  if (!n.ahead)
    rows *= 1.2;
  double weights = double(s.weightBytes) / tokens / cache;
  // A multiply-add needs a port; so does each load: (4 + c) a step of 4 c, (u + 4) of 4 u.
  auto product = [&](int64_t work, double loads) { return double(work) / lanes * port * std::max(1.0, loads); };
  auto c = double(n.columns), u = double(n.unroll);
  double g = double(gradientColumns(shape, n.unroll));
  double products = product(s.projected, (4 + c) / (4 * c) * 1.5) + product(s.expanded, (u + 4) / (4 * u) * 1.5) +
                    product(s.gradients, (u + g) / (g * u) * 1.5);
  double passes = double(std::max<int64_t>(1, divideCeil(s.sums, n.sums)));
  double passTime = double(s.heldBytes) / cache * (passes - 1) + double(s.sums * s.width) / lanes * port;
  double maths = double(s.coefficients) / std::min(lanes, tokens) * 4 * port + 60 / tokens;
  // A call of 4096 tokens stands for all.
  double partials = double(n.chunks * s.partialBytes) / memory / 4096;
  double time = rows + weights + products + passTime + maths;
  double idle = time / double(n.chunks) * 2;
  return time + partials + idle;
}

std::vector<BlockNumbers> hyperjit::listBlocks(const KernelSizes &sizes, const CpuShape &shape,
                                               const BlockNumbers &first) {
  std::vector<BlockNumbers> all = {first};
  auto among = [](bool matters, int64_t chosen, std::initializer_list<int64_t> others, int64_t least, int64_t most) {
    std::vector<int64_t> values = {chosen};
    if (matters)
      for (int64_t value : others)
        if (value >= least && value <= most && std::find(values.begin(), values.end(), value) == values.end())
          values.push_back(value);
    return values;
  };
  bool products = sizes.expanded > 0 || sizes.gradients > 0;
  int64_t most = mostInRegisters(shape);
  auto aheads = among(true, first.ahead, {0, 1}, 0, 1);
  auto columns = among(sizes.projected > 0, first.columns, {2, 3, 4, 6}, 1, most);
  auto unrolls = among(products, first.unroll, {1, 2, 4, 6}, 1, most);
  auto sums = among(sizes.sums > 6, first.sums, {6, 9, 14, 20, 28}, 1,
                    std::min(mostSums(shape), std::max(first.sums, sizes.sums)));
  auto tokens = among(true, first.tokens, {4, 8, 16, 32}, 4, 64);
  auto vectors = among(true, first.vector, {32, 64}, 32, shape.vectorBytes);
  auto chunks = among(sizes.partialBytes > 0, first.chunks, {8, 16, 32, 64}, 1, 256);
  for (int64_t vector : vectors)
    for (int64_t token : tokens)
      for (int64_t column : columns)
        for (int64_t unroll : unrolls)
          for (int64_t sum : sums)
            for (int64_t ahead : aheads)
              for (int64_t chunk : chunks) {
                BlockNumbers numbers{ahead, chunk, column, first.stream, sum, token, unroll, vector};
                if (!(numbers == first))
                  all.push_back(numbers);
              }
  sortAfterFirst(all, [&](const BlockNumbers &numbers) { return blocksCost(sizes, shape, numbers); });
  return all;
}

//===----------------------------------------------------------------------===//
// CUDA
//===----------------------------------------------------------------------===//

double hyperjit::rowsCost(const KernelSizes &s, const GpuShape &shape, const RowNumbers &n) {
  double time = double(s.wideBytes) / shape.copyGBs;
  double threads = double(n.warps) * 32, resident = double(std::max<int64_t>(n.blocks, 1)) * threads;
  // Registers: what is alive at this vector against what so many threads leave.
  bool tiled = n.planes > 0;
  double repeat = tiled && n.tokens > 8 ? double(n.tokens) / 8 : 1;
  double wanted = 30 + (double(s.liveRows * n.vector) + double(std::min(s.slotSums, n.slots))) * repeat *
                           double(s.elementBytes) / 4;
  double there = std::min(255.0, double(shape.registers) / resident);
  if (wanted > there)
    time *= 1 + (wanted - there) / 64;
  // Lanes that a row leaves idle in its last round.
  double pieces = double(divideCeil(s.width, n.vector)),
         lanes = 32.0 / double(std::clamp<int64_t>(n.tokens, 1, 8)) * (n.apart ? 1 : double(n.warps));
  lanes *= double(n.cluster);
  double waste = std::ceil(pieces / lanes) * lanes / pieces;
  time *= 0.75 + 0.25 * waste;
  // Bytes in flight an SM; about 40 KB hide the latency of memory.
  double flying = std::min(resident, double(shape.processorThreads)) *
                  double(n.vector * s.storageBytes * std::max<int64_t>(1, s.liveRows / 2));
  time *= std::sqrt(std::max(1.0, 40960 / flying));
  // Each further sweep reads rows again, from L2 at best.
  const int64_t passes = std::max<int64_t>(1, divideCeil(s.slotSums, std::max<int64_t>(1, n.slots)));
  time *= 1 + 0.3 * double(passes - 1);
  if (n.cluster > 1)
    time *= 1.05;
  if (s.reduces && s.projected > 0 && !n.apart)
    time *= 1.5; // the other warps' sums are waited for
  if (s.projected > 0 && !tiled)
    time *= 1.5; // multiply-adds outside of tensor cores
  if (tiled) {
    // Planes of weights come from L2 for each tile; where warps have tokens of their own, for those of all warps. (n=8
    // of 4096 channels forward, an H100: 10.5 MB for each 16 of 8192 tokens, in 1180 us: 1.5 times what a copy moves.)
    double tokens = double(std::max<int64_t>(n.tokens, 8)) * (n.apart ? double(n.warps) : 1);
    time = std::max(time, 4 * double(s.projected + passes * s.expanded) / tokens / (1.5 * shape.copyGBs));
  }
  return time;
}

int64_t hyperjit::clustersAtOnce(int64_t processors, int64_t cluster) { return processors * 10 / (11 * cluster); }

double hyperjit::columnsCost(const KernelSizes &s, const GpuShape &shape, const RowNumbers &n) {
  // Measured at four streams of 4096 channels: 0.9 of copy bandwidth with two tiles between stages or two tokens a
  // lane, some percent less where sums wait for the exchange of sixteen blocks or several clusters, where tiles lie
  // between the stages of others, and where a block has few of a row's channels.
  double time = double(s.wideBytes) / shape.copyGBs / 0.9;
  if (n.cluster >= 16 || n.parts > 1 ? n.lag * n.tokens < 16 : n.lag > 1)
    time *= 1.03;
  int64_t parts = std::max<int64_t>(n.parts, 1), blocks = parts * n.cluster;
  if (parts > 1) {
    // Sums go by way of memory (an H100, 5120 to 8192 channels: 1.15 to 1.35 of one cluster's time, measured or scaled
    // from 4096). Clusters that find too few others for a row are left out.
    int64_t at = clustersAtOnce(shape.processors, n.cluster) / parts * blocks;
    time *= 1.2 * std::max(1.0, 0.85 * double(shape.processors) / double(std::max<int64_t>(at, 1)));
  }
  return time * (1 + 0.1 * double(blocks) * 160 / double(s.width));
}

std::vector<RowNumbers> hyperjit::listColumns(const KernelSizes &sizes, const GpuShape &shape,
                                              const RowNumbers &first) {
  std::vector<RowNumbers> all = {first};
  for (int64_t cluster : {first.cluster, int64_t(2), int64_t(4), int64_t(5), int64_t(8), int64_t(16)})
    for (int64_t vector : {8, 4})
      for (int64_t tokens : {8, 16})
        for (int64_t lag : {2, 1, 3}) {
          RowNumbers numbers;
          numbers.columns = true, numbers.cluster = cluster, numbers.tokens = tokens, numbers.lag = lag,
          numbers.vector = vector;
          all.push_back(numbers);
        }
  // Parts of a row that several clusters share, where one cluster has no room for it: narrow ones of many streams.
  for (int64_t cluster : {4, 8, 16})
    for (int64_t parts = 2; parts <= std::min<int64_t>(8, clustersAtOnce(shape.processors, cluster)); ++parts)
      if (int64_t channels = sizes.width / (cluster * parts);
          sizes.width % (cluster * parts) == 0 && channels >= 64 && channels <= 320)
        for (int64_t vector : {8, 4})
          for (int64_t lag : {2, 3, 4, 1}) {
            RowNumbers numbers;
            numbers.columns = true, numbers.cluster = cluster, numbers.parts = parts, numbers.lag = lag,
            numbers.vector = vector;
            numbers.tokens = 8;
            all.push_back(numbers);
          }
  sortAfterFirst(all, [&](const RowNumbers &numbers) { return columnsCost(sizes, shape, numbers); });
  return all;
}

std::vector<RowNumbers> hyperjit::listRows(const KernelSizes &sizes, const GpuShape &shape, const RowNumbers &first) {
  std::vector<RowNumbers> all = {first};
  RowNumbers plain = first; // warps that share a token's channels are as many as there is work for
  plain.ranges = plain.apart = 0;
  auto add = [&](const RowNumbers &numbers) {
    bool legal = sizes.width % numbers.vector == 0 && numbers.warps * 32 * numbers.blocks <= shape.processorThreads &&
                 numbers.vector * sizes.storageBytes <= 16 && numbers.cluster <= shape.maxCluster &&
                 (numbers.cluster == 1 || sizes.reduces);
    if (legal && std::find(all.begin(), all.end(), numbers) == all.end())
      all.push_back(numbers);
  };
  bool tiled = first.planes > 0;
  for (int64_t vector : {first.vector, int64_t(1), int64_t(2), int64_t(4), int64_t(8)})
    for (int64_t warps : {first.warps, int64_t(2), int64_t(4), int64_t(6), int64_t(8), int64_t(12), int64_t(16)})
      for (int64_t blocks : {first.blocks, int64_t(1), int64_t(2), int64_t(3), int64_t(4)})
        for (int64_t tokens : {first.tokens, int64_t(1), int64_t(2), int64_t(4), int64_t(8), int64_t(16)}) {
          if (tiled ? tokens < 8 || vector < 4 : tokens > 8)
            continue;
          for (int64_t slots : {first.slots, int64_t(32), int64_t(64), int64_t(96)}) {
            if (slots != first.slots && sizes.slotSums <= std::min(slots, first.slots))
              continue;
            for (int64_t cluster : {first.cluster, int64_t(2), int64_t(4)}) {
              RowNumbers numbers = plain;
              numbers.vector = vector, numbers.warps = warps, numbers.blocks = blocks, numbers.tokens = tokens;
              numbers.slots = slots, numbers.cluster = cluster;
              add(numbers);
            }
          }
        }
  if (sizes.partialBytes > 0)
    for (int64_t chunks : {8, 16, 32, 64}) {
      RowNumbers numbers = first;
      numbers.chunks = chunks;
      add(numbers);
    }
  if (tiled && sizes.reduces)
    for (int64_t vector : {4, 8}) {
      RowNumbers numbers = plain;
      numbers.ranges = numbers.warps = 8, numbers.tokens = 8, numbers.blocks = 1, numbers.cluster = 1;
      numbers.vector = vector;
      add(numbers);
      numbers.apart = fullEnough;
      add(numbers);
    }
  if (tiled) {
    // Without tensor cores the rules choose the shape anew.
    RowNumbers numbers;
    numbers.planes = 0, numbers.chunks = first.chunks;
    numbers.vector = first.vector, numbers.warps = first.warps, numbers.blocks = 1, numbers.tokens = 1;
    numbers.slots = first.slots, numbers.cluster = 1;
    add(numbers);
  }
  sortAfterFirst(all, [&](const RowNumbers &numbers) { return rowsCost(sizes, shape, numbers); });
  return all;
}
