#include "weft/ops/run_board.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

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
  std::map<const void*, Entry> entries;  // by the address of the tensor, while it is in use
};
Board& board() {
  static auto& all = *new Board();  // tensors may be freed while the process ends
  return all;
}

// Destroys what belongs to the address, outside of the lock.
void drop(const void* address) {
  Entry entry;
  const std::lock_guard lock(board().mutex);
  const auto found = board().entries.find(address);
  if (found == board().entries.end()) return;
  entry = std::move(found->second);
  board().entries.erase(found);
}

}  // namespace

at::Tensor no_run(c10::Device device) { return at::zeros({1}, at::TensorOptions().dtype(at::kLong).device(device)); }

at::Tensor pin_run(std::unique_ptr<Execution> run, std::shared_ptr<const void> owner, c10::Device device) {
  const at::Tensor memory = no_run(device);
  const void* address = memory.const_data_ptr();
  {
    const std::lock_guard lock(board().mutex);
    board().entries.emplace(address, Entry{std::move(owner), std::move(run)});
  }
  return at::for_blob(memory.mutable_data_ptr(), {1})
      .options(memory.options())
      .target_device(device)
      .deleter([memory, address](void*) { drop(address); })
      .make_tensor();
}

std::unique_ptr<Execution> take_run(const at::Tensor& token) {
  const std::lock_guard lock(board().mutex);
  const auto found = board().entries.find(token.const_data_ptr());
  return found == board().entries.end() ? nullptr : std::move(found->second.run);
}

}  // namespace weft
