// RUN: hc-opt %s -canonicalize | FileCheck %s

// A single stream: mix becomes a scale.
// CHECK-LABEL: hc.func @one_stream(
// CHECK: hc.scale_rows
// CHECK-NOT: hc.mix
hc.func @one_stream(%c: !hc.coeffs<1, 1>, %x: !hc.rows<1, d>) -> !hc.rows<1, d> {
  %0 = hc.mix %c, %x : (!hc.coeffs<1, 1>, !hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return %0 : !hc.rows<1, d>
}

// Zero cotangents and unit scales disappear.
// CHECK-LABEL: hc.func @zero_and_one(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, d>, %[[A:.*]]: !hc.coeffs<2>)
// CHECK-NEXT: hc.return %[[X]], %[[A]]
hc.func @zero_and_one(%x: !hc.rows<2, d>, %a: !hc.coeffs<2>) -> (!hc.rows<2, d>, !hc.coeffs<2>) {
  %one = hc.constant {value = dense<1.0> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %zero = hc.constant {value = dense<0.0> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %0 = hc.scale_rows %one, %x : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %1 = hc.mul %a, %one : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %2 = hc.add %zero, %1 : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %0, %2 : !hc.rows<2, d>, !hc.coeffs<2>
}

// Shapes: identities go, splats keep their value.
// CHECK-LABEL: hc.func @shapes(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3>)
// CHECK: %[[C:.*]] = hc.constant {value = dense<2.000000e+00> : tensor<3x4xf64>}
// CHECK: hc.return %[[A]], %[[C]]
hc.func @shapes(%a: !hc.coeffs<2, 3>) -> (!hc.coeffs<2, 3>, !hc.coeffs<3, 4>) {
  %0 = hc.transpose %a {permutation = array<i64: 1, 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>
  %1 = hc.transpose %0 {permutation = array<i64: 1, 0>} : (!hc.coeffs<3, 2>) -> !hc.coeffs<2, 3>
  %2 = hc.reshape %1 : (!hc.coeffs<2, 3>) -> !hc.coeffs<6>
  %3 = hc.reshape %2 : (!hc.coeffs<6>) -> !hc.coeffs<2, 3>
  %c = hc.constant {value = dense<2.0> : tensor<4xf64>} : () -> !hc.coeffs<4>
  %4 = hc.broadcast %c {dims = array<i64: 1>} : (!hc.coeffs<4>) -> !hc.coeffs<3, 4>
  hc.return %3, %4 : !hc.coeffs<2, 3>, !hc.coeffs<3, 4>
}

// A slice that is one operand of a concat is that operand.
// CHECK-LABEL: hc.func @slice_of_concat(
// CHECK-SAME: %{{.*}}: !hc.coeffs<2>, %[[B:.*]]: !hc.coeffs<3>)
// CHECK-NEXT: hc.return %[[B]]
hc.func @slice_of_concat(%a: !hc.coeffs<2>, %b: !hc.coeffs<3>) -> !hc.coeffs<3> {
  %0 = hc.concat %a, %b {axis = 0 : i64} : (!hc.coeffs<2>, !hc.coeffs<3>) -> !hc.coeffs<5>
  %1 = hc.slice %0 {axis = 0 : i64, offset = 2 : i64} : (!hc.coeffs<5>) -> !hc.coeffs<3>
  hc.return %1 : !hc.coeffs<3>
}

// Rounding stays, also twice.
// CHECK-LABEL: hc.func @round(
// CHECK-COUNT-2: hc.round
hc.func @round(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> {
  %0 = hc.round %x {type = bf16} : (!hc.rows<2, 8>) -> !hc.rows<2, 8>
  %1 = hc.round %0 {type = bf16} : (!hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %1 : !hc.rows<2, 8>
}

// A scale commutes with a projection of single rows: the row stays as it came from memory.
// CHECK-LABEL: hc.func @project_of_scaled(
// CHECK-SAME: %[[C:.*]]: !hc.coeffs<4>, %[[X:.*]]: !hc.rows<4, d>, %[[W:.*]]: !hc.weight<1, d, 6>
// CHECK: %[[P:.*]] = hc.project %[[X]], %[[W]]
// CHECK: hc.mul %{{.*}}, %[[P]]
hc.func @project_of_scaled(%c: !hc.coeffs<4>, %x: !hc.rows<4, d>, %w: !hc.weight<1, d, 6>) -> !hc.coeffs<4, 6> {
  %0 = hc.scale_rows %c, %x : (!hc.coeffs<4>, !hc.rows<4, d>) -> !hc.rows<4, d>
  %1 = hc.project %0, %w : (!hc.rows<4, d>, !hc.weight<1, d, 6>) -> !hc.coeffs<4, 6>
  hc.return %1 : !hc.coeffs<4, 6>
}

// Dots with one row that is repeated are dots with that row, whichever side it is on; with several rows they stay.
// CHECK-LABEL: hc.func @dot_of_repeated(
// CHECK-SAME: %[[X:.*]]: !hc.rows<4, d>, %[[Y:.*]]: !hc.rows<1, d>, %[[Z:.*]]: !hc.rows<2, d>
// CHECK: %[[L:.*]] = hc.dot %[[X]], %[[Y]] : {{.*}} -> !hc.coeffs<4, 1>
// CHECK: hc.reshape %[[L]] : (!hc.coeffs<4, 1>) -> !hc.coeffs<4>
// CHECK: hc.dot_rows
// CHECK-NOT: hc.dot_rows
hc.func @dot_of_repeated(%x: !hc.rows<4, d>, %y: !hc.rows<1, d>, %z: !hc.rows<2, d>) -> (!hc.coeffs<4>, !hc.coeffs<4>, !hc.coeffs<4>) {
  %0 = hc.gather_rows %y {indices = array<i64: 0, 0, 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<4, d>
  %1 = hc.gather_rows %z {indices = array<i64: 0, 1, 0, 1>} : (!hc.rows<2, d>) -> !hc.rows<4, d>
  %2 = hc.dot_rows %x, %0 : (!hc.rows<4, d>, !hc.rows<4, d>) -> !hc.coeffs<4>
  %3 = hc.dot_rows %0, %x : (!hc.rows<4, d>, !hc.rows<4, d>) -> !hc.coeffs<4>
  %4 = hc.dot_rows %x, %1 : (!hc.rows<4, d>, !hc.rows<4, d>) -> !hc.coeffs<4>
  hc.return %2, %3, %4 : !hc.coeffs<4>, !hc.coeffs<4>, !hc.coeffs<4>
}

// Constants are worked out; what changes nothing goes.
// CHECK-LABEL: hc.func @constants(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>)
// CHECK-DAG: %[[SUM:.*]] = hc.constant {value = dense<[5.000000e+00, 1.000000e+00]>
// CHECK-DAG: %[[MAX:.*]] = hc.constant {value = dense<[4.000000e+00, 2.000000e+00]>
// CHECK-DAG: %[[RATIO:.*]] = hc.constant {value = dense<[2.500000e-01, -2.000000e+00]>
// CHECK: hc.return %[[A]], %[[SUM]], %[[MAX]], %[[RATIO]]
hc.func @constants(%a: !hc.coeffs<2>) -> (!hc.coeffs<2>, !hc.coeffs<2>, !hc.coeffs<2>, !hc.coeffs<2>) {
  %zero = hc.constant {value = dense<0.0> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %one = hc.constant {value = dense<1.0> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %b = hc.constant {value = dense<[1.0, 2.0]> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %c = hc.constant {value = dense<[4.0, -1.0]> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %0 = hc.sub %a, %zero : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %1 = hc.div %0, %one : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %2 = hc.add %b, %c : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %3 = hc.max %b, %c : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %4 = hc.div %b, %c : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %1, %2, %3, %4 : !hc.coeffs<2>, !hc.coeffs<2>, !hc.coeffs<2>, !hc.coeffs<2>
}

// CHECK-LABEL: hc.func @rows_in_place(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, d>, %[[A:.*]]: !hc.coeffs<3>)
// CHECK-NEXT: hc.return %[[X]], %[[A]]
hc.func @rows_in_place(%x: !hc.rows<2, d>, %a: !hc.coeffs<3>) -> (!hc.rows<2, d>, !hc.coeffs<3>) {
  %0 = hc.gather_rows %x {indices = array<i64: 0, 1>} : (!hc.rows<2, d>) -> !hc.rows<2, d>
  %1 = hc.scatter_rows %0 {indices = array<i64: 0, 1>} : (!hc.rows<2, d>) -> !hc.rows<2, d>
  %2 = hc.concat %a {axis = 0 : i64} : (!hc.coeffs<3>) -> !hc.coeffs<3>
  %3 = hc.broadcast %2 {dims = array<i64: 0>} : (!hc.coeffs<3>) -> !hc.coeffs<3>
  %4 = hc.slice %3 {axis = 0 : i64, offset = 0 : i64} : (!hc.coeffs<3>) -> !hc.coeffs<3>
  hc.return %1, %4 : !hc.rows<2, d>, !hc.coeffs<3>
}

// What the adjoints of slices pad with zeros is joined, not added; parts that meet are.
// CHECK-LABEL: hc.func @padded(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<4>{{.*}}, %[[B:.*]]: !hc.coeffs<16>{{.*}}, %[[C:.*]]: !hc.coeffs<4>
// CHECK: %[[AC:.*]] = hc.add %[[A]], %[[C]]
// CHECK: %[[R:.*]] = hc.concat %[[C]], %[[AC]], %[[B]] {axis = 0 : i64}
// CHECK-NEXT: hc.return %[[R]]
hc.func @padded(%a: !hc.coeffs<4> {hc.operand = "coefficients"}, %b: !hc.coeffs<16> {hc.operand = "coefficients"},
                %c: !hc.coeffs<4> {hc.operand = "coefficients"}) -> (!hc.coeffs<24> {hc.operand = "coefficients"}) {
  %z4 = hc.constant {value = dense<0.0> : tensor<4xf64>} : () -> !hc.coeffs<4>
  %z8 = hc.constant {value = dense<0.0> : tensor<8xf64>} : () -> !hc.coeffs<8>
  %z16 = hc.constant {value = dense<0.0> : tensor<16xf64>} : () -> !hc.coeffs<16>
  %z20 = hc.constant {value = dense<0.0> : tensor<20xf64>} : () -> !hc.coeffs<20>
  %0 = hc.concat %z4, %a, %z16 {axis = 0 : i64} : (!hc.coeffs<4>, !hc.coeffs<4>, !hc.coeffs<16>) -> !hc.coeffs<24>
  %1 = hc.concat %z8, %b {axis = 0 : i64} : (!hc.coeffs<8>, !hc.coeffs<16>) -> !hc.coeffs<24>
  %2 = hc.concat %c, %z20 {axis = 0 : i64} : (!hc.coeffs<4>, !hc.coeffs<20>) -> !hc.coeffs<24>
  %3 = hc.concat %z4, %c, %z16 {axis = 0 : i64} : (!hc.coeffs<4>, !hc.coeffs<4>, !hc.coeffs<16>) -> !hc.coeffs<24>
  %4 = hc.add %0, %1 : (!hc.coeffs<24>, !hc.coeffs<24>) -> !hc.coeffs<24>
  %5 = hc.add %4, %2 : (!hc.coeffs<24>, !hc.coeffs<24>) -> !hc.coeffs<24>
  %6 = hc.add %5, %3 : (!hc.coeffs<24>, !hc.coeffs<24>) -> !hc.coeffs<24>
  hc.return %6 : !hc.coeffs<24>
}

// Along another axis than the first; zeros of both stay zeros, and what lies beside parts of several is added as it is.
// CHECK-LABEL: hc.func @columns(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 1>{{.*}}, %[[B:.*]]: !hc.coeffs<2, 3>
// CHECK-DAG: %[[Z:.*]] = hc.constant {value = dense<0.000000e+00> : tensor<2x2xf64>}
// CHECK: %[[L:.*]] = hc.concat %[[A]], %[[Z]], %[[B]] {axis = 1 : i64}
// CHECK: hc.concat
// CHECK: hc.add
hc.func @columns(%a: !hc.coeffs<2, 1> {hc.operand = "coefficients"}, %b: !hc.coeffs<2, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2, 6> {hc.operand = "coefficients"}) {
  %z2 = hc.constant {value = dense<0.0> : tensor<2x2xf64>} : () -> !hc.coeffs<2, 2>
  %z3 = hc.constant {value = dense<0.0> : tensor<2x3xf64>} : () -> !hc.coeffs<2, 3>
  %z5 = hc.constant {value = dense<0.0> : tensor<2x5xf64>} : () -> !hc.coeffs<2, 5>
  %0 = hc.concat %a, %z5 {axis = 1 : i64} : (!hc.coeffs<2, 1>, !hc.coeffs<2, 5>) -> !hc.coeffs<2, 6>
  %1 = hc.concat %z3, %b {axis = 1 : i64} : (!hc.coeffs<2, 3>, !hc.coeffs<2, 3>) -> !hc.coeffs<2, 6>
  %2 = hc.add %0, %1 : (!hc.coeffs<2, 6>, !hc.coeffs<2, 6>) -> !hc.coeffs<2, 6>
  %3 = hc.concat %b, %z2, %a {axis = 1 : i64} : (!hc.coeffs<2, 3>, !hc.coeffs<2, 2>, !hc.coeffs<2, 1>) -> !hc.coeffs<2, 6>
  %4 = hc.add %2, %3 : (!hc.coeffs<2, 6>, !hc.coeffs<2, 6>) -> !hc.coeffs<2, 6>
  hc.return %4 : !hc.coeffs<2, 6>
}

// The greater of two numbers is none where one is none, on either side.
// CHECK-LABEL: hc.func @max_of_no_number
// CHECK: hc.constant {value = dense<0x7FF8000000000000> : tensor<1xf64>}
// CHECK-NOT: dense<1.0
hc.func @max_of_no_number() -> (!hc.coeffs<1>, !hc.coeffs<1>) {
  %nan = hc.constant {value = dense<0x7FF8000000000000> : tensor<1xf64>} : () -> !hc.coeffs<1>
  %one = hc.constant {value = dense<1.0> : tensor<1xf64>} : () -> !hc.coeffs<1>
  %a = hc.max %nan, %one : (!hc.coeffs<1>, !hc.coeffs<1>) -> !hc.coeffs<1>
  %b = hc.max %one, %nan : (!hc.coeffs<1>, !hc.coeffs<1>) -> !hc.coeffs<1>
  hc.return %a, %b : !hc.coeffs<1>, !hc.coeffs<1>
}
