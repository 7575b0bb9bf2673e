//===- HCToEmitC.cpp - Bodies of a kernel as EmitC classes ----------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "Pieces.h"

#include "hyperjit/Conversion/HCToEmitC.h"

#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::cuda;
using llvm::ArrayRef;
using llvm::formatv;
using llvm::SmallVector;
using llvm::StringRef;

StringRef cuda::storageName(Type type) {
  if (isa<BFloat16Type>(type))
    return "bfloat16";
  if (isa<Float16Type>(type))
    return "float16";
  return isa<Float64Type>(type) ? "double" : "float";
}

std::string cuda::literal(double value) {
  if (value != value)
    return "(0.0 / 0.0)";
  if (value == std::numeric_limits<double>::infinity())
    return "(1.0 / 0.0)";
  if (value == -std::numeric_limits<double>::infinity())
    return "(-1.0 / 0.0)";
  char buffer[40];
  for (int digits : {6, 9, 17}) { // the shortest of three that reads back exactly
    snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    if (strtod(buffer, nullptr) == value)
      break;
  }
  std::string text = buffer;
  if (text.find_first_of(".e") == std::string::npos)
    text += ".0";
  return text;
}

bool cuda::isMovement(Operation *op) {
  return isa_and_present<hc::ConstantOp, hc::ReshapeOp, hc::SliceOp, hc::TransposeOp, hc::BroadcastOp>(op);
}

Type cuda::halfTypeOf(Value rows) {
  Type type;
  if (auto round = rows.getDefiningOp<hc::RoundOp>())
    type = round.getType().value_or(Type());
  else if (auto gather = rows.getDefiningOp<hc::GatherRowsOp>())
    return halfTypeOf(gather.getInput());
  else if (auto argument = dyn_cast<BlockArgument>(rows))
    if (auto function = dyn_cast<hc::FuncOp>(argument.getOwner()->getParentOp()))
      if (auto dtype = function.getArgAttrOfType<TypeAttr>(argument.getArgNumber(), hc::HCDialect::dtypeAttrName))
        type = dtype.getValue();
  return isa_and_present<BFloat16Type, Float16Type>(type) ? type : Type();
}

int64_t cuda::planesOf(Value rows) { return isa_and_present<BFloat16Type>(halfTypeOf(rows)) ? 1 : 2; }

/// Whether sums with `rows` are all that is made of them, and are rounded to bf16.
static bool onlyRoundedToBFloat16(Value rows) {
  llvm::SetVector<Value> sums; // each once: a sum may be an operand of many
  sums.insert(rows);
  for (size_t i = 0; i < sums.size(); ++i)
    for (Operation *user : sums[i].getUsers()) {
      if (auto round = dyn_cast<hc::RoundOp>(user); round && round.getType() && isa<BFloat16Type>(*round.getType()))
        continue;
      if (!isa<hc::AddOp>(user))
        return false;
      sums.insert(user->getResult(0));
    }
  return true;
}

int64_t cuda::planesOfExpansion(Value weight) {
  return llvm::all_of(weight.getUsers(),
                      [](Operation *user) {
                        auto expand = dyn_cast<hc::ExpandOp>(user);
                        return !expand || onlyRoundedToBFloat16(expand);
                      })
             ? 1
             : 2;
}

//===----------------------------------------------------------------------===//
// Emission
//===----------------------------------------------------------------------===//

static emitc::FuncOp addFunction(OpBuilder &builder, Location location, StringRef name, StringRef specifiers,
                                 ArrayRef<StringRef> arguments) {
  SmallVector<Type> types;
  for (StringRef argument : arguments)
    types.push_back(emitc::OpaqueType::get(builder.getContext(), argument));
  auto function = emitc::FuncOp::create(builder, location, name, builder.getFunctionType(types, {}));
  function.setSpecifiersAttr(builder.getStrArrayAttr({specifiers}));
  function.addEntryBlock();
  OpBuilder inside = OpBuilder::atBlockEnd(&function.getBody().front());
  emitc::ReturnOp::create(inside, location, Value());
  return function;
}

BodyEmitter::BodyEmitter(ModuleOp module, StringRef name, Kind kind, const Places &places,
                         SmallVectorImpl<std::string> &tables)
    : builder(module.getContext()), location(module.getLoc()), kind(kind), places(places), tables(tables) {
  builder.setInsertionPointToEnd(module.getBody());
  classOp = emitc::ClassOp::create(builder, location, name, /*final_specifier=*/false);
  classOp.getBody().emplaceBlock();
  builder.setInsertionPointToEnd(&classOp.getBody().front());
  StringRef what = kind == Kind::Coefficients ? "Token" : kind == Kind::Rows ? "Lane" : "Uniform";
  std::string specifiers = formatv("template <class {0}> HYPERJIT_METHOD static", what);
  std::string argument = formatv("{0} &", what);
  emitc::FuncOp run = addFunction(builder, location, "run", specifiers, {argument});
  context = run.getArgument(0);
  builder.setInsertionPoint(run.getBody().front().getTerminator());
}

void BodyEmitter::fail(Operation *op, StringRef reason) {
  failed = true;
  op->emitOpError(reason);
}

LogicalResult BodyEmitter::finish() { return mlir::failure(failed); }

Value BodyEmitter::callText(StringRef callee, ArrayRef<std::string> templateArguments, ArrayRef<Value> operands,
                            ArrayRef<std::string> texts, bool result) {
  MLIRContext *mlir = builder.getContext();
  SmallVector<Attribute> arguments, templates;
  for (auto [i, operand] : llvm::enumerate(operands))
    arguments.push_back(builder.getIndexAttr(i));
  for (const std::string &text : texts)
    arguments.push_back(emitc::OpaqueAttr::get(mlir, text));
  for (const std::string &text : templateArguments)
    templates.push_back(emitc::OpaqueAttr::get(mlir, text));
  SmallVector<Type> types;
  if (result)
    types.push_back(emitc::OpaqueType::get(mlir, "auto"));
  auto call = emitc::CallOpaqueOp::create(builder, location, types, callee, operands,
                                          texts.empty() ? ArrayAttr() : builder.getArrayAttr(arguments),
                                          templates.empty() ? ArrayAttr() : builder.getArrayAttr(templates));
  return result ? call.getResult(0) : Value();
}

Value BodyEmitter::call(StringRef callee, ArrayRef<std::string> templateArguments, ArrayRef<Value> operands,
                        ArrayRef<double> numbers, bool result) {
  SmallVector<std::string> texts;
  for (double value : numbers)
    texts.push_back(literal(value));
  return callText(callee, templateArguments, operands, texts, result);
}

Value BodyEmitter::convert(Value value) {
  if (Value known = converted.lookup(value))
    return known;
  Operation *op = value.getDefiningOp();
  auto memory = places.memory.find(value);
  Value result;
  if (kind == Kind::Coefficients) {
    largestValue = std::max(largestValue, countOf(value));
    if (auto record = places.record.find(value); record != places.record.end())
      result = call("readRecord", {number(record->second), number(countOf(value))}, {context});
    else if (auto uniform = places.uniform.find(value); uniform != places.uniform.end())
      result = call("readUniform", {number(uniform->second), number(countOf(value))}, {context});
    else if (auto fetched = places.fetched.find(value); fetched != places.fetched.end())
      result = call("readFetched", {number(fetched->second), number(countOf(value))}, {context});
    else if (memory != places.memory.end())
      result = call("loadCoefficients", {memory->second, number(countOf(value))}, {context});
    else if (op && isa<hc::CoeffsType>(value.getType()))
      result = convertCoefficients(op);
  } else if (kind == Kind::Rows) {
    if (memory != places.memory.end())
      result = call("loadRows", {memory->second, number(rowsOf(value))}, {context});
    else if (op && isa<hc::RowsType>(value.getType()))
      result = convertRows(op);
  } else {
    if (memory != places.memory.end()) {
      if (auto type = dyn_cast<hc::WeightType>(value.getType()))
        result = call("uniformWeight", {memory->second, number(type.getRows()), number(type.getColumns())}, {context});
      else
        result = call("uniformRows", {memory->second, number(rowsOf(value))}, {context});
    } else if (op) {
      result = convertWide(op);
    }
  }
  if (!result) {
    if (op && !failed)
      fail(op, "has no CUDA form in this place");
    failed = true;
    return context;
  }
  converted[value] = result;
  return result;
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

std::string BodyEmitter::source(Value coefficients) {
  if (kind == Kind::Wide) {
    if (std::optional<double> number = hc::splatOf(coefficients))
      return formatv("KnownNumber<{0}ull>", llvm::bit_cast<uint64_t>(*number));
    auto memory = places.memory.find(coefficients);
    if (memory != places.memory.end())
      return memory->second;
  } else {
    if (auto record = places.record.find(coefficients); record != places.record.end())
      return formatv("InRecord<{0}>", record->second);
    if (auto uniform = places.uniform.find(coefficients); uniform != places.uniform.end())
      return formatv("InUniform<{0}>", uniform->second);
  }
  if (Operation *op = coefficients.getDefiningOp())
    fail(op, "was given no place for its users");
  failed = true;
  return "";
}

std::string BodyEmitter::weight(Value value) {
  auto type = cast<hc::WeightType>(value.getType());
  auto memory = places.memory.find(value);
  if (memory == places.memory.end()) {
    if (Operation *op = value.getDefiningOp())
      fail(op, "was given no place for its users");
    failed = true;
    return "";
  }
  return formatv("PlainWeight<{0}, {1}, {2}>", memory->second, type.getRows(), type.getColumns());
}

static SmallVector<std::string> indexTexts(ArrayRef<int64_t> indices) {
  SmallVector<std::string> texts;
  for (int64_t index : indices)
    texts.push_back(number(index));
  return texts;
}

Value BodyEmitter::expandTiles(hc::ExpandOp op, ArrayRef<Value> operands) {
  Value coefficients = op.getCoefficients();
  return call("expandTiles",
              {source(coefficients), places.expansion.lookup(op.getWeight()), number(shapeOf(coefficients)[0])},
              operands);
}

hc::ExpandOp BodyEmitter::expansionIn(hc::AddOp add, SmallVectorImpl<Value> &summands) {
  constexpr int64_t mostRows = 4; // more of them leave no registers for the summands
  if (!places.sumsInTiles || rowsOf(add.getResult()) > mostRows)
    return nullptr;
  // What makes a value that nothing but the sum needs and no memory holds.
  auto makes = [&](Value value) {
    return value.hasOneUse() && !places.memory.count(value) ? value.getDefiningOp() : nullptr;
  };
  auto expands = [&](Value value) {
    auto expand = dyn_cast_if_present<hc::ExpandOp>(makes(value));
    return expand && places.expansion.count(expand.getWeight()) ? expand : hc::ExpandOp();
  };
  for (unsigned i : {0u, 1u}) {
    Value operand = add->getOperand(i), other = add->getOperand(1 - i);
    if (hc::ExpandOp expand = expands(operand)) {
      summands.push_back(other);
      return expand;
    }
    if (auto inner = dyn_cast_if_present<hc::AddOp>(makes(operand)))
      for (unsigned j : {0u, 1u})
        if (hc::ExpandOp expand = expands(inner->getOperand(j))) {
          summands.append({inner->getOperand(1 - j), other});
          return expand;
        }
  }
  return nullptr;
}

Value BodyEmitter::convertRows(Operation *op) {
  auto operand = [&](unsigned i) { return convert(op->getOperand(i)); };
  auto binary = [&](StringRef callee) { return call(callee, {}, {operand(0), operand(1)}); };
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<hc::AddOp>([&](hc::AddOp add) {
        SmallVector<Value> summands;
        if (hc::ExpandOp expand = expansionIn(add, summands)) {
          SmallVector<Value> operands = {context};
          for (Value summand : summands)
            operands.push_back(convert(summand));
          return expandTiles(expand, operands);
        }
        return binary("add");
      })
      .Case<hc::SubOp>([&](auto) { return binary("subtract"); })
      .Case<hc::MulOp>([&](auto) { return binary("multiply"); })
      .Case<hc::MixOp>([&](hc::MixOp mix) {
        return call("mix", {source(mix.getCoefficients()), number(rowsOf(mix.getResult()))}, {context, operand(1)});
      })
      .Case<hc::ScaleRowsOp>([&](hc::ScaleRowsOp scale) {
        return call("scaleRows", {source(scale.getCoefficients())}, {context, operand(1)});
      })
      .Case<hc::FillRowsOp>([&](hc::FillRowsOp fill) {
        return call("fillRows", {source(fill.getCoefficients()), number(rowsOf(fill.getResult()))}, {context});
      })
      .Case<hc::GatherRowsOp>([&](hc::GatherRowsOp gather) {
        return call("gatherRows", indexTexts(gather.getIndices()), {context, operand(0)});
      })
      .Case<hc::ScatterRowsOp>([&](hc::ScatterRowsOp scatter) {
        SmallVector<std::string> arguments = {number(rowsOf(scatter.getResult()))};
        arguments.append(indexTexts(scatter.getIndices()));
        return call("scatterRows", arguments, {context, operand(0)});
      })
      .Case<hc::RoundOp>([&](hc::RoundOp round) {
        if (!round.getType())
          return Value();
        return call("roundRows", {storageName(*round.getType()).str()}, {context, operand(0)});
      })
      .Case<hc::ExpandOp>([&](hc::ExpandOp expand) {
        if (places.expansion.count(expand.getWeight()))
          return expandTiles(expand, {context});
        return call("expand",
                    {source(expand.getCoefficients()), weight(expand.getWeight()),
                     number(shapeOf(expand.getCoefficients())[0])},
                    {context});
      })
      .Default([](Operation *) { return Value(); });
}

void BodyEmitter::storeRows(Value value, StringRef reference) {
  call("storeRows", {reference.str()}, {context, convert(value)}, {}, false);
}

void BodyEmitter::holdRows(Value value, StringRef place) {
  call("holdRows", {place.str()}, {context, convert(value)}, {}, false);
}

void BodyEmitter::releaseRing(int64_t ring, ArrayRef<Value> rows) {
  for (Value value : rows)
    convert(value);
  call("releaseRing", {number(ring)}, {context}, {}, false);
}

void BodyEmitter::reduce(Operation *op, int64_t slot, int64_t begin, int64_t count, int64_t columnBegin,
                         int64_t columns, bool squares) {
  auto operand = [&](unsigned i) { return convert(op->getOperand(i)); };
  SmallVector<std::string> range = {number(slot), number(begin), number(count)};
  llvm::TypeSwitch<Operation *>(op)
      .Case<hc::DotOp>([&](auto) {
        call(squares ? "dotSquares" : "dot", range, {context, operand(0), operand(1)}, {}, false);
      })
      .Case<hc::DotRowsOp>([&](auto) {
        call(squares ? "dotRowsSquares" : "dotRows", range, {context, operand(0), operand(1)}, {}, false);
      })
      .Case<hc::RowSumOp>([&](auto) {
        call("rowSum", range, {context, operand(0)}, {}, false);
      })
      .Case<hc::ProjectOp>([&](hc::ProjectOp project) {
        if (auto planes = places.projection.find(project.getWeight()); planes != places.projection.end()) {
          call("projectTiles",
               {number(slot), planes->second, number(begin), number(count), number(columnBegin), number(columns),
                number(planesOf(project.getInput()))},
               {context, operand(0)}, {}, false);
          return;
        }
        call("project",
             {number(slot), weight(project.getWeight()), number(begin), number(count), number(columnBegin),
              number(columns)},
             {context, operand(0)}, {}, false);
      })
      .Default([&](Operation *other) { fail(other, "is no reduction over channels"); });
}

void BodyEmitter::sumRows(Value rows, int64_t begin, int64_t count) {
  call("rowsSum", {number(begin), number(count)}, {context, convert(rows)}, {}, false);
}

void BodyEmitter::sumOuter(hc::WeightGradOp op, int64_t columns) {
  auto type = cast<hc::WeightType>(op.getType());
  call("weightGradient",
       {source(op.getCoefficients()), number(type.getRows()), number(type.getColumns()), number(columns)},
       {context, convert(op.getInput())}, {}, false);
}

void BodyEmitter::sumTiles(hc::WeightGradOp op, int64_t tiles, int64_t at) {
  auto type = cast<hc::WeightType>(op.getType());
  SmallVector<std::string> arguments = {source(op.getCoefficients()), number(type.getRows()), number(type.getColumns()),
                                        number(tiles)};
  arguments.push_back(number(planesOf(op.getInput())));
  if (at >= 0)
    arguments.push_back(number(at));
  call(at < 0 ? "gradientTiles" : "sweptGradient", arguments, {context, convert(op.getInput())}, {}, false);
}

void BodyEmitter::storeCall(StringRef callee, ArrayRef<std::string> templateArguments) {
  OpBuilder::InsertionGuard guard(builder);
  if (!storeFunction) {
    builder.setInsertionPointToEnd(&classOp.getBody().front());
    storeFunction = addFunction(builder, location, "store", "template <class Lane> HYPERJIT_METHOD static",
                                {"Lane &", "long long"});
  }
  builder.setInsertionPoint(storeFunction.getBody().front().getTerminator());
  call(callee, templateArguments, {storeFunction.getArgument(0), storeFunction.getArgument(1)}, {}, false);
}

void BodyEmitter::storeSums(StringRef reference, int64_t begin, int64_t count) {
  storeCall("storeRowSums", {reference.str(), number(begin), number(count)});
}

void BodyEmitter::storeOuter(StringRef reference, hc::WeightGradOp op, int64_t columns) {
  auto type = cast<hc::WeightType>(op.getType());
  storeCall("storeGradient", {reference.str(), number(type.getRows()), number(type.getColumns()), number(columns)});
}

void BodyEmitter::storeTiles(StringRef reference, hc::WeightGradOp op, int64_t tiles, int64_t at) {
  auto type = cast<hc::WeightType>(op.getType());
  SmallVector<std::string> arguments = {reference.str(), number(type.getRows()), number(type.getColumns()),
                                        number(tiles)};
  if (at >= 0)
    arguments.push_back(number(at));
  storeCall(at < 0 ? "storeTiles" : "storeSweptGradient", arguments);
}

//===----------------------------------------------------------------------===//
// Wide work that belongs to no token
//===----------------------------------------------------------------------===//

Value BodyEmitter::convertWide(Operation *op) {
  auto operand = [&](unsigned i) { return convert(op->getOperand(i)); };
  auto binary = [&](StringRef callee) {
    return call(callee.str() + (isa<hc::WeightType>(op->getResult(0).getType()) ? "Weight" : "Rows"), {},
                {context, operand(0), operand(1)});
  };
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case<hc::AddOp>([&](auto) { return binary("uniformAdd"); })
      .Case<hc::SubOp>([&](auto) { return binary("uniformSubtract"); })
      .Case<hc::MulOp>([&](auto) { return binary("uniformMultiply"); })
      .Case<hc::MixOp>([&](hc::MixOp mix) {
        return call("uniformMix", {source(mix.getCoefficients()), number(rowsOf(mix.getResult()))},
                    {context, operand(1)});
      })
      .Case<hc::ScaleRowsOp>([&](hc::ScaleRowsOp scale) {
        return call("uniformScaleRows", {source(scale.getCoefficients())}, {context, operand(1)});
      })
      .Case<hc::FillRowsOp>([&](hc::FillRowsOp fill) {
        return call("uniformFillRows", {source(fill.getCoefficients()), number(rowsOf(fill.getResult()))}, {context});
      })
      .Case<hc::GatherRowsOp>([&](hc::GatherRowsOp gather) {
        return call("uniformGatherRows", indexTexts(gather.getIndices()), {context, operand(0)});
      })
      .Case<hc::ScatterRowsOp>([&](hc::ScatterRowsOp scatter) {
        SmallVector<std::string> arguments = {number(rowsOf(scatter.getResult()))};
        arguments.append(indexTexts(scatter.getIndices()));
        return call("uniformScatterRows", arguments, {context, operand(0)});
      })
      .Case<hc::RoundOp>([&](hc::RoundOp round) {
        if (!round.getType())
          return Value();
        return call("uniformRoundRows", {storageName(*round.getType()).str()}, {context, operand(0)});
      })
      .Case<hc::ExpandOp>([&](hc::ExpandOp expand) {
        return call("uniformExpand", {source(expand.getCoefficients()), number(shapeOf(expand.getCoefficients())[0])},
                    {context, operand(1)});
      })
      .Case<hc::OuterOp>([&](hc::OuterOp outer) {
        auto type = cast<hc::WeightType>(outer.getType());
        return call("uniformOuter",
                    {source(outer.getCoefficients()), number(type.getRows()), number(type.getColumns())},
                    {context, operand(0)});
      })
      .Case<hc::ScaleWeightOp>([&](auto) {
        return call("uniformScaleWeight", {}, {context, operand(0), operand(1)});
      })
      .Case<hc::WeightDotOp>([&](auto) {
        return call("uniformWeightDot", {}, {context, operand(0), operand(1)});
      })
      .Case<hc::ConcatWeightsOp>([&](auto) {
        SmallVector<Value> operands = {context};
        for (Value value : op->getOperands())
          operands.push_back(convert(value));
        return call("uniformConcatWeights", {}, operands);
      })
      .Case<hc::SliceWeightOp>([&](hc::SliceWeightOp slice) {
        return call("uniformSliceWeight",
                    {number(slice.getOffset()), number(cast<hc::WeightType>(slice.getType()).getColumns())},
                    {context, operand(0)});
      })
      .Case<hc::WeightFromRowsOp>([&](hc::WeightFromRowsOp from) {
        return call("uniformWeightFromRows", {number(cast<hc::WeightType>(from.getType()).getRows())},
                    {context, operand(0)});
      })
      .Case<hc::RowsFromWeightOp>([&](auto) {
        return call("uniformRowsFromWeight", {}, {context, operand(0)});
      })
      .Default([](Operation *) { return Value(); });
}

void BodyEmitter::storeWide(Value value, StringRef reference) {
  call(isa<hc::WeightType>(value.getType()) ? "uniformStoreWeight" : "uniformStoreRows", {reference.str()},
       {context, convert(value)}, {}, false);
}

void BodyEmitter::pack(Value weight, StringRef planes, int64_t vector) {
  call(planes.contains("ProjectionPlanes") ? "packProjection" : "packExpansion", {planes.str(), number(vector)},
       {context, convert(weight)}, {}, false);
}

void BodyEmitter::reduceWide(Operation *op, StringRef reference) {
  SmallVector<Value> operands = {context};
  for (Value value : op->getOperands())
    operands.push_back(convert(value));
  StringRef callee = isa<hc::DotOp>(op)       ? "uniformDot"
                     : isa<hc::DotRowsOp>(op) ? "uniformDotRows"
                     : isa<hc::RowSumOp>(op)  ? "uniformRowSum"
                                              : "uniformProject";
  call(callee, {reference.str()}, operands, {}, false);
}
