// Machine.h - a GPU of one processor on the CPU: what generated kernels call where a GPU has instructions (device.cuh),
// and what the driver (Driver.cpp) asks of it.
// SPDX-License-Identifier: Apache-2.0
//
// Every thread of a cluster, or of a cooperative grid, is a fiber; they all run on the calling thread, one at a time,
// until they have to wait. Which warp goes on is random, one is left behind now and then, and copies that come by
// themselves land at any time until somebody waits for them: code that is right only in the usual order gives wrong
// numbers here. Shared and device memory begin as NaN and end at an unmapped page.
#ifndef HYPERJIT_EMULATOR_MACHINE_H
#define HYPERJIT_EMULATOR_MACHINE_H

#include <cstddef>
#include <cstdint>
#include <string>

#define HYPERJIT_EMULATOR_EXPORT __attribute__((visibility("default")))

namespace hyperjit::emulator {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

/// What the running thread sees.
struct Thread {
  Index threadIdx, blockIdx, blockDim, gridDim;
  unsigned char *shared = nullptr; ///< dynamic, of its block
  int clusterRank = 0;
  int blockIndex = 0; ///< among all that run at once
};
HYPERJIT_EMULATOR_EXPORT extern Thread *thread;

/// All lanes of the warp meet. Each leaves up to 64 bytes, and finds those of lane i at result + 64 i until it comes
/// here again.
HYPERJIT_EMULATOR_EXPORT const unsigned char *meetWarp(const void *mine, size_t bytes);
HYPERJIT_EMULATOR_EXPORT void meetBlock();
HYPERJIT_EMULATOR_EXPORT void meetCluster();

// Addresses in shared memory: 1 + the block's rank in its cluster in the upper eight bits, or zero for the own block.
HYPERJIT_EMULATOR_EXPORT unsigned sharedAddress(const void *pointer);
HYPERJIT_EMULATOR_EXPORT unsigned remoteAddress(unsigned address, int rank);
HYPERJIT_EMULATOR_EXPORT void *sharedPointer(unsigned address, int bytes);

HYPERJIT_EMULATOR_EXPORT void initBarrier(unsigned barrier, int arrivals);
HYPERJIT_EMULATOR_EXPORT void arrive(unsigned barrier, int bytes);
/// Returns when the phase has ended.
HYPERJIT_EMULATOR_EXPORT void waitForPhase(unsigned barrier, int parity);

/// A word in device memory, cleared before, by which one cluster tells another a number, where all of a grid run
/// together; the other one waits until it is there.
HYPERJIT_EMULATOR_EXPORT void tell(unsigned long long *word, unsigned number);
HYPERJIT_EMULATOR_EXPORT unsigned hear(const unsigned long long *word);

/// From device memory; counts bytes at the barrier.
HYPERJIT_EMULATOR_EXPORT void copyBulk(unsigned target, const void *source, int bytes, unsigned barrier);
/// 4, 8 or 16 bytes from device memory.
HYPERJIT_EMULATOR_EXPORT void copyAsync(unsigned target, const void *source, int bytes);
/// One arrival when the thread's copies so far have landed.
HYPERJIT_EMULATOR_EXPORT void arriveWithCopies(unsigned barrier);
/// To another block; counts bytes at that block's barrier.
HYPERJIT_EMULATOR_EXPORT void storeRemote(unsigned target, const void *value, int bytes, unsigned barrier);

struct Launch {
  void (*kernel)(const void *parameters) = nullptr;
  const void *parameters = nullptr;
  std::string name;
  Index grid, block;
  int cluster = 1;
  int sharedBytes = 0;
  bool cooperative = false;
};
/// Runs all blocks, cluster after cluster, or all at once if the launch is cooperative. What a GPU would hang on or
/// refuse is an error: its text, else empty.
std::string run(const Launch &launch, uint64_t seed);

/// `bytes` of NaN that end at an unmapped page, on a multiple of 256 where the size is one, else of 16.
void *allocate(size_t bytes);
void release(void *pointer);

} // namespace hyperjit::emulator

#endif
