// What makes code of a kernel goes down chains of operations by calls: a chain has an end before the stack has.
// RUN: awk 'BEGIN { r = "!hc.rows<1, 8>"; print "hc.func @chain(%%x: " r ") -> " r " attributes {hc.compute = f32} {"; \
// RUN:   for (i = 0; i < 9000; ++i) print "  %%" i " = hc.add %%" (i ? i - 1 : "x") ", %%x : (" r ", " r ") -> " r; \
// RUN:   print "  hc.return %%8999 : " r "\n}" }' > %t.mlir
// RUN: not hc-opt %t.mlir -hc-form-phases 2>&1 | FileCheck %s
// CHECK: error: has 9001 operations, kernels have at most 8192
