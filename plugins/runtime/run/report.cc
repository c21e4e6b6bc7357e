#include "runtime/run/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

namespace hsm::run {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Times& times) {
  return {{"runs", times.runs},
          {"median_us", times.median},
          {"q1_us", times.quarter},
          {"q3_us", times.three_quarters},
          {"p95_us", times.most_of_95_percent},
          {"minimum_us", times.least}};
}

Json json_of(const PartReport& part) {
  Json self_test = Json::array();
  for (const Compared& item : part.self_test) {
    self_test.push_back(
        {{"output", item.output}, {"error", item.error}, {"tolerance", item.tolerance}, {"passed", item.passed()}});
  }
  return {{"part", part.part},       {"backend", part.backend},
          {"load_ms", part.load_ms}, {"first_run_ms", part.first_run_ms},
          {"self_test", self_test},  {"times", part.times ? json_of(*part.times) : Json(nullptr)}};
}

}  // namespace

Times summary_of(std::vector<double> microseconds) {
  std::sort(microseconds.begin(), microseconds.end());
  const auto at = [&](std::size_t percent) { return microseconds[(microseconds.size() - 1) * percent / 100]; };
  return {microseconds.size(), at(50), at(0), at(25), at(75), at(95)};
}

bool Report::passed() const {
  return std::ranges::all_of(parts, [](const PartReport& part) {
    return std::ranges::all_of(part.self_test, [](const Compared& item) { return item.passed(); });
  });
}

std::string to_text(const Report& report) {
  std::ostringstream text;
  text << "opened " << report.bundle << " in " << report.open_ms << " ms\n";
  for (const PartReport& part : report.parts) {
    text << part.part << ": " << part.backend << ", loaded in " << part.load_ms << " ms, first run "
         << part.first_run_ms << " ms\n";
    for (const Compared& item : part.self_test) {
      text << (item.passed() ? "passed " : "FAILED ") << item.output << ": largest error " << item.error << ", allowed "
           << item.tolerance << '\n';
    }
    if (!part.times) continue;
    text << part.part << ": median " << part.times->median << " us, 95 % below " << part.times->most_of_95_percent
         << " us, " << part.times->runs << " runs\n";
  }
  return text.str();
}

std::string to_json(const Report& report) {
  Json parts = Json::array();
  for (const PartReport& part : report.parts) parts.push_back(json_of(part));
  const Json json = {
      {"bundle", report.bundle}, {"open_ms", report.open_ms}, {"passed", report.passed()}, {"parts", parts}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace hsm::run
