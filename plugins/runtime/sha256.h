// SHA-256 as FIPS 180-4 defines it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hsm::runtime {

// Returns the digest in lower-case hexadecimal.
std::string sha256(std::span<const std::byte> data);

}  // namespace hsm::runtime
