#include "weft/mpi/mpi_state.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "weft/base/error.h"

namespace weft::mpi_internal {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kDataTag = 1, kNoteTag = 2;
constexpr auto kBetweenLooks = 20ms;  // of the thread, with no message under way

void check(int result, const std::string& what) {
  if (result == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(result, text, &length);
  throw Error(ErrorCode::io, what + ": " + std::string(text, static_cast<size_t>(length)));
}

// A note is the code of the error and its text.
std::string note_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& thrown) {
    return static_cast<char>('0' + static_cast<int>(thrown.code())) + std::string(thrown.what());
  } catch (const std::exception& thrown) {
    return static_cast<char>('0' + static_cast<int>(ErrorCode::internal)) + std::string(thrown.what());
  } catch (...) {
    return static_cast<char>('0' + static_cast<int>(ErrorCode::internal)) + std::string("unknown exception");
  }
}

std::exception_ptr error_of_note(const std::string& note, int rank) {
  const std::string who = "rank " + std::to_string(rank), text = note.substr(std::min<size_t>(1, note.size()));
  const ErrorCode code = note.empty() ? ErrorCode::internal : static_cast<ErrorCode>(note[0] - '0');
  const bool named = text.compare(0, 5, "rank ") == 0;
  return std::make_exception_ptr(Error(code, named ? text : who + ": " + text));
}

}  // namespace

State::State(const StopFlag* interrupt, const MpiOptions& options) : options_(options), interrupt_(interrupt) {
  int provided = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED) {
    throw Error(
        ErrorCode::unsupported,
        "this MPI library gives thread level " + std::to_string(provided) +
            ", and weft calls it from two threads, one at a time (MPI_THREAD_SERIALIZED); use a library that does");
  }
  check(MPI_Comm_dup(MPI_COMM_WORLD, &data_), "MPI_Comm_dup");
  check(MPI_Comm_dup(MPI_COMM_WORLD, &notes_), "MPI_Comm_dup");
  for (const MPI_Comm comm : {data_, notes_}) MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  MPI_Comm_rank(data_, &rank_);
  MPI_Comm_size(data_, &ranks_);
  MPI_Comm here = MPI_COMM_NULL;
  if (MPI_Comm_split_type(data_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &here) == MPI_SUCCESS) {
    MPI_Comm_size(here, &on_this_machine_);
    MPI_Comm_free(&here);
  }
  thread_ = std::thread([this] { run_thread(); });
}

State::~State() {
  {
    const Lock lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void State::start(Packets& packets, Packet packet) {
  const Lock lock(mutex_);
  if (packets.empty()) under_way_.push_back(&packets);
  packets.push_back(std::move(packet));
  Packet& at = packets.back();
  const std::string who = " rank " + std::to_string(at.peer);
  for (int64_t begin = 0; begin < at.bytes; begin += options_.largest_piece) {
    Packet::Piece& piece = at.pieces.emplace_back();
    piece.bytes = static_cast<int>(std::min(options_.largest_piece, at.bytes - begin));
    std::byte* const data = at.buffer.get() + begin;
    if (at.arriving) {
      check(MPI_Irecv(data, piece.bytes, MPI_BYTE, at.peer, kDataTag, data_, &piece.request), "receiving from" + who);
    } else {
      check(MPI_Isend(data, piece.bytes, MPI_BYTE, at.peer, kDataTag, data_, &piece.request), "sending to" + who);
    }
  }
  changed_.notify_all();
}

bool State::advance(Packets& packets) {
  bool all = true;
  for (Packet& packet : packets) {
    while (!packet.pieces.empty()) {
      Packet::Piece& piece = packet.pieces.front();
      int done = 0, bytes = 0;
      MPI_Status status;
      const std::string what = "a message from rank " + std::to_string(packet.peer);
      const int result = MPI_Test(&piece.request, &done, &status);
      if (result != MPI_SUCCESS) {
        int kind = 0;
        MPI_Error_class(result, &kind);
        if (kind == MPI_ERR_TRUNCATE) throw Error(ErrorCode::wrong, what + " is longer than expected");
        check(result, packet.arriving ? what : "a message to rank " + std::to_string(packet.peer));
      }
      if (!done) break;
      if (packet.arriving) {
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        if (bytes != piece.bytes) throw Error(ErrorCode::wrong, what + " is shorter than expected");
      }
      packet.pieces.erase(packet.pieces.begin());
    }
    all &= packet.done();
  }
  return all;
}

void State::throw_if_late(const Packets& packets, double seconds) const {
  if (options_.timeout_milliseconds == 0 || seconds * 1000 < static_cast<double>(options_.timeout_milliseconds)) return;
  const Packet& late =
      *std::find_if(packets.begin(), packets.end(), [](const Packet& packet) { return !packet.done(); });
  throw Error(
      ErrorCode::io,
      std::string(late.arriving ? "a message from" : "a message to") + " rank " + std::to_string(late.peer) +
          " did not pass in " + std::to_string(static_cast<int64_t>(seconds + 0.5)) +
          " s: that rank hangs, waits for one that does, or needs longer (WEFT_MPI_TIMEOUT: seconds, 0: no limit)");
}

void State::wait(Packets& packets) {
  const Clock::time_point begin = Clock::now();
  Lock lock(mutex_);
  waiting_now_ = true;
  struct Off {
    bool& flag;
    ~Off() { flag = false; }
  } off{waiting_now_};
  for (int looks = 0; !advance(packets); ++looks) {
    look_for_note();
    if (failure_) break;
    throw_if_late(packets, std::chrono::duration<double>(Clock::now() - begin).count());
    lock.unlock();
    // A short wait costs no sleep; a long one no processor time that another rank could use.
    if (looks < 50) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(looks < 1000 ? 20us : 100us);
    }
    lock.lock();
  }
  waiting_ += std::chrono::duration<double>(Clock::now() - begin).count();
  under_way_.remove(&packets);
  if (failure_) {
    lock.unlock();
    throw_if_failed();
  }
}

void State::let_go(Packets& packets) noexcept {
  const Lock lock(mutex_);
  under_way_.remove(&packets);
  let_go_.splice(let_go_.end(), packets);
}

std::exception_ptr State::failure() const {
  const Lock lock(mutex_);
  return failure_;
}

void State::throw_if_failed() const {
  const std::exception_ptr error = failure();
  if (!error) return;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& thrown) {
    throw Error(ErrorCode::stopped, thrown.what());
  }
}

void State::record(std::exception_ptr error) {
  // A cause replaces what only tells that somebody was stopped.
  if (!failure_ || (is_stopped(failure_) && !is_stopped(error))) failure_ = std::move(error);
  stop_.raise();
}

void State::fail(std::exception_ptr error) noexcept {
  const Lock lock(mutex_);
  const bool first = !failure_;
  record(error);
  if (first) send_note(note_of(error));
}

void State::send_note(const std::string& note) noexcept {
  const std::string& text = notes_sent_.emplace_back(note.substr(0, note.find('\n')));
  for (int other = 0; other < ranks_; ++other) {
    MPI_Request request;
    if (other != rank_) {
      MPI_Isend(text.data(), static_cast<int>(text.size()), MPI_CHAR, other, kNoteTag, notes_, &request);
    }
  }
}

void State::look_for_note() {
  int there = 0;
  MPI_Status status;
  // Any call makes the library move what is under way.
  if (MPI_Iprobe(MPI_ANY_SOURCE, kNoteTag, notes_, &there, &status) == MPI_SUCCESS && there) {
    int size = 0;
    MPI_Get_count(&status, MPI_CHAR, &size);
    std::string note(static_cast<size_t>(size), ' ');
    if (MPI_Recv(note.data(), size, MPI_CHAR, status.MPI_SOURCE, kNoteTag, notes_, MPI_STATUS_IGNORE) == MPI_SUCCESS) {
      record(error_of_note(note, status.MPI_SOURCE));
    }
  }
  if (interrupt_ && interrupt_->raised() && !failure_) {
    record(std::make_exception_ptr(Error(ErrorCode::stopped, "interrupted")));
    send_note(note_of(failure_));
  }
}

void State::run_thread() {
  Lock lock(mutex_);
  while (!over_) {
    bool moving = false;
    if (!waiting_now_) {
      try {
        for (Packets* packets : under_way_) moving |= !advance(*packets);
        if (advance(let_go_)) let_go_.clear();
      } catch (const std::exception&) {
        if (!failure_) record(std::current_exception());
      }
      look_for_note();
    }
    if (moving && options_.progress_microseconds > 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(options_.progress_microseconds));
      lock.lock();
    } else {
      changed_.wait_for(lock, kBetweenLooks);
    }
  }
}

void State::finalize() {
  {
    const Lock lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
  MPI_Comm_free(&data_);
  MPI_Comm_free(&notes_);
  MPI_Finalize();
}

void State::abort(int exit_code) {
  const Lock lock(mutex_);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace weft::mpi_internal
