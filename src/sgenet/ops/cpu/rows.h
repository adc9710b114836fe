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

// total = the sums over the rows, of which add(chunk) adds those of a chunk to `part`.
template <class Add>
void sum_in_chunks(Range rows, float* total, float* part, Index count, Add add) {
  clear(total, count);
  in_chunks(rows, Direction::kUp, [&](Range chunk) {
    clear(part, count);
    add(chunk);
    add_to(total, part, count);
  });
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

  // sums[c] += the sum of channel c over the rows, in memory's own order and not column by column: it is far slower to
  // come back to every row for another part of it.
  static void add_columns(const T* x, Range rows, Index channels, float* sums) {
    constexpr int kTogether = 4;
    Index row = rows.first;
    for (; row + kTogether <= rows.last; row += kTogether) add_rows<kTogether>(x + row * channels, channels, sums);
    for (; row < rows.last; ++row) add_rows<1>(x + row * channels, channels, sums);
  }

  // The pack at `place` of row r of `Count` rows from x on that are walked over side by side. The hardware's prefetcher
  // loses its way between them, so each step asks for one line of what comes, in memory's own order.
  template <int Count>
  static SGENET_INLINE P read_side_by_side(const T* x, Index channels, Index place, int r) {
    if constexpr (Count > 1) prefetch(x + kAhead + place * Count + r * P::kElements);
    return P::read(x + r * channels + place);
  }

  // How far ahead of what is read to ask for a line, in elements.
  static constexpr Index kAhead = 8192 / Index(sizeof(T));

 private:
  template <int Count>
  static void add_rows(const T* x, Index channels, float* sums) {
    for (Index place = 0; place < channels; place += P::kElements) {
      V sum[P::kVectors];
      for (int h = 0; h < P::kVectors; ++h) sum[h] = load<W>(sums + place + h * W);
      for (int r = 0; r < Count; ++r) {
        const P in = read_side_by_side<Count>(x, channels, place, r);
        for (int h = 0; h < P::kVectors; ++h) sum[h] += in.v[h];
      }
      for (int h = 0; h < P::kVectors; ++h) store<W>(sums + place + h * W, sum[h]);
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
