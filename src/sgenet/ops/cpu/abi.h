// What the kernels are called with, and the table of them that each instruction set fills in. arguments.h takes
// apart what Python hands over.
//
// Every function returns a Status. Maps are dense: contiguous (NCHW) or, where channels_last is set, NHWC; `positions`
// is H * W. Arrays of one value a channel, a group or a sample are float, in natural order.
#pragma once

#include <cstdint>

namespace sgenet {

using Index = std::int64_t;

enum Status : int {
  kDone = 0,
  kOutOfMemory = 1,
  kUnfit = 2,    // an argument is not as the kernels read it
  kNotHere = 3,  // a narrower vector can do it
};

enum class Element : int { kFloat32 = 0, kBfloat16 = 1 };

struct Shape {
  Index batch, channels, positions;
  bool channels_last;
  Element element;
  int threads;

  Index bytes_of_sample() const { return channels * positions * (element == Element::kBfloat16 ? 2 : 4); }
};

// The map that is worked on: x itself, or x * factor[c] + shift[c] where factor is given, formed in float.
struct Affine {
  const float* factor;
  const float* shift;
};

struct EnhanceForward {
  Shape shape;
  Index groups;
  float eps, scale;
  bool relu;
  const void *x, *residual;  // residual may be null; y may be either of the two
  void* y;
  const float *weight, *bias;  // a value a group
  Affine affine;
  float *semantic, *statistics;  // (batch, channels); (batch, groups, 2): left and s
};

struct EnhanceBackward {
  Shape shape;
  Index groups;
  float eps, scale;
  const void *gradient, *x;
  const void* y;  // null where there was no ReLU
  const float *weight, *bias, *semantic, *statistics;
  Affine affine;
  void *dx, *dresidual;     // dresidual is null where it would be `gradient` itself, or where there is none
  float *dweight, *dbias;  // a value a group
};

struct ScaleForward {
  Shape shape;
  bool relu;
  const void *x, *residual;
  void* y;
  const float* gate;  // (batch, channels)
  Affine affine;
};

struct ScaleBackward {
  Shape shape;
  const void *gradient, *x, *y;
  const float* gate;
  Affine affine;
  void *dx, *dresidual;
  float* dgate;
};

struct Means {
  Shape shape;
  const void* x;
  Affine affine;
  float* means;  // (batch, channels)
};

struct SqueezeExcite {
  Shape shape;
  const void* x;
  Affine affine;
  Index hidden;                                   // units of the first layer
  const void *weight1, *bias1, *weight2, *bias2;  // of the map's element type; the biases may be null
  float* gate;                                    // (batch, channels)
};

struct Moments {
  Shape shape;
  const void* x;
  float *mean, *variance;  // a value a channel
};

struct NormBackward {
  Shape shape;
  const void *gradient, *x;
  const float *mean, *inverse, *weight;  // a value a channel; weight may be null
  void* dx;                              // may be `gradient`
  float *dweight, *dbias;                // a value a channel
  bool kept;                             // mean and inverse are the norm's own, whatever x is
};

// One instruction set's kernels. They do nothing and return kNotHere where a shape does not fit their vectors.
struct Kernels {
  const char* name;
  Status (*enhance_forward)(const EnhanceForward&);
  Status (*enhance_backward)(const EnhanceBackward&);
  Status (*scale_forward)(const ScaleForward&);
  Status (*scale_backward)(const ScaleBackward&);
  Status (*channel_means)(const Means&);
  Status (*squeeze_excite)(const SqueezeExcite&);
  Status (*moments)(const Moments&);
  Status (*norm_backward)(const NormBackward&);
};

}  // namespace sgenet
