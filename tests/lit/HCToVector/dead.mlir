// RUN: hc-opt --hc-form-phases --convert-hc-to-vector %s | FileCheck %s

// A product that nothing needs has no place in a block, nor do its operands: it is not made.
// CHECK-LABEL: llvm.func @f_tokens
// CHECK-NOT: math.fma
// CHECK-NOT: arith.mulf
hc.func @f(%x: !hc.rows<2, 8> {hc.dtype = f32}, %p: !hc.coeffs<1, 3> {hc.dtype = f32},
           %w: !hc.weight<2, 8, 3> {hc.dtype = f32, hc.uniform}) -> (!hc.rows<2, 8> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  %0 = hc.mul %p, %p : (!hc.coeffs<1, 3>, !hc.coeffs<1, 3>) -> !hc.coeffs<1, 3>
  %1 = hc.expand %0, %w : (!hc.coeffs<1, 3>, !hc.weight<2, 8, 3>) -> !hc.rows<2, 8>
  hc.return %x : !hc.rows<2, 8>
}
