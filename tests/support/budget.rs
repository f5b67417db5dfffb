//! Error budgets for operations: how far a result may be off, derived and never tuned.
//!
//! ```text
//! want   the plain loop in f64        base   the same loop in f32: as good as plain code gets
//! f32    max|got − want| ≤ 2·max|base − want| + u·max|want|             u = 2⁻²⁴
//! f64    max|got − want| ≤ 2⁻²⁹ (3·max|base − want| + 2·u·max|want|)
//! ```
//!
//! The inputs of the first line are exact in f32, so that `base` is wrong by rounding alone. The
//! second has inputs of its own, with all the digits of f64: rounding errors are proportional to
//! the unit roundoff, so what a plain loop loses in f32, it loses 2⁻²⁹ of in f64. There `got` has
//! its budget and `want` an error of its own: 3 and 2 instead of 2 and 1.
//!
//! A kernel's `base` is the worse of two: the plain loop, and the same with what NVIDIA's compiler
//! and functions do to it (`support/fused.rs`). What tensor cores and `erfcf` lose beyond that, a
//! case derives from the kernel's header and adds: [`kernel_besides`].
//!
//! The maximum over few numbers is luck, so a case is drawn again until [`ENOUGH`] were seen.

use std::sync::LazyLock;

use incise::base::Float;
use incise::gpu::Engine;
use incise::gpu::launch::Elem;
use incise::tensor::Precision;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::fused::Fused;
use super::toy::Draw;
use super::twin;

/// How many numbers an output must have shown before its largest error says something.
const ENOUGH: usize = 128;
/// … and how often a case is drawn at least: numbers of one draw share sums, and so errors.
const DRAWS: usize = 8;

/// Draws of which an engine of compiled kernels, which are slow on the host, runs one.
const TURNS: usize = 4;

/// Numbers of all outputs up to which a kernel also runs under ThreadSanitizer.
const FEW: usize = 1500;

/// … and up to which a case is small.
const SMALL: usize = 300;

/// The unit roundoffs: half of what f32 and f64 resolve at 1.
pub const U32: f64 = f32::EPSILON as f64 / 2.0;
pub const U64: f64 = f64::EPSILON / 2.0;

/// That of a type of results.
pub fn unit(elem: Elem) -> f64 {
    match elem {
        Elem::BF16 => f64::powi(2.0, -8),
        Elem::F16 => f64::powi(2.0, -11),
        _ => U32,
    }
}

/// What sums of k products on tensor cores may lose of Σ |a| |w|: they add 16 products at once,
/// each of 17 numbers to 2⁻²³ of the largest, and the sums never rest on the way.
pub fn lost(k: usize) -> f64 {
    17.0 * k.div_ceil(16) as f64 * f64::powi(2.0, -23)
}

/// An operation with its inputs, computed by the plain loops of its formula and by our own code.
pub trait Op: Sync {
    /// Names of what it computes.
    const OUTPUTS: &'static [&'static str];
    /// From the formula, in `T`.
    fn plain<T: Float>(&self) -> Vec<Vec<T>>;
    /// By our own code.
    fn ours(&self, precision: Precision) -> Vec<Vec<f64>>;
}

/// Holds every output of a case to its budget in both types, and to the same bits on one thread
/// and on two.
pub fn hold<O: Op>(case: &str, inputs: impl Fn(&mut Draw) -> O) {
    let names = O::OUTPUTS;
    let mut seen = vec![Seen::default(); names.len()];
    let mut draws = [Draw::new(case, true), Draw::new(case, false)];
    for drawn in 1.. {
        let [single, double] = draws.each_mut().map(&inputs);
        let (want, base) = (single.plain::<f64>(), widen(single.plain::<f32>()));
        let got = ours(case, &single, Precision::F32);
        let (want64, got64) = (double.plain::<f64>(), ours(case, &double, Precision::F64));
        assert!(want.len() == names.len() && got.len() == names.len(), "{case}: unnamed outputs");
        for (i, seen) in seen.iter_mut().enumerate() {
            seen.count += want[i].len();
            seen.top = want[i].iter().fold(seen.top, |a, w| a.max(w.abs()));
            seen.base = seen.base.max(off(&base[i], &want[i]));
            seen.single = seen.single.max(off(&got[i], &want[i]));
            seen.double = seen.double.max(off(&got64[i], &want64[i]));
        }
        if drawn >= DRAWS && seen.iter().all(|s| s.count == 0 || s.count >= ENOUGH) {
            break;
        }
    }
    for (name, s) in names.iter().zip(seen) {
        let single = 2.0 * s.base + U32 * s.top;
        let double = U64 / U32 * (3.0 * s.base + 2.0 * U32 * s.top);
        for (precision, off, budget) in [("f32", s.single, single), ("f64", s.double, double)] {
            assert!(off <= budget, "{case}: {name} in {precision} is off by {off:e} > {budget:e}");
        }
    }
}

/// Holds a kernel to the budget of its operation in f32, plus one rounding to each output's type,
/// on every engine, with the same bits on all of the sources. Compiled kernels take turns, a draw
/// each of [`TURNS`]. `INCISE_SMALLEST=1` leaves out all but small cases, drawn once: what a
/// checker of memory has the time for.
///
/// ```text
/// max|got − want| ≤ 2·max|base − want| + u·max|want| + besides      u of the output's type
/// ```
pub fn kernel<O: Op>(
    case: &str,
    engines: &[(String, Engine)],
    outputs: &[Elem],
    inputs: impl Fn(&mut Draw) -> O,
    run: impl Fn(&O, &Engine) -> Vec<Vec<f64>>,
) {
    kernel_besides(case, engines, outputs, inputs, run, |_| vec![0.0; O::OUTPUTS.len()]);
}

/// As [`kernel`], for one that computes something else than the formula: `besides` is how far that
/// is from it at most, output by output, which the kernel's header derives.
pub fn kernel_besides<O: Op>(
    case: &str,
    engines: &[(String, Engine)],
    outputs: &[Elem],
    inputs: impl Fn(&mut Draw) -> O,
    run: impl Fn(&O, &Engine) -> Vec<Vec<f64>>,
    besides: impl Fn(&O) -> Vec<f64>,
) {
    let names = O::OUTPUTS;
    let mut seen = vec![Seen::default(); names.len()];
    let (compiled, sources): (Vec<_>, Vec<_>) =
        engines.iter().partition(|(name, _)| twin::is_compiled(name));
    let judged: Vec<_> = sources.first().into_iter().chain(&compiled).collect();
    let mut errors = vec![vec![0.0f64; names.len()]; judged.len()];
    let mut draw = Draw::new(case, true);
    let smallest = std::env::var_os("INCISE_SMALLEST").is_some_and(|v| v == "1");
    for drawn in 1.. {
        let op = inputs(&mut draw);
        let (want, bases) = (op.plain::<f64>(), bases(&op));
        if smallest && want.iter().map(Vec::len).sum::<usize>() > SMALL {
            return;
        }
        let first = usize::from(!sources.is_empty());
        for (at, ((name, engine), errors)) in judged.iter().zip(&mut errors).enumerate() {
            if twin::is_compiled(name) && (drawn - 1) % TURNS != at - first {
                continue;
            }
            let got = run(&op, engine);
            errors
                .iter_mut()
                .zip(got.iter().zip(&want))
                .for_each(|(e, (g, w))| *e = e.max(off(g, w)));
            if drawn > 1 || twin::is_compiled(name) {
                continue;
            }
            // A thread of ThreadSanitizer's costs as much as thousands of ours.
            let large = want.iter().map(Vec::len).sum::<usize>() > FEW;
            let others =
                sources[1..].iter().filter(|(name, _)| !(large && name.contains("thread")));
            for (other, on) in others {
                let same = run(&op, on).into_iter().map(Bits).eq(got.iter().cloned().map(Bits));
                assert!(same, "{case}: on `{other}` other bits than on `{name}`");
            }
        }
        for (i, (seen, besides)) in seen.iter_mut().zip(besides(&op)).enumerate() {
            seen.count += want[i].len();
            seen.top = want[i].iter().fold(seen.top, |a, w| a.max(w.abs()));
            seen.base = bases.iter().fold(seen.base, |a, base| a.max(off(&base[i], &want[i])));
            seen.besides = seen.besides.max(besides);
        }
        if smallest {
            return;
        }
        if drawn >= DRAWS && seen.iter().all(|s| s.count == 0 || s.count >= ENOUGH) {
            break;
        }
    }
    for (i, (name, elem)) in names.iter().zip(outputs).enumerate() {
        let budget = 2.0 * seen[i].base + unit(*elem) * seen[i].top + seen[i].besides;
        for ((on, _), errors) in judged.iter().zip(&errors) {
            let off = errors[i];
            assert!(
                off <= budget,
                "{case}: the kernel's {name} on `{on}` is off by {off:e} > {budget:e}"
            );
        }
    }
}

/// The largest errors of one output over all draws.
#[derive(Clone, Default)]
struct Seen {
    count: usize,
    top: f64,
    base: f64,
    single: f64,
    double: f64,
    besides: f64,
}

/// What plain loops give that round every product, and those that round it with the sum it is in.
pub fn bases(op: &impl Op) -> [Vec<Vec<f64>>; 2] {
    [widen(op.plain::<f32>()), widen(op.plain::<Fused>())]
}

fn widen<T: Float>(outputs: Vec<Vec<T>>) -> Vec<Vec<f64>> {
    outputs.into_iter().map(|x| x.into_iter().map(T::f64).collect()).collect()
}

/// What our own code gives, with the same bits on one thread and on two.
fn ours(case: &str, op: &impl Op, precision: Precision) -> Vec<Vec<f64>> {
    let run = || op.ours(precision).into_iter().map(Bits).collect::<Vec<_>>();
    on_one_and_two(case, run).into_iter().map(|x| x.0).collect()
}

/// Numbers that are equal if all their bits are.
struct Bits(Vec<f64>);

impl PartialEq for Bits {
    fn eq(&self, other: &Bits) -> bool {
        self.0.iter().map(|x| x.to_bits()).eq(other.0.iter().map(|x| x.to_bits()))
    }
}

/// max|got − want|; a NaN is infinitely far off.
pub fn off(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "sizes differ");
    let gap = |(g, w): (&f64, &f64)| if g == w { 0.0 } else { (g - w).abs() };
    got.iter()
        .zip(want)
        .map(gap)
        .fold(0.0, |a, d| if d.is_nan() { f64::INFINITY } else { a.max(d) })
}

/// What `run` gives, which must be the same on one thread and on two.
pub fn on_one_and_two<R: PartialEq + Send>(case: &str, run: impl Fn() -> R + Sync) -> R {
    static POOLS: LazyLock<[ThreadPool; 2]> =
        LazyLock::new(|| [1, 2].map(|n| ThreadPoolBuilder::new().num_threads(n).build().unwrap()));
    let [one, two] = [0, 1].map(|pool| POOLS[pool].install(&run));
    assert!(one == two, "{case}: the result depends on the number of threads");
    one
}

/// ⟨u, J v⟩ = ⟨Jᵀ u, v⟩ in f64. Both are sums of the same `terms` products u_i J_ij v_j, whose
/// absolute values sum to `size`, in two orders: each is off by at most terms·u·size.
pub fn adjoint(case: &str, [u_jv, jtu_v]: [f64; 2], terms: usize, size: f64) {
    let (off, budget) = ((u_jv - jtu_v).abs(), 2.0 * terms as f64 * U64 * size);
    assert!(off <= budget, "{case}: the adjoint is off by {off:e} > {budget:e}");
}

/// ⟨a, b⟩.
pub fn inner(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "sizes differ");
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// ⟨|a|, |b|⟩.
pub fn inner_abs(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

/// Holds `slope` to the central difference of f at 0, in f64. `noise` bounds the rounding error of
/// f; its cube root is the step that balances noise/h against truncation, c h². A second, doubled
/// step shows the truncation: |D(2h) − D(h)| = 3 c h², three times the error of D(h).
pub fn central(case: &str, slope: f64, noise: f64, f: impl Fn(f64) -> f64) {
    let h = noise.cbrt();
    let [near, far] = [h, 2.0 * h].map(|h| (f(h) - f(-h)) / (2.0 * h));
    let (off, budget) = ((slope - near).abs(), (far - near).abs() + noise / h);
    assert!(off <= budget, "{case}: the slope {slope:e} is off by {off:e} > {budget:e}");
    // A budget as wide as the slope would let anything pass.
    assert!(budget < 1e-3 * slope.abs(), "{case}: {budget:e} cannot judge the slope {slope:e}");
}

/// x + t v.
pub fn along(x: &[f64], t: f64, v: &[f64]) -> Vec<f64> {
    x.iter().zip(v).map(|(x, v)| x + t * v).collect()
}
