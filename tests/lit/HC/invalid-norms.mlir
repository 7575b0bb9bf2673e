// What the DSL refuses of norms and Sinkhorn, the dialect refuses too: text need not come from it.
// RUN: hc-opt %s -split-input-file -verify-diagnostics

hc.func @eps(%x: !hc.rows<4, d>) -> !hc.rows<4, d> {
  // expected-error @below {{eps is -1.000000e+00, expected at least 0}}
  %0 = hc.norm %x {kind = "rms_inside", eps = -1.0 : f64, group = 2 : i64, operandSegmentSizes = array<i32: 1, 0, 0>} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

hc.func @no_number(%x: !hc.rows<4, d>) -> !hc.rows<4, d> {
  // expected-error @below {{eps is nan, expected at least 0}}
  %0 = hc.norm %x {kind = "rms_inside", eps = 0x7FF8000000000000 : f64, group = 2 : i64, operandSegmentSizes = array<i32: 1, 0, 0>} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

hc.func @gain(%x: !hc.rows<2, d>, %g: !hc.rows<1, 16>) -> !hc.rows<2, d> {
  // expected-error @below {{gain is '!hc.rows<1, 16>', which has another width than '!hc.rows<2, d>'}}
  %0 = hc.norm %x, %g {kind = "rms_inside", eps = 0.0 : f64, group = 2 : i64, operandSegmentSizes = array<i32: 1, 1, 0>} : (!hc.rows<2, d>, !hc.rows<1, 16>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @bias(%x: !hc.rows<2, 8>, %g: !hc.rows<1, 8>, %b: !hc.rows<1, 4>) -> !hc.rows<2, 8> {
  // expected-error @below {{bias is '!hc.rows<1, 4>', which has another width than '!hc.rows<2, 8>'}}
  %0 = hc.norm %x, %g, %b {kind = "layernorm", eps = 0.0 : f64, group = 2 : i64, operandSegmentSizes = array<i32: 1, 1, 1>} : (!hc.rows<2, 8>, !hc.rows<1, 8>, !hc.rows<1, 4>) -> !hc.rows<2, 8>
  hc.return %0 : !hc.rows<2, 8>
}

// -----

hc.func @tau(%l: !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2> {
  // expected-error @below {{tau is 0.000000e+00, expected above 0}}
  %0 = hc.sinkhorn %l {iterations = 1 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 0.0 : f64, log_domain = false} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}

// -----

hc.func @sinkhorn_eps(%l: !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2> {
  // expected-error @below {{eps is -1.000000e+00, expected at least 0}}
  %0 = hc.sinkhorn_adjoint %l, %l {iterations = 1 : i64, start = "exp", first = "col", place = "clamp", eps = -1.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<2, 2>, !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}
