// RUN: hc-opt --hc-form-phases --convert-hc-to-vector --canonicalize %s | FileCheck %s

// Weights of 4 GiB lie behind one another in the workspace. A constant index in a pointer's operation has 29 bits.
// CHECK-NOT: llvm.getelementptr %{{.*}}[-
// CHECK: llvm.getelementptr %{{.*}}[%c4294967296_i64]
// CHECK-NOT: llvm.getelementptr %{{.*}}[-
hc.func @large(%x: !hc.rows<4, 8388608> {hc.dtype = f64}, %p: !hc.coeffs<1, 16> {hc.dtype = f64})
    -> (!hc.weight<4, 8388608, 16> {hc.dtype = f64, hc.uniform}, !hc.weight<4, 8388608, 16> {hc.dtype = f64, hc.uniform})
    attributes {hc.compute = f64} {
  %0 = hc.weight_grad %x, %p : (!hc.rows<4, 8388608>, !hc.coeffs<1, 16>) -> !hc.weight<4, 8388608, 16>
  %1 = hc.mul %p, %p : (!hc.coeffs<1, 16>, !hc.coeffs<1, 16>) -> !hc.coeffs<1, 16>
  %2 = hc.weight_grad %x, %1 : (!hc.rows<4, 8388608>, !hc.coeffs<1, 16>) -> !hc.weight<4, 8388608, 16>
  hc.return %0, %2 : !hc.weight<4, 8388608, 16>, !hc.weight<4, 8388608, 16>
}
