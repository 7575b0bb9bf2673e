// Every recipe against the formulas, forward and all gradients, on every back end of this machine.
// SPDX-License-Identifier: Apache-2.0
//
//   conformance --gtest_filter='*/cpu_manifold'        one recipe (as ctest runs it)
//   HYPERJIT_TEST_SEED=7 conformance ...               repeats a rotating sample; the seed is printed
//   HYPERJIT_TEST_ALL=1 conformance ...                pairs with D and token counts too (or --all)
//   HYPERJIT_TEST_VERBOSE=1 conformance ...            says each case before it runs
//   HYPERJIT_TEST_ONLY=seed=508162 conformance ...     of tests that have cases, those whose text contains this
//   HYPERJIT_TEST_GUARD=1 conformance ...              CPU tensors end at forbidden pages

#include "Cases.h"
#include "GuardedMemory.h"
#include "Harness.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/torch/Reference.h>

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

namespace hyperjit::conformance {
namespace {

struct Instance {
  at::DeviceType device;
  std::string recipe;
};

std::string nameOf(const Instance &instance) {
  std::string name = instance.device == at::kCPU ? "cpu_" : "cuda_";
  for (char c : instance.recipe)
    name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}
void PrintTo(const Instance &instance, std::ostream *stream) { *stream << nameOf(instance); }

class Conformance : public testing::TestWithParam<Instance> {
protected:
  void SetUp() override {
    if (GetParam().device == at::kCUDA && !at::hasCUDA())
      GTEST_SKIP() << "no CUDA device";
    if (GetParam().device == at::kCUDA && at::detail::getCUDAHooks().deviceCount() == 0)
      GTEST_SKIP() << "no CUDA device";
  }
  void TearDown() override {
    if (compared)
      std::printf("[ CASES    ] %d, largest share of the allowed error: %.3f (%s)\n", compared, worst,
                  worstCase.c_str());
  }
  const std::string &recipe() const { return GetParam().recipe; }
  at::Device device() const { return GetParam().device; }

  /// Kernels against the formulas.
  void check(const std::vector<Program> &sites, const Sample &sample, bool chain, const std::string &what,
             std::vector<Edge> *edges = nullptr, Inputs inputs = Inputs::Ordinary) {
    const bool apart = inputs == Inputs::Corners;
    setCurrentCase(what.c_str());
    if (verbose)
      std::printf("%s\n", what.c_str()), std::fflush(stdout);
    Outcome got = chain ? runKernelChain(sites, sample, edges) : runKernels(*sites[0], sample);
    if (apart)
      got = firstTokensApart(got, sample.tokens);
    auto formulas = [&](at::ScalarType type) {
      const Outcome made = chain ? runReferenceChain(sites, sample, type) : runReference(*sites[0], sample, type);
      return apart ? firstTokensApart(made, sample.tokens) : made;
    };
    double share = 0;
    const bool offset = inputs == Inputs::Offset, cancels = offset || mayCancel(sample, *sites[0]);
    const double cancellation = cancels ? cancellationOf(sample, sites[0]->spec) : 0;
    const Tolerance tolerance{sites, sample.tokens, formulas(at::kFloat), cancellation, offset ? 100.0 : 0.0};
    const std::string report = compare(got, formulas(at::kDouble), tolerance, &share);
    if (!report.empty())
      ADD_FAILURE() << what << "\n" << report;
    ++compared;
    if (share >= worst) {
      worst = share;
      worstCase = what;
    }
  }

  void run(const Case &one) {
    try {
      const std::vector<Program> sites{site(one.spec)};
      const Sample sample = makeSample(sites, one.lead, one.seed, device(), one.inputs);
      check(sites, sample, false, one.text(), nullptr, one.inputs);
    } catch (const std::exception &error) {
      ADD_FAILURE() << one.text() << "\n  " << error.what();
    }
  }
  /// HYPERJIT_TEST_PART=i/k: every k-th case from the i-th on, for a test that is split among processes.
  /// HYPERJIT_TEST_ONLY=TEXT: the cases whose text, as failures print it, contains TEXT.
  template <class C> std::vector<C> ofThisProcess(const std::vector<C> &all) {
    int first = 0, step = 1;
    const char *part = std::getenv("HYPERJIT_TEST_PART"), *only = std::getenv("HYPERJIT_TEST_ONLY");
    if (part && !(std::sscanf(part, "%d/%d", &first, &step) == 2 && step > 0 && first >= 0 && first < step))
      throw std::invalid_argument(std::string("HYPERJIT_TEST_PART=") + part);
    std::vector<C> mine;
    for (size_t i = static_cast<size_t>(first); i < all.size(); i += static_cast<size_t>(step))
      if (!only || all[i].text().find(only) != std::string::npos)
        mine.push_back(all[i]);
    return mine;
  }
  void run(const std::vector<Case> &cases) {
    for (const Case &one : ofThisProcess(cases))
      run(one);
  }

  const bool verbose = std::getenv("HYPERJIT_TEST_VERBOSE") != nullptr;
  int compared = 0;
  double worst = 0;
  std::string worstCase;
};

TEST_P(Conformance, Pairs) { run(pairCases(recipe())); }

TEST_P(Conformance, Random) {
  std::printf("[ SEED     ] HYPERJIT_TEST_SEED=%llu\n", static_cast<unsigned long long>(testSeed()));
  RecordProperty("seed", std::to_string(testSeed()));
  run(randomCases(recipe(), testSeed(), 12));
}

TEST_P(Conformance, Corners) { run(cornerCases(recipe())); }

TEST_P(Conformance, Offset) { run(offsetCases(recipe())); }

TEST_P(Conformance, MixedDtypes) { run(mixedDtypeCases(recipe())); }

TEST_P(Conformance, Chains) {
  for (const Chain &chain : ofThisProcess(chains(recipe())))
    try {
      std::vector<Program> sites;
      for (const std::string &spec : chain.specs)
        sites.push_back(site(spec));
      const Sample sample = makeSample(sites, chain.lead, chain.seed, device());
      std::vector<Edge> edges;
      check(sites, sample, true, chain.text(), &edges);
      // With roundings at every edge the formulas say little about a gradient of 32 bits; the unfused kernels say more.
      if (!testAll() && sizeOf(sites[0]->spec.stream) != 2)
        continue;
      for (const Edge &edge : edges)
        EXPECT_EQ(compareFused(runBoundary(edge, Boundary::Fused), runBoundary(edge, Boundary::Separate), edge), "")
            << edge.after->spec.text() << "|" << edge.before->spec.text() << "\nin " << chain.text();
    } catch (const std::exception &error) {
      ADD_FAILURE() << chain.text() << "\n  " << error.what();
    }
}

/// Results without tokens: empty, and zero where they are summed over tokens.
TEST_P(Conformance, NoTokens) {
  for (const char *dtype : {"fp32", "fp64", "bf16", "fp16"})
    for (const std::vector<int64_t> &lead : {std::vector<int64_t>{0}, {3, 0}}) {
      const int64_t n = excluded(recipe(), 4, 1, 48) ? 1 : 4;
      const Case one{recipe() + ":n=" + std::to_string(n) + ",d=48,dtype=" + dtype, lead, 1};
      run(one);
      const std::vector<Program> sites{site(one.spec), site(one.spec), site(one.spec)};
      const Sample sample = makeSample(sites, lead, 1, device());
      check(sites, sample, true, one.text());
    }
}

std::vector<Case> steadyCases(const std::string &recipe) {
  const int64_t n = excluded(recipe, 4, 1, 48) ? 1 : 4, m = excluded(recipe, n, 2, 48) ? 1 : 2;
  const std::string head = recipe + ":n=" + std::to_string(n) + ",m=" + std::to_string(m);
  return {{head + ",d=320,dtype=fp32", {127}, 1},
          {head + ",d=1000,dtype=bf16", {300}, 2},
          {head + ",d=42,dtype=fp64", {130}, 3}};
}

/// Twice the same bits, and inputs are only read.
TEST_P(Conformance, Repeatable) {
  for (const Case &one : steadyCases(recipe())) {
    const std::vector<Program> sites{site(one.spec), site(one.spec)};
    const Sample sample = makeSample(sites, one.lead, one.seed, device());
    const Sample again = makeSample(sites, one.lead, one.seed, device());
    const Outcome alone = runKernels(*sites[0], sample), chain = runKernelChain(sites, sample);
    EXPECT_EQ(compareBits(alone, runKernels(*sites[0], sample)), "") << one.text();
    EXPECT_EQ(compareBits(chain, runKernelChain(sites, sample)), "") << one.text();
    EXPECT_TRUE(at::equal(sample.x, again.x) && at::equal(sample.dNext, again.dNext) && at::equal(sample.du, again.du));
    for (size_t i = 0; i < sample.parameters[0].size(); ++i)
      EXPECT_TRUE(at::equal(sample.parameters[0][i], again.parameters[0][i])) << sites[0]->parameters[i].name;
  }
}

/// What belongs to a token has the same bits whatever tokens are around it, across both buckets of token counts.
TEST_P(Conformance, TokensAreIndependent) {
  std::vector<Case> cases = steadyCases(recipe());
  if (device() != at::kCPU) // other tokens a tile than few tokens have; warps with tokens of their own, in full waves
    for (const auto &[n, d, tokens] : {std::tuple<int64_t, int64_t, int64_t>{3, 2048, 300}, {5, 768, 6800}})
      if (!excluded(recipe(), n, 1, d))
        cases.push_back(
            {recipe() + ":n=" + std::to_string(n) + ",d=" + std::to_string(d) + ",dtype=bf16", {tokens}, 4});
  for (const Case &one : cases) {
    const std::vector<Program> sites{site(one.spec), site(one.spec)};
    const Sample whole = makeSample(sites, one.lead, one.seed, device());
    const Outcome all = runKernels(*sites[0], whole), allChain = runKernelChain(sites, whole);
    for (const auto &[begin, count] : {std::pair<int64_t, int64_t>{0, 1}, {5, 3}, {one.lead[0] - 70, 70}, {17, 64}}) {
      const Sample part = someTokens(whole, begin, count);
      for (bool chain : {false, true}) {
        Outcome some = chain ? runKernelChain(sites, part) : runKernels(*sites[0], part), expected;
        std::erase_if(some, [&](const auto &entry) { // sums over tokens differ
          const Outcome &of = chain ? allChain : all;
          return of.at(entry.first).dim() == 0 || of.at(entry.first).size(0) != whole.tokens;
        });
        for (const auto &[name, tensor] : some)
          expected[name] = (chain ? allChain : all).at(name).detach().narrow(0, begin, count).contiguous();
        EXPECT_GE(some.size(), 4u);
        EXPECT_EQ(compareBits(some, expected), "")
            << one.text() << " tokens " << begin << "+" << count << (chain ? " chain" : "");
      }
    }
  }
}

/// Odd sizes of every dtype, for runs under HYPERJIT_TEST_GUARD.
TEST_P(Conformance, GuardedSizes) {
  const int64_t n = excluded(recipe(), 3, 1, 48) ? 1 : 3;
  for (const char *dtype : {"fp32", "bf16", "fp16", "fp64"})
    for (int64_t d : {1, 7, 33, 129}) {
      const std::string spec = recipe() + ":n=" + std::to_string(n) + ",d=" + std::to_string(d) + ",dtype=" + dtype;
      run({spec, {37}, 1});
      run({spec, {67}, 2});
    }
}

/// Rows wide enough for a cluster of blocks, tiles that are not full, and so many tokens that a block's ring of tiles
/// turns several times; the same bits again.
TEST_P(Conformance, WideRows) {
  struct Size {
    int64_t n, d, tokens;
    const char *dtype;
  };
  for (const Size &size : {Size{4, 1280, 5, "bf16"}, Size{3, 2048, 37, "fp16"}, Size{2, 2560, 264, "bf16"},
                           Size{1, 4096, 1, "bf16"}, Size{4, 1280, 2055, "bf16"}, Size{2, 2048, 1500, "fp16"},
                           // Shared by clusters, in uneven rounds of warps, of many streams.
                           Size{4, 7168, 133, "bf16"}, Size{3, 8192, 37, "bf16"}, Size{2, 6144, 77, "bf16"},
                           Size{1, 2560, 300, "fp16"}, Size{8, 1024, 133, "bf16"},
                           // Sixteen tokens a tile on an H200; a wave of warps with tokens of their own.
                           Size{3, 4096, 1031, "bf16"}, Size{5, 768, 6700, "bf16"},
                           // Tails of tiles; widths that vectors or lines of memory do not divide.
                           Size{4, 1280, 3, "bf16"}, Size{4, 1280, 8, "bf16"}, Size{4, 1280, 127, "bf16"},
                           Size{2, 1280, 8191, "bf16"}, Size{4, 5129, 37, "bf16"}, Size{4, 8000, 264, "bf16"}}) {
    if (excluded(recipe(), size.n, 1, size.d) || (device() == at::kCPU && size.tokens > 300))
      continue;
    const std::string spec =
        recipe() + ":n=" + std::to_string(size.n) + ",d=" + std::to_string(size.d) + ",dtype=" + size.dtype;
    const Case one{spec, {size.tokens}, static_cast<uint64_t>(size.tokens)};
    run(one);
    if (HasFailure())
      return;
    const Program program = site(one.spec);
    const Sample sample = makeSample({program}, one.lead, one.seed, device());
    const Outcome first = runKernels(*program, sample), second = runKernels(*program, sample);
    for (const auto &[name, tensor] : first)
      EXPECT_TRUE(at::equal(tensor, second.at(name))) << name << " of " << one.text();
  }
}

/// NaN and infinities reach what they belong to, and nothing else.
TEST_P(Conformance, NotANumberStaysInItsToken) {
  for (double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const Case one = steadyCases(recipe())[0];
    const Program program = site(one.spec);
    const Sample clean = makeSample({program}, one.lead, one.seed, device());
    Sample dirty = clean;
    dirty.x = clean.x.clone();
    dirty.x[11][0][2].fill_(poison);
    const Outcome expected = runKernels(*program, clean), got = runKernels(*program, dirty);
    for (const char *name : {"u", "next", "d x", "d y"}) {
      const at::Tensor a = expected.at(name).detach(), b = got.at(name).detach();
      if (name[0] != 'd') { // gradients of static sites do not depend on x
        EXPECT_FALSE(b[11].isfinite().all().item<bool>()) << name << " of " << one.text();
      }
      for (const auto &[begin, count] : {std::pair<int64_t, int64_t>{0, 11}, {12, one.lead[0] - 12}})
        EXPECT_TRUE(at::equal(a.narrow(0, begin, count), b.narrow(0, begin, count))) << name << " of " << one.text();
    }
  }
}

/// The values of n, m, D, T, dtype and options among the sites of this recipe.
struct Seen {
  std::map<std::string, std::set<std::string>> values;
  void add(const std::string &text, const std::vector<int64_t> &lead) {
    const SiteSpec spec = SiteSpec::parse(text);
    values["n"].insert(std::to_string(spec.n));
    values["m"].insert(std::to_string(spec.m));
    values["D"].insert(std::to_string(spec.d));
    values["dtype"].insert(std::string(name(spec.stream)));
    values["T"].insert(std::to_string(product(lead)));
    for (const auto &[option, value] : spec.options)
      values[option].insert(value);
  }
  void expectAll(const std::string &recipe) {
    EXPECT_EQ(values["D"].size(), 7u);
    EXPECT_EQ(values["T"].size(), 5u);
    for (const Factor &factor : factorsOf(recipe))
      EXPECT_EQ(values[factor.name].size(), factor.values.size()) << factor.name;
  }
};

TEST_P(Conformance, EveryValueOccurs) {
  for (bool all : {false, true}) {
    SCOPED_TRACE(all ? "--all" : "a default run");
    Seen alone, chained;
    std::map<std::string, int> largest;
    for (const Case &one : pairCases(recipe(), all)) {
      alone.add(one.spec, one.lead);
      largest["T=" + std::to_string(product(one.lead)) + ",D=" + std::to_string(SiteSpec::parse(one.spec).d)]++;
    }
    alone.expectAll(recipe());
    std::set<std::string> partners;
    for (const Chain &chain : chains(recipe(), all)) {
      chained.add(chain.specs[0], chain.lead);
      EXPECT_EQ(chain.specs.size(), 3u);
      partners.insert(SiteSpec::parse(chain.specs[1]).recipe);
    }
    {
      SCOPED_TRACE("chains");
      chained.expectAll(recipe());
      EXPECT_EQ(partners.size(), ProgramSource::global().recipes().size());
    }
    if (all) {
      EXPECT_GT(largest["T=1000,D=4096"], 0);
    }
  }
}

std::vector<Instance> instances() {
  std::vector<Instance> all;
  for (at::DeviceType device : {at::kCPU, at::kCUDA})
    for (const std::string &recipe : ProgramSource::global().recipes())
      all.push_back({device, recipe});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Recipes, Conformance, testing::ValuesIn(instances()),
                         [](const auto &info) { return nameOf(info.param); });

//===----------------------------------------------------------------------===//
// The harness itself
//===----------------------------------------------------------------------===//

TEST(Harness, PairsAreComplete) {
  const std::vector<Factor> factors = {
      {"a", {"0", "1", "2"}}, {"b", {"0", "1"}}, {"c", {"0", "1", "2", "3"}}, {"d", {"0", "1"}}};
  auto possible = [](const std::vector<int> &row) { return !(row[0] == 2 && row[2] == 3); };
  const auto rows = covering(factors, possible, 1, 2);
  EXPECT_LE(rows.size(), 16u);
  for (size_t a = 0; a < 4; ++a)
    for (size_t b = a + 1; b < 4; ++b)
      for (int i = 0; i < static_cast<int>(factors[a].values.size()); ++i)
        for (int j = 0; j < static_cast<int>(factors[b].values.size()); ++j) {
          const bool found =
              std::any_of(rows.begin(), rows.end(), [&](const auto &row) { return row[a] == i && row[b] == j; });
          EXPECT_EQ(found, !(a == 0 && i == 2 && b == 2 && j == 3)) << a << b << i << j;
        }
}

TEST(Harness, ValuesAreComplete) {
  const std::vector<Factor> factors = {
      {"a", {"0", "1", "2"}}, {"b", {"0", "1"}}, {"c", {"0", "1", "2", "3"}}, {"d", {"0", "1"}}};
  auto possible = [](const Row &row) { return !(row[0] == 2 && row[2] == 3); };
  const std::vector<Row> starts = {{2, -1, 0, -1}, {2, 1, -1, 1}}, rows = covering(factors, possible, 1, 1, starts);
  EXPECT_LE(rows.size(), 6u);
  for (size_t i = 0; i < starts.size(); ++i)
    for (size_t a = 0; a < 4; ++a)
      EXPECT_TRUE(starts[i][a] < 0 || rows.at(i)[a] == starts[i][a]) << i << a;
  for (size_t a = 0; a < 4; ++a)
    for (int i = 0; i < static_cast<int>(factors[a].values.size()); ++i)
      EXPECT_TRUE(std::any_of(rows.begin(), rows.end(), [&](const Row &row) { return row[a] == i; })) << a << i;
}

/// Sizes that are left out are refused, so that no exclusion hides a case that could run.
TEST(Harness, WhatIsExcludedIsRefused) {
  for (const std::string &recipe : ProgramSource::global().recipes())
    for (int64_t n : {1, 2, 5, 6, 16})
      for (int64_t m : {1, 2, 3, 8})
        for (int64_t d : {48, 7}) {
          const std::string spec =
              recipe + ":n=" + std::to_string(n) + ",m=" + std::to_string(m) + ",d=" + std::to_string(d);
          const Exclusion *exclusion = excluded(recipe, n, m, d);
          try {
            site(spec);
            EXPECT_EQ(exclusion, nullptr) << spec << " is excluded (" << exclusion->name << ") and works";
          } catch (const UserError &error) {
            EXPECT_NE(exclusion, nullptr) << spec << " is refused and not excluded: " << error.what();
            EXPECT_TRUE(error.id() == ErrorId::LimitExceeded || error.id() == ErrorId::InvalidValue)
                << spec << ": " << error.what();
          }
        }
}

TEST(Harness, OptionsThatAreLeftOutAreRefused) {
  for (const std::string &recipe : ProgramSource::global().recipes()) {
    const std::vector<Factor> factors = factorsOf(recipe);
    for (size_t a = 3; a < factors.size(); ++a)
      for (size_t b = a + 1; b < factors.size(); ++b)
        for (size_t i = 0; i < factors[a].values.size(); ++i)
          for (size_t j = 0; j < factors[b].values.size(); ++j) {
            std::vector<int> row(factors.size(), -1);
            row[a] = static_cast<int>(i);
            row[b] = static_cast<int>(j);
            const std::string spec = recipe + ":n=1,d=8," + factors[a].name + "=" + factors[a].values[i] + "," +
                                     factors[b].name + "=" + factors[b].values[j];
            if (possibleOptions(factors, row))
              EXPECT_NO_THROW(site(spec)) << spec;
            else
              EXPECT_THROW(site(spec), UserError) << spec;
          }
  }
}

TEST(Harness, FreshTensorsArePoisoned) {
  EXPECT_TRUE(at::empty({64}).isnan().all().item<bool>());
  EXPECT_TRUE(at::empty({64}, at::kBFloat16).isnan().all().item<bool>());
}

/// A wrong result is found: the comparison can fail.
TEST(Harness, DifferencesAreFound) {
  const std::vector<Program> sites{site("static:n=2,d=8")};
  const Sample sample = makeSample(sites, {3}, 1, at::kCPU);
  const Outcome truth = runReference(*sites[0], sample);
  Outcome wrong = truth;
  EXPECT_EQ(compare(wrong, truth, Tolerance{sites, 3, {}}), "");
  wrong["d static_beta"] = truth.at("d static_beta") * (1 + 1e-3);
  EXPECT_NE(compare(wrong, truth, Tolerance{sites, 3, {}}).find("d static_beta"), std::string::npos);
  wrong["d static_beta"] = truth.at("d static_beta") * std::numeric_limits<double>::quiet_NaN();
  EXPECT_NE(compare(wrong, truth, Tolerance{sites, 3, {}}).find("d static_beta"), std::string::npos);
  wrong.erase("d static_beta");
  EXPECT_NE(compare(wrong, truth, Tolerance{sites, 3, {}}).find("missing"), std::string::npos);
}

at::Tensor scaled(const at::Tensor &tensor, double factor) {
  return (tensor.detach().to(at::kDouble) * factor).to(tensor.scalar_type());
}

/// Each result of one site, off by little more than its dtype's rounding; also where a norm of one channel leaves
/// nothing.
TEST(Harness, DifferencesOfEveryResultAreFound) {
  for (const std::string spec : {"dynamic:n=4,d=96", "dynamic:n=4,d=96,dtype=bf16", "frac:n=1,m=4,d=4",
                                 "frac:n=1,m=4,d=4,dtype=bf16", "frac:n=1,m=4,d=4,dtype=fp16"}) {
    const std::vector<Program> sites{site(spec)};
    const Sample sample = makeSample(sites, {37}, 1, at::kCPU);
    const Outcome truth = runReference(*sites[0], sample), got = runKernels(*sites[0], sample);
    const Tolerance tolerance{sites, 37, runReference(*sites[0], sample, at::kFloat)};
    EXPECT_EQ(compare(got, truth, tolerance), "") << spec;
    for (const auto &[name, tensor] : got) {
      const bool vanishes = spec.find("frac") == 0 &&
                            (name.find("norm.") != std::string::npos || name.find("dynamic_") != std::string::npos);
      if (vanishes) // a difference of equal numbers
        continue;
      Outcome wrong = got;
      wrong[name] = scaled(tensor, tensor.element_size() == 2 ? 1.03 : 1.001);
      EXPECT_NE(compare(wrong, truth, tolerance).find("  " + name + " "), std::string::npos) << name << " of " << spec;
    }
  }
}

TEST(Harness, DifferencesInAChainAreFound) {
  for (const std::string dtype : {"fp32", "bf16", "fp16"}) {
    const std::string sizes = ":n=4,d=320,dtype=" + dtype;
    const std::vector<Program> sites{site("manifold" + sizes), site("dynamic" + sizes)};
    const Sample sample = makeSample(sites, {37}, 1, at::kCPU);
    std::vector<Edge> edges;
    const Outcome got = runKernelChain(sites, sample, &edges), truth = runReferenceChain(sites, sample);
    const Tolerance tolerance{sites, 37, runReferenceChain(sites, sample, at::kFloat)};
    EXPECT_EQ(compare(got, truth, tolerance), "") << dtype;
    for (const auto &[name, tensor] : got) {
      Outcome wrong = got;
      wrong[name] = scaled(tensor, dtype == "fp32" ? 1.002 : 1.15);
      EXPECT_NE(compare(wrong, truth, tolerance).find("  " + name + " "), std::string::npos) << name << " of " << dtype;
    }

    ASSERT_EQ(edges.size(), 1u);
    const Edge &edge = edges[0];
    const Outcome fused = runBoundary(edge, Boundary::Fused), separate = runBoundary(edge, Boundary::Separate);
    EXPECT_EQ(compareFused(fused, separate, edge), "") << dtype;
    for (const auto &[name, tensor] : fused) {
      Outcome wrong = fused;
      const bool exact = tensor.element_size() > 2 && name.rfind("d coefficients", 0) != 0;
      wrong[name] = scaled(tensor, exact ? 1.001 : 1.03);
      EXPECT_NE(compareFused(wrong, separate, edge).find("  " + name), std::string::npos) << name << " of " << dtype;
    }
    if (dtype == "fp32")
      continue;
    // Streams of which some are one unit off, and a branch input that is made from streams before they are rounded.
    Outcome wrong = fused;
    wrong["next"] = fused.at("next").detach().clone();
    at::Tensor some = wrong["next"].narrow(0, 5, 2);
    some.copy_(scaled(some, dtype == "bf16" ? 1 + std::ldexp(1, -8) : 1 + std::ldexp(1, -11)));
    EXPECT_NE(compareFused(wrong, separate, edge).find("  next"), std::string::npos) << dtype;
    auto named = [&](size_t index) {
      Reference::Tensors parameters;
      for (size_t i = 0; i < sample.parameters[index].size(); ++i)
        parameters[sites[index]->parameters[i].name] = sample.parameters[index][i];
      return parameters;
    };
    const Reference ends(sites[0]->spec), begins(sites[1]->spec);
    const at::Tensor wide =
        ends.depth(edge.y.detach().to(at::kFloat), ends.width(edge.x.detach().to(at::kFloat), named(0)));
    auto read = [&](const at::Tensor &streams) {
      return begins.width(streams, named(1)).u.to(ops::scalarType(sites[1]->spec.branchIn));
    };
    wrong = fused;
    wrong["u"] = read(separate.at("next").detach().to(at::kFloat));
    EXPECT_EQ(compareFused(wrong, separate, edge), "") << dtype;
    wrong["u"] = read(wide);
    EXPECT_NE(compareFused(wrong, separate, edge).find("  u: "), std::string::npos) << dtype;
  }
}

/// The logits of the corner cases lie so far apart that a clamp bites, at its default too; ordinary ones do not reach
/// that.
TEST(Harness, CornersReachTheClamp) {
  for (const std::string recipe : {"manifold", "manifold-streams"})
    for (const std::string first : {"row", "col"}) {
      const std::string head = recipe + ":n=4,d=48,iterations=1,start=exp_raw,first=" + first + ",place=";
      auto changed = [&](Inputs inputs) {
        const std::vector<Program> clamped{site(head + "clamp,eps=1e-12")}, free{site(head + "none")};
        const Sample sample = makeSample(clamped, {5}, 1, at::kCPU, inputs);
        const at::Tensor a = runReference(*clamped[0], sample).at("next"),
                         b = runReference(*free[0], sample).at("next");
        EXPECT_EQ(inputs == Inputs::Corners, sample.x[0].eq(0).all().item<bool>());
        return (a - b).abs().max().item<double>();
      };
      EXPECT_EQ(changed(Inputs::Ordinary), 0) << head;
      EXPECT_GT(changed(Inputs::Corners), 0.1) << head;
    }
}

/// What waits for --all, by name; under --all every D meets every T up to four streams.
TEST(Harness, ExclusionsForCostAreNamed) {
  for (int64_t d : {320, 1000, 4096})
    for (int64_t tokens : {37, 127, 1000})
      for (int64_t n : {1, 4, 16})
        for (const auto &[draw, what] :
             {std::pair{Draw::Pairs, "alone"}, {Draw::Random, "drawn"}, {Draw::Chain, "in a chain"}}) {
          const Sizes sizes{"static", n, 1, d, tokens};
          if (const Exclusion *exclusion = excluded(sizes, draw, false))
            std::printf("[ LEFT OUT ] n=%d D=%d T=%d %s: %s\n", int(n), int(d), int(tokens), what,
                        exclusion->name.c_str());
          const Exclusion *ofAll = excluded(sizes, draw, true);
          EXPECT_TRUE(!ofAll || n > 4) << ofAll->name;
        }
}

} // namespace
} // namespace hyperjit::conformance

int main(int argc, char **argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i)
    if (std::strcmp(argv[i], "--all") == 0)
      setenv("HYPERJIT_TEST_ALL", "1", 1);
    else {
      std::fprintf(stderr, "conformance: unknown argument %s\n", argv[i]);
      return 2;
    }
  // Outputs and workspaces start as NaN: what a kernel does not write shows. (The flag asks nothing of our kernels;
  // ATen's may warn.)
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(true);
  if (std::getenv("HYPERJIT_TEST_GUARD"))
    hyperjit::conformance::guardMemory();
  return RUN_ALL_TESTS();
}
