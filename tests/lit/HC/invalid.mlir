// RUN: hc-opt %s -split-input-file -verify-diagnostics

hc.func @mix(%c: !hc.coeffs<2, 3>, %x: !hc.rows<4, d>) -> !hc.rows<2, d> {
  // expected-error @below {{coefficients has shape <2, 3>, expected <2, 4>}}
  %0 = hc.mix %c, %x : (!hc.coeffs<2, 3>, !hc.rows<4, d>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @width(%c: !hc.coeffs<2, 4>, %x: !hc.rows<4, 16>) -> !hc.rows<2, 8> {
  // expected-error @below {{width of the result is 8, expected 16}}
  %0 = hc.mix %c, %x : (!hc.coeffs<2, 4>, !hc.rows<4, 16>) -> !hc.rows<2, 8>
  hc.return %0 : !hc.rows<2, 8>
}

// -----

hc.func @gather(%x: !hc.rows<2, d>) -> !hc.rows<3, d> {
  // expected-error @below {{index 2 is outside 0 .. 1}}
  %0 = hc.gather_rows %x {indices = array<i64: 0, 1, 2>} : (!hc.rows<2, d>) -> !hc.rows<3, d>
  hc.return %0 : !hc.rows<3, d>
}

// -----

hc.func @project(%x: !hc.rows<4, d>, %w: !hc.weight<3, d, 5>) -> !hc.coeffs<1, 5> {
  // expected-error @below {{4 rows are no multiple of the weight's 3}}
  %0 = hc.project %x, %w : (!hc.rows<4, d>, !hc.weight<3, d, 5>) -> !hc.coeffs<1, 5>
  hc.return %0 : !hc.coeffs<1, 5>
}

// -----

hc.func @norm(%x: !hc.rows<4, d>) -> !hc.rows<4, d> {
  // expected-error @below {{kind is "rms", expected l2_unit_offset, rms_inside, rms_outside or layernorm}}
  %0 = hc.norm %x {kind = "rms", eps = 0.0 : f64, group = 1 : i64, operandSegmentSizes = array<i32: 1, 0, 0>} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

hc.func @sinkhorn(%l: !hc.coeffs<2, 3>) -> !hc.coeffs<2, 3> {
  // expected-error @below {{needs a square matrix}}
  %0 = hc.sinkhorn %l {iterations = 1 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<2, 3>) -> !hc.coeffs<2, 3>
  hc.return %0 : !hc.coeffs<2, 3>
}

// -----

hc.func @slice(%a: !hc.coeffs<4>) -> !hc.coeffs<3> {
  // expected-error @below {{range of 3 from 2 is outside 0 .. 4}}
  %0 = hc.slice %a {axis = 0 : i64, offset = 2 : i64} : (!hc.coeffs<4>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @permutations(%a: !hc.coeffs<20>) -> !hc.coeffs<4, 4> {
  // expected-error @below {{list of permutations has shape <20>, expected <24>}}
  %0 = hc.permutation_mix %a : (!hc.coeffs<20>) -> !hc.coeffs<4, 4>
  hc.return %0 : !hc.coeffs<4, 4>
}

// -----

hc.func @round(%x: !hc.rows<4, d>) -> !hc.rows<4, d> {
  // expected-error @below {{edge is "nowhere", expected "streams" or "branch_input"}}
  %0 = hc.round %x {edge = "nowhere"} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

// expected-error @below {{needs at least one row and at most 1048576, got 0}}
hc.func @rows(%x: !hc.rows<0, d>) -> !hc.rows<0, d> {
  hc.return %x : !hc.rows<0, d>
}

// -----

hc.func @result(%x: !hc.rows<1, d>) -> !hc.rows<2, d> {
  // expected-error @below {{operand types do not match the function's results}}
  hc.return %x : !hc.rows<1, d>
}
