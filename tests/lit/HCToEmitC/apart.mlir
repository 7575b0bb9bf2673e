// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:apart=100,ranges=2 | FileCheck %s
// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:apart=1,ranges=2 | FileCheck %s --check-prefix=ALWAYS
// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:ranges=2 | FileCheck %s --check-prefix=NEVER
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:apart=100 2>&1 | FileCheck %s --check-prefix=RANGES
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:ranges=4,warps=2 2>&1 | FileCheck %s --check-prefix=WARPS
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:cluster=2,ranges=2 2>&1 | FileCheck %s --check-prefix=CLUSTER
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:planes=0,ranges=2 2>&1 | FileCheck %s --check-prefix=PLANES
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_80 --schedule=rows:apart=100,ranges=2 2>&1 | FileCheck %s --check-prefix=TARGET

// Of few tokens, a block's warps share each token's channels, a range each. From 100 on each warp has tokens of its own,
// and goes over all channels; packed weights lie in shared memory, all of them where they fit.
// CHECK: //===- boundary_main
// CHECK: class Rows0_0 {
// CHECK:   projectTiles<0, ProjectionPlanes<Space::Fixed<0>, 4, 20, 64, 8>, 0, 1, 0, 3, 1>
// CHECK: using Main = Shape<float, 64, 2, 8, 1, 8, 44, 0, 0, 1, true>;
// CHECK: rowReduced<Main, Nothing,
// CHECK: //===- boundary_main_apart
// CHECK: class Rows0_0Apart {
// CHECK:   storeRows<Operand<3, bfloat16, 256>>
// CHECK:   projectTiles<0, PassingPlanes<ProjectionPlanes<Space::Fixed<0>, 4, 20, 64, 8>, 0>, 0, 1, 0, 3, 1>
// CHECK: using MainApart = Shape<float, 64, 2, 8, 1, 8, 44, 0, 0>;
// CHECK: sharedWeights<MainApart, WeightRing<1, 2, 12288, true>, Nothing,
// CHECK:   Stage<Coefficients0Apart, UsingWeights<Pass<Rows0_0Apart, 0, 0, 3, Segment<0, 20, 0>>, List<Input<Operand<0, bfloat16, 256>, 4>>, PassingPlanes<ProjectionPlanes<Space::Fixed<0>, 4, 20, 64, 8>, 0>>>,
// What stage 0 has stored is read again, and no weight.
// CHECK:   Stage<Coefficients1Apart, UsingWeights<Pass<Rows1_0Apart, 0, 0, 0>, List<Input<Operand<3, bfloat16, 256>, 4>>>>>(launch);
// CHECK: // schedule rows:apart=100,blocks=2,{{.*}}ranges=2,{{.*}}tokens=8,{{.*}}warps=2
// CHECK: // launch {{.*}}"entry":"boundary_main",{{.*}}"otherwise":true,{{.*}}"tokens_per_block":8}
// CHECK: // launch {{.*}}"entry":"boundary_main_apart",{{.*}}"percent_of_wave":100,{{.*}}"tokens_per_block":16}

// ALWAYS-NOT: rowReduced<
// ALWAYS: sharedWeights<
// ALWAYS-NOT: percent_of_wave
// NEVER-NOT: sharedWeights<
// NEVER: rowReduced<
// NEVER-NOT: otherwise

// Of few tokens, what is for more is not made.
// RUN: sed 's/hc.compute = f32}/hc.compute = f32, hc.bucket = "small"}/' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=rows:apart=100,ranges=2 | FileCheck %s --check-prefix=FEW
// FEW-NOT: sharedWeights<
// FEW: // schedule rows:apart=100,
// FEW-NOT: otherwise

// RANGES: apart is for kernels with ranges
// WARPS: ranges is 4, and each of 2 warps has one
// CLUSTER: ranges is for blocks, and cluster is 2
// PLANES: ranges is for kernels that use tensor cores and make sums
// TARGET: apart needs bulk copies, which sm_80 lacks
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
