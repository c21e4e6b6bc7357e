// TensorRT's objects, by NVIDIA's own headers of TensorRT 10, in every version that one library serves.
//
// TensorRT 11 took functions out of IRuntime, ICudaEngine, IExecutionContext and IPluginRegistry, so that those behind
// them moved, and code that was compiled with the headers of 10 would call others than it means. TensorRT 11's headers
// are in no package registry. So a function is called as the headers of 10 declare it, at the place where they have it;
// in 11 that place is nearer by the functions before it that are gone. They are named below, for the compiler to find:
// no place is a number here. A test knows the places in the published headers of 11.0 and 11.1; lean 11.4 and
// TensorRT-RTX 1.7.1 have the same, as the code of their own Python bindings shows.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "tensorrt/abi.h"

namespace hsm::runtime::trt {

using tensorrt::Layout;
using Dims = nvinfer1::Dims64;  // nbDims is -1 where there is no such shape
// The classes that have the tables.
using nvinfer1::apiv::VCudaEngine;
using nvinfer1::apiv::VExecutionContext;
using nvinfer1::apiv::VRuntime;

// Of three functions of one name.
inline constexpr nvinfer1::ICudaEngine* (VRuntime::*kDeserialize)(const void*, std::size_t) noexcept =
    &VRuntime::deserializeCudaEngine;
inline constexpr nvinfer1::ICudaEngine* (VRuntime::*kDeserializeStream)(nvinfer1::IStreamReader&) noexcept =
    &VRuntime::deserializeCudaEngine;

// The place of a virtual function in its table, as the Itanium C++ ABI puts it into a pointer to it: on x86-64 as an
// odd offset, on Arm as an even one with the odd bit in the second half.
template <typename Function>
int place_of(Function function) {
  struct Representation {
    std::size_t offset, adjustment;
  };
  const std::size_t offset = std::bit_cast<Representation>(function).offset;
  return static_cast<int>((offset - offset % 2) / sizeof(void*));
}

// What TensorRT 11 took out of each table, as far as functions that are called here lie behind it.
inline auto removed_in_11(const VRuntime*) { return std::array{place_of(kDeserializeStream)}; }
inline auto removed_in_11(const VCudaEngine*) {
  return std::array{place_of(&VCudaEngine::createExecutionContextWithoutDeviceMemory),
                    place_of(&VCudaEngine::getDeviceMemorySize), place_of(&VCudaEngine::getProfileTensorValues),
                    place_of(&VCudaEngine::hasImplicitBatchDimension)};
}
inline auto removed_in_11(const VExecutionContext*) {
  return std::array{place_of(&VExecutionContext::allInputShapesSpecified)};
}

template <typename Class, typename Function>
int place_in(Layout layout, Function Class::* function) {
  const int place = place_of(function);
  if (layout == Layout::kTensorRt10) return place;
  const auto removed = removed_in_11(static_cast<const Class*>(nullptr));
  return place - static_cast<int>(std::count_if(removed.begin(), removed.end(), [&](int at) { return at < place; }));
}

// The object whose table is meant: the headers' classes call it their implementation.
template <typename Interface>
struct Opened : Interface {
  HSM_FOREIGN_CLASS static void* implementation(Interface& object) { return object.*(&Opened::mImpl); }
};

// Calls a virtual function of an object.
template <typename Interface, typename Class, typename R, typename... Parameters, typename... Arguments>
R call(Layout layout, Interface& object, R (Class::*function)(Parameters...) noexcept, Arguments&&... arguments) {
  void* const implementation = Opened<Interface>::implementation(object);
  const auto* const table = *static_cast<void* const* const*>(implementation);
  const auto called = reinterpret_cast<R (*)(void*, Parameters...)>(table[place_in(layout, function)]);
  return called(implementation, std::forward<Arguments>(arguments)...);
}

template <typename Interface, typename Class, typename R, typename... Parameters, typename... Arguments>
R call(Layout layout, Interface& object, R (Class::*function)(Parameters...) const noexcept, Arguments&&... arguments) {
  return call(layout, object, reinterpret_cast<R (Class::*)(Parameters...) noexcept>(function),
              std::forward<Arguments>(arguments)...);
}

struct DeleteObject {
  template <typename Interface>
  HSM_FOREIGN_CLASS void operator()(Interface* object) const noexcept {
    delete object;
  }
};
template <typename Interface>
using Owned = std::unique_ptr<Interface, DeleteObject>;

// What a function that makes an object returned; null when it made none. TensorRT 11.4's lean runtime then returns the
// address of a base class inside of nothing (0x228), as seen without a driver.
template <typename Interface>
Owned<Interface> own(Interface* made) {
  constexpr std::uintptr_t kFirstPage = 4096;
  return Owned<Interface>(reinterpret_cast<std::uintptr_t>(made) < kFirstPage ? nullptr : made);
}

}  // namespace hsm::runtime::trt
