// hsm-run: opens a bundle, runs it, checks its numbers on this machine, and times it.
#include <chrono>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hsm_runtime/session.h"
#include "runtime/error.h"
#include "runtime/run/call.h"
#include "runtime/run/options.h"
#include "runtime/run/report.h"
#include "runtime/run/require.h"
#include "runtime/run/self_test.h"
#include "runtime/run/serve.h"
#include "runtime/run/tensors.h"

namespace {

using hsm::run::Call;
using hsm::run::Options;
using hsm::run::PartReport;
using hsm::run::Report;
using hsm::run::require;
using hsm::runtime::SafetensorsFile;
using hsm_runtime::Bundle;
using hsm_runtime::Code;
using hsm_runtime::Part;
using hsm_runtime::Session;
using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string name_of(Part part) { return part == Part::kModel ? "model" : "decode"; }

// The parts to run: the one that was asked for, both for the self-test, else the first that there is.
std::vector<Part> parts_of(const Bundle& bundle, const Options& options) {
  if (options.part) return {*options.part};
  std::vector<Part> parts;
  for (const Part part : {Part::kModel, Part::kDecode}) {
    if (bundle.has(part)) parts.push_back(part);
  }
  if (options.serve || !options.inputs.empty()) parts.resize(1);
  return parts;
}

hsm::run::Times bench(const Call& call, int runs) {
  std::vector<double> times;
  for (int i = 0; i < runs / 10; ++i) call.run();
  for (int i = 0; i < runs; ++i) call.run(&times.emplace_back());
  return hsm::run::summary_of(std::move(times));
}

PartReport run_part(const Bundle& bundle, Part part, const Options& options, const SafetensorsFile& file) {
  PartReport report{.part = name_of(part)};
  const auto start = Clock::now();
  const Session session = require(Session::open(bundle, part, options.session));
  report.backend = name_of(session.backend());
  report.load_ms = milliseconds_since(start);
  const Call call(session, file, options.inputs.empty() ? report.part + ".inputs." : "");
  double microseconds = 0;
  const std::vector<hsm_runtime::Tensor> results = call.run(&microseconds);
  report.first_run_ms = microseconds / 1e3;
  if (!options.outputs.empty()) hsm::run::write_outputs(options.outputs, results);
  if (options.self_test) report.self_test = hsm::run::compare(bundle, report.part, results, file);
  if (options.runs > 0) report.times = bench(call, options.runs);
  return report;
}

int run(Options options) {
  if (!options.quiet) {
    options.session.log = [](hsm_runtime::LogLevel, std::string_view text) { std::cerr << text << '\n'; };
  }
  const auto start = Clock::now();
  const Bundle bundle = require(Bundle::open(options.bundle, options.opening));
  Report report{.bundle = options.bundle, .open_ms = milliseconds_since(start)};
  const std::vector<Part> parts = parts_of(bundle, options);
  if (options.serve) {
    hsm::run::serve(require(Session::open(bundle, parts[0], options.session)), std::cin, std::cout);
    return 0;
  }
  const SafetensorsFile file = options.inputs.empty() ? SafetensorsFile(bundle.path(), "self-test.safetensors")
                                                      : SafetensorsFile(options.inputs);
  for (const Part part : parts) report.parts.push_back(run_part(bundle, part, options, file));
  std::cout << (options.json ? to_json(report) : to_text(report));
  return report.passed() ? 0 : 5;
}

// As the exit codes of hsm-export.
int exit_code(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return 2;
    case Code::kNoBackend:
      return 3;
    case Code::kBadBundle:
      return 4;
    default:
      return 1;
  }
}

int failed(const hsm_runtime::Status& status, const char* hint) {
  std::cerr << "error: " << status.message() << '\n' << hint;
  return exit_code(status.code());
}

}  // namespace

int main(int argc, char** argv) {
  hsm_runtime::Result<Options> options = hsm::runtime::guarded<Options>([&] { return hsm::run::parse(argc, argv); });
  if (!options.ok()) return failed(options.status(), "hint: hsm-run --help\n");
  if (options->help) {
    std::cout << hsm::run::kHelp;
    return 0;
  }
  const hsm_runtime::Result<int> code = hsm::runtime::guarded<int>([&] { return run(*options); });
  return code.ok() ? *code : failed(code.status(), "");
}
