// cache-fuzz PARSER CORPUS [ROUNDS]: the corpus as it is, then ROUNDS (default 20000) mutations of it from a fixed
// seed. What libFuzzer does where there is clang, without its coverage, everywhere.
// SPDX-License-Identifier: Apache-2.0
#include "Targets.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

using Bytes = std::vector<uint8_t>;

static void mutate(Bytes &bytes, const std::vector<Bytes> &corpus, std::mt19937 &random) {
  for (unsigned changes = 1 + random() % 4; changes > 0; --changes) {
    size_t at = bytes.empty() ? 0 : random() % bytes.size();
    switch (random() % 6) {
    case 0:
      if (!bytes.empty())
        bytes[at] ^= uint8_t(1u << random() % 8);
      break;
    case 1:
      if (!bytes.empty())
        bytes[at] = uint8_t(random());
      break;
    case 2:
      bytes.insert(bytes.begin() + ptrdiff_t(at), 1 + random() % 8, uint8_t(random()));
      break;
    case 3:
      if (!bytes.empty())
        bytes.erase(bytes.begin() + ptrdiff_t(at),
                    bytes.begin() + ptrdiff_t(std::min(bytes.size(), at + 1 + random() % 16)));
      break;
    case 4:
      bytes.resize(at);
      break;
    case 5: {
      const Bytes &other = corpus[random() % corpus.size()];
      size_t from = other.empty() ? 0 : random() % other.size();
      bytes.resize(at);
      bytes.insert(bytes.end(), other.begin() + ptrdiff_t(from), other.end());
      break;
    }
    }
  }
}

int main(int argc, char **argv) {
  if (argc < 3 || !hyperjit::fuzz::parse(argv[1], nullptr, 0)) {
    std::fprintf(stderr, "cache-fuzz entry|spec|manifest CORPUS [ROUNDS]\n");
    return 2;
  }
  std::vector<std::string> files;
  for (const auto &file : std::filesystem::directory_iterator(argv[2]))
    files.push_back(file.path().string());
  std::sort(files.begin(), files.end()); // the same mutations on every machine
  std::vector<Bytes> corpus;
  for (const std::string &file : files) {
    std::ifstream in(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "cache-fuzz: %s is empty\n", argv[2]);
    return 2;
  }
  for (const Bytes &bytes : corpus)
    hyperjit::fuzz::parse(argv[1], bytes.data(), bytes.size());
  std::mt19937 random(11);
  long rounds = argc > 3 ? std::atol(argv[3]) : 20000;
  for (long round = 0; round < rounds; ++round) {
    Bytes bytes = corpus[random() % corpus.size()];
    mutate(bytes, corpus, random);
    hyperjit::fuzz::parse(argv[1], bytes.data(), bytes.size());
  }
  std::printf("%s: %zu files, %ld mutations\n", argv[1], corpus.size(), rounds);
}
