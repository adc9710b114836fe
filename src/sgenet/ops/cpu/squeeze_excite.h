// The gate of squeeze-and-excitation, sigmoid(W2 relu(W1 mean(x) + b1) + b2), for a few images: with many, a matrix
// product is faster. The layers take a few microseconds, which is less than it takes torch to call one of them.
#pragma once

#include "abi.h"
#include "channel_means.h"
#include "threads.h"
#include "vector.h"

namespace sgenet {
namespace SGENET_ISA {

template <class T>
struct Single {  // elements in their own order, and not in that of packs
  using Is = T;
};
template <>
struct Single<Bfloat16> {
  using Is = LoneBfloat16;
};

template <class T, int W>
struct Layer {
  using Element = typename Single<T>::Is;
  using V = Vector<W>;

  const Element *weight, *bias;  // (outputs, inputs) and (outputs), or null
  Index inputs, outputs;

  Layer(const void* weights, const void* biases, Index in, Index out)
      : weight(static_cast<const Element*>(weights)),
        bias(static_cast<const Element*>(biases)),
        inputs(in),
        outputs(out) {}

  // results[sample][unit] for a thread's share of the units.
  void run(const float* values, float* results, Index samples, Range units) const {
    for (Index unit = units.first; unit < units.last; ++unit) {
      const float summand = bias == nullptr ? 0.0f : Pack<Element, 1>::read(bias + unit).v[0][0];
      for (Index sample = 0; sample < samples; ++sample) {
        results[sample * outputs + unit] = summand + product(weight + unit * inputs, values + sample * inputs);
      }
    }
  }

 private:
  float product(const Element* weights, const float* values) const {
    constexpr int kTogether = 4;
    V sums[kTogether] = {};
    Index i = 0;
    for (; i + kTogether * W <= inputs; i += kTogether * W) {
      for (int k = 0; k < kTogether; ++k) {
        sums[k] += Pack<Element, W>::read(weights + i + k * W).v[0] * load<W>(values + i + k * W);
      }
    }
    for (; i + W <= inputs; i += W) sums[0] += Pack<Element, W>::read(weights + i).v[0] * load<W>(values + i);
    float sum = sum_of_lanes<W>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < inputs; ++i) sum += Pack<Element, 1>::read(weights + i).v[0][0] * values[i];
    return sum;
  }
};

template <class T, int W>
struct SqueezeExcitePass {
  using Squeeze = MeansPass<T, W>;
  using Area = typename Squeeze::Area;

  const SqueezeExcite& call;
  Squeeze squeeze;
  Layer<T, W> first, second;
  float* hidden;  // of each sample

  void excite(const float* means, Team team) const {
    const Index samples = call.shape.batch;
    const Range units = team.share(first.outputs), channels = team.share(second.outputs);
    first.run(means, hidden, samples, units);
    for (Index sample = 0; sample < samples; ++sample) {
      float* own = hidden + sample * first.outputs;
      for (Index unit = units.first; unit < units.last; ++unit) {
        own[unit] = at_least<1>(Vector<1>{own[unit]}, Vector<1>{})[0];
      }
    }
    team.barrier();
    second.run(hidden, call.gate, samples, channels);
    for (Index sample = 0; sample < samples; ++sample) {
      float* own = call.gate + sample * second.outputs;
      Index c = channels.first;
      for (; c + W <= channels.last; c += W) store<W>(own + c, sigmoid<W>(load<W>(own + c)));
      for (; c < channels.last; ++c) own[c] = sigmoid<1>(Vector<1>{own[c]})[0];
    }
  }

 private:
  template <int Width>
  static SGENET_INLINE Vector<Width> sigmoid(Vector<Width> v) {
    return logistic<Width>(1.0f, kMinusLog2E * v);
  }
};

}  // namespace SGENET_ISA
}  // namespace sgenet
