/* An accelerator's library for tests: it answers from a table, and misbehaves as it was compiled.
 *
 * It speaks both ways in which the agent loads accelerators: TensorFlow Lite's external delegate
 * (tflite_plugin_create_delegate) and LiteRT's accelerator (LiteRtRegisterGpuAccelerator). The
 * declarations are those of tflite/core/c/common.h and litert/c, as far as they are used here.
 *
 * table.h has TABLE: rows of {hash of the ids, outputs}, and OUTPUTS: how many there are a row.
 * One of WORKS, WRONG, NEAR, SLOW, CRASH_AT_LOAD, CRASH_AT_RUN, HANG_AT_LOAD, HANG_AT_RUN,
 * NO_SYMBOL, REFUSES, BREAKS_LATER is defined. LITERT is the path of libLiteRt.so.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "table.h"

typedef struct { int size; int data[]; } IntArray;
typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs; } Node;

typedef struct Context Context;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *builder;
} Delegate;
struct Context {
  size_t tensors_size;
  int (*execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  void *resize, *report, *add, *node;
  int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};

static void misbehave(const char *where) {
  (void)where;
#if defined(CRASH_AT_LOAD)
  if (!strcmp(where, "load")) abort();
#elif defined(CRASH_AT_RUN)
  if (!strcmp(where, "run")) *(volatile int *)8 = 1;
#elif defined(HANG_AT_LOAD)
  if (!strcmp(where, "load")) for (;;) pause();
#elif defined(HANG_AT_RUN)
  if (!strcmp(where, "run")) for (;;) pause();
#endif
}

static int invoke(Context *context, Node *node) {
  misbehave("run");
#ifdef BREAKS_LATER
  if (!access(BREAKS_LATER, F_OK)) return 1; /* the device is lost */
#endif
#ifdef SLOW
  nanosleep(&(struct timespec){0, 3000000}, NULL);
#endif
  uint64_t hash = 14695981039346656037u; /* FNV-1a of the only input that is no weight */
  for (int i = 0; i < node->inputs->size; i++) {
    Tensor *tensor = &context->tensors[node->inputs->data[i]];
    if (tensor->allocation_type == 1 || tensor->type != 2) continue;
    for (size_t j = 0; j < tensor->bytes; j++)
      hash = (hash ^ ((const uint8_t *)tensor->data)[j]) * 1099511628211u;
  }
  Tensor *output = &context->tensors[node->outputs->data[0]];
  memset(output->data, -128, output->bytes);
  for (size_t row = 0; row < sizeof TABLE / sizeof *TABLE; row++)
    if (TABLE[row].hash == hash) memcpy(output->data, TABLE[row].outputs, OUTPUTS);
  int8_t *values = output->data;
  (void)values;
#ifdef WRONG
  int8_t first = values[0];
  memmove(values, values + 1, OUTPUTS - 1);
  values[OUTPUTS - 1] = first;
#endif
#ifdef NEAR
  for (int i = 0; i < OUTPUTS; i++) values[i] += values[i] < 126 ? 2 : -2;
#endif
  return 0;
}

static int prepare_kernel(Context *context, Node *node) { (void)context, (void)node; return 0; }

static int prepare(Context *context, Delegate *delegate) {
  misbehave("prepare");
#ifdef REFUSES
  return 1;
#endif
  IntArray *plan;
  if (context->execution_plan(context, &plan)) return 1;
  size_t bytes = sizeof(int) * (plan->size + 1);
  IntArray *all = malloc(bytes);
  memcpy(all, plan, bytes);
  Registration kernel = {.prepare = prepare_kernel, .invoke = invoke,
                         .builtin_code = 51, .custom_name = "Fake", .version = 1};
  int status = context->replace(context, kernel, all, delegate);
  free(all);
  return status;
}

static Delegate *make(void) {
  misbehave("load");
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = prepare;
  return delegate;
}

#ifndef NO_SYMBOL
Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count,
                                        void (*report)(const char *)) {
  (void)keys, (void)values, (void)count, (void)report;
  return make();
}
#endif
void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }

static void *litert(const char *name) {
  static void *library;
  if (!library) library = dlopen(LITERT, RTLD_NOW | RTLD_NOLOAD);
  return library ? dlsym(library, name) : NULL;
}

static int get_name(void *self, const char **name) { (void)self; *name = "GPU Fake"; return 0; }
static int get_version(void *self, int *version) { (void)self; version[0] = 1; version[1] = version[2] = 0; return 0; }
static int get_hardware(void *self, int *bits) { (void)self; *bits = 2; return 0; }
static int compiles(void *self, bool *does) { (void)self; *does = false; return 0; }
static int create(void *runtime, void *environment, void *self, void *options, void **wrapper) {
  (void)runtime, (void)environment, (void)self, (void)options;
  int (*wrap)(Delegate *, void (*)(Delegate *), void **) = litert("LiteRtWrapDelegate");
  return wrap(make(), tflite_plugin_destroy_delegate, wrapper);
}

#ifndef NO_SYMBOL
int LiteRtRegisterGpuAccelerator(void *environment) {
  int (*new)(void **) = litert("LiteRtCreateAccelerator");
  if (!new) return 1;
  void *self;
  new(&self);
  const struct { const char *set; void *to; } parts[] = {
      {"LiteRtSetAcceleratorGetName", get_name},
      {"LiteRtSetAcceleratorGetVersion", get_version},
      {"LiteRtSetAcceleratorGetHardwareSupport", get_hardware},
      {"LiteRtSetDelegateFunction", create},
      {"LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation", compiles},
  };
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    ((int (*)(void *, void *))litert(parts[i].set))(self, parts[i].to);
  int (*add)(void *, void *, void *, void *) = litert("LiteRtRegisterAccelerator");
  return add(environment, self, NULL, NULL);
}
#endif
