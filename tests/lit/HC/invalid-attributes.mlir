// Passes and exits cast the attributes of functions, arguments and results without asking: the verifier asks.
// RUN: hc-opt %s -split-input-file -verify-diagnostics

// expected-error @below {{argument 0: hc.operand is 3 : i32, expected streams, branch, branch_input, parameter, carry, coefficients, uniform, channels or saved, or d_ and one of these}}
hc.func @operand_number(%x: !hc.rows<2, d> {hc.operand = 3 : i32}) -> !hc.rows<2, d> {
  hc.return %x : !hc.rows<2, d>
}

// -----

// expected-error @below {{argument 0: hc.operand is "stream", expected streams}}
hc.func @operand_word(%x: !hc.rows<2, d> {hc.operand = "stream"}) -> !hc.rows<2, d> {
  hc.return %x : !hc.rows<2, d>
}

// -----

// expected-error @below {{argument 0: hc.name is unit, expected a string}}
hc.func @name(%x: !hc.rows<2, d> {hc.name}) -> !hc.rows<2, d> {
  hc.return %x : !hc.rows<2, d>
}

// -----

// expected-error @below {{result 0: hc.dtype is index, expected bf16, f16, f32 or f64}}
hc.func @dtype(%x: !hc.rows<2, 8>) -> (!hc.rows<2, 8> {hc.dtype = index}) {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{argument 0: hc.dtype is f8E5M2, expected bf16, f16, f32 or f64}}
hc.func @dtype_f8(%x: !hc.rows<2, 8> {hc.dtype = f8E5M2}) -> !hc.rows<2, 8> {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{argument 0: hc.uniform is false, expected no value}}
hc.func @uniform(%x: !hc.rows<2, 8> {hc.uniform = false}) -> !hc.rows<2, 8> {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{argument 0: hc.role is no attribute of arguments and results}}
hc.func @role_of_argument(%x: !hc.rows<2, 8> {hc.role = "after"}) -> !hc.rows<2, 8> {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.role is "between", expected before, after or boundary}}
hc.func @role(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "between"} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.m is 0 : i64, expected an i64 from 1 to 2^20}}
hc.func @fracs(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.m = 0 : i64} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.saved is -1 : i64, expected an i64 from 0 to 2^20}}
hc.func @saved_negative(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.saved = -1 : i64} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.saved is 9000000000000 : i64, expected an i64 from 0 to 2^20}}
hc.func @saved(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.saved = 9000000000000 : i64} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.compute is i32, expected f32 or f64}}
hc.func @compute(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.compute = i32} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.branch_in is "f32", expected bf16, f16, f32 or f64}}
hc.func @branch(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.branch_in = "f32"} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{hc.computes is no attribute of a function}}
hc.func @unknown(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.computes = f32} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

hc.func @of_an_op(%x: !hc.rows<2, 8>) -> !hc.coeffs<2> {
  // expected-error @below {{hc.uniform is an attribute of hc.func, its arguments or its results only}}
  %0 = hc.row_sum %x {hc.uniform} : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

// expected-error @below {{argument 1 is 'i32', expected rows, coefficients or a weight}}
hc.func @argument(%x: !hc.rows<2, 8>, %p: i32) -> !hc.rows<2, 8> {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{result 0 is 'f32', expected rows, coefficients or a weight}}
hc.func @result() -> f32 {
  hc.return
}

// -----

hc.func @round(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> {
  // expected-error @below {{type is 'i8', expected bf16, f16, f32 or f64}}
  %0 = hc.round %x {type = i8} : (!hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %0 : !hc.rows<2, 8>
}
