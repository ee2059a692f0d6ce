// The transport over a torch process group that Python made, found by its name: Gloo, NCCL, or whatever the group has for
// tensors of the memory in which a transfer lies.
//
//   std::unique_ptr<GroupEndpoint> endpoint = group_endpoint("my group", 5);
//   endpoint->begin_call();                   // on all ranks
//   ...                                       // an Executor runs over it
//
// A message is packed into one buffer and travels point to point; messages of a pair of ranks arrive in the order in which
// they were sent, so there are no tags of our own. Where the group can take several operations together (NCCL), all of
// an exchange is one of them: apart from each other they could wait for one another.
//
// A failure reaches everybody, also ranks that wait for a healthy one: who fails leaves a note in the group's store, and
// whoever waits watches for it. A rank that died is noticed by those who talk to it, and they leave the note. After a failure
// every call on this group throws Error(stopped) with the first error; what travelled is lost, so a new group is needed.
#pragma once

#include <memory>
#include <string>

#include "weft/transport/transport.h"

namespace weft {

class GroupEndpoint : public Endpoint {
 public:
  // Ranks call as often as each other. A rank that does not go through with a call, because of what it was given, says so:
  // then the others, if they have begun it, fail and the group with them; if all refuse, nothing is lost.
  virtual void begin_call() = 0;
  // Before the first call of a kind: all ranks wait for each other and compare what they call it. Then no message of a call
  // has more bytes than `largest_message`, whatever a rank takes for the next call: a longer one than the receiver expects
  // would end its process. Throws Error(usage) on all ranks where they differ.
  // A rank that calls with a kind that it knows, and waits for one that does not, fails too.
  virtual void agree(const std::string& kind, int64_t largest_message) = 0;
  // Of each call and each backward: messages of ranks whose calls are of different kinds are refused by who gets them.
  virtual void set_kind(uint64_t hash) = 0;
  virtual void refuse_call(const std::string& why) noexcept = 0;
};

// `timeout`: seconds to wait for one message; 0: as the group says. Throws Error(usage) when there is no such group.
// All ranks make the endpoints of a group in the same order. Those of one group share its failure.
std::unique_ptr<GroupEndpoint> group_endpoint(const std::string& name, double timeout = 0);

}  // namespace weft
