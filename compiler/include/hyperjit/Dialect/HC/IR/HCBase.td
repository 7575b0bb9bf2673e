//===- HCBase.td - The hc dialect and its types -------------*- tablegen -*-===//
// SPDX-License-Identifier: Apache-2.0
//
// The dialect holds the mathematics of one token of a hyper-connection. Sizes
// of types are integers; the row width may also be the keyword `d` until
// hc-specialize binds it. A type never holds an expression, so types stay
// comparable before and after binding.
//===----------------------------------------------------------------------===//
#ifndef HYPERJIT_HC_BASE
#define HYPERJIT_HC_BASE

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"

def HC_Dialect : Dialect {
  let name = "hc";
  let summary = "One token of a hyper-connection: rows, coefficients, weights";
  let description = [{
    Values are in compute precision (f32, or f64 for f64 streams); storage
    types are attributes of function arguments and results. A value is
    *uniform* when it is the same for all tokens: an argument with the unit
    attribute `hc.uniform`, a sum over tokens, or the result of an operation
    whose operands are all uniform. Everything else belongs to one token.
  }];
  let cppNamespace = "::hyperjit::hc";
  let useDefaultTypePrinterParser = 1;
  let hasConstantMaterializer = 1;
  let hasOperationAttrVerify = 1;
  let hasRegionArgAttrVerify = 1;
  let hasRegionResultAttrVerify = 1;
  let extraClassDeclaration = [{
    static constexpr ::llvm::StringLiteral uniformAttrName = "hc.uniform";
    static constexpr ::llvm::StringLiteral operandAttrName = "hc.operand";
    static constexpr ::llvm::StringLiteral nameAttrName = "hc.name";
    static constexpr ::llvm::StringLiteral dtypeAttrName = "hc.dtype";
  }];
}

class HC_Type<string name, string typeMnemonic> : TypeDef<HC_Dialect, name> {
  let mnemonic = typeMnemonic;
  let genVerifyDecl = 1;
}

def HC_RowsType : HC_Type<"Rows", "rows"> {
  let summary = "Rows of d channels of one token";
  let description = [{
    `!hc.rows<4, d>`: streams (row i = stream * m + frac), branch input and
    output, and, when uniform, vectors over channels.
  }];
  let parameters = (ins "int64_t":$rows, "int64_t":$width);
  let assemblyFormat = "`<` $rows `,` custom<Width>($width) `>`";
  let extraClassDeclaration = [{
    /// Also of a weight, and of its columns: as many as a recorded program may ask for.
    static constexpr int64_t mostRows = 1 << 20;
  }];
}

def HC_CoeffsType : HC_Type<"Coeffs", "coeffs"> {
  let summary = "A few numbers, row-major, rank at least one";
  let description = [{
    `!hc.coeffs<4, 4>`: what mixes, reads and writes rows, of one token or,
    when uniform, a parameter.
  }];
  let parameters = (ins ArrayRefParameter<"int64_t">:$shape);
  let assemblyFormat = "`<` custom<Shape>($shape) `>`";
  let extraClassDeclaration = [{
    /// No token has so many; text that somebody wrote may ask for more than there is memory.
    static constexpr int64_t mostElements = 1 << 20;
    int64_t getNumElements() const {
      int64_t count = 1;
      for (int64_t size : getShape())
        count *= size;
      return count;
    }
    int64_t getRank() const { return getShape().size(); }
    /// The same numbers in another arrangement.
    static CoeffsType get(::mlir::MLIRContext *context, std::initializer_list<int64_t> shape) {
      return get(context, ::llvm::ArrayRef<int64_t>(shape.begin(), shape.size()));
    }
  }];
}

def HC_WeightType : HC_Type<"Weight", "weight"> {
  let summary = "A wide parameter [rows, d, columns], row-major";
  let description = [{
    `!hc.weight<4, d, 24>`: what projects 4 rows of d channels to 24 numbers, and expands them back. Columns of a channel
    lie together.
  }];
  let parameters = (ins "int64_t":$rows, "int64_t":$width, "int64_t":$columns);
  let assemblyFormat = "`<` $rows `,` custom<Width>($width) `,` $columns `>`";
}

def HC_Rows : Type<CPred<"::llvm::isa<::hyperjit::hc::RowsType>($_self)">, "rows", "::hyperjit::hc::RowsType">;
def HC_Coeffs : Type<CPred<"::llvm::isa<::hyperjit::hc::CoeffsType>($_self)">, "coefficients", "::hyperjit::hc::CoeffsType">;
def HC_Weight : Type<CPred<"::llvm::isa<::hyperjit::hc::WeightType>($_self)">, "weight", "::hyperjit::hc::WeightType">;
def HC_RowsOrCoeffs : AnyTypeOf<[HC_Rows, HC_Coeffs]>;
def HC_Value : AnyTypeOf<[HC_Rows, HC_Coeffs, HC_Weight]>;

#endif
