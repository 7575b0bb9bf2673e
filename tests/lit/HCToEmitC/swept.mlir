// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s
// RUN: sed 's/1280, 8>/1280, 96>/g; s/<1, 8>/<1, 96>/g' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=MANY

// A weight gradient of few columns is summed by the last sweep that has its rows; a cluster's sums are a chunk's. One of many columns
// has a launch of its own.
// CHECK: class Rows1_0 {
// CHECK: sweptGradient<InRecord<[[AT:[0-9]+]]>, 1, 8, 1, 1, 0>
// CHECK: storeSweptGradient<Space::PerChunk<0>, 1, 8, 1, 0>
// CHECK: Weights, Gradients<2, Rows1_0>, Nothing>;
// CHECK-NOT: columnTiles
// CHECK: uniformStoreWeight
// CHECK: // launch {{.*}}"clusters_are_chunks":true{{.*}}"overlaps":true
// CHECK: // launch {{.*}}"entry":"boundary_epilogue0"{{.*}}"overlaps":true
// MANY-NOT: sweptGradient
// Clusters, and sums right behind them, begin while the launch before ends, and so do all launches of few tokens but what follows a
// weight gradient: each waits before it touches memory, the main one by itself.
// RUN: sed 's/hc.compute = f32}/hc.compute = f32, hc.bucket = "small"}/' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=FEW
// RUN: sed 's/hc.compute = f32}/hc.compute = f32, hc.bucket = "small"}/' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_80 --schedule=rows | FileCheck %s --check-prefix=OLD
// FEW: boundary_main({{.*}} {
// FEW-NEXT: clusterColumns<
// FEW: boundary_epilogue0({{.*}} {
// FEW-NEXT: waitForLaunchesBefore();
// OLD-NOT: waitForLaunchesBefore
// OLD-NOT: "overlaps"
// CHECK-NOT: waitForLaunchesBefore
// MANY: columnTiles
// MANY: // launch {{.*}}"entry":"boundary_main"{{.*}}"overlaps":true
// MANY-NOT: "overlaps"
// RUN: sed 's/hc.compute = f32}/hc.compute = f32, hc.bucket = "small"}/; s/1280, 8>/1280, 96>/g; s/<1, 8>/<1, 96>/g' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=8 | FileCheck %s --check-prefix=BEHIND
// BEHIND: // launch {{.*}}"entry":"boundary_gradients"{{.*}}"overlaps":true
// BEHIND-NOT: "overlaps"
hc.func @boundary(%x: !hc.rows<1, 1280> {hc.dtype = bf16, hc.operand = "streams"},
                  %phi: !hc.weight<1, 1280, 8> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<1, 1280> {hc.dtype = bf16}, !hc.weight<1, 1280, 8> {hc.dtype = f32, hc.uniform}) attributes {hc.compute = f32} {
  %p = hc.project %x, %phi : (!hc.rows<1, 1280>, !hc.weight<1, 1280, 8>) -> !hc.coeffs<1, 8>
  %s = hc.slice %p {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 8>) -> !hc.coeffs<1, 1>
  %g = hc.sigmoid %s : (!hc.coeffs<1, 1>) -> !hc.coeffs<1, 1>
  %m = hc.mix %g, %x : (!hc.coeffs<1, 1>, !hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %r = hc.round %m {type = bf16} : (!hc.rows<1, 1280>) -> !hc.rows<1, 1280>
  %w = hc.weight_grad %x, %p : (!hc.rows<1, 1280>, !hc.coeffs<1, 8>) -> !hc.weight<1, 1280, 8>
  hc.return %r, %w : !hc.rows<1, 1280>, !hc.weight<1, 1280, 8>
}
