// ImageMemory.cpp - map, copy, protect.
// SPDX-License-Identifier: Apache-2.0
#include "ImageMemory.h"

#include "hyperjit/core/Error.h"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

using namespace hyperjit;

ImageMemory::ImageMemory(std::span<const std::byte> image) {
  if (image.empty())
    throw InternalError(ErrorId::ImageRejected, "a CPU kernel without code");
  size_t page = size_t(::sysconf(_SC_PAGESIZE));
  bytes = (image.size() + page - 1) / page * page;
  void *memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw UserError(ErrorId::DeviceFailure,
                    fmt::format("no memory for a CPU kernel of {} bytes: {}", bytes, std::strerror(errno)));
  std::memcpy(memory, image.data(), image.size());
  // What is left of the last page traps.
  std::memset(static_cast<std::byte *>(memory) + image.size(), 0xcc, bytes - image.size());
  if (::mprotect(memory, bytes, PROT_READ | PROT_EXEC) != 0) {
    int error = errno;
    ::munmap(memory, bytes);
    throw UserError(
        ErrorId::DeviceFailure,
        fmt::format("the system refuses to make memory executable, which CPU kernels need: {} (a security policy of "
                    "this machine, SELinux for example)",
                    std::strerror(error)));
  }
  auto *begin = static_cast<char *>(memory);
  __builtin___clear_cache(begin, begin + bytes);
  base = memory;
}

ImageMemory::~ImageMemory() { ::munmap(base, bytes); }
