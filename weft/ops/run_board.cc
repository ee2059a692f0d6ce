#include "weft/ops/run_board.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <map>
#include <mutex>

namespace weft {
namespace {

struct Entry {
  std::shared_ptr<const void> owner;  // goes last
  std::unique_ptr<Execution> run;
};

struct Board {
  std::mutex mutex;
  int64_t next = 1;
  std::map<int64_t, Entry> entries;
};
Board& board() {
  static auto& all = *new Board();  // tensors may be freed while the process ends
  return all;
}

at::Tensor token_of(int64_t number) {
  auto* data = new int64_t(number);
  return at::from_blob(
      data, {1},
      [](void* memory) {
        auto* mine = static_cast<int64_t*>(memory);
        Entry entry;  // destroyed outside of the lock
        {
          const std::lock_guard lock(board().mutex);
          const auto found = board().entries.find(*mine);
          if (found != board().entries.end()) {
            entry = std::move(found->second);
            board().entries.erase(found);
          }
        }
        delete mine;
      },
      at::TensorOptions().dtype(at::kLong));
}

}  // namespace

at::Tensor pin_run(std::unique_ptr<Execution> run, std::shared_ptr<const void> owner) {
  int64_t number = 0;
  {
    const std::lock_guard lock(board().mutex);
    number = board().next++;
    board().entries.emplace(number, Entry{std::move(owner), std::move(run)});
  }
  return token_of(number);
}

at::Tensor no_run() { return token_of(0); }

std::unique_ptr<Execution> take_run(const at::Tensor& token) {
  const std::lock_guard lock(board().mutex);
  const auto found = board().entries.find(*token.const_data_ptr<int64_t>());
  return found == board().entries.end() ? nullptr : std::move(found->second.run);
}

}  // namespace weft
