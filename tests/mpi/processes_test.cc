// Every method, the collectives and failures, on processes: run by mpirun, all ranks run the same tests together.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <span>
#include <thread>

#include "tests/execute_case.h"
#include "weft/base/error.h"
#include "weft/base/random.h"
#include "weft/execute/executor.h"
#include "weft/mpi/mpi_processes.h"
#include "weft/transport/rank_group.h"
#include "weft/transport/testing.h"

namespace weft {
namespace {

MpiProcesses* processes = nullptr;

Endpoint& endpoint() { return processes->endpoint(); }
int rank() { return endpoint().rank(); }
int ranks() { return endpoint().ranks(); }

// The rows of one rank.
std::vector<std::byte> rows_of(const HostTensor& tensor, const std::vector<int64_t>& rows) {
  const size_t bytes = static_cast<size_t>(tensor.heads * tensor.columns * size_of(tensor.type));
  std::vector<std::byte> out;
  for (const int64_t row : rows) {
    const auto at = tensor.bytes.begin() + static_cast<int64_t>(bytes) * row;
    out.insert(out.end(), at, at + static_cast<int64_t>(bytes));
  }
  return out;
}

// Forward and backward here, and on threads, which are compared with dense attention elsewhere: the same bits.
void expect_same_as_threads(const ExecuteCase& c) {
  SCOPED_TRACE(c.describe());
  const Schedule schedule = c.schedule();
  const Problem& problem = schedule.problem();
  const CheckTensors all =
      check_schedule(schedule, {.kernels = &kernels::reference_kernels(), .compare = false}).tensors;
  const std::vector<int64_t> queries = problem.query_layout.positions(rank());
  const std::vector<int64_t> keys = problem.key_layout.positions(rank());
  const auto q = rows_of(all.q, queries), dout = rows_of(all.dout, queries);
  const auto k = rows_of(all.k, keys), v = rows_of(all.v, keys);
  BufferPool pool;
  Executor executor(schedule, rank(), endpoint(), kernels::reference_kernels(), pool);
  const auto run = executor.start();
  const Results forward = run->forward({.q = {q.data()}, .k = {k.data()}, .v = {v.data()}});
  const Results backward = run->backward({.q = {q.data()},
                                          .k = {k.data()},
                                          .v = {v.data()},
                                          .out = {forward.out.data},
                                          .lse = {forward.lse.data},
                                          .dout = {dout.data()}});
  const auto same = [](const char* name, const Result& mine, const std::vector<std::byte>& theirs) {
    EXPECT_TRUE(theirs.empty() || (mine.data && std::memcmp(mine.data, theirs.data(), theirs.size()) == 0)) << name;
  };
  same("out", forward.out, rows_of(all.out, queries));
  same("lse", forward.lse, rows_of(all.lse, queries));
  same("dq", backward.dq, rows_of(all.dq, queries));
  same("dk", backward.dk, rows_of(all.dk, keys));
  same("dv", backward.dv, rows_of(all.dv, keys));
}

TEST(Processes, EveryMethodGivesTheBitsOfThreads) {
  for (const auto& [method, options] : methods_to_execute()) {
    ExecuteCase c{.method = method, .options = options, .ranks = ranks(), .heads = 4, .kv_heads = 2};
    expect_same_as_threads(c);
    c.lengths = {60, 1, 70, 3}, c.mask = "causal+window:7", c.dim = 16, c.element = DType::fp32, c.wire = DType::fp32;
    expect_same_as_threads(c);
    c.lengths = {2}, c.mask = "full";  // a rank without tokens
    expect_same_as_threads(c);
  }
}

TEST(Processes, CollectivesGiveTheBitsOfThreads) {
  ProcessGroup group(*processes);
  for (const int64_t size : {0, 1, 5, 10000}) {
    std::vector<std::vector<float>> buffers(static_cast<size_t>(ranks()));
    Random random(3);
    for (auto& buffer : buffers) {
      for (int64_t i = 0; i < size; ++i) buffer.push_back(static_cast<float>(random.normal()));
    }
    std::vector<float> want = buffers[0];
    for (size_t r = 1; r < buffers.size(); ++r) {
      for (size_t i = 0; i < want.size(); ++i) want[i] += buffers[r][i];
    }
    std::vector<float>& mine = buffers[static_cast<size_t>(rank())];
    group.all_reduce_sum(rank(), std::span<float>(mine));
    EXPECT_EQ(mine, want);
  }
  const std::vector<double> all = group.all_gather(rank(), rank() + 0.5);
  for (size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r], static_cast<double>(r) + 0.5);
  EXPECT_NO_THROW(group.agree(rank(), 7, "numbers"));
  try {
    group.agree(rank(), rank() == 1 ? 8 : 7, "numbers");
    EXPECT_EQ(ranks(), 1);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    EXPECT_TRUE(contains(error.what(), "rank 1 has other numbers than rank 0")) << error.what();
  }
}

TEST(Processes, AGroupHasARankInEachProcess) {
  EXPECT_EQ(make_rank_group(ranks(), processes)->here(), (Range{rank(), rank() + 1}));
  EXPECT_THROW(make_rank_group(ranks() + 1, processes), Error);
  EXPECT_EQ(processes->on_this_machine(), ranks());
}

// Several under way at once, longer than a piece, to the rank itself too, and one that nobody waits for.
TEST(Processes, MessagesKeepTheirOrder) {
  const int next = (rank() + 1) % ranks(), before = (rank() + ranks() - 1) % ranks();
  std::vector<Bytes> out, in(6, Bytes(5000));
  std::vector<std::unique_ptr<Pending>> pending;
  for (int i = 0; i < 6; ++i) {
    const bool to_myself = i % 3 == 2;
    out.push_back(bytes_from(10 * rank() + i, 5000));
    Transfer transfer = sends(to_myself ? rank() : next, outgoing(out.back()));
    transfer.receive = receives(to_myself ? rank() : before, incoming(in[static_cast<size_t>(i)])).receive;
    pending.push_back(endpoint().post(std::move(transfer)));
    std::fill(out.back().begin(), out.back().end(), std::byte{0});  // it has been copied
  }
  for (size_t i = pending.size(); i-- > 0;) {
    pending[i]->wait(Until::usable);
    EXPECT_EQ(in[i], bytes_from(10 * (i % 3 == 2 ? rank() : before) + static_cast<int>(i), 5000)) << i;
  }
  pending.clear();
  endpoint().post(sends(next, outgoing(out[0])));  // let go of at once: it arrives all the same
  endpoint().post(receives(before, incoming(in[0])))->wait(Until::usable);
  EXPECT_EQ(in[0], Bytes(5000));
  endpoint().end_phase();
}

TEST(Processes, AnotherMessageThanExpectedIsNoticed) {
  Bytes out(10), in(10);
  Transfer transfer = sends((rank() + 1) % ranks(), outgoing(out));
  transfer.receive = receives((rank() + ranks() - 1) % ranks(), incoming(in)).receive;
  transfer.receive[0].parts[0].label = 8;
  try {
    endpoint().post(std::move(transfer))->wait(Until::usable);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::wrong);
    EXPECT_TRUE(contains(error.what(), "expects another message")) << error.what();
  }
}

// The last one: nothing works after it. A rank waits for one that is well, another waits for nobody.
TEST(ProcessesLast, AFailureReachesAll) {
  EXPECT_EQ(processes->failure(), nullptr);
  ProcessGroup(*processes).barrier(rank());
  const auto begin = std::chrono::steady_clock::now();
  const int guilty = ranks() - 1;
  if (rank() == guilty) {
    endpoint().fail(std::make_exception_ptr(Error(ErrorCode::wrong, "this disk burns")));
  } else {
    Bytes in(10);
    try {
      endpoint().post(receives(ranks() > 2 ? 1 - rank() : rank(), incoming(in)))->wait(Until::usable);
      EXPECT_TRUE(ranks() <= 2 || rank() > 1) << "nobody has sent this";
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "this disk burns") || ranks() <= 2) << error.what();
    }
  }
  while (!endpoint().stop_flag().raised()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  try {
    endpoint().end_phase();
    ADD_FAILURE() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::stopped);
  }
  try {
    std::rethrow_exception(processes->failure());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::wrong);
    const std::string who = rank() == guilty ? "" : "rank " + std::to_string(guilty) + ": ";
    EXPECT_EQ(error.what(), who + "this disk burns");
  }
}

class OnlyFailures : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::printf("rank %d: %s:%d: %s\n", rank(), result.file_name(), result.line_number(), result.message());
    std::fflush(stdout);
  }
};

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  weft::MpiProcesses all(nullptr, {.largest_piece = 1000});
  weft::processes = &all;
  if (all.endpoint().rank() != 0) {  // gtest reports on stdout; one report of what is well is enough
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new weft::OnlyFailures);
  }
  const int code = RUN_ALL_TESTS();
  all.end(code, "");
  return code;
}
