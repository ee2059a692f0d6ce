// The byte tokenizer as files that Hugging Face transformers loads.
//
//   write_tokenizer("out/model");   // tokenizer.json, tokenizer_config.json
//
// AutoTokenizer.from_pretrained("out/model") then encodes any text as exactly its UTF-8 bytes, id =
// byte value. 256 is <|endofdocument|>; the same characters in a text are encoded as bytes too.
#pragma once

#include <string>

namespace weft {

std::string tokenizer_json();
std::string tokenizer_config_json();
// Throws Error(io).
void write_tokenizer(const std::string& folder);

}  // namespace weft
