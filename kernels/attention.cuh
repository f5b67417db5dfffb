// attention.cuh: the keys of a sequence, for all forms of attention.
//
// The keys a sequence may look at count from 0 through the shared past, its own past and its rows
// of the batch. Its a-th query sees those from first_seen(a) up to and with past_of + a.
#pragma once
#include "common.cuh"

struct Seq { int rows, end, shared, shared_end, own, own_end; };

HD Seq seq_at(const int* places) {
    return {places[0], places[1], places[2], places[3], places[4], places[5]};
}

HD int past_of(const Seq& s) { return s.shared_end - s.shared + s.own_end - s.own; }
HD int queries_of(const Seq& s) { return s.end - s.rows; }
HD int keys_of(const Seq& s) { return past_of(s) + queries_of(s); }
HD int first_seen(const Seq& s, int a, int window) {
    const int hidden = past_of(s) + a + 1 - window;
    return window > 0 && hidden > 0 ? hidden : 0;
}

// Scores, of products <q, k>: at most the cap in size, where it is not 0.
struct Score {
    float scale, cap, inverse;
    HD Score(float scale, float cap) : scale(scale), cap(cap), inverse(cap > 0 ? 1 / cap : 0) {}
    HD float of(float product) const {
        const float s = scale * product;
        return cap > 0 ? cap * tanhf(s * inverse) : s;
    }
    // ds / d(scale product)
    HD float slope(float s) const { return 1 - s * inverse * (s * inverse); }
};

// Key or value j of group g, of (rows, G E).
HD const elem* key(const Seq& s, int j, const elem* past, const elem* batch, int G, int g, int E) {
    const int shared = s.shared_end - s.shared, before = past_of(s);
    const int own = j < before ? s.own + j - shared : s.rows + j - before;
    const long long row = j < shared ? s.shared + j : own;
    return (j < before ? past : batch) + (row * G + g) * E;
}

// Where n of them lie, from the j-th on.
HD void locate(const elem** where, const Seq& s, int from, int n, const elem* past,
             const elem* batch, int G, int g, int E) {
    for (int j = threadIdx.x; j < n; j += blockDim.x)
        where[j] = key(s, from + j, past, batch, G, g, E);
}
