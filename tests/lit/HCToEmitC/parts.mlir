// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2 | FileCheck %s

// Each launch has a part of its own with all that it names: the maths that no row waits for, planned before the main launch and launched
// after it where it is too long for its lanes, stands behind it.
// CHECK: using namespace hyperjit;
// CHECK: //===- boundary_main{{$}}
// CHECK-NOT: class Tail {
// CHECK: boundary_main(const __grid_constant__ Launch<6> launch) {
// CHECK: //===- boundary_tail{{$}}
// CHECK-NEXT: class Tail {
// CHECK: boundary_tail(const __grid_constant__ Launch<6> launch) {
// CHECK: // schedule columns:
hc.func @boundary(%x: !hc.rows<6, 64> {hc.dtype = bf16, hc.operand = "streams"},
                  %h: !hc.coeffs<36> {hc.dtype = f32, hc.operand = "coefficients"},
                  %phi: !hc.weight<6, 64, 42> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<6, 64> {hc.dtype = bf16}, !hc.rows<1, 64> {hc.dtype = bf16}, !hc.coeffs<36> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  %0 = hc.reshape %h : (!hc.coeffs<36>) -> !hc.coeffs<6, 6>
  %1 = hc.mix %0, %x : (!hc.coeffs<6, 6>, !hc.rows<6, 64>) -> !hc.rows<6, 64>
  %2 = hc.round %1 {type = bf16} : (!hc.rows<6, 64>) -> !hc.rows<6, 64>
  %3 = hc.project %2, %phi : (!hc.rows<6, 64>, !hc.weight<6, 64, 42>) -> !hc.coeffs<1, 42>
  %4 = hc.slice %3 {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 42>) -> !hc.coeffs<1, 6>
  %5 = hc.sigmoid %4 : (!hc.coeffs<1, 6>) -> !hc.coeffs<1, 6>
  %6 = hc.mix %5, %2 : (!hc.coeffs<1, 6>, !hc.rows<6, 64>) -> !hc.rows<1, 64>
  %7 = hc.round %6 {type = bf16} : (!hc.rows<1, 64>) -> !hc.rows<1, 64>
  %8 = hc.slice %3 {axis = 1 : i64, offset = 6 : i64} : (!hc.coeffs<1, 42>) -> !hc.coeffs<1, 36>
  %9 = hc.reshape %8 : (!hc.coeffs<1, 36>) -> !hc.coeffs<6, 6>
  %10 = hc.sinkhorn %9 {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
                        tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<6, 6>) -> !hc.coeffs<6, 6>
  %11 = hc.reshape %10 : (!hc.coeffs<6, 6>) -> !hc.coeffs<36>
  hc.return %2, %7, %11 : !hc.rows<6, 64>, !hc.rows<1, 64>, !hc.coeffs<36>
}
