// The kernels behind the CPU and CUDA keys: check, allocate, collect pointers, launch. No host synchronisation.
// SPDX-License-Identifier: Apache-2.0

#include "Devices.h"
#include "LargeBlocks.h"
#include "OpPlan.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceGuard.h>

namespace hyperjit::ops {
namespace {

int deviceOf(const at::Tensor &x) { return x.is_cuda() ? static_cast<int>(x.get_device()) : -1; }

int64_t tokensOf(const at::Tensor &x) {
  int64_t tokens = 1;
  for (int64_t size : OpPlan::lead(x.sizes()))
    tokens *= size;
  return tokens;
}

/// The hooks know the allocator that at::empty takes, a pluggable one, too.
at::Allocator &allocatorOf(const at::Tensor &x) {
  return x.is_cpu() ? allocatorOnCpu() : *at::detail::getCUDAHooks().getCUDADeviceAllocator();
}

/// On the current device. Not at::empty and its way through the dispatcher: of few tokens, making results is a quarter
/// of the host's time.
at::Tensor empty(at::IntArrayRef sizes, const at::Tensor &x, at::ScalarType dtype) {
  if (x.is_cpu())
    return emptyOnCpu(sizes, dtype);
  return at::Tensor(at::detail::empty_generic(sizes, &allocatorOf(x), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                              dtype, std::nullopt));
}

/// The pointer table of one launch. Kernels read contiguous memory in vectors of 16 bytes, so an operand that is not
/// contiguous, or starts elsewhere in its storage, is copied first and kept here until the launch is queued.
class PointerTable {
public:
  void input(const at::Tensor &tensor) {
    constexpr uintptr_t kAlignment = 16;
    if (C10_LIKELY(tensor.is_contiguous() && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAlignment == 0)) {
      pointers.push_back(const_cast<void *>(tensor.const_data_ptr()));
      return;
    }
    copies.push_back(tensor.clone(at::MemoryFormat::Contiguous));
    pointers.push_back(copies.back().data_ptr());
  }
  void output(const at::Tensor &tensor) { pointers.push_back(tensor.data_ptr()); }

  void launch(const Kernel &kernel, int64_t tokens, const at::Tensor &x, int device) {
    const size_t bytes = kernel.workspaceBytes(tokens);
    at::DataPtr workspace; // of torch's allocator: freed in stream order, known to graphs
    if (bytes)
      workspace = allocatorOf(x).allocate(bytes);
    kernel.launch({pointers.data(), pointers.size()}, workspace.get(), tokens,
                  device < 0 ? cpuContext() : cudaContext(device));
  }

private:
  c10::SmallVector<void *, 32> pointers;
  c10::SmallVector<at::Tensor, 4> copies;
};

/// Without tokens, what belongs to them is empty and what is summed over them is zero. That is all, but for sites that
/// hand on numbers of their parameters alone.
bool handsOnParameters(const OpPlan &plan) {
  return std::any_of(plan.outputs.begin(), plan.outputs.end(), [](const Slot &slot) { return !slot.token; });
}

at::Tensor allocate(const Slot &slot, const at::Tensor &x, int64_t tokens) {
  const auto sizes = slot.sizes<int64_t>(OpPlan::lead(x.sizes()));
  if (tokens == 0 && !slot.token)
    return at::zeros(sizes, x.options().dtype(slot.dtype).requires_grad(false));
  return empty(sizes, x, slot.dtype);
}

template <typename List = std::vector<at::Tensor>>
List runForward(const OpPlan &plan, const Operands &operands, bool save) {
  plan.check(operands);
  const at::Tensor &x = operands.x;
  const c10::OptionalDeviceGuard guard(x.is_cuda() ? std::optional<at::Device>(x.device()) : std::nullopt);
  const int device = deviceOf(x);
  const int64_t tokens = tokensOf(x);
  save = save && plan.saved;
  List outputs;
  outputs.reserve(plan.outputs.size() + (save ? 1 : 0));
  for (const Slot &slot : plan.outputs)
    outputs.push_back(allocate(slot, x, tokens));
  if (save)
    outputs.push_back(allocate(*plan.saved, x, tokens));
  if (tokens == 0 && !handsOnParameters(plan))
    return outputs;
  const Kernel &kernel = plan.forward(save, tokens, device);
  PointerTable table;
  operands.visit([&](const at::Tensor &tensor) { table.input(tensor); });
  for (const at::Tensor &tensor : outputs)
    table.output(tensor);
  table.launch(kernel, tokens, x, device);
  return outputs;
}

std::vector<at::Tensor> runBackward(const OpPlan &plan, const Operands &operands,
                                    const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                    std::string_view given, std::string_view want) {
  plan.checkBackward(operands, saved, cotangents, given, want);
  const at::Tensor &x = operands.x;
  const c10::OptionalDeviceGuard guard(x.is_cuda() ? std::optional<at::Device>(x.device()) : std::nullopt);
  const int device = deviceOf(x);
  const int64_t tokens = tokensOf(x);
  std::vector<at::Tensor> gradients;
  gradients.reserve(plan.inputs.size());
  for (const Slot &slot : plan.inputs)
    if (want.find(slot.group) != std::string_view::npos)
      gradients.push_back(allocate(slot, x, tokens));
  if (tokens == 0 && !(handsOnParameters(plan) && given.find('c') != given.npos))
    return gradients;
  const Kernel &kernel = plan.backward(given, want, tokens, device);
  PointerTable table;
  operands.visit([&](const at::Tensor &tensor) { table.input(tensor); });
  if (plan.saved)
    table.input(*saved);
  for (const at::Tensor &tensor : cotangents)
    table.input(tensor);
  for (const at::Tensor &tensor : gradients)
    table.output(tensor);
  table.launch(kernel, tokens, x, device);
  return gradients;
}

} // namespace

std::shared_ptr<const Kernel> resolveKernel(const KernelSpec &spec, int device) {
  KernelManager &manager = KernelManager::global();
  if (device < 0) {
    static const Target host = Target::hostLevel();
    return manager.get(spec, host);
  }
  const Target &target = cudaTarget(device);
  if (cudaIsCapturing(device)) {
    if (auto kernel = manager.peek(spec, target))
      return kernel;
    throw UserError(ErrorId::NotPrepared, "kernel " + spec.text() + " for " + target.text() +
                                              " is not loaded and a CUDA graph is being captured; run one warm-up step "
                                              "before the capture, or call hyperjit::prepare()");
  }
  return manager.get(spec, target);
}

std::vector<at::Tensor> beforeKernel(const at::Tensor &x, at::TensorList parameters, OptionalList carries,
                                     std::string_view spec, bool save) {
  return runForward(OpPlan::get(Role::Before, spec), {x, nullptr, {}, parameters, listOf(carries)}, save);
}

std::vector<at::Tensor> boundaryKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                       at::TensorList parameters, OptionalList carries, std::string_view spec,
                                       bool save) {
  return runForward(OpPlan::get(Role::Boundary, spec), {x, &y, coefficients, parameters, listOf(carries)}, save);
}

at::Tensor afterKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients, std::string_view spec) {
  using One = c10::SmallVector<at::Tensor, 1>; // a list on the heap is for operators that return one
  return std::move(runForward<One>(OpPlan::get(Role::After, spec), {x, &y, coefficients, {}, {}}, false)[0]);
}

std::vector<at::Tensor> beforeBackwardKernel(const at::Tensor &x, at::TensorList parameters, at::TensorList carries,
                                             const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                             std::string_view spec, std::string_view given, std::string_view want) {
  return runBackward(OpPlan::get(Role::Before, spec), {x, nullptr, {}, parameters, carries}, saved, cotangents, given,
                     want);
}

std::vector<at::Tensor> boundaryBackwardKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                               at::TensorList parameters, at::TensorList carries,
                                               const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                                               std::string_view spec, std::string_view given, std::string_view want) {
  return runBackward(OpPlan::get(Role::Boundary, spec), {x, &y, coefficients, parameters, carries}, saved, cotangents,
                     given, want);
}

std::vector<at::Tensor> afterBackwardKernel(const at::Tensor &x, const at::Tensor &y, at::TensorList coefficients,
                                            const at::Tensor &cotangent, std::string_view spec, std::string_view want) {
  return runBackward(OpPlan::get(Role::After, spec), {x, &y, coefficients, {}, {}}, std::nullopt, cotangent, "x", want);
}

//===----------------------------------------------------------------------===//
// Expand and reduce: once a model, so ATen's own kernels serve.
//===----------------------------------------------------------------------===//

void checkExpand(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams) {
  TORCH_CHECK(streams >= 1, "hyperjit::expand: streams is ", streams, "; 1 or more are supported");
  TORCH_CHECK(h.defined() && h.layout() == at::kStrided && h.is_floating_point(), "hyperjit::expand: h is ",
              h.defined() ? c10::str(h.scalar_type(), ", layout ", h.layout()) : "undefined",
              "; a strided floating-point tensor [..., D] is supported");
  TORCH_CHECK(h.dim() >= 1, "hyperjit::expand: h has rank 0; [..., D] is supported");
  TORCH_CHECK(h.sym_size(-1).maybe_as_int() != 0, "hyperjit::expand: h has sizes ", h.sym_sizes(),
              "; D of 1 and more is supported");
  if (embedding.has_value()) {
    const auto sizes = embedding->sym_sizes();
    TORCH_CHECK(sizes.size() == 2 && sizes[0] == streams && sizes[1] == h.sym_size(-1),
                "hyperjit::expand: embedding is ", sizes, "; [streams=", streams, ", D=", h.sym_size(-1),
                "] is supported");
    TORCH_CHECK(embedding->layout() == at::kStrided, "hyperjit::expand: embedding has layout ", embedding->layout(),
                "; a strided tensor is supported");
    TORCH_CHECK(embedding->device() == h.device(), "hyperjit::expand: embedding is on ", embedding->device(),
                ", h is on ", h.device(), "; all operands must be on one device");
    TORCH_CHECK(embedding->scalar_type() == h.scalar_type() || embedding->scalar_type() == at::kFloat,
                "hyperjit::expand: embedding is ", embedding->scalar_type(), "; ",
                h.scalar_type() == at::kFloat ? "Float, the dtype of h,"
                                              : c10::str("the dtype of h, ", h.scalar_type(), ", or Float"),
                " is supported");
  }
}

void checkReduce(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode) {
  TORCH_CHECK(mode == "sum" || mode == "mean" || mode == "weighted", "hyperjit::reduce: mode is '", mode,
              "'; sum, mean and weighted are supported");
  TORCH_CHECK(x.defined() && x.layout() == at::kStrided && x.is_floating_point(), "hyperjit::reduce: x is ",
              x.defined() ? c10::str(x.scalar_type(), ", layout ", x.layout()) : "undefined",
              "; a strided floating-point tensor [..., n, D] is supported");
  TORCH_CHECK(x.dim() >= 2, "hyperjit::reduce: x has rank ", x.dim(), "; [..., n, D] is supported");
  TORCH_CHECK(x.sym_size(-2).maybe_as_int() != 0, "hyperjit::reduce: x has sizes ", x.sym_sizes(),
              "; n of 1 and more is supported");
  TORCH_CHECK((mode == "weighted") == weights.has_value(), "hyperjit::reduce: mode ", mode,
              weights.has_value() ? " takes no weights" : " needs weights [..., n]");
  if (weights.has_value()) {
    const auto expected = x.sym_sizes().slice(0, x.dim() - 1);
    TORCH_CHECK(weights->sym_sizes() == expected, "hyperjit::reduce: weights are ", weights->sym_sizes(), "; ",
                expected, ", the sizes of x without its last, are supported");
    TORCH_CHECK(weights->layout() == at::kStrided, "hyperjit::reduce: weights have layout ", weights->layout(),
                "; a strided tensor is supported");
    TORCH_CHECK(weights->device() == x.device() && weights->is_floating_point(), "hyperjit::reduce: weights are ",
                weights->scalar_type(), " on ", weights->device(), "; a floating-point tensor on ", x.device(),
                " is supported");
  }
}

namespace {

void checkCotangent(const at::Tensor &cotangent, int64_t rank, const char *op, const char *shape) {
  TORCH_CHECK(cotangent.defined() && cotangent.layout() == at::kStrided && cotangent.is_floating_point(), op,
              ": cotangent is ",
              cotangent.defined() ? c10::str(cotangent.scalar_type(), ", layout ", cotangent.layout()) : "undefined",
              "; a strided floating-point tensor ", shape, " is supported");
  TORCH_CHECK(cotangent.dim() >= rank, op, ": cotangent has rank ", cotangent.dim(), "; ", shape, " is supported");
}

} // namespace

void checkExpandBackward(const at::Tensor &cotangent) {
  checkCotangent(cotangent, 2, "hyperjit::expand_backward", "[..., n, D]");
}

void checkReduceBackward(const at::Tensor &cotangent, const std::optional<at::Tensor> &x,
                         const std::optional<at::Tensor> &weights, int64_t streams, std::string_view mode) {
  checkCotangent(cotangent, 1, "hyperjit::reduce_backward", "[..., D]");
  TORCH_CHECK(streams >= 1, "hyperjit::reduce_backward: streams is ", streams, "; 1 or more are supported");
  c10::SymDimVector sizes(cotangent.sym_sizes().begin(), cotangent.sym_sizes().end());
  sizes.insert(sizes.end() - 1, c10::SymInt(streams));
  if (mode == "weighted") {
    TORCH_CHECK(x.has_value() && weights.has_value(), "hyperjit::reduce_backward: mode weighted needs x and weights");
    TORCH_CHECK(x->sym_sizes() == c10::SymIntArrayRef(sizes), "hyperjit::reduce_backward: x has sizes ", x->sym_sizes(),
                "; ", c10::SymIntArrayRef(sizes), ", those of cotangent and streams, are supported");
    checkReduce(*x, weights, mode);
    TORCH_CHECK(x->device() == cotangent.device(), "hyperjit::reduce_backward: x is on ", x->device(),
                ", cotangent is on ", cotangent.device(), "; all operands must be on one device");
    return;
  }
  TORCH_CHECK(mode == "sum" || mode == "mean", "hyperjit::reduce_backward: mode is '", mode,
              "'; sum, mean and weighted are supported");
  TORCH_CHECK(!weights.has_value(), "hyperjit::reduce_backward: mode ", mode, " takes no weights");
}

at::Tensor expandKernel(const at::Tensor &h, const std::optional<at::Tensor> &embedding, int64_t streams) {
  checkExpand(h, embedding, streams);
  std::vector<int64_t> sizes(h.sizes().begin(), h.sizes().end());
  sizes.insert(sizes.end() - 1, streams);
  at::Tensor row = h.unsqueeze(-2);
  if (!embedding.has_value())
    return row.expand(sizes).clone(at::MemoryFormat::Contiguous);
  const auto compute = computeOf(h);
  return (row.to(compute) + embedding->to(compute))
      .to(h.scalar_type())
      .contiguous(); // a sum has the strides of its operands
}

std::tuple<at::Tensor, at::Tensor> expandBackwardKernel(const at::Tensor &cotangent, bool embedding) {
  checkExpandBackward(cotangent);
  const auto compute = computeOf(cotangent);
  at::Tensor dh = at::sum(cotangent, {-2}, false, compute).to(cotangent.scalar_type());
  at::Tensor dEmbedding =
      embedding ? at::sum(cotangent.reshape({-1, cotangent.size(-2), cotangent.size(-1)}), {0}, false, compute)
                : at::empty({0}, cotangent.options().dtype(compute));
  return {dh, dEmbedding};
}

at::Tensor reduceKernel(const at::Tensor &x, const std::optional<at::Tensor> &weights, std::string_view mode) {
  checkReduce(x, weights, mode);
  const auto compute = computeOf(x);
  if (mode == "weighted")
    return at::sum(x.to(compute) * weights->to(compute).unsqueeze(-1), {-2}).to(x.scalar_type());
  at::Tensor total = at::sum(x, {-2}, false, compute);
  if (mode == "mean")
    total.div_(static_cast<double>(x.size(-2)));
  return total.to(x.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> reduceBackwardKernel(const at::Tensor &cotangent, const std::optional<at::Tensor> &x,
                                                        const std::optional<at::Tensor> &weights, int64_t streams,
                                                        std::string_view mode) {
  checkReduceBackward(cotangent, x, weights, streams, mode);
  const auto compute = computeOf(cotangent);
  at::Tensor row = cotangent.unsqueeze(-2);
  if (mode == "weighted") {
    at::Tensor wide = row.to(compute);
    at::Tensor dWeights = at::sum(x->to(compute) * wide, {-1}).to(weights->scalar_type());
    return {(wide * weights->to(compute).unsqueeze(-1)).to(cotangent.scalar_type()).contiguous(),
            dWeights.contiguous()};
  }
  std::vector<int64_t> sizes(cotangent.sizes().begin(), cotangent.sizes().end());
  sizes.insert(sizes.end() - 1, streams);
  if (mode == "mean")
    row = (row.to(compute) / static_cast<double>(streams)).to(cotangent.scalar_type());
  return {row.expand(sizes).clone(at::MemoryFormat::Contiguous), at::empty({0}, cotangent.options().dtype(compute))};
}

} // namespace hyperjit::ops
