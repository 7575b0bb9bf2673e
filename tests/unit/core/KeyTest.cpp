// Keys: digest, hex, that each field counts and nothing else does.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/KernelManager.h"

#include <cstdlib>
#include <set>
#include <unistd.h>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

TEST(Keys, DigestIsBlake2b) {
  // Published values of BLAKE2b with a 256-bit digest.
  EXPECT_EQ(digestText(""), "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
  EXPECT_EQ(digestText("abc"), "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
  EXPECT_NE(digestText(std::string_view("a\0b", 3)), digestText("a"));
}

TEST(Keys, HexRoundTrips) {
  CacheKey key = sampleKey("one");
  EXPECT_EQ(key.hex().size(), 64u);
  EXPECT_EQ(CacheKey::fromHex(key.hex()), key);
  std::string upper = key.hex(), shorter = key.hex().substr(1), wrong = key.hex();
  upper[0] = 'A';
  wrong[63] = 'g';
  for (const std::string &text : {std::string(), upper, shorter, wrong, key.hex() + "0"})
    EXPECT_EQ(CacheKey::fromHex(text), std::nullopt) << text;
}

TEST(Keys, EveryFieldCounts) {
  std::set<CacheKey> keys = {CacheKey::of({})};
  KeyFields fields;
  size_t count = 0;
  for (std::string KeyFields::*field :
       {&KeyFields::schema, &KeyFields::compilerDigest, &KeyFields::templateDigest, &KeyFields::spec,
        &KeyFields::afterProgram, &KeyFields::beforeProgram, &KeyFields::schedule, &KeyFields::target,
        &KeyFields::toolchain, &KeyFields::flags, &KeyFields::nameSpace}) {
    KeyFields changed;
    changed.*field += "x";
    EXPECT_TRUE(keys.insert(CacheKey::of(changed)).second);
    ++count;
  }
  EXPECT_EQ(count, fields.list().size()); // whoever adds a field adds it above
}

// Length in front of each field: text cannot move from one to the next.
TEST(Keys, FieldsDoNotRunTogether) {
  KeyFields a, b;
  a.spec = "ab", a.afterProgram = "c";
  b.spec = "a", b.afterProgram = "bc";
  EXPECT_NE(CacheKey::of(a), CacheKey::of(b));
}

TEST(Keys, TextIsPrintable) {
  KeyFields fields;
  fields.spec = "before(static):forward:save:tokens=large";
  fields.schedule = "auto";
  std::string text = fields.text();
  EXPECT_NE(text.find("spec = before(static):forward:save:tokens=large\n"), std::string::npos);
  EXPECT_NE(text.find("schedule = auto\n"), std::string::npos);
  EXPECT_NE(text.find("schema = 1\n"), std::string::npos);
}

TEST(Keys, BuildDigestsAreThere) {
  EXPECT_EQ(compilerDigest().size(), 64u);
  EXPECT_EQ(templateDigest().size(), 64u);
  EXPECT_NE(compilerDigest(), templateDigest());
  EXPECT_EQ(version(), "0.1.0");
}

CacheKey realKey(const std::string &site, const char *target = "x86-64-v3") {
  KernelManagerOptions options;
  options.settings = {};
  options.settings.cache = CacheMode::Off;
  KernelManager manager(options);
  return CacheKey::of(
      manager.keyFields(KernelSpec::beforeForward(SiteSpec::parse(site), true, Bucket::Large), Target::parse(target)));
}

// 32 layers that differ in layer_index and initialisation share every key; what enters code does not.
TEST(Keys, LayersShareThem) {
  std::set<CacheKey> keys;
  for (int layer = 0; layer < 32; ++layer)
    keys.insert(realKey("manifold:n=4,d=64,layer_index=" + std::to_string(layer) + ",init=zero"));
  EXPECT_EQ(keys.size(), 1u);
  EXPECT_TRUE(keys.count(realKey("manifold:d=64")));
  for (const char *other : {"manifold:n=3,d=64", "manifold:n=4,d=65", "manifold:n=4,d=64,dtype=bf16",
                            "manifold:n=4,d=64,iterations=3", "manifold:n=4,d=64,weight=bf16"})
    EXPECT_TRUE(keys.insert(realKey(other)).second) << other;
  EXPECT_TRUE(keys.insert(realKey("manifold:d=64", "x86-64-v4")).second);
}

// Nothing of the process, its place or its user.
TEST(Keys, DoNotDependOnTheProcess) {
  CacheKey key = realKey("dynamic:d=64");
  TemporaryFolder elsewhere;
  Variable home("HOME", elsewhere.path.c_str()), user("USER", "somebody"), zone("TZ", "Asia/Tokyo"),
      locale("LC_ALL", "C"), cache("HYPERJIT_CACHE_DIR", "/nowhere"), log("HYPERJIT_LOG", "debug");
  EXPECT_TRUE(inChild([&] { return ::chdir(elsewhere.path.c_str()) == 0 && realKey("dynamic:d=64") == key; }));
}

} // namespace
