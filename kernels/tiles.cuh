// tiles.cuh: numbers of any type, eight at a time, tiles of bf16 made of them, and their products.
//
// A number is a sum of parts: bf16 is one, f16 and f32 are two, hi + lo, each the nearest to what
// is left. A tile lies in shared memory once a part.
#pragma once

constexpr int VEC = 8;  // numbers at a time

template <class T> struct Parts { static constexpr int count = 2; };
template <> struct Parts<bf16> { static constexpr int count = 1; };

// Rows of a matrix from its first, `row` elements apart, and elements `step` apart; `whole` where
// packets can be read at once.
template <class T> struct Matrix {
    const T* at;
    long long row, step;
    int rows, cols;
    bool whole;
};

template <class T> HD Matrix<T> matrix(const T* at, long long row, long long step, int rows,
                                       int cols) {
    const auto address = reinterpret_cast<unsigned long long>(at);
    const bool whole = step == 1 && address % 16 == 0 && row * sizeof(T) % 16 == 0;
    return {at, row, step, rows, cols, whole};
}

// Eight numbers of T along a row.
template <class T> struct Raw { Packet x[sizeof(T) / 2]; };

template <class T> HD int count(const Matrix<T>& m, int row, int col) {
    const int left = row < m.rows ? m.cols - col : 0;
    return left < 0 ? 0 : left < VEC ? left : VEC;
}

HD void set(Raw<float>& raw, int i, float x) { raw.x[i / 4].x[i % 4] = bits_of(x); }
template <class T> HD void set(Raw<T>& raw, int i, T x) {
    raw.x[0].x[i / 2] |= static_cast<unsigned>(x.bits) << 16 * (i % 2);
}

HD float get(const Raw<float>& raw, int i) { return of_bits(raw.x[i / 4].x[i % 4]); }
template <class T> HD float get(const Raw<T>& raw, int i) {
    return widen(T{static_cast<unsigned short>(raw.x[0].x[i / 2] >> 16 * (i % 2))});
}

// Zeros beyond the matrix.
template <class T> HD Raw<T> load_vector(const Matrix<T>& m, int row, int col) {
    const int n = count(m, row, col);
    const T* from = m.at + row * m.row + col * m.step;
    Raw<T> raw = {};
    if (m.whole && n == VEC) {
        for (unsigned i = 0; i < sizeof(T) / 2; i++)
            raw.x[i] = reinterpret_cast<const Packet*>(from)[i];
    } else {
        for (int i = 0; i < VEC; i++)
            if (i < n) set(raw, i, from[i * m.step]);
    }
    return raw;
}

// The parts of eight numbers; lo is left as it is where there is one.
template <int COUNT, class T> HD void split(const Raw<T>& raw, Packet& hi, Packet& lo) {
    for (int j = 0; j < VEC / 2; j++) {
        const float x = get(raw, 2 * j), y = get(raw, 2 * j + 1);
        hi.x[j] = round_bf16(x, y);
        if (COUNT == 2)
            lo.x[j] = round_bf16(x - of_bits(hi.x[j] << 16), y - of_bits(hi.x[j] & 0xffff0000u));
    }
}

// How many packets of eight numbers a row of a tile has: 2^bits. A number that is known at run time
// alone is shifted by, and not divided by, which takes some 20 instructions.
HD constexpr int bits_for(int packets) {
    int bits = 0;
    while (1 << bits < packets) bits++;
    return bits;
}

HD int row_of(int packet, int bits) { return packet >> bits; }
HD int place_in_row(int packet, int bits) { return packet & ((1 << bits) - 1); }

// Where eight numbers lie in a tile: swizzled along their row, so that those of eight rows, which
// ldmatrix reads at once, lie in eight different sets of banks.
HD int swizzle(int row, int packet, int bits) {
    const int moved = bits < 3 ? place_in_row(row >> (3 - bits), bits) : row % 8;
    return ((row << bits) + (packet ^ moved)) * VEC;
}

// Loads a thread's share of a tile into registers, and stores it in parts into shared memory.
template <class T, int TILE, int THREADS> struct TileLoader {
    static constexpr int each = TILE / (VEC * THREADS);
    static_assert(each * VEC * THREADS == TILE, "");
    Raw<T> raw[each];

    HD void load(const Matrix<T>& m, int row, int col, int bits, bf16 (*)[TILE]) {
        for (int i = 0; i < each; i++) {
            const int packet = threadIdx.x + i * THREADS;
            raw[i] = load_vector(m, row + row_of(packet, bits),
                                 col + place_in_row(packet, bits) * VEC);
        }
    }

    HD void store(int bits, bf16 (*to)[TILE]) {
        for (int i = 0; i < each; i++) {
            const int packet = threadIdx.x + i * THREADS;
            const int at = swizzle(row_of(packet, bits), place_in_row(packet, bits), bits);
            Packet hi, lo;
            split<Parts<T>::count>(raw[i], hi, lo);
            *reinterpret_cast<Packet*>(&to[0][at]) = hi;
            if (Parts<T>::count == 2) *reinterpret_cast<Packet*>(&to[1][at]) = lo;
        }
    }
};

// bf16 is copied to shared memory without registers between, where packets can be.
template <int TILE, int THREADS> struct TileLoader<bf16, TILE, THREADS> {
    static constexpr int each = TILE / (VEC * THREADS);
    static_assert(each * VEC * THREADS == TILE, "");
    HD void load(const Matrix<bf16>& m, int row, int col, int bits, bf16 (*to)[TILE]) {
        for (int i = 0; i < each; i++) {
            const int packet = threadIdx.x + i * THREADS;
            const int along = row_of(packet, bits), place = place_in_row(packet, bits);
            const int r = row + along, c = col + place * VEC;
            Packet* at = reinterpret_cast<Packet*>(&to[0][swizzle(along, place, bits)]);
            const int n = count(m, r, c);
            if (m.whole)
                cp_async(at, n ? m.at + r * m.row + c : m.at, n * 2);
            else
                *at = load_vector(m, r, c).x[0];
        }
    }
    HD void store(int, bf16 (*)[TILE]) {}
};

// Tile after tile through STAGES stages of shared memory: while one is used, others are on their
// way.
template <int STAGES, class Begin, class End, class Use>
HD void pipeline(int tiles, Begin begin, End end, Use use) {
    for (int tile = 0; tile < STAGES - 1; tile++) {
        if (tile < tiles) {
            begin(tile, tile);
            end(tile);
        }
        cp_async_commit();
    }
    for (int tile = 0; tile < tiles; tile++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // this tile is there, and nobody uses the one before any more
        const int next = tile + STAGES - 1;
        if (next < tiles) begin(next, next % STAGES);
        cp_async_commit();
        use(tile, tile % STAGES);
        if (next < tiles) end(next % STAGES);
    }
}

// A warp's tile of a product, and its accumulators.
constexpr int WARP_M = 64;
constexpr int WARP_N = 32;
struct Acc { float x[WARP_M / 16][WARP_N / 8][4]; };

// sum += a b of one stage, all parts but lo lo, small ones first. A tile lies as rows along k, or
// as rows of all columns; the piece begins at `row` of a and `col` of b.
template <int A, int B, int DEPTH, int TILE>
HD void warp_mma(Acc& sum, bf16 (*a)[TILE], bf16 (*b)[TILE], int row, int col, bool a_along_k,
                 bool b_along_k) {
    constexpr int deep = DEPTH / VEC, of_deep = bits_for(deep),
                  of_wide = bits_for(TILE / DEPTH / VEC);
    const int lane = threadIdx.x % WARP, low = lane % 16, high = lane / 16;
    UNROLL for (int k = 0; k < deep; k += 2) {
        unsigned y[B][WARP_N / 16][4];  // each two fragments, of columns 0 to 7 and 8 to 15
        UNROLL for (int part = 0; part < B; part++)
            UNROLL for (int j = 0; j < WARP_N / 16; j++) {
                const int n = col + 16 * j;
                if (b_along_k)
                    ldmatrix(y[part][j],
                             &b[part][swizzle(n + 8 * high + lane % 8, k + low / 8, of_deep)]);
                else
                    ldmatrix_trans(y[part][j],
                                   &b[part][swizzle(k * VEC + low, n / VEC + high, of_wide)]);
            }
        UNROLL for (int i = 0; i < WARP_M / 16; i++) {
            const int m = row + 16 * i;
            unsigned x[A][4];
            UNROLL for (int part = 0; part < A; part++) {
                if (a_along_k)
                    ldmatrix(x[part], &a[part][swizzle(m + low, k + high, of_deep)]);
                else
                    ldmatrix_trans(x[part], &a[part][swizzle(k * VEC + 8 * high + lane % 8,
                                                           m / VEC + low / 8, of_wide)]);
            }
            UNROLL for (int p = A - 1; p >= 0; p--)
                UNROLL for (int q = p == 0 ? B - 1 : 0; q >= 0; q--)
                    UNROLL for (int j = 0; j < WARP_N / 8; j++) {
                        const unsigned (&both)[4] = y[q][j / 2];
                        const unsigned one[2] = {both[j % 2 * 2], both[j % 2 * 2 + 1]};
                        mma<bf16>(sum.x[i][j], x[p], one);
                    }
        }
    }
}

// Promotes sums of tensor cores to sums that round: all += sum, sum = 0.
HD void promote(Acc& all, Acc& sum) {
    UNROLL for (int i = 0; i < WARP_M / 16; i++)
        UNROLL for (int j = 0; j < WARP_N / 8; j++)
            UNROLL for (int e = 0; e < 4; e++) {
                all.x[i][j][e] += sum.x[i][j][e];
                sum.x[i][j][e] = 0;
            }
}
