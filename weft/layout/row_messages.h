// Messages of one exchange of rows, and whether both ends of each agree.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "weft/base/interval_set.h"

namespace weft {

struct RowMessage {
  int peer = 0;
  IntervalSet tokens;  // slots or positions, as their owner says; their rows in this order
};

// Of one rank: by peer, at most one each, none empty.
struct RowMessages {
  std::vector<RowMessage> send, receive;
};

// What all ranks send.
int64_t rows_sent(std::span<const RowMessages> ranks);
int64_t messages_sent(std::span<const RowMessages> ranks);

// Throws Error(wrong), a line that begins with `what`, unless lists are as said above and every message is received as it is
// sent.
void verify_row_messages(const std::string& what, std::span<const RowMessages> ranks);

}  // namespace weft
