// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2 | FileCheck %s
// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2,warps=2 | FileCheck %s --check-prefix=SLOT
// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2,parts=2,vector=4 | FileCheck %s --check-prefix=SHARE
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=1 2>&1 | FileCheck %s --check-prefix=ONE
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=4 2>&1 | FileCheck %s --check-prefix=PARTS
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_80 --schedule=columns:cluster=2 2>&1 | FileCheck %s --check-prefix=TARGET
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90 --schedule=columns:cluster=2 2>&1 | FileCheck %s --check-prefix=SPECIFIC
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=12 2>&1 | FileCheck %s --check-prefix=MULTIPLE
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2,tokens=4 2>&1 | FileCheck %s --check-prefix=EIGHTS
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:blocks=2 2>&1 | FileCheck %s --check-prefix=NAME

// A block has 32 of 64 channels, one warp's chunk: rows come from a slot that is given back at once, next streams stay in
// registers, the first record is copied from the operand that holds it, the block packs its part of the weight, sums come before stores. What
// no row waits for follows what rows wait for in the same kernel; where it is long, lanes of its warps make it, one a token, when all sweeps
// are done.
// CHECK: #include "hyperjit/cluster_columns.cuh"
// CHECK: class Tail {
// CHECK:   loadCoefficients<Space::PerToken<[[SUMS:[0-9]+]]>, 20>
// CHECK:   sinkhorn<
// CHECK:   storeTogether<20, List<PlaceOf<Operand<5, float, 16>, 0>>, List<Run<Operand<5, float, 16>, 0, 16>>>
// CHECK: class Rows0_0 {
// CHECK:   [[X:v[0-9]+]] = loadRows<Staged<Operand<0, bfloat16, 256>, 0, 0, 32>, 4>
// CHECK:   releaseRing<0>
// CHECK:   mix<InRecord<[[H:[0-9]+]]>, 4>({{.*}}, [[X]])
// CHECK:   [[N:v[0-9]+]] = roundRows<bfloat16>
// CHECK:   projectTiles<0, StagedPlanes<ProjectionPlanes<Nothing, 4, 20, 64, 8>, 0, 1>, 0, 1, 0, 3, 1>({{.*}}, [[N]])
// CHECK:   storeRows<Held<Operand<3, bfloat16, 256>, 0>>({{.*}}, [[N]])
// CHECK: class Coefficients1 {
// CHECK-NOT: sinkhorn
// CHECK: writeRecord<[[Q:[0-9]+]]>
// CHECK-NOT: sinkhorn
// CHECK: class Late1 {
// CHECK-NOT: sinkhorn
// CHECK:   storeCoefficients<Space::PerToken<[[SUMS]]>>
// CHECK: class Rows1_0 {
// CHECK:   loadRows<Held<Operand<3, bfloat16, 256>, 0>, 4>
// CHECK: class Weights {
// CHECK:   packProjection<StagedPlanes<ProjectionPlanes<Nothing, 4, 20, 64, 8>, 0, 1>, 8>
// CHECK: using MainFlow = Flow<1, 5, 0, {{[0-9]+}}, 0, List<RecordCopy<Operand<1, float, 16>, 0, [[H]], 16, 4>>, 0, 16, 12288, {{[0-9]+}}, List<Ring<6, 0, 0, true, 320,{{.*}} Tail>;
// CHECK: clusterColumns<Main, MainFlow, Nothing,
// CHECK:   Publish<0, 0, Stage<Nothing, Pass<Rows0_0, 0, 0, 3, Segment<0, 20, 0>>>>,
// CHECK:   Publish<[[Q]], 4, Stage<Coefficients1, Pass<Rows1_0, 0, 0, 0>>, Late1>>(launch);
// CHECK: // schedule columns:
// CHECK: // launch {{.*}}"cluster":2{{.*}}"entry":"boundary_main"{{.*}}"kind":"persistent"{{.*}}"overlaps":true
// CHECK-NOT: // launch

// Of few tokens, owners do it as soon as a token's numbers are stored.
// RUN: sed 's/hc.compute = f32}/hc.compute = f32, hc.bucket = "small"}/' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2 | FileCheck %s --check-prefix=FEW
// FEW: class Tail {
// FEW: using MainFlow = {{.*}} AtOnce<Tail>>;
// FEW: // launch {{.*}}"overlaps":true
// FEW-NOT: // launch
// RUN: sed 's/hc.compute = f32}/hc.compute = f32, hc.bucket = "small"}/' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2,parts=2,vector=4 | FileCheck %s --check-prefix=TOGETHER
// TOGETHER: boundary_clear({{.*}} {
// TOGETHER-NEXT: waitForLaunchesBefore();
// TOGETHER: // launch {{.*}}"entry":"boundary_clear"{{.*}}"overlaps":true
// TOGETHER: // launch {{.*}}"entry":"boundary_main"{{.*}}"overlaps":false

// Where lanes do not keep one chunk, next streams take the place of the streams in the slot, which stays until they are read.
// SLOT: class Rows0_0 {
// SLOT-NOT: releaseRing
// SLOT:   storeRows<Staged<Operand<3, bfloat16, 256>, 0, 0, 32>>
// SLOT: class Rows1_0 {
// SLOT:   loadRows<Staged<Operand<3, bfloat16, 256>, 0, 0, 32>, 4>
// SLOT: List<Ring<{{[0-9]+}}, 0, 1, false, 320,

// Two clusters share a token: each tells the other its sums by words that a launch has cleared, and all of the grid runs at once.
// SHARE: //===- boundary_clear{{$}}
// SHARE-NEXT: __launch_bounds__(256, 1) boundary_clear(
// SHARE: clearWords<Space::PerToken<[[WORDS:[0-9]+]]>, 24>(launch);
// SHARE: //===- boundary_main{{$}}
// SHARE: projectTiles<0, StagedPlanes<ProjectionPlanes<Nothing, 4, 20, 64, 4>, 0, 1>
// SHARE: using MainFlow = Flow<{{.*}}, Exchange<2, Space::PerToken<[[WORDS]]>>>;
// SHARE: // schedule columns:{{.*}},parts=2,
// SHARE: // launch {{.*}}"entry":"boundary_clear","grid":{"kind":"tokens","tokens_per_block":43}
// SHARE: // launch {{.*}}"entry":"boundary_main"{{.*}}"parts":2

// ONE: columns shares rows among 2 to 16 blocks of a cluster, not 1
// PARTS: columns splits rows into 4 parts of whole chunks of 32 channels, and there are 64
// TARGET: columns needs clusters, bulk copies and registers that move between warps, which sm_80 lacks
// SPECIFIC: which sm_90 lacks
// MULTIPLE: columns shares a tile of 8 tokens among at most as many blocks or among whole multiples, not among 12
// EIGHTS: columns takes tokens in eights, not 4
// NAME: 'blocks=2' is no number of 'columns'; it takes chunks, cluster, lag, parts, planes, preparers, ring, slots, tokens, vector, warps
hc.func @boundary(%x: !hc.rows<4, 64> {hc.dtype = bf16, hc.operand = "streams"},
                  %h: !hc.coeffs<16> {hc.dtype = f32, hc.operand = "coefficients"},
                  %phi: !hc.weight<4, 64, 20> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<4, 64> {hc.dtype = bf16}, !hc.rows<1, 64> {hc.dtype = bf16}, !hc.coeffs<16> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  %0 = hc.reshape %h : (!hc.coeffs<16>) -> !hc.coeffs<4, 4>
  %1 = hc.mix %0, %x : (!hc.coeffs<4, 4>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %2 = hc.round %1 {type = bf16} : (!hc.rows<4, 64>) -> !hc.rows<4, 64>
  %3 = hc.project %2, %phi : (!hc.rows<4, 64>, !hc.weight<4, 64, 20>) -> !hc.coeffs<1, 20>
  %4 = hc.slice %3 {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 20>) -> !hc.coeffs<1, 4>
  %5 = hc.sigmoid %4 : (!hc.coeffs<1, 4>) -> !hc.coeffs<1, 4>
  %6 = hc.mix %5, %2 : (!hc.coeffs<1, 4>, !hc.rows<4, 64>) -> !hc.rows<1, 64>
  %7 = hc.round %6 {type = bf16} : (!hc.rows<1, 64>) -> !hc.rows<1, 64>
  %8 = hc.slice %3 {axis = 1 : i64, offset = 4 : i64} : (!hc.coeffs<1, 20>) -> !hc.coeffs<1, 16>
  %9 = hc.reshape %8 : (!hc.coeffs<1, 16>) -> !hc.coeffs<4, 4>
  %10 = hc.sinkhorn %9 {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64,
                        tau = 1.0 : f64, log_domain = false} : (!hc.coeffs<4, 4>) -> !hc.coeffs<4, 4>
  %11 = hc.reshape %10 : (!hc.coeffs<4, 4>) -> !hc.coeffs<16>
  hc.return %2, %7, %11 : !hc.rows<4, 64>, !hc.rows<1, 64>, !hc.coeffs<16>
}
