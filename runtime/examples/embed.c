/* An app that compiles an adapter and uses it at once, in one process and without a file.
 *
 *   embed BUNDLE_DIR BASE_GGUF LLAMA_LIB_DIR "description" "input"
 *
 * compiles the description with the bundle, hands the bytes to llama.cpp, and prints what the base
 * model answers to the input without the adapter and with it:
 *
 *   base: …
 *   adapted: …
 *
 * For Linux on x86-64, a base model with SmolLM2-Instruct's chat format, and the llama.cpp whose
 * version llama_v0_5_0.h declares. To build it, with the static library of t2lc-runtime:
 *
 *   cargo rustc -p t2lc-runtime --profile mobile --features capi --crate-type staticlib
 *   cc -std=c11 -Wall -Wextra -Iruntime/include runtime/examples/embed.c \
 *     target/mobile/libt2lc_runtime.a -pthread -ldl -lm -lgcc_s -o embed
 */

#define _POSIX_C_SOURCE 200809L /* fmemopen, sysconf */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "llama_v0_5_0.h"
#include "t2lc.h"

enum { CONTEXT_TOKENS = 1024, MAX_ANSWER_TOKENS = 64, MAX_PIECE_BYTES = 256 };

/* What the model was tuned on when there is no system message, and what adapters are trained on. */
static const char CHAT[] =
    "<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n"
    "%s<|im_end|>\n"
    "<|im_start|>assistant\n";

/* ---- t2lc: description to adapter ---- */

/* Says what failed and frees the error. */
static void report(const char *what, t2lc_error *error) {
  fprintf(stderr, "%s: %s [%s]\n", what, t2lc_error_message(error), t2lc_error_code(error));
  t2lc_error_free(error);
}

/* Called during a compile; an app would move a progress bar here, and return false to cancel. */
static bool progress(uint32_t stage, uint64_t done, uint64_t total, void *context) {
  (void)stage, (void)done, (void)total;
  *(unsigned *)context += 1;
  return true;
}

/* Says what the compiler was trained on that is nearest, and whether that is near enough. */
static void report_similarity(const t2lc_adapter *adapter) {
  t2lc_similarity *similarity = t2lc_adapter_similarity(adapter);
  if (t2lc_similarity_count(similarity) > 0) {
    fprintf(stderr, "nearest training task: %s (%.2f)%s\n", t2lc_similarity_task(similarity, 0),
            (double)t2lc_similarity_cosine(similarity, 0),
            t2lc_similarity_familiar(similarity) ? "" : "; the description is unlike them all");
  }
  t2lc_similarity_free(similarity);
}

/* Compiles a description; NULL if that fails, which has been reported then. */
static t2lc_adapter *compile(const char *bundle, const char *description) {
  t2lc_error *error = NULL;
  t2lc_compiler *compiler = NULL;
  if (t2lc_open_directory(bundle, strlen(bundle), NULL, &compiler, &error) != T2LC_OK) {
    report("cannot open the bundle", error);
    return NULL;
  }

  unsigned calls = 0;
  t2lc_compile_options options;
  t2lc_compile_options_init(&options, sizeof options);
  options.progress = progress;
  options.context = &calls;

  t2lc_adapter *adapter = NULL;
  if (t2lc_compile(compiler, description, strlen(description), &options, &adapter, &error) !=
      T2LC_OK) {
    report("cannot compile the description", error);
  } else {
    fprintf(stderr, "compiled %s in %u steps\n", t2lc_adapter_content(adapter), calls);
    report_similarity(adapter);
  }
  /* One compiler serves any number of descriptions; this app has one. The adapter outlives it. */
  t2lc_compiler_free(compiler);
  return adapter;
}

/* ---- t2lc to llama.cpp ---- */

/* Loads the adapter's bytes into the model; NULL if llama.cpp refuses them. */
static llama_adapter_lora *load(const llama_api *llama, llama_model *model,
                                const t2lc_adapter *adapter) {
  size_t size = 0;
  const uint8_t *bytes = t2lc_adapter_file_bytes(adapter, 0, &size);
  if (bytes == NULL) {
    return NULL;
  }
  /* llama.cpp only reads and seeks in the file, which a file in memory can; it needs no descriptor.
   * Where there is no fmemopen, memfd_create and fdopen do. "r" leaves the bytes alone. */
  FILE *file = fmemopen((void *)(uintptr_t)bytes, size, "rb");
  if (file == NULL) {
    perror("fmemopen");
    return NULL;
  }
  llama_adapter_lora *lora = llama->llama_adapter_lora_init_from_file_ptr(model, file);
  fclose(file); /* the weights have been copied */
  return lora;
}

/* ---- llama.cpp: prompt to answer ---- */

/* Keeps quiet unless something is wrong. */
static void keep_warnings(int level, const char *text, void *context) {
  static int last; /* this app has one thread */
  (void)context;
  last = level == LLAMA_LOG_CONTINUE ? last : level;
  if (last >= LLAMA_LOG_WARN) {
    fputs(text, stderr);
  }
}

/* Token ids of the chat with one message; their number, or -1 if they do not fit. */
static int32_t tokenize(const llama_api *llama, const llama_vocab *vocab, const char *input,
                        int32_t *tokens, int32_t room) {
  size_t size = sizeof CHAT + strlen(input);
  char *text = size > INT32_MAX ? NULL : malloc(size);
  if (text == NULL) {
    return -1;
  }
  int length = snprintf(text, size, CHAT, input);
  /* The format starts with the model's first token itself; <|…|> are single tokens. */
  int32_t count = llama->llama_tokenize(vocab, text, length, tokens, room, false, true);
  free(text);
  return count > 0 ? count : -1;
}

static int32_t likeliest(const float *logits, int32_t count) {
  int32_t best = 0;
  for (int32_t token = 1; token < count; token++) {
    if (logits[token] > logits[best]) {
      best = token;
    }
  }
  return best;
}

/* Prints the likeliest answer on one line, under the adapters that the context has. */
static bool answer(const llama_api *llama, const llama_vocab *vocab, llama_context *context,
                   const char *name, const char *input) {
  int32_t tokens[CONTEXT_TOKENS];
  int32_t room = CONTEXT_TOKENS - MAX_ANSWER_TOKENS;
  int32_t count = tokenize(llama, vocab, input, tokens, room);
  if (count < 0) {
    fprintf(stderr, "the input is too long\n");
    return false;
  }
  /* What was computed under another adapter does not hold. */
  llama->llama_memory_clear(llama->llama_get_memory(context), true);

  printf("%s: ", name);
  llama_batch batch = {.n_tokens = count, .token = tokens};
  for (int answered = 0; answered < MAX_ANSWER_TOKENS; answered++) {
    if (llama->llama_decode(context, batch) != 0) {
      return false;
    }
    const float *logits = llama->llama_get_logits_ith(context, -1);
    if (logits == NULL) {
      return false;
    }
    int32_t token = likeliest(logits, llama->llama_vocab_n_tokens(vocab));
    if (llama->llama_vocab_is_eog(vocab, token)) {
      break;
    }
    char piece[MAX_PIECE_BYTES];
    int32_t bytes = llama->llama_token_to_piece(vocab, token, piece, sizeof piece, 0, false);
    for (int32_t i = 0; i < bytes; i++) {
      putchar(piece[i] == '\n' ? ' ' : piece[i]);
    }
    tokens[0] = token;
    batch.n_tokens = 1;
  }
  putchar('\n');
  return true;
}

/* Answers the input without the adapter and with it. */
static bool compare(const llama_api *llama, llama_model *model, llama_adapter_lora *lora,
                    const char *input) {
  llama_context_params params = llama->llama_context_default_params();
  params.n_ctx = CONTEXT_TOKENS;
  params.n_batch = CONTEXT_TOKENS; /* the prompt in one computation */
  /* Its threads wait for one another without sleeping: more than there are cores is very slow. */
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  params.n_threads = cores < 2 ? 1 : cores > 8 ? 4 : (int32_t)(cores / 2);
  params.n_threads_batch = params.n_threads;
  llama_context *context = llama->llama_init_from_model(model, params);
  if (context == NULL) {
    return false;
  }
  const llama_vocab *vocab = llama->llama_model_get_vocab(model);
  float scale = 1.0f;
  bool done = answer(llama, vocab, context, "base", input) &&
              llama->llama_set_adapters_lora(context, &lora, 1, &scale) == 0 &&
              answer(llama, vocab, context, "adapted", input);
  llama->llama_free(context);
  return done;
}

int main(int argc, char **argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: embed BUNDLE_DIR BASE_GGUF LLAMA_LIB_DIR DESCRIPTION INPUT\n");
    return 2;
  }
  const char *bundle = argv[1], *base = argv[2], *folder = argv[3];
  const char *description = argv[4], *input = argv[5];

  t2lc_adapter *adapter = compile(bundle, description);
  if (adapter == NULL) {
    return 1;
  }
  llama_api llama;
  llama_model *model = NULL;
  llama_adapter_lora *lora = NULL;
  if (llama_api_open(&llama, folder, keep_warnings)) {
    llama_model_params params = llama.llama_model_default_params();
    params.n_gpu_layers = 0;
    model = llama.llama_model_load_from_file(base, params);
  }
  if (model != NULL) {
    lora = load(&llama, model, adapter);
  }
  t2lc_adapter_free(adapter);

  bool done = lora != NULL && compare(&llama, model, lora, input);
  if (lora != NULL) {
    llama.llama_adapter_lora_free(lora);
  }
  if (model != NULL) {
    llama.llama_model_free(model);
  }
  return done ? 0 : 1;
}
