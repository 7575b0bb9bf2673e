//===- HCOps.td - Operations of the hc dialect --------------*- tablegen -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// Five kinds, by what they do: M maps over channels, R reductions over
// channels, C coefficient maths, W sums over tokens, P wide work on parameters.
// What a recipe may record has an adjoint in this set, so a first derivative is
// always there. softmax_adjoint, sinkhorn_adjoint and weight_grad, which only
// adjoints make, have none: a second derivative is refused by name.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_HC_OPS
#define HYPERJIT_HC_OPS

include "hyperjit/Dialect/HC/IR/HCBase.td"
include "hyperjit/Dialect/HC/IR/HCInterfaces.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/FunctionInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class HC_Op<string mnemonic, list<Trait> traits = []> : Op<HC_Dialect, mnemonic, traits>;

// What passes ask of an operation, instead of a list of names.
def HC_SumsOverChannels : NativeOpTrait<"SumsOverChannels"> {
  let cppNamespace = "::hyperjit::hc";
}
def HC_SumsOverTokens : NativeOpTrait<"SumsOverTokens"> {
  let cppNamespace = "::hyperjit::hc";
}

/// Every op prints the same way, so that a recorder without MLIR can write it.
class HC_PureOp<string mnemonic, list<Trait> traits = []> : HC_Op<mnemonic, !listconcat([Pure], traits)> {
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

class HC_MathOp<string mnemonic, list<Trait> traits = []>
    : HC_PureOp<mnemonic, !listconcat([DeclareOpInterfaceMethods<HC_AdjointOpInterface>], traits)>;

//===----------------------------------------------------------------------===//
// Functions
//===----------------------------------------------------------------------===//

def HC_FuncOp : HC_Op<"func", [FunctionOpInterface, IsolatedFromAbove, OpAsmOpInterface]> {
  let summary = "A site, one of its parts, or a kernel";
  let description = [{
    Arguments and results are rows, coefficients or weights, and may carry

    - `hc.operand`, what it is: `streams`, `branch` (what the branch gives),
      `branch_input`, `parameter`, `carry`, what crosses the hole
      (`coefficients`, `uniform`, `channels`), `saved`; a cotangent is `d_` and
      the word of what it belongs to: `d_streams`, `d_branch`, ...;
    - `hc.name`, for callers and messages;
    - `hc.uniform`: the same for all tokens;
    - `hc.dtype`, once specialised: the storage type bf16, f16, f32 or f64.

    The function itself may carry

    | attribute | value | written by | meaning |
    |---|---|---|---|
    | `hc.m` | i64, 1 .. 2^20 | the caller | fracs: rows of a stream, the unit u of traffic |
    | `hc.saved` | i64, 0 .. 2^20 | the caller | numbers a token that it has room for in `saved` |
    | `hc.compute` | f32, f64 | hc-specialize | the type of all values |
    | `hc.branch_in`, `hc.branch_out` | storage type | hc-specialize | of the branch's input and output |
    | `hc.role` | before, after, boundary | hc-split, hc-fuse-boundary | which part of a site; a whole site has none |
    | `hc.adjoint` | unit | hc-differentiate | a site's adjoint whose hole is the branch's backward |
    | `hc.reads_u`, `hc.writes_u`, `hc.saved_u`, `hc.narrow_bytes` | i64 | hc-form-phases | traffic, see there |
    | `hc.exposed`, `hc.stages` | i64 | hc-form-phases | what maps wait for, see there |
    | `hc.bucket` | small, large | the exit's caller | how many tokens |
    | `hc.beyond_limits` | unit | the exits | refused: more than kernels take |

    The verifier refuses other attributes of the dialect, and these elsewhere.

    ```mlir
    hc.func @site(%x: !hc.rows<2, d> {hc.operand = "streams"}) -> (!hc.rows<2, d> {hc.operand = "streams"}) {
      hc.return %x : !hc.rows<2, d>
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttrOf<FunctionType>:$function_type,
                       OptionalAttr<StrAttr>:$sym_visibility,
                       OptionalAttr<DictArrayAttr>:$arg_attrs, OptionalAttr<DictArrayAttr>:$res_attrs);
  let regions = (region SizedRegion<1>:$body);
  let builders = [OpBuilder<(ins "::llvm::StringRef":$name, "::mlir::FunctionType":$type)>];
  let hasCustomAssemblyFormat = 1;
  let extraClassDeclaration = [{
    ::mlir::Region *getCallableRegion() { return &getBody(); }
    ::llvm::ArrayRef<::mlir::Type> getArgumentTypes() { return getFunctionType().getInputs(); }
    ::llvm::ArrayRef<::mlir::Type> getResultTypes() { return getFunctionType().getResults(); }
    ::llvm::LogicalResult verifyType(); // of FunctionOpInterface
    ::mlir::Block &getEntry() { return getBody().front(); }
    ::mlir::Operation *getReturn() { return getEntry().getTerminator(); }
  }];
}

def HC_ReturnOp : HC_Op<"return", [Pure, Terminator, HasParent<"FuncOp">]> {
  let summary = "Ends a function";
  let description = [{
    ```mlir
    hc.return %x, %c : !hc.rows<4, d>, !hc.coeffs<4>
    ```
  }];
  let arguments = (ins Variadic<HC_Value>:$operands);
  let assemblyFormat = "($operands^)? attr-dict (`:` type($operands)^)?";
  let hasVerifier = 1;
}

def HC_BranchOp : HC_Op<"branch"> {
  let summary = "The hole: the wrapped branch (attention, MLP, ...)";
  let description = [{
    The first operand goes into the branch, the first result comes out of it.
    Further operands are the crossing values: what the part after the hole
    needs of coefficients, uniform values and channel vectors. They come out
    unchanged; in an adjoint there are none; after the hole nothing else but the streams may be used, so
    that the second part reads no parameter.

    ```mlir
    %y, %h1 = hc.branch %u, %h : (!hc.rows<1, d>, !hc.coeffs<4, 4>) -> (!hc.rows<1, d>, !hc.coeffs<4, 4>)
    ```
  }];
  let arguments = (ins HC_Rows:$input, Variadic<HC_Value>:$crossing);
  let results = (outs HC_Rows:$output, Variadic<HC_Value>:$crossed);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// M: maps over channels
//===----------------------------------------------------------------------===//

def HC_MixOp : HC_MathOp<"mix"> {
  let summary = "out_i = sum_j c[i, j] x_j";
  let description = [{
    Adjoint: dc = dot(dout, x), dx = mix(c^T, dout).
    ```mlir
    %u = hc.mix %pre, %x : (!hc.coeffs<1, 4>, !hc.rows<4, d>) -> !hc.rows<1, d>
    ```
  }];
  let arguments = (ins HC_Coeffs:$coefficients, HC_Rows:$input);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

def HC_ScaleRowsOp : HC_MathOp<"scale_rows"> {
  let summary = "out_i = c[i] x_i";
  let description = [{
    Adjoint: dc = dot_rows(dout, x), dx = scale_rows(c, dout).
    ```mlir
    %w = hc.scale_rows %beta, %y : (!hc.coeffs<4>, !hc.rows<4, d>) -> !hc.rows<4, d>
    ```
  }];
  let arguments = (ins HC_Coeffs:$coefficients, HC_Rows:$input);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

def HC_GatherRowsOp : HC_MathOp<"gather_rows"> {
  let summary = "out_i = x_{indices[i]}";
  let description = [{
    Adjoint: scatter_rows with the same indices.
    ```mlir
    %r = hc.gather_rows %y {indices = array<i64: 0, 1, 0, 1>} : (!hc.rows<2, d>) -> !hc.rows<4, d>
    ```
  }];
  let arguments = (ins HC_Rows:$input, DenseI64ArrayAttr:$indices);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_ScatterRowsOp : HC_MathOp<"scatter_rows"> {
  let summary = "out_j = sum of x_i over indices[i] = j";
  let description = [{
    Adjoint: gather_rows with the same indices.
    ```mlir
    %s = hc.scatter_rows %r {indices = array<i64: 0, 1, 0, 1>} : (!hc.rows<4, d>) -> !hc.rows<2, d>
    ```
  }];
  let arguments = (ins HC_Rows:$input, DenseI64ArrayAttr:$indices);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_FillRowsOp : HC_MathOp<"fill_rows"> {
  let summary = "out_i[c] = v[i] for all channels c";
  let description = [{
    Adjoint: row_sum.
    ```mlir
    %f = hc.fill_rows %v : (!hc.coeffs<4>) -> !hc.rows<4, d>
    ```
  }];
  let arguments = (ins HC_Coeffs:$coefficients);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
}

def HC_ExpandOp : HC_MathOp<"expand"> {
  let summary = "out_{gR+r}[c] = sum_k p[g, k] W[r, c, k]";
  let description = [{
    The transpose of hc.project. Adjoint: dp = project(dout, W), dW = outer(dout, p).
    ```mlir
    %e = hc.expand %p, %w : (!hc.coeffs<1, 24>, !hc.weight<4, d, 24>) -> !hc.rows<4, d>
    ```
  }];
  let arguments = (ins HC_Coeffs:$coefficients, HC_Weight:$weight);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
}

def HC_RoundOp : HC_MathOp<"round", [SameOperandsAndResultType]> {
  let summary = "Rounds to the grid of a storage type, at the edges of a site";
  let description = [{
    Recorded with `edge` ("streams", "branch_input"), bound to `type` by
    hc-specialize. No pass folds or moves it, so recomputed and chained values
    keep their bits. Its adjoint rounds the cotangent: what travels against
    the edge has the type of the edge.
    ```mlir
    %o = hc.round %x {type = bf16} : (!hc.rows<4, 512>) -> !hc.rows<4, 512>
    ```
  }];
  let arguments = (ins HC_Rows:$input, OptionalAttr<StrAttr>:$edge, OptionalAttr<TypeAttr>:$type);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// R: reductions over channels
//===----------------------------------------------------------------------===//

def HC_DotOp : HC_MathOp<"dot", [HC_SumsOverChannels]> {
  let summary = "c[i, j] = <a_i, b_j>";
  let description = [{
    Adjoint: da = mix(dc, b), db = mix(dc^T, a).
    ```mlir
    %c = hc.dot %g, %x : (!hc.rows<4, d>, !hc.rows<4, d>) -> !hc.coeffs<4, 4>
    ```
  }];
  let arguments = (ins HC_Rows:$lhs, HC_Rows:$rhs);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_DotRowsOp : HC_MathOp<"dot_rows", [HC_SumsOverChannels]> {
  let summary = "c[i] = <a_i, b_i>";
  let description = [{
    Adjoint: da = scale_rows(dc, b), db = scale_rows(dc, a).
    ```mlir
    %c = hc.dot_rows %x, %x : (!hc.rows<4, d>, !hc.rows<4, d>) -> !hc.coeffs<4>
    ```
  }];
  let arguments = (ins HC_Rows:$lhs, HC_Rows:$rhs);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

def HC_RowSumOp : HC_MathOp<"row_sum", [HC_SumsOverChannels]> {
  let summary = "c[i] = sum over channels of x_i";
  let description = [{
    Adjoint: fill_rows.
    ```mlir
    %c = hc.row_sum %x : (!hc.rows<4, d>) -> !hc.coeffs<4>
    ```
  }];
  let arguments = (ins HC_Rows:$input);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_ProjectOp : HC_MathOp<"project", [HC_SumsOverChannels]> {
  let summary = "P[g, k] = sum_{r, c} x_{gR+r}[c] W[r, c, k]";
  let description = [{
    Rows come in G groups of R = the weight's rows; R = all rows is the
    flattened projection, R = 1 one weight shared by the rows.
    Adjoint: dx = expand(dP, W), dW = outer(x, dP).
    ```mlir
    %p = hc.project %x, %phi : (!hc.rows<4, d>, !hc.weight<4, d, 24>) -> !hc.coeffs<1, 24>
    ```
  }];
  let arguments = (ins HC_Rows:$input, HC_Weight:$weight);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasCanonicalizer = 1;
}

//===----------------------------------------------------------------------===//
// Composite: recorded by the DSL, rewritten by hc-specialize
//===----------------------------------------------------------------------===//

def HC_NormOp : HC_PureOp<"norm", [AttrSizedOperandSegments]> {
  let summary = "Norm over groups of rows, with optional gain and bias";
  let description = [{
    dim = group * d, statistics over a group of rows:
    `l2_unit_offset`  x / max(|x|, eps) * sqrt(dim) * (gain + 1);
    `rms_inside`      x * (mean(x^2) + eps)^(-1/2) * gain;
    `rms_outside`     x / (sqrt(mean(x^2)) + eps) * gain;
    `layernorm`       (x - mean) * (var + eps)^(-1/2) * gain + bias.
    Gain and bias are uniform rows<group, d>, or rows<1, d> shared by the group.
    A norm commutes with a projection (scale after the product), so a normed
    row is never stored.
    ```mlir
    %n = hc.norm %x {kind = "rms_inside", eps = 1.0e-6 : f64, group = 4 : i64,
                     operandSegmentSizes = array<i32: 1, 0, 0>} : (!hc.rows<4, d>) -> !hc.rows<4, d>
    ```
  }];
  let arguments = (ins HC_Rows:$input, Optional<HC_Rows>:$gain, Optional<HC_Rows>:$bias,
                       StrAttr:$kind, F64Attr:$eps, I64Attr:$group);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Elementwise, on coefficients; add, sub and mul also on rows
//===----------------------------------------------------------------------===//

/// `derivative`: the operands' cotangents, of the result's cotangent g.
class HC_Binary<string mnemonic, string formula, string derivative, Type operandType, list<Trait> traits = []>
    : HC_MathOp<mnemonic, !listconcat([SameOperandsAndResultType], traits)> {
  let summary = formula;
  let description = "Adjoint: " # derivative #
    ".\n```mlir\n%r = hc." # mnemonic # " %a, %b : (!hc.coeffs<4>, !hc.coeffs<4>) -> !hc.coeffs<4>\n```";
  let arguments = (ins operandType:$lhs, operandType:$rhs);
  let results = (outs operandType:$result);
  let hasFolder = 1;
}
def HC_AddOp : HC_Binary<"add", "a + b", "da = db = g", HC_Value, [Commutative]> {
  let hasCanonicalizer = 1;
}
def HC_SubOp : HC_Binary<"sub", "a - b", "da = g, db = -g", HC_Value>;
def HC_MulOp : HC_Binary<"mul", "a * b", "da = g b, db = g a", HC_RowsOrCoeffs, [Commutative]>;
def HC_DivOp : HC_Binary<"div", "a / b", "da = g / b, db = -(g / b) (a / b)", HC_Coeffs>;
def HC_MaxOp : HC_Binary<"max", "max(a, b)", "g goes to the greater, to a when equal", HC_Coeffs>;

class HC_Unary<string mnemonic, string formula, string derivative>
    : HC_MathOp<mnemonic, [SameOperandsAndResultType]> {
  let summary = formula;
  let description = "Adjoint: da = " # derivative # ", r the result" #
    ".\n```mlir\n%r = hc." # mnemonic # " %a : (!hc.coeffs<4>) -> !hc.coeffs<4>\n```";
  let arguments = (ins HC_Coeffs:$input);
  let results = (outs HC_Coeffs:$result);
}
def HC_NegOp : HC_Unary<"neg", "-a", "-g">;
def HC_ExpOp : HC_Unary<"exp", "exp(a)", "g r">;
def HC_LogOp : HC_Unary<"log", "ln(a)", "g / a">;
def HC_TanhOp : HC_Unary<"tanh", "tanh(a)", "g (1 - r^2)">;
def HC_SigmoidOp : HC_Unary<"sigmoid", "1 / (1 + exp(-a))", "g r (1 - r)">;
def HC_SqrtOp : HC_Unary<"sqrt", "sqrt(a)", "g / (2 r)">;
def HC_RsqrtOp : HC_Unary<"rsqrt", "1 / sqrt(a)", "-g r^3 / 2">;
def HC_ReciprocalOp : HC_Unary<"reciprocal", "1 / a", "-g r^2">;
def HC_HeavisideOp : HC_Unary<"heaviside", "1 where a >= 0, else 0", "0">;

//===----------------------------------------------------------------------===//
// C: coefficient maths
//===----------------------------------------------------------------------===//

/// Sparse elements and resources are ElementsAttr too, but folders and both exits read the numbers themselves.
def HC_DenseElementsAttr
    : Attr<CPred<"::llvm::isa<::mlir::DenseElementsAttr>($_self)">, "numbers written out: dense<...>"> {
  let storageType = "::mlir::DenseElementsAttr";
  let returnType = "::mlir::DenseElementsAttr";
  let convertFromStorage = "$_self";
}

def HC_ConstantOp : HC_Op<"constant", [Pure, ConstantLike]> {
  let summary = "Constant coefficients";
  let description = [{
    All numbers are in the text (`dense`): neither `sparse` nor `dense_resource`.
    ```mlir
    %c = hc.constant {value = dense<[0.5, 1.0]> : tensor<2xf64>} : () -> !hc.coeffs<2>
    ```
  }];
  let arguments = (ins HC_DenseElementsAttr:$value);
  let results = (outs HC_Coeffs:$result);
  let assemblyFormat = "attr-dict `:` functional-type(operands, results)";
  let hasFolder = 1;
  let hasVerifier = 1;
}

def HC_ReshapeOp : HC_MathOp<"reshape"> {
  let summary = "The same numbers, row-major, in another shape";
  let description = [{
    Adjoint: reshape.
    ```mlir
    %r = hc.reshape %a : (!hc.coeffs<16>) -> !hc.coeffs<4, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_TransposeOp : HC_MathOp<"transpose"> {
  let summary = "Result axis i is operand axis permutation[i]";
  let description = [{
    Adjoint: transpose by the inverse permutation.
    ```mlir
    %r = hc.transpose %a {permutation = array<i64: 1, 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input, DenseI64ArrayAttr:$permutation);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_SliceOp : HC_MathOp<"slice"> {
  let summary = "A range of one axis; its size is the result's";
  let description = [{
    Adjoint: the cotangent between zeros, by concat.
    ```mlir
    %r = hc.slice %a {axis = 1 : i64, offset = 4 : i64} : (!hc.coeffs<1, 24>) -> !hc.coeffs<1, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input, I64Attr:$axis, I64Attr:$offset);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_ConcatOp : HC_MathOp<"concat"> {
  let summary = "Joins along an axis";
  let description = [{
    Adjoint: slice, an operand each.
    ```mlir
    %r = hc.concat %a, %b {axis = 0 : i64} : (!hc.coeffs<4>, !hc.coeffs<2>) -> !hc.coeffs<6>
    ```
  }];
  let arguments = (ins Variadic<HC_Coeffs>:$inputs, I64Attr:$axis);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_BroadcastOp : HC_MathOp<"broadcast"> {
  let summary = "Operand axis a becomes result axis dims[a]; size 1 stretches, missing axes repeat";
  let description = [{
    Adjoint: reduce_sum over the repeated axes.
    ```mlir
    %r = hc.broadcast %a {dims = array<i64: 1>} : (!hc.coeffs<4>) -> !hc.coeffs<3, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input, DenseI64ArrayAttr:$dims);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
  let hasFolder = 1;
}

def HC_ReduceSumOp : HC_MathOp<"reduce_sum"> {
  let summary = "Sum over axes, which are dropped; the sum over all axes has shape 1";
  let description = [{
    Adjoint: broadcast.
    ```mlir
    %r = hc.reduce_sum %a {axes = array<i64: 1>} : (!hc.coeffs<3, 4>) -> !hc.coeffs<3>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input, DenseI64ArrayAttr:$axes);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_MatmulOp : HC_MathOp<"matmul"> {
  let summary = "c[m, n] = sum_k a[m, k] b[k, n]";
  let description = [{
    Adjoint: da = matmul(dc, b^T), db = matmul(a^T, dc).
    ```mlir
    %r = hc.matmul %a, %b : (!hc.coeffs<2, 3>, !hc.coeffs<3, 4>) -> !hc.coeffs<2, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$lhs, HC_Coeffs:$rhs);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_SoftmaxOp : HC_MathOp<"softmax", [SameOperandsAndResultType]> {
  let summary = "exp(a - max) / sum over the last axis";
  let description = [{
    Adjoint: softmax_adjoint.
    ```mlir
    %p = hc.softmax %l : (!hc.coeffs<24>) -> !hc.coeffs<24>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input);
  let results = (outs HC_Coeffs:$result);
}

def HC_SoftmaxAdjointOp : HC_PureOp<"softmax_adjoint", [SameOperandsAndResultType]> {
  let summary = "p * (dp - <p, dp>) over the last axis";
  let description = [{
    ```mlir
    %dl = hc.softmax_adjoint %p, %dp : (!hc.coeffs<24>, !hc.coeffs<24>) -> !hc.coeffs<24>
    ```
  }];
  let arguments = (ins HC_Coeffs:$probabilities, HC_Coeffs:$cotangent);
  let results = (outs HC_Coeffs:$result);
}

def HC_SinkhornOp : HC_MathOp<"sinkhorn", [SameOperandsAndResultType]> {
  let summary = "Sinkhorn normalisation of N x N logits";
  let description = [{
    Z = L / tau. start "exp": exp(Z - max over the axis of the first step, detached); "exp_raw": exp(Z);
    "softmax_eps": softmax(Z, last) + eps, a column step, then iterations - 1 times {row, column}.
    Otherwise `iterations` times {first, the other}. A "row" step divides by sums over the last axis, a "col"
    step by sums over the first; place "clamp" divides by max(sum, eps), "add" by sum + eps, "none" by the sum.
    `log_domain` does the same on logarithms (place "none"). `iterations` is at most 2^14.
    ```mlir
    %h = hc.sinkhorn %l {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
                         tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input, I64Attr:$iterations, StrAttr:$start, StrAttr:$first, StrAttr:$place,
                       F64Attr:$eps, F64Attr:$tau, BoolAttr:$log_domain);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_SinkhornAdjointOp : HC_PureOp<"sinkhorn_adjoint", [SameOperandsAndResultType]> {
  let summary = "Exact gradient of the unrolled iteration, from the logits and the result's cotangent";
  let description = [{
    With M_t the matrix after step t: G = dM * M; for t = last ... first: G <- G - M_t * (sum of G over the axis
    of step t), skipped on lines whose sum was clamped; dL = G / tau (start softmax_eps: U = G * P / M_0,
    dL = (U - P * sum over last of U) / tau). Recomputes the iterates.
    ```mlir
    %dl = hc.sinkhorn_adjoint %l, %dm {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
             tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$logits, HC_Coeffs:$cotangent, I64Attr:$iterations, StrAttr:$start, StrAttr:$first,
                       StrAttr:$place, F64Attr:$eps, F64Attr:$tau, BoolAttr:$log_domain);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_PermutationMixOp : HC_MathOp<"permutation_mix"> {
  let summary = "H[j, pi_r(j)] = sum of c_r over the n! permutations pi_r in lexicographic order";
  let description = [{
    At most six streams. Adjoint: permutation_dot.
    ```mlir
    %h = hc.permutation_mix %c : (!hc.coeffs<24>) -> !hc.coeffs<4, 4>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

def HC_PermutationDotOp : HC_MathOp<"permutation_dot"> {
  let summary = "c_r = sum_j H[j, pi_r(j)], the transpose of permutation_mix";
  let description = [{
    Adjoint: permutation_mix.
    ```mlir
    %c = hc.permutation_dot %h : (!hc.coeffs<4, 4>) -> !hc.coeffs<24>
    ```
  }];
  let arguments = (ins HC_Coeffs:$input);
  let results = (outs HC_Coeffs:$result);
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// W: sums over tokens, in fixed order
//===----------------------------------------------------------------------===//

def HC_TokenSumOp : HC_MathOp<"token_sum", [SameOperandsAndResultType, HC_SumsOverTokens]> {
  let summary = "Sum over all tokens; the result is uniform";
  let description = [{
    The adjoint of using a uniform value in every token, and the other way round.
    ```mlir
    %s = hc.token_sum %dl : (!hc.coeffs<24>) -> !hc.coeffs<24>
    ```
  }];
  let arguments = (ins HC_Value:$input);
  let results = (outs HC_Value:$result);
}

def HC_WeightGradOp : HC_PureOp<"weight_grad", [HC_SumsOverTokens]> {
  let summary = "dW[r, c, k] = sum over tokens and groups of x_{gR+r}[c] p[g, k]";
  let description = [{
    token_sum(outer(x, p)) in one operation; the outer product is never stored.
    ```mlir
    %dw = hc.weight_grad %x, %dp : (!hc.rows<4, d>, !hc.coeffs<1, 24>) -> !hc.weight<4, d, 24>
    ```
  }];
  let arguments = (ins HC_Rows:$input, HC_Coeffs:$coefficients);
  let results = (outs HC_Weight:$result);
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// P: wide work on parameters, once a call
//===----------------------------------------------------------------------===//

def HC_OuterOp : HC_MathOp<"outer"> {
  let summary = "W[r, c, k] = sum over groups of x_{gR+r}[c] p[g, k]";
  let description = [{
    Adjoint: dx = expand(p, dW), dp = project(x, dW).
    ```mlir
    %w = hc.outer %g, %p : (!hc.rows<1, d>, !hc.coeffs<1, 6>) -> !hc.weight<1, d, 6>
    ```
  }];
  let arguments = (ins HC_Rows:$input, HC_Coeffs:$coefficients);
  let results = (outs HC_Weight:$result);
  let hasVerifier = 1;
}

def HC_ScaleWeightOp : HC_MathOp<"scale_weight"> {
  let summary = "out[r, c, k] = W[r, c, k] g[r, c]";
  let description = [{
    Adjoint: dW = scale_weight(dout, g), dg = weight_dot(W, dout).
    ```mlir
    %s = hc.scale_weight %w, %g : (!hc.weight<1, d, 6>, !hc.rows<1, d>) -> !hc.weight<1, d, 6>
    ```
  }];
  let arguments = (ins HC_Weight:$weight, HC_Rows:$scale);
  let results = (outs HC_Weight:$result);
  let hasVerifier = 1;
}

def HC_WeightDotOp : HC_MathOp<"weight_dot"> {
  let summary = "g[r, c] = sum_k A[r, c, k] B[r, c, k]";
  let description = [{
    Adjoint: dA = scale_weight(B, dg), dB = scale_weight(A, dg).
    ```mlir
    %g = hc.weight_dot %a, %b : (!hc.weight<1, d, 6>, !hc.weight<1, d, 6>) -> !hc.rows<1, d>
    ```
  }];
  let arguments = (ins HC_Weight:$lhs, HC_Weight:$rhs);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
}

def HC_ConcatWeightsOp : HC_MathOp<"concat_weights"> {
  let summary = "Joins weights along their columns";
  let description = [{
    Adjoint: slice_weight, an operand each.
    ```mlir
    %w = hc.concat_weights %a, %b : (!hc.weight<1, d, 5>, !hc.weight<1, d, 1>) -> !hc.weight<1, d, 6>
    ```
  }];
  let arguments = (ins Variadic<HC_Weight>:$inputs);
  let results = (outs HC_Weight:$result);
  let hasVerifier = 1;
}

def HC_SliceWeightOp : HC_MathOp<"slice_weight"> {
  let summary = "A range of columns; their number is the result's";
  let description = [{
    Adjoint: the cotangent between zero columns, by concat_weights.
    ```mlir
    %w = hc.slice_weight %a {offset = 5 : i64} : (!hc.weight<1, d, 6>) -> !hc.weight<1, d, 1>
    ```
  }];
  let arguments = (ins HC_Weight:$input, I64Attr:$offset);
  let results = (outs HC_Weight:$result);
  let hasVerifier = 1;
}

def HC_WeightFromRowsOp : HC_MathOp<"weight_from_rows"> {
  let summary = "W[r, c, k] = x_{kR+r}[c]: a projection stored output first";
  let description = [{
    Adjoint: rows_from_weight.
    ```mlir
    %w = hc.weight_from_rows %fn : (!hc.rows<96, d>) -> !hc.weight<4, d, 24>
    ```
  }];
  let arguments = (ins HC_Rows:$input);
  let results = (outs HC_Weight:$result);
  let hasVerifier = 1;
}

def HC_RowsFromWeightOp : HC_MathOp<"rows_from_weight"> {
  let summary = "x_{kR+r}[c] = W[r, c, k], the inverse of weight_from_rows";
  let description = [{
    Adjoint: weight_from_rows.
    ```mlir
    %r = hc.rows_from_weight %w : (!hc.weight<4, d, 24>) -> !hc.rows<96, d>
    ```
  }];
  let arguments = (ins HC_Weight:$input);
  let results = (outs HC_Rows:$result);
  let hasVerifier = 1;
}

#endif
