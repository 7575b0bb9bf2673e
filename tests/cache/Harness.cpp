// SPDX-License-Identifier: Apache-2.0
#include "Harness.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <map>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::test {

using Clock = std::chrono::steady_clock;

Ran run(const std::string &command, double limit) {
  int out[2], error[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(error, O_CLOEXEC) != 0)
    throw std::runtime_error("no pipe");
  auto begin = Clock::now();
  pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::dup2(out[1], 1);
    ::dup2(error[1], 2);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(error[1]);
  Ran ran;
  pollfd ends[2] = {{out[0], POLLIN, 0}, {error[0], POLLIN, 0}};
  std::string *texts[2] = {&ran.out, &ran.error};
  auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  bool late = false;
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    ::poll(ends, 2, 100);
    for (int i = 0; i < 2; ++i)
      if (ends[i].fd >= 0 && ends[i].revents) {
        char bytes[65536];
        ssize_t got = ::read(ends[i].fd, bytes, sizeof bytes);
        if (got > 0)
          texts[i]->append(bytes, size_t(got));
        else
          ends[i].fd = -1;
      }
    if (!late && elapsed() > limit) {
      late = true;
      ::kill(-child, SIGKILL);
      ran.error += "\nkilled: it took longer than " + std::to_string(limit) + " s";
      break;
    }
  }
  ::close(out[0]);
  ::close(error[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ran.seconds = elapsed();
  return ran;
}

/// Root's home is closed to other users, and a checkout in it is too.
std::string reachable(const std::string &program) {
  static const TemporaryFolder folder;
  static const bool copied = [] {
    if (!isRoot() || run("setpriv --reuid=65534 --regid=65534 --clear-groups test -x " CACHE_STRESS).code == 0)
      return false;
    fs::permissions(folder.path, fs::perms(0755));
    fs::path from = fs::path(CACHE_STRESS).parent_path().parent_path();
    for (const char *file : {"bin/cache-stress", "bin/cache-warm", "bin/hyperjit",
                             "lib/libhyperjit.so." HYPERJIT_SOVERSION, "lib/libhyperjit-compiler.so"})
      if (fs::exists(from / file)) {
        fs::create_directories((fs::path(folder.path) / file).parent_path());
        fs::copy_file(from / file, fs::path(folder.path) / file);
      }
    return true;
  }();
  return copied ? folder / ("bin/" + fs::path(program).filename().string()) : program;
}

std::string stressProgram() { return reachable(CACHE_STRESS); }

Ran stress(const std::string &arguments, const std::string &before) {
  return run((before.empty() ? "" : before + " ") + stressProgram() + " " + arguments);
}

Ran hyperjitCommand(const std::string &arguments, const std::string &environment) {
  return run("env -i PATH=/usr/bin:/bin " + environment + " " HYPERJIT_COMMAND " " + arguments, 170);
}

void expectClean(const Ran &ran) {
  EXPECT_EQ(ran.code, 0) << ran.out << ran.error;
  nlohmann::json counts = ran.json();
  ASSERT_TRUE(counts.is_object()) << ran.out << ran.error;
  EXPECT_EQ(counts["wrong"], 0) << ran.out;
  EXPECT_EQ(counts["failed"], 0) << ran.out << ran.error;
  EXPECT_EQ(counts["damaged"], 0) << ran.out;
}

bool isRoot() { return ::geteuid() == 0; }

std::string lacks(const std::string &tool) {
  // What must work for the tool to be of use here.
  static const std::map<std::string, std::string> trials = {
      {"strace", "strace -f -qq -o /dev/null -e trace=none true"},
      {"mount", "unshare -m sh -c 'mount -t tmpfs none /mnt'"},
      {"pids", "unshare -pf true"},
      {"root", "test \"$(id -u)\" = 0"},
      {"otheruser", "setpriv --reuid=65534 --regid=65534 --clear-groups true"},
      {"bindfs", "command -v bindfs && test -w /dev/fuse && unshare -m true"},
      {"faketime", "faketime 2020-01-01 true"},
      {"setarch", "setarch -R true"},
  };
  static std::map<std::string, std::string> known;
  auto [it, fresh] = known.try_emplace(tool);
  if (fresh && run(trials.at(tool)).code != 0)
    it->second = "this machine cannot: " + tool;
  return it->second;
}

//===-- Faults ----------------------------------------------------------------------------------------------------===//

bool FaultyFiles::failed(const char *call, const char *name) {
  int error = fails(call, name);
  if (error)
    errno = error;
  return error != 0;
}

int FaultyFiles::openat(int folder, const char *name, int flags, mode_t mode) {
  return failed("openat", name) ? -1 : FileSystem::openat(folder, name, flags, mode);
}
int FaultyFiles::fstat(int file, struct stat *status) { return failed("fstat") ? -1 : FileSystem::fstat(file, status); }
int FaultyFiles::lstatat(int folder, const char *name, struct stat *status) {
  return failed("lstatat", name) ? -1 : FileSystem::lstatat(folder, name, status);
}
ssize_t FaultyFiles::pread(int file, void *bytes, size_t size, off_t offset) {
  return failed("pread") ? -1 : FileSystem::pread(file, bytes, shortBy ? std::min(size, shortBy) : size, offset);
}
ssize_t FaultyFiles::write(int file, const void *bytes, size_t size) {
  return failed("write") ? -1 : FileSystem::write(file, bytes, shortBy ? std::min(size, shortBy) : size);
}
int FaultyFiles::fallocate(int file, off_t size) {
  return failed("fallocate") ? -1 : FileSystem::fallocate(file, size);
}
int FaultyFiles::fsync(int file) { return failed("fsync") ? -1 : FileSystem::fsync(file); }
int FaultyFiles::linkat(int folder, const char *from, const char *to) {
  return failed("linkat", to) ? -1 : FileSystem::linkat(folder, from, to);
}
int FaultyFiles::renameat2(int folder, const char *from, const char *to, unsigned flags) {
  return failed(flags ? "renameat2" : "renameat", to) ? -1 : FileSystem::renameat2(folder, from, to, flags);
}
int FaultyFiles::unlinkat(int folder, const char *name) {
  return failed("unlinkat", name) ? -1 : FileSystem::unlinkat(folder, name);
}
int FaultyFiles::mkdirat(int folder, const char *name, mode_t mode) {
  return failed("mkdirat", name) ? -1 : FileSystem::mkdirat(folder, name, mode);
}
int FaultyFiles::touch(int file) { return failed("touch") ? -1 : FileSystem::touch(file); }
int FaultyFiles::flock(int file, int operation) { return failed("flock") ? -1 : FileSystem::flock(file, operation); }
std::vector<std::string> FaultyFiles::names(int folder) {
  return failed("names") ? std::vector<std::string>() : FileSystem::names(folder);
}

//===-- The root --------------------------------------------------------------------------------------------------===//

void Promise::fill(int keys) const {
  KernelCache cache(settings);
  for (int i = 0; i < keys; ++i)
    ASSERT_TRUE(cache.publish(stub::key(i), stub::artifact(i)));
}

bool Promise::finds(int i) const {
  KernelCache cache(settings);
  std::optional<Artifact> found = cache.find(stub::key(i));
  return found && stub::right(*found, i);
}

int Promise::litter() const {
  int count = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(root + "/v1", error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    count += name.starts_with(".tmp-") || name.starts_with(".bad-");
  }
  return count;
}

} // namespace hyperjit::test
