// RUN: hc-opt --convert-hc-to-vector --split-input-file --verify-diagnostics %s

hc.func @unplaced(%x: !hc.rows<2, 8> {hc.dtype = f32}) -> (!hc.coeffs<2> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  // expected-error @below {{'hc.row_sum' op has no phase and stage: run hc-form-phases first}}
  %0 = hc.row_sum %x : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

// expected-error @below {{needs the attribute hc.compute = f32 or f64: run hc-specialize first}}
hc.func @unspecialised(%x: !hc.rows<2, 8> {hc.dtype = f32}) -> (!hc.rows<2, 8> {hc.dtype = f32}) {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{has rows of width 8 and of width 9; a kernel has one width}}
hc.func @widths(%x: !hc.rows<1, 8> {hc.dtype = f32}, %y: !hc.rows<1, 9> {hc.dtype = f32})
    -> (!hc.rows<1, 8> {hc.dtype = f32}) attributes {hc.compute = f32} {
  hc.return %x : !hc.rows<1, 8>
}

// -----

hc.func @norm(%x: !hc.rows<2, 8> {hc.dtype = f32}) -> (!hc.rows<2, 8> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  // expected-error @below {{'hc.norm' op has no lowering to the CPU: no rule for this operation on rows}}
  %0 = hc.norm %x {phase = "M", stage = 0 : i64, kind = "rms_inside", eps = 1.0e-6 : f64, group = 2 : i64,
                   operandSegmentSizes = array<i32: 1, 0, 0>} : (!hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %0 : !hc.rows<2, 8>
}

// -----

hc.func @phase(%x: !hc.rows<2, 8> {hc.dtype = f32}) -> (!hc.coeffs<2> {hc.dtype = f32}) attributes {hc.compute = f32} {
  // expected-error @below {{'hc.row_sum' op phase is "X", expected P, M, R, C, W or E}}
  %0 = hc.row_sum %x {phase = "X", stage = 0 : i64} : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @stage(%x: !hc.rows<2, 8> {hc.dtype = f32}) -> (!hc.coeffs<2> {hc.dtype = f32}) attributes {hc.compute = f32} {
  // expected-error @below {{'hc.row_sum' op stage is -1 : i64, expected an i64 from 0 to 6}}
  %0 = hc.row_sum %x {phase = "R", stage = -1 : i64} : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

// Exits keep a list by stage.
hc.func @far_stage(%x: !hc.rows<2, 8> {hc.dtype = f32}) -> (!hc.coeffs<2> {hc.dtype = f32}) attributes {hc.compute = f32} {
  // expected-error @below {{'hc.row_sum' op stage is 4611686018427387904 : i64, expected an i64 from 0 to 6}}
  %0 = hc.row_sum %x {phase = "R", stage = 4611686018427387904 : i64} : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}
