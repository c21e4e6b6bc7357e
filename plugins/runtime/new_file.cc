#include "runtime/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include "runtime/error.h"

namespace hsm::runtime {
namespace {

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

// Beside the path, and never the same twice.
std::string random_name(const std::string& path) {
  std::random_device source;
  std::array<char, 17> text;
  std::snprintf(text.data(), text.size(), "%08x%08x", source(), source());
  return path + "." + text.data() + ".part";
}

// Whether there is something of that name; its mode if it is a plain file. Refuses anything else.
bool existing_mode(const std::string& path, mode_t* mode) {
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) return false;
  if (!S_ISREG(status.st_mode)) {
    fail(Code::kInvalidArgument, "'" + path + "' is no plain file, so it is not replaced; choose another name");
  }
  *mode = status.st_mode & 07777;
  return true;
}

}  // namespace

NewFile::NewFile(std::string path) : path_(std::move(path)), folder_(folder_of(path_)) {
  if (path_.empty() || path_.back() == '/') {
    fail(Code::kInvalidArgument, "'" + path_ + "' names no file to write");
  }
  mode_t ignored;
  existing_mode(path_, &ignored);
  descriptor_ = open(folder_.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (descriptor_ >= 0) return;
  const std::string name = random_name(path_);
  descriptor_ = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refuse();
  scratch_ = name;
}

NewFile::~NewFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!scratch_.empty()) unlink(scratch_.c_str());
}

void NewFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse();
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

// Gives the unnamed file a name.
void NewFile::link(const std::string& name) const {
  const std::string self = "/proc/self/fd/" + std::to_string(descriptor_);
  if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) refuse();
}

void NewFile::commit() {
  mode_t mode;
  const bool replaces = existing_mode(path_, &mode);
  if (replaces && fchmod(descriptor_, mode) != 0) refuse();
  if (fsync(descriptor_) != 0) refuse();
  if (scratch_.empty()) {
    const std::string name = random_name(path_);
    link(name);
    scratch_ = name;
  }
  if (std::rename(scratch_.c_str(), path_.c_str()) != 0) refuse();
  scratch_.clear();
  const int folder = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // one that may be written and not read: the system writes the entry in its own time
  fsync(folder);
  close(folder);
}

void NewFile::refuse() const {
  fail(Code::kInvalidArgument, "'" + path_ + "' cannot be written: " + std::strerror(errno));
}

}  // namespace hsm::runtime
