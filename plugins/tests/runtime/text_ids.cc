// hsm_text_ids KIND FILE: for each line of stdin, a text in hexadecimal (or "#" and ids), prints its token ids, what
// they decode to and what a stream of them gives, or why not. tests/plugins/test_text.py compares them with Python's.
#include <hsm_runtime/text.h>

#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

using namespace hsm_runtime;

namespace {

std::string from_hex(const std::string& line) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < line.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// The ids of a line: those of its text, or those that it lists.
Result<std::vector<std::int64_t>> ids_of(const Tokenizer& tokenizer, const std::string& line) {
  if (!line.starts_with('#')) return tokenizer.encode(from_hex(line));
  std::istringstream words(line.substr(1));
  std::vector<std::int64_t> ids;
  for (std::int64_t id = 0; words >> id;) ids.push_back(id);
  return ids;
}

void print_hex(const std::string& bytes) {
  for (const char c : bytes) std::printf("%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
}

// What a stream gives at each token, and at its end.
int print_pieces(const Tokenizer& tokenizer, const std::vector<std::int64_t>& ids) {
  auto stream = TextStream::create(tokenizer);
  if (!stream.ok()) return 1;
  for (const std::int64_t id : ids) {
    const auto piece = stream->push(id);
    if (!piece.ok()) return 1;
    print_hex(*piece);
    std::printf(",");
  }
  const auto rest = stream->finish();
  if (!rest.ok()) return 1;
  print_hex(*rest);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const auto tokenizer = Tokenizer::open(arguments[1], arguments[2]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%d %s\n", static_cast<int>(tokenizer.status().code()), tokenizer.status().message().c_str());
    return 1;
  }
  std::printf("%lld\n", static_cast<long long>(tokenizer->vocabulary()));
  for (std::string line; std::getline(std::cin, line);) {
    const auto ids = ids_of(*tokenizer, line);
    if (!ids.ok()) {
      std::printf("error %s\n", ids.status().message().c_str());
      continue;
    }
    for (const std::int64_t id : *ids) std::printf("%lld ", static_cast<long long>(id));
    std::printf("|");
    const auto text = tokenizer->decode(*ids);
    if (!text.ok()) return 1;
    print_hex(*text);
    std::printf("|");
    if (print_pieces(*tokenizer, *ids) != 0) return 1;
    std::printf("\n");
  }
}
