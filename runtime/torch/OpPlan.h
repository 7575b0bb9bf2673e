// What one spec string means for an operator: the tensors that go in and come out, and the kernels that serve it.
// SPDX-License-Identifier: Apache-2.0
//
// A plan is made once per (role, spec) and lives as long as the process, so a call costs one hash of the spec, the
// checks and one look-up of a small integer. Nothing here needs the compiler: shapes come from the recorded site's
// signature.
#pragma once

#include <hyperjit/core/Kernel.h>
#include <hyperjit/core/KernelSpec.h>
#include <hyperjit/core/SiteSignature.h>
#include <hyperjit/core/Target.h>
#include <hyperjit/torch/Ops.h>

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/SmallVector.h>

#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hyperjit::ops {

/// One tensor of an operator: its sizes are the leading axes of x (if it belongs to a token) followed by `tail`.
struct Slot {
  std::string name; ///< for messages: "parameter 'static_alpha'"
  char group = 'x'; ///< letter of KernelSpec's given and want
  bool token = true;
  std::vector<int64_t> tail;
  at::ScalarType dtype = at::kFloat;

  template <typename Int> c10::SmallVector<Int, 6> sizes(c10::ArrayRef<Int> lead) const {
    c10::SmallVector<Int, 6> result;
    if (token)
      result.append(lead.begin(), lead.end());
    for (int64_t size : tail)
      result.push_back(Int(size));
    return result;
  }
};

/// A schema's `Tensor[]?`; none is an empty list.
using OptionalList = std::optional<at::TensorList>;
inline at::TensorList listOf(OptionalList list) { return list.value_or(at::TensorList()); }

/// The operands of one call, in operator order. `y` is null for before.
struct Operands {
  const at::Tensor &x;
  const at::Tensor *y;
  at::TensorList coefficients, parameters, carries;

  size_t size() const { return 1 + (y ? 1 : 0) + coefficients.size() + parameters.size() + carries.size(); }
  template <typename Visit> void visit(Visit &&visitor) const {
    visitor(x);
    if (y)
      visitor(*y);
    for (at::TensorList list : {coefficients, parameters, carries})
      for (const at::Tensor &tensor : list)
        visitor(tensor);
  }
};

class OpPlan {
public:
  /// Throws UserError for a spec that is none.
  static const OpPlan &get(Role role, std::string_view spec);

  Role role;
  std::string spec;      ///< as given
  c10::IValue specValue; ///< the same for what autograd keeps: shared, not copied for each node
  std::shared_ptr<const SiteProgram> after, before;
  std::vector<Slot> inputs;  ///< forward inputs
  std::vector<Slot> outputs; ///< forward outputs without `saved`
  std::optional<Slot> saved; ///< absent if backward needs nothing more than the inputs
  size_t coefficientCount = 0, parameterCount = 0, carryCount = 0; ///< of the inputs

  /// Leading axes of x: all but [n, D].
  template <typename Int> static c10::ArrayRef<Int> lead(c10::ArrayRef<Int> sizes) {
    return sizes.slice(0, sizes.size() - 2);
  }

  /// Counts, shapes, dtypes, devices, layouts. Throws c10::Error that names the operand.
  void check(const Operands &operands) const;
  /// What a backward call adds.
  void checkBackward(const Operands &operands, const std::optional<at::Tensor> &saved, at::TensorList cotangents,
                     std::string_view given, std::string_view want) const;

  /// The kernel for a call, made when first asked for. `device` is -1 for the CPU.
  const Kernel &forward(bool save, int64_t tokens, int device) const;
  const Kernel &backward(std::string_view given, std::string_view want, int64_t tokens, int device) const;

private:
  OpPlan(Role role, std::string_view spec);
  void checkTensor(const at::Tensor &tensor, const Slot &slot, const at::Tensor &x, bool cotangent = false) const;
  /// The compiler sees the program, callers allocate by its signature: throws InternalError where a kernel's operands
  /// are others.
  void checkKernel(const Kernel &kernel, uint32_t key) const;
  const Kernel &kernel(uint32_t key, int device, KernelSpec (*make)(const OpPlan &, uint32_t)) const;

  const char *opName;
  mutable std::shared_mutex mutex;
  mutable std::unordered_map<uint32_t, std::shared_ptr<const Kernel>> kernels;
};

/// The dtype in which streams like x are summed.
inline at::ScalarType computeOf(const at::Tensor &x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Letters of `all` whose bit is set / bits of the letters in `text`. Throws c10::Error for letters outside `all`.
std::string lettersOf(uint32_t bits, std::string_view all);
uint32_t bitsOf(std::string_view text, std::string_view all, const char *op, const char *argument);

inline constexpr std::string_view kGivenLetters = "xuck", kWantLetters = "xycpk";

} // namespace hyperjit::ops
