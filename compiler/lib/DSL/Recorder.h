//===- Recorder.h - The graph behind a recipe's values -----------------------*- C++ -*-===//
//
// Operations are pure and hash-consed: recording the same operation twice gives the same value, so the text of a
// program does not depend on how often a recipe spells a subexpression. Order is decided when the recording ends.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hyperjit/DSL.h"

namespace hyperjit::dsl::detail {

/// Limits of a recording. The dialect takes no more numbers, rows, columns, Sinkhorn iterations or permuted streams; and
/// a program is so short that what walks it may go down a chain of its operations by calls.
inline constexpr int64_t mostElements = 1 << 20, mostIterations = 1 << 14, mostPermuted = 6, mostValues = 1 << 11;

enum class TypeKind { Rows, Coefficients, Weight };

/// rows: {R}; coefficients: their shape; weight: {R, K}.
struct Type {
  TypeKind kind;
  std::vector<int64_t> sizes;
  /// hc assembly, `!hc.rows<4, d>`.
  std::string text() const;
  /// For messages: `<4, 5>`, `4 rows`, `[4, d, 24]`.
  std::string description() const;
  int64_t elements() const;
  bool operator==(const Type &) const = default;
};

struct Attribute {
  std::string name, text;
};

enum class NodeKind { Streams, Parameter, Carry, Operation, Hole };

struct Node {
  NodeKind kind;
  std::string name; // operation, or the argument's name
  std::vector<int> operands;
  std::vector<Attribute> attributes; // sorted by name
  Type type;
  bool uniform = false;   // the same for all tokens
  bool literal = false;   // depends on no argument
  bool afterHole = false; // depends on the branch's output
};

struct CarryOutput {
  std::string name;
  int value;
};

/// What a recipe sees of its spec.
struct SiteInputs {
  std::string recipe;
  int64_t n = 1, m = 1;
  std::map<std::string, std::string, std::less<>> options; // every declared option with its canonical value
};

/// A parameter whose shape still has d in it.
struct DeclaredParameter {
  std::string name;
  Shape shape;
  ParameterKind kind;
  Initialisation initialisation;
  int node;
};

/// The finished recording; rowWidth of the signature is set per spec.
struct Recording {
  std::string text;
  SiteSignature signature;
  std::vector<DeclaredParameter> parameters;
};

class Recorder : public std::enable_shared_from_this<Recorder> {
public:
  explicit Recorder(SiteInputs inputs) : inputs(std::move(inputs)) {}

  const SiteInputs inputs;
  std::deque<Node> nodes;                    // in place: Coefficients::shape hands out what lies in them
  std::vector<DeclaredParameter> parameters; // in order of declaration
  std::vector<CarryInfo> carriesIn;
  std::vector<int> carryNodes;
  std::vector<CarryOutput> carriesOut;
  int streams = -1, hole = -1, input = -1, result = -1;

  int addArgument(NodeKind kind, std::string name, Type type, bool uniform);
  int addOperation(std::string_view name, std::vector<int> operands, Type type, std::vector<Attribute> attributes = {});
  const std::string &option(std::string_view name) const;

  /// Checks that the site is complete, decides what crosses the hole, writes the text.
  Recording finish();

  [[noreturn]] void fail(const std::string &message) const;
  bool sealed = false;

private:
  /// What holds for every value: refused here, not by the compiler's verifier when a kernel is first needed.
  void checkNew(std::string_view name, const Type &type) const;
  std::unordered_map<std::string, int> unique;
};

/// The door between the public value classes and the graph.
struct Access {
  static Site site(std::shared_ptr<Recorder> recorder) { return Site(std::move(recorder)); }
  static const std::shared_ptr<Recorder> &recorder(const Value &v) { return v.recorder; }
  static int id(const Value &v) { return v.id; }
  static const Node &node(const Value &v) { return v.recorder->nodes[v.id]; }
  static Coefficients coefficients(const std::shared_ptr<Recorder> &r, int id) { return Coefficients(r, id); }
  static Weight weight(const std::shared_ptr<Recorder> &r, int id) { return Weight(r, id); }
  static Rows rows(const std::shared_ptr<Recorder> &r, int id, int64_t group = 1, bool flat = false) {
    Rows result(r, id);
    result.rowsPerGroup = group;
    result.flat = flat;
    return result;
  }
  static const std::shared_ptr<Recorder> &recorder(const Site &s) { return s.recorder; }
};

//===-----------------------------------------------------------------------------------===//
// Text
//===-----------------------------------------------------------------------------------===//

/// Shortest decimal that reads back to the same double, in a form MLIR's parser takes (always with a point).
std::string numberText(double value);
std::string shapeText(const std::vector<int64_t> &shape);
/// dense<...> : tensor<AxBxf64>; one number if all are equal.
std::string denseText(const std::vector<int64_t> &shape, const std::vector<double> &values);
std::string arrayText(const std::vector<int64_t> &values);
/// Numbers of these sizes: 0 where a size is below 1, the largest number where there are more.
int64_t product(const std::vector<int64_t> &sizes);

inline Attribute integerAttribute(std::string name, int64_t value) {
  return {std::move(name), std::to_string(value) + " : i64"};
}
inline Attribute numberAttribute(std::string name, double value) {
  return {std::move(name), numberText(value) + " : f64"};
}
inline Attribute wordAttribute(std::string name, std::string_view value) {
  return {std::move(name), "\"" + std::string(value) + "\""};
}
inline Attribute arrayAttribute(std::string name, const std::vector<int64_t> &values) {
  return {std::move(name), arrayText(values)};
}

template <typename... Parts> std::string join(const Parts &...parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

} // namespace hyperjit::dsl::detail
