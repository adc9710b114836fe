// Rows of NHWC maps: in which order they are walked over, and what needs no groups.
#pragma once

#include "abi.h"
#include "threads.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

// Rows (positions) that are summed by themselves (ChunkedSums). A pass that only reads may walk over the chunks
// downwards, to begin with what the one before it has left in the nearest cache, and leave its end to the next.
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

// Sums over rows. Those of a chunk are formed by themselves and then added to the total, with compensation: a sum over a
// million rows is as good as one over a chunk.
struct ChunkedSums {
  float *total, *of_chunk, *excess;
  Index count;

  void carve(Carver& carver, Index values) {
    count = values;
    total = carver.floats(count);
    of_chunk = carver.floats(count);
    excess = carver.floats(count);
  }

  // total = the sums over all rows, where add(rows, sums) adds those over some.
  template <class Add>
  void form(Range rows, Direction direction, Add add) const {
    clear(total, count);
    if (rows.last - rows.first <= kChunk) return add(rows, total);
    clear(excess, count);
    in_chunks(rows, direction, [&](Range chunk) {
      clear(of_chunk, count);
      add(chunk, of_chunk);
      for (Index i = 0; i < count; ++i) add_compensated(total[i], excess[i], of_chunk[i]);
    });
  }
};

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
  // come back to every row for another part of it. With AsksEarly, what stands at the same place from `early` on is asked
  // for.
  template <bool AsksEarly = false>
  static void add_columns(const T* x, Range rows, Index channels, float* sums, const T* early = nullptr) {
    constexpr int kTogether = 4;
    Index row = rows.first;
    for (; row + kTogether <= rows.last; row += kTogether) {
      const Index start = row * channels;
      add_rows<kTogether, AsksEarly>(x + start, AsksEarly ? early + start : nullptr, channels, sums);
    }
    for (; row < rows.last; ++row) add_rows<1, false>(x + row * channels, nullptr, channels, sums);
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
  template <int Count, bool AsksEarly>
  static void add_rows(const T* x, const T* early, Index channels, float* sums) {
    for (Index place = 0; place < channels; place += P::kElements) {
      V sum[P::kVectors];
      for (int h = 0; h < P::kVectors; ++h) sum[h] = load<W>(sums + place + h * W);
      for (int r = 0; r < Count; ++r) {
        if constexpr (AsksEarly) prefetch_early(early + r * channels + place);
        const P in = read_side_by_side<Count>(x, channels, place, r);
        for (int h = 0; h < P::kVectors; ++h) sum[h] += in.v[h];
      }
      for (int h = 0; h < P::kVectors; ++h) store<W>(sums + place + h * W, sum[h]);
    }
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
