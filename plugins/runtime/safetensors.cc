#include "runtime/safetensors.h"

#include <cstring>

#include "runtime/new_file.h"
#include "runtime/reader.h"

namespace hsm::runtime {
namespace {

constexpr std::uint64_t kLargestHeader = std::uint64_t{16} << 20;
constexpr std::int64_t kLargest = std::int64_t{1} << 53;

std::size_t item_size(const std::string& dtype, const std::string& where) {
  static const std::map<std::string, std::size_t> kSizes = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2},
                                                            {"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1},
                                                            {"U16", 2}, {"U8", 1},  {"BOOL", 1}};
  const auto found = kSizes.find(dtype);
  if (found == kSizes.end()) fail(Code::kBadBundle, where + " has the unknown type '" + dtype + "'");
  return found->second;
}

StoredTensor read_tensor(const json::Value& value, std::span<const std::byte> data, const std::string& where) {
  ObjectReader reader(value, where);
  StoredTensor tensor{reader.text("dtype"), {}, {}};
  std::int64_t bytes = static_cast<std::int64_t>(item_size(tensor.dtype, where));
  for (const json::Value& item : reader.get<json::Array>("shape")) {
    const std::int64_t size = as<std::int64_t>(item, where);
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes) || bytes > kLargest) {
      fail(Code::kBadBundle, where + " has an impossible shape");
    }
    tensor.shape.push_back(size);
  }
  const json::Array& offsets = reader.get<json::Array>("data_offsets");
  reader.finish();
  if (offsets.size() != 2) fail(Code::kBadBundle, where + " has malformed offsets");
  const std::int64_t begin = as<std::int64_t>(offsets[0], where), end = as<std::int64_t>(offsets[1], where);
  if (begin < 0 || end < begin || end - begin != bytes || static_cast<std::uint64_t>(end) > data.size()) {
    fail(Code::kBadBundle, where + " does not lie where the file says");
  }
  tensor.data = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes));
  return tensor;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      constexpr const char* kDigits = "0123456789abcdef";
      result += std::string("\\u00") + kDigits[c >> 4] + kDigits[c & 15];
      continue;
    }
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

std::string header_of(const std::map<std::string, StoredTensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::string header = "{\"__metadata__\":{";
  for (const auto& [name, text] : metadata) {
    header += (header.back() == '{' ? "" : ",") + quoted(name) + ":" + quoted(text);
  }
  header += "}";
  std::size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    std::string shape;
    for (const std::int64_t size : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    header += "," + quoted(name) + ":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(offset + tensor.data.size()) + "]}";
    offset += tensor.data.size();
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');  // the data starts aligned
  return header;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& folder, const std::string& name)
    : SafetensorsFile(MappedFile(folder, name), folder + "/" + name) {}

SafetensorsFile::SafetensorsFile(const std::string& path) : SafetensorsFile(MappedFile(path), path) {}

SafetensorsFile::SafetensorsFile(MappedFile file, const std::string& where) : file_(std::move(file)) {
  const std::span<const std::byte> bytes = file_.bytes();
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) fail(Code::kBadBundle, where + " is cut off");
  std::memcpy(&length, bytes.data(), sizeof length);  // little-endian, like every machine that this runs on
  if (length > kLargestHeader || length > bytes.size() - sizeof length) {
    fail(Code::kBadBundle, where + " is cut off or no .safetensors file");
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
  const std::span<const std::byte> data = bytes.subspan(sizeof length + length);
  const json::Value document = json::parse(header, where);
  for (const auto& [tensor, value] : as<json::Members>(document, where)) {
    if (tensor != "__metadata__") {
      tensors_[tensor] = read_tensor(value, data, where + ": " + tensor);
      continue;
    }
    for (const auto& [name, text] : as<json::Members>(value, where)) metadata_[name] = as<std::string>(text, where);
  }
}

void write_safetensors(const std::string& path, const std::map<std::string, StoredTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string header = header_of(tensors, metadata);
  const std::uint64_t length = header.size();
  NewFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const auto& [name, tensor] : tensors) file.write(tensor.data);
  file.commit();
}

}  // namespace hsm::runtime
