// Where training starts: the initial values of every recipe and preset, and the coefficients that a program makes of
// them.
// SPDX-License-Identifier: Apache-2.0
#include "Interpreter.h"

#include "hyperjit/core/ProgramSource.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

using namespace hyperjit;
using hyperjit::test::Tensor;

namespace {

using List = std::vector<double>;

std::vector<ParameterInfo> parameters(const std::string &spec) {
  return ProgramSource::global().parameters(SiteSpec::parse(spec));
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

/// "static_alpha=[1 0 ...] static_beta=1 phi=N(0.02)", in the order of declaration.
std::string starts(const std::string &spec) {
  std::string text;
  for (const ParameterInfo &p : parameters(spec)) {
    const Initialisation &start = p.initialisation;
    text += (text.empty() ? "" : " ") + p.name + "=";
    if (start.kind == Initialisation::Kind::Constant)
      text += number(start.first);
    else if (start.kind == Initialisation::Kind::Normal)
      text += (start.zeroSlices ? std::to_string(start.zeroSlices) + " zero, N(" : "N(") + number(start.second) + ")";
    else if (start.kind == Initialisation::Kind::Values)
      for (size_t i = 0; i < start.values.size(); ++i)
        text += (i ? " " : "[") + number(start.values[i]) + (i + 1 == start.values.size() ? "]" : "");
    else
      text += "?";
  }
  return text;
}

TEST(Starts, OfHyperConnections) {
  EXPECT_EQ(starts("static:n=2,d=8,layer_index=1"), "static_alpha=[0 1 0 1 0 1] static_beta=1");
  EXPECT_EQ(starts("static:n=3,d=8,layer_index=5"), "static_alpha=[0 1 0 0 0 0 1 0 1 0 0 1] static_beta=1");
  const std::string dynamic = " dynamic_alpha_fn=0 dynamic_beta_fn=0 dynamic_alpha_scale=0.01 dynamic_beta_scale=0.01";
  EXPECT_EQ(starts("dynamic:n=2,d=8,layer_index=0"), "static_alpha=[1 1 0 0 0 1] static_beta=1 norm.gamma=0" + dynamic);
  EXPECT_EQ(starts("dynamic:n=2,d=8,layer_index=0,norm=layernorm"),
            "static_alpha=[1 1 0 0 0 1] static_beta=1 norm.weight=1 norm.bias=0" + dynamic);
  EXPECT_EQ(starts("dynamic:n=2,d=8,layer_index=0,norm=rms_outside"),
            "static_alpha=[1 1 0 0 0 1] static_beta=1 norm.weight=1" + dynamic);
  EXPECT_EQ(starts("frac:n=1,m=2,d=8"),
            "static_alpha=[1 0 1 0 0 1 0 1] static_beta=1 norm.weight=1 norm.bias=0" + dynamic);
  // Stream 1 is read whole: its frac f by view column f.
  EXPECT_EQ(
      starts("joint:n=2,m=2,d=8,layer_index=1"),
      "static_alpha=[0 0 1 0 0 0 0 0 0 1 0 0 1 0 0 0 1 0 0 1 0 0 0 1] static_beta=[1 0 0 1 1 0 0 1] norm.gamma=0" +
          dynamic);
  EXPECT_EQ(starts("joint:n=2,m=2,d=8,layer_index=1,beta=diag,dynamic=false"),
            "static_alpha=[0 0 1 0 0 0 0 0 0 1 0 0 1 0 0 0 1 0 0 1 0 0 0 1] static_beta=1");
}

TEST(Starts, OfManifoldRecipes) {
  EXPECT_EQ(starts("manifold:n=2,d=8,layer_index=1"),
            "b=[-1 1 -1 1 0 -8 -8 0] alpha_pre=0.01 alpha_post=0.01 alpha_res=0.01 phi=0");
  EXPECT_EQ(starts("manifold:n=2,d=8,layer_index=1,dynamic=false"), "b=[-1 1 -1 1 0 -8 -8 0]");
  for (const char *recipe : {"deepseek", "delayed-pre"})
    EXPECT_EQ(starts(recipe + std::string(":n=2,d=8,layer_index=1")), "fn=0 base=[-1 1 -1 1 0 -8 -8 0] scale=0.01");
  EXPECT_EQ(starts("permutation:n=2,d=8,layer_index=1"),
            "static_alpha=[-1 1 0 -8] static_beta=[-1 1] pre_branch_scale=0.01 residual_scale=0.01 h_post_scale=0.01 "
            "norm.gamma=0 dynamic_alpha_fn=0 dynamic_beta_fn=0");
  const std::string rest =
      " pre_branch_scale=0.01 residual_scale=0.01 h_post_scale=0.01 norm.gamma=0 dynamic_alpha_fn=0 "
      "dynamic_beta_fn=0";
  EXPECT_EQ(starts("manifold-streams:n=2,d=8,layer_index=1"),
            "static_alpha=[-1 0 -8 1 -8 0] static_beta=[-1 1]" + rest);
  EXPECT_EQ(starts("manifold-streams:n=2,d=8,layer_index=1,init=lucidrains"),
            "static_alpha=[0 1 0 1 0 1] static_beta=[1 1]" + rest);
  // With fracs what joins different ones starts shut.
  EXPECT_EQ(starts("manifold-streams:n=1,m=2,d=8,init=lucidrains"),
            "static_alpha=[1 -8 1 0 -8 1 0 1] static_beta=[1 -8 -8 1]" + rest);
  // liger and zero draw the projection; liger's scale is 1.
  EXPECT_EQ(starts("manifold:n=2,d=8,init=liger"),
            "b=[0 0 0 0 0 0 0 0] alpha_pre=1 alpha_post=1 alpha_res=1 phi=N(0.02)");
  EXPECT_EQ(starts("manifold:n=2,d=8,init=zero"),
            "b=[0 0 0 0 0 0 0 0] alpha_pre=0.01 alpha_post=0.01 alpha_res=0.01 phi=N(0.02)");
}

// Equal proposals would receive equal gradients for ever: all but the first get noise. lucidrains starts them equal.
TEST(Starts, OfProposals) {
  auto alphaFn = [](const std::string &options) {
    std::string text = starts("manifold-streams:n=2,d=8,layer_index=0" + options);
    size_t begin = text.find("dynamic_alpha_fn=") + 17;
    return text.substr(begin, text.find(" dynamic_beta_fn") - begin);
  };
  EXPECT_EQ(alphaFn(",proposals=1"), "0");
  EXPECT_EQ(alphaFn(",proposals=3"), "1 zero, N(0.02)");
  EXPECT_EQ(alphaFn(",proposals=3,init=residual_equivalent"), "1 zero, N(0.02)");
  EXPECT_EQ(alphaFn(",proposals=3,init=lucidrains"), "0");
  EXPECT_EQ(alphaFn(",proposals=3,init=zero"), "N(0.02)"); // they are drawn, so they differ already
}

/// What a program makes of its initial values: H [out, in], pre and post of every stream.
struct Effect {
  List pre, post, h;
};

Effect effectOf(const std::string &text) {
  const SiteSpec spec = SiteSpec::parse(text);
  auto program = ProgramSource::global().site(spec);
  const int64_t n = spec.n;
  std::map<std::string, Tensor> arguments;
  for (const ParameterInfo &p : parameters(text)) {
    List list = p.initialisation.values;
    if (list.empty()) // a projection that is drawn is left out: what is pinned are the logits
      list.assign(p.elements(), p.initialisation.kind == Initialisation::Kind::Constant ? p.initialisation.first : 0);
    arguments[p.name] = Tensor({p.elements()}, list);
  }
  for (const CarryInfo &carry : program->signature.carriesIn)
    arguments[carry.name] = Tensor({carry.size}, carry.start);
  // Stream s is the unit vector s, so a mix of streams shows its weights.
  List unit(n * n);
  for (int64_t i = 0; i < n; ++i)
    unit[i * n + i] = 1;
  arguments["x"] = Tensor({n, n}, unit);
  auto run = [&](double y) {
    return test::run(program->text, n, arguments, [&](const Tensor &) { return Tensor({1, n}, List(n, y)); });
  };
  const test::Outcome without = run(0), with = run(1);
  Effect effect;
  effect.h = without.next.data;
  for (int64_t k = 0; k < n; ++k)
    effect.post.push_back(with.next.data[k * n] - without.next.data[k * n]);
  effect.pre = without.carries.count("read") ? without.carries.at("read").data : without.input.data;
  return effect;
}

TEST(Starts, PresetsActAsDocumented) {
  struct Row {
    const char *preset;
    double preSelected, preOther, postSelected, postOther, diagonal, offDiagonal;
  };
  const Row rows[] = {
      {"zero", 0.5, 0.5, 1, 1, 0.25, 0.25},
      {"lucidrains", 0.7311, 0.5, 1.4621, 1.4621, 0.4754, 0.1749},
      {"mhc_lite", 0.7311, 0.2689, 1.4621, 0.5379, 0.9990, 0.0003},
      {"uniform_read", 0.25, 0.25, 1, 1, 0.25, 0.25},
      {"kareem", 0.5622, 0.5622, 1.4621, 1.4621, 0.4754, 0.1749},
      {"liger", 0.5, 0.5, 1, 1, 0.25, 0.25},
      {"residual_equivalent", 0.99966, 0.00034, 1, 1, 0.9990, 0.0003},
  };
  constexpr double exact = 6e-5;
  for (const char *recipe : {"manifold", "manifold-streams", "deepseek", "delayed-pre", "permutation"})
    for (const Row &row : rows) {
      SCOPED_TRACE(std::string(recipe) + " " + row.preset);
      const std::string spec = std::string(recipe) + ":n=4,d=4,layer_index=6,init=" + row.preset; // reads stream 2
      const Effect effect = effectOf(spec);
      double diagonal = row.diagonal, off = row.offDiagonal;
      if (recipe == std::string("permutation")) {
        // The identity beside 23 others, of which 5 keep a given stream in its place and 6 move it to a given other
        // one.
        const List logits = parameters(spec)[0].initialisation.values;
        const double ratio = std::exp(logits[5] - logits[4]), identity = 1 / (1 + 23 * ratio);
        diagonal = identity * (1 + 5 * ratio);
        off = identity * 6 * ratio;
        if (row.preset == std::string("mhc_lite")) {
          EXPECT_NEAR(identity, 0.9923, exact);
        }
      }
      for (int64_t i = 0; i < 4; ++i) {
        EXPECT_NEAR(effect.pre[i], i == 2 ? row.preSelected : row.preOther, exact) << i;
        EXPECT_NEAR(effect.post[i], i == 2 ? row.postSelected : row.postOther, exact) << i;
        for (int64_t j = 0; j < 4; ++j)
          EXPECT_NEAR(effect.h[i * 4 + j], i == j ? diagonal : off, exact) << i << " " << j;
      }
    }
}

// Each norm has its own eps in every recipe; the paper's 1e-20 belongs to its rms_inside.
TEST(Starts, AutoEpsilonIsTheNorms) {
  for (const std::string recipe : {"dynamic", "frac", "joint", "manifold", "manifold-streams", "permutation"})
    for (const std::string norm : {"l2_unit_offset", "rms_inside", "rms_outside", "layernorm"}) {
      SCOPED_TRACE(recipe + " " + norm);
      const char *eps = norm == "l2_unit_offset"                       ? "1e-12"
                        : norm == "layernorm"                          ? "1e-5"
                        : norm == "rms_inside" && recipe == "manifold" ? "1e-20"
                                                                       : "1e-6";
      const std::string spec = recipe + (recipe == "frac" ? ":n=1,m=2" : ":n=2") + ",d=8,norm=" + norm;
      auto digest = [](const std::string &text) { return ProgramSource::global().site(SiteSpec::parse(text))->digest; };
      EXPECT_EQ(digest(spec), digest(spec + ",norm_eps=" + eps));
      EXPECT_NE(digest(spec), digest(spec + ",norm_eps=0.125"));
    }
}

} // namespace
