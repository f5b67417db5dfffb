// adam.cuh: Adam's update of one number, for adam.cu and search_step.cu.
//
//   adam_update(x, g, lr, c1, c2, m, v)   x after the step; m and v become those of the step
//
// with c1 = 1 - BETA1^n and c2 = 1 - BETA2^n in step n.
#pragma once

constexpr double BETA1 = 0.9, BETA2 = 0.999;
constexpr float EPS = 1e-8f;

HD float adam_update(float x, float g, float lr, float c1, float c2, float& m, float& v) {
    const float b1 = BETA1, b2 = BETA2, a1 = 1 - BETA1, a2 = 1 - BETA2;
    m = b1 * m + a1 * g;
    v = b2 * v + a2 * g * g;
    return x - lr * (m / c1) / (sqrtf(v / c2) + EPS);
}
