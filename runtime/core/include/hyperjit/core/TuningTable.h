// TuningTable.h - what `hyperjit autotune` found: JSON lines, one record each, and the table that a manager asks before
// the cost model. A record proposes a schedule and nothing else: results stay right without any, and the key of a
// kernel names the schedule, never the file it came from.
//
//   {"v":1,"key":{"spec":kernel text,"tokens":4096,"after":digest,"before":digest},
//    "env":{"target","device","threads","toolchain","compiler","hyperjit"},
//    "schedule":text,"us":n,"rel_noise":n,"base":text,"base_us":n,"samples":n,"error":n,"t":"2026-01-31T12:00:00Z",
//    "status":"ok"|"candidate"|"wrong"|"compile_error"|"launch_error"|"timeout"|"crash","message":text}
//
// "ok" is a decision: the schedule to use, "auto" where nothing beat the default. The others are what a search tried:
// it goes on from them (--resume) and does not repeat failures. The last decision for a kernel wins within a file.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_TUNINGTABLE_H
#define HYPERJIT_CORE_TUNINGTABLE_H

#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Export.h"
#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/Schedule.h"
#include "hyperjit/core/Target.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

struct HYPERJIT_EXPORT TuningRecord {
  std::string spec;          ///< KernelSpec text, with its token bucket
  std::string after, before; ///< digests of the recorded programs: a user's recipe may change under one name
  std::string target;        ///< Target text
  std::string compiler;      ///< tuningCompiler() of who searched
  int64_t tokens = 0;        ///< that were measured
  std::string device, toolchain, version; ///< provenance
  int threads = 1;                        ///< CPU
  Schedule schedule;                      ///< auto: the default stays
  Schedule base;                          ///< what auto stood for, complete
  double us = 0, baseUs = 0, noise = 0, error = 0;
  int samples = 0;
  std::string time, status = "ok", message;

  bool decides() const { return status == "ok"; }
  /// What a decision is for: spec, programs, target, compiler.
  std::string key() const;
  /// One line without its end. parse(json()).json() == json().
  std::string json() const;
  /// Throws UserError (InvalidFile) that says what is wrong with the line, without naming it.
  static TuningRecord parse(std::string_view line);
};

/// The compiler that a record is for: digests of its sources and, for a GPU, of the templates.
HYPERJIT_EXPORT std::string tuningCompiler(DeviceType device);

struct TuningFile {
  std::vector<TuningRecord> records; ///< in the order of the file
  std::vector<std::string> problems; ///< "line 7: ...", each of a line that was skipped
  std::vector<std::string> foreign;  ///< lines of another version ("v"), as they are: nobody's to drop
};
/// Content never throws. UserError (InvalidFile) where the file cannot be read, or is no plain file.
HYPERJIT_EXPORT TuningFile readTuningFile(const std::string &path);
/// The last decision for each key, in the order of their first appearance; what was merely tried is dropped.
HYPERJIT_EXPORT std::vector<TuningRecord> compacted(const std::vector<TuningRecord> &records);

/// Immutable once made; thread safe. The first file that decides about a kernel is asked, in the order added.
class HYPERJIT_EXPORT TuningTable {
public:
  /// HYPERJIT_TUNING_PATH (files, or folders of *.jsonl), the writable cache's tuning/, then tuning/ of each read-only
  /// layer. What is not there is skipped; a broken line, and results of another compiler, are one warning a file.
  static TuningTable fromSettings(const Settings &settings);
  /// Whether the writable cache is not to be trusted, so that its tuning/ is not read; says so then.
  static bool refused(const Settings &settings);

  /// `named`: somebody asked for this very file, so that what it lacks is worth a warning.
  void add(const std::string &path, bool named = false);
  /// The schedule for a normalised spec, or auto. What orders a token's sums (Schedule::order) must be equal in both
  /// token buckets, or a token would have other bits in a small batch: the large bucket leads. A small kernel takes its
  /// own schedule if that agrees with the large one, else the large one's.
  Schedule find(const KernelSpec &spec, std::string_view after, std::string_view before, const Target &target) const;
  bool empty() const { return files.empty(); }

private:
  struct File {
    std::string path;
    bool named = false;
    std::map<std::string, TuningRecord, std::less<>> records; ///< by key
  };
  const TuningRecord *decision(const KernelSpec &spec, std::string_view after, std::string_view before,
                               const Target &target) const;
  std::vector<File> files;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_TUNINGTABLE_H
