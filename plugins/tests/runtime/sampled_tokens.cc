// hsm_sampled_tokens LOGITS VOCABULARY SEED TEMPERATURE TOP_K TOP_P MIN_P REPETITION PRESENCE FREQUENCY BIAS PROMPT...:
// chooses a token from each row of a file of float32 logits, through the C interface; prints the tokens, their
// log-probabilities and the three likeliest. BIAS is added to token 3. tests/plugins/test_sampling.py compares Python.
#include <hsm_runtime.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

namespace {

int failed(const hsmrt_error& error) {
  std::fprintf(stderr, "%s\n", error.message);
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 12) return 2;
  const auto vocabulary = std::strtoull(arguments[2], nullptr, 10);
  const hsmrt_token_bias bias = {3, std::atof(arguments[11])};
  hsmrt_sampling sampling = {};
  sampling.size = sizeof sampling;
  sampling.temperature = std::atof(arguments[4]);
  sampling.top_k = std::atoll(arguments[5]);
  sampling.top_p = std::atof(arguments[6]);
  sampling.min_p = std::atof(arguments[7]);
  sampling.repetition_penalty = std::atof(arguments[8]);
  sampling.presence_penalty = std::atof(arguments[9]);
  sampling.frequency_penalty = std::atof(arguments[10]);
  sampling.logit_bias = &bias;
  sampling.logit_bias_count = 1;
  std::vector<std::int64_t> prompt;
  for (int i = 12; i < count; ++i) prompt.push_back(std::atoll(arguments[i]));

  hsmrt_error error = {};
  hsmrt_sampler* sampler = nullptr;
  if (hsmrt_sampler_create(&sampling, std::strtoull(arguments[3], nullptr, 10), static_cast<std::int64_t>(vocabulary),
                           &sampler, &error) != HSMRT_OK) {
    return failed(error);
  }
  if (hsmrt_sampler_read(sampler, prompt.data(), prompt.size(), &error) != HSMRT_OK) return failed(error);
  std::ifstream file(arguments[1], std::ios::binary);
  std::vector<float> logits(vocabulary);
  while (file.read(reinterpret_cast<char*>(logits.data()), static_cast<std::streamsize>(4 * vocabulary))) {
    hsmrt_log_probability chosen = {};
    std::array<hsmrt_log_probability, 3> top = {};
    if (hsmrt_sampler_choose(sampler, logits.data(), logits.size(), &chosen, top.data(), top.size(), &error) !=
        HSMRT_OK) {
      return failed(error);
    }
    std::printf("%lld %.17g", static_cast<long long>(chosen.token), chosen.log_probability);
    for (const auto& item : top) std::printf(" %lld %.17g", static_cast<long long>(item.token), item.log_probability);
    std::printf("\n");
  }
  hsmrt_sampler_close(sampler);
}
