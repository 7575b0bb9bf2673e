// ImageMemory.h - memory that holds machine code: written once, then read and run, never both.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CPU_IMAGEMEMORY_H
#define HYPERJIT_CPU_IMAGEMEMORY_H

#include <cstddef>
#include <span>

namespace hyperjit {

/// An anonymous mapping with a copy of an image. Page aligned, so that offsets keep the alignment they were linked
/// with.
class ImageMemory {
public:
  /// Throws InternalError (ImageRejected) for an empty image, UserError (DeviceFailure) where the system gives no
  /// memory or refuses to make it executable.
  explicit ImageMemory(std::span<const std::byte> image);
  ~ImageMemory();
  ImageMemory(const ImageMemory &) = delete;
  ImageMemory &operator=(const ImageMemory &) = delete;

  /// `offset` was checked by the caller.
  const void *at(size_t offset) const { return static_cast<const std::byte *>(base) + offset; }

private:
  void *base = nullptr;
  size_t bytes = 0;
};

} // namespace hyperjit

#endif // HYPERJIT_CPU_IMAGEMEMORY_H
