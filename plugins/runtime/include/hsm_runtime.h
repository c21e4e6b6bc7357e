/** @file
 * C interface of libhsm_runtime.so, for C and every language that can call it.
 *
 * Functions that can fail return a code (0 is success, the others are those of hsm_runtime/status.h) and put one
 * sentence into `error`, which may be NULL. Nothing throws, prints or ends the process. Text that a function returns
 * belongs to its object. Sessions and bundles may be used by several threads at once; nothing else may.
 *
 * Functions are only ever added, and so are the members of structures that say how large they are: a program that was
 * compiled with an older header keeps working with a newer library of the same hsmrt_abi_version().
 */
#ifndef HSM_RUNTIME_H_
#define HSM_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define HSMRT_API
#else
#define HSMRT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** How a call ended; hsm_runtime/status.h says what the codes mean. */
enum {
  HSMRT_OK = 0,
  HSMRT_INVALID_ARGUMENT = 1,
  HSMRT_BAD_BUNDLE = 2,
  HSMRT_NO_BACKEND = 3,
  HSMRT_RUN_FAILED = 4,
  HSMRT_OUT_OF_MEMORY = 5,
  HSMRT_INTERNAL = 6,
  HSMRT_UNAVAILABLE = 7,
  HSMRT_RUN_CANCELLED = 8
};

/** Element types, with ONNX's numbers. */
enum {
  HSMRT_FLOAT32 = 1,
  HSMRT_UINT8 = 2,
  HSMRT_INT8 = 3,
  HSMRT_INT32 = 6,
  HSMRT_INT64 = 7,
  HSMRT_BOOL = 9,
  HSMRT_FLOAT16 = 10,
  HSMRT_FLOAT64 = 11,
  HSMRT_BFLOAT16 = 16
};

/** Parts of a bundle. */
enum { HSMRT_MODEL = 0, HSMRT_DECODE = 1 };
/** Sides of a graph. */
enum { HSMRT_INPUT = 0, HSMRT_OUTPUT = 1 };
/** Where memory is. */
enum { HSMRT_CPU = 0, HSMRT_CUDA = 1 };
/** How much a message matters. */
enum { HSMRT_INFO = 0, HSMRT_WARNING = 1, HSMRT_ERROR = 2 };

/** Why a call failed. */
typedef struct hsmrt_error {
  char message[1024]; /**< ends with a zero; longer text is cut off */
} hsmrt_error;

/** Memory of the caller's, which is not kept. That of a GPU starts at a multiple of 256 bytes, as cudaMalloc's does. */
typedef struct hsmrt_tensor {
  const char* name;       /**< of the model's input or output */
  void* data;             /**< of an input, it is only read */
  int32_t dtype;          /**< such as HSMRT_FLOAT32 */
  int32_t device;         /**< HSMRT_CPU, or HSMRT_CUDA where the back end runs on that GPU */
  int32_t device_index;   /**< the GPU, as CUDA counts them */
  int32_t rank;           /**< number of dimensions */
  const int64_t* shape;   /**< rank sizes */
  const int64_t* strides; /**< rank numbers of elements, or NULL for dense memory */
} hsmrt_tensor;

/** An opened bundle. */
typedef struct hsmrt_bundle hsmrt_bundle;
/** Options of a session. */
typedef struct hsmrt_options hsmrt_options;
/** A loaded graph. */
typedef struct hsmrt_session hsmrt_session;
/** Receives messages. level: such as HSMRT_WARNING. */
typedef void (*hsmrt_log)(void* user, int32_t level, const char* message);

/** 1 as long as programs keep working without being compiled again. */
HSMRT_API uint32_t hsmrt_abi_version(void);
/** Of the library, such as "0.1.0". */
HSMRT_API const char* hsmrt_version(void);

/** Opens a bundle that anybody may have written. verify_digests: compare the SHA-256 of every file too. */
HSMRT_API int32_t hsmrt_bundle_open(const char* path, int32_t verify_digests, hsmrt_bundle** bundle,
                                    hsmrt_error* error);
/** Sessions stay open. */
HSMRT_API void hsmrt_bundle_close(hsmrt_bundle* bundle);
/** "language_model", "classification", or "" for a model that does not say. */
HSMRT_API const char* hsmrt_bundle_task(const hsmrt_bundle* bundle);
/** "fp32", "fp16" or "bf16". */
HSMRT_API const char* hsmrt_bundle_precision(const hsmrt_bundle* bundle);
/** 1 when the bundle has the part, HSMRT_MODEL or HSMRT_DECODE. */
HSMRT_API int32_t hsmrt_bundle_has(const hsmrt_bundle* bundle, int32_t part);
/** Its folder, as it was opened. */
HSMRT_API const char* hsmrt_bundle_path(const hsmrt_bundle* bundle);
/** "bytes" (ids are the bytes of UTF-8 text), "characters" (characters.json), "rwkv" (rwkv_vocab.txt), "sentencepiece"
 * (a .model), "huggingface" (a tokenizer.json), or "" for none. */
HSMRT_API const char* hsmrt_bundle_tokenizer(const hsmrt_bundle* bundle);
/** The tokenizer's file; "" where it needs none. */
HSMRT_API const char* hsmrt_bundle_tokenizer_path(const hsmrt_bundle* bundle);
/** The name of a code, such as "bad bundle". */
HSMRT_API const char* hsmrt_code_name(int32_t code);

/** Options of a session; NULL when there is no memory for them. */
HSMRT_API hsmrt_options* hsmrt_options_create(void);
/** Sessions keep theirs. */
HSMRT_API void hsmrt_options_close(hsmrt_options* options);
/** The names are those of SessionOptions in hsm_runtime/session.h: "backends" (such as
 * "tensorrt,onnxruntime-fused,onnxruntime-bodies"), "onnxruntime_library", "kernel_library", "cuda_kernel_library",
 * "tensorrt_backend", "nvinfer_library", "cudart_library", "plugin_library", "operator_libraries",
 * "affinity", "extra_outputs" (names with commas between them), "allow_embedded_plugins", "telemetry", "shared_threads"
 * and "spinning" ("0" or "1"), "device" (the GPU), "threads". */
HSMRT_API int32_t hsmrt_options_set(hsmrt_options* options, const char* name, const char* value, hsmrt_error* error);
/** `log` is called from any thread that uses a session with these options. */
HSMRT_API void hsmrt_options_set_log(hsmrt_options* options, hsmrt_log log, void* user);

/** Loads a part of a bundle; the bundle may be closed afterwards. `options` may be NULL. */
HSMRT_API int32_t hsmrt_session_open(const hsmrt_bundle* bundle, int32_t part, const hsmrt_options* options,
                                     hsmrt_session** session, hsmrt_error* error);
/** Generators, started runs and bound runs keep what they need. */
HSMRT_API void hsmrt_session_close(hsmrt_session* session);
/** The back end that took the graph, such as "onnxruntime-fused". */
HSMRT_API const char* hsmrt_session_backend(const hsmrt_session* session);

/** Number of inputs or outputs. Of what is not there, this and the next functions return 0 or NULL. */
HSMRT_API size_t hsmrt_session_count(const hsmrt_session* session, int32_t side);
/** As the model calls the tensor. */
HSMRT_API const char* hsmrt_session_name(const hsmrt_session* session, int32_t side, size_t index);
/** The element type, such as HSMRT_FLOAT32. */
HSMRT_API int32_t hsmrt_session_dtype(const hsmrt_session* session, int32_t side, size_t index);
/** Number of dimensions. */
HSMRT_API size_t hsmrt_session_rank(const hsmrt_session* session, int32_t side, size_t index);
/** A fixed dimension's size, and -1 for one that the caller chooses, whose name the other function returns. */
HSMRT_API int64_t hsmrt_session_size(const hsmrt_session* session, int32_t side, size_t index, size_t axis);
/** The name of a dimension that the caller chooses; NULL for a fixed one. */
HSMRT_API const char* hsmrt_session_dimension(const hsmrt_session* session, int32_t side, size_t index, size_t axis);

/** Runs the graph from the caller's memory into the caller's memory. Every input must be given; outputs may be left
 * out. */
HSMRT_API int32_t hsmrt_session_run(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                                    const hsmrt_tensor* outputs, size_t output_count, hsmrt_error* error);

/** Ends runs from another thread. */
typedef struct hsmrt_cancellation hsmrt_cancellation;

/** NULL when there is no memory for it. */
HSMRT_API hsmrt_cancellation* hsmrt_cancellation_create(void);
/** Runs and generators that use it stay as they are. */
HSMRT_API void hsmrt_cancellation_close(hsmrt_cancellation* cancellation);
/** Ends every run that uses it, now and later, with HSMRT_RUN_CANCELLED. From any thread. */
HSMRT_API void hsmrt_cancellation_request(hsmrt_cancellation* cancellation);

/** Generation with a decoding model: B sequences that advance together, each from its own position. One thread at a
 * time may use a generator, and any number of generators one session, which may be closed before them. */
typedef struct hsmrt_generator hsmrt_generator;

/** `session` is of HSMRT_DECODE. capacity: tokens that a row must be able to reach; needed when the file leaves that
 * open, else 0. */
HSMRT_API int32_t hsmrt_generator_create(const hsmrt_session* session, int64_t batch, int64_t capacity,
                                         hsmrt_generator** generator, hsmrt_error* error);
/** The size of a generator; all zeros but for `size` and `batch` are the defaults. */
typedef struct hsmrt_generator_options {
  size_t size;      /**< sizeof(hsmrt_generator_options) */
  int64_t batch;    /**< sequences B */
  int64_t capacity; /**< tokens that a row must be able to reach; 0 where the file says it */
  int64_t reserve;  /**< tokens to have room for at once in states that grow; 0: a few */
} hsmrt_generator_options;

/** The same with options that may become more. */
HSMRT_API int32_t hsmrt_generator_create_with(const hsmrt_session* session, const hsmrt_generator_options* options,
                                              hsmrt_generator** generator, hsmrt_error* error);
/** Bytes that the states of such a generator take when its rows have reached their capacity. */
HSMRT_API int32_t hsmrt_generator_bytes_of(const hsmrt_session* session, const hsmrt_generator_options* options,
                                           size_t* bytes, hsmrt_error* error);
/** The session stays open. */
HSMRT_API void hsmrt_generator_close(hsmrt_generator* generator);

/** Sequences B. */
HSMRT_API int64_t hsmrt_generator_batch(const hsmrt_generator* generator);
/** Tokens V that the logits tell apart. */
HSMRT_API int64_t hsmrt_generator_vocabulary(const hsmrt_generator* generator);
/** Tokens that a row may reach; 0 where nothing limits it. */
HSMRT_API int64_t hsmrt_generator_capacity(const hsmrt_generator* generator);
/** Bytes of the states of all rows, as they are now. */
HSMRT_API size_t hsmrt_generator_state_bytes(const hsmrt_generator* generator);
/** Tokens that each row has read: B numbers, at the same place as long as the generator is open. */
HSMRT_API const int64_t* hsmrt_generator_positions(const hsmrt_generator* generator);

/** Reads prompts: `count` tokens, the same number for each row, row by row, right-padded, of which `lengths` (B, or
 * NULL for all) are valid. A row of length 0 stands still: it costs nothing, and its state and logits stay as they are.
 * Nothing has changed when it fails, but after HSMRT_RUN_FAILED: then reset the rows that read. */
HSMRT_API int32_t hsmrt_generator_prefill(hsmrt_generator* generator, const int64_t* tokens, size_t count,
                                          const int64_t* lengths, hsmrt_error* error);
/** Reads a prompt, or a piece of one, of `count` tokens into one row; the others stand still. */
HSMRT_API int32_t hsmrt_generator_prefill_row(hsmrt_generator* generator, int64_t row, const int64_t* tokens,
                                              size_t count, hsmrt_error* error);
/** The same, and writes the logits of every token that was read, (count, V), to `logits`, which has room for `room`
 * numbers. */
HSMRT_API int32_t hsmrt_generator_prefill_row_logits(hsmrt_generator* generator, int64_t row, const int64_t* tokens,
                                                     size_t count, float* logits, size_t room, hsmrt_error* error);
/** From now on calls end with HSMRT_RUN_CANCELLED when it is asked for; the rows that read have to be reset then. NULL:
 * nobody can ask. */
HSMRT_API int32_t hsmrt_generator_set_cancellation(hsmrt_generator* generator, const hsmrt_cancellation* cancellation,
                                                   hsmrt_error* error);
/** Reads one token of each row, so `count` is B; -1 lets a row stand still. Allocates nothing in this library once the
 * same rows have stepped together before, unless the states have to grow. */
HSMRT_API int32_t hsmrt_generator_step(hsmrt_generator* generator, const int64_t* tokens, size_t count,
                                       hsmrt_error* error);

/** V logits of a row's last token, valid until the row reads again. NULL for a row that is not there or has none: it
 * has read nothing since it was made, reset, rolled back or loaded from a file without logits. */
HSMRT_API const float* hsmrt_generator_logits(const hsmrt_generator* generator, int64_t row);
/** What an extra output of the session (the option "extra_outputs") holds at a row's last token: `count` numbers at
 * `numbers`, valid until the row reads again. */
HSMRT_API int32_t hsmrt_generator_output(const hsmrt_generator* generator, int64_t row, const char* name,
                                         const float** numbers, size_t* count, hsmrt_error* error);
/** Chooses a row's next token. temperature: 0 takes the likeliest; top_k: 0 means all; top_p: 1 means all; uniform: a
 * random number in [0, 1) of the caller's. */
HSMRT_API int32_t hsmrt_generator_sample(hsmrt_generator* generator, int64_t row, double temperature, int64_t top_k,
                                         double top_p, double uniform, int64_t* token, hsmrt_error* error);

/** What is added to a token's logit; minus infinity forbids it. */
typedef struct hsmrt_token_bias {
  int64_t token; /**< its id */
  double bias;   /**< added */
} hsmrt_token_bias;

/** How a token is chosen; all zeros but for `size` take the likeliest. hsm_runtime/sampling.h says in which order. */
typedef struct hsmrt_sampling {
  size_t size;                        /**< sizeof(hsmrt_sampling) */
  double temperature;                 /**< the logits are divided by it; 0 takes the likeliest token */
  int64_t top_k;                      /**< choose among the k likeliest; 0 means all */
  double top_p;                       /**< choose among the likeliest that together reach it; 0 and 1 mean all */
  double min_p;                       /**< choose among those at least so many times as likely as the likeliest */
  double repetition_penalty;          /**< positive logits of tokens that were read or made are divided by it, others
                                           multiplied; 0 and 1 change nothing */
  double presence_penalty;            /**< taken off the logits of tokens that were made */
  double frequency_penalty;           /**< taken off for each time */
  const hsmrt_token_bias* logit_bias; /**< added to the logits of single tokens; copied */
  size_t logit_bias_count;            /**< how many */
  void (*on_logits)(void* user, double* logits, size_t count); /**< may change the logits before a choice; or NULL */
  void* user;                                                  /**< the callback's own */
} hsmrt_sampling;

/** The same with settings that may become more. */
HSMRT_API int32_t hsmrt_generator_sample_with(hsmrt_generator* generator, int64_t row, const hsmrt_sampling* sampling,
                                              double uniform, int64_t* token, hsmrt_error* error);

/** A token and the natural logarithm of its probability by the model's own logits, before all settings. */
typedef struct hsmrt_log_probability {
  int64_t token;          /**< its id */
  double log_probability; /**< 0 or less */
} hsmrt_log_probability;

/** Chooses the tokens of one sequence; its random numbers follow from its seed alone. One thread at a time. */
typedef struct hsmrt_sampler hsmrt_sampler;

/** vocabulary: logits V. */
HSMRT_API int32_t hsmrt_sampler_create(const hsmrt_sampling* sampling, uint64_t seed, int64_t vocabulary,
                                       hsmrt_sampler** sampler, hsmrt_error* error);
/** Closes it. */
HSMRT_API void hsmrt_sampler_close(hsmrt_sampler* sampler);
/** Tells it the prompt, or more of it, for the repetition penalty. */
HSMRT_API int32_t hsmrt_sampler_read(hsmrt_sampler* sampler, const int64_t* tokens, size_t count, hsmrt_error* error);
/** Chooses the next token from V logits, such as hsmrt_generator_logits returns. `chosen` gets it; `top` gets the
 * `top_count` likeliest tokens, likeliest first (V at most), and may be NULL when there are none. */
HSMRT_API int32_t hsmrt_sampler_choose(hsmrt_sampler* sampler, const float* logits, size_t count,
                                       hsmrt_log_probability* chosen, hsmrt_log_probability* top, size_t top_count,
                                       hsmrt_error* error);

/** Takes back the last `tokens` of a row, where the state allows it. */
HSMRT_API int32_t hsmrt_generator_rollback(hsmrt_generator* generator, int64_t row, int64_t tokens, hsmrt_error* error);
/** Copies one row's sequence over another's. */
HSMRT_API int32_t hsmrt_generator_fork(hsmrt_generator* generator, int64_t source, int64_t target, hsmrt_error* error);
/** Copies a row of another generator of the same model over a row of this one. */
HSMRT_API int32_t hsmrt_generator_fork_from(hsmrt_generator* generator, const hsmrt_generator* other, int64_t source,
                                            int64_t target, hsmrt_error* error);
/** Starts a row anew. */
HSMRT_API int32_t hsmrt_generator_reset(hsmrt_generator* generator, int64_t row, hsmrt_error* error);

/** Writes all states and positions to a .safetensors file, which a generator of the same model and B can load. */
HSMRT_API int32_t hsmrt_generator_save(const hsmrt_generator* generator, const char* path, hsmrt_error* error);
/** Goes on from such a file. */
HSMRT_API int32_t hsmrt_generator_load(hsmrt_generator* generator, const char* path, hsmrt_error* error);

/** The same for one row, such as a conversation that is parked: the file holds one row, whatever B. */
HSMRT_API int32_t hsmrt_generator_save_row(const hsmrt_generator* generator, int64_t row, const char* path,
                                           hsmrt_error* error);
/** Goes on with one row from such a file. */
HSMRT_API int32_t hsmrt_generator_load_row(hsmrt_generator* generator, int64_t row, const char* path,
                                           hsmrt_error* error);

/** Options of one run; all zeros but for `size` are the defaults. */
typedef struct hsmrt_run_options {
  size_t size;       /**< sizeof(hsmrt_run_options) */
  void* cuda_stream; /**< a cudaStream_t to run on, or NULL for one of the session's; TensorRT alone takes one */
  const hsmrt_cancellation* cancellation; /**< what may end the run, or NULL */
} hsmrt_run_options;

/** As hsmrt_session_run; `options` may be NULL. */
HSMRT_API int32_t hsmrt_session_run_with(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                                         const hsmrt_tensor* outputs, size_t output_count,
                                         const hsmrt_run_options* options, hsmrt_error* error);

/** A run that was started; one thread at a time may use it, and the session may be closed before it. */
typedef struct hsmrt_run hsmrt_run;

/** Starts a run and returns. The tensors' memory must stay until it has ended; names and shapes need not. */
HSMRT_API int32_t hsmrt_session_start(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                                      const hsmrt_tensor* outputs, size_t output_count,
                                      const hsmrt_run_options* options, hsmrt_run** run, hsmrt_error* error);
/** 1 when the run has ended. */
HSMRT_API int32_t hsmrt_run_done(const hsmrt_run* run);
/** Waits for the run and says how it ended; may be called again. */
HSMRT_API int32_t hsmrt_run_wait(hsmrt_run* run, hsmrt_error* error);
/** Waits. */
HSMRT_API void hsmrt_run_close(hsmrt_run* run);

/** A run whose tensors were bound once. One thread at a time may use it, and any number of them one session, which may
 * be closed before them. */
typedef struct hsmrt_bound hsmrt_bound;

/** Binds tensors for many runs in the same memory with the same shapes. The memory must stay until the bound run is
 * closed; names, shapes and options need not. Refuses what hsmrt_session_run_with refuses. */
HSMRT_API int32_t hsmrt_session_bind(const hsmrt_session* session, const hsmrt_tensor* inputs, size_t input_count,
                                     const hsmrt_tensor* outputs, size_t output_count, const hsmrt_run_options* options,
                                     hsmrt_bound** bound, hsmrt_error* error);
/** Runs the graph on the numbers that the inputs' memory holds now, and returns when all is done. Allocates nothing in
 * this library. */
HSMRT_API int32_t hsmrt_bound_run(hsmrt_bound* bound, hsmrt_error* error);
/** The session stays open. */
HSMRT_API void hsmrt_bound_close(hsmrt_bound* bound);

/** Speculative decoding: a small model proposes tokens that a large one checks many at a time, exactly. One thread at a
 * time may use one. */
typedef struct hsmrt_speculation hsmrt_speculation;

/** Options of speculative decoding; all zeros but for `size` are the defaults. */
typedef struct hsmrt_speculation_options {
  size_t size;                    /**< sizeof(hsmrt_speculation_options) */
  int64_t capacity;               /**< tokens that the sequence must be able to reach; 0 where the files say it */
  int64_t draft_tokens;           /**< tokens that the draft proposes at a time; 0: 4 */
  const hsmrt_sampling* sampling; /**< without penalties; NULL takes the likeliest */
  uint64_t seed;                  /**< of the sequence's random numbers */
} hsmrt_speculation_options;

/** Sessions of HSMRT_DECODE with equal vocabularies; they may be closed before it. */
HSMRT_API int32_t hsmrt_speculation_create(const hsmrt_session* target, const hsmrt_session* draft,
                                           const hsmrt_speculation_options* options, hsmrt_speculation** speculation,
                                           hsmrt_error* error);
/** Closes it. */
HSMRT_API void hsmrt_speculation_close(hsmrt_speculation* speculation);
/** Reads the prompt, or more of it before the first token. */
HSMRT_API int32_t hsmrt_speculation_prefill(hsmrt_speculation* speculation, const int64_t* tokens, size_t count,
                                            hsmrt_error* error);
/** Makes the next tokens: 1 to draft_tokens + 1, for which there must be room. `count` gets how many. */
HSMRT_API int32_t hsmrt_speculation_next(hsmrt_speculation* speculation, int64_t* tokens, size_t room, size_t* count,
                                         hsmrt_error* error);

/** Many requests on the rows of one generator; hsm_runtime/scheduler.h says how they share them. All functions may be
 * called from several threads at once, and from the callbacks, which one thread calls one after the other. */
typedef struct hsmrt_scheduler hsmrt_scheduler;

/** The size of a scheduler; all zeros but for `size` and `rows` are the defaults. */
typedef struct hsmrt_scheduler_options {
  size_t size;         /**< sizeof(hsmrt_scheduler_options) */
  int64_t rows;        /**< requests that work at the same time */
  int64_t capacity;    /**< tokens that a row must be able to reach; 0 where the file says it */
  int64_t reserve;     /**< tokens to have room for at once in states that grow; 0: a few */
  int64_t chunk;       /**< tokens of a prompt between two steps of the rows that generate; 0: 64 */
  size_t most_waiting; /**< requests that may wait; 0: 1024 */
} hsmrt_scheduler_options;

/** Why a request ended. */
enum { HSMRT_LENGTH = 0, HSMRT_STOP = 1, HSMRT_CANCELLED = 2, HSMRT_TIMEOUT = 3, HSMRT_FAILED = 4 };

/** One of several replies to a prompt; valid during the callback. */
typedef struct hsmrt_sample {
  int64_t index;          /**< its number among them; its seed is that of the request + index */
  int32_t ending;         /**< such as HSMRT_LENGTH */
  int32_t code;           /**< HSMRT_OK, but for HSMRT_FAILED */
  const int64_t* tokens;  /**< the new tokens, without a stop token */
  size_t token_count;     /**< how many */
  double log_probability; /**< sum over all that was chosen, a stop token included */
} hsmrt_sample;

/** How a request ended; valid during the callback. */
typedef struct hsmrt_reply {
  size_t size;                                    /**< sizeof(hsmrt_reply) in the library */
  uint64_t id;                                    /**< as hsmrt_scheduler_submit gave it */
  int32_t ending;                                 /**< such as HSMRT_LENGTH */
  int32_t code;                                   /**< HSMRT_OK, but for HSMRT_FAILED */
  const char* message;                            /**< why it failed, or "" */
  const int64_t* tokens;                          /**< the new tokens, without a stop token */
  size_t token_count;                             /**< how many */
  double seconds_to_row;                          /**< from its submission until it had a row */
  double seconds_to_first_token;                  /**< until its first token; 0 without one */
  double seconds;                                 /**< until its end */
  const hsmrt_log_probability* log_probabilities; /**< (token_count) how likely each was; NULL unless asked for */
  const hsmrt_log_probability* top;               /**< (token_count, top_count) the likeliest tokens at each place */
  size_t top_count;                               /**< as the request asked, V at most */
  double log_probability;                         /**< sum over all that was chosen, a stop token included */
  const hsmrt_sample* samples;                    /**< all samples, or the best ones, likeliest first; the first of them
                                                       is what stands above. NULL for a request for one */
  size_t sample_count;                            /**< how many */
} hsmrt_reply;

/** A prompt and what shall become of it; nothing of it is kept but `user` and the callbacks. */
typedef struct hsmrt_request {
  size_t size;                                          /**< sizeof(hsmrt_request) */
  const int64_t* prompt;                                /**< token ids */
  size_t prompt_count;                                  /**< at least 1 */
  int64_t max_tokens;                                   /**< new tokens to make, at least 1 */
  const hsmrt_sampling* sampling;                       /**< NULL takes the likeliest */
  uint64_t seed;                                        /**< of the request's own random numbers */
  const int64_t* stop_tokens;                           /**< token ids at which the reply ends */
  size_t stop_token_count;                              /**< how many */
  int32_t priority;                                     /**< the largest gets rows first */
  int64_t timeout_ms;                                   /**< time until its end; 0 for any */
  const char* resume;                                   /**< the file of a row to go on from, or NULL */
  const char* park;                                     /**< where to save the row at the end, or NULL */
  int32_t (*on_token)(void* user, int64_t token);       /**< 0 cancels the request; may be NULL */
  void (*on_end)(void* user, const hsmrt_reply* reply); /**< called once; may be NULL */
  void* user;                                           /**< the callbacks' own */
  int32_t log_probabilities;                            /**< 1: the reply says how likely each token was */
  size_t top_count;                                     /**< and so many likeliest ones at each place */
  int64_t samples;                                      /**< replies to make of the prompt, each in a row; 0: 1 */
  int64_t best;                                         /**< how many to return, likeliest first; 0: all, by index */
  int32_t (*on_sample_token)(void* user, int64_t sample, int64_t token); /**< in place of on_token; may be NULL */
} hsmrt_request;

/** Counts since the scheduler was made, and how it stands. */
typedef struct hsmrt_metrics {
  size_t size;                   /**< sizeof(hsmrt_metrics) */
  uint64_t rows;                 /**< rows that there are */
  uint64_t active;               /**< rows that work */
  uint64_t waiting;              /**< requests without a row */
  uint64_t ended;                /**< requests that have ended, in whatever way */
  uint64_t refused;              /**< requests refused because too many waited */
  uint64_t prompt_tokens;        /**< tokens of prompts that were read */
  uint64_t tokens;               /**< tokens that were made */
  double seconds_to_first_token; /**< sum over the requests that have one */
  uint64_t first_tokens;         /**< how many these are */
} hsmrt_metrics;

/** `session` is of HSMRT_DECODE, and may be closed before the scheduler. */
HSMRT_API int32_t hsmrt_scheduler_create(const hsmrt_session* session, const hsmrt_scheduler_options* options,
                                         hsmrt_scheduler** scheduler, hsmrt_error* error);
/** Cancels what is left; from a callback, once that has returned. */
HSMRT_API void hsmrt_scheduler_close(hsmrt_scheduler* scheduler);
/** Queues a request; `id` may be NULL. HSMRT_UNAVAILABLE when too many wait already. */
HSMRT_API int32_t hsmrt_scheduler_submit(hsmrt_scheduler* scheduler, const hsmrt_request* request, uint64_t* id,
                                         hsmrt_error* error);
/** Ends a request before the next step. One that has ended already is none. */
HSMRT_API int32_t hsmrt_scheduler_cancel(hsmrt_scheduler* scheduler, uint64_t id, hsmrt_error* error);
/** Waits until nothing waits or works. HSMRT_INVALID_ARGUMENT from a callback, which would wait for itself. */
HSMRT_API int32_t hsmrt_scheduler_drain(const hsmrt_scheduler* scheduler, hsmrt_error* error);
/** Set metrics->size before. */
HSMRT_API int32_t hsmrt_scheduler_get_metrics(const hsmrt_scheduler* scheduler, hsmrt_metrics* metrics,
                                              hsmrt_error* error);

/** A bundle's tokenizer: text to token ids and back, the same ids as in Python. Any number of threads may use one. */
typedef struct hsmrt_tokenizer hsmrt_tokenizer;

/** The bundle may be closed before the tokenizer. HSMRT_NO_BACKEND for a tokenizer.json with a part that this library
 * does not know, which the error names. */
HSMRT_API int32_t hsmrt_tokenizer_open(const hsmrt_bundle* bundle, hsmrt_tokenizer** tokenizer, hsmrt_error* error);
/** Text streams stay open. */
HSMRT_API void hsmrt_tokenizer_close(hsmrt_tokenizer* tokenizer);
/** Ids are 0 .. this - 1. */
HSMRT_API int64_t hsmrt_tokenizer_vocabulary(const hsmrt_tokenizer* tokenizer);
/** The ids of `bytes` bytes of UTF-8 text. `count` gets how many there are; with a room of 0 that is all. Not more ids
 * than bytes, but for tokenizers that put something before the text. */
HSMRT_API int32_t hsmrt_tokenizer_encode(const hsmrt_tokenizer* tokenizer, const char* text, size_t bytes,
                                         int64_t* tokens, size_t room, size_t* count, hsmrt_error* error);
/** The text of ids, in valid UTF-8 and without a zero at its end. `bytes` gets its length; with a room of 0 that is
 * all. */
HSMRT_API int32_t hsmrt_tokenizer_decode(const hsmrt_tokenizer* tokenizer, const int64_t* tokens, size_t token_count,
                                         char* text, size_t room, size_t* bytes, hsmrt_error* error);

/** Turns the tokens of one sequence into text as they come: never half a character, never any part of a stop string.
 * One thread at a time may use it. */
typedef struct hsmrt_text_stream hsmrt_text_stream;

/** `stops`: strings that end the text before them; NULL for none. */
HSMRT_API int32_t hsmrt_text_stream_create(const hsmrt_tokenizer* tokenizer, const char* const* stops,
                                           size_t stop_count, hsmrt_text_stream** stream, hsmrt_error* error);
/** The tokenizer stays open. */
HSMRT_API void hsmrt_text_stream_close(hsmrt_text_stream* stream);
/** `text` gets the text that became certain with this token, which may be empty; it ends with a zero and is valid until
 * the next call. `bytes` gets its length and may be NULL, since text may hold zeros. */
HSMRT_API int32_t hsmrt_text_stream_push(hsmrt_text_stream* stream, int64_t token, const char** text, size_t* bytes,
                                         hsmrt_error* error);
/** `text` gets what is left at the end. */
HSMRT_API int32_t hsmrt_text_stream_finish(hsmrt_text_stream* stream, const char** text, size_t* bytes,
                                           hsmrt_error* error);
/** 1 when a stop string came. */
HSMRT_API int32_t hsmrt_text_stream_stopped(const hsmrt_text_stream* stream);

#ifdef __cplusplus
}
#endif

#endif /* HSM_RUNTIME_H_ */
