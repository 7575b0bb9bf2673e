// Recording: canonical text, digest and signature of every recipe, what enters them and what must not.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/DSL.h"

#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Error.h"

#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <thread>

using namespace hyperjit;

namespace {

ProgramSource &source() { return ProgramSource::global(); }
std::shared_ptr<const SiteProgram> site(const std::string &text) { return source().site(SiteSpec::parse(text)); }

/// A spec of each recipe: four streams, or where it takes one, four fracs.
std::vector<std::string> everyRecipe() {
  std::vector<std::string> specs;
  for (const std::string &recipe : source().recipes())
    if (recipe.rfind("test-", 0) != 0)
      try {
        site(recipe + ":n=4,d=64");
        specs.push_back(recipe + ":n=4,d=64");
      } catch (const UserError &) {
        specs.push_back(recipe + ":n=1,m=4,d=64");
      }
  return specs;
}

TEST(Recording, TextIsOneFunctionWithAHole) {
  for (const std::string &spec : everyRecipe()) {
    SCOPED_TRACE(spec);
    auto program = site(spec);
    EXPECT_EQ(program->text.rfind("hc.func @site(%x: !hc.rows<4, d> {hc.operand = \"streams\"}", 0), 0u)
        << program->text;
    EXPECT_EQ(program->text.substr(program->text.size() - 3), "\n}\n");
    std::size_t hole = program->text.find("hc.branch ");
    EXPECT_NE(hole, std::string::npos);
    EXPECT_EQ(program->text.find("hc.branch ", hole + 1), std::string::npos);
    // The width stays a name: one text for all D.
    EXPECT_EQ(program->text.find("!hc.rows<4, 64>"), std::string::npos);
    EXPECT_EQ(program->digest, digestText(program->text));
  }
}

// The smallest program whole: whoever changes the text changes every digest and should see it here.
TEST(Recording, CanonicalTextIsPinned) {
  EXPECT_EQ(
      site("static:n=2,d=8")->text,
      "hc.func @site(%x: !hc.rows<2, d> {hc.operand = \"streams\"}, "
      "%static_alpha: !hc.coeffs<2, 3> {hc.operand = \"parameter\", hc.name = \"static_alpha\", hc.uniform}, "
      "%static_beta: !hc.coeffs<2> {hc.operand = \"parameter\", hc.name = \"static_beta\", hc.uniform}) -> "
      "(!hc.rows<2, d> {hc.operand = \"streams\"}) {\n"
      "  %0 = hc.transpose %static_alpha {permutation = array<i64: 1, 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>\n"
      "  %1 = hc.slice %0 {axis = 0 : i64, offset = 0 : i64} : (!hc.coeffs<3, 2>) -> !hc.coeffs<1, 2>\n"
      "  %2 = hc.mix %1, %x : (!hc.coeffs<1, 2>, !hc.rows<2, d>) -> !hc.rows<1, d>\n"
      "  %3 = hc.round %2 {edge = \"branch_input\"} : (!hc.rows<1, d>) -> !hc.rows<1, d>\n"
      "  %4 = hc.slice %0 {axis = 0 : i64, offset = 1 : i64} : (!hc.coeffs<3, 2>) -> !hc.coeffs<2, 2>\n"
      "  %5, %6, %7 = hc.branch %3, %4, %static_beta : (!hc.rows<1, d>, !hc.coeffs<2, 2>, !hc.coeffs<2>) -> "
      "(!hc.rows<1, d>, !hc.coeffs<2, 2>, !hc.coeffs<2>)\n"
      "  %8 = hc.mix %6, %x : (!hc.coeffs<2, 2>, !hc.rows<2, d>) -> !hc.rows<2, d>\n"
      "  %9 = hc.gather_rows %5 {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>\n"
      "  %10 = hc.scale_rows %7, %9 : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>\n"
      "  %11 = hc.add %8, %10 : (!hc.rows<2, d>, !hc.rows<2, d>) -> !hc.rows<2, d>\n"
      "  %12 = hc.round %11 {edge = \"streams\"} : (!hc.rows<2, d>) -> !hc.rows<2, d>\n"
      "  hc.return %12 : !hc.rows<2, d>\n}\n");
}

TEST(Recording, DimAndDtypesEnterNoProgram) {
  for (const std::string &spec : everyRecipe()) {
    SCOPED_TRACE(spec);
    std::string wide = std::regex_replace(spec, std::regex("d=64"), "d=4096,dtype=bf16,weight=bf16,branch_out=fp32");
    EXPECT_EQ(site(spec)->digest, site(wide)->digest);
    EXPECT_EQ(site(wide)->signature.rowWidth, 4096 / SiteSpec::parse(spec).m);
  }
}

// Shapes and programs are for everybody; initial values that differ by layer are for who says which.
TEST(Recording, StartsThatDifferByLayerAreSeen) {
  auto perLayer = [](const std::string &spec) {
    std::string names;
    for (const ParameterInfo &p : source().parameters(SiteSpec::parse(spec)))
      if (p.initialisation.kind == Initialisation::Kind::PerLayer) {
        names += (names.empty() ? "" : " ") + p.name;
        EXPECT_TRUE(p.initialisation.values.empty());
        EXPECT_FALSE(p.initialisation.text.empty());
      }
    return names;
  };
  EXPECT_EQ(perLayer("static:n=3,d=8"), "static_alpha");
  EXPECT_EQ(perLayer("joint:n=2,m=2,d=8"), "static_alpha");
  EXPECT_EQ(perLayer("manifold:n=3,d=8"), "b");
  EXPECT_EQ(perLayer("delayed-pre:n=3,d=8"), "base");
  EXPECT_EQ(perLayer("manifold-streams:n=3,d=8"), "static_alpha static_beta");
  EXPECT_EQ(perLayer("manifold-streams:n=3,d=8,init=lucidrains"), "static_alpha");
  EXPECT_EQ(perLayer("permutation:n=3,d=8,init=zero"), "");
  EXPECT_EQ(perLayer("manifold:n=3,d=8,layer_index=2"), "");
  EXPECT_EQ(perLayer("manifold:n=3,d=8,layer_seed=2"), "");
  for (const char *one :
       {"static:n=1,d=8", "dynamic:n=1,d=8", "frac:n=1,m=4,d=8", "joint:n=1,m=4,d=8", "manifold:n=1,d=8"})
    EXPECT_EQ(perLayer(one), "") << one;
}

// 32 layers share every key: layer_index, layer_seed and init choose initial values only.
TEST(Recording, ModuleOptionsEnterNoProgram) {
  for (const std::string &spec : everyRecipe()) {
    SCOPED_TRACE(spec);
    auto first = site(spec);
    RecipeInfo info = source().describe(first->spec.recipe);
    for (const RecipeOption &option : info.options)
      for (const std::string &preset : option.name == "init" ? option.values : std::vector<std::string>())
        EXPECT_EQ(site(spec + ",init=" + preset)->digest, first->digest) << preset;
    if (std::none_of(info.options.begin(), info.options.end(), [](const auto &o) { return o.name == "layer_index"; }))
      continue;
    std::set<std::string> starts;
    for (int layer = 0; layer < 32; ++layer) {
      SiteSpec indexed = SiteSpec::parse(spec + ",layer_index=" + std::to_string(layer));
      EXPECT_EQ(source().site(indexed)->digest, first->digest);
      EXPECT_EQ(source().normalise(indexed).text(), first->spec.text());
      SiteSpec drawn = SiteSpec::parse(spec + ",layer_seed=" + std::to_string(layer));
      EXPECT_EQ(source().site(drawn)->digest, first->digest);
      EXPECT_EQ(source().normalise(drawn).text(), first->spec.text());
      std::string start;
      for (const ParameterInfo &parameter : source().parameters(indexed))
        for (double value : parameter.initialisation.values)
          start += std::to_string(value) + " ";
      starts.insert(start);
    }
    // Where n = 4 the start differs by layer_index mod n; with one stream there is nothing to choose.
    EXPECT_EQ(starts.size(), static_cast<size_t>(first->spec.n));
  }
}

TEST(Recording, KernelOptionsEnterTheProgram) {
  EXPECT_NE(site("dynamic:n=4,d=64")->digest, site("dynamic:n=4,d=64,tanh=off")->digest);
  EXPECT_NE(site("manifold:n=4,d=64")->digest, site("manifold:n=4,d=64,iterations=10")->digest);
  std::set<std::string> norms;
  for (const char *norm : {"l2_unit_offset", "rms_inside", "rms_outside", "layernorm"})
    norms.insert(site(std::string("dynamic:n=4,d=64,norm=") + norm)->digest);
  EXPECT_EQ(norms.size(), 4u);
  EXPECT_NE(site("static:n=4,d=64")->digest, site("static:n=3,d=64")->digest);
}

// What has no effect makes no other program.
TEST(Recording, OptionsWithoutEffectMakeTheSameProgram) {
  EXPECT_EQ(site("manifold:n=4,d=64,eps=0.5")->digest, site("manifold:n=4,d=64")->digest);
  EXPECT_EQ(site("dynamic:n=4,d=64,norm=l2_unit_offset,tanh=yes")->digest, site("dynamic:n=4,d=64")->digest);
}

TEST(Recording, NormaliseSpellsValuesOneWay) {
  auto text = [](const std::string &spec) { return source().normalise(SiteSpec::parse(spec)).text(); };
  EXPECT_EQ(text("dynamic:d=64,tanh=off"), "dynamic:n=4,m=1,d=64,dtype=fp32,tanh=false");
  EXPECT_EQ(text("dynamic:tanh=0,d=64,n=4"), text("dynamic:d=64,tanh=no"));
  EXPECT_EQ(text("dynamic:d=64,tanh=on"), "dynamic:n=4,m=1,d=64,dtype=fp32");
  EXPECT_EQ(text("dynamic:d=64,norm_eps=0.000001"), "dynamic:n=4,m=1,d=64,dtype=fp32,norm_eps=1e-06");
  EXPECT_EQ(text("dynamic:d=64,norm_eps=1e-6"), text("dynamic:d=64,norm_eps=0.000001"));
  // Declaration order, whatever the order that was written.
  EXPECT_EQ(text("manifold:d=64,eps=0.01,place=add,iterations=3"),
            "manifold:n=4,m=1,d=64,dtype=fp32,iterations=3,place=add,eps=0.01");
  for (const std::string &spec : everyRecipe())
    EXPECT_EQ(text(text(spec)), text(spec));
}

TEST(Recording, SignatureOfWhatCrosses) {
  SiteSignature fixed = site("static:n=4,d=64")->signature;
  EXPECT_EQ(fixed.streamRows, 4);
  EXPECT_EQ(fixed.branchInputRows, 1);
  EXPECT_EQ(fixed.branchInputs(), 1);
  EXPECT_EQ(fixed.tokenCoefficients, 0);
  EXPECT_EQ(fixed.uniformCoefficients, 16 + 4); // A_r and B
  SiteSignature manifold = site("manifold:n=4,d=64")->signature;
  EXPECT_EQ(manifold.tokenCoefficients, 16 + 4); // H and post
  EXPECT_EQ(manifold.uniformCoefficients, 0);
  EXPECT_EQ(manifold.saved, 24 + 1); // the projection and one statistic
  SiteSignature frac = site("frac:n=1,m=4,d=64")->signature;
  EXPECT_EQ(frac.streamRows, 4);
  EXPECT_EQ(frac.rowWidth, 16);
  EXPECT_EQ(frac.branchInputRows, 4);
  EXPECT_EQ(frac.branchInputs(), 1);
  SiteSignature delayed = site("delayed-pre:n=4,d=64")->signature;
  ASSERT_EQ(delayed.carriesIn.size(), 1u);
  EXPECT_EQ(delayed.carriesIn[0].name, "read");
  EXPECT_EQ(delayed.carriesIn[0].start, (std::vector<double>{1, 0, 0, 0}));
  ASSERT_EQ(delayed.carriesOut.size(), 1u);
  EXPECT_EQ(delayed.carriesOut[0].size, 4);
}

TEST(Recording, ParametersHaveTheirDocumentedShapes) {
  auto shapes = [](const std::string &spec) {
    std::string text;
    for (const ParameterInfo &p : source().parameters(SiteSpec::parse(spec))) {
      text += (text.empty() ? "" : " ") + p.name + "(";
      for (std::size_t i = 0; i < p.shape.size(); ++i)
        text += (i ? "," : "") + std::to_string(p.shape[i]);
      text += ")";
    }
    return text;
  };
  EXPECT_EQ(shapes("static:n=3,d=8"), "static_alpha(3,4) static_beta(3)");
  EXPECT_EQ(shapes("dynamic:n=3,d=8"), "static_alpha(3,4) static_beta(3) norm.gamma(8) dynamic_alpha_fn(8,4) "
                                       "dynamic_beta_fn(8) dynamic_alpha_scale(1) dynamic_beta_scale(1)");
  EXPECT_EQ(shapes("manifold:n=3,d=8"), "b(15) alpha_pre(1) alpha_post(1) alpha_res(1) phi(24,15)");
  EXPECT_EQ(shapes("deepseek:n=3,d=8"), "fn(15,24) base(15) scale(3)");
  EXPECT_EQ(shapes("joint:n=2,m=2,d=8"), "static_alpha(4,6) static_beta(2,2,2) norm.gamma(4) dynamic_alpha_fn(4,6) "
                                         "dynamic_beta_fn(4,2) dynamic_alpha_scale(1) dynamic_beta_scale(1)");
  EXPECT_EQ(shapes("joint:n=2,m=2,d=8,beta=diag,dynamic=false"), "static_alpha(4,6) static_beta(2,2)");
  EXPECT_EQ(shapes("frac:n=1,m=4,d=8"),
            "static_alpha(4,8) static_beta(4) norm.weight(2) norm.bias(2) dynamic_alpha_fn(2,8) "
            "dynamic_beta_fn(2) dynamic_alpha_scale(1) dynamic_beta_scale(1)");
  EXPECT_EQ(shapes("manifold:n=2,m=2,d=8"), "b(32) alpha_pre(1) alpha_post(1) alpha_res(1) phi(16,32)");
  EXPECT_EQ(shapes("delayed-pre:n=3,d=8"), shapes("deepseek:n=3,d=8"));
  EXPECT_EQ(shapes("manifold-streams:n=2,m=2,d=8,proposals=3,mix_streams=true"),
            "static_alpha(4,6) static_beta(2,2,2) pre_branch_scale(1) residual_scale(1) h_post_scale(1) "
            "maybe_mix_streams.weight(2,2,1,1) norm.gamma(4) dynamic_alpha_fn(3,4,6) dynamic_beta_fn(4,2)");
  EXPECT_EQ(shapes("manifold-streams:n=2,m=2,d=8,static_beta=shared").substr(18, 20), "static_beta(2,2,1) p");
  EXPECT_EQ(shapes("permutation:n=3,d=8"),
            "static_alpha(9) static_beta(3) pre_branch_scale(1) residual_scale(1) h_post_scale(1) "
            "norm.gamma(24) dynamic_alpha_fn(24,9) dynamic_beta_fn(24,3)");
}

// arXiv 2409.19606: A_m = e_{k mod n}, A_r = I, B = 1. arXiv 2503.14125: Y = A = I.
TEST(Recording, HyperConnectionsStartAsThePreNormResidual) {
  auto start = [](const std::string &spec, const std::string &name) {
    for (const ParameterInfo &p : source().parameters(SiteSpec::parse(spec)))
      if (p.name == name)
        return p.initialisation.values;
    return std::vector<double>();
  };
  EXPECT_EQ(start("static:n=3,d=8,layer_index=4", "static_alpha"),
            (std::vector<double>{0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1}));
  EXPECT_EQ(start("frac:n=1,m=2,d=8", "static_alpha"), (std::vector<double>{1, 0, 1, 0, 0, 1, 0, 1}));
  EXPECT_EQ(start("joint:n=2,m=2,d=8,layer_index=1", "static_beta"), (std::vector<double>{1, 0, 0, 1, 1, 0, 0, 1}));
}

TEST(Recording, ManyThreadsGetOneProgram) {
  std::vector<std::shared_ptr<const SiteProgram>> programs(16);
  std::vector<std::thread> threads;
  for (auto &program : programs)
    threads.emplace_back([&program] { program = site("manifold-streams:n=5,d=40"); });
  for (std::thread &thread : threads)
    thread.join();
  for (const auto &program : programs)
    EXPECT_EQ(program, programs[0]);
}

// A user's recipe travels the same way; equal maths under another name is the same program.
TEST(Recording, UsersRecipes) {
  using namespace dsl;
  auto plain = [](Site &s) {
    Rows x = s.streams();
    Coefficients a = s.coefficients("static_alpha", {s.n(), 1 + s.n()}, constant(1));
    auto [read, residual] = split(transpose(a), {1, s.n()});
    s.branchInput(mix(read, x));
    s.next(mix(residual, x) + write(s.coefficients("static_beta", {s.n()}, constant(1)), s.branchOutput()));
  };
  define("test-mine", plain);
  EXPECT_EQ(site("test-mine:n=4,d=64")->digest, site("static:n=4,d=64")->digest);
  try {
    define("test-mine", plain);
    FAIL();
  } catch (const UserError &error) {
    EXPECT_EQ(error.id(), ErrorId::InvalidRecipe);
    EXPECT_STREQ(error.what(), "define: a recipe named 'test-mine' exists already");
  }
}

// Two read heads: U has two rows of a site's branch input.
TEST(Recording, ShapesStayWhereTheyAre) {
  using namespace dsl;
  define("test-shapes", [](Site &s) {
    Coefficients c = s.coefficients("c", {2, 3}, constant(0)), grown = c;
    const std::vector<int64_t> &shape = c.shape();
    for (int i = 0; i < 1000; ++i)
      grown = tanh(grown);
    EXPECT_EQ(&shape, &c.shape());
    EXPECT_EQ(shape, (std::vector<int64_t>{2, 3}));
    s.branchInput(s.streams());
    s.next(s.branchOutput());
  });
  ProgramSource::global().site(SiteSpec::parse("test-shapes:n=1,d=8"));
}

TEST(Recording, SeveralInputViews) {
  using namespace dsl;
  define("test-two-heads", [](Site &s) {
    Rows x = s.streams();
    s.branchInput(mix(softmax(s.coefficients("read", {2, s.n()}, constant(0))), x));
    s.next(x + write(s.coefficients("beta", {s.n()}, constant(1)), s.branchOutput()));
  });
  SiteSignature signature = site("test-two-heads:n=4,d=64")->signature;
  EXPECT_EQ(signature.branchInputRows, 2);
  EXPECT_EQ(signature.branchInputs(), 2);
}

//===------------------------------------------------------------------------------------------------------===//
// Programs that come as text
//===------------------------------------------------------------------------------------------------------===//

std::string fresh() {
  static int count = 0;
  return "test-text-" + std::to_string(++count);
}

/// The sizes of a spec with another recipe's name.
SiteSpec renamed(const SiteSpec &spec, const std::string &name) {
  SiteSpec other = spec;
  other.recipe = name;
  other.options.clear();
  return other;
}

TEST(ProgramText, ReadsBackAsItself) {
  std::vector<std::string> specs = everyRecipe();
  for (const char *spec : {"static:n=2,d=8", "joint:n=3,m=2,d=32", "dynamic:n=2,d=8,norm=layernorm,tanh=false",
                           "permutation:n=3,d=8", "manifold:n=2,m=2,d=16"})
    specs.push_back(spec);
  for (const std::string &spec : specs) {
    SCOPED_TRACE(spec);
    auto recorded = site(spec);
    std::string name = fresh();
    defineProgram(name, recorded->text, "a test");
    auto read = source().site(renamed(recorded->spec, name));
    EXPECT_EQ(read->text, recorded->text);
    EXPECT_EQ(read->digest, recorded->digest);
    const SiteSignature &a = read->signature, &b = recorded->signature;
    EXPECT_EQ(std::tie(a.streamRows, a.rowWidth, a.branchInputRows, a.branchOutputRows, a.tokenCoefficients,
                       a.uniformCoefficients, a.channelRows, a.saved),
              std::tie(b.streamRows, b.rowWidth, b.branchInputRows, b.branchOutputRows, b.tokenCoefficients,
                       b.uniformCoefficients, b.channelRows, b.saved));
    ASSERT_EQ(a.carriesIn.size(), b.carriesIn.size());
    for (size_t i = 0; i < a.carriesIn.size(); ++i) {
      EXPECT_EQ(a.carriesIn[i].name, b.carriesIn[i].name);
      EXPECT_EQ(a.carriesIn[i].size, b.carriesIn[i].size);
      EXPECT_TRUE(a.carriesIn[i].start.empty());
    }
    EXPECT_EQ(a.carriesOut.size(), b.carriesOut.size());
    ASSERT_EQ(read->parameters.size(), recorded->parameters.size());
    for (size_t i = 0; i < read->parameters.size(); ++i) {
      EXPECT_EQ(read->parameters[i].name, recorded->parameters[i].name);
      EXPECT_EQ(read->parameters[i].kind, recorded->parameters[i].kind);
      EXPECT_EQ(read->parameters[i].elements(), recorded->parameters[i].elements());
      EXPECT_EQ(read->parameters[i].initialisation.kind, Initialisation::Kind::Unknown);
    }
  }
}

TEST(ProgramText, SpacesAndCommentsAreNothing) {
  auto recorded = site("dynamic:n=2,d=8");
  std::string text = "// mine\n";
  for (char c : recorded->text)
    text += c == '\n' ? std::string(" // a line\r\n\t") : std::string(1, c);
  std::string name = fresh();
  defineProgram(name, text, "a test");
  EXPECT_EQ(source().site(renamed(recorded->spec, name))->digest, recorded->digest);
}

TEST(ProgramText, IsForOneSetOfSizes) {
  std::string name = fresh();
  defineProgram(name, site("static:n=2,d=8")->text, "mine.hc");
  EXPECT_EQ(source().describe(name).n, 2);
  EXPECT_EQ(source().describe(name).m, 1);
  EXPECT_EQ(source().describe(name).summary, "the program of mine.hc, recorded for n=2, m=1");
  EXPECT_EQ(site(name + ":n=2,d=4096,dtype=bf16")->digest, site("static:n=2,d=8")->digest);
  for (auto [sizes, message] : {std::pair{"n=4,d=8", "for n=2, m=1; the spec asks for n=4, m=1"},
                                {"n=2,m=2,d=8", "for n=2, m=1; the spec asks for n=2, m=2"},
                                {"n=2,d=8,tanh=false", "with its options in it; the spec asks for tanh=false"}})
    try {
      site(name + ":" + sizes);
      ADD_FAILURE() << sizes;
    } catch (const UserError &error) {
      EXPECT_EQ(error.what(), "recipe '" + name + "' is the program of mine.hc, recorded " + message);
    }
}

TEST(ProgramText, WhatIsWrongIsNamedWithItsLine) {
  const std::string right = site("dynamic:n=2,d=8,norm=layernorm")->text;
  std::string none = fresh();
  auto refusal = [&](const std::string &text) -> std::string {
    try {
      defineProgram(none, text, "a test");
    } catch (const UserError &error) {
      EXPECT_EQ(error.id(), ErrorId::InvalidRecipe);
      return error.what();
    }
    return "(no error)";
  };
  auto with = [&](const std::string &from, const std::string &to) {
    size_t place = right.find(from);
    EXPECT_NE(place, std::string::npos) << from;
    return refusal(std::string(right).replace(place, from.size(), to));
  };
  EXPECT_EQ(refusal("module {"), "line 1: 'hc.func' is expected, found 'module'; a recorded program is what hyperjit "
                                 "show SPEC --stage recipe prints");
  EXPECT_NE(refusal(right + right).find("a second program begins; one file holds one"), std::string::npos);
  EXPECT_NE(refusal(right + "more").find("the program has ended, found 'more'"), std::string::npos);
  EXPECT_EQ(with("!hc.rows<2, d>", "!hc.rows<2, 64>"),
            "line 1: the width of a row is 64; in a recorded program it is d, so that it serves every d");
  EXPECT_EQ(with("!hc.rows<2, d>", "!hc.rows<0, d>"), "line 1: a size is a number from 1 to 2^20, found '0'");
  EXPECT_EQ(with("!hc.rows<2, d>", "!hc.rows<99999999999999999999, d>").substr(0, 28), "line 1: a size is a number f");
  EXPECT_EQ(with("!hc.rows<2, d>", "!hc.cows<2, d>"),
            "line 1: unknown type !hc.cows; there are rows, coeffs and weight");
  EXPECT_NE(with("hc.norm %x", "hc.norm %y").find("%y is used before it is defined"), std::string::npos);
  EXPECT_NE(with("hc.norm %x", "llvm.norm %x").find("operation 'llvm.norm' is not of the hc dialect"),
            std::string::npos);
  EXPECT_NE(with("hc.tanh", "hc.token_sum")
                .find("hc.token_sum is no operation of a recorded program: no function of hyperjit/DSL.h records it"),
            std::string::npos);
  EXPECT_NE(with("group = 1", "group = 0").find("hc.norm: its group divides its rows"), std::string::npos);
  EXPECT_NE(with("edge = \"branch_input\"", "edge = \"streams\"").find("is not rounded; at this edge"),
            std::string::npos);
  EXPECT_NE(with("hc.branch", "hc.trunk").find("the program has no hc.branch"), std::string::npos);
  EXPECT_NE(with("hc.operand = \"streams\"", "hc.operand = \"rivers\"").find("no argument that is its streams"),
            std::string::npos);
  // Lines are counted on from operation to operation, also in a text that is long. It would be too long for a program.
  std::string many;
  for (int i = 0; i < 100000; ++i)
    many += "  %c" + std::to_string(i) + " = hc.constant {value = dense<" + std::to_string(i) +
            ".0> : tensor<1xf64>} : () -> !hc.coeffs<1>\n";
  EXPECT_NE(with("  hc.return", many + "  hc.return").find("records more than 2048 values"), std::string::npos);
  int before = static_cast<int>(std::count(right.begin(), right.begin() + right.find("  hc.return"), '\n'));
  EXPECT_EQ(with("  hc.return", many + "  hc.wrong").substr(0, 12), "line " + std::to_string(before + 100001) + ":");
  // However a text ends or is damaged, it is a text that is refused.
  for (size_t size = 0; size < right.size() - 2; size += 7)
    EXPECT_NE(refusal(right.substr(0, size)), "(no error)") << size;
  for (size_t i = 0; i < right.size(); i += 3) {
    std::string damaged = right;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x15);
    std::string name = fresh();
    try {
      defineProgram(name, damaged, "a test");
    } catch (const UserError &) {
    }
  }
  EXPECT_EQ(refusal(right), "(no error)"); // none of them took the name
  EXPECT_EQ(refusal(right), "define: a recipe named '" + none + "' exists already");
}

} // namespace
