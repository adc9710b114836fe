// Mean and biased variance of each channel over samples and positions, for batch norm in training. Memory sees one
// read: a chunk is gone over twice while it is in the cache, once for its mean and once for the squared distances from
// it, and the chunks' moments are merged in double (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm
// for computing sample variances", 1979). E[x^2] - E[x]^2 would lose a variance that is small beside the mean.
#pragma once

#include "abi.h"
#include "channels_first.h"
#include "channels_last.h"

namespace sgenet {
namespace SGENET_ISA {

// count, mean and the sum of squared distances from the mean
struct Moment {
  double count, mean, distances;

  void merge(const Moment& other) {
    if (other.count == 0) return;
    const double all_counts = count + other.count, difference = other.mean - mean;
    mean += difference * (other.count / all_counts);
    distances += other.distances + difference * difference * (count / all_counts * other.count);
    count = all_counts;
  }
};

template <class T, int W>
struct MomentsPass {
  using P = Pack<T, W>;
  using V = Vector<W>;

  const Moments& call;

  const T* x(Index at) const { return static_cast<const T*>(call.x) + at; }

  template <int Count>
  void add_distances(Index row, const float* mean, float* distances) const {
    const Index channels = call.shape.channels;
    for (Index c = 0; c < channels; c += P::kElements) {
      P sum;
      for (int h = 0; h < P::kVectors; ++h) sum.v[h] = load<W>(distances + c + h * W);
      for (int r = 0; r < Count; ++r) {
        const P in = P::read(x((row + r) * channels + c));
        for (int h = 0; h < P::kVectors; ++h) {
          const V distance = in.v[h] - load<W>(mean + c + h * W);
          sum.v[h] += distance * distance;
        }
      }
      for (int h = 0; h < P::kVectors; ++h) store<W>(distances + c + h * W, sum.v[h]);
    }
  }

  // Rows of positions, of all samples in a line. `found` has a moment a channel, in pack order.
  void run_channels_last(Range rows, float* mean, float* distances, Moment* found) const {
    const Index channels = call.shape.channels;
    for (Index c = 0; c < channels; ++c) found[c] = {0, 0, 0};
    in_chunks(rows, Direction::kUp, [&](Range chunk) {
      const float count = float(chunk.last - chunk.first);
      clear(mean, channels);
      clear(distances, channels);
      Rows<T, W>::add_columns(x(0), chunk, channels, mean);
      for (Index c = 0; c < channels; ++c) mean[c] /= count;
      Index row = chunk.first;
      for (; row + 4 <= chunk.last; row += 4) add_distances<4>(row, mean, distances);
      for (; row < chunk.last; ++row) add_distances<1>(row, mean, distances);
      for (Index c = 0; c < channels; ++c) found[c].merge({count, mean[c], distances[c]});
    });
  }

  Moment of_row(const Row<T, W>& row, const T* p) const {
    V sum{}, distances{};
    const auto add = [&](Index pack) SGENET_INLINE {
      const P in = P::read(p + row.start(pack));
      for (int h = 0; h < P::kVectors; ++h) sum += row.counted(pack, h, in.v[h]);
    };
    for (Index pack = 0; pack < row.packs; ++pack) add(pack);
    const float mean = sum_of_lanes<W>(sum) / float(row.positions);
    for (Index pack = 0; pack < row.packs; ++pack) {
      const P in = P::read(p + row.start(pack));
      for (int h = 0; h < P::kVectors; ++h) {
        const V distance = in.v[h] - mean;
        distances += row.counted(pack, h, distance * distance);
      }
    }
    return {double(row.positions), mean, sum_of_lanes<W>(distances)};
  }

  void run_channels_first(const Row<T, W>& row, Range channels) const {
    for (Index c = channels.first; c < channels.last; ++c) {
      Moment found{0, 0, 0};
      for (Index sample = 0; sample < call.shape.batch; ++sample) {
        found.merge(of_row(row, x((sample * call.shape.channels + c) * row.positions)));
      }
      finish(c, found);
    }
  }

  void finish(Index channel, const Moment& found) const {
    call.mean[channel] = float(found.mean);
    call.variance[channel] = float(found.distances / found.count);
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
