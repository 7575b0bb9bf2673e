// SPDX-License-Identifier: Apache-2.0
#include "Alone.h"

#include "Console.h"

#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>
#include <hyperjit/cuda/Device.h>
#include <hyperjit/torch/Ops.h>

#include <ATen/Parallel.h>
#ifndef INTRA_OP_PARALLEL
#error "at::parallel_for is serial here: compile with OpenMP, as LibTorch was"
#endif

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

namespace hyperjit::tools {

std::vector<KernelSpec> trainingKernels(const SiteSpec &given, Bucket bucket) {
  ProgramSource &programs = ProgramSource::global();
  const SiteSpec site = programs.normalise(given);
  std::vector<KernelSpec> kernels;
  for (Direction direction : {Direction::Forward, Direction::Backward})
    for (Role role : {Role::Before, Role::Boundary, Role::After})
      kernels.push_back(trainingKernel(programs, site, site, role, direction, bucket));
  return kernels;
}

namespace {

/// Five times the L2 of an H100 or H200.
constexpr int64_t coldBytes = 256 << 20;

at::Tensor numbersFor(const OperandInfo &operand, int64_t tokens, at::Device device) {
  const bool ofToken = operand.scope == OperandScope::Token;
  const auto options = at::device(device).dtype(ops::scalarType(operand.dtype));
  const int64_t count = std::max<int64_t>(operand.elements * (ofToken ? tokens : 1), 1);
  if (operand.output)
    return at::empty({count}, options);
  if (operand.kind == OperandKind::Weight)
    return at::randn({count}, options).mul_(4 / std::sqrt(double(std::max<int64_t>(operand.elements, 16))));
  if (operand.kind == OperandKind::Coeffs && ofToken && !operand.name.starts_with("d_"))
    return at::rand({count}, options).mul_(0.9).add_(0.05); // mostly positive, as a layer's are
  return at::randn({count}, options);
}

void parallelFor(void *, int64_t count, ParallelBody body, void *bodyContext) {
  at::parallel_for(0, count, 1,
                   [&](int64_t begin, int64_t end) { body(bodyContext, begin, end, at::get_thread_num()); });
}

/// `stream`: where there is a GPU.
AloneTiming timeKernel(const KernelSpec &spec, const Schedule &schedule, int64_t tokens, at::Device device,
                       cuda::Device *stream, const Target &target, int repeats) {
  KernelManager &manager = KernelManager::global();
  const std::shared_ptr<const Kernel> kernel = manager.get(spec, target, schedule);
  LaunchContext context;
  if (stream) {
    context.device = device.index();
    context.stream = stream->stream();
  } else {
    context.parallelFor = parallelFor;
  }

  std::vector<at::Tensor> keep;
  std::vector<std::vector<void *>> sets(1);
  int64_t bytes = 0;
  auto add = [&](const OperandInfo &operand) {
    keep.push_back(numbersFor(operand, tokens, device));
    bytes += int64_t(keep.back().nbytes());
    return keep.back().data_ptr();
  };
  const std::vector<OperandInfo> &operands = kernel->meta().operands;
  for (const OperandInfo &operand : operands)
    sets[0].push_back(add(operand));
  while (sets.size() < 2 || (bytes < coldBytes && sets.size() < 1024)) {
    sets.push_back(sets[0]);
    for (size_t i = 0; i < operands.size(); ++i)
      if (operands[i].scope == OperandScope::Token)
        sets.back()[i] = add(operands[i]);
  }
  const at::Tensor workspace =
      at::empty({int64_t(kernel->workspaceBytes(tokens)) + 256}, at::device(device).dtype(at::kByte));
  void *const aligned = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(workspace.data_ptr()) + 255) / 256 * 256);

  const int launches = int(std::max<size_t>(sets.size(), stream ? 10 : 2));
  auto work = [&] {
    for (int i = 0; i < launches; ++i)
      kernel->launch(sets[size_t(i) % sets.size()], aligned, tokens, context);
  };
  Timing all;
  if (stream) {
    // A graph: short kernels wait for the one before, not for the host.
    synchronise(device);
    work();
    const std::function<void()> replay = stream->record(work);
    replay();
    stream->synchronise();
    std::vector<double> samples;
    for (int i = 0; i < repeats && !(interrupted() && i > 0); ++i)
      samples.push_back(stream->milliseconds(replay));
    all = summarise(std::move(samples));
  } else {
    all = timed(device, repeats, work);
  }
  const double scale = 1e3 / launches;
  const TrafficInfo &traffic = kernel->meta().traffic;
  return {spec,
          kernel->meta().schedule,
          {all.median * scale, all.min * scale, all.max * scale},
          double(traffic.readsU + traffic.writesU)};
}

/// Null on the CPU.
std::unique_ptr<cuda::Device> streamOf(at::Device device) {
  return device.is_cuda() ? std::make_unique<cuda::Device>(device.index()) : nullptr;
}

} // namespace

std::vector<AloneTiming>
timeAlone(const std::vector<KernelSpec> &kernels, const std::vector<Schedule> &schedules, int64_t tokens,
          at::Device device, const Target &target, int repeats,
          const std::function<void(const KernelSpec &, const Schedule &, const UserError &)> &refused) {
  torch::NoGradGuard noGradients;
  const std::unique_ptr<cuda::Device> stream = streamOf(device);
  std::vector<AloneTiming> all;
  for (const KernelSpec &kernel : kernels)
    for (const Schedule &schedule : schedules)
      try {
        if (!interrupted())
          all.push_back(timeKernel(kernel, schedule, tokens, device, stream.get(), target, repeats));
      } catch (const UserError &error) {
        if (schedule.isAuto())
          throw;
        refused(kernel, schedule, error);
      }
  return all;
}

AloneTiming timeDecode(const SiteSpec &given, int64_t tokens, at::Device device, const Target &target, int repeats) {
  torch::NoGradGuard noGradients;
  const SiteSpec site = ProgramSource::global().normalise(given);
  const std::unique_ptr<cuda::Device> stream = streamOf(device);
  return timeKernel(KernelSpec::boundaryForward(site, site, /*save=*/false, bucketOf(tokens)), {}, tokens, device,
                    stream.get(), target, repeats);
}

} // namespace hyperjit::tools
