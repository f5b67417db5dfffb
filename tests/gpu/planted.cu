// planted.cu: kernels that break one rule each; the line that is at fault says so.
//
//   types    f32
#include "common.cuh"

struct Shared { alignas(16) float x[64]; };

extern "C" __global__ void right(float* y) {
    shared().x[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = shared().x[63 - threadIdx.x];
}

extern "C" __global__ void right_copy(float* y) {
    y[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x < 16) cp_async(&shared().x[4 * threadIdx.x], &y[4 * threadIdx.x], 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = shared().x[63 - threadIdx.x];
}

extern "C" __global__ void missing_barrier(float* y) {
    shared().x[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = shared().x[63 - threadIdx.x];  // fault: missing_barrier
}

extern "C" __global__ void divergent_barrier(float* y) {
    if (threadIdx.x < 40) __syncthreads();  // fault: divergent_barrier
    y[threadIdx.x] = 1;
}

extern "C" __global__ void two_barriers(float* y) {
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __syncthreads();  // fault: two_barriers
    y[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_meets_shuffle(float* y) {
    float x = 1;
    if (threadIdx.x < 20)
        __syncthreads();  // fault: barrier_meets_shuffle
    else
        x = __shfl_sync(ALL, x, 0);
    y[threadIdx.x] = x;
}

extern "C" __global__ void lane_that_left(float* y) {
    if (threadIdx.x == 5) return;
    y[threadIdx.x] = __shfl_sync(ALL, 1.0f, 0);  // fault: lane_that_left
}

extern "C" __global__ void divergent_mma(float* y) {
    float c[4] = {};
    const unsigned a[4] = {}, b[2] = {};
    if (threadIdx.x < 40) mma<bf16>(c, a, b);  // fault: divergent_mma
    y[threadIdx.x] = c[0];
}

extern "C" __global__ void missing_wait(float* y) {
    y[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x < 16) cp_async(&shared().x[4 * threadIdx.x], &y[4 * threadIdx.x], 16);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    y[threadIdx.x] = shared().x[63 - threadIdx.x];  // fault: missing_wait
}

extern "C" __global__ void copy_too_early(float* y) {
    shared().x[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = shared().x[63 - threadIdx.x];
    if (threadIdx.x < 16) cp_async(&shared().x[4 * threadIdx.x], y, 0);  // fault: copy_too_early
}

extern "C" __global__ void misaligned_copy(float* y) {
    if (threadIdx.x == 3) cp_async(&shared().x[1], y, 16);  // fault: misaligned_copy
    y[threadIdx.x] = 1;
}

extern "C" __global__ void misaligned_row(float* y) {
    unsigned rows[4];
    ldmatrix(rows, &shared().x[threadIdx.x % 32]);  // fault: misaligned_row
    y[threadIdx.x] = of_bits(rows[0]);
}

extern "C" __global__ void out_of_range(float* y) {
    y[threadIdx.x + 1] = 1;  // fault: out_of_range
}

extern "C" __global__ void out_of_shared(float* y) {
    shared().x[threadIdx.x] = 1;
    y[threadIdx.x] = (&shared().x[0])[threadIdx.x + 1];  // fault: out_of_shared
}

extern "C" __global__ void misaligned(float* y) {
    float* odd = reinterpret_cast<float*>(reinterpret_cast<char*>(y) + 2);
    if (threadIdx.x == 0) *odd = 1;  // fault: misaligned
}

extern "C" __global__ void race(float* y) {
    y[threadIdx.x / 2] = threadIdx.x;  // fault: race
}

extern "C" __global__ void race_of_blocks(float* y) {
    y[threadIdx.x] = 1;  // fault: race_of_blocks
}

extern "C" __global__ void unwritten(float* y) {
    if (threadIdx.x != 63) y[threadIdx.x] = 1;
}

extern "C" __global__ void reads_poison(float* y) {
    y[threadIdx.x] = shared().x[threadIdx.x];
}
