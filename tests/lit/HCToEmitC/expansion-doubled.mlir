// RUN: hc-opt --hc-form-phases %s | hc-translate --hc-to-cuda --target=sm_90a | FileCheck %s

// What becomes of an expansion is asked of each sum once, not on each of the 2^30 ways to the last one.
// CHECK: expand
hc.func @before(%x: !hc.rows<4, 64> {hc.dtype = bf16, hc.operand = "streams"},
                %w: !hc.weight<4, 64, 4> {hc.dtype = f32, hc.operand = "parameter", hc.uniform})
    -> (!hc.rows<4, 64> {hc.dtype = bf16}) attributes {hc.compute = f32} {
  %0 = hc.dot_rows %x, %x : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.coeffs<4>
  %1 = hc.reshape %0 : (!hc.coeffs<4>) -> !hc.coeffs<1, 4>
  %2 = hc.expand %1, %w : (!hc.coeffs<1, 4>, !hc.weight<4, 64, 4>) -> !hc.rows<4, 64>
  %3 = hc.add %2, %2 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %4 = hc.add %3, %3 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %5 = hc.add %4, %4 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %6 = hc.add %5, %5 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %7 = hc.add %6, %6 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %8 = hc.add %7, %7 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %9 = hc.add %8, %8 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %10 = hc.add %9, %9 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %11 = hc.add %10, %10 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %12 = hc.add %11, %11 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %13 = hc.add %12, %12 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %14 = hc.add %13, %13 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %15 = hc.add %14, %14 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %16 = hc.add %15, %15 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %17 = hc.add %16, %16 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %18 = hc.add %17, %17 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %19 = hc.add %18, %18 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %20 = hc.add %19, %19 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %21 = hc.add %20, %20 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %22 = hc.add %21, %21 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %23 = hc.add %22, %22 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %24 = hc.add %23, %23 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %25 = hc.add %24, %24 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %26 = hc.add %25, %25 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %27 = hc.add %26, %26 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %28 = hc.add %27, %27 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %29 = hc.add %28, %28 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %30 = hc.add %29, %29 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %31 = hc.add %30, %30 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %32 = hc.add %31, %31 : (!hc.rows<4, 64>, !hc.rows<4, 64>) -> !hc.rows<4, 64>
  %33 = hc.round %32 {type = bf16} : (!hc.rows<4, 64>) -> !hc.rows<4, 64>
  hc.return %33 : !hc.rows<4, 64>
}
