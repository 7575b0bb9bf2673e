// Sizes that nobody has memory for, and whose products do not fit 64 bits.
// RUN: hc-opt %s -split-input-file -verify-diagnostics

// expected-error @below {{needs at least one row and at most 1048576, got 4611686018427387904}}
hc.func @rows(%x: !hc.rows<4611686018427387904, d>) -> !hc.rows<4611686018427387904, d> {
  hc.return %x : !hc.rows<4611686018427387904, d>
}

// -----

// expected-error @below {{needs at least one column and at most 1048576, got 4611686018427387904}}
hc.func @columns(%w: !hc.weight<2, 8, 4611686018427387904>) {
  hc.return
}

// -----

// expected-error @below {{has 1024 rows of 4611686018427387904 channels and 4 columns; a value has at most 2^48 numbers}}
hc.func @channels(%w: !hc.weight<1024, 4611686018427387904, 4>) {
  hc.return
}

// -----

hc.func @weight_from_rows(%x: !hc.rows<4, 8>) -> !hc.weight<1048576, 8, 4> {
  // expected-error @below {{'!hc.weight<1048576, 8, 4>' is more than 1048576 rows output first}}
  %0 = hc.weight_from_rows %x : (!hc.rows<4, 8>) -> !hc.weight<1048576, 8, 4>
  hc.return %0 : !hc.weight<1048576, 8, 4>
}

// -----

hc.func @rows_from_weight(%w: !hc.weight<1048576, 8, 4>) -> !hc.rows<4, 8> {
  // expected-error @below {{'!hc.weight<1048576, 8, 4>' is more than 1048576 rows output first}}
  %0 = hc.rows_from_weight %w : (!hc.weight<1048576, 8, 4>) -> !hc.rows<4, 8>
  hc.return %0 : !hc.rows<4, 8>
}

// -----

hc.func @concat_weights(%w: !hc.weight<1, 8, 1048576>) -> !hc.weight<1, 8, 1048576> {
  // expected-error @below {{joins 2097152 columns, a weight has at most 1048576}}
  %0 = hc.concat_weights %w, %w : (!hc.weight<1, 8, 1048576>, !hc.weight<1, 8, 1048576>) -> !hc.weight<1, 8, 1048576>
  hc.return %0 : !hc.weight<1, 8, 1048576>
}

// -----

// expected-error @below {{a width is at least 0, or d}}
hc.func @width(%x: !hc.rows<1, -9223372036854775808>) -> !hc.rows<1, d> {
  hc.return %x : !hc.rows<1, d>
}
