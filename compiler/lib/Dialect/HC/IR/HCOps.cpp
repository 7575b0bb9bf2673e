//===- HCOps.cpp - Verifiers and folders ----------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// Verifiers check what an op can see; folders are those that let static
// variants, single streams, absent activations and zero cotangents fall out of
// the general case. HCCanonicalize.cpp has the patterns.
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/IR/HC.h"
#include "hyperjit/Dialect/HC/IR/HCBuilder.h"

#include "mlir/IR/Matchers.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace hyperjit;
using namespace hyperjit::hc;

#define GET_OP_CLASSES
#include "hyperjit/Dialect/HC/IR/HCOps.cpp.inc"

namespace {
/// Checks one size and names it when it is wrong.
LogicalResult expect(Operation *op, StringRef what, int64_t found, int64_t wanted) {
  if (found == wanted)
    return success();
  return op->emitOpError() << what << " is " << found << ", expected " << wanted;
}
LogicalResult expectShape(Operation *op, StringRef what, CoeffsType type, ArrayRef<int64_t> wanted) {
  if (type.getShape() == wanted)
    return success();
  auto diagnostic = op->emitOpError() << what << " has shape <";
  llvm::interleaveComma(type.getShape(), diagnostic);
  diagnostic << ">, expected <";
  llvm::interleaveComma(wanted, diagnostic);
  return diagnostic << ">";
}
LogicalResult expectType(Operation *op, StringRef what, Type found, Type wanted) {
  if (found == wanted)
    return success();
  return op->emitOpError() << what << " is " << found << ", expected " << wanted;
}
/// The rule of an eps, as the DSL has it.
LogicalResult verifyAtLeastZero(Operation *op, StringRef what, const APFloat &value) {
  if (value.convertToDouble() >= 0) // not where it is no number
    return success();
  return op->emitOpError() << what << " is " << value.convertToDouble() << ", expected at least 0";
}
RowsType rows(MLIRContext *context, int64_t count, int64_t width) { return RowsType::get(context, count, width); }
} // namespace

//===----------------------------------------------------------------------===//
// Verifiers: M
//===----------------------------------------------------------------------===//

LogicalResult MixOp::verify() {
  RowsType input = getInput().getType(), result = getResult().getType();
  if (failed(expect(*this, "width of the result", result.getWidth(), input.getWidth())))
    return failure();
  return expectShape(*this, "coefficients", getCoefficients().getType(), {result.getRows(), input.getRows()});
}

LogicalResult ScaleRowsOp::verify() {
  if (failed(expectType(*this, "result", getResult().getType(), getInput().getType())))
    return failure();
  return expectShape(*this, "coefficients", getCoefficients().getType(), {getInput().getType().getRows()});
}

static LogicalResult verifyIndices(Operation *op, ArrayRef<int64_t> indices, int64_t count, int64_t bound) {
  if (failed(expect(op, "number of indices", indices.size(), count)))
    return failure();
  for (int64_t index : indices)
    if (index < 0 || index >= bound)
      return op->emitOpError() << "index " << index << " is outside 0 .. " << bound - 1;
  return success();
}
LogicalResult GatherRowsOp::verify() {
  RowsType input = getInput().getType(), result = getResult().getType();
  if (failed(expect(*this, "width of the result", result.getWidth(), input.getWidth())))
    return failure();
  return verifyIndices(*this, getIndices(), result.getRows(), input.getRows());
}
LogicalResult ScatterRowsOp::verify() {
  RowsType input = getInput().getType(), result = getResult().getType();
  if (failed(expect(*this, "width of the result", result.getWidth(), input.getWidth())))
    return failure();
  return verifyIndices(*this, getIndices(), input.getRows(), result.getRows());
}

LogicalResult FillRowsOp::verify() {
  return expectShape(*this, "coefficients", getCoefficients().getType(), {getResult().getType().getRows()});
}

/// rows<G*R, d>, weight<R, d, K>, coeffs<G, K> of project, expand, outer and weight_grad.
static LogicalResult verifyProjection(Operation *op, RowsType rows, WeightType weight, CoeffsType coefficients) {
  if (failed(expect(op, "width of the weight", weight.getWidth(), rows.getWidth())))
    return failure();
  if (rows.getRows() % weight.getRows() != 0)
    return op->emitOpError() << rows.getRows() << " rows are no multiple of the weight's " << weight.getRows();
  return expectShape(op, "coefficients", coefficients, {rows.getRows() / weight.getRows(), weight.getColumns()});
}
LogicalResult ExpandOp::verify() {
  return verifyProjection(*this, getResult().getType(), getWeight().getType(), getCoefficients().getType());
}
LogicalResult ProjectOp::verify() {
  return verifyProjection(*this, getInput().getType(), getWeight().getType(), getResult().getType());
}
LogicalResult OuterOp::verify() {
  return verifyProjection(*this, getInput().getType(), getResult().getType(), getCoefficients().getType());
}
LogicalResult WeightGradOp::verify() {
  return verifyProjection(*this, getInput().getType(), getResult().getType(), getCoefficients().getType());
}

LogicalResult RoundOp::verify() {
  if (getEdge().has_value() == getType().has_value())
    return emitOpError("has either an edge (before hc-specialize) or a type (after it)");
  if (getEdge() && *getEdge() != "streams" && *getEdge() != "branch_input")
    return emitOpError() << "edge is \"" << *getEdge() << "\", expected \"streams\" or \"branch_input\"";
  if (getType() && !isStorage(*getType()))
    return emitOpError() << "type is " << *getType() << ", expected bf16, f16, f32 or f64";
  return success();
}

//===----------------------------------------------------------------------===//
// Verifiers: R and norm
//===----------------------------------------------------------------------===//

LogicalResult DotOp::verify() {
  RowsType lhs = getLhs().getType(), rhs = getRhs().getType();
  if (failed(expect(*this, "width of the right operand", rhs.getWidth(), lhs.getWidth())))
    return failure();
  return expectShape(*this, "result", getResult().getType(), {lhs.getRows(), rhs.getRows()});
}
LogicalResult DotRowsOp::verify() {
  if (failed(expectType(*this, "right operand", getRhs().getType(), getLhs().getType())))
    return failure();
  return expectShape(*this, "result", getResult().getType(), {getLhs().getType().getRows()});
}
LogicalResult RowSumOp::verify() {
  return expectShape(*this, "result", getResult().getType(), {getInput().getType().getRows()});
}

LogicalResult NormOp::verify() {
  if (!llvm::is_contained({"l2_unit_offset", "rms_inside", "rms_outside", "layernorm"}, getKind()))
    return emitOpError() << "kind is \"" << getKind()
                         << "\", expected l2_unit_offset, rms_inside, rms_outside or layernorm";
  if (failed(expectType(*this, "result", getResult().getType(), getInput().getType())))
    return failure();
  int64_t group = getGroup();
  if (group < 1 || getInput().getType().getRows() % group != 0)
    return emitOpError() << getInput().getType().getRows() << " rows do not split into groups of " << group;
  for (auto [name, operand] : {std::pair<StringRef, Value>{"gain", getGain()}, {"bias", getBias()}}) {
    if (!operand)
      continue;
    auto type = cast<RowsType>(operand.getType());
    if (type.getRows() != group && type.getRows() != 1)
      return emitOpError() << name << " has " << type.getRows() << " rows, expected 1 or " << group;
    if (type.getWidth() != getInput().getType().getWidth())
      return emitOpError() << name << " is " << type << ", which has another width than " << getInput().getType();
  }
  if (getBias() && getKind() != "layernorm")
    return emitOpError("only layernorm has a bias");
  return verifyAtLeastZero(*this, "eps", getEps());
}

//===----------------------------------------------------------------------===//
// Verifiers: C
//===----------------------------------------------------------------------===//

LogicalResult ConstantOp::verify() {
  ShapedType type = getValue().getType();
  if (!isa<RankedTensorType>(type) || !isa<Float64Type>(type.getElementType()))
    return emitOpError("value is a tensor of f64 with a static shape");
  return expectShape(*this, "result", getResult().getType(), type.getShape());
}

LogicalResult ReshapeOp::verify() {
  return expect(*this, "number of elements", getResult().getType().getNumElements(),
                getInput().getType().getNumElements());
}

LogicalResult TransposeOp::verify() {
  ArrayRef<int64_t> permutation = getPermutation(), shape = getInput().getType().getShape();
  if (failed(expect(*this, "length of the permutation", permutation.size(), shape.size())))
    return failure();
  SmallVector<bool> seen(shape.size());
  SmallVector<int64_t> wanted;
  for (int64_t axis : permutation) {
    if (axis < 0 || axis >= static_cast<int64_t>(shape.size()) || seen[axis])
      return emitOpError("needs a permutation of the axes");
    seen[axis] = true;
    wanted.push_back(shape[axis]);
  }
  return expectShape(*this, "result", getResult().getType(), wanted);
}

LogicalResult SliceOp::verify() {
  SmallVector<int64_t> wanted(getInput().getType().getShape());
  int64_t axis = getAxis(), offset = getOffset();
  if (axis < 0 || axis >= static_cast<int64_t>(wanted.size()) ||
      getResult().getType().getRank() != static_cast<int64_t>(wanted.size()))
    return emitOpError() << "axis " << axis << " is not one of the operand's, or the ranks differ";
  int64_t size = getResult().getType().getShape()[axis];
  if (offset < 0 || offset > wanted[axis] - size) // the sum could overflow
    return emitOpError() << "range of " << size << " from " << offset << " is outside 0 .. " << wanted[axis];
  wanted[axis] = size;
  return expectShape(*this, "result", getResult().getType(), wanted);
}

LogicalResult ConcatOp::verify() {
  if (getInputs().empty())
    return emitOpError("needs an operand");
  SmallVector<int64_t> wanted(HCBuilder::coeffsType(getInputs().front()).getShape());
  int64_t axis = getAxis();
  if (axis < 0 || axis >= static_cast<int64_t>(wanted.size()))
    return emitOpError() << "axis " << axis << " is not one of the operands'";
  wanted[axis] = 0;
  for (Value input : getInputs()) {
    SmallVector<int64_t> shape(HCBuilder::coeffsType(input).getShape());
    if (shape.size() != wanted.size())
      return emitOpError("operands differ in rank");
    wanted[axis] += shape[axis];
    shape[axis] = wanted[axis];
    if (ArrayRef<int64_t>(shape) != ArrayRef<int64_t>(wanted))
      return emitOpError("operands differ outside the joined axis");
  }
  return expectShape(*this, "result", getResult().getType(), wanted);
}

LogicalResult BroadcastOp::verify() {
  ArrayRef<int64_t> from = getInput().getType().getShape(), to = getResult().getType().getShape();
  if (failed(expect(*this, "length of dims", getDims().size(), from.size())))
    return failure();
  int64_t last = -1;
  for (auto [axis, place] : llvm::enumerate(getDims())) {
    if (place <= last || place >= static_cast<int64_t>(to.size()))
      return emitOpError("dims rise and are axes of the result");
    if (from[axis] != 1 && from[axis] != to[place])
      return emitOpError() << "axis " << axis << " has size " << from[axis] << ", the result has " << to[place];
    last = place;
  }
  return success();
}

LogicalResult ReduceSumOp::verify() {
  int64_t rank = getInput().getType().getRank(), last = -1;
  for (int64_t axis : getAxes()) {
    if (axis <= last || axis >= rank)
      return emitOpError("axes rise and are axes of the operand");
    last = axis;
  }
  SmallVector<int64_t> wanted;
  for (auto [axis, size] : llvm::enumerate(getInput().getType().getShape()))
    if (!llvm::is_contained(getAxes(), static_cast<int64_t>(axis)))
      wanted.push_back(size);
  if (wanted.empty())
    wanted.push_back(1);
  return expectShape(*this, "result", getResult().getType(), wanted);
}

LogicalResult MatmulOp::verify() {
  ArrayRef<int64_t> lhs = getLhs().getType().getShape(), rhs = getRhs().getType().getShape();
  if (lhs.size() != 2 || rhs.size() != 2)
    return emitOpError("multiplies matrices");
  if (failed(expect(*this, "rows of the right operand", rhs[0], lhs[1])))
    return failure();
  return expectShape(*this, "result", getResult().getType(), {lhs[0], rhs[1]});
}

/// The adjoint keeps the divisors of 2 steps an iteration; the numbers of all are counted in 32 bits at both exits.
static constexpr int64_t mostIterations = 1 << 14;

template <typename Op> static LogicalResult verifySinkhorn(Op op, CoeffsType type) {
  ArrayRef<int64_t> shape = type.getShape();
  if (shape.size() != 2 || shape[0] != shape[1])
    return op.emitOpError("needs a square matrix");
  if (int64_t iterations = op.getIterations(); iterations < 1 || iterations > mostIterations) // getter is unsigned
    return op.emitOpError() << "iterations is " << iterations << ", expected from 1 to " << mostIterations;
  if (!llvm::is_contained({"exp", "exp_raw", "softmax_eps"}, op.getStart()))
    return op.emitOpError() << "start is \"" << op.getStart() << "\", expected exp, exp_raw or softmax_eps";
  if (op.getFirst() != "row" && op.getFirst() != "col")
    return op.emitOpError() << "first is \"" << op.getFirst() << "\", expected row or col";
  if (!llvm::is_contained({"none", "clamp", "add"}, op.getPlace()))
    return op.emitOpError() << "place is \"" << op.getPlace() << "\", expected none, clamp or add";
  if (op.getLogDomain() && (op.getPlace() != "none" || op.getStart() == "softmax_eps"))
    return op.emitOpError("the log domain knows no eps");
  if (double tau = op.getTau().convertToDouble(); !(tau > 0)) // nor where it is no number
    return op.emitOpError() << "tau is " << tau << ", expected above 0";
  return verifyAtLeastZero(op, "eps", op.getEps());
}
LogicalResult SinkhornOp::verify() { return verifySinkhorn(*this, getInput().getType()); }
LogicalResult SinkhornAdjointOp::verify() { return verifySinkhorn(*this, getLogits().getType()); }

static LogicalResult verifyPermutations(Operation *op, CoeffsType list, CoeffsType matrix) {
  ArrayRef<int64_t> shape = matrix.getShape();
  if (shape.size() != 2 || shape[0] != shape[1])
    return op->emitOpError("needs a square matrix");
  // Of 7 there are 5040, each of which is a part of the kernel's code.
  constexpr int64_t mostPermuted = 6;
  if (shape[0] > mostPermuted)
    return op->emitOpError() << "permutes " << shape[0] << " streams, at most " << mostPermuted << " are supported";
  int64_t count = 1;
  for (int64_t i = 2; i <= shape[0]; ++i)
    count *= i;
  return expectShape(op, "list of permutations", list, {count});
}
LogicalResult PermutationMixOp::verify() {
  return verifyPermutations(*this, getInput().getType(), getResult().getType());
}
LogicalResult PermutationDotOp::verify() {
  return verifyPermutations(*this, getResult().getType(), getInput().getType());
}

//===----------------------------------------------------------------------===//
// Verifiers: P
//===----------------------------------------------------------------------===//

LogicalResult ScaleWeightOp::verify() {
  WeightType type = getWeight().getType();
  if (failed(expectType(*this, "result", getResult().getType(), type)))
    return failure();
  return expectType(*this, "scale", getScale().getType(), rows(getContext(), type.getRows(), type.getWidth()));
}
LogicalResult WeightDotOp::verify() {
  WeightType type = getLhs().getType();
  if (failed(expectType(*this, "right operand", getRhs().getType(), type)))
    return failure();
  return expectType(*this, "result", getResult().getType(), rows(getContext(), type.getRows(), type.getWidth()));
}
LogicalResult ConcatWeightsOp::verify() {
  if (getInputs().empty())
    return emitOpError("needs an operand");
  WeightType first = HCBuilder::weightType(getInputs().front());
  int64_t columns = 0;
  for (Value input : getInputs()) {
    WeightType type = HCBuilder::weightType(input);
    if (type.getRows() != first.getRows() || type.getWidth() != first.getWidth())
      return emitOpError("operands differ in rows or width");
    columns += type.getColumns();
  }
  if (columns > RowsType::mostRows)
    return emitOpError() << "joins " << columns << " columns, a weight has at most " << RowsType::mostRows;
  return expectType(*this, "result", getResult().getType(),
                    WeightType::get(getContext(), first.getRows(), first.getWidth(), columns));
}
LogicalResult SliceWeightOp::verify() {
  WeightType from = getInput().getType(), to = getResult().getType();
  if (from.getRows() != to.getRows() || from.getWidth() != to.getWidth())
    return emitOpError("operand and result differ in rows or width");
  int64_t offset = getOffset();
  if (offset < 0 || offset > from.getColumns() - to.getColumns()) // the sum could overflow
    return emitOpError() << to.getColumns() << " columns from " << offset << " are outside 0 .. " << from.getColumns();
  return success();
}
/// weight<R, d, K> as rows<K*R, d>. The product may be more than rows can be.
static LogicalResult verifyOutputFirst(Operation *op, StringRef what, RowsType found, WeightType weight) {
  int64_t count = 0;
  if (llvm::MulOverflow(weight.getRows(), weight.getColumns(), count) || count > RowsType::mostRows)
    return op->emitOpError() << weight << " is more than " << RowsType::mostRows << " rows output first";
  return expectType(op, what, found, rows(op->getContext(), count, weight.getWidth()));
}
LogicalResult WeightFromRowsOp::verify() {
  return verifyOutputFirst(*this, "operand", getInput().getType(), getResult().getType());
}
LogicalResult RowsFromWeightOp::verify() {
  return verifyOutputFirst(*this, "result", getResult().getType(), getInput().getType());
}

//===----------------------------------------------------------------------===//
// Folders
//===----------------------------------------------------------------------===//

std::optional<double> hc::splatOf(Attribute attribute) {
  auto elements = dyn_cast_or_null<DenseElementsAttr>(attribute);
  if (!elements || !elements.isSplat())
    return std::nullopt;
  return elements.getSplatValue<APFloat>().convertToDouble();
}
std::optional<double> hc::splatOf(Value value) {
  Attribute attribute;
  return matchPattern(value, m_Constant(&attribute)) ? splatOf(attribute) : std::nullopt;
}

/// Folds two constants elementwise.
template <typename Fn> static OpFoldResult foldBinary(Attribute lhs, Attribute rhs, Fn &&fn) {
  auto a = dyn_cast_or_null<DenseElementsAttr>(lhs), b = dyn_cast_or_null<DenseElementsAttr>(rhs);
  if (!a || !b || a.getType() != b.getType())
    return {};
  SmallVector<double> values;
  for (auto [x, y] : llvm::zip(a.getValues<APFloat>(), b.getValues<APFloat>()))
    values.push_back(fn(x.convertToDouble(), y.convertToDouble()));
  return DenseElementsAttr::get(a.getType(), ArrayRef<double>(values));
}

OpFoldResult ConstantOp::fold(FoldAdaptor) { return getValue(); }

OpFoldResult AddOp::fold(FoldAdaptor adaptor) {
  if (splatOf(adaptor.getRhs()) == 0.0)
    return getLhs();
  if (splatOf(adaptor.getLhs()) == 0.0)
    return getRhs();
  return foldBinary(adaptor.getLhs(), adaptor.getRhs(), [](double a, double b) { return a + b; });
}
OpFoldResult SubOp::fold(FoldAdaptor adaptor) {
  if (splatOf(adaptor.getRhs()) == 0.0)
    return getLhs();
  return foldBinary(adaptor.getLhs(), adaptor.getRhs(), [](double a, double b) { return a - b; });
}
OpFoldResult MulOp::fold(FoldAdaptor adaptor) {
  if (splatOf(adaptor.getRhs()) == 1.0)
    return getLhs();
  if (splatOf(adaptor.getLhs()) == 1.0)
    return getRhs();
  return foldBinary(adaptor.getLhs(), adaptor.getRhs(), [](double a, double b) { return a * b; });
}
OpFoldResult DivOp::fold(FoldAdaptor adaptor) {
  if (splatOf(adaptor.getRhs()) == 1.0)
    return getLhs();
  return foldBinary(adaptor.getLhs(), adaptor.getRhs(), [](double a, double b) { return a / b; });
}
OpFoldResult MaxOp::fold(FoldAdaptor adaptor) {
  return foldBinary(adaptor.getLhs(), adaptor.getRhs(),
                    [](double a, double b) { return a >= b || std::isnan(a) ? a : b; });
}

static bool isIdentity(ArrayRef<int64_t> indices) {
  for (auto [i, index] : llvm::enumerate(indices))
    if (index != static_cast<int64_t>(i))
      return false;
  return true;
}
OpFoldResult GatherRowsOp::fold(FoldAdaptor) {
  return getInput().getType() == getResult().getType() && isIdentity(getIndices()) ? getInput() : Value();
}
OpFoldResult ScatterRowsOp::fold(FoldAdaptor) {
  return getInput().getType() == getResult().getType() && isIdentity(getIndices()) ? getInput() : Value();
}

/// Splat constants keep their value through any change of shape.
static OpFoldResult foldSplatTo(Attribute operand, CoeffsType result) {
  auto value = splatOf(operand);
  if (!value)
    return {};
  return DenseElementsAttr::get(RankedTensorType::get(result.getShape(), Float64Type::get(result.getContext())),
                                *value);
}
OpFoldResult ReshapeOp::fold(FoldAdaptor adaptor) {
  if (getInput().getType() == getResult().getType())
    return getInput();
  if (auto inner = getInput().getDefiningOp<ReshapeOp>()) {
    setOperand(inner.getInput());
    return getResult();
  }
  if (auto elements = dyn_cast_or_null<DenseElementsAttr>(adaptor.getInput()))
    return elements.reshape(RankedTensorType::get(getResult().getType().getShape(), Float64Type::get(getContext())));
  return {};
}
OpFoldResult TransposeOp::fold(FoldAdaptor adaptor) {
  if (isIdentity(getPermutation()))
    return getInput();
  if (auto inner = getInput().getDefiningOp<TransposeOp>()) {
    SmallVector<int64_t> both;
    for (int64_t axis : getPermutation())
      both.push_back(inner.getPermutation()[axis]);
    if (isIdentity(both))
      return inner.getInput();
  }
  return foldSplatTo(adaptor.getInput(), getResult().getType());
}
OpFoldResult SliceOp::fold(FoldAdaptor adaptor) {
  if (getInput().getType() == getResult().getType())
    return getInput();
  // A slice that is exactly one operand of a concat.
  if (auto concat = getInput().getDefiningOp<ConcatOp>(); concat && concat.getAxis() == getAxis()) {
    int64_t offset = 0;
    for (Value part : concat.getInputs()) {
      if (offset == static_cast<int64_t>(getOffset()) && part.getType() == getResult().getType())
        return part;
      offset += HCBuilder::coeffsType(part).getShape()[getAxis()];
    }
  }
  return foldSplatTo(adaptor.getInput(), getResult().getType());
}
OpFoldResult ConcatOp::fold(FoldAdaptor) { return getInputs().size() == 1 ? getInputs().front() : Value(); }
OpFoldResult BroadcastOp::fold(FoldAdaptor adaptor) {
  if (getInput().getType() == getResult().getType())
    return getInput();
  return foldSplatTo(adaptor.getInput(), getResult().getType());
}
