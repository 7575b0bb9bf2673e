// Constants stand where the canonicalizer puts them, at the front: each part has its own.
// RUN: hc-opt %s -hc-specialize="width=8" -canonicalize -hc-split | FileCheck %s
// RUN: hc-opt %s -hc-specialize="width=8" -hc-split | FileCheck %s

// CHECK-LABEL: hc.func @site_before(
// CHECK-NOT: hc.scale_rows
// CHECK-LABEL: hc.func @site_after(
// CHECK: %[[C:.*]] = hc.constant
// CHECK: hc.scale_rows %[[C]]
hc.func @site(%x: !hc.rows<2, d> {hc.operand = "streams"}) -> (!hc.rows<2, d> {hc.operand = "streams"}) {
  %u = hc.gather_rows %x {indices = array<i64: 0>} : (!hc.rows<2, d>) -> !hc.rows<1, d>
  %y = hc.branch %u : (!hc.rows<1, d>) -> !hc.rows<1, d>
  %c = hc.constant {value = dense<[0.5, 1.5]> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %g = hc.gather_rows %y {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>
  %s = hc.scale_rows %c, %g : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %n = hc.add %x, %s : (!hc.rows<2, d>, !hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %n : !hc.rows<2, d>
}
