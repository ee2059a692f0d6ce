// What a transport does when ranks disagree, wait for each other or fail.
#include <atomic>
#include <thread>

#include "weft/transport/testing.h"

namespace weft {
namespace {

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

}  // namespace
}  // namespace weft
