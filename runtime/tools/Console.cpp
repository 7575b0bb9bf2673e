// SPDX-License-Identifier: Apache-2.0
#include "Console.h"

#include <hyperjit/core/CacheKey.h>

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <numeric>
#include <random>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace hyperjit::tools {

Json jsonHead(std::string_view command, std::string_view device) {
  return {{"schema", fmt::format("hyperjit.{}/1", command)}, {"version", version()}, {"device", device}};
}

void tell(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

void holdStandardDescriptors() {
  // Each is opened the other way round but stderr: who reads or writes there is told, as of a closed one.
  constexpr int ways[] = {O_WRONLY, O_RDONLY, O_WRONLY};
  for (int descriptor = 0; descriptor < 3; ++descriptor)
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF)
      (void)::open("/dev/null", ways[descriptor]); // the lowest that is free is this one
}

OutputFile::OutputFile(const std::filesystem::path &path) : path(path) {
  std::error_code error;
  const std::filesystem::file_status there = std::filesystem::status(path, error);
  // /dev/stdout may be a file that a shell appends to.
  const std::string text = std::filesystem::absolute(path, error).lexically_normal().string();
  if (text == "/dev/stdout" || text == "/dev/stderr" || text.starts_with("/dev/fd/") || text.starts_with("/proc/")) {
    stream.open(path, std::ios::binary | std::ios::app);
    return;
  }
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) { // a device, a pipe
    stream.open(path, std::ios::binary);
    return;
  }
  target = path;
  constexpr int mostLinks = 40; // as the kernel follows
  for (int links = 0; links < mostLinks && std::filesystem::is_symlink(target, error); ++links)
    target = target.parent_path() / std::filesystem::read_symlink(target, error);
  // Process numbers repeat across containers that share a folder.
  std::random_device random;
  for (int tries = 0; tries < 100; ++tries) {
    temporary = target;
    temporary += fmt::format(".{}-{:08x}.tmp", ::getpid(), random());
    const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0 && errno == EEXIST)
      continue;
    if (file >= 0)
      ::close(file);
    break;
  }
  stream.open(temporary, std::ios::binary | std::ios::trunc);
}

OutputFile::~OutputFile() {
  stream.close();
  std::error_code ignored;
  if (!temporary.empty())
    std::filesystem::remove(temporary, ignored);
}

void OutputFile::finish() {
  stream.close();
  std::error_code error;
  if (stream && !temporary.empty())
    std::filesystem::rename(temporary, target, error);
  if (!stream || error)
    throw EnvironmentProblem(fmt::format("cannot write '{}'{}", path.string(),
                                         error ? ": " + error.message() : "; is its folder there and writable?"));
  temporary.clear();
}

std::error_code makeFolders(const std::filesystem::path &folder) {
  std::error_code error;
  if (folder.empty() || std::filesystem::is_directory(folder, error))
    return {};
  if (std::filesystem::exists(folder, error))
    return std::make_error_code(std::errc::not_a_directory);
  if (const std::filesystem::path parent = folder.parent_path(); parent != folder)
    if (std::error_code above = makeFolders(parent))
      return above;
  if (::mkdir(folder.c_str(), 0755) == 0)
    return {};
  const std::error_code why(errno, std::generic_category());
  return std::filesystem::is_directory(folder, error) ? std::error_code() : why;
}

void writeFileWhole(const std::filesystem::path &path, std::string_view content) {
  OutputFile file(path);
  file.stream.write(content.data(), std::streamsize(content.size()));
  file.finish();
}

void checkDestination(const std::filesystem::path &path) {
  if (path.empty())
    return;
  auto refuse = [&](const std::string &why) {
    throw EnvironmentProblem(fmt::format("cannot write '{}': {}", path.string(), why));
  };
  std::error_code error;
  const std::filesystem::file_status there = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(there))
    refuse("it is a folder");
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
    if (::access(path.c_str(), W_OK) != 0)
      refuse(std::strerror(errno));
    return;
  }
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    refuse(fmt::format("{}: {}", folder.string(), std::strerror(errno)));
}

void writeJson(const Json &value, const std::string &destination) {
  if (destination.empty())
    return;
  std::string text = value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (destination == "-")
    std::cout << text << std::flush;
  else
    writeFileWhole(destination, text);
}

std::string Table::text() const {
  // A cell's width is in code points, not bytes.
  auto width = [](const std::string &cell) {
    return size_t(
        std::count_if(cell.begin(), cell.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
  };
  auto numeric = [](const std::string &cell) {
    return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) || cell[0] == '-' || cell[0] == '.');
  };
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto &row : rows)
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i)
      widths[i] = std::max(widths[i], width(row[i]));
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size() && i < widths.size(); ++i) {
      const std::string &cell = rows[r][i];
      std::string pad(widths[i] - width(cell), ' ');
      bool right = numeric(cell) || (r == 0 && rows.size() > 1 && i < rows[1].size() && numeric(rows[1][i]));
      line += (i ? "  " : "") + (right ? pad + cell : cell + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      size_t all = std::accumulate(widths.begin(), widths.end(), size_t(0)) + 2 * (widths.size() - 1);
      out += std::string(all, '-') + "\n";
    }
  }
  return out;
}

Progress::Progress(std::string title, int64_t total)
    : title(std::move(title)), total(total), terminal(::isatty(STDERR_FILENO)), begin(std::chrono::steady_clock::now()),
      shown(begin) {}

Progress::~Progress() {
  if (!finished && terminal && total > 0)
    std::fputs("\n", stderr);
}

void Progress::advance(int64_t now, std::string_view note) {
  done = now;
  auto time = std::chrono::steady_clock::now();
  if (total <= 0 || time - shown < (terminal ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000)))
    return;
  shown = time;
  draw(note, false);
}

void Progress::finish(std::string_view note) {
  if (finished)
    return;
  finished = true;
  if (total > 0)
    draw(note, true);
}

void Progress::draw(std::string_view note, bool last) {
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::string line, pace;
  // What is left, from the pace so far.
  if (done > 0 && seconds > 0 && !last) {
    double rate = double(done) / seconds;
    int64_t left = int64_t(double(total - done) / rate + 0.5);
    pace = fmt::format(", {:.{}f}/s, {:02}:{:02} left", rate, rate < 10 ? 1 : 0, left / 60, left % 60);
  }
  if (terminal) {
    constexpr int width = 28;
    int filled = int(width * std::min<int64_t>(done, total) / total);
    line = fmt::format("\r\033[K{:<22} [{}{}] {}/{} {:.0f} s{}  {}", title, std::string(size_t(filled), '='),
                       std::string(size_t(width - filled), ' '), done, total, seconds, pace, note);
    if (last)
      line += "\n";
  } else {
    line =
        fmt::format("{}: {}/{}, {:.0f} s{}{}{}\n", title, done, total, seconds, pace, note.empty() ? "" : ", ", note);
  }
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

static std::atomic<bool> interruptSeen{false};

bool interrupted() { return interruptSeen.load(std::memory_order_relaxed); }

void watchInterrupt() {
  static bool watching = false;
  if (std::exchange(watching, true)) // a second signal stays the end
    return;
  struct sigaction note = {}; // without SA_RESTART: what waits for a pipe or a lock is woken up
  note.sa_handler = [](int) {
    interruptSeen.store(true, std::memory_order_relaxed);
    for (int each : {SIGINT, SIGTERM})
      std::signal(each, SIG_DFL);
  };
  for (int each : {SIGINT, SIGTERM}) {
    struct sigaction before = {};
    if (::sigaction(each, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) // nohup, a shell's background
      ::sigaction(each, &note, nullptr);
  }
}

std::string humanBytes(uint64_t bytes) {
  if (bytes < 1024)
    return fmt::format("{} B", bytes);
  double value = double(bytes);
  const char *units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, units[unit]);
}

std::string humanCount(int64_t count) {
  std::string digits = fmt::format("{}", count), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i && (digits.size() - i) % 3 == 0)
      out += ',';
    out += digits[i];
  }
  return out;
}

} // namespace hyperjit::tools
