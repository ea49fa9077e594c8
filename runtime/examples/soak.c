/* Looks for unsoundness in the C interface: misuse, threads, leaks, and what a compile costs.
 *
 *   soak BUNDLE_DIR errors [EVERY]       every call with wrong arguments, freed handles, damaged
 *                                        bundles, cancelled; after each EVERY (1) of them, the
 *                                        compiler still has to make the same adapter
 *   soak BUNDLE_DIR threads [T] [N]      N (100) compiles on each of T (4) threads make the same
 *                                        bytes; then the compiler is freed under running threads
 *   soak BUNDLE_DIR reopen [N]           what is held after opening and closing N (1000) times
 *   soak BUNDLE_DIR time [N] [BACKEND] [THREADS]
 *                                        prints times and peak memory as JSON: one cold open and
 *                                        compile, N (25) warm compiles
 *
 * Ends with 0 and a line on what was shown, or with 1 and a line on the first finding. For Linux.
 * tests/capi.sh runs it natively, under valgrind and with sanitizers.
 */

#define _GNU_SOURCE /* memfd_create */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "t2lc.h"

#define TEXT(literal) literal, sizeof(literal) - 1

enum { MAX_THREADS = 64, MAX_COMPILES = 100000, MAX_FILES = 16, STAGES = 4 };

static const char DESCRIPTION[] = "summarize legal text";
static const char *const DESCRIPTIONS[] = {
    DESCRIPTION,
    "translate English to French",
    "Gib die Mehrzahl des Wortes an.",
    "次の文を英語に翻訳してください",
};
enum { N_DESCRIPTIONS = sizeof DESCRIPTIONS / sizeof *DESCRIPTIONS };

/* ---- findings ---- */

static void finding(int line, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "soak.c:%d: ", line);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  _exit(1); /* other threads may be inside the library */
}

/* Never compiled out, unlike assert. */
#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      finding(__LINE__, "not so: %s", #condition);                                                 \
    }                                                                                              \
  } while (0)

/* A call that has to succeed; it passes &error. */
#define WORKS(call)                                                                                \
  do {                                                                                             \
    t2lc_error *error = NULL;                                                                      \
    if ((call) != T2LC_OK) {                                                                       \
      finding(__LINE__, "%s: %s", #call, t2lc_error_message(error));                               \
    }                                                                                              \
    CHECK(error == NULL);                                                                          \
  } while (0)

enum { ANY_FAILURE = -1, ANYTHING = -2 };
static unsigned failures;
static void after_failure(void);

static void failed(int line, const char *call, t2lc_status got, t2lc_status expected,
                   t2lc_error *error) {
  bool right = expected == ANYTHING || (expected == ANY_FAILURE ? got != T2LC_OK : got == expected);
  if (!right || got == T2LC_ERROR_INTERNAL) {
    finding(line, "%s: status %d instead of %d: %s", call, got, expected,
            error == NULL ? "no error" : t2lc_error_message(error));
  }
  if (got != T2LC_OK) {
    CHECK(error != NULL && t2lc_error_status(error) == got);
    const char *code = t2lc_error_code(error), *message = t2lc_error_message(error);
    CHECK(code != NULL && strchr(code, '.') != NULL);
    CHECK(message != NULL && message[0] != '\0' && strchr(message, '\n') == NULL);
    t2lc_error_free(error);
    t2lc_error_free(error);
    CHECK(t2lc_error_status(error) == T2LC_ERROR_ARGUMENT);
    CHECK(t2lc_error_code(error) == NULL && t2lc_error_message(error) == NULL);
  }
  failures++;
  after_failure();
}

/* A call that has to fail with a status, or is ANY_FAILURE or ANYTHING; it passes &error. */
#define FAILS(status, call)                                                                        \
  do {                                                                                             \
    t2lc_error *error = NULL;                                                                      \
    t2lc_status got = (call);                                                                      \
    failed(__LINE__, #call, got, (status), error);                                                 \
  } while (0)

/* The same for a call that passes &output, a pointer that has to become NULL. */
#define FAILS_INTO(output, status, call)                                                           \
  do {                                                                                             \
    (output) = (void *)&failures; /* neither NULL nor a handle */                                  \
    FAILS(status, call);                                                                           \
    CHECK((output) == NULL);                                                                       \
  } while (0)

/* ---- compiling ---- */

static t2lc_compiler *open_bundle(const char *bundle, const t2lc_open_options *options) {
  t2lc_compiler *compiler = NULL;
  WORKS(t2lc_open_directory(bundle, strlen(bundle), options, &compiler, &error));
  CHECK(compiler != NULL);
  return compiler;
}

static t2lc_adapter *compile(const t2lc_compiler *compiler, const char *description) {
  t2lc_adapter *adapter = NULL;
  WORKS(t2lc_compile(compiler, description, strlen(description), NULL, &adapter, &error));
  CHECK(adapter != NULL);
  return adapter;
}

static bool same_bytes(const t2lc_adapter *one, const t2lc_adapter *other) {
  size_t one_size = 0, other_size = 0;
  const uint8_t *a = t2lc_adapter_file_bytes(one, 0, &one_size);
  const uint8_t *b = t2lc_adapter_file_bytes(other, 0, &other_size);
  return a != NULL && b != NULL && one_size > 0 && one_size == other_size &&
         memcmp(a, b, one_size) == 0 &&
         strcmp(t2lc_adapter_content(one), t2lc_adapter_content(other)) == 0;
}

/* What the part `errors` holds on to: a compiler that is never misused and its first adapter. */
static t2lc_compiler *good;
static t2lc_adapter *expected;
static unsigned every = 1;

static void still_the_same(const t2lc_compiler *compiler) {
  t2lc_adapter *adapter = compile(compiler, DESCRIPTION);
  CHECK(same_bytes(adapter, expected));
  t2lc_adapter_free(adapter);
}

static void after_failure(void) {
  if (failures % every == 0) {
    still_the_same(good);
  }
}

/* ---- errors: no handle, or a wrong one ---- */

static void useless_compiler(t2lc_compiler *compiler) {
  t2lc_adapter *adapter;
  t2lc_similarity *similarity;
  CHECK(t2lc_compiler_manifest(compiler) == NULL);
  CHECK(t2lc_compiler_bundle_digest(compiler) == NULL);
  CHECK(t2lc_compiler_backend(compiler) == NULL);
  FAILS_INTO(adapter, T2LC_ERROR_ARGUMENT,
             t2lc_compile(compiler, TEXT("x"), NULL, &adapter, &error));
  FAILS_INTO(similarity, T2LC_ERROR_ARGUMENT,
             t2lc_nearest(compiler, TEXT("x"), 1, &similarity, &error));
  t2lc_compiler_free(compiler);
}

static void useless_adapter(t2lc_adapter *adapter) {
  size_t size;
  CHECK(t2lc_adapter_file_count(adapter) == 0);
  CHECK(t2lc_adapter_file_name(adapter, 0) == NULL);
  CHECK(t2lc_adapter_file_bytes(adapter, 0, &size) == NULL);
  CHECK(t2lc_adapter_recipe(adapter) == NULL && t2lc_adapter_content(adapter) == NULL);
  CHECK(t2lc_adapter_tokens(adapter) == 0 && !t2lc_adapter_truncated(adapter));
  CHECK(t2lc_adapter_similarity(adapter) == NULL);
  FAILS(T2LC_ERROR_ARGUMENT,
        t2lc_adapter_write(adapter, TEXT("/dev/null/x"), true, &error));
  t2lc_adapter_free(adapter);
}

static void useless_similarity(t2lc_similarity *similarity) {
  CHECK(t2lc_similarity_count(similarity) == 0);
  CHECK(t2lc_similarity_task(similarity, 0) == NULL);
  CHECK(isnan(t2lc_similarity_cosine(similarity, 0)));
  CHECK(!t2lc_similarity_familiar(similarity));
  t2lc_similarity_free(similarity);
}

static void useless_error(t2lc_error *error) {
  CHECK(t2lc_error_status(error) == T2LC_ERROR_ARGUMENT);
  CHECK(t2lc_error_code(error) == NULL && t2lc_error_message(error) == NULL);
  t2lc_error_free(error);
}

static void wrong_handles(const char *bundle) {
  int local = 0;
  void *never[] = {NULL, (void *)1, (void *)UINTPTR_MAX, (void *)INTPTR_MAX, &local};
  for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
    useless_compiler(never[i]);
    useless_adapter(never[i]);
    useless_similarity(never[i]);
    useless_error(never[i]);
  }

  /* Handles of another type are refused, and freeing through the wrong function does nothing. */
  t2lc_compiler *compiler = open_bundle(bundle, NULL);
  t2lc_adapter *adapter = compile(compiler, DESCRIPTION);
  t2lc_similarity *similarity = t2lc_adapter_similarity(adapter);
  CHECK(similarity != NULL);
  useless_compiler((void *)adapter);
  useless_compiler((void *)similarity);
  useless_adapter((void *)compiler);
  useless_adapter((void *)similarity);
  useless_similarity((void *)compiler);
  useless_similarity((void *)adapter);
  useless_error((void *)compiler);
  useless_error((void *)adapter);
  still_the_same(compiler);
  CHECK(same_bytes(adapter, expected) && t2lc_similarity_count(similarity) > 0);

  /* An adapter outlives its compiler, its similarity outlives both; a number never comes back. */
  t2lc_compiler_free(compiler);
  useless_compiler(compiler);
  CHECK(same_bytes(adapter, expected));
  t2lc_adapter_free(adapter);
  useless_adapter(adapter);
  CHECK(t2lc_similarity_task(similarity, 0) != NULL);
  t2lc_similarity_free(similarity);
  useless_similarity(similarity);
  t2lc_compiler *again = open_bundle(bundle, NULL);
  CHECK(again != compiler);
  useless_compiler(compiler);
  t2lc_compiler_free(again);
}

/* ---- errors: opening ---- */

/* The files of the bundle, for the other ways to open it. */
static struct {
  char names[MAX_FILES][256];
  t2lc_file_bytes items[MAX_FILES];
  size_t count;
} files;

static void read_files(const char *bundle) {
  DIR *directory = opendir(bundle);
  CHECK(directory != NULL);
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char path[PATH_MAX];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", bundle, entry->d_name);
    if (stat(path, &found) != 0 || !S_ISREG(found.st_mode)) {
      continue;
    }
    CHECK(files.count < MAX_FILES);
    size_t size = (size_t)found.st_size, index = files.count++;
    uint8_t *bytes = malloc(size + 1);
    FILE *file = fopen(path, "rb");
    CHECK(bytes != NULL && file != NULL && fread(bytes, 1, size, file) == size);
    fclose(file);
    snprintf(files.names[index], sizeof files.names[index], "%s", entry->d_name);
    files.items[index] = (t2lc_file_bytes){
        .name = files.names[index], .name_length = strlen(entry->d_name), .bytes = bytes, .size = size};
  }
  closedir(directory);
}

static t2lc_file_bytes *file_named(const char *name, size_t length) {
  for (size_t i = 0; i < files.count; i++) {
    if (files.items[i].name_length == length && memcmp(files.names[i], name, length) == 0) {
      return &files.items[i];
    }
  }
  return NULL;
}

static void wrong_options(const char *bundle) {
  size_t length = strlen(bundle);
  t2lc_compiler *out;
  t2lc_open_options options;
  const uint32_t sizes[] = {0, 1, sizeof options - 1};
  CHECK(t2lc_open_options_init(NULL, sizeof options) == T2LC_ERROR_ARGUMENT);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    CHECK(t2lc_open_options_init(&options, sizes[i]) == T2LC_ERROR_ARGUMENT);
    CHECK(t2lc_open_options_init(&options, sizeof options) == T2LC_OK);
    options.struct_size = sizes[i];
    FAILS_INTO(out, T2LC_ERROR_ARGUMENT,
               t2lc_open_directory(bundle, length, &options, &out, &error));
  }

  CHECK(t2lc_open_options_init(&options, sizeof options) == T2LC_OK);
  options.backend = 99;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_directory(bundle, length, &options, &out, &error));
  options.backend = T2LC_BACKEND_ORT;
  options.provider = "\xff";
  options.provider_length = 1;
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_directory(bundle, length, &options, &out, &error));
  options.provider = "no such provider";
  options.provider_length = strlen(options.provider);
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_directory(bundle, length, &options, &out, &error));
}

static void wrong_directories(const char *bundle) {
  t2lc_compiler *out;
  size_t length = strlen(bundle);
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_directory(NULL, 1, NULL, &out, &error));
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_directory(NULL, 0, NULL, &out, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_open_directory(bundle, length, NULL, NULL, &error));
  CHECK(t2lc_open_directory(NULL, 1, NULL, NULL, NULL) == T2LC_ERROR_ARGUMENT);
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT,
             t2lc_open_directory(TEXT("\xc3\x28"), NULL, &out, &error));
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_directory(bundle, SIZE_MAX, NULL, &out, &error));
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_directory(TEXT("a\0b"), NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_directory(TEXT("/nowhere"), NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_directory(TEXT("/proc"), NULL, &out, &error));
}

static void wrong_bytes(void) {
  t2lc_compiler *out = NULL;
  t2lc_file_bytes *items = files.items;
  size_t count = files.count;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_bytes(NULL, 1, NULL, &out, &error));
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_bytes(NULL, 0, NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_bytes(items, 0, NULL, &out, &error));
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_bytes(items, SIZE_MAX, NULL, &out, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_open_bytes(items, count, NULL, NULL, &error));
  for (size_t i = 0; i < count; i++) {
    /* Each file changed in the middle (into what no text has), cut short, too large, without bytes,
     * without a name. */
    t2lc_file_bytes whole = items[i];
    uint8_t *middle = (uint8_t *)(uintptr_t)whole.bytes + whole.size / 2;
    *middle ^= 0x80;
    FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_bytes(items, count, NULL, &out, &error));
    *middle ^= 0x80;
    items[i].size = whole.size / 2;
    FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_bytes(items, count, NULL, &out, &error));
    items[i].size = SIZE_MAX;
    FAILS_INTO(out, ANY_FAILURE, t2lc_open_bytes(items, count, NULL, &out, &error));
    items[i] = whole;
    items[i].bytes = NULL;
    FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_bytes(items, count, NULL, &out, &error));
    items[i] = whole;
    items[i].name = NULL;
    FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_bytes(items, count, NULL, &out, &error));
    items[i].name = "\xff";
    items[i].name_length = 1;
    FAILS_INTO(out, ANY_FAILURE, t2lc_open_bytes(items, count, NULL, &out, &error));
    items[i] = whole;
  }
  WORKS(t2lc_open_bytes(items, count, NULL, &out, &error));
  still_the_same(out);
  t2lc_compiler_free(out);
}

/* All files in one, none of them at the start of a page. */
static void wrong_ranges(void) {
  t2lc_file_range ranges[MAX_FILES], *first = &ranges[0];
  t2lc_compiler *out = NULL;
  size_t count = files.count;
  int descriptor = memfd_create("bundle", 0);
  CHECK(descriptor >= 0);
  uint64_t offset = 0;
  for (size_t i = 0; i < count; i++) {
    const t2lc_file_bytes *item = &files.items[i];
    CHECK(write(descriptor, "unaligned", 9) == 9);
    CHECK(write(descriptor, item->bytes, item->size) == (ssize_t)item->size);
    ranges[i] = (t2lc_file_range){.name = item->name,
                                  .name_length = item->name_length,
                                  .descriptor = descriptor,
                                  .offset = offset + 9,
                                  .size = item->size};
    offset = ranges[i].offset + ranges[i].size;
  }
  t2lc_file_range whole = *first;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_ranges(NULL, 1, NULL, &out, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_open_ranges(ranges, count, NULL, NULL, &error));
  FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_ranges(ranges, 0, NULL, &out, &error));
  first->descriptor = -1;
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_ranges(ranges, count, NULL, &out, &error));
  first->descriptor = INT32_MAX;
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_ranges(ranges, count, NULL, &out, &error));
  *first = whole;
  first->offset = offset; /* would be read past the end of the file */
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_ranges(ranges, count, NULL, &out, &error));
  first->offset = UINT64_MAX - 4095;
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_ranges(ranges, count, NULL, &out, &error));
  *first = whole;
  first->size = UINT64_MAX;
  FAILS_INTO(out, ANY_FAILURE, t2lc_open_ranges(ranges, count, NULL, &out, &error));
  *first = whole;
  first->offset += 1;
  FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_ranges(ranges, count, NULL, &out, &error));
  *first = whole;
  WORKS(t2lc_open_ranges(ranges, count, NULL, &out, &error));
  close(descriptor);
  still_the_same(out);
  t2lc_compiler_free(out);
}

/* What the callbacks of a reader do. */
static struct {
  int64_t size; /* what size says, unless 0 */
  bool unreadable, closed;
} reading;

static int64_t size_of(const char *name, size_t name_length, void *context) {
  CHECK(context == &reading && !reading.closed);
  const t2lc_file_bytes *file = file_named(name, name_length);
  return reading.size != 0 ? reading.size : file == NULL ? -1 : (int64_t)file->size;
}

static bool read_into(const char *name, size_t name_length, uint64_t offset, uint8_t *into,
                      size_t length, void *context) {
  CHECK(context == &reading && !reading.closed);
  const t2lc_file_bytes *file = file_named(name, name_length);
  if (reading.unreadable || file == NULL || offset > file->size || length > file->size - offset) {
    return false;
  }
  memcpy(into, file->bytes + offset, length);
  return true;
}

static void wrong_readers(void) {
  t2lc_compiler *out = NULL;
  const t2lc_reader whole = {sizeof whole, size_of, read_into, &reading};
  t2lc_reader reader = whole;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_reader(NULL, NULL, &out, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_open_reader(&reader, NULL, NULL, &error));
  reader.struct_size = 4;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_reader(&reader, NULL, &out, &error));
  reader = whole;
  reader.size = NULL;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_reader(&reader, NULL, &out, &error));
  reader = whole;
  reader.read = NULL;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_open_reader(&reader, NULL, &out, &error));
  reader = whole;
  const int64_t sizes[] = {-1, INT64_MIN, 1, INT64_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    reading.size = sizes[i];
    FAILS_INTO(out, ANY_FAILURE, t2lc_open_reader(&reader, NULL, &out, &error));
  }
  reading.size = 0;
  reading.unreadable = true;
  FAILS_INTO(out, T2LC_ERROR_BUNDLE, t2lc_open_reader(&reader, NULL, &out, &error));
  reading.unreadable = false;
  WORKS(t2lc_open_reader(&reader, NULL, &out, &error));
  reading.closed = true; /* nothing may be read from here on */
  still_the_same(out);
  t2lc_compiler_free(out);
}

/* ---- errors: compiling ---- */

/* Watches the callbacks of one compile, and cancels at the first one of a stage. */
struct watch {
  pthread_t thread;
  uint32_t cancel_at, stage;
  uint64_t done;
  unsigned calls[STAGES + 1];
  bool cancelled;
};

static bool watch(uint32_t stage, uint64_t done, uint64_t total, void *context) {
  struct watch *watch = context;
  CHECK(pthread_equal(watch->thread, pthread_self()));
  CHECK(!watch->cancelled); /* no call after the one that cancelled */
  CHECK(stage >= 1 && stage <= STAGES && stage >= watch->stage && done <= total);
  CHECK(stage > watch->stage || done >= watch->done);
  watch->stage = stage;
  watch->done = done;
  watch->calls[stage]++;
  watch->cancelled = stage == watch->cancel_at;
  return !watch->cancelled;
}

static void cancelled(void) {
  t2lc_adapter *out = NULL;
  t2lc_compile_options options;
  CHECK(t2lc_compile_options_init(&options, sizeof options) == T2LC_OK);
  options.progress = watch;
  for (uint32_t stage = 1; stage <= STAGES; stage++) {
    struct watch context = {.thread = pthread_self(), .cancel_at = stage};
    options.context = &context;
    FAILS_INTO(out, T2LC_ERROR_CANCELLED,
               t2lc_compile(good, TEXT(DESCRIPTION), &options, &out, &error));
    CHECK(context.cancelled);
  }
  struct watch context = {.thread = pthread_self()};
  options.context = &context;
  WORKS(t2lc_compile(good, TEXT(DESCRIPTION), &options, &out, &error));
  for (uint32_t stage = 1; stage <= STAGES; stage++) {
    CHECK(context.calls[stage] > 0);
  }
  CHECK(same_bytes(out, expected));
  t2lc_adapter_free(out);
}

static void wrong_compiles(void) {
  t2lc_adapter *out;
  t2lc_similarity *near;
  static char long_text[1 << 20];
  memset(long_text, 'x', sizeof long_text);
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_compile(good, NULL, 1, NULL, &out, &error));
  FAILS_INTO(out, ANY_FAILURE, t2lc_compile(good, NULL, 0, NULL, &out, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_compile(good, TEXT("x"), NULL, NULL, &error));
  CHECK(t2lc_compile(NULL, NULL, 0, NULL, NULL, NULL) == T2LC_ERROR_ARGUMENT);
  FAILS_INTO(out, ANY_FAILURE, t2lc_compile(good, "x", SIZE_MAX, NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_compile(good, TEXT("\xff"), NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT,
             t2lc_compile(good, TEXT("cut: \xe6\xac"), NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_DESCRIPTION, t2lc_compile(good, TEXT(""), NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_DESCRIPTION, t2lc_compile(good, TEXT(" \n"), NULL, &out, &error));
  FAILS_INTO(out, T2LC_ERROR_DESCRIPTION,
             t2lc_compile(good, long_text, sizeof long_text, NULL, &out, &error));

  t2lc_compile_options options;
  const uint32_t sizes[] = {0, 1, sizeof options - 1};
  CHECK(t2lc_compile_options_init(NULL, sizeof options) == T2LC_ERROR_ARGUMENT);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    CHECK(t2lc_compile_options_init(&options, sizes[i]) == T2LC_ERROR_ARGUMENT);
    CHECK(t2lc_compile_options_init(&options, sizeof options) == T2LC_OK);
    options.struct_size = sizes[i];
    FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_compile(good, TEXT("x"), &options, &out, &error));
  }
  CHECK(t2lc_compile_options_init(&options, sizeof options) == T2LC_OK);
  const t2lc_compile_options defaults = options;
  options.format = 99;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_compile(good, TEXT("x"), &options, &out, &error));
  options = defaults;
  options.quantization = 99;
  FAILS_INTO(out, T2LC_ERROR_ARGUMENT, t2lc_compile(good, TEXT("x"), &options, &out, &error));
  options = defaults;
  options.format = T2LC_FORMAT_PEFT; /* has no blocks */
  options.quantization = T2LC_QUANTIZATION_Q8_0;
  FAILS_INTO(out, ANY_FAILURE, t2lc_compile(good, TEXT("x"), &options, &out, &error));
  const float scales[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
    options = defaults;
    options.scale = scales[i];
    FAILS_INTO(out, ANY_FAILURE, t2lc_compile(good, TEXT("x"), &options, &out, &error));
  }

  FAILS_INTO(near, T2LC_ERROR_ARGUMENT, t2lc_nearest(good, NULL, 1, 1, &near, &error));
  FAILS_INTO(near, T2LC_ERROR_ARGUMENT, t2lc_nearest(good, TEXT("\xff"), 1, &near, &error));
  FAILS_INTO(near, T2LC_ERROR_DESCRIPTION, t2lc_nearest(good, TEXT(""), 1, &near, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_nearest(good, TEXT("x"), 1, NULL, &error));
  const size_t counts[] = {0, SIZE_MAX}; /* either is nothing, everything or an error */
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    near = NULL;
    FAILS(ANYTHING, t2lc_nearest(good, TEXT("x"), counts[i], &near, &error));
    CHECK(t2lc_similarity_task(near, t2lc_similarity_count(near)) == NULL);
    CHECK(t2lc_similarity_task(near, SIZE_MAX) == NULL);
    CHECK(isnan(t2lc_similarity_cosine(near, SIZE_MAX)));
    t2lc_similarity_free(near);
  }
}

/* ---- errors: reading and writing adapters ---- */

static void wrong_files(t2lc_adapter *adapter, size_t count, const char *folder) {
  size_t size;
  char path[PATH_MAX], inside[PATH_MAX + 256];
  int length = snprintf(path, sizeof path, "%s/adapter-%zu", folder, count);
  CHECK(t2lc_adapter_file_count(adapter) == count);
  CHECK(t2lc_adapter_file_name(adapter, count) == NULL);
  CHECK(t2lc_adapter_file_name(adapter, SIZE_MAX) == NULL);
  CHECK(t2lc_adapter_file_bytes(adapter, count, &size) == NULL);
  CHECK(t2lc_adapter_file_bytes(adapter, SIZE_MAX, &size) == NULL);
  (void)t2lc_adapter_file_bytes(adapter, 0, NULL); /* must not crash */

  FAILS(T2LC_ERROR_ARGUMENT, t2lc_adapter_write(adapter, NULL, 1, false, &error));
  FAILS(T2LC_ERROR_ARGUMENT, t2lc_adapter_write(adapter, TEXT("\xff"), false, &error));
  FAILS(ANY_FAILURE, t2lc_adapter_write(adapter, path, SIZE_MAX, false, &error));
  FAILS(T2LC_ERROR_OUTPUT, t2lc_adapter_write(adapter, TEXT("/dev/null/x"), true, &error));
  WORKS(t2lc_adapter_write(adapter, path, (size_t)length, false, &error));
  FAILS(T2LC_ERROR_OUTPUT, t2lc_adapter_write(adapter, path, (size_t)length, false, &error));
  WORKS(t2lc_adapter_write(adapter, path, (size_t)length, true, &error));

  for (size_t i = 0; i < count; i++) {
    const uint8_t *bytes = t2lc_adapter_file_bytes(adapter, i, &size);
    snprintf(inside, sizeof inside, "%s/%s", path, t2lc_adapter_file_name(adapter, i));
    const char *name = count == 1 ? path : inside;
    uint8_t *written = malloc(size + 1);
    FILE *file = fopen(name, "rb");
    CHECK(written != NULL && file != NULL && fread(written, 1, size + 1, file) == size);
    CHECK(memcmp(written, bytes, size) == 0);
    fclose(file);
    free(written);
    CHECK(unlink(name) == 0);
  }
  /* Not even a temporary file is left. */
  CHECK(count == 1 || rmdir(path) == 0);
}

static void wrong_adapters(void) {
  const char *base = getenv("TMPDIR");
  char folder[PATH_MAX];
  snprintf(folder, sizeof folder, "%s/soak-XXXXXX", base == NULL ? "/tmp" : base);
  CHECK(mkdtemp(folder) != NULL);
  t2lc_adapter *peft = NULL;
  t2lc_compile_options options;
  CHECK(t2lc_compile_options_init(&options, sizeof options) == T2LC_OK);
  options.format = T2LC_FORMAT_PEFT;
  WORKS(t2lc_compile(good, TEXT(DESCRIPTION), &options, &peft, &error));
  wrong_files(peft, 2, folder);
  wrong_files(expected, 1, folder);
  t2lc_adapter_free(peft);
  CHECK(rmdir(folder) == 0);
}

static void errors(const char *bundle) {
  CHECK(t2lc_abi_version() == T2LC_ABI_VERSION);
  CHECK(t2lc_version() != NULL && t2lc_version()[0] != '\0');
  good = open_bundle(bundle, NULL);
  expected = compile(good, DESCRIPTION);
  read_files(bundle);
  wrong_handles(bundle);
  wrong_options(bundle);
  wrong_directories(bundle);
  wrong_bytes();
  wrong_ranges();
  wrong_readers();
  wrong_compiles();
  cancelled();
  wrong_adapters();
  still_the_same(good);
  printf("errors: %u calls were refused, the compiler makes %s as before\n", failures,
         t2lc_adapter_content(expected));
  t2lc_adapter_free(expected);
  t2lc_compiler_free(good);
  for (size_t i = 0; i < files.count; i++) {
    free((void *)(uintptr_t)files.items[i].bytes);
  }
}

/* ---- threads ---- */

struct worker {
  pthread_t thread;
  const t2lc_compiler *compiler;
  t2lc_adapter *const *references;
  unsigned number, compiles;
};

static void *work(void *context) {
  const struct worker *worker = context;
  for (unsigned i = 0; i < worker->compiles; i++) {
    unsigned which = (worker->number + i) % N_DESCRIPTIONS;
    t2lc_adapter *adapter = compile(worker->compiler, DESCRIPTIONS[which]);
    if (!same_bytes(adapter, worker->references[which])) {
      finding(__LINE__, "thread %u, compile %u: other bytes", worker->number, i);
    }
    t2lc_adapter_free(adapter);
  }
  return NULL;
}

static atomic_uint compiled_in_race;

/* Compiles until the handle is refused, which is the only failure there may be. */
static void *work_until_freed(void *context) {
  const struct worker *worker = context;
  for (;;) {
    t2lc_error *error = NULL;
    t2lc_adapter *adapter = NULL;
    t2lc_status status =
        t2lc_compile(worker->compiler, TEXT(DESCRIPTION), NULL, &adapter, &error);
    if (status != T2LC_OK) {
      CHECK(status == T2LC_ERROR_ARGUMENT && adapter == NULL);
      t2lc_error_free(error);
      return NULL;
    }
    CHECK(same_bytes(adapter, worker->references[0]));
    t2lc_adapter_free(adapter);
    atomic_fetch_add(&compiled_in_race, 1);
  }
}

static void start(struct worker *workers, unsigned count, void *(*run)(void *)) {
  for (unsigned i = 0; i < count; i++) {
    CHECK(pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0);
  }
}

static void join(struct worker *workers, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    CHECK(pthread_join(workers[i].thread, NULL) == 0);
  }
}

static void threads(const char *bundle, unsigned count, unsigned compiles) {
  t2lc_compiler *compiler = open_bundle(bundle, NULL);
  t2lc_adapter *references[N_DESCRIPTIONS];
  for (unsigned i = 0; i < N_DESCRIPTIONS; i++) {
    references[i] = compile(compiler, DESCRIPTIONS[i]);
  }
  struct worker workers[MAX_THREADS];
  for (unsigned i = 0; i < count; i++) {
    workers[i] = (struct worker){
        .compiler = compiler, .references = references, .number = i, .compiles = compiles};
  }
  start(workers, count, work);
  join(workers, count);

  start(workers, count, work_until_freed);
  while (atomic_load(&compiled_in_race) < count) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
  t2lc_compiler_free(compiler);
  join(workers, count);
  for (unsigned i = 0; i < N_DESCRIPTIONS; i++) {
    t2lc_adapter_free(references[i]);
  }
  printf("threads: %u x %u compiles gave the same bytes; freed under %u running threads\n", count,
         compiles, count);
}

/* ---- memory and time ---- */

/* A line of /proc/self/status in KiB. */
static long status_kib(const char *name) {
  char line[256];
  long kib = -1;
  FILE *file = fopen("/proc/self/status", "r");
  CHECK(file != NULL);
  while (kib < 0 && fgets(line, sizeof line, file) != NULL) {
    size_t length = strlen(name);
    if (strncmp(line, name, length) == 0 && line[length] == ':') {
      kib = strtol(line + length + 1, NULL, 10);
    }
  }
  fclose(file);
  if (kib < 0) {
    finding(__LINE__, "/proc/self/status has no %s", name);
  }
  return kib;
}

/* What the process holds: bytes that the allocator has handed out, address space, open files. Resident
 * memory would not do: it also counts what the allocator keeps, which grows in steps for a while. */
struct held {
  size_t heap_bytes;
  long address_kib;
  unsigned files;
};

static struct held held_now(void) {
  struct mallinfo2 heap = mallinfo2();
  struct held held = {.heap_bytes = heap.uordblks + heap.hblkhd, .address_kib = status_kib("VmSize")};
  DIR *files = opendir("/proc/self/fd");
  CHECK(files != NULL);
  while (readdir(files) != NULL) {
    held.files++;
  }
  closedir(files);
  return held;
}

/* Freed memory that the allocator's caches keep counts as handed out, so they have to be off:
 * GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0. Of address space, a mapped bundle
 * has 40 MB, a thread's stack 2 MiB, and a new arena of the allocator 64 MiB. */
enum { N_SETTLING = 100, HEAP_ALLOWED_BYTES = 4096, ADDRESS_ALLOWED_KIB = 160 << 10 };

static void reopen(const char *bundle, unsigned count) {
  struct held early = {0};
  for (unsigned i = 0; i < count; i++) {
    t2lc_compiler_free(open_bundle(bundle, NULL));
    if (i == count / 10) {
      early = held_now();
    }
  }
  struct held late = held_now();
  long heap = (long)late.heap_bytes - (long)early.heap_bytes;
  long address = late.address_kib - early.address_kib;
  if (late.files != early.files) {
    finding(__LINE__, "reopen: %u files open after a tenth of %u, %u at the end", early.files, count,
            late.files);
  }
  if (count >= N_SETTLING && (heap >= HEAP_ALLOWED_BYTES || address >= ADDRESS_ALLOWED_KIB)) {
    finding(__LINE__, "reopen: after a tenth of %u the heap grew by %ld bytes, address space by %ld KiB",
            count, heap, address);
  }
  printf("reopen: after a tenth of %u the heap grew by %ld bytes, address space by %ld KiB\n", count,
         heap, address);
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The kernel keeps the peak of all memory, but not of what belongs to the process alone, so that is
 * looked at every half millisecond. */
static atomic_long peak_anonymous, peak_file;
static atomic_bool stop_sampling;

static void sample(void) {
  long anonymous = status_kib("RssAnon"), file = status_kib("RssFile");
  if (anonymous > atomic_load(&peak_anonymous)) {
    atomic_store(&peak_anonymous, anonymous);
  }
  if (file > atomic_load(&peak_file)) {
    atomic_store(&peak_file, file);
  }
}

static void *sampler(void *context) {
  while (!atomic_load(&stop_sampling)) {
    sample();
    nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
  }
  return context;
}

static int ascending(const void *one, const void *other) {
  double a = *(const double *)one, b = *(const double *)other;
  return (a > b) - (a < b);
}

static void measure(const char *bundle, unsigned count, const char *backend, unsigned n_threads) {
  static const char *const backends[] = {"auto", "exact", "tract", "ort"};
  t2lc_open_options options;
  CHECK(t2lc_open_options_init(&options, sizeof options) == T2LC_OK);
  options.threads = n_threads;
  while (strcmp(backends[options.backend], backend) != 0) {
    if (++options.backend == sizeof backends / sizeof *backends) {
      finding(__LINE__, "there is no backend %s", backend);
    }
  }
  double *times = malloc(count * sizeof *times);
  CHECK(times != NULL);

  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, sampler, NULL) == 0);
  double started = now_ms();
  t2lc_compiler *compiler = open_bundle(bundle, &options);
  double opened = now_ms();
  t2lc_adapter *adapter = compile(compiler, DESCRIPTION);
  double cold = now_ms();
  atomic_store(&stop_sampling, true);
  CHECK(pthread_join(thread, NULL) == 0);
  long peak = status_kib("VmHWM");
  t2lc_adapter_free(adapter);

  for (unsigned i = 0; i < count; i++) {
    double before = now_ms();
    t2lc_adapter_free(compile(compiler, DESCRIPTION));
    times[i] = now_ms() - before;
  }
  qsort(times, count, sizeof *times, ascending);
  printf("{\"backend\": \"%s\", \"open_ms\": %.1f, \"cold_ms\": %.1f, \"warm_ms\": %.1f, "
         "\"warm_compiles\": %u, \"cold_peak_kib\": %ld, \"cold_peak_anonymous_kib\": %ld, "
         "\"cold_peak_file_kib\": %ld, \"peak_kib\": %ld}\n",
         t2lc_compiler_backend(compiler), opened - started, cold - started, times[count / 2], count,
         peak, atomic_load(&peak_anonymous), atomic_load(&peak_file), status_kib("VmHWM"));
  free(times);
  t2lc_compiler_free(compiler);
}

/* ---- arguments ---- */

static int usage(void) {
  fprintf(stderr, "usage: soak BUNDLE_DIR errors [EVERY] | threads [T] [N] | reopen [N] | "
                  "time [N] [BACKEND] [THREADS]\n");
  return 2;
}

/* A positive number, or what holds without one; 0 if it is neither. */
static unsigned number(const char *text, unsigned otherwise, unsigned most) {
  if (text == NULL) {
    return otherwise;
  }
  char *end;
  unsigned long value = strtoul(text, &end, 10);
  return *end != '\0' || value > most ? 0 : (unsigned)value;
}

int main(int argc, char **argv) {
  if (argc < 3 || argc > 6) {
    return usage();
  }
  const char *bundle = argv[1], *part = argv[2];
  const char *first = argc > 3 ? argv[3] : NULL, *second = argc > 4 ? argv[4] : NULL;
  const char *third = argc > 5 ? argv[5] : NULL;
  if (strcmp(part, "errors") == 0 && (every = number(first, 1, MAX_COMPILES)) > 0) {
    errors(bundle);
  } else if (strcmp(part, "threads") == 0) {
    unsigned count = number(first, 4, MAX_THREADS), compiles = number(second, 100, MAX_COMPILES);
    if (count == 0 || compiles == 0) {
      return usage();
    }
    threads(bundle, count, compiles);
  } else if (strcmp(part, "reopen") == 0 && number(first, 1000, MAX_COMPILES) > 0) {
    reopen(bundle, number(first, 1000, MAX_COMPILES));
  } else if (strcmp(part, "time") == 0 && number(first, 25, MAX_COMPILES) > 0) {
    measure(bundle, number(first, 25, MAX_COMPILES), second == NULL ? "auto" : second,
            number(third, 0, MAX_THREADS));
  } else {
    return usage();
  }
  return 0;
}
