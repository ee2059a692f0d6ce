#include "weft/base/freed_memory.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace weft {

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);         // no mapping for each large array,
  mallopt(M_TRIM_THRESHOLD, -1);  // nothing goes back from the heap's end,
  mallopt(M_ARENA_MAX, 1);        // and threads have no heaps of their own, which cannot hold large arrays
#endif
}

}  // namespace weft
