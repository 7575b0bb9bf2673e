// RUN: hc-opt %s -split-input-file -hc-fuse-boundary -canonicalize -cse -hc-form-phases -verify-diagnostics -mlir-print-op-on-diagnostic=false | FileCheck %s

// after(static) + before(projected): the streams in between are written once and not read again.
// CHECK-LABEL: hc.func @boundary(
// CHECK-SAME: hc.exposed = 0 : i64, hc.narrow_bytes = 12 : i64, hc.reads_u = 3 : i64, hc.role = "boundary", hc.saved_u = 3 : i64, hc.stages = 2 : i64, hc.writes_u = 3 : i64
// CHECK: %[[NEXT:.*]] = hc.add
// CHECK: %[[P:.*]] = hc.project %[[NEXT]]
// CHECK: %[[U:.*]] = hc.mix %{{.*}}, %[[NEXT]]
// CHECK: hc.return %[[NEXT]], %[[U]]
hc.func @a(%x: !hc.rows<2, 8> {hc.operand = "streams", hc.dtype = f32}, %y: !hc.rows<1, 8> {hc.operand = "branch", hc.dtype = f32},
           %c: !hc.coeffs<1> {hc.operand = "coefficients"}) -> (!hc.rows<2, 8> {hc.operand = "streams", hc.dtype = f32})
    attributes {hc.role = "after", hc.compute = f32} {
  %0 = hc.broadcast %c {dims = array<i64: 0>} : (!hc.coeffs<1>) -> !hc.coeffs<2>
  %1 = hc.gather_rows %y {indices = array<i64: 0, 0>} : (!hc.rows<1, 8>) -> !hc.rows<2, 8>
  %2 = hc.scale_rows %0, %1 : (!hc.coeffs<2>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  %3 = hc.add %x, %2 : (!hc.rows<2, 8>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %3 : !hc.rows<2, 8>
}
hc.func @b(%x: !hc.rows<2, 8> {hc.operand = "streams", hc.dtype = f32}, %w: !hc.weight<2, 8, 2> {hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<1, 8> {hc.operand = "branch_input"}, !hc.coeffs<2> {hc.operand = "coefficients"})
    attributes {hc.role = "before", hc.compute = f32} {
  %0 = hc.project %x, %w : (!hc.rows<2, 8>, !hc.weight<2, 8, 2>) -> !hc.coeffs<1, 2>
  %1 = hc.mix %0, %x : (!hc.coeffs<1, 2>, !hc.rows<2, 8>) -> !hc.rows<1, 8>
  %2 = hc.reshape %0 : (!hc.coeffs<1, 2>) -> !hc.coeffs<2>
  hc.return %1, %2 : !hc.rows<1, 8>, !hc.coeffs<2>
}

// -----

// expected-error @below {{are not those that the next site reads}}
hc.func @a(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "after", hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}
hc.func @b(%x: !hc.rows<4, 4>) -> !hc.rows<4, 4> attributes {hc.role = "before", hc.compute = f32} {
  hc.return %x : !hc.rows<4, 4>
}

// -----

// expected-error @below {{needs one function of role after and one of role before}}
module {
  hc.func @alone(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "before", hc.compute = f32} {
    hc.return %x : !hc.rows<2, 8>
  }
}

// -----

// Arguments and results without attributes stay without; functions of no role stay.
// CHECK-LABEL: hc.func @boundary(
// CHECK-SAME: %{{[a-z0-9]*}}: !hc.rows<2, 8>) -> (!hc.rows<2, 8>, !hc.rows<2, 8>)
// CHECK-LABEL: hc.func @other(
hc.func @a(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "after", hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}
hc.func @b(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "before", hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}
hc.func @other(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

// expected-error @below {{needs one function of role after and one of role before, there are 2 and 1}}
module {
  hc.func @a(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "after", hc.compute = f32} {
    hc.return %x : !hc.rows<2, 8>
  }
  hc.func @c(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "after", hc.compute = f32} {
    hc.return %x : !hc.rows<2, 8>
  }
  hc.func @b(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "before", hc.compute = f32} {
    hc.return %x : !hc.rows<2, 8>
  }
}

// -----

// expected-error @below {{has role after, but its first result is not the streams that it makes: rows}}
hc.func @a(%x: !hc.rows<2, 8>) attributes {hc.role = "after", hc.compute = f32} {
  hc.return
}
hc.func @b(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "before", hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}

// -----

hc.func @a(%x: !hc.rows<2, 8>) -> !hc.rows<2, 8> attributes {hc.role = "after", hc.compute = f32} {
  hc.return %x : !hc.rows<2, 8>
}
// expected-error @below {{has role before, but its first argument is not the streams that it reads: rows}}
hc.func @b(%c: !hc.coeffs<1>) -> !hc.coeffs<1> attributes {hc.role = "before", hc.compute = f32} {
  hc.return %c : !hc.coeffs<1>
}
