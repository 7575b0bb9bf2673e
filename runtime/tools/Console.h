// What the commands print with: tables, a progress bar, JSON with the common head, files written whole or not at all.
// SPDX-License-Identifier: Apache-2.0
//
// stdout is data, stderr is progress and log. Nothing here knows LibTorch, LLVM or CUDA.
#pragma once

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hyperjit::tools {

using Json = nlohmann::ordered_json;

/// Exit codes of every command.
enum ExitCode : int { exitOk = 0, exitProblem = 1, exitUsage = 2, exitEnvironment = 3 };

/// What the user typed cannot be used: exit 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What the machine lacks (a library, a device, a tool, a writable folder): exit 3.
struct EnvironmentProblem : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Text on stderr. Work goes on where it cannot be told: a full disk, a terminal that is gone.
void tell(std::string_view text);
/// A message on stderr: "hyperjit: ", the text, a line's end.
template <typename... Values> void say(fmt::format_string<Values...> format, Values &&...values) {
  tell("hyperjit: " + fmt::format(format, std::forward<Values>(values)...) + "\n");
}

/// Descriptors 0 to 2 that are closed are taken, so that no file of ours gets the number and, with it, what is printed.
void holdStandardDescriptors();

/// The head every JSON answer has: schema "hyperjit.<command>/1", version, device.
Json jsonHead(std::string_view command, std::string_view device);

/// Where JSON goes: nowhere (not asked for), stdout ("-"), or a file.
void writeJson(const Json &value, const std::string &destination);

/// A file that is written through a temporary name beside it, so that an interrupted run leaves no half of it: it takes
/// its name in `finish`, or never. Links keep pointing to their file; what is no file, a device or a pipe, gets the
/// bytes as they come.
class OutputFile {
public:
  explicit OutputFile(const std::filesystem::path &path);
  ~OutputFile();
  OutputFile(const OutputFile &) = delete;
  std::ofstream stream;
  /// Throws EnvironmentProblem where not all of it was written.
  void finish();

private:
  std::filesystem::path path, target, temporary; ///< no temporary: written as it is, or finished
};
void writeFileWhole(const std::filesystem::path &path, std::string_view content);
/// A folder and those above it, none of which everybody may write, whatever the umask: a cache in such a folder is not
/// trusted.
std::error_code makeFolders(const std::filesystem::path &folder);

/// A file that is written when work is done has a folder that can be written before it begins. "-" and "none" are no
/// files.
void checkDestination(const std::filesystem::path &path);

/// A table with a header row; columns are as wide as their widest cell, numbers align right.
class Table {
public:
  explicit Table(std::vector<std::string> header) : rows{std::move(header)} {}
  void add(std::vector<std::string> row) { rows.push_back(std::move(row)); }
  std::string text() const;

private:
  std::vector<std::vector<std::string>> rows;
};

/// A bar on a terminal, a line every few seconds elsewhere. Writes to stderr only.
class Progress {
public:
  /// `total` is in units of `advance`; zero draws nothing.
  Progress(std::string title, int64_t total);
  ~Progress();
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;
  void advance(int64_t done, std::string_view note = {});
  void finish(std::string_view note = {});

private:
  void draw(std::string_view note, bool last);
  std::string title;
  int64_t total, done = 0;
  bool terminal, finished = false;
  std::chrono::steady_clock::time_point begin, shown;
};

/// True once Ctrl-C was pressed or the process was asked to end (SIGTERM: timeout, a batch system); long work looks at
/// it between steps, finishes what it holds and prints it.
bool interrupted();
/// Installs the handler behind `interrupted`, of this library or program: each has its own. For work that looks at it,
/// from where it begins to: everything else is to be ended at once, and so is all of it by a second signal.
void watchInterrupt();

std::string humanBytes(uint64_t bytes);
std::string humanCount(int64_t count);

} // namespace hyperjit::tools
