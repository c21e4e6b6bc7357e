// The operators of a library as text: what a program asks before it uses a library that somebody else built.
#pragma once

#include <string>

#include "hsm_operators/common/opset.h"

namespace hsm::opset {

// Returns an operator's signature, `domain::Name(input:type(dimensions),...)->(output...){attribute:type,...}`, as
// hsm_operators/signature.py writes it.
std::string described(const Operator& op);

// Returns the signatures of the table's operators that `has_kernel` accepts, one a line. The text lives as long as the
// library; empty when there is no memory for it.
const char* described_library(bool (*has_kernel)(const Operator& op)) noexcept;

}  // namespace hsm::opset

#if defined(_WIN32)
#define HSM_LIBRARY_API __declspec(dllexport)
#else
#define HSM_LIBRARY_API __attribute__((visibility("default")))
#endif

// Exported by every library of operators, whatever its adapter: `described_library` of those that it has kernels for.
extern "C" HSM_LIBRARY_API const char* hsm_library_operators(void);
