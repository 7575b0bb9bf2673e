// Recipes that nobody wrote, through the CPU back end: what hand-written ones have in common hides what they do not
// use.
// SPDX-License-Identifier: Apache-2.0
#include "CpuHarness.h"

#include "RandomSite.h"

#include "hyperjit/DSL.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/SpecList.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

/// A program read back from its text is the same program.
void checkText(const std::string &spec) {
  Site site(spec);
  std::string name = site.spec.recipe + "-text";
  defineProgram(name, site.program->text, "a test");
  Site again(name + spec.substr(spec.find(':')));
  EXPECT_EQ(again.program->text, site.program->text);
  EXPECT_EQ(again.signature().saved, site.signature().saved);
  EXPECT_EQ(again.signature().tokenCoefficients, site.signature().tokenCoefficients);
  EXPECT_EQ(again.signature().channelRows, site.signature().channelRows);
}

/// Callers allocate what the signature says.
void checkSaved(const std::string &text, const std::string &following) {
  const SiteSpec first = Site(text).spec;
  const Site second(following.empty() ? text : following);
  for (const KernelSpec &spec : {KernelSpec::beforeForward(second.spec, true, Bucket::Small),
                                 KernelSpec::boundaryForward(first, second.spec, true, Bucket::Small)}) {
    int64_t saved = 0;
    for (const OperandInfo &operand : Runner(spec).outputs())
      saved += operand.name == "saved" ? operand.elements : 0;
    EXPECT_EQ(saved, second.signature().saved) << spec.text();
  }
}

/// Compiled twice, from nothing, a kernel has the same bytes.
void checkBytes(const std::string &text) {
  const SiteSpec site = Site(text).spec;
  auto compiled = [&] {
    KernelManagerOptions options;
    options.settings.cache = CacheMode::Off;
    ProgramSource &programs = ProgramSource::global();
    return KernelManager(options)
        .artifact(trainingKernel(programs, site, site, Role::Boundary, Direction::Backward, Bucket::Large),
                  Target::parse("native"))
        .artifact->payload;
  };
  EXPECT_EQ(compiled(), compiled());
}

TEST(Random, SitesGiveWhatTheirProgramsMean) {
  const int64_t tokens[] = {3, 1, 37, 3, 0, 70};
  for (int i = 0; i < randomSites(24); ++i) {
    const uint64_t seed = randomSeed() + uint64_t(i);
    const std::string sizes = randomSizes(seed) + ",weight=fp64,dtype=fp64";
    SCOPED_TRACE("HYPERJIT_TEST_SITES=1 HYPERJIT_TEST_SEED=" + std::to_string(seed));
    try {
      const std::string site = randomSite(seed, sizes);
      const std::string following = seed % 2 ? randomSite(seed + 1000000007, sizes) : std::string();
      if (site.empty())
        continue;
      checkText(site);
      checkSaved(site, following);
      const int64_t count = tokens[seed % 6];
      checkForward(site, count, "native", 1 + int(seed % 2), following, 1e-8);
      checkDifferences(site, count, following);
      if (seed % 4 == 0) {
        std::string plain = site.substr(0, site.find("weight="));
        checkForward(plain + "dtype=fp32", count, "native", 1, {}, 1e-3);
        checkDType(plain, "dtype=fp32", 1e-3, count);
        checkDType(plain, "dtype=bf16", 0.2, count);
      }
      if (seed % 4 == 2)
        checkMasks(site, 1e-8);
      if (seed % 8 == 0)
        checkBytes(site);
    } catch (const UserError &error) { // the only limit that so few operations meet
      EXPECT_NE(std::string(error.what()).find("kernels have at most"), std::string::npos) << error.what();
    } catch (const std::exception &error) {
      ADD_FAILURE() << error.what();
    }
  }
}

/// A text with one of its words changed: a number, a type, a value or an operation by another of the text or a small
/// number.
std::string changed(const std::string &text, std::mt19937_64 &random) {
  static const std::regex word("-?[0-9][0-9.]*(e-[0-9]+)?|%[a-z0-9_]+|hc\\.[a-z_]+ |\"[a-z_0-9]+\"|!hc.[a-z]+<[^>]*>");
  const std::vector<std::smatch> words(std::sregex_iterator(text.begin(), text.end(), word), {});
  const std::smatch place = words[random() % words.size()];
  auto kind = [](const std::string &word) { return std::isdigit(static_cast<unsigned char>(word[0])) ? '0' : word[0]; };
  std::string other = std::to_string(int(random() % 12) - 2);
  for (int tries = 0; tries < 1000 && (kind(place.str()) != '0' || random() % 2); ++tries)
    if (other = words[random() % words.size()].str(); kind(other) == kind(place.str()) && other != place.str())
      break;
  return std::string(text).replace(size_t(place.position()), size_t(place.length()), other);
}

TEST(Random, ChangedTextsAreRefusedOrCompile) {
  for (int i = 0; i < 10 * randomSites(3); ++i) {
    const uint64_t seed = randomSeed() + uint64_t(i / 10);
    std::mt19937_64 random(10 * seed + uint64_t(i % 10));
    const std::string sizes = randomSizes(seed) + ",dtype=fp32", spec = randomSite(seed, sizes);
    if (spec.empty())
      continue;
    const std::string text = changed(Site(spec).program->text, random), name = "test-changed-" + std::to_string(i);
    SCOPED_TRACE(text);
    if (const char *file = std::getenv("HYPERJIT_TEST_TEXT")) // what a crash leaves behind
      std::ofstream(file) << text;
    try {
      defineProgram(name, text, "a test");
      const SiteSpec site = Site(name + ":" + sizes).spec;
      for (Role role : {Role::Before, Role::After, Role::Boundary})
        for (Direction direction : {Direction::Forward, Direction::Backward})
          KernelManager::global().stage(
              trainingKernel(ProgramSource::global(), site, site, role, direction, Bucket::Small),
              Target::parse("native"), "llvm");
    } catch (const UserError &) {
    } catch (const std::exception &error) {
      ADD_FAILURE() << error.what();
    }
  }
}

/// What random sites found, in few words.
TEST(Random, FoundSites) {
  using namespace dsl;
  define("test-found-post-norm", [](dsl::Site &s) { // reductions after the hole
    Rows x = s.streams(), y = s.branchOutput();
    s.branchInput(mix(tanh(rowSum(x)), x));
    Rows normed = rmsNorm(y, 1e-6);
    s.next(x + write(sigmoid(reshape(dot(x, normed), {s.n()})), normed));
  });
  define("test-found-shared", [](dsl::Site &s) { // constants after the hole, and rows on both sides of it
    Rows x = s.streams(), normed = rmsNorm(x, 1e-6);
    s.branchInput(gatherRows(normed, {0}));
    s.next(normed + scaleRows(s.constants({s.n()}, std::vector<double>(size_t(s.n()), 0.5)),
                              write(2 * tanh(rowSum(x)), s.branchOutput())));
  });
  define("test-found-folded", [](dsl::Site &s) { // no reduction is left
    s.branchInput(gatherRows(s.streams(), {0}));
    s.next(s.streams() + write(rowSum(s.streams()) * 0.0 + 1, s.branchOutput()));
  });
  define("test-found-twice", [](dsl::Site &s) { // two reductions are one
    Rows x = s.streams();
    s.branchInput(gatherRows(rmsNorm(x, 1e-6), {0}));
    s.next(x + write(tanh(dotRows(x, x)), s.branchOutput()));
  });
  for (const char *name : {"test-found-post-norm", "test-found-shared", "test-found-folded", "test-found-twice"})
    for (const char *following : {"", "test-found-folded"}) {
      const std::string sizes = ":n=3,d=33,weight=fp64,dtype=fp64", site = name + sizes;
      const std::string second = *following ? following + sizes : "";
      checkSaved(site, second);
      checkForward(site, 5, "native", 1, second);
      checkDifferences(site, 5, second);
    }
}

} // namespace
