// RUN: hc-opt %s -hc-specialize="width=64 stream=bf16 branch-in=bf16 branch-out=bf16" -hc-split -canonicalize -cse | FileCheck %s

// What the second part needs of coefficients leaves the first part packed, a tensor a kind.
// CHECK-LABEL: hc.func @site_before(
// CHECK-SAME: hc.name = "w", hc.operand = "parameter"
// CHECK-SAME: -> (!hc.rows<1, 64> {hc.dtype = bf16, hc.name = "u", hc.operand = "branch_input"}
// CHECK-SAME: !hc.coeffs<2> {hc.dtype = f32, hc.name = "coefficients", hc.operand = "coefficients"}
// CHECK-SAME: !hc.coeffs<4> {hc.dtype = f32, hc.name = "uniform", hc.operand = "uniform", hc.uniform}
// CHECK-SAME: !hc.rows<1, 64> {hc.dtype = f32, hc.name = "channels", hc.operand = "channels", hc.uniform}
// CHECK-SAME: hc.role = "before"
// CHECK: hc.project
// CHECK: hc.mix

// The second part reads no parameter.
// CHECK-LABEL: hc.func @site_after(
// CHECK-NOT: "parameter"
// CHECK-SAME: hc.role = "after"
// CHECK-NOT: hc.project
// CHECK: hc.mul
// CHECK: hc.scale_rows
hc.func @site(%x: !hc.rows<2, d> {hc.operand = "streams"}, %w: !hc.weight<1, d, 1> {hc.operand = "parameter", hc.name = "w", hc.uniform},
              %r: !hc.coeffs<2, 2> {hc.operand = "parameter", hc.name = "r", hc.uniform},
              %g: !hc.rows<1, d> {hc.operand = "parameter", hc.name = "g", hc.uniform}) -> (!hc.rows<2, d> {hc.operand = "streams"}) {
  %0 = hc.project %x, %w : (!hc.rows<2, d>, !hc.weight<1, d, 1>) -> !hc.coeffs<2, 1>
  %1 = hc.reshape %0 : (!hc.coeffs<2, 1>) -> !hc.coeffs<1, 2>
  %2 = hc.mix %1, %x : (!hc.coeffs<1, 2>, !hc.rows<2, d>) -> !hc.rows<1, d>
  %3 = hc.reshape %0 : (!hc.coeffs<2, 1>) -> !hc.coeffs<2>
  %y, %c, %m, %gain = hc.branch %2, %3, %r, %g : (!hc.rows<1, d>, !hc.coeffs<2>, !hc.coeffs<2, 2>, !hc.rows<1, d>)
      -> (!hc.rows<1, d>, !hc.coeffs<2>, !hc.coeffs<2, 2>, !hc.rows<1, d>)
  %4 = hc.mul %y, %gain : (!hc.rows<1, d>, !hc.rows<1, d>) -> !hc.rows<1, d>
  %5 = hc.gather_rows %4 {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>
  %6 = hc.scale_rows %c, %5 : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %7 = hc.mix %m, %x : (!hc.coeffs<2, 2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %8 = hc.add %7, %6 : (!hc.rows<2, d>, !hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %8 : !hc.rows<2, d>
}
