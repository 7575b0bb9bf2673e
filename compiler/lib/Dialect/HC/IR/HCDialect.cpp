//===- HCDialect.cpp - Dialect, types, function ops -----------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HC.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FunctionImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

#include <algorithm>
#include <numeric>

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::hc;

#include "hyperjit/Dialect/HC/IR/HCDialect.cpp.inc"
#include "hyperjit/Dialect/HC/IR/HCInterfaces.cpp.inc"

//===----------------------------------------------------------------------===//
// Types
//===----------------------------------------------------------------------===//

/// width ::= `d` | integer
static ParseResult parseWidth(AsmParser &parser, int64_t &width) {
  if (succeeded(parser.parseOptionalKeyword("d"))) {
    width = symbolicWidth;
    return success();
  }
  const llvm::SMLoc place = parser.getCurrentLocation();
  if (failed(parser.parseInteger(width)))
    return failure();
  return width >= 0 ? success() : ParseResult(parser.emitError(place, "a width is at least 0, or d"));
}
static void printWidth(AsmPrinter &printer, int64_t width) {
  if (width == symbolicWidth)
    printer << "d";
  else
    printer << width;
}

static ParseResult parseShape(AsmParser &parser, SmallVector<int64_t> &shape) {
  return parser.parseCommaSeparatedList([&] { return parser.parseInteger(shape.emplace_back()); });
}
static void printShape(AsmPrinter &printer, ArrayRef<int64_t> shape) { llvm::interleaveComma(shape, printer); }

/// Numbers of rows or of a weight: their bytes, and those of a block of tokens, are counted in 64 bits.
static constexpr int64_t mostWide = int64_t(1) << 48;

static LogicalResult verifySizes(function_ref<InFlightDiagnostic()> emitError, int64_t rows, int64_t width,
                                 int64_t columns) {
  if (rows < 1 || rows > RowsType::mostRows)
    return emitError() << "needs at least one row and at most " << RowsType::mostRows << ", got " << rows;
  if (columns < 1 || columns > RowsType::mostRows)
    return emitError() << "needs at least one column and at most " << RowsType::mostRows << ", got " << columns;
  if (width == symbolicWidth)
    return success();
  if (width < 1)
    return emitError() << "needs a width of at least one channel, got " << width;
  if (width > mostWide / (rows * columns))
    return emitError() << "has " << rows << " rows of " << width << " channels and " << columns
                       << " columns; a value has at most 2^48 numbers";
  return success();
}

LogicalResult RowsType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t rows, int64_t width) {
  return verifySizes(emitError, rows, width, /*columns=*/1);
}
LogicalResult WeightType::verify(function_ref<InFlightDiagnostic()> emitError, int64_t rows, int64_t width,
                                 int64_t columns) {
  return verifySizes(emitError, rows, width, columns);
}
LogicalResult CoeffsType::verify(function_ref<InFlightDiagnostic()> emitError, ArrayRef<int64_t> shape) {
  if (shape.empty())
    return emitError() << "coefficients have rank one at least";
  if (llvm::any_of(shape, [](int64_t size) { return size < 1; }))
    return emitError() << "coefficients have positive sizes";
  int64_t count = 1;
  for (int64_t size : shape)
    if (size > mostElements / count)
      return emitError() << "coefficients are at most " << mostElements << " numbers";
    else
      count *= size;
  return success();
}

LogicalResult hc::checkSpecialized(FuncOp function, ArrayRef<StringRef> types) {
  for (StringRef type : types)
    if (!function->getAttrOfType<TypeAttr>(type))
      return function.emitError() << "has no " << type << ": run hc-specialize first";
  return success();
}

static constexpr StringLiteral beyondLimitsAttrName = "hc.beyond_limits";

InFlightDiagnostic hc::refuseBeyondLimits(FuncOp kernel) {
  kernel->setAttr(beyondLimitsAttrName, UnitAttr::get(kernel.getContext()));
  return kernel.emitError();
}

bool hc::beyondLimits(FuncOp kernel) { return kernel->hasAttr(beyondLimitsAttrName); }

static DictionaryAttr orEmpty(DictionaryAttr attrs, MLIRContext *context) {
  return attrs ? attrs : DictionaryAttr::get(context);
}
DictionaryAttr hc::attrsOfArgument(FuncOp function, unsigned index) {
  return orEmpty(function.getArgAttrDict(index), function.getContext());
}
DictionaryAttr hc::attrsOfResult(FuncOp function, unsigned index) {
  return orEmpty(function.getResultAttrDict(index), function.getContext());
}

FailureOr<int64_t> hc::checkKernel(FuncOp kernel) {
  auto compute = kernel->getAttrOfType<TypeAttr>("hc.compute");
  if (!compute || !isCompute(compute.getValue()))
    return kernel.emitError("needs the attribute hc.compute = f32 or f64: run hc-specialize first");
  int64_t width = 0;
  auto note = [&](Type type) -> LogicalResult {
    int64_t found = 0;
    if (auto rows = dyn_cast<RowsType>(type))
      found = rows.getWidth();
    else if (auto weight = dyn_cast<WeightType>(type))
      found = weight.getWidth();
    else
      return success();
    if (found == symbolicWidth)
      return kernel.emitError("has the unbound row width d: run hc-specialize first");
    if (width != 0 && found != width)
      return kernel.emitError() << "has rows of width " << width << " and of width " << found
                                << "; a kernel has one width";
    width = found;
    return success();
  };
  for (Type type : kernel.getArgumentTypes())
    if (failed(note(type)))
      return failure();
  for (Operation &op : kernel.getEntry().without_terminator()) {
    for (Type type : op.getResultTypes())
      if (failed(note(type)))
        return failure();
    auto phase = op.getAttrOfType<StringAttr>("phase");
    auto stage = op.getAttrOfType<IntegerAttr>("stage");
    if (!phase || !stage)
      return op.emitOpError("has no phase and stage: run hc-form-phases first");
    if (!llvm::is_contained({"P", "M", "R", "C", "W", "E"}, phase.getValue()))
      return op.emitOpError() << "phase is " << phase << ", expected P, M, R, C, W or E";
    if (!stage.getType().isSignlessInteger(64) || stage.getInt() < 0 || stage.getInt() > maxStages)
      return op.emitOpError() << "stage is " << stage << ", expected an i64 from 0 to " << maxStages;
  }
  return std::max<int64_t>(width, 1);
}

#define GET_TYPEDEF_CLASSES
#include "hyperjit/Dialect/HC/IR/HCTypes.cpp.inc"

int64_t hc::elementCount(Type type) {
  if (auto coeffs = dyn_cast<CoeffsType>(type))
    return coeffs.getNumElements();
  if (auto rows = dyn_cast<RowsType>(type))
    return rows.getRows() * rows.getWidth();
  auto weight = cast<WeightType>(type);
  return weight.getRows() * weight.getWidth() * weight.getColumns();
}

SmallVector<SmallVector<int64_t>> hc::permutations(int64_t n) {
  SmallVector<SmallVector<int64_t>> all;
  SmallVector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  do {
    all.push_back(order);
  } while (std::next_permutation(order.begin(), order.end()));
  return all;
}

//===----------------------------------------------------------------------===//
// Dialect
//===----------------------------------------------------------------------===//

void HCDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "hyperjit/Dialect/HC/IR/HCTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "hyperjit/Dialect/HC/IR/HCOps.cpp.inc"
      >();
}

Operation *HCDialect::materializeConstant(OpBuilder &builder, Attribute value, Type type, Location loc) {
  auto elements = dyn_cast<DenseElementsAttr>(value);
  return elements && isa<CoeffsType>(type) ? ConstantOp::create(builder, loc, type, elements) : nullptr;
}

//===----------------------------------------------------------------------===//
// Attributes of functions, arguments and results
//===----------------------------------------------------------------------===//

bool hc::isStorage(Type type) { return isa<BFloat16Type, Float16Type, Float32Type, Float64Type>(type); }
bool hc::isCompute(Type type) { return isa<Float32Type, Float64Type>(type); }

namespace {
/// What an attribute may be. Passes cast without asking, so the verifier asks once for all of them.
enum class Form { Unit, Text, Role, Operand, Storage, Compute, Positive, Saved, Count };

struct KnownAttribute {
  StringLiteral name;
  Form form;
};
constexpr KnownAttribute ofFunctions[] = {
    {"hc.role", Form::Role},       {"hc.m", Form::Positive},         {"hc.saved", Form::Saved},
    {"hc.compute", Form::Compute}, {"hc.branch_in", Form::Storage},  {"hc.branch_out", Form::Storage},
    {"hc.adjoint", Form::Unit},    {"hc.reads_u", Form::Count},      {"hc.writes_u", Form::Count},
    {"hc.saved_u", Form::Count},   {"hc.narrow_bytes", Form::Count}, {"hc.exposed", Form::Count},
    {"hc.stages", Form::Count},    {"hc.bucket", Form::Text},        {beyondLimitsAttrName, Form::Unit}};
constexpr KnownAttribute ofValues[] = {{HCDialect::operandAttrName, Form::Operand},
                                       {HCDialect::nameAttrName, Form::Text},
                                       {HCDialect::dtypeAttrName, Form::Storage},
                                       {HCDialect::uniformAttrName, Form::Unit}};

constexpr StringLiteral roles[] = {"before", "after", "boundary"};
constexpr StringLiteral operandWords[] = {"streams",      "branch",  "branch_input", "parameter", "carry",
                                          "coefficients", "uniform", "channels",     "saved"};

std::string listed(ArrayRef<StringLiteral> words) {
  std::string list;
  for (auto [i, word] : llvm::enumerate(words))
    list += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ") + word.str();
  return list;
}

/// What the attribute should be, or nothing if it is.
std::string wanted(Form form, Attribute value) {
  auto word = dyn_cast<StringAttr>(value);
  auto type = dyn_cast<TypeAttr>(value);
  auto isInteger = [&](int64_t least, int64_t most) {
    auto integer = dyn_cast<IntegerAttr>(value);
    return integer && integer.getType().isSignlessInteger(64) && integer.getInt() >= least && integer.getInt() <= most;
  };
  constexpr int64_t any = std::numeric_limits<int64_t>::max();
  switch (form) {
  case Form::Unit:
    return isa<UnitAttr>(value) ? "" : "no value";
  case Form::Text:
    return word ? "" : "a string";
  case Form::Role:
    return word && llvm::is_contained(roles, word.getValue()) ? "" : listed(roles);
  case Form::Operand: {
    StringRef name = word ? word.getValue() : "";
    name.consume_front("d_");
    return llvm::is_contained(operandWords, name) ? "" : listed(operandWords) + ", or d_ and one of these";
  }
  case Form::Storage:
    return type && isStorage(type.getValue()) ? "" : "bf16, f16, f32 or f64";
  case Form::Compute:
    return type && isCompute(type.getValue()) ? "" : "f32 or f64";
  case Form::Positive:
    return isInteger(1, CoeffsType::mostElements) ? "" : "an i64 from 1 to 2^20";
  case Form::Saved:
    return isInteger(0, CoeffsType::mostElements) ? "" : "an i64 from 0 to 2^20";
  case Form::Count:
    return isInteger(0, any) ? "" : "an i64 of 0 at least";
  }
  llvm_unreachable("a form without a rule");
}

/// `what` names the bearer: "", "argument 2: ", "result 0: ".
LogicalResult verifyAttribute(Operation *op, const Twine &what, NamedAttribute attribute,
                              ArrayRef<KnownAttribute> known, StringRef bearers) {
  const auto *found =
      llvm::find_if(known, [&](const KnownAttribute &one) { return one.name == attribute.getName().getValue(); });
  if (found == known.end())
    return op->emitOpError() << what << attribute.getName().getValue() << " is no attribute of " << bearers;
  if (std::string expected = wanted(found->form, attribute.getValue()); !expected.empty())
    return op->emitOpError() << what << attribute.getName().getValue() << " is " << attribute.getValue()
                             << ", expected " << expected;
  return success();
}
} // namespace

LogicalResult HCDialect::verifyOperationAttribute(Operation *op, NamedAttribute attribute) {
  if (!isa<FuncOp>(op))
    return op->emitOpError() << attribute.getName().getValue()
                             << " is an attribute of hc.func, its arguments or its results only";
  return verifyAttribute(op, "", attribute, ofFunctions, "a function");
}
LogicalResult HCDialect::verifyRegionArgAttribute(Operation *op, unsigned, unsigned argument,
                                                  NamedAttribute attribute) {
  return verifyAttribute(op, "argument " + Twine(argument) + ": ", attribute, ofValues, "arguments and results");
}
LogicalResult HCDialect::verifyRegionResultAttribute(Operation *op, unsigned, unsigned result,
                                                     NamedAttribute attribute) {
  return verifyAttribute(op, "result " + Twine(result) + ": ", attribute, ofValues, "arguments and results");
}

//===----------------------------------------------------------------------===//
// Uniformity
//===----------------------------------------------------------------------===//

bool Uniformity::isUniform(Value value) {
  if (auto it = known.find(value); it != known.end())
    return it->second;
  bool uniform = false;
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto function = dyn_cast<FuncOp>(argument.getOwner()->getParentOp());
    uniform = function && function.getArgAttr(argument.getArgNumber(), HCDialect::uniformAttrName);
  } else {
    Operation *op = value.getDefiningOp();
    if (sumsOverTokens(op))
      uniform = true;
    else if (auto branch = dyn_cast<BranchOp>(op)) {
      unsigned index = cast<OpResult>(value).getResultNumber();
      uniform = index > 0 && isUniform(branch.getCrossing()[index - 1]);
    } else
      uniform = llvm::all_of(op->getOperands(), [&](Value operand) { return isUniform(operand); });
  }
  return known[value] = uniform;
}

//===----------------------------------------------------------------------===//
// hc.func, hc.return, hc.branch
//===----------------------------------------------------------------------===//

void FuncOp::build(OpBuilder &builder, OperationState &state, StringRef name, FunctionType type) {
  state.addAttribute(SymbolTable::getSymbolAttrName(), builder.getStringAttr(name));
  state.addAttribute(getFunctionTypeAttrName(state.name), TypeAttr::get(type));
  Region *body = state.addRegion();
  Block *entry = new Block();
  body->push_back(entry);
  for (Type input : type.getInputs())
    entry->addArgument(input, state.location);
}

ParseResult FuncOp::parse(OpAsmParser &parser, OperationState &result) {
  auto buildType = [](Builder &builder, ArrayRef<Type> inputs, ArrayRef<Type> results,
                      function_interface_impl::VariadicFlag,
                      std::string &) { return builder.getFunctionType(inputs, results); };
  return function_interface_impl::parseFunctionOp(parser, result, /*allowVariadic=*/false,
                                                  getFunctionTypeAttrName(result.name), buildType,
                                                  getArgAttrsAttrName(result.name), getResAttrsAttrName(result.name));
}

void FuncOp::print(OpAsmPrinter &printer) {
  function_interface_impl::printFunctionOp(printer, *this, /*isVariadic=*/false, getFunctionTypeAttrName(),
                                           getArgAttrsAttrName(), getResAttrsAttrName());
}

LogicalResult FuncOp::verifyType() {
  auto isValue = [](Type type) { return isa<RowsType, CoeffsType, WeightType>(type); };
  for (auto [i, type] : llvm::enumerate(getArgumentTypes()))
    if (!isValue(type))
      return emitOpError() << "argument " << i << " is " << type << ", expected rows, coefficients or a weight";
  for (auto [i, type] : llvm::enumerate(getResultTypes()))
    if (!isValue(type))
      return emitOpError() << "result " << i << " is " << type << ", expected rows, coefficients or a weight";
  return success();
}

LogicalResult ReturnOp::verify() {
  auto function = cast<FuncOp>((*this)->getParentOp());
  if (getOperandTypes() != TypeRange(function.getFunctionType().getResults()))
    return emitOpError("operand types do not match the function's results ") << function.getFunctionType().getResults();
  return success();
}

LogicalResult BranchOp::verify() {
  if (getCrossing().getTypes() != getCrossed().getTypes())
    return emitOpError("crossing values come out with the types they went in with");
  if (getInput().getType().getWidth() != getOutput().getType().getWidth())
    return emitOpError("branch input and output differ in width");
  return success();
}
