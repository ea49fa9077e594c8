/* The native half of dev.t2lc.T2lcNative: JNI over the C interface in t2lc.h.
 *
 * - A handle is a jlong. Text goes both ways as a byte[] of UTF-8, never as a jstring: JNI's own
 *   conversion is to modified UTF-8, which differs for NUL and for all beyond 16 bits.
 * - A call that fails throws dev.t2lc.T2lcException. An exception that a callback into Java throws
 *   ends the call and comes out of it.
 * - Arguments named owner are the Java object that closes the handle: while they are arguments of a
 *   running call, the object is not collected and so the handle not freed.
 */

#include <jni.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "t2lc.h"

/* Bytes that a BundleReader is asked for at once. */
enum { CHUNK = 1 << 20 };

/* Set once when the library is loaded. */
static struct {
  jclass natives;
  jmethodID progress, reader_size, reader_read;
  jclass exception;
  jmethodID exception_init;
} ids;

/* ---- errors ---- */

static void throw_named(JNIEnv *env, const char *class_name, const char *message) {
  jclass class = (*env)->FindClass(env, class_name);
  if (class != NULL) {
    (*env)->ThrowNew(env, class, message);
    (*env)->DeleteLocalRef(env, class);
  }
}

static void throw_memory(JNIEnv *env) {
  throw_named(env, "java/lang/OutOfMemoryError", "t2lc: arguments of a call");
}

/* A byte[] of bytes; NULL with a Java exception if there is no room. */
static jbyteArray to_array(JNIEnv *env, const void *bytes, size_t size) {
  if (size > INT32_MAX) {
    throw_named(env, "java/lang/OutOfMemoryError", "t2lc: more than an array holds");
    return NULL;
  }
  jbyteArray array = (*env)->NewByteArray(env, (jsize)size);
  if (array != NULL && size > 0) {
    (*env)->SetByteArrayRegion(env, array, 0, (jsize)size, bytes);
  }
  return array;
}

/* The UTF-8 of text, NULL for NULL. */
static jbyteArray to_utf8(JNIEnv *env, const char *text) {
  return text == NULL ? NULL : to_array(env, text, strlen(text));
}

/* Throws what a failed call stored, and frees it. */
static void throw_error(JNIEnv *env, t2lc_status status, t2lc_error *error) {
  jbyteArray code = to_utf8(env, t2lc_error_code(error));
  jbyteArray message =
      (*env)->ExceptionCheck(env) ? NULL : to_utf8(env, t2lc_error_message(error));
  t2lc_error_free(error);
  if ((*env)->ExceptionCheck(env)) {
    return;
  }
  jthrowable thrown = (*env)->NewObject(env, ids.exception, ids.exception_init, (jint)status, code,
                                        message);
  if (thrown != NULL) {
    (*env)->Throw(env, thrown);
  }
}

/* Whether a call worked and no callback threw; otherwise a Java exception is pending. */
static bool worked(JNIEnv *env, t2lc_status status, t2lc_error *error) {
  if ((*env)->ExceptionCheck(env)) {
    /* What a callback threw says more than that the call was cancelled. */
    if (status != T2LC_OK) {
      t2lc_error_free(error);
    }
    return false;
  }
  if (status != T2LC_OK) {
    throw_error(env, status, error);
    return false;
  }
  return true;
}

/* ---- arguments ---- */

/* The bytes of a byte[], until they are given back. */
typedef struct bytes {
  jbyteArray array;
  jbyte *start;
  size_t size;
} bytes;

/* False with a Java exception if they cannot be had. A null array is NULL and 0. */
static bool take(JNIEnv *env, jbyteArray array, bytes *taken) {
  *taken = (bytes){.array = array};
  if (array == NULL) {
    return true;
  }
  /* Not GetPrimitiveArrayCritical: a call may be long, and then no garbage could be collected. */
  taken->start = (*env)->GetByteArrayElements(env, array, NULL);
  if (taken->start == NULL) {
    if (!(*env)->ExceptionCheck(env)) {
      throw_memory(env);
    }
    return false;
  }
  taken->size = (size_t)(*env)->GetArrayLength(env, array);
  return true;
}

/* Allowed while an exception is pending, and for what was never taken. */
static void give_back(JNIEnv *env, bytes *taken) {
  if (taken->start != NULL) {
    (*env)->ReleaseByteArrayElements(env, taken->array, taken->start, JNI_ABORT);
    taken->start = NULL;
  }
}

static const char *text(const bytes *taken) { return (const char *)taken->start; }

/* Several byte[]. */
typedef struct list {
  size_t count;
  bytes *items;
} list;

static void give_back_list(JNIEnv *env, list *taken) {
  for (size_t i = 0; taken->items != NULL && i < taken->count; i++) {
    give_back(env, &taken->items[i]);
    (*env)->DeleteLocalRef(env, taken->items[i].array);
  }
  free(taken->items);
  taken->items = NULL;
}

static bool take_list(JNIEnv *env, jobjectArray arrays, list *taken) {
  jsize count = (*env)->GetArrayLength(env, arrays);
  taken->count = (size_t)count;
  /* One more, because calloc of nothing may be NULL. */
  taken->items = calloc((size_t)count + 1, sizeof *taken->items);
  if (taken->items == NULL) {
    throw_memory(env);
    return false;
  }
  if ((*env)->EnsureLocalCapacity(env, count + 16) != 0) {
    return false;
  }
  for (jsize i = 0; i < count; i++) {
    jbyteArray array = (*env)->GetObjectArrayElement(env, arrays, i);
    if ((*env)->ExceptionCheck(env) || !take(env, array, &taken->items[i])) {
      return false;
    }
  }
  return true;
}

static t2lc_compiler *to_compiler(jlong handle) { return (t2lc_compiler *)(uintptr_t)handle; }
static t2lc_adapter *to_adapter(jlong handle) { return (t2lc_adapter *)(uintptr_t)handle; }
static t2lc_similarity *to_similarity(jlong handle) { return (t2lc_similarity *)(uintptr_t)handle; }
static jlong to_jlong(const void *handle) { return (jlong)(uintptr_t)handle; }

/* ---- opening ---- */

/* Fills in the options; the provider's name has to be given back. */
static bool open_options(JNIEnv *env, jint backend, jint threads, jbyteArray provider, bytes *name,
                         t2lc_open_options *options) {
  t2lc_status status = t2lc_open_options_init(options, sizeof *options);
  if (status != T2LC_OK) {
    throw_error(env, status, NULL);
    return false;
  }
  if (!take(env, provider, name)) {
    return false;
  }
  options->backend = (uint32_t)backend;
  options->threads = (uint32_t)threads;
  options->provider = text(name);
  options->provider_length = name->size;
  return true;
}

/* The handle for Java, 0 with an exception. */
static jlong opened(JNIEnv *env, t2lc_status status, t2lc_compiler *compiler, t2lc_error *error) {
  if (worked(env, status, error)) {
    return to_jlong(compiler);
  }
  t2lc_compiler_free(compiler);
  return 0;
}

static jlong JNICALL native_open_directory(JNIEnv *env, jclass class, jbyteArray path, jint backend,
                                           jint threads, jbyteArray provider) {
  (void)class;
  jlong handle = 0;
  bytes where = {0}, name = {0};
  t2lc_open_options options;
  if (take(env, path, &where) && open_options(env, backend, threads, provider, &name, &options)) {
    t2lc_compiler *compiler = NULL;
    t2lc_error *error = NULL;
    t2lc_status status =
        t2lc_open_directory(text(&where), where.size, &options, &compiler, &error);
    handle = opened(env, status, compiler, error);
  }
  give_back(env, &name);
  give_back(env, &where);
  return handle;
}

static jlong JNICALL native_open_bytes(JNIEnv *env, jclass class, jobjectArray names,
                                       jobjectArray contents, jint backend, jint threads,
                                       jbyteArray provider) {
  (void)class;
  jlong handle = 0;
  list taken_names = {0}, taken_contents = {0};
  bytes name = {0};
  t2lc_open_options options;
  t2lc_file_bytes *files = NULL;
  if (!take_list(env, names, &taken_names) || !take_list(env, contents, &taken_contents) ||
      !open_options(env, backend, threads, provider, &name, &options)) {
    goto end;
  }
  files = calloc(taken_names.count + 1, sizeof *files);
  if (files == NULL) {
    throw_memory(env);
    goto end;
  }
  for (size_t i = 0; i < taken_names.count; i++) {
    files[i] = (t2lc_file_bytes){
        .name = text(&taken_names.items[i]),
        .name_length = taken_names.items[i].size,
        .bytes = (const uint8_t *)taken_contents.items[i].start,
        .size = taken_contents.items[i].size,
    };
  }
  t2lc_compiler *compiler = NULL;
  t2lc_error *error = NULL;
  t2lc_status status = t2lc_open_bytes(files, taken_names.count, &options, &compiler, &error);
  handle = opened(env, status, compiler, error);
end:
  free(files);
  give_back(env, &name);
  give_back_list(env, &taken_contents);
  give_back_list(env, &taken_names);
  return handle;
}

static jlong JNICALL native_open_ranges(JNIEnv *env, jclass class, jobjectArray names,
                                        jintArray descriptors, jlongArray offsets, jlongArray sizes,
                                        jint backend, jint threads, jbyteArray provider) {
  (void)class;
  jlong handle = 0;
  list taken_names = {0};
  bytes name = {0};
  t2lc_open_options options;
  t2lc_file_range *files = NULL;
  if (!take_list(env, names, &taken_names) ||
      !open_options(env, backend, threads, provider, &name, &options)) {
    goto end;
  }
  files = calloc(taken_names.count + 1, sizeof *files);
  if (files == NULL) {
    throw_memory(env);
    goto end;
  }
  for (size_t i = 0; i < taken_names.count; i++) {
    jint descriptor = -1;
    jlong offset = 0, size = 0;
    (*env)->GetIntArrayRegion(env, descriptors, (jsize)i, 1, &descriptor);
    if ((*env)->ExceptionCheck(env)) {
      goto end;
    }
    (*env)->GetLongArrayRegion(env, offsets, (jsize)i, 1, &offset);
    if ((*env)->ExceptionCheck(env)) {
      goto end;
    }
    (*env)->GetLongArrayRegion(env, sizes, (jsize)i, 1, &size);
    if ((*env)->ExceptionCheck(env)) {
      goto end;
    }
    files[i] = (t2lc_file_range){
        .name = text(&taken_names.items[i]),
        .name_length = taken_names.items[i].size,
        .descriptor = descriptor,
        .offset = (uint64_t)offset,
        .size = (uint64_t)size,
    };
  }
  t2lc_compiler *compiler = NULL;
  t2lc_error *error = NULL;
  t2lc_status status = t2lc_open_ranges(files, taken_names.count, &options, &compiler, &error);
  handle = opened(env, status, compiler, error);
end:
  free(files);
  give_back(env, &name);
  give_back_list(env, &taken_names);
  return handle;
}

/* What the two functions of a t2lc_reader need; env is that of the thread that opens. */
typedef struct reader_context {
  JNIEnv *env;
  jobject reader;
  /* CHUNK bytes that a BundleReader fills: an array, because a ByteBuffer over the library's own
   * memory could be kept and used after the call. */
  jbyteArray chunk;
} reader_context;

static int64_t reader_size(const char *name, size_t name_length, void *context) {
  reader_context *own = context;
  JNIEnv *env = own->env;
  if ((*env)->ExceptionCheck(env)) {
    return -1;
  }
  jbyteArray utf8 = to_array(env, name, name_length);
  if (utf8 == NULL) {
    return -1;
  }
  jlong size =
      (*env)->CallStaticLongMethod(env, ids.natives, ids.reader_size, own->reader, utf8);
  bool threw = (*env)->ExceptionCheck(env);
  (*env)->DeleteLocalRef(env, utf8);
  return threw ? -1 : size;
}

static bool reader_read(const char *name, size_t name_length, uint64_t offset, uint8_t *into,
                        size_t length, void *context) {
  reader_context *own = context;
  JNIEnv *env = own->env;
  if ((*env)->ExceptionCheck(env)) {
    return false;
  }
  if (own->chunk == NULL) {
    own->chunk = (*env)->NewByteArray(env, CHUNK);
  }
  jbyteArray utf8 = own->chunk == NULL ? NULL : to_array(env, name, name_length);
  if (utf8 == NULL) {
    return false;
  }
  bool threw = false;
  while (length > 0 && !threw) {
    size_t part = length < CHUNK ? length : CHUNK;
    (*env)->CallStaticVoidMethod(env, ids.natives, ids.reader_read, own->reader, utf8,
                                 (jlong)offset, own->chunk, (jint)part);
    threw = (*env)->ExceptionCheck(env);
    if (!threw) {
      (*env)->GetByteArrayRegion(env, own->chunk, 0, (jsize)part, (jbyte *)into);
      threw = (*env)->ExceptionCheck(env);
      into += part;
      offset += part;
      length -= part;
    }
  }
  (*env)->DeleteLocalRef(env, utf8);
  return !threw;
}

static jlong JNICALL native_open_reader(JNIEnv *env, jclass class, jobject reader, jint backend,
                                        jint threads, jbyteArray provider) {
  (void)class;
  jlong handle = 0;
  bytes name = {0};
  t2lc_open_options options;
  if (open_options(env, backend, threads, provider, &name, &options)) {
    reader_context context = {.env = env, .reader = reader};
    t2lc_reader functions = {
        .struct_size = sizeof functions,
        .size = reader_size,
        .read = reader_read,
        .context = &context,
    };
    t2lc_compiler *compiler = NULL;
    t2lc_error *error = NULL;
    t2lc_status status = t2lc_open_reader(&functions, &options, &compiler, &error);
    handle = opened(env, status, compiler, error);
  }
  give_back(env, &name);
  return handle;
}

static void JNICALL native_free_compiler(JNIEnv *env, jclass class, jlong compiler) {
  (void)env, (void)class;
  t2lc_compiler_free(to_compiler(compiler));
}

static jbyteArray JNICALL native_compiler_manifest(JNIEnv *env, jclass class, jlong compiler) {
  (void)class;
  return to_utf8(env, t2lc_compiler_manifest(to_compiler(compiler)));
}

static jbyteArray JNICALL native_compiler_digest(JNIEnv *env, jclass class, jlong compiler) {
  (void)class;
  return to_utf8(env, t2lc_compiler_bundle_digest(to_compiler(compiler)));
}

static jbyteArray JNICALL native_compiler_backend(JNIEnv *env, jclass class, jlong compiler) {
  (void)class;
  return to_utf8(env, t2lc_compiler_backend(to_compiler(compiler)));
}

/* ---- compiling ---- */

/* What the progress callback needs; env is that of the thread that compiles. */
typedef struct progress_context {
  JNIEnv *env;
  jobject progress;
} progress_context;

static bool on_progress(uint32_t stage, uint64_t done, uint64_t total, void *context) {
  progress_context *own = context;
  JNIEnv *env = own->env;
  if ((*env)->ExceptionCheck(env)) {
    return false;
  }
  jboolean go_on =
      (*env)->CallStaticBooleanMethod(env, ids.natives, ids.progress, own->progress, (jint)stage,
                                      (jlong)done, (jlong)total);
  return !(*env)->ExceptionCheck(env) && go_on;
}

static jlong JNICALL native_compile(JNIEnv *env, jclass class, jobject owner, jlong compiler,
                                    jbyteArray description, jint format, jint quantization,
                                    jfloat scale, jobject progress) {
  (void)class, (void)owner;
  t2lc_compile_options options;
  t2lc_status status = t2lc_compile_options_init(&options, sizeof options);
  if (status != T2LC_OK) {
    throw_error(env, status, NULL);
    return 0;
  }
  bytes utf8;
  if (!take(env, description, &utf8)) {
    return 0;
  }
  progress_context context = {.env = env, .progress = progress};
  options.format = (uint32_t)format;
  options.quantization = (uint32_t)quantization;
  options.scale = scale;
  if (progress != NULL) {
    options.progress = on_progress;
    options.context = &context;
  }
  t2lc_adapter *adapter = NULL;
  t2lc_error *error = NULL;
  status = t2lc_compile(to_compiler(compiler), text(&utf8), utf8.size, &options, &adapter, &error);
  give_back(env, &utf8);
  if (worked(env, status, error)) {
    return to_jlong(adapter);
  }
  t2lc_adapter_free(adapter);
  return 0;
}

static jlong JNICALL native_nearest(JNIEnv *env, jclass class, jobject owner, jlong compiler,
                                    jbyteArray description, jint count) {
  (void)class, (void)owner;
  bytes utf8;
  if (!take(env, description, &utf8)) {
    return 0;
  }
  t2lc_similarity *similarity = NULL;
  t2lc_error *error = NULL;
  t2lc_status status = t2lc_nearest(to_compiler(compiler), text(&utf8), utf8.size, (size_t)count,
                                    &similarity, &error);
  give_back(env, &utf8);
  return worked(env, status, error) ? to_jlong(similarity) : 0;
}

/* ---- similarity ---- */

static jint JNICALL native_similarity_count(JNIEnv *env, jclass class, jlong similarity) {
  (void)env, (void)class;
  return (jint)t2lc_similarity_count(to_similarity(similarity));
}

static jbyteArray JNICALL native_similarity_task(JNIEnv *env, jclass class, jlong similarity,
                                                 jint index) {
  (void)class;
  return to_utf8(env, t2lc_similarity_task(to_similarity(similarity), (size_t)index));
}

static jfloat JNICALL native_similarity_cosine(JNIEnv *env, jclass class, jlong similarity,
                                               jint index) {
  (void)env, (void)class;
  return t2lc_similarity_cosine(to_similarity(similarity), (size_t)index);
}

static jboolean JNICALL native_similarity_familiar(JNIEnv *env, jclass class, jlong similarity) {
  (void)env, (void)class;
  return t2lc_similarity_familiar(to_similarity(similarity)) ? JNI_TRUE : JNI_FALSE;
}

static void JNICALL native_free_similarity(JNIEnv *env, jclass class, jlong similarity) {
  (void)env, (void)class;
  t2lc_similarity_free(to_similarity(similarity));
}

/* ---- adapter ---- */

static jint JNICALL native_adapter_file_count(JNIEnv *env, jclass class, jlong adapter) {
  (void)env, (void)class;
  return (jint)t2lc_adapter_file_count(to_adapter(adapter));
}

static jbyteArray JNICALL native_adapter_file_name(JNIEnv *env, jclass class, jlong adapter,
                                                   jint index) {
  (void)class;
  return to_utf8(env, t2lc_adapter_file_name(to_adapter(adapter), (size_t)index));
}

/* The caller sees to it that the handle is not freed meanwhile. */
static jbyteArray JNICALL native_adapter_file_bytes(JNIEnv *env, jclass class, jobject owner,
                                                    jlong adapter, jint index) {
  (void)class, (void)owner;
  size_t size = 0;
  const uint8_t *start = t2lc_adapter_file_bytes(to_adapter(adapter), (size_t)index, &size);
  return start == NULL ? NULL : to_array(env, start, size);
}

static jbyteArray JNICALL native_adapter_recipe(JNIEnv *env, jclass class, jlong adapter) {
  (void)class;
  return to_utf8(env, t2lc_adapter_recipe(to_adapter(adapter)));
}

static jbyteArray JNICALL native_adapter_content(JNIEnv *env, jclass class, jlong adapter) {
  (void)class;
  return to_utf8(env, t2lc_adapter_content(to_adapter(adapter)));
}

static jlong JNICALL native_adapter_tokens(JNIEnv *env, jclass class, jlong adapter) {
  (void)env, (void)class;
  return (jlong)t2lc_adapter_tokens(to_adapter(adapter));
}

static jboolean JNICALL native_adapter_truncated(JNIEnv *env, jclass class, jlong adapter) {
  (void)env, (void)class;
  return t2lc_adapter_truncated(to_adapter(adapter)) ? JNI_TRUE : JNI_FALSE;
}

static jlong JNICALL native_adapter_similarity(JNIEnv *env, jclass class, jlong adapter) {
  (void)env, (void)class;
  return to_jlong(t2lc_adapter_similarity(to_adapter(adapter)));
}

static void JNICALL native_adapter_write(JNIEnv *env, jclass class, jobject owner, jlong adapter,
                                         jbyteArray path, jboolean overwrite) {
  (void)class, (void)owner;
  bytes where;
  if (!take(env, path, &where)) {
    return;
  }
  t2lc_error *error = NULL;
  t2lc_status status = t2lc_adapter_write(to_adapter(adapter), text(&where), where.size,
                                          overwrite == JNI_TRUE, &error);
  give_back(env, &where);
  worked(env, status, error);
}

static void JNICALL native_free_adapter(JNIEnv *env, jclass class, jlong adapter) {
  (void)env, (void)class;
  t2lc_adapter_free(to_adapter(adapter));
}

static jbyteArray JNICALL native_version(JNIEnv *env, jclass class) {
  (void)class;
  return to_utf8(env, t2lc_version());
}

/* ---- loading ---- */

#define OPTIONS "II[B"
/* The casts are for JDKs, whose fields are not const. */
#define NATIVE(name, signature, function) {(char *)(name), (char *)(signature), (void *)(function)}

static const JNINativeMethod NATIVES[] = {
    NATIVE("version", "()[B", native_version),
    NATIVE("openDirectory", "([B" OPTIONS ")J", native_open_directory),
    NATIVE("openBytes", "([[B[[B" OPTIONS ")J", native_open_bytes),
    NATIVE("openRanges", "([[B[I[J[J" OPTIONS ")J", native_open_ranges),
    NATIVE("openReader", "(Ldev/t2lc/BundleReader;" OPTIONS ")J", native_open_reader),
    NATIVE("freeCompiler", "(J)V", native_free_compiler),
    NATIVE("compilerManifest", "(J)[B", native_compiler_manifest),
    NATIVE("compilerBundleDigest", "(J)[B", native_compiler_digest),
    NATIVE("compilerBackend", "(J)[B", native_compiler_backend),
    NATIVE("compile", "(Ljava/lang/Object;J[BIIFLdev/t2lc/Progress;)J", native_compile),
    NATIVE("nearest", "(Ljava/lang/Object;J[BI)J", native_nearest),
    NATIVE("similarityCount", "(J)I", native_similarity_count),
    NATIVE("similarityTask", "(JI)[B", native_similarity_task),
    NATIVE("similarityCosine", "(JI)F", native_similarity_cosine),
    NATIVE("similarityFamiliar", "(J)Z", native_similarity_familiar),
    NATIVE("freeSimilarity", "(J)V", native_free_similarity),
    NATIVE("adapterFileCount", "(J)I", native_adapter_file_count),
    NATIVE("adapterFileName", "(JI)[B", native_adapter_file_name),
    NATIVE("adapterFileBytes", "(Ljava/lang/Object;JI)[B", native_adapter_file_bytes),
    NATIVE("adapterRecipe", "(J)[B", native_adapter_recipe),
    NATIVE("adapterContent", "(J)[B", native_adapter_content),
    NATIVE("adapterTokens", "(J)J", native_adapter_tokens),
    NATIVE("adapterTruncated", "(J)Z", native_adapter_truncated),
    NATIVE("adapterSimilarity", "(J)J", native_adapter_similarity),
    NATIVE("adapterWrite", "(Ljava/lang/Object;J[BZ)V", native_adapter_write),
    NATIVE("freeAdapter", "(J)V", native_free_adapter),
};

static jclass global_class(JNIEnv *env, const char *name) {
  jclass local = (*env)->FindClass(env, name);
  if (local == NULL) {
    return NULL;
  }
  jclass global = (*env)->NewGlobalRef(env, local);
  (*env)->DeleteLocalRef(env, local);
  return global;
}

static bool find_ids(JNIEnv *env) {
  return (ids.natives = global_class(env, "dev/t2lc/T2lcNative")) != NULL &&
         (ids.exception = global_class(env, "dev/t2lc/T2lcException")) != NULL &&
         (ids.exception_init =
              (*env)->GetMethodID(env, ids.exception, "<init>", "(I[B[B)V")) != NULL &&
         (ids.progress = (*env)->GetStaticMethodID(env, ids.natives, "progress",
                                                   "(Ldev/t2lc/Progress;IJJ)Z")) != NULL &&
         (ids.reader_size = (*env)->GetStaticMethodID(env, ids.natives, "readerSize",
                                                      "(Ldev/t2lc/BundleReader;[B)J")) != NULL &&
         (ids.reader_read = (*env)->GetStaticMethodID(env, ids.natives, "readerRead",
                                                      "(Ldev/t2lc/BundleReader;[BJ[BI)V")) != NULL;
}

/* System.loadLibrary fails, with the pending exception if there is one, unless this succeeds. */
JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *vm, void *reserved) {
  (void)reserved;
  JNIEnv *env = NULL;
  if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_1_6) != JNI_OK) {
    return JNI_ERR;
  }
  if (t2lc_abi_version() != T2LC_ABI_VERSION) {
    throw_named(env, "java/lang/UnsatisfiedLinkError", "t2lc: built for another ABI version");
    return JNI_ERR;
  }
  const jint count = sizeof NATIVES / sizeof *NATIVES;
  if (!find_ids(env) || (*env)->RegisterNatives(env, ids.natives, NATIVES, count) != JNI_OK) {
    return JNI_ERR;
  }
  return JNI_VERSION_1_6;
}

JNIEXPORT void JNICALL JNI_OnUnload(JavaVM *vm, void *reserved) {
  (void)reserved;
  JNIEnv *env = NULL;
  if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_1_6) == JNI_OK) {
    (*env)->DeleteGlobalRef(env, ids.natives);
    (*env)->DeleteGlobalRef(env, ids.exception);
  }
}
