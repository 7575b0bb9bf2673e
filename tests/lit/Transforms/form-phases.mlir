// RUN: hc-opt %s -split-input-file -hc-form-phases -verify-diagnostics | FileCheck %s

// P once a call, C and M and R a token, W over tokens, E after it.
// CHECK-LABEL: hc.func @phases(
// CHECK-SAME: hc.narrow_bytes = 0 : i64, hc.reads_u = 2 : i64, hc.saved_u = 2 : i64, hc.stages = 2 : i64, hc.writes_u = 1 : i64
// CHECK: hc.neg %{{.*}} {phase = "P", stage = 0 : i64}
// CHECK: hc.dot_rows %{{.*}} {phase = "R", stage = 0 : i64}
// CHECK: hc.mul %{{.*}} {phase = "C", stage = 1 : i64}
// CHECK: hc.mix %{{.*}} {phase = "M", stage = 1 : i64}
// CHECK: hc.token_sum %{{.*}} {phase = "W", stage = 1 : i64}
// CHECK: hc.neg %{{.*}} {phase = "E", stage = 0 : i64}
hc.func @phases(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %a: !hc.coeffs<2> {hc.uniform})
    -> (!hc.rows<1, 8>, !hc.coeffs<2> {hc.uniform})
    attributes {hc.compute = f32} {
  %0 = hc.neg %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %1 = hc.dot_rows %x, %x : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2>
  %2 = hc.mul %0, %1 : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %3 = hc.token_sum %2 : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %4 = hc.neg %3 : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %5 = hc.reshape %2 : (!hc.coeffs<2>) -> !hc.coeffs<1, 2>
  %6 = hc.mix %5, %x : (!hc.coeffs<1, 2>, !hc.rows<2, 8>) -> !hc.rows<1, 8>
  hc.return %6, %4 : !hc.rows<1, 8>, !hc.coeffs<2>
}

// -----

hc.func @second_pass(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.compute = f32} {
  %0 = hc.row_sum %x : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  %1 = hc.token_sum %0 : (!hc.coeffs<2>) -> !hc.coeffs<2>
  // expected-error @below {{needs a sum over all tokens in every token}}
  %2 = hc.scale_rows %1, %x : (!hc.coeffs<2>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %2 : !hc.rows<2, 8>
}

// -----

// expected-error @below {{streams times fracs is 40; fused kernels cover up to 32}}
hc.func @too_many(%x: !hc.rows<40, 8> {hc.operand = "streams"}) -> !hc.coeffs<40> attributes {hc.compute = f32} {
  %0 = hc.row_sum %x : (!hc.rows<40, 8>) -> !hc.coeffs<40>
  hc.return %0 : !hc.coeffs<40>
}

// -----

// Forward writes the branch input and backward reads its cotangent: what one refuses the other refuses.
// expected-error @below {{number of branch input rows is 33; fused kernels cover up to 32}}
hc.func @too_many_views(%x: !hc.rows<4, 8> {hc.operand = "streams"}, %c: !hc.coeffs<33, 4> {hc.uniform})
    -> (!hc.rows<33, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.mix %c, %x : (!hc.coeffs<33, 4>, !hc.rows<4, 8>) -> !hc.rows<33, 8>
  hc.return %0 : !hc.rows<33, 8>
}

// -----

// expected-error @below {{number of branch input rows is 33; fused kernels cover up to 32}}
hc.func @too_many_cotangents(%u: !hc.rows<33, 8> {hc.operand = "d_branch_input"}, %c: !hc.coeffs<4, 33> {hc.uniform})
    -> (!hc.rows<4, 8> {hc.operand = "d_streams"}) attributes {hc.compute = f32} {
  %0 = hc.mix %c, %u : (!hc.coeffs<4, 33>, !hc.rows<33, 8>) -> !hc.rows<4, 8>
  hc.return %0 : !hc.rows<4, 8>
}

// -----

// Between them there may be more rows.
// CHECK-LABEL: hc.func @views(
hc.func @views(%x: !hc.rows<4, 8> {hc.operand = "streams"}, %c: !hc.coeffs<33, 4> {hc.uniform}, %d: !hc.coeffs<32, 33> {hc.uniform})
    -> (!hc.rows<32, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.mix %c, %x : (!hc.coeffs<33, 4>, !hc.rows<4, 8>) -> !hc.rows<33, 8>
  %1 = hc.mix %d, %0 : (!hc.coeffs<32, 33>, !hc.rows<33, 8>) -> !hc.rows<32, 8>
  hc.return %1 : !hc.rows<32, 8>
}

// -----

// expected-error @below {{result 1 is a sum over tokens; it is the same for all tokens and must carry hc.uniform}}
hc.func @sum_of_a_token(%x: !hc.rows<2, 8>) -> (!hc.coeffs<2>, !hc.coeffs<2>) attributes {hc.compute = f32} {
  %0 = hc.row_sum %x : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  %1 = hc.token_sum %0 : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %0, %1 : !hc.coeffs<2>, !hc.coeffs<2>
}

// -----

// expected-error @below {{result 0 is a weight; it is the same for all tokens and must carry hc.uniform}}
hc.func @weight_of_a_token(%x: !hc.rows<2, 8>, %p: !hc.coeffs<1, 3>) -> !hc.weight<2, 8, 3> attributes {hc.compute = f32} {
  %0 = hc.weight_grad %x, %p : (!hc.rows<2, 8>, !hc.coeffs<1, 3>) -> !hc.weight<2, 8, 3>
  hc.return %0 : !hc.weight<2, 8, 3>
}

// -----

// expected-error @below {{argument 1 is a weight without hc.uniform; no skeleton reads a weight for every token}}
hc.func @reads_a_weight_a_token(%x: !hc.rows<2, 8>, %w: !hc.weight<1, 8, 3>) -> (!hc.weight<1, 8, 3> {hc.uniform})
    attributes {hc.compute = f32} {
  hc.return %w : !hc.weight<1, 8, 3>
}

// -----

hc.func @recorded(%x: !hc.rows<1, 8>) -> !hc.rows<1, 8> attributes {hc.compute = f32} {
  // expected-error @below {{belongs to a recorded program}}
  %y = hc.branch %x : (!hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %y : !hc.rows<1, 8>
}

// -----

hc.func @weight_a_token(%x: !hc.rows<2, 8>, %p: !hc.coeffs<1, 3>) -> !hc.coeffs<1, 3> attributes {hc.compute = f32} {
  // expected-error @below {{makes a weight for every token, which no skeleton stores}}
  %0 = hc.outer %x, %p : (!hc.rows<2, 8>, !hc.coeffs<1, 3>) -> !hc.weight<2, 8, 3>
  %1 = hc.project %x, %0 : (!hc.rows<2, 8>, !hc.weight<2, 8, 3>) -> !hc.coeffs<1, 3>
  hc.return %1 : !hc.coeffs<1, 3>
}

// -----

hc.func @gradient_of_a_sum(%x: !hc.rows<1, 8> {hc.operand = "streams"}, %p: !hc.coeffs<1, 2> {hc.operand = "coefficients"}) -> (!hc.weight<1, 8, 2> {hc.uniform})
    attributes {hc.compute = f32} {
  %0 = hc.token_sum %p : (!hc.coeffs<1, 2>) -> !hc.coeffs<1, 2>
  // expected-error @below {{needs a sum over all tokens in every token}}
  %1 = hc.weight_grad %x, %0 : (!hc.rows<1, 8>, !hc.coeffs<1, 2>) -> !hc.weight<1, 8, 2>
  hc.return %1 : !hc.weight<1, 8, 2>
}

// -----

hc.func @foreign(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.compute = f32} {
  // expected-error @below {{'builtin.module' op makes no single value, so it has no phase}}
  builtin.module {}
  hc.return %x : !hc.rows<2, 8>
}
