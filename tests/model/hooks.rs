//! What a hook is promised: what each site holds, on the way forward and back, and that looking
//! changes nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;

use incise::model::site::Look;
use incise::model::{
    At, Batch, Hook, KvCache, Linear, Matrix, Model, NoHook, Past, Position, Run, Site,
};
use incise::ops::rows::{self, Index};
use incise::tensor::{Precision, Tensor};

use super::golden::each;
use crate::support::budget::{self, inner};
use crate::support::golden::Golden;
use crate::support::toy::{Draw, Fill};
use crate::support::twin;

/// Models that together have every form of a layer: sequential, parallel, gated, with qk-norm of
/// heads and of all, norms before and behind.
const MODELS: [&str; 6] = ["gpt2", "gptj", "neox", "llama-tied", "qwen3", "olmo2"];

/// Every site of a layer.
fn sites(model: &Model, layer: usize) -> Vec<Site> {
    let matrices = model.layers[layer].matrices();
    let both = matrices.flat_map(|(matrix, _)| [At::Input(matrix), At::Output(matrix)]);
    both.chain([At::Stream]).map(|at| Site { layer, at }).collect()
}

fn all_sites(model: &Model) -> Vec<Site> {
    (0..model.arch.layers).flat_map(|l| sites(model, l)).collect()
}

/// Keeps what it is handed, both ways.
#[derive(Default)]
struct Record {
    sites: Vec<Site>,
    forward: BTreeMap<String, Vec<f64>>,
    backward: BTreeMap<String, Vec<f64>>,
}

impl Record {
    fn of(sites: Vec<Site>) -> Record {
        Record { sites, ..Record::default() }
    }

    fn tensor(&self, layer: usize, at: At) -> &[f64] {
        &self.forward[&name(Site { layer, at })]
    }

    fn gradient(&self, layer: usize, at: At) -> &[f64] {
        &self.backward[&name(Site { layer, at })]
    }
}

fn name(site: Site) -> String {
    format!("{}.{:?}", site.layer, site.at)
}

impl Hook for Record {
    fn sites(&self) -> &[Site] {
        &self.sites
    }

    fn forward(&mut self, site: Site, batch: &Batch, shown: &mut Tensor) {
        assert_eq!(shown.shape()[0], batch.len());
        self.forward.insert(name(site), shown.to_f64());
    }

    fn backward(&mut self, site: Site, batch: &Batch, gradient: &Tensor) {
        assert_eq!(gradient.shape()[0], batch.len());
        self.backward.insert(name(site), gradient.to_f64());
    }
}

/// The stream after a pass that keeps all layers, the run, and a made-up gradient for that stream.
fn pass(model: &Model, batch: &Batch, hook: &mut dyn Hook) -> (Tensor, Run, Tensor) {
    let mut run = Run::keeping(model, 0..model.arch.layers);
    let (x, dx) = pass_in(&mut run, model, batch, hook);
    (x, run, dx)
}

fn pass_in(run: &mut Run, model: &Model, batch: &Batch, hook: &mut dyn Hook) -> (Tensor, Tensor) {
    let mut x = model.embed(batch);
    model.forward(batch, 0..model.arch.layers, Past::None, &mut x, run, hook);
    let values = Draw::new("a gradient", false).fill(Fill::Wide(1.0), x.len());
    let dx = Tensor::of(&model.compute, x.shape(), &values);
    (x, dx)
}

fn back(model: &Model, batch: &Batch, run: &mut Run, dx: &mut Tensor, hook: &mut dyn Hook) {
    let nothing = KvCache::new(&model.arch, &model.compute);
    model.backward(batch, 0..model.arch.layers, &nothing, dx, run, hook);
}

/// Where nobody looks, operations are fused: the same bits, on every device.
#[test]
fn looking_changes_no_bit() {
    each("hooks::looking_changes_no_bit", |golden, model, _| {
        let batch = Batch::whole(&golden.json.prompts);
        let run = |hook: &mut dyn Hook| {
            let (x, mut run, mut dx) = pass(model, &batch, hook);
            back(model, &batch, &mut run, &mut dx, hook);
            (x.to_f64(), dx.to_f64())
        };
        let mut record = Record::of(all_sites(model));
        assert!(run(&mut NoHook) == run(&mut record), "{}", golden.name);
        let asked = record.sites.len();
        assert_eq!([record.forward.len(), record.backward.len()], [asked; 2], "{}", golden.name);
        // And nothing else than what is asked for is shown.
        let one = Site { layer: 1, at: At::KEY };
        let mut alone = Record::of(vec![one]);
        run(&mut alone);
        assert_eq!([alone.forward.len(), alone.backward.len()], [1; 2], "{}", golden.name);
        assert!(alone.forward[&name(one)] == record.forward[&name(one)]);
    });
}

/// x (N, in) Wᵀ + b, and dy (N, out) W, in f64.
fn products(linear: &Linear, x: &[f64], dy: &[f64]) -> [Vec<f64>; 2] {
    let ([out, inside], w) = (linear.w.dims(), linear.w.to_dense::<f64>());
    let bias = linear.b.as_ref().map_or(vec![0.0; out], Tensor::to_f64);
    let mut forward = Vec::new();
    for x in x.chunks(inside) {
        forward.extend((0..out).map(|i| inner(&w[i * inside..][..inside], x) + bias[i]));
    }
    let mut backward = Vec::new();
    for dy in dy.chunks(out) {
        let column = |j: usize| (0..out).map(|i| dy[i] * w[i * inside + j]).sum::<f64>();
        backward.extend((0..inside).map(column));
    }
    [forward, backward]
}

fn close(got: &[f64], want: &[f64], case: &str) {
    let top = want.iter().fold(0.0f64, |a, w| a.max(w.abs()));
    let off = got.iter().zip(want).fold(0.0f64, |a, (g, w)| a.max((g - w).abs()));
    // Sums of fewer than 128 terms, as large as the largest or less.
    assert!(got.len() == want.len() && off <= 128.0 * f64::EPSILON * top, "{case}: {off} of {top}");
}

/// At every matrix: output = input Wᵀ + b, and the gradient for an input is the sum over the
/// matrices that read it of (their output's gradient) W.
#[test]
fn a_matrix_gives_what_its_sites_say() {
    for golden in MODELS.map(Golden::open) {
        let model = golden.model(Precision::F64);
        let batch = Batch::whole(&golden.json.prompts);
        let mut record = Record::of(all_sites(&model));
        let (_, mut run, mut dx) = pass(&model, &batch, &mut record);
        back(&model, &batch, &mut run, &mut dx, &mut record);
        for l in 0..model.arch.layers {
            let mut inputs: BTreeMap<&[Matrix], Vec<f64>> = BTreeMap::new();
            for (matrix, linear) in model.layers[l].matrices() {
                let case = format!("{}, layer {l}, {matrix:?}", golden.name);
                let x = record.tensor(l, At::Input(matrix));
                let dy = record.gradient(l, At::Output(matrix));
                let [y, du] = products(linear, x, dy);
                close(record.tensor(l, At::Output(matrix)), &y, &case);
                let readers: &[Matrix] = match matrix {
                    Matrix::Q | Matrix::K | Matrix::V => &[Matrix::Q, Matrix::K, Matrix::V],
                    Matrix::Gate | Matrix::Up => &[Matrix::Gate, Matrix::Up],
                    Matrix::O => &[Matrix::O],
                    Matrix::Down => &[Matrix::Down],
                };
                let sum = inputs.entry(readers).or_insert(vec![0.0; du.len()]);
                sum.iter_mut().zip(du).for_each(|(sum, du)| *sum += du);
            }
            for (readers, sum) in inputs {
                let reader = readers[readers.len() - 1]; // `Up`, where there is no gate
                // The gradient of O's and Down's inputs is that of their outputs through W alone.
                let case = format!("{}, layer {l}, what {reader:?} reads", golden.name);
                close(record.gradient(l, At::Input(reader)), &sum, &case);
            }
        }
    }
}

/// Central differences: what a hook adds to a site moves the loss by the gradient at the site.
#[test]
fn the_gradient_at_a_site_is_its_slope() {
    for golden in MODELS.map(Golden::open) {
        let model = golden.model(Precision::F64);
        let ids = &golden.json.prompts[golden.json.captured];
        let batch = Batch::whole([ids]);
        let mut record = Record::of(all_sites(&model));
        let (x, mut run, mut dx) = pass(&model, &batch, &mut record);
        let weights = dx.to_f64();
        back(&model, &batch, &mut run, &mut dx, &mut record);
        let top = inner(&x.to_f64(), &x.to_f64()).sqrt() * inner(&weights, &weights).sqrt();
        for site in sites(&model, 1) {
            let case = format!("{}, {}", golden.name, name(site));
            let gradient = &record.backward[&name(site)];
            let width = gradient.len() / batch.len();
            let length = inner(gradient, gradient).sqrt();
            let v: Vec<f64> = gradient.iter().map(|g| g / length).collect();
            let every = Index::new(&model.compute, (0..batch.len()).collect::<Vec<_>>());
            let loss = |t: f64| {
                let push: Vec<f64> = v.iter().map(|v| t * v).collect();
                let push = Tensor::of(&model.compute, &[batch.len(), width], &push);
                let look = |_, shown: &mut Tensor| rows::scatter_add(shown, &every, &push);
                let mut hook = Look { sites: vec![site], look };
                inner(&pass(&model, &batch, &mut hook).0.to_f64(), &weights)
            };
            // As in `Golden::check`: 512 units of the largest value a sum can have.
            budget::central(&case, length, 512.0 * f64::EPSILON * top, loss);
        }
    }
}

/// Backward runs down to the lowest site that is asked for, and no further.
#[test]
fn a_pass_back_ends_at_the_lowest_site() {
    let golden = Golden::open("llama-tied");
    let model = golden.model(Precision::F64);
    let batch = Batch::whole(&golden.json.prompts);
    let top = Position::before(model.arch.layers);
    let mut whole = Record::of(all_sites(&model));
    let (_, mut run, dx) = pass(&model, &batch, &mut whole);
    let mut all = dx.clone();
    back(&model, &batch, &mut run, &mut all, &mut whole);
    let place = |at, layer| model.place(Site { layer, at }).unwrap();
    assert_eq!(place(At::Input(Matrix::Q), 1), Position { layer: 1, branch: 0 });
    assert_eq!(place(At::VALUE, 1), Position { layer: 1, branch: 1 });
    assert_eq!(place(At::Stream, 1), Position::before(2));
    assert_eq!(model.place(Site { layer: 9, at: At::Stream }), None);
    let gpt2 = Golden::open("gpt2").model(Precision::F64);
    assert_eq!(gpt2.place(Site { layer: 0, at: At::Input(Matrix::Gate) }), None, "it has none");
    for at in [At::Stream, At::VALUE, At::Input(Matrix::Up), At::ATTENTION] {
        let mut hook = Record::of(vec![Site { layer: 1, at }]);
        let mut run = Run::keeping(&model, place(at, 1)..top);
        let (mut x, mut dx) = (model.embed(&batch), dx.clone());
        let below = Position::before(0)..place(at, 1);
        model.forward(&batch, below, Past::None, &mut x, &mut Run::new(&model), &mut NoHook);
        model.forward(&batch, place(at, 1)..top, Past::None, &mut x, &mut run, &mut NoHook);
        let nothing = KvCache::new(&model.arch, &model.compute);
        model.backward(&batch, place(at, 1)..top, &nothing, &mut dx, &mut run, &mut hook);
        assert!(hook.gradient(1, at) == whole.gradient(1, at), "{at:?}");
    }
}

/// Where weights come and go, a layer is run again for backward, and its hook sees all of it again:
/// the same numbers.
#[test]
fn a_layer_that_is_run_again_shows_the_same() {
    let test = "model::hooks::a_layer_that_is_run_again_shows_the_same";
    for name in ["gptj", "llama-tied", "olmo2"] {
        let golden = Golden::open(name);
        let batch = Batch::whole(&golden.json.prompts[1..]);
        let Some(engine) = twin::engine(test) else { return };
        let model = golden.model(engine.clone());
        let mut kept = Record::of(all_sites(&model));
        let (_, mut run, mut dx) = pass(&model, &batch, &mut kept);
        back(&model, &batch, &mut run, &mut dx, &mut kept);
        let want = dx.to_f64();

        // As a run begins that finds no room for the weights.
        let limit = engine.memory().limit;
        engine.cap(engine.memory().used);
        assert!(model.offloads_weights());
        let mut run = Run::keeping(&model, 0..model.arch.layers);
        engine.cap(limit);
        let (_, mut dx) = pass_in(&mut run, &model, &batch, &mut NoHook);
        let mut again = Record::of(all_sites(&model));
        back(&model, &batch, &mut run, &mut dx, &mut again);
        assert!(dx.to_f64() == want, "{name}");
        assert!(again.backward == kept.backward, "{name}");
        let shown = again.forward.len() + model.arch.layers;
        assert_eq!(shown, kept.forward.len(), "all but the streams");
        let same = |(at, values): (&String, &Vec<f64>)| kept.forward[at] == *values;
        assert!(again.forward.iter().all(same), "{name}");
    }
}

/// A hook that says so may be recorded, and others are refused.
#[test]
fn a_recorded_pass_refuses_a_hook_that_waits() {
    struct Silent(Vec<Site>, bool);
    impl Hook for Silent {
        fn sites(&self) -> &[Site] {
            &self.0
        }
        fn records(&self) -> bool {
            self.1
        }
    }
    let test = "model::hooks::a_recorded_pass_refuses_a_hook_that_waits";
    let Some(engine) = twin::engine(test) else { return };
    let golden = Golden::open("gpt2");
    let model = golden.model(engine.clone());
    let batch = Batch::whole(&golden.json.prompts);
    let layers = 0..model.arch.layers;
    let (x, run) = (model.embed(&batch), Run::new(&model));
    let state = RefCell::new((x, run));
    let go = |hook: &mut dyn Hook| {
        let (x, run) = &mut *state.borrow_mut();
        model.forward(&batch, layers.clone(), Past::None, x, run, hook);
    };
    go(&mut NoHook);
    assert!(engine.record(|| go(&mut NoHook)).is_some());
    let site = || vec![Site { layer: 1, at: At::KEY }];
    assert!(engine.record(|| go(&mut Silent(site(), true))).is_some());
    assert!(engine.record(|| go(&mut Silent(site(), false))).is_none());
    assert!(engine.record(|| go(&mut Silent(vec![], false))).is_some(), "it is never called");
    go(&mut Silent(site(), false));
}
