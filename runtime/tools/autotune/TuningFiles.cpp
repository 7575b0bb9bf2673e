// SPDX-License-Identifier: Apache-2.0
#include "TuningFiles.h"

#include "Console.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::tools {

/// What stands in the way is said by the open that follows.
static void makeFolderOf(const std::string &path) {
  std::error_code error;
  if (fs::path folder = fs::path(path).parent_path(); !folder.empty())
    fs::create_directories(folder, error);
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
    fmt::print(stderr, "hyperjit: {}: {}\n", path, std::strerror(errno));
  ::close(file);
  TuningFile content = readTuningFile(path);
  for (const std::string &problem : content.problems)
    fmt::print(stderr, "hyperjit: {}, {}; it is skipped\n", path, problem);
  return content.records;
}

/// A file of results that nobody else changes meanwhile: who waited for one that was replaced takes the new one. Where
/// locks do not work, one write of one line is what there is.
class LockedFile {
public:
  LockedFile(const std::string &path, int flags) {
    for (int tries = 0; tries < 10; ++tries) {
      if (file >= 0)
        ::close(file);
      file = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
      struct stat held, named;
      if (file < 0 || ::flock(file, LOCK_EX) != 0 || ::fstat(file, &held) != 0 ||
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

private:
  int file = -1;
};

void appendRecord(const std::string &path, const TuningRecord &record) {
  LockedFile file(path, O_WRONLY | O_CREAT | O_APPEND);
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
  Json answer = jsonHead("autotune", "none");
  answer["files"] = Json::array();
  int code = exitOk;
  auto read = [&](const std::string &path) {
    TuningFile content = readTuningFile(path);
    for (const std::string &problem : content.problems) {
      fmt::print(stderr, "hyperjit: {}, {}; it is dropped\n", path, problem);
      code = exitProblem;
    }
    return content.records;
  };
  auto write = [&](const std::string &path, const std::vector<TuningRecord> &records, size_t from) {
    std::string text;
    for (const TuningRecord &record : records)
      text += record.json() + "\n";
    writeFileWhole(path, text);
    answer["files"].push_back({{"file", path}, {"results", records.size()}, {"lines_read", from}});
    if (json.empty())
      fmt::print("{}: {} results of {} lines\n", path, records.size(), from);
  };
  if (merge) {
    std::vector<TuningRecord> all;
    for (const std::string &path : files)
      for (TuningRecord &record : read(path))
        all.push_back(std::move(record));
    makeFolderOf(out);
    write(out, compacted(all), all.size());
  } else {
    for (const std::string &path : files) {
      const LockedFile file(path, O_RDONLY); // a search may be running
      std::vector<TuningRecord> records = read(path), kept = compacted(records);
      std::error_code error;
      if (records.empty() && fs::file_size(path, error) > 0 && !error)
        throw UsageError(fmt::format("{} holds no result of a search; it is left as it is", path));
      std::erase_if(kept, [](const TuningRecord &record) {
        return record.compiler != tuningCompiler(record.target.starts_with("sm_") ? DeviceType::Cuda : DeviceType::Cpu);
      });
      write(path, kept, records.size());
    }
  }
  writeJson(answer, json);
  return code;
}

MachineLock::MachineLock(const std::string &cacheDirectory, const Target &target) {
  if (cacheDirectory.empty())
    return;
  std::error_code error;
  std::string folder = cacheDirectory + "/tuning";
  fs::create_directories(folder, error);
  std::string path = fmt::format("{}/.measuring-{}", folder, name(target.device));
  file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0)
    return;
  bool said = false;
  while (::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK && !interrupted()) {
    if (!said)
      fmt::print(stderr, "hyperjit: another search is measuring on this machine; this one waits for it\n");
    said = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

MachineLock::~MachineLock() {
  if (file >= 0)
    ::close(file);
}

} // namespace hyperjit::tools
