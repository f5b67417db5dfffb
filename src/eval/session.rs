//! A call of the program that added to a run's results: what was done, by what, at which cost.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::stages::StageTime;

/// One call; a run that was cut off and goes on has several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The words of the command; none where another program called the library.
    pub command: Vec<String>,
    /// The program's version.
    pub program: String,
    /// Where it computed.
    pub device: String,
    /// Threads of the processor.
    pub threads: usize,
    /// Facts that were edited; one counts each time that it was.
    pub facts: usize,
    /// Cases that were measured; one counts each time that it was.
    pub cases: usize,
    /// Where time and memory went.
    pub stages: Vec<StageCost>,
    /// Hyperparameters by name, and where each is from; of a call that edited.
    pub hyperparameters: Option<[Value; 2]>,
}

/// What a stage of the work took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageCost {
    /// Its name.
    pub stage: String,
    /// How long it took.
    pub seconds: f64,
    /// Bytes the process had at most in it; 0 where the system does not say.
    pub peak_bytes: u64,
}

impl StageCost {
    /// Of stages as they were counted.
    pub fn of(stages: &[StageTime]) -> Vec<StageCost> {
        let cost = |&StageTime { stage, seconds, peak }: &StageTime| StageCost {
            stage: stage.name().to_owned(),
            seconds,
            peak_bytes: peak,
        };
        stages.iter().map(cost).collect()
    }
}

/// What a stage took over all calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SharedCost {
    /// Its name.
    pub stage: String,
    /// Seconds in all.
    pub seconds: f64,
    /// Seconds for each fact that was edited, or for each case where none was.
    pub seconds_each: f64,
    /// The most bytes.
    pub peak_bytes: u64,
}

/// What each stage took over some calls, in the order in which they were first entered.
pub fn costs(sessions: &[Session]) -> Vec<SharedCost> {
    let sum = |of: fn(&Session) -> usize| sessions.iter().map(of).sum::<usize>();
    let facts = sum(|session| session.facts);
    let each = if facts > 0 { facts } else { sum(|session| session.cases) };
    let mut costs: Vec<SharedCost> = Vec::new();
    for StageCost { stage, seconds, peak_bytes } in sessions.iter().flat_map(|s| &s.stages) {
        let at = costs.iter().position(|cost| cost.stage == *stage).unwrap_or_else(|| {
            let (seconds, seconds_each, peak_bytes) = (0.0, 0.0, 0);
            costs.push(SharedCost { stage: stage.clone(), seconds, seconds_each, peak_bytes });
            costs.len() - 1
        });
        costs[at].seconds += seconds;
        costs[at].seconds_each = costs[at].seconds / each.max(1) as f64;
        costs[at].peak_bytes = costs[at].peak_bytes.max(*peak_bytes);
    }
    costs
}
