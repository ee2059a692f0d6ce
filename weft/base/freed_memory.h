// What becomes of memory that a process frees.
#pragma once

namespace weft {

// Freed memory stays with this process and is given out again, to all its threads, instead of going back to the system: for
// programs that do the same many times over, such as steps of a training run. The C library otherwise hands back every large
// array at once, and each step pays for fresh pages: a third of a step and more where activations are the most of it. Costs
// what lies between arrays that are in use. Called before the threads that it is meant for begin; without glibc nothing happens.
void keep_freed_memory();

}  // namespace weft
