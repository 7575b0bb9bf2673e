//===- Site.cpp - What a recipe is given -------------------------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include <algorithm>
#include <charconv>
#include <cmath>

#include "Operators.h"
#include "hyperjit/core/Error.h"

namespace hyperjit::dsl {
using namespace detail;

bool Value::uniform() const {
  requireValid("uniform", *this);
  return Access::node(*this).uniform;
}
const std::vector<int64_t> &Coefficients::shape() const {
  requireValid("shape", *this);
  return typeOf(*this).sizes;
}
int64_t Coefficients::size(int64_t axis) const {
  requireValid("size", *this);
  return typeOf(*this).sizes[normalAxis("size", *this, axis)];
}
int64_t Coefficients::elements() const { return product(shape()); }
int64_t Rows::rows() const {
  requireValid("rows", *this);
  return typeOf(*this).sizes[0];
}
int64_t Weight::rows() const {
  requireValid("rows", *this);
  return typeOf(*this).sizes[0];
}
int64_t Weight::columns() const {
  requireValid("columns", *this);
  return typeOf(*this).sizes[1];
}

//===------------------------------------------------------------------------------------------------------===//
// Initial values
//===------------------------------------------------------------------------------------------------------===//

static std::string shortNumber(double value) {
  char buffer[64];
  return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr};
}

Initialisation constant(double value) {
  Initialisation result;
  result.kind = Initialisation::Kind::Constant;
  result.first = value;
  result.text = value == 0 ? "zeros" : value == 1 ? "ones" : shortNumber(value);
  return result;
}

Initialisation normal(double standardDeviation) {
  Initialisation result;
  result.kind = Initialisation::Kind::Normal;
  result.second = standardDeviation;
  result.text = "normal(0, " + shortNumber(standardDeviation) + ")";
  return result;
}

Initialisation normalAfterFirst(double standardDeviation) {
  Initialisation result = normal(standardDeviation);
  result.zeroSlices = 1;
  result.text = "zeros in slice 0, " + result.text + " in the others";
  return result;
}

Initialisation values(std::vector<double> list, std::string text) {
  Initialisation result;
  result.kind = Initialisation::Kind::Values;
  result.values = std::move(list);
  if (text.empty()) {
    for (std::size_t i = 0; i < result.values.size() && i < 8; ++i)
      text += (i ? ", " : "[") + shortNumber(result.values[i]);
    text += result.values.size() > 8 ? ", ...]" : "]";
  }
  result.text = std::move(text);
  return result;
}

/// The size of a list that starts a parameter, which has at most mostElements numbers.
static void checkListSize(const char *function, int64_t size, int64_t most) {
  if (size < 1 || size > most)
    throw UserError(join(function, ": size is ", size, "; it must be from 1 to ", most));
}

std::vector<double> identityMatrix(int64_t size) {
  checkListSize("identityMatrix", size, 1024); // 1024 x 1024 numbers
  std::vector<double> list(size * size, 0.0);
  for (int64_t i = 0; i < size; ++i)
    list[i * size + i] = 1;
  return list;
}

std::vector<double> oneHot(int64_t size, int64_t index, double on, double off) {
  checkListSize("oneHot", size, mostElements);
  std::vector<double> list(size, off);
  list[((index % size) + size) % size] = on;
  return list;
}

//===------------------------------------------------------------------------------------------------------===//
// Options and sizes
//===------------------------------------------------------------------------------------------------------===//

int64_t Site::n() const { return recorder->inputs.n; }
int64_t Site::m() const { return recorder->inputs.m; }
const std::string &Site::text(std::string_view option) const { return recorder->option(option); }
bool Site::flag(std::string_view option) const { return recorder->option(option) == "true"; }

template <typename Number> static Number read(const Recorder &recorder, std::string_view option, const char *what) {
  const std::string &text = recorder.option(option);
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    recorder.fail(join("the recipe reads option '", option, "' as ", what, ", its value is '", text, "'"));
  return value;
}
int64_t Site::integer(std::string_view option) const { return read<int64_t>(*recorder, option, "an integer"); }
double Site::number(std::string_view option) const { return read<double>(*recorder, option, "a number"); }

int64_t Site::layerIndex() const {
  if (text("layer_index") != "none")
    return integer("layer_index");
  // Registry::parameters finds out what depends on this; nothing may be initialised with it.
  if (text("layer_seed") == "none")
    return 0;
  // splitmix64: seeds that follow each other draw independently.
  uint64_t bits = static_cast<uint64_t>(integer("layer_seed")) + 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return static_cast<int64_t>((bits ^ (bits >> 31)) >> 34);
}

//===------------------------------------------------------------------------------------------------------===//
// Arguments
//===------------------------------------------------------------------------------------------------------===//

Rows Site::streams() {
  if (recorder->streams < 0)
    recorder->streams = recorder->addArgument(NodeKind::Streams, "x", {TypeKind::Rows, {rows()}}, false);
  return Access::rows(recorder, recorder->streams);
}

static std::string declaredShapeText(const Shape &shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += i ? ", " : "";
    if (!shape[i].channels)
      text += std::to_string(shape[i].factor);
    else
      text += shape[i].factor == 1 ? "d" : std::to_string(shape[i].factor) + "d";
  }
  return text + ")";
}

/// Names stand in the program's text, those of arguments also as names of values. `what` says whose name it is.
static void checkName(const Recorder &recorder, const char *what, std::string_view name) {
  bool word = !name.empty() && (std::isalpha(static_cast<unsigned char>(name[0])) || name[0] == '_');
  for (char c : name)
    word &= std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
  if (!word)
    recorder.fail(join(what, " '", name, "': a name is made of letters, digits, '_' and '.', with a letter first"));
}

/// Parameters are those of modules, of which a dot makes children, and are saved under their names: what an archive could
/// not give back is refused here.
static void checkParameterName(const Recorder &recorder, std::string_view name) {
  auto refuse = [&](const std::string &why) { recorder.fail(join("parameter '", name, "': ", why)); };
  // LibTorch's archives are programs in its dialect of Python, of which these are the words.
  static constexpr std::string_view keywords[] = {"False", "None",   "NoneType", "True",   "and",   "as",   "assert",
                                                  "break", "class",  "continue", "def",    "del",   "elif", "else",
                                                  "for",   "global", "if",       "import", "in",    "is",   "not",
                                                  "or",    "pass",   "raise",    "return", "while", "with"};
  if (name == "hyperjit_spec" || name == "branch" || name.starts_with("branch."))
    refuse("a layer saves something else under this name");
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty())
      refuse("before, between and after dots stand names");
    if (std::find(std::begin(keywords), std::end(keywords), part) != std::end(keywords))
      refuse(join("'", part, "' is a keyword of LibTorch's archives, under which nothing can be loaded again"));
    begin = end + 1;
  }
  auto begins = [](std::string_view longer, std::string_view shorter) {
    return longer.size() > shorter.size() && longer.starts_with(shorter) && longer[shorter.size()] == '.';
  };
  for (const DeclaredParameter &other : recorder.parameters)
    if (begins(other.name, name) || begins(name, other.name))
      refuse(
          join("there is '", other.name, "', and one of the two would be both a parameter and what holds the other"));
}

/// Where the name is at hand: a start that is no number would be noticed in the first loss only.
static void checkStart(const Recorder &recorder, const char *what, std::string_view name,
                       const std::vector<double> &numbers) {
  for (double number : numbers)
    if (!std::isfinite(number))
      recorder.fail(join(what, " '", name, "' starts with ", number, "; a start is finite"));
}

/// One argument of the program. The initialisation is checked here, where the parameter's name is at hand.
static int declare(Recorder &recorder, std::string_view name, const Shape &shape, ParameterKind kind, Type type,
                   const Initialisation &initialisation) {
  checkName(recorder, "parameter", name);
  checkParameterName(recorder, name);
  for (const DeclaredParameter &other : recorder.parameters)
    if (other.name == name)
      recorder.fail(join("parameter '", name, "' is declared twice: first ", declaredShapeText(other.shape), ", then ",
                         declaredShapeText(shape)));
  if (initialisation.kind == Initialisation::Kind::Values &&
      (kind != ParameterKind::Coefficients || static_cast<int64_t>(initialisation.values.size()) != type.elements()))
    recorder.fail(join("parameter '", name, "' of shape ", declaredShapeText(shape), " is initialised with ",
                       initialisation.values.size(), " values; a list has one for each element, and a wide parameter ",
                       "takes constant or normal"));
  checkStart(recorder, "parameter", name, {initialisation.first, initialisation.second});
  checkStart(recorder, "parameter", name, initialisation.values);
  if (initialisation.second < 0)
    recorder.fail(join("parameter '", name, "' starts with a standard deviation of ", initialisation.second,
                       "; it is at least 0"));
  int node = recorder.addArgument(NodeKind::Parameter, std::string(name), std::move(type), true);
  recorder.parameters.push_back({std::string(name), shape, kind, initialisation, node});
  return node;
}

[[noreturn]] static void refuseShape(const Recorder &recorder, std::string_view name, const Shape &shape,
                                     const char *needed) {
  recorder.fail(join("parameter '", name, "' has shape ", declaredShapeText(shape), "; ", needed));
}

static bool positive(const Shape &shape) {
  return !shape.empty() && std::all_of(shape.begin(), shape.end(), [](const Extent &e) { return e.factor > 0; });
}

Coefficients Site::coefficients(std::string_view name, const std::vector<int64_t> &shape,
                                const Initialisation &initialisation) {
  Shape extents(shape.begin(), shape.end());
  if (!positive(extents))
    refuseShape(*recorder, name, extents, "coefficients have at least one axis and positive sizes");
  return Access::coefficients(recorder, declare(*recorder, name, extents, ParameterKind::Coefficients,
                                                {TypeKind::Coefficients, shape}, initialisation));
}

Coefficients Site::scalar(std::string_view name, double initial) { return coefficients(name, {1}, constant(initial)); }

Channels Site::channels(std::string_view name, const Shape &shape, const Initialisation &initialisation) {
  bool fits = positive(shape) && shape.back().channels;
  std::vector<int64_t> factors;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    fits &= shape[i].channels == (i + 1 == shape.size());
    factors.push_back(shape[i].factor);
  }
  if (!fits)
    refuseShape(*recorder, name, shape,
                "channel vectors end with the only axis that counts channels: (d), (k, D), ...");
  return Access::rows(recorder, declare(*recorder, name, shape, ParameterKind::Rows,
                                        {TypeKind::Rows, {product(factors)}}, initialisation));
}

Weight Site::weight(std::string_view name, const Shape &shape, const Initialisation &initialisation) {
  bool fits = positive(shape) && shape.size() >= 2;
  std::vector<int64_t> factors;
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i].channels == (i + 2 == shape.size());
    if (i + 1 < shape.size())
      factors.push_back(shape[i].factor);
  }
  if (!fits)
    refuseShape(*recorder, name, shape,
                "a weight has channels in its last axis but one: (d, K), (n D, K), ...; one stored output first is "
                "weightFromRows(channels(...))");
  return Access::weight(recorder, declare(*recorder, name, shape, ParameterKind::Weight,
                                          {TypeKind::Weight, {product(factors), shape.back().factor}}, initialisation));
}

Coefficients Site::constants(const std::vector<int64_t> &shape, const std::vector<double> &list) {
  bool fits = !shape.empty() && product(shape) == static_cast<int64_t>(list.size()) && !list.empty();
  if (!fits)
    recorder->fail(join("constants: ", list.size(), " numbers for shape ", shapeText(shape)));
  return Access::coefficients(recorder, recorder->addOperation("hc.constant", {}, {TypeKind::Coefficients, shape},
                                                               {{"value", denseText(shape, list)}}));
}

//===------------------------------------------------------------------------------------------------------===//
// The hole and the results
//===------------------------------------------------------------------------------------------------------===//

static int roundTo(Recorder &recorder, const Rows &x, const char *edge) {
  return recorder.addOperation("hc.round", {Access::id(x)}, typeOf(x), {wordAttribute("edge", edge)});
}

static void requireOwn(const std::shared_ptr<Recorder> &recorder, const char *function, const Value &value) {
  if (requireValid(function, value) != recorder)
    recorder->fail(join(function, ": ", describe(value), " belong to another site"));
}

void Site::branchInput(const Rows &u) {
  requireOwn(recorder, "branchInput", u);
  if (recorder->input >= 0)
    recorder->fail("branchInput is called twice; a site has one hole (several input views are v m rows of one call)");
  if (u.rows() % m() != 0)
    recorder->fail(join("branchInput: u has ", describe(u), ", a branch reads v m rows with m = ", m()));
  // Backward reads the cotangent of u like streams, so both directions take as many rows.
  if (u.rows() > kMaxStreamRows)
    recorder->fail(join("branchInput: u has ", describe(u), "; fused kernels take at most ", kMaxStreamRows,
                        " branch input rows"));
  if (Access::node(u).afterHole)
    recorder->fail("branchInput: u depends on the branch's output");
  if (u.uniform())
    recorder->fail("branchInput: u is the same for all tokens; it must depend on the streams");
  recorder->input = roundTo(*recorder, u, "branch_input");
}

Rows Site::branchOutput() {
  if (recorder->hole < 0) {
    recorder->hole = recorder->addArgument(NodeKind::Hole, "y", {TypeKind::Rows, {m()}}, false);
    recorder->nodes[recorder->hole].afterHole = true;
  }
  return Access::rows(recorder, recorder->hole);
}

void Site::next(const Rows &x) {
  requireOwn(recorder, "next", x);
  if (recorder->result >= 0)
    recorder->fail("next is called twice; a site gives its streams once");
  if (x.rows() != rows())
    recorder->fail(
        join("next: the new streams have ", describe(x), ", the streams ", rows(), " (n = ", n(), ", m = ", m(), ")"));
  recorder->result = roundTo(*recorder, x, "streams");
}

Coefficients Site::carryIn(std::string_view name, const std::vector<int64_t> &shape, const std::vector<double> &start) {
  checkName(*recorder, "carryIn", name);
  for (const CarryInfo &other : recorder->carriesIn)
    if (other.name == name)
      recorder->fail(join("carryIn '", name, "' is declared twice"));
  if (shape.empty() || product(shape) != static_cast<int64_t>(start.size()))
    recorder->fail(join("carryIn '", name, "': shape ", shapeText(shape), " starts with ", start.size(), " numbers"));
  checkStart(*recorder, "carryIn", name, start);
  int node = recorder->addArgument(NodeKind::Carry, std::string(name), {TypeKind::Coefficients, shape}, false);
  recorder->carriesIn.push_back({std::string(name), product(shape), start});
  recorder->carryNodes.push_back(node);
  return Access::coefficients(recorder, node);
}

void Site::carryOut(std::string_view name, const Coefficients &value) {
  requireOwn(recorder, "carryOut", value);
  checkName(*recorder, "carryOut", name);
  for (const CarryOutput &other : recorder->carriesOut)
    if (other.name == name)
      recorder->fail(join("carryOut '", name, "' is given twice"));
  const Node &node = Access::node(value);
  if (node.afterHole)
    recorder->fail(join("carryOut '", name, "': ", describe(value),
                        " depend on the branch's output; a carry is made before the hole"));
  if (node.uniform)
    recorder->fail(
        join("carryOut '", name, "': ", describe(value), " are the same for all tokens; a carry is a token's"));
  for (std::size_t i = 0; i < recorder->carriesIn.size(); ++i) {
    const std::vector<int64_t> &expected = recorder->nodes[recorder->carryNodes[i]].type.sizes;
    if (recorder->carriesIn[i].name == name && expected != node.type.sizes)
      recorder->fail(join("carryOut '", name, "' is ", shapeText(node.type.sizes), ", carryIn of this name ",
                          shapeText(expected)));
  }
  recorder->carriesOut.push_back({std::string(name), Access::id(value)});
}

} // namespace hyperjit::dsl
