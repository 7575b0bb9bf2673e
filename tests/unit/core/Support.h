// What the tests of core share: folders and variables that go away again, what was logged, sample kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/Log.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace hyperjit::test {

class TemporaryFolder {
public:
  TemporaryFolder();
  ~TemporaryFolder();
  std::string path;
  std::string operator/(const std::string &name) const { return path + "/" + name; }
};

/// Sets a variable, or unsets it for nullptr, and puts back what was there.
class Variable {
public:
  Variable(const char *name, const char *value);
  ~Variable();

private:
  std::string name;
  std::optional<std::string> before;
};

/// Every message of a scope at or below `level`.
class LogCapture {
public:
  explicit LogCapture(LogLevel level = LogLevel::Warning);
  ~LogCapture();
  std::vector<std::string> messages;
  bool has(const std::string &part) const;
};

struct Caught {
  std::string id; ///< name(ErrorId); "none" if nothing was thrown
  std::string text;
};
/// The hyperjit::Error that `action` throws; other exceptions pass.
Caught caught(const std::function<void()> &action);

std::string readFile(const std::string &path);
void writeFile(const std::string &path, const std::string &content);
/// Names in a folder, sorted.
std::vector<std::string> namesIn(const std::string &path);

/// Runs `body` in a forked child, as an ordinary user where we are root; true if it returned true.
bool inChild(const std::function<bool()> &body, bool ordinaryUser = false);

/// A meta with something in every field.
ArtifactMeta sampleMeta();
/// A kernel whose payload has `bytes` bytes that do not compress away.
Artifact sampleArtifact(size_t bytes = 100);
/// The key of a spec called `name`.
CacheKey sampleKey(const std::string &name);

} // namespace hyperjit::test
