// Every op refuses shapes that do not fit, by name; what attributes can get wrong is in invalid.mlir.
// RUN: hc-opt %s -split-input-file -verify-diagnostics

hc.func @scale_rows(%c: !hc.coeffs<3>, %x: !hc.rows<2, d>) -> !hc.rows<2, d> {
  // expected-error @below {{coefficients has shape <3>, expected <2>}}
  %0 = hc.scale_rows %c, %x : (!hc.coeffs<3>, !hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @scatter(%x: !hc.rows<3, d>) -> !hc.rows<2, d> {
  // expected-error @below {{number of indices is 2, expected 3}}
  %0 = hc.scatter_rows %x {indices = array<i64: 0, 1>} : (!hc.rows<3, d>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @scatter_outside(%x: !hc.rows<2, d>) -> !hc.rows<2, d> {
  // expected-error @below {{index 2 is outside 0 .. 1}}
  %0 = hc.scatter_rows %x {indices = array<i64: 0, 2>} : (!hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @fill_rows(%c: !hc.coeffs<3>) -> !hc.rows<2, d> {
  // expected-error @below {{coefficients has shape <3>, expected <2>}}
  %0 = hc.fill_rows %c : (!hc.coeffs<3>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @expand(%p: !hc.coeffs<1, 5>, %w: !hc.weight<2, d, 6>) -> !hc.rows<2, d> {
  // expected-error @below {{coefficients has shape <1, 5>, expected <1, 6>}}
  %0 = hc.expand %p, %w : (!hc.coeffs<1, 5>, !hc.weight<2, d, 6>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @round_both(%x: !hc.rows<2, d>) -> !hc.rows<2, d> {
  // expected-error @below {{has either an edge (before hc-specialize) or a type (after it)}}
  %0 = hc.round %x {edge = "streams", type = bf16} : (!hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @dot(%a: !hc.rows<2, d>, %b: !hc.rows<3, d>) -> !hc.coeffs<3, 2> {
  // expected-error @below {{result has shape <3, 2>, expected <2, 3>}}
  %0 = hc.dot %a, %b : (!hc.rows<2, d>, !hc.rows<3, d>) -> !hc.coeffs<3, 2>
  hc.return %0 : !hc.coeffs<3, 2>
}

// -----

hc.func @dot_rows(%a: !hc.rows<2, d>, %b: !hc.rows<3, d>) -> !hc.coeffs<2> {
  // expected-error @below {{right operand is '!hc.rows<3, d>', expected '!hc.rows<2, d>'}}
  %0 = hc.dot_rows %a, %b : (!hc.rows<2, d>, !hc.rows<3, d>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @row_sum(%a: !hc.rows<2, d>) -> !hc.coeffs<3> {
  // expected-error @below {{result has shape <3>, expected <2>}}
  %0 = hc.row_sum %a : (!hc.rows<2, d>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @project_width(%x: !hc.rows<2, 8>, %w: !hc.weight<2, 9, 3>) -> !hc.coeffs<1, 3> {
  // expected-error @below {{width of the weight is 9, expected 8}}
  %0 = hc.project %x, %w : (!hc.rows<2, 8>, !hc.weight<2, 9, 3>) -> !hc.coeffs<1, 3>
  hc.return %0 : !hc.coeffs<1, 3>
}

// -----

hc.func @norm_group(%x: !hc.rows<4, d>) -> !hc.rows<4, d> {
  // expected-error @below {{4 rows do not split into groups of 3}}
  %0 = hc.norm %x {kind = "rms_inside", eps = 0.0 : f64, group = 3 : i64, operandSegmentSizes = array<i32: 1, 0, 0>} : (!hc.rows<4, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

hc.func @norm_gain(%x: !hc.rows<4, d>, %g: !hc.rows<3, d>) -> !hc.rows<4, d> {
  // expected-error @below {{gain has 3 rows, expected 1 or 2}}
  %0 = hc.norm %x, %g {kind = "rms_inside", eps = 0.0 : f64, group = 2 : i64, operandSegmentSizes = array<i32: 1, 1, 0>} : (!hc.rows<4, d>, !hc.rows<3, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

hc.func @norm_bias(%x: !hc.rows<4, d>, %g: !hc.rows<1, d>, %b: !hc.rows<1, d>) -> !hc.rows<4, d> {
  // expected-error @below {{only layernorm has a bias}}
  %0 = hc.norm %x, %g, %b {kind = "rms_inside", eps = 0.0 : f64, group = 1 : i64, operandSegmentSizes = array<i32: 1, 1, 1>} : (!hc.rows<4, d>, !hc.rows<1, d>, !hc.rows<1, d>) -> !hc.rows<4, d>
  hc.return %0 : !hc.rows<4, d>
}

// -----

hc.func @add(%a: !hc.coeffs<2>, %b: !hc.coeffs<3>) -> !hc.coeffs<2> {
  // expected-error @below {{requires the same type for all operands and results}}
  %0 = hc.add %a, %b : (!hc.coeffs<2>, !hc.coeffs<3>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @exp(%a: !hc.coeffs<2>) -> !hc.coeffs<3> {
  // expected-error @below {{requires the same type for all operands and results}}
  %0 = hc.exp %a : (!hc.coeffs<2>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @softmax(%a: !hc.coeffs<2>) -> !hc.coeffs<3> {
  // expected-error @below {{requires the same type for all operands and results}}
  %0 = hc.softmax %a : (!hc.coeffs<2>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @token_sum(%a: !hc.coeffs<2>) -> !hc.coeffs<3> {
  // expected-error @below {{requires the same type for all operands and results}}
  %0 = hc.token_sum %a : (!hc.coeffs<2>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @constant() -> !hc.coeffs<2> {
  // expected-error @below {{result has shape <2>, expected <3>}}
  %0 = hc.constant {value = dense<1.0> : tensor<3xf64>} : () -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @constant_type() -> !hc.coeffs<2> {
  // expected-error @below {{value is a tensor of f64 with a static shape}}
  %0 = hc.constant {value = dense<1.0> : tensor<2xf32>} : () -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @reshape(%a: !hc.coeffs<2, 3>) -> !hc.coeffs<5> {
  // expected-error @below {{number of elements is 5, expected 6}}
  %0 = hc.reshape %a : (!hc.coeffs<2, 3>) -> !hc.coeffs<5>
  hc.return %0 : !hc.coeffs<5>
}

// -----

hc.func @transpose(%a: !hc.coeffs<2, 3>) -> !hc.coeffs<3, 2> {
  // expected-error @below {{needs a permutation of the axes}}
  %0 = hc.transpose %a {permutation = array<i64: 1, 1>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>
  hc.return %0 : !hc.coeffs<3, 2>
}

// -----

hc.func @transpose_rank(%a: !hc.coeffs<2, 3>) -> !hc.coeffs<3, 2> {
  // expected-error @below {{length of the permutation is 1, expected 2}}
  %0 = hc.transpose %a {permutation = array<i64: 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>
  hc.return %0 : !hc.coeffs<3, 2>
}

// -----

hc.func @slice_axis(%a: !hc.coeffs<4>) -> !hc.coeffs<2> {
  // expected-error @below {{axis 1 is not one of the operand's, or the ranks differ}}
  %0 = hc.slice %a {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<4>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @concat(%a: !hc.coeffs<2, 3>, %b: !hc.coeffs<2, 4>) -> !hc.coeffs<4, 3> {
  // expected-error @below {{operands differ outside the joined axis}}
  %0 = hc.concat %a, %b {axis = 0 : i64} : (!hc.coeffs<2, 3>, !hc.coeffs<2, 4>) -> !hc.coeffs<4, 3>
  hc.return %0 : !hc.coeffs<4, 3>
}

// -----

hc.func @concat_rank(%a: !hc.coeffs<2, 3>, %b: !hc.coeffs<2>) -> !hc.coeffs<4, 3> {
  // expected-error @below {{operands differ in rank}}
  %0 = hc.concat %a, %b {axis = 0 : i64} : (!hc.coeffs<2, 3>, !hc.coeffs<2>) -> !hc.coeffs<4, 3>
  hc.return %0 : !hc.coeffs<4, 3>
}

// -----

hc.func @broadcast(%a: !hc.coeffs<2>) -> !hc.coeffs<3, 4> {
  // expected-error @below {{axis 0 has size 2, the result has 4}}
  %0 = hc.broadcast %a {dims = array<i64: 1>} : (!hc.coeffs<2>) -> !hc.coeffs<3, 4>
  hc.return %0 : !hc.coeffs<3, 4>
}

// -----

hc.func @broadcast_dims(%a: !hc.coeffs<2, 3>) -> !hc.coeffs<3, 2> {
  // expected-error @below {{dims rise and are axes of the result}}
  %0 = hc.broadcast %a {dims = array<i64: 1, 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3, 2>
  hc.return %0 : !hc.coeffs<3, 2>
}

// -----

hc.func @reduce_sum(%a: !hc.coeffs<2, 3>) -> !hc.coeffs<3> {
  // expected-error @below {{result has shape <3>, expected <2>}}
  %0 = hc.reduce_sum %a {axes = array<i64: 1>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3>
  hc.return %0 : !hc.coeffs<3>
}

// -----

hc.func @reduce_axes(%a: !hc.coeffs<2, 3>) -> !hc.coeffs<2, 3> {
  // expected-error @below {{axes rise and are axes of the operand}}
  %0 = hc.reduce_sum %a {axes = array<i64: 2>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<2, 3>
  hc.return %0 : !hc.coeffs<2, 3>
}

// -----

hc.func @matmul(%a: !hc.coeffs<2, 3>, %b: !hc.coeffs<4, 2>) -> !hc.coeffs<2, 2> {
  // expected-error @below {{rows of the right operand is 4, expected 3}}
  %0 = hc.matmul %a, %b : (!hc.coeffs<2, 3>, !hc.coeffs<4, 2>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}

// -----

hc.func @sinkhorn_start(%l: !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2> {
  // expected-error @below {{start is "soft", expected exp, exp_raw or softmax_eps}}
  %0 = hc.sinkhorn %l {iterations = 1 : i64, start = "soft", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}

// -----

hc.func @sinkhorn_iterations(%l: !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2> {
  // expected-error @below {{iterations is 0, expected from 1 to 16384}}
  %0 = hc.sinkhorn %l {iterations = 0 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}

// -----

hc.func @sinkhorn_log(%l: !hc.coeffs<2, 2>) -> !hc.coeffs<2, 2> {
  // expected-error @below {{the log domain knows no eps}}
  %0 = hc.sinkhorn %l {iterations = 1 : i64, start = "exp", first = "col", place = "add", eps = 0.1 : f64, tau = 1.0 : f64, log_domain = true} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %0 : !hc.coeffs<2, 2>
}

// -----

hc.func @permutation_dot(%g: !hc.coeffs<3, 3>) -> !hc.coeffs<5> {
  // expected-error @below {{list of permutations has shape <5>, expected <6>}}
  %0 = hc.permutation_dot %g : (!hc.coeffs<3, 3>) -> !hc.coeffs<5>
  hc.return %0 : !hc.coeffs<5>
}

// -----

hc.func @weight_grad(%x: !hc.rows<4, d>, %p: !hc.coeffs<2, 3>) -> !hc.weight<2, d, 4> {
  // expected-error @below {{coefficients has shape <2, 3>, expected <2, 4>}}
  %0 = hc.weight_grad %x, %p : (!hc.rows<4, d>, !hc.coeffs<2, 3>) -> !hc.weight<2, d, 4>
  hc.return %0 : !hc.weight<2, d, 4>
}

// -----

hc.func @outer(%x: !hc.rows<4, d>, %p: !hc.coeffs<2, 3>) -> !hc.weight<3, d, 3> {
  // expected-error @below {{4 rows are no multiple of the weight's 3}}
  %0 = hc.outer %x, %p : (!hc.rows<4, d>, !hc.coeffs<2, 3>) -> !hc.weight<3, d, 3>
  hc.return %0 : !hc.weight<3, d, 3>
}

// -----

hc.func @scale_weight(%w: !hc.weight<2, d, 3>, %g: !hc.rows<1, d>) -> !hc.weight<2, d, 3> {
  // expected-error @below {{scale is '!hc.rows<1, d>', expected '!hc.rows<2, d>'}}
  %0 = hc.scale_weight %w, %g : (!hc.weight<2, d, 3>, !hc.rows<1, d>) -> !hc.weight<2, d, 3>
  hc.return %0 : !hc.weight<2, d, 3>
}

// -----

hc.func @weight_dot(%v: !hc.weight<2, d, 3>, %w: !hc.weight<2, d, 4>) -> !hc.rows<2, d> {
  // expected-error @below {{right operand is '!hc.weight<2, d, 4>', expected '!hc.weight<2, d, 3>'}}
  %0 = hc.weight_dot %v, %w : (!hc.weight<2, d, 3>, !hc.weight<2, d, 4>) -> !hc.rows<2, d>
  hc.return %0 : !hc.rows<2, d>
}

// -----

hc.func @concat_weights(%v: !hc.weight<2, d, 3>, %w: !hc.weight<1, d, 4>) -> !hc.weight<2, d, 7> {
  // expected-error @below {{operands differ in rows or width}}
  %0 = hc.concat_weights %v, %w : (!hc.weight<2, d, 3>, !hc.weight<1, d, 4>) -> !hc.weight<2, d, 7>
  hc.return %0 : !hc.weight<2, d, 7>
}

// -----

hc.func @slice_weight(%w: !hc.weight<2, d, 3>) -> !hc.weight<2, d, 2> {
  // expected-error @below {{2 columns from 2 are outside 0 .. 3}}
  %0 = hc.slice_weight %w {offset = 2 : i64} : (!hc.weight<2, d, 3>) -> !hc.weight<2, d, 2>
  hc.return %0 : !hc.weight<2, d, 2>
}

// -----

hc.func @weight_from_rows(%f: !hc.rows<5, d>) -> !hc.weight<2, d, 3> {
  // expected-error @below {{operand is '!hc.rows<5, d>', expected '!hc.rows<6, d>'}}
  %0 = hc.weight_from_rows %f : (!hc.rows<5, d>) -> !hc.weight<2, d, 3>
  hc.return %0 : !hc.weight<2, d, 3>
}

// -----

hc.func @rows_from_weight(%w: !hc.weight<2, d, 3>) -> !hc.rows<5, d> {
  // expected-error @below {{result is '!hc.rows<5, d>', expected '!hc.rows<6, d>'}}
  %0 = hc.rows_from_weight %w : (!hc.weight<2, d, 3>) -> !hc.rows<5, d>
  hc.return %0 : !hc.rows<5, d>
}

// -----

hc.func @branch(%x: !hc.rows<1, d>, %c: !hc.coeffs<2>) -> !hc.rows<1, d> {
  // expected-error @below {{crossing values come out with the types they went in with}}
  %y, %d = hc.branch %x, %c : (!hc.rows<1, d>, !hc.coeffs<2>) -> (!hc.rows<1, d>, !hc.coeffs<3>)
  hc.return %y : !hc.rows<1, d>
}

// -----

// expected-error @below {{coefficients have positive sizes}}
hc.func @coefficients(%c: !hc.coeffs<2, 0>) -> !hc.coeffs<2, 0> {
  hc.return %c : !hc.coeffs<2, 0>
}

// -----

// expected-error @below {{needs at least one column and at most 1048576, got 0}}
hc.func @weight(%w: !hc.weight<2, d, 0>) -> !hc.weight<2, d, 0> {
  hc.return %w : !hc.weight<2, d, 0>
}

// -----

// expected-error @below {{coefficients are at most 1048576 numbers}}
hc.func @too_many(%c: !hc.coeffs<4294967296, 4294967296>) -> !hc.coeffs<1> {
  hc.return %c : !hc.coeffs<1>
}

// -----

hc.func @far_slice(%a: !hc.coeffs<4>) -> !hc.coeffs<2> {
  // expected-error @below {{range of 2 from 9223372036854775807 is outside 0 .. 4}}
  %0 = hc.slice %a {axis = 0 : i64, offset = 9223372036854775807 : i64} : (!hc.coeffs<4>) -> !hc.coeffs<2>
  hc.return %0 : !hc.coeffs<2>
}

// -----

hc.func @far_columns(%w: !hc.weight<2, d, 3>) -> !hc.weight<2, d, 2> {
  // expected-error @below {{2 columns from 9223372036854775807 are outside 0 .. 3}}
  %0 = hc.slice_weight %w {offset = 9223372036854775807 : i64} : (!hc.weight<2, d, 3>) -> !hc.weight<2, d, 2>
  hc.return %0 : !hc.weight<2, d, 2>
}

// -----

hc.func @many_permutations(%a: !hc.coeffs<20>) -> !hc.coeffs<64, 64> {
  // expected-error @below {{permutes 64 streams, at most 6 are supported}}
  %0 = hc.permutation_mix %a : (!hc.coeffs<20>) -> !hc.coeffs<64, 64>
  hc.return %0 : !hc.coeffs<64, 64>
}

// -----

hc.func @adjoint(%l: !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4> {
  // expected-error @below {{iterations is -5, expected from 1 to 16384}}
  %0 = hc.sinkhorn_adjoint %l, %l {iterations = -5 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  hc.return %0 : !hc.coeffs<4, 4>
}

// -----

// Twice the iterations times N is what the adjoint keeps: it must not overflow.
hc.func @many_iterations(%l: !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4> {
  // expected-error @below {{iterations is 4611686018427387904, expected from 1 to 16384}}
  %0 = hc.sinkhorn %l {iterations = 4611686018427387904 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  hc.return %0 : !hc.coeffs<4, 4>
}

// -----

hc.func @many_iterations_back(%l: !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4> {
  // expected-error @below {{iterations is 16385, expected from 1 to 16384}}
  %0 = hc.sinkhorn_adjoint %l, %l {iterations = 16385 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>, !hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  hc.return %0 : !hc.coeffs<4, 4>
}
