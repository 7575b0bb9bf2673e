// RUN: hc-opt %s -hc-specialize="width=64 stream=bf16 branch-in=bf16 branch-out=bf16" -hc-save-reductions -hc-differentiate="given=x want=xp" -canonicalize -cse -hc-split -canonicalize -cse -hc-form-phases | FileCheck %s

// The adjoint of a whole site, cut at its hole: dY leaves first and needs the next streams' cotangent alone;
// everything else waits for the kernel that reads X anyway. n + 1 and 3n + 2 u alone, 3n + 3 fused.
// CHECK-LABEL: hc.func @site_backward_before(
// CHECK-SAME: %[[G:.*]]: !hc.rows<2, 64> {{{.*}}hc.operand = "d_streams"}
// CHECK-SAME: -> (!hc.rows<1, 64> {hc.dtype = bf16, hc.name = "d_y", hc.operand = "d_branch"})
// CHECK-SAME: hc.reads_u = 2 : i64
// CHECK-SAME: hc.writes_u = 1 : i64
// CHECK-NOT: hc.dot
// CHECK-LABEL: hc.func @site_backward_after(
// CHECK-SAME: hc.reads_u = 6 : i64
// CHECK-SAME: hc.writes_u = 2 : i64
// CHECK: hc.dot
// CHECK: hc.weight_grad
hc.func @site(%x: !hc.rows<2, d> {hc.operand = "streams"}, %w: !hc.weight<2, d, 6> {hc.operand = "parameter", hc.name = "w", hc.uniform})
    -> (!hc.rows<2, d> {hc.operand = "streams"}) {
  %0 = hc.project %x, %w : (!hc.rows<2, d>, !hc.weight<2, d, 6>) -> !hc.coeffs<1, 6>
  %1 = hc.slice %0 {axis = 1 : i64, offset = 0 : i64} : (!hc.coeffs<1, 6>) -> !hc.coeffs<1, 2>
  %2 = hc.slice %0 {axis = 1 : i64, offset = 2 : i64} : (!hc.coeffs<1, 6>) -> !hc.coeffs<1, 4>
  %3 = hc.reshape %2 : (!hc.coeffs<1, 4>) -> !hc.coeffs<2, 2>
  %4 = hc.mix %1, %x : (!hc.coeffs<1, 2>, !hc.rows<2, d>) -> !hc.rows<1, d>
  %5 = hc.reshape %1 : (!hc.coeffs<1, 2>) -> !hc.coeffs<2>
  %y, %p, %r = hc.branch %4, %5, %3 : (!hc.rows<1, d>, !hc.coeffs<2>, !hc.coeffs<2, 2>) -> (!hc.rows<1, d>, !hc.coeffs<2>, !hc.coeffs<2, 2>)
  %6 = hc.gather_rows %y {indices = array<i64: 0, 0>} : (!hc.rows<1, d>) -> !hc.rows<2, d>
  %7 = hc.scale_rows %p, %6 : (!hc.coeffs<2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %8 = hc.mix %r, %x : (!hc.coeffs<2, 2>, !hc.rows<2, d>) -> !hc.rows<2, d>
  %9 = hc.add %8, %7 : (!hc.rows<2, d>, !hc.rows<2, d>) -> !hc.rows<2, d>
  hc.return %9 : !hc.rows<2, d>
}
