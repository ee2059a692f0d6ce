#include "weft/torch/rnn_cell.h"

#include <ATen/ops/stack.h>

#include <string>

#include "weft/base/error.h"
#include "weft/base/text.h"

namespace weft {
namespace {

at::Tensor row(const at::Tensor& t, int64_t i) { return t.select(-2, i); }
// Derivatives of the activations, from their values; no gradient goes through them.
at::Tensor slope_of_sigmoid(const at::Tensor& y) { return y.mul(y.neg().add(1)); }
at::Tensor slope_of_tanh(const at::Tensor& y) { return y.square().neg().add(1); }

RnnStep gru_step(const at::Tensor& x, const at::Tensor& before, const at::Tensor& a) {
  const at::Tensor h = row(before, 0);
  const at::Tensor z = a[0].mul(h).add(row(x, 0)).sigmoid(), r = a[1].mul(h).add(row(x, 1)).sigmoid();
  const at::Tensor n = a[2].mul(h.mul(r)).add(row(x, 2)).tanh();
  const at::Tensor next = h.add(z.mul(n.sub(h)));

  const at::Tensor dh = h.detach(), dz = z.detach(), dr = r.detach(), dn = n.detach(), da = a.detach();
  // (1 - z) + (n - h) z' a_0 + z n' a_2 (r + h r' a_1)
  const at::Tensor inner = dr.add(dh.mul(slope_of_sigmoid(dr)).mul(da[1]));
  const at::Tensor jacobian = dz.neg()
                                  .add(1)
                                  .add(dn.sub(dh).mul(slope_of_sigmoid(dz)).mul(da[0]))
                                  .add(dz.mul(slope_of_tanh(dn)).mul(da[2]).mul(inner));
  return {next.unsqueeze(-2), jacobian.unsqueeze(-2)};
}

RnnStep lstm_step(const at::Tensor& x, const at::Tensor& before, const at::Tensor& a, const at::Tensor& p) {
  const at::Tensor c = row(before, 0), h = row(before, 1);
  const at::Tensor f = a[0].mul(h).add(p[0].mul(c)).add(row(x, 0)).sigmoid();
  const at::Tensor g = a[2].mul(h).add(row(x, 2)).tanh();
  const at::Tensor next_c = g.add(f.mul(c.sub(g))), squashed = next_c.tanh();
  const at::Tensor o = a[1].mul(h).add(p[1].mul(next_c)).add(row(x, 1)).sigmoid();
  const at::Tensor next_h = o.mul(squashed);

  const at::Tensor dc = c.detach(), df = f.detach(), dg = g.detach(), d_o = o.detach(), ds = squashed.detach(),
                   da = a.detach(), dp = p.detach();
  const at::Tensor by_f = dc.sub(dg).mul(slope_of_sigmoid(df)), by_o = ds.mul(slope_of_sigmoid(d_o));
  const at::Tensor cc = df.add(by_f.mul(dp[0]));
  const at::Tensor ch = by_f.mul(da[0]).add(df.neg().add(1).mul(slope_of_tanh(dg)).mul(da[2]));
  const at::Tensor h_by_c = d_o.mul(slope_of_tanh(ds)).add(by_o.mul(dp[1]));  // of h' by c'
  const at::Tensor hc = h_by_c.mul(cc), hh = by_o.mul(da[1]).add(h_by_c.mul(ch));
  return {at::stack({next_c, next_h}, -2), at::stack({cc, ch, hc, hh}, -2)};
}

}  // namespace

const char* name_of(RnnCell cell) { return cell == RnnCell::gru ? "gru" : "lstm"; }

RnnCell rnn_cell_of(std::string_view name) {
  for (const RnnCell cell : {RnnCell::gru, RnnCell::lstm}) {
    if (name == name_of(cell)) return cell;
  }
  throw unknown_name_error("cell", std::string(name), {"gru", "lstm"});
}

RnnStep rnn_step(RnnCell cell, const at::Tensor& x, const at::Tensor& before, const RnnParameters& parameters) {
  if (cell == RnnCell::gru) return gru_step(x, before, parameters.a);
  return lstm_step(x, before, parameters.a, parameters.peephole);
}

}  // namespace weft
