// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --schedule=rows:vector=3 2>&1 | FileCheck %s --check-prefix=POWER
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --schedule=rows:width=3 2>&1 | FileCheck %s --check-prefix=NAME
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --schedule=tiles 2>&1 | FileCheck %s --check-prefix=SKELETON
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --schedule=rows:vector=4 2>&1 | FileCheck %s --check-prefix=DIVIDES
// RUN: hc-opt --hc-form-phases %s | not hc-translate --hc-to-cuda --target=sm_80 --schedule=rows:cluster=4 2>&1 | FileCheck %s --check-prefix=CLUSTER

// POWER: vector is 3; legal are 1 to 8, powers of two
// NAME: 'width=3' is no number of 'rows'; it takes apart, blocks, chunks, cluster, planes, ranges, slots, tokens, vector, warps
// SKELETON: names the skeleton 'tiles'; CUDA kernels have 'rows' and 'columns'
// DIVIDES: vector is 4; {{.*}} it divides 2 channels
// CLUSTER: cluster is 4, but sm_80 has no clusters
hc.func @copy(%x: !hc.rows<1, 2> {hc.dtype = f32}) -> (!hc.coeffs<1> {hc.dtype = f32}) attributes {hc.compute = f32} {
  %0 = hc.row_sum %x : (!hc.rows<1, 2>) -> !hc.coeffs<1>
  hc.return %0 : !hc.coeffs<1>
}
