// AttentionPlan: how one process of a group computes attention, or a linear layer, over a sequence that the group holds together.
//
//   auto plan = std::make_shared<AttentionPlan>(spec);              // on every rank, with the same spec
//   plan->layout().positions(plan->rank());                         // the rows that live here
//   Executor& executor = plan->executor({.element = DType::bf16, .backward = true});
//
// A schedule is made, and verified, when a call of its kind comes first: for an element type, a batch size, a scale, with or
// without gradients and log-sum-exp. Batches are folded into heads.
#pragma once

#include <c10/core/Device.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "weft/execute/executor.h"
#include "weft/methods/method.h"
#include "weft/torch/group_endpoint.h"
#include "weft/torch/halo_exchange.h"
#include "weft/torch/relayout_exchange.h"
#include "weft/verify/verify.h"

namespace weft {

// What a user asks for.
struct PlanSpec {
  std::string group;            // name of the process group
  std::string method = "auto";  // auto: what costs least by the methods' closed forms
  std::string layout;           // empty: the method's own
  // Instead of a name, the runs of positions of every rank, in local order.
  std::optional<std::vector<std::vector<Run>>> runs;
  std::map<std::string, std::string> options;
  Documents documents{1};  // and the mask rule in each
  Layer layer = Layer::softmax;
  int64_t key_heads = 0;               // of linear layers: heads of q and k; 0: as many as heads
  int64_t householders = 1;            // of layers with a delta rule
  bool canonical = false;              // of linear layers: the same bits for any number of ranks and layout
  std::vector<double> log_decay = {};  // of each head, for layers with a constant decay; empty: RetNet's
  int64_t heads = 1, kv_heads = 1, dim = 64, dim_v = 64;
  double timeout = 0;  // seconds to wait for a message; 0: as the group says
};

// One kind of call.
struct CallKind {
  DType element = DType::fp32;
  int64_t batch = 1;
  double scale = 0;  // 0: 1 / sqrt(dim), or the layer's own
  bool backward = false;
  bool lse = false;
  bool initial_states = false, final_states = false;  // of a linear layer
  std::vector<int64_t> state_positions = {};
  c10::DeviceType device = c10::kCPU;
  c10::DeviceIndex device_index = -1;
  friend auto operator<=>(const CallKind&, const CallKind&) = default;
};

class AttentionPlan {
 public:
  // Throws Error(usage) or Error(unsupported) for what no rank could do, with a way out.
  explicit AttentionPlan(PlanSpec spec);

  const PlanSpec& spec() const { return spec_; }
  const std::string& method() const { return method_; }
  const std::string& why() const { return why_; }  // this method
  const Layout& layout() const { return layout_; }
  int rank() const { return endpoint_->rank(); }
  int ranks() const { return endpoint_->ranks(); }
  int64_t local_tokens() const { return layout_.tokens_of(rank()); }
  // Rows of a field on this rank: tokens, documents that begin here, or the states asked for here.
  int64_t local_rows(Field field, const AttentionShape& shape) const;
  // In the order of the sequence, the documents of which a rank has the first token, or the last.
  std::vector<int64_t> documents_at(int rank, bool first_token) const;

  GroupEndpoint& endpoint() { return *endpoint_; }
  // The executor for a call of a kind, or for its backward; lives as long as the plan. All ranks ask for the same.
  Executor& executor(const CallKind& kind);
  Schedule schedule(const CallKind& kind) const;
  // For a convolution of so many taps over the plan's tokens, whatever its layer; `columns`: of a row. As executor().
  HaloExchange& halo_exchange(int64_t width, DType element, int64_t columns);
  // To another layout of the same tokens and ranks. As executor().
  RelayoutExchange& relayout_to(const Layout& to, DType element, int64_t columns);
  // Of numbers that all ranks give; a call of its own.
  double largest_of_ranks(double mine);
  // Rows of other ranks that this rank's tokens read in it.
  int64_t halo_rows(int64_t width) const;
  // Of one sequence of a batch.
  AttentionShape shape(const CallKind& kind) const;

 private:
  void choose_method();
  Layout given_layout() const;
  int64_t tile() const { return spec_.canonical ? kCanonicalTile : 0; }

  PlanSpec spec_;
  std::string method_, why_;
  std::unique_ptr<GroupEndpoint> endpoint_;
  Layout layout_;
  std::map<const Memory*, BufferPool> pools_;
  struct Known {
    std::unique_ptr<Executor> executor;
    uint64_t hash = 0;  // of the kind, as all ranks have it
  };
  std::map<CallKind, Known> kinds_;
  struct PlannedRelayout {
    Layout to;
    std::unique_ptr<RelayoutExchange> exchange;
    int64_t largest_message = 0;                           // rows, of all ranks
    std::map<std::pair<DType, int64_t>, uint64_t> hashes;  // of type and columns
  };
  std::vector<PlannedRelayout> relayouts_;
  struct PlannedHalo {
    std::unique_ptr<HaloExchange> exchange;
    int64_t largest_message = 0;  // rows, of all ranks
  };
  std::map<int64_t, PlannedHalo> halos_;                                    // by width
  std::map<std::tuple<int64_t, DType, int64_t>, uint64_t> kinds_of_halos_;  // hashes
  bool compares_numbers_ = false;                                           // agreed upon
};

}  // namespace weft
