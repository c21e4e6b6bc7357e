// The examples of FIPS 180-4, and lengths around a block's end.
#include <gtest/gtest.h>

#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/sha256.h"
#include "runtime/sha256_blocks.h"

namespace hsm::runtime {
namespace {

std::string digest(std::string_view text) { return sha256(std::as_bytes(std::span(text))); }

TEST(Sha256, PublishedExamples) {
  EXPECT_EQ(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, LengthsAroundABlock) {
  EXPECT_EQ(digest(std::string(55, 'x')), "d5e285683cd4efc02d021a5c62014694958901005d6f71e89e0989fac77e4072");
  EXPECT_EQ(digest(std::string(56, 'x')), "04c26261370ee7541549d16dee320c723e3fd14671e66a099afe0a377c16888e");
  EXPECT_EQ(digest(std::string(63, 'x')), "75220b47218278e656f2013bb8f0c455a25eaf01e86c64924e9d48d89776d6f2");
  EXPECT_EQ(digest(std::string(64, 'x')), "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c");
  EXPECT_EQ(digest(std::string(65, 'x')), "9537c5fdf120482f7d58d25e9ed583f52c02b4e304ea814db1633ad565aed7e9");
  EXPECT_EQ(digest(std::string(119, 'x')), "000b48d4edf0fa7bee3c6236ecd2785baa5db4eeb8bb54341b029e0d9fa5fb0c");
  EXPECT_EQ(digest(std::string(120, 'x')), "13f05a0b594787f5ecd315edc96141bd3243203d1b7d4f0836f37308b276ba98");
}

TEST(Sha256, InstructionsEqualThePortableCode) {
  if (sha256_absorb_x86() == nullptr) GTEST_SKIP() << "this processor has no SHA instructions of x86";
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (std::size_t count = 0; count < 20; ++count) {
    Sha256State state;
    for (std::uint32_t& word : state) word = random();
    std::vector<std::byte> blocks(count * kSha256Block + 1);
    for (std::byte& byte : blocks) byte = static_cast<std::byte>(random());
    Sha256State expected = state;
    sha256_absorb_portable(expected, blocks.data() + 1, count);  // + 1: no alignment is promised
    sha256_absorb_x86()(state, blocks.data() + 1, count);
    EXPECT_EQ(state, expected) << count;
  }
}

}  // namespace
}  // namespace hsm::runtime
