// The GPU that the plugins see in these tests.
#pragma once

#include <optional>

#include "hsm_operators/common/cuda/device.h"

namespace hsm::testing {

// What hsm::cuda::current_device() returns; nothing on a machine without a GPU.
extern std::optional<cuda::Device> present_device;

// A GPU of that compute capability, with the shim's shared memory limited likewise.
cuda::Device emulate(int sm);

}  // namespace hsm::testing
