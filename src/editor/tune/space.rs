//! What is tried of each method: data.
//!
//! Where to edit is given by depth, so that it fits models of any size. Values to begin with and
//! their variants are those that published files and models of ours differ by.

use serde_json::{Value, json};

use super::point::Point;
use crate::base::{Error, Remedy, Result};
use crate::edit::method::Method;

/// Settings of one kind of method.
pub struct Space {
    /// The methods.
    pub methods: &'static [&'static str],
    /// Layers that are edited together: one for so many of the model's, and at most `window`.
    pub layers_a_window: usize,
    /// The same at most.
    pub window: usize,
    /// Where a window begins, as a share of the model's depth.
    pub depths: &'static [f64],
    /// Settings that stay as they are, as JSON.
    pub fixed: &'static [(&'static str, &'static str)],
    /// Where the others begin.
    pub start: &'static [(&'static str, f64)],
    /// What to try in their place, at the best layers.
    pub variants: &'static [&'static [(&'static str, f64)]],
    /// A setting that needs no new search, and that s falls with in proportion.
    pub free: Option<&'static str>,
    /// Whether C is needed.
    pub statistics: bool,
}

/// What is done for large batches: a window of layers, values at its end, λ.
const WINDOW: Space = Space {
    methods: &["memit", "emmet", "encore"],
    layers_a_window: 6,
    window: 5,
    depths: &[0.03, 0.1, 0.17, 0.27, 0.4],
    fixed: &[
        ("v_num_grad_steps", "25"),
        ("v_weight_decay", "0.5"),
        ("kl_factor", "0.0625"),
        ("mom2_adjustment", "true"),
    ],
    start: &[("v_lr", 0.5), ("clamp_norm_factor", 4.0), ("mom2_update_weight", 1000.0)],
    variants: &[
        &[("clamp_norm_factor", 2.0)],
        &[("clamp_norm_factor", 0.75)],
        &[("v_lr", 0.1)],
        &[("v_lr", 0.2), ("clamp_norm_factor", 2.0)],
    ],
    free: Some("mom2_update_weight"),
    statistics: true,
};

/// All of them.
const SPACES: [Space; 5] = [
    WINDOW,
    Space {
        methods: &["pmet"],
        fixed: &[
            ("v_num_grad_steps", "25"),
            ("v_weight_decay", "0.5"),
            ("kl_factor", "1.0"),
            ("nll_loss_factor", "1.0"),
            ("mom2_adjustment", "true"),
        ],
        ..WINDOW
    },
    Space {
        methods: &["alphaedit", "betaedit"],
        fixed: &[
            ("v_num_grad_steps", "25"),
            ("v_weight_decay", "0.5"),
            ("kl_factor", "0.0625"),
            ("nullspace_threshold", "0.02"),
        ],
        start: &[("v_lr", 0.5), ("clamp_norm_factor", 4.0), ("L2", 10.0)],
        free: Some("L2"),
        ..WINDOW
    },
    Space {
        methods: &["rome", "r-rome"],
        window: 1,
        depths: &[0.1, 0.17, 0.27, 0.4, 0.55],
        start: &[("v_lr", 0.5), ("clamp_norm_factor", 4.0)],
        free: None,
        ..WINDOW
    },
    Space {
        methods: &["ft-l", "ft-m", "locft-bf"],
        layers_a_window: 6,
        window: 1,
        depths: &[0.15, 0.3, 0.5, 0.65, 0.8],
        fixed: &[("num_steps", "25")],
        start: &[("lr", 5e-4)],
        variants: &[&[("lr", 1e-3)], &[("lr", 2e-3)], &[("lr", 2e-4)], &[("lr", 1e-4)]],
        free: None,
        statistics: false,
    },
];

impl Space {
    /// That of a method.
    ///
    /// # Errors
    ///
    /// A method that nothing is known to try of.
    pub fn of(method: &dyn Method) -> Result<&'static Space> {
        let name = method.about().name;
        SPACES.iter().find(|space| space.methods.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = SPACES.iter().flat_map(|space| space.methods).copied().collect();
            let remedy = Remedy::from(format!("choose one of {}", known.join(", ")));
            Error::refused(format!("no settings to try are known of {name}"), remedy)
        })
    }

    /// Where to begin: a point for each place to edit, in a model of so many layers.
    pub fn places(&self, layers: usize) -> Vec<Point> {
        let width = (layers / self.layers_a_window).clamp(1, self.window);
        let mut starts: Vec<usize> = self
            .depths
            .iter()
            .map(|depth| ((depth * layers as f64) as usize).min(layers - width))
            .collect();
        starts.dedup();
        let fixed = self.fixed.iter().map(|&(name, value)| {
            (name, serde_json::from_str(value).expect("a value of the table is JSON"))
        });
        let first = self.start.iter().map(|&(name, value)| (name, json!(value)));
        let base: Vec<(&str, Value)> = fixed.chain(first).collect();
        let place = |&start: &usize| {
            let window: Vec<usize> = (start..start + width).collect();
            Point::new(base.iter().cloned().chain([("layers", json!(window))]))
        };
        starts.iter().map(place).collect()
    }

    /// The settings in which points differ, in the order in which they are said.
    pub fn names(&self) -> Vec<&'static str> {
        let start = self.start.iter().map(|&(name, _)| name);
        ["layers"].into_iter().chain(start).collect()
    }
}
