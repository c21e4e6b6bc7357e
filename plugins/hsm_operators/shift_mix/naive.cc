#include <vector>

#include "hsm_operators/common/cpu/element.h"
#include "hsm_operators/shift_mix/args.gen.h"

namespace hsm {
namespace {

using cpu::load;
using cpu::store;

// Returns x of row b, channel c, `shift` tokens before token t of this call: from the call, the ring, or zero where
// there is no token. No difference is formed before it is known to be small: shifts may be any numbers.
template <typename T>
double shifted_token(const ShiftMixArgs& args, const std::vector<T>& ring, std::int64_t b, std::int64_t t,
                     std::int64_t shift, std::int64_t c) {
  if (shift <= t - args.length) return 0;
  if (shift <= t) return load<T>(args.x, (b * args.length + t - shift) * args.width + c);
  if (args.ring == nullptr || args.position[b] < shift - t) return 0;
  const std::int64_t slot = (args.position[b] + t - shift) % args.ring_rows;
  return to_float(ring[static_cast<std::size_t>((b * args.ring_rows + slot) * args.width + c)]);
}

template <typename T>
void mix(const ShiftMixArgs& args, const std::vector<T>& ring) {
  const std::int64_t group = args.width / static_cast<std::int64_t>(args.shifts.size());
  for (std::int64_t b = 0; b < args.batch; ++b) {
    for (std::int64_t t = 0; t < args.length; ++t) {
      for (std::int64_t c = 0; c < args.width; ++c) {
        const std::int64_t at = (b * args.length + t) * args.width + c;
        const double shifted = shifted_token(args, ring, b, t, args.shifts[static_cast<std::size_t>(c / group)], c);
        const bool mixes = args.alpha != nullptr;
        store<T>(args.y, at,
                 mixes ? load<T>(args.alpha, c) * load<T>(args.x, at) + load<T>(args.beta, c) * shifted : shifted);
      }
    }
  }
}

template <typename T>
void update_ring(const ShiftMixArgs& args, const std::vector<T>& ring) {
  for (std::size_t i = 0; i < ring.size(); ++i) static_cast<T*>(args.ring_out)[i] = ring[i];
  for (std::int64_t b = 0; b < args.batch; ++b) {
    for (std::int64_t t = 0; t < args.lengths[b]; ++t) {
      const std::int64_t slot = (args.position[b] + t) % args.ring_rows;
      for (std::int64_t c = 0; c < args.width; ++c) {
        static_cast<T*>(args.ring_out)[(b * args.ring_rows + slot) * args.width + c] =
            static_cast<const T*>(args.x)[(b * args.length + t) * args.width + c];
      }
    }
  }
}

}  // namespace

void shift_mix_naive(const ShiftMixArgs& args) {
  cpu::with_element(args.type, [&](auto element) {
    using T = decltype(element);
    std::vector<T> ring;  // a copy, because ring_out may be the ring itself
    if (args.ring != nullptr) {
      const auto* data = static_cast<const T*>(args.ring);
      ring.assign(data, data + args.batch * args.ring_rows * args.width);
    }
    mix<T>(args, ring);
    if (args.ring != nullptr) update_ring<T>(args, ring);
  });
}

}  // namespace hsm
