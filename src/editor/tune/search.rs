//! Which points are tried, and with how many facts.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::point::{Point, TuneTrial, sort};
use super::space::Space;
use super::split::Split;
use super::table;
use super::tuning::Tuning;
use crate::base::units::counted;
use crate::base::{Error, Result};
use crate::editor::Editor;
use crate::editor::evaluation::{Evaluation, Mode, Protocol};
use crate::eval::folder::Folder;
use crate::eval::results::CaseResult;
use crate::eval::suites::counterfact;
use crate::eval::words::Compat;
use crate::store::tensor_fingerprint;

/// Facts of the rungs.
const RUNGS: [usize; 3] = [10, 20, 40];
/// Value settings that reach the second and the third.
const KEPT: [usize; 2] = [3, 2];
/// Points that reach the third.
const LAST: usize = 5;
/// s that are aimed at: with few facts, and with more.
const COARSE: [f64; 2] = [2.0, 0.5];
const FINE: [f64; 4] = [4.0, 2.0, 1.0, 0.5];
/// Values of λ that are nearer to each other than this are one.
const NEAR: f64 = 1.3;
/// The efficacy below which nothing works, in percent.
const WORKS: f64 = 50.0;
/// Tokens that run at a time.
const TOKENS: usize = 4096;

/// What all trials have alike.
pub struct Trials<'a> {
    /// With contexts, statistics and a place for values.
    pub editor: &'a Editor,
    /// What may be tried.
    pub space: &'static Space,
    /// The cases.
    pub split: &'a Split,
    /// What for.
    pub by: &'a Tuning,
    /// What results depend on beside split and point.
    pub made_of: Value,
    /// Who is told what trials did.
    pub told: &'a Editor,
}

/// Everything that was tried, in order.
pub struct Tried(pub Vec<TuneTrial>);

impl Trials<'_> {
    /// Tries points, ever fewer of them with ever more facts.
    ///
    /// # Errors
    ///
    /// As [`Editor::tune`].
    pub fn search(&self, places: Vec<Point>) -> Result<Tried> {
        let protocol = protocol(Mode::Unedited);
        let evaluation = self.editor.evaluation(&self.split.choose, &protocol)?;
        let mut run = Running { on: self, evaluation, tried: vec![] };
        let cases = self.split.choose.len();
        let mut rungs = RUNGS.map(|facts| facts.min(cases)).to_vec();
        rungs.dedup();
        let (first, more) = (rungs[0], &rungs[1..]);
        for point in places {
            run.with_several(&point, first, &COARSE)?;
        }
        if let Some(best) = run.leaders(first, 1).pop() {
            for variant in self.space.variants.iter().filter(|variant| self.may_vary(variant)) {
                run.with_several(&best.point.with(variant), first, &COARSE)?;
            }
        }
        let mut reached = first;
        for (&facts, keep) in more.iter().zip(KEPT) {
            let leaders = run.leaders(reached, keep);
            if facts == rungs[rungs.len() - 1] && reached > first {
                let mut best = run.of(reached);
                best.retain(|trial| leaders.iter().any(|other| run.alike(trial, other)));
                best.truncate(LAST);
                for trial in best {
                    run.trial(&trial.point, facts)?;
                }
            } else {
                for leader in leaders {
                    run.with_several(&leader.point, facts, &FINE)?;
                }
            }
            reached = facts;
        }
        Ok(Tried(run.tried))
    }

    /// Whether the user left open what a variant changes.
    fn may_vary(&self, variant: &[(&str, f64)]) -> bool {
        let set = &self.editor.settings.set;
        variant.iter().all(|(name, _)| !set.iter().any(|(own, ..)| own == name))
    }
}

impl Tried {
    /// The best of those that were tried with the most facts.
    ///
    /// # Errors
    ///
    /// It does not work.
    pub fn chosen(&self, space: &Space) -> Result<TuneTrial> {
        let most = self.0.iter().map(|trial| trial.facts).max().unwrap_or(0);
        let tried = of(&self.0, most);
        let works = |trial: &&TuneTrial| trial.es >= WORKS && trial.es > trial.es_before;
        if let Some(best) = tried.iter().find(works) {
            return Ok(best.clone());
        }
        let best = tried.first().map(|best| best.words(&space.names()));
        let best = best.map_or(String::new(), |words| format!("; the best was {words}"));
        let remedy = "try another method, or set layers or rates of your own";
        Err(Error::refused(format!("nothing that was tried works{best}"), remedy))
    }
}

/// What is measured, and how facts are edited.
pub(super) fn protocol(mode: Mode) -> Protocol {
    Protocol {
        mode,
        suites: vec![&counterfact::SUITE],
        compat: Compat::None,
        demonstrations: None,
        references: None,
        text: vec![],
        tasks: vec![],
        tokens: TOKENS,
    }
}

/// Trials of so many facts, the best first.
fn of(tried: &[TuneTrial], facts: usize) -> Vec<TuneTrial> {
    let mut own: Vec<TuneTrial> = tried.iter().filter(|t| t.facts == facts).cloned().collect();
    sort(&mut own);
    own
}

struct Running<'a> {
    on: &'a Trials<'a>,
    evaluation: Evaluation<'a>,
    tried: Vec<TuneTrial>,
}

impl Running<'_> {
    fn of(&self, facts: usize) -> Vec<TuneTrial> {
        of(&self.tried, facts)
    }

    /// Whether two differ by the free setting alone, or not in what they did: a clamp that no value
    /// reaches is none.
    fn alike(&self, a: &TuneTrial, b: &TuneTrial) -> bool {
        let free = self.on.space.free;
        let layers = |trial: &TuneTrial| trial.point.0.get("layers").cloned();
        a.point.without(free) == b.point.without(free)
            || (layers(a) == layers(b) && a.numbers() == b.numbers())
    }

    /// The best trial of each of the best value settings, of so many facts.
    fn leaders(&self, facts: usize, keep: usize) -> Vec<TuneTrial> {
        let mut leaders: Vec<TuneTrial> = Vec::new();
        for trial in self.of(facts) {
            if !leaders.iter().any(|leader| self.alike(leader, &trial)) {
                leaders.push(trial);
            }
        }
        leaders.truncate(keep);
        leaders
    }

    /// Tries a point, and others of the free setting that s says should give what is aimed at.
    fn with_several(&mut self, point: &Point, facts: usize, aims: &[f64]) -> Result<()> {
        let Some(first) = self.trial(point, facts)? else { return Ok(()) };
        let Some(free) = self.on.space.free.filter(|&name| self.on.may_vary(&[(name, 0.0)])) else {
            return Ok(());
        };
        let lambda = point.0[free].as_f64().unwrap_or(1.0);
        let s = first.s.filter(|&s| s > 0.0 && s.is_finite()).unwrap_or(1.0);
        let mut tried = vec![lambda];
        for aim in aims {
            let next = two_digits(lambda * s / aim);
            if tried.iter().any(|&old| (next / old).max(old / next) < NEAR) {
                continue;
            }
            tried.push(next);
            self.trial(&point.with(&[(free, next)]), facts)?;
        }
        Ok(())
    }

    /// Edits the first `facts` cases at a point, and measures them; nothing where that fails.
    fn trial(&mut self, point: &Point, facts: usize) -> Result<Option<TuneTrial>> {
        let Trials { editor, space, split, by, made_of, told } = self.on;
        let at_once = by.facts.clamp(1, facts);
        let run = json!({
            "split": split.hash, "point": point, "at_once": at_once, "made_of": made_of,
        });
        let name = tensor_fingerprint(run.to_string().as_bytes());
        let dir: PathBuf = by.dir.join("trials").join(&name[..16]);
        let mut folder = Folder::open(&dir, run)?;
        match self.evaluation.trial(editor.at(point)?, facts, at_once, &mut folder) {
            // Others may work: systems that cannot be solved, NaN, no directions left.
            Err(e @ (Error::Numeric { .. } | Error::Refused { .. })) => {
                let words = point.words(&space.names());
                told.settings.progress.warn(&format!("{words}: left out: {e}"));
                return Ok(None);
            }
            done => done?,
        }
        let round = |place: usize| at_once.min(facts - place / at_once * at_once);
        let own =
            |result: &&CaseResult| result.place < facts && result.edited == round(result.place);
        let results: Vec<_> = folder.kept.results.iter().filter(own).collect();
        let trial = TuneTrial::new(point.clone(), at_once, &results).ok_or_else(|| {
            Error::input(&dir, "results", "lacks metrics of this run", "remove the folder")
        })?;
        let words = trial.words(&space.names());
        let sentence = format!("{}, {at_once} at once: {words}", counted(facts as u64, "fact"));
        told.settings.progress.remark(&sentence);
        self.tried.push(trial.clone());
        table::write(by, split, &self.tried, None)?;
        Ok(Some(trial))
    }
}

/// A number of two digits, which people can read.
fn two_digits(x: f64) -> f64 {
    let unit = 10f64.powf(x.abs().log10().floor() - 1.0);
    let rounded = (x / unit).round() * unit;
    format!("{rounded:.12e}").parse().unwrap_or(rounded)
}
