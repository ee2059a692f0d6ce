#include "weft/data/tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>

#include "weft/data/corpus.h"
#include "weft/files/atomic_file.h"

namespace weft {

namespace {

constexpr const char* kEndText = "<|endofdocument|>";

std::string utf8(uint32_t code) {  // below 0x800
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// The character by which byte-level tokenizers write each byte: printable ones of Latin-1 stand for
// themselves, the others for 256, 257, ... in turn (GPT-2's table).
std::array<uint32_t, 256> byte_characters() {
  std::array<uint32_t, 256> out{};
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    out[byte] = printable ? byte : next++;
  }
  return out;
}

}  // namespace

std::string tokenizer_json() {
  using Json = nlohmann::ordered_json;
  Json vocabulary = Json::object();
  const auto characters = byte_characters();
  for (size_t byte = 0; byte < 256; ++byte) vocabulary[utf8(characters[byte])] = byte;
  // In the vocabulary but not an "added token": those are looked for in texts, and a text that
  // happens to contain these characters would lose them. Without merges no text reaches this entry.
  vocabulary[kEndText] = kEndOfDocument;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const Json document = {{"version", "1.0"},
                         {"truncation", nullptr},
                         {"padding", nullptr},
                         {"added_tokens", Json::array()},
                         {"normalizer", nullptr},
                         {"pre_tokenizer", byte_level},
                         {"post_processor", nullptr},
                         {"decoder", byte_level},
                         {"model",
                          {{"type", "BPE"},
                           {"dropout", nullptr},
                           {"unk_token", nullptr},
                           {"continuing_subword_prefix", nullptr},
                           {"end_of_word_suffix", nullptr},
                           {"fuse_unk", false},
                           {"byte_fallback", false},
                           {"ignore_merges", false},
                           {"vocab", vocabulary},
                           {"merges", Json::array()}}}};
  return document.dump(1) + "\n";
}

std::string tokenizer_config_json() {
  // transformers makes eos_token an added token; split_special_tokens keeps it from being found in
  // texts.
  const nlohmann::ordered_json document = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                           {"eos_token", kEndText},
                                           {"split_special_tokens", true},
                                           {"clean_up_tokenization_spaces", false},
                                           {"model_max_length", 1000000000000}};
  return document.dump(2) + "\n";
}

void write_tokenizer(const std::string& folder) {
  write_file(folder + "/tokenizer.json", tokenizer_json());
  write_file(folder + "/tokenizer_config.json", tokenizer_config_json());
}

}  // namespace weft
