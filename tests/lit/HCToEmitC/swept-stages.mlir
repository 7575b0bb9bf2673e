// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s

// The last sweep reads the rows that the one before it stored, and has no longer what those were made of: a weight gradient of the
// first rows with the last coefficients has a launch of its own.
// CHECK-NOT: sweptGradient
// CHECK: class Rows2_0 {
// CHECK-NOT: sweptGradient
// CHECK: columnTiles
hc.func @boundary(%x: !hc.rows<1, 1280> {hc.dtype = bf16, hc.operand = "streams"},
                  %phi: !hc.weight<1, 1280, 8> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<1, 1280> {hc.dtype = bf16}, !hc.rows<1, 1280> {hc.dtype = bf16}, !hc.weight<1, 1280, 8> {hc.dtype = f32, hc.uniform})
    attributes {hc.compute = f32} {
  %p = hc.project %x, %phi : (!hc.rows<1, 1280>, !hc.weight<1, 1280, 8>) -> !hc.coeffs<1, 8>
  %sp = hc.slice %p {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 8>) -> !hc.coeffs<1, 1>
  %g = hc.sigmoid %sp : (!hc.coeffs<1, 1>) -> !hc.coeffs<1, 1>
  %m = hc.mix %g, %x : (!hc.coeffs<1, 1>, !hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %r = hc.round %m {type = bf16} : (!hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %q = hc.project %r, %phi : (!hc.rows<1, 1280>, !hc.weight<1, 1280, 8>) -> !hc.coeffs<1, 8>
  %sq = hc.slice %q {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 8>) -> !hc.coeffs<1, 1>
  %h = hc.sigmoid %sq : (!hc.coeffs<1, 1>) -> !hc.coeffs<1, 1>
  %n = hc.mix %h, %r : (!hc.coeffs<1, 1>, !hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %t = hc.round %n {type = bf16} : (!hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %w = hc.weight_grad %x, %q : (!hc.rows<1, 1280>, !hc.coeffs<1, 8>) -> !hc.weight<1, 1280, 8>
  hc.return %r, %t, %w : !hc.rows<1, 1280>, !hc.rows<1, 1280>, !hc.weight<1, 1280, 8>
}
