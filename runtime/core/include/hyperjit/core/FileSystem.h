// FileSystem.h - every system call of the kernel cache, and nothing else. The cache takes one, so that a test can make
// any call fail, lie or wait; errno and return values are those of the calls they are named after.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_FILESYSTEM_H
#define HYPERJIT_CORE_FILESYSTEM_H

#include "hyperjit/core/Export.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <sys/stat.h>
#include <sys/types.h>
#include <vector>

namespace hyperjit {

/// The base class asks the operating system. Thread safe.
class HYPERJIT_EXPORT FileSystem {
public:
  virtual ~FileSystem();

  virtual int openat(int folder, const char *name, int flags, mode_t mode = 0);
  virtual int close(int file);
  virtual int fstat(int file, struct stat *status);
  /// Never follows a link.
  virtual int lstatat(int folder, const char *name, struct stat *status);
  virtual ssize_t pread(int file, void *bytes, size_t size, off_t offset);
  virtual ssize_t write(int file, const void *bytes, size_t size);
  virtual int fallocate(int file, off_t size);
  virtual int fsync(int file);
  /// Both names are in `folder`.
  virtual int linkat(int folder, const char *from, const char *to);
  virtual int renameat2(int folder, const char *from, const char *to, unsigned flags);
  virtual int unlinkat(int folder, const char *name);
  virtual int mkdirat(int folder, const char *name, mode_t mode);
  /// Both times become now.
  virtual int touch(int file);
  virtual int futimens(int file, const timespec times[2]);
  virtual int flock(int file, int operation);
  /// Names in a folder without "." and ".."; empty on any error.
  virtual std::vector<std::string> names(int folder);

  /// All of a plain file of at most `most` bytes. Never waits: who may write a folder may put a pipe where a file is
  /// looked for. Empty with errno, which is EINVAL for what is no plain file and EFBIG for one that is larger. `flags`:
  /// O_NOFOLLOW.
  std::optional<std::string> readRegular(const std::string &path, int64_t most, int flags = 0);

  static FileSystem &system();
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_FILESYSTEM_H
