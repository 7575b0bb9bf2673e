// RUN: hc-opt --hc-form-phases --convert-hc-to-vector %s | FileCheck %s

// bf16 is read and written with integer arithmetic: no x86 level below avx512bf16 has it, and the conversion would be a
// library function.

// CHECK-LABEL: llvm.func @narrow_tokens
// CHECK-NOT:     bf16
// CHECK:         llvm.load {{.*}} -> vector<8xi16>
// CHECK-NEXT:    arith.extui
// CHECK:         arith.shli
// CHECK:         arith.bitcast {{.*}} : vector<8xi32> to vector<8xf32>
// CHECK:         arith.trunci {{.*}} : vector<8xi32> to vector<8xi16>
// CHECK-NOT:     bf16
hc.func @narrow(%x: !hc.rows<1, 16> {hc.dtype = bf16}, %y: !hc.rows<1, 16> {hc.dtype = bf16})
    -> (!hc.rows<1, 16> {hc.dtype = bf16}) attributes {hc.compute = f32} {
  %0 = hc.add %x, %y : (!hc.rows<1, 16>, !hc.rows<1, 16>) -> !hc.rows<1, 16>
  %1 = hc.round %0 {type = bf16} : (!hc.rows<1, 16>) -> !hc.rows<1, 16>
  hc.return %1 : !hc.rows<1, 16>
}
