// Passes that need storage types say so.
// RUN: not hc-opt %s -hc-split 2>&1 | FileCheck %s
// RUN: not hc-opt %s -hc-form-phases 2>&1 | FileCheck %s
// RUN: not hc-opt %s -hc-save-reductions 2>&1 | FileCheck %s
// CHECK: error: has no hc.compute: run hc-specialize first
hc.func @site(%x: !hc.rows<1, d> {hc.operand = "streams"}) -> (!hc.rows<1, d> {hc.operand = "streams"}) {
  %y = hc.branch %x : (!hc.rows<1, d>) -> !hc.rows<1, d>
  hc.return %y : !hc.rows<1, d>
}
