// Rings that share no link: Hamiltonian cycles of the complete directed graph, and rings through nodes.
//
//   hamiltonian_cycles(5, 4)   0 1 2 3 4    every one of the 20 directed links lies on exactly one of the four,
//                              0 4 3 2 1    so four messages a rank can go round at once without meeting
//                              0 2 4 1 3
//                              0 3 1 4 2
//
// Odd numbers of vertices: Walecki's zigzags and their reverses use every link. Even ones: the same zigzags use all but
// one link in and out of each vertex; multiples of 4 from 8 on have a construction that uses them all (Wang et al. 2025,
// arXiv 2509.26541), 10 has a list. 4 and 6 have none (Tillson 1980); 14, 18, ... have one, but not here.
#pragma once

#include <vector>

namespace weft::methods {

// Vertices in the order of a visit, each once; of a cycle the last is followed by the first.
using Tour = std::vector<int>;

// The largest number of cycles that hamiltonian_cycles gives: vertices - 1 where they use every link, else one less; 1 for
// one or two vertices.
int most_cycles(int vertices);

// So many Hamiltonian cycles that share no directed link. The first is 0, 1, 2, ...; unless all links are asked for, the
// second is its reverse, the fourth that of the third, and so on.
std::vector<Tour> hamiltonian_cycles(int vertices, int count);

// As many Hamiltonian paths as there are without common link, at most `vertices`: no two begin, and no two end, at one
// vertex, and a path begins wherever one ends.
std::vector<Tour> hamiltonian_paths(int vertices);

// The largest number of rings that rings_over_nodes gives.
int most_rings(int nodes, int local);

// So many rings over nodes x local ranks (rank = node * local + place) that share no link. On one node Hamiltonian
// cycles; on several each ring runs along a path through one node after the other. It enters a node at the place where
// it left the one before, except where it closes; every rank has at most one link to another node.
std::vector<Tour> rings_over_nodes(int nodes, int local, int count);

}  // namespace weft::methods
