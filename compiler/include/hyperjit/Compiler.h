/* Compiler.h - the embedding interface of libhyperjit-compiler.so: plain C, one exported symbol, JSON in, JSON out.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Request (UTF-8 JSON object):
 *   spec        kernel spec text; goes into the meta as it is
 *   role        "before" | "boundary" | "after"
 *   direction   "forward" | "backward"
 *   save        bool, forward: also write what backward reads
 *   given, want letters, backward: cotangents that come in (x u c k), gradients that go out (x y c p k)
 *   after       null, or the site whose branch has returned: {"program": hc assembly, "d": row width, "m": fracs,
 *               "saved": numbers of a token that its forward keeps, what reductions leave of them are zeros (all reductions'
 *               if absent), "stream", "branch_in", "branch_out", "weight": "bf16"|"fp16"|"fp32"|"fp64"}
 *   before      null, or the site whose branch comes next, same members
 *   cut         optional, backward of a boundary: "early" (default) | "late" | "auto"
 *   bucket      "small" | "large"
 *   target      "sm_90a/h100" | "x86-64-v3" | "<triple>/<cpu>/<features>"
 *   schedule    "auto" | schedule text
 *   list        optional, a count: instead of a kernel, at most so many legal schedules; `schedule` and `stage` are ignored
 *   machine     with list, CUDA: {"processors", "shared_bytes", "registers", "processor_threads", "max_cluster", "copy_gbs"},
 *               as the runtime's Target has them
 *   stage       "" for a kernel, else recipe|hc|specialized|adjoint|split|fused|phases|emitc|cuda|vector|llvm|asm
 *
 * Reply of a success: artifact meta JSON and a closed CPU image or CUDA C++ text; for a stage {"stage": ...} and its
 * text. Lines "//===- ENTRY" divide CUDA text into what all launches need and a part for each; the first with any other
 * makes a translation unit.
 * The meta's "schedule" is the one that was used, complete: given back, it makes the same kernel.
 * Reply to list: {"schedules": [{"schedule": text, "cost": ns a token}, ...]}, complete texts, best first by the cost model; the
 * first is what "auto" uses.
 * Reply of a failure: {"error": message, "kind": "user"|"internal", "pass": pass name or ""}, no payload.
 */
#ifndef HYPERJIT_COMPILER_H
#define HYPERJIT_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes whenever this file changes incompatibly. */
#define HYPERJIT_COMPILER_ABI 2

/* Called exactly once by `run`, on the calling thread. The bytes are the compiler's and valid during the call. */
typedef void (*HyperjitSink)(void *context, const char *json, size_t jsonSize, const void *payload, size_t payloadSize);

struct HyperjitCompiler {
  uint32_t abi;        /* HYPERJIT_COMPILER_ABI of the plugin */
  const char *version; /* "llvm 22.1.8, sources <digest>"; static storage */
  /* 0: success, 1: failure. Thread safe, never throws, never exits. */
  int (*run)(const char *request, size_t size, HyperjitSink sink, void *context);
};

/* The only exported symbol. Returns null for an `abi` that the plugin does not speak. The table has static storage. */
typedef const struct HyperjitCompiler *(*HyperjitCompilerEntry)(uint32_t abi);
__attribute__((visibility("default"))) const struct HyperjitCompiler *hyperjit_compiler(uint32_t abi);
#define HYPERJIT_COMPILER_ENTRY "hyperjit_compiler"

#ifdef __cplusplus
}
#endif

#endif /* HYPERJIT_COMPILER_H */
