// Spatial Group-wise Enhance on a CPU: the algorithm, and the choice of a path for each call.
//
// For one group with d channels at m positions (gamma, beta, eps and the gate's factor f given):
//
//     g   = mean_i x_i
//     t_i = g . (x_i - g)                left = mean_i t_i, which is 0 but for g's rounding
//     s   = sqrt(sum_i (t_i - left)^2 / (m - 1))
//     n_i = (t_i - left) / (s + eps)     0 where s = 0
//     a_i = f sigmoid(gamma n_i + beta)
//     y_i = relu(a_i x_i + residual_i)   the residual and the ReLU only where asked for
//
// g and s need all positions, so there are three passes over x: for g, for s, and for y. Memory should see one: x is
// taken in tiles that stay in a cache between the passes, and of t, a d-th of x, a copy is kept in scratch memory.
// Backward, with dy already 0 where the ReLU cut off (kappa = 1 / ((m - 1) s), or 0 where s = 0):
//
//     u_i  = f sigmoid'(gamma n_i + beta) (dy_i . x_i)      dbeta = sum_i u_i,  dgamma = sum_i u_i n_i
//     dc_i = gamma ((u_i - dbeta / m) / (s + eps) - kappa dgamma n_i)
//     dg   = sum_i dc_i (x_i - g)
//     dx_i = a_i dy_i + dc_i g + dg / m
//
// dc is linear in u and t, so dg follows from sum_i u_i x_i and sum_i t_i x_i: one pass yields all sums. NHWC makes it in
// tiles of a few rows that stay in the nearest cache, in three steps: t and dy . x, then u and the gate, then the sums.
//
// The tiles. NCHW (channels_first.h): one group of one sample, d rows of m neighbouring numbers; it fits the L2 cache.
// NHWC (channels_last.h): one sample, m rows of C neighbouring numbers; L2 where it fits, else L3. Tiles of fewer
// channels would fit L2, but their rows lie a power of two apart and share few of its sets: that was slower. Memory is
// idle in the passes that read a cache, so they ask early for what comes next: the second for the residual or, where
// there is none, for a next sample that is small, and the one that writes for the next sample, where a cache has room
// for it, or for the rows that follow.
//
//        NCHW, d = 3, W = 4 lanes                       NHWC, d = 2, W = 4 lanes: a block of 4 groups
//
//            positions ->                                   channels ->
//        ch0 [ x x x x ][ x x x x ]..[ x x x x ]        position 0 [ a a b b ][ c c d d ] | next block
//        ch1 [ x x x x ][ x x x x ]..[ x x x x ]        position 1 [ a a b b ][ c c d d ] |
//        ch2 [ x x x x ][ x x x x ]..[ x x x x ]        ...
//              |                                             run_sums adds the lanes of a group and packs the sums:
//              v  t: down the channels, lane by lane         [ a c b d ] is t of one position and four groups, and
//            [ t t t t ]                                     spread() brings a gate back to its lanes: [ a a b b ]
//
// Threads take whole tiles. NHWC samples that do not go round are shared, and so are those so large that several at once
// would drive each other out of the last cache: each thread takes a part of the positions, and after each pass it adds
// up the sums of all of them for itself (run_samples).
//
// Paths. This file is compiled once for each instruction set, with its width W. A call goes to the widest one that can
// do it: in NCHW a row must hold a pack, in NHWC the groups must fill blocks of W and a group must fill, or evenly
// divide, a vector. The last one also has a path of one lane, which takes every shape.
#pragma once

#include "abi.h"
#include "channel_means.h"
#include "channels_first.h"
#include "channels_last.h"
#include "moments.h"
#include "norm_backward.h"
#include "scale_channels.h"
#include "squeeze_excite.h"
#include "threads.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

// Outputs and gradients of at least this many bytes pass by the caches: stored the usual way, each line would be read
// first, and in its place something would be thrown out that is needed sooner. Whoever reads them next reads them from
// memory then, which costs no more than that first reading did.
constexpr Index kStreamedBytes = Index{1} << 20;

template <class T>
struct Type {
  using Is = T;
};

template <class F>
Status with_element(Element element, F f) {
  return element == Element::kBfloat16 ? f(Type<Bfloat16>{}) : f(Type<float>{});
}

template <class F>
Status with_affine(const Affine& affine, F f) {
  return affine.factor != nullptr ? f(std::true_type{}) : f(std::false_type{});
}

// f(Type, Constant<W>) where a pack fits into `count` elements; with `whole`, evenly.
template <class F>
Status with_pack(Element element, Index count, bool whole, F f) {
  return with_element(element, [&](auto type) {
    using T = typename decltype(type)::Is;
    const auto fits = [&](Index elements) { return elements <= count && (!whole || count % elements == 0); };
    if (fits(Pack<T, SGENET_WIDTH>::kElements)) return f(type, Constant<SGENET_WIDTH>{});
    if constexpr (SGENET_LAST) return f(type, Constant<1>{});
    return kNotHere;
  });
}

// f(Constant<K>) with the length of a group's runs of lanes in vectors of W. `depth` is the number of a group's
// channels, or of those in each half of a bfloat16 pack.
template <int W, int K, class F>
Status with_runs(Index depth, F f) {
  if (K == W ? depth % K == 0 : depth == K) return f(Constant<K>{});
  if constexpr (K > 1) return with_runs<W, K / 2>(depth, f);
  return kNotHere;
}

// f(Type, Constant<W>, Constant<K>) where the groups fill blocks.
template <class F>
Status with_blocks(const Shape& shape, Index groups, F f) {
  return with_element(shape.element, [&](auto type) {
    constexpr int W = SGENET_WIDTH;
    constexpr int kHalves = Pack<typename decltype(type)::Is, W>::kVectors;
    const Index depth = shape.channels / groups;
    if (groups % W == 0) {
      if constexpr (kHalves == 2) {
        if (depth == 1) return f(Type<LoneBfloat16>{}, Constant<W>{}, Constant<1>{});
      }
      if (depth % kHalves == 0) {
        const auto with_run = [&](auto run) { return f(type, Constant<W>{}, run); };
        const Status status = with_runs<W, W>(depth / kHalves, with_run);
        if (status != kNotHere) return status;
      }
    }
    if constexpr (SGENET_LAST) return f(type, Constant<1>{}, Constant<1>{});
    return kNotHere;
  });
}

inline bool is_empty(const Shape& shape) { return shape.batch == 0 || shape.channels == 0 || shape.positions == 0; }

inline bool aligned(const void* p, Index bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % std::size_t(bytes) == 0;
}

// Whether a map is large enough, and in whole aligned vectors, to be written past the caches.
inline bool may_stream(const void* map, const Shape& shape, Index vector_bytes) {
  const Index row_elements = shape.channels_last ? shape.channels : shape.positions;
  const Index row_bytes = row_elements * (shape.element == Element::kBfloat16 ? 2 : 4);
  return aligned(map, vector_bytes) && row_bytes % vector_bytes == 0 &&
         shape.batch * shape.bytes_of_sample() >= kStreamedBytes;
}

// The same for a forward pass, EnhanceForward or ScaleForward: what it has read is in the caches already.
template <class Call>
bool streams(const Call& call, Index vector_bytes) {
  return call.y != call.x && call.y != call.residual && may_stream(call.y, call.shape, vector_bytes);
}

// Lays out scratch memory by carve(Carver&), first to measure and then in earnest; false without memory.
template <class Carve>
bool carved(Carve carve) {
  Carver measured(nullptr);
  carve(measured);
  float* memory = scratch_of_this_thread().take(std::size_t(measured.used()));
  if (memory == nullptr) return false;
  Carver carver(memory);
  carve(carver);
  return true;
}

// An array of records in floats' clothing.
template <class Record>
Record* records(Carver& carver, Index count) {
  return reinterpret_cast<Record*>(carver.floats(count * Index(sizeof(Record) / sizeof(float))));
}

template <class Pass, class... Sizes>
typename Pass::Area* carve_areas(Carver& carver, Index threads, Sizes... sizes) {
  auto* areas = records<typename Pass::Area>(carver, threads);
  for (Index i = 0; i < threads; ++i) {
    typename Pass::Area measured;
    (areas == nullptr ? measured : areas[i]).carve(carver, sizes...);
  }
  return areas;
}

// ----------------------------------------------------------------------------------------------------------- forward

template <class T, int W, int K, bool WithAffine>
Status forward_channels_last(const EnhanceForward& call) {
  using Pass = ChannelsLastForward<T, W, K, WithAffine>;
  const Shape& shape = call.shape;
  typename Pass::Parameters parameters;
  typename Pass::Area* areas = nullptr;
  const bool enough = carved([&](Carver& carver) {
    parameters.carve(carver, shape.channels, call.groups);
    areas = carve_areas<Pass>(carver, shape.threads, shape.channels, call.groups, shape.positions);
  });
  if (!enough) return kOutOfMemory;
  parameters.fill(call.affine, call.weight, call.bias);
  const Pass pass{{}, call, parameters, streams(call, 4 * W)};
  in_parallel(shape.threads, [&](Team team) { run_samples(pass, team, areas); });
  return kDone;
}

template <class T, int W, bool WithAffine>
Status forward_channels_first(const EnhanceForward& call) {
  const Shape& shape = call.shape;
  const Row<T, W> row(shape.positions);
  float* scratch = nullptr;
  if (!carved([&](Carver& carver) { scratch = carver.floats(row.floats() * shape.threads); })) return kOutOfMemory;
  const ChannelsFirstForward<T, W, WithAffine> pass{call, row, shape.channels / call.groups};
  const bool streamed = streams(call, 4 * W);
  in_parallel(shape.threads, [&](Team team) {
    const Range tasks = team.share(shape.batch * call.groups);
    for (Index task = tasks.first; task < tasks.last; ++task) {
      pass.run_group(task, streamed, scratch + team.rank * row.floats());
    }
  });
  return kDone;
}

inline Status enhance_forward(const EnhanceForward& call) {
  if (is_empty(call.shape)) return kDone;
  return with_affine(call.affine, [&](auto affine) {
    constexpr bool kAffine = decltype(affine)::value;
    if (call.shape.channels_last) {
      return with_blocks(call.shape, call.groups, [&](auto type, auto width, auto run) {
        using T = typename decltype(type)::Is;
        return forward_channels_last<T, decltype(width)::value, decltype(run)::value, kAffine>(call);
      });
    }
    return with_pack(call.shape.element, call.shape.positions, false, [&](auto type, auto width) {
      return forward_channels_first<typename decltype(type)::Is, decltype(width)::value, kAffine>(call);
    });
  });
}

// ---------------------------------------------------------------------------------------------------------- backward

template <class T, int W, int K, bool WithAffine>
Status backward_channels_last(const EnhanceBackward& call) {
  using Pass = ChannelsLastBackward<T, W, K, WithAffine>;
  const Shape& shape = call.shape;
  typename Pass::Parameters parameters;
  typename Pass::Area* areas = nullptr;
  float* gradients = nullptr;
  const bool enough = carved([&](Carver& carver) {
    parameters.carve(carver, shape.channels, call.groups);
    gradients = carver.floats(shape.batch * call.groups * 2);
    areas = carve_areas<Pass>(carver, shape.threads, shape.channels, call.groups, shape.positions);
  });
  if (!enough) return kOutOfMemory;
  parameters.fill(call.affine, call.weight, call.bias);
  const Pass pass{{}, call, parameters, gradients, may_stream(call.dx, shape, 4 * W)};
  in_parallel(shape.threads, [&](Team team) { run_samples(pass, team, areas); });
  pass.sum_parameter_gradients();
  return kDone;
}

template <class T, int W, bool WithAffine>
Status backward_channels_first(const EnhanceBackward& call) {
  const Shape& shape = call.shape;
  const Row<T, W> row(shape.positions);
  float *scratch = nullptr, *gradients = nullptr;
  const bool enough = carved([&](Carver& carver) {
    gradients = carver.floats(shape.batch * call.groups * 2);
    scratch = carver.floats(2 * row.floats() * shape.threads);
  });
  if (!enough) return kOutOfMemory;
  const ChannelsFirstBackward<T, W, WithAffine> pass{call, row, shape.channels / call.groups, gradients,
                                                  may_stream(call.dx, shape, 4 * W)};
  in_parallel(shape.threads, [&](Team team) {
    const Range tasks = team.share(shape.batch * call.groups);
    for (Index task = tasks.first; task < tasks.last; ++task) {
      pass.run_group(task, scratch + 2 * team.rank * row.floats());
    }
  });
  pass.sum_parameter_gradients();
  return kDone;
}

inline Status enhance_backward(const EnhanceBackward& call) {
  clear(call.dweight, call.groups);
  clear(call.dbias, call.groups);
  if (is_empty(call.shape)) return kDone;
  return with_affine(call.affine, [&](auto affine) {
    constexpr bool kAffine = decltype(affine)::value;
    if (call.shape.channels_last) {
      return with_blocks(call.shape, call.groups, [&](auto type, auto width, auto run) {
        using T = typename decltype(type)::Is;
        return backward_channels_last<T, decltype(width)::value, decltype(run)::value, kAffine>(call);
      });
    }
    return with_pack(call.shape.element, call.shape.positions, false, [&](auto type, auto width) {
      return backward_channels_first<typename decltype(type)::Is, decltype(width)::value, kAffine>(call);
    });
  });
}

// --------------------------------------------------------------------------------------------- scaling by SE's gate

template <class T, int W, bool WithAffine, bool WithResidual>
Status scale_forward_by(const ScaleForward& call) {
  const Shape& shape = call.shape;
  const ScaleForwardPass<T, W, WithAffine, WithResidual> pass{call, streams(call, 4 * W)};
  if (!shape.channels_last) {
    const Row<T, W> row(shape.positions);
    in_parallel(shape.threads, [&](Team team) {
      pass.run_channels_first(row, team.share(shape.batch * shape.channels));
    });
    return kDone;
  }
  float* scratch = nullptr;
  const Index each = 3 * shape.channels;
  if (!carved([&](Carver& carver) { scratch = carver.floats(each * shape.threads); })) return kOutOfMemory;
  in_parallel(shape.threads, [&](Team team) {
    float* own = scratch + team.rank * each;
    const Range rows = team.share(shape.batch * shape.positions);
    pass.run_channels_last(rows, own, own + shape.channels, own + 2 * shape.channels);
  });
  return kDone;
}

template <class F>
Status with_pack_of(const Shape& shape, F f) {
  return with_pack(shape.element, shape.channels_last ? shape.channels : shape.positions, shape.channels_last, f);
}

inline Status scale_forward(const ScaleForward& call) {
  if (is_empty(call.shape)) return kDone;
  return with_affine(call.affine, [&](auto affine) {
    return with_pack_of(call.shape, [&](auto type, auto width) {
      using T = typename decltype(type)::Is;
      constexpr int W = decltype(width)::value;
      constexpr bool kAffine = decltype(affine)::value;
      if (call.residual != nullptr) return scale_forward_by<T, W, kAffine, true>(call);
      return scale_forward_by<T, W, kAffine, false>(call);
    });
  });
}

template <class T, int W, bool WithAffine>
Status scale_backward_by(const ScaleBackward& call) {
  using Pass = ScaleBackwardPass<T, W, WithAffine>;
  const Shape& shape = call.shape;
  const bool streamed = may_stream(call.dx, shape, 4 * W) && may_stream(call.dresidual, shape, 4 * W);
  if (!shape.channels_last) {
    const Row<T, W> row(shape.positions);
    const Pass pass{call, nullptr, nullptr, streamed};
    in_parallel(shape.threads, [&](Team team) {
      pass.run_channels_first(row, team.share(shape.batch * shape.channels));
    });
    return kDone;
  }
  typename Pass::Area* areas = nullptr;
  float *factor = nullptr, *shift = nullptr;
  const bool enough = carved([&](Carver& carver) {
    factor = carver.floats(shape.channels);
    shift = carver.floats(shape.channels);
    areas = carve_areas<Pass>(carver, shape.threads, shape.channels);
  });
  if (!enough) return kOutOfMemory;
  if (WithAffine) {
    Rows<T, W>::to_pack_order(call.affine.factor, factor, shape.channels);
    Rows<T, W>::to_pack_order(call.affine.shift, shift, shape.channels);
  }
  const Pass pass{call, factor, shift, streamed};
  in_parallel(shape.threads, [&](Team team) { run_samples(pass, team, areas); });
  return kDone;
}

inline Status scale_backward(const ScaleBackward& call) {
  const Shape& shape = call.shape;
  if (is_empty(shape)) {
    clear(call.dgate, shape.batch * shape.channels);
    return kDone;
  }
  return with_affine(call.affine, [&](auto affine) {
    return with_pack_of(shape, [&](auto type, auto width) {
      using T = typename decltype(type)::Is;
      return scale_backward_by<T, decltype(width)::value, decltype(affine)::value>(call);
    });
  });
}

// ---------------------------------------------------------------------- means, and what two layers make a gate of them

template <class T, int W>
Status means_channels_last(const Means& call) {
  using Pass = MeansPass<T, W>;
  typename Pass::Area* areas = nullptr;
  const Shape& shape = call.shape;
  if (!carved([&](Carver& carver) { areas = carve_areas<Pass>(carver, shape.threads, shape.channels); })) {
    return kOutOfMemory;
  }
  const Pass pass{call};
  in_parallel(shape.threads, [&](Team team) { run_samples(pass, team, areas); });
  return kDone;
}

inline Status channel_means(const Means& call) {
  if (is_empty(call.shape)) return kDone;
  return with_pack_of(call.shape, [&](auto type, auto width) {
    using T = typename decltype(type)::Is;
    constexpr int W = decltype(width)::value;
    if (call.shape.channels_last) return means_channels_last<T, W>(call);
    const MeansPass<T, W> pass{call};
    const Row<T, W> row(call.shape.positions);
    in_parallel(call.shape.threads, [&](Team team) {
      pass.run_channels_first(row, team.share(call.shape.batch * call.shape.channels));
    });
    return kDone;
  });
}

template <class T, int W>
Status squeeze_excite_by(const SqueezeExcite& call) {
  using Pass = SqueezeExcitePass<T, W>;
  const Shape& shape = call.shape;
  typename Pass::Area* areas = nullptr;
  float *means = nullptr, *hidden = nullptr;
  const bool enough = carved([&](Carver& carver) {
    means = carver.floats(shape.batch * shape.channels);
    hidden = carver.floats(shape.batch * call.hidden);
    areas = carve_areas<Pass>(carver, shape.threads, shape.channels);
  });
  if (!enough) return kOutOfMemory;
  const Means squeeze{shape, call.x, call.affine, means};
  const Row<T, W> row(shape.positions);
  const Pass pass{call,
                  {squeeze},
                  {call.weight1, call.bias1, shape.channels, call.hidden},
                  {call.weight2, call.bias2, call.hidden, shape.channels},
                  hidden};
  in_parallel(shape.threads, [&](Team team) {
    if (shape.channels_last) {
      run_samples(pass.squeeze, team, areas);
    } else {
      pass.squeeze.run_channels_first(row, team.share(shape.batch * shape.channels));
    }
    team.barrier();
    pass.excite(means, team);
  });
  return kDone;
}

inline Status squeeze_excite(const SqueezeExcite& call) {
  if (is_empty(call.shape)) return kDone;
  return with_pack_of(call.shape, [&](auto type, auto width) {
    return squeeze_excite_by<typename decltype(type)::Is, decltype(width)::value>(call);
  });
}

// ----------------------------------------------------------------------------------------------------------- moments

template <class T, int W>
Status moments_channels_last(const Moments& call) {
  const Shape& shape = call.shape;
  Moment* found = nullptr;
  float* scratch = nullptr;
  const bool enough = carved([&](Carver& carver) {
    found = records<Moment>(carver, shape.channels * shape.threads);
    scratch = carver.floats(2 * shape.channels * shape.threads);
  });
  if (!enough) return kOutOfMemory;
  const MomentsPass<T, W> pass{call};
  Index parts = 1;
  in_parallel(shape.threads, [&](Team team) {
    float* own = scratch + 2 * team.rank * shape.channels;
    pass.run_channels_last(team.share(shape.batch * shape.positions), own, own + shape.channels,
                           found + team.rank * shape.channels);
    if (team.rank == 0) parts = team.size;
  });
  for (Index place = 0; place < shape.channels; ++place) {
    for (Index part = 1; part < parts; ++part) found[place].merge(found[part * shape.channels + place]);
    pass.finish(Rows<T, W>::channel_of(place), found[place]);
  }
  return kDone;
}

inline Status moments(const Moments& call) {
  if (is_empty(call.shape)) return kDone;
  return with_pack_of(call.shape, [&](auto type, auto width) {
    using T = typename decltype(type)::Is;
    constexpr int W = decltype(width)::value;
    if (call.shape.channels_last) return moments_channels_last<T, W>(call);
    const MomentsPass<T, W> pass{call};
    const Row<T, W> row(call.shape.positions);
    in_parallel(call.shape.threads, [&](Team team) { pass.run_channels_first(row, team.share(call.shape.channels)); });
    return kDone;
  });
}

// ------------------------------------------------------------------------------------------- backward of a batch norm

template <class T, int W>
Status norm_backward_channels_last(const NormBackward& call) {
  using Pass = NormBackwardPass<T, W>;
  const Shape& shape = call.shape;
  typename Pass::Common common;
  typename Pass::Area* areas = nullptr;
  const bool enough = carved([&](Carver& carver) {
    common.carve(carver, shape.channels);
    areas = carve_areas<Pass>(carver, shape.threads, shape.channels);
  });
  if (!enough) return kOutOfMemory;
  Rows<T, W>::to_pack_order(call.mean, common.mean, shape.channels);
  const Pass pass{call};
  if (call.kept) pass.find_kept_slopes(common);
  in_parallel(shape.threads, [&](Team team) { pass.run_channels_last(team, common, areas); });
  return kDone;
}

inline Status norm_backward(const NormBackward& call) {
  if (is_empty(call.shape)) {
    clear(call.dweight, call.shape.channels);
    clear(call.dbias, call.shape.channels);
    return kDone;
  }
  return with_pack_of(call.shape, [&](auto type, auto width) {
    using T = typename decltype(type)::Is;
    constexpr int W = decltype(width)::value;
    if (call.shape.channels_last) return norm_backward_channels_last<T, W>(call);
    const NormBackwardPass<T, W> pass{call};
    const Row<T, W> row(call.shape.positions);
    in_parallel(call.shape.threads, [&](Team team) { pass.run_channels_first(row, team.share(call.shape.channels)); });
    return kDone;
  });
}

}  // namespace SGENET_ISA
}  // namespace sgenet
