// RUN: hc-opt --convert-hc-to-vector=schedule=blocks:tokens=8 %s | FileCheck %s
// RUN: not hc-opt --convert-hc-to-vector=schedule=blocks:tokens=6 %s 2>&1 | FileCheck --check-prefix=TOKENS %s
// RUN: not hc-opt --convert-hc-to-vector="vector-bytes=32 schedule=blocks:vector=64" %s 2>&1 | FileCheck --check-prefix=VECTOR %s
// RUN: not hc-opt --convert-hc-to-vector="vector-bytes=64 schedule=blocks:columns=7" %s 2>&1 | FileCheck --check-prefix=COLUMNS %s
// RUN: not hc-opt --convert-hc-to-vector=schedule=blocks:unroll=4 %s 2>&1 | FileCheck --check-prefix=UNROLL %s
// RUN: not hc-opt --convert-hc-to-vector=schedule=blocks:sums=0 %s 2>&1 | FileCheck --check-prefix=SUMS %s
// RUN: not hc-opt --convert-hc-to-vector=schedule=blocks:chunks=many %s 2>&1 | FileCheck --check-prefix=NAMES %s
// RUN: not hc-opt --convert-hc-to-vector=schedule=tiles:tokens=8 %s 2>&1 | FileCheck --check-prefix=SKELETON %s
// RUN: not hc-opt --convert-hc-to-vector=schedule=blocks:tokens=8,tokens=8 %s 2>&1 | FileCheck --check-prefix=TWICE %s

// TOKENS: error: schedule 'blocks:tokens=6': tokens is 6; legal are 4 to 64, powers of two
// VECTOR: error: schedule 'blocks:vector=64': vector is 64; legal are 32 to 32, powers of two
// COLUMNS: error: schedule 'blocks:columns=7': columns is 7; legal are 1 to 6
// UNROLL: error: schedule 'blocks:unroll=4': unroll is 4; legal are 1 to 3
// SUMS: error: schedule 'blocks:sums=0': sums is 0; legal are 1 to 12
// NAMES: error: schedule 'blocks:chunks=many': 'chunks=many' is no number of 'blocks'; it takes ahead, chunks, columns, stream, sums, tokens, unroll, vector
// SKELETON: error: schedule 'tiles:tokens=8' names the skeleton 'tiles'; CPU kernels have 'blocks'
// TWICE: error: schedule 'blocks:tokens=8,tokens=8': tokens is given twice

// Blocks of eight tokens.
// CHECK-LABEL: llvm.func @scaled_tokens
// CHECK: scf.for
// CHECK: %[[BLOCK:.*]] = arith.constant 8 : i64
// CHECK: scf.for %{{.*}} step %[[BLOCK]]
hc.func @scaled(%x: !hc.rows<2, 8> {hc.dtype = f32}, %c: !hc.coeffs<2> {hc.dtype = f32})
    -> (!hc.rows<2, 8> {hc.dtype = f32}) attributes {hc.compute = f32} {
  %0 = hc.scale_rows %c, %x {phase = "M", stage = 0 : i64} : (!hc.coeffs<2>, !hc.rows<2, 8>) -> !hc.rows<2, 8>
  hc.return %0 : !hc.rows<2, 8>
}
