// The operators themselves: what they refuse and how they say it, odd inputs, what the Meta key promises.
// SPDX-License-Identifier: Apache-2.0

#include "Sites.h"

#include <hyperjit/core/Error.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <new>
#include <sys/resource.h>

// Every allocation of this process by new, LibTorch's and hyperjit's too, counted a thread.
static thread_local int64_t allocations = 0;

void *operator new(std::size_t size) {
  ++allocations;
  if (void *memory = std::malloc(size ? size : 1))
    return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void *memory) noexcept {
  std::free(memory);
} // inlined, GCC thinks it the wrong one
[[gnu::noinline]] void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

namespace hyperjit::tests {
namespace {

const std::string kSpec = "dynamic:n=3,d=6";

struct Operands {
  std::string spec = kSpec;
  nn::Connection layer = makeLayer(kSpec);
  at::Tensor x = random({5, 3, 6}, 1), y = random({5, 6}, 2);
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> coefficients;
  explicit Operands(const std::string &spec = kSpec) : spec(spec), layer(makeLayer(spec)) {
    const SiteSpec parsed = SiteSpec::parse(spec);
    x = random({5, parsed.n, parsed.d}, 1);
    y = random({5, parsed.d}, 2);
    for (const at::Tensor &parameter : layer->siteParameters())
      parameters.push_back(parameter.detach());
    const auto made = ops::before(x, parameters, {}, spec);
    coefficients.assign(made.begin() + 1, made.end());
  }
  auto before(const at::Tensor &x) const { return ops::before(x, parameters, {}, spec); }
  auto after(const at::Tensor &y) const { return ops::after(x, y, coefficients, spec); }
};

TEST(BadInput, Streams) {
  const Operands o;
  EXPECT_MESSAGE("hyperjit::before: x is undefined", o.before(at::Tensor()));
  EXPECT_MESSAGE("hyperjit::before: x has rank 1, sizes [6]; streams are [..., n=3, D=6]", o.before(at::zeros({6})));
  EXPECT_MESSAGE("hyperjit::before: x has 4 streams, sizes [5, 4, 6]; dynamic:n=3,d=6 has n=3",
                 o.before(at::zeros({5, 4, 6})));
  EXPECT_MESSAGE("hyperjit::before: x has 7 channels, sizes [5, 3, 7]; dynamic:n=3,d=6 has D=6",
                 o.before(at::zeros({5, 3, 7})));
  EXPECT_MESSAGE("hyperjit::before: x is Double; dynamic:n=3,d=6 takes Float here",
                 o.before(at::zeros({5, 3, 6}, at::kDouble)));
  EXPECT_MESSAGE("hyperjit::before: x is Int; dynamic:n=3,d=6 takes Float here",
                 o.before(at::zeros({5, 3, 6}, at::kInt)));
  EXPECT_MESSAGE("hyperjit::before: x has layout Sparse; only strided tensors are supported, call to_dense()",
                 o.before(at::zeros({5, 3, 6}).to_sparse()));
}

TEST(BadInput, OtherOperands) {
  const Operands o;
  auto with = [&](size_t index, const at::Tensor &parameter) {
    std::vector<at::Tensor> parameters = o.parameters;
    parameters[index] = parameter;
    return [&o, parameters] { ops::before(o.x, parameters, {}, o.spec); };
  };
  EXPECT_MESSAGE("hyperjit::before: parameter 'static_alpha' is undefined; Float [3, 4] is supported",
                 with(0, at::Tensor())());
  EXPECT_MESSAGE(
      "hyperjit::before: parameter 'static_alpha' is Float [3, 5] on cpu; dynamic:n=3,d=6 takes Float [3, 4]",
      with(0, at::zeros({3, 5}))());
  EXPECT_MESSAGE("hyperjit::before: parameter 'static_beta' is BFloat16; dynamic:n=3,d=6 takes Float here",
                 with(1, at::zeros({3}, at::kBFloat16))());
  EXPECT_MESSAGE(
      "hyperjit::before: parameter 'static_beta' is on meta, x is on cpu; all operands must be on one device",
      with(1, at::zeros({3}, at::kMeta))());
  EXPECT_MESSAGE("hyperjit::before: 2 parameters are given; dynamic:n=3",
                 ops::before(o.x, {o.parameters[0], o.parameters[1]}, {}, o.spec));
  EXPECT_MESSAGE("hyperjit::before: 1 carries are given", ops::before(o.x, o.parameters, {o.x}, o.spec));
  EXPECT_MESSAGE("hyperjit::after: y is Float [5, 7] on cpu; dynamic:n=3,d=6 takes Float [..., 6] where ... are the "
                 "leading sizes of x [5, 3, 6]",
                 o.after(at::zeros({5, 7})));
  EXPECT_MESSAGE("hyperjit::after: y is Float [4, 6] on cpu", o.after(at::zeros({4, 6})));
  EXPECT_MESSAGE("hyperjit::after: 0 coefficient tensors are given", ops::after(o.x, o.y, {}, o.spec));
}

TEST(BadInput, Specs) {
  const Operands o;
  auto before = [&](const char *spec) { return ops::before(o.x, o.parameters, {}, spec); };
  EXPECT_MESSAGE("does not start with a recipe's name", before(""));
  EXPECT_MESSAGE("did you mean 'dynamic'", before("dynamik:n=3,d=6"));
  EXPECT_MESSAGE("names two sites; this operator takes one", before("dynamic:n=3,d=6|dynamic:n=3,d=6"));
  EXPECT_MESSAGE("names one site; a boundary takes two",
                 ops::boundary(o.x, o.y, o.coefficients, o.parameters, {}, o.spec));
  EXPECT_MESSAGE("the sites of a boundary share their streams: 'dynamic' has n=3, m=1, d=6, dtype=fp32 and 'dynamic' "
                 "has n=2, m=1, "
                 "d=6, dtype=fp32",
                 ops::boundary(o.x, o.y, o.coefficients, o.parameters, {}, "dynamic:n=3,d=6|dynamic:n=2,d=6"));
  EXPECT_MESSAGE("n=0: n takes a whole number of at least 1", before("dynamic:n=0,d=6"));
  EXPECT_MESSAGE("m=4 does not divide d=6", before("joint:n=1,m=4,d=6"));
}

TEST(BadInput, Masks) {
  const Operands o;
  const at::Tensor u = random({5, 6}, 3);
  const auto saved = ops::before(o.x, o.parameters, {}, o.spec, true).back();
  auto backward = [&](std::vector<at::Tensor> cotangents, const char *given, const char *want) {
    return ops::beforeBackward(o.x, o.parameters, {}, saved, cotangents, o.spec, given, want);
  };
  EXPECT_MESSAGE("must each name at least one tensor", backward({}, "", "x"));
  EXPECT_MESSAGE("given is 'uu'; a subset of \"xuck\" in this order is supported", backward({u, u}, "uu", "x"));
  EXPECT_MESSAGE("given 'uk' names 'k', and ", backward({u}, "uk", "x"));
  EXPECT_MESSAGE("want 'xk' names 'k', and ", backward({u}, "u", "xk"));
  EXPECT_MESSAGE("want is 'q'; a subset of \"xycpk\" in this order is supported", backward({u}, "u", "q"));
  EXPECT_MESSAGE("2 cotangents are given; given 'u' of dynamic:n=3,d=6 names 1", backward({u, u}, "u", "x"));
  EXPECT_MESSAGE("hyperjit::before_backward: the cotangent of u is Float [5, 7] on cpu",
                 backward({at::zeros({5, 7})}, "u", "x"));
  EXPECT_MESSAGE("saved is missing; run the forward operator with save = true",
                 ops::beforeBackward(o.x, o.parameters, {}, std::nullopt, u, o.spec, "u", "x"));
}

/// Integers reach no kernel, from whichever operand they come.
TEST(BadInput, Integers) {
  const Operands o;
  std::vector<at::Tensor> parameters = o.parameters, coefficients = o.coefficients;
  parameters[0] = parameters[0].to(at::kInt);
  coefficients[0] = coefficients[0].to(at::kLong);
  EXPECT_MESSAGE("hyperjit::before: x is Int; dynamic:n=3,d=6 takes Float here: convert it, or name its dtype in the "
                 "spec, as dtype=... (bf16, fp16, "
                 "fp32, fp64)",
                 o.before(o.x.to(at::kInt)));
  EXPECT_MESSAGE("hyperjit::before: parameter 'static_alpha' is Int; dynamic:n=3,d=6 takes Float here",
                 ops::before(o.x, parameters, {}, o.spec));
  EXPECT_MESSAGE("hyperjit::after: y is Int; dynamic:n=3,d=6 takes Float here", o.after(o.y.to(at::kInt)));
  EXPECT_MESSAGE("hyperjit::after: coefficients of a token is Long; dynamic:n=3,d=6 takes Float here",
                 ops::after(o.x, o.y, coefficients, o.spec));
  nn::Connection layer = makeLayer(kSpec);
  EXPECT_MESSAGE("hyperjit::nn: the streams' dtype is Int; BFloat16, Half, Float and Double are supported",
                 layer->forward(at::zeros({5, 3, 6}, at::kInt), [](const at::Tensor &u) { return u; }));
  EXPECT_MESSAGE("the branch output y is Int on cpu; a floating-point tensor on cpu is supported",
                 layer->forward(o.x, [](const at::Tensor &u) { return u.to(at::kInt); }));
}

TEST(BadInput, ExpandAndReduce) {
  const at::Tensor h = at::zeros({5, 6}), x = at::zeros({5, 3, 6});
  EXPECT_MESSAGE("hyperjit::expand: streams is 0; 1 or more are supported", ops::expand(h, std::nullopt, 0));
  EXPECT_MESSAGE("hyperjit::expand: h has rank 0", ops::expand(at::zeros({}), std::nullopt, 2));
  EXPECT_MESSAGE("hyperjit::expand: h is Int", ops::expand(at::zeros({5, 6}, at::kInt), std::nullopt, 2));
  EXPECT_MESSAGE("hyperjit::expand: embedding is [3, 6]; [streams=2, D=6] is supported",
                 ops::expand(h, at::zeros({3, 6}), 2));
  EXPECT_MESSAGE("hyperjit::reduce: mode is 'max'; sum, mean and weighted are supported",
                 ops::reduce(x, std::nullopt, "max"));
  EXPECT_MESSAGE("hyperjit::reduce: x has rank 1", ops::reduce(at::zeros({6}), std::nullopt, "sum"));
  EXPECT_MESSAGE("hyperjit::reduce: mode weighted needs weights [..., n]", ops::reduce(x, std::nullopt, "weighted"));
  EXPECT_MESSAGE("hyperjit::reduce: weights are [5, 2]", ops::reduce(x, at::zeros({5, 2}), "weighted"));
}

/// Views, permuted and misaligned tensors are copied, not misread.
TEST(OddInput, NonContiguous) {
  const Operands o;
  const auto expected = o.before(o.x);
  const at::Tensor next = o.after(o.y);
  auto same = [&](const at::Tensor &x, const char *what) {
    ASSERT_TRUE(at::equal(x, o.x)) << what;
    const auto got = o.before(x);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(at::equal(got[i], expected[i])) << what << " " << i;
      EXPECT_TRUE(got[i].is_contiguous());
    }
    EXPECT_TRUE(at::equal(ops::after(x, o.y, o.coefficients, o.spec), next)) << what;
  };
  same(o.x.permute({2, 1, 0}).contiguous().permute({2, 1, 0}), "permuted");
  same(at::cat({o.x, o.x}, 2).narrow(2, 0, 6), "rows of a wider tensor");
  same(at::cat({o.x.reshape(-1), at::zeros({4})}).as_strided({5, 3, 6}, {18, 6, 1}), "the start of a storage");
  same(at::cat({at::zeros({1}), o.x.reshape(-1)}).narrow(0, 1, 90).reshape({5, 3, 6}), "not aligned to 16 bytes");
  std::vector<at::Tensor> parameters = o.parameters;
  for (at::Tensor &parameter : parameters)
    if (parameter.dim() == 2)
      parameter = parameter.t().contiguous().t();
  EXPECT_TRUE(at::equal(ops::before(o.x, parameters, {}, o.spec)[0], expected[0]));
  EXPECT_TRUE(at::equal(o.after(o.y.t().contiguous().t()), next));
  // A cotangent of stride 0, as sum() gives it.
  nn::Connection layer = makeLayer(kSpec);
  at::Tensor x = o.x.clone().set_requires_grad(true);
  layer->forward(x, [](const at::Tensor &u) { return u; }).tensor().sum().backward();
  const at::Tensor first = x.grad().clone();
  x.mutable_grad() = at::Tensor();
  layer->forward(x, [](const at::Tensor &u) { return u; }).tensor().backward(at::ones({5, 3, 6}));
  EXPECT_TRUE(at::equal(first, x.grad()));
  // A sparse one, as a gather of rows gives it if asked to.
  const at::Tensor index = at::tensor({0, 3, 3, 5, 1}, at::kLong).unsqueeze(1);
  auto gradient = [&](bool sparse) {
    x.mutable_grad() = at::Tensor();
    auto [u, open] = layer->widthConnection(x);
    u.gather(1, index, sparse).sum().backward();
    return x.grad().clone();
  };
  EXPECT_TRUE(at::equal(gradient(true), gradient(false)));
}

TEST(OddInput, LeadingAxes) {
  const Operands o;
  const at::Tensor x = random({2, 3, 4, 3, 6}, 4);
  const auto flat = o.before(x.reshape({24, 3, 6})), deep = o.before(x);
  EXPECT_EQ(deep[0].sizes(), at::IntArrayRef({2, 3, 4, 6}));
  EXPECT_TRUE(at::equal(deep[0].reshape({24, 6}), flat[0]));
  EXPECT_EQ(o.before(x[0][0][0])[0].sizes(), at::IntArrayRef({6}));
  EXPECT_TRUE(at::equal(o.before(x[0][0][0])[0], flat[0][0]));
}

TEST(OddInput, NoTokens) {
  for (const std::string &spec : smallSites()) {
    const SiteSpec parsed = SiteSpec::parse(spec);
    nn::Connection first = makeLayer(spec), second = makeLayer(spec);
    const at::Tensor x = at::zeros({0, parsed.n, parsed.d}).set_requires_grad(true);
    auto branch = [](const at::Tensor &u) { return u * 2; };
    const at::Tensor out = second->forward(first->forward(x, branch), branch).tensor();
    EXPECT_EQ(out.sizes(), x.sizes());
    out.sum().backward();
    EXPECT_EQ(x.grad().sizes(), x.sizes());
    for (const auto &[name, parameter] : first->namedSiteParameters())
      EXPECT_TRUE(at::equal(parameter.grad(), at::zeros_like(parameter))) << spec << " " << name;
  }
}

/// What a site hands on of its parameters alone is there without tokens, too, and has gradients.
TEST(OddInput, NoTokensButParameters) {
  nn::Connection layer = makeLayer("static:n=3,d=6");
  std::vector<std::vector<at::Tensor>> gradients;
  std::vector<at::Tensor> ofOne;
  for (int64_t tokens : {1, 0}) {
    layer->zero_grad();
    const auto made = ops::before(at::ones({tokens, 3, 6}), layer->siteParameters(), {}, layer->spec().text());
    ASSERT_GT(made.size(), 1u);
    at::Tensor loss = at::zeros({});
    for (size_t i = 1; i < made.size(); ++i) {
      ASSERT_NE(made[i].size(0), tokens) << "output " << i << " belongs to tokens";
      if (tokens == 1)
        ofOne.push_back(made[i].detach());
      else
        EXPECT_TRUE(at::equal(made[i], ofOne[i - 1])) << "output " << i;
      loss = loss + (made[i] * random(made[i].sizes(), int(i))).sum();
    }
    loss.backward();
    gradients.emplace_back();
    for (const at::Tensor &parameter : layer->siteParameters())
      gradients.back().push_back(parameter.grad().clone());
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_GT(gradients[0][i].abs().max().item<double>(), 0) << i;
    EXPECT_TRUE(at::equal(gradients[0][i], gradients[1][i])) << i;
  }
}

TEST(OddInput, NotFinite) {
  for (const std::string &spec : smallSites())
    for (double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1e38}) {
      const SiteSpec parsed = SiteSpec::parse(spec);
      nn::Connection layer = makeLayer(spec);
      at::Tensor x = random({5, parsed.n, parsed.d}, 1);
      const at::Tensor clean = layer->forward(x, [](const at::Tensor &u) { return u; }).tensor().detach();
      x = x.clone();
      x[2].fill_(poison);
      x.set_requires_grad(true);
      const at::Tensor out = layer->forward(x, [](const at::Tensor &u) { return u; }).tensor();
      if (poison != -1e38) {
        EXPECT_TRUE(out[2].isfinite().logical_not().any().item<bool>()) << spec;
      }
      out.sum().backward(); // ends
      for (int64_t token : {0, 1, 3, 4})
        EXPECT_TRUE(at::equal(out[token], clean[token])) << spec << " token " << token;
    }
}

/// An eps that fp32 takes for 0 is one of 0: the gradient of a probability that is 0 is no quotient of zeros.
TEST(OddInput, AnEpsilonBelowAllNumbers) {
  for (const char *eps : {"0", "1e-50", "1e-6"}) {
    const std::string spec = std::string("deepseek:n=2,d=8,iterations=1,softmax_eps=") + eps;
    const at::Tensor x = random({5, 2, 8}, 1).requires_grad_();
    const at::Tensor fn = at::zeros({8, 16}), base = at::zeros({8}).requires_grad_(), scale = at::ones({3});
    {
      const at::NoGradGuard guard; // residual logits 0, -200, -200, 0
      base[5].fill_(-200);
      base[6].fill_(-200);
    }
    const std::vector<at::Tensor> made = ops::before(x, {fn, base, scale}, {}, spec);
    const at::Tensor next = ops::after(x, made[0], at::TensorList(made).slice(1), spec);
    const std::vector<at::Tensor> gradients = torch::autograd::grad({next.sum()}, {x, base});
    for (const at::Tensor &gradient : gradients)
      EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << spec << "\n" << gradient;
  }
}

TEST(OddInput, ManyThreads) {
  // The thread count orders no sum.
  const int before = at::get_num_threads();
  std::vector<std::vector<at::Tensor>> results;
  for (int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    nn::Connection layer = makeLayer("manifold:n=4,d=64");
    const at::Tensor x = random({500, 4, 64}, 1).set_requires_grad(true);
    const at::Tensor out = layer->forward(x, [](const at::Tensor &u) { return u.tanh(); }).tensor();
    out.square().sum().backward();
    std::vector<at::Tensor> &result = results.emplace_back(std::vector<at::Tensor>{out.detach(), x.grad()});
    for (const at::Tensor &parameter : layer->siteParameters())
      result.push_back(parameter.grad());
  }
  at::set_num_threads(before);
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
    EXPECT_TRUE(at::equal(results[0][i], results[2][i])) << i;
  }
}

TEST(Threads, AllOfThemWork) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  nn::Connection layer = makeLayer("manifold:n=4,d=256");
  const at::Tensor x = random({2048, 4, 256}, 1).set_requires_grad(true);
  auto step = [&] { layer->forward(x, [](const at::Tensor &u) { return u; }).tensor().backward(x.detach()); };
  auto seconds = [](int who) {
    rusage usage{};
    getrusage(who, &usage);
    return double(usage.ru_utime.tv_sec) + 1e-6 * double(usage.ru_utime.tv_usec);
  };
  step();
  const double mine = seconds(RUSAGE_THREAD), all = seconds(RUSAGE_SELF);
  for (int i = 0; i < 10; ++i)
    step();
  const double share = (seconds(RUSAGE_THREAD) - mine) / (seconds(RUSAGE_SELF) - all);
  at::set_num_threads(before);
  EXPECT_LT(share, 0.75) << "one of two threads did nearly all of the work";
}

/// Sizes, dtypes and strides that Meta promises are those that come.
TEST(Meta, AgreesWithTheCpu) {
  auto toMeta = [](const std::vector<at::Tensor> &tensors) {
    std::vector<at::Tensor> result;
    for (const at::Tensor &tensor : tensors)
      result.push_back(tensor.to(at::kMeta));
    return result;
  };
  auto expectSame = [](const std::vector<at::Tensor> &meta, const std::vector<at::Tensor> &real,
                       const std::string &what) {
    ASSERT_EQ(meta.size(), real.size()) << what;
    for (size_t i = 0; i < meta.size(); ++i) {
      EXPECT_EQ(meta[i].sizes(), real[i].sizes()) << what << " " << i;
      EXPECT_EQ(meta[i].strides(), real[i].strides()) << what << " " << i;
      EXPECT_EQ(meta[i].scalar_type(), real[i].scalar_type()) << what << " " << i;
      EXPECT_TRUE(meta[i].is_meta()) << what;
    }
  };
  for (std::string spec : smallSites())
    for (const char *types : {"", ",dtype=bf16", ",dtype=fp32,branch=bf16", ",dtype=bf16,weight=bf16", ",dtype=fp64"}) {
      const auto program = ProgramSource::global().site(SiteSpec::parse(spec + types));
      const SiteSpec &site = program->spec;
      const std::string text = site.text();
      auto scalar = [](DType type) {
        return type == DType::BFloat16 ? at::kBFloat16 : type == DType::Float64 ? at::kDouble : at::kFloat;
      };
      const at::Tensor x = random({2, 3, site.n, site.d}, 1, scalar(site.stream)),
                       y = random({2, 3, site.d}, 2, scalar(site.branchOut));
      std::vector<at::Tensor> parameters, carries;
      for (const ParameterInfo &info : program->parameters)
        parameters.push_back(random(info.shape, 3, scalar(info.dtype)));
      for (const CarryInfo &carry : program->signature.carriesIn)
        carries.push_back(random({2, 3, carry.size}, 4, scalar(computeType(site.stream))));
      const auto real = ops::before(x, parameters, carries, text, true);
      expectSame(ops::before(x.to(at::kMeta), toMeta(parameters), toMeta(carries), text, true), real, text);
      const bool saves = program->signature.saved > 0;
      const size_t carryCount = program->signature.carriesOut.size();
      const std::vector<at::Tensor> coefficients(real.begin() + 1,
                                                 real.end() - static_cast<int64_t>(saves + carryCount));
      const at::Tensor next = ops::after(x, y, coefficients, text);
      expectSame({ops::after(x.to(at::kMeta), y.to(at::kMeta), toMeta(coefficients), text)}, {next}, text);
      expectSame(
          ops::afterBackward(x.to(at::kMeta), y.to(at::kMeta), toMeta(coefficients), next.to(at::kMeta), text, "xyc"),
          ops::afterBackward(x, y, coefficients, next, text, "xyc"), text + " after_backward");
      const std::optional<at::Tensor> saved = saves ? std::optional(real.back()) : std::nullopt;
      const std::optional<at::Tensor> savedMeta = saves ? std::optional(real.back().to(at::kMeta)) : std::nullopt;
      expectSame(ops::beforeBackward(x.to(at::kMeta), toMeta(parameters), toMeta(carries), savedMeta,
                                     real[0].to(at::kMeta), text, "u", "xp"),
                 ops::beforeBackward(x, parameters, carries, saved, real[0], text, "u", "xp"),
                 text + " before_backward");
      const std::string both = text + "|" + text;
      const auto crossed = ops::boundary(x, y, coefficients, parameters, carries, both, false);
      expectSame(ops::boundary(x.to(at::kMeta), y.to(at::kMeta), toMeta(coefficients), toMeta(parameters),
                               toMeta(carries), both, false),
                 crossed, both);
    }
}

TEST(Schema, EveryOperatorHasEveryKey) {
  auto &dispatcher = c10::Dispatcher::singleton();
  for (const std::string name : {"before", "boundary", "after", "expand", "reduce"})
    for (const std::string suffix : {"", "_backward"}) {
      const auto op = dispatcher.findSchemaOrThrow(("hyperjit::" + name + suffix).c_str(), "");
      for (auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA, c10::DispatchKey::Meta,
                       c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutogradCUDA})
        EXPECT_TRUE(op.hasComputedKernelForDispatchKey(key)) << name << suffix << " " << c10::toString(key);
      EXPECT_FALSE(op.schema().is_mutable()) << name << suffix;
    }
  for (const std::string name : {"before", "boundary", "after", "expand", "reduce"})
    for (auto key : {c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA})
      EXPECT_TRUE(dispatcher.findSchemaOrThrow(("hyperjit::" + name).c_str(), "").hasKernelForDispatchKey(key)) << name;
}

/// Of the second of two equal calls: the first may compile.
template <typename Call> int64_t allocationsOf(Call &&call) {
  call();
  const int64_t before = allocations;
  const auto results = call();
  return allocations - before;
}

/// A call of a kernel that is loaded makes its results, a tensor each and the list of them: no string, no table,
/// nothing else. Inverted: `std::string text(spec)` in OpPlan::get; a std::vector for the result of after.
TEST(Launch, AllocatesNothingButResults) {
  const at::AutoDispatchBelowADInplaceOrView below; // what autograd keeps is its own
  const int64_t aTensor = allocationsOf([] { return at::empty({1, 3, 6}); });
  ASSERT_GT(aTensor, 0);
  for (const std::string &spec : smallSites()) {
    const auto program = ProgramSource::global().site(SiteSpec::parse(spec));
    const SiteSpec &site = program->spec;
    const std::string text = site.text() /* too long to lie in a string object */, both = text + "|" + text;
    ASSERT_GT(text.size(), 16u);
    const at::Tensor x = random({1, site.n, site.d}, 1), y = random({1, site.d}, 2);
    std::vector<at::Tensor> parameters, carries;
    for (const ParameterInfo &info : program->parameters)
      parameters.push_back(random(info.shape, 3));
    for (const CarryInfo &carry : program->signature.carriesIn)
      carries.push_back(random({1, carry.size}, 4));
    auto expectOnlyResults = [&](const char *op, const std::function<std::vector<at::Tensor>()> &call) {
      const std::vector<at::Tensor> results = call();
      EXPECT_EQ(allocationsOf(call), aTensor * static_cast<int64_t>(results.size()) + 1) << op << " of " << both;
      return results;
    };
    const bool saves = program->signature.saved > 0;
    auto savedOf = [&](const std::vector<at::Tensor> &results) {
      return saves ? std::optional(results.back()) : std::nullopt;
    };
    expectOnlyResults("before", [&] { return ops::before(x, parameters, carries, text, false); });
    const auto made = expectOnlyResults("before", [&] { return ops::before(x, parameters, carries, text, true); });
    const auto crossing = made.end() - static_cast<int64_t>(saves + program->signature.carriesOut.size());
    const std::vector<at::Tensor> coefficients(made.begin() + 1, crossing), u{made[0]}, cotangents{x, made[0]};
    const auto saved = savedOf(made);
    expectOnlyResults("before_backward",
                      [&] { return ops::beforeBackward(x, parameters, carries, saved, u, text, "u", "xp"); });
    expectOnlyResults("boundary", [&] { return ops::boundary(x, y, coefficients, parameters, carries, both, false); });
    const auto crossed = savedOf(expectOnlyResults(
        "boundary", [&] { return ops::boundary(x, y, coefficients, parameters, carries, both, true); }));
    expectOnlyResults("boundary_backward", [&] {
      return ops::boundaryBackward(x, y, coefficients, parameters, carries, crossed, cotangents, both, "xu", "xyp");
    });
    expectOnlyResults("after_backward", [&] { return ops::afterBackward(x, y, coefficients, x, text, "xy"); });
    EXPECT_EQ(allocationsOf([&] { return ops::after(x, y, coefficients, text); }), aTensor) << "after of " << text;
  }
}

/// A text of 15 letters lies in its string object, a longer one does not: as many allocations for both means that none
/// is copied. Inverted: a std::string in Autograd.cpp's runNode, and plan.spec in its keep.
TEST(Launch, CopiesNoSpecText) {
  auto step = [](const std::string &spec) {
    Operands o(spec);
    std::vector<at::Tensor> parameters;
    for (const at::Tensor &parameter : o.parameters)
      parameters.push_back(parameter.clone().requires_grad_());
    return allocationsOf([&] {
      const auto made = ops::before(o.x, parameters, {}, spec);
      const at::Tensor next = ops::after(o.x, made[0], at::TensorList(made).slice(1), spec);
      next.sum().backward();
      return next;
    });
  };
  const std::string brief = "static:n=3,d=6", full = SiteSpec::parse(brief).text();
  ASSERT_LE(brief.size(), 15u);
  ASSERT_GT(full.size(), 15u);
  EXPECT_EQ(step(full), step(brief));
}

TEST(ForwardMode, IsRefused) {
  // Dual tensors are made by Python's forward_ad; here its level by hand.
  const Operands o;
  const auto level = torch::autograd::forward_ad::enter_dual_level();
  at::Tensor dual = o.x.clone();
  dual._set_fw_grad(at::ones_like(dual), level, /*is_inplace_op=*/false);
  EXPECT_MESSAGE("hyperjit::before: forward-mode differentiation is not supported", o.before(dual));
  EXPECT_MESSAGE("hyperjit::expand: forward-mode differentiation is not supported", ops::expand(dual, std::nullopt, 2));
  EXPECT_MESSAGE("hyperjit::reduce: forward-mode differentiation is not supported",
                 ops::reduce(dual, std::nullopt, "sum"));
  // Nor does backward drop the tangent of a cotangent. Inverted: `hasTangent` left out of Autograd.cpp's runNode.
  const at::Tensor u = o.before(o.x.clone().requires_grad_())[0];
  at::Tensor cotangent = at::ones_like(u);
  cotangent._set_fw_grad(at::ones_like(u), level, /*is_inplace_op=*/false);
  EXPECT_MESSAGE("forward AD with hyperjit::before_backward", u.backward(cotangent));
  torch::autograd::forward_ad::exit_dual_level(level);
}

} // namespace
} // namespace hyperjit::tests
