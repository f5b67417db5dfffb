//! Whether a fact was taken is what the written model says, and P is the whole target's.

use std::path::Path;

use incise::edit::methods::METHODS;
use incise::model::Batch;
use incise::model::Past;
use incise::model::generate::{Sampling, generate};
use incise::model::language_model::logits;
use incise::tensor::Device;
use incise::{Artifact, Edit, Editor, Fact, TextModel};

use super::{Copy, rome, violin};

/// P of a target after a prompt, one token at a time, and whether greedy decoding says it: by the
/// logits of whole texts and not by what reports are made with.
fn ask(model: &TextModel, fact: &Fact) -> (f64, bool) {
    let prompt = fact.prompt.replace("{}", &fact.subject);
    let tokenizer = model.tokenizer();
    let mut ids = tokenizer.encode(&prompt).unwrap();
    let target = tokenizer.encode_target("is", &fact.target_new, None).unwrap();
    let mut p = 1.0;
    let start = ids.clone();
    for &id in &target {
        let last = [ids.len() - 1];
        let mut batch = Batch::whole([&ids]);
        batch.set_prompt_end(0, Some(start.len() - 1));
        let z = logits(&*model.language_model(), &batch, Past::None, &last).unwrap().row_f64(0);
        let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|x| (x - most).exp()).sum();
        p *= (z[id as usize] - most).exp() / sum;
        ids.push(id);
    }
    let said = {
        let mut rng = incise::base::Rng::new(0, "nothing is drawn");
        let greedy = Sampling::GREEDY;
        generate(&*model.language_model(), &start, target.len(), greedy, &mut rng, &[], &mut |_| {
            true
        })
    };
    (p, said.unwrap() == target)
}

/// The model as an edit's outputs make it.
fn written(editor: &Editor, edit: &Edit, out: &Path) -> TextModel {
    match edit.artifact() {
        Artifact::Weights(_) => {
            edit.apply(out).unwrap();
            Editor::open(out).unwrap().model()
        }
        Artifact::Memory(_) => {
            edit.write(out).unwrap();
            editor.model_with([out]).unwrap()
        }
        _ => panic!("{}: an artifact without a test", out.display()),
    }
}

/// Holds a plan's reports to what it writes; returns how many facts were taken.
fn held(name: &str, editor: &Editor, edit: &Edit, out: &Path) -> usize {
    let written = written(editor, edit, out);
    let in_memory = edit.model().unwrap();
    for (fact, report) in edit.requests().iter().zip(edit.facts()) {
        let (p, said) = ask(&written, fact);
        let before = ask(&editor.model(), fact).0;
        println!(
            "{name} {}: {:?}, {said}: {:?}",
            fact.target_new,
            report.p_target,
            report.failed()
        );
        assert_eq!(report.taken, said, "{name} {}", fact.target_new);
        assert_eq!(report.taken, report.failed().is_none());
        assert_eq!(report.taken, report.succeeded());
        assert_eq!((p, said), ask(&in_memory, fact), "{name}: Edit::model is what is written");
        // f32 logits of another batch: a unit of 2⁻²³ of each, a few dozen deep.
        for (got, want) in [(report.p_target[0], before), (report.p_target[1], p)] {
            assert!((got - want).abs() <= 1e-4 * want, "{name}: P {got} and {want}");
        }
        assert!(report.p_min_token >= report.p_target[1]);
    }
    edit.facts().iter().filter(|report| report.taken).count()
}

/// By every method that is not trained before, with facts that take and facts that cannot in so few
/// steps.
#[test]
fn a_fact_is_taken_where_the_written_model_says_it() {
    let copy = Copy::new();
    let (mut taken, mut all) = (0, 0);
    for method in METHODS.into_iter().filter(|method| !method.is_trained()) {
        let name = method.about().name;
        for steps in [1, 20] {
            let mut editor = copy.by(name);
            for name in ["v_num_grad_steps", "num_steps", "n_iter"] {
                editor = editor.set(name, steps).unwrap();
            }
            let long = Fact::new("{} lived in", "Marie Curie", "Buenos Aires, they say");
            let edit = editor.plan(&[violin(), rome(), long]).unwrap();
            taken += held(name, &editor, &edit, &copy.beside(&format!("{name}-{steps}")));
            all += 3;
        }
    }
    assert!(0 < taken && taken < all, "{taken} of {all}: both verdicts occur");
}

/// A fact that was known is taken although nothing changed.
#[test]
fn a_fact_that_holds_already_is_taken() {
    let copy = Copy::new();
    let editor = copy.editor(&Device::Cpu).method("r-rome").unwrap();
    let known = Fact::new("{} played the", "Louis Armstrong", "trumpet");
    let edit = editor.plan(&[known]).unwrap();
    assert!(edit.facts()[0].taken && edit.facts()[0].p_target[0] > 0.5);
}
