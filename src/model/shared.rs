//! Which texts of a unit share their first tokens, so that those run once.
//!
//! ```text
//! cost of a group    c + Σ (n_t − c)      tokens run; n_t a text's, c those shared by all
//! ```
//!
//! In order of their tokens, texts that begin alike are neighbours; the cheapest cut of that list
//! into groups is found from its front. Texts of different prompts share less than any prompt: a
//! prompt ends where an edit beside the weights may decide something for the sequence.

use super::completion::Completion;

/// Texts with their first tokens in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// c: at least 1.
    pub shared: usize,
    /// Which texts, by number.
    pub texts: Vec<usize>,
}

impl Group {
    /// The same, where the first text has a number other than 0.
    pub fn numbered_from(mut self, first: usize) -> Group {
        self.texts.iter_mut().for_each(|t| *t += first);
        self
    }
}

/// The cheapest groups of a unit's texts; of one prompt, where prompts have to be `whole`.
pub(super) fn groups(texts: &[Completion], whole: bool) -> Vec<Group> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by(|&a, &b| texts[a].read.cmp(&texts[b].read));
    let length = |i: usize| texts[order[i]].read.len();
    // The least cost of the first j texts, and where their last group begins and what it shares.
    let mut best = vec![(0, 0, 0)];
    for j in 1..=texts.len() {
        let mut shared = length(j - 1);
        let mut lengths = 0;
        let mut least = (usize::MAX, 0, 0);
        for i in (0..j).rev() {
            shared = shared.min(common(&texts[order[i]], &texts[order[j - 1]], whole));
            if shared == 0 {
                break;
            }
            lengths += length(i);
            let cost = best[i].0 + shared + lengths - (j - i) * shared;
            least = least.min((cost, i, shared));
        }
        best.push(least);
    }
    let mut groups = Vec::new();
    let mut end = texts.len();
    while end > 0 {
        let (_, begin, shared) = best[end];
        groups.push(Group { shared, texts: order[begin..end].to_vec() });
        end = begin;
    }
    groups.reverse();
    groups
}

/// How many first tokens two texts may share.
fn common(a: &Completion, b: &Completion, whole: bool) -> usize {
    let alike = a.read.iter().zip(&b.read).take_while(|(a, b)| a == b).count();
    match a.prompt() == b.prompt() && alike >= a.prompt() {
        true => alike,
        false if whole => 0,
        false => alike.min(a.prompt() - 1).min(b.prompt() - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn text(prompt: &[u32], target: &[u32]) -> Completion {
        Completion::new(prompt, target)
    }

    fn cost(texts: &[Completion], groups: &[Group]) -> usize {
        let own = |group: &Group| {
            group.texts.iter().map(|&t| texts[t].read.len() - group.shared).sum::<usize>()
        };
        groups.iter().map(|group| group.shared + own(group)).sum()
    }

    #[test]
    fn a_prompt_runs_once_for_all_its_targets() {
        let prompt = [5, 6, 7, 8];
        let texts = [text(&prompt, &[1]), text(&[9, 9], &[2]), text(&prompt, &[2, 3])];
        let found = groups(&texts, false);
        let group = |shared, texts: &[usize]| Group { shared, texts: texts.to_vec() };
        assert_eq!(found, [group(4, &[0, 2]), group(2, &[1])]);
        let texts = [text(&prompt, &[1]), text(&[5, 6, 7, 9], &[2]), text(&prompt, &[2, 3])];
        let found = groups(&texts, true);
        assert_eq!(found, [group(4, &[0, 2]), group(4, &[1])], "prompts are whole");
    }

    /// A first token that all texts have is no reason to leave a longer beginning of some.
    #[test]
    fn the_longer_beginning_is_shared() {
        let texts = [text(&[0, 1], &[9]), text(&[0, 5, 6, 7], &[1]), text(&[0, 5, 6, 8], &[1])];
        let shared: Vec<usize> = groups(&texts, false).iter().map(|group| group.shared).collect();
        assert_eq!(shared, [2, 3]);
    }

    proptest! {
        #[test]
        fn groups_hold_every_text_once_and_share_what_is_common(
            given in vec(
                (vec(0u32..3, 1..6), vec(0u32..3, 1..4)),
                1..12,
            )
        ) {
            let texts: Vec<Completion> = given.iter().map(|(p, t)| text(p, t)).collect();
            let found = groups(&texts, false);
            let mut all: Vec<usize> = found.iter().flat_map(|g| g.texts.clone()).collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..texts.len()));
            for group in &found {
                let first = &texts[group.texts[0]];
                let one_prompt = group.texts.iter().all(|&t| texts[t].prompt() == first.prompt());
                for &t in &group.texts {
                    let own = &texts[t];
                    prop_assert!(group.shared >= 1 && group.shared <= own.read.len());
                    prop_assert_eq!(&own.read[..group.shared], &first.read[..group.shared]);
                    prop_assert!(one_prompt || group.shared < own.prompt());
                }
            }
            let alone: usize = texts.iter().map(|text| text.read.len()).sum();
            prop_assert!(cost(&texts, &found) <= alone);
        }
    }
}
