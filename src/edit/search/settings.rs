//! The settings of a value search.

use std::ops::Range;

use crate::model::{At, Matrix, Model, Position, Site, Span};
use crate::ops::norm::Norm;
use crate::ops::search_step::{SearchRule, StopRule};
use crate::store::Fingerprint;

/// The loss below which a search ends, everywhere in the field.
pub const LOSS_TOLERANCE: f64 = 0.05;

/// The settings of a search; their names in config files in brackets.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// Where δ goes in and the loss is read (`layers`, `v_loss_layer`).
    pub push: Push,
    /// At most this many steps (`v_num_grad_steps`).
    pub steps: usize,
    /// Adam's learning rate (`v_lr`).
    pub lr: f64,
    /// Weight of ‖δ‖/‖t₀‖² (`v_weight_decay`).
    pub weight_decay: f64,
    /// ‖δ‖ ≤ clamp·‖t₀‖ (`clamp_norm_factor`), vector by vector.
    pub clamp: f64,
    /// κ (`kl_factor`).
    pub kl_factor: f64,
    /// f, the weight of the negative log-likelihood, 1 but for PMET (`nll_loss_factor`).
    pub nll_factor: f64,
    /// PMET's rule: once every target token is the likeliest, f is a tenth of itself in the next
    /// step, and the search ends if the KL term is at most 0.01.
    pub anneal_nll: bool,
    /// After how many looks at which every target token is the likeliest in every rewriting row the
    /// search ends (`early_stop`); 0 is never.
    pub early_stop: usize,
    /// The loss below which the search ends.
    pub loss_tolerance: f64,
}

/// Where a search pushes, and from where on its loss is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// A value or a stream.
    pub site: Site,
    /// Whether a second vector goes into the same layer's attention output (PMET).
    pub attention: bool,
    /// Into how many layers above it a vector of their own goes, at the same place.
    pub above: usize,
    /// The layer after which the head reads the stream, not below the site's.
    pub loss_layer: usize,
}

impl Search {
    /// How a step goes.
    pub fn rule(&self) -> SearchRule {
        SearchRule {
            lr: self.lr,
            weight_decay: self.weight_decay,
            clamp: self.clamp,
            nll_factor: self.nll_factor,
            stop: StopRule {
                loss_tolerance: self.loss_tolerance,
                anneal_nll: self.anneal_nll,
                max_steps: self.steps,
            },
        }
    }

    /// Whether a search has seen its target likeliest often enough, by the target tokens that were
    /// not the likeliest in each step.
    pub fn ends_early(&self, missed: impl Iterator<Item = usize>) -> bool {
        self.early_stop > 0 && missed.filter(|&missed| missed == 0).count() >= self.early_stop
    }

    /// Adds all settings to a fingerprint.
    pub fn digest(&self, into: &mut Fingerprint) {
        // A new field does not compile until it stands here.
        let Search {
            push,
            steps,
            lr,
            weight_decay,
            clamp,
            kl_factor,
            nll_factor,
            anneal_nll,
            early_stop,
            loss_tolerance,
        } = self;
        push.digest(into);
        into.add(&(*steps as u64).to_le_bytes());
        for x in [lr, weight_decay, clamp, kl_factor, nll_factor, loss_tolerance] {
            into.add(&x.to_le_bytes());
        }
        into.add(&[u8::from(*anneal_nll)]);
        into.add(&(*early_stop as u64).to_le_bytes());
    }
}

impl Push {
    /// P, how many vectors δ holds, side by side: those a step begins with, then those that go in
    /// on its way.
    pub fn vectors(&self) -> usize {
        self.first_vectors() + self.above
    }

    /// How many of them a step begins with: they go into the lowest layer.
    pub fn first_vectors(&self) -> usize {
        1 + usize::from(self.attention)
    }

    /// The site of each of the P vectors.
    pub fn sites(&self) -> Vec<Site> {
        let Site { layer, at } = self.site;
        let attention = self.attention.then_some(Site { layer, at: At::ATTENTION });
        let above = (1..=self.above).map(|i| Site { layer: layer + i, at });
        [self.site].into_iter().chain(attention).chain(above).collect()
    }

    /// The last layer that a vector goes into.
    pub fn top(&self) -> usize {
        self.site.layer + self.above
    }

    /// The layers a step runs.
    pub fn layers_above(&self) -> Range<usize> {
        self.site.layer + 1..self.loss_layer.max(self.top()) + 1
    }

    /// Where the vector of a part joins the stream: behind the branch whose output it changes, or
    /// at the end of the layer where that is parallel.
    fn joins(&self, model: &Model, part: usize) -> Position {
        let layer = self.site.layer;
        let attention = model.layers[layer].branch_of(Matrix::O);
        match attention.filter(|_| part == 1 && !model.layers[layer].parallel) {
            Some(branch) => Position { layer, branch: branch + 1 },
            None => Position::before(layer + 1),
        }
    }

    /// ρ, what the stream gets of a part's vector: 1 of what goes into the stream itself.
    pub fn rho(&self, model: &Model, part: usize) -> f64 {
        match self.sites()[part].at {
            At::Stream => 1.0,
            At::Input(_) | At::Output(_) => model.arch.scales.residual,
        }
    }

    /// The norm between the value and the stream, where the family has one there.
    pub fn norm<'m>(&self, model: &'m Model) -> Option<&'m Norm> {
        model.norm_behind(self.site.layer).filter(|_| self.site.at == At::VALUE)
    }

    /// What a step runs between a part's vector and that of the part before it, or the head. The
    /// last part's comes first.
    pub fn behind(&self, model: &Model, part: usize) -> Span {
        let end = match part {
            0 => Position::before(self.layers()),
            _ => self.joins(model, part - 1),
        };
        (self.joins(model, part)..end).into()
    }

    /// All that a step runs of the layers.
    pub fn span(&self, model: &Model) -> Span {
        (self.joins(model, self.first_vectors() - 1)..Position::before(self.layers())).into()
    }

    /// How many layers a search runs, from the first.
    pub fn layers(&self) -> usize {
        self.layers_above().end
    }

    /// Adds it to a fingerprint.
    pub fn digest(&self, into: &mut Fingerprint) {
        let Push { site: Site { layer, at }, attention, above, loss_layer } = self;
        let at = match at {
            At::Output(Matrix::O) => 0,
            At::Input(Matrix::Down) => 1,
            At::Output(Matrix::Down) => 2,
            At::Stream => 3,
            At::Input(matrix) => 4 + 2 * *matrix as u8,
            At::Output(matrix) => 5 + 2 * *matrix as u8,
        };
        into.add(&(*layer as u64).to_le_bytes());
        into.add(&[at, u8::from(*attention)]);
        for x in [loss_layer, above] {
            into.add(&(*x as u64).to_le_bytes());
        }
    }
}
