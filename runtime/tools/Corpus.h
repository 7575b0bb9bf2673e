// The text a demonstration trains on, as characters: a file, a folder, or the project's own sources and documents.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace hyperjit::tools {

struct Corpus {
  /// What was read, for people: a path, or "the project's own sources and documents".
  std::string source;
  uint64_t bytes = 0;
  /// UTF-8 of each character id. Id 0 is U+FFFD and stands for every character that is too rare to learn.
  std::vector<std::string> vocabulary;
  std::vector<int64_t> characters;

  std::string decode(const std::vector<int64_t> &ids) const;
};

/// Reads `path` (a UTF-8 file, or a folder whose text files are joined in the order of their names); an empty path
/// means the text built beside the command. UsageError, by name, for a text that is missing, empty, binary, shorter
/// than `shortest` characters, or of rare characters only.
Corpus readCorpus(const std::filesystem::path &path, int64_t shortest);

} // namespace hyperjit::tools
