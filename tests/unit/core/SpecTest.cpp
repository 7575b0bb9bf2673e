// SiteSpec, KernelSpec, Schedule, DType: canonical text, parse, round trip, what is refused and how.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/Schedule.h"
#include "hyperjit/core/Target.h"

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

std::string canonical(const std::string &text) { return SiteSpec::parse(text).text(); }
Caught refused(const std::string &text) {
  return caught([&] { SiteSpec::parse(text); });
}

TEST(SiteSpec, TextIsCanonical) {
  EXPECT_EQ(canonical("static"), "static:n=4,m=1,d=512,dtype=fp32");
  EXPECT_EQ(canonical("manifold:n=4,d=4096,dtype=bf16"), "manifold:n=4,m=1,d=4096,dtype=bf16");
  EXPECT_EQ(canonical(" manifold:d=64, n=2 "), canonical("manifold:n=2,d=64"));
  // The branch's dtypes follow the streams', the weights are fp32; only what differs is said.
  EXPECT_EQ(canonical("static:dtype=bf16,branch=bf16,weight=fp32"), "static:n=4,m=1,d=512,dtype=bf16");
  EXPECT_EQ(canonical("static:branch=bf16"), "static:n=4,m=1,d=512,dtype=fp32,branch=bf16");
  EXPECT_EQ(canonical("static:branch_out=bf16,weight=fp64"),
            "static:n=4,m=1,d=512,dtype=fp32,branch_out=bf16,weight=fp64");
  EXPECT_EQ(canonical("static:branch_in=bf16,branch_out=bf16"), canonical("static:branch=bf16"));
  EXPECT_EQ(canonical("static:zeta=1,alpha=x-1.5e+3"), "static:n=4,m=1,d=512,dtype=fp32,zeta=1,alpha=x-1.5e+3");
}

TEST(SiteSpec, RoundTrips) {
  for (const char *text :
       {"static", "manifold:n=8,d=7,dtype=fp16", "frac:n=1,m=8,d=64,dtype=fp64,branch=fp32",
        "joint:n=4,m=8,d=4096,branch_in=fp16,weight=bf16,beta=diag,norm_eps=1e-6", "my.own-recipe_2:n=3"}) {
    SiteSpec spec = SiteSpec::parse(text);
    EXPECT_EQ(SiteSpec::parse(spec.text()), spec) << text;
    EXPECT_EQ(SiteSpec::parse(spec.text()).text(), spec.text()) << text;
  }
  SiteSpec spec = SiteSpec::parse("joint:m=4,d=64,tanh=off");
  EXPECT_EQ(spec.rowWidth(), 16);
  ASSERT_NE(spec.option("tanh"), nullptr);
  EXPECT_EQ(*spec.option("tanh"), "off");
  EXPECT_EQ(spec.option("n"), nullptr);
}

TEST(SiteSpec, RefusesWhatIsNoSpec) {
  constexpr const char *grammar = "a spec is recipe[:key=value,...], for example manifold:n=4,d=4096,dtype=bf16";
  EXPECT_EQ(refused("").text, std::string("'' does not start with a recipe's name; ") + grammar);
  EXPECT_EQ(refused("4static").text, std::string("'4static' does not start with a recipe's name; ") + grammar);
  EXPECT_EQ(refused("static:n").text, std::string("'n' in 'static:n' is not key=value; ") + grammar);
  EXPECT_EQ(refused("static:").text, std::string("'' in 'static:' is not key=value; ") + grammar);
  EXPECT_EQ(refused("static:=4").text, std::string("'=4' in 'static:=4' is not key=value; ") + grammar);
  EXPECT_EQ(refused("static:tanh=").text,
            "'tanh=' in 'static:tanh=': a value is made of letters, digits and _ - + . /");
  // What separates the parts of a kernel's text cannot hide in a value.
  for (const char *text :
       {"static:a=b|c", "static:a=b)", "static:a=b:c", "static:a=b c", "static:a=b\nc", "static:a=\xc3\xa9"})
    EXPECT_EQ(refused(text).id, "invalid-spec") << text;
  EXPECT_EQ(refused("static:n=4,n=4").text, "'n' is given twice in 'static:n=4,n=4'");
}

TEST(SiteSpec, RefusesNumbersOutOfRange) {
  for (const char *text :
       {"static:n=0", "static:n=-1", "static:n=1.5", "static:n=4x", "static:n=99999999999", "static:d=0", "static:m=0"})
    EXPECT_EQ(refused(text).id, "invalid-value") << text;
  EXPECT_EQ(refused("static:n=0").text, "n=0: n takes a whole number of at least 1");
  EXPECT_EQ(refused("frac:n=1,m=3,d=512").text,
            "m=3 does not divide d=512 of frac: a stream is cut into m fracs of d/m channels");
  EXPECT_EQ(refused("static:n=8,m=8").text, "n m = 8 x 8 = 64 rows of static: fused kernels take at most 32");
  EXPECT_EQ(refused("static:d=16777217").text, "d=16777217 of static: at most 16777216");
  EXPECT_EQ(refused("static:dtype=float").text, "unknown value of dtype 'float'. There are: bf16, fp16, fp32, fp64");
}

TEST(DTypes, NamesAndSizes) {
  for (DType type : {DType::BFloat16, DType::Float16, DType::Float32, DType::Float64}) {
    EXPECT_EQ(parseDType(name(type)), type);
    EXPECT_EQ(findDType(name(type)), type);
  }
  EXPECT_EQ(findDType("BF16"), std::nullopt);
  EXPECT_EQ(sizeOf(DType::BFloat16), 2);
  EXPECT_EQ(sizeOf(DType::Float64), 8);
  EXPECT_EQ(computeType(DType::BFloat16), DType::Float32);
  EXPECT_EQ(computeType(DType::Float64), DType::Float64);
}

KernelSpec kernel(const std::string &text) { return KernelSpec::parse(text); }

TEST(KernelSpec, RoundTrips) {
  for (const char *text :
       {"before(static:n=4,m=1,d=512,dtype=fp32):forward:save:tokens=large",
        "before(static:n=4,m=1,d=512,dtype=fp32):forward:infer:tokens=small",
        "boundary(static:n=4,m=1,d=512,dtype=fp32|manifold:n=4,m=1,d=512,dtype=fp32):forward:save:tokens=large",
        "after(dynamic:n=4,m=1,d=512,dtype=bf16,tanh=false):forward:infer:tokens=large",
        "before(delayed-pre:n=4,m=1,d=512,dtype=fp32):backward:given=uck:want=xpk:tokens=small",
        "boundary(static:n=1,m=1,d=1,dtype=fp64|frac:n=1,m=1,d=1,dtype=fp64):backward:given=xuck:want=xycpk:tokens="
        "large",
        "after(static:n=4,m=1,d=512,dtype=fp32):backward:given=x:want=y:tokens=large"}) {
    EXPECT_EQ(kernel(text).text(), text);
    EXPECT_EQ(kernel(kernel(text).text()), kernel(text));
  }
}

TEST(KernelSpec, BuildersMakeTheSameSpecs) {
  SiteSpec a = SiteSpec::parse("static:d=64"), b = SiteSpec::parse("manifold:d=64");
  EXPECT_EQ(KernelSpec::beforeForward(b, true, Bucket::Small),
            kernel("before(manifold:n=4,m=1,d=64,dtype=fp32):forward:save:tokens=small"));
  EXPECT_EQ(KernelSpec::boundaryForward(a, b, false, Bucket::Large),
            kernel("boundary(static:d=64|manifold:d=64):forward:infer:tokens=large"));
  EXPECT_EQ(KernelSpec::afterForward(a, Bucket::Large), kernel("after(static:d=64):forward:infer:tokens=large"));
  // Letters in any order, twice: the text has one order.
  EXPECT_EQ(KernelSpec::backward(a, b, "kcux", "ppycx", Bucket::Large).text(),
            "boundary(static:n=4,m=1,d=64,dtype=fp32|manifold:n=4,m=1,d=64,dtype=fp32):backward:given=xuck:want=xycp:"
            "tokens=large");
  EXPECT_EQ(KernelSpec::backward({}, b, "u", "x", Bucket::Large).role, Role::Before);
  EXPECT_EQ(KernelSpec::backward(a, {}, "x", "x", Bucket::Large).role, Role::After);
}

TEST(KernelSpec, RefusesWhatIsNoKernel) {
  auto text = [](const std::string &spec) { return caught([&] { KernelSpec::parse(spec); }).text; };
  constexpr const char *grammar =
      "; a kernel is before(SITE), boundary(SITE|SITE) or after(SITE), then :forward:save, :forward:infer or "
      ":backward:given=xuck:want=xycpk, then :tokens=small|large";
  EXPECT_EQ(text("static:n=4"), std::string("'static:n=4': no part in parentheses") + grammar);
  EXPECT_EQ(
      text("befor(static):forward:save:tokens=large"),
      std::string("'befor(static):forward:save:tokens=large': unknown part 'befor'; did you mean 'before'? There are: "
                  "before, boundary, after") +
          grammar);
  EXPECT_EQ(text("boundary(static):forward:save:tokens=large"),
            std::string("'boundary(static):forward:save:tokens=large': boundary takes two sites, SITE|SITE") + grammar);
  EXPECT_EQ(text("before(static|static):forward:save:tokens=large"),
            std::string("'before(static|static):forward:save:tokens=large': before takes one site") + grammar);
  EXPECT_EQ(text("before(static):forward:keep:tokens=large"),
            std::string("'before(static):forward:keep:tokens=large': unknown forward 'keep'. There are: save, infer") +
                grammar);
  EXPECT_EQ(
      text("before(static):sideways:tokens=large"),
      std::string("'before(static):sideways:tokens=large': the direction is neither forward:save, forward:infer nor "
                  "backward:given=...:want=...") +
          grammar);
  EXPECT_EQ(
      text("before(static):forward:save:tokens=medium"),
      std::string("'before(static):forward:save:tokens=medium': it does not end in :tokens=small or :tokens=large") +
          grammar);
  for (const char *spec : {"", "before(static)", "before(static", ")before(static", "before(static):forward:save",
                           "before(static):forward:save:tokens=large:more", "before():forward:save:tokens=large"})
    EXPECT_EQ(caught([&] { KernelSpec::parse(spec); }).id, "invalid-spec") << spec;
}

TEST(KernelSpec, RefusesPartsThatDoNotFit) {
  auto text = [](const std::string &spec) { return caught([&] { KernelSpec::parse(spec); }).text; };
  EXPECT_EQ(
      text("boundary(static:n=4,d=64|static:n=2,d=64):forward:save:tokens=large"),
      "the sites of a boundary share their streams: 'static' has n=4, m=1, d=64, dtype=fp32 and 'static' has n=2, "
      "m=1, d=64, dtype=fp32");
  std::string before = "before(static:n=4,m=1,d=64,dtype=fp32):backward:";
  std::string after = "after(static:n=4,m=1,d=64,dtype=fp32):backward:";
  EXPECT_EQ(text(after + "given=u:want=x:tokens=large"),
            "given=u of '" + after + "given=u:want=x:tokens=large': given takes letters of 'x' for after");
  EXPECT_EQ(text(before + "given=u:want=y:tokens=large"),
            "want=y of '" + before + "given=u:want=y:tokens=large': want takes letters of 'xpk' for before");
  EXPECT_EQ(text(before + "given=cu:want=x:tokens=large"),
            "given=cu of '" + before + "given=cu:want=x:tokens=large': write given=uc");
  EXPECT_EQ(text(before + "given=u:want=:tokens=large"),
            "'" + before +
                "given=u:want=:tokens=large' has no letter in want: a backward without it has nothing to do");
  KernelSpec spec;
  spec.role = Role::Boundary;
  spec.before = SiteSpec::parse("static");
  EXPECT_EQ(caught([&] { spec.validate(); }).text, "a boundary kernel has an after site and a before site");
}

TEST(KernelSpec, TokenBuckets) {
  EXPECT_EQ(bucketOf(0), Bucket::Small);
  EXPECT_EQ(bucketOf(64), Bucket::Small);
  EXPECT_EQ(bucketOf(65), Bucket::Large);
}

TEST(Schedules, RoundTrips) {
  EXPECT_EQ(Schedule::parse("auto").text(), "auto");
  EXPECT_TRUE(Schedule::parse("auto").isAuto());
  EXPECT_EQ(Schedule::parse("rows").text(), "rows");
  EXPECT_EQ(Schedule::parse("rows:tokens=8,stages=3,cluster=2").text(), "rows:cluster=2,stages=3,tokens=8");
  EXPECT_EQ(Schedule::parse("rows:tokens=8,cluster=2"), Schedule::parse("rows:cluster=2,tokens=8"));
  Schedule schedule = Schedule::parse("rows:tokens=8");
  schedule.set("cluster", 4);
  schedule.set("tokens", 16);
  EXPECT_EQ(schedule.text(), "rows:cluster=4,tokens=16");
  EXPECT_EQ(schedule.parameter("tokens"), 16);
  EXPECT_EQ(schedule.parameter("warps"), std::nullopt);
  EXPECT_EQ(Schedule::parse(schedule.text()), schedule);
}

TEST(Schedules, RefusesWhatIsNone) {
  auto text = [](const std::string &schedule) { return caught([&] { Schedule::parse(schedule); }).text; };
  constexpr const char *grammar = "; a schedule is auto or skeleton:name=number,...";
  EXPECT_EQ(text("Rows"), std::string("schedule 'Rows': it does not start with a skeleton's name") + grammar);
  EXPECT_EQ(text("auto:tokens=8"),
            std::string("schedule 'auto:tokens=8': it does not start with a skeleton's name") + grammar);
  EXPECT_EQ(text("rows:tokens"), std::string("schedule 'rows:tokens': 'tokens' is not name=number") + grammar);
  EXPECT_EQ(text("rows:tokens=two"),
            std::string("schedule 'rows:tokens=two': tokens takes a whole number, not 'two'") + grammar);
  EXPECT_EQ(text("rows:tokens=8,tokens=8"),
            std::string("schedule 'rows:tokens=8,tokens=8': 'tokens' is given twice") + grammar);
}

TEST(Schedules, WhatOrdersATokensSums) {
  EXPECT_EQ(Schedule::parse("rows:blocks=2,chunks=8,tokens=4,warps=8").order(), "rows:tokens=4,warps=8");
  EXPECT_EQ(Schedule::parse("columns:cluster=8,lag=2,parts=2,planes=2,ring=4").order(),
            "columns:cluster=8,parts=2,planes=2");
  // A number that is not known here may.
  EXPECT_EQ(Schedule::parse("rows:blocks=2,something=12345").order(), "rows:something=12345");
}

} // namespace
