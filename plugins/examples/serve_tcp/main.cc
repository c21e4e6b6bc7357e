// serve_tcp BUNDLE PORT [ROWS]: serves text on 127.0.0.1. A client sends one line, its prompt, and reads what follows
// as it comes: at most 64 tokens, up to the end of the line. A client that goes away gives its row back.
#include <arpa/inet.h>
#include <hsm_runtime/scheduler.h>
#include <hsm_runtime/text.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>
#include <thread>
#include <utility>

using namespace hsm_runtime;

template <typename T>
T value(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "error: %s\n", result.status().message().c_str());
    std::exit(1);
  }
  return *std::move(result);
}

// Never waits: whoever does not read what was sent is as good as gone.
bool send_text(int client, const std::string& text) {
  return ::send(client, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(text.size());
}

void serve(Scheduler& scheduler, const Tokenizer& tokenizer, int client) {
  std::string line;
  for (char byte = 0; line.size() < 4096 && ::read(client, &byte, 1) == 1 && byte != '\n';) line += byte;
  Result<std::vector<std::int64_t>> prompt = tokenizer.encode(line);
  Result<TextStream> text = TextStream::create(tokenizer, {"\n"});
  std::promise<void> ended;
  Request request;
  if (prompt.ok()) request.prompt = *prompt;
  request.max_tokens = 64;
  request.on_token = [&](std::int64_t token) {
    const Result<std::string> piece = text->push(token);
    return piece.ok() && send_text(client, *piece) && !text->stopped();
  };
  request.on_end = [&](const Reply& reply) {
    if (!reply.status.ok()) send_text(client, "error: " + reply.status.message());
    if (const Result<std::string> rest = text->finish(); rest.ok()) send_text(client, *rest);
    ended.set_value();
  };
  const Result<std::uint64_t> id = prompt.ok() ? scheduler.submit(std::move(request)) : prompt.status();
  if (id.ok()) ended.get_future().wait();
  if (!id.ok()) send_text(client, "error: " + id.status().message());
  ::close(client);
}

int main(int count, char** arguments) {
  if (count < 3) return std::fprintf(stderr, "usage: serve_tcp BUNDLE PORT [ROWS]\n"), 2;
  const Bundle bundle = value(Bundle::open(arguments[1]));
  const Tokenizer tokenizer = value(Tokenizer::open(bundle));
  SchedulerOptions options;
  options.generator.batch = count > 3 ? std::atoi(arguments[3]) : 16;
  options.generator.capacity = 4096 + 64;
  Scheduler scheduler = value(Scheduler::create(value(Session::open(bundle, Part::kDecode)), options));

  const int server = ::socket(AF_INET, SOCK_STREAM, 0), on = 1;
  ::setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address = {.sin_family = AF_INET,
                         .sin_port = htons(static_cast<std::uint16_t>(std::atoi(arguments[2]))),
                         .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)},
                         .sin_zero = {}};
  if (::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(server, 128) != 0)
    return std::perror("error: cannot listen"), 1;
  std::puts("listening"), std::fflush(stdout);
  for (int client; (client = ::accept(server, nullptr, nullptr)) >= 0;)
    std::thread(serve, std::ref(scheduler), std::cref(tokenizer), client).detach();
}
