// RUN: hc-opt %s -split-input-file -hc-specialize="width=128 stream=bf16 branch-in=bf16 branch-out=f32 weight=f32" -canonicalize -cse | FileCheck %s
// RUN: hc-opt %s -split-input-file -hc-specialize="width=128 stream=f64 branch-in=f64 branch-out=f64 weight=f64" | FileCheck %s --check-prefix=F64

// A norm that feeds a projection becomes a scale of the product; the rows stay as they came.
// CHECK-LABEL: hc.func @flattened(
// CHECK-SAME: %[[X:.*]]: !hc.rows<4, 128> {hc.dtype = bf16, hc.operand = "streams"}
// CHECK-SAME: %[[W:.*]]: !hc.weight<4, 128, 24> {hc.dtype = f32, hc.operand = "parameter", hc.uniform}
// CHECK-DAG: %[[DIM:.*]] = hc.constant {value = dense<0.001953125> : tensor<1xf64>}
// CHECK: %[[SS:.*]] = hc.dot_rows %[[X]], %[[X]]
// CHECK: hc.reduce_sum
// CHECK: hc.rsqrt
// CHECK: %[[P:.*]] = hc.project %[[X]], %[[W]]
// CHECK: hc.mul %{{.*}}, %[[P]]
// CHECK-NOT: hc.norm
// F64-LABEL: hc.func @flattened(
// F64-SAME: hc.compute = f64
hc.func @flattened(%x: !hc.rows<4, d> {hc.operand = "streams"},
                   %w: !hc.weight<4, d, 24> {hc.operand = "parameter", hc.uniform}) -> !hc.coeffs<1, 24> {
  %0 = hc.norm %x {kind = "rms_inside", eps = 1.0e-6 : f64, group = 4 : i64, operandSegmentSizes = array<i32: 1, 0, 0>}
      : (!hc.rows<4, d>) -> !hc.rows<4, d>
  %1 = hc.project %0, %w : (!hc.rows<4, d>, !hc.weight<4, d, 24>) -> !hc.coeffs<1, 24>
  hc.return %1 : !hc.coeffs<1, 24>
}

// -----

// Gain and bias fold into the weight, once a call; the mean becomes a correction by column sums.
// CHECK-LABEL: hc.func @layernorm(
// CHECK: hc.row_sum
// CHECK: hc.scale_weight
// CHECK: hc.project %{{.*}}, %{{.*}} : (!hc.rows<2, 128>, !hc.weight<1, 128, 3>) -> !hc.coeffs<2, 3>
// CHECK: hc.project %{{.*}}, %{{.*}} : (!hc.rows<1, 128>, !hc.weight<1, 128, 3>) -> !hc.coeffs<1, 3>
// CHECK: hc.project %{{.*}}, %{{.*}} : (!hc.rows<1, 128>, !hc.weight<1, 128, 3>) -> !hc.coeffs<1, 3>
hc.func @layernorm(%x: !hc.rows<2, d> {hc.operand = "streams"}, %g: !hc.rows<1, d> {hc.uniform}, %b: !hc.rows<1, d> {hc.uniform},
                   %w: !hc.weight<1, d, 3> {hc.uniform}) -> !hc.coeffs<2, 3> {
  %0 = hc.norm %x, %g, %b {kind = "layernorm", eps = 1.0e-5 : f64, group = 1 : i64, operandSegmentSizes = array<i32: 1, 1, 1>}
      : (!hc.rows<2, d>, !hc.rows<1, d>, !hc.rows<1, d>) -> !hc.rows<2, d>
  %1 = hc.project %0, %w : (!hc.rows<2, d>, !hc.weight<1, d, 3>) -> !hc.coeffs<2, 3>
  hc.return %1 : !hc.coeffs<2, 3>
}

// -----

// One channel is its own mean, and leaves nothing of a row: no difference of two products that are rounded each in its own way.
// CHECK-LABEL: hc.func @one_channel(
// CHECK-NOT: hc.project %{{.*}} : (!hc.rows<2, 1>
// CHECK: hc.sub %[[MEAN:[0-9]+]], %[[MEAN]] :
// CHECK-NOT: hc.project %{{.*}} : (!hc.rows<2, 1>
// CHECK: hc.return
hc.func @one_channel(%x: !hc.rows<2, 1> {hc.operand = "streams"}, %w: !hc.weight<1, 1, 3> {hc.uniform}) -> !hc.coeffs<2, 3> {
  %0 = hc.norm %x {kind = "layernorm", eps = 1.0e-5 : f64, group = 1 : i64, operandSegmentSizes = array<i32: 1, 0, 0>}
      : (!hc.rows<2, 1>) -> !hc.rows<2, 1>
  %1 = hc.project %0, %w : (!hc.rows<2, 1>, !hc.weight<1, 1, 3>) -> !hc.coeffs<2, 3>
  hc.return %1 : !hc.coeffs<2, 3>
}

// -----

// Whoever needs the normed rows themselves gets them.
// CHECK-LABEL: hc.func @rows(
// CHECK: hc.scale_rows
// CHECK: hc.mix
hc.func @rows(%x: !hc.rows<2, d> {hc.operand = "streams"}, %c: !hc.coeffs<1, 2> {hc.uniform}) -> !hc.rows<1, d> {
  %0 = hc.norm %x {kind = "l2_unit_offset", eps = 1.0e-12 : f64, group = 1 : i64, operandSegmentSizes = array<i32: 1, 0, 0>}
      : (!hc.rows<2, d>) -> !hc.rows<2, d>
  %1 = hc.mix %c, %0 : (!hc.coeffs<1, 2>, !hc.rows<2, d>) -> !hc.rows<1, d>
  hc.return %1 : !hc.rows<1, d>
}

// -----

// Edges get their storage type; where it is the compute type there is nothing to round.
// CHECK-LABEL: hc.func @edges(
// CHECK: hc.round %{{.*}} {type = bf16}
// F64-LABEL: hc.func @edges(
// F64-NOT: hc.round
hc.func @edges(%x: !hc.rows<2, d> {hc.operand = "streams"}) -> !hc.rows<2, d> {
  %0 = hc.round %x {edge = "streams"} : (!hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}
