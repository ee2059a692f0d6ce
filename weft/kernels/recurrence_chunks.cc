// A run by itself where F is diagonal, chunk by chunk: inside a chunk every pair of tokens, between chunks the state.
#include "weft/kernels/recurrence_math.h"

namespace weft::kernels::recurrence_internal {
namespace {

// Tokens per chunk, with one decay for all rows of the state and with one for each.
constexpr int64_t kScalarChunk = 64, kChannelChunk = 16;

template <typename T>
class RunChunks : RunMath<T> {
 public:
  using RunMath<T>::RunMath;
  void scan(const View& out, const View& final) const;
  void scan_backward(const ConstView& dout, const ConstView& dfinal, const RunGradients& to) const;

 private:
  using Base = RunMath<T>;
  using Base::add_to_document, Base::at, Base::dk_, Base::document_state, Base::initial_state, Base::dv_, Base::gate_at,
      Base::gate_of, Base::gates_, Base::log_decay, Base::own, Base::poll, Base::read, Base::reads_before, Base::run_,
      Base::state_size, Base::sums;

  // Tokens [begin, begin + rows); c[t] is the sum of the logarithms of the chunk's decays up to t.
  struct Chunk {
    int64_t begin = 0, rows = 0;
    std::vector<T> q, k, v, dout;
    std::vector<double> c;
    std::vector<T> scores;  // [rows, rows]: sum over c of q_i k_j exp(c_i - c_j) for j <= i
  };
  void load(Chunk& chunk, int64_t begin, int64_t rows, const ConstView& dout) const;
  void add_outputs(const Chunk& chunk, const T* state, const View& out) const;
  void advance(const Chunk& chunk, T* state) const;
  void retreat(const Chunk& chunk, T* dstate) const;
  void add_gradients(const Chunk& chunk, const T* state, const T* dstate, const RunGradients& to) const;
  void add_gate_gradients(const Chunk& chunk, const T* state, const T* dstate, const std::vector<T>& dscores,
                          const View& dg) const;
  int64_t chunk_rows() const { return gates_ == 1 ? kScalarChunk : kChannelChunk; }
  // What is left of row c of the state on its way from token j to token i; from before the chunk where j is -1.
  T decay(const Chunk& chunk, int64_t i, int64_t j, int64_t c) const {
    const int64_t gate = gate_of(c);
    return static_cast<T>(std::exp(chunk.c[at(i, gates_, gate)] - (j < 0 ? 0 : chunk.c[at(j, gates_, gate)])));
  }
  // The same when it is read by query i, of an earlier token or from before the chunk.
  T decay_read(const Chunk& chunk, int64_t i, int64_t j, int64_t c) const {
    if (!reads_before()) return decay(chunk, i, j, c);
    return i - 1 == j ? T{1} : decay(chunk, i - 1, j, c);
  }
};

template <typename T>
void RunChunks<T>::load(Chunk& chunk, int64_t begin, int64_t rows, const ConstView& dout) const {
  poll();
  chunk.begin = begin;
  chunk.rows = rows;
  read(run_.q, begin, rows, dk_, chunk.q);
  read(run_.k, begin, rows, dk_, chunk.k);
  read(run_.v, begin, rows, dv_, chunk.v);
  if (dout.data) read(dout, begin, rows, dv_, chunk.dout);
  chunk.c.resize(static_cast<size_t>(rows * gates_));
  for (int64_t gate = 0; gate < gates_; ++gate) {
    double sum = 0;
    for (int64_t t = 0; t < rows; ++t) {
      sum += log_decay(begin + t, gate);
      chunk.c[at(t, gates_, gate)] = sum;
    }
  }
  chunk.scores.assign(static_cast<size_t>(rows * rows), T{0});
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const T *q = &chunk.q[at(i, dk_, 0)], *k = &chunk.k[at(j, dk_, 0)];
      T& score = chunk.scores[at(i, rows, j)];
      if (gates_ == 1 && !(i == j && reads_before())) {
        score = i == j ? dot(q, k, dk_) : decay_read(chunk, i, j, 0) * dot(q, k, dk_);
      } else {
        for (int64_t c = 0; c < dk_; ++c) score += q[c] * k[c] * (i == j ? own(c) : decay_read(chunk, i, j, c));
      }
    }
  }
}

template <typename T>
void RunChunks<T>::add_outputs(const Chunk& chunk, const T* state, const View& out) const {
  const T scale = static_cast<T>(run_.scale);
  for (int64_t i = 0; i < chunk.rows; ++i) {
    T* const to = sums(out, chunk.begin + i);
    for (int64_t c = 0; c < dk_; ++c)
      add_scaled(to, state + c * dv_, scale * chunk.q[at(i, dk_, c)] * decay_read(chunk, i, -1, c), dv_);
    for (int64_t j = 0; j <= i; ++j)
      add_scaled(to, &chunk.v[at(j, dv_, 0)], scale * chunk.scores[at(i, chunk.rows, j)], dv_);
  }
}

// The state after the chunk from that before it.
template <typename T>
void RunChunks<T>::advance(const Chunk& chunk, T* state) const {
  const int64_t end = chunk.rows - 1;
  for (int64_t c = 0; c < dk_; ++c) {
    T* const row = state + c * dv_;
    const T passed = decay(chunk, end, -1, c);
    for (int64_t d = 0; d < dv_; ++d) row[d] *= passed;
    for (int64_t j = 0; j < chunk.rows; ++j) {
      const T factor = j == end ? T{1} : decay(chunk, end, j, c);
      add_scaled(row, &chunk.v[at(j, dv_, 0)], chunk.k[at(j, dk_, c)] * factor, dv_);
    }
  }
}

// The gradient of the state before the chunk from that of the state after it.
template <typename T>
void RunChunks<T>::retreat(const Chunk& chunk, T* dstate) const {
  const T scale = static_cast<T>(run_.scale);
  for (int64_t c = 0; c < dk_; ++c) {
    T* const row = dstate + c * dv_;
    const T passed = decay(chunk, chunk.rows - 1, -1, c);
    for (int64_t d = 0; d < dv_; ++d) row[d] *= passed;
    for (int64_t i = 0; i < chunk.rows; ++i)
      add_scaled(row, &chunk.dout[at(i, dv_, 0)], scale * chunk.q[at(i, dk_, c)] * decay_read(chunk, i, -1, c), dv_);
  }
}

template <typename T>
void RunChunks<T>::scan(const View& out, const View& final) const {
  Chunk chunk;
  for (const Segment& segment : segments_of(run_)) {
    Matrix<T> state = initial_state(segment);
    for (int64_t t = segment.begin; t < segment.end; t += chunk.rows) {
      load(chunk, t, std::min(chunk_rows(), segment.end - t), {});
      add_outputs(chunk, state.data(), out);
      advance(chunk, state.data());
    }
    add_to_document(final, segment.final, state.data());
  }
}

// Of the chunk's own queries and keys, the state before it and the gradient of the state after it.
template <typename T>
void RunChunks<T>::add_gradients(const Chunk& chunk, const T* state, const T* dstate, const RunGradients& to) const {
  const int64_t rows = chunk.rows, end = rows - 1;
  const T scale = static_cast<T>(run_.scale);
  std::vector<T> dq(static_cast<size_t>(rows * dk_), T{0}), dk(dq), dscores(chunk.scores.size(), T{0});
  for (int64_t i = 0; i < rows; ++i) {
    const T *dout = &chunk.dout[at(i, dv_, 0)], *v = &chunk.v[at(i, dv_, 0)];
    for (int64_t c = 0; c < dk_; ++c) {
      dq[at(i, dk_, c)] += scale * decay_read(chunk, i, -1, c) * dot(state + c * dv_, dout, dv_);
      const T left = i == end ? T{1} : decay(chunk, end, i, c);
      dk[at(i, dk_, c)] += left * dot(dstate + c * dv_, v, dv_);
      if (to.dv.data) add_scaled(sums(to.dv, chunk.begin + i), dstate + c * dv_, left * chunk.k[at(i, dk_, c)], dv_);
    }
    for (int64_t j = 0; j <= i; ++j) {
      const T dscore = scale * dot(dout, &chunk.v[at(j, dv_, 0)], dv_);
      dscores[at(i, rows, j)] = dscore;
      const T one = gates_ == 1 && i != j ? decay_read(chunk, i, j, 0) : T{1};
      for (int64_t c = 0; c < dk_; ++c) {
        const T passed = dscore * (i == j ? own(c) : gates_ == 1 ? one : decay_read(chunk, i, j, c));
        dq[at(i, dk_, c)] += passed * chunk.k[at(j, dk_, c)];
        dk[at(j, dk_, c)] += passed * chunk.q[at(i, dk_, c)];
        if (i == j && to.du.data) sums(to.du, 0)[c] += dscore * chunk.q[at(i, dk_, c)] * chunk.k[at(i, dk_, c)];
      }
      if (to.dv.data) add_scaled(sums(to.dv, chunk.begin + j), dout, scale * chunk.scores[at(i, rows, j)], dv_);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    if (to.dq.data) add_scaled(sums(to.dq, chunk.begin + i), &dq[at(i, dk_, 0)], T{1}, dk_);
    if (to.dk.data) add_scaled(sums(to.dk, chunk.begin + i), &dk[at(i, dk_, 0)], T{1}, dk_);
  }
  if (to.dg.data) add_gate_gradients(chunk, state, dstate, dscores, to.dg);
}

// dg_t is the sum over everything that passes token t: from keys before it, or the state, to queries from it on, or the
// gradient. Each kind is summed from one side, so nothing cancels.
template <typename T>
void RunChunks<T>::add_gate_gradients(const Chunk& chunk, const T* state, const T* dstate,
                                      const std::vector<T>& dscores, const View& dg) const {
  const int64_t rows = chunk.rows, end = rows - 1;
  std::vector<double> sum(static_cast<size_t>(rows * gates_), 0.0);
  std::vector<double> passing(static_cast<size_t>(gates_));
  for (int64_t j = 0; j < rows; ++j) {  // key j to queries after it
    std::fill(passing.begin(), passing.end(), 0.0);
    for (int64_t i = end; i > j; --i) {
      const auto give = [&] {
        for (int64_t gate = 0; gate < gates_; ++gate) sum[at(i, gates_, gate)] += passing[static_cast<size_t>(gate)];
      };
      if (reads_before()) give();  // what i reads itself has not passed its decay
      const T dscore = dscores[at(i, rows, j)];
      if (gates_ == 1) passing[0] += double{dscore * chunk.scores[at(i, rows, j)]};
      for (int64_t c = 0; c < dk_ && gates_ > 1; ++c)
        passing[gate_at(c)] +=
            double{dscore * chunk.q[at(i, dk_, c)] * chunk.k[at(j, dk_, c)] * decay_read(chunk, i, j, c)};
      if (!reads_before()) give();
    }
  }
  std::fill(passing.begin(), passing.end(), 0.0);
  for (int64_t i = end; i >= 0; --i) {  // the state to queries
    const auto give = [&] {
      for (int64_t gate = 0; gate < gates_; ++gate) sum[at(i, gates_, gate)] += passing[static_cast<size_t>(gate)];
    };
    if (reads_before()) give();
    for (int64_t c = 0; c < dk_; ++c) {
      const T seen = dot(state + c * dv_, &chunk.dout[at(i, dv_, 0)], dv_);
      passing[gate_at(c)] += run_.scale * double{chunk.q[at(i, dk_, c)] * decay_read(chunk, i, -1, c) * seen};
    }
    if (!reads_before()) give();
  }
  std::fill(passing.begin(), passing.end(), 0.0);
  for (int64_t c = 0; c < dk_; ++c)  // the state to the gradient behind the chunk
    passing[gate_at(c)] += double{decay(chunk, end, -1, c) * dot(state + c * dv_, dstate + c * dv_, dv_)};
  for (int64_t j = 0; j < rows; ++j) {  // keys to it
    for (int64_t gate = 0; gate < gates_; ++gate) {
      sums(dg, chunk.begin + j)[gate] += static_cast<T>(sum[at(j, gates_, gate)] + passing[static_cast<size_t>(gate)]);
    }
    for (int64_t c = 0; c < dk_; ++c) {
      const T left = j == end ? T{1} : decay(chunk, end, j, c);
      const T written = dot(dstate + c * dv_, &chunk.v[at(j, dv_, 0)], dv_);
      passing[gate_at(c)] += double{chunk.k[at(j, dk_, c)] * left * written};
    }
  }
}

template <typename T>
void RunChunks<T>::scan_backward(const ConstView& dout, const ConstView& dfinal, const RunGradients& to) const {
  Chunk chunk;
  for (const Segment& segment : segments_of(run_)) {
    const int64_t chunks = (segment.rows() + chunk_rows() - 1) / chunk_rows();
    std::vector<T> states(static_cast<size_t>(chunks + 1) * state_size(), T{0}), dstate(state_size(), T{0});
    const Matrix<T> first = initial_state(segment);
    std::copy(first.begin(), first.end(), states.begin());
    if (dfinal.data && segment.final >= 0) dstate = document_state(dfinal, segment.final);
    const auto state_at = [&](int64_t n) { return states.data() + static_cast<size_t>(n) * state_size(); };
    const auto load_chunk = [&](int64_t n) {
      const int64_t begin = segment.begin + n * chunk_rows();
      load(chunk, begin, std::min(chunk_rows(), segment.end - begin), dout);
    };
    for (int64_t n = 0; n < chunks; ++n) {
      load_chunk(n);
      std::copy_n(state_at(n), state_size(), state_at(n + 1));
      advance(chunk, state_at(n + 1));
    }
    for (int64_t n = chunks; n-- > 0;) {
      load_chunk(n);
      add_gradients(chunk, state_at(n), dstate.data(), to);
      retreat(chunk, dstate.data());
    }
    add_to_document(to.dinitial, segment.initial, dstate.data());
  }
}

}  // namespace

void scan_diagonal(const TokenRun& run, const View& out, const View& final) {
  in_type_of(run, [&](auto t) { RunChunks<decltype(t)>(run).scan(out, final); });
}

void scan_diagonal_backward(const TokenRun& run, const ConstView& dout, const ConstView& dfinal,
                            const RunGradients& gradients) {
  in_type_of(run, [&](auto t) { RunChunks<decltype(t)>(run).scan_backward(dout, dfinal, gradients); });
}

}  // namespace weft::kernels::recurrence_internal
