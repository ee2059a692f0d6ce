#include "weft/layout/row_messages.h"

#include <algorithm>

#include "weft/base/error.h"

namespace weft {
namespace {

struct End {
  const std::string& what;
  int rank, ranks;

  [[noreturn]] void refuse(const std::string& text) const {
    throw Error(ErrorCode::wrong, what + ": rank " + std::to_string(rank) + " " + text);
  }
  void require_peers(const std::vector<RowMessage>& messages, const std::string& verb) const {
    int last = -1;
    for (const RowMessage& message : messages) {
      if (message.peer <= last || message.peer >= ranks || message.peer == rank)
        refuse(verb + " peer " + std::to_string(message.peer) + " out of order");
      if (message.tokens.empty()) refuse(verb + " an empty message");
      last = message.peer;
    }
  }
};

}  // namespace

int64_t rows_sent(std::span<const RowMessages> ranks) {
  int64_t sum = 0;
  for (const RowMessages& rank : ranks) {
    for (const RowMessage& message : rank.send) sum += message.tokens.size();
  }
  return sum;
}

int64_t messages_sent(std::span<const RowMessages> ranks) {
  int64_t sum = 0;
  for (const RowMessages& rank : ranks) sum += static_cast<int64_t>(rank.send.size());
  return sum;
}

void verify_row_messages(const std::string& what, std::span<const RowMessages> ranks) {
  const int count = static_cast<int>(ranks.size());
  for (int rank = 0; rank < count; ++rank) {
    const End end{what, rank, count};
    end.require_peers(ranks[static_cast<size_t>(rank)].send, "sends to");
    end.require_peers(ranks[static_cast<size_t>(rank)].receive, "receives from");
  }
  int64_t received = 0;
  for (int rank = 0; rank < count; ++rank) {
    const std::vector<RowMessage>& messages = ranks[static_cast<size_t>(rank)].receive;
    received += static_cast<int64_t>(messages.size());
    for (const RowMessage& message : messages) {
      const auto& sent = ranks[static_cast<size_t>(message.peer)].send;
      const auto match =
          std::lower_bound(sent.begin(), sent.end(), rank, [](const RowMessage& m, int peer) { return m.peer < peer; });
      if (match == sent.end() || match->peer != rank || !(match->tokens == message.tokens)) {
        End{what, rank, count}.refuse("receives tokens " + to_string(message.tokens) + " that rank " +
                                      std::to_string(message.peer) + " does not send");
      }
    }
  }
  if (received != messages_sent(ranks)) throw Error(ErrorCode::wrong, what + ": a message is sent and not received");
}

}  // namespace weft
