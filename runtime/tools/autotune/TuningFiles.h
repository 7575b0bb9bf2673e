// Files of tuning results as a command writes them: appended to, merged, pruned; and the lock that keeps two searches
// from timing on one machine at once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/core/TuningTable.h>

#include <string>
#include <vector>

namespace hyperjit::tools {

/// Makes the folder and the file, and reads what is there; a broken line is said on stderr with its number.
/// EnvironmentProblem where it cannot be written.
std::vector<TuningRecord> prepareOut(const std::string &path);
/// One line, one write, under a lock: several searches may append to one file. Another's lock is waited for, up to
/// HYPERJIT_LOCK_TIMEOUT.
void appendRecord(const std::string &path, const TuningRecord &record);
/// "2026-01-31T12:00:00Z"
std::string timeNow();

/// merge A B... --out FILE: the last decision for each kernel and compiler; prune FILE...: what this build's compiler
/// would not use goes, and what another version of hyperjit wrote stays. `words` begins with the verb. The exit code.
int editFiles(const std::vector<std::string> &words, const std::string &out, const std::string &json);

/// Held while it lives, in the cache folder. Waits for another search, with a message; without a folder it is not held.
class MachineLock {
public:
  explicit MachineLock(const Target &target);
  ~MachineLock();
  MachineLock(const MachineLock &) = delete;
  MachineLock &operator=(const MachineLock &) = delete;

private:
  int file = -1;
};

} // namespace hyperjit::tools
