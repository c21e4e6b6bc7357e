// cp.async: a copy happens only when the thread waits for it, and its target is poisoned until then, so that whoever
// reads too early sees NaN.
#pragma once

#include "block.h"

namespace hsm::simt {

void cp_async_16(void* shared, const void* global, int bytes, const Where& where = Where::current());
void cp_async_commit();
// Finishes all but the `pending` youngest closed groups of this thread.
void cp_async_wait(int pending);

}  // namespace hsm::simt
