// RUN: hc-opt --hc-form-phases --convert-hc-to-vector %s | FileCheck %s
// RUN: hc-opt --hc-form-phases --convert-hc-to-vector="vector-bytes=64" %s | FileCheck %s --check-prefix=WIDE
// RUN: hc-opt --hc-form-phases --convert-hc-to-vector --convert-hc-vector-to-llvm %s | FileCheck %s --check-prefix=LLVM

// A map over channels behind a projection: what depends on no token goes into the prologue, blocks of tokens are
// projected, their coefficients have tokens in the lanes, and the mix runs once over the channels.

// CHECK-LABEL: llvm.func @site_prologue
// The weight is packed, channels in the lanes: zeros behind the channels, then number by number.
// CHECK:         llvm.store {{.*}} : vector<8xf32>, !llvm.ptr
// CHECK-NOT:     vector<8xf32>
// CHECK:         llvm.store {{.*}} : f32, !llvm.ptr
// CHECK:         llvm.return

// CHECK-LABEL: llvm.func @site_tokens
// Chunks, then blocks of tokens.
// CHECK:         scf.for
// CHECK:           scf.for
// The projection: four tokens and the two columns, a vector of channels each.
// CHECK:             scf.for {{.*}} -> (vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>, vector<8xf32>)
// CHECK:               llvm.intr.prefetch
// CHECK-COUNT-8:       math.fma {{.*}} : vector<8xf32>
// Twenty channels are two vectors of eight and four lanes.
// CHECK:             llvm.intr.masked.load
// The mix of the two rows.
// CHECK:             arith.mulf {{.*}} : vector<8xf32>
// CHECK:             math.fma {{.*}} : vector<8xf32>
// CHECK:             llvm.store {{.*}} : vector<8xf32>, !llvm.ptr
// CHECK:             llvm.intr.masked.store
// CHECK-NOT:       llvm.func

// WIDE-LABEL: llvm.func @site_tokens
// WIDE: math.fma {{.*}} : vector<16xf32>

// LLVM-LABEL: llvm.func @site_tokens
// LLVM-NOT: scf.
// LLVM-NOT: arith.
// LLVM: llvm.intr.fma
hc.func @site(%x: !hc.rows<2, 20> {hc.operand = "streams", hc.dtype = f32},
              %w: !hc.weight<2, 20, 2> {hc.operand = "parameter", hc.dtype = f32, hc.uniform})
    -> (!hc.rows<1, 20> {hc.operand = "branch", hc.dtype = f32}) attributes {hc.compute = f32} {
  %p = hc.project %x, %w : (!hc.rows<2, 20>, !hc.weight<2, 20, 2>) -> !hc.coeffs<1, 2>
  %u = hc.mix %p, %x : (!hc.coeffs<1, 2>, !hc.rows<2, 20>) -> !hc.rows<1, 20>
  hc.return %u : !hc.rows<1, 20>
}
