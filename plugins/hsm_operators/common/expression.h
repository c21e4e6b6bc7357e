// Whole numbers of the operator table's rules, with the meaning that Python gives them: nothing overflows, division
// rounds down. The generated table writes hsm_operators/expression.py's language in these.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace hsm::opset {

// A whole number of up to 125 bits; a result beyond that stays at the bound, far from every size. A number may be
// undefined: an unknown size, a division by zero, and what is computed from them. No comparison with it holds.
class Number {
 public:
  template <std::integral T>
  constexpr Number(T value) : value_(value) {}

  static constexpr Number undefined() {
    Number result(0);
    result.is_defined_ = false;
    return result;
  }

  constexpr bool is_defined() const { return is_defined_; }
  constexpr explicit operator bool() const { return is_defined_ && value_ != 0; }

  constexpr Number operator-() const { return is_defined_ ? limited(-value_) : undefined(); }

  friend constexpr Number operator+(Number a, Number b) {
    return both(a, b) ? limited(a.value_ + b.value_) : undefined();
  }
  friend constexpr Number operator-(Number a, Number b) { return a + -b; }
  friend constexpr Number operator*(Number a, Number b) {
    if (!both(a, b)) return undefined();
    if (a.value_ == 0 || b.value_ == 0) return 0;
    if (magnitude(a.value_) > kLimit / magnitude(b.value_)) {
      return limited((a.value_ < 0) == (b.value_ < 0) ? kLimit : -kLimit);
    }
    return limited(a.value_ * b.value_);
  }
  friend constexpr Number operator/(Number a, Number b) {
    if (!both(a, b) || b.value_ == 0) return undefined();
    const Wide quotient = a.value_ / b.value_;
    const bool rounds_up = quotient * b.value_ != a.value_ && (a.value_ < 0) != (b.value_ < 0);
    return limited(rounds_up ? quotient - 1 : quotient);
  }
  friend constexpr Number operator%(Number a, Number b) { return a - a / b * b; }

  friend constexpr bool operator==(Number a, Number b) { return both(a, b) && a.value_ == b.value_; }
  friend constexpr bool operator!=(Number a, Number b) { return both(a, b) && a.value_ != b.value_; }
  friend constexpr bool operator<(Number a, Number b) { return both(a, b) && a.value_ < b.value_; }
  friend constexpr bool operator<=(Number a, Number b) { return both(a, b) && a.value_ <= b.value_; }
  friend constexpr bool operator>(Number a, Number b) { return b < a; }
  friend constexpr bool operator>=(Number a, Number b) { return b <= a; }

  // The nearest 64-bit integer; 0 when undefined.
  constexpr std::int64_t clamped() const {
    using Limits = std::numeric_limits<std::int64_t>;
    return is_defined_ ? static_cast<std::int64_t>(std::clamp<Wide>(value_, Limits::min(), Limits::max())) : 0;
  }

  // In decimal digits; "?" when undefined.
  std::string text() const {
    if (!is_defined_) return "?";
    std::string digits;
    for (Wide rest = magnitude(value_); rest != 0 || digits.empty(); rest /= 10) {
      digits += static_cast<char>('0' + static_cast<int>(rest % 10));
    }
    if (value_ < 0) digits += '-';
    std::ranges::reverse(digits);
    return digits;
  }

 private:
  __extension__ using Wide = __int128;
  static constexpr Wide kLimit = Wide{1} << 125;

  static constexpr bool both(Number a, Number b) { return a.is_defined_ && b.is_defined_; }
  static constexpr Wide magnitude(Wide value) { return value < 0 ? -value : value; }
  static constexpr Number limited(Wide value) {
    Number result(0);
    result.value_ = std::clamp(value, -kLimit, kLimit);
    return result;
  }

  Wide value_;
  bool is_defined_ = true;
};

// A number written in the table.
constexpr Number operator""_n(unsigned long long value) { return value; }

using Numbers = std::span<const std::int64_t>;

constexpr Number len_of(Numbers numbers) { return numbers.size(); }

// The first in an order of numbers and of the numbers in lists; undefined when there is none, or one is undefined.
template <typename Before, typename... Items>
constexpr Number first_of(Before before, const Items&... items) {
  Number first = Number::undefined();
  bool is_defined = true;
  const auto take = [&](Number item) {
    is_defined = is_defined && item.is_defined();
    if (!first.is_defined() || before(item, first)) first = item;
  };
  const auto take_all = [&](const auto& item) {
    if constexpr (std::convertible_to<decltype(item), Number>) {
      take(item);
    } else {
      for (const std::int64_t number : item) take(number);
    }
  };
  (take_all(items), ...);
  return is_defined ? first : Number::undefined();
}

template <typename... Items>
constexpr Number min_of(const Items&... items) {
  return first_of([](Number a, Number b) { return a < b; }, items...);
}

template <typename... Items>
constexpr Number max_of(const Items&... items) {
  return first_of([](Number a, Number b) { return a > b; }, items...);
}

inline std::string text_of(std::string_view text) { return std::string(text); }
inline std::string text_of(Number number) { return number.text(); }
inline std::string text_of(Numbers numbers) {
  std::string text;
  for (const std::int64_t number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return "[" + text + "]";
}

// A sentence of words and numbers.
template <typename... Parts>
std::string sentence(const Parts&... parts) {
  return (std::string() + ... + text_of(parts));
}

}  // namespace hsm::opset
