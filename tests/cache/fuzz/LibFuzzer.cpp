// The door for libFuzzer; HYPERJIT_FUZZ_PARSER names the parser.
// SPDX-License-Identifier: Apache-2.0
#include "Targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  hyperjit::fuzz::parse(HYPERJIT_FUZZ_PARSER, bytes, size);
  return 0;
}
