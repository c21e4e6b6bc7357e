// Protobuf's wire format, as anybody may have written it: a message field by field.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "runtime/error.h"

namespace hsm::runtime::protobuf {

struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;           // of a varint
  std::span<const std::byte> bytes;  // of what has a length, or a fixed one
};

class Message {
 public:
  // `where` names the file, `kind` what it should be ("ONNX file"); both stay the caller's.
  Message(std::span<const std::byte> bytes, const std::string& where, const char* kind)
      : rest_(bytes), where_(where), kind_(kind) {}

  // The next field; nothing at the end. Throws Error(kBadBundle) for what is no message.
  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    Field field;
    field.number = tag >> 3;
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.bytes = take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.bytes = take(4);
        break;
      default:
        refuse();
    }
    return field;
  }

  [[noreturn]] void refuse() const { fail(Code::kBadBundle, where_ + " is damaged, or no " + kind_); }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const auto byte = std::to_integer<std::uint64_t>(take(1)[0]);
      value |= (byte & 0x7f) << std::min(shift, 63);
      if (byte < 0x80) return value;
    }
    refuse();
  }

  std::span<const std::byte> take(std::uint64_t count) {
    if (count > rest_.size()) refuse();
    const auto taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(static_cast<std::size_t>(count));
    return taken;
  }

  std::span<const std::byte> rest_;
  const std::string& where_;
  const char* kind_;
};

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace hsm::runtime::protobuf
