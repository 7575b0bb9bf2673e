// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_80 | FileCheck %s
// RUN: sed '/^hc.func/ s/f32/bf16/; s/, 7/, 8/g' %s | hc-opt --hc-form-phases | hc-translate --hc-to-cuda --target=sm_80 | FileCheck %s --check-prefix=TILES

// Sums over tokens: coefficients by their own launch, a weight gradient by columns, the epilogue on both, its two levels in one
// launch because neither needs the other.

// CHECK: class Rows0_0 {
// CHECK:   dot<0, 0, 2>
// CHECK: class Columns0 {
// CHECK:   weightGradient<InRecord<0>, 2, 3, 3>
// CHECK:   storeGradient<Space::PerChunk<0>, 2, 3, 3>
// CHECK: columns<{{.*}}Space::PerToken<{{[0-9]+}}>, 4,
// CHECK: tokenSums<float, TokenSums<Space::PerToken<{{[0-9]+}}>, Space::PerChunk<{{[0-9]+}}>, 4>>
// CHECK: class Epilogue0 {
// CHECK:   uniformWeight<Space::PerChunk<0>, 2, 3>
// CHECK:   uniformScaleWeight
// CHECK:   uniformStoreWeight<Operand<3, float, 0>>
// CHECK: class Epilogue1 {
// CHECK:   loadCoefficients<Space::PerChunk<{{[0-9]+}}>, 4>
// CHECK:   storeCoefficients<Operand<4, float, 0>>
// CHECK: uniformBoth<float, 7, Epilogue0, Epilogue1>
// CHECK: // launch {{.*}}"entry":"sums_columns"{{.*}}"grid_y":"chunks"

// On tensor cores, the launch of the gradient makes the sums of coefficients, too.
// TILES: columnTiles<{{.*}}, TokenSums<Space::PerToken<{{[0-9]+}}>, Space::PerChunk<{{[0-9]+}}>, 4>,
// TILES-NEXT: TilePass<Gradient0, {{.*}}Input<Fetched<Operand<0, bfloat16, 16>, 0, {{[0-9]+}}>, 2>>
// TILES-NOT: tokenSums
hc.func @sums(%x: !hc.rows<2, 7> {hc.dtype = f32}, %p: !hc.coeffs<1, 3> {hc.dtype = f32},
              %g: !hc.rows<2, 7> {hc.dtype = f32, hc.uniform})
    -> (!hc.weight<2, 7, 3> {hc.dtype = f32, hc.uniform}, !hc.coeffs<2, 2> {hc.dtype = f32, hc.uniform})
    attributes {hc.compute = f32} {
  %0 = hc.weight_grad %x, %p : (!hc.rows<2, 7>, !hc.coeffs<1, 3>) -> !hc.weight<2, 7, 3>
  %1 = hc.scale_weight %0, %g : (!hc.weight<2, 7, 3>, !hc.rows<2, 7>) -> !hc.weight<2, 7, 3>
  %2 = hc.dot %x, %x : (!hc.rows<2, 7>, !hc.rows<2, 7>) -> !hc.coeffs<2, 2>
  %3 = hc.token_sum %2 : (!hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %1, %3 : !hc.weight<2, 7, 3>, !hc.coeffs<2, 2>
}

// Coefficients that rows wait for and that the tail stores for the columns: the tail makes them, of reductions that main left it.
// CHECK: class Tail {
// CHECK:   auto [[SUMS:v[0-9]+]] = loadCoefficients<Space::PerToken<{{[0-9]+}}>, 2>
// CHECK:   multiply([[SUMS]], [[SUMS]])
hc.func @tail(%x: !hc.rows<2, 7> {hc.dtype = f32})
    -> (!hc.rows<2, 7> {hc.dtype = f32}, !hc.rows<2, 7> {hc.dtype = f32, hc.uniform}, !hc.coeffs<2, 2> {hc.dtype = f32})
    attributes {hc.compute = f32} {
  %0 = hc.dot_rows %x, %x : (!hc.rows<2, 7>, !hc.rows<2, 7>) -> !hc.coeffs<2>
  %1 = hc.mul %0, %0 : (!hc.coeffs<2>, !hc.coeffs<2>) -> !hc.coeffs<2>
  %2 = hc.scale_rows %1, %x : (!hc.coeffs<2>, !hc.rows<2, 7>) -> !hc.rows<2, 7>
  %3 = hc.token_sum %2 : (!hc.rows<2, 7>) -> !hc.rows<2, 7>
  %4 = hc.dot %x, %x : (!hc.rows<2, 7>, !hc.rows<2, 7>) -> !hc.coeffs<2, 2>
  %5 = hc.sinkhorn %4 {iterations = 20 : i64, start = "exp", first = "col", place = "none", eps = 0.0 : f64, tau = 1.0 : f64,
                       log_domain = false} : (!hc.coeffs<2, 2>) -> !hc.coeffs<2, 2>
  hc.return %2, %3, %5 : !hc.rows<2, 7>, !hc.rows<2, 7>, !hc.coeffs<2, 2>
}
