// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns | FileCheck %s
// No sweep reads what stage 0 makes of a token's numbers, only the maths behind its sums: the head leaves it in memory, owners fetch it, and
// there is no first record to copy.

hc.func @k(%x: !hc.rows<2, 1024> {hc.dtype = bf16, hc.operand = "streams", hc.name = "x"},
           %g: !hc.coeffs<2> {hc.dtype = f32, hc.operand = "coefficients", hc.name = "g"})
    -> (!hc.rows<2, 1024> {hc.dtype = bf16, hc.name = "o"}) attributes {hc.compute = f32} {
  %0 = hc.sigmoid %g {phase = "C", stage = 0 : i64} : (!hc.coeffs<2>) -> !hc.coeffs<2>
  %1 = hc.dot_rows %x, %x {phase = "R", stage = 0 : i64} : (!hc.rows<2, 1024>, !hc.rows<2, 1024>) -> !hc.coeffs<2>
  %2 = hc.mul %0, %1 {phase = "C", stage = 1 : i64} : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %3 = hc.scale_rows %2, %x {phase = "M", stage = 1 : i64} : (!hc.coeffs<2>, !hc.rows<2, 1024>) -> !hc.rows<2, 1024>
  %4 = hc.round %3 {phase = "M", stage = 1 : i64, type = bf16} : (!hc.rows<2, 1024>) -> !hc.rows<2, 1024>
  hc.return %4 : !hc.rows<2, 1024>
}
// CHECK: using Space = Workspace<float, {{[0-9]+}}, {{[0-9]+}}, 16>;
// CHECK-LABEL: class Head
// CHECK: storeCoefficients<Space::PerToken<0>>
// CHECK-LABEL: class Fetch1
// CHECK: loadCoefficients<Space::PerToken<0>, 2>
// CHECK: using MainFlow = Flow<{{[0-9]+}}, {{[0-9]+}}, {{[1-9][0-9]*}}, {{[0-9]+}}, 4, Nothing,
