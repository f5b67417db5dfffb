//! Matrices by name, where a checkpoint stores them, and models with some of them changed.

use incise::model::change::dense;
use incise::model::{Matrix, MatrixId, Model};
use incise::ops::update::Stored;
use incise::store::{Checkpoint, Delta};
use incise::tensor::{Layout, Precision};
use std::sync::Arc;

use crate::ops::update::{low_rank, oracle, random};
use crate::support::golden::{Golden, NAMES};

#[test]
fn a_name_is_read_as_it_is_written() {
    let down = MatrixId::down(5);
    assert_eq!(down.to_string(), "layers.5.down");
    let second = MatrixId { branch: 1, ..MatrixId::new(12, Matrix::Gate) };
    let expert = MatrixId { expert: Some(3), ..MatrixId::new(0, Matrix::Up) };
    for id in Matrix::ALL.map(|m| MatrixId::new(7, m)).into_iter().chain([down, second, expert]) {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    for text in [
        "",
        "layers.5",
        "layers.5.down.",
        "layers.05.down",
        "layers.+5.down",
        "layers.-1.down",
        "layers.5.Down",
        "layers.5.branches.0.down",
        "layers.5.experts.down",
        "layers.99999999999999999999.down",
        "5.down",
        "layers.5.down.weight",
    ] {
        let refused = text.parse::<MatrixId>();
        assert!(refused.as_ref().is_err_and(|e| e.contains("is no matrix")), "{refused:?}");
    }
}

/// Every matrix is found by its name and its module, and is those rows of its tensor that its place
/// says; together the matrices of a tensor are all of it.
#[test]
fn every_matrix_is_where_its_place_says() {
    for name in NAMES {
        let golden = Golden::open(name);
        let checkpoint = Checkpoint::open(&golden.dir).unwrap();
        let model = golden.model(Precision::F64);
        let mut seen = 0;
        for (id, linear) in model.matrices() {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(model.matrices_named(&id.to_string()).unwrap(), [id]);
            assert!(model.matrices_named(&linear.stored.module).unwrap().contains(&id), "{id}");
            assert!(model.matrices_named(&linear.stored.tensor).unwrap().contains(&id), "{id}");
            let stored = checkpoint.tensor(&linear.stored.tensor).unwrap().unwrap();
            let mut all = vec![0.0f64; stored.shape.iter().product()];
            stored.dtype.widen(&stored.bytes, &mut all);
            let (cols, [out, inner]) = (stored.shape[1], linear.w.dims());
            let at = |row: usize, col: usize| match linear.stored.fan_in_fan_out {
                true => all[col * cols + row],
                false => all[row * cols + col],
            };
            let rows: Vec<usize> = match linear.stored.rows {
                None => (0..out).collect(),
                Some(rows) => (0..rows.count)
                    .flat_map(|b| (0..rows.len).map(move |i| b * rows.period + rows.start + i))
                    .collect(),
            };
            let want = rows.iter().flat_map(|&row| (0..inner).map(move |col| (row, col)));
            let want: Vec<f64> = want.map(|(row, col)| at(row, col)).collect();
            assert_eq!(linear.w.to_dense::<f64>(), want, "{name} {id}");
            seen += want.len();
        }
        let tensors = model.matrices().map(|(_, linear)| linear.stored.tensor.clone());
        let tensors: std::collections::BTreeSet<String> = tensors.collect();
        let all: usize = tensors
            .iter()
            .map(|t| checkpoint.entry(t).unwrap().1.shape.iter().product::<usize>())
            .sum();
        assert_eq!(seen, all, "{name}");
    }
}

#[test]
fn modules_of_the_framework() {
    let named = |name: &'static str, text: &str| {
        let model = Golden::open(name).model(Precision::F32);
        let ids = model.matrices_named(text).map_err(|e| e.to_string());
        ids.map(|ids| ids.iter().map(MatrixId::to_string).collect::<Vec<_>>())
    };
    let gpt2 = |text| named("gpt2", text);
    let all = ["layers.1.q", "layers.1.k", "layers.1.v"];
    assert_eq!(gpt2("transformer.h.1.mlp.c_proj").unwrap(), ["layers.1.down"]);
    assert_eq!(gpt2("h.1.mlp.c_proj.weight").unwrap(), ["layers.1.down"]);
    assert_eq!(gpt2("transformer.h.1.attn.c_attn").unwrap(), all);
    assert_eq!(named("neox", "gpt_neox.layers.1.attention.query_key_value").unwrap(), all);
    assert_eq!(named("llama", "model.layers.1.self_attn.q_proj").unwrap(), all[..1]);
    let several = gpt2("mlp.c_proj").unwrap_err();
    assert!(several.contains("names several modules") && several.contains("layers.1.down"));
    for text in ["layers.99.down", "layers.1.gate", "layers.1.experts.0.down", "c_pro", ""] {
        let none = gpt2(text).unwrap_err();
        assert!(none.contains("names no matrix of this model"), "{none}");
        assert!(none.contains("layers.0.down (transformer.h.0.mlp.c_proj)"), "{none}");
    }
}

/// What is asked to change does, by exactly that, and nothing else.
#[test]
fn a_model_with_changes() {
    for name in ["gpt2", "neox", "llama"] {
        let model = Golden::open(name).model(Precision::F64);
        let ids = [Matrix::K, Matrix::Down, Matrix::K].map(|m| MatrixId::new(1, m));
        let delta = |(seed, id): (u64, &MatrixId)| {
            let [out, inner] = model.matrix(*id).w.dims();
            match seed {
                0 => Delta::Dense(random(out * inner, 0.1, seed)),
                _ => low_rank(out, inner, 2, 0.1, seed),
            }
        };
        let deltas: Vec<Delta> = (0..).zip(&ids).map(delta).collect();
        let changes: Vec<(MatrixId, &Delta)> = ids.into_iter().zip(&deltas).collect();
        let (changed, norms) = model.with(&changes);
        assert_eq!(norms.len(), 3);
        for (id, linear) in model.matrices() {
            let mut want = linear.w.to_dense::<f64>();
            for (_, delta) in changes.iter().filter(|(changed, _)| *changed == id) {
                let delta = dense(delta, linear.w.dims());
                want.iter_mut().zip(delta).for_each(|(w, d)| *w += d);
            }
            assert_eq!(changed.matrix(id).w.to_dense::<f64>(), want, "{name} {id}");
        }
    }
}

/// Other bytes of one tensor change all matrices that it holds.
#[test]
fn a_model_with_stored_bytes() {
    for name in ["gpt2", "neox", "llama"] {
        let golden = Golden::open(name);
        let model = golden.model(Precision::F32);
        let checkpoint = Checkpoint::open(&golden.dir).unwrap();
        let place = &model.matrix(MatrixId::new(1, Matrix::V)).stored;
        let stored = checkpoint.tensor(&place.tensor).unwrap().unwrap();
        let layout = if place.fan_in_fan_out { Layout::InOut } else { Layout::OutIn };
        let [first, second] = stored.shape[..] else { panic!("a matrix") };
        let [out, inner] = if place.fan_in_fan_out { [second, first] } else { [first, second] };
        let w = Stored { dtype: stored.dtype, layout, out, inner };
        let delta = low_rank(out, inner, 1, 0.1, 1);
        let bytes = oracle(&stored.bytes, w, &[&delta]).0;
        let written = model.with_stored(&place.tensor, stored.dtype, Arc::new(bytes));
        let differs = |id: MatrixId| -> bool {
            let [old, new]: [Vec<f32>; 2] =
                [&model, &written].map(|m: &Model| m.matrix(id).w.to_dense());
            old != new
        };
        let changed: Vec<String> = model
            .matrices()
            .map(|(id, _)| id)
            .filter(|&id| differs(id))
            .map(|id| id.to_string())
            .collect();
        let want = if name == "llama" { vec!["v"] } else { vec!["q", "k", "v"] };
        let want: Vec<String> = want.iter().map(|m| format!("layers.1.{m}")).collect();
        assert_eq!(changed, want, "{name}");
    }
}
