// With the SHA instructions of x86 (SHA-NI), which keep the state in two registers, in the order that they want.
#include "runtime/sha256_blocks.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

namespace hsm::runtime {
namespace {

[[gnu::target("sha,sse4.1")]] void absorb(Sha256State& state, const std::byte* blocks, std::size_t count) {
  const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  const auto word = [&](std::size_t i) { return static_cast<int>(state[i]); };
  __m128i abef = _mm_set_epi32(word(0), word(1), word(4), word(5));
  __m128i cdgh = _mm_set_epi32(word(2), word(3), word(6), word(7));
  for (; count > 0; --count, blocks += kSha256Block) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i words[4];  // the last 16 of the message schedule
#pragma GCC unroll 16
    for (std::size_t i = 0; i < 16; ++i) {
      __m128i& next = words[i % 4];
      const __m128i &second = words[(i + 1) % 4], &third = words[(i + 2) % 4], &last = words[(i + 3) % 4];
      if (i < 4) {
        const auto* loaded = reinterpret_cast<const __m128i*>(blocks + 16 * i);
        next = _mm_shuffle_epi8(_mm_loadu_si128(loaded), big_endian);
      } else {
        const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(next, second), _mm_alignr_epi8(last, third, 4));
        next = _mm_sha256msg2_epu32(sum, last);
      }
      const auto* rounds = reinterpret_cast<const __m128i*>(kSha256Rounds.data() + 4 * i);
      const __m128i added = _mm_add_epi32(next, _mm_load_si128(rounds));
      // Two rounds each: what comes out is the new abef, and the one that went in is the new cdgh.
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, added);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_unpackhi_epi64(added, added));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  alignas(16) std::array<std::uint32_t, 4> feba, hgdc;
  _mm_store_si128(reinterpret_cast<__m128i*>(feba.data()), abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(hgdc.data()), cdgh);
  state = {feba[3], feba[2], hgdc[3], hgdc[2], feba[1], feba[0], hgdc[1], hgdc[0]};
}

bool has_sha() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  const bool has_shuffles = (ecx & bit_SSSE3) != 0 && (ecx & bit_SSE4_1) != 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return has_shuffles && (ebx & bit_SHA) != 0;
}

}  // namespace

Sha256Absorb sha256_absorb_x86() {
  static const bool possible = has_sha();
  return possible ? absorb : nullptr;
}

}  // namespace hsm::runtime

#else

namespace hsm::runtime {
Sha256Absorb sha256_absorb_x86() { return nullptr; }
}  // namespace hsm::runtime

#endif
