// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a --schedule=columns:cluster=2 | FileCheck %s

// No sweep waits for the sums, so no record comes back to say that they were read: four of their numbers do. The first record is copied from
// two operands, number by number, because nine numbers and three are not whole pieces of 16 bytes.
// CHECK: class Rows0_0 {
// CHECK:   projectTiles<
// CHECK: class Late1 {
// CHECK:   storeCoefficients<Operand<6, float, 8>>
// CHECK: List<RecordCopy<Operand<1, float, 9>, 0, [[H:[0-9]+]], 9, 1>, RecordCopy<Operand<2, float, 3>, 0, [[Q:[0-9]+]], 3, 1>>
// CHECK: Publish<0, 0, Stage<Nothing, Pass<Rows0_0, 0, 0, 1, Segment<0, 8, [[SUMS:[0-9]+]]>>>>,
// CHECK: Publish<[[SUMS]], 4, Stage<Nothing>, Late1>>(launch);
hc.func @boundary(%x: !hc.rows<3, 64> {hc.dtype = bf16, hc.operand = "streams"},
                  %h: !hc.coeffs<9> {hc.dtype = f32, hc.operand = "coefficients"},
                  %q: !hc.coeffs<1, 3> {hc.dtype = f32, hc.operand = "carry"},
                  %phi: !hc.weight<3, 64, 8> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<3, 64> {hc.dtype = bf16}, !hc.rows<1, 64> {hc.dtype = bf16}, !hc.coeffs<1, 8> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  %0 = hc.reshape %h : (!hc.coeffs<9>) -> !hc.coeffs<3, 3>
  %1 = hc.mix %0, %x : (!hc.coeffs<3, 3>, !hc.rows<3, 64>) -> !hc.rows<3, 64>
  %2 = hc.round %1 {type = bf16} : (!hc.rows<3, 64>) -> !hc.rows<3, 64>
  %3 = hc.project %2, %phi : (!hc.rows<3, 64>, !hc.weight<3, 64, 8>) -> !hc.coeffs<1, 8>
  %4 = hc.mix %q, %2 : (!hc.coeffs<1, 3>, !hc.rows<3, 64>) -> !hc.rows<1, 64>
  %5 = hc.round %4 {type = bf16} : (!hc.rows<1, 64>) -> !hc.rows<1, 64>
  hc.return %2, %5, %3 : !hc.rows<3, 64>, !hc.rows<1, 64>, !hc.coeffs<1, 8>
}
