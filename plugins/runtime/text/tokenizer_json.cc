#include "runtime/text/tokenizer_json.h"

#include <algorithm>

#include "runtime/text/json_fields.h"

namespace hsm::runtime::text {

TokenizerJson::TokenizerJson(const json::Value& document)
    : normalizer_(read_normalizer(member(document, "normalizer"))),
      splitter_(read_splitter(member(document, "pre_tokenizer"))),
      model_(read_model(needed(document, "model"))),
      joiner_(read_joiner(member(document, "decoder"))) {
  for (const auto& [token, id] : model_->ids()) tokens_[id] = token;
  count_ = model_->ids().size();
  read_added(document);
}

void TokenizerJson::read_added(const json::Value& document) {
  const json::Value* list = member(document, "added_tokens");
  if (list == nullptr) return;
  for (const json::Value& item : as<json::Array>(*list, "tokenizer.json: 'added_tokens'")) {
    Added token{text_of(item, "content"), as<std::int64_t>(needed(item, "id"), "an id of tokenizer.json"),
                value_or(item, "special", false)};
    if (token.content.empty()) continue;
    refuse_set(item, {"single_word", "lstrip", "rstrip"});
    if (value_or(item, "normalized", true) && normalizer_) unknown("added tokens that are normalized");
    // The library gives such a token the model's id.
    if (const auto known = model_->ids().find(token.content); known != model_->ids().end()) {
      token.id = known->second;
    } else {
      ++count_;
    }
    if (token.is_special) {
      tokens_.erase(token.id);
    } else {
      tokens_[token.id] = token.content;
    }
    added_.push_back(std::move(token));
  }
}

// The added token that comes first; of those at one place the longest.
TokenizerJson::Found TokenizerJson::next_added(std::string_view text) const {
  Found best = {text.size(), nullptr};
  for (const Added& token : added_) {
    const std::size_t at = text.find(token.content);
    if (at == std::string_view::npos || at > best.at) continue;
    const bool is_longer = best.token == nullptr || token.content.size() > best.token->content.size();
    if (at < best.at || is_longer) best = {at, &token};
  }
  return best;
}

std::vector<std::int64_t> TokenizerJson::encode(std::string_view text) const {
  std::vector<std::int64_t> ids;
  for (bool is_first = true; !text.empty(); is_first = false) {
    const Found found = next_added(text);
    if (found.at > 0) encode_between(text.substr(0, found.at), is_first, ids);
    if (found.token == nullptr) break;
    ids.push_back(found.token->id);
    text.remove_prefix(found.at + found.token->content.size());
  }
  return ids;
}

void TokenizerJson::encode_between(std::string_view text, bool is_first, std::vector<std::int64_t>& ids) const {
  std::string normal(text);
  if (normalizer_) normal = normalizer_->normalized(std::move(normal));
  Words words = {{std::move(normal), is_first}};
  if (splitter_) words = splitter_->split(std::move(words[0]));
  for (const Word& word : words) {
    if (!word.text.empty()) model_->tokenize(word.text, ids);
  }
}

std::string TokenizerJson::decode(std::span<const std::int64_t> ids) const {
  std::vector<std::string> tokens;
  for (const std::int64_t id : ids) {
    if (const auto found = tokens_.find(id); found != tokens_.end()) tokens.push_back(found->second);
  }
  std::string text;
  for (const std::string& token : joiner_->joined(std::move(tokens))) text += token;
  return text;
}

}  // namespace hsm::runtime::text
