// Many calls with one start: a request a line, an answer a line.
#pragma once

#include <iosfwd>

#include "hsm_runtime/session.h"

namespace hsm::run {

// Answers until the requests end; what a request may be is in the program's help (options.cc).
void serve(const hsm_runtime::Session& session, std::istream& requests, std::ostream& answers);

}  // namespace hsm::run
