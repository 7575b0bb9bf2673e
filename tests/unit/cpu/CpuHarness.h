// CpuHarness.h - runs a kernel of the CPU back end on numbers in fp64, through the runtime as its users do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hyperjit/core/Kernel.h"
#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/ProgramSource.h"
#include "hyperjit/core/Target.h"

#include <random>
#include <string>
#include <vector>

namespace hyperjit::test {

using Numbers = std::vector<double>;

/// A kernel of the native target, or of a named one. Operands are surrounded by numbers that would be missed: what is
/// read outside of an operand is NaN, what is written there fails the test.
class Runner {
public:
  explicit Runner(const KernelSpec &spec, const std::string &target = "native", const std::string &schedule = "auto");

  const ArtifactMeta &meta() const { return kernel->meta(); }
  std::vector<OperandInfo> inputs() const { return some(false); }
  std::vector<OperandInfo> outputs() const { return some(true); }
  /// Values are rounded to the operand's dtype. `threads` calls run beside one another. Operands begin `shift` bytes
  /// behind a multiple of 64.
  std::vector<Numbers> run(const std::vector<Numbers> &inputs, int64_t tokens, int threads = 1,
                           int64_t shift = 0) const;

private:
  std::vector<OperandInfo> some(bool output) const;
  std::shared_ptr<const Kernel> kernel;
};

int64_t count(const OperandInfo &operand, int64_t tokens);
double roundTo(double value, DType type);

/// Inputs of a kernel's forward: normal numbers, weights small enough that projections are about 1.
std::vector<Numbers> randomInputs(const std::vector<OperandInfo> &operands, int64_t tokens, std::mt19937 &random);
Numbers randomNumbers(int64_t count, std::mt19937 &random, double deviation = 1);

/// A site and everything that a test of it asks for.
struct Site {
  SiteSpec spec;
  std::shared_ptr<const SiteProgram> program;
  explicit Site(const std::string &text);
  const SiteSignature &signature() const { return program->signature; }
};

/// Every recipe at n, m (where it has fracs) and D, and once more for each value of each of its kernel options.
std::vector<std::string> everyRecipe(int n, int m, int64_t d, const std::string &dtypes, bool options);

/// Forward kernels of a site, before, after and boundary, against the interpreter of its program; the boundary's second
/// site is `following`, by default the same.
void checkForward(const std::string &text, int64_t tokens, const std::string &target = "native", int threads = 1,
                  const std::string &following = {}, double tolerance = 0);
/// Backward kernels of the same in fp64 against finite differences of the forward ones.
void checkDifferences(const std::string &text, int64_t tokens, const std::string &following = {});
/// Backward kernels in a dtype against those in fp64 on the same numbers; `spec` ends where its dtypes follow.
void checkDType(const std::string &spec, const std::string &dtypes, double tolerance, int64_t tokens);
/// Backward kernels of single gradients, or of single cotangents, against those of all.
void checkMasks(const std::string &spec, double tolerance);

/// |a - b| <= tolerance (1 + |b|), for all of them.
void expectNear(const Numbers &actual, const Numbers &expected, double tolerance, const std::string &what);

} // namespace hyperjit::test
