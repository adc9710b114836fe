// What the passes keep of a group's similarities.
#pragma once

#include "abi.h"

namespace sgenet {
namespace SGENET_ISA {

struct Statistics {
  float left;    // the mean of t, which is 0 but for g's rounding
  float spread;  // s, the unbiased standard deviation of t - left; 0 on a constant map

  // What normalises t; 0 on a constant map, where only rounding would be divided by eps.
  float inverse(float eps) const { return spread > 0.0f ? 1.0f / (spread + eps) : 0.0f; }

  // 1 / ((m - 1) s), or 0: the root's slope is infinite at 0, and taken as 0 there for the gradient to be finite.
  float curvature(Index positions) const { return spread > 0.0f ? 1.0f / (float(positions - 1) * spread) : 0.0f; }
};

// From the sums of t and of t^2 over the positions.
inline Statistics statistics_of(float total, float squares, Index positions) {
  // Where t spreads over less than 1/500 of `left`, x cannot differ from position to position, and the deviations are
  // the rounding of the squares.
  constexpr float kRounding = 4e-6f;
  const float left = total / float(positions);
  const float deviations = squares - total * left;
  const bool varies = positions > 1 && deviations > squares * kRounding;
  return {left, varies ? __builtin_sqrtf(deviations / float(positions - 1)) : 0.0f};
}

}  // namespace SGENET_ISA
}  // namespace sgenet
