#include "tests/tensorrt/device.h"

#include "hsm_operators/common/cuda/current_device.h"
#include "tests/cuda/testing.h"

namespace hsm::testing {

std::optional<cuda::Device> present_device;

cuda::Device emulate(int sm) {
  present_device = device(sm);
  return *present_device;
}

}  // namespace hsm::testing

namespace hsm::cuda {

std::optional<Device> current_device() noexcept { return testing::present_device; }

}  // namespace hsm::cuda
