// Device.h - memory, a stream and a clock of one device, for programs that measure kernels without LibTorch.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CUDA_DEVICE_H
#define HYPERJIT_CUDA_DEVICE_H

#include "hyperjit/core/Export.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace hyperjit::cuda {

/// Makes the device's primary context current for the calling thread, which alone uses the object. Memory is freed with
/// it. Throws UserError: LibraryMissing without a driver, DeviceFailure for what the driver refuses (out of memory, a
/// kernel that failed).
class HYPERJIT_EXPORT Device {
public:
  explicit Device(int ordinal);
  ~Device();
  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;

  std::string name() const;
  int ordinal() const;
  void *stream() const; ///< CUstream, of this object
  void *allocate(size_t bytes);
  void upload(void *to, const void *from, size_t bytes);
  void download(void *to, const void *from, size_t bytes);
  /// Device to device, on the stream.
  void copy(void *to, const void *from, size_t bytes);
  void fill(void *to, unsigned char value, size_t bytes);
  void synchronise();
  /// Milliseconds between two events around `work`, which queues on the stream.
  double milliseconds(const std::function<void()> &work);
  /// What `work` queues on the stream, as a graph: nothing runs yet. Kernels must be loaded, by a launch or by
  /// prepare(). The result queues all of it on the stream whenever it is called, as long as the Device lives.
  std::function<void()> record(const std::function<void()> &work);

private:
  struct State;
  std::unique_ptr<State> state;
};

} // namespace hyperjit::cuda

#endif // HYPERJIT_CUDA_DEVICE_H
