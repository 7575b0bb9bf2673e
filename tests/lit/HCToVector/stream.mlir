// RUN: hc-opt --convert-hc-to-vector=schedule=blocks:stream=4 %s | FileCheck %s

// A row that nothing reads again goes past the cache where the rows of all tokens (64 bytes each) fill 4 MiB and its address
// is a multiple of a vector's; all stores are ordered before the function ends.
// CHECK-LABEL: llvm.func @scaled_tokens
// CHECK: %[[MISALIGNED:.*]] = arith.remui
// CHECK: %[[LIMIT:.*]] = arith.constant 4194304 : i64
// CHECK: %[[LARGE:.*]] = arith.cmpi sge, %{{.*}}, %[[LIMIT]]
// CHECK: %[[ALIGNED:.*]] = arith.cmpi eq, %[[MISALIGNED]]
// CHECK: %[[PAST:.*]] = arith.andi %[[LARGE]], %[[ALIGNED]]
// CHECK: scf.if %[[PAST]]
// CHECK: llvm.store {{.*}} {alignment = 32 : i64, nontemporal} : vector<8xf32>
// CHECK: } else {
// CHECK: llvm.store {{.*}} {alignment = 4 : i64} : vector<8xf32>
// CHECK: llvm.call_intrinsic "llvm.x86.sse.sfence"
hc.func @scaled(%x: !hc.rows<1, 8> {hc.dtype = f32}, %c: !hc.coeffs<1> {hc.dtype = f32})
    -> (!hc.rows<1, 8> {hc.dtype = f32}) attributes {hc.compute = f32} {
  %0 = hc.scale_rows %c, %x {phase = "M", stage = 0 : i64} : (!hc.coeffs<1>, !hc.rows<1, 8>) -> !hc.rows<1, 8>
  hc.return %0 : !hc.rows<1, 8>
}

// Rows of nine channels are no whole vectors: one way only.
// CHECK-LABEL: llvm.func @odd_tokens
// CHECK-NOT: nontemporal
// CHECK: llvm.return
hc.func @odd(%x: !hc.rows<1, 9> {hc.dtype = f32}, %c: !hc.coeffs<1> {hc.dtype = f32})
    -> (!hc.rows<1, 9> {hc.dtype = f32}) attributes {hc.compute = f32} {
  %0 = hc.scale_rows %c, %x {phase = "M", stage = 0 : i64} : (!hc.coeffs<1>, !hc.rows<1, 9>) -> !hc.rows<1, 9>
  hc.return %0 : !hc.rows<1, 9>
}
