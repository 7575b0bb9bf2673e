// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=rows | FileCheck %s
// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-emitc --target=sm_90a | FileCheck %s --check-prefix=EMITC

// A row dependency: next streams, a projection of them, and a mix that needs it. Sinkhorn feeds an output alone, so it
// leaves for the tail; the second stage reads the streams that the first one stored.

// CHECK: #include "hyperjit/row_reduced.cuh"
// CHECK: using Space = Workspace<float, {{[0-9]+}}, 0, {{[0-9]+}}>;
// CHECK: //===- boundary_prologue0{{$}}
// CHECK: class Prologue0 {
// CHECK:   packProjection<ProjectionPlanes<Space::Fixed<0>, 4, 20, 64, 8>, 8>
// CHECK: __launch_bounds__(256, 1) boundary_prologue0(const __grid_constant__ Launch<6> launch)
// CHECK: //===- boundary_main{{$}}
// CHECK: class Coefficients0 {
// CHECK:   loadCoefficients<Operand<1, float, 16>, 16>
// CHECK:   writeRecord<[[H:[0-9]+]]>
// CHECK: class Rows0_0 {
// CHECK:   [[X:v[0-9]+]] = loadRows<Operand<0, bfloat16, 256>, 4>
// CHECK:   mix<InRecord<[[H]]>, 4>({{.*}}, [[X]])
// CHECK:   [[N:v[0-9]+]] = roundRows<bfloat16>
// CHECK:   storeRows<Operand<3, bfloat16, 256>>({{.*}}, [[N]])
// CHECK:   projectTiles<0, ProjectionPlanes<Space::Fixed<0>, 4, 20, 64, 8>, 0, 1, 0, 3, 1>
// CHECK: class Coefficients1 {
// CHECK-NOT: sinkhorn
// CHECK: class Rows1_0 {
// CHECK:   loadRows<Operand<3, bfloat16, 256>, 4>
// CHECK:   storeRows<Operand<4, bfloat16, 64>>
// CHECK: rowReduced<Main, Nothing,
// CHECK:   Stage<Coefficients0, Pass<Rows0_0, 0, 0, 3, Segment<0, 20, 0>>>,
// CHECK:   Stage<Coefficients1, Pass<Rows1_0, 0, 0, 0>>>(launch);
// CHECK: //===- boundary_tail{{$}}
// CHECK: class Tail {
// CHECK:   sinkhorn<SinkhornOptions<4, 20, SinkhornStart::Exp, false, SinkhornPlace::None, false>>({{.*}}, 0.0, 1.0)
// CHECK:   storeTogether<20, List<PlaceOf<Operand<5, float, 16>, 0>>, List<Run<Operand<5, float, 16>, 0, 16>>>
// CHECK: // schedule rows:
// CHECK: // launch {{.*}}"entry":"boundary_main"{{.*}}"kind":"persistent"

// EMITC: emitc.class @Rows0_0 {
// EMITC:   emitc.func @run(%{{.*}}: !emitc.opaque<"Lane &">)
// EMITC:     call_opaque "loadRows"
hc.func @boundary(%x: !hc.rows<4, 64> {hc.dtype = bf16, hc.operand = "streams"},
                  %h: !hc.coeffs<16> {hc.dtype = f32, hc.operand = "coefficients"},
                  %phi: !hc.weight<4, 64, 20> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<4, 64> {hc.dtype = bf16}, !hc.rows<1, 64> {hc.dtype = bf16}, !hc.coeffs<16> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  %0 = hc.reshape %h : (!hc.coeffs<16>) -> !hc.coeffs<4, 4>
  %1 = hc.mix %0, %x : (!hc.coeffs<4, 4>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %2 = hc.round %1 {type = bf16} : (!hc.rows<4, 64>) -> !hc.rows<4, 64>
  %3 = hc.project %2, %phi : (!hc.rows<4, 64>, !hc.weight<4, 64, 20>) -> !hc.coeffs<1, 20>
  %4 = hc.slice %3 {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 20>) -> !hc.coeffs<1, 4>
  %5 = hc.sigmoid %4 : (!hc.coeffs<1, 4>) -> !hc.coeffs<1, 4>
  %6 = hc.mix %5, %2 : (!hc.coeffs<1, 4>, !hc.rows<4, 64>) -> !hc.rows<1, 64>
  %7 = hc.round %6 {type = bf16} : (!hc.rows<1, 64>) -> !hc.rows<1, 64>
  %8 = hc.slice %3 {axis = 1 : i64, offset = 4 : i64} : (!hc.coeffs<1, 20>) -> !hc.coeffs<1, 16>
  %9 = hc.reshape %8 : (!hc.coeffs<1, 16>) -> !hc.coeffs<4, 4>
  %10 = hc.sinkhorn %9 {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
                        tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  %11 = hc.reshape %10 : (!hc.coeffs<4, 4>) -> !hc.coeffs<16>
  hc.return %2, %7, %11 : !hc.rows<4, 64>, !hc.rows<1, 64>, !hc.coeffs<16>
}
