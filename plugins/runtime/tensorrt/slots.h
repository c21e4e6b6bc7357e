// TensorRT's objects, called through their tables of virtual functions.
//
// TensorRT's headers describe one version: 11 took functions out of IRuntime, ICudaEngine, IExecutionContext and
// IPluginRegistry, so that those behind them moved, and code that was compiled with the headers of 10 would call others
// than it means. The back end calls fifteen functions, so it has their places in both tables instead of two builds of
// itself, and needs no header. The places are the same in all headers from 10.0 to 10.16, and in those of 11.0
// and 11.1; lean 11.4 and TensorRT-RTX 1.7.1 have those of 11, as the code of their own Python bindings shows. A test
// compares them with the headers that it is compiled with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "tensorrt/abi.h"

namespace hsm::runtime::trt {

// Places in the tables; a virtual destructor takes the first two.
struct Slots {
  // IRuntime
  int deserialize, plugin_registry, allow_native_code;
  // ICudaEngine
  int create_context, profile_count, tensor_shape, tensor_type, is_shape_tensor, tensor_mode, profile_shape,
      tensor_count, tensor_name;
  // IExecutionContext
  int set_profile, set_input_shape, context_shape, set_address, infer_shapes, enqueue;
  // IPluginRegistry
  int load_library;
};

inline constexpr Slots kSlots10 = {.deserialize = 3,
                                   .plugin_registry = 18,
                                   .allow_native_code = 21,
                                   .create_context = 5,
                                   .profile_count = 10,
                                   .tensor_shape = 19,
                                   .tensor_type = 20,
                                   .is_shape_tensor = 22,
                                   .tensor_mode = 23,
                                   .profile_shape = 29,
                                   .tensor_count = 30,
                                   .tensor_name = 31,
                                   .set_profile = 17,
                                   .set_input_shape = 21,
                                   .context_shape = 22,
                                   .set_address = 24,
                                   .infer_shapes = 28,
                                   .enqueue = 37,
                                   .load_library = 10};

inline constexpr Slots kSlots11 = {.deserialize = 3,
                                   .plugin_registry = 17,
                                   .allow_native_code = 20,
                                   .create_context = 5,
                                   .profile_count = 8,
                                   .tensor_shape = 15,
                                   .tensor_type = 16,
                                   .is_shape_tensor = 18,
                                   .tensor_mode = 19,
                                   .profile_shape = 25,
                                   .tensor_count = 26,
                                   .tensor_name = 27,
                                   .set_profile = 16,
                                   .set_input_shape = 20,
                                   .context_shape = 21,
                                   .set_address = 23,
                                   .infer_shapes = 27,
                                   .enqueue = 36,
                                   .load_library = 6};

// nvinfer1::Dims64.
struct Dims {
  std::int32_t count = 0;  // -1: there is no such shape
  std::int64_t sizes[8] = {};
};

// Numbers of TensorRT's enumerations.
inline constexpr std::int32_t kInput = 1;             // TensorIOMode
inline constexpr std::int32_t kMin = 0, kMax = 2;     // OptProfileSelector
inline constexpr std::int32_t kStaticAllocation = 0;  // ExecutionContextAllocationStrategy

template <typename R, typename... Arguments>
R call_virtual(void* object, int slot, Arguments... arguments) {
  using Function = R (*)(void*, Arguments...);
  void* const* const table = *static_cast<void* const* const*>(object);
  return reinterpret_cast<Function>(table[slot])(object, arguments...);
}

// The classes of the headers hold a pointer to the object whose table is meant, after that to their own.
struct Interface {
  void* const* table;
  void* implementation;
};

struct DeleteInterface {
  void operator()(Interface* object) const noexcept { call_virtual<void>(object, 1); }
};
using OwnedInterface = std::unique_ptr<Interface, DeleteInterface>;

// What a function that makes an object returned; null when it made none. TensorRT 11.4's lean runtime then returns the
// address of a base class inside of nothing (0x228), as seen without a driver.
inline OwnedInterface own(void* made) {
  constexpr std::uintptr_t kFirstPage = 4096;
  return OwnedInterface(reinterpret_cast<std::uintptr_t>(made) < kFirstPage ? nullptr : static_cast<Interface*>(made));
}

template <typename R, typename... Arguments>
R call(Interface* object, int slot, Arguments... arguments) {
  return call_virtual<R>(object->implementation, slot, arguments...);
}

}  // namespace hsm::runtime::trt
