// The CPU exit of the compiler by itself: transcendental functions in units in the last place, and images that are
// closed.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Target/CpuImage.h"

#include "CpuImageCall.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Target/TargetMachine.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>

using namespace hyperjit;

namespace {

struct Built {
  cpu::CpuImage image;
  std::string errors, assembly;
  bool ok = false;
};

Built build(const std::string &text, const std::string &target) {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.getOrLoadDialect<hc::HCDialect>();
  context.printOpOnDiagnostic(false);
  Built built;
  mlir::ScopedDiagnosticHandler handler(&context, [&](mlir::Diagnostic &diagnostic) {
    built.errors += diagnostic.str() + "\n";
    return mlir::success();
  });
  auto module = mlir::parseSourceString<mlir::ModuleOp>(text, mlir::ParserConfig(&context));
  if (!module)
    return built;
  cpu::CpuTexts texts;
  texts.assembly = &built.assembly;
  built.ok =
      mlir::succeeded(cpu::buildCpuImage(*module->getOps<hc::FuncOp>().begin(), target, "auto", built.image, texts));
  return built;
}

/// One coefficient a token: the function of the operation.
std::string functionText(const std::string &op, bool wide) {
  std::string type = wide ? "f64" : "f32";
  return "hc.func @f(%a: !hc.coeffs<1> {hc.operand = \"coefficients\", hc.dtype = " + type + "}) -> " +
         "(!hc.coeffs<1> {hc.operand = \"coefficients\", hc.dtype = " + type + "}) attributes {hc.compute = " + type +
         "} {\n  %r = hc." + op + " %a {phase = \"C\", stage = 0 : i64} : (!hc.coeffs<1>) -> !hc.coeffs<1>\n" +
         "  hc.return %r : !hc.coeffs<1>\n}\n";
}

std::vector<std::string> targetsHere() {
  std::vector<std::string> targets;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    targets.push_back("x86-64-v3");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    targets.push_back("x86-64-v4");
  return targets;
}

template <typename Number> std::vector<Number> evaluate(const Built &built, std::vector<Number> in) {
  std::vector<Number> out(in.size());
  callImage(built.image, {in.data(), out.data()}, static_cast<int64_t>(in.size()));
  return out;
}

/// The distance in units of the last place of the exact value's neighbourhood.
template <typename Number> double ulps(Number actual, long double exact) {
  auto nearest = static_cast<Number>(exact);
  if (std::isnan(nearest) || std::isinf(nearest) || std::isnan(actual) || std::isinf(actual)) {
    bool same = (std::isnan(nearest) && std::isnan(actual)) || nearest == actual;
    // The largest numbers may round up to infinity one step early or late.
    bool edge = std::isinf(actual) && std::fabs(nearest) >= std::numeric_limits<Number>::max() * Number(0.9999999);
    return same || edge ? 0 : INFINITY;
  }
  Number magnitude = std::fabs(nearest);
  long double unit =
      static_cast<long double>(std::nextafter(magnitude, std::numeric_limits<Number>::infinity())) - magnitude;
  return static_cast<double>(std::fabs(static_cast<long double>(actual) - exact) / unit);
}

using Exact = std::function<long double(long double)>;
const std::pair<const char *, Exact> functions[] = {{"exp", [](long double x) { return std::exp(x); }},
                                                    {"log", [](long double x) { return std::log(x); }},
                                                    {"tanh", [](long double x) { return std::tanh(x); }},
                                                    {"sigmoid", [](long double x) { return 1 / (1 + std::exp(-x)); }}};

template <typename Number> void checkFunctions(const std::vector<Number> &inputs, double limit) {
  for (const std::string &target : targetsHere())
    for (auto &[op, exact] : functions) {
      Built built = build(functionText(op, sizeof(Number) == 8), target);
      ASSERT_TRUE(built.ok) << built.errors;
      std::vector<Number> made = evaluate(built, inputs);
      double worst = 0;
      Number where = 0;
      for (size_t i = 0; i < inputs.size(); ++i) {
        double error = ulps(made[i], exact(static_cast<long double>(inputs[i])));
        if (error > worst) {
          worst = error;
          where = inputs[i];
        }
      }
      // A sigmoid is an exponential and two more roundings.
      EXPECT_LE(worst, limit + (op == std::string("sigmoid"))) << op << " for " << target << " at " << where;
      std::printf("  %s %s %s: %.3f ulp at %.9g\n", op, sizeof(Number) == 8 ? "fp64" : "fp32", target.c_str(), worst,
                  static_cast<double>(where));
    }
}

// Every bit pattern in steps of a prime: all exponents, both signs, subnormals, infinities and NaNs.
TEST(Transcendental, SinglePrecision) {
  std::vector<float> inputs{0.0f, -0.0f, 1.0f, -1.0f, INFINITY, -INFINITY, NAN};
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 2003)
    inputs.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  for (double x = -104; x < 89; x += 0.00037) // where exp is neither zero nor infinite
    inputs.push_back(static_cast<float>(x));
  for (double x = 0.5; x < 2; x += 1.3e-6) // where log is small
    inputs.push_back(static_cast<float>(x));
  checkFunctions(inputs, 2);
}

TEST(Transcendental, DoublePrecision) {
  std::vector<double> inputs{0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY, NAN};
  uint64_t step = 0x0000'1fff'ffff'f0f1;
  for (uint64_t bits = 0; bits < 0xffff'ffff'ffff'ffff - step; bits += step)
    inputs.push_back(std::bit_cast<double>(bits));
  for (double x = -746; x < 710; x += 0.0041)
    inputs.push_back(x);
  for (double x = 0.5; x < 2; x += 3.7e-6)
    inputs.push_back(x);
  checkFunctions(inputs, 2);
}

TEST(Image, RunsWhereverItIsPut) {
  for (const std::string &target : targetsHere()) {
    Built built = build(functionText("tanh", false), target);
    ASSERT_TRUE(built.ok) << built.errors;
    EXPECT_EQ(built.image.launches.size(), 1u);
    std::vector<float> in{0.25f, -3, 0.5f};
    // Two mappings live at two addresses; the bytes are the same, so nothing in them was fixed when loading.
    std::vector<float> first = evaluate(built, in), second = evaluate(built, in);
    EXPECT_EQ(first, second);
    EXPECT_NEAR(first[0], std::tanh(0.25), 1e-6);
    EXPECT_EQ(built.assembly.find("call"), std::string::npos) << built.assembly;
  }
}

TEST(Image, RefusesATargetByName) {
  Built built = build(functionText("exp", false), "x86-64-v2");
  EXPECT_FALSE(built.ok);
  EXPECT_NE(built.errors.find("at least x86-64-v3; got 'x86-64-v2'"), std::string::npos) << built.errors;
}

TEST(Image, RefusesAnOperationByName) {
  // A weight for every token.
  Built built = build("hc.func @f(%w: !hc.weight<1, 8, 2> {hc.operand = \"parameter\", hc.dtype = f32}) -> "
                      "(!hc.coeffs<1> {hc.operand = \"coefficients\", hc.dtype = f32}) {\n"
                      "  %c = hc.constant {value = dense<1.0> : tensor<1xf64>} : () -> !hc.coeffs<1>\n"
                      "  hc.return %c : !hc.coeffs<1>\n}\n",
                      "x86-64-v3");
  EXPECT_FALSE(built.ok);
  EXPECT_NE(built.errors.find("hc.compute"), std::string::npos) << built.errors;
}

/// An object of LLVM assembly, linked.
std::string linkErrors(const char *assembly) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  std::unique_ptr<llvm::Module> module = llvm::parseAssemblyString(assembly, diagnostic, context);
  if (!module)
    return "parse: " + diagnostic.getMessage().str();
  auto machine = cpu::createTargetMachine("x86-64-v3");
  if (!machine)
    return llvm::toString(machine.takeError());
  module->setTargetTriple((*machine)->getTargetTriple());
  module->setDataLayout((*machine)->createDataLayout());
  llvm::SmallVector<char, 0> object;
  llvm::raw_svector_ostream stream(object);
  llvm::legacy::PassManager passes;
  if ((*machine)->addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::ObjectFile))
    return "no object";
  passes.run(*module);
  auto linked = cpu::linkClosedImage(llvm::MemoryBufferRef(llvm::StringRef(object.data(), object.size()), "o"));
  return linked ? "" : llvm::toString(linked.takeError());
}

TEST(Image, RefusesWhatIsNotClosed) {
  EXPECT_EQ(linkErrors("define void @f() {\n ret void\n}\n"), "");
  std::string outside = linkErrors("declare void @memcpy(ptr, ptr, i64)\ndefine void @f(ptr %a, ptr %b) {\n"
                                   " call void @memcpy(ptr %a, ptr %b, i64 8)\n ret void\n}\n");
  EXPECT_NE(outside.find("memcpy"), std::string::npos) << outside;
  std::string writable = linkErrors("@g = global i32 7\ndefine i32 @f() {\n %v = load i32, ptr @g\n ret i32 %v\n}\n");
  EXPECT_NE(writable.find("writable"), std::string::npos) << writable;
  std::string absolute =
      linkErrors("@t = constant ptr @f\ndefine ptr @f() {\n %v = load volatile ptr, ptr @t\n ret ptr %v\n}\n");
  EXPECT_NE(absolute, "");
}

} // namespace
