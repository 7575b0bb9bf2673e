// TuningTable.cpp - reading, merging and asking tuning results.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/TuningTable.h"

#include "CacheRoot.h"
#include "Json.h"
#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Log.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <sstream>

using namespace hyperjit;
using Json = nlohmann::ordered_json;

static constexpr std::string_view kStatuses[] = {"ok",           "candidate", "wrong", "compile_error",
                                                 "launch_error", "timeout",   "crash"};
/// A line above this is no record of ours, and is not parsed.
static constexpr size_t kMaxLine = 1 << 16;
/// Of a file, as a pack can hold it.
static constexpr int64_t kMaxFile = int64_t(kMaxEntryBytes);

/// Whether a line was written by a version whose records this one does not know.
static bool isForeign(const Json &line) {
  auto version = line.is_object() ? line.find("v") : line.end();
  return version != line.end() && *version != 1;
}

std::string hyperjit::tuningCompiler(DeviceType device) {
  // Half a digest tells builds apart; the whole one stands in each kernel's key.
  std::string text(compilerDigest().substr(0, 32));
  if (device == DeviceType::Cuda)
    text += fmt::format("+{}", templateDigest().substr(0, 32));
  return text;
}

static std::string keyOf(std::string_view spec, std::string_view after, std::string_view before,
                         std::string_view target, std::string_view compiler) {
  return fmt::format("{}\n{}\n{}\n{}\n{}", spec, after, before, target, compiler);
}

std::string TuningRecord::key() const { return keyOf(spec, after, before, target, compiler); }

std::string TuningRecord::json() const {
  Json object = {{"v", 1},
                 {"key", {{"spec", spec}, {"tokens", tokens}, {"after", after}, {"before", before}}},
                 {"env",
                  {{"target", target},
                   {"device", device},
                   {"threads", threads},
                   {"toolchain", toolchain},
                   {"compiler", compiler},
                   {"hyperjit", version}}},
                 {"schedule", schedule.text()},
                 {"us", us},
                 {"rel_noise", noise},
                 {"base", base.text()},
                 {"base_us", baseUs},
                 {"samples", samples},
                 {"error", error},
                 {"t", time},
                 {"status", status}};
  if (!message.empty())
    object["message"] = message;
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

TuningRecord TuningRecord::parse(std::string_view line) {
  auto fail = [](const std::string &why) { return UserError(ErrorId::InvalidFile, why); };
  if (line.size() > kMaxLine)
    throw fail(fmt::format("it has {} bytes, more than any result", line.size()));
  auto object = parseJson<Json>(line);
  if (!object.is_object())
    throw fail("it is no JSON object");
  auto member = [&](const Json &in, const char *name, Json::value_t kind, const char *what) -> const Json & {
    auto found = in.find(name);
    bool number = kind == Json::value_t::number_float;
    if (found == in.end() || !(number ? found->is_number() : found->type() == kind))
      throw fail(fmt::format("'{}' is not {}", name, what));
    return *found;
  };
  auto text = [&](const Json &in, const char *name) {
    return member(in, name, Json::value_t::string, "a text").get<std::string>();
  };
  auto number = [&](const Json &in, const char *name) {
    return member(in, name, Json::value_t::number_float, "a number").get<double>();
  };
  if (!object.contains("v") || isForeign(object))
    throw fail("'v' is not 1: another version wrote it");
  const Json &key = member(object, "key", Json::value_t::object, "an object");
  const Json &env = member(object, "env", Json::value_t::object, "an object");
  TuningRecord record;
  try {
    record.spec = KernelSpec::parse(text(key, "spec")).text();
    record.schedule = Schedule::parse(text(object, "schedule"));
    record.base = Schedule::parse(text(object, "base"));
  } catch (const UserError &error) {
    throw fail(error.what());
  }
  auto count = [&](const Json &in, const char *name) {
    double value = number(in, name);
    if (!(value >= 0 && value <= 1e15))
      throw fail(fmt::format("'{}' is {}", name, value));
    return int64_t(value);
  };
  record.tokens = count(key, "tokens");
  record.after = text(key, "after");
  record.before = text(key, "before");
  record.target = text(env, "target");
  record.device = text(env, "device");
  record.threads = int(std::min<int64_t>(count(env, "threads"), 1 << 20));
  record.toolchain = text(env, "toolchain");
  record.compiler = text(env, "compiler");
  record.version = text(env, "hyperjit");
  record.us = number(object, "us");
  record.noise = number(object, "rel_noise");
  record.baseUs = number(object, "base_us");
  record.samples = int(std::min<int64_t>(count(object, "samples"), 1 << 30));
  record.error = number(object, "error");
  record.time = text(object, "t");
  record.status = text(object, "status");
  if (std::find(std::begin(kStatuses), std::end(kStatuses), record.status) == std::end(kStatuses))
    throw fail(unknownWord("status", record.status, {std::begin(kStatuses), std::end(kStatuses)}));
  if (object.contains("message"))
    record.message = text(object, "message");
  return record;
}

TuningFile hyperjit::readTuningFile(const std::string &path) {
  std::optional<std::string> text = FileSystem::system().readRegular(path, kMaxFile);
  if (!text)
    throw UserError(ErrorId::InvalidFile, fmt::format("tuning file '{}' cannot be read: {}", path,
                                                      errno == EINVAL ? "it is no plain file" : std::strerror(errno)));
  std::istringstream file(std::move(*text));
  TuningFile result;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos)
      continue;
    try {
      result.records.push_back(TuningRecord::parse(line));
    } catch (const UserError &error) {
      if (line.size() <= kMaxLine && isForeign(parseJson<Json>(line)))
        result.foreign.push_back(line);
      else
        result.problems.push_back(fmt::format("line {}: {}", number, error.what()));
    }
  }
  return result;
}

std::vector<TuningRecord> hyperjit::compacted(const std::vector<TuningRecord> &records) {
  std::vector<TuningRecord> result;
  std::map<std::string, size_t> places;
  for (const TuningRecord &record : records) {
    if (!record.decides())
      continue;
    auto [place, first] = places.emplace(record.key(), result.size());
    if (first)
      result.push_back(record);
    else
      result[place->second] = record;
  }
  return result;
}

TuningTable TuningTable::fromSettings(const Settings &settings) {
  namespace fs = std::filesystem;
  TuningTable table;
  auto addAll = [&](const std::string &path, bool named) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      if (named || fs::exists(path, error))
        table.add(path, named);
      return;
    }
    std::vector<std::string> found;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
      if (it->path().extension() == ".jsonl")
        found.push_back(it->path().string());
    std::sort(found.begin(), found.end()); // the order of a folder is nobody's choice
    for (const std::string &each : found)
      table.add(each, named);
  };
  for (const std::string &path : settings.tuningPath)
    addAll(path, true);
  if (!settings.cacheDirectory.empty() && !refused(settings))
    addAll(settings.cacheDirectory + "/tuning", false);
  for (const std::string &layer : settings.cachePath)
    addAll(layer + "/tuning", false);
  if (std::string root = packagedRoot(); !root.empty() && settings.cache != CacheMode::Off)
    addAll(root + "/tuning", false);
  return table;
}

bool TuningTable::refused(const Settings &settings) {
  CacheRoot::Rules rules;
  rules.checkOwner = settings.trust == CacheTrust::Owner;
  return CacheRoot(settings.cacheDirectory, rules, FileSystem::system()).refuses("tuning");
}

void TuningTable::add(const std::string &path, bool named) {
  TuningFile content;
  try {
    content = readTuningFile(path);
  } catch (const UserError &error) {
    warnOnce("tuning " + path, fmt::format("{}; it is ignored", error.what()));
    return;
  }
  File file{path, named, {}};
  size_t others = 0;
  for (TuningRecord &record : content.records) {
    if (!record.decides())
      continue;
    DeviceType device = record.target.starts_with("sm_") ? DeviceType::Cuda : DeviceType::Cpu;
    if (record.compiler != tuningCompiler(device)) {
      ++others;
      continue;
    }
    std::string key = record.key();
    file.records.insert_or_assign(std::move(key), std::move(record));
  }
  // One warning a file, whatever is wrong with how many of its lines.
  std::string said;
  if (!content.problems.empty())
    said = fmt::format("{} of its lines are no results and are skipped ({}{})", content.problems.size(),
                       content.problems.front(), content.problems.size() > 1 ? ", ..." : "");
  if (!content.foreign.empty())
    said += fmt::format("{}{} of its lines are of another version of hyperjit and are skipped",
                        said.empty() ? "" : "; ", content.foreign.size());
  if (others)
    said += fmt::format("{}{} of its results are of another compiler and are ignored; hyperjit autotune makes new ones",
                        said.empty() ? "" : "; ", others);
  if (!said.empty())
    warnOnce("tuning " + path, fmt::format("tuning file '{}': {}", path, said));
  log(LogLevel::Info, fmt::format("tuning file '{}': {} results", path, file.records.size()));
  if (!file.records.empty())
    files.push_back(std::move(file));
}

const TuningRecord *TuningTable::decision(const KernelSpec &spec, std::string_view after, std::string_view before,
                                          const Target &target) const {
  std::string name = target.text();
  std::string key = keyOf(spec.text(), after, before, name, tuningCompiler(target.device));
  for (const File &file : files) {
    if (auto found = file.records.find(key); found != file.records.end())
      return &found->second;
    if (file.named && std::none_of(file.records.begin(), file.records.end(),
                                   [&](const auto &entry) { return entry.second.target == name; }))
      warnOnce("tuning target " + file.path,
               fmt::format("tuning file '{}' has no result for target {}, but for {}; it is ignored", file.path, name,
                           file.records.begin()->second.target));
  }
  return nullptr;
}

Schedule TuningTable::find(const KernelSpec &spec, std::string_view after, std::string_view before,
                           const Target &target) const {
  if (files.empty())
    return {};
  const TuningRecord *own = decision(spec, after, before, target);
  if (spec.bucket == Bucket::Large)
    return own ? own->schedule : Schedule();
  KernelSpec large = spec;
  large.bucket = Bucket::Large;
  const TuningRecord *leader = decision(large, after, before, target);
  auto used = [](const TuningRecord &record) { return record.schedule.isAuto() ? record.base : record.schedule; };
  if (own && !own->schedule.isAuto()) {
    std::string order = leader ? used(*leader).order() : own->base.order();
    if (own->schedule.order() == order)
      return own->schedule;
    log(LogLevel::Info, fmt::format("schedule {} is not used for {}: large batches sum in another order ({})",
                                    own->schedule.text(), spec.text(), order));
  }
  if (leader && used(*leader).order() != leader->base.order())
    return leader->schedule;
  return {};
}
