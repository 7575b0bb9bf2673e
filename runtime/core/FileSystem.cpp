// FileSystem.cpp - the calls as they are.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/FileSystem.h"

#include <cerrno>
#include <cstdio>
#include <dirent.h>
#include <fcntl.h>
#include <string_view>
#include <sys/file.h>
#include <unistd.h>

using namespace hyperjit;

FileSystem::~FileSystem() = default;

FileSystem &FileSystem::system() {
  // Never destroyed: caches of static objects use it until the process ends.
  static auto *files = new FileSystem();
  return *files;
}

int FileSystem::openat(int folder, const char *name, int flags, mode_t mode) {
  int file;
  do
    file = ::openat(folder, name, flags, mode);
  while (file < 0 && errno == EINTR); // network file systems
  return file;
}
int FileSystem::close(int file) { return ::close(file); }
int FileSystem::fstat(int file, struct stat *status) { return ::fstat(file, status); }
int FileSystem::lstatat(int folder, const char *name, struct stat *status) {
  return ::fstatat(folder, name, status, AT_SYMLINK_NOFOLLOW);
}
ssize_t FileSystem::pread(int file, void *bytes, size_t size, off_t offset) {
  return ::pread(file, bytes, size, offset);
}
ssize_t FileSystem::write(int file, const void *bytes, size_t size) { return ::write(file, bytes, size); }
int FileSystem::fallocate(int file, off_t size) { return ::fallocate(file, 0, 0, size); }
int FileSystem::fsync(int file) { return ::fsync(file); }
int FileSystem::linkat(int folder, const char *from, const char *to) { return ::linkat(folder, from, folder, to, 0); }
int FileSystem::renameat2(int folder, const char *from, const char *to, unsigned flags) {
  return flags ? ::renameat2(folder, from, folder, to, flags) : ::renameat(folder, from, folder, to);
}
int FileSystem::unlinkat(int folder, const char *name) { return ::unlinkat(folder, name, 0); }
int FileSystem::mkdirat(int folder, const char *name, mode_t mode) { return ::mkdirat(folder, name, mode); }
int FileSystem::touch(int file) {
  // Without times the kernel takes its own clock; it also lets a writer who is not the owner do so.
  return ::futimens(file, nullptr);
}
int FileSystem::futimens(int file, const timespec times[2]) { return ::futimens(file, times); }
int FileSystem::flock(int file, int operation) { return ::flock(file, operation); }

std::vector<std::string> FileSystem::names(int folder) {
  std::vector<std::string> names;
  int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *stream = copy < 0 ? nullptr : ::fdopendir(copy);
  if (!stream) {
    if (copy >= 0)
      ::close(copy);
    return names;
  }
  while (const dirent *entry = ::readdir(stream)) {
    std::string_view name = entry->d_name;
    if (name != "." && name != "..")
      names.emplace_back(name);
  }
  ::closedir(stream);
  return names;
}

std::optional<std::string> FileSystem::readRegular(const std::string &path, int64_t most, int flags) {
  int file = openat(AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | flags);
  if (file < 0)
    return std::nullopt;
  struct stat status;
  int error = fstat(file, &status) != 0        ? errno
              : !S_ISREG(status.st_mode)       ? EINVAL
              : int64_t(status.st_size) > most ? EFBIG
                                               : 0;
  std::string text(error ? 0 : size_t(status.st_size), '\0');
  for (size_t have = 0; !error && have < text.size();) {
    ssize_t got = pread(file, text.data() + have, text.size() - have, off_t(have));
    if (got == 0)
      text.resize(have); // it was cut meanwhile: whoever asked finds out
    else if (got > 0)
      have += size_t(got);
    else if (errno != EINTR)
      error = errno;
  }
  close(file);
  errno = error;
  return error ? std::nullopt : std::optional(std::move(text));
}
