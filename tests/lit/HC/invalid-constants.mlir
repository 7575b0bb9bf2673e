// A constant's numbers are in the text: folders and both exits read them without asking where they are.
// RUN: hc-opt %s -split-input-file -verify-diagnostics

hc.func @sparse() -> !hc.coeffs<2> {
  // expected-error @below {{attribute 'value' failed to satisfy constraint: numbers written out: dense<...>}}
  %0 = hc.constant {value = sparse<[[0]], [1.0]> : tensor<2xf64>} : () -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @resource() -> !hc.coeffs<2> {
  // expected-error @below {{attribute 'value' failed to satisfy constraint: numbers written out: dense<...>}}
  %0 = hc.constant {value = dense_resource<blob> : tensor<2xf64>} : () -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}
{-# dialect_resources: { builtin: { blob: "0x08000000000000000000F03F000000000000F03F" } } #-}

// -----

hc.func @vector() -> !hc.coeffs<2> {
  // expected-error @below {{value is a tensor of f64 with a static shape}}
  %0 = hc.constant {value = dense<1.0> : vector<2xf64>} : () -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}
