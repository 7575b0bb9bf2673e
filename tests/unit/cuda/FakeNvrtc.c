/* An NVRTC that takes its time, counts, and answers with what it was given.
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  char *text, *log;
} Program;

static atomic_int compiles;
int fakeCompiles(void) { return compiles; }

const char *nvrtcGetErrorString(int status) { return status ? "refused" : "fine"; }
int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, 0; }

int nvrtcCreateProgram(Program **program, const char *text, const char *name, int count, const char *const *headers,
                       const char *const *names) {
  (void)name, (void)count, (void)headers, (void)names;
  *program = malloc(sizeof(Program));
  (*program)->text = strdup(text);
  (*program)->log = "";
  return 0;
}
int nvrtcDestroyProgram(Program **program) {
  free((*program)->text);
  free(*program);
  return 0;
}
int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
  struct timespec pause = {0, 100000000};
  (void)count, (void)options;
  ++compiles;
  nanosleep(&pause, NULL);
  program->log = "ptxas info    : Compiling entry function 'k_main' for 'sm_90a'\n"
                 "ptxas info    : Function properties for k_main\n"
                 "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
                 "ptxas info    : Used 42 registers, used 0 barriers\n";
  return strstr(program->text, "wrong") ? 6 : 0;
}
int nvrtcGetCUBINSize(Program *program, size_t *size) { return *size = strlen(program->text), 0; }
int nvrtcGetCUBIN(Program *program, char *cubin) { return memcpy(cubin, program->text, strlen(program->text)), 0; }
int nvrtcGetPTXSize(Program *program, size_t *size) { return *size = 1, (void)program, 0; }
int nvrtcGetPTX(Program *program, char *ptx) { return *ptx = 0, (void)program, 0; }
int nvrtcGetProgramLogSize(Program *program, size_t *size) { return *size = strlen(program->log) + 1, 0; }
int nvrtcGetProgramLog(Program *program, char *log) { return memcpy(log, program->log, strlen(program->log) + 1), 0; }
