// The deviation of a group's similarity from one look at its channels.
//
// t = g . (x - g) is linear in x, so its variance is g' Cov(x) g: what the first look needs to gather besides the means
// are the products of the channels within each group. In a vector that holds whole groups they are the products of the
// vector with itself, turned by 0 .. K / 2 lanes within each run of K:
//
//     a0 a1 a2 a3 | b0 ..      turned by 0: the squares
//     a1 a2 a3 a0 | b1 ..      by 1: the neighbours a0 a1, a1 a2, a2 a3, a3 a0
//     a2 a3 a0 a1 | b2 ..      by 2: a0 a2 and a1 a3, each twice
//
// All is relative to an origin near the values: a constant map gives 0 throughout, and a large mean cancels nothing.
#pragma once

#include <cmath>

#include "abi.h"
#include "rows.h"
#include "statistics.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

// Lane l of the result is lane l + R of the same run of K.
template <int W, int K, int R>
struct Turned {
  static constexpr int lane(int l) { return l / K * K + (l + R) % K; }
};

template <class T, int W, int K>
struct Covariances {
  using P = Pack<T, W>;
  using V = Vector<W>;

  // The products grow with the depth, and beyond 4 channels a third look costs less; so it does for bfloat16, of which
  // a look brings half the bytes for as many products.
  static constexpr bool kWorthIt = P::kVectors == 1 && W > 1 && K <= 4;

  static constexpr int kProducts = K / 2 + 1;  // product i is the vector times itself turned by i
  static constexpr int kSums = 1 + kProducts;  // vectors for each vector of channels: the sum of x, and the products'
  static constexpr int kTogether = 4;          // rows for which the sums are loaded and stored once
  static constexpr Index kNearOrigin = 16;     // rows whose mean is the origin

  static Index floats(Index channels) { return channels * kSums; }

  // Where the sum of the channel at `place` is among the sums.
  static Index sum_at(Index place) { return place / W * (kSums * W) + place % W; }

  // The first row plus the mean distance from it: not the mean itself, which rounding may move off a constant map.
  static void find_origin(const T* x, Index positions, Index channels, float* origin) {
    const Index rows = least(kNearOrigin, positions);
    for (Index place = 0; place < channels; place += W) {
      const V first = P::read(x + place).v[0];
      V distance{};
      for (Index row = 1; row < rows; ++row) distance += P::read(x + row * channels + place).v[0] - first;
      store<W>(origin + place, first + distance / float(rows));
    }
  }

  static void gather(const T* x, Range rows, Index channels, const float* origin, float* sums) {
    Index row = rows.first;
    for (; row + kTogether <= rows.last; row += kTogether) {
      add_rows<kTogether>(x + row * channels, channels, origin, sums);
    }
    for (; row < rows.last; ++row) add_rows<1>(x + row * channels, channels, origin, sums);
  }

  // From the sums and g; the map that is enhanced is x * factor + shift where there is a factor.
  static Statistics statistics_of(Index group, const float* sums, const float* origin, const float* semantic,
                                  const float* factor, const float* shift, Index positions) {
    const Index place = group * K;
    sums += sum_at(place);
    const double m = double(positions);
    double left = 0, variance = 0, weights[K];
    for (int j = 0; j < K; ++j) {
      const double g = semantic[place + j], scale = factor == nullptr ? 1.0 : double(factor[place + j]);
      const double mean = (origin[place + j] + sums[j] / m) * scale + (factor == nullptr ? 0.0 : shift[place + j]);
      left += g * (mean - g);
      weights[j] = g * scale;
    }
    for (int turn = 0; turn < kProducts; ++turn) {
      const int times = 2 * turn % K == 0 ? 1 : 2;  // of i, j and j, i the sums hold one, but both of half a turn
      for (int j = 0; j < K; ++j) {
        const int other = (j + turn) % K;
        const double covariance = sums[(1 + turn) * W + j] - double(sums[j]) * sums[other] / m;
        variance += times * weights[j] * weights[other] * covariance;
      }
    }
    return {float(left), variance > 0 ? float(std::sqrt(variance / (m - 1))) : 0.0f};
  }

 private:
  template <int Count>
  static void add_rows(const T* x, Index channels, const float* origin, float* sums) {
    for (Index place = 0; place < channels; place += W, sums += kSums * W) {
      const V from = load<W>(origin + place);
      V sum[kSums];
      for (int i = 0; i < kSums; ++i) sum[i] = load<W>(sums + i * W);
      for (int r = 0; r < Count; ++r) {
        const V in = Rows<T, W>::template read_side_by_side<Count>(x, channels, place, r).v[0] - from;
        sum[0] += in;
        unrolled<kProducts>([&](auto turn) SGENET_INLINE {
          sum[1 + turn] += in * shuffled<W>(in, in, Turned<W, K, decltype(turn)::value>{});
        });
      }
      for (int i = 0; i < kSums; ++i) store<W>(sums + i * W, sum[i]);
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
