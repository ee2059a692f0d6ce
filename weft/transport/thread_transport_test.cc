#include "weft/transport/thread_transport.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>

#include "weft/base/memory.h"
#include "weft/base/random.h"
#include "weft/transport/largest.h"
#include "weft/transport/testing.h"

namespace weft {
namespace {

TEST(Copy, RegionsCutDifferently) {
  // 24 bytes: from 3 rows of 8 with gaps, into 2 contiguous regions with an empty one between.
  Bytes from = bytes_from(0, 36), to(24, std::byte{0});
  const std::vector<Region> source = {{from.data(), 3, 8, 12}};
  const std::vector<Region> target = {{to.data(), 5, 2, 2}, {to.data(), 0, 8, 8}, {to.data() + 10, 1, 14, 14}};
  copy_regions(source, target);
  for (int i = 0; i < 24; ++i) {
    EXPECT_EQ(static_cast<int>(to[static_cast<size_t>(i)]), i / 8 * 12 + i % 8) << i;
  }
  EXPECT_THROW(copy_regions(source, std::span(target).first(1)), Error);
}

TEST(ThreadTransport, MessagesArriveInOrderOverAllLanes) {
  run_threads(2, [](Endpoint& endpoint) {
    if (endpoint.rank() == 0) {
      std::vector<Bytes> data;
      std::vector<std::unique_ptr<Pending>> pending;
      for (int n = 0; n < 10; ++n) data.push_back(bytes_from(n, 4));
      for (int n = 0; n < 10; ++n) {
        Transfer transfer = sends(1, outgoing(data[static_cast<size_t>(n)]));
        transfer.lane = n % 3;
        pending.push_back(endpoint.post(std::move(transfer)));
      }
      for (auto& each : pending) each->wait(Until::usable);
    } else {
      for (int n = 0; n < 10; ++n) {
        Bytes to(4);
        endpoint.post(receives(0, incoming(to)))->wait(Until::usable);
        EXPECT_EQ(to, bytes_from(n, 4));
      }
    }
    endpoint.end_phase();
  });
}

// Whoever has it, all ranks know it; NaN is larger than any.
TEST(ThreadTransport, LargestOfRanks) {
  for (const int ranks : {1, 2, 3, 5, 8}) {
    for (int who = 0; who < ranks; ++who) {
      run_threads(ranks, [&](Endpoint& endpoint) {
        const double mine = endpoint.rank() == who ? 7.5 : -endpoint.rank();
        EXPECT_EQ(largest_of_ranks(endpoint, mine), 7.5) << ranks << " " << who;
        const double second = who == ranks - 1 ? ranks - 2.0 : ranks - 1.0;  // of -mine, where nobody else has more
        EXPECT_EQ(largest_of_ranks(endpoint, -mine), ranks == 1 ? -7.5 : second);
        const double nan = std::numeric_limits<double>::quiet_NaN();
        EXPECT_TRUE(std::isnan(largest_of_ranks(endpoint, endpoint.rank() == who ? nan : 1)));
      });
    }
  }
}

TEST(ThreadTransport, ToItself) {
  run_threads(1, [](Endpoint& endpoint) {
    Bytes from = bytes_from(3, 5), to(5);
    Transfer transfer = sends(0, outgoing(from));
    transfer.receive = receives(0, incoming(to)).receive;
    endpoint.post(std::move(transfer))->wait(Until::matched);
    EXPECT_EQ(from, to);
    endpoint.end_phase();
  });
}

TEST(ThreadTransport, SenderMayChangeItsMemoryAfterTheWait) {
  run_threads(2, [](Endpoint& endpoint) {
    Bytes memory = bytes_from(0, 100);
    if (endpoint.rank() == 0) {
      endpoint.post(sends(1, outgoing(memory)))->wait(Until::usable);
      std::fill(memory.begin(), memory.end(), std::byte{0});
    } else {
      Bytes to(100);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      endpoint.post(receives(0, incoming(to)))->wait(Until::usable);
      EXPECT_EQ(to, bytes_from(0, 100));
    }
    endpoint.end_phase();
  });
}

TEST(ThreadTransport, LastingMemoryIsBorrowedAndOutlivesItsSender) {
  std::weak_ptr<Bytes> watched;
  run_threads(2, [&](Endpoint& endpoint) {
    if (endpoint.rank() == 0) {
      auto memory = std::make_shared<Bytes>(bytes_from(0, 100));
      watched = memory;
      const auto pending = endpoint.post(sends(1, outgoing(*memory, Lending::lasting, memory)));
      memory.reset();
      pending->wait(Until::usable);  // does not wait for rank 1
      endpoint.end_phase();
    } else {
      Bytes to(100);
      auto pending = endpoint.post(receives(0, incoming(to, true)));
      pending->wait(Until::usable);
      Loan loan = pending->received()[0].parts[0].loan;
      pending.reset();
      ASSERT_NE(loan.data, nullptr);
      EXPECT_EQ(loan.lending, Lending::lasting);
      endpoint.end_phase();
      EXPECT_EQ(loan.data[99], std::byte{99});
      EXPECT_EQ(to[99], std::byte{0});
    }
  });
  EXPECT_TRUE(watched.expired());
}

TEST(ThreadTransport, CallersMemoryIsGivenBackBeforeThePhaseEnds) {
  std::atomic<bool> returned{false};
  run_threads(2, [&](Endpoint& endpoint) {
    Bytes memory = bytes_from(0, 100);
    if (endpoint.rank() == 0) {
      endpoint.post(sends(1, outgoing(memory, Lending::phase)))->wait(Until::usable);
      endpoint.end_phase();
      EXPECT_TRUE(returned);
    } else {
      Bytes to(100);
      auto pending = endpoint.post(receives(0, incoming(to, true)));
      pending->wait(Until::usable);
      Loan loan = std::move(pending->received()[0].parts[0].loan);
      EXPECT_EQ(loan.lending, Lending::phase);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(loan.data[5], std::byte{5});
      returned = true;
      loan = {};
      endpoint.end_phase();
    }
  });
}

TEST(ThreadTransport, LetGoNeedsNoWait) {
  run_threads(2, [&](Endpoint& endpoint) {
    if (endpoint.rank() == 0) {
      auto memory = std::make_shared<Bytes>(bytes_from(0, 100));
      auto pending = endpoint.post(sends(1, outgoing(*memory, Lending::none, memory)));
      memory.reset();
      pending->let_go(0);
      pending->wait(Until::usable);
      pending.reset();
      Bytes go(1);  // rank 1 receives only now
      endpoint.post(sends(1, outgoing(go)))->wait(Until::usable);
    } else {
      Bytes to(100), go(1);
      auto first = endpoint.post(receives(0, incoming(to)));
      endpoint.post(receives(0, incoming(go)))->wait(Until::usable);
      first->wait(Until::usable);
      EXPECT_EQ(to, bytes_from(0, 100));
    }
    endpoint.end_phase();
  });
}

TEST(ThreadTransport, RandomTrafficBetweenManyRanks) {
  // Every rank sends to every other, in an order of its own, what only the two of them can know.
  constexpr int kRanks = 16, kRounds = 8;
  run_threads(kRanks, [](Endpoint& endpoint) {
    Random random(5, static_cast<uint64_t>(endpoint.rank()));
    for (int round = 0; round < kRounds; ++round) {
      std::vector<std::shared_ptr<Bytes>> mine(kRanks);
      std::vector<Bytes> theirs(kRanks);
      std::vector<std::unique_ptr<Pending>> pending;
      std::vector<int> peers(kRanks);
      std::iota(peers.begin(), peers.end(), 0);
      random.shuffle(std::span(peers));
      for (const int peer : peers) {
        const size_t p = static_cast<size_t>(peer);
        mine[p] = std::make_shared<Bytes>(bytes_from(endpoint.rank() * 3 + peer * 5 + round, 40));
        theirs[p].resize(40);
        const Lending lending = static_cast<Lending>(random.uniform(3));
        pending.push_back(
            endpoint.post(sends(peer, outgoing(*mine[p], lending, lending == Lending::phase ? nullptr : mine[p]))));
        pending.push_back(endpoint.post(receives(peer, incoming(theirs[p], random.uniform(2) == 0))));
      }
      random.shuffle(std::span(pending));
      for (auto& each : pending) {
        each->wait(Until::usable);
        for (const IncomingMessage& message : each->received()) {
          const IncomingPart& part = message.parts[0];
          const std::byte* data = part.loan.data ? part.loan.data : part.regions[0].data;
          const Bytes expected = bytes_from(message.peer * 3 + endpoint.rank() * 5 + round, 40);
          EXPECT_EQ(std::memcmp(data, expected.data(), 40), 0);
        }
      }
      pending.clear();
      endpoint.end_phase();
    }
  });
}

}  // namespace
}  // namespace weft
