// RUN: hc-opt %s -split-input-file -hc-differentiate="given=xuck want=xycpk" -verify-diagnostics

// What differentiation makes is not differentiated again.
hc.func @twice(%a: !hc.coeffs<3> {hc.operand = "coefficients"}, %g: !hc.coeffs<3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  // expected-error @below {{has no adjoint: it cannot be differentiated (a second derivative is not available)}}
  %0 = hc.softmax_adjoint %a, %g : (!hc.coeffs<3>, !hc.coeffs<3>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @unused(%x: !hc.rows<1, 8> {hc.operand = "streams"}) -> (!hc.rows<1, 8> {hc.operand = "streams"})
    attributes {hc.compute = f32, hc.branch_in = f32, hc.branch_out = f32} {
  // expected-error @below {{output does not reach the next streams: there is nothing to differentiate}}
  %y = hc.branch %x : (!hc.rows<1, 8>) -> !hc.rows<1, 8>
  %0 = hc.round %x {type = bf16} : (!hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %0 : !hc.rows<1, 8>
}

// -----

// expected-error @below {{has no hc.branch_in: run hc-specialize first}}
hc.func @recorded(%x: !hc.rows<1, d> {hc.operand = "streams"}) -> (!hc.rows<1, d> {hc.operand = "streams"}) {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return %y : !hc.rows<1, d>
}

// -----

// expected-error @below {{argument 0 has no hc.operand that says what it is}}
hc.func @nameless(%x: !hc.rows<1, 8>) -> (!hc.rows<1, 8> {hc.operand = "streams"}) attributes {hc.compute = f32} {
  hc.return %x : !hc.rows<1, 8>
}

// -----

hc.func @holes(%x: !hc.rows<1, 8> {hc.operand = "streams"}) -> (!hc.rows<1, 8> {hc.operand = "streams"})
    attributes {hc.compute = f32, hc.branch_in = f32, hc.branch_out = f32} {
  %y = hc.branch %x : (!hc.rows<1, 8>) -> !hc.rows<1, 8>
  // expected-error @below {{a site has one hole}}
  %z = hc.branch %y : (!hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %z : !hc.rows<1, 8>
}

// -----

// expected-error @below {{result 1 is what was saved, of type '!hc.rows<1, 8>'; hc-save-reductions packs it into coefficients of rank one}}
hc.func @saved_rows(%x: !hc.rows<1, 8> {hc.operand = "streams"})
    -> (!hc.rows<1, 8> {hc.operand = "streams"}, !hc.rows<1, 8> {hc.operand = "saved"}) attributes {hc.compute = f32} {
  hc.return %x, %x : !hc.rows<1, 8>, !hc.rows<1, 8>
}

// -----

// expected-error @below {{result 0 is what was saved, of type '!hc.coeffs<2, 2>'; hc-save-reductions packs it into coefficients of rank one}}
hc.func @saved_matrix(%x: !hc.rows<2, 8> {hc.operand = "streams"}) -> (!hc.coeffs<2, 2> {hc.operand = "saved"})
    attributes {hc.compute = f32} {
  %0 = hc.dot %x, %x : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}

// -----

// Masks have no letter for a cotangent: the adjoint of an adjoint would have zeros for gradients.
// expected-error @below {{argument 1 is the cotangent "d_branch_input": an adjoint is not differentiated (a second derivative is not available)}}
hc.func @adjoint(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %u: !hc.rows<1, 8> {hc.operand = "d_branch_input"},
    %c: !hc.coeffs<2, 1> {hc.operand = "parameter", hc.uniform}) -> (!hc.rows<2, 8> {hc.operand = "d_streams"})
    attributes {hc.compute = f32} {
  %0 = hc.mix %c, %u : (!hc.coeffs<2, 1>, !hc.rows<1, 8>) -> !hc.rows<2, 8>
  hc.return %0 : !hc.rows<2, 8>
}

// -----

// expected-error @below {{result 0 is the cotangent "d_streams": an adjoint is not differentiated (a second derivative is not available)}}
hc.func @adjoint_result(%x: !hc.rows<2, 8> {hc.operand = "streams"}) -> (!hc.rows<2, 8> {hc.operand = "d_streams"})
    attributes {hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}
