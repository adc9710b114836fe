// Spatial Group-wise Enhance on NHWC maps. kernels.h explains the algorithm and draws the tiles.
#pragma once

#include "abi.h"
#include "rows.h"
#include "statistics.h"
#include "threads.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

// Sums that are formed side by side: as many as the registers hold.
constexpr int kSideBySide = SGENET_WIDTH == 16 ? 4 : 2;

// Groups in blocks of W. A block's packs fall into K runs of `repeats` packs; a packed vector holds one value for each
// of its groups (see run_sums), in an order that `group_of` knows, "slot order".
template <class T, int W, int K, bool WithAffine>
struct ChannelsLast {
  using P = Pack<T, W>;
  using V = Vector<W>;
  using Order = Rows<T, W>;

  static Index group_of(Index slot) {
    const Index lane = slot % W;
    return slot - lane + lane % K * (W / K) + lane / K;
  }

  // While a pass writes, memory has time to bring what is read next: of the thread's next sample what stands at the
  // same place, where a cache has room for it, or else what comes a few rows later.
  static Index ahead(Index sample_elements, bool more, Index room_bytes) {
    return more && sample_elements * Index(sizeof(T)) <= room_bytes ? sample_elements : Order::kAhead;
  }

  // What all samples share, in pack order and slot order.
  struct Parameters {
    Index channels, groups;
    Index depth_runs;  // see repeats()
    float *factor, *shift;
    float *weight, *bias;

    void carve(Carver& carver, Index all_channels, Index all_groups) {
      channels = all_channels;
      groups = all_groups;
      depth_runs = channels / groups / P::kVectors / K;
      factor = carver.floats(WithAffine ? channels : 0);
      shift = carver.floats(WithAffine ? channels : 0);
      weight = carver.floats(groups);
      bias = carver.floats(groups);
    }

    void fill(const Affine& affine, const float* natural_weight, const float* natural_bias) {
      if (WithAffine) {
        Order::to_pack_order(affine.factor, factor, channels);
        Order::to_pack_order(affine.shift, shift, channels);
      }
      for (Index slot = 0; slot < groups; ++slot) {
        weight[slot] = natural_weight[group_of(slot)];
        bias[slot] = natural_bias[group_of(slot)];
      }
    }

    // How many packs lie in each run: one where a group is shorter than a vector.
    SGENET_INLINE Index repeats() const { return K < W ? 1 : depth_runs; }

    SGENET_INLINE Index block_channels() const { return P::kElements * K * repeats(); }
  };

  // The vector at `place` of the map that is enhanced.
  static SGENET_INLINE V mapped(const Parameters& of, V x, Index place) {
    return WithAffine ? x * load<W>(of.factor + place) + load<W>(of.shift + place) : x;
  }

  // For each group of the block that begins at `place`: sums over its channels, `Count` of them side by side.
  // term(sums, place) adds what the pack at `place` has.
  template <int Count, class Term>
  static SGENET_INLINE Several<W, Count> over_channels(const Parameters& of, Index place, Term term) {
    auto leaf = [&](auto run) SGENET_INLINE {
      Several<W, Count> sums{};
      for (Index i = 0; i < of.repeats(); ++i) {
        term(sums, place + (decltype(run)::value * of.repeats() + i) * P::kElements);
      }
      return sums;
    };
    return run_sums<W, Count, K>(leaf);
  }

  // Packed values of a block, and what of them belongs to each lane of the packs of a run. Where a group fills a vector,
  // that is one value: reading it again takes no shuffle.
  struct Packed {
    const float* place;
    V values;

    explicit SGENET_INLINE Packed(const float* p) : place(p), values(K == W ? V{} : load<W>(p)) {}

    template <int Run>
    SGENET_INLINE V of(Constant<Run>) const {
      return K == W ? all<W>(place[Run]) : spread<W, K, Run>(values);
    }
  };

  // Calls body(run, place) for each pack of the block.
  template <class Body>
  static SGENET_INLINE void for_packs(const Parameters& of, Index place, Body body) {
    unrolled<K>([&](auto run) SGENET_INLINE {
      for (Index i = 0; i < of.repeats(); ++i) {
        body(run, place + (decltype(run)::value * of.repeats() + i) * P::kElements);
      }
    });
  }
};

// ----------------------------------------------------------------------------------------------------------- forward

template <class T, int W, int K, bool WithAffine>
struct ChannelsLastForward : ChannelsLast<T, W, K, WithAffine> {
  using Base = ChannelsLast<T, W, K, WithAffine>;
  using typename Base::Order;
  using typename Base::P;
  using typename Base::Packed;
  using typename Base::Parameters;
  using typename Base::V;

  static constexpr Index kGated = 16;  // rows whose gates are found at once

  // What one thread keeps for a sample.
  struct Area {
    ChunkedSums columns;       // of each channel
    ChunkedSums similarities;  // of each group's t, and of its t^2
    float* semantic;           // g, in pack order
    float *rate, *start;       // of each group: its gate is f / (1 + 2^(rate t + start))
    float* similarity;         // t of each group and position
    float* gates;              // of each group, in kGated rows

    void carve(Carver& carver, Index channels, Index groups, Index positions) {
      columns.carve(carver, channels);
      similarities.carve(carver, 2 * groups);
      semantic = carver.floats(channels);
      rate = carver.floats(groups);
      start = carver.floats(groups);
      similarity = carver.floats(groups * positions);
      gates = carver.floats(groups * kGated);
    }
  };

  const EnhanceForward& call;
  const Parameters& of;
  bool streams;

  static constexpr Index kNearBytes = Index{1} << 20;  // room for the next sample in the nearer cache, and in the last
  static constexpr Index kRoomBytes = Index{4} << 20;

  Index positions() const { return call.shape.positions; }

  // How many maps of a sample should lie in a cache at once: x, and the residual that is asked for early.
  Index maps_held() const { return call.residual != nullptr ? 2 : 1; }

  // Memory has time in this pass and the next, where x is in a cache: the residual is asked for, and in both, because
  // asking in either of them alone was measured to be slower.
  void sum_columns(const T* x, const T* residual, Range rows, Area& own) const {
    own.columns.form(rows, Direction::kUp, [&](Range some, float* sums) {
      residual != nullptr ? Order::template add_columns<true>(x, some, of.channels, sums, residual)
                          : Order::add_columns(x, some, of.channels, sums);
    });
  }

  // g of the sample from the sums of all parts.
  void find_semantic(Index sample, Team team, const Area* parts) const {
    float* semantic = parts[team.rank].semantic;
    for (Index place = 0; place < of.channels; place += W) {
      V sum{};
      for (Index part = 0; part < team.size; ++part) sum += load<W>(parts[part].columns.total + place);
      store<W>(semantic + place, Base::mapped(of, sum / float(positions()), place));
    }
    if (team.rank == 0) Order::to_natural_order(semantic, call.semantic + sample * of.channels, of.channels);
  }

  // t of each row and group, and the sums of t and t^2. Memory has time meanwhile: with AsksEarly, what stands at the
  // same place from `early` on is asked for.
  template <bool AsksEarly>
  void find_similarity(const T* x, const T* early, Range rows, Area& own) const {
    own.similarities.form(rows, Direction::kDown, [&](Range some, float* sums) {
      Index row = some.first;
      for (; row + kSideBySide <= some.last; row += kSideBySide) {
        similarity_of_rows<kSideBySide, AsksEarly>(x, early, row, own, sums);
      }
      for (; row < some.last; ++row) similarity_of_rows<1, AsksEarly>(x, early, row, own, sums);
    });
  }

  template <int Count, bool AsksEarly>
  void similarity_of_rows(const T* x, const T* early, Index row, const Area& own, float* total) const {
    const Parameters its = of;
    const float* semantic = own.semantic;
    float *similarity = own.similarity + row * its.groups, *squares = total + its.groups;
    x += row * its.channels;
    early += row * its.channels;
    for (Index slot = 0, place = 0; slot < its.groups; slot += W, place += its.block_channels()) {
      const auto t = Base::template over_channels<Count>(its, place, [&](auto& sums, Index at) SGENET_INLINE {
        for (int r = 0; r < Count; ++r) {
          if constexpr (AsksEarly) prefetch_early(early + r * its.channels + at);
          const P in = Order::template read_side_by_side<Count>(x, its.channels, at, r);
          for (int h = 0; h < P::kVectors; ++h) {
            const V g = load<W>(semantic + at + h * W);
            sums.v[r] += (Base::mapped(its, in.v[h], at + h * W) - g) * g;
          }
        }
      });
      V sum = load<W>(total + slot), square = load<W>(squares + slot);
      for (int r = 0; r < Count; ++r) {
        store<W>(similarity + r * its.groups + slot, t.v[r]);
        sum += t.v[r];
        square += t.v[r] * t.v[r];
      }
      store<W>(total + slot, sum);
      store<W>(squares + slot, square);
    }
  }

  // What may be asked for while the similarities are found: the residual or, where there is none, the next sample, but
  // only where the nearer cache holds it beside this one. A larger one drives this one out, which is needed once more.
  const T* early_of(Index sample, const T* residual, bool more) const {
    const Index size = positions() * of.channels;
    if (residual != nullptr) return residual;
    if (!more || size * Index(sizeof(T)) > kNearBytes) return nullptr;
    return static_cast<const T*>(call.x) + (sample + 1) * size;
  }

  // What the gates are made of, for this sample's last pass and for the caller.
  void find_statistics(Index sample, Team team, const Area* parts) const {
    const Area& own = parts[team.rank];
    for (Index slot = 0; slot < of.groups; ++slot) {
      float total = 0, squares = 0;
      for (Index part = 0; part < team.size; ++part) {
        total += parts[part].similarities.total[slot];
        squares += parts[part].similarities.total[of.groups + slot];
      }
      const Statistics found = statistics_of(total, squares, positions());
      own.rate[slot] = kMinusLog2E * of.weight[slot] * found.inverse(call.eps);
      own.start[slot] = kMinusLog2E * of.bias[slot] - own.rate[slot] * found.left;
      if (team.rank != 0) continue;
      float* record = call.statistics + (sample * of.groups + Base::group_of(slot)) * 2;
      record[0] = found.left;
      record[1] = found.spread;
    }
  }

  // The gates of some rows. They have a place that stays in the nearest cache: written over t, they would go to memory.
  void find_gates(const float* similarity, Index rows, const Area& own) const {
    const Index groups = of.groups;
    const float scale = call.scale;
    for (Index slot = 0; slot < groups; slot += W) {
      const V rate = load<W>(own.rate + slot), start = load<W>(own.start + slot);
      for (Index row = 0; row < rows; ++row) {
        const Index at = row * groups + slot;
        store<W>(own.gates + at, logistic<W>(scale, rate * load<W>(similarity + at) + start));
      }
    }
  }

  template <bool WithResidual, bool Streams>
  void enhance_row(const T* x, const T* residual, T* y, const float* gates, V floor, Index ahead) const {
    const Parameters its = of;
    for (Index slot = 0, place = 0; slot < its.groups; slot += W, place += its.block_channels()) {
      const Packed gate(gates + slot);
      Base::for_packs(its, place, [&](auto run, Index at) SGENET_INLINE {
        const V own_gate = gate.of(run);
        prefetch_early(x + at + ahead);
        P out = P::read(x + at);
        for (int h = 0; h < P::kVectors; ++h) out.v[h] = Base::mapped(its, out.v[h], at + h * W) * own_gate;
        if constexpr (WithResidual) {
          prefetch_early(residual + at + Order::kAhead);
          const P other = P::read(residual + at);
          for (int h = 0; h < P::kVectors; ++h) out.v[h] += other.v[h];
        }
        for (int h = 0; h < P::kVectors; ++h) out.v[h] = at_least<W>(out.v[h], floor);
        Streams ? out.stream(y + at) : out.write(y + at);
      });
    }
  }

  // Gates first and then row after row: a gate takes long to find, but many at once take hardly longer.
  template <bool WithResidual, bool Streams>
  void enhance(Index sample, Range rows, const Area& own, bool more) const {
    const V floor = all<W>(call.relu ? 0.0f : -__builtin_inff());
    const Index start = sample * positions() * of.channels;
    const T* x = static_cast<const T*>(call.x) + start;
    const T* residual = WithResidual ? static_cast<const T*>(call.residual) + start : x;
    T* y = static_cast<T*>(call.y) + start;
    const Index ahead = Base::ahead(of.channels * positions(), more, kRoomBytes);
    for (Index first = rows.first; first < rows.last; first += kGated) {
      const Index count = least(kGated, rows.last - first);
      find_gates(own.similarity + first * of.groups, count, own);
      for (Index row = 0; row < count; ++row) {
        const Index at = (first + row) * of.channels;
        enhance_row<WithResidual, Streams>(x + at, residual + at, y + at, own.gates + row * of.groups, floor, ahead);
      }
    }
  }

  // One sample by a team. Each thread adds up the parts' sums for itself: sooner done than waited for.
  void run_sample(Index sample, Team team, Area* parts, bool more) const {
    const Index size = positions() * of.channels, start = sample * size;
    const T* x = static_cast<const T*>(call.x) + start;
    const T* residual = call.residual == nullptr ? nullptr : static_cast<const T*>(call.residual) + start;
    const Range rows = team.share(positions());
    sum_columns(x, residual, rows, parts[team.rank]);
    team.barrier();
    find_semantic(sample, team, parts);
    const T* early = early_of(sample, residual, more);
    early != nullptr ? find_similarity<true>(x, early, rows, parts[team.rank])
                     : find_similarity<false>(x, x, rows, parts[team.rank]);
    team.barrier();
    find_statistics(sample, team, parts);
    const Area& own = parts[team.rank];
    if (residual != nullptr) {
      streams ? enhance<true, true>(sample, rows, own, more) : enhance<true, false>(sample, rows, own, more);
    } else {
      streams ? enhance<false, true>(sample, rows, own, more) : enhance<false, false>(sample, rows, own, more);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------- backward

template <class T, int W, int K, bool WithAffine>
struct ChannelsLastBackward : ChannelsLast<T, W, K, WithAffine> {
  using Base = ChannelsLast<T, W, K, WithAffine>;
  using typename Base::Order;
  using typename Base::P;
  using typename Base::Packed;
  using typename Base::Parameters;
  using typename Base::V;

  static constexpr Index maps_held() { return 1; }

  // Room for the next sample. With bfloat16 the sums take longer than memory: of a large sample nothing is to be gained.
  static constexpr Index kRoomBytes = Index{P::kVectors == 2 ? 1 : 4} << 20;

  // Each row has two sums, and bfloat16 needs twice the registers for what it reads.
  static constexpr int kRows = P::kVectors == 2 ? 1 : kSideBySide / 2;

  // Rows that go through three steps one after the other, as many as the nearest cache holds of x. Each step is short
  // enough for many of its turns to be under way at once.
  static constexpr Index kLeastRows = 8, kMostRows = 16;
  static constexpr Index kTileBytes = Index{16} << 10;

  // Where the sums over some rows stand.
  struct Sums {
    float *slope, *product;           // of each group: u, u t
    float *by_slope, *by_similarity;  // of each channel: u x, t x

    Sums(float* all, Index channels, Index groups)
        : slope(all), product(slope + groups), by_slope(product + groups), by_similarity(by_slope + channels) {}
  };

  struct Area {
    ChunkedSums sums;                   // of the thread's rows
    float* whole;                       // the same of all threads' rows
    float* semantic;                    // g, in pack order
    float *left, *inverse;              // of each group: n = inverse (t - left)
    float *rate, *start;                // its gate is f / (1 + 2^(rate t + start))
    float *linear, *curved, *offset;    // dc = linear u - curved t + offset
    float* through_mean;                // dg / m of each channel
    float *similarity, *slope, *gate;   // t, u and a of each position and group

    void carve(Carver& carver, Index channels, Index groups, Index positions) {
      sums.carve(carver, 2 * (groups + channels));
      whole = carver.floats(sums.count);
      semantic = carver.floats(channels);
      left = carver.floats(groups);
      inverse = carver.floats(groups);
      rate = carver.floats(groups);
      start = carver.floats(groups);
      linear = carver.floats(groups);
      curved = carver.floats(groups);
      offset = carver.floats(groups);
      through_mean = carver.floats(channels);
      similarity = carver.floats(groups * positions);
      slope = carver.floats(groups * positions);
      gate = carver.floats(groups * positions);
    }
  };

  struct Maps {
    const T *gradient, *x, *y;
    T *dx, *dresidual;

    Maps from(Index at) const {
      return {gradient + at, x + at, y == nullptr ? y : y + at, dx + at,
              dresidual == nullptr ? dresidual : dresidual + at};
    }
  };

  const EnhanceBackward& call;
  const Parameters& of;
  float* parameter_gradients;  // (batch, groups, 2), in slot order
  bool streams;

  Index positions() const { return call.shape.positions; }

  Maps maps_of(Index sample) const {
    const Index start = sample * positions() * of.channels;
    const auto at = [&](const void* p) { return p == nullptr ? nullptr : static_cast<const T*>(p) + start; };
    const auto into = [&](void* p) { return p == nullptr ? nullptr : static_cast<T*>(p) + start; };
    return {at(call.gradient), at(call.x), at(call.y), into(call.dx), into(call.dresidual)};
  }

  void prepare(Index sample, Area& own) const {
    Order::to_pack_order(call.semantic + sample * of.channels, own.semantic, of.channels);
    for (Index slot = 0; slot < of.groups; ++slot) {
      const float* record = call.statistics + (sample * of.groups + Base::group_of(slot)) * 2;
      own.left[slot] = record[0];
      own.inverse[slot] = Statistics{record[0], record[1]}.inverse(call.eps);
      own.rate[slot] = kMinusLog2E * of.weight[slot] * own.inverse[slot];
      own.start[slot] = kMinusLog2E * of.bias[slot] - own.rate[slot] * own.left[slot];
    }
  }

  // The gradient behind the ReLU: 0 where y was cut off.
  template <bool Relu>
  static SGENET_INLINE P upstream(const Maps& maps, Index at) {
    P gradient = P::read(maps.gradient + at);
    if constexpr (Relu) {
      const P y = P::read(maps.y + at);
      for (int h = 0; h < P::kVectors; ++h) gradient.v[h] = y.v[h] <= 0.0f ? V{} : gradient.v[h];
    }
    return gradient;
  }

  // The first step: t of `Count` rows, and dy . x in the place of u. The residual's gradient is written on the way, and
  // what the next tile begins with is asked for.
  template <bool Relu, int Count>
  void find_products(const Maps& maps, Index row, Index ahead, const Area& own) const {
    const Parameters its = of;
    const float* semantic = own.semantic;
    const Maps from = maps.from(row * its.channels);
    float *similarity = own.similarity + row * its.groups, *product = own.slope + row * its.groups;
    for (Index slot = 0, place = 0; slot < its.groups; slot += W, place += its.block_channels()) {
      const auto sums = Base::template over_channels<2 * Count>(its, place, [&](auto& sum, Index at) SGENET_INLINE {
        for (int r = 0; r < Count; ++r) {
          const Index start = r * its.channels + at;
          prefetch_early(from.x + start + ahead);
          prefetch_early(from.gradient + start + ahead);
          const P in = P::read(from.x + start), gradient = upstream<Relu>(from, start);
          if (Relu && from.dresidual != nullptr) gradient.write(from.dresidual + start);
          for (int h = 0; h < P::kVectors; ++h) {
            const V x = Base::mapped(its, in.v[h], at + h * W), g = load<W>(semantic + at + h * W);
            sum.v[2 * r] += (x - g) * g;
            sum.v[2 * r + 1] += gradient.v[h] * x;
          }
        }
      });
      for (int r = 0; r < Count; ++r) {
        store<W>(similarity + r * its.groups + slot, sums.v[2 * r]);
        store<W>(product + r * its.groups + slot, sums.v[2 * r + 1]);
      }
    }
  }

  // The second step: u and the gate of all groups in some rows.
  void find_slopes(Range rows, const Area& own, const Sums& into) const {
    const Index groups = of.groups;
    const float scale = call.scale;
    for (Index slot = 0; slot < groups; slot += W) {
      const V rate = load<W>(own.rate + slot), start = load<W>(own.start + slot);
      V slopes = load<W>(into.slope + slot), products = load<W>(into.product + slot);
      for (Index at = rows.first * groups + slot; at < rows.last * groups; at += groups) {
        const V t = load<W>(own.similarity + at), sigmoid = logistic<W>(1.0f, rate * t + start);
        const V gate = scale * sigmoid, slope = load<W>(own.slope + at) * (gate - gate * sigmoid);
        store<W>(own.slope + at, slope);
        store<W>(own.gate + at, gate);
        slopes += slope;
        products += slope * t;
      }
      store<W>(into.slope + slot, slopes);
      store<W>(into.product + slot, products);
    }
  }

  // The third step: the sums by channel, of several packs at once, because each sum waits for the row before.
  void add_by_channel(const T* x, Range rows, const Area& own, const Sums& into) const {
    constexpr int kPacks = K < kSideBySide / P::kVectors ? K : kSideBySide / P::kVectors;
    const Parameters its = of;
    const Area area = own;
    const Sums sums = into;
    for (Index slot = 0, place = 0; slot < its.groups; slot += W, place += its.block_channels()) {
      unrolled<K / kPacks>([&](auto part) SGENET_INLINE {
        for (Index i = 0; i < its.repeats(); ++i) {
          const auto at = [&](int k) SGENET_INLINE {
            return place + ((decltype(part)::value * kPacks + k) * its.repeats() + i) * P::kElements;
          };
          V by_slope[kPacks][P::kVectors], by_similarity[kPacks][P::kVectors];
          for (int k = 0; k < kPacks; ++k) {
            for (int h = 0; h < P::kVectors; ++h) {
              by_slope[k][h] = load<W>(sums.by_slope + at(k) + h * W);
              by_similarity[k][h] = load<W>(sums.by_similarity + at(k) + h * W);
            }
          }
          for (Index row = rows.first; row < rows.last; ++row) {
            const Packed slope(area.slope + row * its.groups + slot);
            const Packed similarity(area.similarity + row * its.groups + slot);
            unrolled<kPacks>([&](auto pack) SGENET_INLINE {
              constexpr int k = decltype(pack)::value;
              const Constant<decltype(part)::value * kPacks + k> run{};
              const V u = slope.of(run), t = similarity.of(run);
              const P in = P::read(x + row * its.channels + at(k));
              for (int h = 0; h < P::kVectors; ++h) {
                const V mapped = Base::mapped(its, in.v[h], at(k) + h * W);
                by_slope[k][h] += u * mapped;
                by_similarity[k][h] += t * mapped;
              }
            });
          }
          for (int k = 0; k < kPacks; ++k) {
            for (int h = 0; h < P::kVectors; ++h) {
              store<W>(sums.by_slope + at(k) + h * W, by_slope[k][h]);
              store<W>(sums.by_similarity + at(k) + h * W, by_similarity[k][h]);
            }
          }
        }
      });
    }
  }

  template <bool Relu>
  void sum_tile(const Maps& maps, Range rows, Index ahead, const Area& own, const Sums& into) const {
    Index row = rows.first;
    for (; row + kRows <= rows.last; row += kRows) find_products<Relu, kRows>(maps, row, ahead, own);
    for (; row < rows.last; ++row) find_products<Relu, 1>(maps, row, ahead, own);
    find_slopes(rows, own, into);
    add_by_channel(maps.x, rows, own, into);
  }

  template <bool Relu>
  void sum_all(const Maps& maps, Range rows, Area& own) const {
    const Index fitting = kTileBytes / (of.channels * Index(sizeof(T)));
    const Index together = fitting < kLeastRows ? kLeastRows : least(fitting, kMostRows);
    own.sums.form(rows, Direction::kUp, [&](Range some, float* sums) {
      const Sums into(sums, of.channels, of.groups);
      for (Index first = some.first; first < some.last; first += together) {
        const Range tile{first, least(first + together, some.last)};
        sum_tile<Relu>(maps, tile, together * of.channels, own, into);
      }
    });
  }

  // What dx needs of the sums, and the sample's part of the gradients of weight and bias.
  void find_coefficients(Index sample, Team team, const Area* parts) const {
    const Area& own = parts[team.rank];
    clear(own.whole, own.sums.count);
    for (Index part = 0; part < team.size; ++part) add_to(own.whole, parts[part].sums.total, own.sums.count);
    const Sums whole(own.whole, of.channels, of.groups);
    const float m = float(positions());
    for (Index slot = 0; slot < of.groups; ++slot) {
      const float dbeta = whole.slope[slot], left = own.left[slot], inverse = own.inverse[slot];
      const float dgamma = inverse * (whole.product[slot] - left * dbeta);
      if (team.rank == 0) {
        float* record = parameter_gradients + (sample * of.groups + slot) * 2;
        record[0] = dgamma;
        record[1] = dbeta;
      }
      const float spread = call.statistics[(sample * of.groups + Base::group_of(slot)) * 2 + 1];
      own.linear[slot] = of.weight[slot] / (spread + call.eps);
      own.curved[slot] = of.weight[slot] * dgamma * Statistics{0, spread}.curvature(positions()) * inverse;
      own.offset[slot] = own.curved[slot] * left - own.linear[slot] * (dbeta / m);
    }
    // dg / m: the mean of dc (x - g) over the positions, which is that of dc x, because dc sums up to 0.
    for (Index slot = 0, place = 0; slot < of.groups; slot += W, place += of.block_channels()) {
      const Packed linears(own.linear + slot), curveds(own.curved + slot), offsets(own.offset + slot);
      Base::for_packs(of, place, [&](auto run, Index at) SGENET_INLINE {
        const V linear = linears.of(run), curved = curveds.of(run), offset = offsets.of(run);
        for (int h = 0; h < P::kVectors; ++h) {
          const V sum = linear * load<W>(whole.by_slope + at + h * W) -
                        curved * load<W>(whole.by_similarity + at + h * W);
          store<W>(own.through_mean + at + h * W, sum / m + offset * load<W>(own.semantic + at + h * W));
        }
      });
    }
  }

  // dc of some rows takes the place of their u.
  void find_through_similarity(Range rows, const Area& own) const {
    const Index groups = of.groups;
    for (Index slot = 0; slot < groups; slot += W) {
      const V linear = load<W>(own.linear + slot), curved = load<W>(own.curved + slot);
      const V offset = load<W>(own.offset + slot);
      for (Index at = rows.first * groups + slot; at < rows.last * groups; at += groups) {
        store<W>(own.slope + at, linear * load<W>(own.slope + at) - curved * load<W>(own.similarity + at) + offset);
      }
    }
  }

  // dx = a dy + dc g + dg / m
  template <bool Relu, bool Streams>
  void write_row(Maps maps, Index row, const Area& own, Index ahead) const {
    const Parameters its = of;
    const Area area = own;
    maps = maps.from(row * its.channels);
    for (Index slot = 0, place = 0; slot < its.groups; slot += W, place += its.block_channels()) {
      const Index found = row * its.groups + slot;
      const V gates = load<W>(area.gate + found), throughs = load<W>(area.slope + found);
      Base::for_packs(its, place, [&](auto run, Index at) SGENET_INLINE {
        constexpr int kRun = decltype(run)::value;
        const V gate = spread<W, K, kRun>(gates), through_similarity = spread<W, K, kRun>(throughs);
        prefetch_early(maps.gradient + at + ahead);
        if (ahead != Order::kAhead) prefetch_early(maps.x + at + ahead);
        P out = upstream<Relu>(maps, at);
        for (int h = 0; h < P::kVectors; ++h) {
          out.v[h] = out.v[h] * gate + (through_similarity * load<W>(area.semantic + at + h * W) +
                                        load<W>(area.through_mean + at + h * W));
        }
        Streams ? out.stream(maps.dx + at) : out.write(maps.dx + at);
      });
    }
  }

  template <bool Relu, bool Streams>
  void write_all(const Maps& maps, Range rows, const Area& own, bool more) const {
    const Index ahead = Base::ahead(of.channels * positions(), more, kRoomBytes);
    for (Index first = rows.first; first < rows.last; first += kMostRows) {
      const Range some{first, least(first + kMostRows, rows.last)};
      find_through_similarity(some, own);
      for (Index row = some.first; row < some.last; ++row) write_row<Relu, Streams>(maps, row, own, ahead);
    }
  }

  // One sample by a team. Each thread adds up the parts' sums for itself: sooner done than waited for.
  void run_sample(Index sample, Team team, Area* parts, bool more) const {
    Area& own = parts[team.rank];
    Maps maps = maps_of(sample);
    const Range rows = team.share(positions());
    prepare(sample, own);
    maps.y != nullptr ? sum_all<true>(maps, rows, own) : sum_all<false>(maps, rows, own);
    team.barrier();
    find_coefficients(sample, team, parts);
    team.barrier();  // before the next sample's sums take the place of these
    if (maps.dresidual != nullptr) {  // it is the gradient behind the ReLU
      maps.gradient = maps.dresidual;
      maps.y = nullptr;
    }
    if (maps.y != nullptr) {
      streams ? write_all<true, true>(maps, rows, own, more) : write_all<true, false>(maps, rows, own, more);
    } else {
      streams ? write_all<false, true>(maps, rows, own, more) : write_all<false, false>(maps, rows, own, more);
    }
  }

  void sum_parameter_gradients() const {
    for (Index sample = 0; sample < call.shape.batch; ++sample) {
      for (Index slot = 0; slot < of.groups; ++slot) {
        const float* record = parameter_gradients + (sample * of.groups + slot) * 2;
        call.dweight[Base::group_of(slot)] += record[0];
        call.dbias[Base::group_of(slot)] += record[1];
      }
    }
  }
};

// ------------------------------------------------------------------------------------------------------- who does what

// Whether each thread's share of the maps that a pass holds overflows the cache that it has for itself. Then the last
// cache, which all share, should hold one sample and not one for each thread.
inline bool overflows(const Shape& shape, Index maps, Team team) {
  constexpr Index kOwnBytes = Index{1} << 20;
  return maps * shape.bytes_of_sample() >= kOwnBytes * team.size;
}

// Whole samples for each thread as far as they go round, and the rest by all threads together, sample by sample. Where
// samples are so large that they overflow, all are taken together. A pass is told whether its thread goes on with the
// sample behind.
template <class Pass, class Area>
void run_samples(const Pass& pass, Team team, Area* areas) {
  const Shape& shape = pass.call.shape;
  const Index alone = overflows(shape, pass.maps_held(), team) ? 0 : shape.batch / team.size * team.size;
  const Range mine = team.share(alone);
  for (Index sample = mine.first; sample < mine.last; ++sample) {
    pass.run_sample(sample, Team{0, 1}, areas + team.rank, sample + 1 < mine.last);
  }
  for (Index sample = alone; sample < shape.batch; ++sample) {
    pass.run_sample(sample, team, areas, sample + 1 < shape.batch);
  }
}

}  // namespace SGENET_ISA
}  // namespace sgenet
