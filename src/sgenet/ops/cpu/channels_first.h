// Spatial Group-wise Enhance on NCHW maps. kernels.h explains the algorithm and draws the tiles.
#pragma once

#include <array>

#include "abi.h"
#include "statistics.h"
#include "threads.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

// One channel's row of positions, walked over pack by pack. The last pack ends with the row and overlaps the one before
// it, so that no pack is cut: 49 positions are 0-15, 16-31, 32-47 and 33-48. Sums leave out what has been seen; writes
// repeat it. A row holds at least one pack: shorter ones are walked over with narrower vectors.
template <class T, int W>
struct Row {
  using P = Pack<T, W>;
  using V = Vector<W>;

  Index positions, packs;
  Mask<W> unseen[P::kVectors];  // the lanes of the last pack that no other pack holds

  explicit Row(Index all_positions)
      : positions(all_positions), packs((all_positions + P::kElements - 1) / P::kElements) {
    const Index seen = packs * P::kElements - positions;
    for (int h = 0; h < P::kVectors; ++h) {
      for (int lane = 0; lane < W; ++lane) unseen[h][lane] = P::element(h, lane) >= seen ? -1 : 0;
    }
  }

  // N sums over the row, of which sums_of(first, last) gives those over some packs: plain ones over blocks of packs, and
  // with compensation over the blocks.
  template <int N, class SumsOf>
  SGENET_INLINE std::array<float, N> sums(SumsOf sums_of) const {
    constexpr Index kBlock = 64;
    Several<W, N> total = sums_of(Index{0}, least(kBlock, packs)), excess{};
    for (Index first = kBlock; first < packs; first += kBlock) {
      const Several<W, N> of_block = sums_of(first, least(first + kBlock, packs));
      for (int i = 0; i < N; ++i) add_compensated(total.v[i], excess.v[i], of_block.v[i]);
    }
    std::array<float, N> found;
    for (int i = 0; i < N; ++i) found[i] = sum_of_lanes<W>(total.v[i]);
    return found;
  }

  Index floats() const { return packs * P::kElements; }  // of an array with a value a position, pack by pack
  Index start(Index pack) const { return pack + 1 < packs ? pack * P::kElements : positions - P::kElements; }

  // v without the lanes that an earlier pack has counted.
  SGENET_INLINE V counted(Index pack, int half, V v) const {
    if (pack + 1 < packs) return v;
    return unseen[half] ? v : V{};
  }

  // The mean of the row that begins at x.
  float mean(const T* x) const {
    constexpr int kTogether = 4;
    const auto sum_of = [&](Index pack, Index last) SGENET_INLINE {
      V sums[kTogether] = {};
      for (; pack + kTogether < last; pack += kTogether) {
        for (int k = 0; k < kTogether; ++k) sums[k] += whole_sum(P::read(x + (pack + k) * P::kElements));
      }
      for (; pack + 1 < last; ++pack) sums[0] += whole_sum(P::read(x + pack * P::kElements));
      const P in = P::read(x + start(pack));
      for (int h = 0; h < P::kVectors; ++h) sums[1] += counted(pack, h, in.v[h]);
      return Several<W, 1>{{(sums[0] + sums[1]) + (sums[2] + sums[3])}};
    };
    return sums<1>(sum_of)[0] / float(positions);
  }

 private:
  static SGENET_INLINE V whole_sum(const P& pack) {
    if constexpr (P::kVectors == 2) return pack.v[0] + pack.v[1];
    return pack.v[0];
  }
};

template <class T, int W, bool WithAffine>
struct ChannelsFirst {
  using P = Pack<T, W>;
  using V = Vector<W>;

  // x, or factor x + shift, of one channel
  struct Map {
    V factor, shift;

    Map(const Affine& affine, Index channel) : factor{}, shift{} {
      if (WithAffine) {
        factor = all<W>(affine.factor[channel]);
        shift = all<W>(affine.shift[channel]);
      }
    }
    SGENET_INLINE V operator()(V x) const { return WithAffine ? x * factor + shift : x; }
  };
};

// ----------------------------------------------------------------------------------------------------------- forward

template <class T, int W, bool WithAffine>
struct ChannelsFirstForward {
  using P = Pack<T, W>;
  using V = Vector<W>;
  using Map = typename ChannelsFirst<T, W, WithAffine>::Map;

  static constexpr int kTogether = 4;  // packs whose t stay in registers on the way through the group's channels

  const EnhanceForward& call;
  const Row<T, W>& row;
  Index depth;

  // t of `Count` packs; adds to the sum of t - first, which is exactly 0 on a constant map.
  template <int Count>
  SGENET_INLINE void similarity_of(const T* x, Index channel, const float* semantic, Index pack, float* similarity,
                                   float& first, V& total) const {
    V t[Count][P::kVectors] = {};
    for (Index j = 0; j < depth; ++j) {
      const Map map(call.affine, channel + j);
      const V g = all<W>(semantic[j]);
      for (int k = 0; k < Count; ++k) {
        const P in = P::read(x + j * row.positions + row.start(pack + k));
        for (int h = 0; h < P::kVectors; ++h) t[k][h] += (map(in.v[h]) - g) * g;
      }
    }
    if (pack == 0) first = t[0][0][0];
    for (int k = 0; k < Count; ++k) {
      for (int h = 0; h < P::kVectors; ++h) {
        store<W>(similarity + (pack + k) * P::kElements + h * W, t[k][h]);
        total += row.counted(pack + k, h, t[k][h] - first);
      }
    }
  }

  // The sum of (t - left)^2: a walk over one row, where the way to t went over all of the group's.
  float deviations_of(const float* similarity, float left) const {
    V sums[kTogether] = {};
    Index pack = 0;
    for (; pack + kTogether < row.packs; pack += kTogether) {
      for (int k = 0; k < kTogether; ++k) {
        for (int h = 0; h < P::kVectors; ++h) {
          const V deviation = load<W>(similarity + (pack + k) * P::kElements + h * W) - left;
          sums[k] += deviation * deviation;
        }
      }
    }
    for (; pack < row.packs; ++pack) {
      for (int h = 0; h < P::kVectors; ++h) {
        const V deviation = row.counted(pack, h, load<W>(similarity + pack * P::kElements + h * W) - left);
        sums[h] += deviation * deviation;
      }
    }
    return sum_of_lanes<W>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  Statistics find_similarity(const T* x, Index channel, const float* semantic, float* similarity) const {
    float first = 0;  // t at the first position: of the others, the differences from it are summed up
    const auto sum_of = [&](Index pack, Index last) SGENET_INLINE {
      V total{};
      for (; pack + kTogether <= last; pack += kTogether) {
        similarity_of<kTogether>(x, channel, semantic, pack, similarity, first, total);
      }
      for (; pack < last; ++pack) similarity_of<1>(x, channel, semantic, pack, similarity, first, total);
      return Several<W, 1>{{total}};
    };
    const float total = row.template sums<1>(sum_of)[0];
    const float left = first + total / float(row.positions);
    const float deviations = row.positions > 1 ? deviations_of(similarity, left) / float(row.positions - 1) : 0.0f;
    return {left, __builtin_sqrtf(deviations)};
  }

  // The gate takes the place of t.
  void find_gate(const Statistics& statistics, float weight, float bias, float* similarity) const {
    const float rate = kMinusLog2E * weight * statistics.inverse(call.eps);
    const float start = kMinusLog2E * bias - rate * statistics.left;
    for (Index i = 0; i < row.floats(); i += W) {
      store<W>(similarity + i, logistic<W>(call.scale, rate * load<W>(similarity + i) + start));
    }
  }

  template <bool WithResidual>
  SGENET_INLINE P enhanced(const Map& map, const T* x, const T* residual, const float* gate, V floor,
                           Index pack) const {
    const Index at = row.start(pack);
    P out = P::read(x + at);
    for (int h = 0; h < P::kVectors; ++h) out.v[h] = map(out.v[h]) * load<W>(gate + pack * P::kElements + h * W);
    if constexpr (WithResidual) {
      const P other = P::read(residual + at);
      for (int h = 0; h < P::kVectors; ++h) out.v[h] += other.v[h];
    }
    for (int h = 0; h < P::kVectors; ++h) out.v[h] = at_least<W>(out.v[h], floor);
    return out;
  }

  template <bool WithResidual, bool Streams>
  void enhance_row(const Map& map, const T* x, const T* residual, T* y, const float* gate) const {
    const V floor = all<W>(call.relu ? 0.0f : -__builtin_inff());
    // y may be x or the residual: what the last pack shares with its neighbour is read before it is overwritten.
    const P last = enhanced<WithResidual>(map, x, residual, gate, floor, row.packs - 1);
    for (Index pack = 0; pack + 1 < row.packs; ++pack) {
      const P out = enhanced<WithResidual>(map, x, residual, gate, floor, pack);
      Streams ? out.stream(y + pack * P::kElements) : out.write(y + pack * P::kElements);
    }
    last.write(y + row.start(row.packs - 1));
  }

  template <bool WithResidual, bool Streams>
  void enhance(Index start, Index channel, const float* gate) const {
    for (Index j = 0; j < depth; ++j) {
      const Index at = start + j * row.positions;
      const T* residual = static_cast<const T*>(WithResidual ? call.residual : call.x) + at;
      enhance_row<WithResidual, Streams>(Map(call.affine, channel + j), static_cast<const T*>(call.x) + at, residual,
                                         static_cast<T*>(call.y) + at, gate);
    }
  }

  // One group of one sample; task = sample * groups + group.
  void run_group(Index task, bool streams, float* similarity) const {
    const Index group = task % call.groups, channel = group * depth, start = task * depth * row.positions;
    const T* x = static_cast<const T*>(call.x) + start;
    float* semantic = call.semantic + task * depth;
    for (Index j = 0; j < depth; ++j) {
      const float mean = row.mean(x + j * row.positions);
      semantic[j] = WithAffine ? mean * call.affine.factor[channel + j] + call.affine.shift[channel + j] : mean;
    }
    const Statistics statistics = find_similarity(x, channel, semantic, similarity);
    call.statistics[task * 2] = statistics.left;
    call.statistics[task * 2 + 1] = statistics.spread;
    find_gate(statistics, call.weight[group], call.bias[group], similarity);
    if (call.residual != nullptr) {
      streams ? enhance<true, true>(start, channel, similarity) : enhance<true, false>(start, channel, similarity);
    } else {
      streams ? enhance<false, true>(start, channel, similarity) : enhance<false, false>(start, channel, similarity);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------- backward

template <class T, int W, bool WithAffine>
struct ChannelsFirstBackward {
  using P = Pack<T, W>;
  using V = Vector<W>;
  using Map = typename ChannelsFirst<T, W, WithAffine>::Map;

  static constexpr int kTogether = 2;

  struct Maps {
    const T *gradient, *x, *y;
    T *dx, *dresidual;
  };

  const EnhanceBackward& call;
  const Row<T, W>& row;
  Index depth;
  float* parameter_gradients;  // (batch, groups, 2)
  bool streams;

  Maps maps_of(Index task) const {
    const Index start = task * depth * row.positions;
    const auto at = [&](const void* p) { return p == nullptr ? nullptr : static_cast<const T*>(p) + start; };
    const auto into = [&](void* p) { return p == nullptr ? nullptr : static_cast<T*>(p) + start; };
    return {at(call.gradient), at(call.x), at(call.y), into(call.dx), into(call.dresidual)};
  }

  template <bool Relu>
  static SGENET_INLINE P upstream(const Maps& maps, Index at) {
    P gradient = P::read(maps.gradient + at);
    if constexpr (Relu) {
      const P y = P::read(maps.y + at);
      for (int h = 0; h < P::kVectors; ++h) gradient.v[h] = y.v[h] <= 0.0f ? V{} : gradient.v[h];
    }
    return gradient;
  }

  struct Group {
    Index channel;
    const float* semantic;
    Statistics statistics;
    float weight, bias;
    float *normalised, *slope;  // n and u of each position, pack by pack; then the gate and dc
  };

  // n and u of `Count` packs, and the residual's gradient on the way; adds to the sums of u and u n.
  template <bool Relu, int Count>
  SGENET_INLINE void slope_of(const Maps& maps, const Group& of, Index pack, V& slopes, V& products) const {
    V t[Count][P::kVectors] = {}, through_gate[Count][P::kVectors] = {};
    for (Index j = 0; j < depth; ++j) {
      const Map map(call.affine, of.channel + j);
      const V g = all<W>(of.semantic[j]);
      for (int k = 0; k < Count; ++k) {
        const Index at = j * row.positions + row.start(pack + k);
        const P in = P::read(maps.x + at), gradient = upstream<Relu>(maps, at);
        if (Relu && maps.dresidual != nullptr) gradient.write(maps.dresidual + at);
        for (int h = 0; h < P::kVectors; ++h) {
          const V x = map(in.v[h]);
          t[k][h] += (x - g) * g;
          through_gate[k][h] += gradient.v[h] * x;
        }
      }
    }
    const float inverse = of.statistics.inverse(call.eps);
    for (int k = 0; k < Count; ++k) {
      for (int h = 0; h < P::kVectors; ++h) {
        const V n = (t[k][h] - of.statistics.left) * inverse;
        const V gate = logistic<W>(1.0f, kMinusLog2E * (of.weight * n + of.bias));
        const V u = through_gate[k][h] * (gate * (1.0f - gate)) * call.scale;
        const Index at = (pack + k) * P::kElements + h * W;
        store<W>(of.normalised + at, n);
        store<W>(of.slope + at, u);
        slopes += row.counted(pack + k, h, u);
        products += row.counted(pack + k, h, u * n);
      }
    }
  }

  template <bool Relu>
  void sum_all(const Maps& maps, const Group& of, float& dbeta, float& dgamma) const {
    const auto sums_of = [&](Index pack, Index last) SGENET_INLINE {
      V slopes{}, products{};
      for (; pack + kTogether <= last; pack += kTogether) {
        slope_of<Relu, kTogether>(maps, of, pack, slopes, products);
      }
      for (; pack < last; ++pack) slope_of<Relu, 1>(maps, of, pack, slopes, products);
      return Several<W, 2>{{slopes, products}};
    };
    const auto sums = row.template sums<2>(sums_of);
    dbeta = sums[0];
    dgamma = sums[1];
  }

  // The gate takes the place of n, and dc that of u.
  void find_similarity_gradient(const Group& of, float dbeta, float dgamma) const {
    const float linear = of.weight / (of.statistics.spread + call.eps);
    const float curved = of.weight * dgamma * of.statistics.curvature(row.positions);
    const float centre = dbeta / float(row.positions);
    for (Index i = 0; i < row.floats(); i += W) {
      const V n = load<W>(of.normalised + i), u = load<W>(of.slope + i);
      store<W>(of.normalised + i, logistic<W>(call.scale, kMinusLog2E * (of.weight * n + of.bias)));
      store<W>(of.slope + i, linear * (u - centre) - curved * n);
    }
  }

  // dg / m of one channel: the mean of dc (x - g). dc sums to 0, so the g makes no difference but to the rounding.
  float through_mean(const Map& map, const T* x, float semantic, const float* similarity) const {
    const auto sum_of = [&](Index pack, Index last) SGENET_INLINE {
      V sum{}, other{};
      for (; pack < last; ++pack) {
        const P in = P::read(x + row.start(pack));
        for (int h = 0; h < P::kVectors; ++h) {
          const V product = (map(in.v[h]) - semantic) * load<W>(similarity + pack * P::kElements + h * W);
          (pack & 1 ? sum : other) += row.counted(pack, h, product);
        }
      }
      return Several<W, 1>{{sum + other}};
    };
    return row.template sums<1>(sum_of)[0] / float(row.positions);
  }

  // dx = a dy + dc g + dg / m
  template <bool Relu>
  void write_all(const Maps& maps, const Group& of) const {
    for (Index j = 0; j < depth; ++j) {
      const Index start = j * row.positions;
      const float g = of.semantic[j];
      const float mean = through_mean(Map(call.affine, of.channel + j), maps.x + start, g, of.slope);
      for (Index pack = 0; pack < row.packs; ++pack) {
        const Index at = start + row.start(pack);
        P out = upstream<Relu>(maps, at);
        for (int h = 0; h < P::kVectors; ++h) {
          const Index place = pack * P::kElements + h * W;
          out.v[h] = out.v[h] * load<W>(of.normalised + place) + (load<W>(of.slope + place) * g + mean);
        }
        streams ? out.stream(maps.dx + at) : out.write(maps.dx + at);
      }
    }
  }

  void run_group(Index task, float* scratch) const {
    const Index group = task % call.groups;
    Maps maps = maps_of(task);
    const Statistics statistics{call.statistics[task * 2], call.statistics[task * 2 + 1]};
    const Group of{group * depth,     call.semantic + task * depth, statistics, call.weight[group],
                   call.bias[group], scratch,                      scratch + row.floats()};
    float dbeta, dgamma;
    maps.y != nullptr ? sum_all<true>(maps, of, dbeta, dgamma) : sum_all<false>(maps, of, dbeta, dgamma);
    parameter_gradients[task * 2] = dgamma;
    parameter_gradients[task * 2 + 1] = dbeta;
    find_similarity_gradient(of, dbeta, dgamma);
    if (maps.dresidual != nullptr) {  // it is the gradient behind the ReLU
      maps.gradient = maps.dresidual;
      maps.y = nullptr;
    }
    maps.y != nullptr ? write_all<true>(maps, of) : write_all<false>(maps, of);
  }

  void sum_parameter_gradients() const {
    for (Index task = 0; task < call.shape.batch * call.groups; ++task) {
      call.dweight[task % call.groups] += parameter_gradients[task * 2];
      call.dbias[task % call.groups] += parameter_gradients[task * 2 + 1];
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
