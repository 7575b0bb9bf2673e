// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2 | FileCheck %s
// RUN: sed 's/bf16/f32/g' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2 | FileCheck %s --check-prefix=WIDE

// An expansion on tensor cores begins with what it is added to, in whatever order: up to two rows. Of 32 bits, lanes have no
// registers for that.
// CHECK: class Rows1_0 {
// CHECK:   [[G:v[0-9]+]] = loadRows<{{.*}}Operand<1, bfloat16, 256>
// CHECK:   [[S:v[0-9]+]] = scaleRows<
// CHECK:   [[E:v[0-9]+]] = expandTiles<InRecord<{{[0-9]+}}>, StagedPlanes<{{.*}}>, 0, 1>, 1>({{v[0-9]+}}, [[G]], [[S]])
// CHECK:   add([[E]],
// WIDE: class Rows1_0 {
// WIDE:   [[E:v[0-9]+]] = expandTiles<InRecord<{{[0-9]+}}>, StagedPlanes<{{.*}}>, 0, 2>, 1>({{v[0-9]+}})
// WIDE:   add({{v[0-9]+}}, [[E]])
hc.func @boundary(%x: !hc.rows<4, 64> {hc.dtype = bf16, hc.operand = "streams"},
                  %g: !hc.rows<4, 64> {hc.dtype = bf16, hc.operand = "streams"},
                  %w: !hc.weight<4, 64, 4> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<4, 64> {hc.dtype = bf16}) attributes {hc.compute = f32} {
  %0 = hc.dot_rows %x, %g : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.coeffs<4>
  %1 = hc.tanh %0 : (!hc.coeffs<4>) -> !hc.coeffs<4>
  %2 = hc.reshape %1 : (!hc.coeffs<4>) -> !hc.coeffs<1, 4>
  %3 = hc.expand %2, %w : (!hc.coeffs<1, 4>, !hc.weight<4, 64, 4>) -> !hc.rows<4, 64>
  %4 = hc.add %g, %3 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %5 = hc.scale_rows %1, %x : (!hc.coeffs<4>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %6 = hc.add %5, %4 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %7 = hc.add %6, %x : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %8 = hc.round %7 {type = bf16} : (!hc.rows<4, 64>) -> !hc.rows<4, 64>
  hc.return %8 : !hc.rows<4, 64>
}
