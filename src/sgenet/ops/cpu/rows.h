// Rows of NHWC maps: in which order they are walked over, and what needs no groups.
#pragma once

#include "abi.h"
#include "threads.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

// Rows (positions) between two look-ups of the running sums. A chunk's sums are formed by themselves and then added to
// the total, which keeps the rounding of long sums small. A pass that only reads may walk over the chunks downwards, to
// begin with what the one before it has left in the nearest cache, and leave its end to the next.
constexpr Index kChunk = 64;

enum class Direction { kUp, kDown };

template <class Body>
void in_chunks(Range rows, Direction direction, Body body) {
  const Index chunks = (rows.last - rows.first + kChunk - 1) / kChunk;
  for (Index i = 0; i < chunks; ++i) {
    const Index first = rows.first + (direction == Direction::kUp ? i : chunks - 1 - i) * kChunk;
    body(Range{first, least(first + kChunk, rows.last)});
  }
}

inline void clear(float* values, Index count) { std::memset(values, 0, std::size_t(count) * sizeof(float)); }

inline void add_to(float* total, const float* part, Index count) {
  for (Index i = 0; i < count; ++i) total[i] += part[i];
}

// The order of channels within a row of packs, and the loops over rows that need no groups.
template <class T, int W>
struct Rows {
  using P = Pack<T, W>;
  using V = Vector<W>;

  // Calls body(place, channel) for each place in pack order, in loops that the compiler can make vectors of.
  template <class Body>
  static SGENET_INLINE void for_places(Index channels, Body body) {
    for (Index pack = 0; pack < channels; pack += P::kElements) {
      for (int h = 0; h < P::kVectors; ++h) {
        for (int lane = 0; lane < W; ++lane) body(pack + h * W + lane, pack + P::element(h, lane));
      }
    }
  }

  static Index channel_of(Index place) {
    const Index within = place % P::kElements;
    return place - within + P::element(int(within / W), int(within % W));
  }

  static void to_pack_order(const float* natural, float* packed, Index channels) {
    for_places(channels, [=](Index place, Index channel) SGENET_INLINE { packed[place] = natural[channel]; });
  }

  static void to_natural_order(const float* packed, float* natural, Index channels) {
    for_places(channels, [=](Index place, Index channel) SGENET_INLINE { natural[channel] = packed[place]; });
  }

  // sums[c] += the sum of channel c over the rows. As many columns at once as there are registers for: row after row,
  // so that memory is read in its own order, which the prefetcher knows to follow; and what is beside them, early.
  static void add_columns(const T* x, Range rows, Index channels, float* sums) {
    constexpr int kPacks = kSumRegisters / P::kVectors;
    Index c = 0;
    for (; c + kPacks * P::kElements <= channels; c += kPacks * P::kElements) {
      add_block<kPacks>(x, rows, channels, c, sums);
    }
    for (; c < channels; c += P::kElements) add_block<1>(x, rows, channels, c, sums);
  }

  // The pack at `place` of row r of `Count` rows from x on that are walked over side by side. The hardware's prefetcher
  // loses its way between them, so each step asks for one line of the rows that come next, in memory's own order.
  template <int Count>
  static SGENET_INLINE P read_side_by_side(const T* x, Index channels, Index place, int r) {
    if constexpr (Count > 1) prefetch(x + 2 * Count * channels + place * Count + r * P::kElements);
    return P::read(x + r * channels + place);
  }

 private:
  static constexpr int kSumRegisters = SGENET_WIDTH == 16 ? 16 : 8;

  template <int Packs>
  static void add_block(const T* x, Range rows, Index channels, Index c, float* sums) {
    V sum[Packs][P::kVectors] = {};
    for (Index row = rows.first; row < rows.last; ++row) {
      for (int i = 0; i < Packs; ++i) {
        const T* place = x + row * channels + c + i * P::kElements;
        if (Packs > 1) prefetch_early(place + Packs * P::kElements);
        const P in = P::read(place);
        for (int h = 0; h < P::kVectors; ++h) sum[i][h] += in.v[h];
      }
    }
    for (int i = 0; i < Packs; ++i) {
      for (int h = 0; h < P::kVectors; ++h) {
        float* place = sums + c + i * P::kElements + h * W;
        store<W>(place, load<W>(place) + sum[i][h]);
      }
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
