/* What embed.c uses of llama.cpp v0.5.0, looked up at run time in the folder of its libraries.
 *
 * Prebuilt llama.cpp libraries come without headers, so the layouts are declared here, from
 * include/llama.h and ggml/include/ggml-backend.h of that version (x86-64). They change between
 * versions: an app that builds llama.cpp itself includes its llama.h and links it instead.
 */

#ifndef LLAMA_V0_5_0_H
#define LLAMA_V0_5_0_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LLAMA_VERSION "0.5.0-dev"

/* GGML_LOG_LEVEL_*: the first level that explains a failure, and one that goes on with the line. */
enum { LLAMA_LOG_WARN = 3, LLAMA_LOG_CONTINUE = 5 };

typedef struct llama_model llama_model;
typedef struct llama_context llama_context;
typedef struct llama_vocab llama_vocab;
typedef struct llama_adapter_lora llama_adapter_lora;
typedef struct llama_memory_i *llama_memory_t;
typedef void (*ggml_log_callback)(int level, const char *text, void *context);

typedef struct llama_model_params {
  void *devices;
  const void *tensor_buft_overrides;
  int32_t n_gpu_layers;
  int32_t split_mode, load_mode, lazy_mode;
  int32_t main_gpu;
  const float *tensor_split;
  const void *progress_callback;
  void *progress_callback_user_data;
  const void *kv_overrides;
  bool vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc, load_mtp;
} llama_model_params;

typedef struct llama_context_params {
  uint32_t n_ctx, n_batch, n_ubatch, n_seq_max;
  uint32_t n_rs_seq, n_outputs_max, n_outputs_max_per_seq;
  int32_t n_threads, n_threads_batch;
  int32_t ctx_type, rope_scaling_type, pooling_type, attention_type, flash_attn_type;
  float rope_freq_base, rope_freq_scale;
  float yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow;
  uint32_t yarn_orig_ctx;
  float defrag_thold;
  const void *cb_eval;
  void *cb_eval_user_data;
  int32_t type_k, type_v;
  const void *abort_callback;
  void *abort_callback_data;
  bool embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified;
  void *samplers;
  size_t n_samplers;
  llama_context *ctx_other;
} llama_context_params;

/* NULL pos, n_seq_id and seq_id: one sequence, positions counted on. NULL logits: of the last token. */
typedef struct llama_batch {
  int32_t n_tokens;
  int32_t *token;
  float *embd;
  int32_t *pos;
  int32_t *n_seq_id;
  int32_t **seq_id;
  int8_t *logits;
} llama_batch;

_Static_assert(sizeof(llama_model_params) == 80, "llama_model_params");
_Static_assert(offsetof(llama_model_params, vocab_only) == 72, "llama_model_params");
_Static_assert(sizeof(llama_context_params) == 160, "llama_context_params");
_Static_assert(offsetof(llama_context_params, n_threads) == 28, "llama_context_params");
_Static_assert(offsetof(llama_context_params, type_k) == 104, "llama_context_params");
_Static_assert(offsetof(llama_context_params, ctx_other) == 152, "llama_context_params");
_Static_assert(sizeof(llama_batch) == 56, "llama_batch");

/* Library, result, name, arguments. */
#define LLAMA_FUNCTIONS(F)                                                                         \
  F(ggml, void, ggml_backend_load_all_from_path, (const char *folder))                             \
  F(llama, const char *, llama_version, (void))                                                    \
  F(llama, void, llama_log_set, (ggml_log_callback callback, void *context))                       \
  F(llama, void, llama_backend_init, (void))                                                       \
  F(llama, llama_model_params, llama_model_default_params, (void))                                 \
  F(llama, llama_model *, llama_model_load_from_file, (const char *path, llama_model_params))      \
  F(llama, void, llama_model_free, (llama_model *))                                                \
  F(llama, const llama_vocab *, llama_model_get_vocab, (const llama_model *))                      \
  F(llama, int32_t, llama_vocab_n_tokens, (const llama_vocab *))                                   \
  F(llama, bool, llama_vocab_is_eog, (const llama_vocab *, int32_t token))                         \
  F(llama, int32_t, llama_tokenize,                                                                \
    (const llama_vocab *, const char *text, int32_t length, int32_t *tokens, int32_t room,         \
     bool add_special, bool parse_special))                                                        \
  F(llama, int32_t, llama_token_to_piece,                                                          \
    (const llama_vocab *, int32_t token, char *piece, int32_t room, int32_t skip_spaces,           \
     bool special))                                                                                \
  F(llama, llama_context_params, llama_context_default_params, (void))                             \
  F(llama, llama_context *, llama_init_from_model, (llama_model *, llama_context_params))          \
  F(llama, void, llama_free, (llama_context *))                                                    \
  F(llama, llama_memory_t, llama_get_memory, (const llama_context *))                              \
  F(llama, void, llama_memory_clear, (llama_memory_t, bool data))                                  \
  F(llama, int32_t, llama_decode, (llama_context *, llama_batch))                                  \
  F(llama, float *, llama_get_logits_ith, (llama_context *, int32_t index))                        \
  F(llama, llama_adapter_lora *, llama_adapter_lora_init_from_file_ptr, (llama_model *, FILE *))   \
  F(llama, void, llama_adapter_lora_free, (llama_adapter_lora *))                                  \
  F(llama, int32_t, llama_set_adapters_lora,                                                       \
    (llama_context *, llama_adapter_lora **adapters, size_t count, float *scales))

/* The functions, each under its own name. */
typedef struct llama_api {
#define LLAMA_MEMBER(library, result, name, arguments) result(*name) arguments;
  LLAMA_FUNCTIONS(LLAMA_MEMBER)
#undef LLAMA_MEMBER
} llama_api;

/* Opens a library of the folder; the libraries stay loaded as long as the process lives. */
static void *llama_library(const char *folder, const char *file) {
  char path[4096];
  int length = snprintf(path, sizeof path, "%s/%s", folder, file);
  void *library = NULL;
  if (length > 0 && (size_t)length < sizeof path) {
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == NULL) {
    fprintf(stderr, "cannot load %s: %s\n", path, dlerror());
  }
  return library;
}

/* Looks every function up and loads the CPU backend that suits this machine; false if it cannot. */
static bool llama_api_open(llama_api *api, const char *folder, ggml_log_callback log) {
  /* libggml first: libllama needs it, and finds it loaded. */
  void *ggml = llama_library(folder, "libggml.v0.5.0.so");
  void *llama = ggml == NULL ? NULL : llama_library(folder, "libllama.v0.5.0.so");
  if (llama == NULL) {
    return false;
  }
  void *symbol;
#define LLAMA_LOOK_UP(library, result, name, arguments)                                            \
  symbol = dlsym(library, #name);                                                                  \
  if (symbol == NULL) {                                                                            \
    fprintf(stderr, "llama.cpp has no %s: %s\n", #name, dlerror());                                \
    return false;                                                                                  \
  }                                                                                                \
  memcpy(&api->name, &symbol, sizeof symbol); /* C has no cast from an object to a function */
  LLAMA_FUNCTIONS(LLAMA_LOOK_UP)
#undef LLAMA_LOOK_UP
  if (strcmp(api->llama_version(), LLAMA_VERSION) != 0) {
    fprintf(stderr, "llama.cpp is %s, not %s\n", api->llama_version(), LLAMA_VERSION);
    return false;
  }
  api->llama_log_set(log, NULL);
  api->ggml_backend_load_all_from_path(folder);
  api->llama_backend_init();
  return true;
}

#endif
