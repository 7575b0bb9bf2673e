//===- ProgramText.cpp - Recorded programs read back from their text ----------------------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "ProgramText.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "hyperjit/core/Error.h"

namespace hyperjit::dsl::detail {

[[noreturn]] static void failAt(int line, const std::string &message) {
  throw UserError(ErrorId::InvalidRecipe, join("line ", line, ": ", message));
}

namespace {

/// Those of all operations that the functions of DSL.h record; the compiler's verifiers know which are whose.
constexpr std::string_view operationAttributes = " axes axis dims edge eps first group indices iterations kind "
                                                 "log_domain offset operandSegmentSizes permutation place"
                                                 " start tau value ";

class Reader {
public:
  explicit Reader(std::string_view text) : text(text) {}

  ProgramText read() {
    if (!take("hc.func"))
      failAt(line(), join("'hc.func' is expected, found ", found(),
                          "; a recorded program is what hyperjit show SPEC --stage recipe prints"));
    need("@");
    word("the program's name");
    ProgramText program;
    list("(", ")", [&] {
      program.arguments.push_back(operand(valueName()));
      if (program.arguments.back().operand.empty())
        failAt(line(), join("argument ", program.arguments.back().value.name, " has no hc.operand"));
    });
    need("->");
    list("(", ")", [&] { program.results.push_back(operand({})); });
    need("{");
    while (!take("hc.return"))
      program.operations.push_back(operation());
    for (std::size_t i = 0; i < program.results.size(); ++i) {
      if (i)
        need(",");
      program.results[i].value.name = valueName();
    }
    need(":");
    for (std::size_t i = 0; i < program.results.size(); ++i) {
      if (i)
        need(",");
      if (type() != program.results[i].value.type)
        failAt(line(), join("result ", i, " has another type than the program declares"));
    }
    need("}");
    if (peek("hc.func"))
      failAt(line(), "a second program begins; one file holds one");
    skip();
    if (at < text.size())
      failAt(line(), join("the program has ended, found ", found()));
    size(program);
    return program;
  }

private:
  std::string_view text;
  std::size_t at = 0;
  std::size_t counted = 0; // up to here
  int lines = 1;

  /// Asked for at every operation, so counted on from where it was asked for last.
  int line() {
    lines += static_cast<int>(std::count(text.begin() + counted, text.begin() + at, '\n'));
    counted = at;
    return lines;
  }

  /// Over spaces and comments.
  void skip() {
    while (at < text.size())
      if (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n')
        ++at;
      else if (text.substr(at, 2) == "//")
        at = std::min(text.find('\n', at), text.size());
      else
        return;
  }
  bool peek(std::string_view token) {
    skip();
    return text.substr(at, token.size()) == token;
  }
  bool take(std::string_view token) {
    bool here = peek(token);
    at += here ? token.size() : 0;
    return here;
  }
  void need(std::string_view token) {
    if (!take(token))
      failAt(line(), join("'", token, "' is expected, found ", found()));
  }
  /// What stands here, for messages.
  std::string found() {
    skip();
    if (at == text.size())
      return "the end of the text";
    std::size_t end = std::min({text.find_first_of(" \t\r\n", at), text.size(), at + 24});
    return join("'", text.substr(at, end - at), "'");
  }

  static bool isWord(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  }
  std::string word(const char *what) {
    skip();
    std::size_t end = at;
    while (end < text.size() && isWord(text[end]))
      ++end;
    if (end == at)
      failAt(line(), join(what, " is expected, found ", found()));
    return std::string(text.substr(std::exchange(at, end), end - at));
  }
  std::string valueName() {
    need("%");
    std::string name = "%";
    return name += word("a value's name");
  }

  template <typename Item> void list(const char *open, const char *close, Item item) {
    need(open);
    if (take(close))
      return;
    do
      item();
    while (take(","));
    need(close);
  }

  int64_t number() {
    std::string digits = word("a size");
    int64_t value = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < 1 || value > 1 << 20)
      failAt(line(), join("a size is a number from 1 to 2^20, found '", digits, "'"));
    return value;
  }
  void width() {
    if (std::string word = this->word("d"); word != "d")
      failAt(line(),
             join("the width of a row is ", word, "; in a recorded program it is d, so that it serves every d"));
  }
  Type type() {
    need("!hc.");
    Type type;
    std::string kind = word("a type");
    need("<");
    if (kind == "rows") {
      type = {TypeKind::Rows, {number()}};
      need(",");
      width();
    } else if (kind == "weight") {
      type = {TypeKind::Weight, {number()}};
      need(",");
      width();
      need(",");
      type.sizes.push_back(number());
    } else if (kind == "coeffs") {
      type = {TypeKind::Coefficients, {number()}};
      while (take(","))
        type.sizes.push_back(number());
      int64_t elements = 1;
      for (int64_t size : type.sizes)
        if ((elements *= size) > 1 << 20)
          failAt(line(), "coefficients of more than 2^20 numbers");
    } else
      failAt(line(), join("unknown type !hc.", kind, "; there are rows, coeffs and weight"));
    need(">");
    return type;
  }

  /// The text of a value up to the comma or brace that ends it.
  std::string attributeValue() {
    skip();
    std::size_t begin = at;
    int depth = 0;
    for (bool quoted = false; at < text.size(); ++at) {
      char c = text[at];
      if (c == '"')
        quoted = !quoted;
      if (quoted)
        continue;
      if (depth == 0 && (c == ',' || c == '}'))
        break;
      depth += c == '<' || c == '[' || c == '(' || c == '{' ? 1 : 0;
      if (depth > 64) // the compiler's own reader goes down a level by a call
        failAt(line(), "an attribute is nested more than 64 deep");
      depth -= c == '>' || c == ']' || c == ')' || c == '}' ? 1 : 0;
    }
    std::string_view value = text.substr(begin, at - begin);
    return std::string(value.substr(0, value.find_last_not_of(" \t\r\n") + 1));
  }
  std::vector<Attribute> attributes() {
    std::vector<Attribute> all;
    if (peek("{"))
      list("{", "}", [&] {
        std::string name = word("an attribute's name");
        all.push_back({std::move(name), take("=") ? attributeValue() : ""});
      });
    return all;
  }

  TextOperand operand(std::string name) {
    TextOperand operand;
    operand.line = line();
    if (!name.empty())
      need(":");
    operand.value = {std::move(name), type()};
    for (const Attribute &attribute : attributes()) {
      bool quoted = attribute.text.size() >= 2 && attribute.text.front() == '"' && attribute.text.back() == '"';
      std::string value = quoted ? attribute.text.substr(1, attribute.text.size() - 2) : attribute.text;
      if (attribute.name == "hc.operand")
        operand.operand = value;
      if (attribute.name == "hc.name")
        operand.name = value;
    }
    return operand;
  }

  TextOperation operation() {
    TextOperation operation;
    do
      operation.results.push_back({valueName(), {}});
    while (take(","));
    need("=");
    operation.line = line();
    operation.name = word("an operation");
    if (!operation.name.starts_with("hc."))
      failAt(line(), join("operation '", operation.name, "' is not of the hc dialect"));
    while (peek("%")) {
      operation.operands.push_back({valueName(), {}});
      if (!take(","))
        break;
    }
    operation.attributes = attributes();
    for (const Attribute &attribute : operation.attributes) {
      if (operationAttributes.find(join(" ", attribute.name, " ")) == operationAttributes.npos)
        failAt(operation.line, join(operation.name, " has no attribute '", attribute.name, "'"));
      const std::string &value = attribute.text;
      const std::size_t hex = value.find("0x"); // how MLIR spells what is no number or infinite; not in tensor<10xf64>
      if (hex != std::string::npos && (hex == 0 || !std::isalnum(static_cast<unsigned char>(value[hex - 1]))))
        failAt(operation.line, join(operation.name, ": ", attribute.name, " = ", attribute.text,
                                    "; numbers of a program are finite, and decimal"));
    }
    need(":");
    std::vector<Type> types;
    list("(", ")", [&] { types.push_back(type()); });
    setTypes(operation, "operands", operation.operands, types);
    need("->");
    types.clear();
    if (peek("("))
      list("(", ")", [&] { types.push_back(type()); });
    else
      types.push_back(type());
    setTypes(operation, "results", operation.results, types);
    return operation;
  }
  void setTypes(const TextOperation &operation, const char *what, std::vector<TextValue> &values,
                const std::vector<Type> &types) {
    if (types.size() != values.size())
      failAt(operation.line, join(operation.name, " has ", values.size(), " ", what, " and ", types.size(), " types"));
    for (std::size_t i = 0; i < types.size(); ++i)
      values[i].type = types[i];
  }

  /// n and m stand in the types: the streams have n m rows, the branch's output has m.
  static void size(ProgramText &program) {
    auto streams = std::find_if(program.arguments.begin(), program.arguments.end(),
                                [](const TextOperand &argument) { return argument.operand == "streams"; });
    auto branch = std::find_if(program.operations.begin(), program.operations.end(),
                               [](const TextOperation &operation) { return operation.name == "hc.branch"; });
    if (streams == program.arguments.end() || streams->value.type.kind != TypeKind::Rows)
      failAt(1, "the program has no argument that is its streams");
    if (branch == program.operations.end())
      failAt(1, "the program has no hc.branch, the hole of a site");
    if (branch->operands.empty() || branch->results[0].type.kind != TypeKind::Rows)
      failAt(branch->line, "hc.branch takes rows and gives rows");
    int64_t rows = streams->value.type.sizes[0];
    program.m = branch->results[0].type.sizes[0];
    if (rows % program.m != 0)
      failAt(branch->line,
             join("the branch gives ", program.m, " rows, which do not divide the ", rows, " of the streams"));
    program.n = rows / program.m;
  }
};

/// What the functions of DSL.h record, without "hc.". The dialect has more: sums over tokens, and what adjoints are
/// made of. The signature of a program that holds them would be wrong.
constexpr std::string_view recordable =
    " mix scale_rows gather_rows scatter_rows fill_rows expand round norm dot dot_rows row_sum project"
    " add sub mul div max neg exp log tanh sigmoid sqrt rsqrt reciprocal"
    " constant reshape transpose slice concat broadcast reduce_sum matmul softmax sinkhorn permutation_mix"
    " scale_weight concat_weights slice_weight weight_from_rows rows_from_weight ";

/// The values of a text while it is recorded again.
class Replay {
public:
  Replay(const ProgramText &program, Site &site) : program(program), site(site), recorder(Access::recorder(site)) {}

  void run() {
    for (const TextOperand &argument : program.arguments)
      declare(argument);
    for (const TextOperation &operation : program.operations)
      operation.name == "hc.branch" ? branch(operation) : record(operation);
    if (program.results.empty() || program.results[0].operand != "streams")
      failAt(1, "the first result of a program is its streams");
    for (std::size_t i = 1; i < program.results.size(); ++i) {
      const TextOperand &result = program.results[i];
      if (result.operand != "carry" || result.value.type.kind != TypeKind::Coefficients)
        failAt(result.line, "a result after the streams is a carry of coefficients");
      site.carryOut(result.name, Access::coefficients(recorder, use(result.line, result.value)));
    }
    site.next(rounded(program.results[0].line, program.results[0].value, "streams"));
  }

private:
  const ProgramText &program;
  Site &site;
  const std::shared_ptr<Recorder> &recorder;
  std::map<std::string, int> ids;

  void define(int line, const TextValue &value, int id) {
    if (!ids.try_emplace(value.name, id).second)
      failAt(line, join(value.name, " is defined twice"));
  }
  int use(int line, const TextValue &value) const {
    auto found = ids.find(value.name);
    if (found == ids.end())
      failAt(line, join(value.name, " is used before it is defined"));
    const Type &type = recorder->nodes[found->second].type;
    if (type != value.type)
      failAt(line, join(value.name, " is ", type.text(), ", here it is called ", value.type.text()));
    return found->second;
  }

  void declare(const TextOperand &argument) {
    // A text has shapes as the program sees them, and no values to start with.
    Initialisation unknown;
    unknown.kind = Initialisation::Kind::Unknown;
    unknown.text = "not recorded";
    const Type &type = argument.value.type;
    int id = -1;
    if (argument.operand == "streams" && argument.value.name == program.arguments[0].value.name) {
      id = Access::id(site.streams());
    } else if (argument.operand == "parameter") {
      if (type.kind == TypeKind::Coefficients)
        id = Access::id(site.coefficients(argument.name, type.sizes, unknown));
      else {
        Shape shape = {site.d()};
        if (type.sizes[0] > 1)
          shape.insert(shape.begin(), type.sizes[0]);
        if (type.kind == TypeKind::Rows) {
          id = Access::id(site.channels(argument.name, shape, unknown));
        } else {
          shape.push_back(type.sizes[1]);
          id = Access::id(site.weight(argument.name, shape, unknown));
        }
      }
    } else if (argument.operand == "carry" && type.kind == TypeKind::Coefficients) {
      id = Access::id(site.carryIn(argument.name, type.sizes, std::vector<double>(product(type.sizes))));
      recorder->carriesIn.back().start.clear();
    } else
      failAt(argument.line, join("argument ", argument.value.name,
                                 ": a program takes its streams first, then parameters, then carries of coefficients"));
    define(argument.line, argument.value, id);
  }

  void record(const TextOperation &operation) {
    if (recordable.find(" " + operation.name.substr(3) + " ") == std::string_view::npos)
      failAt(operation.line, join(operation.name, " is no operation of a recorded program: no function of "
                                                  "hyperjit/DSL.h records it"));
    if (operation.results.size() != 1)
      failAt(operation.line,
             join(operation.name, " has ", operation.results.size(), " results; only hc.branch has several"));
    std::vector<int> operands;
    for (const TextValue &operand : operation.operands)
      operands.push_back(use(operation.line, operand));
    if (operation.name == "hc.norm")
      checkGroups(operation);
    define(
        operation.line, operation.results[0],
        recorder->addOperation(operation.name, std::move(operands), operation.results[0].type, operation.attributes));
  }
  /// The signature counts the numbers that a norm saves: one or two for each group of rows.
  static void checkGroups(const TextOperation &operation) {
    int64_t group = 0;
    for (const Attribute &attribute : operation.attributes)
      if (attribute.name == "group")
        std::from_chars(attribute.text.data(), attribute.text.data() + attribute.text.size(), group);
    if (group < 1 || operation.results[0].type.sizes[0] % group != 0)
      failAt(operation.line, "hc.norm: its group divides its rows");
  }

  void branch(const TextOperation &operation) {
    if (recorder->hole >= 0)
      failAt(operation.line, "a second hc.branch; a site has one hole");
    if (operation.operands.size() != operation.results.size())
      failAt(operation.line, "hc.branch gives its output, then each crossing value as it took it");
    site.branchInput(rounded(operation.line, operation.operands[0], "branch_input"));
    define(operation.line, operation.results[0], Access::id(site.branchOutput()));
    for (std::size_t i = 1; i < operation.operands.size(); ++i) {
      int id = use(operation.line, operation.operands[i]);
      if (operation.results[i].type != operation.operands[i].type)
        failAt(operation.line, join("hc.branch: ", operation.results[i].name, " has another type than ",
                                    operation.operands[i].name, " that crosses as it"));
      define(operation.line, operation.results[i], id);
    }
  }
  /// What goes through an edge of a site: Site rounds it there once more, which is the same operation.
  Rows rounded(int line, const TextValue &value, const char *edge) const {
    const Node &node = recorder->nodes[use(line, value)];
    Attribute attribute = wordAttribute("edge", edge);
    bool is = node.name == "hc.round" && node.attributes.size() == 1 && node.attributes[0].name == attribute.name &&
              node.attributes[0].text == attribute.text && node.operands.size() == 1;
    if (!is || node.type.kind != TypeKind::Rows)
      failAt(line, join(value.name, " is not rounded; at this edge of a site stands hc.round {edge = \"", edge, "\"}"));
    return Access::rows(recorder, node.operands[0]);
  }
};

} // namespace

ProgramText readProgram(std::string_view text) { return Reader(text).read(); }

void replay(const ProgramText &program, Site &site) { Replay(program, site).run(); }

} // namespace hyperjit::dsl::detail
