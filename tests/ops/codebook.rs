//! The nearest key of rows, and its value in their place.

use incise::ops::codebook::{Chosen, nearest, replace};
use incise::ops::rows::Index;
use incise::tensor::{Compute, Precision, Tensor};

use crate::support::toy::Draw;
use crate::support::twin;

/// (case, [keys, F, D], rows looked up of six).
const CASES: &[(&str, [usize; 3], usize)] = &[
    ("one key of one number", [1, 1, 1], 1),
    ("fewer keys than warps", [3, 33, 5], 4),
    ("not a multiple of anything", [21, 129, 67], 9),
    ("GPT-2 small", [40, 3072, 768], 16),
];
const N: usize = 6;

struct Case {
    sizes: [usize; 3],
    x: Vec<f64>,
    y: Vec<f64>,
    keys: Vec<f64>,
    radii: Vec<f64>,
    values: Vec<f64>,
    rows: Vec<usize>,
    want: Vec<Option<usize>>,
}

impl Case {
    /// Rows of x near a key each, some of them nearer than its radius and some not: by far, so
    /// that rounding decides nothing.
    fn draw((name, sizes, looked_up): &(&str, [usize; 3], usize)) -> Case {
        let mut draw = Draw::new(name, true);
        let [n, f, d] = *sizes;
        let keys = draw.normal(n * f);
        let mut x = draw.normal(N * f);
        for number in &mut x {
            *number *= 0.125 / (f as f64).sqrt();
        }
        for row in x.chunks_mut(f) {
            let key = draw.below(n);
            row.iter_mut().zip(&keys[key * f..]).for_each(|(x, k)| *x = f64::from((*x + k) as f32));
        }
        let radii = (0..n).map(|_| if draw.coin() { 0.5 } else { 1e-3 }).collect::<Vec<f64>>();
        let rows: Vec<usize> = (0..*looked_up).map(|_| draw.below(N)).collect();
        let (y, values) = (draw.normal(N * d), draw.normal(n * d));
        let choose = |&row: &usize| {
            let distance = |key: &[f64]| {
                let gaps = key.iter().zip(&x[row * f..]).map(|(k, x)| (k - x).powi(2));
                gaps.sum::<f64>().sqrt()
            };
            let distances: Vec<f64> = keys.chunks(f).map(distance).collect();
            let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
            let j = distances.iter().position(|d| *d == least).unwrap();
            (least <= radii[j]).then_some(j)
        };
        let want = rows.iter().map(choose).collect();
        Case { sizes: *sizes, x, y, keys, radii, values, rows, want }
    }

    /// What was chosen, and y after it: the i-th row that was looked up replaces row i.
    fn run(&self, compute: &Compute) -> (Vec<Option<usize>>, Vec<f64>) {
        let [n, f, d] = self.sizes;
        let tensor =
            |values: &[f64], width| Tensor::of(compute, &[values.len() / width, width], values);
        let index = |rows: Vec<usize>| Index::new(compute, rows);
        let mut chosen = Chosen::new(compute, self.rows.len());
        let (keys, radii) = (tensor(&self.keys, f), tensor(&self.radii, 1));
        nearest(&tensor(&self.x, f), &index(self.rows.clone()), &keys, &radii, &mut chosen);
        assert_eq!(keys.shape()[0], n);
        let mut y = tensor(&self.y, d);
        let replaced = self.rows.len().min(N);
        let [rows, of] = [0..replaced, 0..replaced].map(|all| index(all.collect()));
        replace(&mut y, &rows, &of, &chosen, &tensor(&self.values, d));
        (chosen.read(), y.to_f64())
    }

    fn hold(&self, name: &str, compute: &Compute) {
        let (chosen, y) = self.run(compute);
        assert_eq!(chosen, self.want, "{name}");
        let d = self.sizes[2];
        for (row, got) in y.chunks(d).enumerate() {
            let want = match self.want.get(row) {
                Some(Some(j)) => &self.values[j * d..][..d],
                _ => &self.y[row * d..][..d],
            };
            assert_eq!(got, want, "{name}, row {row}");
        }
    }
}

#[test]
fn cases() {
    let mut kinds = [0; 2];
    for row in CASES {
        let case = Case::draw(row);
        case.want.iter().for_each(|want| kinds[usize::from(want.is_some())] += 1);
        for precision in [Precision::F32, Precision::F64] {
            case.hold(row.0, &precision.into());
        }
    }
    assert!(kinds.iter().all(|&n| n > 2), "some are within a radius and some are not: {kinds:?}");
}

#[test]
fn kernels() {
    let Some(engines) = twin::engines("ops::codebook::kernels") else { return };
    for row in CASES {
        let case = Case::draw(row);
        for (name, engine) in &engines {
            case.hold(&format!("{}, {name}", row.0), &engine.clone().into());
        }
    }
}

/// Of two keys as near, the first.
#[test]
fn the_first_of_equals_is_chosen() {
    let compute = Precision::F32.into();
    let tensor = |values: &[f64]| Tensor::of(&compute, &[values.len(), 1], values);
    let mut chosen = Chosen::new(&compute, 1);
    let row = Index::new(&compute, vec![0]);
    let (keys, radii) = (tensor(&[9.0, 4.0, 2.0, 4.0]), tensor(&[9.0, 1.0, 1.0, 9.0]));
    nearest(&tensor(&[3.0]), &row, &keys, &radii, &mut chosen);
    assert_eq!(chosen.read(), [Some(1)], "as far as its radius");
    nearest(&tensor(&[f64::NAN]), &row, &keys, &radii, &mut chosen);
    assert_eq!(chosen.read(), [None]);
}
