// rank_k.cuh: C += A^T B, a square of C a block, for gram_mma.cu and weight_gradient.cu.
//
//   RankK<SIDE, THREADS, RUN>   the plan: tiles of `depth` rows of A and of B, `run` of them a run
//   WarpPlace, warp_place       a warp's piece of the square
//   rank_k                      all += A^T B over tiles, of which `rows_of` says where they lie
//
// Sums of tensor cores, which cut off, are promoted to sums that round where a run ends.
#pragma once

template <int SIDE, int THREADS, int RUN> struct RankK {
    static constexpr int side = SIDE, threads = THREADS;
    static constexpr int parts = Parts<elem>::count;
    static constexpr int depth = 32 / parts;
    static constexpr int tile = SIDE * depth;  // numbers of one part
    static constexpr int run = RUN / depth;    // tiles
    static constexpr int stages = 3;
    static_assert(RUN % depth == 0 && SIDE / WARP_M * (SIDE / WARP_N) * WARP == THREADS, "");

    // Tiles of A and of B, (depth, SIDE).
    struct Tiles {
        alignas(16) bf16 a[stages][parts][tile];
        alignas(16) bf16 b[stages][parts][tile];
    };
    static_assert(sizeof(Tiles) <= 48 << 10, "");
};

// The first row and column of the warp's piece of the square, and those of the thread's first sum.
struct WarpPlace { int row, col, thread_row, thread_col; };

template <class Plan> HD WarpPlace warp_place() {
    constexpr int down = Plan::side / WARP_M;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row = warp % down * WARP_M, col = warp / down * WARP_N;
    return {row, col, row + lane / 4, col + lane % 4 * 2};
}

// Rows of a tile: from `from` on, none from `end` on.
struct TileRows { int from, end; };

// The matrix up to some row: a copy, which takes fewer instructions than writing to the matrix.
HD Matrix<elem> up_to(int rows, const Matrix<elem>& m) {
    return {m.at, m.row, m.step, rows, m.cols, m.whole};
}

// A and B begin with the columns of the block. What is left of `sum` is of a run that has
// not ended.
template <class Plan, class RowsOf>
HD void rank_k(Acc& all, Acc& sum, typename Plan::Tiles& s, const Matrix<elem>& a,
               const Matrix<elem>& b, WarpPlace at, bool busy, int tiles, RowsOf rows_of) {
    constexpr int bits = bits_for(Plan::side / VEC);
    TileLoader<elem, Plan::tile, Plan::threads> of_a, of_b;
    const auto begin = [&](int tile, int stage) {
        const TileRows rows = rows_of(tile);
        of_a.load(up_to(rows.end, a), rows.from, 0, bits, s.a[stage]);
        of_b.load(up_to(rows.end, b), rows.from, 0, bits, s.b[stage]);
    };
    const auto end = [&](int stage) {
        of_a.store(bits, s.a[stage]);
        of_b.store(bits, s.b[stage]);
    };
    const auto use = [&](int tile, int stage) {
        if (busy)
            warp_mma<Plan::parts, Plan::parts, Plan::depth>(sum, s.a[stage], s.b[stage], at.row,
                                                            at.col, false, false);
        if ((tile + 1) % Plan::run == 0) promote(all, sum);
    };
    pipeline<Plan::stages>(tiles, begin, end, use);
}
