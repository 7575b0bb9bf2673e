// CpuImageCall.h - runs a compiled image as the runtime does, on one thread. Apart from the runtime, because LLVM code
// is built without exceptions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hyperjit/Target/CpuImage.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <vector>

inline void callImage(const hyperjit::cpu::CpuImage &image, std::vector<void *> operands, int64_t tokens) {
  struct Arguments {
    void *const *operands;
    void *workspace, *scratch;
    int64_t tokens, chunkTokens, begin, end;
  };
  size_t size = (image.bytes.size() + 4095) / 4096 * 4096;
  void *code = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memcpy(code, image.bytes.data(), image.bytes.size());
  mprotect(code, size, PROT_READ | PROT_EXEC);
  int64_t block = image.layout.blockTokens, blocks = (tokens + block - 1) / block;
  int64_t chunkTokens = std::max<int64_t>(1, (blocks + image.layout.maxChunks - 1) / image.layout.maxChunks) * block;
  int64_t chunks = (tokens + chunkTokens - 1) / chunkTokens;
  auto memory = [](int64_t bytes) { return std::aligned_alloc(64, static_cast<size_t>((bytes + 127) / 64 * 64)); };
  void *workspace = memory(image.layout.workspaceFixed + image.layout.workspacePerChunk * chunks);
  void *scratch = memory(image.layout.scratchBytes);
  for (const hyperjit::cpu::ImageLaunch &launch : image.launches) {
    int64_t units = launch.grid == "once" ? 1 : launch.grid == "chunks" ? chunks : launch.extent;
    Arguments arguments{operands.data(), workspace, scratch, tokens, chunkTokens, 0, units};
    reinterpret_cast<void (*)(const Arguments *)>(static_cast<char *>(code) + launch.offset)(&arguments);
  }
  std::free(scratch);
  std::free(workspace);
  munmap(code, size);
}
