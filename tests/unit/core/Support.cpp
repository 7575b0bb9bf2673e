// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::test {

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (fs::temp_directory_path() / "hyperjit-test-XXXXXX").string();
  if (!::mkdtemp(pattern.data()))
    throw std::runtime_error("no temporary folder");
  path = pattern;
  fs::permissions(path, fs::perms(0755)); // a child that is another user looks into it
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

Variable::Variable(const char *name, const char *value) : name(name) {
  if (const char *old = std::getenv(name))
    before = old;
  if (value)
    ::setenv(name, value, 1);
  else
    ::unsetenv(name);
}

Variable::~Variable() {
  if (before)
    ::setenv(name.c_str(), before->c_str(), 1);
  else
    ::unsetenv(name.c_str());
}

LogCapture::LogCapture(LogLevel level) {
  setLogLevel(level);
  setLogSink([](void *context, LogLevel,
                std::string_view message) { static_cast<LogCapture *>(context)->messages.emplace_back(message); },
             this);
}

LogCapture::~LogCapture() {
  setLogSink(nullptr, nullptr);
  setLogLevel(LogLevel::Warning);
}

bool LogCapture::has(const std::string &part) const {
  return std::any_of(messages.begin(), messages.end(),
                     [&](const std::string &message) { return message.find(part) != std::string::npos; });
}

Caught caught(const std::function<void()> &action) {
  try {
    action();
  } catch (const Error &error) {
    return {std::string(name(error.id())), error.what()};
  }
  return {"none", ""};
}

std::string readFile(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void writeFile(const std::string &path, const std::string &content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << content;
}

std::vector<std::string> namesIn(const std::string &path) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto &entry : fs::directory_iterator(path, ignored))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool inChild(const std::function<bool()> &body, bool ordinaryUser) {
  pid_t child = ::fork();
  if (child == 0) {
    // _exit: the parent's test framework must not run twice.
    if (ordinaryUser && ::geteuid() == 0 && (::setresgid(65534, 65534, 65534) || ::setresuid(65534, 65534, 65534)))
      ::_exit(3);
    bool good = false;
    try {
      good = body();
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  return child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

ArtifactMeta sampleMeta() {
  ArtifactMeta meta;
  meta.spec = "before(static:n=2,m=1,d=8,dtype=bf16):forward:save:tokens=large";
  meta.target = "sm_90a/h100";
  meta.schedule = "rows:tokens=8";
  OperandInfo x{"x", OperandKind::Rows, OperandScope::Token, 16, DType::BFloat16, false, true};
  OperandInfo alpha{"static_alpha", OperandKind::Coeffs, OperandScope::Uniform, 6, DType::Float32, false, false};
  OperandInfo phi{"phi", OperandKind::Weight, OperandScope::Uniform, 96, DType::Float16, false, true};
  OperandInfo u{"u", OperandKind::Rows, OperandScope::Token, 8, DType::Float64, true, true};
  meta.operands = {x, alpha, phi, u};
  LaunchInfo tokens;
  tokens.entry = "hc_before_tokens";
  tokens.grid = GridKind::Tokens;
  tokens.perBlock = 8;
  tokens.block = 256;
  tokens.cluster = 2;
  tokens.sharedBytes = 40960;
  tokens.extra = R"({"note":"kept"})";
  LaunchInfo columns;
  columns.entry = "hc_before_columns";
  columns.grid = GridKind::Columns;
  columns.extent = 96;
  columns.perBlock = 4;
  columns.offset = 64;
  LaunchInfo persistent;
  persistent.entry = "hc_before_persistent";
  persistent.grid = GridKind::Persistent;
  persistent.perProcessor = 2;
  LaunchInfo fixed;
  fixed.entry = "hc_before_fixed";
  fixed.grid = GridKind::Fixed;
  fixed.blocks = 17;
  meta.launches = {tokens, columns, persistent, fixed};
  meta.workspaceFixed = 256;
  meta.workspacePerChunk = 96;
  meta.workspacePerToken = 4;
  meta.blockTokens = 16;
  meta.maxChunks = 64;
  meta.scratchBytes = 8192;
  meta.traffic = {3, 1, 2, 12};
  meta.stages = 2;
  meta.entries = {{"hc_before_tokens", 96, 40960, 0}, {"hc_before_columns", 32, 0, 8}};
  meta.keyFields = {{"schema", "1"}, {"spec", meta.spec}};
  meta.compileMilliseconds = 12.5;
  meta.extra = R"({"later":{"version":2}})";
  return meta;
}

Artifact sampleArtifact(size_t bytes) {
  Artifact artifact;
  artifact.kind = PayloadKind::Cubin;
  artifact.meta = sampleMeta();
  std::mt19937 generator(5);
  for (size_t i = 0; i < bytes; ++i)
    artifact.payload.push_back(std::byte(generator() & (i % 4 ? 0xff : 0)));
  return artifact;
}

CacheKey sampleKey(const std::string &name) {
  KeyFields fields;
  fields.spec = name;
  return CacheKey::of(fields);
}

} // namespace hyperjit::test
