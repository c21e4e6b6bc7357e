/* Uses the C interface of generators, compiled as C. */
#ifndef HSM_TESTS_RUNTIME_C_GENERATOR_H_
#define HSM_TESTS_RUNTIME_C_GENERATOR_H_

#include "hsm_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Each returns NULL, or the source of the first check that failed. `session` decodes the counting model. */
const char* c_generator_generates(const hsmrt_session* session, const char* state_file);
const char* c_generator_moves_rows(const hsmrt_session* session, const char* row_file);
const char* c_generator_refuses(const hsmrt_session* session);
const char* c_generator_takes_null(void);

/* One step of a generator of one row, and the choice of its next token; NULL or what failed. */
const char* c_generator_steps(hsmrt_generator* generator);

#ifdef __cplusplus
}
#endif

#endif /* HSM_TESTS_RUNTIME_C_GENERATOR_H_ */
