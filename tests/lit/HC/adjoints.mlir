// The adjoint of each op: g is the cotangent of the result, W' that of a weight. Uniform operands are summed over tokens.
// RUN: hc-opt %s -hc-differentiate="given=uck want=xycpk" -canonicalize -cse | FileCheck %s

// neg: da = -g
// CHECK-LABEL: hc.func @neg_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.neg %[[DR]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @neg(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.neg %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// exp: da = g e^a
// CHECK-LABEL: hc.func @exp_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.exp %[[A]]
// CHECK-NEXT: %[[T1:.*]] = hc.mul %[[DR]], %[[T0]]
// CHECK-NEXT: hc.return %[[T1]]
hc.func @exp(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.exp %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// log: da = g / a
// CHECK-LABEL: hc.func @log_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.div %[[DR]], %[[A]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @log(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.log %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// tanh: da = g (1 - t^2)
// CHECK-LABEL: hc.func @tanh_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<1.000000e+00>
// CHECK-NEXT: %[[T1:.*]] = hc.tanh %[[A]]
// CHECK-NEXT: %[[T2:.*]] = hc.mul %[[T1]], %[[T1]]
// CHECK-NEXT: %[[T3:.*]] = hc.sub %[[T0]], %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.mul %[[DR]], %[[T3]]
// CHECK-NEXT: hc.return %[[T4]]
hc.func @tanh(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.tanh %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// sigmoid: da = g s (1 - s)
// CHECK-LABEL: hc.func @sigmoid_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<1.000000e+00>
// CHECK-NEXT: %[[T1:.*]] = hc.sigmoid %[[A]]
// CHECK-NEXT: %[[T2:.*]] = hc.sub %[[T0]], %[[T1]]
// CHECK-NEXT: %[[T3:.*]] = hc.mul %[[T1]], %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.mul %[[DR]], %[[T3]]
// CHECK-NEXT: hc.return %[[T4]]
hc.func @sigmoid(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.sigmoid %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// sqrt: da = g / (2 sqrt a)
// CHECK-LABEL: hc.func @sqrt_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<5.000000e-01>
// CHECK-NEXT: %[[T1:.*]] = hc.sqrt %[[A]]
// CHECK-NEXT: %[[T2:.*]] = hc.mul %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T3:.*]] = hc.div %[[T2]], %[[T1]]
// CHECK-NEXT: hc.return %[[T3]]
hc.func @sqrt(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.sqrt %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// rsqrt: da = -1/2 g a^(-3/2)
// CHECK-LABEL: hc.func @rsqrt_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<-5.000000e-01>
// CHECK-NEXT: %[[T1:.*]] = hc.rsqrt %[[A]]
// CHECK-NEXT: %[[T2:.*]] = hc.mul %[[T1]], %[[T1]]
// CHECK-NEXT: %[[T3:.*]] = hc.mul %[[T1]], %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.mul %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T5:.*]] = hc.mul %[[T4]], %[[T3]]
// CHECK-NEXT: hc.return %[[T5]]
hc.func @rsqrt(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.rsqrt %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// reciprocal: da = -g / a^2
// CHECK-LABEL: hc.func @reciprocal_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.reciprocal %[[A]]
// CHECK-NEXT: %[[T1:.*]] = hc.mul %[[T0]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.mul %[[DR]], %[[T1]]
// CHECK-NEXT: %[[T3:.*]] = hc.neg %[[T2]]
// CHECK-NEXT: hc.return %[[T3]]
hc.func @reciprocal(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.reciprocal %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// heaviside: da = 0
// CHECK-LABEL: hc.func @heaviside_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<0.000000e+00>
// CHECK-NEXT: hc.return %[[T0]]
hc.func @heaviside(%a: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.heaviside %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// add: da = db = g
// CHECK-LABEL: hc.func @add_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[B:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: hc.return %[[DR]], %[[DR]]
hc.func @add(%a: !hc.coeffs<2> {hc.operand = "coefficients"}, %b: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.add %a, %b : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// sub: db = -g
// CHECK-LABEL: hc.func @sub_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[B:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.neg %[[DR]]
// CHECK-NEXT: hc.return %[[DR]], %[[T0]]
hc.func @sub(%a: !hc.coeffs<2> {hc.operand = "coefficients"}, %b: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.sub %a, %b : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// mul: da = g b, db = g a
// CHECK-LABEL: hc.func @mul_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[B:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.mul %[[DR]], %[[B]]
// CHECK-NEXT: %[[T1:.*]] = hc.mul %[[DR]], %[[A]]
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @mul(%a: !hc.coeffs<2> {hc.operand = "coefficients"}, %b: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.mul %a, %b : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// div: da = g / b, db = -(g / b) (a / b)
// CHECK-LABEL: hc.func @div_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[B:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.div %[[A]], %[[B]]
// CHECK-NEXT: %[[T1:.*]] = hc.div %[[DR]], %[[B]]
// CHECK-NEXT: %[[T2:.*]] = hc.mul %[[T1]], %[[T0]]
// CHECK-NEXT: %[[T3:.*]] = hc.neg %[[T2]]
// CHECK-NEXT: hc.return %[[T1]], %[[T3]]
hc.func @div(%a: !hc.coeffs<2> {hc.operand = "coefficients"}, %b: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.div %a, %b : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// max: the greater takes g, a when they are equal
// CHECK-LABEL: hc.func @max_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[B:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.sub %[[A]], %[[B]]
// CHECK-NEXT: %[[T1:.*]] = hc.heaviside %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.mul %[[DR]], %[[T1]]
// CHECK-NEXT: %[[T3:.*]] = hc.sub %[[DR]], %[[T2]]
// CHECK-NEXT: hc.return %[[T2]], %[[T3]]
hc.func @max(%a: !hc.coeffs<2> {hc.operand = "coefficients"}, %b: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.max %a, %b : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// sub_rows: the same on rows
// CHECK-LABEL: hc.func @sub_rows_backward(
// CHECK-SAME: %[[A:.*]]: !hc.rows<2, 8>{{.*}}, %[[B:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<-1.000000e+00>
// CHECK-NEXT: %[[T1:.*]] = hc.scale_rows %[[T0]], %[[DR]]
// CHECK-NEXT: hc.return %[[DR]], %[[T1]]
hc.func @sub_rows(%a: !hc.rows<2, 8> {hc.operand = "streams"}, %b: !hc.rows<2, 8> {hc.operand = "branch"})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.sub %a, %b : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}

// mul_rows: the same on rows
// CHECK-LABEL: hc.func @mul_rows_backward(
// CHECK-SAME: %[[A:.*]]: !hc.rows<2, 8>{{.*}}, %[[B:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.mul %[[DR]], %[[B]]
// CHECK-NEXT: %[[T1:.*]] = hc.mul %[[DR]], %[[A]]
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @mul_rows(%a: !hc.rows<2, 8> {hc.operand = "streams"}, %b: !hc.rows<2, 8> {hc.operand = "branch"})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.mul %a, %b : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}

// mix: dc = <g, x>, dx = c^T g
// CHECK-LABEL: hc.func @mix_backward(
// CHECK-SAME: %[[C:.*]]: !hc.coeffs<1, 2>{{.*}}, %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.rows<1, 8>
// CHECK-DAG: %[[CT:.*]] = hc.transpose %[[C]]
// CHECK-DAG: %[[DC:.*]] = hc.dot %[[DR]], %[[X]]
// CHECK-DAG: %[[DX:.*]] = hc.mix %[[CT]], %[[DR]]
// CHECK: hc.return %[[DC]], %[[DX]]
hc.func @mix(%c: !hc.coeffs<1, 2> {hc.operand = "coefficients"}, %x: !hc.rows<2, 8> {hc.operand = "streams"})
    -> (!hc.rows<1, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.mix %c, %x : (!hc.coeffs<1, 2>, !hc.rows<2, 8>) -> !hc.rows<1, 8>
  hc.return %0 : !hc.rows<1, 8>
}

// scale_rows: dc_i = <g_i, x_i>, dx_i = c_i g_i
// CHECK-LABEL: hc.func @scale_rows_backward(
// CHECK-SAME: %[[C:.*]]: !hc.coeffs<2>{{.*}}, %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.dot_rows %[[DR]], %[[X]]
// CHECK-NEXT: %[[T1:.*]] = hc.scale_rows %[[C]], %[[DR]]
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @scale_rows(%c: !hc.coeffs<2> {hc.operand = "coefficients"}, %x: !hc.rows<2, 8> {hc.operand = "streams"})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.scale_rows %c, %x : (!hc.coeffs<2>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}

// gather_rows: dx = scattered g
// CHECK-LABEL: hc.func @gather_rows_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.rows<3, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.scatter_rows %[[DR]] {indices = array<i64: 0, 1, 0>}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @gather_rows(%x: !hc.rows<2, 8> {hc.operand = "streams"})
    -> (!hc.rows<3, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.gather_rows %x {indices = array<i64: 0, 1, 0>} : (!hc.rows<2, 8>) -> !hc.rows<3, 8>
  hc.return %r : !hc.rows<3, 8>
}

// scatter_rows: dx = gathered g
// CHECK-LABEL: hc.func @scatter_rows_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<3, 8>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.gather_rows %[[DR]] {indices = array<i64: 0, 1, 0>}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @scatter_rows(%x: !hc.rows<3, 8> {hc.operand = "streams"})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.scatter_rows %x {indices = array<i64: 0, 1, 0>} : (!hc.rows<3, 8>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}

// fill_rows: dc = sums of rows
// CHECK-LABEL: hc.func @fill_rows_backward(
// CHECK-SAME: %[[C:.*]]: !hc.coeffs<2>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.row_sum %[[DR]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @fill_rows(%c: !hc.coeffs<2> {hc.operand = "coefficients"})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.fill_rows %c : (!hc.coeffs<2>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}

// expand: dp = g W, dW = g p over tokens
// CHECK-LABEL: hc.func @expand_backward(
// CHECK-SAME: %[[P:.*]]: !hc.coeffs<1, 3>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.project %[[DR]], %[[W]]
// CHECK-NEXT: %[[T1:.*]] = hc.weight_grad %[[DR]], %[[P]]
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @expand(%p: !hc.coeffs<1, 3> {hc.operand = "coefficients"}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.expand %p, %w : (!hc.coeffs<1, 3>, !hc.weight<2, 8, 3>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}

// dot: da = g b, db = g^T a
// CHECK-LABEL: hc.func @dot_backward(
// CHECK-SAME: %[[A:.*]]: !hc.rows<2, 8>{{.*}}, %[[B:.*]]: !hc.rows<3, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<2, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.mix %[[DR]], %[[B]]
// CHECK-NEXT: %[[T1:.*]] = hc.transpose %[[DR]] {permutation = array<i64: 1, 0>}
// CHECK-NEXT: %[[T2:.*]] = hc.mix %[[T1]], %[[A]]
// CHECK-NEXT: hc.return %[[T0]], %[[T2]]
hc.func @dot(%a: !hc.rows<2, 8> {hc.operand = "streams"}, %b: !hc.rows<3, 8> {hc.operand = "branch"})
    -> (!hc.coeffs<2, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.dot %a, %b : (!hc.rows<2, 8>, !hc.rows<3, 8>) -> !hc.coeffs<2, 3>
  hc.return %r : !hc.coeffs<2, 3>
}

// dot_rows: da_i = g_i b_i, db_i = g_i a_i
// CHECK-LABEL: hc.func @dot_rows_backward(
// CHECK-SAME: %[[A:.*]]: !hc.rows<2, 8>{{.*}}, %[[B:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.scale_rows %[[DR]], %[[B]]
// CHECK-NEXT: %[[T1:.*]] = hc.scale_rows %[[DR]], %[[A]]
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @dot_rows(%a: !hc.rows<2, 8> {hc.operand = "streams"}, %b: !hc.rows<2, 8> {hc.operand = "branch"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.dot_rows %a, %b : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// squares: one product where both operands are one value: da_i = 2 g_i a_i
// CHECK-LABEL: hc.func @squares_backward(
// CHECK-SAME: %[[A:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<2.000000e+00>
// CHECK-NEXT: %[[T1:.*]] = hc.mul %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.scale_rows %[[T1]], %[[A]]
// CHECK-NEXT: hc.return %[[T2]]
hc.func @squares(%a: !hc.rows<2, 8> {hc.operand = "streams"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.dot_rows %a, %a : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// row_sum: dx = filled rows
// CHECK-LABEL: hc.func @row_sum_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.fill_rows %[[DR]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @row_sum(%x: !hc.rows<2, 8> {hc.operand = "streams"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.row_sum %x : (!hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// project: dx = g W^T, dW = x g over tokens
// CHECK-LABEL: hc.func @project_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<1, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.expand %[[DR]], %[[W]]
// CHECK-NEXT: %[[T1:.*]] = hc.weight_grad %[[X]], %[[DR]]
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @project(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<1, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.project %x, %w : (!hc.rows<2, 8>, !hc.weight<2, 8, 3>) -> !hc.coeffs<1, 3>
  hc.return %r : !hc.coeffs<1, 3>
}

// reshape: da = g in the shape of a
// CHECK-LABEL: hc.func @reshape_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<6>
// CHECK-NEXT: %[[T0:.*]] = hc.reshape %[[DR]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @reshape(%a: !hc.coeffs<2, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<6> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.reshape %a : (!hc.coeffs<2, 3>) -> !hc.coeffs<6>
  hc.return %r : !hc.coeffs<6>
}

// transpose: the inverse permutation
// CHECK-LABEL: hc.func @transpose_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3, 4>{{.*}}, %[[DR:.*]]: !hc.coeffs<4, 2, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.transpose %[[DR]] {permutation = array<i64: 1, 2, 0>}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @transpose(%a: !hc.coeffs<2, 3, 4> {hc.operand = "coefficients"})
    -> (!hc.coeffs<4, 2, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.transpose %a {permutation = array<i64: 2, 0, 1>} : (!hc.coeffs<2, 3, 4>) -> !hc.coeffs<4, 2, 3>
  hc.return %r : !hc.coeffs<4, 2, 3>
}

// slice: zeros around g
// CHECK-LABEL: hc.func @slice_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<5>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<0.000000e+00>
// CHECK-NEXT: %[[T1:.*]] = hc.constant {value = dense<0.000000e+00>
// CHECK-NEXT: %[[T2:.*]] = hc.concat %[[T1]], %[[DR]], %[[T0]] {axis = 0 : i64}
// CHECK-NEXT: hc.return %[[T2]]
hc.func @slice(%a: !hc.coeffs<5> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.slice %a {axis = 0 : i64, offset = 1 : i64} : (!hc.coeffs<5>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// concat: the parts of g
// CHECK-LABEL: hc.func @concat_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 1>{{.*}}, %[[B:.*]]: !hc.coeffs<2, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<2, 4>
// CHECK-NEXT: %[[T0:.*]] = hc.slice %[[DR]] {axis = 1 : i64, offset = 0 : i64}
// CHECK-NEXT: %[[T1:.*]] = hc.slice %[[DR]] {axis = 1 : i64, offset = 1 : i64}
// CHECK-NEXT: hc.return %[[T0]], %[[T1]]
hc.func @concat(%a: !hc.coeffs<2, 1> {hc.operand = "coefficients"}, %b: !hc.coeffs<2, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2, 4> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.concat %a, %b {axis = 1 : i64} : (!hc.coeffs<2, 1>, !hc.coeffs<2, 3>) -> !hc.coeffs<2, 4>
  hc.return %r : !hc.coeffs<2, 4>
}

// broadcast: sums over what was repeated
// CHECK-LABEL: hc.func @broadcast_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<1, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<2, 4, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.reduce_sum %[[DR]] {axes = array<i64: 0, 1>}
// CHECK-NEXT: %[[T1:.*]] = hc.reshape %[[T0]]
// CHECK-NEXT: hc.return %[[T1]]
hc.func @broadcast(%a: !hc.coeffs<1, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2, 4, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.broadcast %a {dims = array<i64: 1, 2>} : (!hc.coeffs<1, 3>) -> !hc.coeffs<2, 4, 3>
  hc.return %r : !hc.coeffs<2, 4, 3>
}

// reduce_sum: g repeated
// CHECK-LABEL: hc.func @reduce_sum_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<3>
// CHECK-NEXT: %[[T0:.*]] = hc.broadcast %[[DR]] {dims = array<i64: 1>}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @reduce_sum(%a: !hc.coeffs<2, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.reduce_sum %a {axes = array<i64: 0>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<3>
  hc.return %r : !hc.coeffs<3>
}

// reduce_all: a sum of all has shape 1
// CHECK-LABEL: hc.func @reduce_all_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<1>
// CHECK-NEXT: %[[T0:.*]] = hc.broadcast %[[DR]] {dims = array<i64: 1>}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @reduce_all(%a: !hc.coeffs<2, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<1> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.reduce_sum %a {axes = array<i64: 0, 1>} : (!hc.coeffs<2, 3>) -> !hc.coeffs<1>
  hc.return %r : !hc.coeffs<1>
}

// matmul: dA = g B^T, dB = A^T g
// CHECK-LABEL: hc.func @matmul_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3>{{.*}}, %[[B:.*]]: !hc.coeffs<3, 4>{{.*}}, %[[DR:.*]]: !hc.coeffs<2, 4>
// CHECK-NEXT: %[[T0:.*]] = hc.transpose %[[B]] {permutation = array<i64: 1, 0>}
// CHECK-NEXT: %[[T1:.*]] = hc.matmul %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.transpose %[[A]] {permutation = array<i64: 1, 0>}
// CHECK-NEXT: %[[T3:.*]] = hc.matmul %[[T2]], %[[DR]]
// CHECK-NEXT: hc.return %[[T1]], %[[T3]]
hc.func @matmul(%a: !hc.coeffs<2, 3> {hc.operand = "coefficients"}, %b: !hc.coeffs<3, 4> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2, 4> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.matmul %a, %b : (!hc.coeffs<2, 3>, !hc.coeffs<3, 4>) -> !hc.coeffs<2, 4>
  hc.return %r : !hc.coeffs<2, 4>
}

// softmax: from the result
// CHECK-LABEL: hc.func @softmax_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<2, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.softmax %[[A]]
// CHECK-NEXT: %[[T1:.*]] = hc.softmax_adjoint %[[T0]], %[[DR]]
// CHECK-NEXT: hc.return %[[T1]]
hc.func @softmax(%a: !hc.coeffs<2, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<2, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.softmax %a : (!hc.coeffs<2, 3>) -> !hc.coeffs<2, 3>
  hc.return %r : !hc.coeffs<2, 3>
}

// sinkhorn: from the logits, with the same options
// CHECK-LABEL: hc.func @sinkhorn_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<3, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<3, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.sinkhorn_adjoint %[[A]], %[[DR]] {eps = 2.500000e-01 : f64, first = "row", iterations = 7 : i64, log_domain = false, place = "add", start = "softmax_eps", tau = 5.000000e-01 : f64}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @sinkhorn(%a: !hc.coeffs<3, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<3, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.sinkhorn %a {iterations = 7 : i64, start = "softmax_eps", first = "row", place = "add", eps = 0.25 : f64, tau = 0.5 : f64, log_domain = false}
      : (!hc.coeffs<3, 3>) -> !hc.coeffs<3, 3>
  hc.return %r : !hc.coeffs<3, 3>
}

// permutation_mix: da_r = sum_j g[j, pi_r(j)]
// CHECK-LABEL: hc.func @permutation_mix_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<6>{{.*}}, %[[DR:.*]]: !hc.coeffs<3, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.permutation_dot %[[DR]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @permutation_mix(%a: !hc.coeffs<6> {hc.operand = "coefficients"})
    -> (!hc.coeffs<3, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.permutation_mix %a : (!hc.coeffs<6>) -> !hc.coeffs<3, 3>
  hc.return %r : !hc.coeffs<3, 3>
}

// permutation_dot: the other way round
// CHECK-LABEL: hc.func @permutation_dot_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<3, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<6>
// CHECK-NEXT: %[[T0:.*]] = hc.permutation_mix %[[DR]]
// CHECK-NEXT: hc.return %[[T0]]
hc.func @permutation_dot(%a: !hc.coeffs<3, 3> {hc.operand = "coefficients"})
    -> (!hc.coeffs<6> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %r = hc.permutation_dot %a : (!hc.coeffs<3, 3>) -> !hc.coeffs<6>
  hc.return %r : !hc.coeffs<6>
}

// scale_weight: dW = W' g, dg = the columns of W and W' multiplied and summed
// CHECK-LABEL: hc.func @scale_weight_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[G:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<1, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.scale_weight %[[W]], %[[G]]
// CHECK-NEXT: %[[T1:.*]] = hc.expand %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.weight_grad %[[X]], %[[DR]]
// CHECK-NEXT: %[[T3:.*]] = hc.scale_weight %[[T2]], %[[G]]
// CHECK-NEXT: %[[T4:.*]] = hc.weight_dot %[[W]], %[[T2]]
// CHECK-NEXT: hc.return %[[T1]], %[[T3]], %[[T4]]
hc.func @scale_weight(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform}, %g: !hc.rows<2, 8> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<1, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.scale_weight %w, %g : (!hc.weight<2, 8, 3>, !hc.rows<2, 8>) -> !hc.weight<2, 8, 3>
  %r = hc.project %x, %0 : (!hc.rows<2, 8>, !hc.weight<2, 8, 3>) -> !hc.coeffs<1, 3>
  hc.return %r : !hc.coeffs<1, 3>
}

// concat_weights: the columns of W'
// CHECK-LABEL: hc.func @concat_weights_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[V:.*]]: !hc.weight<2, 8, 1>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<1, 4>
// CHECK-NEXT: %[[T0:.*]] = hc.concat_weights %[[V]], %[[W]]
// CHECK-NEXT: %[[T1:.*]] = hc.expand %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.weight_grad %[[X]], %[[DR]]
// CHECK-NEXT: %[[T3:.*]] = hc.slice_weight %[[T2]] {offset = 0 : i64}
// CHECK-NEXT: %[[T4:.*]] = hc.slice_weight %[[T2]] {offset = 1 : i64}
// CHECK-NEXT: hc.return %[[T1]], %[[T3]], %[[T4]]
hc.func @concat_weights(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %v: !hc.weight<2, 8, 1> {hc.operand = "parameter", hc.uniform}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<1, 4> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.concat_weights %v, %w : (!hc.weight<2, 8, 1>, !hc.weight<2, 8, 3>) -> !hc.weight<2, 8, 4>
  %r = hc.project %x, %0 : (!hc.rows<2, 8>, !hc.weight<2, 8, 4>) -> !hc.coeffs<1, 4>
  hc.return %r : !hc.coeffs<1, 4>
}

// slice_weight: zero columns around W'
// CHECK-LABEL: hc.func @slice_weight_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<1, 1>
// CHECK-NEXT: %[[T0:.*]] = hc.constant {value = dense<0.000000e+00>
// CHECK-NEXT: %[[T1:.*]] = hc.constant {value = dense<0.000000e+00>
// CHECK-NEXT: %[[T2:.*]] = hc.slice_weight %[[W]] {offset = 1 : i64}
// CHECK-NEXT: %[[T3:.*]] = hc.expand %[[DR]], %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.weight_grad %[[X]], %[[DR]]
// CHECK-NEXT: %[[T5:.*]] = hc.fill_rows %[[T0]]
// CHECK-NEXT: %[[T6:.*]] = hc.outer %[[T5]], %[[T1]]
// CHECK-NEXT: %[[T7:.*]] = hc.concat_weights %[[T6]], %[[T4]], %[[T6]]
// CHECK-NEXT: hc.return %[[T3]], %[[T7]]
hc.func @slice_weight(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<1, 1> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.slice_weight %w {offset = 1 : i64} : (!hc.weight<2, 8, 3>) -> !hc.weight<2, 8, 1>
  %r = hc.project %x, %0 : (!hc.rows<2, 8>, !hc.weight<2, 8, 1>) -> !hc.coeffs<1, 1>
  hc.return %r : !hc.coeffs<1, 1>
}

// weight_from_rows: W' as rows
// CHECK-LABEL: hc.func @weight_from_rows_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[F:.*]]: !hc.rows<6, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<1, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.weight_from_rows %[[F]]
// CHECK-NEXT: %[[T1:.*]] = hc.expand %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.weight_grad %[[X]], %[[DR]]
// CHECK-NEXT: %[[T3:.*]] = hc.rows_from_weight %[[T2]]
// CHECK-NEXT: hc.return %[[T1]], %[[T3]]
hc.func @weight_from_rows(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %f: !hc.rows<6, 8> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<1, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.weight_from_rows %f : (!hc.rows<6, 8>) -> !hc.weight<2, 8, 3>
  %r = hc.project %x, %0 : (!hc.rows<2, 8>, !hc.weight<2, 8, 3>) -> !hc.coeffs<1, 3>
  hc.return %r : !hc.coeffs<1, 3>
}

// rows_from_weight: the rows' cotangent as a weight
// CHECK-LABEL: hc.func @rows_from_weight_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<6, 8>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<6>
// CHECK-NEXT: %[[T0:.*]] = hc.rows_from_weight %[[W]]
// CHECK-NEXT: %[[T1:.*]] = hc.scale_rows %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.scale_rows %[[DR]], %[[X]]
// CHECK-NEXT: %[[T3:.*]] = hc.token_sum %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.weight_from_rows %[[T3]]
// CHECK-NEXT: hc.return %[[T1]], %[[T4]]
hc.func @rows_from_weight(%x: !hc.rows<6, 8> {hc.operand = "streams"}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<6> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.rows_from_weight %w : (!hc.weight<2, 8, 3>) -> !hc.rows<6, 8>
  %r = hc.dot_rows %x, %0 : (!hc.rows<6, 8>, !hc.rows<6, 8>) -> !hc.coeffs<6>
  hc.return %r : !hc.coeffs<6>
}

// weight_dot: each weight scaled by the other's cotangent
// CHECK-LABEL: hc.func @weight_dot_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[V:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[W:.*]]: !hc.weight<2, 8, 3>{{.*}}, %[[DR:.*]]: !hc.coeffs<2>
// CHECK-NEXT: %[[T0:.*]] = hc.weight_dot %[[V]], %[[W]]
// CHECK-NEXT: %[[T1:.*]] = hc.scale_rows %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.scale_rows %[[DR]], %[[X]]
// CHECK-NEXT: %[[T3:.*]] = hc.token_sum %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.scale_weight %[[W]], %[[T3]]
// CHECK-NEXT: %[[T5:.*]] = hc.scale_weight %[[V]], %[[T3]]
// CHECK-NEXT: hc.return %[[T1]], %[[T4]], %[[T5]]
hc.func @weight_dot(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %v: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform}, %w: !hc.weight<2, 8, 3> {hc.operand = "parameter", hc.uniform})
    -> (!hc.coeffs<2> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.weight_dot %v, %w : (!hc.weight<2, 8, 3>, !hc.weight<2, 8, 3>) -> !hc.rows<2, 8>
  %r = hc.dot_rows %x, %0 : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.coeffs<2>
  hc.return %r : !hc.coeffs<2>
}

// outer: dx = p W'^T, dp = x W'
// CHECK-LABEL: hc.func @outer_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[P:.*]]: !hc.coeffs<1, 3>{{.*}}, %[[Z:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.coeffs<1, 3>
// CHECK-NEXT: %[[T0:.*]] = hc.outer %[[X]], %[[P]]
// CHECK-NEXT: %[[T1:.*]] = hc.expand %[[DR]], %[[T0]]
// CHECK-NEXT: %[[T2:.*]] = hc.outer %[[Z]], %[[DR]]
// CHECK-NEXT: %[[T3:.*]] = hc.expand %[[P]], %[[T2]]
// CHECK-NEXT: %[[T4:.*]] = hc.project %[[X]], %[[T2]]
// CHECK-NEXT: hc.return %[[T3]], %[[T4]], %[[T1]]
hc.func @outer(%x: !hc.rows<2, 8> {hc.operand = "streams"}, %p: !hc.coeffs<1, 3> {hc.operand = "coefficients"}, %z: !hc.rows<2, 8> {hc.operand = "branch"})
    -> (!hc.coeffs<1, 3> {hc.operand = "coefficients"}) attributes {hc.compute = f32} {
  %0 = hc.outer %x, %p : (!hc.rows<2, 8>, !hc.coeffs<1, 3>) -> !hc.weight<2, 8, 3>
  %r = hc.project %z, %0 : (!hc.rows<2, 8>, !hc.weight<2, 8, 3>) -> !hc.coeffs<1, 3>
  hc.return %r : !hc.coeffs<1, 3>
}

// round: what travels against the edge has the type of the edge
// CHECK-LABEL: hc.func @round_backward(
// CHECK-SAME: %[[X:.*]]: !hc.rows<1, 8>{{.*}}, %[[DR:.*]]: !hc.rows<1, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.round %[[DR]] {type = bf16}
// CHECK-NEXT: hc.return %[[T0]]
hc.func @round(%x: !hc.rows<1, 8> {hc.operand = "streams"})
    -> (!hc.rows<1, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %r = hc.round %x {type = bf16} : (!hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %r : !hc.rows<1, 8>
}

// token_sum: every token's da is the sum of what all tokens hand on
// CHECK-LABEL: hc.func @token_sum_backward(
// CHECK-SAME: %[[A:.*]]: !hc.coeffs<2>{{.*}}, %[[X:.*]]: !hc.rows<2, 8>{{.*}}, %[[DR:.*]]: !hc.rows<2, 8>
// CHECK-NEXT: %[[T0:.*]] = hc.token_sum %[[A]]
// CHECK-NEXT: %[[T1:.*]] = hc.dot_rows %[[DR]], %[[X]]
// CHECK-NEXT: %[[T2:.*]] = hc.scale_rows %[[T0]], %[[DR]]
// CHECK-NEXT: %[[T3:.*]] = hc.token_sum %[[T1]]
// CHECK-NEXT: hc.return %[[T3]], %[[T2]]
hc.func @token_sum(%a: !hc.coeffs<2> {hc.operand = "coefficients"}, %x: !hc.rows<2, 8> {hc.operand = "streams"})
    -> (!hc.rows<2, 8> {hc.operand = "branch_input"}) attributes {hc.compute = f32} {
  %0 = hc.token_sum %a : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %r = hc.scale_rows %0, %x : (!hc.coeffs<2>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %r : !hc.rows<2, 8>
}
