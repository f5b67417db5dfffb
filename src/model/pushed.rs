//! The loss of the value search and its gradient for the vectors pushed into the stream.
//!
//! ```text
//! loss(δ) = mean_j −(1/T) Σ_t ln P[y_t | row j, push δ]      say the new object
//!         + κ KL(P[· | row′, push δ] ‖ P[· | row′])          stay what it is
//! ```
//!
//! A push at (layer, token) changes only that layer's stream from that token on. So what precedes
//! the token is run once and kept as keys and values, what lies below the layer is run once, and
//! each step runs the few tokens from the subject's last one on, through the layers above. The
//! head runs only at rows whose loss is read. Source: Meng et al. 2022, arXiv:2202.05262, eq. 4.

use super::backward::Back;
use super::batch::Batch;
use super::cache::Cache;
use super::decoder::{Past, Run};
use super::load::Model;
use super::site::{At, Site};
use crate::ops::loss::{self, Aim};
use crate::ops::norm::Saved;
use crate::ops::rows;
use crate::tensor::Tensor;
use crate::text::{Row, Rows};

/// The rows of one fact's search.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    /// Rewriting rows, each ending in the target without its last token, the row that should
    /// stay, and the target.
    pub rows: &'a Rows,
    /// κ.
    pub kl_factor: f64,
}

/// The two parts of a fact's loss, the second already times κ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Mean over rows of the mean over target tokens of −ln P.
    pub nll: f64,
    /// κ KL(now ‖ at δ = 0).
    pub kl: f64,
}

/// Some facts, their unpushed streams, and the memory to push into them again and again.
pub struct Pushed<'m> {
    model: &'m Model,
    above: std::ops::Range<usize>,
    batch: Batch,
    past: Cache,
    entry: Tensor,           // (N, D): stream above the pushed layer, without δ
    pushed: Vec<usize>,      // batch rows that δ is added to …
    owner: Vec<usize>,       // … and the fact each belongs to
    read: Vec<usize>,        // batch rows whose loss is read …
    aims: Vec<(usize, Aim)>, // … and the fact and aim of each
    facts: usize,
    first: Option<Tensor>, // (facts, V): ln P at δ = 0
    run: Run,
    back: Back,
    saved: Saved,
    logits: Tensor,
    /// t₀ (facts, D): the site's own output at each bare prompt's subject token, without δ.
    pub unpushed: Tensor,
}

impl<'m> Pushed<'m> {
    /// Runs everything that does not depend on δ. `site` is a value or a stream; the loss is read
    /// after `loss_layer`, which is not below it.
    pub fn new(model: &'m Model, site: Site, loss_layer: usize, problems: &[Problem]) -> Self {
        assert!(site.at != At::Key, "a push is as wide as the stream");
        let above = site.layer + 1..loss_layer.max(site.layer) + 1;
        let (past, batch) = prefixes(model, problems, above.end);
        let mut it = Plan::default();
        for (fact, p) in problems.iter().enumerate() {
            it.add(fact, p, &batch);
        }
        let width = model.arch.width;
        let bare: Vec<usize> = it.bare.clone();
        let mut unpushed = Tensor::zeros(model.precision, &[bare.len(), width]);
        let mut entry = model.embed(&batch);
        let mut run = Run::new(model);
        let below = 0..site.layer + 1;
        model.forward(&batch, below, Past::Read(&past), &mut entry, &mut run, &mut |at, t| {
            if at == site {
                rows::gather(t, &bare, &mut unpushed);
            }
        });
        Pushed {
            run: Run::keeping(model, above.clone()),
            back: Back::new(model, batch.len()),
            saved: Saved::new(model.precision, 0, width),
            logits: Tensor::zeros(model.precision, &[0, model.arch.vocabulary]),
            model,
            above,
            batch,
            past,
            entry,
            pushed: it.pushed,
            owner: it.owner,
            read: it.read,
            aims: it.aims,
            facts: problems.len(),
            first: None,
            unpushed,
        }
    }

    /// The losses of all facts at δ (facts, D), and their gradients (facts, D). The first call
    /// is at δ = 0 and fixes what should stay.
    pub fn step(&mut self, delta: &Tensor) -> (Vec<Parts>, Tensor) {
        let (model, d) = (self.model, self.model.arch.width);
        let mut x = self.entry.clone();
        let mut push = Tensor::zeros(model.precision, &[self.owner.len(), d]);
        rows::gather(delta, &self.owner, &mut push);
        rows::scatter_add(&mut x, &self.pushed, &push);
        let (above, past) = (self.above.clone(), Past::Read(&self.past));
        model.forward(&self.batch, above, past, &mut x, &mut self.run, &mut |_, _| {});

        let mut picked = Tensor::zeros(model.precision, &[self.read.len(), d]);
        rows::gather(&x, &self.read, &mut picked);
        model.head(&picked, &mut self.saved, &mut self.logits);
        let parts = self.losses();

        let dpicked = model.head_backward(&self.logits, &self.saved);
        let mut dx = Tensor::zeros(model.precision, &[self.batch.len(), d]);
        rows::scatter_add(&mut dx, &self.read, &dpicked);
        let above = self.above.clone();
        model.backward(&self.batch, above, &self.past, &mut dx, &self.run, &mut self.back);
        rows::gather(&dx, &self.pushed, &mut push);
        let mut gradient = Tensor::zeros(model.precision, &[self.facts, d]);
        rows::scatter_add(&mut gradient, &self.owner, &push);
        (parts, gradient)
    }

    /// Losses by fact; the logits become their gradient.
    fn losses(&mut self) -> Vec<Parts> {
        let aims: Vec<Aim> = self.aims.iter().map(|&(_, aim)| aim).collect();
        let logits = &mut self.logits;
        let first = self.first.get_or_insert_with(|| {
            let stays = |(i, aim): (usize, &Aim)| matches!(aim, Aim::Stay { .. }).then_some(i);
            let rows: Vec<usize> = aims.iter().enumerate().filter_map(stays).collect();
            let [_, v] = logits.dims();
            let mut first = Tensor::zeros(logits.precision(), &[rows.len(), v]);
            loss::log_softmax(logits, &rows, &mut first);
            first
        });
        let values = loss::gradient(logits, &aims, first);
        let mut parts = vec![Parts::default(); self.facts];
        for (&(fact, aim), value) in self.aims.iter().zip(values) {
            match aim {
                Aim::Say { weight, .. } => parts[fact].nll += weight * value,
                Aim::Stay { weight, .. } => parts[fact].kl += weight * value,
            }
        }
        parts
    }
}

/// Which batch rows are pushed and read.
#[derive(Default)]
struct Plan {
    next: usize, // sequence of the batch
    bare: Vec<usize>,
    pushed: Vec<usize>,
    owner: Vec<usize>,
    read: Vec<usize>,
    aims: Vec<(usize, Aim)>,
}

impl Plan {
    fn add(&mut self, fact: usize, p: &Problem, batch: &Batch) {
        let target = &p.rows.target;
        let weight = 1.0 / (target.len() * p.rows.rewriting.len()) as f64;
        for j in 0..p.rows.rewriting.len() {
            let seq = &batch.seqs[self.next + j].rows;
            if j == 0 {
                self.bare.push(seq.start);
            }
            self.pushed.push(seq.start);
            self.owner.push(fact);
            // The token at the end of the row predicts the last target token, and so on back.
            let say = target.iter().map(|&target| (fact, Aim::Say { target, weight }));
            self.read.extend(seq.end - target.len()..seq.end);
            self.aims.extend(say);
        }
        let stay = &batch.seqs[self.next + p.rows.rewriting.len()].rows;
        self.pushed.push(stay.start);
        self.owner.push(fact);
        self.read.push(stay.start);
        self.aims.push((fact, Aim::Stay { first: fact, weight: p.kl_factor }));
        self.next += p.rows.rewriting.len() + 1;
    }
}

/// Runs what precedes each lookup token through `layers` layers, and packs what follows from it
/// on. Of the row that should stay, only the lookup token itself is read.
fn prefixes(model: &Model, problems: &[Problem], layers: usize) -> (Cache, Batch) {
    let (mut before, mut after) = (Batch::default(), Batch::default());
    for p in problems {
        let rewriting = p.rows.rewriting.iter().map(|r| (r, r.ids.len()));
        let stay = std::iter::once((&p.rows.kl, p.rows.kl.lookup + 1));
        for (Row { ids, lookup }, end) in rewriting.chain(stay) {
            let past = before.push(&ids[..*lookup], 0..0);
            after.push(&ids[*lookup..end], past);
        }
    }
    // A sequence without a token has nothing to attend.
    before.seqs.retain(|s| !s.rows.is_empty());
    let mut cache = Cache::new(&model.arch, model.precision);
    let mut x = model.embed(&before);
    let mut run = Run::new(model);
    model.forward(&before, 0..layers, Past::Grow(&mut cache), &mut x, &mut run, &mut |_, _| {});
    (cache, after)
}
