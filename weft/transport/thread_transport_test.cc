#include "weft/transport/thread_transport.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <numeric>
#include <optional>
#include <thread>

#include "weft/base/random.h"
#include "weft/transport/copy.h"
#include "weft/transport/run_threads.h"

namespace weft {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_from(int first, int count) {
  Bytes bytes(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) bytes[static_cast<size_t>(i)] = static_cast<std::byte>(first + i);
  return bytes;
}

Region region(Bytes& bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  return {bytes.data(), 1, size, size};
}

OutgoingPart outgoing(Bytes& bytes, Lending lending = Lending::none, std::shared_ptr<const void> owner = nullptr) {
  return {.regions = {region(bytes)},
          .bytes = static_cast<int64_t>(bytes.size()),
          .label = 7,
          .lending = lending,
          .owner = std::move(owner)};
}
IncomingPart incoming(Bytes& bytes, bool may_borrow = false) {
  return {.regions = {region(bytes)},
          .bytes = static_cast<int64_t>(bytes.size()),
          .label = 7,
          .may_borrow = may_borrow,
          .owner = nullptr,
          .loan = {}};
}

Transfer sends(int peer, OutgoingPart part, int64_t origin = 0) {
  Transfer transfer;
  transfer.origin = origin;
  transfer.send.push_back({peer, {}});
  transfer.send.back().parts.push_back(std::move(part));
  return transfer;
}
Transfer receives(int peer, IncomingPart part, int64_t origin = 0) {
  Transfer transfer;
  transfer.origin = origin;
  transfer.receive.push_back({peer, {}});
  transfer.receive.back().parts.push_back(std::move(part));
  return transfer;
}

// The error that running the ranks gives, or "" when all is well.
std::string error_of(int ranks, const std::function<void(Endpoint&)>& body) {
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  try {
    run_threads(ranks, body);
  } catch (const std::exception& error) {
    text = error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  return text;
}

bool contains(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

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

TEST(ThreadTransport, MessagesMustFit) {
  const auto run = [](int size, uint64_t label, int parts) {
    return error_of(2, [&](Endpoint& endpoint) {
      Bytes memory(8), other(static_cast<size_t>(size));
      if (endpoint.rank() == 0) {
        endpoint.post(sends(1, outgoing(memory), 17))->wait(Until::usable);
      } else {
        IncomingPart part = incoming(other);
        part.label = label;
        Transfer transfer = receives(0, part, 23);
        if (parts == 2) transfer.receive[0].parts.push_back(part);
        endpoint.post(std::move(transfer))->wait(Until::usable);
      }
    });
  };
  EXPECT_EQ(run(8, 7, 1), "");
  EXPECT_EQ(run(4, 7, 1),
            "message 0 of rank 0 (its instruction 17) is not what instruction 23 expects: part 0 "
            "has 8 bytes instead of 4");
  EXPECT_TRUE(contains(run(8, 6, 1), "another lane, field, tokens, heads or type"));
  EXPECT_TRUE(contains(run(8, 7, 2), "1 parts instead of 2"));
}

TEST(ThreadTransport, UnknownPeer) {
  const auto body = [](int peer) {
    return [peer](Endpoint& endpoint) {
      Bytes memory(8);
      endpoint.post(sends(peer, outgoing(memory)));
    };
  };
  EXPECT_TRUE(contains(error_of(2, body(2)), "peer 2 does not exist"));
  EXPECT_TRUE(contains(error_of(2, body(-1)), "peer -1 does not exist"));
}

TEST(ThreadTransport, NothingIsLeftUndelivered) {
  for (const int slow : {0, 1}) {
    const std::string text = error_of(2, [&](Endpoint& endpoint) {
      Bytes memory(8);
      if (endpoint.rank() == slow) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (endpoint.rank() == 0) endpoint.post(sends(1, outgoing(memory)));
      endpoint.end_phase();
    });
    EXPECT_TRUE(contains(text, "never received")) << text;
  }
}

TEST(ThreadTransport, MessagesBelongToAPhase) {
  const std::string text = error_of(2, [&](Endpoint& endpoint) {
    Bytes memory(8);
    if (endpoint.rank() == 0) {
      endpoint.end_phase();
      endpoint.post(sends(1, outgoing(memory)))->wait(Until::usable);
    } else {
      endpoint.post(receives(0, incoming(memory)))->wait(Until::usable);
    }
  });
  EXPECT_TRUE(contains(text, "sent in another phase")) << text;
}

TEST(ThreadTransport, DeadlockIsFoundAtOnce) {
  const std::string cycle = error_of(3, [&](Endpoint& endpoint) {
    Bytes memory(8);
    const int from = (endpoint.rank() + 1) % 3;
    endpoint.post(receives(from, incoming(memory), 10 + endpoint.rank()))->wait(Until::usable);
  });
  EXPECT_EQ(cycle,
            "deadlock: nobody can go on: rank 0 at instruction 10 waits for message 0 of rank 1; "
            "rank 1 at instruction 11 waits for message 0 of rank 2; rank 2 at instruction 12 "
            "waits for message 0 of rank 0");

  const std::string ended = error_of(2, [&](Endpoint& endpoint) {
    Bytes memory(8);
    if (endpoint.rank() == 1) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    endpoint.post(receives(1, incoming(memory)))->wait(Until::usable);
  });
  EXPECT_TRUE(contains(ended, "rank 1 has ended")) << ended;

  const std::string ends_later = error_of(2, [&](Endpoint& endpoint) {
    Bytes memory(8);
    if (endpoint.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(20));
    endpoint.post(receives(1, incoming(memory)))->wait(Until::usable);
  });
  EXPECT_TRUE(contains(ends_later, "rank 1 has ended")) << ends_later;

  const std::string not_taken = error_of(2, [&](Endpoint& endpoint) {
    Bytes memory(8), other(8);
    if (endpoint.rank() == 0) {
      endpoint.post(sends(1, outgoing(memory)))->wait(Until::usable);
    } else {
      endpoint.post(receives(0, incoming(memory)))->wait(Until::usable);
      endpoint.post(receives(0, incoming(other)))->wait(Until::usable);
    }
    endpoint.end_phase();
  });
  EXPECT_TRUE(contains(not_taken, "deadlock")) << not_taken;
}

TEST(ThreadTransport, RendezvousFindsWhatEagerSendsHide) {
  // Both send before they receive: fine when sends do not wait, a deadlock when they do.
  const auto run = [](Until until) {
    return error_of(2, [&](Endpoint& endpoint) {
      const int other = 1 - endpoint.rank();
      auto memory = std::make_shared<Bytes>(8);
      Bytes to(8);
      endpoint.post(sends(other, outgoing(*memory, Lending::lasting, memory)))->wait(until);
      endpoint.post(receives(other, incoming(to)))->wait(until);
      endpoint.end_phase();
    });
  };
  EXPECT_EQ(run(Until::usable), "");
  EXPECT_TRUE(contains(run(Until::matched), "waits until rank 1 takes message 0"));
}

TEST(ThreadTransport, FirstErrorStopsAll) {
  ThreadTransport transport(8);
  std::atomic<int> stopped{0};
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_threads(transport, [&](int rank) {
      Endpoint& endpoint = transport.endpoint(rank);
      if (rank == 5) {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        throw std::out_of_range("bad index");
      }
      Bytes memory(8);
      try {
        endpoint.post(receives(5, incoming(memory)))->wait(Until::usable);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::stopped);
        EXPECT_STREQ(error.what(), "stopped, since rank 5 failed: bad index");
        ++stopped;
        EXPECT_TRUE(endpoint.stop_flag().raised());
        EXPECT_THROW(endpoint.end_phase(), Error);  // later calls too
        throw;
      }
    });
    FAIL() << "no error";
  } catch (const std::out_of_range& error) {
    EXPECT_STREQ(error.what(), "bad index");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(500));
  EXPECT_EQ(stopped, 7);
  EXPECT_EQ(transport.failed_rank(), 5);
}

TEST(ThreadTransport, RecallWaitsForBorrowers) {
  std::atomic<bool> in_use{true};
  const std::string text = error_of(2, [&](Endpoint& endpoint) {
    auto memory = std::make_unique<Bytes>(bytes_from(0, 100));
    if (endpoint.rank() == 0) {
      endpoint.post(sends(1, outgoing(*memory, Lending::phase)));
      Bytes go(1);
      endpoint.post(receives(1, incoming(go)))->wait(Until::usable);
      endpoint.fail(std::make_exception_ptr(Error(ErrorCode::usage, "no more")));
      endpoint.recall();
      EXPECT_FALSE(in_use);
    } else {
      Bytes to(100), go(1);
      auto pending = endpoint.post(receives(0, incoming(to, true)));
      pending->wait(Until::usable);
      Loan loan = std::move(pending->received()[0].parts[0].loan);
      endpoint.post(sends(0, outgoing(go)));
      while (!endpoint.stop_flag().raised()) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(loan.data[50], std::byte{50});
      in_use = false;
      loan = {};
    }
  });
  EXPECT_EQ(text, "no more");
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
