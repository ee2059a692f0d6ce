// The method records, one per file of this folder.
#pragma once

#include "weft/methods/method.h"

namespace weft::methods {

extern const Method ring;
extern const Method zigzag;
extern const Method striped;
extern const Method all_gather;
extern const Method lss;
extern const Method ulysses;
extern const Method usp;
extern const Method double_ring;
extern const Method token_ring;
extern const Method llama3;
extern const Method lightseq;
extern const Method group_cast;
extern const Method mesh;
extern const Method burst;
extern const Method tree;
extern const Method mercury_team;
extern const Method rsa;
extern const Method tasp;

// Of linear layers.
extern const Method chain;
extern const Method all_scan;
extern const Method all_gather_state;
extern const Method log_step;
extern const Method hierarchical;
extern const Method head_exchange;
extern const Method two_dimensional;

}  // namespace weft::methods
