//===- Recorder.cpp - From a graph to a program's text ------------------------------------===//
//
// Parameters stop at the hole. What the part after it needs is found from `next` backwards: coefficients and channel
// vectors that do not depend on the branch's output cross the hole, wide rows are computed again from the streams,
// constants and plain repetitions are written again. So after the hole only the streams, the branch's output and the
// crossing values are used.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Recorder.h"

#include <algorithm>
#include <set>

#include "hyperjit/core/Error.h"

namespace hyperjit::dsl::detail {

void Recorder::fail(const std::string &message) const {
  throw UserError(ErrorId::InvalidRecipe,
                  join("recipe '", inputs.recipe, "' with n=", inputs.n, ", m=", inputs.m, ": ", message));
}

const std::string &Recorder::option(std::string_view name) const {
  auto found = inputs.options.find(name);
  if (found != inputs.options.end())
    return found->second;
  std::vector<std::string> known;
  for (const auto &[key, value] : inputs.options)
    known.push_back(key);
  fail("the recipe reads an option that it does not declare: " + unknownWord("option", name, known));
}

void Recorder::checkNew(std::string_view name, const Type &type) const {
  if (sealed)
    fail("the recording has ended; a value of this site is used after its recipe returned");
  if (nodes.size() >= static_cast<std::size_t>(mostValues))
    fail(join("the recipe records more than ", mostValues, " values; a loop in C++ records its body once a round"));
  if (int64_t elements = type.elements(); elements < 1 || elements > mostElements)
    fail(join(name, ": ", type.description(), "; sizes are at least 1, and their product is at most ", mostElements));
}

int Recorder::addArgument(NodeKind kind, std::string name, Type type, bool uniform) {
  checkNew("'" + name + "'", type);
  nodes.push_back({kind, std::move(name), {}, {}, std::move(type), uniform, false, false});
  return static_cast<int>(nodes.size()) - 1;
}

int Recorder::addOperation(std::string_view name, std::vector<int> operands, Type type,
                           std::vector<Attribute> attributes) {
  checkNew(name, type);
  std::sort(attributes.begin(), attributes.end(),
            [](const Attribute &a, const Attribute &b) { return a.name < b.name; });
  std::string key(name);
  for (int operand : operands)
    key += " " + std::to_string(operand);
  for (const Attribute &attribute : attributes)
    key += "|" + attribute.name + "=" + attribute.text;
  key += ":" + type.text();
  auto [entry, added] = unique.try_emplace(std::move(key), static_cast<int>(nodes.size()));
  if (!added)
    return entry->second;
  Node node{NodeKind::Operation,
            std::string(name),
            std::move(operands),
            std::move(attributes),
            std::move(type),
            true,
            true,
            false};
  for (int operand : node.operands) {
    node.uniform &= nodes[operand].uniform;
    node.literal &= nodes[operand].literal;
    node.afterHole |= nodes[operand].afterHole;
  }
  nodes.push_back(std::move(node));
  return entry->second;
}

namespace {

class Writer {
public:
  explicit Writer(const Recorder &recorder) : recorder(recorder) {}

  Recording write() {
    check();
    needAfter(recorder.result);
    needBefore(recorder.input);
    for (const CarryOutput &carry : recorder.carriesOut)
      needBefore(carry.value);
    for (int id : crossing)
      needBefore(id);
    Recording recording;
    recording.text = text();
    recording.signature = signature();
    recording.parameters = recorder.parameters;
    return recording;
  }

private:
  const Recorder &recorder;
  // Operands first, in the order in which the results need them: the text does not depend on the order in which a C++
  // compiler evaluates a recipe's expressions.
  std::vector<int> before, after, crossing;
  std::set<int> seenBefore, seenAfter;
  std::vector<std::string> names;

  const Node &node(int id) const { return recorder.nodes[id]; }

  void check() const {
    if (recorder.input < 0)
      recorder.fail("the recipe never calls branchInput; a site feeds its branch");
    if (recorder.hole < 0)
      recorder.fail("the hole is unused: the recipe never calls branchOutput, whose rows belong in what next is given");
    if (recorder.result < 0)
      recorder.fail("the recipe never calls next; a site gives new streams");
    if (!node(recorder.result).afterHole)
      recorder.fail("the hole is unused: the streams given to next do not depend on branchOutput()");
  }

  void needBefore(int id) {
    if (node(id).kind != NodeKind::Operation || !seenBefore.insert(id).second)
      return;
    for (int operand : node(id).operands)
      needBefore(operand);
    before.push_back(id);
  }

  /// A repetition costs nothing to write again, and crosses as fewer numbers.
  static bool repeats(const Node &n) { return n.name == "hc.broadcast" || (n.uniform && n.name == "hc.gather_rows"); }

  void needAfter(int id) {
    const Node &n = node(id);
    if (n.kind == NodeKind::Streams || n.kind == NodeKind::Hole || !seenAfter.insert(id).second)
      return;
    bool wideOfToken = n.type.kind == TypeKind::Rows && !n.uniform;
    bool again = n.kind == NodeKind::Operation && (n.afterHole || n.literal || wideOfToken || repeats(n));
    if (again) {
      for (int operand : n.operands)
        needAfter(operand);
      after.push_back(id);
      return;
    }
    if (n.type.kind == TypeKind::Weight)
      recorder.fail(
          join("after the hole ", n.type.description(), n.kind == NodeKind::Parameter ? " '" + n.name + "'" : "",
               " is needed; parameters stop at the hole, only coefficients and channel vectors cross it, and rows "
               "that are used behind it are worked out again there"));
    crossing.push_back(id);
  }

  //===--------------------------------------------------------------------------------------------------------------===//
  // Text
  //===--------------------------------------------------------------------------------------------------------------===//

  std::string operation(int id, const std::string &result) const {
    const Node &n = node(id);
    std::string line = "  " + result + " = " + n.name, types;
    for (std::size_t i = 0; i < n.operands.size(); ++i) {
      line += (i ? ", " : " ") + names[n.operands[i]];
      types += (i ? ", " : "") + node(n.operands[i]).type.text();
    }
    for (std::size_t i = 0; i < n.attributes.size(); ++i)
      line += (i ? ", " : " {") + n.attributes[i].name + " = " + n.attributes[i].text;
    return line + (n.attributes.empty() ? "" : "}") + " : (" + types + ") -> " + n.type.text() + "\n";
  }

  std::string text() {
    names.assign(recorder.nodes.size(), "");
    std::set<std::string> taken;
    std::string arguments, results, body;
    auto argument = [&](int id, const std::string &attributes) {
      std::string name = "%" + node(id).name;
      while (!taken.insert(name).second)
        name += "_";
      names[id] = name;
      arguments += (arguments.empty() ? "" : ", ") + name + ": " + node(id).type.text() + " {" + attributes + "}";
    };
    if (recorder.streams >= 0)
      argument(recorder.streams, "hc.operand = \"streams\"");
    for (const DeclaredParameter &parameter : recorder.parameters)
      argument(parameter.node, "hc.operand = \"parameter\", hc.name = \"" + parameter.name + "\", hc.uniform");
    for (int id : recorder.carryNodes)
      argument(id, "hc.operand = \"carry\", hc.name = \"" + node(id).name + "\"");

    int next = 0;
    auto fresh = [&] { return "%" + std::to_string(next++); };
    auto emit = [&](const std::vector<int> &part) {
      for (int id : part) {
        std::string name = fresh();
        body += operation(id, name);
        names[id] = name;
      }
    };
    emit(before);
    std::vector<std::string> returned = {""}, returnedTypes = {node(recorder.result).type.text()};
    results = returnedTypes[0] + " {hc.operand = \"streams\"}";
    for (const CarryOutput &carry : recorder.carriesOut) { // before the hole renames what crosses it
      returned.push_back(names[carry.value]);
      returnedTypes.push_back(node(carry.value).type.text());
      results += ", " + returnedTypes.back() + " {hc.operand = \"carry\", hc.name = \"" + carry.name + "\"}";
    }
    hole(body, fresh);
    emit(after);
    returned[0] = names[recorder.result];

    std::string out = "hc.func @site(" + arguments + ") -> (" + results + ") {\n" + body + "  hc.return ";
    for (std::size_t i = 0; i < returned.size(); ++i)
      out += (i ? ", " : "") + returned[i];
    out += " : ";
    for (std::size_t i = 0; i < returnedTypes.size(); ++i)
      out += (i ? ", " : "") + returnedTypes[i];
    return out + "\n}\n";
  }

  template <typename Fresh> void hole(std::string &body, Fresh fresh) {
    std::string operands = names[recorder.input], operandTypes = node(recorder.input).type.text();
    std::string results = fresh(), resultTypes = node(recorder.hole).type.text();
    names[recorder.hole] = results;
    for (int id : crossing) {
      operands += ", " + names[id];
      operandTypes += ", " + node(id).type.text();
      names[id] = fresh();
      results += ", " + names[id];
      resultTypes += ", " + node(id).type.text();
    }
    body += "  " + results + " = hc.branch " + operands + " : (" + operandTypes + ") -> (" + resultTypes + ")\n";
  }

  //===--------------------------------------------------------------------------------------------------------------===//
  // Signature
  //===--------------------------------------------------------------------------------------------------------------===//

  /// Numbers that the backward may want of a reduction over channels.
  static int64_t savedBy(const Node &n) {
    if (n.uniform)
      return 0;
    if (n.name == "hc.dot" || n.name == "hc.dot_rows" || n.name == "hc.row_sum" || n.name == "hc.project")
      return n.type.elements();
    if (n.name != "hc.norm")
      return 0;
    int64_t statistics = 1, group = 1;
    for (const Attribute &attribute : n.attributes) {
      if (attribute.name == "kind" && attribute.text == "\"layernorm\"")
        statistics = 2;
      if (attribute.name == "group")
        group = std::stoll(attribute.text);
    }
    return n.type.sizes[0] / group * statistics;
  }

  SiteSignature signature() const {
    SiteSignature result;
    result.streamRows = recorder.inputs.n * recorder.inputs.m;
    result.branchInputRows = node(recorder.input).type.sizes[0];
    result.branchOutputRows = node(recorder.hole).type.sizes[0];
    for (int id : crossing) {
      const Node &n = node(id);
      if (n.type.kind == TypeKind::Rows)
        result.channelRows += n.type.sizes[0];
      else
        (n.uniform ? result.uniformCoefficients : result.tokenCoefficients) += n.type.elements();
    }
    for (int id : before)
      result.saved += savedBy(node(id));
    result.carriesIn = recorder.carriesIn;
    for (const CarryOutput &carry : recorder.carriesOut)
      result.carriesOut.push_back({carry.name, node(carry.value).type.elements(), {}});
    return result;
  }
};

} // namespace

Recording Recorder::finish() {
  Recording recording = Writer(*this).write();
  sealed = true;
  return recording;
}

} // namespace hyperjit::dsl::detail
