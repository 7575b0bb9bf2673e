// RUN: hc-opt %s -split-input-file -hc-specialize="width=64" -hc-split -verify-diagnostics

hc.func @parameter(%x: !hc.rows<2, d> {hc.operand = "streams"}, %c: !hc.coeffs<2> {hc.operand = "parameter", hc.uniform}) -> !hc.rows<2, d> {
  %0 = hc.gather_rows %x {indices = array<i64: 0>} : (!hc.rows<2, d>) -> !hc.rows<1, d>
  %y = hc.branch %0 : (!hc.rows<1, d>) -> !hc.rows<1, d>
  %1 = hc.gather_rows %y {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>
  // expected-error @below {{uses a value from before the hole that does not cross it}}
  %2 = hc.scale_rows %c, %1 : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %2 : !hc.rows<2, d>
}

// -----

hc.func @rows(%x: !hc.rows<2, d> {hc.operand = "streams"}) -> !hc.rows<1, d> {
  %0 = hc.gather_rows %x {indices = array<i64: 0>} : (!hc.rows<2, d>) -> !hc.rows<1, d>
  // expected-error @below {{rows of a token cannot cross the hole: make them again from the streams}}
  %y, %z = hc.branch %0, %0 : (!hc.rows<1, d>, !hc.rows<1, d>) -> (!hc.rows<1, d>, !hc.rows<1, d>)
  hc.return %z : !hc.rows<1, d>
}

// -----

hc.func @carry(%x: !hc.rows<1, d> {hc.operand = "streams"}) -> (!hc.rows<1, d>, !hc.coeffs<1> {hc.operand = "carry"}) {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  %0 = hc.row_sum %y : (!hc.rows<1, d>) -> !hc.coeffs<1>
  // expected-error @below {{a carry depends on the branch output}}
  hc.return %x, %0 : !hc.rows<1, d>, !hc.coeffs<1>
}

// -----

hc.func @weight(%x: !hc.rows<1, d> {hc.operand = "streams"}, %w: !hc.weight<1, d, 1> {hc.operand = "parameter", hc.uniform})
    -> !hc.rows<1, d> {
  // expected-error @below {{a weight cannot cross the hole: the second part reads no parameter}}
  %y, %v = hc.branch %x, %w : (!hc.rows<1, d>, !hc.weight<1, d, 1>) -> (!hc.rows<1, d>, !hc.weight<1, d, 1>)
  hc.return %y : !hc.rows<1, d>
}

// -----

hc.func @holes(%x: !hc.rows<1, d> {hc.operand = "streams"}) -> !hc.rows<1, d> {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  // expected-error @below {{a site has one hole}}
  %z = hc.branch %y : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return %z : !hc.rows<1, d>
}

// -----

hc.func @many(%x: !hc.rows<1, d> {hc.operand = "streams"}, %c: !hc.coeffs<1048576> {hc.operand = "carry"})
    -> !hc.rows<1, d> {
  // expected-error @below {{more than 1048576 coefficients cross the hole, which travel in one tensor}}
  %y, %a, %b = hc.branch %x, %c, %c : (!hc.rows<1, d>, !hc.coeffs<1048576>, !hc.coeffs<1048576>)
      -> (!hc.rows<1, d>, !hc.coeffs<1048576>, !hc.coeffs<1048576>)
  hc.return %y : !hc.rows<1, d>
}

// -----

// expected-error @below {{has a hole, but its first argument is not its streams: rows with hc.operand = "streams"}}
hc.func @nothing() {
  %c = hc.constant {value = dense<1.0> : tensor<1xf64>} : () -> !hc.coeffs<1>
  %0 = hc.fill_rows %c : (!hc.coeffs<1>) -> !hc.rows<1, d>
  %y = hc.branch %0 : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return
}

// -----

// expected-error @below {{has a hole, but its first argument is not its streams: rows with hc.operand = "streams"}}
hc.func @coefficients_first(%c: !hc.coeffs<1> {hc.operand = "carry"}, %x: !hc.rows<1, d> {hc.operand = "streams"})
    -> !hc.rows<1, d> {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return %y : !hc.rows<1, d>
}

// -----

// expected-error @below {{has a hole, but its first result is not its next streams: rows}}
hc.func @no_result(%x: !hc.rows<1, d> {hc.operand = "streams"}) {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return
}

// -----

// A carry is made before the hole, also where it is what the streams become.
hc.func @carried_streams(%x: !hc.rows<1, d> {hc.operand = "streams"})
    -> (!hc.rows<1, d>, !hc.rows<1, d> {hc.operand = "carry"}) {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  // expected-error @below {{a carry depends on the branch output}}
  hc.return %y, %y : !hc.rows<1, d>, !hc.rows<1, d>
}

// -----

hc.func @adjoint_crossing(%g: !hc.rows<1, d> {hc.operand = "d_streams"}, %c: !hc.coeffs<1> {hc.operand = "coefficients"})
    -> !hc.coeffs<1> attributes {hc.adjoint} {
  // expected-error @below {{has crossing values in an adjoint, where nothing crosses: both parts make what they need}}
  %y, %k = hc.branch %g, %c : (!hc.rows<1, d>, !hc.coeffs<1>) -> (!hc.rows<1, d>, !hc.coeffs<1>)
  hc.return %k : !hc.coeffs<1>
}

// -----

// expected-error @below {{has a hole and makes no cotangent behind it}}
hc.func @adjoint_nothing(%g: !hc.rows<1, d> {hc.operand = "d_streams"}) attributes {hc.adjoint} {
  %y = hc.branch %g : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return
}

// -----

hc.func @constant_carry(%x: !hc.rows<2, d> {hc.operand = "streams"}) -> (!hc.rows<2, d> {hc.operand = "streams"}, !hc.coeffs<2> {hc.operand = "carry", hc.name = "read"}) {
  %u = hc.gather_rows %x {indices = array<i64: 0>} : (!hc.rows<2, d>) -> !hc.rows<1, d>
  %y = hc.branch %u : (!hc.rows<1, d>) -> !hc.rows<1, d>
  %c = hc.constant {value = dense<[0.5, 1.5]> : tensor<2xf64>} : () -> !hc.coeffs<2>
  %g = hc.gather_rows %y {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>
  %s = hc.scale_rows %c, %g : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %n = hc.add %x, %s : (!hc.rows<2, d>, !hc.rows<2, d>) -> !hc.rows<2, d>
  // expected-error @below {{a carry depends on the branch output}}
  hc.return %n, %c : !hc.rows<2, d>, !hc.coeffs<2>
}
