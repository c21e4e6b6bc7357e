// Marks what libhsm_runtime.so exports.
#pragma once

#if defined(_WIN32)
#define HSM_RUNTIME_API
#else
#define HSM_RUNTIME_API __attribute__((visibility("default")))
#endif
