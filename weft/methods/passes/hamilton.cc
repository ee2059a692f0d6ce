#include "weft/methods/passes/hamilton.h"

#include <algorithm>
#include <string_view>

#include "weft/base/error.h"

namespace weft::methods {
namespace {

size_t at(int i) { return static_cast<size_t>(i); }

// Whether there are cycles that use every link.
bool is_complete(int vertices) { return vertices % 2 == 1 || (vertices % 4 == 0 && vertices > 4) || vertices == 10; }

// 0, 1, -1, 2, -2, ... modulo `size`, all of them: neighbours differ by 1, -2, 3, -4, ...
Tour zigzag(int size) {
  Tour tour;
  for (int k = 0; k < size; ++k) tour.push_back(k % 2 == 1 ? (k + 1) / 2 : (size - k / 2) % size);
  return tour;
}

// `hub`, then the zigzag moved on by `shift`.
Tour zigzag_from(int hub, int shift, int size) {
  Tour tour = zigzag(size);
  for (int& vertex : tour) vertex = (vertex + shift) % size;
  tour.insert(tour.begin(), hub);
  return tour;
}

// Walecki's zigzag: the edges of zigzag `shift` have sums 2 shift and 2 shift + 1, so no two zigzags share one, and the two
// directions of each share no link. The hub is joined to another pair of ends each time.
std::vector<Tour> walecki_cycles(int vertices, int count) {
  std::vector<Tour> cycles;
  for (int shift = 0; static_cast<int>(cycles.size()) < count; ++shift) {
    cycles.push_back(zigzag_from(vertices - 1, shift, vertices - 1));
    Tour reverse = cycles.back();
    std::reverse(reverse.begin() + 1, reverse.end());
    if (static_cast<int>(cycles.size()) < count) cycles.push_back(std::move(reverse));
  }
  return cycles;
}

// Every link for 8, 12, 16, ... vertices. Zigzags round a first hub are cycles over all but a second one; each is cut
// open at a link chosen so that the links cut out form, with the second hub, the last cycle.
std::vector<Tour> cycles_of_multiple_of_four(int vertices) {
  const int k = vertices / 4 - 1, size = vertices - 2, first_hub = size, second_hub = size + 1;
  const auto cut_of = [k](int i) {
    if (i == 0) return 1;
    if (i == k + 1) return 4 * k + 2;
    if (i == 2 * k + 2) return 3;
    return i == 3 * k + 2 ? 4 * k : 2 * k;
  };
  std::vector<Tour> cycles;
  std::vector<int> after(at(vertices));  // by the cut: the end of an opened cycle to its beginning
  for (int i = 0; i < size; ++i) {
    Tour tour = zigzag_from(first_hub, i, size);
    std::rotate(tour.begin(), tour.begin() + cut_of(i), tour.end());
    after[at(tour.back())] = tour.front();
    tour.insert(tour.begin(), second_hub);
    cycles.push_back(std::move(tour));
  }
  Tour last = {second_hub, first_hub};
  while (static_cast<int>(last.size()) < vertices) last.push_back(after[at(last.back())]);
  cycles.push_back(std::move(last));
  return cycles;
}

// Found by search.
std::vector<Tour> cycles_of_ten() {
  std::vector<Tour> cycles;
  for (std::string_view digits : {"0123456789", "0213546987", "0314257968", "0415283976", "0517293864", "0618274953",
                                  "0736248591", "0843719265", "0947581632"}) {
    Tour& tour = cycles.emplace_back();
    for (char digit : digits) tour.push_back(digit - '0');
  }
  return cycles;
}

// Names the vertices anew so that the first cycle visits them in order.
void name_by_first(std::vector<Tour>& cycles) {
  std::vector<int> name(cycles[0].size());
  for (size_t i = 0; i < name.size(); ++i) name[at(cycles[0][i])] = static_cast<int>(i);
  for (Tour& tour : cycles) {
    for (int& vertex : tour) vertex = name[at(vertex)];
  }
}

}  // namespace

int most_cycles(int vertices) {
  if (vertices <= 2) return 1;
  return is_complete(vertices) ? vertices - 1 : vertices - 2;
}

std::vector<Tour> hamiltonian_cycles(int vertices, int count) {
  WEFT_CHECK(vertices >= 1 && count >= 1 && count <= most_cycles(vertices));
  if (vertices == 1) return {{0}};
  const bool walecki = vertices % 2 == 1 || count < vertices - 1 || vertices == 2;
  std::vector<Tour> cycles = walecki          ? walecki_cycles(vertices, count)
                             : vertices == 10 ? cycles_of_ten()
                                              : cycles_of_multiple_of_four(vertices);
  name_by_first(cycles);
  return cycles;
}

std::vector<Tour> hamiltonian_paths(int vertices) {
  // What is left of cycles over one vertex more without that vertex.
  std::vector<Tour> paths = hamiltonian_cycles(vertices + 1, most_cycles(vertices + 1));
  for (Tour& tour : paths) {
    std::rotate(tour.begin(), std::find(tour.begin(), tour.end(), vertices), tour.end());
    tour.erase(tour.begin());
  }
  return paths;
}

int most_rings(int nodes, int local) { return most_cycles(nodes == 1 ? local : local + 1); }

std::vector<Tour> rings_over_nodes(int nodes, int local, int count) {
  if (nodes == 1) return hamiltonian_cycles(local, count);
  WEFT_CHECK(count >= 1 && count <= most_rings(nodes, local));
  const std::vector<Tour> paths = hamiltonian_paths(local);
  std::vector<size_t> beginning_at(at(local));
  for (size_t p = 0; p < paths.size(); ++p) beginning_at[at(paths[p].front())] = p;
  std::vector<Tour> rings(at(count));
  for (size_t i = 0; i < rings.size(); ++i) {
    size_t path = i;
    for (int node = 0; node < nodes; ++node) {
      for (int place : paths[path]) rings[i].push_back(node * local + place);
      path = beginning_at[at(paths[path].back())];
    }
  }
  return rings;
}

}  // namespace weft::methods
