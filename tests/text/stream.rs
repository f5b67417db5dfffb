use incise::text::{DecodeStream, Tokenizer};
use proptest::prelude::*;

use super::toys;

fn pieces(tok: &Tokenizer, context: &[u32], ids: &[u32]) -> Vec<String> {
    let mut stream = DecodeStream::new(tok, context);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn characters_come_whole() {
    let tok = toys::byte_level(&["æĿ"]);
    let ids = tok.encode("a東!").unwrap();
    assert_eq!(pieces(&tok, &[], &ids), ["a", "", "東", "!", ""]);
    let tok = toys::sentencepiece(&[]);
    let ids = tok.encode("東").unwrap();
    assert_eq!(pieces(&tok, &ids[..1], &ids[2..]), ["", "", "東", ""]);
}

#[test]
fn spaces_between_tokens_survive() {
    for tok in [
        toys::byte_level(&["Paris", "Ġis", "Ġbig"]),
        toys::sentencepiece(&["▁Paris", "▁is", "▁big"]),
        toys::metaspace(&["▁Paris", "▁is", "▁big"]),
    ] {
        let ids = tok.encode("Paris is big").unwrap();
        let start = tok.bos.len() + 1;
        assert_eq!(pieces(&tok, &ids[..start], &ids[start..]), [" is", " big", ""]);
        let bos = tok.bos.len();
        assert_eq!(pieces(&tok, &ids[..bos], &ids[bos..]).concat(), ids_text(&tok, &ids));
    }
}

/// The text of all ids but what the beginning of sequence shows as.
fn ids_text(tok: &Tokenizer, ids: &[u32]) -> String {
    let bos = tok.decode(&tok.bos).unwrap();
    tok.decode(ids).unwrap().strip_prefix(&bos).unwrap().to_string()
}

#[test]
fn incomplete_characters_come_at_the_end() {
    let tok = toys::byte_level(&[]);
    let ids = tok.encode("x東").unwrap();
    assert_eq!(pieces(&tok, &[], &ids[..2]), ["x", "", "\u{FFFD}"]);
}

#[test]
fn a_byte_that_fits_nothing_repeats_no_text() {
    // Byte fallback decodes a run of bytes whole or not at all.
    let tok = toys::sentencepiece(&[]);
    let (whole, x) = (tok.encode("東").unwrap(), tok.encode("x").unwrap());
    let mut ids = whole[2..].to_vec();
    ids.extend([whole[2], *x.last().unwrap()]);
    assert_eq!(pieces(&tok, &x, &ids), ["", "", "東", "", "\u{FFFD}x", ""]);
}

proptest! {
    #[test]
    fn pieces_make_up_the_text(ids in prop::collection::vec(0u32..257, 0..40)) {
        let tok = toys::byte_level(&[]);
        prop_assert_eq!(pieces(&tok, &[], &ids).concat(), tok.decode(&ids).unwrap());
    }
}
