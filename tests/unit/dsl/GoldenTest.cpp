// Values published with the formulas (fp64, rounded to 5 or 6 places), outputs and gradients. Run twice: by the
// interpreter, where they test the recipes' equations, and by the CPU's fp64 kernels, where they test the compiler.
// SPDX-License-Identifier: Apache-2.0
#include "Golden.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace hyperjit;
using hyperjit::test::List;
using Token = hyperjit::test::GoldenToken;

namespace {

// Half a unit of the last place that was printed, and a little for differences.
constexpr double fivePlaces = 0.51e-5, sixPlaces = 0.51e-6;

void expectNear(const List &actual, const List &expected, double tolerance, const char *what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], tolerance) << what << "[" << i << "]";
}

/// `count` numbers ((a k + b) mod c - e) / f, k = 0, 1, ...
List pattern(int64_t count, int64_t a, int64_t c, int64_t e, double f) {
  List list;
  for (int64_t k = 0; k < count; ++k)
    list.push_back(double(a * k % c - e) / f);
  return list;
}

// H is read off by mixing the unit matrix with a branch that writes nothing.
TEST(Golden, Sinkhorn) {
  struct Mode {
    const char *options;
    List m, dl;
  };
  const Mode modes[] = {{"iterations=2",
                         {.303251, .186823, .509926, .615391, .280861, .103748, .085356, .524492, .390152},
                         {.19664, .027226, -.227636, -.219862, .052603, .160453, .023223, -.079828, .067183}},
                        {"iterations=2,first=row",
                         {.306206, .187362, .50479, .605623, .274525, .100097, .088172, .538113, .395112},
                         {.178085, .042987, -.221072, -.235779, .07601, .159769, .026676, -.10526, .078585}},
                        {"iterations=2,start=softmax_eps,place=add,eps=0.01",
                         {.303894, .191148, .492543, .593368, .273034, .105382, .093202, .525436, .391955},
                         {.175032, .040549, -.215581, -.221987, .070039, .151948, .026095, -.098032, .071937}},
                        {"iterations=20",
                         {.302312, .188784, .508905, .612974, .283572, .103454, .084714, .527644, .387642},
                         {.193764, .036412, -.230176, -.216854, .056192, .160662, .02309, -.092604, .069514}}};
  for (const Mode &mode : modes)
    for (const char *domain : {"", ",log_domain=on"}) {
      if (*domain && std::string(mode.options).find("softmax") != std::string::npos)
        continue; // has an eps, which the log domain has not
      SCOPED_TRACE(std::string(mode.options) + domain);
      Token token(std::string("manifold:n=3,d=3,dynamic=off,post_mult=0,") + mode.options + domain);
      List b(6, 0.0);
      b.insert(b.end(), {0.2, -1, 0.5, 1.5, 0, -0.5, -0.3, 0.8, 1});
      token.set("b", b);
      token.streams({1, 0, 0, 0, 1, 0, 0, 0, 1});
      token.y = {0, 0, 0};
      token.dx = {1, 0, 0, 0, 0, 2, 0, -1, 0};
      expectNear(token.run().next.data, mode.m, sixPlaces, "M");
      List gradient = token.gradient("b");
      expectNear({gradient.begin() + 6, gradient.end()}, mode.dl, sixPlaces, "dL");
    }
}

// arXiv 2409.19606 with the norm of lucidrains/hyper-connections.
TEST(Golden, HyperConnection) {
  Token token("dynamic:n=2,d=2");
  token.streams({1, 2, 3, -1});
  token.y = {0.5, -1.5};
  token.set("norm.gamma", {0.1, -0.2});
  token.set("dynamic_alpha_fn", {0.3, -0.1, 0.2, 0.4, 0.5, -0.6});
  token.set("dynamic_beta_fn", {0.7, -0.8});
  token.set("dynamic_alpha_scale", {0.5});
  token.set("dynamic_beta_scale", {0.25});
  token.set("static_alpha", {1, 1, 0, 0, 0, 1});
  token.set("static_beta", {1, 1});
  token.dz = {1, -1};
  token.dx = {1, 0.5, -0.5, 2};
  hyperjit::test::Outcome outcome = token.run();
  expectNear(outcome.input.data, {1.709752, 2.401085}, sixPlaces, "z");
  expectNear(outcome.next.data, {1.193336, 1.185252, 4.094739, -3.496476}, sixPlaces, "o");
  expectNear(token.gradient("x"), {2.725749, -1.176214, -0.384338, 2.981373}, sixPlaces, "dx");
  expectNear(token.gradient("y"), {0.313721, 2.894326}, sixPlaces, "dy");
  expectNear(token.gradient("norm.gamma"), {0.064949, -1.687}, sixPlaces, "dgamma");
  expectNear(token.gradient("dynamic_alpha_fn"), {2.457771, 2.239695, -1.02721, -1.00977, 0.43854, 1.921225}, sixPlaces,
             "dW_alpha");
  expectNear(token.gradient("dynamic_beta_fn"), {-0.337823, 0.015284}, sixPlaces, "dW_beta");
  expectNear(token.gradient("dynamic_alpha_scale"), {-2.52213}, fivePlaces, "ds_alpha");
  expectNear(token.gradient("dynamic_beta_scale"), {-2.738512}, sixPlaces, "ds_beta");
  expectNear(token.gradient("static_alpha"), {-1, 2, 3.5, 4, 2.5, -3.5}, sixPlaces, "dA");
  expectNear(token.gradient("static_beta"), {-0.25, -3.25}, sixPlaces, "dB");
}

struct ManifoldMode {
  const char *spec;
  List z, pre, o, dx;
  double dRes;
};
const List zPlain = {.75432, .56211}, zWithEps = {.77432, .57711};

const ManifoldMode manifoldModes[] = {
    {"manifold:n=3,d=2,iterations=2",
     zPlain,
     {.39075, .51395, .58914},
     {.38792, -.55002, 2.03393, -1.54578, 1.15292, -.96661},
     {.54549, -.14751, .47179, .1764, .9788, .03677},
     -1.04107},
    {"manifold:n=3,d=2,iterations=2,orientation=in_out",
     zPlain,
     {.39075, .51395, .58914},
     {1.08685, -.75907, 1.58835, -1.74323, .83402, -.52532},
     {.6121, -.55719, .60798, .39442, .76329, .26111},
     -1.01589},
    {"manifold:n=3,d=2,iterations=2,start=softmax_eps,place=add,eps=0.01,orientation=in_out,pre_eps=0.01,norm_eps=1e-6",
     zWithEps,
     {.40075, .52395, .59914},
     {1.08019, -.752, 1.53497, -1.71526, .84657, -.52941},
     {.63989, -.55761, .62149, .32537, .77603, .21626},
     -.91633},
    {"manifold:n=3,d=2,iterations=2,start=softmax_eps,place=add,eps=0.01",
     zPlain,
     {.39075, .51395, .58914},
     {.40175, -.55005, 1.95375, -1.52895, 1.13552, -.96457},
     {.56591, -.14975, .48006, .13101, .97572, .02325},
     -.93653}};

List phi() {
  List list;
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t j = 0; j < 15; ++j)
      list.push_back(double((3 * i + 2 * j) % 7 - 3) / 10);
  return list;
}

/// The token with four more channels that no logit sees: the streams are the unit matrix in three of them, where z is
/// pre and the new streams are H; in the last the streams are zero and y is one, where the new streams are post. The
/// norm is over more channels and greater numbers, so the scales of the logits make up for it.
Token widened(const Token &token, double epsilon, bool outputFirst, const std::vector<const char *> &scales) {
  constexpr int64_t n = 3, d = 2, wide = d + n + 1, outputs = n * (n + 2);
  std::string spec = token.spec;
  spec.replace(spec.find("d=2"), 3, "d=6");
  Token result(spec);
  result.arguments = token.arguments;
  List x, y = token.y, projection(n * wide * outputs);
  y.insert(y.end(), {0, 0, 0, 1});
  double square = 0, wideSquare = 0;
  const char *weight = outputFirst ? "fn" : "phi";
  for (int64_t row = 0; row < n; ++row)
    for (int64_t channel = 0; channel < wide; ++channel) {
      double value = channel < d ? token.arguments.at("x").data[row * d + channel] : channel - d == row ? 1 : 0;
      x.push_back(value);
      wideSquare += value * value;
      if (channel >= d)
        continue;
      square += value * value;
      for (int64_t k = 0; k < outputs; ++k) {
        int64_t from = row * d + channel, to = row * wide + channel;
        projection[outputFirst ? k * n * wide + to : to * outputs + k] =
            token.arguments.at(weight).data[outputFirst ? k * n * d + from : from * outputs + k];
      }
    }
  result.streams(x);
  result.y = y;
  result.set(weight, projection);
  double factor = std::sqrt((wideSquare / (n * wide) + epsilon) / (square / (n * d) + epsilon));
  for (const char *scale : scales)
    for (double &value : result.arguments.at(scale).data)
      value *= factor;
  return result;
}

void expectCoefficients(const Token &token, const List &pre, double epsilon, bool outputFirst,
                        const std::vector<const char *> &scales) {
  hyperjit::test::Outcome outcome = widened(token, epsilon, outputFirst, scales).run();
  const List &z = outcome.carries.count("read") ? outcome.carries.at("read").data : outcome.input.data;
  expectNear(outcome.carries.count("read") ? z : List(z.begin() + 2, z.begin() + 5), pre, fivePlaces, "pre");
  const List &o = outcome.next.data;
  expectNear({o[5], o[11], o[17]}, {.98838, 1.09157, .93846}, fivePlaces, "post");
}

void expectManifold(Token &token, const ManifoldMode &mode, const std::vector<const char *> &scales) {
  token.streams({1, 2, 3, -1, -2, 0.5});
  token.y = {0.5, -1.5};
  token.dz = {1, -1};
  token.dx = {1, 0.5, -0.5, 2, 0, -1};
  hyperjit::test::Outcome outcome = token.run();
  expectNear(outcome.input.data, mode.z, fivePlaces, "z");
  expectNear(outcome.next.data, mode.o, fivePlaces, "o");
  expectNear(token.gradient("x"), mode.dx, fivePlaces, "dx");
  expectNear(token.gradient("y"), {.4426, 1.73888}, fivePlaces, "dy");
  List scaleGradients;
  for (const char *scale : scales)
    for (double value : token.gradient(scale))
      scaleGradients.push_back(value);
  expectNear(scaleGradients, {.25391, 1.58545, mode.dRes}, fivePlaces, "da");
}

// arXiv 2512.24880 in its own orientation and in others'.
TEST(Golden, ManifoldFlattened) {
  for (const ManifoldMode &mode : manifoldModes) {
    SCOPED_TRACE(mode.spec);
    Token token(mode.spec);
    token.set("b", pattern(15, 5, 11, 5, 10));
    token.set("phi", phi());
    token.set("alpha_pre", {0.5});
    token.set("alpha_post", {0.25});
    token.set("alpha_res", {1});
    expectManifold(token, mode, {"alpha_pre", "alpha_post", "alpha_res"});
    expectCoefficients(token, mode.pre, std::string(mode.spec).find("norm_eps") == std::string::npos ? 1e-20 : 1e-6,
                       false, {"alpha_pre", "alpha_post", "alpha_res"});
  }
}

// The DeepSeek convention is the third mode with phi stored output first.
TEST(Golden, DeepSeek) {
  for (const char *recipe : {"deepseek", "delayed-pre"}) {
    SCOPED_TRACE(recipe);
    bool delayed = std::string(recipe) == "delayed-pre";
    Token token(std::string(recipe) + ":n=3,d=2,iterations=2,softmax_eps=0.01,pre_eps=0.01");
    List transposed(15 * 6);
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 15; ++j)
        transposed[j * 6 + i] = phi()[i * 15 + j];
    token.set("fn", transposed);
    token.set("base", pattern(15, 5, 11, 5, 10));
    token.set("scale", {0.5, 0.25, 1});
    if (!delayed) {
      expectManifold(token, manifoldModes[2], {"scale"});
      expectCoefficients(token, manifoldModes[2].pre, 1e-6, true, {"scale"});
      continue;
    }
    // The pre that is made here serves the next site: z is what the carry reads.
    token.set("read", {0, 1, 0});
    token.streams({1, 2, 3, -1, -2, 0.5});
    token.y = {0.5, -1.5};
    hyperjit::test::Outcome outcome = token.run();
    expectNear(outcome.input.data, {3, -1}, 1e-12, "z");
    expectNear(outcome.next.data, manifoldModes[2].o, fivePlaces, "o");
    expectCoefficients(token, manifoldModes[2].pre, 1e-6, true, {"scale"});
  }
}

// lucidrains/hyper-connections 0.4.11, mHCv2 with fracs, two proposals and a stream pre-mix.
TEST(Golden, ManifoldPerStream) {
  Token token("manifold-streams:n=2,m=2,d=4,proposals=2,mix_streams=on,static_beta=shared,iterations=2");
  token.streams({1, 2, 3, -1, -2, 0.5, 1, 1.5});
  token.y = {0.5, -1.5, 1, -0.5};
  token.set("maybe_mix_streams.weight", {1, 0.5, -0.25, 1});
  token.set("norm.gamma", pattern(2, 3, 5, 2, 10));
  token.set("static_alpha", pattern(24, 5, 11, 5, 5));
  token.set("dynamic_alpha_fn", pattern(24, 3, 7, 3, 5));
  token.set("dynamic_beta_fn", pattern(4, 3, 7, 3, 5));
  token.set("static_beta", pattern(4, 3, 5, 2, 2));
  token.set("pre_branch_scale", {0.5});
  token.set("residual_scale", {1});
  token.set("h_post_scale", {0.25});
  token.dz = {1, -1, 0.5, 2};
  token.dx = {1, 0.5, 0, -1, -0.5, 2, 1, 0.25};
  hyperjit::test::Outcome outcome = token.run();
  expectNear(outcome.input.data, {1.3005, .94427, .59225, 1.55278}, fivePlaces, "z");
  expectNear(outcome.next.data, {2.67676, -.78093, 1.47596, -.52793, 3.76133, -1.76038, 1.82692, -.71835}, fivePlaces,
             "o");
  expectNear(token.gradient("x"), {1.16252, 1.2888, .83875, 1.41891, 1.50158, .40962, 1.31333, .70163}, fivePlaces,
             "dX");
  expectNear(token.gradient("y"), {.97132, 1.6708, 1.81731, 2.76726}, fivePlaces, "dy");
  expectNear(token.gradient("norm.gamma"), {-2.02653, -.98322}, fivePlaces, "dgamma");
  expectNear(token.gradient("pre_branch_scale"), {-2.59592}, fivePlaces, "dpre_scale");
  expectNear(token.gradient("residual_scale"), {-.86275}, fivePlaces, "dresidual_scale");
  expectNear(token.gradient("h_post_scale"), {-2.16824}, fivePlaces, "dpost_scale");
  expectNear(token.gradient("static_beta"), {.46005, .60058, -1.52272, -.17556}, fivePlaces, "dstatic_beta");
  expectNear(token.gradient("maybe_mix_streams.weight"), {.10395, -.20791, -.26028, -.06507}, fivePlaces, "dP");
}

} // namespace
