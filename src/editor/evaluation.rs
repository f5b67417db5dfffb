//! Edits cases and measures what became of them: each alone, in batches, or one upon the other.
//!
//! ```text
//! single        edit, measure, take back, case by case
//! batch N       the same with N cases at a time
//! sequential N  all of them, N upon those before; measured after checkpoints t: the first t cases
//! ```
//!
//! What is measured is the model that `apply` would write. No file but results is touched. The
//! unedited model is measured first, once.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::{Edit, Editor, TextModel};
use crate::base::units::{counted, metric};
use crate::base::{Error, Progress, Remedy, Result, Stage};
use crate::data::{Case, Contexts, Demonstrations, Fact, TaskDocument};
use crate::edit::fact_report::FactReport;
use crate::edit::method::Batching;
use crate::edit::solve::layers::MatrixChange;
use crate::eval::ask::Respondent;
use crate::eval::drift::{self, DocumentResult};
use crate::eval::fluency::References;
use crate::eval::folder::Folder;
use crate::eval::item::{Answer, Question};
use crate::eval::results::{CaseResult, ChangeNorm, FactResult};
use crate::eval::sheet::Sheet;
use crate::eval::suite::Suite;
use crate::eval::task::{TaskResult, TaskSheet};
use crate::eval::words::{Compat, Words};
use crate::model::LanguageModel;
use crate::model::score::ROWS as LOGIT_ROWS;

/// How cases are edited.
#[derive(Clone)]
pub enum Mode {
    /// None is: the model is measured as it is.
    Unedited,
    /// They were: measured is a model that has them.
    Given(Box<TextModel>),
    /// So many at a time, each time on the unedited model.
    Batch(usize),
    /// So many at a time, upon those before; measured after these many.
    Sequential {
        /// Cases that are edited at once.
        batch: usize,
        /// Ascending; the last is all.
        checkpoints: Vec<usize>,
    },
}

/// What is measured, and how.
pub struct Protocol {
    /// How cases are edited.
    pub mode: Mode,
    /// What is asked.
    pub suites: Vec<&'static Suite>,
    /// How CounterFact's metrics read texts.
    pub compat: Compat,
    /// What MQuAKE's questions stand behind, if they are asked.
    pub demonstrations: Option<Demonstrations>,
    /// What sampled text is compared with.
    pub references: Option<References>,
    /// Documents, as tokens, on which perplexity and drift are measured once all cases are edited.
    pub text: Vec<Vec<u32>>,
    /// Documents of tasks, which are asked then too.
    pub tasks: Vec<TaskDocument>,
    /// Tokens that run at a time.
    pub tokens: usize,
}

/// Cases and what is asked about them; the answers of the unedited model.
pub struct Evaluation<'a> {
    editor: &'a Editor,
    protocol: &'a Protocol,
    cases: &'a [Case],
    model: Arc<dyn LanguageModel>,
    sheets: Vec<Sheet>,
    tasks: TaskSheet<'a>,
    before: Vec<Vec<Answer>>,
    ends: Vec<u32>,
    work: Mutex<WorkDone>,
}

/// What an evaluation has done so far.
#[derive(Clone, Debug, Default)]
pub struct WorkDone {
    /// Facts that were edited; one counts each time that it was.
    pub facts: usize,
    /// Cases that were measured; one counts each time that it was.
    pub cases: usize,
    /// Hyperparameters by name, and where each is from; none before the first edit.
    pub hyperparameters: Option<[Value; 2]>,
}

/// Which cases are edited together, and which of them are measured then.
struct Round {
    edited: Range<usize>,
    /// Facts that are edited at once; 0 for all.
    sequential: usize,
}

/// Batches of so many cases, the last perhaps of fewer.
fn batches(cases: usize, batch: usize) -> Vec<Round> {
    let round = |start| Round { edited: start..cases.min(start + batch.max(1)), sequential: 0 };
    (0..cases).step_by(batch.max(1)).map(round).collect()
}

impl Editor {
    /// Asks the model about cases, as it is or with what lives beside it.
    ///
    /// # Errors
    ///
    /// A text that the tokenizer fails on; cancellation; a device out of memory.
    pub fn evaluation<'a>(
        &'a self,
        cases: &'a [Case],
        protocol: &'a Protocol,
    ) -> Result<Evaluation<'a>> {
        let text = self.model();
        let model = text.language_model();
        let words = Words {
            tokenizer: text.tokenizer(),
            compat: protocol.compat,
            demonstrations: protocol.demonstrations.as_ref(),
            references: protocol.references.as_ref(),
            seed: self.settings.seed,
            positions: model.arch().max_positions,
        };
        let sheet = |case: &Case| Sheet::new(case, &protocol.suites, &words);
        let sheets: Vec<Sheet> = cases.iter().map(sheet).collect::<Result<_>>()?;
        let ends = super::text_model::stop_tokens(&self.opened.dir)?;
        let tasks = TaskSheet::new(&protocol.tasks, text.tokenizer(), words.positions)?;
        if tasks.is_empty() && !protocol.tasks.is_empty() {
            let what = "every document of the tasks is longer than the model's context";
            return Err(Error::refused(what, "give shorter ones"));
        }
        let too_long = sheets.iter().map(|sheet| sheet.too_long).sum::<usize>() + tasks.too_long;
        if too_long > 0 {
            let left_out = counted(too_long as u64, "number");
            let what = format!("{left_out} left out: texts are longer than the model's context");
            self.settings.progress.warn(&what);
        }
        self.remark_questions(&sheets, protocol.tokens);
        let (all, work) = (0..cases.len(), Mutex::default());
        let (editor, before) = (self, vec![]);
        let mut evaluation =
            Evaluation { editor, protocol, cases, model, sheets, tasks, before, ends, work };
        let model = evaluation.model.clone();
        evaluation.before = evaluation.answers(&*model, all)?;
        Ok(evaluation)
    }
}

impl Editor {
    /// Says what is asked and what that takes beside the model, before it is.
    fn remark_questions(&self, sheets: &[Sheet], at_a_time: usize) {
        let model = &self.opened.model;
        let tokens: Vec<usize> = sheets.iter().map(Sheet::tokens).collect();
        let [all, most] = [tokens.iter().sum(), tokens.iter().copied().max().unwrap_or(0)];
        let bytes = model.bytes_a_token(0..model.arch.layers, &model.compute);
        let logits = LOGIT_ROWS * model.arch.vocabulary * size_of::<f32>();
        let room = most.max(at_a_time.min(all)) * (bytes.forward + bytes.past) + logits;
        self.settings.progress.remark(&format!(
            "{} ask {} of {} in all; measuring takes up to {}B beside the model",
            counted(sheets.len() as u64, "record"),
            counted(sheets.iter().map(|sheet| sheet.asked.len() as u64).sum(), "question"),
            counted(all as u64, "token"),
            metric(room as f64),
        ));
    }
}

impl Evaluation<'_> {
    /// Edits and measures what is not in the folder yet, and adds it as soon as it is there.
    ///
    /// # Errors
    ///
    /// What planning says; a file that cannot be written; cancellation.
    pub fn run(&self, folder: &mut Folder) -> Result<()> {
        let n = self.cases.len();
        let rounds: Vec<Round> = match &self.protocol.mode {
            Mode::Unedited => {
                self.report(0..n, 0, None, folder)?;
                return self.end(&*self.model, folder);
            }
            Mode::Given(text) => {
                let model = text.language_model();
                let now = self.answers(&*model, 0..n)?;
                let given = Measured { now, model, edit: None, seconds: [0.0; 2] };
                self.report(0..n, n, Some(&given), folder)?;
                return self.end(&*given.model, folder);
            }
            Mode::Batch(batch) => batches(n, *batch),
            Mode::Sequential { batch, checkpoints } => {
                // Methods that edit one fact upon the other have no other way.
                let one_by_one = self.editor.settings.chosen()?.batching() == Batching::OneByOne;
                let sequential = if one_by_one { 0 } else { *batch };
                checkpoints.iter().map(|&t| Round { edited: 0..t, sequential }).collect()
            }
        };
        self.edit(self.editor.clone(), rounds, folder)
    }

    /// Edits the first `cases` cases in batches by another editor of the same model, which has its
    /// contexts: what the unedited model says is asked once for all of them.
    pub(super) fn trial(
        &self,
        editor: Editor,
        cases: usize,
        batch: usize,
        folder: &mut Folder,
    ) -> Result<()> {
        self.edit(editor, batches(cases, batch), folder)
    }

    fn edit(&self, mut editor: Editor, mut rounds: Vec<Round>, folder: &mut Folder) -> Result<()> {
        rounds.retain(|round| {
            let count = round.edited.len();
            let cases = &self.cases[round.edited.clone()];
            let ends = count == self.cases.len() && !self.has_ended(folder);
            ends || !cases.iter().all(|case| folder.has(count, &case.id))
        });
        let total = rounds.len();
        for (done, Round { edited, sequential }) in rounds.into_iter().enumerate() {
            if total > 1 {
                self.editor.settings.progress.at(Stage::Case, done as u64, total as u64);
            }
            let measured = self.measure(&mut editor, edited.clone(), sequential).map_err(kept)?;
            if done == 0 {
                editor.settings.progress = Arc::new(Muted(editor.settings.progress.clone()));
            }
            self.report(edited.clone(), edited.len(), Some(&measured), folder)?;
            if edited.len() == self.cases.len() {
                self.end(&*measured.model, folder)?;
            }
        }
        Ok(())
    }

    /// What was done so far.
    pub fn work(&self) -> WorkDone {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, change: impl FnOnce(&mut WorkDone)) {
        change(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Edits some cases and measures them. What an edit draws from the model serves the next too.
    fn measure(
        &self,
        editor: &mut Editor,
        edited: Range<usize>,
        sequential: usize,
    ) -> Result<Measured> {
        let start = Instant::now();
        let cases = &self.cases[edited.clone()];
        let facts: Vec<Fact> = cases.iter().flat_map(|case| case.facts.clone()).collect();
        let edit = editor.clone().sequential(sequential).plan(&facts)?;
        let reads_contexts = *edit.contexts() != Contexts::bare(); // those that search values
        if editor.settings.contexts.is_none() && reads_contexts {
            editor.settings.contexts = Some((DRAWN.into(), edit.contexts().clone()));
        }
        let model = edit.model()?.language_model();
        self.add(|work| {
            work.facts += facts.len();
            work.hyperparameters = Some(edit.hyperparameters());
        });
        let editing = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let now = self.answers(&*model, edited)?;
        let seconds = [editing, start.elapsed().as_secs_f64()];
        let seconds = seconds.map(|s| s / cases.len() as f64);
        Ok(Measured { now, model, edit: Some(edit), seconds })
    }

    /// Whether all is there that is measured once all cases are edited.
    fn has_ended(&self, folder: &Folder) -> bool {
        (self.protocol.text.is_empty() || !folder.kept.documents.is_empty())
            && folder.kept.tasks.len() >= self.tasks.len()
    }

    /// Measures how a model takes the text and the tasks, if there are any.
    fn end(&self, model: &dyn LanguageModel, folder: &mut Folder) -> Result<()> {
        match self.has_ended(folder) {
            true => Ok(()),
            false => folder.end(self.read_text(model)?, self.answer_tasks(model)?),
        }
    }

    fn read_text(&self, model: &dyn LanguageModel) -> Result<Vec<DocumentResult>> {
        let settings = &self.editor.settings;
        let documents = &self.protocol.text;
        let total = documents.len() as u64;
        let mut results = Vec::with_capacity(documents.len());
        for (i, ids) in documents.iter().enumerate() {
            settings.progress.at(Stage::Token, i as u64, total);
            if settings.progress.cancelled() {
                return Err(Error::Interrupted { kept: KEPT.to_owned() });
            }
            results.push(settings.run(|| drift::document(&*self.model, model, ids))?);
        }
        Ok(results)
    }

    fn answer_tasks(&self, model: &dyn LanguageModel) -> Result<Vec<TaskResult>> {
        let (settings, tasks) = (&self.editor.settings, &self.tasks);
        let mut results = Vec::with_capacity(tasks.len());
        for start in (0..tasks.len()).step_by(AT_A_TIME) {
            settings.progress.at(Stage::Task, start as u64, tasks.len() as u64);
            if settings.progress.cancelled() {
                let kept = "what was measured of records is in the results; tasks begin again";
                return Err(Error::Interrupted { kept: kept.to_owned() });
            }
            let some = start..tasks.len().min(start + AT_A_TIME);
            let of = |model| settings.run(|| tasks.answers(&self.respondent(model), some.clone()));
            let before = of(&*self.model)?;
            let after = match self.protocol.mode {
                Mode::Unedited => vec![None; some.len()],
                _ => of(model)?.into_iter().map(Some).collect(),
            };
            let answered = tasks.documents(some.clone()).cloned().zip(before).zip(after);
            results.extend(answered.map(|((document, before), after)| TaskResult {
                document,
                before,
                after,
            }));
        }
        Ok(results)
    }

    fn respondent<'m>(&'m self, model: &'m dyn LanguageModel) -> Respondent<'m> {
        Respondent {
            model,
            before: &*self.model,
            tokenizer: &self.editor.opened.tokenizer,
            ends: &self.ends,
            tokens: self.protocol.tokens,
        }
    }

    /// Hands on the results of cases that were measured after `edited` of them were edited.
    fn report(
        &self,
        cases: Range<usize>,
        edited: usize,
        measured: Option<&Measured>,
        folder: &mut Folder,
    ) -> Result<()> {
        for (place, i) in cases.enumerate() {
            let (case, sheet, before) = (&self.cases[i], &self.sheets[i], &self.before[i]);
            if folder.has(edited, &case.id) {
                continue;
            }
            let after = measured.map(|measured| sheet.values(before, &measured.now[place]));
            let edit = measured.and_then(|measured| measured.edit.as_ref());
            self.add(|work| work.cases += 1);
            let known = case.background.iter().map(|known| known.relation.clone());
            let facts = case.facts.iter().zip(known);
            folder.add(CaseResult {
                id: case.id.clone(),
                place: i,
                edited,
                form: case.form.name().to_owned(),
                facts: facts.map(|(fact, relation)| fact_result(fact, relation, edit)).collect(),
                values: sheet.results(&sheet.values(before, before), after.as_deref()),
                changes: edit.map_or(vec![], change_norms),
                seconds: measured.map_or([0.0; 2], |measured| measured.seconds),
            })?;
        }
        Ok(())
    }

    /// The answers about some cases.
    fn answers(&self, model: &dyn LanguageModel, cases: Range<usize>) -> Result<Vec<Vec<Answer>>> {
        let settings = &self.editor.settings;
        let asked = self.respondent(model);
        let total = cases.len() as u64;
        let mut answers = Vec::with_capacity(cases.len());
        settings.run(|| {
            for some in self.sheets[cases].chunks(AT_A_TIME) {
                if settings.progress.cancelled() {
                    return Err(Error::Interrupted { kept: KEPT.to_owned() });
                }
                settings.progress.at(Stage::Measure, answers.len() as u64, total);
                let some: Vec<&[Question]> = some.iter().map(|sheet| &sheet.asked[..]).collect();
                answers.extend(asked.answers(&some)?);
            }
            settings.progress.at(Stage::Measure, total, total);
            Ok(answers)
        })
    }
}

const KEPT: &str = "records that were measured are in the results, and the same call goes on";

/// What an edit says that was interrupted in an evaluation.
fn kept(e: Error) -> Error {
    match e {
        Error::Interrupted { .. } => Error::Interrupted { kept: KEPT.to_owned() },
        e => e,
    }
}

/// Where contexts are from that nobody named.
pub(super) const DRAWN: &str = "contexts";

/// What was measured of some cases.
struct Measured {
    now: Vec<Vec<Answer>>,
    model: Arc<dyn LanguageModel>,
    /// Nothing where a model was given.
    edit: Option<Edit>,
    /// A case's share of editing and of measuring.
    seconds: [f64; 2],
}

/// Says what is wrong, and no more how an edit goes: that was said of the first.
struct Muted(Arc<dyn Progress + Send + Sync>);

impl Progress for Muted {
    fn at(&self, _: Stage, _: u64, _: u64) {}

    fn warn(&self, sentence: &str) {
        self.0.warn(sentence);
    }

    fn advise(&self, sentence: &str, remedy: &Remedy) {
        self.0.advise(sentence, remedy);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// Cases between two looks at whether the work was cancelled.
const AT_A_TIME: usize = 16;

fn change_norms(edit: &Edit) -> Vec<ChangeNorm> {
    let of = |c: &MatrixChange| ChangeNorm {
        matrix: c.id.to_string(),
        norm: c.norm,
        weight: c.weight,
        s: c.s,
    };
    edit.changes().iter().map(of).collect()
}

/// What became of a fact; of one that another took the place of, that alone.
fn fact_result(fact: &Fact, relation: Option<String>, edit: Option<&Edit>) -> FactResult {
    let own = |(request, _): &(&Fact, &FactReport)| {
        request.id == fact.id && request.prompt == fact.prompt
    };
    let result = FactResult {
        prompt: fact.filled(),
        target_new: fact.target_new.clone(),
        target_true: fact.target_true.clone(),
        relation,
        ..FactResult::default()
    };
    let Some(edit) = edit else { return result };
    match edit.requests().iter().zip(edit.facts()).find(own) {
        Some((_, report)) => FactResult {
            p_target: report.p_target,
            taken: report.taken,
            why: report.failed().map(str::to_owned),
            ..result
        },
        None => FactResult { why: Some("another record took its place".to_owned()), ..result },
    }
}
