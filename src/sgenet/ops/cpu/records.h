// What Python hands over: for each function a record of words of 8 bytes, in the order that cpu_kernels.py packs them.
//
// One argument in place of two dozen: when a network runs one image, taking arguments apart would cost more than some of
// its layers.
#pragma once

#include "abi.h"

namespace sgenet {

struct MapRecord {
  Index batch, channels, positions;
  Index channels_last, bfloat16, threads;
};

// A batch norm in front, with its statistics; `mean` is null where there is none, `weight` and `bias` may be.
struct NormRecord {
  const void *mean, *variance, *weight, *bias;
  double eps;
  Index bfloat16;  // bits 0 to 3 are set where mean, variance, weight, bias hold bfloat16
};

struct GateRecord {
  const void *weight, *bias;  // a value a group
  Index bfloat16;             // bits 0 and 1 are set where they hold bfloat16
  Index groups;
  double eps, scale;
};

struct EnhanceForwardRecord {
  const void *x, *residual;
  void* y;
  float *semantic, *statistics;  // null where nobody asks for them
  Index relu;
  GateRecord gate;
  NormRecord norm;
  MapRecord map;
};

struct EnhanceBackwardRecord {
  const void *gradient, *x, *y;
  const float *semantic, *statistics;
  void *dx, *dresidual;
  float *dweight, *dbias;
  GateRecord gate;
  NormRecord norm;
  MapRecord map;
};

struct ScaleForwardRecord {
  const void *x, *residual;
  void* y;
  const float* gate;
  Index relu;
  NormRecord norm;
  MapRecord map;
};

struct ScaleBackwardRecord {
  const void *gradient, *x, *y;
  const float* gate;
  void *dx, *dresidual;
  float* dgate;
  NormRecord norm;
  MapRecord map;
};

struct MeansRecord {
  const void* x;
  float* means;
  NormRecord norm;
  MapRecord map;
};

struct SqueezeExciteRecord {
  const void* x;
  float* gate;
  const void *weight1, *bias1, *weight2, *bias2;
  Index hidden;
  NormRecord norm;
  MapRecord map;
};

struct MomentsRecord {
  const void* x;
  float *mean, *variance;
  MapRecord map;
};

struct NormBackwardRecord {
  const void *gradient, *x;
  const float *mean, *inverse, *weight;
  void* dx;
  float *dweight, *dbias;
  Index kept;
  MapRecord map;
};

}  // namespace sgenet
