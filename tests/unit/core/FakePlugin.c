/* A compiler plugin that is not hyperjit's; which one is chosen when it is compiled.
 * SPDX-License-Identifier: Apache-2.0 */
#include "hyperjit/Compiler.h"

#include <string.h>

static int run(const char *request, size_t size, HyperjitSink sink, void *context) {
  const char *text = "{\"stage\": \"recipe\"}", *payload = "the text";
  (void)size;
  if (strstr(request, "silent"))
    return 1;
  if (strstr(request, "garbage"))
    text = "no JSON", payload = 0;
  if (strstr(request, "mistake"))
    text = "{\"error\": \"you asked for too much\", \"kind\": \"user\", \"pass\": \"\"}", payload = 0;
  if (strstr(request, "defect"))
    text = "{\"error\": \"no way on\", \"kind\": \"internal\", \"pass\": \"hc-split\"}", payload = 0;
  sink(context, text, strlen(text), payload, payload ? strlen(payload) : 0);
  return payload ? 0 : 1;
}

const struct HyperjitCompiler *hyperjit_compiler(uint32_t abi) {
#if defined(FAKE_no_interface)
  static const struct HyperjitCompiler *table = 0;
  (void)abi;
  (void)run;
  return table;
#elif defined(FAKE_other_build)
  static const struct HyperjitCompiler table = {HYPERJIT_COMPILER_ABI, "llvm 1.2.3", run};
  (void)abi;
  return &table;
#elif defined(FAKE_other_sources)
  static const struct HyperjitCompiler table = {HYPERJIT_COMPILER_ABI, "fake 1, sources 0123456789abcdef", run};
  (void)abi;
  return &table;
#else
  static const struct HyperjitCompiler table = {HYPERJIT_COMPILER_ABI, "fake 1", run};
  return abi == HYPERJIT_COMPILER_ABI ? &table : 0;
#endif
}
