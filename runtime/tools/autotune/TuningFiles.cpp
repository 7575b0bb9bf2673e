// SPDX-License-Identifier: Apache-2.0
#include "TuningFiles.h"

#include "Tool.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <iterator>
#include <set>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace fs = std::filesystem;

namespace hyperjit::tools {

/// What stands in the way is said by the open that follows.
static void makeFolderOf(const std::string &path) {
  std::error_code error;
  if (fs::path folder = fs::path(path).parent_path(); !folder.empty())
    error = makeFolders(folder);
  if (error)
    throw EnvironmentProblem(fmt::format("results cannot be kept in {}: {}", path, error.message()));
}

std::vector<TuningRecord> prepareOut(const std::string &path) {
  makeFolderOf(path);
  int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0)
    throw EnvironmentProblem(fmt::format("results cannot be kept in {}: {}", path, std::strerror(errno)));
  // A line that a full disk or a kill cut off must not swallow the next one.
  char last = '\n';
  off_t size = ::lseek(file, 0, SEEK_END);
  bool torn = size > 0 && ::pread(file, &last, 1, size - 1) == 1 && last != '\n';
  if (torn && ::write(file, "\n", 1) != 1)
    say("{}: {}", path, std::strerror(errno));
  struct stat status;
  const bool known = ::fstat(file, &status) == 0;
  ::close(file);
  if (known && S_ISCHR(status.st_mode)) // /dev/null: there is nothing to go on from
    return {};
  if (!known || !S_ISREG(status.st_mode))
    throw EnvironmentProblem(fmt::format("results cannot be kept in {}: it is no plain file", path));
  TuningFile content = readTuningFile(path);
  if (!content.foreign.empty())
    say("{}: {} lines of another version of hyperjit are left as they are", path, content.foreign.size());
  for (const std::string &problem : content.problems)
    say("{}, {}; it is skipped", path, problem);
  return content.records;
}

/// False where the lock was not had in `seconds`, or before Ctrl-C. Where locks do not work, that is no reason to wait.
static bool lock(int file, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    if (interrupted() || std::chrono::steady_clock::now() >= end)
      return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

/// A file of results that nobody else changes meanwhile: who waited for one that was replaced takes the new one. Where
/// locks do not work, one write of one line is what there is.
class LockedFile {
public:
  LockedFile(const std::string &path, int flags, double seconds) {
    for (int tries = 0; tries < 10; ++tries) {
      if (file >= 0)
        ::close(file);
      file = ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0666); // no pipe is waited for
      struct stat held, named;
      if (file < 0 || !(alone = lock(file, seconds)) || ::fstat(file, &held) != 0 ||
          (::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino && held.st_dev == named.st_dev))
        return;
    }
  }
  ~LockedFile() {
    if (file >= 0)
      ::close(file);
  }
  LockedFile(const LockedFile &) = delete;
  bool write(const std::string &text) {
    return file >= 0 && ::write(file, text.data(), text.size()) == ssize_t(text.size());
  }

  bool alone = true; ///< false: another process holds the lock and does not let go

private:
  int file = -1;
};

void appendRecord(const std::string &path, const TuningRecord &record) {
  // What was measured is kept either way: the line is one write at the end of the file. Who keeps the lock is stopped,
  // and is waited for once.
  static bool stopped = false;
  LockedFile file(path, O_WRONLY | O_CREAT | O_APPEND, stopped ? 0 : Settings::fromEnvironment().lockTimeoutSeconds);
  if (!file.alone && !interrupted() && !std::exchange(stopped, true))
    say("{} is locked by another process; results are written all the same", path);
  const bool written = file.write(record.json() + "\n");
  const int cause = errno;
  if (!written)
    throw EnvironmentProblem(fmt::format("--out {}: {}", path, std::strerror(cause)));
}

std::string timeNow() { return fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr))); }

int editFiles(const std::vector<std::string> &words, const std::string &out, const std::string &json) {
  bool merge = words[0] == "merge";
  std::vector<std::string> files(words.begin() + 1, words.end());
  if (files.empty() || (merge && out.empty()) || (!merge && !out.empty()))
    throw UsageError("autotune merge A.jsonl B.jsonl --out FILE.jsonl, or autotune prune FILE.jsonl");
  for (const std::string &path : files)
    refuseSameFile({{words[0].c_str(), path}, {"--json", json}});
  Json answer = jsonHead("autotune", "none");
  answer["files"] = Json::array();
  int code = exitOk;
  auto read = [&](const std::string &path) {
    TuningFile content = readTuningFile(path);
    for (const std::string &problem : content.problems) {
      say("{}, {}; it is dropped", path, problem);
      code = exitProblem;
    }
    return content;
  };
  // What another version would make of its lines is not known here: they go along, each once.
  auto write = [&](const std::string &path, const std::vector<TuningRecord> &records, const TuningFile &from) {
    std::string text;
    for (const TuningRecord &record : records)
      text += record.json() + "\n";
    std::set<std::string_view> foreign;
    for (const std::string &line : from.foreign)
      if (foreign.insert(line).second)
        text += line + "\n";
    writeFileWhole(path, text);
    answer["files"].push_back({{"file", path},
                               {"results", records.size()},
                               {"of_other_versions", foreign.size()},
                               {"lines_read", from.records.size() + from.foreign.size()}});
    if (json.empty())
      fmt::print("{}: {} results of {} lines{}\n", path, records.size(), from.records.size() + from.foreign.size(),
                 foreign.empty() ? "" : fmt::format(", and {} lines of another version, kept", foreign.size()));
  };
  if (merge) {
    TuningFile all;
    for (const std::string &path : files) {
      TuningFile content = read(path);
      std::move(content.records.begin(), content.records.end(), std::back_inserter(all.records));
      std::move(content.foreign.begin(), content.foreign.end(), std::back_inserter(all.foreign));
    }
    makeFolderOf(out);
    write(out, compacted(all.records), all);
  } else {
    for (const std::string &path : files) {
      watchInterrupt();
      const LockedFile file(path, O_RDONLY, Settings::fromEnvironment().lockTimeoutSeconds); // a search may be running
      if (!file.alone)
        throw EnvironmentProblem(interrupted()
                                     ? fmt::format("interrupted: {} is left as it is", path)
                                     : fmt::format("{} is locked by another process; it is left as it is", path));
      const TuningFile content = read(path);
      std::vector<TuningRecord> kept = compacted(content.records);
      std::error_code error;
      if (content.records.empty() && content.foreign.empty() && fs::file_size(path, error) > 0 && !error)
        throw UsageError(fmt::format("{} holds no result of a search; it is left as it is", path));
      std::erase_if(kept, [](const TuningRecord &record) {
        return record.compiler != tuningCompiler(record.target.starts_with("sm_") ? DeviceType::Cuda : DeviceType::Cpu);
      });
      write(path, kept, content);
    }
  }
  writeJson(answer, json);
  return code;
}

MachineLock::MachineLock(const Target &target) {
  const Settings settings = Settings::fromEnvironment();
  const std::string &root = settings.cacheDirectory;
  if (root.empty())
    return;
  const std::string folder = root + "/tuning", path = fmt::format("{}/.measuring-{}", folder, name(target.device));
  if (settings.cache == CacheMode::ReadWrite || settings.cache == CacheMode::Refresh) {
    makeFolders(folder); // what is in the way is said by whoever needs it
    file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  } else {
    // Nothing is made in a folder that is not to be written: what another search left is locked, else the folder.
    file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0)
      file = ::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  if (file < 0)
    return;
  bool said = false;
  while (::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK && !interrupted()) {
    if (!said)
      say("another search is measuring on this machine; this one waits for it");
    said = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

MachineLock::~MachineLock() {
  if (file >= 0)
    ::close(file);
}

} // namespace hyperjit::tools
