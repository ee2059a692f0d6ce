// What the ranks of equal heads do between the two all-to-alls of a head exchange: pass key-value blocks on until every
// query has seen the keys that it needs. A flat ring (ring_pass.h) or a ring of rings (double_ring_pass.h).
#pragma once

#include <functional>
#include <memory>

#include "weft/methods/passes/double_ring_pass.h"
#include "weft/methods/passes/ring_pass.h"

namespace weft::methods {

// A rank's view of both phases. `q` and `kv` are all rows of its place, for its heads.
class ContextPass {
 public:
  virtual ~ContextPass() = default;
  virtual int forward_steps() const = 0;
  virtual int backward_steps() const = 0;
  virtual void forward(int t, const Value& q, const Value& kv, const Value& acc) = 0;
  virtual void backward(int t, const Value& q, const Value& kv, const Slices& bundle, const Value& dq) = 0;
  // After the last step: the complete dk, dv of kv. Nothing else stays alive.
  virtual Value take_sums() = 0;
};

// The ranks of equal heads, place after place: makes the view of one of them.
using ContextRing = std::function<std::unique_ptr<ContextPass>(Builder& builder, int place, Set kv_heads)>;

ContextRing flat_context(std::shared_ptr<const Ring> ring);
ContextRing double_context(std::shared_ptr<const DoubleRing> ring);

}  // namespace weft::methods
