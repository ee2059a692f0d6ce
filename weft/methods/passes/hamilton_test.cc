#include "weft/methods/passes/hamilton.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

namespace weft::methods {
namespace {

using Links = std::set<std::pair<int, int>>;

// Checks that every tour visits 0 .. vertices - 1 once, and returns their links, of which none may be there twice.
Links links_of(const std::vector<Tour>& tours, int vertices, bool closed) {
  Links links;
  for (const Tour& tour : tours) {
    EXPECT_EQ(tour.size(), static_cast<size_t>(vertices));
    EXPECT_EQ(std::set<int>(tour.begin(), tour.end()).size(), tour.size());
    EXPECT_EQ(*std::min_element(tour.begin(), tour.end()), 0);
    EXPECT_EQ(*std::max_element(tour.begin(), tour.end()), vertices - 1);
    for (size_t i = 0; i + (closed ? 0 : 1) < tour.size() && vertices > 1; ++i) {
      const std::pair link(tour[i], tour[(i + 1) % tour.size()]);
      EXPECT_TRUE(links.insert(link).second) << link.first << " to " << link.second << " is used twice";
    }
  }
  return links;
}

TEST(Hamilton, CyclesShareNoLink) {
  for (int vertices = 1; vertices <= 64; ++vertices) {
    const int most = most_cycles(vertices);
    for (int count :
         std::set<int>{1, std::min(2, most), std::min(3, most), most / 2 + 1, std::max(1, most - 1), most}) {
      SCOPED_TRACE(std::to_string(count) + " cycles over " + std::to_string(vertices));
      const std::vector<Tour> cycles = hamiltonian_cycles(vertices, count);
      ASSERT_EQ(cycles.size(), static_cast<size_t>(count));
      const Links links = links_of(cycles, vertices, true);
      ASSERT_EQ(links.size(), vertices == 1 ? 0u : static_cast<size_t>(count * vertices));
      for (int i = 0; i < vertices; ++i) ASSERT_EQ(cycles[0][static_cast<size_t>(i)], i);
    }
  }
}

// All links: every odd number, every multiple of 4 from 8 on, and 10. Else all but one link out of each vertex.
TEST(Hamilton, MostCycles) {
  for (int vertices = 3; vertices <= 64; ++vertices) {
    const bool every_link = vertices % 2 == 1 || (vertices >= 8 && vertices % 4 == 0) || vertices == 10;
    EXPECT_EQ(most_cycles(vertices), every_link ? vertices - 1 : vertices - 2) << vertices;
  }
  EXPECT_EQ(most_cycles(2), 1);
  EXPECT_EQ(most_cycles(1), 1);
}

TEST(Hamilton, TwoCyclesAreARingAndItsReverse) {
  for (int vertices = 3; vertices <= 64; ++vertices) {
    std::vector<Tour> cycles = hamiltonian_cycles(vertices, 2);
    std::rotate(cycles[1].begin(), std::find(cycles[1].begin(), cycles[1].end(), 0), cycles[1].end());
    std::reverse(cycles[1].begin() + 1, cycles[1].end());
    EXPECT_EQ(cycles[0], cycles[1]) << vertices;
  }
}

TEST(Hamilton, PathsShareNoLinkAndNoEnd) {
  for (int vertices = 1; vertices <= 63; ++vertices) {
    SCOPED_TRACE(vertices);
    const std::vector<Tour> paths = hamiltonian_paths(vertices);
    ASSERT_EQ(static_cast<int>(paths.size()), most_rings(2, vertices));
    links_of(paths, vertices, false);
    std::set<int> first, last;
    for (const Tour& path : paths) first.insert(path.front()), last.insert(path.back());
    EXPECT_EQ(first.size(), paths.size());
    EXPECT_EQ(first, last);
  }
  // 2, 4, 6, ... places: as many paths as places, so every link of a node is used, and one link out of it per place.
  for (int vertices = 2; vertices <= 62; vertices += 2) EXPECT_EQ(most_rings(2, vertices), vertices);
}

TEST(Hamilton, RingsOverNodes) {
  for (int nodes = 1; nodes <= 5; ++nodes) {
    for (int local = 1; local <= 16; ++local) {
      for (int count = 1; count <= most_rings(nodes, local); count += 1 + count / 3) {
        SCOPED_TRACE(std::to_string(count) + " rings, " + std::to_string(nodes) + " nodes of " + std::to_string(local));
        const std::vector<Tour> rings = rings_over_nodes(nodes, local, count);
        ASSERT_EQ(rings.size(), static_cast<size_t>(count));
        if (nodes * local == 1) continue;
        std::vector<int> outgoing(static_cast<size_t>(nodes * local)), incoming = outgoing;
        for (const auto& [from, to] : links_of(rings, nodes * local, true)) {
          if (from / local == to / local) continue;
          ++outgoing[static_cast<size_t>(from)], ++incoming[static_cast<size_t>(to)];
          ASSERT_EQ(to / local, (from / local + 1) % nodes);
          ASSERT_TRUE(to / local == 0 || from % local == to % local);
        }
        for (int links : outgoing) ASSERT_LE(links, 1);
        for (int links : incoming) ASSERT_LE(links, 1);
      }
    }
  }
}

// Where the paths come in pairs of reverses and nodes too, every link between nodes joins equal places.
TEST(Hamilton, EvenNodesOfEvenSizeKeepToTheirRails) {
  for (int nodes : {2, 4, 6}) {
    for (int local : {2, 4, 8, 16}) {
      for (const auto& [from, to] : links_of(rings_over_nodes(nodes, local, local), nodes * local, true)) {
        EXPECT_TRUE(from / local == to / local || from % local == to % local);
      }
    }
  }
}

}  // namespace
}  // namespace weft::methods
