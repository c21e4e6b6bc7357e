// The command line of hsm-run.
#pragma once

#include <optional>
#include <string>

#include "hsm_runtime/session.h"

namespace hsm::run {

struct Options {
  std::string bundle;
  std::string inputs, outputs;  // .safetensors files; empty: the self-test's call, and no file
  std::optional<hsm_runtime::Part> part;
  bool self_test = false;
  bool serve = false;
  bool json = false;
  bool quiet = false;
  bool help = false;
  int runs = 0;
  hsm_runtime::BundleOptions opening;
  hsm_runtime::SessionOptions session;
};

extern const char* const kHelp;

// Throws Error(kInvalidArgument): unknown options, or such as contradict each other.
Options parse(int argc, char** argv);

}  // namespace hsm::run
