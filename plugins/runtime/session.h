// What a public Session points to.
#pragma once

#include <memory>

#include "hsm_runtime/session.h"
#include "runtime/bundle.h"
#include "runtime/program.h"

namespace hsm_runtime {

struct Session::Impl {
  Bundle bundle;
  Part part;
  Backend backend;
  std::shared_ptr<const hsm::runtime::Program> program;

  const hsm::runtime::Graph& graph() const { return *bundle.impl().graph(part); }
};

}  // namespace hsm_runtime

namespace hsm::runtime {

// Loads a part of a bundle into the first back end that takes it. Throws Error.
std::shared_ptr<const hsm_runtime::Session::Impl> open_session(const hsm_runtime::Bundle& bundle,
                                                               hsm_runtime::Part part,
                                                               const hsm_runtime::SessionOptions& options);

}  // namespace hsm::runtime
