// What the CPU exit refuses of a kernel that no pass has prepared, the CUDA exit refuses too.
// RUN: hc-translate --hc-to-cuda --split-input-file --verify-diagnostics %s

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

// expected-error @below {{has the unbound row width d: run hc-specialize first}}
hc.func @unbound(%x: !hc.rows<2, d> {hc.dtype = f32}) -> (!hc.rows<2, d> {hc.dtype = f32}) attributes {hc.compute = f32} {
  hc.return %x : !hc.rows<2, d>
}

// -----

// expected-error @below {{has rows of width 8 and of width 9; a kernel has one width}}
hc.func @widths(%x: !hc.rows<1, 8> {hc.dtype = f32}, %y: !hc.rows<1, 9> {hc.dtype = f32})
    -> (!hc.rows<1, 8> {hc.dtype = f32}) attributes {hc.compute = f32} {
  hc.return %x : !hc.rows<1, 8>
}
