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

// -----

// Callers have room for three numbers: what does not fit is not kept, what is left is zeros.
// CHECK-LABEL: hc.func @room(
// CHECK-SAME: !hc.coeffs<3> {hc.dtype = f32, hc.name = "saved", hc.operand = "saved"}
// CHECK: %[[SUM:.*]] = hc.row_sum
// CHECK: %[[ZERO:.*]] = hc.constant {value = dense<0.000000e+00> : tensor<1xf64>}
// CHECK: %[[SAVED:.*]] = hc.concat %[[SUM]], %[[ZERO]]
// CHECK: hc.return %{{.*}}, %[[SAVED]]
hc.func @room(%x: !hc.rows<2, 8> {hc.operand = "streams"}) -> (!hc.coeffs<2, 2> {hc.operand = "coefficients"})
    attributes {hc.compute = f32, hc.saved = 3 : i64} {
  %0 = hc.row_sum %x : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  %1 = hc.dot %x, %x : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2, 2>
  %2 = hc.broadcast %0 {dims = array<i64: 1>} : (!hc.coeffs<2>) -> !hc.coeffs<2, 2>
  %3 = hc.mul %1, %2 : (!hc.coeffs<2, 2>, !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %3 : !hc.coeffs<2, 2>
}

// -----

// The part after a hole saves nothing.
// CHECK-LABEL: hc.func @after(
// CHECK-NOT: "saved"
hc.func @after(%x: !hc.rows<1, 8> {hc.operand = "streams"}, %y: !hc.rows<1, 8> {hc.operand = "branch"})
    -> (!hc.rows<1, 8> {hc.operand = "streams"}) attributes {hc.compute = f32, hc.role = "after"} {
  %0 = hc.row_sum %y : (!hc.rows<1, 8>) -> !hc.coeffs<1>
  %1 = hc.scale_rows %0, %x : (!hc.coeffs<1>, !hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %1 : !hc.rows<1, 8>
}

// -----

// Where no caller has said how much room there is, as much is kept as coefficients may be.
// CHECK-LABEL: hc.func @most(
// CHECK-SAME: !hc.coeffs<1048576> {hc.dtype = f32, hc.name = "saved", hc.operand = "saved"}
hc.func @most(%x: !hc.rows<1024, 8> {hc.operand = "streams"}, %y: !hc.rows<1024, 8> {hc.operand = "branch"})
    -> (!hc.coeffs<1024, 1024> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.dot %x, %x : (!hc.rows<1024, 8>, !hc.rows<1024, 8>) -> !hc.coeffs<1024, 1024>
  %1 = hc.dot %x, %y : (!hc.rows<1024, 8>, !hc.rows<1024, 8>) -> !hc.coeffs<1024, 1024>
  %2 = hc.mul %0, %1 : (!hc.coeffs<1024, 1024>, !hc.coeffs<1024, 1024>) -> !hc.coeffs<1024, 1024>
  hc.return %2 : !hc.coeffs<1024, 1024>
}

// -----

// Results without attributes stay without.
// CHECK-LABEL: hc.func @plain(
// CHECK-SAME: -> (!hc.rows<1, 8>, !hc.coeffs<1> {hc.dtype = f32, hc.name = "saved", hc.operand = "saved"})
hc.func @plain(%x: !hc.rows<1, 8>) -> !hc.rows<1, 8> attributes {hc.compute = f32} {
  %0 = hc.row_sum %x : (!hc.rows<1, 8>) -> !hc.coeffs<1>
  %1 = hc.scale_rows %0, %x : (!hc.coeffs<1>, !hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %1 : !hc.rows<1, 8>
}
