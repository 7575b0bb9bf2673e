// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_100a | FileCheck %s

// One call for every op of a streaming kernel; rearrangements are gathers with strides.

// CHECK-DAG: gather<6, Dims<1, 6>, Dims<6, 1>>
// CHECK-DAG: gather<0, Dims<3, 2>, Dims<1, 3>>
// CHECK-DAG: gather<0, Dims<2, 3>, Dims<0, 1>>
// CHECK-DAG: reduceSum<Dims<2>, Dims<3>, Dims<3>, Dims<1>>
// CHECK-DAG: concatenate<2>
// CHECK-DAG: matmul<2, 3, 2>
// CHECK-DAG: softmax<3>
// CHECK-DAG: softmaxAdjoint<3>
// CHECK-DAG: fromTable<2>({{.*}}, table0)
// CHECK-DAG: splat<2>({{.*}}, 0.5)
// CHECK-DAG: permutationMix<2>
// CHECK-DAG: permutationDot<2, 2>
// CHECK-DAG: hyperbolicTangent
// CHECK-DAG: heaviside
// CHECK-DAG: scaleRows<InRecord<{{[0-9]+}}>>
// CHECK-DAG: gatherRows<1, 0, 1>
// CHECK-DAG: scatterRows<2, 0, 1, 1>
// CHECK-DAG: fillRows<InRecord<{{[0-9]+}}>, 2>
// CHECK: streaming<Main, Nothing,
// CHECK: "grid_y":
hc.func @ops(%x: !hc.rows<2, 129> {hc.dtype = f16}, %a: !hc.coeffs<2, 6> {hc.dtype = f32})
    -> (!hc.rows<2, 129> {hc.dtype = f16}, !hc.coeffs<2> {hc.dtype = f32}) attributes {hc.compute = f32} {
  %0 = hc.slice %a {axis = 0 : i64, offset = 1 : i64} : (!hc.coeffs<2, 6>) -> !hc.coeffs<1, 6>
  %1 = hc.reshape %0 : (!hc.coeffs<1, 6>) -> !hc.coeffs<2, 3>
  %2 = hc.transpose %1 {permutation = array<i64: 1, 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>
  %3 = hc.softmax %1 : (!hc.coeffs<2, 3>) -> !hc.coeffs<2, 3>
  %4 = hc.slice %3 {axis = 0 : i64, offset = 0 : i64} : (!hc.coeffs<2, 3>) -> !hc.coeffs<1, 3>
  %5 = hc.broadcast %4 {dims = array<i64: 0, 1>} : (!hc.coeffs<1, 3>) -> !hc.coeffs<2, 3>
  %6 = hc.softmax_adjoint %3, %5 : (!hc.coeffs<2, 3>, !hc.coeffs<2, 3>) -> !hc.coeffs<2, 3>
  %7 = hc.matmul %6, %2 : (!hc.coeffs<2, 3>, !hc.coeffs<3, 2>) -> !hc.coeffs<2, 2>
  %8 = hc.concat %7, %6 {axis = 1 : i64} : (!hc.coeffs<2, 2>, !hc.coeffs<2, 3>) -> !hc.coeffs<2, 5>
  %9 = hc.slice %8 {axis = 1 : i64, offset = 1 : i64} : (!hc.coeffs<2, 5>) -> !hc.coeffs<2, 3>
  %10 = hc.reduce_sum %9 {axes = array<i64: 1>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<2>
  %11 = hc.constant {value = dense<[0.25, 1.0]> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %12 = hc.mul %10, %11 : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %13 = hc.constant {value = dense<0.5> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %14 = hc.add %12, %13 : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %15 = hc.tanh %14 : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %16 = hc.heaviside %15 : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %17 = hc.permutation_mix %15 : (!hc.coeffs<2>) -> !hc.coeffs<2, 2>
  %18 = hc.permutation_dot %17 : (!hc.coeffs<2, 2>) -> !hc.coeffs<2>
  %19 = hc.scale_rows %15, %x : (!hc.coeffs<2>, !hc.rows<2, 129>) -> !hc.rows<2, 129>
  %20 = hc.gather_rows %19 {indices = array<i64: 1, 0, 1>} : (!hc.rows<2, 129>) -> !hc.rows<3, 129>
  %21 = hc.scatter_rows %20 {indices = array<i64: 0, 1, 1>} : (!hc.rows<3, 129>) -> !hc.rows<2, 129>
  %22 = hc.fill_rows %16 : (!hc.coeffs<2>) -> !hc.rows<2, 129>
  %23 = hc.add %21, %22 : (!hc.rows<2, 129>, !hc.rows<2, 129>) -> !hc.rows<2, 129>
  %24 = hc.round %23 {type = f16} : (!hc.rows<2, 129>) -> !hc.rows<2, 129>
  hc.return %24, %18 : !hc.rows<2, 129>, !hc.coeffs<2>
}
