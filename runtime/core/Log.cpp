// Log.cpp - the one sink.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Log.h"

#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Error.h"

#include <atomic>
#include <cstdio>
#include <fcntl.h>
#include <fmt/format.h>
#include <mutex>
#include <pthread.h>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

using namespace hyperjit;

namespace {
struct Sink {
  std::mutex mutex;
  LogSink function = nullptr;
  void *context = nullptr;
  std::set<std::string, std::less<>> warned;
  std::atomic<int> level{-1}; ///< -1: not read from the environment yet
};
Sink &sink() {
  static auto *value = [] {
    auto *made = new Sink();
    // A child that is forked while another thread speaks must not wait for that thread.
    ::pthread_atfork([] { sink().mutex.lock(); }, [] { sink().mutex.unlock(); }, [] { sink().mutex.unlock(); });
    return made;
  }();
  return *value;
}

int currentLevel() {
  int level = sink().level.load(std::memory_order_relaxed);
  if (level >= 0)
    return level;
  std::string word = environment("HYPERJIT_LOG").value_or("warn");
  level = int(word == "debug" ? LogLevel::Debug : word == "info" ? LogLevel::Info : LogLevel::Warning);
  // Unless somebody has set it meanwhile.
  int unset = -1;
  return sink().level.compare_exchange_strong(unset, level, std::memory_order_relaxed) ? level : unset;
}
} // namespace

void hyperjit::setLogSink(LogSink function, void *context) {
  std::lock_guard guard(sink().mutex);
  sink().function = function;
  sink().context = context;
}

void hyperjit::setLogLevel(LogLevel level) { sink().level.store(int(level), std::memory_order_relaxed); }

bool hyperjit::logs(LogLevel level) { return int(level) <= currentLevel(); }

static void emit(LogLevel level, std::string_view message) {
  static constexpr const char *names[] = {"warning", "info", "debug"};
  if (sink().function) {
    sink().function(sink().context, level, message);
    return;
  }
  std::string line = fmt::format("hyperjit: {}: {}\n", names[int(level)], message);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void hyperjit::log(LogLevel level, std::string_view message) {
  if (!logs(level))
    return;
  std::lock_guard guard(sink().mutex);
  emit(level, message);
}

void hyperjit::warnOnce(std::string_view cause, std::string_view message) {
  std::lock_guard guard(sink().mutex);
  if (sink().warned.emplace(cause).second)
    emit(LogLevel::Warning, message);
}

bool hyperjit::dumps() { return environment("HYPERJIT_DUMP").has_value(); }

void hyperjit::dump(std::string_view name, const void *bytes, size_t size) {
  std::optional<std::string> directory = environment("HYPERJIT_DUMP");
  if (!directory)
    return;
  ::mkdir(directory->c_str(), 0777);
  std::string path = fmt::format("{}/{}", *directory, name);
  int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  const char *data = static_cast<const char *>(bytes);
  bool whole = file >= 0;
  while (whole && size) {
    ssize_t written = ::write(file, data, size);
    if (written <= 0) {
      whole = false;
    } else {
      data += written;
      size -= size_t(written);
    }
  }
  if (file >= 0)
    ::close(file);
  if (!whole)
    warnOnce("dump", fmt::format("cannot write {} (HYPERJIT_DUMP)", path));
}
