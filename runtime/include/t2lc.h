/* t2lc: turns a task description into a LoRA adapter. Written by cbindgen from runtime/src/capi.
 *
 * Rules that hold for every function:
 *
 * - Any function may be called from any thread. A handle may be used by several threads at once, and
 *   freed while another thread uses it: that call still ends, with the object that it has.
 * - A handle is a number that is never used twice, not an address. A handle that was freed, or never
 *   was one, is refused with T2LC_ERROR_ARGUMENT; nothing is read through it. Freeing NULL or a freed
 *   handle does nothing.
 * - Text goes in as UTF-8 with its length in bytes and without a final NUL. Nothing that is passed
 *   in is kept after the call, but for the files that a bundle maps.
 * - Text comes out NUL-terminated; it and bytes that come out live until their handle is freed.
 * - Functions that can fail return T2LC_OK (0) or the number of an error, and then store a
 *   t2lc_error that the caller frees in *error, if error is not NULL. On success *error is left alone.
 *   Output pointers are set to NULL on failure.
 * - A failed or cancelled call leaves every handle as it was.
 */

#ifndef T2LC_H
#define T2LC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Version of this interface; functions and fields are only ever added while it stays.
#define T2LC_ABI_VERSION 1

// Exact, which gives the same bytes on every machine, unless bundle or provider need another one.
#define T2LC_BACKEND_AUTO 0

// The interpreter in every build.
#define T2LC_BACKEND_EXACT 1

// tract, in pure Rust.
#define T2LC_BACKEND_TRACT 2

// ONNX Runtime.
#define T2LC_BACKEND_ORT 3

// One GGUF file.
#define T2LC_FORMAT_GGUF 0

// The two files of a PEFT directory.
#define T2LC_FORMAT_PEFT 1

// `q8_0` for GGUF, `f32` for PEFT.
#define T2LC_QUANTIZATION_DEFAULT 0

// 32-bit floats.
#define T2LC_QUANTIZATION_F32 1

// 16-bit floats.
#define T2LC_QUANTIZATION_F16 2

// The upper half of 32-bit floats.
#define T2LC_QUANTIZATION_BF16 3

// 8.5 bits a value.
#define T2LC_QUANTIZATION_Q8_0 4

// 4.5 bits a value.
#define T2LC_QUANTIZATION_Q4_0 5

// 5 bits a value.
#define T2LC_QUANTIZATION_Q4_1 6

// 5.5 bits a value.
#define T2LC_QUANTIZATION_Q5_0 7

// 6 bits a value.
#define T2LC_QUANTIZATION_Q5_1 8

// Stages that the progress callback reports, in this order: description to task embedding.
#define T2LC_STAGE_ENCODE 1

// Task embedding to matrices.
#define T2LC_STAGE_GENERATE 2

// Matrices, ready to be quantized.
#define T2LC_STAGE_QUANTIZE 3

// Matrices to quantized tensors and files.
#define T2LC_STAGE_WRITE 4

// A compiled adapter.
typedef struct t2lc_adapter t2lc_adapter;

// An opened bundle, ready to compile.
typedef struct t2lc_compiler t2lc_compiler;

// Why a call failed.
typedef struct t2lc_error t2lc_error;

// The training tasks that a description is nearest to.
typedef struct t2lc_similarity t2lc_similarity;

// What a call came to. The numbers are stable.
typedef int32_t t2lc_status;

// Says how far a compile is, on the thread that called it: done of total in one stage. Returning
// false cancels. It must not unwind.
typedef bool (*t2lc_progress)(uint32_t stage, uint64_t done, uint64_t total, void *context);

// What is compiled. Fill it with `t2lc_compile_options_init`, then change fields.
typedef struct t2lc_compile_options {
  // `sizeof(t2lc_compile_options)` of the caller.
  uint32_t struct_size;
  // `T2LC_FORMAT_*`.
  uint32_t format;
  // `T2LC_QUANTIZATION_*`.
  uint32_t quantization;
  // Strength of the adapter: 1 as trained, 0 for none.
  float scale;
  // NULL for none.
  t2lc_progress progress;
  // Passed to progress.
  void *context;
} t2lc_compile_options;

// How a bundle is opened. Fill it with `t2lc_open_options_init`, then change fields.
typedef struct t2lc_open_options {
  // `sizeof(t2lc_open_options)` of the caller.
  uint32_t struct_size;
  // `T2LC_BACKEND_*`.
  uint32_t backend;
  // Threads of the exact backend; 0 for as many as the system offers, at most 8.
  uint32_t threads;
  // 0.
  uint32_t reserved;
  // ONNX Runtime's execution provider by name ("cpu", "coreml", …); NULL for the best one.
  const char *provider;
  // Bytes of `provider`.
  size_t provider_length;
} t2lc_open_options;

// A file of a bundle in memory.
typedef struct t2lc_file_bytes {
  // Its name in the bundle.
  const char *name;
  // Bytes of `name`.
  size_t name_length;
  // Its content.
  const uint8_t *bytes;
  // Bytes of the content.
  size_t size;
} t2lc_file_bytes;

// A file of a bundle as a range of an open file, as Android's asset manager gives it for a stored asset.
typedef struct t2lc_file_range {
  // Its name in the bundle.
  const char *name;
  // Bytes of `name`.
  size_t name_length;
  // Readable and mappable; may be closed after the call.
  int32_t descriptor;
  // Where it begins.
  uint64_t offset;
  // Its bytes.
  uint64_t size;
} t2lc_file_range;

// The caller's own way to the files of a bundle; called on the thread of the call.
typedef struct t2lc_reader {
  // `sizeof(t2lc_reader)` of the caller.
  uint32_t struct_size;
  // Size of a file in bytes, -1 if there is none.
  int64_t (*size)(const char *name, size_t name_length, void *context);
  // Fills `into` with `length` bytes from `offset`; false if it cannot.
  bool (*read)(const char *name,
               size_t name_length,
               uint64_t offset,
               uint8_t *into,
               size_t length,
               void *context);
  // Passed to both.
  void *context;
} t2lc_reader;

// Success.
#define T2LC_OK 0

// A null pointer, a handle that was freed, text that is not UTF-8, an option that does not exist.
#define T2LC_ERROR_ARGUMENT 1

// The text is not a description.
#define T2LC_ERROR_DESCRIPTION 2

// The bundle cannot be used.
#define T2LC_ERROR_BUNDLE 3

// The backend is not in this build, cannot be loaded, or fails.
#define T2LC_ERROR_BACKEND 4

// No adapter can be made of the description.
#define T2LC_ERROR_COMPILE 5

// The output cannot be written.
#define T2LC_ERROR_OUTPUT 6

// The progress callback said stop.
#define T2LC_ERROR_CANCELLED 7

// A fault of the library; the call had no effect.
#define T2LC_ERROR_INTERNAL 8

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// `T2LC_ABI_VERSION` of the library.
uint32_t t2lc_abi_version(void);

// Version of the library, for example "0.1.0".
const char *t2lc_version(void);

// Number of files: 1 of a GGUF adapter, 2 of a PEFT adapter. 0 for a handle that is none.
size_t t2lc_adapter_file_count(const struct t2lc_adapter *adapter);

// Name of a file in a PEFT directory; "adapter.gguf" for GGUF. NULL beyond the last.
const char *t2lc_adapter_file_name(const struct t2lc_adapter *adapter, size_t index);

// Bytes of a file, and their number in `*size`, which may be NULL. NULL and 0 beyond the last.
//
// # Safety
// `size` is null or writable.
const uint8_t *t2lc_adapter_file_bytes(const struct t2lc_adapter *adapter,
                                       size_t index,
                                       size_t *size);

// Digest of everything that went in, "sha256:…".
const char *t2lc_adapter_recipe(const struct t2lc_adapter *adapter);

// Digest of the bytes that came out.
const char *t2lc_adapter_content(const struct t2lc_adapter *adapter);

// Tokens of the description.
size_t t2lc_adapter_tokens(const struct t2lc_adapter *adapter);

// Whether the description was longer than the encoder reads.
bool t2lc_adapter_truncated(const struct t2lc_adapter *adapter);

// The nearest training tasks, as a handle of its own. NULL for a handle that is none.
struct t2lc_similarity *t2lc_adapter_similarity(const struct t2lc_adapter *adapter);

// Writes the GGUF file or the PEFT directory under a temporary name and renames it.
//
// # Safety
// Pointers are null or valid for their lengths.
t2lc_status t2lc_adapter_write(const struct t2lc_adapter *adapter,
                               const char *path,
                               size_t path_length,
                               bool overwrite,
                               struct t2lc_error **error);

// Frees an adapter.
void t2lc_adapter_free(struct t2lc_adapter *adapter);

// Compiles one description; options may be NULL.
//
// # Safety
// Pointers are null or valid for their lengths; the callback does not unwind.
t2lc_status t2lc_compile(const struct t2lc_compiler *compiler,
                         const char *description,
                         size_t description_length,
                         const struct t2lc_compile_options *options,
                         struct t2lc_adapter **adapter,
                         struct t2lc_error **error);

// The count training tasks that a description is nearest to, without compiling it.
//
// # Safety
// Pointers are null or valid for their lengths.
t2lc_status t2lc_nearest(const struct t2lc_compiler *compiler,
                         const char *description,
                         size_t description_length,
                         size_t count,
                         struct t2lc_similarity **similarity,
                         struct t2lc_error **error);

// `T2LC_ERROR_*`. `T2LC_ERROR_ARGUMENT` for a handle that is none.
t2lc_status t2lc_error_status(const struct t2lc_error *error);

// A stable name, "stage.problem", for example "bundle.digest". NULL for a handle that is none.
const char *t2lc_error_code(const struct t2lc_error *error);

// One line for people, with its causes. NULL for a handle that is none.
const char *t2lc_error_message(const struct t2lc_error *error);

// Frees an error.
void t2lc_error_free(struct t2lc_error *error);

// Opens a bundle; options may be NULL. Every file's size and digest is checked against the
// manifest. From a directory: the files are mapped into memory, not read, and must stay as they are.
//
// # Safety
// Pointers are null or valid for their lengths.
t2lc_status t2lc_open_directory(const char *path,
                                size_t path_length,
                                const struct t2lc_open_options *options,
                                struct t2lc_compiler **compiler,
                                struct t2lc_error **error);

// From memory: the bytes are copied.
//
// # Safety
// Pointers are null or valid for their lengths.
t2lc_status t2lc_open_bytes(const struct t2lc_file_bytes *files,
                            size_t count,
                            const struct t2lc_open_options *options,
                            struct t2lc_compiler **compiler,
                            struct t2lc_error **error);

// From ranges of open files, which are mapped. Unix only.
//
// # Safety
// Pointers are null or valid for their lengths; descriptors are open.
t2lc_status t2lc_open_ranges(const struct t2lc_file_range *files,
                             size_t count,
                             const struct t2lc_open_options *options,
                             struct t2lc_compiler **compiler,
                             struct t2lc_error **error);

// Through callbacks, which are called during this call only, on its thread.
//
// # Safety
// Pointers are null or valid; the callbacks do as their documentation says and do not unwind.
t2lc_status t2lc_open_reader(const struct t2lc_reader *reader,
                             const struct t2lc_open_options *options,
                             struct t2lc_compiler **compiler,
                             struct t2lc_error **error);

// Frees a compiler; calls that use it still end.
void t2lc_compiler_free(struct t2lc_compiler *compiler);

// manifest.json of the bundle: base model, encoder, licences. NULL for a handle that is none.
const char *t2lc_compiler_manifest(const struct t2lc_compiler *compiler);

// Digest of the bundle, "sha256:…".
const char *t2lc_compiler_bundle_digest(const struct t2lc_compiler *compiler);

// Class of arithmetic, for example "exact/1".
const char *t2lc_compiler_backend(const struct t2lc_compiler *compiler);

// Fills in the defaults; `struct_size` is `sizeof(*options)`.
//
// # Safety
// `options` is null, or `struct_size` bytes can be written there.
t2lc_status t2lc_open_options_init(struct t2lc_open_options *options, uint32_t struct_size);

// Fills in the defaults; `struct_size` is `sizeof(*options)`.
//
// # Safety
// `options` is null, or `struct_size` bytes can be written there.
t2lc_status t2lc_compile_options_init(struct t2lc_compile_options *options, uint32_t struct_size);

// Number of tasks, nearest first.
size_t t2lc_similarity_count(const struct t2lc_similarity *similarity);

// Id of a task; NULL beyond the last.
const char *t2lc_similarity_task(const struct t2lc_similarity *similarity, size_t index);

// Cosine to the nearest mean of a task's descriptions, at most 1; NaN beyond the last.
float t2lc_similarity_cosine(const struct t2lc_similarity *similarity, size_t index);

// Whether the description is as close to a training task as unseen real ones are, and no closer to
// a text that describes none; true where no training description is known.
bool t2lc_similarity_familiar(const struct t2lc_similarity *similarity);

// Frees a similarity.
void t2lc_similarity_free(struct t2lc_similarity *similarity);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* T2LC_H */
