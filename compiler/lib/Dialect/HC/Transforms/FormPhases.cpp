//===- FormPhases.cpp - Phases, stages, traffic ---------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Dialect/HC/Transforms/Passes.h"

namespace hyperjit::hc {
#define GEN_PASS_DEF_FORMPHASES
#include "hyperjit/Dialect/HC/Transforms/Passes.h.inc"
} // namespace hyperjit::hc

using namespace mlir;
using namespace hyperjit::hc;

namespace {

/// Rows of a token that fused kernels read or write as one operand: of streams, of the branch's input, ...
constexpr int64_t maxRows = 32;

class PhaseFormer {
public:
  explicit PhaseFormer(FuncOp function) : function(function) {}

  LogicalResult run() {
    if (failed(checkArguments()))
      return failure();
    for (Operation &op : function.getEntry().without_terminator())
      if (failed(place(&op)))
        return failure();
    if (failed(checkResults()))
      return failure();
    sortOps();
    countTraffic();
    return success();
  }

private:
  struct Place {
    char phase;
    int64_t stage;
  };

  /// The limit is one for an operand and for its cotangent, so that a site that has a forward has a backward too.
  LogicalResult checkRows(Type type, DictionaryAttr attrs) {
    auto rows = dyn_cast<RowsType>(type);
    if (!rows || rows.getRows() <= maxRows)
      return success();
    auto operand = attrs.getAs<StringAttr>(HCDialect::operandAttrName);
    StringRef word = operand ? operand.getValue() : "";
    word.consume_front("d_");
    StringRef what = StringSwitch<StringRef>(word)
                         .Case("streams", "streams times fracs")
                         .Case("branch_input", "number of branch input rows")
                         .Case("branch", "number of branch output rows")
                         .Default("number of rows of an operand");
    return function.emitError() << what << " is " << rows.getRows() << "; fused kernels cover up to " << maxRows;
  }

  LogicalResult checkArguments() {
    for (BlockArgument argument : function.getArguments()) {
      unsigned i = argument.getArgNumber();
      if (uniformity.isUniform(argument))
        continue;
      if (isa<WeightType>(argument.getType()))
        return function.emitError() << "argument " << i << " is a weight without " << HCDialect::uniformAttrName
                                    << "; no skeleton reads a weight for every token";
      if (failed(checkRows(argument.getType(), attrsOfArgument(function, i))))
        return failure();
    }
    return success();
  }

  LogicalResult checkResults() {
    for (OpOperand &operand : function.getReturn()->getOpOperands()) {
      unsigned i = operand.getOperandNumber();
      DictionaryAttr attrs = attrsOfResult(function, i);
      bool weight = isa<WeightType>(operand.get().getType());
      if ((weight || isAfterSum(operand.get())) && !attrs.contains(HCDialect::uniformAttrName))
        return function.emitError() << "result " << i << " is a " << (weight ? "weight" : "sum over tokens")
                                    << "; it is the same for all tokens and must carry " << HCDialect::uniformAttrName;
      if (!uniformity.isUniform(operand.get()) && failed(checkRows(operand.get().getType(), attrs)))
        return failure();
    }
    return success();
  }

  LogicalResult place(Operation *op) {
    if (isa<NormOp, BranchOp>(op))
      return op->emitOpError("belongs to a recorded program, not to a kernel: run hc-specialize and hc-split first");
    if (op->getNumResults() != 1)
      return op->emitOpError("makes no single value, so it has no phase");
    Value result = op->getResult(0);
    bool afterSum = llvm::any_of(op->getOperands(), [&](Value operand) { return isAfterSum(operand); });
    int64_t stage = 0;
    for (Value operand : op->getOperands())
      stage = std::max(stage, stageOf(operand));
    char phase;
    if (sumsOverTokens(op) && !operandsUniform(op))
      phase = 'W';
    else if (afterSum)
      phase = 'E';
    else if (uniformity.isUniform(result))
      phase = 'P';
    else if (sumsOverChannels(op))
      phase = 'R';
    else
      phase = isa<RowsType>(result.getType()) ? 'M' : 'C';
    if (isa<WeightType>(result.getType()) && (phase == 'M' || phase == 'C'))
      return op->emitOpError("makes a weight for every token, which no skeleton stores");
    if (afterSum && llvm::any_of(op->getOperands(), [&](Value operand) { return !uniformity.isUniform(operand); }))
      return op->emitOpError("needs a sum over all tokens in every token: that is a second pass over the streams, "
                             "which no skeleton covers");
    stages[result] = phase == 'R' ? stage + 1 : stage;
    if (stages[result] > maxStages)
      return op->emitOpError() << "is the sum over channels number " << stages[result]
                               << " of those that wait for one another (norms, dots, projections; backward has more of "
                                  "them than forward); kernels have at most "
                               << maxStages;
    if (auto rows = dyn_cast<RowsType>(result.getType()); rows && phase == 'M' && rows.getRows() > 3 * maxRows)
      return op->emitOpError() << "makes " << rows.getRows() << " rows a token; kernels have at most " << 3 * maxRows;
    places[op] = {phase, stage};
    OpBuilder builder(op);
    op->setAttr("phase", builder.getStringAttr(StringRef(&phase, 1)));
    op->setAttr("stage", builder.getI64IntegerAttr(stage));
    if (phase == 'W' || phase == 'E')
      sums.insert(result);
    lastStage = std::max(lastStage, stages[result]);
    return success();
  }

  bool operandsUniform(Operation *op) {
    return llvm::all_of(op->getOperands(), [&](Value operand) { return uniformity.isUniform(operand); });
  }
  bool isAfterSum(Value value) { return sums.contains(value); }
  int64_t stageOf(Value value) { return uniformity.isUniform(value) ? 0 : stages.lookup(value); }

  /// Prologue, then stage by stage coefficients, maps, reductions, sums; then the epilogue.
  void sortOps() {
    auto key = [&](Operation *op) -> std::pair<int64_t, int> {
      auto [phase, stage] = places.lookup(op);
      if (phase == 'P')
        return {-1, 0};
      if (phase == 'E')
        return {maxStages + 1, 0};
      return {stage, phase == 'C' ? 0 : phase == 'M' ? 1 : phase == 'R' ? 2 : 3};
    };
    SmallVector<Operation *> ops;
    for (Operation &op : function.getEntry().without_terminator())
      ops.push_back(&op);
    llvm::stable_sort(ops, [&](Operation *a, Operation *b) { return key(a) < key(b); });
    for (Operation *op : ops)
      op->moveBefore(function.getReturn());
  }

  void countTraffic() {
    auto fracs = function->getAttrOfType<IntegerAttr>("hc.m");
    int64_t m = fracs ? fracs.getInt() : 1;
    int64_t reads = 0, writes = 0, saved = 0, narrow = 0;
    bool wide = isa<Float64Type>(cast<TypeAttr>(function->getAttr("hc.compute")).getValue());
    auto narrowBytes = [&](Type type) { return elementCount(type) * (wide ? 8 : 4); };
    for (BlockArgument argument : function.getArguments()) {
      if (uniformity.isUniform(argument))
        continue;
      if (auto rows = dyn_cast<RowsType>(argument.getType())) {
        reads += argument.use_empty() ? 0 : rows.getRows();
        auto operand = function.getArgAttrOfType<StringAttr>(argument.getArgNumber(), HCDialect::operandAttrName);
        if (operand && (operand.getValue() == "streams" || operand.getValue() == "branch"))
          saved += rows.getRows();
      } else if (!argument.use_empty())
        narrow += narrowBytes(argument.getType());
    }
    for (Value value : function.getReturn()->getOperands()) {
      if (uniformity.isUniform(value))
        continue;
      if (auto rows = dyn_cast<RowsType>(value.getType()))
        writes += rows.getRows();
      else
        narrow += narrowBytes(value.getType());
    }
    OpBuilder builder(function);
    function->setAttr("hc.reads_u", builder.getI64IntegerAttr(reads / m));
    function->setAttr("hc.writes_u", builder.getI64IntegerAttr(writes / m));
    function->setAttr("hc.saved_u", builder.getI64IntegerAttr(saved / m));
    function->setAttr("hc.narrow_bytes", builder.getI64IntegerAttr(narrow));
    function->setAttr("hc.exposed", builder.getI64IntegerAttr(exposedWork()));
    function->setAttr("hc.stages", builder.getI64IntegerAttr(lastStage + 1));
  }

  /// Coefficient maths behind a reduction that a map over channels waits for: a kernel cannot hide it. In numbers made,
  /// an iterated operation counting once an iteration.
  int64_t exposedWork() {
    llvm::DenseSet<Operation *> waitedFor;
    SmallVector<Operation *> work;
    for (Operation &op : function.getEntry())
      if (auto place = places.find(&op); place != places.end() && place->second.phase == 'M')
        work.push_back(&op);
    int64_t sum = 0;
    while (!work.empty())
      for (Value operand : work.pop_back_val()->getOperands()) {
        Operation *op = operand.getDefiningOp();
        if (!op || !waitedFor.insert(op).second)
          continue;
        auto [phase, stage] = places.lookup(op);
        if (phase == 'C' && stage > 0) {
          auto iterations = op->getAttrOfType<IntegerAttr>("iterations");
          sum += elementCount(op->getResult(0).getType()) * (iterations ? iterations.getInt() : 1);
        }
        if (phase == 'C' || phase == 'M')
          work.push_back(op);
      }
    return sum;
  }

  FuncOp function;
  Uniformity uniformity;
  llvm::DenseMap<Value, int64_t> stages;
  llvm::DenseMap<Operation *, Place> places;
  llvm::DenseSet<Value> sums;
  int64_t lastStage = 0;
};

struct FormPhasesPass : hyperjit::hc::impl::FormPhasesBase<FormPhasesPass> {
  void runOnOperation() override {
    for (FuncOp function : getOperation().getOps<FuncOp>())
      if (failed(checkSpecialized(function, {"hc.compute"})) || failed(checkLength(function)) ||
          failed(PhaseFormer(function).run()))
        return signalPassFailure();
  }
  /// What makes code of a kernel goes down a chain of its operations by calls.
  static LogicalResult checkLength(FuncOp function) {
    constexpr int64_t most = 1 << 13;
    const auto length = static_cast<int64_t>(function.getEntry().getOperations().size());
    return length <= most ? success()
                          : function.emitError() << "has " << length << " operations, kernels have at most " << most;
  }
};

} // namespace
