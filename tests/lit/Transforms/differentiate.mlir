// RUN: hc-opt %s -split-input-file -hc-save-reductions -hc-differentiate="given=xuck want=xycpk" -canonicalize -cse | FileCheck %s

// Reductions are read from what forward saved; the weight's gradient is summed without storing outer products;
// a uniform coefficient's gradient is a sum over tokens.
// CHECK-LABEL: hc.func @projected_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 2>{{.*}}, %[[A:.*]]: !hc.coeffs<1, 2>
// CHECK-SAME: %[[SAVED:.*]]: !hc.coeffs<2> {{.*}}"saved"
// CHECK-SAME: %[[DU:.*]]: !hc.rows<1, 8>
// CHECK-NOT: hc.project
// CHECK: hc.reshape %[[SAVED]]
// CHECK: hc.expand
// CHECK: hc.weight_grad %[[X]]
// CHECK-NOT: hc.outer
// CHECK: hc.token_sum
hc.func @projected(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %w: !hc.weight<2, 8, 2> {hc.operand = "parameter", hc.uniform},
                   %a: !hc.coeffs<1, 2> {hc.operand = "parameter", hc.uniform}) -> (!hc.rows<1, 8> {hc.operand = "branch_input"})
    attributes {hc.compute = f32} {
  %0 = hc.project %x, %w : (!hc.rows<2, 8>, !hc.weight<2, 8, 2>) -> !hc.coeffs<1, 2>
  %1 = hc.mul %0, %a : (!hc.coeffs<1, 2>, !hc.coeffs<1, 2>) -> !hc.coeffs<1, 2>
  %2 = hc.mix %1, %x : (!hc.coeffs<1, 2>, !hc.rows<2, 8>) -> !hc.rows<1, 8>
  hc.return %2 : !hc.rows<1, 8>
}

// -----

// What leaves towards an edge has the edge's storage type.
// CHECK-LABEL: hc.func @edge_backward(
// CHECK: hc.round %{{.*}} {type = bf16}
hc.func @edge(%x: !hc.rows<1, 8> {hc.operand = "streams", hc.dtype = bf16}, %c: !hc.coeffs<1> {hc.operand = "coefficients"})
    -> (!hc.rows<1, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.scale_rows %c, %x : (!hc.coeffs<1>, !hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %0 : !hc.rows<1, 8>
}

// -----

// Streams that are read and not made anew are handed on: their cotangent comes first, and is added before rounding.
// CHECK-LABEL: hc.func @before_backward(
// CHECK-SAME: %[[C:.*]]: !hc.coeffs<1, 2> {hc.operand = "coefficients"}
// CHECK-SAME: %[[DX:.*]]: !hc.rows<2, 8> {hc.dtype = bf16, hc.name = "d_?", hc.operand = "d_streams"}, %[[DU:.*]]: !hc.rows<1, 8> {hc.name = "d_?", hc.operand = "d_branch_input"})
// CHECK: %[[OWN:.*]] = hc.mix %{{.*}}, %[[DU]]
// CHECK: %[[SUM:.*]] = hc.add %[[DX]], %[[OWN]]
// CHECK: hc.round %[[SUM]] {type = bf16}
hc.func @before(%x: !hc.rows<2, 8> {hc.operand = "streams", hc.dtype = bf16}, %c: !hc.coeffs<1, 2> {hc.operand = "coefficients"})
    -> (!hc.rows<1, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.mix %c, %x : (!hc.coeffs<1, 2>, !hc.rows<2, 8>) -> !hc.rows<1, 8>
  hc.return %0 : !hc.rows<1, 8>
}

// -----

// A result that is itself a reduction: its cotangent reaches what was reduced, through what was saved of it.
// CHECK-LABEL: hc.func @squares_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %{{.*}}: !hc.coeffs<2> {{.*}}"saved"{{.*}}, %[[DC:.*]]: !hc.coeffs<2> {{.*}}"d_coefficients"
// CHECK: %[[TWICE:.*]] = hc.mul %[[DC]], %{{.*}}
// CHECK: %[[OWN:.*]] = hc.scale_rows %[[TWICE]], %[[X]]
// CHECK: %[[SUM:.*]] = hc.add %{{.*}}, %[[OWN]]
// CHECK: hc.return %[[SUM]]
hc.func @squares(%x: !hc.rows<2, 8> {hc.operand = "streams"}) -> (!hc.coeffs<2> {hc.operand = "coefficients"})
    attributes {hc.compute = f32} {
  %0 = hc.dot_rows %x, %x : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

// What is equal for all tokens is summed as often as there are tokens; so is its cotangent.
// CHECK-LABEL: hc.func @token_sum_of_a_parameter
// CHECK-SAME: %[[dX:.*]]: !hc.rows<1, 8> {{.*}}, %[[dS:[a-z0-9]+]]: !hc.coeffs<1>
// CHECK: hc.token_sum %[[dS]]
hc.func @token_sum_of_a_parameter(%x: !hc.rows<1, 8> {hc.operand = "streams"}, %p: !hc.coeffs<1> {hc.operand = "parameter", hc.uniform}) -> (!hc.rows<1, 8> {hc.operand = "streams"}, !hc.coeffs<1> {hc.operand = "uniform", hc.uniform}) attributes {hc.compute = f32} {
  %r = hc.scale_rows %p, %x : (!hc.coeffs<1>, !hc.rows<1, 8>) -> !hc.rows<1, 8>
  %s = hc.token_sum %p : (!hc.coeffs<1>) -> !hc.coeffs<1>
  hc.return %r, %s : !hc.rows<1, 8>, !hc.coeffs<1>
}
