/* kernels.h in both precisions, for the instruction set LEVEL. */

#define REAL float
#define NLANES FLOATS
#define INTEGER int32_t
#define SUFFIX JOIN(LEVEL, float)
#define SQRT sqrtf
#define TANH tanhf
#define EPSILON 1.1920929e-07f
#define SMALL 1e-15f
#define LARGE 1e15f
#define SCALE 0x1p100f
#include "kernels.h"
#undef REAL
#undef NLANES
#undef INTEGER
#undef SUFFIX
#undef SQRT
#undef TANH
#undef EPSILON
#undef SMALL
#undef LARGE
#undef SCALE

#define REAL double
#define NLANES DOUBLES
#define INTEGER int64_t
#define SUFFIX JOIN(LEVEL, double)
#define SQRT sqrt
#define TANH tanh
#define EPSILON 2.220446049250313e-16
#define SMALL 1e-140
#define LARGE 1e140
#define SCALE 0x1p700
#include "kernels.h"
#undef REAL
#undef NLANES
#undef INTEGER
#undef SUFFIX
#undef SQRT
#undef TANH
#undef EPSILON
#undef SMALL
#undef LARGE
#undef SCALE
