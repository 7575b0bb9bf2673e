// Machine.cpp - fibers, who goes on next, barriers, and copies under way.
// SPDX-License-Identifier: Apache-2.0
#include "Machine.h"

#include <algorithm>
#include <bit>
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace hyperjit::emulator;

Thread *hyperjit::emulator::thread = nullptr;

namespace {

constexpr size_t stackBytes = 256 << 10;
constexpr int slotBytes = 64, mostShared = 227 << 10, mostTogether = 64;

struct Barrier {
  int arrivals = 0, pending = 0, bytes = 0, phase = 0; ///< arrivals 0: there is none
};

struct Copy {
  unsigned target;
  const void *source;
  int bytes;
};

struct Fiber {
  Thread thread;
  jmp_buf place;
  ucontext_t context;
  void *stack = nullptr;
  bool started = false;
  unsigned waitBarrier = 0;
  int waitParity = 0;
  const unsigned long long *waitWord = nullptr; ///< else of the barrier
  std::vector<Copy> copies;                     ///< that no arrival follows yet
};

/// Which lanes do what, a bit each; no bit: the lane has returned.
struct Warp {
  /// `block` among all that run together, cluster after cluster.
  int block = 0, firstFiber = 0, turn = 0;
  uint64_t lookedAt = 0; ///< phases that had ended when the waiting lanes were last looked at
  uint32_t ready = 0, atWarp = 0, atPhase = 0, atBlock = 0, atCluster = 0;
  unsigned char slots[2][32][slotBytes];
  uint32_t alive() const { return ready | atWarp | atPhase | atBlock | atCluster; }
};

struct Block {
  unsigned char *shared = nullptr;
  int bytes = 0, threads = 0;    ///< threads that have not returned
  std::vector<Barrier> barriers; ///< one for every eight bytes
};

/// What lands by itself: copies in any order, then an arrival or bytes at a barrier.
struct Pending {
  int block = 0; ///< of its addresses
  std::vector<Copy> copies;
  std::vector<unsigned char> value; ///< in place of a source in memory
  unsigned barrier = 0;
  int bytes = 0; ///< 0: an arrival
};

size_t pageUp(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

struct Mapping {
  void *base;
  size_t bytes;
};
std::map<void *, Mapping> &mappings() {
  static std::map<void *, Mapping> all;
  return all;
}

struct Failure {
  std::string text;
};

class Machine {
public:
  std::string run(const Launch &given, uint64_t seed) {
    launch = &given;
    random.seed(seed);
    constexpr uint64_t patiences[] = {16, 256, 1 << 20};
    patience = patiences[random() % 3];
    failure.clear();
    if (given.block.x % 32 || given.block.y != 1 || given.block.z != 1 || given.block.x > 1024)
      return fmt::format("a block of {} x {} x {} threads", given.block.x, given.block.y, given.block.z);
    if (given.sharedBytes > mostShared)
      return fmt::format("{} bytes of shared memory", given.sharedBytes);
    if (given.grid.x % given.cluster || given.cluster > 16)
      return fmt::format("a grid of {} blocks in clusters of {}", given.grid.x, given.cluster);
    together = given.cooperative ? int(given.grid.x) : given.cluster;
    if (given.cooperative && (given.grid.x > mostTogether || given.grid.y != 1 || given.grid.z != 1))
      return fmt::format("a cooperative grid of {} x {} x {} blocks", given.grid.x, given.grid.y, given.grid.z);
    for (unsigned z = 0; z < given.grid.z; ++z)
      for (unsigned y = 0; y < given.grid.y; ++y)
        for (unsigned x = 0; x < given.grid.x; x += unsigned(together))
          if (!runTogether({x, y, z}))
            return failure;
    return {};
  }

  //===-- called by fibers ------------------------------------------------===//

  const unsigned char *meetWarp(const void *mine, size_t bytes) {
    Warp &warp = *running;
    const int turn = warp.turn & 1;
    if (bytes > slotBytes)
      fail("a lane leaves too much");
    std::memcpy(warp.slots[turn][lane], mine, bytes);
    warp.ready &= ~(1u << lane);
    warp.atWarp |= 1u << lane;
    if (warp.alive() == warp.atWarp && std::popcount(warp.atWarp) == 32) {
      ++warp.turn;
      warp.ready = warp.atWarp;
      warp.atWarp = 0;
      interrupt(256);
    } else {
      leave();
    }
    return warp.slots[turn][0];
  }
  void meetBlock() {
    running->ready &= ~(1u << lane);
    running->atBlock |= 1u << lane;
    int waiting = 0;
    for (Warp &warp : warps)
      if (warp.block == running->block)
        waiting += std::popcount(warp.atBlock);
    if (waiting == int(launch->block.x)) {
      for (Warp &warp : warps)
        if (warp.block == running->block)
          warp.ready |= std::exchange(warp.atBlock, 0);
    } else {
      leave();
    }
  }
  void meetCluster() {
    running->ready &= ~(1u << lane);
    running->atCluster |= 1u << lane;
    int waiting = 0;
    auto isOfCluster = [&, mine = running->block / launch->cluster](const Warp &warp) {
      return warp.block / launch->cluster == mine;
    };
    for (Warp &warp : warps)
      if (isOfCluster(warp))
        waiting += std::popcount(warp.atCluster);
    if (waiting == int(launch->block.x) * launch->cluster) {
      for (Warp &warp : warps)
        if (isOfCluster(warp))
          warp.ready |= std::exchange(warp.atCluster, 0);
    } else {
      leave();
    }
  }
  unsigned addressOf(const void *pointer) {
    auto *byte = static_cast<const unsigned char *>(pointer);
    const Block &block = blocks[running->block];
    if (byte < block.shared || byte > block.shared + launch->sharedBytes)
      fail("the address of what is not in the block's shared memory");
    return unsigned(byte - block.shared);
  }
  unsigned char *pointerTo(unsigned address, int bytes, int align, int block) {
    const int first = block / launch->cluster * launch->cluster,
              rank = address >> 24 ? first + int(address >> 24) - 1 : block;
    const unsigned offset = address & 0xffffff;
    if (rank < first + launch->cluster && blocks[rank].threads == 0)
      fail(fmt::format("block {} is written to or read from when its threads have returned", rank));
    if (rank >= first + launch->cluster || int(offset) + bytes > launch->sharedBytes || offset % align)
      fail(fmt::format("{} bytes at {} of block {}, aligned to {}, of {} bytes of shared memory", bytes, offset, rank,
                       align, launch->sharedBytes));
    return blocks[rank].shared + offset;
  }
  Barrier &barrierAt(unsigned address, int block, bool fresh = false) {
    pointerTo(address, 8, 8, block);
    const int rank = address >> 24 ? block / launch->cluster * launch->cluster + int(address >> 24) - 1 : block;
    Barrier &barrier = blocks[rank].barriers[(address & 0xffffff) / 8];
    if (!fresh && !barrier.arrivals)
      fail(fmt::format("no barrier at {} of block {}", address & 0xffffff, rank));
    return barrier;
  }
  void initBarrier(unsigned address, int arrivals) {
    Barrier &barrier = barrierAt(address, running->block, true);
    if (barrier.arrivals || arrivals < 1)
      fail(fmt::format("a barrier at {} is made twice, or for {} arrivals", address, arrivals));
    barrier = {arrivals, arrivals, 0, 0};
  }
  void arrive(Barrier &barrier, int bytes) {
    if (barrier.pending == 0)
      fail("an arrival too many at a barrier");
    barrier.bytes += bytes;
    --barrier.pending;
    endPhase(barrier);
  }
  void arrive(unsigned address, int bytes) {
    arrive(barrierAt(address, running->block), bytes);
    interrupt(8); // others may see it before this warp's other lanes go on
  }
  void waitForPhase(unsigned address, int parity) {
    const Barrier &barrier = barrierAt(address, running->block);
    if (barrier.phase != parity)
      return;
    Fiber &fiber = fibers[running->firstFiber + lane];
    fiber.waitWord = nullptr;
    fiber.waitBarrier = address;
    fiber.waitParity = parity;
    waitOutside();
  }
  void tell(unsigned long long *word, unsigned number) {
    if (*word)
      fail("a word that is told twice, or that nobody cleared");
    *word = 1ull << 32 | number;
    ++phases;
    interrupt(64);
  }
  unsigned hear(const unsigned long long *word) {
    if (!launch->cooperative)
      fail("another cluster is waited for in a grid whose clusters need not run at once");
    if (*word == 0) {
      fibers[running->firstFiber + lane].waitWord = word;
      waitOutside();
    }
    if (*word >> 32 != 1)
      fail("a word that nobody cleared");
    return static_cast<unsigned>(*word);
  }
  void copyBulk(unsigned target, const void *source, int bytes, unsigned barrier) {
    if (bytes % 16 || reinterpret_cast<uintptr_t>(source) % 16)
      fail(fmt::format("a bulk copy of {} bytes from an address that ends in {}", bytes,
                       reinterpret_cast<uintptr_t>(source) % 16));
    pointerTo(target, bytes, 16, running->block);
    barrierAt(barrier, running->block);
    pending.push_back({running->block, {{target, source, bytes}}, {}, barrier, bytes});
  }
  void copyAsync(unsigned target, const void *source, int bytes) {
    if ((bytes != 4 && bytes != 8 && bytes != 16) || reinterpret_cast<uintptr_t>(source) % bytes)
      fail(fmt::format("a copy of {} bytes from an address that ends in {}", bytes,
                       reinterpret_cast<uintptr_t>(source) % 16));
    pointerTo(target, bytes, bytes, running->block);
    fibers[running->firstFiber + lane].copies.push_back({target, source, bytes});
  }
  void arriveWithCopies(unsigned barrier) {
    barrierAt(barrier, running->block);
    Pending one{running->block, {}, {}, barrier, 0};
    one.copies.swap(fibers[running->firstFiber + lane].copies);
    pending.push_back(std::move(one));
  }
  void storeRemote(unsigned target, const void *value, int bytes, unsigned barrier) {
    pointerTo(target, bytes, bytes, running->block);
    barrierAt(barrier, running->block);
    auto *begin = static_cast<const unsigned char *>(value);
    pending.push_back({running->block, {{target, nullptr, bytes}}, {begin, begin + bytes}, barrier, bytes});
  }
  [[noreturn]] void fail(const std::string &what) {
    if (thread)
      failure = fmt::format("{}: block ({}, {}, {}), thread {}: {}", launch->name, thread->blockIdx.x,
                            thread->blockIdx.y, thread->blockIdx.z, thread->threadIdx.x, what);
    else
      failure = fmt::format("{}: {}", launch->name, what);
    _longjmp(scheduler, 2);
  }
  static void begin();

private:
  void endPhase(Barrier &barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) {
      barrier.phase ^= 1;
      ++phases;
      barrier.pending = barrier.arrivals;
    }
  }

  /// Now and then, another warp goes on first, or all others do.
  void interrupt(unsigned rarity) {
    if (random() % rarity)
      return;
    interrupted = true;
    if (!held && random() % 2) {
      behind = size_t(running->firstFiber / 32);
      held = true;
    }
    leave();
  }
  /// Until the scheduler finds that what the lane waits for has come.
  void waitOutside() {
    running->ready &= ~(1u << lane);
    running->atPhase |= 1u << lane;
    running->lookedAt = 0;
    leave();
  }
  /// Back to the scheduler; returns when the lane is ready again.
  void leave() {
    Fiber &fiber = fibers[running->firstFiber + lane];
    if (!_setjmp(fiber.place))
      _longjmp(scheduler, 1);
  }

  void prepare(Index first) {
    const int perBlock = int(launch->block.x);
    while (fibers.size() < size_t(perBlock) * size_t(together)) {
      fibers.emplace_back();
      auto *memory = static_cast<char *>(
          mmap(nullptr, stackBytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      mprotect(memory, 4096, PROT_NONE);
      fibers.back().stack = memory + 4096;
    }
    while (int(blocks.size()) < together)
      blocks.emplace_back();
    warps.clear();
    pending.clear();
    for (int rank = 0; rank < together; ++rank) {
      Block &block = blocks[rank];
      if (block.shared && block.bytes != launch->sharedBytes)
        release(std::exchange(block.shared, nullptr));
      if (!block.shared)
        block.shared = static_cast<unsigned char *>(allocate(size_t(launch->sharedBytes)));
      block.bytes = launch->sharedBytes;
      block.threads = perBlock;
      std::memset(block.shared, 0xff, size_t(block.bytes));
      block.barriers.assign(size_t(launch->sharedBytes) / 8 + 1, {});
      for (int t = 0; t < perBlock; ++t) {
        Fiber &fiber = fibers[rank * perBlock + t];
        fiber.thread = {{unsigned(t), 0, 0},
                        {first.x + rank, first.y, first.z},
                        launch->block,
                        launch->grid,
                        block.shared,
                        rank % launch->cluster,
                        rank};
        fiber.copies.clear();
        if (t % 32 == 0) {
          warps.emplace_back();
          warps.back().block = rank;
          warps.back().firstFiber = rank * perBlock + t;
          warps.back().ready = ~0u;
        }
      }
    }
  }

  [[noreturn]] static void enter(Fiber &fiber) {
    if (fiber.started)
      _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack, 0, stackBytes};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Machine::begin, 0);
    setcontext(&fiber.context);
    std::abort(); // setcontext returns only where it fails
  }
  void resume(Warp &warp, int which) {
    running = &warp;
    lane = which;
    thread = &fibers[warp.firstFiber + which].thread;
    const int how = _setjmp(scheduler);
    if (how == 0)
      enter(fibers[running->firstFiber + lane]);
    thread = nullptr;
    if (how == 2)
      throw Failure{failure};
  }

  /// Lanes whose phase has ended are ready.
  void look(Warp &warp) {
    if (std::exchange(warp.lookedAt, phases) == phases)
      return;
    for (uint32_t left = warp.atPhase; left; left &= left - 1) {
      const int which = std::countr_zero(left);
      const Fiber &fiber = fibers[warp.firstFiber + which];
      if (fiber.waitWord ? *fiber.waitWord != 0 : barrierAt(fiber.waitBarrier, warp.block).phase != fiber.waitParity) {
        warp.atPhase &= ~(1u << which);
        warp.ready |= 1u << which;
      }
    }
  }

  void land() {
    std::swap(pending[random() % pending.size()], pending.back());
    Pending &one = pending.back();
    if (!one.copies.empty()) {
      std::swap(one.copies[random() % one.copies.size()], one.copies.back());
      const Copy copy = one.copies.back();
      one.copies.pop_back();
      std::memcpy(pointerTo(copy.target, copy.bytes, 4, one.block), copy.source ? copy.source : one.value.data(),
                  size_t(copy.bytes));
      if (!one.copies.empty())
        return;
    }
    Barrier &barrier = barrierAt(one.barrier, one.block);
    if (one.bytes) {
      barrier.bytes -= one.bytes;
      endPhase(barrier);
    } else {
      arrive(barrier, 0);
    }
    pending.pop_back();
  }

  bool runTogether(Index first) {
    prepare(first);
    try {
      while (step())
        ;
      if (!pending.empty())
        throw Failure{
            fmt::format("{}: {} copies are under way when the last thread returns", launch->name, pending.size())};
    } catch (const Failure &why) {
      failure = why.text;
      for (Fiber &fiber : fibers)
        fiber.started = false;
      return false;
    }
    return true;
  }

  /// One warp runs until its lanes wait, or something lands. False: all have returned.
  bool step() {
    if (!pending.empty() && random() % 4 == 0) {
      landSafely();
      return true;
    }
    if (random() % patience == 0) {
      behind = random() % warps.size();
      held = false;
    }
    const size_t start = random() % warps.size();
    Warp *next = nullptr;
    bool alive = false;
    for (size_t i = 0; i < warps.size(); ++i) {
      Warp &warp = warps[(start + i) % warps.size()];
      alive |= warp.alive() != 0;
      if (!warp.ready && warp.atPhase)
        look(warp);
      if (warp.ready && (!next || &warps[behind] == next))
        next = &warp;
      if (next && next != &warps[behind])
        break;
    }
    if (next) {
      if (next == &warps[behind]) {
        held = false;
        if (random() % 4 == 0)
          behind = random() % warps.size();
      }
      // From any lane on, round and round, until all wait.
      interrupted = false;
      for (int which = int(random() % 32); next->ready && !interrupted;) {
        which = std::countr_zero(std::rotr(next->ready, which)) + which;
        resume(*next, which++ % 32);
      }
      return true;
    }
    if (!alive)
      return false;
    if (pending.empty())
      throw Failure{deadlock()};
    landSafely();
    return true;
  }
  /// Errors of what lands come from no fiber.
  void landSafely() {
    running = nullptr;
    if (_setjmp(scheduler))
      throw Failure{failure};
    land();
  }

  std::string deadlock() {
    std::string text = fmt::format("{}: all wait for one another:", launch->name);
    int lines = 0;
    for (const Warp &warp : warps) {
      if (!warp.alive() || ++lines > 24)
        continue;
      text +=
          fmt::format("\n  block {} warp {}:", warp.block, (warp.firstFiber - warp.block * int(launch->block.x)) / 32);
      if (warp.atWarp)
        text += fmt::format(" lanes {:08x} at the warp's barrier", warp.atWarp);
      if (warp.atBlock)
        text += fmt::format(" lanes {:08x} at the block's", warp.atBlock);
      if (warp.atCluster)
        text += fmt::format(" lanes {:08x} at the cluster's", warp.atCluster);
      if (warp.atPhase) {
        const Fiber &fiber = fibers[warp.firstFiber + std::countr_zero(warp.atPhase)];
        if (fiber.waitWord) {
          text += fmt::format(" lanes {:08x} for a word of another cluster", warp.atPhase);
          continue;
        }
        const Barrier &barrier = blocks[warp.block].barriers[(fiber.waitBarrier & 0xffffff) / 8];
        text += fmt::format(" lanes {:08x} at barrier {} (parity {}; {} of {} arrivals and {} bytes are missing)",
                            warp.atPhase, fiber.waitBarrier / 8, fiber.waitParity, barrier.pending, barrier.arrivals,
                            barrier.bytes);
      }
    }
    return text;
  }

  const Launch *launch = nullptr;
  int together = 1; ///< blocks that run at once
  std::mt19937_64 random;
  std::deque<Fiber> fibers;
  std::deque<Warp> warps;
  std::vector<Block> blocks;
  std::vector<Pending> pending;
  jmp_buf scheduler;
  Warp *running = nullptr;
  int lane = 0;
  size_t behind = 0;     ///< the warp that goes on where no other can
  uint64_t patience = 1; ///< for how many steps, about
  uint64_t phases = 1;
  bool held = false; ///< it was interrupted and has not gone on
  bool interrupted = false;
  std::string failure;
};

Machine machine;

/// A fiber is used again for another thread when its own has returned.
void Machine::begin() {
  for (;;) {
    machine.launch->kernel(machine.launch->parameters);
    machine.running->ready &= ~(1u << machine.lane);
    --machine.blocks[machine.running->block].threads;
    machine.leave();
  }
}

} // namespace

namespace hyperjit::emulator {

const unsigned char *meetWarp(const void *mine, size_t bytes) { return machine.meetWarp(mine, bytes); }
void meetBlock() { machine.meetBlock(); }
void meetCluster() { machine.meetCluster(); }
unsigned sharedAddress(const void *pointer) { return machine.addressOf(pointer); }
unsigned remoteAddress(unsigned address, int rank) { return (address & 0xffffff) | unsigned(rank + 1) << 24; }
void *sharedPointer(unsigned address, int bytes) {
  return machine.pointerTo(address, bytes, bytes, thread->blockIndex);
}
void initBarrier(unsigned barrier, int arrivals) { machine.initBarrier(barrier, arrivals); }
void arrive(unsigned barrier, int bytes) { machine.arrive(barrier, bytes); }
void waitForPhase(unsigned barrier, int parity) { machine.waitForPhase(barrier, parity); }
void tell(unsigned long long *word, unsigned number) { machine.tell(word, number); }
unsigned hear(const unsigned long long *word) { return machine.hear(word); }
void copyBulk(unsigned target, const void *source, int bytes, unsigned barrier) {
  machine.copyBulk(target, source, bytes, barrier);
}
void copyAsync(unsigned target, const void *source, int bytes) { machine.copyAsync(target, source, bytes); }
void arriveWithCopies(unsigned barrier) { machine.arriveWithCopies(barrier); }
void storeRemote(unsigned target, const void *value, int bytes, unsigned barrier) {
  machine.storeRemote(target, value, bytes, barrier);
}

std::string run(const Launch &launch, uint64_t seed) { return machine.run(launch, seed); }

void *allocate(size_t bytes) {
  const size_t size = pageUp(std::max<size_t>(bytes, 1));
  auto *base = static_cast<unsigned char *>(
      mmap(nullptr, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (base == MAP_FAILED)
    return nullptr;
  mprotect(base + size, 4096, PROT_NONE);
  unsigned char *pointer = base + size - (bytes + 15) / 16 * 16;
  std::memset(base, 0xff, size);
  mappings()[pointer] = {base, size + 4096};
  return pointer;
}
void release(void *pointer) {
  auto found = mappings().find(pointer);
  if (found == mappings().end())
    return;
  munmap(found->second.base, found->second.bytes);
  mappings().erase(found);
}

} // namespace hyperjit::emulator
