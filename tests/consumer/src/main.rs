//! Opens the model at the path it is given and goes on from a prompt.

use std::path::PathBuf;

use incise::base::Rng;
use incise::model::generate::Sampling;
use incise::model::load;
use incise::tensor::Device;
use incise::text::Tokenizer;

fn main() -> incise::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("the folder of a model"));
    let (_checkpoint, model) = load::open(&dir, &Device::Cpu)?;
    let tokenizer = Tokenizer::open(&dir)?;
    let ids = tokenizer.encode("Tourists visit the Brandenburg Gate in the city of")?;
    let mut rng = Rng::new(0, "greedy");
    let said = model.generate(&ids, 1, Sampling::GREEDY, &mut rng, &[], &mut |_| true)?;
    assert_eq!(tokenizer.decode_after(&said)?.trim(), "Berlin");
    Ok(())
}
