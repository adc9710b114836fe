// The mean of each channel of each sample over the positions: what squeeze-and-excitation looks at. One read.
#pragma once

#include "abi.h"
#include "channels_first.h"
#include "channels_last.h"

namespace sgenet {
namespace SGENET_ISA {

template <class T, int W>
struct MeansPass {
  static constexpr Index maps_held() { return 0; }  // each place is read once

  // What one thread keeps for a sample.
  struct Area {
    ChunkedSums sums;  // of each channel, in pack order

    void carve(Carver& carver, Index channels) { sums.carve(carver, channels); }
  };

  const Means& call;

  const T* x(Index at) const { return static_cast<const T*>(call.x) + at; }

  // The mean of what the norm in front makes of the map is what it makes of the mean.
  float finished(Index channel, float mean) const {
    return call.affine.factor == nullptr ? mean : mean * call.affine.factor[channel] + call.affine.shift[channel];
  }

  void run_sample(Index sample, Team team, Area* parts, bool) const {
    const Index channels = call.shape.channels, positions = call.shape.positions;
    parts[team.rank].sums.form(team.share(positions), Direction::kUp, [&](Range some, float* sums) {
      Rows<T, W>::add_columns(x(sample * positions * channels), some, channels, sums);
    });
    team.barrier();
    if (team.rank == 0) {
      float *total = parts[0].sums.total, *means = call.means + sample * channels;
      for (Index part = 1; part < team.size; ++part) add_to(total, parts[part].sums.total, channels);
      Rows<T, W>::to_natural_order(total, means, channels);
      for (Index c = 0; c < channels; ++c) means[c] = finished(c, means[c] / float(positions));
    }
    team.barrier();  // the next sample's sums take the place of these
  }

  void run_channels_first(const Row<T, W>& row, Range tasks) const {
    for (Index task = tasks.first; task < tasks.last; ++task) {
      call.means[task] = finished(task % call.shape.channels, row.mean(x(task * row.positions)));
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
