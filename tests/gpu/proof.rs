//! A device proves itself: known answers of every kernel, what is found where one is wrong, and who
//! is refused then.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use incise::gpu::driver::TWIN;
use incise::gpu::kernels::FILES;
use incise::gpu::launch::{DeviceSlice, Elem};
use incise::gpu::twin::{Order, Twin, symbol};
use incise::gpu::{Array, Engine};
use incise::ops::cuda::rows;
use incise::ops::proof::library::{MatrixKind, compared};
use incise::ops::proof::{Instruments, Trial, known_answers, weight};
use incise::tensor::{Precision, Tensor, Weight};

use crate::support::programs::{self, PTX, Program};
use crate::support::session::{Session, text};
use crate::support::twin;

/// On a card, on the plain executable, and on what is compiled for a card.
fn engines(test: &str) -> Vec<(String, Engine)> {
    if let Some(card) = twin::card() {
        return vec![("card".to_owned(), card)];
    }
    let programs = twin::programs(test);
    let mut engines = Vec::new();
    for Program { build, path, .. } in programs {
        match *build {
            "plain" => {
                let twin = Twin::start(path, Order::Shuffled).unwrap();
                engines.push(("plain".to_owned(), Engine::twin(twin)));
            }
            PTX => engines.extend(twin::COMPILED.map(|(bits, order)| {
                (format!("{PTX}, {bits} bits"), twin::compiled(path, bits, order))
            })),
            _ => {}
        }
    }
    engines
}

#[test]
fn every_kernel_gives_what_it_should() {
    for (name, engine) in engines("gpu::proof::every_kernel_gives_what_it_should") {
        let faults = known_answers().filter_map(|known| known.ask(&engine));
        let wrong: Vec<String> = faults.map(|fault| fault.to_string()).collect();
        assert!(wrong.is_empty(), "{name}\n{}", wrong.join("\n"));
        let measured = engine.run(|| Instruments::measure(&engine)).unwrap();
        println!("{name}: {measured}");
        assert_eq!(measured.fault(), None, "{name}");
        let kept = name.split([' ', ',']).find_map(|word| word.parse().ok());
        assert!(kept.is_none_or(|bits: usize| bits == measured.accumulator_bits), "{measured}");
    }
}

/// No kernel is left out: the process in a card's place is sent the name of each that is launched.
#[test]
fn every_kernel_is_asked() {
    let Some(plain) = twin::program("gpu::proof::every_kernel_is_asked") else { return };
    let folder = tempfile::tempdir().unwrap();
    let [script, log] = ["twin", "log"].map(|name| folder.path().join(name));
    let text = format!("#!/bin/sh\ntee '{}' | '{}'\n", log.display(), plain.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let engine = Engine::twin(Twin::start(&script, Order::Forwards).unwrap());
    let asked = |known: &incise::ops::proof::KnownAnswer| known.ask(&engine);
    assert_eq!(known_answers().find_map(|known| asked(&known)), None);
    engine.run(|| Instruments::measure(&engine)).unwrap();
    drop(engine);
    let sent = fs::read(&log).unwrap();
    let has = |name: &str| sent.windows(name.len()).any(|bytes| bytes == name.as_bytes());
    // What has no parameter of these types is launched for the file's first.
    let is_of_first_types = |name: &str| {
        let (file, kernel) = (name.split('.').next().unwrap(), name.rsplit('.').next().unwrap());
        let file = FILES.iter().find(|f| f.name == file).unwrap();
        let text = programs::kernel::Source::parse(file.name, file.text).unwrap();
        let kernel = text.kernels.iter().find(|k| k.name == kernel).unwrap();
        let (elem, weight) = file.variants[0];
        let first = symbol(file.name, elem, weight, &kernel.name);
        let typed = kernel.parameters.iter().any(|p| format!("{:?}", p.kind).contains("elem"));
        !typed && name != first && has(&first)
    };
    for file in FILES {
        for (elem, weight) in file.variants {
            for kernel in file.kernels {
                let name = symbol(file.name, elem, weight, kernel);
                assert!(has(&name) || is_of_first_types(&name), "{name} is not asked");
            }
        }
    }
}

/// A program in which a kernel is wrong: its text with something else in the place of a part.
fn planted(test: &str, name: &str, unit: &str, [right, wrong]: [&str; 2]) -> Option<Program> {
    let plain = twin::programs(test).first()?;
    let mut texts = twin::texts();
    let file = unit.split('.').next().unwrap();
    let (_, text) = texts.files.iter_mut().find(|(name, _)| *name == format!("{file}.cu")).unwrap();
    assert_eq!(text.matches(right).count(), 1, "{right}");
    *text = text.replace(right, wrong);
    Some(programs::with_unit(plain, name, unit, &texts))
}

fn wrong_norm(test: &str) -> Option<Program> {
    planted(
        test,
        "wrong-norm",
        "norm.f32",
        ["row_sum(square) / f.D + f.eps", "row_sum(square) / f.D"],
    )
}

#[test]
fn a_wrong_kernel_is_named() {
    let Some(program) = wrong_norm("gpu::proof::a_wrong_kernel_is_named") else { return };
    let engine = Engine::twin(Twin::start(&program.path, Order::Shuffled).unwrap());
    let faults: Vec<String> = known_answers()
        .filter(|known| ["norm", "rows"].contains(&known.file))
        .filter_map(|known| known.ask(&engine))
        .map(|fault| fault.to_string())
        .collect();
    let [fault] = &faults[..] else { panic!("{faults:?}") };
    let named = "kernels/norm.cu norm_fwd f32, Layer, N 5, D 104: s[0] = ";
    assert!(fault.starts_with(named) && fault.contains(", should be 0."), "{fault}");
}

/// A process that dies is a fault of what was asked of it.
#[test]
fn a_device_that_fails_is_a_fault() {
    let test = "gpu::proof::a_device_that_fails_is_a_fault";
    let dies = ["if (i < n) x[i] += f32(y[i]);", "if (i < n) x[i] += f32(y[i]), __builtin_trap();"];
    let Some(program) = planted(test, "dies", "rows.f32", dies) else { return };
    let engine = Engine::twin(Twin::start(&program.path, Order::Forwards).unwrap());
    let known = known_answers().find(|known| known.file == "rows").unwrap();
    let fault = known.ask(&engine).unwrap();
    assert!(fault.failed, "{fault}");
    assert!(fault.to_string().contains("ended its process"), "{fault}");
}

/// y = x by [`rows::round`], where the kernel is told of other places than the trial's.
fn copied(engine: &Engine, write: impl Fn(&Array, &Array) -> [DeviceSlice; 2]) -> String {
    let mut trial = Trial::new(engine, "copied");
    let x = trial.input("x", Elem::F32, &[1.0, 2.0, 3.0, 4.0]);
    let y = trial.output("y", Elem::F32, 4);
    let [from, to] = write(&x, &y);
    let ran = trial.run("round_rows", || rows::round(engine, from, to));
    let held = ran.and_then(|()| trial.equal("round_rows", &y, &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    held.map_or_else(|wrong| wrong.what, |()| String::new())
}

#[test]
fn what_a_kernel_must_not_do_is_found() {
    let Some(engine) = twin::engine("gpu::proof::what_a_kernel_must_not_do_is_found") else {
        return;
    };
    assert_eq!(copied(&engine, |x, y| [x.slice(), y.slice()]), "");
    // One element too many, and one element before the first.
    let longer = |of: &Array| DeviceSlice { len: 5, ..of.slice() };
    let said =
        copied(&engine, |x, y| [longer(x), DeviceSlice { at: y.slice().at + 4, ..y.slice() }]);
    assert_eq!(said, "it writes 0 bytes behind y");
    let said = copied(&engine, |x, y| [x.slice(), DeviceSlice { at: x.slice().at, ..y.slice() }]);
    assert_eq!(said, "y[0, 0] = NaN, should be 1", "x was written over with itself");
    let said = copied(&engine, |x, y| {
        let before = DeviceSlice { at: x.slice().at - 8, ..y.slice() };
        [x.slice(), before]
    });
    assert_eq!(said, "it writes 8 bytes before x");
    let said = copied(&engine, |x, y| [x.slice().part(1, 2), y.slice().part(0, 2)]);
    assert_eq!(said, "y[0, 0] = 2, should be 1");
    let said = copied(&engine, |x, y| [x.slice().part(0, 3), y.slice().part(0, 3)]);
    assert_eq!(said, "y[1, 1] = NaN, should be 4", "what is not written is no number");
}

#[test]
fn what_differs_from_run_to_run_is_found() {
    let Some(engine) = twin::engine("gpu::proof::what_differs_from_run_to_run") else { return };
    let run = |launch: &mut dyn FnMut(usize, &Array, &Array)| {
        let mut trial = Trial::new(&engine, "");
        let x = trial.input("x", Elem::F32, &[1.0, 2.0]);
        let y = trial.output("y", Elem::F32, 1);
        let mut times = 0;
        let ran = trial.run("round_rows", || {
            launch(times, &x, &y);
            times += 1;
        });
        ran.unwrap_err().what
    };
    let said =
        run(&mut |times, x, y| rows::round(&engine, x.slice().part(times / 2, 1), y.slice()));
    assert_eq!(said, "run 3 with uploads beside gives other bits: it writes to y, which it reads");
    let said =
        run(&mut |times, x, y| rows::round(&engine, x.slice().part(times / 3, 1), y.slice()));
    assert!(said.starts_with("the replay of its recording gives other bits"), "{said}");
    let said = run(&mut |times, x, y| {
        rows::round(&engine, x.slice().part(0, 1), y.slice());
        if times == 3 {
            Tensor::zeros(engine.clone(), &[1 << 40]);
        }
    });
    assert_eq!(said, "its launches cannot be recorded");
}

/// Products with a matrix at its own size, whichever way it lies.
#[test]
fn matrices_are_multiplied_as_they_should_be() {
    let test = "gpu::proof::matrices_are_multiplied_as_they_should_be";
    let some = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let w = Weight::dense_f32(some(130 * 70), 130, 70);
    for (name, engine) in engines(test) {
        let wrong = engine.run(|| weight::multiplied(&engine, &w, 40)).unwrap();
        assert_eq!(wrong, None, "{name}");
    }
    // Columns in each other's place.
    let swapped = ["lane % 4 * 2 + e % 2", "lane % 4 * 2 + (e % 2 ^ 1)"];
    let Some(program) = planted(test, "wrong-linear", "linear_mma.f32.f32", swapped) else {
        return;
    };
    let engine = Engine::twin(Twin::start(&program.path, Order::Shuffled).unwrap());
    let wrong = engine.run(|| weight::multiplied(&engine, &w, 40)).unwrap().unwrap();
    assert!(wrong.contains("the signed sum of y[0, 0..64] = "), "{wrong}");
}

/// A library that multiplies as our kernels do agrees with them; one that does not is found, which
/// way it multiplies too.
#[test]
fn a_library_is_held_to_our_kernels() {
    let test = "gpu::proof::a_library_is_held_to_our_kernels";
    let Some(own) = twin::engine(test) else { return };
    let kind = MatrixKind { out: 24, inner: 40, by_row: true };
    let found = |with: &Engine| own.run(|| compared(with, &own, kind)).unwrap();
    assert!(found(&own).is_empty());
    let rounds =
        ["if (biased) sum += b", "if (along_k) sum += 1;\n            if (biased) sum += b"];
    let Some(program) = planted(test, "a-library", "linear_mma.f32.bf16", rounds) else { return };
    let with = Engine::twin(Twin::start(&program.path, Order::Shuffled).unwrap());
    let [wrong] = &found(&with)[..] else { panic!("one way is wrong") };
    assert!(wrong.forward && wrong.what == "9 rows of f32 into f32: other sums of whole numbers");
}

/// The program, with the host in a card's place and a cache of its own.
fn program(cache: &Path, twin: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
    command.env("INCISE_CACHE", cache).env(TWIN, twin).args(args).output().unwrap()
}

/// Asks for a proof and is cancelled between two answers: it is neither kept nor a failure, and no
/// reason to go on without the card.
#[test]
fn a_proof_can_be_stopped() {
    let Some(twin) = twin::program("gpu::proof::a_proof_can_be_stopped") else { return };
    let (s, cache) = (Session::new("gpt2"), tempfile::tempdir().unwrap());
    let (cache, model) = (cache.path(), s.at("model"));
    let generate = ["generate", &model, "--prompt", "Big", "--max-tokens", "1"];
    let on = |args: &[&str], at: u64| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incise"));
        command.env("INCISE_CACHE", cache).env(TWIN, twin).args(args);
        let out = command.env("INCISE_CANCEL_AT", at.to_string()).output().unwrap();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("incise: interrupted; the device proves itself"), "{said}");
        assert!(!said.contains("warning"), "{said}");
        out
    };
    let card = ["--device", "cuda:0"];
    let told = on(&[&["doctor"], &card[..]].concat(), 3);
    assert!(told.stdout.is_empty(), "{told:?}");
    on(&generate, 1); // `auto`
    on(&[&generate[..], &card].concat(), 2);
    assert_eq!(proofs(cache), 0);
    // Those of the model's matrices.
    assert!(program(cache, twin, &[&["doctor"], &card[..]].concat()).status.success());
    on(&[&generate[..], &card].concat(), 1);
    assert_eq!(proofs(cache), 1);
}

/// A device that ends while it proves itself: one line that names it and what it did, and no
/// panic's text.
#[test]
fn a_device_that_ends_is_told_in_a_line() {
    let test = "gpu::proof::a_device_that_ends_is_told_in_a_line";
    let dies = ["if (i < n) x[i] += f32(y[i]);", "if (i < n) x[i] += f32(y[i]), __builtin_trap();"];
    let Some(dying) = planted(test, "dies", "rows.f32", dies) else { return };
    let (s, cache) = (Session::new("gpt2"), tempfile::tempdir().unwrap());
    let said = |args: &[&str]| {
        let out = program(cache.path(), &dying.path, args);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(!text(&out.stderr).contains("panicked"), "{out:?}");
        let of_errors = text(&out.stderr).lines().filter(|line| line.starts_with("incise: "));
        let [line] = of_errors.map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        line
    };
    let model = s.at("model");
    let generate =
        ["generate", &model, "--prompt", "Big", "--max-tokens", "1", "--device", "cuda:0"];
    let launch = "incise: cuda:0 (the host, in place of a GPU): its process ended (signal: 4 \
                  (SIGILL)";
    for args in [&["doctor", "--device", "cuda:0"][..], &generate] {
        let line = said(args);
        assert!(line.starts_with(launch) && line.contains("add_rows (rows.cu) for f32"), "{line}");
        assert!(line.contains(", asked about kernels/rows.cu f32, on "), "{line}");
        assert_eq!(line.matches("compute on the CPU").count(), 1, "{line}");
    }
}

/// The same in the middle of an edit: once it has proved itself, it lives a second.
#[test]
fn a_device_that_ends_in_an_edit_is_told_in_a_line() {
    let test = "gpu::proof::a_device_that_ends_in_an_edit_is_told_in_a_line";
    let Some(plain) = twin::program(test) else { return };
    let (s, folder) = (Session::new("gpt2"), tempfile::tempdir().unwrap());
    let [script, short] = ["twin", "short"].map(|name| folder.path().join(name));
    let text_of = format!(
        "#!/bin/sh\n[ -e '{0}' ] && exec timeout -s KILL 1 '{1}'\nexec '{1}'\n",
        short.display(),
        plain.display()
    );
    fs::write(&script, text_of).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| program(folder.path(), &script, args);
    let stats = ["stats", &s.at("model"), "--layers", "0-1", "--corpus", &s.at("corpus.txt")];
    let more = ["--max-tokens", "700", "-o", &s.at("stats"), "--device", "cuda:0"];
    assert!(run(&[&stats[..], &more].concat()).status.success());
    fs::write(&short, "").unwrap();
    let edit = s.edit(&["--device", "cuda:0", "--set", "v_num_grad_steps=100000"]);
    let out = run(&edit.iter().map(String::as_str).collect::<Vec<_>>());
    let said = text(&out.stderr);
    assert!(out.status.code() == Some(1) && !said.contains("panicked"), "{said}");
    let ended = "incise: cuda:0 (the host, in place of a GPU): its process ended (";
    assert_eq!(said.matches("its process ended").count(), 1, "{said}");
    assert!(said.lines().last().is_some_and(|line| line.starts_with(ended)), "{said}");
}

fn proofs(cache: &Path) -> usize {
    fs::read_dir(cache.join("proofs")).map_or(0, Iterator::count)
}

#[test]
fn a_proof_is_kept_and_found_again() {
    let Some(twin) = twin::program("gpu::proof::a_proof_is_kept_and_found_again") else { return };
    let (s, cache) = (Session::new("gpt2"), tempfile::tempdir().unwrap());
    let cache = cache.path();
    let ran = |args: &[&str]| {
        let out = program(cache, twin, args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout).to_owned()
    };
    let before = ran(&["doctor"]);
    assert!(before.contains("proves its kernels at first use, or now"), "{before}");
    assert!(!before.contains("auto is the processor"), "{before}");
    let proved = ran(&["doctor", "--device", "cuda:0"]);
    assert!(proved.contains("files of kernels by types give what they should, in "), "{proved}");
    assert!(proved.contains("accumulators keep 24 bits"), "{proved}");
    assert_eq!(proofs(cache), 1);
    let after = ran(&["doctor", "--json"]);
    let after: serde_json::Value = serde_json::from_str(&after).unwrap();
    assert!(after["gpus"][0]["proved"] == true && after["proof"].is_null(), "{after}");
    // A command finds it, and proves the model's matrices; another finds both.
    let kept = || fs::read_dir(cache.join("proofs")).unwrap().map(|f| f.unwrap().path());
    let written = || kept().map(|f| fs::metadata(f).unwrap().modified().unwrap()).max();
    let generate =
        ["generate", &s.at("model"), "--prompt", "Big", "--max-tokens", "1", "--device", "cuda:0"];
    ran(&generate);
    let (count, when) = (proofs(cache), written());
    assert_eq!(count, 2);
    ran(&generate);
    assert_eq!((proofs(cache), written()), (count, when));
    // What says something else is no proof, and is made again.
    for file in kept() {
        fs::write(file, "no proof").unwrap();
    }
    assert!(ran(&["doctor"]).contains("at first use"));
    let machine = ran(&["doctor", &s.at("model"), "--device", "cuda:0", "--json"]);
    let machine: serde_json::Value = serde_json::from_str(&machine).unwrap();
    let card = &machine["proof"][0];
    assert!(
        card["faults"] == serde_json::json!([]) && card["replays"].as_u64() > Some(0),
        "{card}"
    );
    assert_eq!((proofs(cache), card["measured"]["accumulator_bits"].as_u64()), (2, Some(24)));
    let of_model = &machine["model"];
    assert!(of_model["proved"] == true && of_model["folder"] == *s.at("model"), "{of_model}");
    assert!(of_model["fault"].is_null(), "{of_model}");
}

/// What there is, is told before what is wrong: a device that is missing, or does not start. A
/// folder that is no model is said before a card is asked.
#[test]
fn findings_come_before_errors() {
    let Some(twin) = twin::program("gpu::proof::findings_come_before_errors") else { return };
    let cache = tempfile::tempdir().unwrap();
    let fails = |twin: &Path, args: &[&str], error: &str| {
        let out = program(cache.path(), twin, args);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(text(&out.stdout).starts_with("incise     "), "{out:?}");
        assert!(text(&out.stderr).contains(error), "{out:?}");
    };
    fails(twin, &["doctor", "--device", "cuda:7"], "cuda:7: the driver shows 2 GPUs");
    fails(twin, &["doctor", "nosuch", "--device", "cuda:0"], "nosuch");
    assert_eq!(proofs(cache.path()), 0, "no card was asked");
    // The error names the variable that is wrong.
    for named in ["", "/nowhere"] {
        let error = format!("environment: INCISE_TWIN: \"{named}\" does not start: ");
        fails(Path::new(named), &["doctor", "--device", "cuda:0"], &error);
    }
}

/// A card that computes what it should not is refused where it is named, and left alone where it
/// is not.
#[test]
fn a_card_that_is_wrong_is_refused() {
    let Some(program_of) = wrong_norm("gpu::proof::a_card_that_is_wrong_is_refused") else {
        return;
    };
    let (s, cache) = (Session::new("gpt2"), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| program(cache.path(), &program_of.path, args);
    let model = s.at("model");
    let generate = ["generate", &model, "--prompt", "Big", "--max-tokens", "1"];
    let out = run(&[&generate[..], &["--device", "cuda:0"]].concat());
    let said = text(&out.stderr);
    let line = said.lines().last().unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        line.starts_with("incise: cuda:0: kernels/norm.cu norm_fwd f32, Layer, N 5,"),
        "{line}"
    );
    assert!(line.contains(", on the host, in place of a GPU, driver none, build 0."), "{line}");
    assert!(line.ends_with("(--device cpu)"), "{line}");
    let out = run(&["doctor", "--device", "cuda:0"]);
    assert_eq!(out.status.code(), Some(1));
    let told = text(&out.stdout);
    assert!(
        told.contains("kernels/norm.cu norm_fwd f32") && told.contains("none is used"),
        "{told}"
    );
    // By itself it is not taken, and one line says why.
    let out = run(&generate);
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    let warning = "warning: cuda:0 (the host, in place of a GPU) is not used, the CPU computes: ";
    assert_eq!(said.matches(warning).count(), 1, "{said}");
    let on_cpu = run(&[&generate[..], &["--device", "cpu"]].concat());
    assert_eq!(text(&out.stdout), text(&on_cpu.stdout));
    assert_eq!(proofs(cache.path()), 0, "nothing is kept");
}

/// What is chosen is chosen once.
#[test]
fn auto_is_the_processor_until_something_is_opened() {
    let device = incise::tensor::Device::parse("auto").unwrap();
    assert!(matches!(device.now(), incise::tensor::Device::Cpu));
    assert_eq!((device.title(), device.start().unwrap().len()), ("cpu".to_owned(), 1));
    assert_eq!(device.start().unwrap()[0].precision(), Precision::F32);
}
