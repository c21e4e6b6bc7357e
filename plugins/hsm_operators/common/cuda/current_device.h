// What the launchers need to know of the GPU of the calling thread.
#pragma once

#include <optional>

#include "hsm_operators/common/cuda/device.h"

namespace hsm::cuda {

// Returns the current device, or nothing where there is none.
std::optional<Device> current_device() noexcept;

}  // namespace hsm::cuda
