// Plans: spec text to slots and kernels.
// SPDX-License-Identifier: Apache-2.0

#include "OpPlan.h"

#include "Devices.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/ProgramSource.h>

#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <numeric>

namespace hyperjit::ops {
namespace {

const char *operatorName(Role role) {
  switch (role) {
  case Role::Before:
    return "hyperjit::before";
  case Role::Boundary:
    return "hyperjit::boundary";
  case Role::After:
    return "hyperjit::after";
  }
  return "hyperjit";
}

/// What crosses a site's hole, as inputs of its after part or outputs of its before part.
void addCrossing(std::vector<Slot> &slots, const SiteSignature &signature, at::ScalarType type) {
  if (signature.tokenCoefficients > 0)
    slots.push_back({"coefficients of a token", 'c', true, {signature.tokenCoefficients}, type});
  if (signature.uniformCoefficients > 0)
    slots.push_back({"coefficients of the call", 'c', false, {signature.uniformCoefficients}, type});
  if (signature.channelRows > 0)
    slots.push_back({"channel vectors", 'c', false, {signature.channelRows, signature.rowWidth}, type});
}

std::string describe(const Slot &slot) {
  std::string text = std::string(c10::toString(slot.dtype)) + " [";
  if (slot.token)
    text += slot.tail.empty() ? "..." : "..., ";
  for (size_t i = 0; i < slot.tail.size(); ++i)
    text += (i ? ", " : "") + std::to_string(slot.tail[i]);
  return text + "]";
}

std::string describe(const at::Tensor &tensor) {
  if (!tensor.defined())
    return "undefined";
  return c10::str(tensor.scalar_type(), " ", tensor.sym_sizes(), " on ", tensor.device(),
                  tensor.layout() == at::kStrided ? "" : c10::str(", layout ", tensor.layout()));
}

struct Registry {
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::shared_mutex mutex;
  std::unordered_map<std::string, std::unique_ptr<OpPlan>, Hash, std::equal_to<>> plans[3];
};

Registry &registry() {
  static Registry *instance = new Registry; // kernels may be used by threads that outlive static destruction
  return *instance;
}

} // namespace

at::ScalarType scalarType(DType type) {
  switch (type) {
  case DType::BFloat16:
    return at::kBFloat16;
  case DType::Float16:
    return at::kHalf;
  case DType::Float32:
    return at::kFloat;
  case DType::Float64:
    return at::kDouble;
  }
  return at::kFloat;
}

std::string lettersOf(uint32_t bits, std::string_view all) {
  std::string text;
  for (size_t i = 0; i < all.size(); ++i)
    if (bits >> i & 1)
      text += all[i];
  return text;
}

uint32_t bitsOf(std::string_view text, std::string_view all, const char *op, const char *argument) {
  uint32_t bits = 0;
  size_t last = 0;
  for (char letter : text) {
    size_t index = all.find(letter, last);
    TORCH_CHECK(index != std::string_view::npos, op, "_backward: ", argument, " is '", text, "'; a subset of \"", all,
                "\" in this order is supported");
    bits |= 1u << index;
    last = index + 1;
  }
  return bits;
}

const OpPlan &OpPlan::get(Role role, std::string_view spec) {
  Registry &all = registry();
  auto &plans = all.plans[static_cast<size_t>(role)];
  {
    std::shared_lock lock(all.mutex);
    if (auto found = plans.find(spec); found != plans.end())
      return *found->second;
  }
  std::unique_ptr<OpPlan> made(new OpPlan(role, spec)); // records the site: not under the lock
  std::unique_lock lock(all.mutex);
  return *plans.try_emplace(std::string(spec), std::move(made)).first->second;
}

OpPlan::OpPlan(Role role, std::string_view text) : role(role), spec(text), specValue(spec), opName(operatorName(role)) {
  std::string_view first = text, second = text;
  size_t bar = text.find('|');
  if (role == Role::Boundary) {
    if (bar == std::string_view::npos)
      throw UserError(ErrorId::InvalidSpec,
                      std::string(opName) + ": spec '" + spec +
                          "' names one site; a boundary takes two, 'SITE|SITE': the site whose branch "
                          "has returned, then the one whose branch comes next");
    first = text.substr(0, bar);
    second = text.substr(bar + 1);
  } else if (bar != std::string_view::npos)
    throw UserError(ErrorId::InvalidSpec,
                    std::string(opName) + ": spec '" + spec + "' names two sites; this operator takes one");
  ProgramSource &programs = ProgramSource::global();
  if (role != Role::Before)
    after = programs.site(SiteSpec::parse(first));
  if (role != Role::After)
    before = programs.site(SiteSpec::parse(second));
  if (after && before)
    KernelSpec::boundaryForward(after->spec, before->spec, true, Bucket::Large).validate();

  const SiteSpec &any = after ? after->spec : before->spec;
  const at::ScalarType stream = scalarType(any.stream), compute = scalarType(computeType(any.stream));
  const Slot streams{"x", 'x', true, {any.n, any.d}, stream};
  inputs.push_back(streams);
  if (after) {
    inputs.push_back({"y", 'y', true, {any.d}, scalarType(after->spec.branchOut)});
    addCrossing(inputs, after->signature, compute);
    coefficientCount = inputs.size() - 2;
    outputs.push_back(streams);
  }
  if (before) {
    for (const ParameterInfo &parameter : before->parameters)
      inputs.push_back(
          {"parameter '" + parameter.name + "'", 'p', false, parameter.shape, scalarType(parameter.dtype)});
    parameterCount = before->parameters.size();
    const SiteSignature &signature = before->signature;
    for (const CarryInfo &carry : signature.carriesIn)
      inputs.push_back({"carry '" + carry.name + "'", 'k', true, {carry.size}, compute});
    carryCount = signature.carriesIn.size();
    Slot u{"u", 'u', true, {before->spec.d}, scalarType(before->spec.branchIn)};
    if (signature.branchInputs() != 1)
      u.tail.insert(u.tail.begin(), signature.branchInputs());
    outputs.push_back(std::move(u));
    addCrossing(outputs, signature, compute);
    for (const CarryInfo &carry : signature.carriesOut)
      outputs.push_back({"carry '" + carry.name + "'", 'k', true, {carry.size}, compute});
    if (signature.saved > 0)
      saved = Slot{"saved", 's', true, {signature.saved}, compute};
  }
}

void OpPlan::checkTensor(const at::Tensor &tensor, const Slot &slot, const at::Tensor &x, bool cotangent) const {
  auto fits = [&] {
    if (!tensor.defined() || tensor.scalar_type() != slot.dtype || tensor.layout() != at::kStrided ||
        tensor.device() != x.device())
      return false;
    const auto sizes = tensor.sym_sizes(), leading = x.sym_sizes();
    const size_t leads = slot.token ? leading.size() - 2 : 0;
    if (sizes.size() != leads + slot.tail.size())
      return false;
    for (size_t i = 0; i < leads; ++i)
      if (sizes[i] != leading[i])
        return false;
    for (size_t i = 0; i < slot.tail.size(); ++i)
      if (sizes[leads + i] != slot.tail[i])
        return false;
    return true;
  };
  if (C10_LIKELY(fits()))
    return;
  const std::string op = c10::str(opName, cotangent ? "_backward" : ""),
                    name = c10::str(cotangent ? "the cotangent of " : "", slot.name);
  TORCH_CHECK(tensor.defined(), op, ": ", name, " is undefined; ", describe(slot), " is supported by ", spec);
  TORCH_CHECK(tensor.layout() == at::kStrided, op, ": ", name, " has layout ", tensor.layout(),
              "; only strided tensors are supported, call to_dense()");
  TORCH_CHECK(tensor.device() == x.device(), op, ": ", name, " is on ", tensor.device(), ", x is on ", x.device(),
              "; all operands must be on one device");
  const char *key = slot.group == 'p'   ? "weight"
                    : slot.group == 'y' ? "branch_out"
                    : slot.group == 'u' ? "branch_in"
                                        : "";
  TORCH_CHECK(tensor.scalar_type() == slot.dtype, op, ": ", name, " is ", tensor.scalar_type(), "; ", spec, " takes ",
              slot.dtype, " here: convert it",
              *key ? c10::str(", or name its dtype in the spec, as ", key, "=... (bf16, fp16, fp32, fp64)")
                   : std::string());
  TORCH_CHECK(false, op, ": ", name, " is ", describe(tensor), "; ", spec, " takes ", describe(slot),
              slot.token ? c10::str(" where ... are the leading sizes of x ", x.sym_sizes()) : std::string());
}

void OpPlan::check(const Operands &operands) const {
  const SiteSpec &any = after ? after->spec : before->spec;
  const at::Tensor &x = operands.x;
  TORCH_CHECK(x.defined(), opName, ": x is undefined; streams ", describe(inputs[0]), " are supported by ", spec);
  TORCH_CHECK(x.layout() == at::kStrided, opName, ": x has layout ", x.layout(),
              "; only strided tensors are supported, call to_dense()");
  TORCH_CHECK(x.scalar_type() == inputs[0].dtype, opName, ": x is ", x.scalar_type(), "; ", spec, " takes ",
              inputs[0].dtype,
              " here: convert it, or name its dtype in the spec, as dtype=... (bf16, fp16, fp32, fp64)");
  TORCH_CHECK(x.dim() >= 2, opName, ": x has rank ", x.dim(), ", sizes ", x.sym_sizes(),
              "; streams are [..., n=", any.n, ", D=", any.d, "], which expand (ExpandStreams) makes of [..., D]");
  const auto sizes = x.sym_sizes();
  TORCH_CHECK(sizes[sizes.size() - 2] == any.n, opName, ": x has ", sizes[sizes.size() - 2], " streams, sizes ", sizes,
              "; ", spec, " has n=", any.n,
              ", the axis before the last; expand (ExpandStreams) makes streams [..., n, D] of [..., D]");
  TORCH_CHECK(sizes[sizes.size() - 1] == any.d, opName, ": x has ", sizes[sizes.size() - 1], " channels, sizes ", sizes,
              "; ", spec, " has D=", any.d, ", the last axis");
  TORCH_CHECK(operands.coefficients.size() == coefficientCount, opName, ": ", operands.coefficients.size(),
              " coefficient tensors are given; ", after ? after->spec.text() : spec, " passes ", coefficientCount);
  TORCH_CHECK(operands.parameters.size() == parameterCount, opName, ": ", operands.parameters.size(),
              " parameters are given; ", before ? before->spec.text() : spec, " has ", parameterCount);
  if (operands.carries.size() != carryCount) {
    std::string taken;
    for (const Slot &slot : inputs)
      if (slot.group == 'k')
        taken += c10::str(taken.empty() ? ": " : ", ", slot.name, " ", describe(slot));
    TORCH_CHECK(false, opName, ": ", operands.carries.size(), " carries are given; ",
                before ? before->spec.text() : spec, " takes ", carryCount, taken);
  }
  size_t index = 0;
  operands.visit([&](const at::Tensor &tensor) {
    if (index)
      checkTensor(tensor, inputs[index], x);
    ++index;
  });
}

void OpPlan::checkBackward(const Operands &operands, const std::optional<at::Tensor> &savedTensor,
                           at::TensorList cotangents, std::string_view given, std::string_view want) const {
  check(operands);
  TORCH_CHECK(!given.empty() && !want.empty(), opName, "_backward: given '", given, "' and want '", want,
              "' must each name at least one tensor");
  bitsOf(given, kGivenLetters, opName, "given");
  bitsOf(want, kWantLetters, opName, "want");
  auto has = [](const std::vector<Slot> &slots, char letter) {
    return std::any_of(slots.begin(), slots.end(), [&](const Slot &slot) { return slot.group == letter; });
  };
  for (char letter : given)
    TORCH_CHECK(has(outputs, letter) || (letter == 'x' && role == Role::Before), opName, "_backward: given '", given,
                "' names '", letter, "', and ", spec, " makes nothing of that kind");
  for (char letter : want)
    TORCH_CHECK(has(inputs, letter), opName, "_backward: want '", want, "' names '", letter, "', and ", spec,
                " takes nothing of that kind");
  TORCH_CHECK(!saved || savedTensor.has_value(), opName,
              "_backward: saved is missing; run the forward operator with save = true");
  if (saved)
    checkTensor(*savedTensor, *saved, operands.x);
  size_t index = 0;
  auto checkNext = [&](const Slot &slot) {
    if (given.find(slot.group) == std::string_view::npos)
      return;
    TORCH_CHECK(index < cotangents.size(), opName, "_backward: ", cotangents.size(), " cotangents are given; given '",
                given, "' of ", spec, " names more, the next is that of ", slot.name);
    checkTensor(cotangents[index++], slot, operands.x, /*cotangent=*/true);
  };
  if (role == Role::Before) // the streams that it hands on
    checkNext(inputs[0]);
  for (const Slot &slot : outputs)
    checkNext(slot);
  TORCH_CHECK(index == cotangents.size(), opName, "_backward: ", cotangents.size(), " cotangents are given; given '",
              given, "' of ", spec, " names ", index);
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

const Kernel &OpPlan::kernel(uint32_t key, int device, KernelSpec (*make)(const OpPlan &, uint32_t)) const {
  key |= static_cast<uint32_t>(device + 1) << 16;
  {
    std::shared_lock lock(mutex);
    if (auto found = kernels.find(key); found != kernels.end())
      return *found->second;
  }
  std::shared_ptr<const Kernel> made = resolveKernel(make(*this, key), device); // may compile: not under the lock
  checkKernel(*made, key);
  std::unique_lock lock(mutex);
  return *kernels.try_emplace(key, std::move(made)).first->second; // never erased, so the reference stays good
}

// Key bits: 0 backward, 1 save, 2 small, 4-7 given, 8-12 want, 16- device + 1.
void OpPlan::checkKernel(const Kernel &kernel, uint32_t key) const {
  std::vector<const Slot *> slots;
  auto add = [&](const std::vector<Slot> &list, std::string_view groups) {
    for (const Slot &slot : list)
      if (groups.find(slot.group) != std::string_view::npos)
        slots.push_back(&slot);
  };
  constexpr std::string_view all = "xyucpk";
  const bool backward = key & 1;
  add(inputs, all);
  if (!backward)
    add(outputs, all);
  if (saved && (backward || key & 2))
    slots.push_back(&*saved);
  if (backward) {
    const std::string given = lettersOf(key >> 4 & 15, kGivenLetters);
    if (role == Role::Before && given.find('x') != std::string::npos)
      slots.push_back(&inputs[0]);
    add(outputs, given);
    add(inputs, lettersOf(key >> 8 & 31, kWantLetters));
  }
  const ArtifactMeta &meta = kernel.meta();
  bool same = slots.size() == meta.operands.size();
  for (size_t i = 0; same && i < slots.size(); ++i) {
    const int64_t elements =
        std::accumulate(slots[i]->tail.begin(), slots[i]->tail.end(), int64_t(1), std::multiplies<>());
    const OperandInfo &operand = meta.operands[i];
    same = operand.elements == elements && (operand.scope == OperandScope::Token) == slots[i]->token &&
           scalarType(operand.dtype) == slots[i]->dtype;
    if (!same)
      throw InternalError("operand '" + operand.name + "' of a kernel has " + std::to_string(operand.elements) +
                              " numbers " + (operand.scope == OperandScope::Token ? "a token" : "in all") +
                              ", and its callers hold " + describe(*slots[i]),
                          meta.spec);
  }
  if (!same)
    throw InternalError("a kernel has " + std::to_string(meta.operands.size()) + " operands, and its callers hold " +
                            std::to_string(slots.size()),
                        meta.spec);
}

const Kernel &OpPlan::forward(bool save, int64_t tokens, int device) const {
  const bool small = bucketOf(tokens) == Bucket::Small;
  save = save && saved.has_value(); // without saved numbers both kernels would be the same
  return kernel((save ? 2u : 0u) | (small ? 4u : 0u), device, [](const OpPlan &plan, uint32_t key) {
    const bool save = key & 2;
    const Bucket bucket = key & 4 ? Bucket::Small : Bucket::Large;
    switch (plan.role) {
    case Role::Before:
      return KernelSpec::beforeForward(plan.before->spec, save, bucket);
    case Role::Boundary:
      return KernelSpec::boundaryForward(plan.after->spec, plan.before->spec, save, bucket);
    case Role::After:
      break;
    }
    return KernelSpec::afterForward(plan.after->spec, bucket);
  });
}

const Kernel &OpPlan::backward(std::string_view given, std::string_view want, int64_t tokens, int device) const {
  const bool small = bucketOf(tokens) == Bucket::Small;
  const uint32_t givenBits = bitsOf(given, kGivenLetters, opName, "given"),
                 wantBits = bitsOf(want, kWantLetters, opName, "want");
  return kernel(1u | (small ? 4u : 0u) | givenBits << 4 | wantBits << 8, device, [](const OpPlan &plan, uint32_t key) {
    auto site = [](const std::shared_ptr<const SiteProgram> &program) {
      return program ? std::optional<SiteSpec>(program->spec) : std::nullopt;
    };
    return KernelSpec::backward(site(plan.after), site(plan.before), lettersOf(key >> 4 & 15, kGivenLetters),
                                lettersOf(key >> 8 & 31, kWantLetters), key & 4 ? Bucket::Small : Bucket::Large);
  });
}

} // namespace hyperjit::ops
