// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=EXACT
// RUN: sed 's/bf16/f16/g' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=EXACT
// RUN: sed 's/<1, 1280> {hc.dtype = bf16/<1, 1280> {hc.dtype = f16/' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=PLAIN
// RUN: sed 's/bf16/f32/g' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=PLAIN

// Dots of rows of one type of 16 bits are exact on tensor cores; of two types, or of 32 bits, they are made in fp32.
// EXACT: dotSquares<0, 0, 2>
// EXACT: Pass<Rows0_0, 0, 2, 0,
// PLAIN: dot<0, 0, 2>
// PLAIN: Pass<Rows0_0, 2, 0, 0,
hc.func @boundary(%x: !hc.rows<2, 1280> {hc.dtype = bf16, hc.operand = "streams"}, %y: !hc.rows<1, 1280> {hc.dtype = bf16, hc.operand = "branch"})
    -> (!hc.rows<2, 1280> {hc.dtype = bf16}) attributes {hc.compute = f32} {
  %p = hc.dot %x, %y : (!hc.rows<2, 1280>, !hc.rows<1, 1280>) -> !hc.coeffs<2, 1>
  %f = hc.reshape %p : (!hc.coeffs<2, 1>) -> !hc.coeffs<2>
  %g = hc.sigmoid %f : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %m = hc.scale_rows %g, %x : (!hc.coeffs<2>, !hc.rows<2, 1280>) -> !hc.rows<2, 1280>
  %r = hc.round %m {type = bf16} : (!hc.rows<2, 1280>) -> !hc.rows<2, 1280>
  hc.return %r : !hc.rows<2, 1280>
}
