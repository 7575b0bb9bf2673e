// Walks the dialect: what an op must have, it has.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Dialect/HC/IR/HC.h"
#include "hyperjit/Dialect/HC/Transforms/Passes.h"
#include "hyperjit/Target/CpuImage.h"
#include "hyperjit/Target/CudaSource.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

using namespace hyperjit;

namespace {

std::string readFile(const std::filesystem::path &path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// The examples of the descriptions in HCOps.td, by op. Elementwise ops share one, written once in their class.
std::map<std::string, std::vector<std::string>> examples() {
  std::istringstream lines(readFile(HYPERJIT_SOURCE_DIR "/compiler/include/hyperjit/Dialect/HC/IR/HCOps.td"));
  std::regex className("^class (HC_\\w+)<"), definition("^def HC_\\w+ : (HC_\\w+)<\"(\\w+)\""),
      shared("```mlir\\\\n(.*)\" # mnemonic # \"(.*)\\\\n```\";");
  std::map<std::string, std::vector<std::string>> all;
  std::map<std::string, std::pair<std::string, std::string>> ofClass;
  std::string line, current, block;
  bool inside = false;
  std::smatch match;
  while (std::getline(lines, line)) {
    if (inside && line.find("```") != std::string::npos) {
      inside = false;
      all[current].push_back(block);
    } else if (inside) {
      block += line + "\n";
    } else if (std::regex_search(line, match, className)) {
      current = match[1];
    } else if (std::regex_search(line, match, shared)) {
      ofClass[current] = {match[1], match[2]};
    } else if (std::regex_search(line, match, definition)) {
      current = "hc." + match[2].str();
      if (auto found = ofClass.find(match[1]); found != ofClass.end())
        all[current].push_back(found->second.first + match[2].str() + found->second.second);
    } else if (line.find("```mlir") != std::string::npos) {
      inside = true;
      block.clear();
    }
  }
  return all;
}

/// "a<1, 2>, b" -> {"a<1, 2>", "b"}
std::vector<std::string> splitTypes(const std::string &text) {
  std::vector<std::string> parts;
  int depth = 0;
  std::string part;
  for (char c : text) {
    depth += (c == '<') - (c == '>');
    if (c == ',' && depth == 0) {
      parts.push_back(part);
      part.clear();
    } else if (c != ' ' || !part.empty()) {
      part += c;
    }
  }
  if (!part.empty())
    parts.push_back(part);
  return parts;
}

bool isA(const std::string &type, const char *kind) { return type.rfind(std::string("!hc.") + kind, 0) == 0; }

/// Ops on parameters alone: their operands belong to no token.
const std::set<std::string> onParameters = {"hc.outer",           "hc.scale_weight", "hc.weight_dot",
                                            "hc.concat_weights",  "hc.slice_weight", "hc.weight_from_rows",
                                            "hc.rows_from_weight"};
/// Ops whose result belongs to no token whatever their operands.
const std::set<std::string> sums = {"hc.token_sum", "hc.weight_grad"};

/// A function around an example: its operands are arguments, its results are returned. What belongs to no token is used
/// by a token first, so that every function is a kernel.
std::string functionOf(const std::string &name, const std::string &example) {
  if (name == "hc.func")
    return example;
  std::string text = std::regex_replace(example, std::regex("\\s+"), " ");
  std::smatch match;
  std::regex form("^ ?(?:(%[\\w, %]+) = )?hc\\.\\w+ ?((?:%\\w+(?:, )?)*).* : (?:\\(([^()]*)\\) -> )?(.*[^ ]) ?$");
  if (!std::regex_match(text, match, form))
    return "no example of " + name + ": " + text;
  std::vector<std::string> made = splitTypes(match[1]), operands = splitTypes(match[2]), types = splitTypes(match[3]);
  std::string resultText = match[4];
  if (resultText.front() == '(')
    resultText = resultText.substr(1, resultText.size() - 2);
  std::vector<std::string> results = splitTypes(resultText);
  if (name == "hc.return")
    types = results;
  std::map<std::string, std::string> arguments; // an example may use a value twice
  std::string list;
  int tokenRows = 0;
  auto argument = [&](const std::string &value, const std::string &type, bool uniform) {
    if (!arguments.emplace(value, type).second)
      return;
    std::string operand = uniform              ? "parameter"
                          : !isA(type, "rows") ? "coefficients"
                          : tokenRows++ == 0   ? "streams"
                                               : "branch";
    list += (list.empty() ? "" : ", ") + value + ": " + type + " {hc.operand = \"" + operand + "\"" +
            (uniform ? ", hc.uniform" : "") + "}";
  };
  for (size_t i = 0; i < operands.size() && i < types.size(); ++i)
    argument(operands[i], types[i], onParameters.count(name) || isA(types[i], "weight"));
  std::string body = text + "\n";
  if (onParameters.count(name) || name == "hc.constant") {
    std::string value = made[0], type = results[0], next;
    if (isA(type, "weight")) {
      std::regex_match(type, match, std::regex("!hc.weight<(\\d+), d, (\\d+)>"));
      std::string rows = "!hc.rows<" + match[1].str() + ", d>";
      next = "!hc.coeffs<1, " + match[2].str() + ">";
      argument("%token", rows, false);
      body += "%used = hc.project %token, " + value + " : (" + rows + ", " + type + ") -> " + next + "\n";
    } else if (isA(type, "rows")) {
      next = "!hc.rows<1, d>";
      argument("%token", next, false);
      body += "%first = hc.gather_rows " + value + " {indices = array<i64: 0>} : (" + type + ") -> " + next + "\n";
      body += "%used = hc.mul %token, %first : (" + next + ", " + next + ") -> " + next + "\n";
    } else {
      next = type;
      argument("%token", type, false);
      body += "%used = hc.mul %token, " + value + " : (" + type + ", " + type + ") -> " + type + "\n";
    }
    made = {"%used"};
    results = {next};
  }
  std::string values, resultTypes, plainTypes;
  for (size_t i = 0; i < results.size(); ++i) {
    std::string separator = i ? ", " : "";
    values += separator + (name == "hc.return" ? operands[i] : made[i]);
    plainTypes += separator + results[i];
    resultTypes += separator + results[i] + " {hc.operand = \"" +
                   (isA(results[i], "rows") ? "streams"
                    : sums.count(name)      ? "uniform"
                                            : "coefficients") +
                   "\"" + (sums.count(name) ? ", hc.uniform}" : "}");
  }
  if (name != "hc.return")
    body += "hc.return " + values + " : " + plainTypes + "\n";
  return "hc.func @kernel(" + list + ") -> (" + resultTypes + ") {\n" + body + "}\n";
}

class DialectTest : public testing::Test {
protected:
  DialectTest() {
    context.getOrLoadDialect<hc::HCDialect>();
    context.printOpOnDiagnostic(false);
  }

  std::vector<std::string> ops() {
    std::vector<std::string> names;
    for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("hc"))
      names.push_back(name.getStringRef().str());
    EXPECT_GT(names.size(), 40u);
    return names;
  }
  mlir::OwningOpRef<mlir::ModuleOp> parse(const std::string &text) {
    auto module = mlir::parseSourceString<mlir::ModuleOp>(text, mlir::ParserConfig(&context)); // verifies
    EXPECT_TRUE(module) << text;
    return module;
  }
  bool run(mlir::ModuleOp module, std::vector<std::unique_ptr<mlir::Pass>> passes) {
    mlir::PassManager manager(&context);
    for (auto &pass : passes)
      manager.addPass(std::move(pass));
    return mlir::succeeded(manager.run(module));
  }
  bool specialize(mlir::ModuleOp module) {
    hc::SpecializeOptions options;
    options.width = 512;
    options.stream = options.branchIn = options.branchOut = "bf16";
    std::vector<std::unique_ptr<mlir::Pass>> passes;
    passes.push_back(hc::createSpecialize(options));
    return run(module, std::move(passes));
  }
  static bool holds(mlir::ModuleOp module, llvm::StringRef name) {
    bool found = false;
    module.walk([&](mlir::Operation *op) { found |= op->getName().getStringRef() == name; });
    return found;
  }
  /// Through both exits, to machine code and to CUDA text.
  void lower(mlir::ModuleOp module) {
    std::vector<std::unique_ptr<mlir::Pass>> passes;
    passes.push_back(hc::createFormPhases());
    ASSERT_TRUE(run(module, std::move(passes)));
    hc::FuncOp kernel = *module.getOps<hc::FuncOp>().begin();
    cuda::CudaSource source;
    EXPECT_TRUE(mlir::succeeded(cuda::buildCudaSource(kernel, "sm_90a", "auto", source))) << "no CUDA";
    EXPECT_FALSE(source.launches.empty());
    cpu::CpuImage image;
    EXPECT_TRUE(mlir::succeeded(cpu::buildCpuImage(kernel, "x86-64-v3", "auto", image))) << "no machine code";
    EXPECT_FALSE(image.launches.empty());
  }

  mlir::MLIRContext context{mlir::MLIRContext::Threading::DISABLED};
  /// Has no lowering and no adjoint of its own.
  const std::map<std::string, std::string> structural = {
      {"hc.func", "the kernel itself"},
      {"hc.return", "the kernel's results"},
      {"hc.branch", "the hole: hc-split cuts there, so no kernel holds one"},
      {"hc.norm", "composite: hc-specialize rewrites it, before differentiation and both exits"}};
  const std::map<std::string, std::string> noAdjoint = {
      {"hc.constant", "has nothing to hand on"},
      {"hc.softmax_adjoint", "made by differentiation: a second derivative is refused by name"},
      {"hc.sinkhorn_adjoint", "made by differentiation: a second derivative is refused by name"},
      {"hc.weight_grad", "made by differentiation: a second derivative is refused by name"}};
};

TEST_F(DialectTest, EveryOpHasAnExampleThatParses) {
  auto all = examples();
  for (const std::string &op : ops()) {
    SCOPED_TRACE(op);
    EXPECT_FALSE(all[op].empty()) << "has no example";
    for (const std::string &example : all[op]) {
      auto module = parse(functionOf(op, example));
      EXPECT_TRUE(module && holds(*module, op)) << example;
    }
  }
}

TEST_F(DialectTest, EveryOpHasBothLowerings) {
  auto all = examples();
  for (const std::string &op : ops()) {
    SCOPED_TRACE(op);
    if (op == "hc.branch")
      continue; // see `structural`
    for (const std::string &example : all[op]) {
      SCOPED_TRACE(functionOf(op, example));
      auto module = parse(functionOf(op, example));
      ASSERT_TRUE(module && specialize(*module));
      EXPECT_EQ(holds(*module, op), op != "hc.norm");
      lower(*module);
    }
  }
}

// The adjoint is there, is made of ops, and both exits take it.
TEST_F(DialectTest, EveryOpHasAnAdjoint) {
  auto all = examples();
  for (const std::string &op : ops()) {
    SCOPED_TRACE(op);
    bool has = mlir::RegisteredOperationName::lookup(op, &context)->hasInterface<hc::AdjointOpInterface>();
    if (structural.count(op) || noAdjoint.count(op)) {
      EXPECT_FALSE(has) << "has an adjoint: take it off the list";
      continue;
    }
    ASSERT_TRUE(has) << "has no adjoint";
    for (const std::string &example : all[op]) {
      SCOPED_TRACE(functionOf(op, example));
      auto module = parse(functionOf(op, example));
      ASSERT_TRUE(module && specialize(*module));
      std::vector<std::unique_ptr<mlir::Pass>> passes;
      passes.push_back(hc::createSaveReductions());
      hc::DifferentiateOptions options;
      options.given = "xuck";
      options.want = "xycpk";
      passes.push_back(hc::createDifferentiate(options));
      passes.push_back(mlir::createCanonicalizerPass()); // a sum of outer products becomes hc.weight_grad
      passes.push_back(mlir::createCSEPass());
      ASSERT_TRUE(run(*module, std::move(passes)));
      lower(*module);
    }
  }
}

std::string litOf(const std::string &folder) {
  std::string text;
  for (const auto &entry : std::filesystem::recursive_directory_iterator(HYPERJIT_SOURCE_DIR "/tests/lit/" + folder))
    if (entry.path().extension() == ".mlir")
      text += readFile(entry.path());
  return text;
}

// A round trip of each op; of each adjoint a function named after the op, @mix or @mul_rows.
TEST_F(DialectTest, EveryOpHasItsLitTests) {
  std::string roundTrip = readFile(HYPERJIT_SOURCE_DIR "/tests/lit/HC/ops.mlir"),
              adjoints = readFile(HYPERJIT_SOURCE_DIR "/tests/lit/HC/adjoints.mlir");
  for (const std::string &op : ops()) {
    EXPECT_TRUE(std::regex_search(roundTrip, std::regex("CHECK[-A-Z]*: .*" + op + "\\b")))
        << op << " has no round trip";
    if (structural.count(op) || noAdjoint.count(op))
      continue;
    std::string name = op.substr(3);
    std::smatch match;
    std::string::const_iterator from = adjoints.begin();
    bool found = false;
    for (std::regex function("\nhc\\.func @" + name + "(_\\w+)?\\(");
         !found && std::regex_search(from, adjoints.cend(), match, function); from = match[0].second) {
      // The function holds the op, and its adjoint is checked.
      std::string body(match[0].second, adjoints.cend());
      body = body.substr(0, body.find("\n}"));
      found = body.find("= " + op + " ") != std::string::npos &&
              adjoints.find("CHECK-LABEL: hc.func @" + name + match[1].str() + "_backward(") != std::string::npos;
    }
    EXPECT_TRUE(found) << "tests/lit/HC/adjoints.mlir has no function @" << name;
  }
}

TEST_F(DialectTest, EveryPassHasItsLitTest) {
  std::string definitions = readFile(HYPERJIT_SOURCE_DIR "/compiler/include/hyperjit/Dialect/HC/Transforms/Passes.td"),
              tests = litOf("Transforms");
  std::regex pass("Pass<\"(hc-[a-z-]+)\"");
  int count = 0;
  for (auto it = std::sregex_iterator(definitions.begin(), definitions.end(), pass); it != std::sregex_iterator();
       ++it) {
    std::string name = (*it)[1];
    EXPECT_TRUE(std::regex_search(tests, std::regex("// RUN: hc-opt .*-" + name + "[ =]")))
        << name << " is run by no test";
    ++count;
  }
  EXPECT_GE(count, 6);
}

} // namespace
