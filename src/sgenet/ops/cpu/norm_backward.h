// The backward pass of a batch norm. For one channel with the mean u and the inverse deviation r of its N values x, the
// norm's factor w, and dy the gradient of what it returned:
//
//     dbias   = sum dy
//     dweight = r sum dy (x - u)
//     dx      = w r (dy - dbias / N - (x - u) r dweight / N)
//
// The sums need all of dy and x, so there are two passes over both. NHWC: memory sees both passes; the second walks the
// other way and begins with what the caches still hold. NCHW: a channel's rows of all samples stay in the L2 cache.
//
// Where the norm keeps its u and r whatever x is (its eval mode), dx = w r dy waits for no sums: one pass.
#pragma once

#include "abi.h"
#include "channels_first.h"
#include "channels_last.h"

namespace sgenet {
namespace SGENET_ISA {

// Of a channel: sum dy and sum dy (x - u).
struct NormSums {
  double gradients, products;
};

// What dx is made of, once the sums are known: slope (dy - offset - (x - mean) curve).
struct NormGradient {
  float slope, offset, curve;
};

template <class T, int W>
struct NormBackwardPass {
  using P = Pack<T, W>;
  using V = Vector<W>;
  using Order = Rows<T, W>;

  static constexpr int kTogether = 4;  // rows for which a channel's sums are loaded and stored once

  const NormBackward& call;

  const T* gradient(Index at) const { return static_cast<const T*>(call.gradient) + at; }
  const T* x(Index at) const { return static_cast<const T*>(call.x) + at; }
  T* dx(Index at) const { return static_cast<T*>(call.dx) + at; }

  // Writes a channel's parameter gradients, and returns what its dx needs.
  NormGradient finish(Index channel, const NormSums& sums) const {
    const double count = double(call.shape.batch) * double(call.shape.positions), inverse = call.inverse[channel];
    const double weight = call.weight == nullptr ? 1.0 : call.weight[channel];
    call.dbias[channel] = float(sums.gradients);
    call.dweight[channel] = float(inverse * sums.products);
    if (call.kept) return {float(weight * inverse), 0, 0};
    return {float(weight * inverse), float(sums.gradients / count), float(inverse * inverse * sums.products / count)};
  }

  // ------------------------------------------------------------------------------------------------------------ NHWC

  // A value a channel, in pack order.
  struct Common {
    float *mean, *slope, *offset, *curve;

    void carve(Carver& carver, Index channels) {
      for (float** values : {&mean, &slope, &offset, &curve}) *values = carver.floats(channels);
    }
  };

  struct Area {
    float *gradients, *products;  // of a chunk
    NormSums* sums;               // of all rows of a thread

    void carve(Carver& carver, Index channels) {
      gradients = carver.floats(channels);
      products = carver.floats(channels);
      sums = reinterpret_cast<NormSums*>(carver.floats(channels * Index(sizeof(NormSums) / sizeof(float))));
    }
  };

  template <int Count>
  void add_rows(Index row, const Common& common, const Area& own) const {
    const Index channels = call.shape.channels;
    for (Index c = 0; c < channels; c += P::kElements) {
      P sum, product;
      for (int h = 0; h < P::kVectors; ++h) {
        sum.v[h] = load<W>(own.gradients + c + h * W);
        product.v[h] = load<W>(own.products + c + h * W);
      }
      for (int r = 0; r < Count; ++r) {
        const P dy = Order::template read_side_by_side<Count>(gradient(row * channels), channels, c, r);
        const P in = Order::template read_side_by_side<Count>(x(row * channels), channels, c, r);
        for (int h = 0; h < P::kVectors; ++h) {
          sum.v[h] += dy.v[h];
          product.v[h] += dy.v[h] * (in.v[h] - load<W>(common.mean + c + h * W));
        }
      }
      for (int h = 0; h < P::kVectors; ++h) {
        store<W>(own.gradients + c + h * W, sum.v[h]);
        store<W>(own.products + c + h * W, product.v[h]);
      }
    }
  }

  void sum_rows(Range rows, const Common& common, const Area& own) const {
    const Index channels = call.shape.channels;
    for (Index c = 0; c < channels; ++c) own.sums[c] = {0, 0};
    in_chunks(rows, Direction::kUp, [&](Range chunk) {
      clear(own.gradients, channels);
      clear(own.products, channels);
      Index row = chunk.first;
      for (; row + kTogether <= chunk.last; row += kTogether) add_rows<kTogether>(row, common, own);
      for (; row < chunk.last; ++row) add_rows<1>(row, common, own);
      for (Index c = 0; c < channels; ++c) {
        own.sums[c].gradients += own.gradients[c];
        own.sums[c].products += own.products[c];
      }
      if (call.kept) scale_rows(chunk, common);
    });
  }

  void scale_rows(Range rows, const Common& common) const {
    const Index channels = call.shape.channels;
    for (Index row = rows.first; row < rows.last; ++row) {
      for (Index c = 0; c < channels; c += P::kElements) {
        P out = P::read(gradient(row * channels + c));
        for (int h = 0; h < P::kVectors; ++h) out.v[h] *= load<W>(common.slope + c + h * W);
        out.write(dx(row * channels + c));
      }
    }
  }

  void find_kept_slopes(const Common& common) const {
    for (Index place = 0; place < call.shape.channels; ++place) {
      common.slope[place] = finish(Order::channel_of(place), {0, 0}).slope;
    }
  }

  void find_gradient(const Common& common, Area* areas, Index parts) const {
    for (Index place = 0; place < call.shape.channels; ++place) {
      NormSums sums = areas[0].sums[place];
      for (Index part = 1; part < parts; ++part) {
        sums.gradients += areas[part].sums[place].gradients;
        sums.products += areas[part].sums[place].products;
      }
      const NormGradient found = finish(Order::channel_of(place), sums);
      common.slope[place] = found.slope;
      common.offset[place] = found.offset;
      common.curve[place] = found.curve;
    }
  }

  void write_rows(Range rows, const Common& common) const {
    const Index channels = call.shape.channels;
    in_chunks(rows, Direction::kDown, [&](Range chunk) {
      for (Index row = chunk.first; row < chunk.last; ++row) {
        for (Index c = 0; c < channels; c += P::kElements) {
          P out = P::read(gradient(row * channels + c));
          const P in = P::read(x(row * channels + c));
          for (int h = 0; h < P::kVectors; ++h) {
            const Index place = c + h * W;
            const V distance = in.v[h] - load<W>(common.mean + place);
            const V centred = out.v[h] - load<W>(common.offset + place) - distance * load<W>(common.curve + place);
            out.v[h] = centred * load<W>(common.slope + place);
          }
          out.write(dx(row * channels + c));
        }
      }
    });
  }

  void run_channels_last(Team team, const Common& common, Area* areas) const {
    const Range rows = team.share(call.shape.batch * call.shape.positions);
    sum_rows(rows, common, areas[team.rank]);
    team.barrier();
    if (team.rank == 0) find_gradient(common, areas, team.size);
    if (call.kept) return;
    team.barrier();
    write_rows(rows, common);
  }

  // ------------------------------------------------------------------------------------------------------------ NCHW

  NormSums sums_of_row(const Row<T, W>& row, Index start, float mean) const {
    V sum{}, product{};
    for (Index pack = 0; pack < row.packs; ++pack) {
      const P dy = P::read(gradient(start + row.start(pack))), in = P::read(x(start + row.start(pack)));
      for (int h = 0; h < P::kVectors; ++h) {
        sum += row.counted(pack, h, dy.v[h]);
        product += row.counted(pack, h, dy.v[h] * (in.v[h] - mean));
      }
    }
    return {sum_of_lanes<W>(sum), sum_of_lanes<W>(product)};
  }

  void write_row(const Row<T, W>& row, Index start, float mean, const NormGradient& of) const {
    const auto pack_at = [&](Index at) SGENET_INLINE {
      P out = P::read(gradient(at));
      const P in = P::read(x(at));
      for (int h = 0; h < P::kVectors; ++h) {
        out.v[h] = (out.v[h] - of.offset - (in.v[h] - mean) * of.curve) * of.slope;
      }
      return out;
    };
    const Index last_at = start + row.start(row.packs - 1);
    const P last = pack_at(last_at);  // read before a neighbour overwrites it, see ChannelsFirstForward
    for (Index pack = 0; pack + 1 < row.packs; ++pack) {
      pack_at(start + pack * P::kElements).write(dx(start + pack * P::kElements));
    }
    last.write(dx(last_at));
  }

  void run_channels_first(const Row<T, W>& row, Range channels) const {
    const Index sample_size = call.shape.channels * row.positions;
    for (Index c = channels.first; c < channels.last; ++c) {
      const float mean = call.mean[c];
      NormSums sums{0, 0};
      for (Index sample = 0; sample < call.shape.batch; ++sample) {
        const NormSums more = sums_of_row(row, sample * sample_size + c * row.positions, mean);
        sums.gradients += more.gradients;
        sums.products += more.products;
      }
      const NormGradient of = finish(c, sums);
      for (Index sample = call.shape.batch - 1; sample >= 0; --sample) {
        write_row(row, sample * sample_size + c * row.positions, mean, of);
      }
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
