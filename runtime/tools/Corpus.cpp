// SPDX-License-Identifier: Apache-2.0
#include "Corpus.h"
#include "Console.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <unistd.h>

namespace fs = std::filesystem;

namespace hyperjit::tools {

namespace {

constexpr uint64_t largestFile = 64u << 20, largestText = 256u << 20;
constexpr int64_t rare = 8; // a character seen less often than this shares id 0

std::string readFile(const fs::path &path) {
  std::error_code error;
  uint64_t size = fs::file_size(path, error);
  if (!error && size > largestText)
    throw UsageError(
        fmt::format("text '{}' has {}; at most {} are read", path.string(), humanBytes(size), humanBytes(largestText)));
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  if (!file || error)
    throw UsageError(fmt::format("text '{}' cannot be read", path.string()));
  return std::move(content).str();
}

// The length of the UTF-8 character at `at`, or 0 where the bytes are none.
size_t characterLength(const std::string &text, size_t at) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char lead = byte(at);
  size_t length = lead < 0x80                   ? 1
                  : lead >= 0xC2 && lead < 0xE0 ? 2
                  : lead >= 0xE0 && lead < 0xF0 ? 3
                  : lead >= 0xF0 && lead < 0xF5 ? 4
                                                : 0;
  if (length == 0 || at + length > text.size())
    return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xC0) != 0x80)
      return 0;
  return length;
}

// Why `text` is no text, or nothing.
std::optional<std::string> whyBinary(const std::string &text) {
  size_t zero = text.find('\0');
  if (zero != std::string::npos)
    return fmt::format("byte {} is zero", zero);
  size_t broken = 0;
  for (size_t i = 0; i < text.size();) {
    size_t length = characterLength(text, i);
    broken += length == 0;
    i += std::max<size_t>(length, 1);
  }
  if (broken * 20 > text.size())
    return fmt::format("{} of {} bytes are not UTF-8", broken, text.size());
  return std::nullopt;
}

std::string readFolder(const fs::path &folder) {
  std::vector<fs::path> files;
  std::error_code error;
  auto entry = fs::recursive_directory_iterator(folder, fs::directory_options::skip_permission_denied, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    bool hidden = entry->path().filename().string().starts_with(".");
    std::error_code unknown; // links in a circle
    if (entry->is_directory(unknown) && hidden)
      entry.disable_recursion_pending();
    else if (entry->is_regular_file(unknown) && !hidden && entry->file_size(unknown) > 0 &&
             entry->file_size(unknown) <= largestFile && ::access(entry->path().c_str(), R_OK) == 0)
      files.push_back(entry->path());
  }
  if (error)
    throw UsageError(fmt::format("folder '{}' cannot be read: {}", folder.string(), error.message()));
  std::sort(files.begin(), files.end());
  std::string all;
  for (const fs::path &file : files) {
    std::string text = readFile(file);
    if (whyBinary(text))
      continue;
    all += text;
    if (all.back() != '\n')
      all += '\n';
    if (all.size() > largestText)
      throw UsageError(fmt::format("the texts of folder '{}' exceed {}", folder.string(), humanBytes(largestText)));
  }
  if (all.empty())
    throw UsageError(fmt::format("folder '{}' holds no text file", folder.string()));
  return all;
}

} // namespace

std::string Corpus::decode(const std::vector<int64_t> &ids) const {
  std::string out;
  for (int64_t id : ids)
    out += vocabulary.at(size_t(id));
  return out;
}

Corpus readCorpus(const fs::path &path, int64_t shortest) {
  Corpus corpus;
  std::string text;
  if (path.empty()) {
    std::error_code error;
    fs::path own = fs::read_symlink("/proc/self/exe", error).parent_path() / "../share/hyperjit/corpus.txt";
    if (!fs::is_regular_file(own))
      throw EnvironmentProblem(fmt::format("the project's own text is not at '{}'; give one with --text FILE|DIR",
                                           own.lexically_normal().string()));
    text = readFile(own);
    corpus.source = "the project's own sources and documents";
  } else if (!fs::exists(path)) {
    throw UsageError(fmt::format("text '{}' does not exist", path.string()));
  } else {
    corpus.source = path.string();
    if (fs::is_directory(path)) {
      text = readFolder(path);
    } else {
      text = readFile(path);
      if (text.empty())
        throw UsageError(fmt::format("text '{}' is empty", path.string()));
      if (auto why = whyBinary(text))
        throw UsageError(fmt::format("text '{}' looks binary ({}); UTF-8 text is wanted", path.string(), *why));
    }
  }
  corpus.bytes = text.size();

  std::map<std::string_view, int64_t> counts;
  std::vector<std::string_view> characters;
  characters.reserve(text.size());
  static constexpr std::string_view replacement = "\xEF\xBF\xBD";
  for (size_t i = 0; i < text.size();) {
    size_t length = characterLength(text, i);
    std::string_view character = length ? std::string_view(text).substr(i, length) : replacement;
    i += std::max<size_t>(length, 1);
    if (character == "\r")
      continue;
    ++counts[character];
    characters.push_back(character);
  }
  if (int64_t(characters.size()) < shortest)
    throw UsageError(fmt::format("text '{}' has {} characters; at least {} are needed for this context and batch",
                                 corpus.source, characters.size(), shortest));
  corpus.vocabulary.emplace_back(replacement);
  std::map<std::string_view, int64_t> ids;
  for (auto &[character, count] : counts) {
    if (count < rare || character == replacement) {
      ids[character] = 0;
      continue;
    }
    ids[character] = int64_t(corpus.vocabulary.size());
    corpus.vocabulary.emplace_back(character);
  }
  if (corpus.vocabulary.size() == 1)
    throw UsageError(fmt::format(
        "text '{}' has {} characters, {} of them different, and each too rare to learn: one must occur at least {} "
        "times; give a longer text",
        corpus.source, characters.size(), counts.size(), rare));
  corpus.characters.reserve(characters.size());
  for (std::string_view character : characters)
    corpus.characters.push_back(ids[character]);
  return corpus;
}

} // namespace hyperjit::tools
