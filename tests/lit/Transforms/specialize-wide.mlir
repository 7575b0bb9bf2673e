// RUN: hc-opt %s -hc-specialize="width=1125899906842624" -verify-diagnostics

// A width that fits a row need not fit all rows of a weight.
// expected-error @below {{hc-specialize with width 1125899906842624: has 4 rows of 1125899906842624 channels and 24 columns; a value has at most 2^48 numbers}}
module {
  hc.func @site(%w: !hc.weight<4, d, 24> {hc.operand = "parameter", hc.uniform}) {
    hc.return
  }
}
