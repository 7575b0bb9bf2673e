// ArtifactMeta and the entry format: round trips, and that no damaged byte is taken for a kernel.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include <nlohmann/json.hpp>

#include <cstring>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

TEST(Meta, RoundTrips) {
  ArtifactMeta meta = sampleMeta();
  std::string text = meta.json();
  ArtifactMeta again = ArtifactMeta::parse(text);
  EXPECT_EQ(again.json(), text);
  // The text alone could lose a field on both ways.
  EXPECT_EQ(again.spec, meta.spec);
  ASSERT_EQ(again.operands.size(), 4u);
  EXPECT_EQ(again.operands[1].scope, OperandScope::Uniform);
  EXPECT_FALSE(again.operands[1].used);
  EXPECT_EQ(again.operands[2].kind, OperandKind::Weight);
  EXPECT_EQ(again.operands[3].dtype, DType::Float64);
  EXPECT_TRUE(again.operands[3].output);
  ASSERT_EQ(again.launches.size(), 4u);
  EXPECT_EQ(again.launches[0].grid, GridKind::Tokens);
  EXPECT_EQ(again.launches[0].perBlock, 8);
  EXPECT_EQ(again.launches[0].cluster, 2);
  EXPECT_EQ(again.launches[0].sharedBytes, 40960);
  EXPECT_EQ(again.launches[0].extra, R"({"note":"kept"})");
  EXPECT_EQ(again.launches[1].extent, 96);
  EXPECT_EQ(again.launches[1].perBlock, 4);
  EXPECT_EQ(again.launches[1].offset, 64);
  EXPECT_EQ(again.launches[2].perProcessor, 2);
  EXPECT_EQ(again.launches[3].blocks, 17);
  EXPECT_EQ(again.workspacePerToken, 4);
  EXPECT_EQ(again.maxChunks, 64);
  EXPECT_EQ(again.scratchBytes, 8192);
  EXPECT_EQ(again.traffic.readsU, 3);
  EXPECT_EQ(again.traffic.narrowBytes, 12);
  EXPECT_EQ(again.stages, 2);
  ASSERT_EQ(again.entries.size(), 2u);
  EXPECT_EQ(again.entries[1].spills, 8);
  EXPECT_EQ(again.keyFields, meta.keyFields);
  EXPECT_EQ(again.compileMilliseconds, 12.5);
  EXPECT_EQ(again.extra, R"({"later":{"version":2}})");
}

TEST(Meta, ChunksAndWorkspace) {
  ArtifactMeta meta;
  meta.blockTokens = 16;
  meta.maxChunks = 4;
  meta.workspaceFixed = 100;
  meta.workspacePerChunk = 10;
  meta.workspacePerToken = 2;
  EXPECT_EQ(meta.chunks(0), 0);
  EXPECT_EQ(meta.chunkTokens(0), 16);
  EXPECT_EQ(meta.chunks(1), 1);
  EXPECT_EQ(meta.chunks(64), 4);
  EXPECT_EQ(meta.chunkTokens(65), 32); // 5 blocks in at most 4 chunks: 2 blocks a chunk
  EXPECT_EQ(meta.chunks(65), 3);
  EXPECT_EQ(meta.chunks(1000000), 4);
  EXPECT_EQ(meta.workspaceBytes(0), 100u);
  EXPECT_EQ(meta.workspaceBytes(65), 100u + 3 * 10 + 65 * 2);
}

TEST(Meta, RefusesWhatLaunchingCouldNotTrust) {
  nlohmann::json good = nlohmann::json::parse(sampleMeta().json());
  auto refused = [&](const std::function<void(nlohmann::json &)> &change) {
    nlohmann::json changed = good;
    change(changed);
    Caught error = caught([&] { ArtifactMeta::parse(changed.dump()); });
    EXPECT_EQ(error.id, "internal") << changed.dump();
    return error.text;
  };
  EXPECT_NE(refused([](auto &meta) { meta.erase("spec"); }).find("no text 'spec'"), std::string::npos);
  EXPECT_NE(refused([](auto &meta) {
              meta["launches"][0]["grid"]["kind"] = "spiral";
            }).find("grid 'spiral' of hc_before_tokens"),
            std::string::npos);
  EXPECT_NE(refused([](auto &meta) { meta["operands"][0]["dtype"] = "int8"; }).find("operand dtype 'int8'"),
            std::string::npos);
  EXPECT_NE(refused([](auto &meta) { meta["workspace"]["fixed"] = -1; }).find("fixed = -1 is outside"),
            std::string::npos);
  EXPECT_NE(refused([](auto &meta) { meta["chunks"]["block_tokens"] = 0; }).find("block_tokens = 0 is outside"),
            std::string::npos);
  EXPECT_NE(refused([](auto &meta) { meta["stages"] = 1.5; }).find("not a whole number"), std::string::npos);
  refused([](auto &meta) { meta.erase("operands"); });
  refused([](auto &meta) { meta["operands"] = 3; });
  refused([](auto &meta) { meta["launches"][0]["block"] = 2048; });
  refused([](auto &meta) { meta["launches"][0] = "hc_before"; });
  refused([](auto &meta) { meta["operands"][0]["elements"] = 1e30; });
  refused([](auto &meta) { meta["operands"][0]["used"] = "yes"; });
  refused([](auto &meta) { meta["key"] = {{"schema"}}; });
  refused([](auto &meta) { meta["workspace"] = {1, 2}; });
  for (const char *text : {"", "{", "[]", "null", "3", "{\"spec\": \"\\ud800\"}"})
    EXPECT_EQ(caught([&] { ArtifactMeta::parse(text); }).id, "internal") << text;
}

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

// Copying and printing a value call themselves for each level. Inverted: the depth in parseJson.
TEST(Meta, RefusesWhatNestsTooDeep) {
  std::string good = sampleMeta().json();
  auto with = [&](const std::string &key, size_t depth) {
    return "{\"" + key + "\":" + nested(depth) + "," + good.substr(1);
  };
  EXPECT_EQ(ArtifactMeta::parse(with("zz", 63)).spec, sampleMeta().spec);
  for (size_t depth : {64u, 1000000u})
    for (const char *key : {"zz", "toolchains"}) {
      Caught error = caught([&] { ArtifactMeta::parse(with(key, depth)); });
      EXPECT_EQ(error.id, "internal");
      EXPECT_NE(error.text.find("nested deeper than 64"), std::string::npos) << error.text;
    }
  // What is of another type than ours is named by its type: it may be of any size.
  std::string text = good;
  text.replace(text.find("\"stages\":"), 9, "\"stages\":" + nested(50) + ",\"was\":");
  Caught error = caught([&] { ArtifactMeta::parse(text); });
  EXPECT_NE(error.text.find("stages is of type array, not a whole number"), std::string::npos) << error.text;
}

void expectSame(const Artifact &a, const Artifact &b) {
  EXPECT_EQ(a.kind, b.kind);
  EXPECT_EQ(a.meta.json(), b.meta.json());
  EXPECT_EQ(a.payload, b.payload);
}

TEST(Entry, RoundTrips) {
  CacheKey key = sampleKey("entry");
  for (size_t size : {0u, 1u, 4095u, 4096u, 30000u}) {
    SCOPED_TRACE(size);
    Artifact artifact = sampleArtifact(size);
    artifact.kind = size % 2 ? PayloadKind::Image : PayloadKind::Cubin;
    std::vector<std::byte> bytes = encodeEntry(key, artifact);
    EXPECT_EQ(bytes, encodeEntry(key, artifact)); // the same kernel, the same file
    DecodedEntry decoded = decodeEntry(bytes, &key);
    ASSERT_EQ(decoded.fault, EntryFault::None) << decoded.reason;
    EXPECT_EQ(decoded.key, key);
    expectSame(*decoded.artifact, artifact);
    EXPECT_EQ(decodeEntry(bytes, nullptr).fault, EntryFault::None);
  }
}

// magic "HJKERNL\1" | format u32 | header_len u32 | flags u32 | kind u32 | key[32] | meta_len u64 | raw_len u64 |
// stored_len u64
// | checksum[16]: a file format, so its bytes are pinned.
TEST(Entry, HeaderIsAsDocumented) {
  CacheKey key = sampleKey("entry");
  Artifact small = sampleArtifact(100), large = sampleArtifact(8192);
  std::vector<std::byte> bytes = encodeEntry(key, small);
  auto u32 = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, bytes.data() + at, 4);
    return value;
  };
  auto u64 = [&](size_t at) {
    uint64_t value;
    std::memcpy(&value, bytes.data() + at, 8);
    return value;
  };
  EXPECT_EQ(std::memcmp(bytes.data(), "HJKERNL\1", 8), 0);
  EXPECT_EQ(u32(8), 1u);
  EXPECT_EQ(u32(12), 96u);
  EXPECT_EQ(u32(16), 0u); // below 4 KiB nothing is compressed
  EXPECT_EQ(u32(20), 1u);
  EXPECT_EQ(std::memcmp(bytes.data() + 24, key.bytes.data(), 32), 0);
  EXPECT_EQ(u64(56), small.meta.json().size());
  EXPECT_EQ(u64(64), 100u);
  EXPECT_EQ(u64(72), 100u);
  EXPECT_EQ(bytes.size(), 96 + u64(56) + u64(72));
  bytes = encodeEntry(key, large);
  EXPECT_EQ(u32(16), 1u);
  EXPECT_EQ(u64(64), 8192u);
  EXPECT_LT(u64(72), 8192u);
}

TEST(Entry, AnyFlippedBitIsNoticed) {
  CacheKey key = sampleKey("entry");
  for (size_t size : {64u, 5000u}) {
    std::vector<std::byte> bytes = encodeEntry(key, sampleArtifact(size));
    for (size_t at = 0; at < bytes.size(); ++at)
      for (int bit : {0, 5}) {
        bytes[at] ^= std::byte(1 << bit);
        DecodedEntry decoded = decodeEntry(bytes, &key);
        ASSERT_NE(decoded.fault, EntryFault::None) << "byte " << at;
        ASSERT_FALSE(decoded.artifact.has_value()) << "byte " << at;
        ASSERT_NE(decoded.fault, EntryFault::OtherFormat) << "byte " << at << ": " << decoded.reason;
        bytes[at] ^= std::byte(1 << bit);
      }
    // A format of the future has a checksum of its own.
    bytes[8] = std::byte(2);
    bytes[90] ^= std::byte(1);
    EXPECT_EQ(decodeEntry(bytes, &key).fault, EntryFault::OtherFormat);
  }
}

TEST(Entry, AnyOtherLengthIsNoticed) {
  CacheKey key = sampleKey("entry");
  std::vector<std::byte> bytes = encodeEntry(key, sampleArtifact(200));
  for (size_t size = 0; size < bytes.size(); ++size)
    ASSERT_EQ(decodeEntry(std::span(bytes).first(size), &key).fault, EntryFault::Damaged) << size;
  bytes.push_back(std::byte(0));
  EXPECT_EQ(decodeEntry(bytes, &key).fault, EntryFault::Damaged);
  EXPECT_EQ(decodeEntry({}, nullptr).reason, "0 bytes are less than a header");
}

// With the right key and the right checksum: somebody made it so.
TEST(Entry, NestedTooDeepIsDamage) {
  CacheKey key = sampleKey("entry");
  Artifact artifact = sampleArtifact();
  artifact.meta.extra = "{\"zz\":" + nested(100) + "}";
  DecodedEntry decoded = decodeEntry(encodeEntry(key, artifact), &key);
  EXPECT_EQ(decoded.fault, EntryFault::Damaged);
  EXPECT_NE(decoded.reason.find("nested deeper than 64"), std::string::npos) << decoded.reason;
}

TEST(Entry, AnotherKeyIsNoticed) {
  CacheKey key = sampleKey("entry"), other = sampleKey("other");
  DecodedEntry decoded = decodeEntry(encodeEntry(key, sampleArtifact()), &other);
  EXPECT_EQ(decoded.fault, EntryFault::WrongKey);
  EXPECT_EQ(decoded.reason, "it is the kernel of key " + key.hex());
  EXPECT_EQ(decoded.key, key);
}

// Lengths that would make a reader allocate the world are refused before anything is allocated.
TEST(Entry, AbsurdLengthsAreRefused) {
  CacheKey key = sampleKey("entry");
  std::vector<std::byte> bytes = encodeEntry(key, sampleArtifact());
  for (size_t field : {56u, 64u, 72u}) {
    std::vector<std::byte> changed = bytes;
    uint64_t huge = uint64_t(1) << 62;
    std::memcpy(changed.data() + field, &huge, 8);
    EXPECT_EQ(decodeEntry(changed, &key).fault, EntryFault::Damaged) << field;
  }
}

} // namespace
