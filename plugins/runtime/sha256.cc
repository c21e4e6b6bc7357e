#include "runtime/sha256.h"

#include <array>
#include <bit>
#include <cstring>

#include "runtime/sha256_blocks.h"

namespace hsm::runtime {
namespace {

std::array<std::uint32_t, 64> schedule(const std::byte* block) {
  std::array<std::uint32_t, 64> words;
  for (std::size_t i = 0; i < 16; ++i) {
    words[i] = 0;
    for (std::size_t j = 0; j < 4; ++j) words[i] = words[i] << 8 | std::to_integer<std::uint32_t>(block[4 * i + j]);
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t a = words[i - 15], b = words[i - 2];
    words[i] = words[i - 16] + words[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
               (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
  }
  return words;
}

void absorb(Sha256State& state, const std::byte* block) {
  const std::array<std::uint32_t, 64> words = schedule(block);
  auto [a, b, c, d, e, f, g, h] = state;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t first = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) +
                                kSha256Rounds[i] + words[i];
    const std::uint32_t second =
        (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const Sha256State round = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < state.size(); ++i) state[i] += round[i];
}

}  // namespace

void sha256_absorb_portable(Sha256State& state, const std::byte* blocks, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) absorb(state, blocks + i * kSha256Block);
}

std::string sha256(std::span<const std::byte> data) {
  // The square roots of the first 8 primes.
  Sha256State state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const Sha256Absorb x86 = sha256_absorb_x86();
  const Sha256Absorb fastest = x86 == nullptr ? sha256_absorb_portable : x86;
  const std::size_t whole = data.size() / kSha256Block * kSha256Block;
  fastest(state, data.data(), whole / kSha256Block);

  // The rest, one bit, zeros, and the length in bits: one block, or two.
  std::array<std::byte, 2 * kSha256Block> tail = {};
  const std::size_t rest = data.size() - whole;
  if (rest > 0) std::memcpy(tail.data(), data.data() + whole, rest);
  tail[rest] = std::byte{0x80};
  const std::size_t padded = rest + 9 <= kSha256Block ? kSha256Block : 2 * kSha256Block;
  const std::uint64_t bits = std::uint64_t{data.size()} * 8;
  for (std::size_t i = 0; i < 8; ++i) tail[padded - 1 - i] = static_cast<std::byte>(bits >> 8 * i);
  fastest(state, tail.data(), padded / kSha256Block);

  std::string digest;
  for (const std::uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) digest += "0123456789abcdef"[word >> shift & 15];
  }
  return digest;
}

}  // namespace hsm::runtime
