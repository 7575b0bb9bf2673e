// RUN: hc-opt --hc-form-phases --convert-hc-to-vector %s | FileCheck %s

// Sums over tokens in two stages: partial sums of a chunk, then all chunks in their order.

// CHECK-LABEL: llvm.func @sums_tokens
// The chunk's partial sums start at zero.
// CHECK:         llvm.store {{.*}} : vector<8xf32>, !llvm.ptr
// The gradient of the weight: a block's tokens, in their order.
// CHECK:         scf.for {{.*}} iter_args
// CHECK:           math.fma
// Coefficients: tokens behind the block add nothing.
// CHECK:         arith.cmpi slt
// CHECK:         arith.select

// CHECK-LABEL: llvm.func @sums_epilogue
// CHECK:         scf.for {{.*}} iter_args
// CHECK:           arith.addf {{.*}} : vector<8xf32>
hc.func @sums(%x: !hc.rows<2, 8> {hc.dtype = f32}, %p: !hc.coeffs<1, 3> {hc.dtype = f32})
    -> (!hc.weight<2, 8, 3> {hc.dtype = f32, hc.uniform}, !hc.coeffs<1, 3> {hc.dtype = f32, hc.uniform})
    attributes {hc.compute = f32} {
  %0 = hc.weight_grad %x, %p : (!hc.rows<2, 8>, !hc.coeffs<1, 3>) -> !hc.weight<2, 8, 3>
  %1 = hc.token_sum %p : (!hc.coeffs<1, 3>) -> !hc.coeffs<1, 3>
  hc.return %0, %1 : !hc.weight<2, 8, 3>, !hc.coeffs<1, 3>
}
