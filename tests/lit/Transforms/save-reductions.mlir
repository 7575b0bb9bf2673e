// RUN: hc-opt %s -split-input-file -hc-save-reductions | FileCheck %s

// Reductions over channels are kept, packed into one result; where only their sum goes on, the sum is kept.
// CHECK-LABEL: hc.func @kept(
// CHECK-SAME: !hc.coeffs<7> {hc.dtype = f32, hc.name = "saved", hc.operand = "saved"}
// CHECK: %[[SQUARES:.*]] = hc.dot_rows
// CHECK: %[[SUM:.*]] = hc.reduce_sum %[[SQUARES]]
// CHECK: %[[P:.*]] = hc.project
// CHECK: %[[FLAT:.*]] = hc.reshape %[[P]] : (!hc.coeffs<1, 6>) -> !hc.coeffs<6>
// CHECK: %[[SAVED:.*]] = hc.concat %[[SUM]], %[[FLAT]]
// CHECK: hc.return %{{.*}}, %[[SAVED]]
hc.func @kept(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %w: !hc.weight<2, 8, 6> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<1, 6> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.dot_rows %x, %x : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2>
  %1 = hc.reduce_sum %0 {axes = array<i64: 0>} : (!hc.coeffs<2>) -> !hc.coeffs<1>
  %2 = hc.rsqrt %1 : (!hc.coeffs<1>) -> !hc.coeffs<1>
  %3 = hc.project %x, %w : (!hc.rows<2, 8>, !hc.weight<2, 8, 6>) -> !hc.coeffs<1, 6>
  %4 = hc.broadcast %2 {dims = array<i64: 0>} : (!hc.coeffs<1>) -> !hc.coeffs<1, 6>
  %5 = hc.mul %3, %4 : (!hc.coeffs<1, 6>, !hc.coeffs<1, 6>) -> !hc.coeffs<1, 6>
  hc.return %5 : !hc.coeffs<1, 6>
}

// -----

// What depends on no token is made again once a call, and a site without reductions saves nothing.
// CHECK-LABEL: hc.func @nothing(
// CHECK-NOT: "saved"
// CHECK: hc.return %{{[^,]*}} :
hc.func @nothing(%x: !hc.rows<1, 8> {hc.operand = "streams"}, %g: !hc.rows<1, 8> {hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<1, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.row_sum %g : (!hc.rows<1, 8>) -> !hc.coeffs<1>
  %1 = hc.scale_rows %0, %x : (!hc.coeffs<1>, !hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %1 : !hc.rows<1, 8>
}
