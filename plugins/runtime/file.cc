#include "runtime/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/error.h"

namespace hsm::runtime {
namespace {

// Non-blocking, lest a pipe of that name waits for a writer.
constexpr int kReadOnly = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }

 private:
  int number_;
};

}  // namespace

MappedFile::MappedFile(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  const Descriptor file(open(path.c_str(), kReadOnly | O_NOFOLLOW));
  if (file.get() < 0) {
    if (errno == ELOOP) fail(Code::kBadBundle, path + " is a link; a bundle holds plain files only");
    if (errno == ENXIO) fail(Code::kBadBundle, path + " is not a plain file");  // a socket, or a pipe without a reader
    fail(Code::kBadBundle, "the bundle " + folder + " lacks its file " + name + ": " + std::strerror(errno));
  }
  map(file.get(), path);
}

MappedFile::MappedFile(const std::string& path) {
  const Descriptor file(open(path.c_str(), kReadOnly));
  if (file.get() < 0) fail(Code::kBadBundle, path + " cannot be read: " + std::strerror(errno));
  map(file.get(), path);
}

void MappedFile::map(int file, const std::string& path) {
  struct stat status;
  if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) fail(Code::kBadBundle, path + " is not a plain file");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  if (mapped == MAP_FAILED) fail(Code::kBadBundle, path + " cannot be mapped into memory: " + std::strerror(errno));
  data_ = mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace hsm::runtime
