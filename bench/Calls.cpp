// What a call costs beside the work of its kernel.
// SPDX-License-Identifier: Apache-2.0
#include "Calls.h"
#include "Chain.h"

#include <hyperjit/core/KernelManager.h>
#include <hyperjit/torch/Ops.h>

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>

namespace hyperjit::tools {

namespace {

double millisecondsOf(const std::function<void()> &work) {
  auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

std::vector<at::Tensor> nothing(const at::Tensor &, const at::Tensor &, at::TensorList, at::TensorList,
                                std::optional<at::TensorList>, std::string_view, bool) {
  return {};
}

TORCH_LIBRARY(hyperjit_bench, library) {
  library.def("nothing(Tensor x, Tensor y, Tensor[] coefficients, Tensor[] parameters, Tensor[]? carries, str spec, "
              "bool save) -> "
              "Tensor[]");
}
TORCH_LIBRARY_IMPL(hyperjit_bench, CPU, library) { library.impl("nothing", TORCH_FN(nothing)); }

} // namespace

Json firstCall(const SiteSpec &given, const Target &target) {
  ProgramSource &programs = ProgramSource::global();
  SiteSpec spec = programs.normalise(given);
  // A namespace of its own makes the kernel new to the cache.
  KernelManagerOptions fresh;
  fresh.settings.cacheNamespace += fmt::format("bench-{}", std::chrono::steady_clock::now().time_since_epoch().count());
  KernelSpec kernel = KernelSpec::boundaryForward(spec, spec, true, Bucket::Large);
  Json answer = {{"cold", nullptr}, {"disk", nullptr}, {"memory", nullptr}};
  std::string path;
  {
    KernelManager cold(fresh);
    // Another kernel opens the compiler's libraries.
    const SiteSpec small = programs.normalise(SiteSpec::parse("static:n=1,d=24"));
    const KernelSpec other = KernelSpec::boundaryForward(small, small, true, Bucket::Large);
    cold.get(other, target);
    std::error_code error;
    std::filesystem::remove(cold.cache().pathOf(CacheKey::of(cold.keyFields(other, target))), error);
    answer["cold"] = millisecondsOf([&] { cold.get(kernel, target); });
    double memory = millisecondsOf([&] {
      for (int i = 0; i < 1000; ++i)
        cold.get(kernel, target);
    });
    answer["memory"] = memory / 1000;
    path = cold.cache().pathOf(CacheKey::of(cold.keyFields(kernel, target)));
  }
  KernelManager disk(fresh);
  double milliseconds = millisecondsOf([&] { disk.get(kernel, target); });
  if (disk.statistics().diskHits == 1)
    answer["disk"] = milliseconds;
  std::error_code error;
  std::filesystem::remove(path, error);
  return answer;
}

double hostMicroseconds(const SiteSpec &given, at::Device device) {
  Chain chain(given, 2, 1, device);
  torch::NoGradGuard noGradients;
  chain.jit();
  synchronise(device);
  constexpr int calls = 200;
  double milliseconds = millisecondsOf([&] {
    for (int i = 0; i < calls; ++i)
      chain.jit();
  });
  synchronise(device);
  return milliseconds * 1e3 / (calls * 3); // before, boundary, after
}

LaunchCost launchCost(const SiteSpec &given) {
  torch::NoGradGuard noGradients;
  const at::AutoDispatchBelowADInplaceOrView below;
  Chain chain(given, 1, 1, at::kCPU);
  const auto program = ProgramSource::global().site(given);
  const std::string site = program->spec.text(), both = site + "|" + site;
  const at::Tensor x = chain.x.detach(),
                   y = at::randn({1, given.d}, at::dtype(ops::scalarType(program->spec.branchOut)));
  std::vector<at::Tensor> parameters, carries;
  for (const at::Tensor &parameter : chain.layers[0]->siteParameters())
    parameters.push_back(parameter.detach());
  for (const CarryInfo &carry : program->signature.carriesIn)
    carries.push_back(at::randn({1, carry.size}, at::dtype(ops::scalarType(computeType(program->spec.stream)))));
  const std::vector<at::Tensor> made = ops::before(x, parameters, carries, site);
  const std::vector<at::Tensor> coefficients(made.begin() + 1,
                                             made.end() - int64_t(program->signature.carriesOut.size()));
  const std::vector<at::Tensor> results = ops::boundary(x, y, coefficients, parameters, carries, both);

  const auto kernel = KernelManager::global().get(
      KernelSpec::boundaryForward(program->spec, program->spec, false, bucketOf(1)), Target::hostLevel());
  std::vector<void *> pointers = {x.data_ptr(), y.data_ptr()};
  for (const std::vector<at::Tensor> *list :
       std::initializer_list<const std::vector<at::Tensor> *>{&coefficients, &parameters, &carries, &results})
    for (const at::Tensor &tensor : *list)
      pointers.push_back(tensor.data_ptr());
  std::vector<char> workspaceMemory(kernel->workspaceBytes(1) + 64);
  void *workspace = workspaceMemory.data();
  size_t room = workspaceMemory.size();
  std::align(64, workspaceMemory.size() - 64, workspace, room);
  const auto doNothing =
      c10::Dispatcher::singleton().findSchemaOrThrow("hyperjit_bench::nothing", "").typed<decltype(nothing)>();

  // The least of many short runs: what interrupts the host is no part of a call. Wide kernels take milliseconds: a run
  // of few.
  const double first = millisecondsOf([&] { kernel->launch(pointers, workspace, 1, {}); });
  const int calls = static_cast<int>(std::clamp(10 / std::max(first, 1e-3), 5.0, 500.0));
  constexpr int runs = 30;
  auto aRun = [calls](const std::function<void()> &call) {
    return millisecondsOf([&] {
             for (int i = 0; i < calls; ++i)
               call();
           }) *
           1e3 / calls;
  };
  auto microseconds = [&](const std::function<void()> &call) {
    double least = INFINITY;
    for (int run = 0; run < runs; ++run)
      least = std::min(least, aRun(call));
    return least;
  };
  LaunchCost cost;
  cost.call = microseconds([&] { ops::boundary(x, y, coefficients, parameters, carries, both); });
  cost.dispatch = microseconds(
      [&] { doNothing.call(x, y, coefficients, parameters, std::optional<at::TensorList>(), both, false); });
  cost.results = microseconds([&] {
    std::vector<at::Tensor> list;
    list.reserve(results.size());
    for (const at::Tensor &result : results)
      list.emplace_back(at::detail::empty_cpu(result.sizes(), result.scalar_type(), false));
  });
  auto launch = [&](int64_t tokens) { return aRun([&] { kernel->launch(pointers, workspace, tokens, {}); }); };
  // Without tokens all is done but the work; where some of it is the call's, not a token's, the checks of pointers
  // count as work.
  const std::vector<LaunchInfo> &launches = kernel->meta().launches;
  bool ofTokens = std::all_of(launches.begin(), launches.end(),
                              [](const LaunchInfo &each) { return each.grid == GridKind::Chunks; });
  double one = INFINITY, none = ofTokens ? INFINITY : 0; // by turns: the host's speed is not that of the run before
  for (int run = 0; run < runs; ++run) {
    one = std::min(one, launch(1));
    if (ofTokens)
      none = std::min(none, launch(0));
  }
  cost.kernel = one - none;
  return cost;
}

} // namespace hyperjit::tools
