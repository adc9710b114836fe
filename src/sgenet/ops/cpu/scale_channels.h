// A gate a sample and channel (squeeze-and-excitation), with what stands around it in a block:
// y = relu(map(x) gate + residual). One read and one write; the backward pass reads each tensor once too.
#pragma once

#include "abi.h"
#include "channels_first.h"
#include "channels_last.h"

namespace sgenet {
namespace SGENET_ISA {

template <class T, int W, bool WithAffine, bool WithResidual>
struct ScaleForwardPass {
  using P = Pack<T, W>;
  using V = Vector<W>;
  using Map = typename ChannelsFirst<T, W, WithAffine>::Map;

  const ScaleForward& call;
  bool streams;

  const T* x(Index at) const { return static_cast<const T*>(call.x) + at; }
  const T* residual(Index at) const { return static_cast<const T*>(call.residual) + at; }
  T* y(Index at) const { return static_cast<T*>(call.y) + at; }
  V floor() const { return all<W>(call.relu ? 0.0f : -__builtin_inff()); }

  SGENET_INLINE void write(const P& out, Index at) const { streams ? out.stream(y(at)) : out.write(y(at)); }

  SGENET_INLINE P finished(P out, Index at, V least_value) const {
    if constexpr (WithResidual) {
      const P other = P::read(residual(at));
      for (int h = 0; h < P::kVectors; ++h) out.v[h] += other.v[h];
    }
    for (int h = 0; h < P::kVectors; ++h) out.v[h] = at_least<W>(out.v[h], least_value);
    return out;
  }

  // Rows of positions, of all samples in a line; `gate`, `factor` and `shift` hold room for a value a channel.
  void run_channels_last(Range rows, float* gate, float* factor, float* shift) const {
    const Index channels = call.shape.channels, positions = call.shape.positions;
    const V least_value = floor();
    if (WithAffine) {
      Rows<T, W>::to_pack_order(call.affine.factor, factor, channels);
      Rows<T, W>::to_pack_order(call.affine.shift, shift, channels);
    }
    for (Index row = rows.first; row < rows.last; ++row) {
      if (row == rows.first || row % positions == 0) {
        Rows<T, W>::to_pack_order(call.gate + row / positions * channels, gate, channels);
      }
      for (Index c = 0; c < channels; c += P::kElements) {
        P out = P::read(x(row * channels + c));
        for (int h = 0; h < P::kVectors; ++h) {
          const Index place = c + h * W;
          if (WithAffine) out.v[h] = out.v[h] * load<W>(factor + place) + load<W>(shift + place);
          out.v[h] *= load<W>(gate + place);
        }
        write(finished(out, row * channels + c, least_value), row * channels + c);
      }
    }
  }

  // Rows of channels.
  void run_channels_first(const Row<T, W>& row, Range tasks) const {
    for (Index task = tasks.first; task < tasks.last; ++task) {
      const Map map(call.affine, task % call.shape.channels);
      const V gate = all<W>(call.gate[task]), least_value = floor();
      const auto pack_at = [&](Index at) SGENET_INLINE {
        P out = P::read(x(at));
        for (int h = 0; h < P::kVectors; ++h) out.v[h] = map(out.v[h]) * gate;
        return finished(out, at, least_value);
      };
      const Index start = task * row.positions, last_at = start + row.start(row.packs - 1);
      const P last = pack_at(last_at);  // read before a neighbour overwrites it, see ChannelsFirstForward
      for (Index pack = 0; pack + 1 < row.packs; ++pack) {
        write(pack_at(start + pack * P::kElements), start + pack * P::kElements);
      }
      last.write(y(last_at));
    }
  }
};

template <class T, int W, bool WithAffine>
struct ScaleBackwardPass {
  using P = Pack<T, W>;
  using V = Vector<W>;
  using Map = typename ChannelsFirst<T, W, WithAffine>::Map;

  static constexpr Index maps_held() { return 0; }  // each place is read once
  static constexpr int kTogether = 4;  // rows for which a channel's sum is loaded and stored once

  struct Area {
    ChunkedSums sums;  // of each channel
    float* gate;

    void carve(Carver& carver, Index channels) {
      sums.carve(carver, channels);
      gate = carver.floats(channels);
    }
  };

  const ScaleBackward& call;
  const float *factor, *shift;  // in pack order, for NHWC
  bool streams;

  SGENET_INLINE void write(const P& gradient, void* map, Index at) const {
    T* place = static_cast<T*>(map) + at;
    streams ? gradient.stream(place) : gradient.write(place);
  }

  // The gradient behind the ReLU, written as the residual's where that is asked for.
  SGENET_INLINE P upstream(Index at) const {
    P gradient = P::read(static_cast<const T*>(call.gradient) + at);
    if (call.y != nullptr) {
      const P y = P::read(static_cast<const T*>(call.y) + at);
      for (int h = 0; h < P::kVectors; ++h) gradient.v[h] = y.v[h] <= 0.0f ? V{} : gradient.v[h];
    }
    if (call.dresidual != nullptr) write(gradient, call.dresidual, at);
    return gradient;
  }

  template <int Count>
  void take_rows(Index row, const float* gate, float* sums) const {
    const Index channels = call.shape.channels;
    for (Index c = 0; c < channels; c += P::kElements) {
      P sum;
      for (int h = 0; h < P::kVectors; ++h) sum.v[h] = load<W>(sums + c + h * W);
      for (int r = 0; r < Count; ++r) {
        const Index at = (row + r) * channels + c;
        P gradient = upstream(at);
        const P in = P::read(static_cast<const T*>(call.x) + at);
        for (int h = 0; h < P::kVectors; ++h) {
          const Index place = c + h * W;
          const V x = WithAffine ? in.v[h] * load<W>(factor + place) + load<W>(shift + place) : in.v[h];
          sum.v[h] += gradient.v[h] * x;
          gradient.v[h] *= load<W>(gate + place);
        }
        write(gradient, call.dx, at);
      }
      for (int h = 0; h < P::kVectors; ++h) store<W>(sums + c + h * W, sum.v[h]);
    }
  }

  void run_sample(Index sample, Team team, Area* parts, bool) const {
    const Area& common = parts[0], &own = parts[team.rank];
    const Index channels = call.shape.channels, start = sample * call.shape.positions;
    Rows<T, W>::to_pack_order(call.gate + sample * channels, own.gate, channels);
    own.sums.form(team.share(call.shape.positions), Direction::kUp, [&](Range some, float* sums) {
      Index row = some.first;
      for (; row + kTogether <= some.last; row += kTogether) take_rows<kTogether>(start + row, own.gate, sums);
      for (; row < some.last; ++row) take_rows<1>(start + row, own.gate, sums);
    });
    team.barrier();
    if (team.rank == 0) {
      for (Index part = 1; part < team.size; ++part) add_to(common.sums.total, parts[part].sums.total, channels);
      Rows<T, W>::to_natural_order(common.sums.total, call.dgate + sample * channels, channels);
    }
    team.barrier();
  }

  void run_channels_first(const Row<T, W>& row, Range tasks) const {
    for (Index task = tasks.first; task < tasks.last; ++task) {
      const Map map(call.affine, task % call.shape.channels);
      const V gate = all<W>(call.gate[task]);
      const auto sum_of = [&](Index pack, Index last) SGENET_INLINE {
        V sum{};
        for (; pack < last; ++pack) {
          const Index at = task * row.positions + row.start(pack);
          P gradient = upstream(at);
          const P in = P::read(static_cast<const T*>(call.x) + at);
          for (int h = 0; h < P::kVectors; ++h) {
            sum += row.counted(pack, h, gradient.v[h] * map(in.v[h]));
            gradient.v[h] *= gate;
          }
          write(gradient, call.dx, at);
        }
        return Several<W, 1>{{sum}};
      };
      call.dgate[task] = row.template sums<1>(sum_of)[0];
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
