#include "weft/layout/document_deal.h"

#include <algorithm>

namespace weft {
namespace {

// Integers throughout: every rank of a job must come to the same layout, whatever its compiler does to floating point.
__extension__ using Wide = __int128;

struct Document {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t shares = 0;  // ranks that it is for
  int64_t placed = 0;  // of its shares
};

struct Totals {
  int64_t tokens = 0;
  int64_t squares = 0;  // of lengths: twice the causal work. Below 2^62

  void add(int64_t length) {
    tokens += length;
    squares += length * length;
  }
};

// One attempt. `fineness`: no share of a document that is not for all ranks has more than 1 / fineness of a rank's
// tokens or of its causal work.
class Deal {
 public:
  Deal(std::span<const int64_t> lengths, int ranks, int64_t fineness)
      : ranks_(ranks), parts_(static_cast<size_t>(ranks)), held_(parts_.size()), work_(parts_.size()) {
    for (int64_t length : lengths) all_.add(length);
    std::vector<Document> few;
    int64_t begin = 0;
    for (int64_t length : lengths) {
      const Document document{.begin = begin, .length = length, .shares = shares(length, fineness)};
      begin += length;
      document.shares == ranks_ ? deal_to_all(document) : few.push_back(document);
    }
    is_finest_ = few.empty();
    fill(std::move(few));
  }

  // No rank has more than 1/16 above the average of causal work, or nothing more can be done about it.
  bool is_balanced() const {
    Wide sum = 0;
    for (int64_t work : work_) sum += work;
    return is_finest_ || Wide{16} * ranks_ * *std::max_element(work_.begin(), work_.end()) <= 17 * sum;
  }
  std::vector<std::vector<Range>> take() { return std::move(parts_); }

 private:
  int64_t shares(int64_t length, int64_t fineness) const {
    const Wide scaled = Wide{fineness} * ranks_ * length;
    const Wide by_tokens = (scaled + all_.tokens - 1) / all_.tokens;
    const Wide by_work = (scaled * length + all_.squares - 1) / all_.squares;
    return static_cast<int64_t>(std::min<Wide>(ranks_, std::max(by_tokens, by_work)));
  }

  void give(int64_t rank, const Document& document, Range positions) {
    if (positions.empty()) return;
    const auto r = static_cast<size_t>(rank);
    parts_[r].push_back(positions);
    held_[r] += positions.size();
    const int64_t from = positions.begin - document.begin, to = positions.end - document.begin;
    work_[r] += to * (to + 1) - from * (from + 1);
  }

  // The chunks that get a token more than others take turns from document to document.
  void deal_to_all(const Document& document) {
    const int64_t chunks = 2 * ranks_;
    const int64_t size = document.length / chunks, rest = document.length % chunks;
    const int64_t wrapped = std::max<int64_t>(0, turn_ + rest - chunks);
    int64_t position = document.begin;
    const auto deal = [&](Range to, int64_t tokens) {  // so many to each of these chunks
      if (tokens == 0) return;
      for (int64_t chunk = to.begin; chunk < to.end; ++chunk, position += tokens) {
        give(std::min(chunk, chunks - 1 - chunk), document, {position, position + tokens});
      }
    };
    deal({0, wrapped}, size + 1);
    deal({wrapped, turn_}, size);
    deal({turn_, turn_ + rest - wrapped}, size + 1);
    deal({turn_ + rest - wrapped, chunks}, size);
    turn_ = (turn_ + rest) % chunks;
  }

  // How many tokens each rank still takes for all to differ by one at most. Those it holds differ by one at most.
  std::vector<int64_t> room() const {
    const int64_t least = all_.tokens / ranks_;
    int64_t more = all_.tokens % ranks_;  // ranks that get one more
    std::vector<int64_t> room(held_.size());
    for (size_t r = 0; r < room.size(); ++r) {
      room[r] = least - held_[r];
      if (room[r] < 0) room[r] = 0, --more;
    }
    for (size_t r = 0; r < room.size() && more > 0; ++r) {
      if (held_[r] <= least) ++room[r], --more;
    }
    return room;
  }

  // Lines up the shares of all documents and fills rank by rank, each to its last token, so a document may be cut
  // where one rank ends and the next begins. The next in line is of the longest document left if the line so far has
  // less work than its tokens should have, else of the shortest: so at no point is it off by more than two shares.
  //
  // From the last rank to the first: then the keys of a document that was cut are needed by the rank before, where a
  // ring of direction -1, the default of zigzag, takes them first.
  void fill(std::vector<Document> documents) {
    std::stable_sort(documents.begin(), documents.end(),
                     [](const Document& a, const Document& b) { return a.length < b.length; });
    Totals totals;
    for (const Document& document : documents) totals.add(document.length);
    std::vector<int64_t> room = this->room();
    auto rank = static_cast<int64_t>(room.size()) - 1;
    const auto place = [&](const Document& document, Range positions) {
      while (!positions.empty()) {
        while (room[static_cast<size_t>(rank)] == 0) --rank;
        int64_t& left = room[static_cast<size_t>(rank)];
        const int64_t count = std::min(left, positions.size());
        give(rank, document, {positions.begin, positions.begin + count});
        positions.begin += count;
        left -= count;
      }
    };
    Wide surplus = 0;  // of work in the line so far, times totals.tokens
    for (auto first = documents.begin(), last = documents.end(); first != last;) {
      const bool take_long = surplus < 0;
      Document& document = take_long ? *std::prev(last) : *first;
      // Two chunks, as in zigzag: every share of a document has the same work.
      const int64_t chunks = 2 * document.shares, i = document.placed++;
      const auto boundary = [&](int64_t chunk) { return document.begin + document.length * chunk / chunks; };
      const Range early{boundary(i), boundary(i + 1)}, late{boundary(chunks - 1 - i), boundary(chunks - i)};
      place(document, early);
      place(document, late);
      surplus += (Wide{document.length} * totals.tokens - totals.squares) * (early.size() + late.size());
      if (document.placed == document.shares) take_long ? --last : ++first;
    }
  }

  int64_t ranks_;
  Totals all_;
  std::vector<std::vector<Range>> parts_;
  std::vector<int64_t> held_;  // tokens
  std::vector<int64_t> work_;  // twice the causal pairs
  int64_t turn_ = 0;           // the chunk whose turn it is to get one token more
  bool is_finest_ = false;
};

}  // namespace

std::vector<std::vector<Range>> deal_documents(std::span<const int64_t> lengths, int ranks) {
  // As few cuts as balance allows. Shares of 1/64 keep the work of a rank within 3/64 of the average, up to rounding,
  // which matters where ranks hold a few tokens only: then the last attempt cuts every document for all ranks.
  for (int64_t fineness = 1; fineness <= 64; fineness *= 2) {
    Deal deal(lengths, ranks, fineness);
    if (deal.is_balanced()) return deal.take();
  }
  int64_t tokens = 0;
  for (int64_t length : lengths) tokens += length;
  return Deal(lengths, ranks, tokens).take();
}

}  // namespace weft
