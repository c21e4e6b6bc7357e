#include "runtime/run/options.h"

#include <charconv>
#include <functional>
#include <map>
#include <string_view>

#include "runtime/error.h"

namespace hsm::run {
namespace {

using hsm_runtime::Part;
using runtime::Code;
using runtime::fail;

int number_of(const std::string& text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    fail(Code::kInvalidArgument, "'" + text + "' is not a whole number");
  }
  return value;
}

Part part_of(const std::string& name) {
  if (name == "model") return Part::kModel;
  if (name == "decode") return Part::kDecode;
  fail(Code::kInvalidArgument, "there is no part '" + name + "'; a bundle has model, decode or both");
}

hsm_runtime::Backend backend_of(const std::string& name) {
  hsm_runtime::Backend backend;
  if (!backend_from_name(name, &backend)) fail(Code::kInvalidArgument, "there is no back end '" + name + "'");
  return backend;
}

std::map<std::string_view, std::function<void()>> switches(Options& options) {
  return {{"--self-test", [&] { options.self_test = true; }},
          {"--serve", [&] { options.serve = true; }},
          {"--json", [&] { options.json = true; }},
          {"--quiet", [&] { options.quiet = true; }},
          {"--help", [&] { options.help = true; }},
          {"-h", [&] { options.help = true; }},
          {"--no-digests", [&] { options.opening.verify_digests = false; }}};
}

std::map<std::string_view, std::function<void(const std::string&)>> settings(Options& options) {
  return {{"--inputs", [&](const std::string& text) { options.inputs = text; }},
          {"--outputs", [&](const std::string& text) { options.outputs = text; }},
          {"--part", [&](const std::string& text) { options.part = part_of(text); }},
          {"--bench", [&](const std::string& text) { options.runs = number_of(text); }},
          {"--threads", [&](const std::string& text) { options.session.threads = number_of(text); }},
          {"--onnxruntime", [&](const std::string& text) { options.session.onnxruntime_library = text; }},
          {"--kernels", [&](const std::string& text) { options.session.kernel_library = text; }},
          {"--libraries", [&](const std::string& text) { options.session.operator_libraries = text; }},
          {"--backend", [&](const std::string& text) { options.session.backends = {backend_of(text)}; }}};
}

void check(const Options& options) {
  const auto refuse = [](const char* what) { fail(Code::kInvalidArgument, what); };
  if (options.bundle.empty()) refuse("name a bundle, such as model.hsm");
  if (options.inputs.empty() && !options.outputs.empty()) refuse("--outputs needs --inputs, which it belongs to");
  if (options.self_test && !options.inputs.empty()) refuse("--self-test has inputs of its own; leave --inputs out");
  const bool once = options.self_test || options.json || options.runs > 0 || !options.inputs.empty();
  if (options.serve && once) refuse("--serve takes its requests from stdin; leave the other modes out");
}

}  // namespace

const char* const kHelp =
    "usage: hsm-run BUNDLE [OPTION]...\n"
    "\n"
    "Opens a bundle, runs it, checks its numbers on this machine and times it.\n"
    "\n"
    "  hsm-run model.hsm --self-test                          are the numbers right here?\n"
    "  hsm-run model.hsm --inputs in.safetensors --outputs out.safetensors\n"
    "                                                         run once; the tensors are named as the model's\n"
    "  hsm-run model.hsm --part decode --inputs in.safetensors --outputs out.safetensors\n"
    "                                                         one call of a decoder; a missing past.* is zeros\n"
    "  hsm-run model.hsm --inputs in.safetensors --bench 1000 --threads 1 --json\n"
    "                                                         time these inputs, for programs to read\n"
    "  printf 'run\\tin.safetensors\\tout.safetensors\\n' | hsm-run model.hsm --serve\n"
    "                                                         many calls with one start\n"
    "\n"
    "  --self-test        compare with the numbers in the bundle; exits with 5 when they differ\n"
    "  --inputs FILE      a .safetensors file with the inputs; without it, those of the self-test\n"
    "  --outputs FILE     write all outputs there; the file appears whole or not at all\n"
    "  --part PART        model or decode; default: both for the self-test, else the first that there is\n"
    "  --bench RUNS       time so many runs, after as many tenths to warm up\n"
    "  --serve            answer requests, a line each with tabs between its words, until stdin ends:\n"
    "                       run IN OUT        runs the inputs in IN, writes OUT\n"
    "                       time IN SECONDS   runs the inputs in IN again and again for so long\n"
    "                     prints 'ready BACKEND', then for each request 'ok MICROSECONDS' (of one run, the\n"
    "                     median of many) or 'error TEXT'\n"
    "  --json             print one JSON object\n"
    "  --threads N        threads of a run; 0, the default, means one a core\n"
    "  --backend NAME     such as onnxruntime-fused; default: the first that works (docs/embedding.md)\n"
    "  --onnxruntime LIB  ONNX Runtime's library; default: HSM_ONNXRUNTIME_LIBRARY, or what the system finds\n"
    "  --kernels LIB      the library of fused kernels; default: the one beside libhsm_runtime.so\n"
    "  --libraries DIRS   folders of the libraries of operators of others; default: HSM_EXPORT_LIBRARIES\n"
    "  --no-digests       do not compare the files' SHA-256: for bundles that were verified before\n"
    "  --quiet            keep the back end's messages to itself\n"
    "\n"
    "Exits with 0, or 1: a run failed, 2: wrong options or inputs, 3: no back end works here, 4: the bundle or a\n"
    "file cannot be used, 5: the numbers differ.\n";

Options parse(int argc, char** argv) {
  Options options;
  const auto flags = switches(options);
  const auto values = settings(options);
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (const auto flag = flags.find(word); flag != flags.end()) {
      flag->second();
    } else if (const auto value = values.find(word); value != values.end()) {
      if (i + 1 == argc || *argv[i + 1] == '\0') fail(Code::kInvalidArgument, std::string(word) + " needs a value");
      value->second(argv[++i]);
    } else if (word.starts_with("-") || !options.bundle.empty()) {
      fail(Code::kInvalidArgument, "what is '" + std::string(word) + "'?");
    } else {
      options.bundle = word;
    }
  }
  if (!options.help) check(options);
  return options;
}

}  // namespace hsm::run
