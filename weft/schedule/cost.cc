#include "weft/schedule/cost.h"

namespace weft {

std::vector<std::pair<std::string_view, int64_t>> numbers_of(const Cost& cost) {
  const PhaseCost &f = cost.forward, &b = cost.backward;
  return {{"forward steps", f.steps},
          {"forward work, total", f.work.total},
          {"forward work, busiest", f.work.busiest},
          {"forward messages, total", f.messages.total},
          {"forward messages, busiest", f.messages.busiest},
          {"forward bytes, total", f.bytes.total},
          {"forward bytes, busiest", f.bytes.busiest},
          {"forward exposed bytes, total", f.exposed_bytes.total},
          {"forward exposed bytes, busiest", f.exposed_bytes.busiest},
          {"backward steps", b.steps},
          {"backward work, total", b.work.total},
          {"backward work, busiest", b.work.busiest},
          {"backward messages, total", b.messages.total},
          {"backward messages, busiest", b.messages.busiest},
          {"backward bytes, total", b.bytes.total},
          {"backward bytes, busiest", b.bytes.busiest},
          {"backward exposed bytes, total", b.exposed_bytes.total},
          {"backward exposed bytes, busiest", b.exposed_bytes.busiest},
          {"live bytes", cost.live_bytes},
          {"saved bytes", cost.saved_bytes}};
}

}  // namespace weft
