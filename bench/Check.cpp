// What a chain gives: against its formulas in fp64, the same bits each time, and the memory it takes.
// SPDX-License-Identifier: Apache-2.0
#include "Chain.h"

#include <hyperjit/core/Error.h>

#include <c10/core/CachingDeviceAllocator.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace hyperjit::tools {

namespace {

/// Beyond what low precision explains.
constexpr double kWrong = 0.05;

/// The last streams, the first ones' gradient, then those of the parameters of each site in declared order.
std::vector<at::Tensor> run(const Chain &chain) {
  chain.clearGradients();
  const at::Tensor out = chain.jit();
  out.backward(chain.cotangent);
  std::vector<at::Tensor> results{out.detach(), chain.x.grad()};
  for (const nn::Connection &layer : chain.layers)
    for (const at::Tensor &parameter : layer->siteParameters())
      results.push_back(parameter.grad());
  chain.clearGradients();
  return results;
}

bool sameBits(const at::Tensor &a, const at::Tensor &b) {
  return a.defined() == b.defined() &&
         (!a.defined() ||
          (a.sizes() == b.sizes() && at::equal(a.reshape(-1).view(at::kByte), b.reshape(-1).view(at::kByte))));
}

/// Bytes at once above what lies there; none but on CUDA.
class Peak {
public:
  explicit Peak(at::Device device) : device(device) {
    if (!device.is_cuda())
      return;
    synchronise(device);
    at::getDeviceAllocator(device.type())->resetPeakStats(device.index());
    before = stat().current;
  }
  std::optional<int64_t> bytes() const {
    if (!device.is_cuda())
      return std::nullopt;
    synchronise(device);
    return stat().peak - before;
  }

private:
  c10::CachingAllocator::Stat stat() const {
    const auto all = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
    return all.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  }
  at::Device device;
  int64_t before = 0;
};

/// The larger one; NaN is larger than any number.
double larger(double a, double b) { return std::isnan(a) || a > b ? a : b; }

/// Largest difference and largest value, of pieces that are given one by one.
struct Deviation {
  double off = 0, largest = 0;
  void add(const at::Tensor &got, const at::Tensor &expected) {
    auto most = [](const at::Tensor &tensor) { return tensor.numel() ? tensor.abs().max().item<double>() : 0; };
    off = larger(off, most(got.to(at::kDouble) - expected));
    largest = larger(largest, most(expected));
  }
  double relative(double atLeast = 0) const { return off == 0 ? 0 : off / std::max({largest, atLeast, 1e-300}); }
};

/// In fp64, on so few tokens at a time that what ATen keeps for backward fits: tokens depend on no others, and gradients
/// of parameters add up.
std::optional<Check::Errors> errorsOf(const Chain &chain, const std::vector<at::Tensor> &results) {
  if (!Reference::knows(chain.spec))
    return std::nullopt;
  const Reference reference(chain.spec);
  std::vector<Reference::Tensors> parameters;
  std::vector<at::Tensor> leaves;
  for (const nn::Connection &layer : chain.layers) {
    Reference::Tensors &own = parameters.emplace_back();
    const Reference::Tensors named = layer->namedSiteParameters();
    for (const auto &[name, parameter] : named)
      own[name] = parameter.detach().to(at::kDouble).requires_grad_();
    // In the order of `results`.
    for (const at::Tensor &parameter : layer->siteParameters())
      for (const auto &[name, other] : named)
        if (other.is_same(parameter))
          leaves.push_back(own.at(name));
  }
  const int64_t tokens = chain.x.size(0), row = chain.spec.n * chain.spec.d;
  const int64_t block = std::max<int64_t>(1, (int64_t(2) << 20) / row);
  Deviation output, streams;
  for (int64_t begin = 0; begin < tokens; begin += block) {
    auto some = [&](const at::Tensor &all) { return all.detach().slice(0, begin, std::min(begin + block, tokens)); };
    const at::Tensor x = some(chain.x).to(at::kDouble).requires_grad_();
    const at::Tensor out = Chain::formulas(reference, x, parameters);
    out.backward(some(chain.cotangent).to(at::kDouble));
    output.add(some(results[0]), out.detach());
    streams.add(some(results[1]), x.grad());
  }
  Check::Errors errors{output.relative(), streams.relative(), 0};
  std::vector<Deviation> gradients(leaves.size());
  double largest = 0;
  for (size_t i = 0; i < leaves.size(); ++i) {
    auto given = [&](const at::Tensor &gradient) { // none is one of zeros
      return gradient.defined() ? gradient : at::zeros_like(leaves[i]);
    };
    gradients[i].add(given(results[2 + i]), given(leaves[i].grad()));
    largest = larger(largest, gradients[i].largest);
  }
  for (const Deviation &gradient : gradients)
    errors.parameters = larger(errors.parameters, gradient.relative(1e-4 * largest));
  return errors;
}

} // namespace

bool Check::wrong() const {
  if (!errors)
    return !equal;
  // A parameter's gradient is a sum over tokens: where it cancels, streams that were rounded to 16 bits between sites
  // leave nothing of it that could be held against fp64.
  const bool narrow = sizeOf(SiteSpec::parse(spec).stream) < 4;
  const bool parameters = narrow ? std::isfinite(errors->parameters) : errors->parameters <= kWrong;
  return !(equal && errors->output <= kWrong && errors->streams <= kWrong && parameters); // NaN is wrong
}

std::string Check::text() const {
  std::string line = fmt::format("{}, {} tokens: ", spec, tokens);
  if (errors)
    line += fmt::format("off from fp64 by {:.1e} (streams), {:.1e} (their gradient), {:.1e} (parameters' gradients); ",
                        errors->output, errors->streams, errors->parameters);
  else
    line += "no formulas in ATen to hold it against; ";
  line += fmt::format("{} runs {}", runs, equal ? "equal, bit for bit" : "DIFFER");
  if (peak)
    line += fmt::format("; peak {:.2f} X", *peak);
  return wrong() ? line + "; WRONG" : line;
}

Json jsonOf(const std::vector<Check> &checks) {
  Json list = Json::array();
  for (const Check &check : checks)
    list.push_back({{"spec", check.spec},
                    {"tokens", check.tokens},
                    {"error", check.errors ? Json{{"output", check.errors->output},
                                                  {"streams", check.errors->streams},
                                                  {"parameters", check.errors->parameters}}
                                           : Json()},
                    {"runs", check.runs},
                    {"bits_equal", check.equal},
                    {"peak_x", check.peak ? Json(*check.peak) : Json()},
                    {"wrong", check.wrong()}});
  return list;
}

Check checkChain(const Chain &chain, int runs, at::Device device) {
  Check check{chain.spec.text(), chain.x.size(0), std::nullopt, runs, true, std::nullopt};
  run(chain); // whatever is made once
  const Peak peak(device);
  const std::vector<at::Tensor> results = run(chain);
  if (const auto bytes = peak.bytes())
    check.peak = double(*bytes) / double(chain.x.nbytes());
  for (int i = 1; i < runs; ++i) {
    const std::vector<at::Tensor> again = run(chain);
    for (size_t r = 0; r < results.size(); ++r)
      check.equal = check.equal && sameBits(again[r], results[r]);
    // The next run's results are made in this memory.
    for (const at::Tensor &result : again)
      if (result.defined())
        result.fill_(std::numeric_limits<double>::quiet_NaN());
  }
  check.errors = errorsOf(chain, results);
  return check;
}

} // namespace hyperjit::tools
