// Walks the dialect: what an op must have, it has.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Dialect/HC/IR/HC.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
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

std::string sourcesOf(const std::string &folder) {
  std::string text;
  for (const auto &entry : std::filesystem::recursive_directory_iterator(HYPERJIT_SOURCE_DIR "/compiler/lib/" + folder))
    if (entry.path().extension() == ".cpp")
      text += readFile(entry.path());
  return text;
}

/// hc.scale_rows -> ScaleRowsOp
std::string className(llvm::StringRef name) {
  std::string result;
  bool upper = true;
  for (char c : name.drop_front(3)) {
    if (c == '_') {
      upper = true;
      continue;
    }
    result += upper ? static_cast<char>(std::toupper(c)) : c;
    upper = false;
  }
  return result + "Op";
}

class DialectTest : public testing::Test {
protected:
  DialectTest() { context.getOrLoadDialect<hc::HCDialect>(); }
  mlir::MLIRContext context{mlir::MLIRContext::Threading::DISABLED};
  /// Structure, and composites that hc-specialize rewrites.
  const std::set<std::string> structural = {"hc.func", "hc.return", "hc.branch", "hc.norm"};
  /// Made by differentiation itself: a second derivative is refused by name. A constant has nothing to hand on.
  const std::set<std::string> noAdjoint = {"hc.constant", "hc.softmax_adjoint", "hc.sinkhorn_adjoint",
                                           "hc.weight_grad"};
};

TEST_F(DialectTest, EveryOpHasAnAdjoint) {
  int count = 0;
  for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("hc")) {
    std::string text = name.getStringRef().str();
    if (structural.count(text) || noAdjoint.count(text))
      continue;
    EXPECT_TRUE(name.hasInterface<hc::AdjointOpInterface>()) << text << " has no adjoint";
    ++count;
  }
  EXPECT_GT(count, 30);
}

TEST_F(DialectTest, EveryOpHasBothLowerings) {
  std::string cpu = sourcesOf("Conversion/HCToVector"), cuda = sourcesOf("Conversion/HCToEmitC") + sourcesOf("Target/Cuda");
  for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("hc")) {
    std::string text = name.getStringRef().str();
    if (structural.count(text))
      continue;
    std::regex word("\\b" + className(text) + "\\b");
    EXPECT_TRUE(std::regex_search(cpu, word)) << text << " has no lowering to vectors";
    EXPECT_TRUE(std::regex_search(cuda, word)) << text << " has no lowering to CUDA";
  }
}

TEST_F(DialectTest, EveryOpHasAnExample) {
  std::string definitions = readFile(HYPERJIT_SOURCE_DIR "/compiler/include/hyperjit/Dialect/HC/IR/HCOps.td");
  for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("hc")) {
    std::string mnemonic = name.getStringRef().drop_front(3).str();
    // Elementwise ops share a description that is written once, in their class.
    bool shared = std::regex_search(definitions, std::regex("HC_(Unary|Binary)<\"" + mnemonic + "\""));
    EXPECT_TRUE(shared || definitions.find("hc." + mnemonic + " ") != std::string::npos)
        << "hc." << mnemonic << " has no example";
  }
}

std::string litOf(const std::string &folder) {
  std::string text;
  for (const auto &entry : std::filesystem::recursive_directory_iterator(HYPERJIT_SOURCE_DIR "/tests/lit/" + folder))
    if (entry.path().extension() == ".mlir")
      text += readFile(entry.path());
  return text;
}

TEST_F(DialectTest, EveryOpHasItsLitTests) {
  std::string roundTrip = readFile(HYPERJIT_SOURCE_DIR "/tests/lit/HC/ops.mlir"),
              adjoints = readFile(HYPERJIT_SOURCE_DIR "/tests/lit/HC/adjoints.mlir") + litOf("Transforms");
  for (mlir::RegisteredOperationName name : context.getRegisteredOperationsByDialect("hc")) {
    std::string text = name.getStringRef().str();
    EXPECT_TRUE(std::regex_search(roundTrip, std::regex("CHECK[-A-Z]*: .*" + text + "\\b"))) << text << " has no round trip";
    if (structural.count(text) || noAdjoint.count(text))
      continue;
    EXPECT_TRUE(std::regex_search(adjoints, std::regex("= " + text + " "))) << text << " is in no test of adjoints";
  }
}

TEST_F(DialectTest, EveryPassHasItsLitTest) {
  std::string definitions = readFile(HYPERJIT_SOURCE_DIR "/compiler/include/hyperjit/Dialect/HC/Transforms/Passes.td"),
              tests = litOf("Transforms");
  std::regex pass("Pass<\"(hc-[a-z-]+)\"");
  int count = 0;
  for (auto it = std::sregex_iterator(definitions.begin(), definitions.end(), pass); it != std::sregex_iterator(); ++it) {
    std::string name = (*it)[1];
    EXPECT_TRUE(std::regex_search(tests, std::regex("// RUN: hc-opt .*-" + name + "[ =]"))) << name << " is run by no test";
    ++count;
  }
  EXPECT_GE(count, 6);
}

} // namespace
