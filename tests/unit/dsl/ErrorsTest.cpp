// What a recipe or a spec can get wrong: each message names the operand, and both shapes where there are two.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/DSL.h"

#include "hyperjit/core/Error.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

using namespace hyperjit;
using namespace hyperjit::dsl;

namespace {

/// The message of a recipe that fails, without "recipe 'test-...' with n=2, m=1: " in front.
std::string failure(Recipe recipe, const std::string &sizes = "n=2,d=8") {
  static int count = 0;
  std::string name = "test-wrong-" + std::to_string(++count);
  define(name, std::move(recipe));
  try {
    ProgramSource::global().site(SiteSpec::parse(name + ":" + sizes));
  } catch (const UserError &error) {
    std::string text = error.what(), head = "recipe '" + name + "' with n=";
    EXPECT_EQ(error.id(), ErrorId::InvalidRecipe) << text;
    EXPECT_EQ(text.rfind(head, 0), 0u) << text;
    return text.substr(text.find(": ") + 2);
  }
  return "(no error)";
}

/// The message of a spec that is refused.
std::string refusal(const std::string &text, ErrorId id) {
  try {
    ProgramSource::global().site(SiteSpec::parse(text));
  } catch (const UserError &error) {
    EXPECT_EQ(name(error.id()), name(id)) << error.what();
    return error.what();
  }
  return "(no error)";
}

/// A site that is right but for what `wrong` does with its streams first.
Recipe with(std::function<void(Site &, const Rows &)> wrong) {
  return [wrong](Site &s) {
    Rows x = s.streams();
    wrong(s, x);
    s.branchInput(gatherRows(x, {0}));
    s.next(x + write(s.coefficients("beta", {s.n()}, constant(1)), s.branchOutput()));
  };
}

TEST(RecipeErrors, TheRightSiteIsTaken) {
  EXPECT_EQ(failure(with([](Site &, const Rows &) {})), "(no error)");
}

TEST(RecipeErrors, WrongShapes) {
  auto c = [](Site &s, std::vector<int64_t> shape) { return s.coefficients("c", shape, constant(0)); };
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              mix(c(s, {2, 3}), x);
            })),
            "mix: coefficients are <2, 3>, x has 2 rows; mix takes [out, in] with `in` rows of x");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) { scaleRows(c(s, {3}), x); })),
            "scaleRows: coefficients are <3>, x has 2 rows; one coefficient a row is needed, <2>");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              x + gatherRows(x, {0, 1, 0});
            })),
            "rows + rows: the left side has 2 rows, the right side 3 rows; both must have the same (gatherRows repeats "
            "rows)");
  EXPECT_EQ(
      failure(with([&](Site &s, const Rows &x) {
        c(s, {3}) + s.coefficients("e", {2, 4}, constant(0));
      })),
      "coefficients + coefficients: the left side is <3>, the right side <2, 4>; sizes must be equal or 1, counted "
      "from the right");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              write(c(s, {3}), gatherRows(x, {0, 1}));
            })),
            "write: beta is <3>, y has 2 rows; beta is <rows> with a multiple of y's rows, or <rows, 2>");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              project(x, s.weight("w", {3 * s.d(), 5}, constant(0)));
            })),
            "project: x has 2 rows, the weight is a weight [3, d, 5]; the weight's rows must divide those of x");
  EXPECT_EQ(
      failure(with([&](Site &s, const Rows &x) {
        project(flatten(x), s.weight("w", {s.d(), 5}, constant(0)));
      })),
      "project: x has 2 rows taken together, the weight is a weight [1, d, 5]; the weight's rows must equal those "
      "of x");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              reshape(c(s, {2, 3}), {5});
            })),
            "reshape: coefficients <2, 3> to <5>; the number of elements must stay 6");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              matmul(c(s, {2, 3}), s.coefficients("e", {2, 4}, constant(0)));
            })),
            "matmul: the left side is <2, 3>, the right side <2, 4>; <M, K> and <K, N> are needed");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              sinkhorn(c(s, {2, 3}), {});
            })),
            "sinkhorn: logits are <2, 3>; a square matrix is needed");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) { permutationMixture(c(s, {5}), 3); })),
            "permutationMixture: coefficients are <5> for n = 3; one for each of the n! permutations is needed");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              split(c(s, {2, 5}), {2, 2}, 1);
            })),
            "split: pieces <2, 2> add up to 4, axis 1 of coefficients <2, 5> has 5");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) { slice(c(s, {4}), 0, 2, 3); })),
            "slice: range of 3 from 2 on axis 0 is outside coefficients <4>");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { slice(c(s, {4}), 0, INT64_MAX, 1); })),
            "slice: range of 1 from 9223372036854775807 on axis 0 is outside coefficients <4>");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              sliceWeight(s.weight("w", {s.d(), 4}, constant(0)), INT64_MAX, 1);
            })),
            "sliceWeight: 1 columns from 9223372036854775807 are outside a weight [1, d, 4]");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              Sinkhorn options;
              options.iterations = int64_t(1) << 62;
              sinkhorn(c(s, {2, 2}), options);
            })),
            "sinkhorn: iterations is 4611686018427387904; it must be from 1 to 16384");
  EXPECT_EQ(
      failure(with([&](Site &s, const Rows &x) {
        concat({c(s, {2, 3}), s.coefficients("e", {2, 4}, constant(0))});
      })),
      "concat: coefficients <2, 3> and coefficients <2, 4> do not join along axis 0; all other axes must be equal");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              gatherRows(x, {0, 2});
            })),
            "gatherRows: index 2 is outside the 2 rows of x");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) {
              scale(x, s.channels("g", {3, s.d()}, constant(0)));
            })),
            "scale: x has 2 rows, the channel vector 3 rows; the rows of the channel vector must divide those of x");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &x) { dotRows(x, gatherRows(x, {0})); })),
            "dotRows: x has 2 rows, y 1 row; both must have the same");
  EXPECT_EQ(failure([](Site &s) {
              s.branchInput(gatherRows(s.streams(), {0}));
              s.next(s.branchOutput());
            }),
            "next: the new streams have 1 row, the streams 2 (n = 2, m = 1)");
  EXPECT_EQ(failure(
                [](Site &s) {
                  s.branchInput(gatherRows(s.streams(), {0, 1, 2}));
                },
                "n=2,m=2,d=8"),
            "branchInput: u has 3 rows, a branch reads v m rows with m = 2");
  EXPECT_EQ(failure([](Site &s) { s.branchInput(gatherRows(s.streams(), std::vector<int64_t>(33, 0))); }),
            "branchInput: u has 33 rows; fused kernels take at most 32 branch input rows");
}

// Sizes that the compiler would refuse, and those whose product has no number.
TEST(RecipeErrors, Sizes) {
  auto c = [](Site &s, std::vector<int64_t> shape) { return s.coefficients("c", shape, constant(0)); };
  const int64_t huge = int64_t(1) << 40;
  const std::string rule = "; sizes are at least 1, and their product is at most 1048576";
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              c(s, {huge, huge});
            })),
            "'c': coefficients <1099511627776, 1099511627776>" + rule);
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { c(s, {1 << 20}); })), "(no error)");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { c(s, {(1 << 20) + 1}); })), "'c': coefficients <1048577>" + rule);
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              s.channels("g", {huge, huge, s.d()}, constant(0));
            })),
            "'g': 9223372036854775807 rows" + rule);
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              s.weight("w", {huge * s.d(), 4}, constant(0));
            })),
            "'w': a weight [1099511627776, d, 4]" + rule);
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              s.constants({-1, -1}, {2});
            })),
            "constants: 1 numbers for shape <-1, -1>");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              s.carryIn("k", {-1, -1}, {2});
            })),
            "carryIn 'k': shape <-1, -1> starts with 1 numbers");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { broadcast(c(s, {1}), {0}); })),
            "hc.broadcast: coefficients <0>" + rule);
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { broadcast(c(s, {1}), {1 << 21}); })),
            "hc.broadcast: coefficients <2097152>" + rule);
  EXPECT_EQ(failure(with([&](Site &, const Rows &x) {
              scatterRows(x, {0, 1}, huge);
            })),
            "hc.scatter_rows: 1099511627776 rows" + rule);
}

// A chain of calls as long as the program would end at the end of the stack.
TEST(RecipeErrors, TooManyOperations) {
  auto chain = [](int length) {
    return with([length](Site &s, const Rows &x) {
      Coefficients c = rowSum(x);
      for (int i = 0; i < length; ++i)
        c = tanh(c);
      s.carryOut("k", c);
    });
  };
  EXPECT_EQ(failure(chain((1 << 11) - 100)), "(no error)");
  EXPECT_EQ(failure(chain(200000)),
            "the recipe records more than 2048 values; a loop in C++ records its body once a round");
}

TEST(RecipeErrors, TheHole) {
  EXPECT_EQ(failure([](Site &s) {
              s.branchInput(gatherRows(s.streams(), {0}));
              s.next(s.streams());
            }),
            "the hole is unused: the recipe never calls branchOutput, whose rows belong in what next is given");
  EXPECT_EQ(failure([](Site &s) {
              s.branchInput(gatherRows(s.streams(), {0}));
              s.branchOutput();
              s.next(s.streams());
            }),
            "the hole is unused: the streams given to next do not depend on branchOutput()");
  EXPECT_EQ(failure([](Site &s) {
              s.next(s.streams() + gatherRows(s.branchOutput(), {0, 0}));
            }),
            "the recipe never calls branchInput; a site feeds its branch");
  EXPECT_EQ(failure([](Site &s) {
              s.branchInput(gatherRows(s.streams(), {0}));
              s.branchOutput();
            }),
            "the recipe never calls next; a site gives new streams");
  EXPECT_EQ(failure(with([](Site &s, const Rows &x) {
              s.next(x + gatherRows(s.branchOutput(), {0, 0}));
            })),
            "next is called twice; a site gives its streams once");
  EXPECT_EQ(failure(with([](Site &s, const Rows &x) { s.branchInput(gatherRows(x, {1})); })),
            "branchInput is called twice; a site has one hole (several input views are v m rows of one call)");
  EXPECT_EQ(failure([](Site &s) { s.branchInput(s.branchOutput()); }), "branchInput: u depends on the branch's output");
  EXPECT_EQ(failure([](Site &s) { s.branchInput(s.channels("u", {s.d()}, constant(0))); }),
            "branchInput: u is the same for all tokens; it must depend on the streams");
  EXPECT_EQ(
      failure([](Site &s) {
        Weight w = s.weight("w", {s.d(), 2}, constant(0));
        s.branchInput(gatherRows(s.streams(), {0}));
        s.next(scaleRows(reshape(project(s.branchOutput(), w), {2}), s.streams()));
      }),
      "after the hole a weight [1, d, 2] 'w' is needed; parameters stop at the hole, only coefficients and channel "
      "vectors cross it, and rows that are used behind it are worked out again there");
}

TEST(RecipeErrors, AValueOfTheWrongSite) {
  Rows foreign;
  EXPECT_EQ(failure(with([&](Site &, const Rows &x) { foreign = x; })), "(no error)");
  EXPECT_EQ(
      failure(with([&](Site &s, const Rows &x) { x + foreign; })),
      "rows + rows: operands 2 rows and 2 rows belong to different sites; a program uses values of its own site only");
  EXPECT_EQ(failure([&](Site &s) { s.branchInput(foreign); }), "branchInput: 2 rows belong to another site");
  EXPECT_EQ(failure([&](Site &s) { s.next(foreign); }), "next: 2 rows belong to another site");
  // After its recipe has returned a site takes nothing more.
  try {
    foreign + foreign;
    FAIL();
  } catch (const UserError &error) {
    EXPECT_NE(std::string(error.what()).find("the recording has ended"), std::string::npos) << error.what();
  }
  try {
    mix(Coefficients(), foreign);
    FAIL();
  } catch (const UserError &error) {
    EXPECT_STREQ(error.what(), "mix: an operand is empty; values come from a Site or from functions of values");
  }
  EXPECT_THROW(Coefficients().uniform(), UserError);
  EXPECT_THROW(Coefficients().rank(), UserError);
}

TEST(RecipeErrors, Parameters) {
  EXPECT_EQ(failure(with([](Site &s, const Rows &) {
              s.coefficients("a", {2, 3}, constant(0));
              s.weight("a", {s.d(), 4}, constant(0));
            })),
            "parameter 'a' is declared twice: first (2, 3), then (d, 4)");
  EXPECT_EQ(failure(with([](Site &s, const Rows &) {
              s.coefficients("a", {2, 0}, constant(0));
            })),
            "parameter 'a' has shape (2, 0); coefficients have at least one axis and positive sizes");
  EXPECT_EQ(failure(with([](Site &s, const Rows &) {
              s.coefficients("a", {2, 2}, values({1, 2, 3}));
            })),
            "parameter 'a' of shape (2, 2) is initialised with 3 values; a list has one for each element, and a wide "
            "parameter takes constant or normal");
  EXPECT_EQ(
      failure(with([](Site &s, const Rows &) {
        s.weight("w", {4, s.d()}, constant(0));
      })),
      "parameter 'w' has shape (4, d); a weight has channels in its last axis but one: (d, K), (n D, K), ...; one "
      "stored output first is weightFromRows(channels(...))");
  EXPECT_EQ(
      failure(with([](Site &s, const Rows &) {
        s.channels("g", {s.d(), 2}, constant(0));
      })),
      "parameter 'g' has shape (d, 2); channel vectors end with the only axis that counts channels: (d), (k, D), ...");
  EXPECT_EQ(failure(with([](Site &s, const Rows &) { s.scalar("my scale", 1); })),
            "parameter 'my scale': a name is made of letters, digits, '_' and '.', with a letter first");
  // What a saved layer could not be read from.
  auto named = [](const char *first, const char *second) {
    return failure(with([=](Site &s, const Rows &) {
      s.scalar(first, 1);
      s.scalar(second, 1);
    }));
  };
  EXPECT_EQ(named("a", "in"),
            "parameter 'in': 'in' is a keyword of LibTorch's archives, under which nothing can be loaded again");
  EXPECT_EQ(named("a", "b.None"),
            "parameter 'b.None': 'None' is a keyword of LibTorch's archives, under which nothing can be loaded again");
  for (const char *name : {"a..b", "a."})
    EXPECT_EQ(named("x", name), std::string("parameter '") + name + "': before, between and after dots stand names");
  for (const char *name : {"hyperjit_spec", "branch", "branch.weight"})
    EXPECT_EQ(named("x", name), std::string("parameter '") + name + "': a layer saves something else under this name");
  for (auto [first, second] : {std::pair("a", "a.b"), std::pair("a.b", "a")})
    EXPECT_EQ(named(first, second), std::string("parameter '") + second + "': there is '" + first +
                                        "', and one of the two would be both a parameter and what holds the other");
  EXPECT_EQ(named("a.b", "a.c"), "(no error)");
  EXPECT_EQ(named("norm.0", "branches"), "(no error)");
  EXPECT_EQ(named("lambda", "from"), "(no error)");
  EXPECT_EQ(failure(with([](Site &s, const Rows &) { s.flag("tnah"); })),
            "the recipe reads an option that it does not declare: unknown option 'tnah'. There is none.");
}

TEST(RecipeErrors, NumbersThatAreNone) {
  EXPECT_EQ(failure(with([](Site &s, const Rows &) { s.constants({1}, {std::numeric_limits<double>::infinity()}); })),
            "the number inf is used; constants of a program are finite");
}

TEST(RecipeErrors, Starts) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { s.scalar("a", nan); })),
            "parameter 'a' starts with nan; a start is finite");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { s.channels("g", {s.d()}, normal(infinity)); })),
            "parameter 'g' starts with inf; a start is finite");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) { s.channels("g", {s.d()}, normal(-1)); })),
            "parameter 'g' starts with a standard deviation of -1; it is at least 0");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              s.coefficients("a", {2}, values({0, nan}));
            })),
            "parameter 'a' starts with nan; a start is finite");
  EXPECT_EQ(failure(with([&](Site &s, const Rows &) {
              s.carryIn("k", {2}, {0, infinity});
            })),
            "carryIn 'k' starts with inf; a start is finite");
  auto message = [](auto make) -> std::string {
    try {
      make();
    } catch (const UserError &error) {
      return error.what();
    }
    return "(no error)";
  };
  EXPECT_EQ(message([] { oneHot(0, 0); }), "oneHot: size is 0; it must be from 1 to 1048576");
  EXPECT_EQ(message([] { oneHot(-1, 0); }), "oneHot: size is -1; it must be from 1 to 1048576");
  EXPECT_EQ(message([] { identityMatrix(-1); }), "identityMatrix: size is -1; it must be from 1 to 1024");
}

TEST(RecipeErrors, Carries) {
  for (std::string name : {"", "0", "k x", "k\""}) {
    std::string rule = " '" + name + "': a name is made of letters, digits, '_' and '.', with a letter first";
    EXPECT_EQ(failure(with([&](Site &s, const Rows &) { s.carryIn(name, {1}, {0}); })), "carryIn" + rule);
    EXPECT_EQ(failure(with([&](Site &s, const Rows &x) { s.carryOut(name, rowSum(x)); })), "carryOut" + rule);
  }
  EXPECT_EQ(failure(with([](Site &s, const Rows &) {
              s.carryIn("r", {2}, {1, 0, 0});
            })),
            "carryIn 'r': shape <2> starts with 3 numbers");
  EXPECT_EQ(failure(with([](Site &s, const Rows &x) {
              s.carryIn("r", {2}, {1, 0});
              s.carryOut("r", dot(x, gatherRows(x, {0})));
            })),
            "carryOut 'r' is <2, 1>, carryIn of this name <2>");
  EXPECT_EQ(failure(with([](Site &s, const Rows &) { s.carryOut("r", rowSum(s.branchOutput())); })),
            "carryOut 'r': coefficients <1> depend on the branch's output; a carry is made before the hole");
  EXPECT_EQ(failure(with([](Site &s, const Rows &) { s.carryOut("r", s.scalar("c", 1)); })),
            "carryOut 'r': coefficients <1> are the same for all tokens; a carry is a token's");
}

// A recipe that throws something of its own is not swallowed.
TEST(RecipeErrors, ForeignExceptionsPass) {
  define("test-throws", [](Site &) { throw std::out_of_range("mine"); });
  EXPECT_THROW(ProgramSource::global().site(SiteSpec::parse("test-throws:n=2,d=8")), std::out_of_range);
}

TEST(RecipeErrors, Definitions) {
  auto message = [](
                     std::string name, Definition definition, Recipe recipe = [](Site &) {}) {
    try {
      define(std::move(name), std::move(recipe), std::move(definition));
    } catch (const UserError &error) {
      return std::string(error.what());
    }
    return std::string("(no error)");
  };
  EXPECT_EQ(message("Mine", {}),
            "define: 'Mine' is no name of a recipe; a name has lower case letters, digits, '-', '_' "
            "and '.', with a letter first");
  EXPECT_EQ(message("test-empty", {}, nullptr), "define: recipe 'test-empty' is empty");
  Definition twice;
  twice.options = {flagOption("gate", true, ""), flagOption("gate", false, "")};
  EXPECT_EQ(message("test-twice", twice), "define: recipe 'test-twice' declares option 'gate' twice");
  Definition taken;
  taken.options = {integerOption("n", 1, 1, 4, "")};
  EXPECT_EQ(message("test-taken", taken),
            "define: recipe 'test-taken' declares option 'n'; every spec has this key already");
  EXPECT_EQ(message("manifold", {}), "define: a recipe named 'manifold' exists already");
}

TEST(SpecErrors, Numbers) {
  EXPECT_EQ(refusal("static:n=0,d=8", ErrorId::InvalidValue), "n=0: n takes a whole number of at least 1");
  EXPECT_EQ(refusal("static:n=four,d=8", ErrorId::InvalidValue), "n=four: n takes a whole number of at least 1");
  EXPECT_EQ(refusal("static:d=0", ErrorId::InvalidValue), "d=0: d takes a whole number of at least 1");
  EXPECT_EQ(refusal("frac:n=1,m=3,d=64", ErrorId::InvalidValue),
            "m=3 does not divide d=64 of frac: a stream is cut into m fracs of d/m channels");
  EXPECT_EQ(refusal("static:n=33,d=8", ErrorId::LimitExceeded),
            "n m = 33 x 1 = 33 rows of static: fused kernels take at most 32");
  EXPECT_EQ(refusal("joint:n=16,m=4,d=64", ErrorId::LimitExceeded),
            "n m = 16 x 4 = 64 rows of joint: fused kernels take at most 32");
  EXPECT_EQ(
      refusal("permutation:n=6,d=8", ErrorId::LimitExceeded),
      "recipe 'permutation' takes n <= 5, the spec has n = 6; there are n! coefficients a token; more streams, and "
      "fracs, are for recipe 'manifold'");
  EXPECT_EQ(refusal("frac:n=2,m=2,d=8", ErrorId::LimitExceeded),
            "recipe 'frac' takes n <= 1, the spec has n = 2; write n=1; streams and fracs together are recipe 'joint'");
  EXPECT_EQ(refusal("deepseek:n=2,m=2,d=8", ErrorId::LimitExceeded),
            "recipe 'deepseek' takes m <= 1, the spec has m = 2; the convention has no fracs; mHC with fracs is recipe "
            "'manifold'");
}

TEST(SpecErrors, NamesWithTheNearestRightWord) {
  std::string unknown = refusal("manifol:n=4,d=8", ErrorId::UnknownRecipe);
  EXPECT_EQ(unknown.rfind("unknown recipe 'manifol'; did you mean 'manifold'? There are: ", 0), 0u) << unknown;
  EXPECT_NE(unknown.find("permutation"), std::string::npos);
  std::string key = refusal("dynamic:n=4,d=8,tnah=off", ErrorId::UnknownKey);
  EXPECT_EQ(key.rfind("unknown option of recipe 'dynamic' 'tnah'; did you mean 'tanh'? There are: n, m, d, ", 0), 0u)
      << key;
  EXPECT_EQ(refusal("dynamic:n=4,d=8,norm=rms_insid", ErrorId::UnknownValue),
            "unknown value of option 'norm' 'rms_insid'; did you mean 'rms_inside'? There are: l2_unit_offset, "
            "rms_inside, rms_outside, layernorm");
  EXPECT_EQ(refusal("dynamic:n=4,d=8,tanh=maybe", ErrorId::UnknownValue),
            "unknown value of option 'tanh' 'maybe'. There are: true, false");
  EXPECT_EQ(refusal("manifold:n=4,d=8,iterations=0", ErrorId::InvalidValue),
            "option 'iterations' of recipe 'manifold' is '0'; it takes an integer from 1 to 1000");
  EXPECT_EQ(refusal("dynamic:n=4,d=8,norm_eps=-1", ErrorId::InvalidValue),
            "option 'norm_eps' of recipe 'dynamic' is '-1'; it takes auto, or a number from 0 to 1");
  EXPECT_EQ(refusal("static:n=4,d=8,dtype=bf61", ErrorId::UnknownValue),
            "unknown value of dtype 'bf61'; did you mean 'bf16'? There are: bf16, fp16, fp32, fp64");
  EXPECT_EQ(refusal("static:n=4,n=3", ErrorId::InvalidSpec), "'n' is given twice in 'static:n=4,n=3'");
}

} // namespace
