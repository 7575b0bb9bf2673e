// Every op: pretty form, generic form, round trip.
// RUN: hc-opt %s | hc-opt | FileCheck %s
// RUN: hc-opt -mlir-print-op-generic %s | hc-opt | FileCheck %s

// CHECK-LABEL: hc.func @rows(
// CHECK-SAME: %[[X:.*]]: !hc.rows<4, d> {hc.operand = "streams"}
// CHECK-SAME: !hc.weight<4, d, 24> {hc.uniform}
hc.func @rows(%x: !hc.rows<4, d> {hc.operand = "streams"}, %c: !hc.coeffs<2, 4>, %v: !hc.coeffs<4>,
              %w: !hc.weight<4, d, 24> {hc.uniform}, %p: !hc.coeffs<1, 24>) -> !hc.rows<4, d> {
  // CHECK: hc.mix %{{.*}}, %[[X]] : (!hc.coeffs<2, 4>, !hc.rows<4, d>) -> !hc.rows<2, d>
  %0 = hc.mix %c, %x : (!hc.coeffs<2, 4>, !hc.rows<4, d>) -> !hc.rows<2, d>
  // CHECK: hc.scale_rows
  %1 = hc.scale_rows %v, %x : (!hc.coeffs<4>, !hc.rows<4, d>) -> !hc.rows<4, d>
  // CHECK: hc.gather_rows %{{.*}} {indices = array<i64: 0, 1, 0, 1>} : (!hc.rows<2, d>) -> !hc.rows<4, d>
  %2 = hc.gather_rows %0 {indices = array<i64: 0, 1, 0, 1>} : (!hc.rows<2, d>) -> !hc.rows<4, d>
  // CHECK: hc.scatter_rows %{{.*}} {indices = array<i64: 0, 0, 1, 1>} : (!hc.rows<4, d>) -> !hc.rows<2, d>
  %3 = hc.scatter_rows %2 {indices = array<i64: 0, 0, 1, 1>} : (!hc.rows<4, d>) -> !hc.rows<2, d>
  // CHECK: hc.fill_rows
  %4 = hc.fill_rows %v : (!hc.coeffs<4>) -> !hc.rows<4, d>
  // CHECK: hc.expand
  %5 = hc.expand %p, %w : (!hc.coeffs<1, 24>, !hc.weight<4, d, 24>) -> !hc.rows<4, d>
  // CHECK: hc.round %{{.*}} {edge = "streams"}
  %6 = hc.round %5 {edge = "streams"} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  // CHECK: hc.round %{{.*}} {type = bf16}
  %7 = hc.round %6 {type = bf16} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  // CHECK: hc.norm %{{.*}} {eps = 9.9999999999999995E-7 : f64, group = 4 : i64, kind = "rms_inside"
  %8 = hc.norm %7 {kind = "rms_inside", eps = 1.0e-6 : f64, group = 4 : i64, operandSegmentSizes = array<i32: 1, 0, 0>}
      : (!hc.rows<4, d>) -> !hc.rows<4, d>
  %9 = hc.add %8, %4 : (!hc.rows<4, d>, !hc.rows<4, d>) -> !hc.rows<4, d>
  hc.return %9 : !hc.rows<4, d>
}

// CHECK-LABEL: hc.func @reductions(
hc.func @reductions(%x: !hc.rows<4, 7>, %w: !hc.weight<2, 7, 3>) -> !hc.coeffs<2, 3> {
  // CHECK: hc.dot %{{.*}} : (!hc.rows<4, 7>, !hc.rows<4, 7>) -> !hc.coeffs<4, 4>
  %0 = hc.dot %x, %x : (!hc.rows<4, 7>, !hc.rows<4, 7>) -> !hc.coeffs<4, 4>
  // CHECK: hc.dot_rows
  %1 = hc.dot_rows %x, %x : (!hc.rows<4, 7>, !hc.rows<4, 7>) -> !hc.coeffs<4>
  // CHECK: hc.row_sum
  %2 = hc.row_sum %x : (!hc.rows<4, 7>) -> !hc.coeffs<4>
  // CHECK: hc.project %{{.*}} : (!hc.rows<4, 7>, !hc.weight<2, 7, 3>) -> !hc.coeffs<2, 3>
  %3 = hc.project %x, %w : (!hc.rows<4, 7>, !hc.weight<2, 7, 3>) -> !hc.coeffs<2, 3>
  hc.return %3 : !hc.coeffs<2, 3>
}

// CHECK-LABEL: hc.func @coefficients(
hc.func @coefficients(%a: !hc.coeffs<4, 4>, %l: !hc.coeffs<24>) -> !hc.coeffs<4, 4> {
  // CHECK: hc.constant {value = dense<{{.*}}> : tensor<4x4xf64>} : () -> !hc.coeffs<4, 4>
  %c = hc.constant {value = dense<2.5> : tensor<4x4xf64>} : () -> !hc.coeffs<4, 4>
  // CHECK: hc.add
  %0 = hc.add %a, %c : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.sub
  %1 = hc.sub %0, %a : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.mul
  %2 = hc.mul %1, %a : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.div
  %3 = hc.div %2, %a : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.max
  %4 = hc.max %3, %a : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.neg
  %5 = hc.neg %4 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.exp
  %6 = hc.exp %5 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.log
  %7 = hc.log %6 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.tanh
  %8 = hc.tanh %7 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.sigmoid
  %9 = hc.sigmoid %8 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.sqrt
  %10 = hc.sqrt %9 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.rsqrt
  %11 = hc.rsqrt %10 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.reciprocal
  %12 = hc.reciprocal %11 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.heaviside
  %13 = hc.heaviside %12 : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.reshape %{{.*}} : (!hc.coeffs<4, 4>) -> !hc.coeffs<16>
  %14 = hc.reshape %13 : (!hc.coeffs<4, 4>) -> !hc.coeffs<16>
  // CHECK: hc.slice %{{.*}} {axis = 0 : i64, offset = 4 : i64} : (!hc.coeffs<16>) -> !hc.coeffs<8>
  %15 = hc.slice %14 {axis = 0 : i64, offset = 4 : i64} : (!hc.coeffs<16>) -> !hc.coeffs<8>
  // CHECK: hc.concat %{{.*}}, %{{.*}} {axis = 0 : i64} : (!hc.coeffs<8>, !hc.coeffs<8>) -> !hc.coeffs<16>
  %16 = hc.concat %15, %15 {axis = 0 : i64} : (!hc.coeffs<8>, !hc.coeffs<8>) -> !hc.coeffs<16>
  %17 = hc.reshape %16 : (!hc.coeffs<16>) -> !hc.coeffs<2, 8>
  // CHECK: hc.transpose %{{.*}} {permutation = array<i64: 1, 0>} : (!hc.coeffs<2, 8>) -> !hc.coeffs<8, 2>
  %18 = hc.transpose %17 {permutation = array<i64: 1, 0>} : (!hc.coeffs<2, 8>) -> !hc.coeffs<8, 2>
  // CHECK: hc.matmul %{{.*}} : (!hc.coeffs<2, 8>, !hc.coeffs<8, 2>) -> !hc.coeffs<2, 2>
  %19 = hc.matmul %17, %18 : (!hc.coeffs<2, 8>, !hc.coeffs<8, 2>) -> !hc.coeffs<2, 2>
  // CHECK: hc.reduce_sum %{{.*}} {axes = array<i64: 1>} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2>
  %20 = hc.reduce_sum %19 {axes = array<i64: 1>} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2>
  // CHECK: hc.broadcast %{{.*}} {dims = array<i64: 1>} : (!hc.coeffs<2>) -> !hc.coeffs<3, 2>
  %21 = hc.broadcast %20 {dims = array<i64: 1>} : (!hc.coeffs<2>) -> !hc.coeffs<3, 2>
  // CHECK: hc.softmax
  %22 = hc.softmax %l : (!hc.coeffs<24>) -> !hc.coeffs<24>
  // CHECK: hc.softmax_adjoint
  %23 = hc.softmax_adjoint %22, %l : (!hc.coeffs<24>, !hc.coeffs<24>) -> !hc.coeffs<24>
  // CHECK: hc.permutation_mix %{{.*}} : (!hc.coeffs<24>) -> !hc.coeffs<4, 4>
  %24 = hc.permutation_mix %23 : (!hc.coeffs<24>) -> !hc.coeffs<4, 4>
  // CHECK: hc.permutation_dot %{{.*}} : (!hc.coeffs<4, 4>) -> !hc.coeffs<24>
  %25 = hc.permutation_dot %24 : (!hc.coeffs<4, 4>) -> !hc.coeffs<24>
  // CHECK: hc.sinkhorn %{{.*}} {eps = 0.000000e+00 : f64, first = "col", iterations = 20 : i64, log_domain = false, place = "none", start = "exp", tau = 1.000000e+00 : f64}
  %26 = hc.sinkhorn %24 {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
                         tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  // CHECK: hc.sinkhorn_adjoint
  %27 = hc.sinkhorn_adjoint %24, %26 {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
                         tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  hc.return %27 : !hc.coeffs<4, 4>
}

// CHECK-LABEL: hc.func @sums(
hc.func @sums(%x: !hc.rows<4, d>, %p: !hc.coeffs<4, 6>, %g: !hc.rows<1, d> {hc.uniform}, %f: !hc.rows<6, d> {hc.uniform})
    -> !hc.weight<1, d, 6> {
  // CHECK: hc.token_sum %{{.*}} : (!hc.coeffs<4, 6>) -> !hc.coeffs<4, 6>
  %0 = hc.token_sum %p : (!hc.coeffs<4, 6>) -> !hc.coeffs<4, 6>
  // CHECK: hc.weight_grad %{{.*}} : (!hc.rows<4, d>, !hc.coeffs<4, 6>) -> !hc.weight<1, d, 6>
  %1 = hc.weight_grad %x, %p : (!hc.rows<4, d>, !hc.coeffs<4, 6>) -> !hc.weight<1, d, 6>
  // CHECK: hc.scale_weight
  %2 = hc.scale_weight %1, %g : (!hc.weight<1, d, 6>, !hc.rows<1, d>) -> !hc.weight<1, d, 6>
  // CHECK: hc.weight_dot %{{.*}} : (!hc.weight<1, d, 6>, !hc.weight<1, d, 6>) -> !hc.rows<1, d>
  %3 = hc.weight_dot %1, %2 : (!hc.weight<1, d, 6>, !hc.weight<1, d, 6>) -> !hc.rows<1, d>
  %4 = hc.slice %0 {axis = 0 : i64, offset = 0 : i64} : (!hc.coeffs<4, 6>) -> !hc.coeffs<1, 6>
  // CHECK: hc.outer %{{.*}} : (!hc.rows<1, d>, !hc.coeffs<1, 6>) -> !hc.weight<1, d, 6>
  %5 = hc.outer %3, %4 : (!hc.rows<1, d>, !hc.coeffs<1, 6>) -> !hc.weight<1, d, 6>
  // CHECK: hc.concat_weights
  %6 = hc.concat_weights %5, %2 : (!hc.weight<1, d, 6>, !hc.weight<1, d, 6>) -> !hc.weight<1, d, 12>
  // CHECK: hc.slice_weight %{{.*}} {offset = 3 : i64} : (!hc.weight<1, d, 12>) -> !hc.weight<1, d, 6>
  %7 = hc.slice_weight %6 {offset = 3 : i64} : (!hc.weight<1, d, 12>) -> !hc.weight<1, d, 6>
  // CHECK: hc.weight_from_rows %{{.*}} : (!hc.rows<6, d>) -> !hc.weight<1, d, 6>
  %8 = hc.weight_from_rows %f : (!hc.rows<6, d>) -> !hc.weight<1, d, 6>
  // CHECK: hc.rows_from_weight %{{.*}} : (!hc.weight<1, d, 6>) -> !hc.rows<6, d>
  %9 = hc.rows_from_weight %8 : (!hc.weight<1, d, 6>) -> !hc.rows<6, d>
  hc.return %7 : !hc.weight<1, d, 6>
}

// CHECK-LABEL: hc.func @site(
hc.func @site(%x: !hc.rows<2, d> {hc.operand = "streams"}, %b: !hc.coeffs<2> {hc.operand = "parameter", hc.name = "b", hc.uniform})
    -> (!hc.rows<2, d> {hc.operand = "streams"}) {
  %0 = hc.reshape %b : (!hc.coeffs<2>) -> !hc.coeffs<1, 2>
  %1 = hc.mix %0, %x : (!hc.coeffs<1, 2>, !hc.rows<2, d>) -> !hc.rows<1, d>
  // CHECK: hc.branch %{{.*}}, %{{.*}} : (!hc.rows<1, d>, !hc.coeffs<2>) -> (!hc.rows<1, d>, !hc.coeffs<2>)
  %2:2 = hc.branch %1, %b : (!hc.rows<1, d>, !hc.coeffs<2>) -> (!hc.rows<1, d>, !hc.coeffs<2>)
  %3 = hc.gather_rows %2#0 {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>
  %4 = hc.scale_rows %2#1, %3 : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %5 = hc.add %x, %4 : (!hc.rows<2, d>, !hc.rows<2, d>) -> !hc.rows<2, d>
  // CHECK: hc.return
  hc.return %5 : !hc.rows<2, d>
}
