// Lets a chosen allocation of the test program fail.
#pragma once

#include <cstddef>

namespace hsm::testing {

// The allocation of this thread that fails, counted from 1; 0: none.
extern constinit thread_local std::size_t failing_allocation;
// Allocations counted so far, while one is to fail.
extern constinit thread_local std::size_t allocations;

}  // namespace hsm::testing
