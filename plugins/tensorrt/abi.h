// What of TensorRT's binary interface is not the same in every version that one library serves.
//
// TensorRT 11 and TensorRT-RTX put a versioned base class under ILogger and ILoggerFinder, and took the functions for
// V2 plugins out of IPluginRegistry, so the tables of virtual functions differ from those of TensorRT 10. The headers
// describe one version only; the classes below describe both, in the order that the Itanium C++ ABI gives functions.
#pragma once

#include <cstdint>

// Where an object is used through a description of its class: sanitizers would miss the class's own name.
#define HSM_FOREIGN_CLASS __attribute__((no_sanitize("vptr")))

namespace hsm::tensorrt {

enum class Layout : std::uint8_t { kUnknown, kTensorRt10, kTensorRt11 };

// Returns the layout of the version that getInferLibVersion() reports: 101401 is TensorRT 10.14.1, 10701 is
// TensorRT-RTX 1.7.1, the oldest TensorRT-RTX whose layout is known.
Layout layout_of(std::int32_t version) noexcept;

// The TensorRT library in which an object's class lives.
struct Library {
  void* handle = nullptr;
  Layout layout = Layout::kUnknown;
};

// Returns the library that made `object`, which has virtual functions.
Library library_of(const void* object) noexcept;

// Returns the library that is loaded from `path`.
Library loaded_library(const char* path) noexcept;

namespace abi10 {

struct Logger {
  virtual void log(std::int32_t severity, const char* message) noexcept = 0;
  virtual ~Logger() = default;
};

struct LoggerFinder {
  virtual Logger* find() = 0;
  virtual ~LoggerFinder() = default;
};

struct Registry {
  virtual bool register_v2(void* creator, const char* name_space) noexcept = 0;
  virtual void* list_v2(std::int32_t* count) const noexcept = 0;
  virtual void* get_v2(const char* name, const char* version, const char* name_space) noexcept = 0;
  virtual ~Registry() = default;
  virtual void set_error_recorder(void* recorder) noexcept = 0;
  virtual void* error_recorder() const noexcept = 0;
  virtual bool deregister_v2(const void* creator) noexcept = 0;
  virtual bool searches_parent() const = 0;
  virtual void set_searches_parent(bool enabled) = 0;
  virtual void* load_library(const char* path) noexcept = 0;
  virtual void deregister_library(void* handle) noexcept = 0;
  virtual bool register_creator(void* creator, const char* name_space) noexcept = 0;
};

}  // namespace abi10

namespace abi11 {

struct Versioned {
  virtual std::int32_t language() const noexcept = 0;
  virtual void interface_info() const noexcept = 0;  // never called: what it returns is not described here
  virtual ~Versioned() = default;
};

struct Logger : Versioned {
  virtual void log(std::int32_t severity, const char* message) noexcept = 0;
};

struct LoggerFinder : Versioned {
  virtual Logger* find() = 0;
};

struct Registry {
  virtual ~Registry() = default;
  virtual void set_error_recorder(void* recorder) noexcept = 0;
  virtual void* error_recorder() const noexcept = 0;
  virtual bool searches_parent() const = 0;
  virtual void set_searches_parent(bool enabled) = 0;
  virtual void* load_library(const char* path) noexcept = 0;
  virtual void deregister_library(void* handle) noexcept = 0;
  virtual bool register_creator(void* creator, const char* name_space) noexcept = 0;
};

}  // namespace abi11

}  // namespace hsm::tensorrt
