#include "tensorrt/logging.h"

#include <cstdio>
#include <mutex>

namespace hsm::tensorrt {
namespace {

struct Finder {
  void* object = nullptr;
  Layout layout = Layout::kUnknown;
};

std::mutex finder_mutex;
Finder finder;

Finder current_finder() {
  const std::lock_guard lock(finder_mutex);
  return finder;
}

template <typename LoggerFinder>
HSM_FOREIGN_CLASS bool pass_on(void* object, Severity severity, const std::string& message) {
  auto* logger = static_cast<LoggerFinder*>(object)->find();
  if (logger == nullptr) return false;
  logger->log(static_cast<std::int32_t>(severity), message.c_str());
  return true;
}

bool pass_on(Severity severity, const std::string& message) {
  const auto [object, layout] = current_finder();
  if (object == nullptr) return false;
  switch (layout) {
    case Layout::kTensorRt10:
      return pass_on<abi10::LoggerFinder>(object, severity, message);
    case Layout::kTensorRt11:
      return pass_on<abi11::LoggerFinder>(object, severity, message);
    case Layout::kUnknown:
      break;
  }
  return false;
}

}  // namespace

void set_logger_finder(void* object, Layout layout) noexcept {
  const std::lock_guard lock(finder_mutex);
  finder = {object, layout};
}

void log(Severity severity, const std::string& message) noexcept {
  try {
    if (pass_on(severity, message)) return;
  } catch (...) {
    // The message still reaches stderr.
  }
  if (severity <= Severity::kWarning) std::fprintf(stderr, "%s\n", message.c_str());
}

}  // namespace hsm::tensorrt
