// Whose turn it is among the ranks that can go on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

namespace weft::verify_internal {

// Nothing is matched by chance, so every order proves the same; but what is wrong is found in the order of running.
enum class Order {
  in_turn,  // first ready, first served: findings come as far as possible in the order of the programs
  by_band,  // some turns of neighbouring ranks before the next ranks: their state stays in the cache meanwhile
};

// Ranks that can go on. By band, each rank first gets its first turns, as many as the band is long, then those of the next
// band, and so on. Inside a band those that wait for it follow the newest rank at once: in a ring, where a turn needs the
// neighbours' previous one, a slanted front of as many ranks goes round as the band has turns. Where a turn has many
// messages a rank has more neighbours than two, so that the front is wider, and the band is shorter.
class Ready {
 public:
  // Of a schedule of so many ranks. None is ready yet.
  Ready(Order order, int ranks) : order_(order), turns_(static_cast<size_t>(ranks)) {}
  // A rank that has had no turn. Those of the queue are served in this order.
  void begin(int rank) { queue_.push_back(rank); }
  void push(int rank) {
    if (order_ == Order::in_turn) {
      queue_.push_back(rank);
    } else {
      (turns(rank) < band_end_ ? following_ : next_band_).push_back(rank);
    }
  }
  // The rank to run now, or -1 when none can go on.
  int pop() {
    if (following_.empty() && queue_.empty()) {
      queue_.assign(next_band_.begin(), next_band_.end());
      next_band_.clear();
      band_end_ += next_length();
    }
    int rank = -1;
    if (!following_.empty()) {
      rank = following_.back();
      following_.pop_back();
    } else if (!queue_.empty()) {
      rank = queue_.front();
      queue_.pop_front();
    } else {
      return -1;
    }
    ++turns(rank);
    return rank;
  }
  // The turn of a rank has ended, in so many messages.
  void ended(int messages) {
    ++band_turns_;
    band_messages_ += messages;
  }

 private:
  // Measured: of a ring, with 2 messages a turn, the state of 32 ranks fits into the second cache of a core. Rings of 8
  // pieces over nodes, with 16, are fastest with 4 to 8.
  static constexpr int64_t kLongestBand = 32, kShortestBand = 4, kBandMessages = 96;

  int64_t& turns(int rank) { return turns_[static_cast<size_t>(rank)]; }
  // Of the next band, by the messages of the last.
  int64_t next_length() {
    const int64_t length = kBandMessages * band_turns_ / std::max<int64_t>(1, band_messages_);
    band_turns_ = band_messages_ = 0;
    return std::clamp(length, kShortestBand, kLongestBand);
  }

  Order order_;
  int64_t band_end_ = kShortestBand;
  int64_t band_turns_ = 0, band_messages_ = 0;
  std::vector<int64_t> turns_;  // had by each rank
  std::deque<int> queue_;
  std::vector<int> following_;  // newest last
  std::vector<int> next_band_;
};

}  // namespace weft::verify_internal
