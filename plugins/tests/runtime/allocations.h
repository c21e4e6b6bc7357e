// Counts what this program allocates, the libraries that it loads included.
#pragma once

namespace hsm::testing {

// Calls of operator new so far.
long allocations();

// Whether they are counted: not with sanitizers, which bring their own.
bool counts_allocations();

// The next call of operator new in this thread throws std::bad_alloc, where they are counted.
void fail_next_allocation();

}  // namespace hsm::testing
