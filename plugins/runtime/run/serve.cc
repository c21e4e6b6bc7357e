#include "runtime/run/serve.h"

#include <charconv>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/run/call.h"
#include "runtime/run/report.h"
#include "runtime/run/tensors.h"

namespace hsm::run {
namespace {

using hsm_runtime::Session;
using runtime::Code;
using runtime::fail;
using runtime::SafetensorsFile;

std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words(1);
  for (const char c : line) {
    if (c == '\t') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

double seconds_of(const std::string& text) {
  double seconds = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || !(seconds >= 0)) {
    fail(Code::kInvalidArgument, "'" + text + "' is not a number of seconds");
  }
  return seconds;
}

double run_once(const Session& session, const std::string& inputs, const std::string& outputs) {
  const Call call(session, SafetensorsFile(inputs));
  double microseconds = 0;
  write_outputs(outputs, call.run(&microseconds));
  return microseconds;
}

// The median of the runs of so many seconds; the first run, which finds cold caches, does not count.
double run_for(const Session& session, const std::string& inputs, double seconds) {
  const Call call(session, SafetensorsFile(inputs));
  std::vector<double> times;
  call.run();
  for (double sum = 0; times.empty() || sum < 1e6 * seconds; sum += times.back()) call.run(&times.emplace_back());
  return summary_of(std::move(times)).median;
}

double answer(const Session& session, const std::vector<std::string>& words) {
  if (words.size() == 3 && words[0] == "run") return run_once(session, words[1], words[2]);
  if (words.size() == 3 && words[0] == "time") return run_for(session, words[1], seconds_of(words[2]));
  fail(Code::kInvalidArgument, "a request is 'run IN OUT' or 'time IN SECONDS' with tabs between the words");
}

}  // namespace

void serve(const Session& session, std::istream& requests, std::ostream& answers) {
  answers << "ready " << name_of(session.backend()) << std::endl;
  for (std::string line; std::getline(requests, line);) {
    const auto microseconds = runtime::guarded<double>([&] { return answer(session, words_of(line)); });
    if (microseconds.ok()) {
      answers << "ok " << *microseconds << std::endl;
    } else {
      answers << "error " << runtime::printable(microseconds.status().message()) << std::endl;
    }
  }
}

}  // namespace hsm::run
