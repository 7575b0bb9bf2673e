// Every recipe at random numbers against its formulas, written here as loops over indices from the papers and without
// the DSL: the canonical form alpha [in, out], beta [s, f1, f2] of which all recipes are cases.
// SPDX-License-Identifier: Apache-2.0
#include "Interpreter.h"

#include "hyperjit/core/ProgramSource.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

using namespace hyperjit;
using hyperjit::test::Tensor;

namespace {

using List = std::vector<double>;

double sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

/// A site with random arguments, and what a formula needs to read them.
struct Site {
  SiteSpec spec;
  std::shared_ptr<const SiteProgram> program;
  std::map<std::string, Tensor> arguments;
  int64_t n, m, N, D, d;
  List x, y;

  explicit Site(const std::string &text, unsigned seed = 7)
      : spec(SiteSpec::parse(text)), program(ProgramSource::global().site(spec)), n(spec.n), m(spec.m), N(n * m),
        D(spec.d), d(spec.rowWidth()) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    auto random = [&](int64_t count) {
      List list(count);
      for (double &value : list)
        value = normal(generator);
      return list;
    };
    x = random(N * d);
    y = random(D);
    arguments["x"] = Tensor({N, d}, x);
    for (const ParameterInfo &p : program->parameters)
      arguments[p.name] = Tensor({p.elements()}, random(p.elements()));
    for (const CarryInfo &carry : program->signature.carriesIn)
      arguments[carry.name] = Tensor({carry.size}, random(carry.size));
  }
  const List &p(const std::string &name) const { return arguments.at(name).data; }
  /// One number of a row-major parameter.
  double p(const std::string &name, int64_t row, int64_t columns, int64_t column) const {
    return p(name)[row * columns + column];
  }
  std::string option(const std::string &name, const std::string &otherwise) const {
    const std::string *given = spec.option(name);
    return given ? *given : otherwise;
  }
  bool flag(const std::string &name, bool otherwise) const {
    std::string text = option(name, otherwise ? "on" : "off");
    return text == "on" || text == "true";
  }
  /// One token through the recorded program; the branch returns y whatever it reads.
  test::Outcome run() const {
    return test::run(program->text, d, arguments, [&](const Tensor &) { return Tensor({m, d}, y); });
  }
};

List normed(const List &v, const std::string &kind, const List *gain, const List *bias) {
  double size = double(v.size()), sum = 0, squares = 0;
  for (double value : v)
    sum += value, squares += value * value;
  double mean = sum / size, variance = squares / size - mean * mean;
  List result;
  for (std::size_t i = 0; i < v.size(); ++i) {
    double g = gain ? (*gain)[i] : kind == "l2_unit_offset" ? 0 : 1, b = bias ? (*bias)[i] : 0;
    if (kind == "l2_unit_offset")
      result.push_back(v[i] / std::max(std::sqrt(squares), 1e-12) * std::sqrt(size) * (g + 1));
    else if (kind == "rms_inside")
      result.push_back(v[i] / std::sqrt(squares / size + 1e-6) * g);
    else if (kind == "rms_outside")
      result.push_back(v[i] / (std::sqrt(squares / size) + 1e-6) * g);
    else if (kind == "layernorm")
      result.push_back((v[i] - mean) / std::sqrt(variance + 1e-5) * g + b);
    else
      result.push_back(v[i]);
  }
  return result;
}

List slice(const List &list, int64_t begin, int64_t size) {
  return {list.begin() + begin, list.begin() + begin + size};
}

/// In the plain order: exp(L - max), then {column, row} sums, `eps` clamped.
List sinkhorn(List l, int64_t n, int iterations, double eps) {
  double largest = *std::max_element(l.begin(), l.end());
  for (double &value : l)
    value = std::exp(value - largest);
  for (int t = 0; t < iterations; ++t)
    for (bool columns : {true, false})
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < n; ++j)
          sum += columns ? l[j * n + i] : l[i * n + j];
        for (int64_t j = 0; j < n; ++j)
          (columns ? l[j * n + i] : l[i * n + j]) /= std::max(sum, eps);
      }
  return l;
}

/// z_f = sum_i alpha[i, f] x_i;  o_{s,f2} = sum_i alpha[i, m + s m + f2] x_i + sum_f1 beta[s, f1, f2] y_f1.
void expectCanonical(const Site &s, const List &alpha, const List &beta) {
  int64_t K = s.m + s.N;
  test::Outcome outcome = s.run();
  for (int64_t c = 0; c < s.d; ++c) {
    for (int64_t f = 0; f < s.m; ++f) {
      double z = 0;
      for (int64_t i = 0; i < s.N; ++i)
        z += alpha[i * K + f] * s.x[i * s.d + c];
      ASSERT_NEAR(outcome.input.data[f * s.d + c], z, 1e-10 * (1 + std::abs(z)))
          << "z, frac " << f << ", channel " << c;
    }
    for (int64_t j = 0; j < s.N; ++j) {
      double o = 0;
      for (int64_t i = 0; i < s.N; ++i)
        o += alpha[i * K + s.m + j] * s.x[i * s.d + c];
      for (int64_t f = 0; f < s.m; ++f)
        o += beta[(j / s.m * s.m + f) * s.m + j % s.m] * s.y[f * s.d + c];
      ASSERT_NEAR(outcome.next.data[j * s.d + c], o, 1e-10 * (1 + std::abs(o))) << "o, row " << j << ", channel " << c;
    }
  }
}

/// beta [rows] on the diagonal f1 = f2.
List diagonal(const List &beta, int64_t n, int64_t m) {
  List full(n * m * m, 0.0);
  for (int64_t s = 0; s < n; ++s)
    for (int64_t f = 0; f < m; ++f)
      full[(s * m + f) * m + f] = beta[s * m + f];
  return full;
}

/// arXiv 2409.19606 eq. 1-5 and arXiv 2503.14125, joint in n and m.
void expectHyper(const std::string &text, const std::string &norm, bool dynamic, bool full) {
  SCOPED_TRACE(text);
  Site s(text);
  int64_t K = s.m + s.N;
  List alpha = s.p("static_alpha"), beta = s.p("static_beta");
  if (dynamic)
    for (int64_t i = 0; i < s.N; ++i) {
      const List *gain = nullptr, *bias = nullptr;
      if (s.flag("norm_weight", true) && norm != "none") {
        gain = &s.p(norm == "l2_unit_offset" ? "norm.gamma" : "norm.weight");
        if (norm == "layernorm" && s.flag("norm_bias", true))
          bias = &s.p("norm.bias");
      }
      List xn = normed(slice(s.x, i * s.d, s.d), norm, gain, bias);
      auto dynamicPart = [&](const std::string &weight, int64_t columns, int64_t column, const char *scale) {
        double sum = 0;
        for (int64_t c = 0; c < s.d; ++c)
          sum += xn[c] * s.p(weight, c, columns, column);
        if (s.flag("tanh", true))
          sum = std::tanh(sum);
        return s.flag("scale", true) ? sum * s.p(scale)[0] : sum;
      };
      for (int64_t k = 0; k < K; ++k)
        alpha[i * K + k] += dynamicPart("dynamic_alpha_fn", K, k, "dynamic_alpha_scale");
      // Row (s, f1) makes beta[s, f1, :].
      for (int64_t f = 0; f < (full ? s.m : 1); ++f)
        beta[full ? i * s.m + f : i] += dynamicPart("dynamic_beta_fn", full ? s.m : 1, f, "dynamic_beta_scale");
    }
  expectCanonical(s, alpha, full ? beta : diagonal(beta, s.n, s.m));
}

TEST(Formulas, Static) {
  for (const char *spec :
       {"static:n=1,d=3", "static:n=2,d=1", "static:n=4,d=7", "static:n=16,d=5", "static:n=2,m=2,d=6"})
    expectHyper(spec, "none", false, false);
}

TEST(Formulas, Dynamic) {
  for (const char *norm : {"l2_unit_offset", "rms_inside", "rms_outside", "layernorm"})
    for (const char *sizes : {"n=1,d=5", "n=3,d=7", "n=8,d=4"})
      for (const char *more : {"", ",tanh=off", ",scale=off", ",norm_weight=off", ",norm_bias=off"})
        expectHyper(std::string("dynamic:") + sizes + ",norm=" + norm + more, norm, true, false);
}

TEST(Formulas, Frac) {
  for (const char *m : {"1", "2", "4", "8"}) {
    std::string sizes = std::string("frac:n=1,m=") + m + ",d=16";
    expectHyper(sizes, "layernorm", true, false);
    expectHyper(sizes + ",norm=none", "none", true, false);
    expectHyper(sizes + ",dynamic=off", "none", false, false);
  }
}

TEST(Formulas, Joint) {
  for (const char *sizes : {"n=2,m=2,d=6", "n=3,m=4,d=8", "n=4,m=1,d=5", "n=1,m=8,d=16"}) {
    expectHyper(std::string("joint:") + sizes, "l2_unit_offset", true, true);
    expectHyper(std::string("joint:") + sizes + ",beta=diag", "l2_unit_offset", true, false);
    expectHyper(std::string("joint:") + sizes + ",dynamic=off", "none", false, true);
  }
}

/// arXiv 2512.24880 eq. 7-9, with fracs the same over N rows: logits pre (N, m), post (n, m, m) or (N), res (N, N).
void expectManifold(const std::string &text, bool full) {
  SCOPED_TRACE(text);
  Site s(text);
  full = full && s.m > 1;
  int64_t reads = s.N * s.m, writes = full ? s.N * s.m : s.N, mixes = s.N * s.N, columns = reads + writes + mixes;
  List l = s.p("b");
  if (s.flag("dynamic", true)) {
    double squares = std::inner_product(s.x.begin(), s.x.end(), s.x.begin(), 0.0),
           rho = std::sqrt(squares / s.x.size());
    for (int64_t k = 0; k < columns; ++k) {
      double sum = 0;
      for (int64_t i = 0; i < s.N * s.d; ++i)
        sum += s.x[i] * s.p("phi", i, columns, k);
      l[k] += sum / rho * s.p(k < reads ? "alpha_pre" : k < reads + writes ? "alpha_post" : "alpha_res")[0];
    }
  }
  int iterations = std::stoi(s.option("iterations", "20"));
  List h = sinkhorn(slice(l, reads + writes, mixes), s.N, iterations, 0); // [out, in]
  int64_t K = s.m + s.N;
  List alpha(s.N * K);
  for (int64_t i = 0; i < s.N; ++i) {
    for (int64_t f = 0; f < s.m; ++f)
      alpha[i * K + f] = sigmoid(l[i * s.m + f]);
    for (int64_t j = 0; j < s.N; ++j)
      alpha[i * K + s.m + j] = h[j * s.N + i];
  }
  List post = slice(l, reads, writes);
  for (double &value : post)
    value = 2 * sigmoid(value);
  expectCanonical(s, alpha, full ? post : diagonal(post, s.n, s.m));
}

TEST(Formulas, Manifold) {
  for (const char *sizes : {"n=1,d=3", "n=2,d=5", "n=4,d=7", "n=8,d=2"})
    expectManifold(std::string("manifold:") + sizes, true);
  for (const char *more : {"", ",beta=diag", ",dynamic=off", ",iterations=3"})
    expectManifold(std::string("manifold:n=2,m=2,d=6") + more, std::string(more) != ",beta=diag");
}

/// lucidrains mHCv2 with the canonical columns; alpha is [in, out] and Sinkhorn works on it as it is.
TEST(Formulas, ManifoldStreams) {
  for (const char *text : {"manifold-streams:n=3,d=5", "manifold-streams:n=2,m=2,d=6,iterations=4",
                           "manifold-streams:n=2,m=2,d=6,proposals=3", "manifold-streams:n=3,d=4,mix_streams=on"}) {
    SCOPED_TRACE(text);
    Site s(text);
    int64_t K = s.m + s.N, proposals = std::stoi(s.option("proposals", "1"));
    int iterations = std::stoi(s.option("iterations", "20"));
    List c = s.x;
    if (s.flag("mix_streams", false))
      for (int64_t t = 0; t < s.n; ++t)
        for (int64_t i = 0; i < s.D; ++i) {
          c[t * s.D + i] = 0;
          for (int64_t from = 0; from < s.n; ++from)
            c[t * s.D + i] += s.p("maybe_mix_streams.weight", t, s.n, from) * s.x[from * s.D + i];
        }
    List xn;
    for (int64_t i = 0; i < s.N; ++i) {
      List row = normed(slice(c, i * s.d, s.d), "l2_unit_offset", &s.p("norm.gamma"), nullptr);
      xn.insert(xn.end(), row.begin(), row.end());
    }
    List alpha(s.N * K, 0.0), beta(s.n * s.m * s.m);
    for (int64_t p = 0; p < proposals; ++p) {
      List residual(s.N * s.N);
      for (int64_t i = 0; i < s.N; ++i)
        for (int64_t k = 0; k < K; ++k) {
          double l = 0;
          for (int64_t e = 0; e < s.d; ++e)
            l += xn[i * s.d + e] * s.p("dynamic_alpha_fn")[(p * s.d + e) * K + k];
          l = l * s.p(k < s.m ? "pre_branch_scale" : "residual_scale")[0] + s.p("static_alpha", i, K, k);
          if (k < s.m)
            alpha[i * K + k] += sigmoid(l) / double(proposals);
          else
            residual[i * s.N + k - s.m] = l;
        }
      List h = sinkhorn(residual, s.N, iterations, 1e-12);
      for (int64_t i = 0; i < s.N; ++i)
        for (int64_t j = 0; j < s.N; ++j)
          alpha[i * K + s.m + j] += h[i * s.N + j] / double(proposals);
    }
    for (int64_t i = 0; i < s.N; ++i)
      for (int64_t f = 0; f < s.m; ++f) {
        double l = 0;
        for (int64_t e = 0; e < s.d; ++e)
          l += xn[i * s.d + e] * s.p("dynamic_beta_fn", e, s.m, f);
        beta[i * s.m + f] = 2 * sigmoid(l * s.p("h_post_scale")[0] + s.p("static_beta")[i * s.m + f]);
      }
    expectCanonical(s, alpha, beta);
  }
}

/// DeepSeek V4 and V4.1: comb [in, out] starts as a softmax over its outputs, columns come last.
TEST(Formulas, DeepSeekAndDelayedPre) {
  for (const char *text : {"deepseek:n=4,d=6", "deepseek:n=2,d=3,iterations=3,post_mult=1", "delayed-pre:n=4,d=6"}) {
    SCOPED_TRACE(text);
    Site s(text);
    int64_t n = s.n, K = 1 + n;
    constexpr double eps = 1e-6;
    double squares = std::inner_product(s.x.begin(), s.x.end(), s.x.begin(), 0.0);
    List l = s.p("base");
    for (int64_t k = 0; k < n * (n + 2); ++k) {
      double sum = 0;
      for (int64_t i = 0; i < n * s.d; ++i)
        sum += s.x[i] * s.p("fn", k, n * s.d, i);
      l[k] += sum / std::sqrt(squares / double(n * s.d) + eps) * s.p("scale")[k < n ? 0 : k < 2 * n ? 1 : 2];
    }
    List comb = slice(l, 2 * n, n * n);
    auto normalise = [&](bool columns, double added) {
      for (int64_t i = 0; i < n; ++i) {
        double sum = added;
        for (int64_t j = 0; j < n; ++j)
          sum += columns ? comb[j * n + i] : comb[i * n + j];
        for (int64_t j = 0; j < n; ++j)
          (columns ? comb[j * n + i] : comb[i * n + j]) /= sum;
      }
    };
    for (double &value : comb)
      value = std::exp(value);
    normalise(false, 0);
    for (double &value : comb)
      value += eps;
    normalise(true, eps);
    for (int t = 1; t < std::stoi(s.option("iterations", "20")); ++t) {
      normalise(false, eps);
      normalise(true, eps);
    }
    bool delayed = s.spec.recipe == "delayed-pre";
    List alpha(n * K), beta(n), pre(n);
    for (int64_t i = 0; i < n; ++i) {
      pre[i] = sigmoid(l[i]) + eps;
      alpha[i * K] = delayed ? s.p("read")[i] : pre[i];
      for (int64_t j = 0; j < n; ++j)
        alpha[i * K + 1 + j] = comb[i * n + j];
      beta[i] = std::stod(s.option("post_mult", "2")) * sigmoid(l[n + i]);
    }
    expectCanonical(s, alpha, beta);
    if (delayed) {
      List carried = s.run().carries.at("read").data;
      for (int64_t i = 0; i < n; ++i)
        EXPECT_NEAR(carried[i], pre[i], 1e-12);
    }
  }
}

/// arXiv 2601.05732: permutations in lexicographic order, made from factorial digits.
TEST(Formulas, PermutationMixture) {
  for (int n : {1, 2, 3, 4, 5}) {
    SCOPED_TRACE(n);
    Site s("permutation:n=" + std::to_string(n) + ",d=4");
    int64_t K = 1 + n, count = 1;
    for (int64_t i = 2; i <= n; ++i)
      count *= i;
    List xn = normed(s.x, "l2_unit_offset", &s.p("norm.gamma"), nullptr);
    auto logit = [&](const char *weight, int64_t columns, int64_t k, const char *scale, const char *fixed) {
      double sum = 0;
      for (int64_t i = 0; i < n * s.d; ++i)
        sum += xn[i] * s.p(weight, i, columns, k);
      return sum * s.p(scale)[0] + s.p(fixed)[k];
    };
    List weights;
    double total = 0;
    for (int64_t r = 0; r < count; ++r) {
      weights.push_back(std::exp(logit("dynamic_alpha_fn", n + count, n + r, "residual_scale", "static_alpha")));
      total += weights.back();
    }
    List alpha(n * K, 0.0), beta(n);
    std::vector<int> order(n);
    for (int64_t r = 0; r < count; ++r) {
      // The r-th permutation from its factorial digits.
      std::vector<int> left(n);
      std::iota(left.begin(), left.end(), 0);
      int64_t rest = r, block = count;
      for (int64_t i = 0; i < n; ++i) {
        block /= n - i;
        order[i] = left[rest / block];
        left.erase(left.begin() + rest / block);
        rest %= block;
      }
      for (int64_t j = 0; j < n; ++j)
        alpha[j * K + 1 + order[j]] += weights[r] / total;
    }
    for (int64_t i = 0; i < n; ++i) {
      alpha[i * K] = sigmoid(logit("dynamic_alpha_fn", n + count, i, "pre_branch_scale", "static_alpha"));
      beta[i] = 2 * sigmoid(logit("dynamic_beta_fn", n, i, "h_post_scale", "static_beta"));
    }
    expectCanonical(s, alpha, beta);
  }
}

// A start of training: with equal streams every stream becomes x + F(x).
TEST(Formulas, StartOfHyperConnectionsIsThePreNormResidual) {
  for (const char *text : {"static:n=3,d=4,layer_index=2", "dynamic:n=3,d=4,layer_index=1",
                           "joint:n=2,m=2,d=4,layer_index=0", "frac:n=1,m=4,d=8"}) {
    SCOPED_TRACE(text);
    Site s(text);
    for (int64_t stream = 0; stream < s.n; ++stream)
      std::copy_n(s.x.begin(), s.D, s.x.begin() + stream * s.D);
    s.arguments["x"].data = s.x;
    for (const ParameterInfo &p : ProgramSource::global().parameters(s.spec)) {
      List start = p.initialisation.values;
      if (p.initialisation.kind == Initialisation::Kind::Constant)
        start.assign(p.elements(), p.initialisation.first);
      s.arguments[p.name].data = start;
    }
    test::Outcome outcome = s.run();
    for (int64_t i = 0; i < s.D; ++i) {
      EXPECT_NEAR(outcome.input.data[i], s.x[i], 1e-12);
      for (int64_t stream = 0; stream < s.n; ++stream)
        EXPECT_NEAR(outcome.next.data[stream * s.D + i], s.x[i] + s.y[i], 1e-12);
    }
  }
}

} // namespace
