// What one use of hsm-run found out, for people and for programs.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace hsm::run {

struct Compared {
  std::string output;
  double error = 0;  // the largest absolute one
  double tolerance = 0;
  bool passed() const { return error <= tolerance; }
};

struct Times {
  std::size_t runs = 0;
  double median = 0, least = 0, quarter = 0, three_quarters = 0, most_of_95_percent = 0;  // microseconds
};

// Of at least one time.
Times summary_of(std::vector<double> microseconds);

struct PartReport {
  std::string part, backend;
  double load_ms = 0, first_run_ms = 0;
  std::vector<Compared> self_test;
  std::optional<Times> times;
};

struct Report {
  std::string bundle;
  double open_ms = 0;
  std::vector<PartReport> parts;
  bool passed() const;
};

std::string to_text(const Report& report);
std::string to_json(const Report& report);

}  // namespace hsm::run
