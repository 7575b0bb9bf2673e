// Recipe names and options to formulas; defaults are those of the papers and of the named libraries.
// SPDX-License-Identifier: Apache-2.0

#include "ReferenceFormulas.h"

#include <charconv>
#include <map>

namespace hyperjit::reference {
namespace {

struct Options {
  const SiteSpec &spec;
  std::string word(const char *name, const char *otherwise) const {
    const std::string *value = spec.option(name);
    return value ? *value : otherwise;
  }
  bool flag(const char *name, bool otherwise) const {
    const std::string *value = spec.option(name);
    return value ? *value == "true" || *value == "on" || *value == "yes" || *value == "1" : otherwise;
  }
  double number(const char *name, double otherwise) const {
    const std::string *value = spec.option(name);
    double number = otherwise; // in any locale
    if (value)
      std::from_chars(value->data(), value->data() + value->size(), number);
    return number;
  }
};

double normEpsilon(const Options &options, const std::string &kind, double rmsInside) {
  if (options.word("norm_eps", "auto") != "auto")
    return options.number("norm_eps", 0);
  if (kind == "l2_unit_offset")
    return 1e-12;
  if (kind == "layernorm")
    return 1e-5;
  return kind == "rms_inside" ? rmsInside : 1e-6;
}

SinkhornOptions sinkhornOf(const Options &options, SinkhornOptions::Place place, double eps) {
  using Start = SinkhornOptions::Start;
  using Place = SinkhornOptions::Place;
  SinkhornOptions result;
  result.iterations = static_cast<int>(options.number("iterations", 20));
  const std::string start = options.word("start", "exp");
  result.start = start == "exp" ? Start::Exp : start == "exp_raw" ? Start::ExpRaw : Start::SoftmaxEps;
  result.rowFirst = options.word("first", "col") == "row";
  const std::string where = options.word("place", "");
  result.place = where.empty() ? place : where == "clamp" ? Place::Clamp : where == "add" ? Place::Add : Place::None;
  result.eps = options.number("eps", eps);
  result.tau = options.number("tau", 1);
  result.logDomain = options.flag("log_domain", false);
  return result;
}

} // namespace

static const std::map<std::string_view, Family> &families() {
  static const std::map<std::string_view, Family> table = {
      {"static", Family::Hyper},
      {"dynamic", Family::Hyper},
      {"frac", Family::Hyper},
      {"joint", Family::Hyper},
      {"manifold", Family::Manifold},
      {"deepseek", Family::Manifold},
      {"delayed-pre", Family::Manifold},
      {"manifold-streams", Family::PerStream},
      {"permutation", Family::Permutation},
  };
  return table;
}

bool knows(std::string_view recipe) { return families().count(recipe) > 0; }

Formula formulaOf(const SiteSpec &spec) {
  const auto family = families().find(spec.recipe);
  if (family == families().end()) {
    std::string message = "reference: recipe '" + spec.recipe + "' has no plain ATen version; these have one:";
    for (const auto &[name, which] : families())
      message.append(" ").append(name);
    throw UserError(ErrorId::UnknownRecipe, message);
  }
  const Options options{spec};
  Formula formula;
  formula.spec = spec;
  formula.family = family->second;
  formula.postMultiplier = options.number("post_mult", 2);
  switch (formula.family) {
  case Family::Hyper:
    formula.dynamic = spec.recipe == "dynamic" || (spec.recipe != "static" && options.flag("dynamic", true));
    formula.tanh = options.flag("tanh", true);
    formula.scale = options.flag("scale", true);
    formula.norm = options.word("norm", spec.recipe == "frac" ? "layernorm" : "l2_unit_offset");
    formula.normEps = normEpsilon(options, formula.norm, 1e-6);
    break;
  case Family::Manifold:
    if (spec.recipe == "manifold") {
      formula.dynamic = options.flag("dynamic", true);
      formula.norm = options.word("norm", "rms_inside");
      formula.normEps = normEpsilon(options, formula.norm, 1e-20);
      formula.sinkhorn = sinkhornOf(options, SinkhornOptions::Place::None, 0);
      formula.outIn = options.word("orientation", "out_in") == "out_in";
      formula.preEps = options.number("pre_eps", 0);
      break;
    }
    formula.deepSeek = true;
    formula.delayed = spec.recipe == "delayed-pre";
    formula.norm = "rms_inside";
    formula.normEps = options.number("norm_eps", 1e-6);
    formula.sinkhorn.start = SinkhornOptions::Start::SoftmaxEps;
    formula.sinkhorn.place = SinkhornOptions::Place::Add;
    formula.sinkhorn.eps = options.number("softmax_eps", 1e-6);
    formula.sinkhorn.iterations = static_cast<int>(options.number("iterations", 20));
    formula.outIn = false;
    formula.preEps = options.number("pre_eps", 1e-6);
    break;
  case Family::PerStream:
    formula.norm = options.word("norm", "l2_unit_offset");
    formula.normEps = normEpsilon(options, formula.norm, 1e-6);
    formula.sinkhorn = sinkhornOf(options, SinkhornOptions::Place::Clamp, 1e-12);
    formula.outIn = options.word("orientation", "in_out") == "out_in";
    break;
  case Family::Permutation:
    formula.norm = options.word("norm", "l2_unit_offset");
    formula.normEps = normEpsilon(options, formula.norm, 1e-6);
    formula.outIn = false;
    break;
  }
  return formula;
}

} // namespace hyperjit::reference
