// RUN: hc-opt %s -hc-specialize="width=0" -verify-diagnostics
// RUN: hc-opt %s -hc-specialize="width=8 stream=i8" -verify-diagnostics

// expected-error @below {{hc-specialize needs a width and storage types bf16, f16, f32 or f64}}
module {
  hc.func @site(%x: !hc.rows<1, d> {hc.operand = "streams"}) -> !hc.rows<1, d> {
    hc.return %x : !hc.rows<1, d>
  }
}
