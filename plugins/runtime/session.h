// What a public Session points to.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "hsm_runtime/session.h"
#include "runtime/bundle.h"
#include "runtime/program.h"
#include "runtime/worker.h"

namespace hsm_runtime {

struct Session::Impl {
  Impl(Bundle opened, Part chosen, Backend loaded) : bundle(std::move(opened)), part(chosen), backend(loaded) {}

  Bundle bundle;
  Part part;
  Backend backend;
  std::shared_ptr<const hsm::runtime::Program> program;
  mutable hsm::runtime::Worker worker;  // of runs that no device carries out

  std::optional<hsm::runtime::Graph> extended;  // with outputs that the bundle's has not

  const hsm::runtime::Graph& graph() const { return extended ? *extended : *bundle.impl().graph(part); }
};

}  // namespace hsm_runtime

namespace hsm::runtime {

// Loads a part of a bundle into the first back end that takes it. Throws Error.
std::shared_ptr<const hsm_runtime::Session::Impl> open_session(const hsm_runtime::Bundle& bundle,
                                                               hsm_runtime::Part part,
                                                               const hsm_runtime::SessionOptions& options);

}  // namespace hsm::runtime
