// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=4 | FileCheck %s
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=4,preparers=2 2>&1 | FileCheck %s --check-prefix=PREPARERS

// Rounded rows %x0 are made in three stages. A lane holds them from one stage to the next and no further: from the first on it would
// have another tile's in the third.
// CHECK: class Rows0_0 {
// CHECK-NOT: holdRows
// CHECK: class Rows1_0 {
// CHECK-NOT: loadRows<Held
// CHECK: holdRows<Held<Rounded<bfloat16>, 0>>
// CHECK: class Rows2_0 {
// CHECK: loadRows<Held<Rounded<bfloat16>, 0>, 1>
// CHECK: using MainFlow = Flow<1, {{[0-9]+}}, 0, {{[0-9]+}}, 0, List<RecordCopy<Operand<1, float, 4>, 0, {{[0-9]+}}, 4, 4>>, 1, 4,
// PREPARERS: preparers is 2, but the first records are copied from memory
hc.func @boundary(%x: !hc.rows<4, 1280> {hc.dtype = bf16, hc.operand = "streams"},
                  %h: !hc.coeffs<4> {hc.dtype = f32, hc.operand = "coefficients"},
                  %phi: !hc.weight<1, 1280, 8> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<1, 1280> {hc.dtype = bf16}) attributes {hc.compute = f32} {
  %q = hc.reshape %h : (!hc.coeffs<4>) -> !hc.coeffs<1, 4>
  %m0 = hc.mix %q, %x : (!hc.coeffs<1, 4>, !hc.rows<4, 1280>) -> !hc.rows<1, 1280>
  %x0 = hc.round %m0 {type = bf16} : (!hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %p0 = hc.project %x0, %phi : (!hc.rows<1, 1280>, !hc.weight<1, 1280, 8>) -> !hc.coeffs<1, 8>
  %s0 = hc.slice %p0 {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 8>) -> !hc.coeffs<1, 1>
  %g0 = hc.sigmoid %s0 : (!hc.coeffs<1, 1>) -> !hc.coeffs<1, 1>
  %m1 = hc.mix %g0, %x0 : (!hc.coeffs<1, 1>, !hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %x1 = hc.round %m1 {type = bf16} : (!hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %p1 = hc.project %x1, %phi : (!hc.rows<1, 1280>, !hc.weight<1, 1280, 8>) -> !hc.coeffs<1, 8>
  %s1 = hc.slice %p1 {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 8>) -> !hc.coeffs<1, 1>
  %g1 = hc.sigmoid %s1 : (!hc.coeffs<1, 1>) -> !hc.coeffs<1, 1>
  %m2 = hc.mix %g1, %x0 : (!hc.coeffs<1, 1>, !hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %x2 = hc.round %m2 {type = bf16} : (!hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  hc.return %x2 : !hc.rows<1, 1280>
}
